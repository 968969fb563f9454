//! Counting: what has ended is noted in the status, then freed, then counted.
//!
//! **Source**: `syncJob` and `trackJobStatusAndRemoveFinalizers` in `job_controller.go`.

use std::{collections::BTreeMap, time::Duration};

use evenkeel_api::json::difference;
use evenkeel_control::{EventType, Plan};
use jiff::SignedDuration;
use k8s_openapi::api::{
    batch::v1::{Job, JobSpec},
    core::v1::Pod,
};
use serde_json::json;

use super::{
    View, backoff,
    finish::{Verdict, condition, ensure, is_true},
    index,
    indexes::Indexes,
    is_tracked, manage,
    policy::{self, Failure},
    release,
    sync::Sync,
};
use crate::{
    pods, reasons,
    seen::{Seen, json, whole_second},
};

/// Pods noted in the status at a time: it must not grow without limit. **Source**:
/// `MaxUncountedPods`.
const UNCOUNTED_MAX: usize = 500;

impl<'a> Sync<'a> {
    pub(crate) fn new(view: &'a View, job: &'a Seen<Job>, spec: &'a JobSpec) -> Self {
        let own = view.pods.iter().filter(|pod| pods::is_controlled_by(&pod.obj, job.uid()));
        let mut own: Vec<&Seen<Pod>> = own.collect();
        own.sort_by_key(|pod| index(&pod.obj).unwrap_or(-1));
        let active: Vec<_> = own.iter().copied().filter(|pod| pods::is_active(pod)).collect();
        let count = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
        let mut sync = Self {
            view,
            job,
            spec,
            plan: Plan::idle(reasons::SETTLED),
            status: job.status.clone().unwrap_or_default(),
            created: 0,
            ready: count(active.iter().filter(|pod| pods::is_ready(pod)).count()),
            terminating: count(own.iter().filter(|pod| pods::is_terminating(pod)).count()),
            pods: own,
            active,
            succeeded: 0,
            failed: 0,
            succeeded_indexes: Indexes::default(),
            failed_indexes: None,
            replaced: BTreeMap::new(),
        };
        sync.tally();
        sync
    }

    pub(crate) fn is_indexed(&self) -> bool {
        self.spec.completion_mode.as_deref() == Some("Indexed")
    }

    pub(crate) fn is_suspended(&self) -> bool {
        self.spec.suspend == Some(true)
    }

    pub(crate) fn completions(&self) -> i64 {
        self.spec.completions.map_or(0, i64::from)
    }

    pub(crate) fn count_active(&self) -> i64 {
        i64::try_from(self.active.len()).unwrap_or(i64::MAX)
    }

    /// How long it may still be active; `None` without a limit.
    ///
    /// Nor is there one while the status says that it is suspended: a Job that is resumed has the
    /// start time of before until that is set anew.
    pub(crate) fn deadline_in(&self) -> Option<Duration> {
        let limit = self.spec.active_deadline_seconds.filter(|_| !self.is_suspended())?;
        if self.status.conditions.iter().flatten().any(|one| is_true(one, "Suspended")) {
            return None;
        }
        let start = self.status.start_time.as_ref()?.0;
        let end = start.checked_add(SignedDuration::from_secs(limit)).ok()?;
        Some(Duration::try_from(end.duration_since(self.view.now)).unwrap_or_default())
    }

    fn is_valid(&self, pod: &Seen<Pod>) -> bool {
        !self.is_indexed() || index(&pod.obj).is_some_and(|at| at < self.completions())
    }

    fn uncounted(&self) -> (&[String], &[String]) {
        let uncounted = self.status.uncounted_terminated_pods.as_ref();
        (
            uncounted.and_then(|all| all.succeeded.as_deref()).unwrap_or_default(),
            uncounted.and_then(|all| all.failed.as_deref()).unwrap_or_default(),
        )
    }

    /// Counts what has ended, whether the status says so already or not.
    fn tally(&mut self) {
        let (noted_succeeded, noted_failed) = self.uncounted();
        let count = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
        let fresh = self.pods.iter().filter(|pod| is_tracked(pod) && self.is_valid(pod));
        let is_noted = |list: &[String], pod: &Seen<Pod>| list.iter().any(|uid| uid == pod.uid());
        let succeeded = fresh
            .clone()
            .filter(|pod| pods::phase(pod) == "Succeeded" && !is_noted(noted_succeeded, pod));
        let failed = fresh.filter(|pod| {
            policy::has_failed(self.spec, pod)
                && !is_noted(noted_failed, pod)
                && policy::judge(self.spec, pod) != Failure::Ignored
        });
        let counted = |number: Option<i32>| number.map_or(0, i64::from);
        let all_succeeded = counted(self.status.succeeded)
            + count(noted_succeeded.len())
            + count(succeeded.count());
        let all_failed =
            counted(self.status.failed) + count(noted_failed.len()) + count(failed.count());
        (self.succeeded, self.failed) = (all_succeeded, all_failed);
        if self.is_indexed() {
            self.tally_indexes();
        }
    }

    fn tally_indexes(&mut self) {
        let completions = self.completions();
        let before = self.status.completed_indexes.as_deref().unwrap_or_default();
        let tracked = self.pods.iter().copied();
        let tracked = tracked.filter(|pod| is_tracked(pod) && self.is_valid(pod));
        let done = tracked.clone().filter(|pod| pods::phase(pod) == "Succeeded");
        let done: Indexes = done.filter_map(|pod| index(&pod.obj)).collect();
        let done = Indexes::parse(before, completions).union(&done);
        if let Some(limit) = self.spec.backoff_limit_per_index {
            let failed = tracked.clone().filter(|pod| self.fails_index(pod, limit));
            let failed: Indexes = failed.filter_map(|pod| index(&pod.obj)).collect();
            let before = self.status.failed_indexes.as_deref().unwrap_or_default();
            let failed = Indexes::parse(before, completions).union(&failed);
            let replaced = self.to_replace(&done, &failed);
            (self.replaced, self.failed_indexes) = (replaced, Some(failed));
        }
        self.succeeded = done.total();
        self.succeeded_indexes = done;
    }

    /// **Source**: `isIndexFailed`.
    fn fails_index(&self, pod: &Seen<Pod>, limit: i32) -> bool {
        policy::has_failed(self.spec, pod)
            && match policy::judge(self.spec, pod) {
                Failure::FailsIndex => true,
                Failure::Ignored => false,
                _ => manage::failures(&pod.obj) >= limit,
            }
    }

    /// Failed pods that stay until the next pod of their index knows how many there were.
    ///
    /// **Source**: `getPodsWithDelayedDeletionPerIndex`.
    fn to_replace(&self, done: &Indexes, failed: &Indexes) -> BTreeMap<i64, &'a Seen<Pod>> {
        let mut all: BTreeMap<i64, &'a Seen<Pod>> = BTreeMap::new();
        let is_active = |at: i64| self.active.iter().any(|pod| index(&pod.obj) == Some(at));
        for pod in self.pods.iter().copied() {
            let Some(at) = index(&pod.obj).filter(|_| is_tracked(pod) && self.is_valid(pod)) else {
                continue;
            };
            let is_open = !done.has(at) && !failed.has(at) && !is_active(at);
            if is_open && policy::has_failed(self.spec, pod) {
                let rank =
                    |pod: &Seen<Pod>| (manage::all_failures(&pod.obj), backoff::finished_at(pod));
                let last = all.entry(at).or_insert(pod);
                if rank(last) <= rank(pod) {
                    *last = pod;
                }
            }
        }
        all
    }

    pub(crate) fn run(mut self) -> Plan {
        let is_deleting = self.job.obj.is_deleting();
        if self.status.start_time.is_none() && !self.is_suspended() {
            self.status.start_time = Some(whole_second(self.view.now));
        }
        let mut verdict = self.verdict();
        if verdict.is_some() {
            self.delete_active();
        } else {
            if !is_deleting {
                self.manage();
            }
            let idle = self.active.is_empty() && self.created == 0;
            let enough = match self.spec.completions {
                None => self.succeeded > 0,
                Some(all) => self.succeeded >= i64::from(all),
            };
            if idle && enough {
                verdict = Some(Verdict::reached());
            } else if !is_deleting {
                self.note_suspension();
            }
        }
        if let Some(left) = self.deadline_in().filter(|_| verdict.is_none()) {
            self.plan = std::mem::take(&mut self.plan).waking(left);
        }
        self.track(verdict.as_ref());
        self.finish()
    }

    fn note_suspension(&mut self) {
        let now = self.view.now;
        let (state, words, reason, message) = if self.is_suspended() {
            (
                ("Suspended", "True"),
                ("JobSuspended", "Job suspended"),
                reasons::SUSPENDED,
                "Job suspended",
            )
        } else {
            (("Suspended", "False"), ("JobResumed", "Job resumed"), reasons::RESUMED, "Job resumed")
        };
        let list = self.status.conditions.get_or_insert_default();
        if ensure(list, condition(state, words, now)) {
            self.record(reason, message.to_owned());
            if !self.is_suspended() {
                // The time limit is for the time that it is active.
                self.status.start_time = Some(whole_second(now));
            }
        }
    }

    fn track(&mut self, verdict: Option<&Verdict>) {
        self.count_freed();
        let (succeeded, failed) = self.uncounted();
        let (mut succeeded, mut failed) = (succeeded.to_vec(), failed.to_vec());
        let mut freed = Vec::new();
        let mut indexes = 0;
        for pod in self.pods.iter().copied().filter(|pod| is_tracked(pod)) {
            if succeeded.len() + failed.len() + indexes >= UNCOUNTED_MAX {
                break;
            }
            let has_failed = policy::has_failed(self.spec, pod);
            if !self.can_be_freed(pod, has_failed, verdict) {
                continue;
            }
            freed.push(pod);
            let uid = pod.uid().to_owned();
            // When the Job fails, so does every pod that has not ended.
            let fails = has_failed || verdict.is_some_and(|verdict| !verdict.is_success);
            if failed.contains(&uid) || succeeded.contains(&uid) {
                continue;
            }
            if pods::phase(pod) == "Succeeded" {
                if self.is_indexed() {
                    indexes += 1;
                } else {
                    succeeded.push(uid);
                }
            } else if fails
                && self.is_valid(pod)
                && policy::judge(self.spec, pod) != Failure::Ignored
            {
                failed.push(uid);
            }
        }
        for pod in &freed {
            self.plan.then.push(release(pod));
            self.plan.assumed.push(pod.assumed());
        }
        let is_counted = freed.is_empty() && succeeded.is_empty() && failed.is_empty();
        let uncounted = self.status.uncounted_terminated_pods.get_or_insert_default();
        uncounted.succeeded = Some(succeeded).filter(|list| !list.is_empty());
        uncounted.failed = Some(failed).filter(|list| !list.is_empty());
        self.fill_numbers();
        if let Some(verdict) = verdict {
            self.conclude(verdict, is_counted && self.terminating == 0);
        }
    }

    /// Counts the noted pods that are free by now.
    fn count_freed(&mut self) {
        let pods = &self.pods;
        let is_held = |uid: &String| pods.iter().any(|pod| is_tracked(pod) && pod.uid() == uid);
        let uncounted = self.status.uncounted_terminated_pods.get_or_insert_default();
        for (list, total) in [
            (&mut uncounted.succeeded, &mut self.status.succeeded),
            (&mut uncounted.failed, &mut self.status.failed),
        ] {
            let Some(uids) = list else { continue };
            let before = uids.len();
            uids.retain(&is_held);
            let freed = i32::try_from(before - uids.len()).unwrap_or(i32::MAX);
            *total = Some(total.unwrap_or_default().saturating_add(freed)).filter(|sum| *sum > 0);
        }
    }

    /// **Source**: `canRemoveFinalizer`.
    fn can_be_freed(&self, pod: &Seen<Pod>, has_failed: bool, verdict: Option<&Verdict>) -> bool {
        if self.job.obj.is_deleting() || verdict.is_some() || pods::phase(pod) == "Succeeded" {
            return true;
        }
        let is_replaced = index(&pod.obj)
            .and_then(|at| self.replaced.get(&at))
            .is_some_and(|last| last.uid() == pod.uid());
        has_failed && !is_replaced
    }

    fn fill_numbers(&mut self) {
        let narrow = |count: i64| i32::try_from(count.max(0)).unwrap_or(i32::MAX);
        let active = narrow(self.count_active() + self.created);
        self.status.active = Some(active).filter(|count| *count > 0);
        self.status.ready = Some(narrow(self.ready));
        self.status.terminating = Some(narrow(self.terminating));
        if self.is_indexed() {
            let done = &self.succeeded_indexes;
            self.status.succeeded = Some(narrow(done.total())).filter(|count| *count > 0);
            self.status.completed_indexes =
                Some(done.to_string()).filter(|indexes| !indexes.is_empty());
            self.status.failed_indexes = self.failed_indexes.as_ref().map(ToString::to_string);
        }
    }

    /// Says how it will end, and that it has, once all pods are counted and gone.
    fn conclude(&mut self, verdict: &Verdict, is_over: bool) {
        let now = self.view.now;
        let words = (&*verdict.reason, &*verdict.message);
        let list = self.status.conditions.get_or_insert_default();
        if !list.iter().any(|one| one.type_ == verdict.interim() && one.status == "True") {
            list.push(condition((verdict.interim(), "True"), words, now));
        }
        if !is_over {
            return;
        }
        ensure(list, condition((verdict.last(), "True"), words, now));
        if !verdict.is_success {
            let reason = reasons::of_failure(&verdict.reason);
            self.note(EventType::Warning, reason, verdict.message.clone());
            return;
        }
        self.status.completion_time = Some(whole_second(now));
        if self.spec.completions.is_some_and(|all| self.succeeded > i64::from(all)) {
            let message = "Too many succeeded pods running after completion count reached";
            let reason = reasons::TOO_MANY_SUCCEEDED_PODS;
            self.note(EventType::Warning, reason, message.to_owned());
        }
        self.record(reasons::COMPLETED, "Job completed".to_owned());
    }

    fn finish(mut self) -> Plan {
        self.status.conditions = self.status.conditions.filter(|list| !list.is_empty());
        let old = self.job.status.as_ref().map_or_else(|| json!({}), json);
        if let Some(patch) = difference(&old, &json(&self.status)) {
            if self.plan.actions.is_empty() {
                self.plan.reason = reasons::STATUS_CHANGED;
            }
            self.plan = self.plan.with_status(self.job.key().clone(), patch);
        }
        self.plan
    }
}
