use std::time::Duration;

use evenkeel_api::canary::Phase;
use evenkeel_control::{EventNote, EventType, Plan};

use crate::{
    CanaryView, alerts, beside,
    context::{Context, Need, Obstacle, Turn},
    draft::Draft,
    finish, hold, hooks, init, objects, pod_shares, reasons, repair, revert, rollback, run, safety,
    start,
    time::{LOOK_AGAIN, elapsed},
    workload::is_ours,
};

/// Pause before the outcome of an alert is looked for.
const ALERT_CHECK: Duration = Duration::from_mins(1);

/// Decides what is next for one Canary. Pure: same view, same plan.
pub(crate) fn decide(view: &CanaryView) -> Plan {
    advance(view).unwrap_or_else(|_| Plan::wait(reasons::VIEW_INCOMPLETE, LOOK_AGAIN))
}

/// As [`decide`], or what must be looked up first.
pub(crate) fn advance(view: &CanaryView) -> Result<Plan, Need> {
    let deleting = view.obj.is_deleting();
    if let Some(plan) = beside::refusal(view) {
        return Ok(plan);
    }
    if beside::is_suspended(view) {
        return Ok(suspended(view));
    }
    if let Some(plan) = safety::quiet_stray_route(view) {
        return Ok(plan);
    }
    let ctx = match Context::of(view) {
        Ok(ctx) => ctx,
        Err(obstacle) if deleting && obstacle.reason == reasons::UNREADABLE => {
            return Ok(revert::wait_until_readable(view, obstacle));
        }
        Err(Obstacle { reason, message }) if deleting => {
            // There is nothing to give back to; the deletion must not hang on it.
            let mut draft = Draft::new(view);
            draft.stalled(format!("deleted without reverting: {message}"));
            revert::remove_finalizer(&mut draft, view);
            return Ok(draft.done(reason));
        }
        Err(obstacle) => return Ok(safety::fall_back(view, obstacle)),
    };
    let mut plan = next(&ctx)?;
    if ctx.run.alerted_at.is_some_and(|at| elapsed(at, view.now) <= alerts::MEMORY) {
        // No watch reports whether a notification was accepted.
        plan = plan.waking(ALERT_CHECK);
    }
    if !view.unread.is_empty() {
        plan = plan.waking(LOOK_AGAIN);
    }
    let quiet = plan.actions.is_empty() && plan.status.is_empty() && plan.then.is_empty();
    if !quiet {
        return Ok(plan);
    }
    // Only when nothing else is to be done: event webhooks must not hold a release up.
    send_event(&ctx, plan)
}

/// A person wants nothing done. What stays as it is meanwhile is said once.
fn suspended(view: &CanaryView) -> Plan {
    let mut draft = Draft::new(view);
    let pct = view.pct();
    let full = view.names.full();
    if let Some(error) = view.weight_unread() {
        draft.stalled(format!(
            "{full} is suspended, and which share of the traffic the canary keeps is not known (the \
             last known weight is {pct} %): {error}"
        ));
    } else if pct != 0 {
        draft.stalled(format!("{full} is suspended: the canary keeps its {pct} % of the traffic"));
    }
    draft.done(reasons::SUSPENDED)
}

/// Safety first, then judgement, then repairs, and new risk last.
fn next(ctx: &Context<'_>) -> Result<Plan, Need> {
    let phase = ctx.status.phase;
    if ctx.view.obj.is_deleting() {
        let mut plan = revert::revert(ctx);
        // Said once: from here on the phase is another.
        let begins = phase == Phase::Failed && !plan.status.is_empty();
        plan.events.extend(begins.then(|| rejected_takes_over(ctx)).flatten());
        return Ok(plan);
    }
    if matches!(phase, Phase::New | Phase::Initializing) {
        return Ok(init::initialize(ctx));
    }
    let turn = if ctx.run.rollback.is_some() {
        // Before anything that a policy might hold: a rollback is never held up.
        rollback::roll_back(ctx.view, ctx.draft())
    } else if let Some(plan) = adopt_revisions(ctx) {
        Turn::Now(plan)
    } else if let Some(plan) = safety::weigh_route(ctx.view, ctx.draft()) {
        Turn::Now(plan)
    } else if let Some(plan) = pod_shares::trim(ctx.view, ctx.draft()) {
        Turn::Now(plan)
    } else if let Some(primary) = &ctx.view.primary {
        match phase {
            Phase::Progressing | Phase::WaitingPromotion => run::progress(ctx, primary)?,
            Phase::Promoting => finish::promoting(ctx, primary),
            Phase::Finalising => finish::finalising(ctx),
            _ => start::rest(ctx, primary)?,
        }
    } else if ctx.revision == ctx.status.last_promoted_spec {
        if let Some(plan) = hold::all(ctx) {
            return Ok(plan);
        }
        // It is made again only from a version that was promoted.
        let mut draft = ctx.draft();
        draft.act_all(objects::primary(ctx).action).wake(Duration::ZERO);
        Turn::Now(draft.done(reasons::MAKING_OBJECTS))
    } else {
        safety::without_primary(ctx)
    };
    // How an object is that another controller keeps says nothing about the version.
    let judged_only = ctx.view.is_observed() && phase.is_release();
    Ok(match turn {
        Turn::Now(plan) => plan,
        Turn::Calm(plan) | Turn::Ramp(plan) if judged_only => plan,
        Turn::Calm(plan) => repair::before(ctx, false).unwrap_or(plan),
        Turn::Ramp(plan) => {
            let held = repair::before(ctx, true).or_else(|| hold::risk(ctx));
            held.unwrap_or(plan)
        }
    })
}

/// Revisions that another tool wrote say nothing to us: compare the Deployments instead, or
/// taking over would start a release of everything.
fn adopt_revisions(ctx: &Context<'_>) -> Option<Plan> {
    let status = &ctx.status;
    let foreign = |revision: &String| !revision.is_empty() && !is_ours(revision);
    if !foreign(&status.last_promoted_spec) && !foreign(&status.last_applied_spec) {
        return None;
    }
    let primary = ctx.view.primary.as_ref()?;
    if let Some(plan) = hold::all(ctx) {
        return Some(plan);
    }
    let same = ctx.rewrite().same_version(ctx.target, primary);
    let mut draft = ctx.draft();
    let failed = status.phase == Phase::Failed;
    if failed && !same {
        let message = rejected_by_another(ctx);
        draft.run.outcome = Some(format!("{message}."));
        draft.warning(message);
    }
    // So that the next look finds our part of the status, if the server keeps it.
    draft.run.clean_since = ctx.run.clean_since.or(Some(ctx.seen_since()));
    // What is being judged, as far as it is only watched, goes on to be. What has failed is what
    // the target says: nobody can tell from the other tool's hash whether it has changed since.
    let known = same || failed || status.phase.is_release();
    draft.status.last_applied_spec = if known { ctx.revision.to_owned() } else { String::new() };
    draft.status.last_promoted_spec = if same { ctx.revision.to_owned() } else { String::new() };
    if same {
        draft.run.promoted_configs.clone_from(ctx.config_hashes);
    }
    draft.status.tracked_configs =
        (!ctx.config_hashes.is_empty()).then(|| ctx.config_hashes.clone());
    Some(draft.done(reasons::REVISION_ADOPTED))
}

/// A release of another tool has failed: the primary does not run what the target says.
fn rejected_by_another(ctx: &Context<'_>) -> String {
    format!(
        "{} failed its last release, before evenkeel took it over: the target as it is now counts \
         as the version that was rejected, and is not released. Evenkeel cannot tell whether it has \
         changed since then: if so, change its pod template once more",
        ctx.view.names.full()
    )
}

/// A Canary is deleted after a release that failed: its target, which takes over, still is the version
/// that was rejected. `None` where it is not.
fn rejected_takes_over(ctx: &Context<'_>) -> Option<EventNote> {
    let view = ctx.view;
    let primary = view.primary.as_ref()?;
    if view.pct() != 0 || ctx.rewrite().same_version(ctx.target, primary) {
        return None;
    }
    let message = format!(
        "{} takes the traffic over and runs the version that was rejected, not that of {}: set its \
         pod template back",
        view.names.full(),
        view.names.target_primary
    );
    let (about, kind) = (view.obj.key().clone(), EventType::Warning);
    Some(EventNote { about, kind, reason: reasons::SYNCED, message })
}

fn send_event(ctx: &Context<'_>, plan: Plan) -> Result<Plan, Need> {
    let Some(event) = ctx.run.pending_events.first() else { return Ok(plan) };
    if let Some(call) = hooks::event_call(ctx, event)? {
        return Ok(hooks::ask(ctx, call));
    }
    let mut draft = Draft::new(ctx.view);
    draft.run.pending_events.remove(0);
    draft.wake(plan.wake_after.unwrap_or(LOOK_AGAIN));
    Ok(draft.done(plan.reason))
}
