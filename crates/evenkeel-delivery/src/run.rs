//! A version is being judged: is it safe to go on, and what do the checks say?

use std::time::Duration;

use evenkeel_api::canary::MetricTemplate;
use evenkeel_base::format_duration;
use evenkeel_control::Plan;
use jiff::Timestamp;

use crate::{
    checks::{Asked, Checked, Missing},
    context::{Context, Need, Turn},
    draft::Draft,
    hooks::{self, Approval},
    plain, ramp, reasons, rollback,
    router::Router,
    routing::CONFIRMATION_SLOW,
    rules::{HookKind, MetricKind, MetricRule},
    start,
    time::{LOOK_AGAIN, elapsed, later},
    workload::{Readiness, Workload},
};

/// Pause before missing data is looked for again.
const DATA_WAIT: Duration = Duration::from_secs(2);
/// Data may be missing for as long as the metric's window, but at least for two scrapes of the
/// usual 15 s, before a check without data counts as failed.
const DATA_PATIENCE_MIN: Duration = Duration::from_secs(30);

/// Data that pass but are older than the step may be renewed for this long: a server looks back for
/// five minutes, after which it has none. A recording rule or a remote write may take a while.
const RENEWAL_PATIENCE_MIN: Duration = Duration::from_mins(5);
/// Pause before newer data are looked for again.
const RENEWAL_WAIT: Duration = Duration::from_secs(5);

/// What stands between a check and the next step.
enum Judged {
    Passed,
    Failed(Failure),
    /// Nothing can be said yet: what to do until then.
    Early(Plan, News),
}

/// Whether a wait has just begun: that is noted before anything is repaired.
enum News {
    Yes,
    No,
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
        let full = names.full();
        let is_next =
            ctx.rules.iterations == 0 && ctx.rules.ramp.next(ctx.status.canary_weight) == Some(pct);
        draft.tick().weight(pct).event(if is_next {
            format!("Advance {full} canary weight {pct}{}", plain::words(ctx.view, pct))
        } else {
            format!("Found canary weight {pct} of {full} in the route, going on from there")
        });
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
    // What another controller does next is not known: what would be done now is what can be said.
    if let Some(wait) = ctx.time_left().filter(|_| !ctx.view.is_observed()) {
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
            // What is not known speaks against no version; the next step waits for it.
            if ctx.view.unread.endpoints.is_some()
                || ctx.reachable(&names.canary, ctx.target.needed(ctx.rules.canary_ready_pct)) =>
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
        draft.run.confirmed_at = Some(ctx.seen_since());
        draft.run.confirmed_generation = generation;
        draft.run.clean_since = ctx.run.clean_since.or(Some(ctx.seen_since()));
        draft.run.note = None;
        draft.wake(ctx.rules.interval);
        return Some(Turn::Now(draft.done(reasons::WEIGHT_CONFIRMED)));
    }
    let since = ctx.run.ticked_at.unwrap_or(ctx.view.now);
    let waited = elapsed(since, ctx.view.now);
    let left = ctx.view.confirmation_max().checked_sub(waited);
    if let Some(left) = left.filter(|left| !left.is_zero()) {
        draft.run.note = ctx.view.awaited(pct, generation);
        // When it counts as late.
        let late = CONFIRMATION_SLOW.checked_sub(waited).filter(|late| !late.is_zero());
        draft.wake(late.map_or(left, |late| late.min(left)));
        return Some(Turn::Calm(draft.done(reasons::CONFIRMATION_PENDING)));
    }
    let failure = halt(
        ctx,
        match ctx.view.router {
            Router::Service => format!("the apex Service does not have the pods of weight {pct}"),
            _ => format!("the gateway has not confirmed weight {pct}"),
        },
    );
    count_failure(ctx, &mut draft, failure);
    Some(Turn::Now(draft.done(reasons::CHECK_FAILED)))
}

/// A tick: metrics, webhooks, and the next step if all is well.
///
/// The metrics come first: a webhook that is slow, or whose call is held by the door, must not hide
/// what they say.
fn due(ctx: &Context<'_>, primary: &Workload, pct: i32) -> Result<Turn, Need> {
    let phase = ctx.status.phase;
    let way_back = hooks::rollback_wanted(ctx, phase)?;
    if way_back == Some(Approval::Given) {
        let mut draft = ctx.draft();
        draft.roll_back("manual webhook invoked".to_owned());
        return Ok(Turn::Now(draft.done(reasons::ROLLING_BACK)));
    }
    let skips = ctx.view.canary.spec.skip_analysis;
    let starting = pct == 0 && ctx.status.iterations == 0;
    let measured = match (skips, starting) {
        (true, _) => Judged::Passed,
        (false, true) => measurable(ctx)?,
        (false, false) => judge(ctx)?,
    };
    let measured = match measured {
        // A rollback waits for nothing.
        Judged::Failed(failure) if ctx.status.failed_checks + 1 >= ctx.rules.threshold => {
            return Ok(Turn::Now(failed(ctx, failure)));
        }
        other => other,
    };
    if let Some(Approval::Ask(call)) = way_back {
        return Ok(Turn::Now(hooks::ask(ctx, call)));
    }
    if skips {
        return Ok(ramp::promote(ctx, primary));
    }
    let kind = if starting { HookKind::PreRollout } else { HookKind::Rollout };
    let asked = hooks::approval(ctx, kind, phase)?;
    Ok(match (measured, asked) {
        // It is still called: it may be what makes the requests that are measured.
        (Judged::Failed(failure), Approval::Ask(call)) => {
            Turn::Now(failed(ctx, failure).then(call.into()))
        }
        (Judged::Failed(failure), _) => Turn::Now(failed(ctx, failure)),
        (_, Approval::Withheld(name, why)) => {
            let check = if starting { "pre-rollout check" } else { "external check" };
            Turn::Now(failed(ctx, halt(ctx, format!("{check} {name} failed {why}"))))
        }
        (Judged::Early(plan, _), Approval::Ask(call)) => {
            Turn::Now(plan.then(call.into()).waking(hooks::REPLY_WAIT))
        }
        (Judged::Passed, Approval::Ask(call)) => Turn::Now(hooks::ask(ctx, call)),
        (Judged::Early(plan, News::Yes), Approval::Given) => Turn::Now(plan),
        (Judged::Early(plan, News::No), Approval::Given) => Turn::Calm(plan),
        (Judged::Passed, Approval::Given) => {
            // With all traffic on the canary there is no primary to wait for.
            let turn = if pct < 100 { unready_primary(ctx, primary) } else { None };
            turn.map_or_else(|| ramp::step(ctx, primary, pct), Ok)?
        }
    })
}

/// Before the first user meets the canary, whoever will judge it must be able to: a version whose
/// metrics cannot be asked for gets no traffic. That they have no values yet is as it should be.
fn measurable(ctx: &Context<'_>) -> Result<Judged, Need> {
    for rule in &ctx.rules.metrics {
        let Checked::NoData(Missing::Unasked(problem)) = check(ctx, rule)? else { continue };
        let mut draft = ctx.draft();
        draft.stalled(format!(
            "Waiting at weight 0: metric {} cannot be measured: {problem}",
            rule.name
        ));
        draft.wake(ctx.rules.interval.min(LOOK_AGAIN));
        return Ok(Judged::Early(draft.done(reasons::METRICS_PENDING), News::No));
    }
    Ok(Judged::Passed)
}

/// What all metrics say together: one that fails counts, whatever others wait for.
fn judge(ctx: &Context<'_>) -> Result<Judged, Need> {
    // Built-in and inline metrics first, then templates, each in the order written.
    let (templates, plain): (Vec<_>, Vec<_>) =
        ctx.rules.metrics.iter().partition(|rule| matches!(rule.kind, MetricKind::Template(..)));
    let (mut mixed, mut missing) = (None, Vec::new());
    for rule in plain.into_iter().chain(templates) {
        if let Some(clean_at) = clean_at(ctx, rule) {
            mixed.get_or_insert((rule, clean_at));
            continue;
        }
        match check(ctx, rule)? {
            Checked::Passed => {}
            Checked::Failed { event, check } => {
                let event = halt(ctx, event).event;
                return Ok(Judged::Failed(Failure { event, check, data_missing_since: None }));
            }
            Checked::NoData(problem) => missing.push((rule, problem)),
        }
    }
    if let Some((rule, clean_at)) = mixed {
        return Ok(with_two_versions(ctx, rule, clean_at));
    }
    let mut judged = Judged::Passed;
    for (rule, problem) in &missing {
        match (without_data(ctx, rule, problem), &judged) {
            (failed @ Judged::Failed(_), _) => return Ok(failed),
            (waits, Judged::Passed) => judged = waits,
            _ => {}
        }
    }
    Ok(judged)
}

fn check(ctx: &Context<'_>, rule: &MetricRule) -> Result<Checked, Need> {
    let asked = Asked {
        names: &ctx.view.names,
        canary: ctx.view.obj.name(),
        source: ctx.rules.source,
        server: ctx.view.canary.spec.metrics_server.as_deref().filter(|url| !url.is_empty()),
        own_server: ctx.view.settings.own_server(),
        template: template(ctx, rule),
        since: last_step(ctx),
        now: ctx.view.now,
    };
    asked
        .judge(rule, |query| ctx.view.answers.get(query).cloned())
        .map_err(|unanswered| Need::Answer(unanswered.0))
}

/// When the gateway confirmed the weight that is judged, or the last check was over.
fn last_step(ctx: &Context<'_>) -> Timestamp {
    let times = [ctx.run.confirmed_at, ctx.run.ticked_at];
    times.into_iter().flatten().max().unwrap_or(Timestamp::UNIX_EPOCH)
}

/// A metric's window is as long as the metric says, however short the steps are: it may reach
/// back over earlier weights, whose requests the same version answered. It must not reach back
/// to the version before, which had the same name. The moment until which it does; `None` when that
/// has passed.
fn clean_at(ctx: &Context<'_>, rule: &MetricRule) -> Option<Timestamp> {
    let since = [ctx.run.clean_since, ctx.run.confirmed_at, ctx.run.ticked_at];
    let since = since.into_iter().flatten().next()?;
    Some(later(since, rule.window)).filter(|clean_at| *clean_at > ctx.view.now)
}

/// The wait until a metric's window holds one version only. Others are looked at meanwhile; that
/// they have no data does not count yet, for a load test may be over before that.
fn with_two_versions(ctx: &Context<'_>, rule: &MetricRule, clean_at: Timestamp) -> Judged {
    let mut draft = ctx.draft();
    draft.run.data_missing_since = None;
    draft.waiting(format!(
        "Waiting until {clean_at:.0}: the last {} of metric {} still includes requests to another \
         version",
        format_duration(rule.window),
        rule.name
    ));
    draft.wake(elapsed(ctx.view.now, clean_at).min(ctx.rules.interval));
    Judged::Early(draft.done(reasons::DATA_PENDING), News::No)
}

/// Missing data says nothing about the version: the release waits for it, but not forever.
fn without_data(ctx: &Context<'_>, rule: &MetricRule, missing: &Missing) -> Judged {
    let since = ctx.run.data_missing_since.unwrap_or(ctx.view.now);
    let (patience, pause) = match missing {
        Missing::Old(_) => (RENEWAL_PATIENCE_MIN, RENEWAL_WAIT),
        _ => (DATA_PATIENCE_MIN, DATA_WAIT),
    };
    let until = later(since, rule.window.max(patience));
    let left = elapsed(ctx.view.now, until);
    if !left.is_zero() {
        let mut draft = ctx.draft();
        draft.run.data_missing_since = Some(since);
        match missing {
            Missing::NoValues => draft.waiting(format!(
                "Waiting for data of metric {}: no values found. Without any until {until:.0} the \
                 check counts as failed",
                rule.name
            )),
            Missing::Unusable(problem) | Missing::Old(problem) => draft.waiting(format!(
                "Waiting for data of metric {}: {problem}. Without any until {until:.0} the check \
                 counts as failed",
                rule.name
            )),
            Missing::Unasked(problem) => draft.stalled(format!(
                "Metric {} cannot be measured: {problem}. Without an answer until {until:.0} the \
                 check counts as failed",
                rule.name
            )),
        };
        draft.wake(left.min(pause));
        // The time counts from when it is written down: no repair must hold that up.
        let news = if ctx.run.data_missing_since.is_none() { News::Yes } else { News::No };
        return Judged::Early(draft.done(reasons::DATA_PENDING), news);
    }
    let full = ctx.view.names.full();
    let event = match missing {
        Missing::NoValues => format!(
            "Halt advancement no values found for metric {} probably {full} is not receiving \
             traffic",
            rule.name
        ),
        Missing::Unusable(problem) | Missing::Old(problem) => {
            format!("Halt {full} advancement metric {} has no data: {problem}", rule.name)
        }
        Missing::Unasked(problem) => {
            format!("Halt {full} advancement metric {} cannot be measured: {problem}", rule.name)
        }
    };
    let check = format!("{}: {}", rule.name, missing.words());
    Judged::Failed(Failure { event, check, data_missing_since: Some(since) })
}

/// The template of a metric, or why there is none.
fn template<'a>(ctx: &Context<'a>, rule: &MetricRule) -> Result<&'a MetricTemplate, String> {
    let MetricKind::Template(reference, _) = &rule.kind else { return Err(String::new()) };
    ctx.view.template(reference)
}

/// A check that failed for this reason.
fn halt(ctx: &Context<'_>, check: String) -> Failure {
    let event = format!("Halt {} advancement {check}", ctx.view.names.full());
    Failure { event, check, data_missing_since: None }
}

/// The plan that counts a failed check.
fn failed(ctx: &Context<'_>, failure: Failure) -> Plan {
    let mut draft = ctx.draft();
    count_failure(ctx, &mut draft, failure);
    draft.done(reasons::CHECK_FAILED)
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
