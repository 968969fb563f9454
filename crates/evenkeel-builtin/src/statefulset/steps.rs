//! What is done to the pods in one pass. **Source**: `stateful_set_control.go`.

use std::{collections::BTreeMap, ops::ControlFlow, time::Duration};

use evenkeel_api::Obj;
use evenkeel_control::{Action, EventNote, EventType, Plan, Propagation};
use k8s_openapi::api::{apps::v1::StatefulSet, core::v1::Pod};
use serde_json::json;

use super::{
    View, claims,
    identity::{self, new_pod},
    revisions::{Revisions, strategy},
};
use crate::{pods, reasons, seen::Seen};

/// Most pods made or deleted in one pass. **Source**: `MaxBatchSize`.
const BATCH_MAX: usize = 500;

/// How far a pod is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Health {
    /// Runs and is ready.
    pub(crate) is_ready: bool,
    /// Has been ready for `minReadySeconds`.
    pub(crate) is_available: bool,
}

pub(crate) fn health(view: &View, pod: &Pod) -> Health {
    let ready = available_in(view, pod).filter(|_| pods::phase(pod) == "Running");
    Health { is_ready: ready.is_some(), is_available: ready.is_some_and(|wait| wait.is_zero()) }
}

pub(crate) fn available_in(view: &View, pod: &Pod) -> Option<Duration> {
    let spec = view.set.spec.as_ref();
    let seconds = spec.and_then(|spec| spec.min_ready_seconds).unwrap_or_default();
    pods::available_in(pod, seconds, view.now)
}

/// The plan in the making.
pub(crate) struct Draft<'a> {
    view: &'a View,
    revisions: &'a Revisions,
    plan: Plan,
    /// One pod after the other, as opposed to all at once.
    is_ordered: bool,
    deleted_for_update: i32,
    changed: usize,
}

impl<'a> Draft<'a> {
    pub(crate) fn new(view: &'a View, revisions: &'a Revisions) -> Self {
        let mut plan = Plan::idle(reasons::SETTLED);
        // One that is made while the set goes would be left over.
        if !view.set.obj.is_deleting() {
            revisions.update.add_to(&mut plan);
        }
        let policy = view.set.spec.as_ref().and_then(|spec| spec.pod_management_policy.as_deref());
        let is_ordered = policy != Some("Parallel");
        Self { view, revisions, plan, is_ordered, deleted_for_update: 0, changed: 0 }
    }

    /// Pods are made from the lowest ordinal up, and deleted from the highest one down.
    pub(crate) fn reconcile(&mut self) {
        let (wanted, beyond) = split(self.view);
        for (ordinal, pod) in &wanted {
            if self.keep(*ordinal, *pod).is_break() && self.is_ordered {
                return;
            }
        }
        for (ordinal, pod) in &beyond {
            self.retain_claims(pod, *ordinal);
        }
        let first_unhealthy = self.first_unhealthy(&wanted, &beyond);
        for (_, pod) in &beyond {
            if self.remove(pod, first_unhealthy).is_break() && self.is_ordered {
                return;
            }
        }
        self.update(&wanted);
    }

    /// The plan, and how many pods of the current revision it deletes for an update.
    pub(crate) fn finish(self) -> (Plan, i32) {
        (self.plan, self.deleted_for_update)
    }

    /// **Source**: `processReplica`.
    fn keep(&mut self, ordinal: i64, pod: Option<&Seen<Pod>>) -> ControlFlow<()> {
        let Some(pod) = pod else { return self.create(ordinal) };
        // An ended one is made again whatever its result: also a node that goes down ends pods.
        if pods::is_terminal(pod) {
            if !pod.obj.is_deleting() {
                self.delete(pod);
            }
            return ControlFlow::Break(());
        }
        if pods::phase(pod) == "Pending" {
            self.create_claims(ordinal, pod.name());
        }
        let health = health(self.view, pod);
        if self.is_ordered && (pod.obj.is_deleting() || !health.is_available) {
            self.plan.reason = reasons::WAITING_FOR_PODS;
            return ControlFlow::Break(());
        }
        let before = self.plan.actions.len();
        self.retain_claims(pod, ordinal);
        if pod.obj.label(identity::POD_NAME) != Some(pod.name()) {
            let patch = json!({"metadata": {"labels": {identity::POD_NAME: pod.name()}}});
            self.plan.actions.push(Action::Patch { key: pod.key().clone(), patch });
        }
        if self.plan.actions.len() > before {
            self.note("update", reasons::SUCCESSFUL_UPDATE, pod.name());
        }
        ControlFlow::Continue(())
    }

    fn create(&mut self, ordinal: i64) -> ControlFlow<()> {
        let (view, set) = (self.view, &self.view.set);
        let name = format!("{}-{ordinal}", set.name());
        let stale = |claim: &Obj| claims::is_stale(claim, ("Pod", &name), None);
        if claims::of_ordinal(view, ordinal).any(|(_, c)| c.is_some_and(|c| stale(&c.obj))) {
            self.plan.reason = reasons::WAITING_FOR_CLAIM;
            return ControlFlow::Break(());
        }
        let template = self.revisions.for_ordinal(set, ordinal);
        let Some(pod) = new_pod(set, template, ordinal).filter(|_| self.changed < BATCH_MAX) else {
            return ControlFlow::Break(());
        };
        if !self.create_claims(ordinal, &name) {
            return ControlFlow::Break(());
        }
        self.plan.reason = reasons::SUCCESSFUL_CREATE;
        self.plan.actions.push(Action::Create(Box::new(pod)));
        self.changed += 1;
        self.note("create", reasons::SUCCESSFUL_CREATE, &name);
        if self.is_ordered { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    /// Makes the claims that are missing; whether the pod has all of them then.
    fn create_claims(&mut self, ordinal: i64, pod: &str) -> bool {
        let set = &self.view.set;
        for (template, found) in claims::of_ordinal(self.view, ordinal) {
            if let Some(claim) = found {
                if claim.obj.is_deleting() {
                    let claim = claim.name();
                    let message = format!(
                        "create Pod {pod} in StatefulSet {} failed error: pvc {claim} is being \
                         deleted",
                        set.name()
                    );
                    self.plan.reason = reasons::WAITING_FOR_CLAIM;
                    self.record(EventType::Warning, reasons::FAILED_CREATE, message);
                    return false;
                }
                continue;
            }
            let Some(claim) = claims::create(set, template, ordinal) else { return false };
            let message = format!(
                "create Claim {} Pod {pod} in StatefulSet {} success",
                claim.name(),
                set.name()
            );
            self.plan.reason = reasons::SUCCESSFUL_CREATE;
            self.plan.actions.push(Action::Create(Box::new(claim)));
            self.record(EventType::Normal, reasons::SUCCESSFUL_CREATE, message);
        }
        true
    }

    fn retain_claims(&mut self, pod: &Seen<Pod>, ordinal: i64) {
        for (action, claim) in claims::retain(self.view, pod, ordinal) {
            self.plan.actions.push(action);
            self.plan.assumed.push(self.view.claims[claim].assumed());
        }
    }

    fn first_unhealthy(
        &self,
        wanted: &BTreeMap<i64, Option<&'a Seen<Pod>>>,
        beyond: &[(i64, &'a Seen<Pod>)],
    ) -> Option<&'a str> {
        let is_unhealthy =
            |pod: &&Seen<Pod>| pod.obj.is_deleting() || !health(self.view, pod).is_ready;
        let wanted = wanted.values().filter_map(|pod| *pod);
        let beyond = beyond.iter().rev().map(|(_, pod)| *pod);
        wanted.chain(beyond).find(is_unhealthy).map(Seen::uid)
    }

    /// **Source**: `processCondemned`.
    fn remove(&mut self, pod: &Seen<Pod>, first_unhealthy: Option<&str>) -> ControlFlow<()> {
        if pod.obj.is_deleting() {
            return ControlFlow::Break(());
        }
        let is_available = health(self.view, pod).is_available;
        if self.is_ordered && !is_available && first_unhealthy != Some(pod.uid()) {
            self.plan.reason = reasons::WAITING_FOR_PODS;
            return ControlFlow::Break(());
        }
        if self.changed < BATCH_MAX {
            self.delete(pod);
        }
        ControlFlow::Break(())
    }

    /// Deletes the highest pod of an old revision, unless one above it is still on its way.
    fn update(&mut self, wanted: &BTreeMap<i64, Option<&Seen<Pod>>>) {
        let strategy = strategy(&self.view.set);
        // Those that are still to be made come first.
        let is_full = i64::try_from(wanted.len()) == Ok(identity::replicas(&self.view.set));
        if !strategy.is_rolling || !is_full {
            return;
        }
        let first = identity::start(&self.view.set) + strategy.partition.unwrap_or_default();
        for pod in wanted.range(first..).rev().map(|(_, pod)| *pod) {
            // One that was just made.
            let Some(pod) = pod else { return };
            let is_old = pod.obj.label(identity::REVISION) != Some(&self.revisions.update.name);
            if is_old && !pod.obj.is_deleting() {
                self.delete(pod);
                self.deleted_for_update = 1;
                return;
            }
            if pod.obj.is_deleting() || !health(self.view, pod).is_ready {
                self.plan.reason = reasons::WAITING_FOR_PODS;
                return;
            }
        }
    }

    fn delete(&mut self, pod: &Seen<Pod>) {
        self.plan.reason = reasons::SUCCESSFUL_DELETE;
        self.plan.actions.push(Action::Delete {
            key: pod.key().clone(),
            uid: pod.uid().to_owned(),
            propagation: Propagation::Background,
        });
        self.changed += 1;
        self.note("delete", reasons::SUCCESSFUL_DELETE, pod.name());
    }

    fn note(&mut self, verb: &str, reason: &'static str, pod: &str) {
        let set = self.view.set.name();
        let message = format!("{verb} Pod {pod} in StatefulSet {set} successful");
        self.record(EventType::Normal, reason, message);
    }

    fn record(&mut self, kind: EventType, reason: &'static str, message: String) {
        let about = self.view.set.key().clone();
        self.plan.events.push(EventNote { about, kind, reason, message });
    }
}

/// The pods by ordinal, with the first ordinals that have none; and those beyond, last one first.
type Split<'a> = (BTreeMap<i64, Option<&'a Seen<Pod>>>, Vec<(i64, &'a Seen<Pod>)>);

/// Which pods have an ordinal that is wanted. Of the ordinals without a pod there are no more than
/// one pass makes: a set may want more pods than memory could hold.
pub(crate) fn split(view: &View) -> Split<'_> {
    let set: &StatefulSet = &view.set;
    let range = identity::range(set);
    let (mut wanted, mut beyond) = (BTreeMap::new(), Vec::new());
    let own = view.pods.iter().filter(|pod| pods::is_controlled_by(&pod.obj, view.set.uid()));
    for pod in own {
        let Some(ordinal) = identity::ordinal(view.set.name(), pod.name()) else { continue };
        if range.contains(&ordinal) {
            wanted.insert(ordinal, Some(pod));
        } else {
            beyond.push((ordinal, pod));
        }
    }
    let missing = range.filter(|ordinal| !wanted.contains_key(ordinal));
    let missing: Vec<i64> = missing.take(BATCH_MAX).collect();
    wanted.extend(missing.into_iter().map(|ordinal| (ordinal, None)));
    beyond.sort_by_key(|(ordinal, _)| std::cmp::Reverse(*ordinal));
    (wanted, beyond)
}
