//! Adoption and release: an owner manages what its selector matches, and nothing else.

use evenkeel_api::{LabelSelector, Obj};
use evenkeel_control::{Action, Plan};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use serde_json::json;

use crate::{reasons, seen::Seen};

/// Adopts orphans that match and releases what no longer matches. `None` when all is in order.
///
/// **Source**: `pkg/controller/controller_ref_manager.go`. The owner was read again for this plan,
/// which is the live check that upstream makes before an adoption.
pub(crate) fn claim<T>(owner: &Obj, selector: &LabelSelector, objects: &[Seen<T>]) -> Option<Plan> {
    let mut plan = Plan::idle(reasons::CLAIMING);
    for object in objects {
        if let Some(owners) = owners_wanted(owner, selector, &object.obj) {
            plan.actions.push(Action::Patch {
                key: object.key().clone(),
                patch: json!({"metadata": {"ownerReferences": owners}}),
            });
            plan.assumed.push(object.assumed());
        }
    }
    (!plan.actions.is_empty()).then_some(plan)
}

fn owners_wanted(
    owner: &Obj,
    selector: &LabelSelector,
    object: &Obj,
) -> Option<Vec<OwnerReference>> {
    let matches = selector.matches(object.labels());
    let mut owners = object.meta().owner_references.clone().unwrap_or_default();
    match object.controller() {
        Some(now) if now.uid == owner.uid() => {
            if matches || object.is_deleting() || owner.is_deleting() {
                return None;
            }
            owners.retain(|reference| reference.uid != owner.uid());
            Some(owners)
        }
        None if matches && !object.is_deleting() && !owner.is_deleting() => {
            owners.push(owner.owner_reference());
            Some(owners)
        }
        _ => None,
    }
}
