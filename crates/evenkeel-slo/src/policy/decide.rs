//! One question, one answer, with every reason.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::account::Account;
use super::spec::{ActionClass, BurnCondition, ErrorBudgetPolicy, Permission, State};
use super::state::Memory;
use crate::budget::Forecast;
use crate::duration::PromDuration;
use crate::reasons;

/// An action that asks to go ahead.
#[derive(Clone, Debug, PartialEq)]
pub struct Ask {
    /// Name of the action, the same as of its reservation.
    pub id: String,
    /// What it is for.
    pub class: ActionClass,
    /// Share of the budget it costs at worst; `None`: not known.
    pub cost: Option<f64>,
    /// How long it takes.
    pub duration: PromDuration,
}

/// Everything an answer depends on.
#[derive(Clone, Debug)]
pub struct Situation<'a> {
    /// The moment.
    pub now: Timestamp,
    /// State of the SLO.
    pub memory: Memory,
    /// Share of the budget that is left; `None`: not known.
    pub remaining: Option<f64>,
    /// Burn rates by window, to be named beside their thresholds.
    pub burns: &'a BTreeMap<PromDuration, f64>,
    /// What is known about the traffic.
    pub traffic: Traffic,
    /// Why the budget is not known, where it is not.
    pub unknown: Option<&'a str>,
    /// When the budget will be gone.
    pub forecast: Forecast,
    /// What is reserved already.
    pub account: &'a Account,
    /// Share of the budget that faults on purpose have spent in this window.
    pub chaos_spent: f64,
    /// Exceptions that people made.
    pub break_glass: &'a [BreakGlass],
}

/// What is known about the traffic of a service.
///
/// The law of the first release: a service that never had an event has spent nothing and can lose
/// nothing that was promised, so its releases go ahead, with the reason `NoTrafficYet`. That is
/// said only when it is known: the metrics were read for the whole window and are fresh, and
/// either the counters are there and none of them rose, or there are none and the metrics server
/// shows that it would see them. Metrics that do not answer, are old, or have lost a service that
/// had events leave the budget unknown, and what is not known is never a go-ahead.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Traffic {
    /// There were events in the window, or it is not known.
    #[default]
    Seen,
    /// None in the window, some before.
    NotLately,
    /// None at all, as far as anybody has looked.
    NeverYet,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Decision {
    /// How much may happen.
    pub permission: Permission,
    /// Machine-readable reason of the strictest rule.
    pub reason: &'static str,
    /// What the rules said, the strictest first.
    pub messages: Vec<String>,
    /// State of the SLO.
    pub state: State,
    /// Share of the budget left.
    pub remaining: Option<f64>,
    /// Share of the budget reserved by others.
    pub reserved: f64,
    /// The break-glass that decided, for the audit record.
    pub break_glass: Option<BreakGlass>,
}

/// A person's decision to go ahead against the policy, for a while.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BreakGlass {
    /// Why.
    pub reason: String,
    /// Who.
    pub author: String,
    /// From when.
    pub granted: Timestamp,
    /// Until when.
    pub expires: Timestamp,
    /// For what.
    pub classes: Vec<ActionClass>,
}

/// Why a break-glass is not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BreakGlassError {
    /// Something is missing.
    #[error("spec.{0} is missing: give it")]
    Missing(&'static str),
    /// It lasts too long, or not at all.
    #[error(
        "spec.expires must be after spec.granted, and by {max} at most, which is the policy's \
         spec.breakGlass.maxDuration"
    )]
    Length {
        /// The policy's limit.
        max: PromDuration,
    },
    /// Not readable.
    #[error("spec: {0}")]
    Unreadable(String),
}

impl BreakGlass {
    /// Reads `{reason, author, granted, expires, classes}` and checks it against the policy.
    pub fn from_spec(spec: &Value, policy: &ErrorBudgetPolicy) -> Result<Self, BreakGlassError> {
        for field in ["reason", "author", "granted", "expires", "classes"] {
            if spec.get(field).is_none_or(Value::is_null) {
                return Err(BreakGlassError::Missing(field));
            }
        }
        let made: Self = serde_json::from_value(spec.clone())
            .map_err(|e| BreakGlassError::Unreadable(e.to_string()))?;
        made.checked(policy)
    }

    /// Checks it against the policy.
    pub fn checked(self, policy: &ErrorBudgetPolicy) -> Result<Self, BreakGlassError> {
        if self.reason.trim().is_empty() {
            return Err(BreakGlassError::Missing("reason"));
        }
        if self.author.trim().is_empty() {
            return Err(BreakGlassError::Missing("author"));
        }
        if self.classes.is_empty() {
            return Err(BreakGlassError::Missing("classes"));
        }
        let max = policy.spec().break_glass.max_duration;
        let length = self.expires.as_millisecond() - self.granted.as_millisecond();
        match u64::try_from(length) {
            Ok(length) if length > 0 && length <= max.as_ms() => Ok(self),
            _ => Err(BreakGlassError::Length { max }),
        }
    }

    /// Whether it opens for this class now.
    pub fn covers(&self, class: ActionClass, now: Timestamp) -> bool {
        self.granted <= now && now < self.expires && self.classes.contains(&class)
    }
}

/// Reason of an answer that a break-glass decided.
pub const BREAK_GLASS: &str = "BreakGlass";

/// One rule's word.
struct Word {
    permission: Permission,
    reason: &'static str,
    message: String,
}

/// Answers one question about one SLO.
pub fn decide(policy: &ErrorBudgetPolicy, situation: &Situation<'_>, ask: &Ask) -> Decision {
    let state = situation.memory.state;
    let reserved = situation.account.open(situation.now, Some(&ask.id));
    let answer = |permission, reason, messages| Decision {
        permission,
        reason,
        messages,
        state,
        remaining: situation.remaining,
        reserved,
        break_glass: None,
    };
    if ask.class == ActionClass::Restore {
        let message = "it lowers the risk, which no budget holds up".to_owned();
        return answer(Permission::Allow, "RiskGoesDown", vec![message]);
    }
    let mut words = vec![by_state(policy, situation, ask)];
    words.extend(by_cost(policy, situation, ask, reserved));
    words.extend(by_chaos_account(policy, situation, ask));
    words.extend(by_forecast(situation, ask));
    words.sort_by_key(|w| w.permission);
    let strictest =
        words.first().map_or((Permission::Deny, "NoRule"), |w| (w.permission, w.reason));
    let messages: Vec<_> = words.into_iter().map(|w| w.message).collect();
    let decision = answer(strictest.0, strictest.1, messages);
    let glass = situation.break_glass.iter().find(|g| g.covers(ask.class, situation.now));
    match glass {
        Some(glass) if decision.permission < Permission::Allow => broken(decision, glass),
        _ => decision,
    }
}

/// The strictest answer of several SLOs, with all their messages.
///
/// `None` without any: an action that touches no known SLO is for the caller to judge.
pub fn combine(decisions: impl IntoIterator<Item = Decision>) -> Option<Decision> {
    let mut all: Vec<_> = decisions.into_iter().collect();
    all.sort_by_key(|d| d.permission);
    let mut rest = all.into_iter();
    let mut first = rest.next()?;
    for other in rest {
        first.messages.extend(other.messages);
    }
    Some(first)
}

fn broken(decision: Decision, glass: &BreakGlass) -> Decision {
    let word = format!(
        "break-glass by {} until {:.0}: {} (the policy says {:?})",
        glass.author, glass.expires, glass.reason, decision.permission
    );
    let mut messages = vec![word];
    messages.extend(decision.messages);
    Decision {
        permission: Permission::Allow,
        reason: BREAK_GLASS,
        messages,
        break_glass: Some(glass.clone()),
        ..decision
    }
}

fn by_state(policy: &ErrorBudgetPolicy, situation: &Situation<'_>, ask: &Ask) -> Word {
    let state = situation.memory.state;
    let reason = match (state, situation.traffic) {
        (State::Healthy, Traffic::NeverYet) => reasons::NO_TRAFFIC_YET,
        (State::Healthy, _) => reasons::BUDGET_HEALTHY,
        (State::Caution, _) => reasons::BUDGET_CAUTION,
        (State::Slow, _) => reasons::BUDGET_LOW,
        (State::Frozen, _) => reasons::BUDGET_FROZEN,
        (State::Burning, _) => reasons::BUDGET_BURNING,
        (State::Unknown, _) => reasons::BUDGET_UNKNOWN,
    };
    let why = explain(policy, situation);
    Word {
        permission: policy.permission(ask.class, state),
        reason,
        message: format!("{state} since {:.0}: {why}", situation.memory.since),
    }
}

/// The value and the threshold that a state comes from, or that it waits for.
fn explain(policy: &ErrorBudgetPolicy, situation: &Situation<'_>) -> String {
    let Some(remaining) = situation.remaining else {
        let why = situation.unknown.map_or(String::new(), |why| format!(" ({why})"));
        return format!("there is no data about the budget{why}; a BreakGlass lets it go ahead");
    };
    let percent = remaining * 100.0;
    let left = format!("{percent:.1} % of the budget is left");
    let (state, t) = (situation.memory.state, policy.spec().remaining_percent);
    let burn = &policy.spec().burn;
    let threshold = |name: &str, at: f64| format!("{left}, {name} {at} %");
    let burning = |conditions: &[BurnCondition]| {
        let of = conditions.iter().find(|condition| rate(situation, condition, true).is_some())?;
        let rates = rate(situation, of, true)?;
        Some(format!("{rates}, at or above {}; {left}", of.rate))
    };
    let by_numbers = match (state, situation.traffic) {
        (State::Healthy | State::Unknown, Traffic::Seen) => Some(left.clone()),
        (State::Healthy | State::Unknown, Traffic::NotLately) => {
            Some(format!("{left}, no events in the window"))
        }
        (State::Healthy | State::Unknown, Traffic::NeverYet) => {
            Some(format!("{left}, the service has had no events yet"))
        }
        (State::Caution, _) => (percent < t.caution).then(|| threshold("below", t.caution)),
        (State::Slow, _) if percent < t.slow => Some(threshold("below", t.slow)),
        (State::Slow, _) => burning(&burn.slow),
        (State::Frozen, _) => (percent <= t.frozen).then(|| threshold("at or below", t.frozen)),
        (State::Burning, _) => burning(&burn.burning),
    };
    by_numbers.unwrap_or_else(|| format!("{left}; {}", waits(policy, situation)))
}

/// How fast it burns in both windows of a condition; with `over`, only if it is met.
fn rate(situation: &Situation<'_>, condition: &BurnCondition, over: bool) -> Option<String> {
    let rate = |window| situation.burns.get(&window).filter(|r| !over || **r >= condition.rate);
    let (long, short) = (rate(condition.long)?, rate(condition.short)?);
    Some(format!(
        "it burns {long:.1} times as fast as it may over {} and {short:.1} over {}",
        condition.long, condition.short
    ))
}

/// What a state that the numbers have left behind still waits for.
fn waits(policy: &ErrorBudgetPolicy, situation: &Situation<'_>) -> String {
    let (spec, state) = (policy.spec(), situation.memory.state);
    let (t, h) = (spec.remaining_percent, spec.hysteresis);
    let left = |threshold: f64| format!("more than {} % is left", threshold + h.recover_percent);
    let calm = |conditions: &[BurnCondition]| {
        let condition = conditions.first()?;
        let below = condition.rate * (1.0 - h.recover_percent / 100.0);
        let now = rate(situation, condition, false);
        let now = now.map_or(String::new(), |now| format!(" ({now} now)"));
        Some(format!("it burns below {below:.2}{now}"))
    };
    let until: Vec<String> = match state {
        State::Caution => vec![left(t.caution)],
        State::Slow => [left(t.slow)].into_iter().chain(calm(&spec.burn.slow)).collect(),
        State::Frozen => vec![left(t.frozen)],
        State::Burning => calm(&spec.burn.burning).into_iter().collect(),
        State::Healthy | State::Unknown => Vec::new(),
    };
    format!("{state} lasts {} at least, and until {}", h.dwell, until.join(" and "))
}

fn by_cost(
    policy: &ErrorBudgetPolicy,
    situation: &Situation<'_>,
    ask: &Ask,
    reserved: f64,
) -> Option<Word> {
    let cost = ask.cost?;
    let remaining = situation.remaining?;
    let free = remaining - reserved;
    // A cost that is not a number is unknown: worse than any.
    let cost = if cost.is_nan() { f64::INFINITY } else { cost };
    if cost <= 0.0 {
        return None;
    }
    let percent = policy.spec().costs.approve_above_percent;
    let limit = free * percent / 100.0;
    let (permission, reason) = if cost > free {
        (Permission::Deny, "CostExceedsBudget")
    } else if cost > limit {
        (Permission::Approve, "CostIsHigh")
    } else {
        (Permission::Allow, "CostIsCovered")
    };
    let needed = if cost < UNBOUNDED {
        format!("{:.2} % may be needed", cost * 100.0)
    } else {
        "more than the whole budget may be needed".to_owned()
    };
    let text = format!(
        "{needed} of {:.1} % that is free ({:.1} % is reserved); above {:.1} %, {percent} % of what \
         is free, somebody must approve",
        free * 100.0,
        reserved * 100.0,
        limit.max(0.0) * 100.0
    );
    Some(Word { permission, reason, message: text })
}

/// A share of the budget from which on its number says nothing more.
const UNBOUNDED: f64 = 1e4;

fn by_chaos_account(
    policy: &ErrorBudgetPolicy,
    situation: &Situation<'_>,
    ask: &Ask,
) -> Option<Word> {
    if ask.class != ActionClass::Chaos {
        return None;
    }
    let limit = policy.spec().costs.chaos_percent / 100.0;
    let used = situation.chaos_spent + ask.cost.unwrap_or(0.0);
    let within = used <= limit;
    Some(Word {
        permission: if within { Permission::Allow } else { Permission::Deny },
        reason: if within { "ChaosAccountCovers" } else { "ChaosAccountSpent" },
        message: format!(
            "with it, faults on purpose use {:.1} % of the budget, {:.1} % is theirs",
            used * 100.0,
            limit * 100.0
        ),
    })
}

fn by_forecast(situation: &Situation<'_>, ask: &Ask) -> Option<Word> {
    let Forecast::At(at) = situation.forecast else { return None };
    let length = i64::try_from(ask.duration.as_ms()).unwrap_or(i64::MAX);
    let end = situation.now.as_millisecond().saturating_add(length);
    let done = Timestamp::from_millisecond(end).unwrap_or(Timestamp::MAX);
    (at <= done).then(|| Word {
        permission: Permission::Deny,
        reason: "BudgetEndsFirst",
        message: format!(
            "at this burn the budget is gone at {at:.0}, before it would be done at {done:.0}"
        ),
    })
}
