//! One question, one answer, with every reason.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::account::Account;
use super::spec::{ActionClass, ErrorBudgetPolicy, Permission, State};
use super::state::Memory;
use crate::budget::Forecast;
use crate::duration::PromDuration;

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
    /// When the budget will be gone.
    pub forecast: Forecast,
    /// What is reserved already.
    pub account: &'a Account,
    /// Share of the budget that faults on purpose have spent in this window.
    pub chaos_spent: f64,
    /// Exceptions somebody made.
    pub break_glass: &'a [BreakGlass],
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
    /// Reason and author of the break-glass that decided, for the audit record.
    pub break_glass: Option<(String, String)>,
}

/// Somebody's decision to go ahead against the policy, for a while.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
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
    #[error("a break-glass needs {0}")]
    Missing(&'static str),
    /// It lasts too long, or not at all.
    #[error("a break-glass must end within {max} of its start")]
    Length {
        /// The policy's limit.
        max: PromDuration,
    },
    /// Not readable.
    #[error("{0}")]
    Unreadable(String),
}

impl BreakGlass {
    /// Reads `{reason, author, granted, expires, classes}` and checks it against the policy.
    pub fn from_spec(spec: &Value, policy: &ErrorBudgetPolicy) -> Result<Self, BreakGlassError> {
        let made: Self = serde_json::from_value(spec.clone())
            .map_err(|e| BreakGlassError::Unreadable(e.to_string()))?;
        made.checked(policy)
    }

    /// Checks it against the policy.
    pub fn checked(self, policy: &ErrorBudgetPolicy) -> Result<Self, BreakGlassError> {
        if self.reason.trim().is_empty() {
            return Err(BreakGlassError::Missing("a reason"));
        }
        if self.author.trim().is_empty() {
            return Err(BreakGlassError::Missing("an author"));
        }
        if self.classes.is_empty() {
            return Err(BreakGlassError::Missing("the action classes it is for"));
        }
        let max = policy.spec().break_glass.max_duration;
        let length = self.expires.as_millisecond() - self.granted.as_millisecond();
        match u64::try_from(length) {
            Ok(length) if length > 0 && length <= max.as_ms() => Ok(self),
            _ => Err(BreakGlassError::Length { max }),
        }
    }

    fn covers(&self, class: ActionClass, now: Timestamp) -> bool {
        self.granted <= now && now < self.expires && self.classes.contains(&class)
    }
}

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
        reason: "BreakGlass",
        messages,
        break_glass: Some((glass.reason.clone(), glass.author.clone())),
        ..decision
    }
}

fn by_state(policy: &ErrorBudgetPolicy, situation: &Situation<'_>, ask: &Ask) -> Word {
    let state = situation.memory.state;
    let left = match situation.remaining {
        Some(left) => format!("{:.1} % of the budget is left", left * 100.0),
        None => "there is no data about the budget; a BreakGlass lets it go ahead".to_owned(),
    };
    let reason = match state {
        State::Healthy => "BudgetHealthy",
        State::Caution => "BudgetCaution",
        State::Slow => "BudgetLow",
        State::Frozen => "BudgetFrozen",
        State::Burning => "BudgetBurning",
        State::Unknown => "BudgetUnknown",
    };
    Word {
        permission: policy.permission(ask.class, state),
        reason,
        message: format!("{state} since {:.0}: {left}", situation.memory.since),
    }
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
    // A cost that is no number is one nobody knows: worse than any.
    let cost = if cost.is_nan() { f64::INFINITY } else { cost };
    if cost <= 0.0 {
        return None;
    }
    let text = format!(
        "{:.2} % may be needed of {:.1} % that is free ({:.1} % is reserved)",
        cost * 100.0,
        free * 100.0,
        reserved * 100.0
    );
    let approve_above = policy.spec().costs.approve_above_percent / 100.0;
    let (permission, reason) = if cost > free {
        (Permission::Deny, "CostExceedsBudget")
    } else if cost > free * approve_above {
        (Permission::Approve, "CostIsHigh")
    } else {
        (Permission::Allow, "CostIsCovered")
    };
    Some(Word { permission, reason, message: text })
}

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
    (at.as_millisecond() <= end).then(|| Word {
        permission: Permission::Deny,
        reason: "BudgetEndsFirst",
        message: format!("at this burn the budget is gone at {at:.0}, before it would be done"),
    })
}
