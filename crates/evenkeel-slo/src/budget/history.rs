//! A rolling window over slices: what is left, how fast it burns, when it is gone.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::count::{Events, Slice, Tally};
use super::exclusion::Exclusions;
use super::objective::{Objective, PARTS};
use super::slices::{Slices, Summed};
use crate::duration::PromDuration;
use crate::model::Labels;

/// One budget: an SLO, and one label set of it when it is grouped.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct SloKey {
    /// `<service>-<name>`.
    pub id: String,
    /// Empty unless the SLO is grouped.
    pub group: Labels,
}

/// The budgets of many SLOs and their groups.
#[derive(Clone, Debug, Default)]
pub struct Book {
    /// By key.
    pub budgets: BTreeMap<SloKey, History>,
}

impl Book {
    /// All budgets of one SLO.
    pub fn of<'a>(&'a self, id: &'a str) -> impl Iterator<Item = (&'a SloKey, &'a History)> {
        self.budgets.iter().filter(move |(key, _)| key.id == id)
    }
}

/// How well a window is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Coverage {
    /// Nothing was ever counted in the window. Never "met".
    Missing,
    /// There is data, but the newest is too old to decide by.
    Stale,
    /// There is fresh data and it says: no events at all.
    Quiet,
    /// There is fresh data with events.
    Measured,
}

/// The budget at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Standing {
    /// The moment.
    pub now: Timestamp,
    /// The objective it is measured against.
    #[serde(skip)]
    pub objective: Objective,
    /// Length of the window.
    pub window: PromDuration,
    /// What counts.
    pub counted: Tally,
    /// What maintenance took out.
    pub excluded: Tally,
    /// How well it is known.
    pub coverage: Coverage,
    /// Time in the window that counts and has data. Unit: milliseconds.
    pub covered_ms: u64,
    /// End of the newest slice with data.
    pub last_data: Option<Timestamp>,
    /// End of the newest slice with events.
    pub last_traffic: Option<Timestamp>,
}

/// When the budget will be gone at the present burn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "forecast", content = "at")]
pub enum Forecast {
    /// There is no data to decide by.
    Unknown,
    /// Nothing burns, or so slowly that the window moves on first.
    NotBurning,
    /// At this time.
    At(Timestamp),
    /// It is gone.
    Exhausted,
}

/// Why a slice was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a slice from {from} to {to} does not follow {last}")]
pub struct HistoryError {
    /// Its start.
    pub from: Timestamp,
    /// Its end.
    pub to: Timestamp,
    /// End of the newest slice.
    pub last: Timestamp,
}

/// The slices of one budget, oldest first.
#[derive(Clone, Debug)]
pub struct History {
    objective: Objective,
    window: PromDuration,
    slices: Slices,
    /// With how many slices it is looked again which of them have become old.
    thin_at: usize,
}

/// Slices without failures that are older than this need not be short: beyond it no window is asked
/// for whose edge a few minutes would matter to.
const FINE_MS: i64 = 6 * 3_600_000;
/// Longest slice that others are joined to, in a window of 30 days; so much more in a longer one. A
/// slice counts whole where a window, a change or a maintenance begins in it.
const COARSE_MS: u64 = 300_000;
/// Slices of that length in such a window.
const COARSE_SLICES: u64 = 8_640;
/// New slices after which old ones are joined: a few hours of them, since all are gone through.
const THIN_EVERY: usize = 1024;

/// Largest share and burn rate that are reported: a budget overspent a million times.
const SHARE_MAX: f64 = 1e6;
/// Less data than this says nothing about the traffic of a window.
const COVERED_MS_MIN: u64 = 60_000;

impl History {
    /// Most slices kept. Beyond that, the oldest are joined, whether something failed in them or not:
    /// all together they are 8,640 at least.
    pub const SLICES_MAX: usize = 21_600;

    /// An empty history.
    pub fn new(objective: Objective, window: PromDuration) -> Self {
        Self { objective, window, slices: Slices::default(), thin_at: THIN_EVERY }
    }

    /// The objective.
    pub fn objective(&self) -> Objective {
        self.objective
    }

    /// The same events against another objective.
    pub fn set_objective(&mut self, objective: Objective) {
        self.objective = objective;
    }

    /// The SLO's window.
    pub fn window(&self) -> PromDuration {
        self.window
    }

    /// The slices, oldest first.
    pub fn slices(&self) -> impl DoubleEndedIterator<Item = Slice> {
        self.slices.iter().map(|s| s.slice)
    }

    /// Adds the next slice. A gap before it is time without data.
    pub fn push(&mut self, slice: Slice) -> Result<(), HistoryError> {
        let last = self.slices.back();
        let end = last.map_or(slice.from, |l| l.slice.to);
        if slice.from < end || slice.to <= slice.from {
            return Err(HistoryError { from: slice.from, to: slice.to, last: end });
        }
        let sums = last.map_or_else(Default::default, |l| (l.tally, l.covered_ms));
        self.slices.push_back(Summed::after(sums, slice));
        self.forget(slice.to);
        Ok(())
    }

    /// Drops what no window can reach, joins old slices without failures, and the oldest of all where
    /// there are too many.
    fn forget(&mut self, now: Timestamp) {
        let edge = ms(now).saturating_sub(signed(self.window));
        // One slice before the edge stays: its sums are the base of the window.
        while self.slices.get(1).is_some_and(|s| ms(s.slice.to) <= edge) {
            self.slices.pop_front();
        }
        // Failures keep their time as long as possible: the ledger asks when they happened.
        if self.slices.len() >= self.thin_at {
            let old = ms(now).saturating_sub(FINE_MS);
            self.join(0, |one| one.is_quiet() && ms(one.slice.to) <= old);
            self.thin_at = self.slices.len() + THIN_EVERY;
        }
        if self.slices.len() > Self::SLICES_MAX {
            self.join(Self::SLICES_MAX / 4 * 3, |_| true);
        }
    }

    /// Joins neighbours that both may be, the oldest first, until no more than `enough` are left.
    fn join(&mut self, enough: usize, may: impl Fn(&Summed) -> bool) {
        let longest = COARSE_MS.max(self.window.as_ms() / COARSE_SLICES);
        let mut left = self.slices.len();
        let mut joined: Vec<Summed> = Vec::with_capacity(left);
        for next in self.slices.iter() {
            match joined.last_mut() {
                Some(last)
                    if left > enough
                        && last.adjoins(&next)
                        && may(last)
                        && may(&next)
                        && length_ms(last.slice.from, next.slice.to) <= longest =>
                {
                    *last = last.joined(&next);
                    left -= 1;
                }
                _ => joined.push(next),
            }
        }
        self.slices = joined.into_iter().collect();
    }

    /// Sum over `(now - span, now]`; a slice that reaches into the span counts whole.
    pub fn sum(&self, now: Timestamp, span: PromDuration) -> Tally {
        self.range(now, span).0
    }

    fn range(&self, now: Timestamp, span: PromDuration) -> (Tally, u64) {
        let edge = ms(now).saturating_sub(signed(span));
        let start = self.slices.partition_point(|s| ms(s.slice.to) <= edge);
        let end = self.slices.partition_point(|s| s.slice.from < now);
        if end <= start {
            return (Tally::default(), 0);
        }
        let newest = self.slices.get(end - 1);
        let (upper, upper_ms) = newest.map_or_else(Default::default, |s| (s.tally, s.covered_ms));
        // The base is what was summed before the first slice, not the slice before it: that one
        // may have been dropped.
        let first = self.slices.get(start);
        let (lower, lower_ms) = first.map_or_else(Default::default, |s| s.before());
        (upper.minus(lower), upper_ms - lower_ms)
    }

    /// The budget at `now`; data older than `stale_after` is not fresh.
    pub fn standing(
        &self,
        now: Timestamp,
        exclusions: &Exclusions,
        stale_after: PromDuration,
    ) -> Standing {
        let (all, mut covered_ms) = self.range(now, self.window);
        let mut excluded = Tally::default();
        if !exclusions.list().is_empty() {
            for slice in self.in_window(now) {
                let tally =
                    slice.tally.filter(|_| exclusions.covering(slice.from, slice.to).is_some());
                if let Some(tally) = tally {
                    excluded = excluded.plus(tally);
                    covered_ms = covered_ms.saturating_sub(length_ms(slice.from, slice.to));
                }
            }
        }
        let seen = || self.in_window(now).rev();
        let last_data = seen().find(|s| s.tally.is_some()).map(|s| s.to);
        let with_events = |s: &Slice| s.tally.is_some_and(|t| t.total().micros() > 0);
        let last_traffic = seen().find(with_events).map(|s| s.to);
        let counted = all.minus(excluded);
        let coverage = match last_data {
            None => Coverage::Missing,
            Some(at) if ms(now) - ms(at) > signed(stale_after) => Coverage::Stale,
            Some(_) if counted.total().micros() == 0 => Coverage::Quiet,
            Some(_) => Coverage::Measured,
        };
        Standing {
            now,
            objective: self.objective,
            window: self.window,
            counted,
            excluded,
            coverage,
            covered_ms,
            last_data,
            last_traffic,
        }
    }

    /// The slices that reach into the window.
    pub fn in_window(&self, now: Timestamp) -> impl DoubleEndedIterator<Item = Slice> {
        let (start, end) = self.window_at(now);
        self.slices.range(start, end).map(|s| s.slice)
    }

    /// Those of them in which events failed.
    pub fn failed_in_window(&self, now: Timestamp) -> impl Iterator<Item = Slice> {
        let (start, end) = self.window_at(now);
        self.slices.failed(start, end).map(|s| s.slice)
    }

    fn window_at(&self, now: Timestamp) -> (usize, usize) {
        let edge = ms(now).saturating_sub(signed(self.window));
        let start = self.slices.partition_point(|s| ms(s.slice.to) <= edge);
        (start, self.slices.partition_point(|s| s.slice.from < now).max(start))
    }

    /// Burn rate over the last `span`: 1 uses up the budget exactly in one window.
    ///
    /// `None` without events. At most a million, which is also how fast any error burns when the
    /// objective is 100.
    pub fn burn_rate(&self, now: Timestamp, span: PromDuration) -> Option<f64> {
        let tally = self.sum(now, span);
        let total = tally.total().as_f64();
        if total <= 0.0 {
            return None;
        }
        let bad = tally.bad().as_f64();
        if bad <= 0.0 {
            return Some(0.0);
        }
        #[expect(clippy::cast_precision_loss, reason = "below 2^53")]
        let allowed = self.objective.allowed_parts() as f64 / PARTS as f64;
        Some(if allowed > 0.0 { (bad / total / allowed).min(SHARE_MAX) } else { SHARE_MAX })
    }

    /// When the budget is gone if the burn of the last `span` goes on.
    pub fn forecast(&self, standing: &Standing, span: PromDuration) -> Forecast {
        let Some(left) = standing.remaining() else { return Forecast::Unknown };
        if left <= 0.0 {
            return Forecast::Exhausted;
        }
        match self.burn_rate(standing.now, span) {
            None => Forecast::NotBurning,
            // At a burn of 1 or less, old errors leave the window as fast as new ones enter.
            Some(burn) if burn <= 1.0 => Forecast::NotBurning,
            Some(burn) => {
                #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
                let in_ms = left / burn * self.window.as_ms() as f64;
                #[expect(clippy::cast_possible_truncation, reason = "at most the window")]
                let at = ms(standing.now).saturating_add(in_ms.max(0.0) as i64);
                Timestamp::from_millisecond(at).map_or(Forecast::NotBurning, Forecast::At)
            }
        }
    }
}

/// What was seen, what the window allows, and what is left. Every figure that is shown comes from
/// here:
///
/// - *seen*: `counted`, the failures and all events of the window, maintenance taken out;
/// - *allowed*: the objective's share of all events that the whole window will have. Where part of
///   the window has no data, as for a service that is new, its traffic is taken to be like the
///   traffic seen;
/// - *left*: 1 - seen failures / allowed failures.
///
/// Sloth's own figure (`slo:period_error_budget_remaining:ratio`) is another one: it averages the
/// error ratio over the time that has data, not over requests, and knows no rest of the window.
impl Standing {
    /// Share of the window's budget that is left: 1 untouched, 0 gone, below 0 overspent.
    ///
    /// `None` when the window is not known: no data is never a budget.
    pub fn remaining(&self) -> Option<f64> {
        self.decidable().map(|()| 1.0 - self.share_of_budget(self.counted.bad()))
    }

    fn decidable(&self) -> Option<()> {
        matches!(self.coverage, Coverage::Quiet | Coverage::Measured).then_some(())
    }

    /// Which share of the window's budget so many failures are; at most a million.
    pub fn share_of_budget(&self, bad: Events) -> f64 {
        if bad == Events::ZERO {
            return 0.0;
        }
        let allowed = self.allowed().micros();
        #[expect(clippy::cast_precision_loss, reason = "a ratio for people and thresholds")]
        let (bad, allowed) = (bad.micros() as f64, allowed as f64);
        if allowed > 0.0 { (bad / allowed).min(SHARE_MAX) } else { SHARE_MAX }
    }

    /// Failures that the whole window allows at the traffic seen, rounded down to a millionth.
    pub fn allowed(&self) -> Events {
        let total = self.counted.total().micros();
        let covered = u128::from(self.covered_ms.max(COVERED_MS_MIN));
        let window = u128::from(self.window.as_ms());
        let whole = if covered < window { total.saturating_mul(window) / covered } else { total };
        let allowed = u128::from(self.objective.allowed_parts());
        Events::from_micros(whole.saturating_mul(allowed) / PARTS)
    }

    /// Share of the window that has data, from 0 to 1.
    pub fn covered(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "a share for people")]
        let (covered, window) = (self.covered_ms as f64, self.window.as_ms().max(1) as f64);
        (covered / window).min(1.0)
    }

    /// True when no more failures are allowed, decided in whole numbers.
    pub fn exhausted(&self) -> bool {
        self.counted.bad() > Events::ZERO && self.counted.bad() >= self.allowed()
    }
}

impl Summed {
    /// Neighbours of one kind without a gap can be one slice.
    fn adjoins(&self, next: &Self) -> bool {
        self.slice.to == next.slice.from && self.slice.tally.is_some() == next.slice.tally.is_some()
    }

    /// Whether nothing failed in it.
    fn is_quiet(&self) -> bool {
        self.slice.tally.is_none_or(|tally| tally.bad() == Events::ZERO)
    }

    fn joined(&self, next: &Self) -> Self {
        let tally = self.slice.tally.zip(next.slice.tally).map(|(a, b)| a.plus(b));
        Self { slice: Slice { from: self.slice.from, to: next.slice.to, tally }, ..*next }
    }
}

pub(super) fn ms(at: Timestamp) -> i64 {
    at.as_millisecond()
}

fn signed(span: PromDuration) -> i64 {
    i64::try_from(span.as_ms()).unwrap_or(i64::MAX)
}

pub(super) fn length_ms(from: Timestamp, to: Timestamp) -> u64 {
    u64::try_from(ms(to) - ms(from)).unwrap_or(0)
}
