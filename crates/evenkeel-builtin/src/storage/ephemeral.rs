//! Claims that a pod brings along (`ephemeral` volumes).
//!
//! **Source**: `pkg/controller/volume/ephemeral/controller.go`.

use evenkeel_api::{Key, Obj};
use evenkeel_control::{
    Action, Controller, EventNote, EventType, Interest, ListQuery, ObserveError, Plan, Ports,
    Trigger, Wakes,
};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use serde_json::{Value, json};
use std::sync::Arc;

use crate::{
    reasons,
    seen::{Seen, get_as},
};

/// The controller.
pub(crate) struct Ephemerals;

/// What one pod's decision looks at.
#[derive(Debug)]
pub(crate) struct View {
    pub(crate) pod: Seen<Pod>,
    /// Volumes with a template, and the claim of the name that it would have.
    pub(crate) wanted: Vec<(String, Value, Option<Seen<PersistentVolumeClaim>>)>,
}

impl Controller for Ephemerals {
    type View = View;

    fn name(&self) -> &'static str {
        "ephemeral-volume-controller"
    }

    fn owns(&self) -> ListQuery {
        ListQuery::of::<Pod>()
    }

    fn trigger(&self) -> Trigger {
        Trigger::Mapped(Arc::new(|pod| {
            let brings = !templates(pod).is_empty() && !pod.is_deleting();
            Wakes::These(brings.then(|| pod.key().clone()).into_iter().collect())
        }))
    }

    fn also(&self) -> Vec<Interest> {
        vec![Interest::owned_by::<PersistentVolumeClaim, Pod>()]
    }

    async fn observe(&self, key: &Key, ports: &Ports) -> Result<Option<View>, ObserveError> {
        let Some(pod) = get_as::<Pod>(ports, key).await? else { return Ok(None) };
        let mut wanted = Vec::new();
        for (volume, template) in templates(&pod.obj) {
            let name = format!("{}-{volume}", pod.name());
            let claim =
                get_as(ports, &Key::of::<PersistentVolumeClaim>(&key.namespace, &name)).await?;
            wanted.push((name, template, claim));
        }
        Ok(Some(View { pod, wanted }))
    }

    fn decide(&self, view: &View) -> Plan {
        decide(view)
    }
}

/// Whether the pod brings the claim of this name along.
pub(crate) fn brings(pod: &Obj, claim: &str) -> bool {
    templates(pod).iter().any(|(volume, _)| format!("{}-{volume}", pod.name()) == claim)
}

/// Name and template of each volume that has one.
fn templates(pod: &Obj) -> Vec<(String, Value)> {
    let volumes = pod.json().pointer("/spec/volumes").and_then(Value::as_array);
    let found = volumes.into_iter().flatten().filter_map(|volume| {
        let template = volume.pointer("/ephemeral/volumeClaimTemplate")?.clone();
        Some((volume.get("name")?.as_str()?.to_owned(), template))
    });
    found.collect()
}

/// Makes the claims that are missing.
pub(crate) fn decide(view: &View) -> Plan {
    let pod = &view.pod;
    if pod.obj.is_deleting() {
        return Plan::idle(reasons::BEING_DELETED);
    }
    let mut plan = Plan::idle(reasons::SETTLED);
    for (name, template, claim) in &view.wanted {
        if let Some(claim) = claim {
            if !crate::pods::is_controlled_by(&claim.obj, pod.uid()) {
                plan.reason = reasons::NAME_TAKEN;
                plan.events.push(EventNote {
                    about: pod.key().clone(),
                    kind: EventType::Warning,
                    reason: reasons::FAILED_BINDING,
                    message: format!(
                        "ephemeral volume: PVC {}/{name} was not created for pod {}/{} (pod is not \
                         owner)",
                        pod.obj.namespace(),
                        pod.obj.namespace(),
                        pod.name()
                    ),
                });
            }
            continue;
        }
        let mut metadata = json!({"name": name, "namespace": pod.obj.namespace(),
            "ownerReferences": [pod.obj.owner_reference()]});
        for field in ["labels", "annotations"] {
            if let Some(value) = template.pointer(&format!("/metadata/{field}")) {
                metadata[field] = value.clone();
            }
        }
        let body = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim",
            "metadata": metadata, "spec": template.get("spec")});
        if let Ok(claim) = Obj::from_json(body) {
            plan.reason = reasons::CLAIM_CREATED;
            plan.actions.push(Action::Create(Box::new(claim)));
        }
    }
    plan
}
