//! The version is good: the primary takes it over and gets its traffic back.

use std::time::Duration;

use evenkeel_api::canary::Phase;
use evenkeel_control::Plan;

use crate::{
    context::{Context, Need, Turn},
    draft::Severity,
    hooks::{self, Approval},
    reasons, rollback,
    rules::HookKind,
    workload::{Readiness, Workload},
};

/// The primary rolls; when it is ready, it takes its traffic back.
pub(crate) fn promoting(ctx: &Context<'_>, primary: &Workload) -> Turn {
    let names = &ctx.view.names;
    let mut draft = ctx.draft();
    let pct = ctx.view.pct();
    // A newer version is already on its way into the canary: it must not meet users unjudged.
    let moved_on = ctx.revision != ctx.status.last_applied_spec && primary.available() > 0;
    match ctx.primary_readiness(primary) {
        Readiness::Ready => {}
        _ if moved_on => {}
        Readiness::Pending(text) => {
            draft.waiting(format!(
                "{}-primary.{} not ready: waiting for {text}",
                names.target, names.namespace
            ));
            draft.wake(ctx.rules.interval);
            return Turn::Calm(draft.done(reasons::PRIMARY_UNREADY));
        }
        Readiness::Stuck(text) => return Turn::Now(promotion_failed(ctx, &text, pct)),
    }
    let quick = ctx.view.canary.spec.skip_analysis || moved_on;
    if let Some(wait) = ctx.time_left().filter(|_| !quick) {
        return Turn::Calm(ctx.wait(reasons::INTERVAL_RUNNING, wait));
    }
    let step = if moved_on { 0 } else { ctx.rules.promotion_step };
    let next = if step == 0 { 0 } else { (pct - step).max(0) };
    if pct != 0 {
        draft.act_all(ctx.view.weigh(next));
    }
    draft.tick().weight(next).wake(ctx.rules.interval);
    if next > 0 {
        draft.event(format!("Advance {} primary weight {}", names.full(), 100 - next));
        return Turn::Calm(draft.done(reasons::ROUTING_TO_PRIMARY));
    }
    draft.phase(Phase::Finalising).event(format!(
        "Routing all traffic to primary {}.{}",
        names.target_primary, names.namespace
    ));
    let plan = draft.done(reasons::ROUTING_TO_PRIMARY);
    // Away from a version that has not been judged: at once.
    if moved_on { Turn::Now(plan) } else { Turn::Calm(plan) }
}

/// The primary cannot run what the canary runs well: the canary keeps serving, all of it.
fn promotion_failed(ctx: &Context<'_>, text: &str, pct: i32) -> Plan {
    let mut draft = ctx.draft();
    let full = ctx.view.names.full();
    if ctx.canary_readiness() == Readiness::Ready && pct > 0 {
        draft.act(ctx.view.set_weight(100)).weight(100);
        let message = format!(
            "Promotion of {full} failed, the primary is not ready: {text}. All traffic goes to \
             the canary; repair the primary or release another version"
        );
        draft.run.outcome = Some(format!(
            "Promotion failed, the primary is not ready: {text}. All traffic stays on the \
             canary, which keeps running."
        ));
        draft.alert(Severity::Error, &message).warning(message);
    } else {
        let message = format!(
            "Promotion of {full} failed, neither primary nor canary is ready: {text}. Weights \
             stay as they are; release another version"
        );
        draft.run.outcome = Some(format!(
            "Promotion failed, neither primary nor canary is ready: {text}. The weights stay \
             as they are."
        ));
        draft.alert(Severity::Error, &message).warning(message);
    }
    draft.phase(Phase::Failed).tick();
    draft.run.after_hooks_due = ctx.view.has_after_hooks();
    draft.done(reasons::PROMOTION_FAILED)
}

/// The primary has all traffic; when the gateway has confirmed that, the canary goes.
pub(crate) fn finalising(ctx: &Context<'_>) -> Turn {
    let mut draft = ctx.draft();
    if ctx.view.pct() != 0 {
        if !ctx.view.primary_serves() {
            return Turn::Now(rollback::hold_until_primary_serves(ctx.view, draft));
        }
        // Another writer changed the route.
        draft.act(ctx.view.set_weight(0)).weight(0).wake(ctx.rules.interval);
        return Turn::Now(draft.done(reasons::ROUTING_TO_PRIMARY));
    }
    if !ctx.view.confirmed() {
        return Turn::Calm(rollback::await_zero(ctx.view, draft));
    }
    let quick = ctx.view.canary.spec.skip_analysis;
    if let Some(wait) = ctx.time_left().filter(|_| !quick) {
        return Turn::Calm(ctx.wait(reasons::INTERVAL_RUNNING, wait));
    }
    if ctx.target.replicas() != 0 {
        draft.act_if_unchanged(ctx.scale_target(0), &ctx.target.obj);
    }
    draft.status.last_promoted_spec.clone_from(&ctx.status.last_applied_spec);
    draft.status.iterations = 0;
    draft.run.promoted_configs = ctx.status.tracked_configs.clone().unwrap_or_default();
    draft.phase(Phase::Succeeded).tick().weight(0).quiet();
    draft.run.after_hooks_due = ctx.view.has_after_hooks();
    let full = ctx.view.names.full();
    let message = if quick {
        format!("Promotion completed! Canary analysis was skipped for {full}")
    } else {
        format!("Promotion completed! Scaling down {full}")
    };
    draft.alert(Severity::Info, &message).event(message);
    Turn::Calm(draft.done(reasons::PROMOTED_FULLY))
}

/// Calls the webhooks of type `post-rollout`; the first that fails ends it.
pub(crate) fn run_post_hooks(ctx: &Context<'_>) -> Result<Plan, Need> {
    let mut draft = ctx.draft();
    match hooks::approval(ctx, HookKind::PostRollout, ctx.status.phase)? {
        Approval::Ask(call) => return Ok(hooks::ask(ctx, call)),
        Approval::Given => {
            for hook in ctx.rules.hooks(HookKind::PostRollout) {
                draft.event(format!("Post-rollout hook {} passed", hook.name));
            }
        }
        Approval::Withheld(name, why) => {
            draft.warning(format!("Post-rollout hook {name} failed {why}"));
        }
    }
    draft.run.after_hooks_due = false;
    draft.wake(Duration::ZERO);
    Ok(draft.done(reasons::TELLING_END))
}
