//! What a Job's own rules say of ended pods. **Source**: `pod_failure_policy.go`,
//! `success_policy.go`.

use k8s_openapi::api::{
    batch::v1::{
        JobSpec, PodFailurePolicyOnExitCodesRequirement, PodFailurePolicyOnPodConditionsPattern,
    },
    core::v1::{ContainerStatus, Pod, PodCondition},
};

use super::indexes::Indexes;
use crate::{pods, seen::Seen};

/// What a failed pod means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Failure {
    /// It counts towards `backoffLimit`.
    Counts,
    /// It does not.
    Ignored,
    /// Its index has failed.
    FailsIndex,
    /// The Job has failed, with this message.
    FailsJob(String),
}

/// Whether a pod counts as failed.
///
/// One that is being deleted does, unless the Job waits until pods have really ended: nobody may
/// be left to say how it ended.
pub(crate) fn has_failed(spec: &JobSpec, pod: &Pod) -> bool {
    match pods::phase(pod) {
        "Failed" => true,
        "Succeeded" => false,
        _ => pod.metadata.deletion_timestamp.is_some() && !replaces_only_failed(spec),
    }
}

/// Whether a pod is replaced only when it has ended, not when it is told to.
pub(crate) fn replaces_only_failed(spec: &JobSpec) -> bool {
    spec.pod_replacement_policy.as_deref() == Some("Failed") || spec.pod_failure_policy.is_some()
}

/// What the first rule that matches says.
pub(crate) fn judge(spec: &JobSpec, pod: &Seen<Pod>) -> Failure {
    let rules = spec.pod_failure_policy.iter().flat_map(|policy| &policy.rules);
    for (number, rule) in rules.enumerate() {
        let name = format!("{}/{}", pod.obj.namespace(), pod.name());
        let action = &*rule.action;
        let message = if let Some(codes) = &rule.on_exit_codes {
            exited(pod, codes).map(|(container, code)| {
                format!(
                    "Container {container} for pod {name} failed with exit code {code} matching \
                     {action} rule at index {number}"
                )
            })
        } else {
            let conditions = rule.on_pod_conditions.as_deref().unwrap_or_default();
            matching(pod, conditions).map(|condition| {
                let kind = &condition.type_;
                format!("Pod {name} has condition {kind} matching {action} rule at index {number}")
            })
        };
        match (message, action) {
            (Some(_), "Ignore") => return Failure::Ignored,
            (Some(_), "FailIndex") => return Failure::FailsIndex,
            (Some(_), "Count") => return Failure::Counts,
            (Some(message), "FailJob") => return Failure::FailsJob(message),
            _ => {}
        }
    }
    Failure::Counts
}

fn exited<'a>(
    pod: &'a Pod,
    codes: &PodFailurePolicyOnExitCodesRequirement,
) -> Option<(&'a str, i32)> {
    let status = pod.status.as_ref()?;
    let ended = |container: &'a ContainerStatus| {
        let code = container.state.as_ref()?.terminated.as_ref()?.exit_code;
        let is_meant = codes.container_name.as_ref().is_none_or(|name| *name == container.name);
        let is_listed = codes.values.contains(&code);
        let matches = match &*codes.operator {
            "In" => is_listed,
            "NotIn" => !is_listed,
            _ => false,
        };
        (is_meant && code != 0 && matches).then_some((&*container.name, code))
    };
    let all = status.container_statuses.iter().chain(&status.init_container_statuses).flatten();
    all.into_iter().find_map(ended)
}

fn matching<'a>(
    pod: &'a Pod,
    patterns: &[PodFailurePolicyOnPodConditionsPattern],
) -> Option<&'a PodCondition> {
    let mut conditions = pod.status.as_ref()?.conditions.iter().flatten();
    conditions.find(|condition| {
        let fits = |pattern: &PodFailurePolicyOnPodConditionsPattern| {
            pattern.type_ == condition.type_ && pattern.status == condition.status
        };
        patterns.iter().any(fits)
    })
}

/// The message of the first success rule that is met.
pub(crate) fn is_success(spec: &JobSpec, succeeded: &Indexes) -> Option<String> {
    let rules = &spec.success_policy.as_ref()?.rules;
    let completions = spec.completions.map_or(0, i64::from);
    let is_met = rules.iter().position(|rule| {
        let needed = rule.succeeded_count.map(i64::from);
        match &rule.succeeded_indexes {
            Some(text) => {
                let required = Indexes::parse(text, completions);
                required.shared(succeeded) >= needed.unwrap_or(required.total())
            }
            None => needed.is_some_and(|needed| succeeded.total() >= needed),
        }
    });
    let number = is_met.filter(|_| succeeded.total() > 0)?;
    Some(format!("Matched rules at index {number}"))
}
