//! A target is taken over.

use std::time::Duration;

use evenkeel_api::canary::Phase;
use evenkeel_base::format_duration;
use evenkeel_control::Plan;

use crate::{
    context::Context,
    draft::{Draft, Severity},
    hold, objects, reasons, repair, revert,
    routing::CONFIRMATION_SLOW,
    services::Role,
    taken,
    time::{LOOK_AGAIN, elapsed},
    workload::{REVISION_ANNOTATION, Readiness, Workload},
};

/// Puts the primary copy in front of users and the target out of the way, without a moment
/// in which nothing ready stands behind the apex:
///
/// 1. Services for primary and canary, and the primary copy;
/// 2. when that is ready and its endpoints are known: the route (all to the primary), and the
///    apex Service points to the primary;
/// 3. when the gateway has confirmed the route and the apex has the primary's endpoints only:
///    the target goes to zero.
pub(crate) fn initialize(ctx: &Context<'_>) -> Plan {
    let names = &ctx.view.names;
    let mut draft = ctx.draft();
    // Watches trigger the next look; the interval is for what they might miss.
    draft.phase(Phase::Initializing).wake(ctx.rules.interval);
    if ctx.status.phase == Phase::New {
        // Seen, whatever comes of the rest.
        draft.wake(Duration::ZERO);
        return draft.done(reasons::MAKING_OBJECTS);
    }
    if let Some(action) = revert::hold_deletion(ctx) {
        draft.act(action).wake(Duration::ZERO);
        return draft.done(reasons::MAKING_OBJECTS);
    }
    if let Some(plan) = hold::all(ctx) {
        return plan;
    }
    if let Some(message) = taken::name(ctx) {
        draft.problem(reasons::NAME_TAKEN, message).wake(LOOK_AGAIN);
        return draft.done(reasons::NAME_TAKEN);
    }
    let mut drifts = objects::services(ctx, &[Role::Canary, Role::Primary]);
    drifts.extend(objects::copies(ctx));
    if ctx.view.primary.is_none() {
        drifts.push(objects::primary(ctx));
    }
    if let Some(reason) = repair::make(ctx, &mut draft, &drifts) {
        return draft.done(reason);
    }
    let Some(primary) = ctx.view.primary.as_ref() else {
        return draft.done(reasons::MAKING_OBJECTS);
    };
    match ctx.primary_readiness(primary) {
        Readiness::Ready => {}
        Readiness::Pending(text) | Readiness::Stuck(text) => {
            draft.waiting(format!(
                "{}-primary.{} not ready: waiting for {text}",
                names.target, names.namespace
            ));
            return draft.done(reasons::PRIMARY_UNREADY);
        }
    }
    if !ctx.reachable(&names.primary, primary.needed(ctx.rules.primary_ready_pct)) {
        draft.waiting(format!("Waiting for endpoints of Service {}", names.primary));
        return draft.done(reasons::ENDPOINTS_PENDING);
    }
    let mut drifts = objects::route(ctx);
    drifts.extend(objects::services(ctx, &[Role::Apex]));
    if let Some(reason) = repair::make(ctx, &mut draft, &drifts) {
        return draft.done(reason);
    }
    if ctx.view.pct() != 0 {
        // Left over from an earlier Canary of this name.
        draft.act(ctx.view.set_weight(0));
        return draft.done(reasons::ROUTING_TO_PRIMARY);
    }
    if !ctx.view.confirmed() {
        await_route(ctx, &mut draft);
        return draft.done(reasons::CONFIRMATION_PENDING);
    }
    if ctx.view.settings.confirm && !apex_on_primary(ctx) {
        draft.waiting(format!(
            "Waiting until Service {} has endpoints of {} only",
            names.apex, names.target_primary
        ));
        return draft.done(reasons::ENDPOINTS_PENDING);
    }
    initialized(ctx, draft, primary)
}

/// Says who has not confirmed the route yet; after a while as a warning.
fn await_route(ctx: &Context<'_>, draft: &mut Draft<'_>) {
    let generation = ctx.view.route.as_ref().map(|route| route.generation());
    let awaited = ctx.view.awaited(0, generation);
    let since = ctx.status.last_transition_time.as_ref().map(|time| time.0);
    if since.is_none_or(|since| elapsed(since, ctx.view.now) < CONFIRMATION_SLOW) {
        draft.run.note = awaited;
        return;
    }
    let slow = format_duration(CONFIRMATION_SLOW);
    draft.stalled(match awaited {
        Some(awaited) => format!("{awaited}, for more than {slow}"),
        None => format!("Waiting for the pods of Service {}", ctx.view.names.apex),
    });
}

/// Everything stands: the target goes to zero, and what the primary runs is what counts.
fn initialized(ctx: &Context<'_>, mut draft: Draft<'_>, primary: &Workload) -> Plan {
    let names = &ctx.view.names;
    if ctx.target.replicas() != 0 {
        draft.act_if_unchanged(ctx.scale_target(0), &ctx.target.obj);
    }
    let copied = primary
        .template()
        .pointer(&format!(
            "/metadata/annotations/{}",
            REVISION_ANNOTATION.replace('~', "~0").replace('/', "~1")
        ))
        .and_then(serde_json::Value::as_str);
    // A primary that was there before may run another version; that one was never judged.
    let runs = if ctx.rewrite().same_version(ctx.target, primary) {
        ctx.revision.to_owned()
    } else {
        copied.unwrap_or_default().to_owned()
    };
    if runs == ctx.revision {
        draft.run.promoted_configs.clone_from(ctx.config_hashes);
    }
    draft.status.last_applied_spec.clone_from(&runs);
    draft.status.last_promoted_spec = runs;
    draft.status.tracked_configs =
        (!ctx.config_hashes.is_empty()).then(|| ctx.config_hashes.clone());
    draft.phase(Phase::Initialized).weight(0).quiet();
    draft.run.note = None;
    // Making an object once does not count as a repair.
    draft.run.repairs.retain(|repair| repair.attempts > 1);
    let message = format!("Initialization done! {}.{}", ctx.view.obj.name(), names.namespace);
    draft.alert(Severity::Info, &message);
    draft.event(message);
    draft.done(reasons::INITIALIZATION_DONE)
}

/// Whether the apex has ready endpoints, and all of them are the primary's.
fn apex_on_primary(ctx: &Context<'_>) -> bool {
    let names = &ctx.view.names;
    let ours = format!("{}-", names.target_primary);
    let pods = ctx.view.endpoints.get(&names.apex);
    pods.is_some_and(|pods| !pods.is_empty() && pods.iter().all(|pod| pod.starts_with(&ours)))
}
