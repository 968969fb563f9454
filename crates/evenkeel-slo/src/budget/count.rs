//! Events, exactly, and what was counted of them in a span of time.

use jiff::Timestamp;
use serde::Serialize;

/// A number of events. Unit: millionths of an event, so that sums have no rounding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Events(u128);

const MICRO: u128 = 1_000_000;
/// Largest increase that is believed: 10^15 events between two looks.
const INCREASE_MAX: f64 = 1e15;

impl Events {
    /// None at all.
    pub const ZERO: Self = Self(0);

    /// Whole events.
    pub const fn whole(count: u64) -> Self {
        Self(count as u128 * MICRO)
    }

    /// From millionths.
    pub const fn from_micros(micros: u128) -> Self {
        Self(micros)
    }

    /// In millionths.
    pub const fn micros(self) -> u128 {
        self.0
    }

    /// From a float, to the nearest millionth. `None` for what cannot be a count: NaN,
    /// infinite, negative, or beyond 10^15.
    pub fn from_f64(count: f64) -> Option<Self> {
        if !(0.0..=INCREASE_MAX).contains(&count) {
            return None;
        }
        let whole = count.floor();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "checked to lie in 0 ..= 10^15"
        )]
        let (whole, rest) = (whole as u64, ((count - whole) * 1e6).round() as u64);
        Some(Self(u128::from(whole) * MICRO + u128::from(rest)))
    }

    /// As a float, for people and graphs.
    pub fn as_f64(self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "for display only")]
        let (whole, rest) = ((self.0 / MICRO) as f64, (self.0 % MICRO) as f64);
        whole + rest / 1e6
    }

    /// Sum; stays at the largest value instead of wrapping.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// Difference; never below zero.
    #[must_use]
    pub const fn minus(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    /// `self * part / whole`, rounded down; all of it when `whole` is 0.
    #[must_use]
    pub fn share(self, part: u64, whole: u64) -> Self {
        if whole == 0 {
            return self;
        }
        Self(self.0.saturating_mul(u128::from(part.min(whole))) / u128::from(whole))
    }
}

/// Bad and all events of some span; bad is never more than all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    bad: Events,
    total: Events,
}

impl Tally {
    /// Raises `total` to `bad` where a query counts more errors than events.
    pub fn new(bad: Events, total: Events) -> Self {
        Self { bad, total: total.max(bad) }
    }

    /// Events that failed.
    pub fn bad(self) -> Events {
        self.bad
    }

    /// All events.
    pub fn total(self) -> Events {
        self.total
    }

    /// Sum of both.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self { bad: self.bad.plus(other.bad), total: self.total.plus(other.total) }
    }

    /// Difference of two running sums.
    #[must_use]
    pub fn minus(self, other: Self) -> Self {
        Self { bad: self.bad.minus(other.bad), total: self.total.minus(other.total) }
    }
}

/// What was counted between two points in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Slice {
    /// Start, excluded.
    pub from: Timestamp,
    /// End, included.
    pub to: Timestamp,
    /// `None`: no data, which is something else than no events.
    pub tally: Option<Tally>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_can_be_a_count_is_one() {
        assert_eq!(Events::from_f64(1.5), Some(Events::from_micros(1_500_000)));
        for nonsense in [f64::NAN, f64::INFINITY, -1.0, 1e300] {
            assert_eq!(Events::from_f64(nonsense), None);
        }
        assert_eq!(Events::whole(7).share(1, 3), Events::from_micros(2_333_333));
        assert_eq!(Events::whole(7).share(5, 0), Events::whole(7));
    }
}
