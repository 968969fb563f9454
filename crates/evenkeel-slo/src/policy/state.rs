//! From budget and burn rates to a state, with hysteresis.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::spec::{BurnCondition, ErrorBudgetPolicy, State};
use crate::budget::{History, Standing};
use crate::duration::PromDuration;

/// What the state is decided from.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Signal {
    /// Share of the budget that is left; `None`: not known.
    pub remaining: Option<f64>,
    /// Burn rate per window; a window that is missing burns nothing.
    pub burns: BTreeMap<PromDuration, f64>,
}

impl Signal {
    /// The budget and every burn rate the policy asks for.
    pub fn observe(policy: &ErrorBudgetPolicy, history: &History, standing: &Standing) -> Self {
        let burn = &policy.spec().burn;
        let windows = burn.burning.iter().chain(&burn.slow).flat_map(|c| [c.short, c.long]);
        let rate = |w| history.burn_rate(standing.now, w).map(|rate| (w, rate));
        Self { remaining: standing.remaining(), burns: windows.filter_map(rate).collect() }
    }
}

/// The state and since when; kept in the status of the SLO.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// The state.
    pub state: State,
    /// When it began.
    pub since: Timestamp,
}

/// The state now. Getting worse, or losing the data, is immediate; getting better takes a
/// margin and time.
pub fn step(
    policy: &ErrorBudgetPolicy,
    memory: Option<Memory>,
    signal: &Signal,
    now: Timestamp,
) -> Memory {
    let fresh = Memory { state: judge(policy, signal, 0.0), since: now };
    let Some(last) = memory else { return fresh };
    if fresh.state == last.state {
        return last;
    }
    if fresh.state == State::Unknown {
        return fresh;
    }
    let strict = judge(policy, signal, policy.spec().hysteresis.recover_percent);
    if last.state == State::Unknown {
        return Memory { state: strict, since: now };
    }
    if fresh.state > last.state {
        return fresh;
    }
    // A clock that stepped back counts as no wait at all.
    let waited = now.as_millisecond().saturating_sub(last.since.as_millisecond());
    let waited = u64::try_from(waited).unwrap_or(0);
    if strict < last.state && waited >= policy.spec().hysteresis.dwell.as_ms() {
        return Memory { state: strict, since: now };
    }
    last
}

/// The state by the numbers alone; `margin` (percentage points) makes every threshold stricter.
fn judge(policy: &ErrorBudgetPolicy, signal: &Signal, margin: f64) -> State {
    let Some(remaining) = signal.remaining.filter(|r| !r.is_nan()) else { return State::Unknown };
    let t = policy.spec().remaining_percent;
    let percent = remaining * 100.0 - margin;
    let by_budget = if percent <= t.frozen {
        State::Frozen
    } else if percent < t.slow {
        State::Slow
    } else if percent < t.caution {
        State::Caution
    } else {
        State::Healthy
    };
    let burns = |condition: &BurnCondition| {
        let above = condition.rate * (1.0 - margin / 100.0);
        let over = |window| signal.burns.get(&window).is_some_and(|rate| *rate >= above);
        over(condition.short) && over(condition.long)
    };
    let burn = &policy.spec().burn;
    let by_burn = if burn.burning.iter().any(burns) {
        State::Burning
    } else if burn.slow.iter().any(burns) {
        State::Slow
    } else {
        State::Healthy
    };
    by_budget.max(by_burn)
}
