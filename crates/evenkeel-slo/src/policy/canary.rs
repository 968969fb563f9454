//! What a canary can cost at worst, before it starts.

use serde::Serialize;

use crate::budget::{Events, Standing};
use crate::duration::PromDuration;

/// The steps a canary still has before it.
#[derive(Clone, Debug, PartialEq)]
pub struct CanaryPlan {
    /// Weight at each remaining check, in order. Unit: percent of the traffic, at most 100.
    pub weights_pct: Vec<u32>,
    /// Time between checks.
    pub interval: PromDuration,
    /// Failed checks that roll it back.
    pub threshold: u32,
    /// Traffic of the whole service. Unit: requests per second.
    pub requests_per_second: f64,
}

/// Failed requests at worst, if every request the canary gets fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct WorstCase {
    /// No check notices: weight x interval over the remaining checks.
    pub unnoticed: Events,
    /// The checks notice at the highest weight and roll back at the threshold.
    pub noticed: Events,
    /// Both, one after the other: nothing can cost more.
    pub bound: Events,
}

impl CanaryPlan {
    /// Most checks that are looked at; a canary with more is not one.
    pub const CHECKS_MAX: usize = 10_000;

    /// Equal steps up to a maximum, as `stepWeight` and `maxWeight` describe them.
    pub fn linear_weights(step_pct: u32, max_pct: u32) -> Vec<u32> {
        let (step, max) = (step_pct.clamp(1, 100), max_pct.min(100));
        let mut out: Vec<_> = (1..=max / step).map(|n| n * step).collect();
        if !max.is_multiple_of(step) {
            out.push(max);
        }
        out
    }

    /// The worst case. `None` when the traffic is not known.
    pub fn worst_case(&self) -> Option<WorstCase> {
        if self.requests_per_second.is_nan() || self.weights_pct.len() > Self::CHECKS_MAX {
            return None;
        }
        #[expect(clippy::cast_precision_loss, reason = "an interval is far below 2^52 ms")]
        let seconds = self.interval.as_ms() as f64 / 1000.0;
        // Rounded up: a bound must not be a little too low.
        let per_interval = Events::from_f64((self.requests_per_second * seconds).ceil())?;
        let at = |pct: u32| per_interval.share(u64::from(pct.min(100)), 100);
        let unnoticed = self.weights_pct.iter().fold(Events::ZERO, |sum, w| sum.plus(at(*w)));
        let highest = at(self.weights_pct.iter().copied().max().unwrap_or(0));
        let noticed = highest.micros().saturating_mul(u128::from(self.threshold));
        let noticed = Events::from_micros(noticed);
        Some(WorstCase { unnoticed, noticed, bound: unnoticed.plus(noticed) })
    }

    /// How long it takes if every check passes.
    pub fn duration(&self) -> PromDuration {
        let checks = u64::try_from(self.weights_pct.len()).unwrap_or(u64::MAX);
        PromDuration::from_ms(self.interval.as_ms().saturating_mul(checks))
    }

    /// The bound as a share of the budget. `None` when the traffic or the budget is not known.
    pub fn budget_share(&self, standing: &Standing) -> Option<f64> {
        standing.remaining()?;
        Some(standing.share_of_budget(self.worst_case()?.bound))
    }
}
