use evenkeel_api::{
    ConditionUpdate, Key, Obj,
    canary::Canary,
    set_condition,
    slo::{ErrorBudget, PrometheusRule},
};
use evenkeel_control::{Action, EventNote, EventType, Plan};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

use super::{
    changes::{self, Question, REPEAT_SECONDS, change_of, percent},
    status::{Change, Decision, LedgerShare, SloState, SloStatusObject, still},
    view::{RulesSeen, SloSeen, SloView},
};
use crate::{
    budget::{Cause, Events, History, Ledger, SloKey, Standing},
    duration::PromDuration,
    finding,
    policy::{Account, ActionClass, ErrorBudgetPolicy, Memory, Signal, State, step},
    reasons,
};

/// Data older than this is not fresh, unless looks are rarer.
const STALE_AFTER: PromDuration = PromDuration::from_ms(5 * 60_000);
/// The burn that a forecast continues.
const FORECAST_SPAN: PromDuration = PromDuration::from_ms(3_600_000);
/// Burn rates in the status.
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

/// One budget with everything about it.
struct Budget<'a> {
    seen: &'a SloSeen,
    history: &'a History,
    standing: Standing,
    state: SloState,
}

/// Decides what to write and what to say. Pure: same view, same plan.
pub(super) fn decide(view: &SloView) -> Plan {
    let mut plan = Plan::wait(reasons::LOOKING, view.every);
    let mut status = view.status.clone();
    status.observed_generation = view.obj.generation();
    rules(view, &mut plan, &mut status);
    status.changes = changes::changes(view);
    let causes = changes::causes(view, &status.changes);
    let pass = Pass { view, changes: &status.changes, causes: &causes };
    let mut budgets: Vec<_> = view
        .slos
        .iter()
        .flat_map(|seen| seen.histories.iter().map(move |(key, history)| (seen, key, history)))
        .map(|(seen, key, history)| pass.budget(seen, key, history, &mut plan.events))
        .collect();
    // Unknown is worse than any number: it may hide an outage.
    let rank = |b: &Budget<'_>| b.state.remaining_percent.unwrap_or(f64::NEG_INFINITY);
    budgets.sort_by(|a, b| rank(a).total_cmp(&rank(b)).then_with(|| a.state.id.cmp(&b.state.id)));
    status.decisions = decisions(view, &budgets);
    status.slos = budgets.into_iter().map(|budget| budget.state).take(BUDGETS_MAX).collect();
    tell_canaries(view, &status.decisions, &mut plan);
    write(view, status, plan)
}

/// The rules of the object, and what reading it had to say.
fn rules(view: &SloView, plan: &mut Plan, status: &mut SloStatusObject) {
    status.processed_slos = view.slos.len();
    let mut install = ("True", "Installed", "PrometheusRule is as generated".to_owned());
    let generated = view.rules.as_ref().map_or(0, |set| set.slos);
    if let Some(set) = &view.rules {
        let key = view.obj.key().sibling::<PrometheusRule>(view.obj.name());
        match want_rules(view, set) {
            Ok(None) => {}
            Ok(Some(want)) => {
                plan.actions.push(Action::Apply(Box::new(want)));
                plan.reason = reasons::RULES_CHANGED;
                status.last_prom_op_rules_successful_generated = Some(Time(view.now));
            }
            Err((reason, message)) => install = ("False", reason, format!("{key}: {message}")),
        }
    }
    status.prom_op_rules_generated = view.rules.is_some() && generated == view.slos.len();
    status.prom_op_rules_generated_slos = generated;
    let found = finding::conditions(&view.findings);
    status.conditions.retain(|c| {
        let ours = c.type_ == METRICS || c.type_ == RULES;
        ours || found.iter().any(|f| f.kind == c.type_)
    });
    let mut set = |kind: &str, status_now: &str, reason: &str, message: &str| {
        let update = ConditionUpdate {
            kind,
            status: status_now,
            reason,
            message,
            observed_generation: view.obj.generation(),
        };
        set_condition(&mut status.conditions, &update, view.now);
    };
    for condition in &found {
        set(condition.kind, condition.status, condition.reason, &condition.message);
    }
    set(RULES, install.0, install.1, &install.2);
    match &view.metrics_problem {
        None => set(METRICS, "True", "Counted", "the counters are counted"),
        Some(problem) => set(METRICS, "False", "NotCounted", problem),
    }
}

/// Condition: whether the counters could be looked at.
const METRICS: &str = "MetricsAvailable";
/// Condition: whether the rules stand.
const RULES: &str = "RulesInstalled";

/// The rules' object if it is not there or not as it should be.
fn want_rules(view: &SloView, set: &crate::RuleSet) -> Result<Option<Obj>, (&'static str, String)> {
    let groups = serde_json::to_value(&set.groups).unwrap_or_default();
    match &view.rules_have {
        RulesSeen::KindMissing => {
            let message = "the cluster does not know this kind; install its definition (the \
                Prometheus operator brings it), or load the output of `evenkeel slo generate`";
            return Err(("KindMissing", message.to_owned()));
        }
        RulesSeen::There(have) => {
            let owners = have.meta().owner_references.iter().flatten();
            if !owners.into_iter().any(|owner| owner.uid == view.obj.uid()) {
                let message = "exists and belongs to somebody else: rename one of the two";
                return Err(("NameTaken", message.to_owned()));
            }
            if have.json().pointer("/spec/groups") == Some(&groups) {
                return Ok(None);
            }
        }
        RulesSeen::Absent => {}
    }
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
        "spec": {"groups": groups},
    });
    Obj::from_json(body).map(Some).map_err(|error| ("Unreadable", error.to_string()))
}

/// What every budget of one decision shares.
struct Pass<'a> {
    view: &'a SloView,
    changes: &'a [Change],
    causes: &'a [Cause],
}

impl Pass<'_> {
    /// How one budget stands.
    fn budget<'b>(
        &self,
        seen: &'b SloSeen,
        key: &SloKey,
        history: &'b History,
        events: &mut Vec<EventNote>,
    ) -> Budget<'b> {
        let rarely = u64::try_from(self.view.every.as_millis() * 4).unwrap_or(u64::MAX);
        let stale_after = STALE_AFTER.max(PromDuration::from_ms(rarely));
        let standing = history.standing(self.view.now, &seen.exclusions, stale_after);
        let ledger = Ledger::build(history, self.view.now, self.causes, &seen.exclusions, 0);
        let lines = ledger.lines(&standing);
        let before =
            self.view.status.slos.iter().find(|old| old.id == key.id && old.group == key.group);
        let own = self.view.policy(&seen.slo);
        let policy = own.cloned().unwrap_or_else(ErrorBudgetPolicy::built_in);
        let signal = Signal::observe(&policy, history, &standing);
        let memory = before.map(|old| Memory { state: old.state, since: old.since });
        let now = step(&policy, memory, &signal, self.view.now);
        if let Some(old) = before.filter(|old| old.state != now.state) {
            events.push(state_event(self.view.obj.key(), &key.id, old.state, now.state, &standing));
        }
        let share = |cause: &Option<(crate::budget::CauseKind, String)>, bad: Events, part: f64| {
            LedgerShare {
                cause: cause.as_ref().map_or_else(|| UNEXPLAINED.to_owned(), |(_, id)| id.clone()),
                failures: bad.as_f64(),
                budget_percent: percent(part),
            }
        };
        let mut state = SloState {
            id: key.id.clone(),
            group: key.group.clone(),
            objective: seen.slo.objective,
            policy: own.map(|policy| policy.name().to_owned()),
            state: now.state,
            since: now.since,
            coverage: standing.coverage,
            remaining_percent: standing.remaining().map(percent),
            bad: standing.counted.bad().as_f64(),
            total: standing.counted.total().as_f64(),
            burn: BURNS
                .iter()
                .filter_map(|span| {
                    Some((span.to_string(), history.burn_rate(self.view.now, *span)?))
                })
                .collect(),
            ledger: lines.iter().map(|l| share(&l.cause, l.bad, l.budget_share)).collect(),
            account: before.map(|old| old.account.clone()).unwrap_or_default(),
        };
        state.ledger.truncate(LEDGER_MAX);
        let spent = |id: &str| {
            let mine =
                lines.iter().filter(|l| l.cause.as_ref().is_some_and(|(_, cause)| cause == id));
            mine.map(|line| line.budget_share).sum::<f64>()
        };
        self.book((history, &standing), &mut state.account, spent, events);
        Budget { seen, history, standing, state }
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
                let of = self.view.canaries.iter().find(|seen| change_of(seen) == id);
                let cost = of.and_then(|seen| {
                    changes::plan(seen, history, self.view)?.budget_share(standing)
                });
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

/// For every Canary the strictest answer of all budgets.
fn decisions(view: &SloView, budgets: &[Budget<'_>]) -> Vec<Decision> {
    let strictest = |seen| {
        let answers = budgets.iter().map(|budget| {
            let question = Question {
                view,
                state: &budget.state,
                policy: view.policy(&budget.seen.slo),
                history: budget.history,
                standing: &budget.standing,
                forecast: budget.history.forecast(&budget.standing, FORECAST_SPAN),
            };
            question.answer(seen)
        });
        stricter(answers)
    };
    let canaries = view.canaries.iter();
    canaries
        .filter_map(|seen| {
            Some(Decision { canary: seen.obj.name().to_owned(), budget: strictest(seen)? })
        })
        .collect()
}

/// The strictest of some answers; of equal ones the one with the least budget left.
fn stricter(answers: impl Iterator<Item = ErrorBudget>) -> Option<ErrorBudget> {
    let left = |answer: &ErrorBudget| answer.remaining_percent.unwrap_or(f64::NEG_INFINITY);
    answers.min_by(|a, b| a.permission.cmp(&b.permission).then_with(|| left(a).total_cmp(&left(b))))
}

/// Writes the strictest answer of all objects of the namespace into each Canary.
fn tell_canaries(view: &SloView, decisions: &[Decision], plan: &mut Plan) {
    for seen in &view.canaries {
        let name = seen.obj.name();
        let of_peers = view.peers.iter().filter_map(|peer| {
            let status = peer.json().get("status")?.clone();
            serde_json::from_value::<SloStatusObject>(status).ok()
        });
        let theirs: Vec<Decision> = of_peers.flat_map(|status| status.decisions).collect();
        let all = decisions.iter().chain(&theirs).filter(|d| d.canary == name);
        let Some(new) = stricter(all.map(|d| d.budget.clone())) else { continue };
        let old = seen.canary.status.as_ref().and_then(|status| status.error_budget.clone());
        let repeat = old.as_ref().is_none_or(|old| {
            let quiet = |budget: &ErrorBudget| {
                let mut budget = budget.clone();
                still(&mut budget);
                budget
            };
            quiet(old) != quiet(&new) || new.observed_at - old.observed_at >= REPEAT_SECONDS
        });
        if repeat {
            let key = view.obj.key().sibling::<Canary>(name);
            plan.status
                .push(evenkeel_control::StatusWrite { key, status: json!({ "errorBudget": new }) });
        }
    }
}

/// Adds the status if it is worth a write.
fn write(view: &SloView, mut status: SloStatusObject, plan: Plan) -> Plan {
    let age = view.now.as_second() - view.status.numbers_at;
    let news = status.without_noise() != view.status.without_noise();
    if !news && age < REPEAT_SECONDS {
        return plan;
    }
    status.numbers_at = view.now.as_second();
    // A status is plain data; that it serialises is checked by a test.
    let mut body = serde_json::to_value(&status).unwrap_or(Value::Null);
    if status.last_prom_op_rules_successful_generated.is_none()
        && let Some(fields) = body.as_object_mut()
    {
        fields.insert("lastPromOpRulesSuccessfulGenerated".to_owned(), Value::Null);
    }
    plan.with_status(view.obj.key().clone(), body)
}
