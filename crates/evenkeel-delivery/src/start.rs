//! From rest to the first plan of a run: what is new, and whether it may start.

use evenkeel_api::canary::Phase;
use evenkeel_control::{Plan, Withheld};

use crate::{
    context::{Context, Need, Turn},
    draft::{Draft, Severity},
    finish, hold,
    hooks::{self, APPROVAL_WAIT_MAX, Approval},
    reasons,
    rules::HookKind,
    time::{LOOK_AGAIN, elapsed},
    workload::{Readiness, Workload},
};

/// No run under way: is there a new version?
pub(crate) fn rest(ctx: &Context<'_>, primary: &Workload) -> Result<Turn, Need> {
    if let Some(plan) = rescue(ctx, primary) {
        return Ok(Turn::Now(plan));
    }
    if ctx.run.after_hooks_due {
        return finish::run_post_hooks(ctx).map(Turn::Calm);
    }
    let reverted = ctx.revision == ctx.status.last_promoted_spec
        && ctx.revision != ctx.status.last_applied_spec
        && ctx.status.phase != Phase::Waiting;
    if reverted || is_back_at_primary(ctx, primary) {
        // So that the version that failed, tried once more, is new again.
        let mut draft = ctx.draft();
        ctx.revision.clone_into(&mut draft.status.last_applied_spec);
        if ctx.status.last_promoted_spec.is_empty() {
            ctx.revision.clone_into(&mut draft.status.last_promoted_spec);
            draft.run.promoted_configs.clone_from(ctx.config_hashes);
            draft.status.tracked_configs =
                (!ctx.config_hashes.is_empty()).then(|| ctx.config_hashes.clone());
        }
        return Ok(Turn::Calm(draft.done(reasons::NOTHING_NEW)));
    }
    if let Some(plan) = hold::start(ctx) {
        return Ok(Turn::Calm(plan));
    }
    if ctx.changed() {
        return start(ctx, primary);
    }
    let mut draft = ctx.draft();
    if ctx.status.phase == Phase::Waiting {
        // The version that waited for approval was reverted.
        draft.phase(Phase::Initialized);
        draft.run.waiting_since = None;
    }
    draft.budget_allows().run.note = None;
    if !ctx.view.gateways_missing.is_empty() {
        draft.wake(LOOK_AGAIN);
    }
    Ok(Turn::Calm(draft.done(reasons::NOTHING_NEW)))
}

/// Whether the target was set back to what the primary runs after a release that failed under another
/// tool, which named that version by a hash of its own.
fn is_back_at_primary(ctx: &Context<'_>, primary: &Workload) -> bool {
    ctx.status.phase == Phase::Failed
        && ctx.status.last_promoted_spec.is_empty()
        && ctx.revision != ctx.status.last_applied_spec
        && ctx.view.unread.configs.is_empty()
        && ctx.rewrite().same_version(ctx.target, primary)
}

/// After a promotion that failed the canary has all traffic. When it dies, too, whatever is left
/// of the primary is better than nothing.
fn rescue(ctx: &Context<'_>, primary: &Workload) -> Option<Plan> {
    let pct = ctx.view.pct();
    if pct == 0 || ctx.target.available() > 0 || primary.available() == 0 {
        return None;
    }
    let mut draft = ctx.draft();
    let text = format!(
        "No replica of {} is available: all traffic goes to {}.{}",
        ctx.view.names.full(),
        ctx.view.names.target_primary,
        ctx.view.names.namespace
    );
    draft.act(ctx.view.set_weight(0)).weight(0);
    draft.run.outcome = Some(format!("The run failed. {text}."));
    draft.alert(Severity::Error, &text).warning(text);
    Some(draft.done(reasons::ROUTING_TO_PRIMARY))
}

/// A new version was seen: approval is requested, then the canary is started.
fn start(ctx: &Context<'_>, primary: &Workload) -> Result<Turn, Need> {
    let waiting = ctx.status.phase == Phase::Waiting;
    if let Some(wait) = ctx.time_left().filter(|_| waiting) {
        return Ok(Turn::Calm(ctx.wait(reasons::APPROVAL_PENDING, wait)));
    }
    let full = ctx.view.names.full();
    if let Some(plan) = held_by_budget(ctx) {
        return Ok(Turn::Calm(plan));
    }
    let mut draft = ctx.draft();
    if waiting {
        match hooks::rollback_wanted(ctx, Phase::Waiting)? {
            Some(Approval::Ask(call)) => return Ok(Turn::Calm(hooks::ask(ctx, call))),
            Some(_) => return Ok(Turn::Now(give_up(ctx, "manual webhook invoked"))),
            None => {}
        }
    }
    match hooks::approval(ctx, HookKind::ConfirmRollout, ctx.status.phase)? {
        Approval::Given => {}
        Approval::Ask(call) => return Ok(Turn::Calm(hooks::ask(ctx, call))),
        Approval::Withheld(name, no) => {
            let since = ctx.run.waiting_since.filter(|_| waiting).unwrap_or(ctx.view.now);
            if elapsed(since, ctx.view.now) > APPROVAL_WAIT_MAX {
                return Ok(Turn::Now(give_up(ctx, "it was not approved in time")));
            }
            if !waiting {
                let text = format!("Halt {full} advancement waiting for approval {}", no.of(&name));
                if ctx.rules.alerts_about(&name) {
                    draft.alert(Severity::Warn, &text);
                }
                draft.warning(text);
            }
            draft.budget_allows();
            draft.phase(Phase::Waiting).tick().wake(ctx.rules.interval);
            draft.run.waiting_since = Some(since);
            return Ok(Turn::Calm(draft.done(reasons::APPROVAL_PENDING)));
        }
    }
    if ctx.target.replicas() == 0 {
        let replicas = primary.replicas().max(1);
        draft.act_if_unchanged(ctx.scale_target(replicas), &ctx.target.obj);
    }
    if ctx.view.pct() != 0
        && primary.available() > 0
        && ctx.primary_readiness(primary) == Readiness::Ready
    {
        draft.act(ctx.view.set_weight(0)).weight(0);
    } else {
        draft.weight(ctx.view.pct());
    }
    begin_run(ctx, &mut draft);
    let message = format!("New revision detected! Scaling up {full}");
    draft.alert(Severity::Info, &message);
    draft.event(message).wake(ctx.rules.interval);
    Ok(Turn::Ramp(draft.done(reasons::NEW_REVISION)))
}

/// The error budget does not allow a new version now, or its state is not known.
fn held_by_budget(ctx: &Context<'_>) -> Option<Plan> {
    let now_s = ctx.view.now.as_second();
    let budget = match (&ctx.status.error_budget, ctx.status.misfit("errorBudget")) {
        (Some(budget), _) => budget,
        (None, None) => return None,
        (None, Some(problem)) => {
            let why = format!(
                "status.{problem}: the SLO controller writes it anew; if none runs, remove \
                 status.errorBudget"
            );
            return Some(held(ctx, reasons::BUDGET_UNREADABLE, "", &why));
        }
    };
    // One line of the record for each, whatever the numbers are.
    let mark = format!("{} {}", budget.slo, budget.state);
    let (reason, why) = if !budget.permission.goes_ahead() {
        (budget.reason.as_str(), format!("{}: {}", budget.slo, budget.message))
    } else if !budget.goes_ahead(now_s) {
        let age = now_s.saturating_sub(budget.observed_at);
        let why = format!(
            "{}: its error budget was last looked at {age} s ago; see that the SLO controller \
             runs",
            budget.slo
        );
        (reasons::BUDGET_NOT_LOOKED_AT, why)
    } else {
        return None;
    };
    Some(held(ctx, reason, &mark, &why))
}

fn held(ctx: &Context<'_>, reason: &str, mark: &str, why: &str) -> Plan {
    let mut draft = ctx.draft();
    draft.held(reason, format!("Halt {} advancement {why}", ctx.view.names.full()));
    draft.withhold(Withheld {
        what: "start a new version".to_owned(),
        policy: "budget",
        why: format!("{reason}: {why}"),
        mark: format!("{reason} {mark} {}", ctx.revision),
    });
    draft.phase(Phase::Waiting).tick().wake(ctx.rules.interval);
    draft.done(reasons::BUDGET_PENDING)
}

/// The version that waits for approval is given up.
fn give_up(ctx: &Context<'_>, cause: &str) -> Plan {
    let mut draft = ctx.draft();
    let message = format!("Rolling back {} {cause}", ctx.view.names.full());
    draft.alert(Severity::Error, &message).warning(message);
    begin_run(ctx, &mut draft);
    draft.phase(Phase::Failed);
    draft.run.outcome = Some(format!("Canary analysis was not started: {cause}."));
    draft.run.after_hooks_due = ctx.view.has_after_hooks();
    draft.done(reasons::ROLLED_BACK)
}

/// The run is about the target as it is now, and starts from nothing.
pub(crate) fn begin_run(ctx: &Context<'_>, draft: &mut Draft<'_>) {
    draft.budget_allows().phase(Phase::Progressing).tick();
    draft.status.failed_checks = 0;
    draft.run.failed_check = None;
    draft.run.outcome = None;
    draft.status.iterations = 0;
    ctx.revision.clone_into(&mut draft.status.last_applied_spec);
    draft.status.tracked_configs =
        (!ctx.config_hashes.is_empty()).then(|| ctx.config_hashes.clone());
    draft.run.started_at = Some(ctx.view.now);
    draft.run.waiting_since = None;
    draft.run.rollback_seconds = None;
    draft.run.data_missing_since = None;
    // Requests on their way to the version before end at the latest when the gateway confirms
    // the first weight of this one, whose pods are then the only ones.
    let quiet = ctx.view.pct() == 0 && ctx.status.canary_weight == 0;
    draft.run.clean_since =
        ctx.run.clean_since.or(Some(ctx.view.now)).filter(|_| quiet && !ctx.is_running());
}
