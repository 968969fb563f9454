//! A version is being judged: is it safe to go on, and what do the checks say?

use std::time::Duration;

use evenkeel_api::canary::MetricTemplate;
use evenkeel_base::format_duration;
use evenkeel_control::Plan;
use jiff::Timestamp;

use crate::{
    checks::{Asked, Checked},
    context::{Context, Need, Turn},
    draft::Draft,
    hooks::{self, Approval},
    ramp, reasons, rollback,
    rules::{HookKind, MetricKind, MetricRule},
    start,
    time::{elapsed, later},
    workload::{Readiness, Workload},
};

/// Pause before missing data is looked for again.
const DATA_WAIT: Duration = Duration::from_secs(2);
/// Data may be missing for as long as the metric's window, but at least for two scrapes of the
/// usual 15 s, before a check without data counts as failed.
const DATA_PATIENCE_MIN: Duration = Duration::from_secs(30);

/// What stands between a check and the next step.
enum Judged {
    Passed,
    Failed(Failure),
    Early(Turn),
}

/// A check that did not pass.
struct Failure {
    /// For the event, in Flagger's words.
    event: String,
    /// For conditions: the check with value and threshold.
    check: String,
    /// Since when its data are missing, if that is why.
    data_missing_since: Option<Timestamp>,
}

/// A version is being judged.
pub(crate) fn progress(ctx: &Context<'_>, primary: &Workload) -> Result<Turn, Need> {
    let names = &ctx.view.names;
    let mut draft = ctx.draft();
    if ctx.revision != ctx.status.last_applied_spec || ctx.configs_changed() {
        if ctx.view.pct() != 0 {
            if primary.available() == 0 {
                return Ok(Turn::Now(rollback::hold_until_primary_serves(ctx.view, draft)));
            }
            draft.act(ctx.view.set_weight(0));
        }
        start::begin_run(ctx, &mut draft);
        draft
            .weight(0)
            .wake(ctx.rules.interval)
            .event(format!("New revision detected! Restarting analysis for {}", names.full()));
        return Ok(Turn::Now(draft.done(reasons::REVISION_CHANGED)));
    }
    let pct = ctx.view.pct();
    if pct == 0 && ctx.was_obstructed() {
        // Its deadline counts from here: until now it could not be acted on.
        draft.tick().run.started_at = Some(ctx.view.now);
        draft.event(format!("Resuming the release of {}", names.full()));
        return Ok(Turn::Now(draft.done(reasons::RESUMED)));
    }
    if pct != ctx.status.canary_weight {
        // Written but not noted before a crash, or set by another writer: the route is the truth.
        draft.tick().weight(pct).event(format!(
            "Found canary weight {pct} of {} in the route, going on from there",
            names.full()
        ));
        return Ok(Turn::Now(draft.done(reasons::WEIGHT_ADOPTED)));
    }
    // Before the first user meets the canary, the primary must stand; later on, the checks go
    // on all the same, and only the next step waits for it.
    let held = if pct == 0 { unready_primary(ctx, primary) } else { None };
    if let Some(turn) = held.or_else(|| unready_canary(ctx, primary, pct)) {
        return Ok(turn);
    }
    if let Some(turn) = unconfirmed(ctx, pct) {
        return Ok(turn);
    }
    if let Some(wait) = ctx.time_left() {
        return Ok(Turn::Calm(ctx.wait(reasons::INTERVAL_RUNNING, wait)));
    }
    due(ctx, primary, pct)
}

/// When the primary is not ready: the wait for it, or what follows from it.
fn unready_primary(ctx: &Context<'_>, primary: &Workload) -> Option<Turn> {
    let names = &ctx.view.names;
    let mut draft = ctx.draft();
    match ctx.primary_readiness(primary) {
        Readiness::Ready => None,
        Readiness::Pending(text) => {
            let (target, ns) = (&names.target, &names.namespace);
            draft.waiting(format!("{target}-primary.{ns} not ready: waiting for {text}"));
            draft.wake(ctx.rules.interval);
            Some(Turn::Calm(draft.done(reasons::PRIMARY_UNREADY)))
        }
        Readiness::Stuck(text) => {
            draft.roll_back(format!("primary not ready: {text}"));
            Some(Turn::Now(draft.done(reasons::ROLLING_BACK)))
        }
    }
}

/// When the canary is not ready: the wait for it, or what follows from it.
fn unready_canary(ctx: &Context<'_>, primary: &Workload, pct: i32) -> Option<Turn> {
    let names = &ctx.view.names;
    let mut draft = ctx.draft();
    let text = match ctx.canary_readiness() {
        Readiness::Ready
            if ctx.reachable(&names.canary, ctx.target.needed(ctx.rules.canary_ready_pct)) =>
        {
            return None;
        }
        Readiness::Ready => "endpoints of its ready pods".to_owned(),
        Readiness::Pending(text) => text,
        Readiness::Stuck(text) => {
            draft.roll_back(format!("progress deadline exceeded: {text}"));
            return Some(Turn::Now(draft.done(reasons::ROLLING_BACK)));
        }
    };
    if pct == 0 {
        let started = ctx.run.started_at.unwrap_or(ctx.view.now);
        if elapsed(started, ctx.view.now) > ctx.rules.deadline {
            draft.roll_back(format!("progress deadline exceeded: {text}"));
            return Some(Turn::Now(draft.done(reasons::ROLLING_BACK)));
        }
        draft.waiting(format!("Waiting for {} {text}", names.full()));
        draft.wake(ctx.rules.interval);
        return Some(Turn::Calm(draft.done(reasons::CANARY_UNREADY)));
    }
    if ctx.target.available() == 0 && primary.available() > 0 {
        // Users must not pay for it: out of traffic at once. The run goes on when it is back.
        draft.act(ctx.view.set_weight(0));
        count_failure(ctx, &mut draft, halt(ctx, format!("no replica is available: {text}")));
        draft.weight(0);
        draft.run.started_at = Some(ctx.view.now);
        return Some(Turn::Now(draft.done(reasons::CANARY_DOWN)));
    }
    // One interval of grace: a pod that restarts is not yet a bad version.
    let due = ctx.due_at();
    if ctx.view.now < later(due, ctx.rules.interval) {
        draft.waiting(format!("Waiting for {} {text}", names.full()));
        draft.wake(elapsed(ctx.view.now, later(due, ctx.rules.interval)));
        return Some(Turn::Calm(draft.done(reasons::CANARY_UNREADY)));
    }
    let failure = halt(ctx, format!("canary not ready: waiting for {text}"));
    count_failure(ctx, &mut draft, failure);
    Some(Turn::Now(draft.done(reasons::CHECK_FAILED)))
}

/// The window of a weight starts when the gateway routes by it, on every worker.
fn unconfirmed(ctx: &Context<'_>, pct: i32) -> Option<Turn> {
    if pct == 0 || !ctx.view.settings.confirm {
        return None;
    }
    let generation = ctx.view.route.as_ref().map(|route| route.generation());
    if ctx.run.confirmed_at.is_some() && ctx.run.confirmed_generation == generation {
        return None;
    }
    let mut draft = ctx.draft();
    if ctx.view.confirmed() {
        draft.run.confirmed_at = Some(ctx.view.now);
        draft.run.confirmed_generation = generation;
        draft.run.clean_since = ctx.run.clean_since.or(Some(ctx.view.now));
        draft.wake(ctx.rules.interval);
        return Some(Turn::Now(draft.done(reasons::WEIGHT_CONFIRMED)));
    }
    let since = ctx.run.ticked_at.unwrap_or(ctx.view.now);
    let waited = elapsed(since, ctx.view.now);
    if let Some(left) = ctx.rules.interval.checked_sub(waited).filter(|left| !left.is_zero()) {
        return Some(Turn::Calm(ctx.wait(reasons::CONFIRMATION_PENDING, left)));
    }
    let failure = halt(ctx, format!("the gateway has not confirmed weight {pct}"));
    count_failure(ctx, &mut draft, failure);
    Some(Turn::Now(draft.done(reasons::CHECK_FAILED)))
}

/// A tick: webhooks, metrics, and the next step if all is well.
fn due(ctx: &Context<'_>, primary: &Workload, pct: i32) -> Result<Turn, Need> {
    let phase = ctx.status.phase;
    let mut draft = ctx.draft();
    match hooks::rollback_wanted(ctx, phase)? {
        Some(Approval::Ask(call)) => return Ok(Turn::Now(hooks::ask(ctx, call))),
        Some(_) => {
            draft.roll_back("manual webhook invoked".to_owned());
            return Ok(Turn::Now(draft.done(reasons::ROLLING_BACK)));
        }
        None => {}
    }
    if ctx.view.canary.spec.skip_analysis {
        return Ok(Turn::Ramp(ramp::promote(ctx, primary)));
    }
    let starting = pct == 0 && ctx.status.iterations == 0;
    let judged = if starting { judge_start(ctx)? } else { judge(ctx)? };
    match judged {
        // With all traffic on the canary there is no primary to wait for.
        Judged::Passed if pct < 100 => match unready_primary(ctx, primary) {
            Some(turn) => Ok(turn),
            None => ramp::step(ctx, primary, pct),
        },
        Judged::Passed => ramp::step(ctx, primary, pct),
        Judged::Failed(failure) => {
            count_failure(ctx, &mut draft, failure);
            Ok(Turn::Now(draft.done(reasons::CHECK_FAILED)))
        }
        Judged::Early(turn) => Ok(turn),
    }
}

fn judge_start(ctx: &Context<'_>) -> Result<Judged, Need> {
    Ok(match hooks::approval(ctx, HookKind::PreRollout, ctx.status.phase)? {
        Approval::Given => Judged::Passed,
        Approval::Ask(call) => Judged::Early(Turn::Now(hooks::ask(ctx, call))),
        Approval::Withheld(name, why) => {
            Judged::Failed(halt(ctx, format!("pre-rollout check {name} failed {why}")))
        }
    })
}

fn judge(ctx: &Context<'_>) -> Result<Judged, Need> {
    match hooks::approval(ctx, HookKind::Rollout, ctx.status.phase)? {
        Approval::Given => {}
        Approval::Ask(call) => return Ok(Judged::Early(Turn::Now(hooks::ask(ctx, call)))),
        Approval::Withheld(name, why) => {
            let failure = halt(ctx, format!("external check {name} failed {why}"));
            return Ok(Judged::Failed(failure));
        }
    }
    // Built-in and inline metrics first, then templates, each in the order written.
    let (templates, plain): (Vec<_>, Vec<_>) =
        ctx.rules.metrics.iter().partition(|rule| matches!(rule.kind, MetricKind::Template(..)));
    for rule in plain.into_iter().chain(templates) {
        if let Some(plan) = window_of_two_versions(ctx, rule) {
            return Ok(Judged::Early(Turn::Calm(plan)));
        }
        let asked = Asked {
            names: &ctx.view.names,
            canary: ctx.view.obj.name(),
            source: ctx.rules.source,
            server: ctx.view.canary.spec.metrics_server.as_deref().filter(|url| !url.is_empty()),
            template: template(ctx, rule),
        };
        let checked = asked
            .judge(rule, |query| ctx.view.answers.get(query).cloned())
            .map_err(|unanswered| Need::Answer(unanswered.0))?;
        match checked {
            Checked::Passed => {}
            Checked::Failed { event, check } => {
                let event = halt(ctx, event).event;
                let data_missing_since = None;
                return Ok(Judged::Failed(Failure { event, check, data_missing_since }));
            }
            Checked::NoData(problem) => return Ok(without_data(ctx, rule, &problem)),
        }
    }
    Ok(Judged::Passed)
}

/// A metric's window is as long as the metric says, however short the steps are: it may reach
/// back over earlier weights, whose requests the same version answered. It must not reach back
/// to the version before, which had the same name.
fn window_of_two_versions(ctx: &Context<'_>, rule: &MetricRule) -> Option<Plan> {
    let since = [ctx.run.clean_since, ctx.run.confirmed_at, ctx.run.ticked_at];
    let since = since.into_iter().flatten().next()?;
    let clean_at = later(since, rule.window);
    let left = Some(elapsed(ctx.view.now, clean_at)).filter(|left| !left.is_zero())?;
    let mut draft = ctx.draft();
    draft.waiting(format!(
        "Waiting until {clean_at:.0}: the last {} of metric {} still holds requests to another \
         version",
        format_duration(rule.window),
        rule.name
    ));
    draft.wake(left);
    Some(draft.done(reasons::DATA_PENDING))
}

/// No data says nothing about the version: it is waited for, but not for ever.
fn without_data(ctx: &Context<'_>, rule: &MetricRule, problem: &str) -> Judged {
    let since = ctx.run.data_missing_since.unwrap_or(ctx.view.now);
    let until = later(since, rule.window.max(DATA_PATIENCE_MIN));
    let left = elapsed(ctx.view.now, until);
    if !left.is_zero() {
        let mut draft = ctx.draft();
        draft.run.data_missing_since = Some(since);
        draft.waiting(format!(
            "Waiting for data of metric {}: {problem}. Without any until {until:.0} the check \
             counts as failed",
            rule.name
        ));
        draft.wake(left.min(DATA_WAIT));
        return Judged::Early(Turn::Calm(draft.done(reasons::DATA_PENDING)));
    }
    let event = format!(
        "Halt advancement no values found for metric {} probably {} is not receiving traffic: \
         {problem}",
        rule.name,
        ctx.view.names.full()
    );
    let check = format!("{}: {problem}", rule.name);
    Judged::Failed(Failure { event, check, data_missing_since: Some(since) })
}

fn template<'a>(ctx: &Context<'a>, rule: &MetricRule) -> Option<&'a MetricTemplate> {
    let MetricKind::Template(reference, _) = &rule.kind else { return None };
    ctx.view.templates.get(reference).map(AsRef::as_ref)
}

/// A check that failed for this reason.
fn halt(ctx: &Context<'_>, check: String) -> Failure {
    let event = format!("Halt {} advancement {check}", ctx.view.names.full());
    Failure { event, check, data_missing_since: None }
}

/// One more failed check; at the threshold the version is rolled back.
fn count_failure(ctx: &Context<'_>, draft: &mut Draft<'_>, failure: Failure) {
    let Failure { event, check, data_missing_since } = failure;
    draft.tick();
    // Patience with missing data is granted once, not for every check anew.
    draft.run.data_missing_since = data_missing_since;
    draft.status.failed_checks += 1;
    draft.run.step_failed_checks += 1;
    draft.warning(event).wake(ctx.rules.interval);
    let failed = draft.status.failed_checks;
    if failed >= ctx.rules.threshold {
        draft.roll_back(format!("failed checks threshold reached {failed}: {check}"));
    }
    draft.run.failed_check = Some(check);
}
