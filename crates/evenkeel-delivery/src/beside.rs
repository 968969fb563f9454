//! A Canary on a cluster on which Flagger works, too: who acts on it, and how it changes hands.

use std::time::Duration;

use evenkeel_api::{
    Obj,
    beside::{STATUS, annotation},
    canary::Phase,
    json,
};
use evenkeel_control::{
    Action, EventNote, EventType, ObserveError, Plan, Ports, Standing, Steward, is_condition_of,
};
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
    let (reason, message) = match view.standing {
        Standing::InBothHands(other) => {
            let end = if view.obj.is_deleting() {
                format!(". It is being deleted: {other} alone reverts it, unless you do so")
            } else {
                String::new()
            };
            let message = format!(
                "{other} looks after this Canary, too: set spec.suspend: true, which stops {other} \
                 and not evenkeel, or take the annotation evenkeel.dev/managed away{end}"
            );
            (reasons::IN_BOTH_HANDS, message)
        }
        Standing::ReleaseOfAnother(other) => {
            let message = format!(
                "a release by {other} is under way ({}, {} % of the traffic on the canary), and \
                 evenkeel does not take it over in the middle: set spec.suspend: false until it has \
                 ended, then true",
                view.status.phase.as_str(),
                view.pct()
            );
            (reasons::RELEASE_OF_ANOTHER, message)
        }
        _ => return None,
    };
    let mut draft = Draft::new(view);
    draft.problem(reason, message).wake(LOOK_AGAIN);
    Some(draft.done(reason))
}

/// Whether `spec.suspend` stops evenkeel. On a Canary that was handed over it stops the other
/// controller, also when that one is not there any more.
pub(crate) fn is_suspended(view: &CanaryView) -> bool {
    match view.standing {
        Standing::Suspended => true,
        // What would be done.
        Standing::Observed { .. } => view.canary.spec.suspend && !view.obj.is_deleting(),
        _ => false,
    }
}

/// What gives a Canary back to Flagger; `None` when nothing of ours is on it.
///
/// Flagger names versions by a hash that only it can compute. Where the primary runs what the target
/// says it is told to initialize: it finds everything there, and takes the version as promoted.
/// Elsewhere the phase stays, without the name of a version: what is new is released by Flagger
/// from the start, and so is what has failed.
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
        // One that failed and was set back to what the primary runs is at rest, too, unless the
        // canary serves.
        let at_rest = matches!(status.phase, Phase::Initialized | Phase::Succeeded)
            || (status.phase == Phase::Failed && status.canary_weight == 0);
        let phase = if at_rest && as_promoted { Phase::Initializing } else { status.phase };
        let applied = &status.last_applied_spec;
        let has_begun = !applied.is_empty() && !is_ours(applied);
        if phase == Phase::Failed && !has_begun {
            plan.events.push(released_again(obj, &canary.spec.target_ref.name));
        }
        let patch = if has_begun { without_ours(obj) } else { afresh(obj, phase) };
        plan = plan.with_status(obj.key().clone(), patch);
    }
    let steward = ports.stewards.of(&obj.key().kind).await?;
    let follows = matches!(steward, Steward::Other { .. });
    let stays = follows && canary.spec.revert_on_deletion == Some(true);
    let unmark = Action::Patch { key: obj.key().clone(), patch: unmarked(obj, stays) };
    // What says that the Canary is to be given back goes last: a death in between changes nothing.
    let plan = if is_annexed(obj.json()) {
        plan.then(unmark)
    } else {
        Plan { actions: vec![unmark], ..plan }
    };
    Ok(Some(plan.waking(Duration::ZERO)))
}

/// Says what follows for a version that was rejected: Flagger does not know that it was.
fn released_again(obj: &Obj, target: &str) -> EventNote {
    let message = format!(
        "{}.{} is given back after a release that failed, and who takes it releases that version \
         again: set the pod template of Deployment {target} back to what its primary runs",
        obj.name(),
        obj.namespace()
    );
    let (about, kind) = (obj.key().clone(), EventType::Warning);
    EventNote { about, kind, reason: reasons::SYNCED, message }
}

/// Whether a Canary has on it what only evenkeel writes there, and takes off when it gives the Canary
/// back.
pub fn is_kept_on(canary: &Value) -> bool {
    is_in_status(canary) || is_annexed(canary)
}

/// Whether what is evenkeel's of the status is in an annotation.
fn is_annexed(canary: &Value) -> bool {
    annotation(canary, STATUS).is_some()
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
    let mut status = json!({"errorBudget": null});
    if !is_annexed(obj.json()) {
        status["evenkeel"] = Value::Null;
    }
    let promoted = obj.json().pointer("/status/lastPromotedSpec").and_then(Value::as_str);
    if promoted.is_some_and(is_ours) {
        status["lastPromotedSpec"] = Value::Null;
    }
    if let Some(Value::Array(conditions)) = obj.json().pointer("/status/conditions") {
        let theirs = conditions.iter().filter(|one| !is_of_ours(one));
        status["conditions"] = theirs.cloned().collect();
    }
    status
}

/// The patch of the metadata that takes our marks off. The finalizer `stays` where somebody is there
/// who takes it off in the end.
fn unmarked(obj: &Obj, stays: bool) -> Value {
    let mut patch = json!({"metadata": {"annotations": {STATUS: null}}});
    let all = obj.meta().finalizers.clone().unwrap_or_default();
    if !stays && all.iter().any(|name| name == FINALIZER) {
        let rest: Vec<_> = all.into_iter().filter(|name| name != FINALIZER).collect();
        json::merge(&mut patch, &json!({"metadata": {"finalizers": rest}}));
    }
    patch
}

/// Whether evenkeel alone writes a condition of this kind on a Canary.
fn is_of_ours(condition: &Value) -> bool {
    let text = |field| condition.get(field).and_then(Value::as_str).unwrap_or_default();
    reasons::CONDITIONS.contains(&text("type"))
        || is_condition_of("delivery", condition)
        || is_condition_of("slo-answer", condition)
}
