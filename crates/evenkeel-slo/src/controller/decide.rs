use std::{cmp::Reverse, collections::BTreeMap, time::Duration};

use evenkeel_api::{
    ConditionUpdate, Key, Obj,
    beside::is_handed_over,
    set_condition,
    slo::{ErrorBudget, PrometheusRule},
};
use evenkeel_control::{Action, EventNote, EventType, Plan, Propagation};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

use super::{
    changes::{self, change_of},
    fit::fit,
    former,
    manifest::{self, RulesMark},
    status::{Change, LedgerShare, SloQuery, SloState, SloStatusObject},
    strict::{self, Judged},
    tracker::Sight,
    view::{RulesSeen, SloSeen, SloSight, SloView},
};
use crate::{
    budget::{Cause, Coverage, Events, History, Ledger, LedgerLine, SloKey, Standing},
    duration::PromDuration,
    finding,
    policy::{Account, ActionClass, State},
    reasons,
};

/// Data older than this is not fresh, unless looks are rarer.
const STALE_AFTER: PromDuration = PromDuration::from_ms(5 * 60_000);
/// The burn that a forecast continues.
const FORECAST_SPAN: PromDuration = PromDuration::from_ms(3_600_000);
/// Burn rates in the status, beside those that the policy asks for.
const BURNS: [PromDuration; 3] = [
    PromDuration::from_ms(5 * 60_000),
    PromDuration::from_ms(3_600_000),
    PromDuration::from_ms(6 * 3_600_000),
];
/// Longest reservation: a release that takes longer is not one.
const RESERVED_MAX: PromDuration = PromDuration::from_ms(24 * 3_600_000);
/// Lines of a ledger that are written down.
const LEDGER_MAX: usize = 20;
/// Budgets of one object that are written down, the worst first.
const BUDGETS_MAX: usize = 100;
/// Numbers that nobody decides by are written this often, so that readers know that somebody
/// still looks. Two fifths of `ErrorBudget::FRESH_SECONDS`: an answer may be late by as much again,
/// and a thousand SLOs cost four writes a second.
const REFRESH_SECONDS: i64 = 240;
/// And this often while people watch what a release costs.
const COSTS_SECONDS: i64 = 20;
/// How long they watch after its end.
const WATCHED_SECONDS: i64 = 600;
/// Pause before the next chunk of a window that is being counted.
const COUNTING_PAUSE: Duration = Duration::from_secs(1);
/// Problems that are named in a condition.
const PROBLEMS_MAX: usize = 3;

/// Decides what to write and what to say. Pure: same view, same plan.
pub(super) fn decide(sight: &SloSight) -> Plan {
    match sight {
        SloSight::There(view) => look(view),
        SloSight::RulesLeft(rules) => {
            let (key, uid) = (rules.key().clone(), rules.uid().to_owned());
            let propagation = Propagation::Background;
            Plan::act(reasons::SLO_GONE, vec![Action::Delete { key, uid, propagation }])
        }
    }
}

fn look(view: &SloView) -> Plan {
    let wait = if view.is_counting() { COUNTING_PAUSE.min(view.every) } else { view.every };
    let mut plan = Plan::wait(reasons::LOOKING, wait);
    let mut status = (*view.status).clone();
    status.observed_generation = view.obj.generation();
    status.handed_over |= is_handed_over(view.obj.json());
    rules(view, &mut plan, &mut status);
    metrics(view, &mut status);
    status.changes = changes::changes(view);
    let causes = changes::causes(view, &status.changes);
    let queries = former::queries(view.slos.iter().map(|seen| &seen.slo));
    let pass = Pass { view, changes: &status.changes, causes: &causes, queries: &queries };
    let mut budgets: Vec<_> =
        view.slos.iter().flat_map(|seen| pass.budgets(seen, &mut plan.events)).collect();
    // Unknown is worse than any number: it may hide an outage.
    let rank = |state: &SloState| state.remaining_percent.unwrap_or(f64::NEG_INFINITY);
    budgets.sort_by(|a, b| rank(a).total_cmp(&rank(b)).then_with(|| a.id.cmp(&b.id)));
    budgets.truncate(BUDGETS_MAX);
    status.slos = budgets;
    status.former = former::former(view, &queries);
    status.queries = queries;
    match fit(&mut status) {
        None => status.conditions.retain(|condition| condition.type_ != SHORTENED),
        Some(what) => set(view, &mut status, SHORTENED, ("True", SHORTENED, &what)),
    }
    write(view, status, plan)
}

/// The rules of the object, and what reading it had to say.
fn rules(view: &SloView, plan: &mut Plan, status: &mut SloStatusObject) {
    status.processed_slos = view.slos.len();
    let mut install = match view.manifest.rules {
        Some(_) => ("True", "Installed", "PrometheusRule is as generated".to_owned()),
        None => ("False", "NoRules", "none are generated, the condition Valid says why".to_owned()),
    };
    let generated = view.manifest.rules.map_or(0, |mark| mark.slos);
    if let Some(mark) = view.manifest.rules {
        let key = view.obj.key().sibling::<PrometheusRule>(view.obj.name());
        match want_rules(view, mark) {
            Ok(None) => {}
            Ok(Some(want)) => {
                plan.actions.push(Action::Apply(Box::new(want)));
                plan.reason = reasons::RULES_CHANGED;
                status.last_prom_op_rules_successful_generated = Some(Time(view.now));
            }
            Err((reason, message)) => install = ("False", reason, format!("{key}: {message}")),
        }
    }
    status.prom_op_rules_generated = view.manifest.rules.is_some() && generated == view.slos.len();
    status.prom_op_rules_generated_slos = generated;
    let found = finding::conditions(&view.manifest.findings);
    status.conditions.retain(|c| {
        let ours = c.type_ == METRICS
            || c.type_ == RULES
            || c.type_ == SHORTENED
            || (c.type_ == IGNORED && !view.ignored.is_empty());
        ours || found.iter().any(|f| f.kind == c.type_)
    });
    for condition in &found {
        let words = (condition.status, condition.reason, condition.message.as_str());
        set(view, status, condition.kind, words);
    }
    set(view, status, RULES, (install.0, install.1, &install.2));
    if !view.ignored.is_empty() {
        let message = view.ignored.iter().take(PROBLEMS_MAX).cloned().collect::<Vec<_>>();
        set(view, status, IGNORED, ("True", IGNORED, &message.join("; ")));
    }
}

/// Whether all counters have been read, and if not, which and why.
fn metrics(view: &SloView, status: &mut SloStatusObject) {
    let all = |pick: &dyn Fn(&SloSeen) -> Option<String>| {
        let named = |seen: &SloSeen| Some(format!("{}: {}", seen.slo.path, pick(seen)?));
        let found: Vec<String> = view.slos.iter().filter_map(named).take(PROBLEMS_MAX).collect();
        (!found.is_empty()).then(|| found.join("; "))
    };
    let words = if view.slos.is_empty() {
        let message = "no SLO of this object can be read".to_owned();
        ("Unknown", reasons::NOTHING_TO_COUNT, message)
    } else if let Some(message) = all(&|seen| seen.problem.clone()) {
        ("False", reasons::NOT_COUNTED, message)
    } else if let Some(message) = all(&no_series) {
        ("False", reasons::NO_SERIES, message)
    } else if let Some(message) = all(&|seen| match seen.sight {
        Sight::Counting(percent) => Some(format!("{percent} % of the window is counted")),
        _ => None,
    }) {
        ("Unknown", reasons::COUNTING, message)
    } else {
        ("True", reasons::COUNTED, "all counters have been read".to_owned())
    };
    set(view, status, METRICS, (words.0, words.1, &words.2));
}

/// What is said about an SLO whose queries find nothing.
fn no_series(seen: &SloSeen) -> Option<String> {
    let Sight::NoSeries { query, evidence } = &seen.sight else { return None };
    Some(match evidence {
        Some(evidence) => format!(
            "no series matches {query}; {evidence}, so the service has had no events yet, or the \
             query is wrong"
        ),
        None => format!(
            "no series matches {query}: correct the query, or see that the service is scraped"
        ),
    })
}

/// Sets a condition: status, reason, message.
fn set(view: &SloView, status: &mut SloStatusObject, kind: &str, words: (&str, &str, &str)) {
    let update = ConditionUpdate {
        kind,
        status: words.0,
        reason: words.1,
        message: words.2,
        observed_generation: view.obj.generation(),
    };
    set_condition(&mut status.conditions, &update, view.now);
}

/// Condition: whether the counters could be looked at.
pub(super) const METRICS: &str = "MetricsAvailable";
/// Condition, and its reason: a maintenance of the namespace excludes nothing.
pub(super) const IGNORED: &str = reasons::MAINTENANCE_IGNORED;
/// Condition, and its reason: what the status has no room for.
pub(super) const SHORTENED: &str = "StatusShortened";
/// Condition: whether the rules stand.
pub(super) const RULES: &str = "RulesInstalled";

/// The rules' object if it is not there or not as it should be.
fn want_rules(view: &SloView, mark: RulesMark) -> Result<Option<Obj>, (&'static str, String)> {
    match &view.rules_have {
        RulesSeen::KindMissing => {
            let message = "the cluster does not know this kind; install its definition (the \
                Prometheus operator brings it), or load the output of `evenkeel slo generate`";
            return Err(("KindMissing", message.to_owned()));
        }
        RulesSeen::Unread(problem) => {
            let message =
                format!("cannot be read: {problem}; allow to get, list and watch prometheusrules");
            return Err((reasons::RULES_UNREAD, message));
        }
        RulesSeen::There(have) => {
            if !have.is_owned_by(view.obj.uid()) {
                let message = "exists and has another owner: rename one of the two";
                return Err(("NameTaken", message.to_owned()));
            }
            if mark.is_of(have) {
                return Ok(None);
            }
        }
        RulesSeen::Absent => {}
    }
    let Some(set) = manifest::rules(&view.obj) else { return Ok(None) };
    let inherited = set.object.clone().unwrap_or_default();
    let body = json!({
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {
            "name": view.obj.name(),
            "namespace": view.obj.namespace(),
            "labels": inherited.labels,
            "annotations": inherited.annotations,
            "ownerReferences": [view.obj.owner_reference()],
        },
        "spec": {"groups": manifest::groups(&set)},
    });
    Obj::from_json(body).map(Some).map_err(|error| ("Unreadable", error.to_string()))
}

/// What every budget of one decision shares.
struct Pass<'a> {
    view: &'a SloView,
    changes: &'a [Change],
    causes: &'a [Cause],
    /// What each SLO counts now.
    queries: &'a [SloQuery],
}

impl Pass<'_> {
    /// How the budgets of one SLO stand.
    fn budgets(&self, seen: &SloSeen, events: &mut Vec<EventNote>) -> Vec<SloState> {
        let Sight::Counting(percent) = seen.sight else {
            let histories = seen.histories.iter();
            return histories
                .map(|(key, history)| self.budget(seen, key, history, events))
                .collect();
        };
        // After a restart, what was known before stands until it is too old to be believed.
        let now = self.view.now.as_second();
        let fresh = |old: &&SloState| now - old.observed_at <= ErrorBudget::FRESH_SECONDS;
        let id = self.view.status.id_of(&seen.slo, self.queries);
        let before = self.view.status.slos.iter().filter(|old| old.id == id);
        let mut states: Vec<SloState> = before.filter(fresh).cloned().collect();
        if states.is_empty() {
            let histories = seen.histories.iter().take(1);
            states =
                histories.map(|(key, history)| self.budget(seen, key, history, events)).collect();
        }
        for state in &mut states {
            state.id.clone_from(&seen.slo.id);
            state.counted_percent = seen.problem.is_none().then_some(percent);
        }
        states
    }

    /// How one budget stands.
    fn budget(
        &self,
        seen: &SloSeen,
        key: &SloKey,
        history: &History,
        events: &mut Vec<EventNote>,
    ) -> SloState {
        let now = self.view.now;
        let rarely = u64::try_from(self.view.every.as_millis() * 4).unwrap_or(u64::MAX);
        let stale_after = STALE_AFTER.max(PromDuration::from_ms(rarely));
        let standing = history.standing(now, &seen.exclusions, stale_after);
        let ledger = Ledger::build(history, now, self.causes, &seen.exclusions, 0);
        let lines = ledger.lines(&standing);
        let status = &self.view.status;
        let id = status.id_of(&seen.slo, self.queries);
        let before = status.slos.iter().find(|old| old.id == id && old.group == key.group);
        let policies = self.view.policies(&seen.slo);
        let Judged { policy, stands, others, burns: asked } =
            strict::judge(&policies, before, (history, &standing));
        if let Some(old) = before.filter(|old| old.state != stands.state) {
            let about = self.view.obj.key();
            events.push(state_event(about, &key.id, old.state, stands.state, &standing));
        }
        let kept = || former::account(self.view, key, &seen.slo);
        let mut account = before.map(|old| old.account.clone()).or_else(kept).unwrap_or_default();
        let spent = |id: &str| {
            let mine =
                lines.iter().filter(|l| l.cause.as_ref().is_some_and(|(_, cause)| cause == id));
            // A sum of nothing is -0.
            0.0 + mine.map(|line| line.budget_share).sum::<f64>()
        };
        self.book((history, &standing), &mut account, spent, events);
        let same = status.counts(id, &seen.slo, self.view.obj.generation());
        let last_traffic = before.filter(|_| same).and_then(|old| old.last_traffic);
        let known = standing.remaining().is_some();
        let mut burn = burns(history, now);
        burn.extend(asked.into_iter().map(|(window, rate)| (window.to_string(), rate)));
        SloState {
            id: key.id.clone(),
            group: key.group.clone(),
            objective: seen.slo.objective,
            policy,
            state: stands.state,
            since: stands.since,
            other_policies: others,
            coverage: standing.coverage,
            unknown: (!known).then(|| why_unknown(seen, &standing)),
            counted_percent: None,
            remaining_percent: standing.remaining().map(|left| left_percent(left, &standing)),
            bad: standing.counted.bad().as_f64(),
            total: standing.counted.total().as_f64(),
            allowed: known.then(|| standing.allowed().as_f64()),
            requests_per_second: changes::requests_per_second(history, now),
            last_traffic: standing.last_traffic.max(last_traffic),
            burn,
            forecast: Some(history.forecast(&standing, FORECAST_SPAN)),
            ledger: shares(&lines),
            account,
            observed_at: now.as_second(),
        }
    }

    /// Reserves for what has begun, notes what it costs, and settles what is over.
    fn book(
        &self,
        (history, standing): (&History, &Standing),
        account: &mut Account,
        spent: impl Fn(&str) -> f64,
        events: &mut Vec<EventNote>,
    ) {
        account.expire(self.view.now);
        for change in self.changes {
            let id = change.id.as_str();
            let reserved = account.reservations().contains_key(id);
            if change.to.is_none() && !reserved {
                let mut running = self.view.running.iter();
                let of = running.find(|seen| change_of(&seen.obj, &seen.canary) == id);
                let traffic = changes::requests_per_second(history, self.view.now);
                let cost = of
                    .and_then(|seen| changes::plan(&seen.canary, traffic)?.budget_share(standing));
                let ask = (ActionClass::Deploy, cost.unwrap_or(0.0));
                if let Err(error) = account.reserve(id, ask, self.view.now, RESERVED_MAX) {
                    tracing::warn!(object = %self.view.obj.key(), %error, "nothing reserved");
                }
            }
            if !account.reservations().contains_key(id) {
                continue;
            }
            let cost = spent(id);
            let booked = if changes::is_settled(self.view, change) {
                account.settle(id, cost, self.view.now).map(|settled| {
                    let message = format!(
                        "{id} cost {:.4} % of the budget; at worst {:.2} % were set aside",
                        settled.measured * 100.0,
                        settled.expected * 100.0
                    );
                    events.push(EventNote {
                        about: self.view.obj.key().clone(),
                        kind: EventType::Normal,
                        reason: reasons::CHANGE_SETTLED,
                        message,
                    });
                })
            } else {
                account.progress(id, cost)
            };
            if let Err(error) = booked {
                tracing::warn!(object = %self.view.obj.key(), %error, "cost not booked");
            }
        }
    }
}

/// Cause, in a ledger, of what no change explains.
pub const UNEXPLAINED: &str = "unexplained";

fn state_event(about: &Key, id: &str, from: State, to: State, standing: &Standing) -> EventNote {
    let left = standing.remaining().map_or_else(
        || "there is no data about the budget".to_owned(),
        |left| format!("{:.2} % of the budget is left", left * 100.0),
    );
    let calm = matches!(to, State::Healthy | State::Caution);
    EventNote {
        about: about.clone(),
        kind: if calm { EventType::Normal } else { EventType::Warning },
        reason: reasons::BUDGET_STATE,
        message: format!("{id}: {from} -> {to}, {left}"),
    }
}

fn burns(history: &History, now: Timestamp) -> BTreeMap<String, f64> {
    let rate = |span: &PromDuration| Some((span.to_string(), history.burn_rate(now, *span)?));
    BURNS.iter().filter_map(rate).collect()
}

/// The lines in whole failures, with the sum that `bad` is rounded to. Counters count whole
/// events; only where events are estimated is there anything to round.
fn shares(lines: &[LedgerLine]) -> Vec<LedgerShare> {
    let one = Events::whole(1).micros();
    let sum = lines.iter().fold(Events::ZERO, |sum, line| sum.plus(line.bad)).micros();
    let whole: u128 = lines.iter().map(|line| line.bad.micros() / one).sum();
    let left = usize::try_from(((sum + one / 2) / one).saturating_sub(whole)).unwrap_or(0);
    let mut by_rest: Vec<usize> = (0..lines.len()).collect();
    by_rest.sort_by_key(|at| Reverse(lines.get(*at).map_or(0, |line| line.bad.micros() % one)));
    by_rest.truncate(left);
    let share = |(at, line): (usize, &LedgerLine)| {
        let extra = u128::from(by_rest.contains(&at));
        LedgerShare {
            cause: line.cause.as_ref().map_or_else(|| UNEXPLAINED.to_owned(), |c| c.1.clone()),
            failures: Events::from_micros((line.bad.micros() / one + extra) * one).as_f64(),
            budget_percent: percent(line.budget_share),
        }
    };
    lines.iter().enumerate().take(LEDGER_MAX).map(share).collect()
}

fn why_unknown(seen: &SloSeen, standing: &Standing) -> String {
    if let Some(problem) = &seen.problem {
        return problem.clone();
    }
    if let Some(why) = no_series(seen) {
        return why;
    }
    match (standing.coverage, standing.last_data) {
        (Coverage::Stale, Some(at)) => format!("the newest data is of {at:.0}"),
        _ => "nothing has been counted".to_owned(),
    }
}

/// A share as a percentage with four decimals: what people and thresholds can tell apart.
pub(super) fn percent(share: f64) -> f64 {
    (share * 1e6).round() / 1e4
}

/// What is left, in percent. Nothing of nothing is nothing, not minus infinity.
fn left_percent(left: f64, standing: &Standing) -> f64 {
    if standing.allowed() == Events::ZERO { percent(left.max(0.0)) } else { percent(left) }
}

/// Adds the status if it is worth a write: at once when something changed that a reader decides
/// by, soon when a release costs something, and otherwise now and then.
fn write(view: &SloView, mut status: SloStatusObject, plan: Plan) -> Plan {
    let now = view.now.as_second();
    let age = now - view.status.numbers_at;
    let moved = |new: &SloState| {
        let same = |old: &&SloState| old.id == new.id && old.group == new.group;
        view.status.slos.iter().find(same).is_some_and(|old| new.has_moved(old))
    };
    let news =
        status.without_noise() != view.status.without_noise() || status.slos.iter().any(moved);
    let ended = |change: &Change| change.to.is_none_or(|to| now - to.as_second() < WATCHED_SECONDS);
    let watched = status.changes.iter().any(ended);
    let costs = watched && age >= COSTS_SECONDS && !status.costs().eq(view.status.costs());
    // While it is counted again, nothing that is known gets older than it is.
    let refresh = age >= REFRESH_SECONDS && !view.is_counting();
    if !(news || costs || refresh) {
        return plan;
    }
    status.numbers_at = now;
    // A status is plain data; that it serialises is checked by a test.
    let mut body = serde_json::to_value(&status).unwrap_or(Value::Null);
    if let Some(fields) = body.as_object_mut() {
        if status.last_prom_op_rules_successful_generated.is_none() {
            fields.insert("lastPromOpRulesSuccessfulGenerated".to_owned(), Value::Null);
        }
        if view.obj.json().pointer("/status/decisions").is_some() {
            // Written by earlier versions; the answers now stand in the Canaries alone.
            fields.insert("decisions".to_owned(), Value::Null);
        }
    }
    plan.with_status(view.obj.key().clone(), body)
}
