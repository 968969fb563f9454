//! What a Deployment's status says. **Source**: `progress.go`, `calculateStatus` in `sync.go`.

use std::time::Duration;

use evenkeel_api::json::difference;
use evenkeel_control::Plan;
use k8s_openapi::api::apps::v1::{
    Deployment, DeploymentCondition, DeploymentStatus, ReplicaSetCondition,
};
use serde_json::json;

use super::{
    conditions::{condition, set_condition},
    draft::Draft,
    sets::{Limits, Set, Sets},
};
use crate::{reasons, seen::json};

/// Whether this pass may say something new about progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    /// Paused, being scaled or deleted: numbers only.
    AsItWas,
    /// Complete, progressing or timed out.
    Judged,
}

/// Finishes the plan with the status of what was seen.
pub(crate) fn finish(mut draft: Draft<'_>, sets: &Sets<'_>, progress: Progress) -> Plan {
    let mut status = numbers(&draft, sets);
    let (reason, words) = if i64::from(status.available_replicas.unwrap_or_default())
        >= draft.limits.available_min()
    {
        let words = "Deployment has minimum availability.";
        ("True", (reasons::MINIMUM_REPLICAS_AVAILABLE, words.to_owned()))
    } else {
        let words = "Deployment does not have minimum availability.";
        ("False", (reasons::MINIMUM_REPLICAS_UNAVAILABLE, words.to_owned()))
    };
    let available = draft.condition("Available", reason, words);
    set_condition(&mut draft.conditions, available);
    if progress == Progress::Judged {
        judge(&mut draft, sets, &status);
    }
    let wake = deadline(&draft, &status).filter(|_| progress == Progress::Judged);
    let conditions = std::mem::take(&mut draft.conditions);
    status.conditions = (!conditions.is_empty()).then_some(conditions);
    let deployment = &draft.view.deployment;
    let key = deployment.key().clone();
    let old = deployment.status.as_ref().map_or_else(|| json!({}), json);
    let complete = is_complete(draft.limits, deployment.obj.generation(), &status);
    let mut plan = draft.into_plan();
    if plan.reason == reasons::SETTLED && !complete {
        plan.reason = reasons::WAITING_FOR_PODS;
    }
    if let Some(patch) = difference(&old, &json(&status)) {
        if plan.actions.is_empty() {
            plan.reason = reasons::STATUS_CHANGED;
        }
        plan = plan.with_status(key, patch);
    }
    plan.wake_after = wake;
    plan
}

/// As upstream writes numbers: zero is left out.
fn count(number: i64) -> Option<i32> {
    (number > 0).then(|| i32::try_from(number).unwrap_or(i32::MAX))
}

fn numbers(draft: &Draft<'_>, sets: &Sets<'_>) -> DeploymentStatus {
    let sum = |part: fn(&Set<'_>) -> i64| sets.all().map(part).sum::<i64>();
    let (total, available) = (sum(|set| set.actual), sum(|set| set.available));
    DeploymentStatus {
        observed_generation: Some(draft.view.deployment.obj.generation()),
        replicas: count(total),
        updated_replicas: count(sets.new.as_ref().map_or(0, |new| new.actual)),
        ready_replicas: count(sum(|set| set.ready)),
        available_replicas: count(available),
        unavailable_replicas: count(total - available),
        collision_count: draft.collisions,
        ..DeploymentStatus::default()
    }
}

/// Judges progress against what the status said before.
fn judge(draft: &mut Draft<'_>, sets: &Sets<'_>, status: &DeploymentStatus) {
    let was = condition(&draft.conditions, "Progressing").cloned();
    if draft.limits.deadline_s.is_none() {
        draft.conditions.retain(|condition| condition.type_ != "Progressing");
    }
    let was_reason = was.as_ref().and_then(|condition| condition.reason.as_deref());
    let rests = status.replicas == status.updated_replicas
        && was_reason == Some(reasons::NEW_REPLICA_SET_AVAILABLE);
    if draft.limits.deadline_s.is_some() && !rests {
        let who = match &sets.new {
            Some(new) => format!("ReplicaSet \"{}\"", new.seen.name()),
            None => format!("Deployment \"{}\"", draft.view.deployment.name()),
        };
        if is_complete(draft.limits, draft.view.deployment.obj.generation(), status) {
            let message = format!("{who} has successfully progressed.");
            let done = draft.progressing("True", reasons::NEW_REPLICA_SET_AVAILABLE, message);
            set_condition(&mut draft.conditions, done);
        } else if has_moved(&draft.view.deployment, status) {
            let message = format!("{who} is progressing.");
            let mut moved = draft.progressing("True", reasons::REPLICA_SET_UPDATED, message);
            if let Some(was) = was.filter(|was| was.status == "True") {
                moved.last_transition_time = was.last_transition_time;
            }
            draft.conditions.retain(|condition| condition.type_ != "Progressing");
            draft.conditions.push(moved);
        } else if remaining(draft).is_some_and(|left| left.is_zero()) {
            let message = format!("{who} has timed out progressing.");
            let late = draft.progressing("False", reasons::PROGRESS_DEADLINE_EXCEEDED, message);
            set_condition(&mut draft.conditions, late);
        }
    }
    match replica_failure(sets) {
        Some(failure) => set_condition(&mut draft.conditions, failure),
        None => draft.conditions.retain(|condition| condition.type_ != "ReplicaFailure"),
    }
}

/// Whether the rollout had ended when the status was last written.
pub(crate) fn was_complete(draft: &Draft<'_>) -> bool {
    let deployment = &draft.view.deployment;
    let status = deployment.status.as_ref();
    status.is_some_and(|status| is_complete(draft.limits, deployment.obj.generation(), status))
}

fn is_complete(limits: Limits, generation: i64, status: &DeploymentStatus) -> bool {
    [status.updated_replicas, status.replicas, status.available_replicas]
        .iter()
        .all(|number| i64::from(number.unwrap_or_default()) == limits.replicas)
        && status.observed_generation.unwrap_or_default() >= generation
}

fn has_moved(deployment: &Deployment, new: &DeploymentStatus) -> bool {
    let none = DeploymentStatus::default();
    let old = deployment.status.as_ref().unwrap_or(&none);
    let value = |number: Option<i32>| number.map_or(0, i64::from);
    let outdated =
        |status: &DeploymentStatus| value(status.replicas) - value(status.updated_replicas);
    value(new.updated_replicas) > value(old.updated_replicas)
        || outdated(new) < outdated(old)
        || value(new.ready_replicas) > value(old.ready_replicas)
        || value(new.available_replicas) > value(old.available_replicas)
}

/// Time left until the progress deadline; zero when it has passed; `None` when no clock runs.
fn remaining(draft: &Draft<'_>) -> Option<Duration> {
    let deadline_s = u64::try_from(draft.limits.deadline_s?).ok()?;
    let progressing = condition(&draft.conditions, "Progressing")?;
    if progressing.reason.as_deref() == Some(reasons::NEW_REPLICA_SET_AVAILABLE) {
        return None;
    }
    if progressing.reason.as_deref() == Some(reasons::PROGRESS_DEADLINE_EXCEEDED) {
        return Some(Duration::ZERO);
    }
    let since = progressing.last_update_time.as_ref()?.0;
    let waited = Duration::try_from(draft.view.now.duration_since(since)).unwrap_or_default();
    Some(Duration::from_secs(deadline_s).saturating_sub(waited))
}

/// When to look whether the deadline has passed; `None` when it does not matter any more.
fn deadline(draft: &Draft<'_>, status: &DeploymentStatus) -> Option<Duration> {
    let generation = draft.view.deployment.obj.generation();
    if is_complete(draft.limits, generation, status) {
        return None;
    }
    remaining(draft).filter(|left| !left.is_zero())
}

fn replica_failure(sets: &Sets<'_>) -> Option<DeploymentCondition> {
    let failing = |set: &Set<'_>| -> Option<ReplicaSetCondition> {
        let conditions = set.seen.status.as_ref()?.conditions.as_ref()?;
        conditions.iter().find(|condition| condition.type_ == "ReplicaFailure").cloned()
    };
    let failure = sets.new.iter().chain(&sets.old).find_map(failing)?;
    Some(DeploymentCondition {
        type_: failure.type_,
        status: failure.status,
        reason: failure.reason,
        message: failure.message,
        last_transition_time: failure.last_transition_time.clone(),
        last_update_time: failure.last_transition_time,
    })
}
