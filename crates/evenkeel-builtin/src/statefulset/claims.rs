//! The claims of a set's pods, and who takes them along when it goes.
//!
//! **Source**: `getPersistentVolumeClaims`, `updateClaimOwnerRefForSetAndPod`.

use evenkeel_api::Obj;
use evenkeel_control::Action;
use k8s_openapi::{
    api::{
        apps::v1::StatefulSet,
        core::v1::{PersistentVolumeClaim, Pod},
    },
    apimachinery::pkg::apis::meta::v1::OwnerReference,
};
use serde_json::{Value, json};

use super::{View, identity};
use crate::seen::{Seen, json};

/// Whether a claim of this name may belong to the set.
pub(crate) fn is_of(set: &Seen<StatefulSet>, claim: &str) -> bool {
    identity::templates(set).iter().any(|template| {
        let prefix = format!("{}-", template.metadata.name.as_deref().unwrap_or_default());
        let pod = claim.strip_prefix(&prefix);
        pod.and_then(|pod| identity::ordinal(set.name(), pod)).is_some()
    })
}

/// The claims of one ordinal: name, and the claim if it is there.
pub(crate) fn of_ordinal(
    view: &View,
    ordinal: i64,
) -> impl Iterator<Item = (&PersistentVolumeClaim, Option<&Seen<PersistentVolumeClaim>>)> {
    identity::templates(&view.set).iter().map(move |template| {
        let name = identity::claim_name(template, view.set.name(), ordinal);
        (template, view.claims.iter().find(|claim| claim.name() == name))
    })
}

/// Whether the claim still goes with an earlier owner of the name. **Source**: `hasStaleOwnerRef`.
pub(crate) fn is_stale(claim: &Obj, (kind, name): (&str, &str), uid: Option<&str>) -> bool {
    let mut owners = claim.meta().owner_references.iter().flatten();
    owners.any(|owner| owner.kind == kind && owner.name == name && Some(&*owner.uid) != uid)
}

/// The claim that an ordinal lacks.
pub(crate) fn create(
    set: &Seen<StatefulSet>,
    template: &PersistentVolumeClaim,
    ordinal: i64,
) -> Option<Obj> {
    let mut body = json(template);
    body["apiVersion"] = json!("v1");
    body["kind"] = json!("PersistentVolumeClaim");
    body.as_object_mut()?.shift_remove("status");
    let metadata = &mut body["metadata"];
    metadata["name"] = json!(identity::claim_name(template, set.name(), ordinal));
    metadata["namespace"] = json!(set.obj.namespace());
    let selector = &set.spec.as_ref()?.selector;
    for (key, value) in selector.match_labels.iter().flatten() {
        metadata["labels"][key] = json!(value);
    }
    if let Some(owner) = owner(set, None) {
        metadata["ownerReferences"] = json!([owner]);
    }
    Obj::from_json(body).ok()
}

/// Who owns the claims of a pod; `leaving`: the pod, when it is beyond the last ordinal.
fn owner(set: &Seen<StatefulSet>, leaving: Option<&Seen<Pod>>) -> Option<OwnerReference> {
    let spec = set.spec.as_ref()?;
    let policy = spec.persistent_volume_claim_retention_policy.as_ref()?;
    let deletes = |when: &Option<String>| when.as_deref() == Some("Delete");
    match leaving {
        Some(pod) if deletes(&policy.when_scaled) => Some(pod.obj.owner_reference()),
        Some(_) if deletes(&policy.when_deleted) => {
            (!deletes(&policy.when_scaled)).then(|| set.obj.owner_reference())
        }
        None if deletes(&policy.when_deleted) => Some(set.obj.owner_reference()),
        _ => None,
    }
}

/// Gives the claims of a pod the owner that the retention policy asks for.
pub(crate) fn retain(view: &View, pod: &Seen<Pod>, ordinal: i64) -> Vec<(Action, usize)> {
    let set = &view.set;
    let is_leaving = !identity::range(set).contains(&ordinal);
    let wanted = owner(set, is_leaving.then_some(pod));
    let mut patches = Vec::new();
    for (_, claim) in of_ordinal(view, ordinal) {
        let Some(claim) = claim else { continue };
        // What an earlier set or pod of the name owns goes with that.
        let is_stale = is_stale(&claim.obj, ("Pod", pod.name()), Some(pod.uid()))
            || is_stale(&claim.obj, ("StatefulSet", set.name()), Some(set.uid()));
        if is_stale {
            continue;
        }
        let mut owners = claim.obj.meta().owner_references.clone().unwrap_or_default();
        let before = owners.clone();
        let is_ours = |owner: &OwnerReference| {
            (owner.kind == "StatefulSet" && owner.name == set.name())
                || (owner.kind == "Pod" && owner.name == pod.name())
        };
        let has_other =
            owners.iter().any(|owner| owner.controller == Some(true) && !is_ours(owner));
        owners.retain(|owner| !is_ours(owner));
        owners.extend(wanted.clone().filter(|_| !has_other));
        if owners != before {
            let owners: Value = json(&owners);
            let patch = json!({"metadata": {"ownerReferences": owners}});
            let at = view.claims.iter().position(|one| one.uid() == claim.uid());
            patches
                .push((Action::Patch { key: claim.key().clone(), patch }, at.unwrap_or_default()));
        }
    }
    patches
}
