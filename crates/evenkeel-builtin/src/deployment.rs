//! Deployment: rolls `ReplicaSets` so that enough pods serve the whole time.
//!
//! ```text
//! decide: claim -> (paused | scaled) -> resize in proportion
//!               -> Recreate          -> old to 0, wait till gone, new up
//!               -> RollingUpdate     -> new up, else old down, else clean up
//!         always -> status, conditions, wake-up for the progress deadline
//! ```
//! **Source**: `pkg/controller/deployment`, step by step, so that `kubectl rollout` and other
//! readers of conditions find what they expect.

mod conditions;
mod draft;
mod resize;
mod rollout;
mod sets;
mod status;
mod template;

use std::collections::BTreeSet;

use evenkeel_api::{GroupKind, Key, LabelSelector};
use evenkeel_control::{
    Controller, EventNote, EventType, Interest, ListQuery, ObserveError, Plan, Ports, Wakes,
};
use jiff::Timestamp;
use k8s_openapi::api::{
    apps::v1::{Deployment, ReplicaSet},
    core::v1::Pod,
};
use serde_json::json;

use crate::{
    claim::claim,
    pods, reasons,
    seen::{Seen, get_as, list_as},
};
use draft::Draft;
use sets::{Limits, Sets};
pub(crate) use template::hash as template_hash;

/// The controller.
pub(crate) struct Deployments;

/// What one Deployment's decision looks at.
#[derive(Debug)]
pub(crate) struct View {
    pub(crate) now: Timestamp,
    pub(crate) deployment: Seen<Deployment>,
    /// `ReplicaSets` of its namespace that it owns or that its selector matches.
    pub(crate) sets: Vec<Seen<ReplicaSet>>,
    /// Names of all `ReplicaSets` of its namespace.
    pub(crate) names: BTreeSet<String>,
    /// Uids of the owning `ReplicaSets` of pods that have not ended, terminating ones included.
    /// Only read for the Recreate strategy.
    pub(crate) pod_owners: Vec<String>,
}

impl Controller for Deployments {
    type View = View;

    fn name(&self) -> &'static str {
        "deployment-controller"
    }

    fn owns(&self) -> ListQuery {
        ListQuery::of::<Deployment>()
    }

    fn also(&self) -> Vec<Interest> {
        let set = Interest::mapped::<ReplicaSet>(|set| match set.controller() {
            Some(owner) if owner.kind == "Deployment" => {
                Wakes::These(vec![Key::of::<Deployment>(set.namespace(), &owner.name)])
            }
            Some(_) => Wakes::These(Vec::new()),
            None => Wakes::Namespace(set.namespace().to_owned()),
        });
        // Recreate waits until old pods are gone; their ReplicaSet forgets them earlier.
        let pod = Interest::mapped::<Pod>(|pod| {
            let leaving =
                pod.is_deleting() || pod.get::<Pod>().is_ok_and(|p| pods::is_terminal(&p));
            let owner = pod.controller().filter(|owner| leaving && owner.kind == "ReplicaSet");
            let name = owner.and_then(|owner| {
                let hash = pod.label(template::HASH_LABEL)?;
                owner.name.strip_suffix(hash)?.strip_suffix('-')
            });
            Wakes::These(
                name.map(|name| Key::of::<Deployment>(pod.namespace(), name)).into_iter().collect(),
            )
        });
        vec![set, pod]
    }

    async fn observe(&self, key: &Key, ports: &Ports) -> Result<Option<View>, ObserveError> {
        let Some(deployment) = get_as::<Deployment>(ports, key).await? else {
            return Ok(None);
        };
        let query = ListQuery::all(GroupKind::of::<ReplicaSet>()).within(&key.namespace);
        let mut sets = list_as::<ReplicaSet>(ports, &query).await?;
        let names = sets.iter().map(|set| set.name().to_owned()).collect();
        let selector = selector(&deployment);
        sets.retain(|set| {
            pods::is_controlled_by(&set.obj, deployment.uid())
                || selector.as_ref().is_some_and(|s| s.matches(set.obj.labels()))
        });
        let pod_owners = if Limits::of(&deployment).recreate {
            pod_owners(ports, &key.namespace).await?
        } else {
            Vec::new()
        };
        Ok(Some(View { now: ports.clock.now(), deployment, sets, names, pod_owners }))
    }

    fn decide(&self, view: &View) -> Plan {
        decide(view)
    }
}

async fn pod_owners(ports: &Ports, namespace: &str) -> Result<Vec<String>, ObserveError> {
    let query = ListQuery::all(GroupKind::of::<Pod>()).within(namespace);
    let pods = list_as::<Pod>(ports, &query).await?;
    let alive = pods.iter().filter(|pod| !pods::is_terminal(pod));
    Ok(alive.filter_map(|pod| Some(pod.obj.controller()?.uid.clone())).collect())
}

/// The selector; `None` when it is malformed or matches everything.
fn selector(deployment: &Seen<Deployment>) -> Option<LabelSelector> {
    let spec = deployment.spec.as_ref()?;
    LabelSelector::from_object(&spec.selector).ok().filter(|selector| !selector.is_empty())
}

/// One step of the rollout, and the status of what was seen.
pub(crate) fn decide(view: &View) -> Plan {
    let Some(selector) = selector(&view.deployment) else { return refuse(view) };
    if let Some(plan) = claim(&view.deployment.obj, &selector, &view.sets) {
        return plan;
    }
    let limits = Limits::of(&view.deployment);
    let mut draft = Draft::new(view, limits);
    let mut sets = Sets::of(view);
    if view.deployment.obj.is_deleting() {
        draft.reason = reasons::BEING_DELETED;
        return status::finish(draft, &sets, status::Progress::AsItWas);
    }
    draft.note_pause();
    if limits.paused || sets.was_scaled(limits) {
        draft.reason = if limits.paused { reasons::PAUSED } else { reasons::SETTLED };
        draft.keep_revision(&mut sets);
        resize::resize(&mut draft, &mut sets);
        if limits.paused {
            rollout::clean_up(&mut draft, &sets);
        }
        return status::finish(draft, &sets, status::Progress::AsItWas);
    }
    if limits.recreate {
        rollout::recreate(&mut draft, &mut sets);
    } else {
        rollout::roll(&mut draft, &mut sets);
    }
    status::finish(draft, &sets, status::Progress::Judged)
}

fn refuse(view: &View) -> Plan {
    let key = view.deployment.key();
    let observed = view.deployment.status.as_ref().and_then(|status| status.observed_generation);
    let generation = view.deployment.obj.generation();
    if observed == Some(generation) {
        return Plan::idle(reasons::SELECTING_ALL);
    }
    let message = "This deployment is selecting all pods. A non-empty selector is required.";
    Plan::idle(reasons::SELECTING_ALL)
        .with_status(key.clone(), json!({"observedGeneration": generation}))
        .with_event(EventNote {
            about: key.clone(),
            kind: EventType::Warning,
            reason: reasons::SELECTING_ALL,
            message: message.to_owned(),
        })
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
