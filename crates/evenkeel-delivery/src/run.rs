use std::time::Duration;

use evenkeel_api::canary::{MetricTemplate, Phase};
use evenkeel_base::format_duration;
use evenkeel_control::Plan;
use jiff::{SignedDuration, Timestamp};

use crate::{
    checks::{Asked, Checked},
    decide::{Context, Need},
    draft::{Draft, Severity},
    hooks::Leave,
    reasons,
    rules::{HookKind, MetricKind, MetricRule},
    workload::{Readiness, Workload, elapsed},
};

/// Longest wait for somebody's leave before the version is given up: a forgotten gate must not
/// keep a half-released version for ever.
const APPROVAL_WAIT_MAX: Duration = Duration::from_hours(24);
/// An answer of the SLO controller that is older is none. Unit: seconds; it repeats every minute.
const BUDGET_AGE_MAX: i64 = 600;
/// Reason of an answer that no policy stands behind.
const NO_POLICY: &str = "NoPolicy";
/// Pause before missing data is looked for again.
const DATA_WAIT: Duration = Duration::from_secs(2);
/// Data may be missing for as long as the metric's window, but at least for two scrapes of the
/// usual 15 s, before a check without data counts as failed.
const DATA_PATIENCE_MIN: Duration = Duration::from_secs(30);

/// What stands between a check and the next step.
enum Judged {
    Passed,
    Failed(Failure),
    Early(Plan),
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

impl Context<'_> {
    /// A new version was seen: leave is asked for, then the canary is started.
    pub(crate) fn start(&self, primary: &Workload) -> Result<Plan, Need> {
        let waiting = self.status.phase == Phase::Waiting;
        if let Some(wait) = self.time_left().filter(|_| waiting) {
            return Ok(self.wait(reasons::APPROVAL_PENDING, wait));
        }
        let full = self.view.names.full();
        if let Some(plan) = self.held_by_budget() {
            return Ok(plan);
        }
        let mut draft = self.draft();
        if waiting {
            match self.rollback_wanted(Phase::Waiting)? {
                Some(Leave::Ask(call)) => return Ok(self.ask(call)),
                Some(_) => return Ok(self.give_up("manual webhook invoked")),
                None => {}
            }
        }
        match self.leave(HookKind::ConfirmRollout, self.status.phase)? {
            Leave::Granted => {}
            Leave::Ask(call) => return Ok(self.ask(call)),
            Leave::Refused(name, _) => {
                let since = self.run.waiting_since.filter(|_| waiting).unwrap_or(self.view.now);
                if elapsed(since, self.view.now) > APPROVAL_WAIT_MAX {
                    return Ok(self.give_up("nobody approved it in time"));
                }
                if !waiting {
                    let text = format!("Halt {full} advancement waiting for approval {name}");
                    draft.alert(Severity::Warn, &text).warning(text);
                }
                draft.budget_allows();
                draft.phase(Phase::Waiting).tick().wake(self.rules.interval);
                draft.run.waiting_since = Some(since);
                return Ok(draft.done(reasons::APPROVAL_PENDING));
            }
        }
        if self.target.replicas() == 0 {
            let replicas = primary.replicas().max(1);
            draft.act_if_unchanged(self.scale_target(replicas), &self.target.obj);
        }
        if self.pct() != 0
            && primary.available() > 0
            && self.primary_readiness(primary) == Readiness::Ready
        {
            draft.act(self.set_weight(0)).weight(0);
        } else {
            draft.weight(self.pct());
        }
        self.take_up(&mut draft);
        let message = format!("New revision detected! Scaling up {full}");
        draft.alert(Severity::Info, &message);
        draft.event(message).wake(self.rules.interval);
        Ok(draft.done(reasons::NEW_REVISION))
    }

    /// The error budget does not allow a new version now, or nobody knows whether it does.
    fn held_by_budget(&self) -> Option<Plan> {
        let budget = self.status.error_budget.as_ref()?;
        let age = self.view.now.as_second().saturating_sub(budget.observed_at);
        let (reason, why) = if !budget.permission.goes_ahead() {
            (budget.reason.as_str(), format!("{}: {}", budget.slo, budget.message))
        } else if age > BUDGET_AGE_MAX && budget.reason != NO_POLICY {
            let why = format!(
                "{}: its error budget was last looked at {age} s ago; see that the SLO controller \
                 runs",
                budget.slo
            );
            (reasons::BUDGET_NOT_LOOKED_AT, why)
        } else {
            return None;
        };
        let mut draft = self.draft();
        draft.held(reason, format!("Halt {} advancement {why}", self.view.names.full()));
        draft.phase(Phase::Waiting).tick().wake(self.rules.interval);
        Some(draft.done(reasons::BUDGET_PENDING))
    }

    /// The version that waits for leave will not get it.
    fn give_up(&self, cause: &str) -> Plan {
        let mut draft = self.draft();
        let message = format!("Rolling back {} {cause}", self.view.names.full());
        draft.alert(Severity::Error, &message).warning(message);
        self.take_up(&mut draft);
        draft.phase(Phase::Failed);
        draft.run.outcome = Some(format!("Canary analysis was not started: {cause}."));
        draft.run.after_hooks_due = self.has_after_hooks();
        draft.done(reasons::ROLLED_BACK)
    }

    /// The run is about the target as it is now, and starts from nothing.
    fn take_up(&self, draft: &mut Draft<'_>) {
        draft.budget_allows().phase(Phase::Progressing).tick();
        draft.status.failed_checks = 0;
        draft.run.failed_check = None;
        draft.run.outcome = None;
        draft.status.iterations = 0;
        draft.status.last_applied_spec.clone_from(&self.revision);
        draft.status.tracked_configs = (!self.marks.is_empty()).then(|| self.marks.clone());
        draft.run.started_at = Some(self.view.now);
        draft.run.waiting_since = None;
        draft.run.rollback_seconds = None;
        draft.run.data_missing_since = None;
        // Requests on their way to the version before end at the latest when the gateway confirms
        // the first weight of this one, whose pods are then the only ones.
        let quiet = self.pct() == 0 && self.status.canary_weight == 0;
        draft.run.clean_since =
            self.run.clean_since.or(Some(self.view.now)).filter(|_| quiet && !self.is_running());
    }

    /// Whether a version is being judged.
    fn is_running(&self) -> bool {
        matches!(self.status.phase, Phase::Progressing | Phase::WaitingPromotion)
    }

    /// A version is being judged.
    pub(crate) fn progress(&self, primary: &Workload) -> Result<Plan, Need> {
        let names = &self.view.names;
        let mut draft = self.draft();
        if self.revision != self.status.last_applied_spec || self.configs_changed() {
            if self.pct() != 0 {
                if primary.available() == 0 {
                    return Ok(self.nowhere_to_go());
                }
                draft.act(self.set_weight(0));
            }
            self.take_up(&mut draft);
            draft
                .weight(0)
                .wake(self.rules.interval)
                .event(format!("New revision detected! Restarting analysis for {}", names.full()));
            return Ok(draft.done(reasons::REVISION_CHANGED));
        }
        let pct = self.pct();
        if pct != self.status.canary_weight {
            // Written but not noted before a crash, or set by somebody else: the route is the truth.
            draft.tick().weight(pct).event(format!(
                "Found canary weight {pct} of {} in the route, going on from there",
                names.full()
            ));
            return Ok(draft.done(reasons::WEIGHT_ADOPTED));
        }
        // Before the first user meets the canary, the primary must stand; later on, the checks go
        // on all the same, and only the next step waits for it.
        let held = if pct == 0 { self.unready_primary(primary) } else { None };
        if let Some(plan) = held.or_else(|| self.unready_canary(primary, pct)) {
            return Ok(plan);
        }
        if let Some(plan) = self.unconfirmed(pct) {
            return Ok(plan);
        }
        if let Some(wait) = self.time_left() {
            return Ok(self.wait(reasons::INTERVAL_RUNNING, wait));
        }
        self.due(primary, pct)
    }

    /// When the primary is not ready: the wait for it, or what follows from it.
    fn unready_primary(&self, primary: &Workload) -> Option<Plan> {
        let names = &self.view.names;
        let mut draft = self.draft();
        match self.primary_readiness(primary) {
            Readiness::Ready => None,
            Readiness::Pending(text) => {
                let (target, ns) = (&names.target, &names.namespace);
                draft.waiting(format!("{target}-primary.{ns} not ready: waiting for {text}"));
                draft.wake(self.rules.interval);
                Some(draft.done(reasons::PRIMARY_UNREADY))
            }
            Readiness::Stuck(text) => {
                draft.roll_back(format!("primary not ready: {text}"));
                Some(draft.done(reasons::ROLLING_BACK))
            }
        }
    }

    /// When the canary is not ready: the wait for it, or what follows from it.
    fn unready_canary(&self, primary: &Workload, pct: i32) -> Option<Plan> {
        let names = &self.view.names;
        let mut draft = self.draft();
        let text = match self.canary_readiness() {
            Readiness::Ready
                if self
                    .reachable(&names.canary, self.target.needed(self.rules.canary_ready_pct)) =>
            {
                return None;
            }
            Readiness::Ready => "endpoints of its ready pods".to_owned(),
            Readiness::Pending(text) => text,
            Readiness::Stuck(text) => {
                draft.roll_back(format!("progress deadline exceeded: {text}"));
                return Some(draft.done(reasons::ROLLING_BACK));
            }
        };
        if pct == 0 {
            let started = self.run.started_at.unwrap_or(self.view.now);
            if elapsed(started, self.view.now) > self.rules.deadline {
                draft.roll_back(format!("progress deadline exceeded: {text}"));
                return Some(draft.done(reasons::ROLLING_BACK));
            }
            draft.waiting(format!("Waiting for {} {text}", names.full()));
            draft.wake(self.rules.interval);
            return Some(draft.done(reasons::CANARY_UNREADY));
        }
        if self.target.available() == 0 && pct < 100 && primary.available() > 0 {
            // Users must not pay for it: out of traffic at once. The run goes on when it is back.
            draft.act(self.set_weight(0));
            self.count_failure(&mut draft, self.halt(format!("no replica is available: {text}")));
            draft.weight(0);
            draft.run.started_at = Some(self.view.now);
            return Some(draft.done(reasons::CANARY_UNREADY));
        }
        // One interval of grace: a pod that restarts is not yet a bad version.
        let due = self.due_at();
        if self.view.now < later(due, self.rules.interval) {
            draft.waiting(format!("Waiting for {} {text}", names.full()));
            draft.wake(elapsed(self.view.now, later(due, self.rules.interval)));
            return Some(draft.done(reasons::CANARY_UNREADY));
        }
        let failure = self.halt(format!("canary not ready: waiting for {text}"));
        self.count_failure(&mut draft, failure);
        Some(draft.done(reasons::CHECK_FAILED))
    }

    /// The window of a weight starts when the gateway routes by it, on every worker.
    fn unconfirmed(&self, pct: i32) -> Option<Plan> {
        if pct == 0 || !self.view.settings.confirm {
            return None;
        }
        let generation = self.view.route.as_ref().map(|seen| seen.obj.generation());
        if self.run.confirmed_at.is_some() && self.run.confirmed_generation == generation {
            return None;
        }
        let mut draft = self.draft();
        if self.confirmed() {
            draft.run.confirmed_at = Some(self.view.now);
            draft.run.confirmed_generation = generation;
            draft.run.clean_since = self.run.clean_since.or(Some(self.view.now));
            draft.wake(self.rules.interval);
            return Some(draft.done(reasons::WEIGHT_CONFIRMED));
        }
        let since = self.run.ticked_at.unwrap_or(self.view.now);
        let waited = elapsed(since, self.view.now);
        if let Some(left) = self.rules.interval.checked_sub(waited).filter(|left| !left.is_zero()) {
            return Some(self.wait(reasons::CONFIRMATION_PENDING, left));
        }
        let failure = self.halt(format!("the gateway has not confirmed weight {pct}"));
        self.count_failure(&mut draft, failure);
        Some(draft.done(reasons::CHECK_FAILED))
    }

    /// When the present tick is due.
    fn due_at(&self) -> Timestamp {
        let since = [self.run.ticked_at, self.run.confirmed_at].into_iter().flatten().max();
        since.map_or(self.view.now, |since| later(since, self.rules.interval))
    }

    /// Time until the present tick is due; `None` when it is.
    pub(crate) fn time_left(&self) -> Option<Duration> {
        Some(elapsed(self.view.now, self.due_at())).filter(|left| !left.is_zero())
    }

    /// A tick: webhooks, metrics, and the next step if all is well.
    fn due(&self, primary: &Workload, pct: i32) -> Result<Plan, Need> {
        let phase = self.status.phase;
        let mut draft = self.draft();
        match self.rollback_wanted(phase)? {
            Some(Leave::Ask(call)) => return Ok(self.ask(call)),
            Some(_) => {
                draft.roll_back("manual webhook invoked".to_owned());
                return Ok(draft.done(reasons::ROLLING_BACK));
            }
            None => {}
        }
        if self.view.canary.spec.skip_analysis {
            return Ok(self.promote(primary));
        }
        let starting = pct == 0 && self.status.iterations == 0;
        let judged = if starting { self.judge_start()? } else { self.judge()? };
        match judged {
            // With all traffic on the canary there is no primary to wait for.
            Judged::Passed if pct < 100 => match self.unready_primary(primary) {
                Some(plan) => Ok(plan),
                None => self.step(primary, pct),
            },
            Judged::Passed => self.step(primary, pct),
            Judged::Failed(failure) => {
                self.count_failure(&mut draft, failure);
                Ok(draft.done(reasons::CHECK_FAILED))
            }
            Judged::Early(plan) => Ok(plan),
        }
    }

    fn judge_start(&self) -> Result<Judged, Need> {
        Ok(match self.leave(HookKind::PreRollout, self.status.phase)? {
            Leave::Granted => Judged::Passed,
            Leave::Ask(call) => Judged::Early(self.ask(call)),
            Leave::Refused(name, why) => {
                Judged::Failed(self.halt(format!("pre-rollout check {name} failed {why}")))
            }
        })
    }

    fn judge(&self) -> Result<Judged, Need> {
        match self.leave(HookKind::Rollout, self.status.phase)? {
            Leave::Granted => {}
            Leave::Ask(call) => return Ok(Judged::Early(self.ask(call))),
            Leave::Refused(name, why) => {
                let failure = self.halt(format!("external check {name} failed {why}"));
                return Ok(Judged::Failed(failure));
            }
        }
        // Built-in and inline metrics first, then templates, each in the order written.
        let (templates, plain): (Vec<_>, Vec<_>) = self
            .rules
            .metrics
            .iter()
            .partition(|rule| matches!(rule.kind, MetricKind::Template(..)));
        for rule in plain.into_iter().chain(templates) {
            if let Some(plan) = self.window_of_two_versions(rule) {
                return Ok(Judged::Early(plan));
            }
            let asked = Asked {
                names: &self.view.names,
                canary: self.view.obj.name(),
                source: self.rules.source,
                template: self.template(rule),
            };
            let checked = asked
                .judge(rule, |query| self.view.answers.get(query).cloned())
                .map_err(|unanswered| Need::Answer(unanswered.0))?;
            match checked {
                Checked::Passed => {}
                Checked::Failed { event, check } => {
                    let event = self.halt(event).event;
                    let data_missing_since = None;
                    return Ok(Judged::Failed(Failure { event, check, data_missing_since }));
                }
                Checked::NoData(problem) => return Ok(self.without_data(rule, &problem)),
            }
        }
        Ok(Judged::Passed)
    }

    /// A metric's window is as long as the metric says, however short the steps are: it may reach
    /// back over earlier weights, whose requests the same version answered. It must not reach back
    /// to the version before, which had the same name.
    fn window_of_two_versions(&self, rule: &MetricRule) -> Option<Plan> {
        let since = [self.run.clean_since, self.run.confirmed_at, self.run.ticked_at];
        let since = since.into_iter().flatten().next()?;
        let clean_at = later(since, rule.window);
        let left = Some(elapsed(self.view.now, clean_at)).filter(|left| !left.is_zero())?;
        let mut draft = self.draft();
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
    fn without_data(&self, rule: &MetricRule, problem: &str) -> Judged {
        let since = self.run.data_missing_since.unwrap_or(self.view.now);
        let until = later(since, rule.window.max(DATA_PATIENCE_MIN));
        let left = elapsed(self.view.now, until);
        if !left.is_zero() {
            let mut draft = self.draft();
            draft.run.data_missing_since = Some(since);
            draft.waiting(format!(
                "Waiting for data of metric {}: {problem}. Without any until {until:.0} the check \
                 counts as failed",
                rule.name
            ));
            draft.wake(left.min(DATA_WAIT));
            return Judged::Early(draft.done(reasons::DATA_PENDING));
        }
        let event = format!(
            "Halt advancement no values found for metric {} probably {} is not receiving traffic: \
             {problem}",
            rule.name,
            self.view.names.full()
        );
        let check = format!("{}: {problem}", rule.name);
        Judged::Failed(Failure { event, check, data_missing_since: Some(since) })
    }

    fn template(&self, rule: &MetricRule) -> Option<&MetricTemplate> {
        let MetricKind::Template(reference, _) = &rule.kind else { return None };
        self.view.templates.get(reference).map(AsRef::as_ref)
    }

    /// A check that failed for this reason.
    fn halt(&self, check: String) -> Failure {
        let event = format!("Halt {} advancement {check}", self.view.names.full());
        Failure { event, check, data_missing_since: None }
    }

    /// One more failed check; at the threshold the version is rolled back.
    fn count_failure(&self, draft: &mut Draft<'_>, failure: Failure) {
        let Failure { event, check, data_missing_since } = failure;
        draft.tick();
        // Patience with missing data is granted once, not for every check anew.
        draft.run.data_missing_since = data_missing_since;
        draft.status.failed_checks += 1;
        draft.run.step_failed_checks += 1;
        draft.warning(event).wake(self.rules.interval);
        let failed = draft.status.failed_checks;
        if failed >= self.rules.threshold {
            draft.roll_back(format!("failed checks threshold reached {failed}: {check}"));
        }
        draft.run.failed_check = Some(check);
    }

    /// All checks passed: the next weight, or the end of the ramp.
    fn step(&self, primary: &Workload, pct: i32) -> Result<Plan, Need> {
        let full = self.view.names.full();
        let mut draft = self.draft();
        if pct == 0 && self.status.iterations == 0 {
            draft.event(format!("Starting canary analysis for {full}"));
        }
        if self.rules.iterations > 0 {
            return self.iterate(primary, pct, draft);
        }
        let Some(next) = self.rules.ramp.next(pct) else { return self.promotion(primary) };
        match self.leave(HookKind::ConfirmTrafficIncrease, self.status.phase)? {
            Leave::Granted => {}
            Leave::Ask(call) => return Ok(self.ask(call)),
            Leave::Refused(name, _) => {
                let mut draft = self.draft();
                let since = self.run.waiting_since.unwrap_or(self.view.now);
                if elapsed(since, self.view.now) > APPROVAL_WAIT_MAX {
                    draft.roll_back("nobody approved more traffic for it in time".to_owned());
                    return Ok(draft.done(reasons::ROLLING_BACK));
                }
                draft.tick().run.note.clone_from(&self.run.note);
                draft.run.waiting_since = Some(since);
                draft.stalled(format!(
                    "Halt {full} advancement waiting for traffic increase approval {name}"
                ));
                draft.wake(self.rules.interval);
                return Ok(draft.done(reasons::APPROVAL_PENDING));
            }
        }
        self.shift(&mut draft, next);
        draft.event(format!("Advance {full} canary weight {next}"));
        Ok(draft.done(reasons::STEP_DUE))
    }

    /// Blue/green: checks without traffic, then all of it.
    fn iterate(&self, primary: &Workload, pct: i32, mut draft: Draft<'_>) -> Result<Plan, Need> {
        let full = self.view.names.full();
        if self.status.iterations < self.rules.iterations {
            let done = self.status.iterations + 1;
            draft.status.iterations = done;
            draft
                .tick()
                .wake(self.rules.interval)
                .event(format!("Advance {full} canary iteration {done}/{}", self.rules.iterations));
            return Ok(draft.done(reasons::STEP_DUE));
        }
        if pct < 100 {
            self.shift(&mut draft, 100);
            draft.event(format!("Routing all traffic to canary {full}"));
            return Ok(draft.done(reasons::STEP_DUE));
        }
        self.promotion(primary)
    }

    fn shift(&self, draft: &mut Draft<'_>, pct: i32) {
        let set = self.set_weight(pct);
        match &self.view.route {
            Some(seen) => draft.act_if_unchanged(set, &seen.obj),
            None => draft.act(set),
        };
        draft.tick().weight(pct).wake(self.rules.interval);
        draft.run.waiting_since = None;
    }

    /// The ramp has ended: leave is asked for, then the primary takes the version over.
    fn promotion(&self, primary: &Workload) -> Result<Plan, Need> {
        let waiting = self.status.phase == Phase::WaitingPromotion;
        match self.leave(HookKind::ConfirmPromotion, self.status.phase)? {
            Leave::Granted => Ok(self.promote(primary)),
            Leave::Ask(call) => Ok(self.ask(call)),
            Leave::Refused(name, _) => {
                let mut draft = self.draft();
                let since = self.run.waiting_since.filter(|_| waiting).unwrap_or(self.view.now);
                if elapsed(since, self.view.now) > APPROVAL_WAIT_MAX {
                    draft.roll_back("nobody approved its promotion in time".to_owned());
                    return Ok(draft.done(reasons::ROLLING_BACK));
                }
                if !waiting {
                    let text = format!(
                        "Halt {} advancement waiting for promotion approval {name}",
                        self.view.names.full()
                    );
                    draft.alert(Severity::Warn, &text).warning(text);
                }
                draft.phase(Phase::WaitingPromotion).tick().wake(self.rules.interval);
                draft.run.waiting_since = Some(since);
                Ok(draft.done(reasons::APPROVAL_PENDING))
            }
        }
    }

    /// The primary gets the target's template.
    fn promote(&self, primary: &Workload) -> Plan {
        let names = &self.view.names;
        let mut draft = self.draft();
        draft.act_all(self.missing_copies());
        if let Some(patch) = self.rewrite().promotion(self.target, primary) {
            let key = primary.obj.key().clone();
            draft.act_if_unchanged(evenkeel_control::Action::Patch { key, patch }, &primary.obj);
        }
        draft.phase(Phase::Promoting).tick().wake(self.rules.interval);
        draft.run.waiting_since = None;
        draft.event(format!(
            "Copying {} template spec to {}.{}",
            names.full(),
            names.target_primary,
            names.namespace
        ));
        draft.done(reasons::PROMOTING)
    }
}

fn later(at: Timestamp, by: Duration) -> Timestamp {
    let by = SignedDuration::try_from(by).unwrap_or(SignedDuration::MAX);
    at.checked_add(by).unwrap_or(Timestamp::MAX)
}
