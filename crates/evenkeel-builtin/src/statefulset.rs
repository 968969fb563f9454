//! `StatefulSet`: pods with a name, an order and a volume of their own.
//!
//! ```text
//! decide: claim -> revision of the present template, made if new
//!               -> every ordinal in turn: ended? delete. missing? claims, then pod. else wait
//!               -> pods beyond the last ordinal, the highest first
//!               -> pods of an old revision, the highest first, down to the partition
//!         always -> status, old revisions
//! ```
//! **Source**: `pkg/controller/statefulset`, step by step. `maxUnavailable` is not read: its
//! feature gate is off in Kubernetes 1.33.

mod claims;
mod identity;
mod revisions;
mod status;
mod steps;

use evenkeel_api::{GroupKind, Key, LabelSelector};
use evenkeel_control::{Controller, Interest, ListQuery, ObserveError, Plan, Ports, Wakes};
use jiff::Timestamp;
use k8s_openapi::api::{
    apps::v1::{ControllerRevision, StatefulSet},
    core::v1::{PersistentVolumeClaim, Pod},
};

use crate::{
    claim::claim,
    history::History,
    pods, reasons,
    seen::{Seen, get_as, list_as},
};

/// The controller.
pub(crate) struct StatefulSets;

/// What one `StatefulSet`'s decision looks at.
#[derive(Debug)]
pub(crate) struct View {
    pub(crate) now: Timestamp,
    pub(crate) set: Seen<StatefulSet>,
    /// Pods of its namespace that it owns, or that its selector matches and that have a name of it.
    pub(crate) pods: Vec<Seen<Pod>>,
    /// Claims of its namespace with a name that one of its pods may need.
    pub(crate) claims: Vec<Seen<PersistentVolumeClaim>>,
    /// All revisions of its namespace.
    pub(crate) revisions: Vec<Seen<ControllerRevision>>,
}

impl Controller for StatefulSets {
    type View = View;

    fn name(&self) -> &'static str {
        "statefulset-controller"
    }

    fn owns(&self) -> ListQuery {
        ListQuery::of::<StatefulSet>()
    }

    fn also(&self) -> Vec<Interest> {
        let pod = Interest::mapped::<Pod>(|pod| match pod.controller() {
            Some(owner) if owner.kind == "StatefulSet" => {
                Wakes::These(vec![Key::of::<StatefulSet>(pod.namespace(), &owner.name)])
            }
            Some(_) => Wakes::These(Vec::new()),
            None => match identity::parent(pod.name()) {
                Some((set, _)) => Wakes::These(vec![Key::of::<StatefulSet>(pod.namespace(), set)]),
                None => Wakes::These(Vec::new()),
            },
        });
        // A pod waits until the claim of its predecessor is gone.
        let claim = Interest::mapped::<PersistentVolumeClaim>(|claim| {
            if claim.is_deleting() {
                Wakes::Namespace(claim.namespace().to_owned())
            } else {
                Wakes::These(Vec::new())
            }
        });
        vec![pod, claim]
    }

    async fn observe(&self, key: &Key, ports: &Ports) -> Result<Option<View>, ObserveError> {
        let Some(set) = get_as::<StatefulSet>(ports, key).await? else { return Ok(None) };
        let within = |kind: GroupKind| ListQuery::all(kind).within(&key.namespace);
        let mut pods = list_as::<Pod>(ports, &within(GroupKind::of::<Pod>())).await?;
        let selector = selector(&set);
        pods.retain(|pod| {
            pods::is_controlled_by(&pod.obj, set.uid())
                || (identity::ordinal(set.name(), pod.name()).is_some()
                    && selector.as_ref().is_some_and(|s| s.matches(pod.obj.labels())))
        });
        let revisions = within(GroupKind::of::<ControllerRevision>());
        let revisions = list_as::<ControllerRevision>(ports, &revisions).await?;
        let mut claims = Vec::new();
        if !identity::templates(&set).is_empty() {
            let query = within(GroupKind::of::<PersistentVolumeClaim>());
            claims = list_as::<PersistentVolumeClaim>(ports, &query).await?;
            claims.retain(|claim| claims::is_of(&set, claim.name()));
        }
        Ok(Some(View { now: ports.clock.now(), set, pods, claims, revisions }))
    }

    fn decide(&self, view: &View) -> Plan {
        decide(view)
    }
}

/// The selector; `None` when it is malformed or matches everything.
fn selector(set: &Seen<StatefulSet>) -> Option<LabelSelector> {
    let spec = set.spec.as_ref()?;
    LabelSelector::from_object(&spec.selector).ok().filter(|selector| !selector.is_empty())
}

/// One step towards the wanted pods, and the status of what was seen.
pub(crate) fn decide(view: &View) -> Plan {
    let Some(selector) = selector(&view.set) else { return Plan::idle(reasons::SELECTOR_INVALID) };
    let set = &view.set.obj;
    if let Some(plan) = claim(set, &selector, &view.pods) {
        return plan;
    }
    let orphans = view
        .revisions
        .iter()
        .filter(|one| one.obj.controller().is_none() && selector.matches(one.obj.labels()));
    let orphans: Vec<_> = orphans.cloned().collect();
    if let Some(plan) = claim(set, &selector, &orphans) {
        return plan;
    }
    let history = History::of(set, &view.revisions);
    let Some(revisions) = revisions::Revisions::of(view, &history) else {
        return Plan::idle(reasons::SELECTOR_INVALID);
    };
    let mut draft = steps::Draft::new(view, &revisions);
    if !set.is_deleting() {
        draft.reconcile();
    }
    let (mut plan, deleted_for_update) = draft.finish();
    if plan.actions.is_empty() && set.is_deleting() {
        plan.reason = reasons::BEING_DELETED;
    }
    let counted = status::Counted { view, revisions: &revisions, deleted_for_update };
    let plan = status::write(&counted, plan);
    revisions.truncate(&history, view, plan)
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
