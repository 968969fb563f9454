//! What both worlds ask of the service's objects, and how they release a version.

use evenkeel_api::{GroupKind, Key, LabelSelector, Obj, SelectorError};
use evenkeel_control::{ListQuery, Patch};
use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};
use serde_json::{Value, json};

/// The pods that serve while no release is under way.
pub fn primary() -> Result<ListQuery, SelectorError> {
    let labels = LabelSelector::parse("app=api-service-primary")?;
    Ok(ListQuery::all(GroupKind::of::<Pod>()).within("default").with_labels(labels))
}

/// Whether a pod serves.
pub fn is_ready(pod: &Obj) -> bool {
    let ready = pod.json().pointer("/status/containerStatuses/0/ready");
    ready.and_then(Value::as_bool).unwrap_or_default() && !pod.is_deleting()
}

/// How often a pod's process was started again.
pub fn restarts_of(pod: &Obj) -> i64 {
    let count = pod.json().pointer("/status/containerStatuses/0/restartCount");
    count.and_then(Value::as_i64).unwrap_or_default()
}

/// What `kubectl apply` of the service's changed Deployment sends.
pub fn release(deployment: &Value) -> (Key, Patch) {
    let template = deployment.pointer("/spec/template").cloned().unwrap_or_default();
    let patch = Patch::Strategic(json!({"spec": {"template": template}}));
    (Key::of::<Deployment>("default", "api-service"), patch)
}
