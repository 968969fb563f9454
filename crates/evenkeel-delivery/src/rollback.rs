//! Out of traffic: the way back that nothing may hold up.

use std::time::Duration;

use evenkeel_api::canary::Phase;
use evenkeel_base::format_duration;
use evenkeel_control::Plan;

use crate::{
    context::Context,
    draft::{Draft, Severity},
    reasons,
    time::elapsed,
};

/// After this long without the gateway's confirmation a person is told.
pub(crate) const CONFIRMATION_SLOW: Duration = Duration::from_secs(30);

/// The version goes: out of traffic, confirmed by the gateway, then down to zero.
pub(crate) fn roll_back(ctx: &Context<'_>) -> Plan {
    let mut draft = ctx.draft();
    let Some(rollback) = &ctx.run.rollback else { return draft.done(reasons::ROLLED_BACK) };
    let full = ctx.view.names.full();
    let pct = ctx.pct();
    if pct != 0 {
        let primary = ctx.view.primary.as_ref();
        if primary.is_none_or(|primary| primary.available() == 0) {
            return hold_until_primary_serves(ctx);
        }
        draft.act(ctx.set_weight(0));
        if ctx.view.settings.confirm {
            draft.weight(0).wake(ctx.rules.interval);
            return draft.done(reasons::ROLLING_BACK);
        }
    } else if !ctx.confirmed() {
        return await_zero(ctx, draft);
    }
    if ctx.target.replicas() != 0 {
        draft.act(ctx.scale_target(0));
    }
    let took = elapsed(rollback.since, ctx.view.now);
    draft.phase(Phase::Failed).tick().weight(0).quiet();
    draft.status.iterations = 0;
    draft.run.outcome = Some(format!(
        "Canary analysis failed, Deployment scaled to zero. {}.",
        sentence(&rollback.cause)
    ));
    draft.run.rollback = None;
    draft.run.rollback_seconds = Some(took.as_secs_f64());
    draft.run.after_hooks_due = ctx.has_after_hooks();
    draft.warning(format!("Canary failed! Scaling down {full}"));
    let message = format!(
        "Rolled back {full} in {} from the decision until no request reached it: {}",
        format_duration(took),
        rollback.cause
    );
    draft.alert(Severity::Error, &message).warning(message);
    draft.done(reasons::ROLLED_BACK)
}

/// Nobody is there to take the canary's traffic back.
pub(crate) fn hold_until_primary_serves(ctx: &Context<'_>) -> Plan {
    let mut draft = ctx.draft();
    draft.stalled(format!(
        "{} cannot be taken out of traffic: no replica of {} is available; the weights stay as \
         they are until one is",
        ctx.view.names.full(),
        ctx.view.names.target_primary
    ));
    draft.wake(ctx.rules.interval);
    draft.done(reasons::PRIMARY_UNREADY)
}

/// The canary still runs while the gateway may still send it requests.
pub(crate) fn await_zero(ctx: &Context<'_>, mut draft: Draft<'_>) -> Plan {
    let since = ctx.run.rollback.as_ref().map(|rollback| rollback.since);
    let since = since.or(ctx.run.ticked_at).unwrap_or(ctx.view.now);
    if elapsed(since, ctx.view.now) >= CONFIRMATION_SLOW {
        draft.stalled(format!(
            "Waiting for the gateway to confirm that {} gets no traffic; it keeps running \
             until then. Look at the status of HTTPRoute {}",
            ctx.view.names.full(),
            ctx.view.names.apex
        ));
    }
    draft.wake(CONFIRMATION_SLOW);
    draft.done(reasons::CONFIRMATION_PENDING)
}

/// A cause as the beginning of a sentence.
fn sentence(cause: &str) -> String {
    let mut chars = cause.chars();
    let first = chars.next().map(|first| first.to_uppercase().to_string());
    first.unwrap_or_default() + chars.as_str()
}
