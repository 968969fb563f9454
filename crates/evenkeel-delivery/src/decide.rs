use std::time::Duration;

use evenkeel_api::canary::Phase;
use evenkeel_control::Plan;

use crate::{
    CanaryView,
    context::{Context, Need, Obstacle},
    draft::Draft,
    finish, hooks, init, objects, reasons, revert, rollback, run,
    start::{self, LOOK_AGAIN},
    workload::is_ours,
};

/// Decides what is next for one Canary. Pure: same view, same plan.
pub(crate) fn decide(view: &CanaryView) -> Plan {
    advance(view).unwrap_or_else(|_| Plan::wait(reasons::VIEW_INCOMPLETE, LOOK_AGAIN))
}

/// As [`decide`], or what must be looked up first.
pub(crate) fn advance(view: &CanaryView) -> Result<Plan, Need> {
    if view.canary.spec.suspend && !view.obj.is_deleting() {
        return Ok(Plan::idle(reasons::SUSPENDED));
    }
    let ctx = match Context::of(view) {
        Ok(ctx) => ctx,
        Err(Obstacle { reason, message }) if view.obj.is_deleting() => {
            // Nothing can be reverted; the deletion must not hang on it.
            let mut draft = Draft::new(view);
            draft.stalled(format!("deleted without reverting: {message}"));
            revert::remove_finalizer(&mut draft, view);
            return Ok(draft.done(reason));
        }
        Err(Obstacle { reason, message }) => {
            let mut draft = Draft::new(view);
            draft.problem(reason, message).wake(LOOK_AGAIN);
            return Ok(draft.done(reason));
        }
    };
    let plan = next(&ctx)?;
    let quiet = plan.actions.is_empty() && plan.status.is_empty();
    if !quiet {
        return Ok(plan);
    }
    // Only when nothing else is to be done: event webhooks must not hold a release up.
    tell_event(&ctx, plan)
}

fn next(ctx: &Context<'_>) -> Result<Plan, Need> {
    let phase = ctx.status.phase;
    if ctx.view.obj.is_deleting() {
        return Ok(revert::revert(ctx));
    }
    if matches!(phase, Phase::New | Phase::Initializing) {
        return Ok(init::initialize(ctx));
    }
    // Before anything that a policy might hold: a rollback is never held up.
    if ctx.run.rollback.is_some() {
        return Ok(rollback::roll_back(ctx));
    }
    if let Some(plan) = adopt_revisions(ctx) {
        return Ok(plan);
    }
    let Some(primary) = &ctx.view.primary else { return Ok(replace_primary(ctx)) };
    let repairs = objects::repairs(ctx);
    if !repairs.is_empty() {
        let mut draft = ctx.draft();
        draft.act_all(repairs).wake(Duration::ZERO);
        return Ok(draft.done(reasons::MAKING_OBJECTS));
    }
    match phase {
        Phase::Progressing | Phase::WaitingPromotion => run::progress(ctx, primary),
        Phase::Promoting => Ok(finish::promoting(ctx, primary)),
        Phase::Finalising => Ok(finish::finalising(ctx)),
        _ => start::rest(ctx, primary),
    }
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
    let same = ctx.rewrite().same_version(ctx.target, primary);
    let mut draft = ctx.draft();
    draft.status.last_applied_spec = if same { ctx.revision.to_owned() } else { String::new() };
    draft.status.last_promoted_spec.clone_from(&draft.status.last_applied_spec);
    draft.status.tracked_configs =
        (!ctx.config_hashes.is_empty()).then(|| ctx.config_hashes.clone());
    Some(draft.done(reasons::REVISION_ADOPTED))
}

/// The primary is gone: it may be made again only from a version that was promoted.
fn replace_primary(ctx: &Context<'_>) -> Plan {
    let mut draft = ctx.draft();
    if ctx.revision == ctx.status.last_promoted_spec {
        draft.act(objects::make_primary(ctx)).wake(Duration::ZERO);
        return draft.done(reasons::MAKING_OBJECTS);
    }
    let message = format!(
        "Deployment/{}/{} is gone, and the target is not the version it ran: put the target \
         back to it, or delete and create the Canary",
        ctx.view.names.namespace, ctx.view.names.target_primary
    );
    draft.problem(reasons::PRIMARY_MISSING, message);
    draft.done(reasons::PRIMARY_MISSING)
}

fn tell_event(ctx: &Context<'_>, plan: Plan) -> Result<Plan, Need> {
    let Some(event) = ctx.run.pending_events.first() else { return Ok(plan) };
    if let Some(call) = hooks::event_call(ctx, event)? {
        return Ok(hooks::ask(ctx, call));
    }
    let mut draft = Draft::new(ctx.view);
    draft.run.pending_events.remove(0);
    draft.wake(plan.wake_after.unwrap_or(LOOK_AGAIN));
    Ok(draft.done(plan.reason))
}
