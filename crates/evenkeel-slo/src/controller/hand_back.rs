//! What takes off an object what was put on it here, when another controller goes on with it.

use std::time::Duration;

use evenkeel_api::{
    Obj,
    beside::{STATUS, annotation},
};
use evenkeel_control::{Action, Plan};
use serde_json::{Map, Value, json};

use crate::reasons;

/// Fields of the status that no other controller has. All others are left: a newer Sloth may have
/// more of them than we know.
const OURS: [&str; 5] = ["slos", "changes", "queries", "former", "numbersAt"];

/// Of an SLO object. Its rules stay: they are Sloth's in all but the version, and Sloth writes over
/// them.
pub(super) fn level(obj: &Obj) -> Option<Plan> {
    let status = obj.json().get("status").and_then(Value::as_object);
    let ours = status.into_iter().flat_map(Map::keys).filter(|name| OURS.contains(&&***name));
    let mut patch: Map<String, Value> = ours.map(|name| (name.clone(), Value::Null)).collect();
    if !patch.is_empty() {
        // Written with them.
        patch.insert("conditions".to_owned(), Value::Null);
    }
    leave(obj, patch)
}

/// Of a Canary: the answer of the error budget. The annotation with the bookkeeping of a release is
/// not ours to remove.
pub(super) fn canary(obj: &Obj) -> Option<Plan> {
    let status = obj.json().get("status");
    let has = |field: &str| status.is_some_and(|status| status.get(field).is_some());
    if has("evenkeel") {
        return None;
    }
    let patch = if has("errorBudget") { json!({"errorBudget": null}) } else { json!({}) };
    leave(obj, patch.as_object().cloned().unwrap_or_default())
}

fn leave(obj: &Obj, patch: Map<String, Value>) -> Option<Plan> {
    let kept = annotation(obj.json(), STATUS).is_some();
    if patch.is_empty() && !kept {
        return None;
    }
    let key = obj.key().clone();
    // What the other one has written meanwhile is not written over.
    let mut plan = Plan::idle(reasons::HANDED_BACK)
        .waking(Duration::ZERO)
        .assuming(key.clone(), obj.revision());
    if !patch.is_empty() {
        plan = plan.with_status(key.clone(), patch.into());
    }
    let patch = json!({"metadata": {"annotations": {STATUS: null}}});
    Some(if kept { plan.then(Action::Patch { key, patch }) } else { plan })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(status: &Value, annotations: &Value) -> Obj {
        let body = json!({"apiVersion": "sloth.slok.dev/v1", "kind": "PrometheusServiceLevel",
            "metadata": {"name": "a", "namespace": "x", "resourceVersion": "7",
                "annotations": annotations},
            "status": status});
        Obj::from_json(body).unwrap()
    }

    #[test]
    fn what_a_newer_sloth_writes_stays() {
        let theirs = json!({"processedSLOs": 1, "promOpRulesGenerated": true,
            "ofANewerSloth": {"a": 1}, "conditions": [{"type": "Theirs"}]});
        assert!(level(&object(&theirs, &json!({}))).is_none());
    }

    #[test]
    fn only_what_nobody_else_has_is_taken_off_and_only_of_what_was_seen() {
        let mut status = json!({"processedSLOs": 1, "ofANewerSloth": 1, "conditions": []});
        for field in OURS {
            status[field] = json!([]);
        }
        let obj = object(&status, &json!({STATUS: "{}"}));
        let plan = level(&obj).unwrap();
        let mut expected = json!({"conditions": null});
        for field in OURS {
            expected[field] = Value::Null;
        }
        assert_eq!(plan.status[0].status, expected);
        assert_eq!(plan.assumed, [(obj.key().clone(), obj.revision())]);
        assert_eq!(plan.then.len(), 1);
    }
}
