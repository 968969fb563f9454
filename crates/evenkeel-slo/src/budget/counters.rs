//! From the values of counters to the events between two looks at them.
//!
//! The law, for every counter of a look:
//!
//! 1. One that was there at a look before has counted the difference. A smaller value is a restart,
//!    which counted from zero.
//! 2. One that is new goes on from a counter that has vanished when the labels of the two differ in
//!    one label: added, removed, or (only when rule 3 cannot explain it) changed. A relabelled
//!    counter keeps its count.
//! 3. Any other new one, and one that restarted, counted from zero since the last look, as long as
//!    that is plausible: all of them together at most [`STARTS_MAX`] times as many events as the
//!    fastest pace of late explains, or [`STARTS_PER_SECOND`].
//! 4. What is not plausible was counted before anybody looked: it counts from its present value
//!    on, as `increase()` of Prometheus does.
//!
//! Memory: the counters of the last look, at most [`Counters::SERIES_MAX`] per list, and as many
//! that have vanished, each for [`FORGET_AFTER`] at most, the longest absent forgotten first.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use jiff::{SignedDuration, Timestamp};

use super::count::{Events, Slice, Tally};
use crate::model::Labels;

/// How long a vanished counter is remembered, in time with data: longer than a rollout, a node
/// that was away, or the five minutes for which Prometheus repeats a last value.
const FORGET_AFTER: SignedDuration = SignedDuration::from_hours(1);
/// Counters that start from zero may hold this many times what the known pace explains: pods that
/// are replaced all at once take over all the traffic, and a peak may double it.
const STARTS_MAX: f64 = 4.0;
/// And always so many per second: a service that was idle has no pace to compare with.
const STARTS_PER_SECOND: f64 = 50.0;
/// Time in which the memory of the fastest pace fades to a half.
const PACE_HALF_LIFE_S: f64 = 6.0 * 3600.0;

/// Which counter: the number of the selector that found it, and its labels.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SeriesId {
    /// Position of the selector in the query.
    pub selector: usize,
    /// All its labels, the name included.
    pub labels: Labels,
}

/// A counter and its value at a look.
pub type Reading = (Arc<SeriesId>, f64);

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

/// Remembers counters and turns each look at them into a [`Slice`]. See the module for the law.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    last_look: Option<Timestamp>,
    bad: Side,
    total: Side,
    /// The fastest growth of late. Unit: events per second.
    pace: f64,
}

impl Counters {
    /// Most series of one SLO: 1,000 pods with 50 label combinations each.
    pub const SERIES_MAX: usize = 50_000;

    /// Counts what happened since the last look. `Ok(None)` at the first one.
    ///
    /// Both lists are in the order of their names. A value that is no number is not there at all. A look without any series of `total` gives a
    /// slice without data, and changes nothing that is remembered: when the counters come back,
    /// the events of the gap count then.
    pub fn look(
        &mut self,
        now: Timestamp,
        bad: &[Reading],
        total: &[Reading],
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
            return Ok(self.last_look.map(|from| Slice { from, to: now, tally: None }));
        }
        let Some(from) = self.last_look.replace(now) else {
            self.bad.begin(&bad);
            self.total.begin(&total);
            return Ok(None);
        };
        #[expect(clippy::cast_precision_loss, reason = "a span of milliseconds fits")]
        let seconds = (now.as_millisecond() - from.as_millisecond()) as f64 / 1000.0;
        let (bad, total) = (self.bad.read(now, &bad), self.total.read(now, &total));
        let grown = bad.grown.max(total.grown).as_f64() / seconds;
        let room = (self.pace.max(grown) * STARTS_MAX).max(STARTS_PER_SECOND) * seconds;
        let (bad, total) = (self.bad.settle(bad, room), self.total.settle(total, room));
        let pace = bad.max(total).as_f64() / seconds;
        self.pace = pace.max(self.pace * 0.5_f64.powf(seconds / PACE_HALF_LIFE_S));
        Ok(Some(Slice { from, to: now, tally: Some(Tally::new(bad, total)) }))
    }

    /// The name as it is remembered, if it is: so that comparing it later is quick.
    pub fn known(&self, id: &SeriesId) -> Option<&Arc<SeriesId>> {
        let found = self.total.known.get_key_value(id);
        found.or_else(|| self.bad.known.get_key_value(id)).map(|(id, _)| id)
    }
}

fn usable(readings: &[Reading]) -> Vec<&Reading> {
    readings.iter().filter(|(_, v)| v.is_finite() && *v >= 0.0).collect()
}

/// One list of counters.
#[derive(Clone, Debug, Default)]
struct Side {
    known: BTreeMap<Arc<SeriesId>, Known>,
}

/// What is remembered of one counter.
#[derive(Clone, Copy, Debug)]
struct Known {
    value: f64,
    /// The first look with data that did not have it; `None`: the last look had it.
    absent_since: Option<Timestamp>,
}

/// The first part of a look at one list.
struct Read<'a> {
    /// Increase of what was known.
    grown: Events,
    /// Counters that may have counted from zero, the lowest first; true: it was there before.
    starts: Vec<(&'a Reading, bool)>,
}

impl Side {
    fn begin(&mut self, readings: &[&Reading]) {
        for (id, value) in readings {
            self.known.insert(id.clone(), Known { value: *value, absent_since: None });
        }
    }

    /// Counts what is known to have grown, and notes what has vanished.
    fn read<'a>(&mut self, now: Timestamp, readings: &[&'a Reading]) -> Read<'a> {
        let mut read = Read { grown: Events::ZERO, starts: Vec::new() };
        let mut absent = false;
        let mut rest = readings.iter().copied().peekable();
        for (id, known) in &mut self.known {
            while let Some(new) = rest.next_if(|(new, _)| order(new, id) == Ordering::Less) {
                read.starts.push((new, false));
            }
            let Some(reading) = rest.next_if(|(new, _)| order(new, id) == Ordering::Equal) else {
                known.absent_since.get_or_insert(now);
                absent = true;
                continue;
            };
            if reading.1 >= known.value {
                read.grown = read.grown.plus(increase(reading.1 - known.value));
            } else {
                read.starts.push((reading, true));
            }
            *known = Known { value: reading.1, absent_since: None };
        }
        read.starts.extend(rest.map(|new| (new, false)));
        read.starts.sort_by(|((a, x), _), ((b, y), _)| x.total_cmp(y).then_with(|| a.cmp(b)));
        if absent {
            self.forget(now);
        }
        read
    }

    fn forget(&mut self, now: Timestamp) {
        let late = now.checked_sub(FORGET_AFTER).unwrap_or(now);
        self.known.retain(|_, known| known.absent_since.is_none_or(|since| since > late));
        let mut absent: Vec<_> = self
            .known
            .iter()
            .filter_map(|(id, known)| Some((known.absent_since?, id.clone())))
            .collect();
        let surplus = absent.len().saturating_sub(Counters::SERIES_MAX);
        absent.sort_unstable();
        for (_, id) in absent.into_iter().take(surplus) {
            self.known.remove(&id);
        }
    }

    /// Decides about the counters that may have counted from zero; `room` bounds their events.
    fn settle(&mut self, read: Read<'_>, mut room: f64) -> Events {
        let mut sum = read.grown;
        let new = read.starts.iter().any(|(_, restarted)| !restarted);
        let mut vanished = if new { self.vanished() } else { Vanished::default() };
        for ((id, value), restarted) in read.starts {
            let mut counted = (*value <= room).then_some(*value);
            let goes_on = if restarted { None } else { vanished.take(id, *value, room) };
            if let Some((old, last)) = goes_on {
                counted = Some(*value - last);
                self.known.remove(&old);
            }
            if let Some(counted) = counted {
                room -= counted;
                sum = sum.plus(increase(counted));
            }
            self.known.insert(id.clone(), Known { value: *value, absent_since: None });
        }
        sum
    }

    /// The counters that are not there at this look, ready to be found by their labels.
    fn vanished(&self) -> Vanished {
        let mut vanished = Vanished::default();
        for (id, known) in self.known.iter().filter(|(_, known)| known.absent_since.is_some()) {
            vanished.values.insert(id.clone(), known.value);
            vanished.full.entry(full(id)).or_default().insert(id.clone());
            for (key, name) in without_one(id) {
                vanished.less_one.entry(key).or_default().insert((id.clone(), name));
            }
        }
        vanished
    }
}

/// The order of two names; most often they are one and the same.
fn order(a: &Arc<SeriesId>, b: &Arc<SeriesId>) -> Ordering {
    if Arc::ptr_eq(a, b) { Ordering::Equal } else { a.cmp(b) }
}

fn increase(events: f64) -> Events {
    Events::from_f64(events).unwrap_or_default()
}

/// Vanished counters by their labels, and by their labels without each one of them.
#[derive(Default)]
struct Vanished {
    values: BTreeMap<Arc<SeriesId>, f64>,
    full: BTreeMap<String, BTreeSet<Arc<SeriesId>>>,
    less_one: BTreeMap<String, BTreeSet<(Arc<SeriesId>, String)>>,
}

impl Vanished {
    /// The counter that a new one goes on from, with its last value: the highest that fits.
    fn take(&mut self, new: &SeriesId, value: f64, room: f64) -> Option<(Arc<SeriesId>, f64)> {
        if self.values.is_empty() {
            return None;
        }
        let of_full = |key: &str| self.full.get(key).into_iter().flatten().cloned();
        let less_one = |key: &str| self.less_one.get(key).into_iter().flatten();
        // A label was added to the old one, or removed from it.
        let mut found: Vec<_> = without_one(new).flat_map(|(key, _)| of_full(&key)).collect();
        found.extend(less_one(&full(new)).map(|(old, _)| old.clone()));
        if value > room {
            found.extend(without_one(new).flat_map(|(key, name)| {
                less_one(&key).filter(move |(_, other)| *other == name).map(|(old, _)| old.clone())
            }));
        }
        let fits = found.into_iter().filter_map(|old| {
            let last = *self.values.get(&old)?;
            (last <= value && value - last <= room).then_some((old, last))
        });
        let best = fits.max_by(|(a, x), (b, y)| x.total_cmp(y).then_with(|| b.cmp(a)))?;
        self.values.remove(&best.0);
        Some(best)
    }
}

fn full(id: &SeriesId) -> String {
    text(id, None)
}

/// The labels of a counter without each one of them, and which.
fn without_one(id: &SeriesId) -> impl Iterator<Item = (String, String)> {
    // Two metrics are never one counter.
    let names = id.labels.keys().filter(|name| *name != "__name__");
    names.map(|name| (text(id, Some(name)), name.clone()))
}

fn text(id: &SeriesId, without: Option<&String>) -> String {
    let mut out = id.selector.to_string();
    for (name, value) in id.labels.iter().filter(|(name, _)| Some(*name) != without) {
        for part in [name, value] {
            // Label texts are UTF-8, which never has this byte.
            out.push('\u{0}');
            out.push_str(part);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    /// `a=1,b=2 17`: a counter with these labels at 17.
    fn readings(text: &[&str]) -> Vec<Reading> {
        let one = |line: &&str| {
            let (labels, value) = line.split_once(' ').unwrap();
            let pair = |pair: &str| {
                let (name, value) = pair.split_once('=').unwrap_or(("id", pair));
                (name.to_owned(), value.to_owned())
            };
            let labels = labels.split(',').map(pair).collect();
            (Arc::new(SeriesId { selector: 0, labels }), value.parse().unwrap())
        };
        let mut all: Vec<Reading> = text.iter().map(one).collect();
        all.sort_by(|(a, _), (b, _)| a.cmp(b));
        all
    }

    fn look(counters: &mut Counters, second: i64, bad: &[&str], total: &[&str]) -> String {
        match counters.look(at(second), &readings(bad), &readings(total)) {
            Ok(None) => "first".to_owned(),
            Ok(Some(slice)) => match slice.tally {
                None => format!("{} no data", slice.from.as_second()),
                Some(t) => {
                    let (bad, total) = (t.bad().as_f64(), t.total().as_f64());
                    format!("{} {bad}/{total}", slice.from.as_second())
                }
            },
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn more_series_than_can_be_counted_are_refused_and_nothing_is_forgotten() {
        let series = |count: usize, value: f64| -> Vec<Reading> {
            let one = |n: usize| {
                let labels = [("id".to_owned(), format!("{n:05}"))].into_iter().collect();
                (Arc::new(SeriesId { selector: 0, labels }), value)
            };
            (0..count).map(one).collect()
        };
        let max = Counters::SERIES_MAX;
        let mut counters = Counters::default();
        assert_eq!(counters.look(at(0), &[], &series(max, 1.0)), Ok(None));
        let refused = Err(CountError::TooManySeries { found: max + 1, max });
        assert_eq!(counters.look(at(10), &[], &series(max + 1, 2.0)), refused);
        assert_eq!(counters.look(at(20), &series(max + 1, 2.0), &series(1, 2.0)), refused);
        // What cannot be counted has changed nothing: its events count when it can be.
        let slice = counters.look(at(30), &[], &series(max, 3.0)).unwrap().unwrap();
        let total = slice.tally.map(|tally| tally.total().as_f64());
        assert_eq!((slice.from, total), (at(0), Some(2.0 * 50_000.0)));
    }

    #[test]
    fn resets_new_series_gaps_and_nonsense_are_counted_right() {
        let mut counters = Counters::default();
        let mut look = |second, bad: &[&str], total: &[&str]| {
            super::tests::look(&mut counters, second, bad, total)
        };
        assert_eq!(look(0, &[], &["a 1000"]), "first");
        assert_eq!(look(10, &["a5 3"], &["a 1100"]), "0 3/100");
        assert_eq!(look(20, &["a5 1"], &["a 40"]), "10 1/40");
        assert_eq!(look(30, &[], &[]), "20 no data");
        assert_eq!(look(40, &["a5 NaN"], &["a 50", "b -1"]), "20 0/10");
        assert_eq!(look(50, &["a5 9"], &["a 50"]), "40 8/8");
        assert!(look(50, &[], &["a 60"]).contains("nothing is counted"));
        assert_eq!(look(60, &[], &["a 50"]), "50 0/0");
    }

    #[test]
    fn a_relabelled_counter_goes_on_and_its_lifetime_does_not_count_again() {
        let seen = |before: &str, after: &str| {
            let mut counters = Counters::default();
            look(&mut counters, 0, &[], &[&format!("{before} 1000000")]);
            look(&mut counters, 15, &[], &[&format!("{before} 1001500")]);
            look(&mut counters, 30, &[], &[&format!("{after} 1003000")])
        };
        assert_eq!(seen("job=a,pod=x", "job=b,pod=x"), "15 0/1500", "one label changed");
        assert_eq!(seen("job=a", "cluster=c,job=a"), "15 0/1500", "one was added");
        assert_eq!(seen("cluster=c,job=a", "job=a"), "15 0/1500", "one was removed");
        // Nothing says that these are the same: it counts from here on.
        assert_eq!(seen("job=a,pod=x", "job=b,pod=y"), "15 0/0");
        // A pair that reports through two servers differs a little each time it switches.
        let mut counters = Counters::default();
        look(&mut counters, 0, &[], &["a 1000000"]);
        look(&mut counters, 15, &[], &["a 1001500"]);
        assert_eq!(look(&mut counters, 30, &[], &["a 1001490"]), "15 0/0");
        assert_eq!(look(&mut counters, 45, &[], &["a 1003000"]), "30 0/1510");
    }

    #[test]
    fn pods_that_are_replaced_lose_nothing() {
        let mut counters = Counters::default();
        look(&mut counters, 0, &[], &["pod=x 9000", "pod=y 20"]);
        look(&mut counters, 15, &[], &["pod=x 9750", "pod=y 770"]);
        // Both go at once, and what they count first is all of the traffic.
        let found = look(&mut counters, 30, &["pod=v 5"], &["pod=u 800", "pod=v 700"]);
        assert_eq!(found, "15 5/1500");
        // A target that has run for long is found only now.
        let found = look(&mut counters, 45, &["pod=v 5"], &["pod=old 8000000", "pod=u 900"]);
        assert_eq!(found, "30 0/100");
        let found = look(&mut counters, 60, &["pod=v 6"], &["pod=old 8000070", "pod=u 900"]);
        assert_eq!(found, "45 1/70");
    }

    #[test]
    fn a_year_of_new_names_counts_each_event_once_and_stays_small() {
        let mut counters = Counters::default();
        let mut events = 0.0;
        look(&mut counters, 0, &[], &["pod=p0 0"]);
        for hour in 1..=1_000_i64 {
            // 300 pods, all new every hour, 10 events each.
            let pods: Vec<String> = (0..300).map(|n| format!("pod=p{hour}-{n} 10")).collect();
            let pods: Vec<&str> = pods.iter().map(String::as_str).collect();
            let slice = counters.look(at(hour * 3600), &[], &readings(&pods)).unwrap().unwrap();
            events += slice.tally.unwrap().total().as_f64();
            assert!(counters.total.known.len() <= 600, "{}", counters.total.known.len());
        }
        assert!((events - 3_000_000.0).abs() < 0.5, "{events}");
    }

    #[test]
    fn a_counter_that_was_away_goes_on_while_it_is_remembered() {
        let after = |minutes: i64| {
            let mut counters = Counters::default();
            look(&mut counters, 0, &[], &["pod=x 5000000", "pod=y 10"]);
            for minute in 1..minutes {
                look(&mut counters, minute * 60, &[], &["pod=y 10"]);
            }
            look(&mut counters, minutes * 60, &[], &["pod=x 5000700", "pod=y 10"])
        };
        assert_eq!(after(30), "1740 0/700");
        assert_eq!(after(90), "5340 0/0");
    }
}
