//! All checks passed: more traffic, or the promotion.

use evenkeel_api::canary::Phase;
use evenkeel_control::Action;

use crate::{
    context::{Context, Need, Turn},
    draft::{Draft, Severity},
    hold,
    hooks::{self, APPROVAL_WAIT_MAX, Approval},
    objects, plain, pod_shares, reasons,
    router::Router,
    rules::HookKind,
    time::elapsed,
    workload::Workload,
};

/// All checks passed: the next weight, or the end of the ramp.
pub(crate) fn step(ctx: &Context<'_>, primary: &Workload, pct: i32) -> Result<Turn, Need> {
    let full = ctx.view.names.full();
    let mut draft = ctx.draft();
    if pct == 0 && ctx.status.iterations == 0 {
        draft.event(format!("Starting canary analysis for {full}"));
    }
    if ctx.rules.iterations > 0 {
        return iterate(ctx, primary, pct, draft);
    }
    let Some(next) = ctx.rules.ramp.next(pct) else { return confirm_promotion(ctx, primary) };
    if let Some(turn) = pod_shares::room(ctx, primary, next) {
        return Ok(turn);
    }
    match hooks::approval(ctx, HookKind::ConfirmTrafficIncrease, ctx.status.phase)? {
        Approval::Given => {}
        Approval::Ask(call) => return Ok(Turn::Calm(hooks::ask(ctx, call))),
        Approval::Withheld(name, no) => {
            let mut draft = ctx.draft();
            let since = ctx.run.waiting_since.unwrap_or(ctx.view.now);
            if elapsed(since, ctx.view.now) > APPROVAL_WAIT_MAX {
                draft.roll_back("more traffic was not approved in time".to_owned());
                return Ok(Turn::Now(draft.done(reasons::ROLLING_BACK)));
            }
            draft.tick().run.note.clone_from(&ctx.run.note);
            draft.run.waiting_since = Some(since);
            draft.stalled(format!(
                "Halt {full} advancement waiting for traffic increase approval {}",
                no.of(&name)
            ));
            draft.wake(ctx.rules.interval);
            return Ok(Turn::Calm(draft.done(reasons::APPROVAL_PENDING)));
        }
    }
    shift(ctx, &mut draft, next);
    let in_pods = plain::words(ctx.view, next);
    draft.event(format!("Advance {full} canary weight {next}{in_pods}"));
    Ok(Turn::Ramp(draft.done(reasons::STEP_DUE)))
}

/// Blue/green: checks without traffic, then all of it.
fn iterate(
    ctx: &Context<'_>,
    primary: &Workload,
    pct: i32,
    mut draft: Draft<'_>,
) -> Result<Turn, Need> {
    let full = ctx.view.names.full();
    if ctx.status.iterations < ctx.rules.iterations {
        let done = ctx.status.iterations + 1;
        draft.status.iterations = done;
        draft
            .tick()
            .wake(ctx.rules.interval)
            .event(format!("Advance {full} canary iteration {done}/{}", ctx.rules.iterations));
        return Ok(Turn::Calm(draft.done(reasons::STEP_DUE)));
    }
    // A plain Service has no way to send users to a version before it is promoted.
    if pct < 100 && ctx.view.router != Router::Service {
        shift(ctx, &mut draft, 100);
        draft.event(format!("Routing all traffic to canary {full}"));
        return Ok(Turn::Ramp(draft.done(reasons::STEP_DUE)));
    }
    confirm_promotion(ctx, primary)
}

fn shift(ctx: &Context<'_>, draft: &mut Draft<'_>, pct: i32) {
    for action in ctx.view.weigh(pct) {
        match ctx.view.weighted().filter(|held| action.target() == Some(held.key())) {
            Some(held) => draft.act_if_unchanged(action, held),
            None => draft.act(action),
        };
    }
    draft.tick().weight(pct).wake(ctx.rules.interval);
    draft.run.waiting_since = None;
    if ctx.view.settings.confirm {
        // In the same write as the weight, which makes one more generation of the route.
        let generation = ctx.view.route.as_ref().map(|route| route.generation() + 1);
        draft.run.note = ctx.view.awaited(pct, generation);
    }
}

/// The ramp has ended: approval is requested, then the primary takes the version over.
fn confirm_promotion(ctx: &Context<'_>, primary: &Workload) -> Result<Turn, Need> {
    let waiting = ctx.status.phase == Phase::WaitingPromotion;
    match hooks::approval(ctx, HookKind::ConfirmPromotion, ctx.status.phase)? {
        Approval::Given => Ok(promote(ctx, primary)),
        Approval::Ask(call) => Ok(Turn::Calm(hooks::ask(ctx, call))),
        Approval::Withheld(name, no) => {
            let mut draft = ctx.draft();
            let since = ctx.run.waiting_since.filter(|_| waiting).unwrap_or(ctx.view.now);
            if elapsed(since, ctx.view.now) > APPROVAL_WAIT_MAX {
                draft.roll_back("its promotion was not approved in time".to_owned());
                return Ok(Turn::Now(draft.done(reasons::ROLLING_BACK)));
            }
            if !waiting {
                let text = format!(
                    "Halt {} advancement waiting for promotion approval {}",
                    ctx.view.names.full(),
                    no.of(&name)
                );
                if ctx.rules.alerts_about(&name) {
                    draft.alert(Severity::Warn, &text);
                }
                draft.warning(text);
            }
            draft.phase(Phase::WaitingPromotion).tick().wake(ctx.rules.interval);
            draft.run.waiting_since = Some(since);
            Ok(Turn::Calm(draft.done(reasons::APPROVAL_PENDING)))
        }
    }
}

/// The primary gets the target's template, and copies of its configs.
pub(crate) fn promote(ctx: &Context<'_>, primary: &Workload) -> Turn {
    if let Some(turn) = hold::promotion(ctx) {
        return turn;
    }
    let names = &ctx.view.names;
    let mut draft = ctx.draft();
    draft.act_all(objects::copies(ctx).into_iter().filter_map(|copy| copy.action));
    if let Some(patch) = ctx.rewrite().promotion(ctx.target, primary) {
        let key = primary.obj.key().clone();
        draft.act_if_unchanged(Action::Patch { key, patch }, &primary.obj);
    }
    draft.phase(Phase::Promoting).tick().wake(ctx.rules.interval);
    draft.run.waiting_since = None;
    draft.event(format!(
        "Copying {} template spec to {}.{}",
        names.full(),
        names.target_primary,
        names.namespace
    ));
    Turn::Ramp(draft.done(reasons::PROMOTING))
}
