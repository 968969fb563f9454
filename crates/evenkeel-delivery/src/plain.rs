//! Plain Services: the selector of the apex Service is all that decides who gets requests.
//!
//! ```text
//! selector of the primary     0 %
//! anything else             100 %   the target's after a deletion, or as a rescue
//! ```
//! Nothing in between: a Service shares requests among all pods that it selects, and pods of two
//! Deployments have no label in common that others surely do not have.

use std::collections::BTreeSet;

use evenkeel_api::Key;
use evenkeel_control::Action;
use k8s_openapi::api::core::v1::Service;
use serde_json::{Value, json};

use crate::{CanaryView, workload::Workload};

/// The canary's share. Without an apex Service nobody gets anything.
pub(crate) fn canary_pct(view: &CanaryView) -> i32 {
    let Some(apex) = view.services.get(&view.names.apex) else {
        // What could not be read may be anything; before a primary is there, it is not ours.
        return 0;
    };
    let selector = apex.json().pointer("/spec/selector").cloned().unwrap_or_default();
    let primary = view.target.as_ref().map(Workload::selector_of_primary);
    // Without the target its labels are not known; those of a primary are.
    let primary = primary.or_else(|| Some(json!(view.primary.as_ref()?.match_labels()?)));
    let selects = |primary: &Value| {
        let mut labels = primary.as_object().into_iter().flatten();
        labels.all(|(name, value)| selector.get(name) == Some(value))
    };
    if primary.is_none_or(|primary| selects(&primary)) { 0 } else { 100 }
}

/// Whether the endpoints of the apex are those that its selector means.
pub(crate) fn is_confirmed(view: &CanaryView) -> bool {
    if view.unread.has_traffic() || !view.services.contains_key(&view.names.apex) {
        return false;
    }
    let (target, primary) = pods(view);
    let none = BTreeSet::new();
    let apex = view.endpoints.get(&view.names.apex).unwrap_or(&none);
    let of_canary = |pod: &String| pod.starts_with(&target) && !pod.starts_with(&primary);
    match canary_pct(view) {
        0 => !apex.iter().any(of_canary),
        _ => !apex.is_empty() && apex.iter().all(of_canary),
    }
}

/// How the names of the target's pods and of its primary's begin.
fn pods(view: &CanaryView) -> (String, String) {
    (format!("{}-", view.names.target), format!("{}-", view.names.target_primary))
}

/// Points the apex to the primary, or to the target.
pub(crate) fn set_weight(view: &CanaryView, canary_pct: i32) -> Action {
    let target = view.target.as_ref();
    let mut selector = if canary_pct == 0 {
        let primary = || Some(json!(view.primary.as_ref()?.match_labels()?));
        target.map(Workload::selector_of_primary).or_else(primary)
    } else {
        target.map(Workload::selector_of_canary)
    }
    .unwrap_or_else(|| json!({}));
    let apex = view.services.get(&view.names.apex);
    let have = apex.and_then(|apex| apex.json().pointer("/spec/selector")?.as_object());
    for name in have.into_iter().flat_map(|have| have.keys()) {
        if selector.get(name).is_none() {
            selector[name] = Value::Null;
        }
    }
    let key = Key::of::<Service>(view.obj.namespace(), &view.names.apex);
    Action::Patch { key, patch: json!({"spec": {"selector": selector}}) }
}
