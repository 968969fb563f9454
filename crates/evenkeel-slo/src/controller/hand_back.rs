//! What takes off an object what was put on it here, when another controller goes on with it.

use std::time::Duration;

use evenkeel_api::{
    Obj,
    beside::{STATUS, annotation},
};
use evenkeel_control::{Action, Plan, is_condition_of};
use serde_json::{Map, Value, json};

use super::decide::{IGNORED, METRICS, RULES, SHORTENED};
use crate::{finding::VALID, reasons};

/// Fields of the status that no other controller has. All others are left: a newer Sloth may have
/// more of them than we know.
const OURS: [&str; 6] = ["slos", "changes", "queries", "former", "numbersAt", HANDED_OVER];
/// By which an object is known to be wanted back.
const HANDED_OVER: &str = "handedOver";
/// Types of our conditions besides those of findings.
const CONDITIONS: [&str; 5] = [METRICS, RULES, IGNORED, SHORTENED, VALID];

/// Of an SLO object. Its rules stay: they are Sloth's in all but the version, and Sloth writes over
/// them.
pub(super) fn level(obj: &Obj) -> Option<Plan> {
    let status = obj.json().get("status").and_then(Value::as_object);
    let ours = status.into_iter().flat_map(Map::keys).filter(|name| OURS.contains(&&***name));
    let mut patch: Map<String, Value> = ours.map(|name| (name.clone(), Value::Null)).collect();
    // Only where it is certain that we wrote it.
    let is_written = !patch.is_empty();
    if annotation(obj.json(), STATUS).is_some() {
        // It goes with the annotation: a death in between changes nothing.
        patch.shift_remove(HANDED_OVER);
    }
    without_conditions(obj, &mut patch, |condition| {
        let kind = condition.get("type").and_then(Value::as_str).unwrap_or_default();
        let found = reasons::FINDINGS.contains(&kind) || CONDITIONS.contains(&kind);
        (is_written && found) || is_condition_of("slo", condition)
    });
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
    let mut patch = Map::new();
    if has("errorBudget") {
        patch.insert("errorBudget".to_owned(), Value::Null);
    }
    without_conditions(obj, &mut patch, |condition| is_condition_of("slo-answer", condition));
    leave(obj, patch)
}

/// Takes conditions of ours out of the list, if there are any.
fn without_conditions(obj: &Obj, patch: &mut Map<String, Value>, is_ours: impl Fn(&Value) -> bool) {
    let all = obj.json().pointer("/status/conditions").and_then(Value::as_array);
    let Some(all) = all else { return };
    let rest: Vec<_> = all.iter().filter(|one| !is_ours(one)).cloned().collect();
    if rest.len() < all.len() {
        let rest = if rest.is_empty() { Value::Null } else { rest.into() };
        patch.insert("conditions".to_owned(), rest);
    }
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
        let mut expected = json!({});
        for field in OURS.iter().filter(|field| **field != HANDED_OVER) {
            expected[*field] = Value::Null;
        }
        assert_eq!(plan.status[0].status, expected);
        assert_eq!(plan.assumed, [(obj.key().clone(), obj.revision())]);
        assert_eq!(plan.then.len(), 1);
    }

    #[test]
    fn conditions_of_others_stay() {
        let theirs = json!({"type": "TheirOwn", "message": "x"});
        let stalled = json!({"type": "Stalled", "message": "theirs: x"});
        let loops = |controller: &str| json!({"type": "Stalled", "message": format!("{controller}: it was refused")});
        let ours = [METRICS, RULES, IGNORED, SHORTENED, VALID, reasons::NO_BUDGET]
            .map(|kind| json!({"type": kind, "message": "x"}));
        let mut all = vec![theirs.clone(), stalled.clone(), loops("slo")];
        all.extend(ours);
        let plan = level(&object(&json!({"slos": [], "conditions": all}), &json!({}))).unwrap();
        assert_eq!(plan.status[0].status["conditions"], json!([theirs, stalled]));

        // Of a Canary that only the answer of the budget was written to.
        let all = json!([theirs, stalled, loops("slo-answer")]);
        for budget in [json!({}), Value::Null] {
            let mut status = json!({"conditions": all});
            if !budget.is_null() {
                status["errorBudget"] = budget;
            }
            let plan = canary(&object(&status, &json!({}))).unwrap();
            assert_eq!(plan.status[0].status["conditions"], json!([theirs, stalled]));
        }
        assert!(canary(&object(&json!({"conditions": [theirs]}), &json!({}))).is_none());
    }

    #[test]
    fn what_says_that_it_is_wanted_back_goes_last() {
        let status = json!({"slos": [], "handedOver": true});
        let plan = level(&object(&status, &json!({STATUS: "{}"}))).unwrap();
        assert_eq!(plan.status[0].status, json!({"slos": null}));
        let plan = level(&object(&status, &json!({}))).unwrap();
        assert_eq!(plan.status[0].status, json!({"slos": null, "handedOver": null}));
    }
}
