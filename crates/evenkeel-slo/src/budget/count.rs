//! Events, exactly: increases of counters between two looks at them.

use std::collections::BTreeMap;

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

/// Why a look at the counters was not counted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CountError {
    /// The clock did not move forward.
    #[error("time went from {last} to {now}; nothing is counted")]
    ClockStep {
        /// Last look.
        last: Timestamp,
        /// This look.
        now: Timestamp,
    },
    /// Label explosion.
    #[error("{found} series for one SLO, at most {max} are counted")]
    TooManySeries {
        /// How many there are.
        found: usize,
        /// [`Counters::SERIES_MAX`].
        max: usize,
    },
}

/// Remembers counters and turns each look at them into a [`Slice`].
///
/// Shape: series are told apart by a text the caller chooses, such as their label set.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    last_look: Option<Timestamp>,
    bad: BTreeMap<String, f64>,
    total: BTreeMap<String, f64>,
}

impl Counters {
    /// Most series of one SLO: 1,000 pods with 50 label combinations each.
    pub const SERIES_MAX: usize = 50_000;

    /// Counts what happened since the last look. `Ok(None)` at the first one.
    ///
    /// A smaller value is a restarted counter and counts from zero; so does a series that was
    /// not there before. A value that is no number is not there at all. A look without any
    /// series of `total` gives a slice without data.
    pub fn look<'a>(
        &mut self,
        now: Timestamp,
        bad: impl IntoIterator<Item = (&'a str, f64)>,
        total: impl IntoIterator<Item = (&'a str, f64)>,
    ) -> Result<Option<Slice>, CountError> {
        if let Some(last) = self.last_look.filter(|last| *last >= now) {
            return Err(CountError::ClockStep { last, now });
        }
        let (bad, total) = (usable(bad), usable(total));
        let found = bad.len().max(total.len());
        if found > Self::SERIES_MAX {
            return Err(CountError::TooManySeries { found, max: Self::SERIES_MAX });
        }
        if total.is_empty() {
            // The counters stay as they were: when they come back, the gap's events count then.
            return Ok(self.last_look.map(|from| Slice { from, to: now, tally: None }));
        }
        let first = self.last_look.is_none();
        let bad = advance(&mut self.bad, bad);
        let total = advance(&mut self.total, total);
        let from = self.last_look.replace(now);
        Ok(from.filter(|_| !first).map(|from| Slice {
            from,
            to: now,
            tally: Some(Tally::new(bad, total)),
        }))
    }
}

fn usable<'a>(series: impl IntoIterator<Item = (&'a str, f64)>) -> Vec<(&'a str, f64)> {
    series.into_iter().filter(|(_, v)| v.is_finite() && *v >= 0.0).collect()
}

fn advance(known: &mut BTreeMap<String, f64>, now: Vec<(&str, f64)>) -> Events {
    let mut sum = Events::ZERO;
    for (name, value) in now {
        let increase = if let Some(last) = known.get_mut(name) {
            let increase = if value >= *last { value - *last } else { value };
            *last = value;
            increase
        } else {
            if known.len() < 2 * Counters::SERIES_MAX {
                known.insert(name.to_owned(), value);
            }
            value
        };
        sum = sum.plus(Events::from_f64(increase).unwrap_or_default());
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn resets_new_series_gaps_and_nonsense_are_counted_right() {
        let mut counters = Counters::default();
        let mut look = |second, bad: &[(&str, f64)], total: &[(&str, f64)]| match counters.look(
            at(second),
            bad.to_vec(),
            total.to_vec(),
        ) {
            Ok(None) => "first".to_owned(),
            Ok(Some(slice)) => match slice.tally {
                None => format!("{} no data", slice.from.as_second()),
                Some(t) => {
                    let (bad, total) = (t.bad().as_f64(), t.total().as_f64());
                    format!("{} {bad}/{total}", slice.from.as_second())
                }
            },
            Err(error) => error.to_string(),
        };
        assert_eq!(look(0, &[], &[("a", 1000.0)]), "first");
        assert_eq!(look(10, &[("a5", 3.0)], &[("a", 1100.0)]), "0 3/100");
        assert_eq!(look(20, &[("a5", 1.0)], &[("a", 40.0)]), "10 1/40");
        assert_eq!(look(30, &[], &[]), "20 no data");
        assert_eq!(look(40, &[("a5", f64::NAN)], &[("a", 50.0), ("b", -1.0)]), "20 0/10");
        assert_eq!(look(50, &[("a5", 9.0)], &[("a", 50.0)]), "40 8/8");
        assert!(look(50, &[], &[("a", 60.0)]).contains("nothing is counted"));
        assert_eq!(look(60, &[], &[("a", 50.0)]), "50 0/0");
    }

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
