//! `PersistentVolume`: its phase, what becomes of it when its claim is gone, its protection.

use evenkeel_api::{Key, local_volumes};
use evenkeel_control::{
    Action, Controller, EventNote, EventType, Interest, ListQuery, ObserveError, Plan, Ports,
    Propagation, Wakes,
};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use serde_json::{Value, json};

use super::{
    BOUND_BY_CONTROLLER, PROVISIONED_BY, VOLUME_FINALIZER, annotation, finalizers, has_finalizer,
    matching,
};
use crate::{
    reasons,
    seen::{Seen, get_as},
};

/// The controller.
pub(crate) struct Volumes;

/// What one volume's decision looks at.
#[derive(Debug)]
pub(crate) struct View {
    pub(crate) volume: Seen<PersistentVolume>,
    /// The object that its claim's name leads to.
    pub(crate) claim: Option<Seen<PersistentVolumeClaim>>,
}

impl Controller for Volumes {
    type View = View;

    fn name(&self) -> &'static str {
        "persistentvolume-controller"
    }

    fn owns(&self) -> ListQuery {
        ListQuery::of::<PersistentVolume>()
    }

    fn also(&self) -> Vec<Interest> {
        // By the name in the claim, which it keeps for good once it has one.
        let claim = Interest::mapped::<PersistentVolumeClaim>(|claim| {
            let name = claim.json().pointer("/spec/volumeName").and_then(Value::as_str);
            let name = name.filter(|name| !name.is_empty());
            Wakes::These(
                name.map(|name| Key::of::<PersistentVolume>("", name)).into_iter().collect(),
            )
        });
        vec![claim]
    }

    async fn observe(&self, key: &Key, ports: &Ports) -> Result<Option<View>, ObserveError> {
        let Some(volume) = get_as::<PersistentVolume>(ports, key).await? else { return Ok(None) };
        let of = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
        let claim = match of.and_then(|of| Some((of.namespace.as_deref()?, of.name.as_deref()?))) {
            Some((namespace, name)) => {
                get_as(ports, &Key::of::<PersistentVolumeClaim>(namespace, name)).await?
            }
            None => None,
        };
        Ok(Some(View { volume, claim }))
    }

    fn decide(&self, view: &View) -> Plan {
        decide(view)
    }
}

/// **Source**: `syncVolume` and `reclaimVolume` in `pv_controller.go`, and the protection
/// controller.
pub(crate) fn decide(view: &View) -> Plan {
    let volume = &view.volume;
    let held = has_finalizer(&volume.obj, VOLUME_FINALIZER);
    let spec = volume.spec.clone().unwrap_or_default();
    let is_ours = |claim: &&Seen<PersistentVolumeClaim>| matching::is_bound_to(volume, claim);
    let claim = view.claim.as_ref().filter(is_ours);
    let named = claim.and_then(|claim| claim.spec.as_ref()?.volume_name.as_deref());
    let named = named.filter(|name| !name.is_empty());
    let of = spec.claim_ref.as_ref();
    let was_bound = of.and_then(|of| of.uid.as_deref()).is_some_and(|uid| !uid.is_empty());
    if volume.obj.is_deleting() {
        // Also by a claim that is being deleted: a pod may use it until it is gone. Not by one that
        // has another volume, or to which this one is only offered.
        let is_used = claim.is_some() && named.map_or(was_bound, |name| name == volume.name());
        if !held || is_used {
            return Plan::idle(reasons::BEING_DELETED);
        }
        return set_finalizers(reasons::UNUSED, volume, false);
    }
    if !held {
        return set_finalizers(reasons::PROTECTING, volume, true);
    }
    match (claim, named) {
        (Some(_), Some(name)) if name == volume.name() => {
            if was_bound {
                phase(volume, "Bound", None)
            } else {
                // Its claim has still to take it.
                Plan::idle(reasons::BINDING)
            }
        }
        // Reserved by name, or free.
        _ if !was_bound => phase(volume, "Available", None),
        (Some(_), None) => Plan::idle(reasons::BINDING),
        (Some(_), Some(_)) => bound_elsewhere(volume),
        (None, _) => released(volume),
    }
}

/// Its claim has another volume. One that was made for the claim is of no use to anybody else; one
/// that somebody has made by hand may hold data, and is free again.
///
/// **Source**: the end of `syncVolume`, and `unbindVolume`.
fn bound_elsewhere(volume: &Seen<PersistentVolume>) -> Plan {
    let spec = volume.spec.as_ref();
    let policy = spec.and_then(|spec| spec.persistent_volume_reclaim_policy.as_deref());
    if annotation(&volume.obj, PROVISIONED_BY).is_some() && policy == Some("Delete") {
        return released(volume);
    }
    let patch = if annotation(&volume.obj, BOUND_BY_CONTROLLER).is_some() {
        json!({"metadata": {"annotations": {BOUND_BY_CONTROLLER: null}},
            "spec": {"claimRef": null}})
    } else {
        // The name is what the user has written: the reservation stays.
        json!({"spec": {"claimRef": {"uid": null}}})
    };
    let (key, revision) = volume.assumed();
    Plan::act(reasons::UNBINDING, vec![Action::Patch { key: key.clone(), patch }])
        .assuming(key, revision)
}

/// Its claim is gone.
fn released(volume: &Seen<PersistentVolume>) -> Plan {
    let spec = volume.spec.clone().unwrap_or_default();
    let policy = spec.persistent_volume_reclaim_policy.as_deref().unwrap_or("Retain");
    let maker = annotation(&volume.obj, PROVISIONED_BY);
    // One that somebody has written by hand may name any folder.
    let is_made = maker == Some(local_volumes::PROVISIONER);
    match policy {
        "Delete" if is_made && local_volumes::folder(&spec).is_some() => {
            // First told, then gone: the node that has the folder removes it.
            let status = volume.status.as_ref().and_then(|status| status.phase.as_deref());
            if status != Some("Released") {
                return phase(volume, "Released", None);
            }
            let (key, revision) = volume.assumed();
            let delete = Action::Delete {
                key: key.clone(),
                uid: volume.uid().to_owned(),
                propagation: Propagation::Background,
            };
            Plan::act(reasons::RECLAIMING, vec![delete]).assuming(key, revision)
        }
        "Delete" => {
            let message = format!(
                "error getting deleter volume plugin for volume \"{}\": no deletable volume plugin \
                 matched",
                volume.name()
            );
            phase(volume, "Failed", Some((reasons::VOLUME_FAILED_DELETE, message)))
        }
        "Recycle" => {
            let message = "no recyclable volume plugin matched".to_owned();
            phase(volume, "Failed", Some((reasons::VOLUME_FAILED_RECYCLE, message)))
        }
        _ => phase(volume, "Released", None),
    }
}

/// Writes a phase that is new, with what there is to say about it.
fn phase(
    volume: &Seen<PersistentVolume>,
    phase: &'static str,
    problem: Option<(&'static str, String)>,
) -> Plan {
    let status = volume.status.as_ref();
    if status.and_then(|status| status.phase.as_deref()) == Some(phase) {
        return Plan::idle(reasons::SETTLED);
    }
    let message = problem.as_ref().map(|(_, message)| message.clone());
    let had = status.is_some_and(|status| status.message.is_some());
    let mut body = json!({"phase": phase});
    if message.is_some() || had {
        body["message"] = json!(message);
    }
    let plan = Plan::idle(reasons::STATUS_CHANGED).with_status(volume.key().clone(), body);
    match problem {
        None => plan,
        Some((reason, message)) => plan.with_event(EventNote {
            about: volume.key().clone(),
            kind: EventType::Warning,
            reason,
            message,
        }),
    }
}

fn set_finalizers(reason: &'static str, volume: &Seen<PersistentVolume>, wanted: bool) -> Plan {
    let (key, revision) = volume.assumed();
    let all = finalizers(&volume.obj, VOLUME_FINALIZER, wanted);
    let patch = json!({"metadata": {"finalizers": all}});
    Plan::act(reason, vec![Action::Patch { key: key.clone(), patch }]).assuming(key, revision)
}
