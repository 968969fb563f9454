//! How a Job ends: a first condition says what will be, the last one when all pods are gone.

use jiff::Timestamp;
use k8s_openapi::api::{
    batch::v1::{Job, JobCondition},
    core::v1::Pod,
};

use super::{
    indexes::Indexes,
    policy::{self, Failure},
    sync::Sync,
};
use crate::{
    pods, reasons,
    seen::{Seen, whole_second},
};

/// How a Job will end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) is_success: bool,
    pub(crate) reason: String,
    pub(crate) message: String,
}

impl Verdict {
    fn failed(reason: &str, message: &str) -> Self {
        Self { is_success: false, reason: reason.to_owned(), message: message.to_owned() }
    }

    pub(crate) fn reached() -> Self {
        Self {
            is_success: true,
            reason: reasons::COMPLETIONS_REACHED.to_owned(),
            message: "Reached expected number of succeeded pods".to_owned(),
        }
    }

    /// The condition that announces it.
    pub(crate) fn interim(&self) -> &'static str {
        if self.is_success { "SuccessCriteriaMet" } else { "FailureTarget" }
    }

    /// The condition that ends the Job.
    pub(crate) fn last(&self) -> &'static str {
        if self.is_success { "Complete" } else { "Failed" }
    }
}

/// When it finished; `None` when it has not.
pub(crate) fn finished(job: &Job) -> Option<Timestamp> {
    let condition = ended_by(job)?;
    Some(condition.last_transition_time.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0))
}

/// The condition that ended a Job.
pub(crate) fn ended_by(job: &Job) -> Option<&JobCondition> {
    let conditions = job.status.as_ref()?.conditions.as_deref().unwrap_or_default();
    conditions.iter().find(|one| is_true(one, "Complete") || is_true(one, "Failed"))
}

pub(crate) fn is_true(condition: &JobCondition, kind: &str) -> bool {
    condition.type_ == kind && condition.status == "True"
}

pub(crate) fn condition(
    (kind, status): (&str, &str),
    (reason, message): (&str, &str),
    now: Timestamp,
) -> JobCondition {
    JobCondition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: Some(reason.to_owned()).filter(|reason| !reason.is_empty()),
        message: Some(message.to_owned()).filter(|message| !message.is_empty()),
        last_probe_time: Some(whole_second(now)),
        last_transition_time: Some(whole_second(now)),
    }
}

/// Adds or replaces a condition; whether that changed anything. What was never true is not said to
/// be false. **Source**: `ensureJobConditionStatus`.
pub(crate) fn ensure(list: &mut Vec<JobCondition>, new: JobCondition) -> bool {
    match list.iter_mut().find(|old| old.type_ == new.type_) {
        Some(old) => {
            let key =
                |one: &JobCondition| (one.status.clone(), one.reason.clone(), one.message.clone());
            let is_other = key(old) != key(&new);
            if is_other {
                *old = new;
            }
            is_other
        }
        None if new.status != "False" => {
            list.push(new);
            true
        }
        None => false,
    }
}

impl Sync<'_> {
    /// What was decided before, or what the counts say now.
    pub(crate) fn verdict(&self) -> Option<Verdict> {
        self.announced().or_else(|| self.fails()).or_else(|| self.succeeds_early())
    }

    fn announced(&self) -> Option<Verdict> {
        let conditions = self.status.conditions.iter().flatten();
        let known = |one: &&JobCondition| {
            is_true(one, "SuccessCriteriaMet") || is_true(one, "FailureTarget")
        };
        let found = conditions.clone().find(|one| is_true(one, "SuccessCriteriaMet"));
        let found = found.or_else(|| conditions.clone().find(known))?;
        Some(Verdict {
            is_success: found.type_ == "SuccessCriteriaMet",
            reason: found.reason.clone().unwrap_or_default(),
            message: found.message.clone().unwrap_or_default(),
        })
    }

    fn fails(&self) -> Option<Verdict> {
        let spec = self.spec;
        let judged = self.pods.iter().filter(|pod| policy::has_failed(spec, pod));
        let mut judged = judged.map(|pod| policy::judge(spec, pod));
        if let Some(message) = judged.find_map(|failure| match failure {
            Failure::FailsJob(message) => Some(message),
            _ => None,
        }) {
            return Some(Verdict::failed(reasons::POD_FAILURE_POLICY, &message));
        }
        let limit = i64::from(spec.backoff_limit.unwrap_or(6));
        if self.failed > limit || self.restarts_exceed(limit) {
            let message = "Job has reached the specified backoff limit";
            return Some(Verdict::failed(reasons::BACKOFF_LIMIT_EXCEEDED, message));
        }
        if self.deadline_in().is_some_and(|left| left.is_zero()) {
            let message = "Job was active longer than specified deadline";
            return Some(Verdict::failed(reasons::DEADLINE_EXCEEDED, message));
        }
        let failed = self.failed_indexes.as_ref()?;
        if spec.max_failed_indexes.is_some_and(|most| failed.total() > i64::from(most)) {
            let message = "Job has exceeded the specified maximal number of failed indexes";
            return Some(Verdict::failed(reasons::MAX_FAILED_INDEXES_EXCEEDED, message));
        }
        let all = failed.total() + self.succeeded_indexes.total() >= self.completions();
        (failed.total() > 0 && all)
            .then(|| Verdict::failed(reasons::FAILED_INDEXES, "Job has failed indexes"))
    }

    fn succeeds_early(&self) -> Option<Verdict> {
        let succeeded: &Indexes = self.is_indexed().then_some(&self.succeeded_indexes)?;
        let message = policy::is_success(self.spec, succeeded)?;
        let reason = reasons::SUCCESS_POLICY.to_owned();
        Some(Verdict { is_success: true, reason, message })
    }

    /// Restarts within pods count where pods restart. **Source**: `pastBackoffLimitOnFailure`.
    fn restarts_exceed(&self, limit: i64) -> bool {
        let spec = self.spec.template.spec.as_ref();
        if spec.and_then(|spec| spec.restart_policy.as_deref()) != Some("OnFailure") {
            return false;
        }
        let restarts = |pod: &&Seen<Pod>| -> i64 {
            let status = pod.status.as_ref();
            let own = status.and_then(|status| status.container_statuses.as_ref());
            let init = status.and_then(|status| status.init_container_statuses.as_ref());
            let all = own.into_iter().chain(init).flatten();
            all.map(|container| i64::from(container.restart_count)).sum()
        };
        let running = self.pods.iter().copied();
        let running = running.filter(|pod| matches!(pods::phase(pod), "Running" | "Pending"));
        let total: i64 = running.map(|pod| restarts(&pod)).sum();
        if limit == 0 { total > 0 } else { total >= limit }
    }
}
