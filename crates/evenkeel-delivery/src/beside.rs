//! A Canary on a cluster on which Flagger works, too: who acts on it, and how it changes hands.

use std::time::Duration;

use evenkeel_api::{
    Obj,
    beside::{STATUS, annotation},
    canary::{Canary, Phase},
    json,
};
use evenkeel_control::{Action, ObserveError, Plan, Ports, Standing};
use k8s_openapi::api::apps::v1::Deployment;
use serde_json::{Value, json};

use crate::{
    CanaryView,
    draft::Draft,
    reasons,
    revert::FINALIZER,
    time::LOOK_AGAIN,
    view,
    workload::{Workload, is_ours},
};

/// Why a Canary that was handed over is not acted on; `None` when it is.
///
/// Nothing is touched then: its traffic, too, is the other controller's.
pub(crate) fn refusal(view: &CanaryView) -> Option<Plan> {
    let Standing::HandedOver(other) = view.standing else { return None };
    let suspended = view.canary.spec.suspend;
    let (reason, message) = if !suspended {
        let message = format!(
            "{other} looks after this Canary, too: set spec.suspend: true, which stops {other} \
             and not evenkeel, or take the annotation evenkeel.dev/managed away"
        );
        (reasons::IN_BOTH_HANDS, message)
    } else if is_under_way(view.status.phase) && began_elsewhere(view) {
        let message = format!(
            "a release by {other} is under way ({}, {} % of the traffic on the canary), and \
             evenkeel does not take it over in the middle: set spec.suspend: false until it has \
             ended, then true",
            view.status.phase.as_str(),
            view.pct()
        );
        (reasons::RELEASE_OF_ANOTHER, message)
    } else {
        return None;
    };
    let mut draft = Draft::new(view);
    draft.problem(reason, message).wake(LOOK_AGAIN);
    Some(draft.done(reason))
}

/// Whether `spec.suspend` is meant for us: on a Canary that was handed over it stops the other
/// controller.
pub(crate) fn is_suspended(view: &CanaryView) -> bool {
    view.canary.spec.suspend && !matches!(view.standing, Standing::HandedOver(_))
}

/// Whether something is done with a version, by whoever began it.
pub(crate) fn is_under_way(phase: Phase) -> bool {
    matches!(
        phase,
        Phase::Progressing | Phase::WaitingPromotion | Phase::Promoting | Phase::Finalising
    )
}

fn began_elsewhere(view: &CanaryView) -> bool {
    let revision = &view.status.last_applied_spec;
    !revision.is_empty() && !is_ours(revision)
}

/// What gives a Canary back to Flagger; `None` when nothing of ours is on it.
///
/// Flagger names versions by a hash that only it can compute. Where the primary runs what the target
/// says it is told to initialize: it finds everything there, and takes the version as promoted.
/// Elsewhere the phase stays, without the name of a version: what is new is released by Flagger
/// from the start, and what has failed stays so.
pub(crate) async fn hand_back(obj: &Obj, ports: &Ports) -> Result<Option<Plan>, ObserveError> {
    if !is_kept_on(obj.json()) {
        return Ok(None);
    }
    let canary = view::lenient(obj);
    let status = canary.status.clone().unwrap_or_default();
    // What the other one has written meanwhile is not written over.
    let mut plan =
        Plan::act(reasons::HANDED_BACK, Vec::new()).assuming(obj.key().clone(), obj.revision());
    if is_in_status(obj.json()) {
        let target = obj.key().sibling::<Deployment>(&canary.spec.target_ref.name);
        let target = ports.read.get(&target).await?.map(Workload::of).transpose();
        let revision = target.ok().flatten().map(|target| target.revision);
        let as_promoted = revision.as_ref() == Some(&status.last_promoted_spec);
        let at_rest = matches!(status.phase, Phase::Initialized | Phase::Succeeded);
        let phase = if at_rest && as_promoted { Phase::Initializing } else { status.phase };
        let applied = &status.last_applied_spec;
        let has_begun = !applied.is_empty() && !is_ours(applied);
        let patch = if has_begun { without_ours(obj) } else { afresh(obj, phase) };
        plan = plan.with_status(obj.key().clone(), patch);
    }
    let unmark = Action::Patch { key: obj.key().clone(), patch: unmarked(obj, &canary) };
    Ok(Some(plan.then(unmark).waking(Duration::ZERO)))
}

/// Whether a Canary has on it what only evenkeel writes there, and takes off when it gives the Canary
/// back.
pub fn is_kept_on(canary: &Value) -> bool {
    is_in_status(canary) || annotation(canary, STATUS).is_some()
}

fn is_in_status(canary: &Value) -> bool {
    let status = canary.get("status");
    let field = |name: &str| status.and_then(|status| status.get(name));
    let names = ["lastAppliedSpec", "lastPromotedSpec"];
    let mut versions = names.iter().filter_map(|name| field(name)?.as_str());
    field("evenkeel").is_some_and(|run| !run.is_null()) || versions.any(is_ours)
}

/// The patch of a status with which Flagger begins.
fn afresh(obj: &Obj, phase: Phase) -> Value {
    let mut status = without_ours(obj);
    status["phase"] = phase.as_str().into();
    for field in ["lastAppliedSpec", "lastPromotedSpec", "trackedConfigs"] {
        status[field] = Value::Null;
    }
    status
}

/// The patch of a status that leaves nothing that only we understand, and what Flagger has written
/// since it has the Canary back.
fn without_ours(obj: &Obj) -> Value {
    let mut status = json!({"evenkeel": null, "errorBudget": null});
    let promoted = obj.json().pointer("/status/lastPromotedSpec").and_then(Value::as_str);
    if promoted.is_some_and(is_ours) {
        status["lastPromotedSpec"] = Value::Null;
    }
    if let Some(Value::Array(conditions)) = obj.json().pointer("/status/conditions") {
        let theirs = conditions.iter().filter(|one| one["type"] == reasons::PROMOTED);
        status["conditions"] = theirs.cloned().collect();
    }
    status
}

/// The patch of the metadata that takes our marks off.
fn unmarked(obj: &Obj, canary: &Canary) -> Value {
    let mut patch = json!({"metadata": {"annotations": {STATUS: null}}});
    let all = obj.meta().finalizers.clone().unwrap_or_default();
    let stays = canary.spec.revert_on_deletion == Some(true);
    if !stays && all.iter().any(|name| name == FINALIZER) {
        let rest: Vec<_> = all.into_iter().filter(|name| name != FINALIZER).collect();
        json::merge(&mut patch, &json!({"metadata": {"finalizers": rest}}));
    }
    patch
}
