//! Job: pods that end, as many and as often as it takes.
//!
//! ```text
//! pod ended --> status.uncountedTerminatedPods --> finalizer off --> status.succeeded, .failed
//! ```
//! A pod keeps the finalizer `batch.kubernetes.io/job-tracking` until the status knows of it, so
//! none is forgotten or counted twice, whoever deletes pods and whenever this process ends. The
//! status is written before the finalizers are removed (`Plan::then`).
//!
//! Also here: what is left of a Job that is gone, and `ttlSecondsAfterFinished`.
//! **Source**: `pkg/controller/job`, `pkg/controller/ttlafterfinished`.

mod backoff;
mod finish;
mod indexes;
mod manage;
mod policy;
mod sync;
mod track;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use evenkeel_api::{GroupKind, Key, LabelSelector, Obj};
use evenkeel_control::{
    Action, Controller, Interest, ListQuery, ObserveError, Plan, Ports, Propagation, Wakes,
};
use jiff::Timestamp;
use k8s_openapi::api::{batch::v1::Job, core::v1::Pod};
use serde_json::{Value, json};

use crate::{
    claim::claim,
    pods, reasons,
    seen::{Seen, get_as, list_as},
};
use backoff::Ended;

pub(crate) use finish::ended_by;

/// Finalizer of pods that are not counted yet.
pub(crate) const TRACKING: &str = "batch.kubernetes.io/job-tracking";
const JOB_NAME: &str = "batch.kubernetes.io/job-name";
/// The value of `managedBy` that means this controller.
const THIS_CONTROLLER: &str = "kubernetes.io/job-controller";

/// The controller. It remembers when pods of unfinished Jobs ended, because the pause before the
/// next one depends on pods that may be deleted meanwhile; as upstream, a restart forgets those.
#[derive(Default)]
pub(crate) struct Jobs {
    ended: Arc<Mutex<BTreeMap<Key, Memory>>>,
}

/// How pods of one Job have ended.
#[derive(Default)]
struct Memory {
    /// The Job's: the next one of its name begins with an empty memory.
    uid: String,
    /// By the uid of the pod.
    pods: BTreeMap<String, Ended>,
}

/// What one Job's decision looks at.
#[derive(Debug)]
pub(crate) struct View {
    pub(crate) now: Timestamp,
    /// `None` when it is gone and has left pods.
    pub(crate) job: Option<Seen<Job>>,
    /// Pods of its namespace that it owns, that its selector matches, or that an earlier Job of its
    /// name has left.
    pub(crate) pods: Vec<Seen<Pod>>,
    /// When its pods ended, those included that are deleted by now.
    pub(crate) ended: Vec<Ended>,
}

impl Controller for Jobs {
    type View = View;

    fn name(&self) -> &'static str {
        "job-controller"
    }

    fn owns(&self) -> ListQuery {
        ListQuery::of::<Job>()
    }

    fn also(&self) -> Vec<Interest> {
        let pod = Interest::mapped::<Pod>(|pod| match pod.controller() {
            Some(owner) if owner.kind == "Job" => {
                Wakes::These(vec![Key::of::<Job>(pod.namespace(), &owner.name)])
            }
            Some(_) => Wakes::These(Vec::new()),
            None => {
                let name = pod.label(JOB_NAME).or_else(|| pod.label("job-name"));
                let key = name.map(|name| Key::of::<Job>(pod.namespace(), name));
                key.map_or_else(
                    || Wakes::Namespace(pod.namespace().to_owned()),
                    |key| Wakes::These(vec![key]),
                )
            }
        });
        vec![pod]
    }

    async fn observe(&self, key: &Key, ports: &Ports) -> Result<Option<View>, ObserveError> {
        let job = get_as::<Job>(ports, key).await?;
        let query = ListQuery::all(GroupKind::of::<Pod>()).within(&key.namespace);
        let mut pods = list_as::<Pod>(ports, &query).await?;
        let selector = job.as_ref().and_then(selector);
        pods.retain(|pod| {
            selector.as_ref().is_some_and(|selector| selector.matches(pod.obj.labels()))
                || pod.obj.controller().map_or_else(
                    || pod.obj.label(JOB_NAME) == Some(&*key.name),
                    |owner| owner.kind == "Job" && owner.name == *key.name,
                )
        });
        let ended = self.remember(key, &pods, job.as_ref());
        if job.is_none() && !pods.iter().any(|pod| is_tracked(pod)) {
            return Ok(None);
        }
        Ok(Some(View { now: ports.clock.now(), job, pods, ended }))
    }

    fn decide(&self, view: &View) -> Plan {
        decide(view)
    }
}

impl Jobs {
    fn remember(&self, key: &Key, pods: &[Seen<Pod>], job: Option<&Seen<Job>>) -> Vec<Ended> {
        let mut all = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(job) = job.filter(|job| finish::finished(job).is_none()) else {
            all.remove(key);
            return Vec::new();
        };
        let memory = all.entry(key.clone()).or_default();
        if memory.uid != job.uid() {
            *memory = Memory { uid: job.uid().to_owned(), pods: BTreeMap::new() };
        }
        let own = pods.iter().filter(|pod| pods::is_controlled_by(&pod.obj, job.uid()));
        backoff::remember(&mut memory.pods, own);
        memory.pods.values().copied().collect()
    }
}

fn selector(job: &Seen<Job>) -> Option<LabelSelector> {
    let spec = job.spec.as_ref()?;
    let selector = LabelSelector::from_object(spec.selector.as_ref()?).ok()?;
    (!selector.is_empty()).then_some(selector)
}

/// Whether a pod waits to be counted.
pub(crate) fn is_tracked(pod: &Pod) -> bool {
    pod.metadata.finalizers.iter().flatten().any(|name| name == TRACKING)
}

/// Takes the finalizer off.
fn release(pod: &Seen<Pod>) -> Action {
    let all = pod.obj.meta().finalizers.iter().flatten();
    let kept: Vec<&String> = all.filter(|name| *name != TRACKING).collect();
    let kept = if kept.is_empty() { Value::Null } else { json!(kept) };
    Action::Patch { key: pod.key().clone(), patch: json!({"metadata": {"finalizers": kept}}) }
}

/// One step of the Job, and the status of what was seen.
pub(crate) fn decide(view: &View) -> Plan {
    if let Some(plan) = release_leftovers(view) {
        return plan;
    }
    let Some(job) = &view.job else { return Plan::idle(reasons::SETTLED) };
    let Some(spec) = job.spec.as_ref() else { return Plan::idle(reasons::SELECTOR_INVALID) };
    if spec.managed_by.as_deref().is_some_and(|manager| manager != THIS_CONTROLLER) {
        return Plan::idle(reasons::NOT_MANAGED);
    }
    if let Some(finished) = finish::finished(job) {
        return expire(view, job, finished);
    }
    let Some(selector) = selector(job) else { return Plan::idle(reasons::SELECTOR_INVALID) };
    let matching = view.pods.iter().filter(|pod| {
        pods::is_controlled_by(&pod.obj, job.uid()) || selector.matches(pod.obj.labels())
    });
    let matching: Vec<_> = matching.cloned().collect();
    if let Some(plan) = claim(&job.obj, &selector, &matching) {
        return track_adopted(plan, &matching);
    }
    sync::Sync::new(view, job, spec).run()
}

/// Pods whose Job is gone or finished are not counted any more.
fn release_leftovers(view: &View) -> Option<Plan> {
    let open = view.job.as_ref().filter(|job| finish::finished(job).is_none());
    let managed_elsewhere = view.job.as_ref().is_some_and(|job| {
        let manager = job.spec.as_ref().and_then(|spec| spec.managed_by.as_deref());
        manager.is_some_and(|manager| manager != THIS_CONTROLLER)
    });
    let mut plan = Plan::idle(reasons::LEFTOVERS);
    for pod in view.pods.iter().filter(|pod| is_tracked(pod)) {
        let is_open = match pod.obj.controller() {
            Some(owner) if owner.kind != "Job" => continue,
            // Two Jobs may have one selector; each looks after its own pods.
            Some(owner) if view.job.as_ref().is_some_and(|job| job.name() != owner.name) => {
                continue;
            }
            Some(owner) => open.is_some_and(|job| job.uid() == owner.uid),
            // It may be adopted.
            None => open.is_some_and(|job| {
                selector(job).is_some_and(|selector| selector.matches(pod.obj.labels()))
            }),
        };
        if !is_open && !managed_elsewhere {
            plan.actions.push(release(pod));
            plan.assumed.push(pod.assumed());
        }
    }
    (!plan.actions.is_empty()).then_some(plan)
}

/// An adopted pod is counted as one that the Job has made.
fn track_adopted(mut plan: Plan, pods: &[Seen<Pod>]) -> Plan {
    for action in &mut plan.actions {
        let Action::Patch { key, patch } = action else { continue };
        let Some(pod) = pods.iter().find(|pod| pod.key() == key) else { continue };
        if pod.obj.controller().is_none() && !is_tracked(pod) {
            let mut finalizers = pod.obj.meta().finalizers.clone().unwrap_or_default();
            finalizers.push(TRACKING.to_owned());
            patch["metadata"]["finalizers"] = json!(finalizers);
        }
    }
    plan
}

/// Deletes a finished Job when its time is over. **Source**: `processJob` in
/// `ttlafterfinished_controller.go`.
fn expire(view: &View, job: &Seen<Job>, finished: Timestamp) -> Plan {
    let ttl = job.spec.as_ref().and_then(|spec| spec.ttl_seconds_after_finished);
    let Some(ttl) = ttl.filter(|_| !job.obj.is_deleting()) else {
        return Plan::idle(reasons::SETTLED);
    };
    let ttl = Duration::from_secs(u64::try_from(ttl).unwrap_or_default());
    let passed = Duration::try_from(view.now.duration_since(finished)).unwrap_or_default();
    let left = ttl.saturating_sub(passed);
    if !left.is_zero() {
        return Plan::wait(reasons::SETTLED, left);
    }
    let delete = Action::Delete {
        key: job.key().clone(),
        uid: job.uid().to_owned(),
        propagation: Propagation::Foreground,
    };
    Plan::act(reasons::TTL_OVER, vec![delete])
}

/// The completion index of a pod of an Indexed Job.
pub(crate) fn index(pod: &Obj) -> Option<i64> {
    pod.annotation(indexes::INDEX)?.parse::<i32>().ok().filter(|at| *at >= 0).map(i64::from)
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
