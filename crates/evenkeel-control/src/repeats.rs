//! Changes that do not last: the same one again and again on behalf of one object.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use evenkeel_api::{Key, Revision};
use jiff::{SignedDuration, Timestamp};

/// How often the same change may be made within [`BURST`]: a few times happen with a lagging cache
/// or a second writer, and with a controller that paces its own repairs.
pub(crate) const REPEATS_MAX: u32 = 5;
/// Changes are counted over this long.
const BURST: Duration = Duration::from_mins(1);
/// A repeated change is over when it was not made for this long. Longer than the longest pause
/// after a repeated one, or it would be forgotten by then.
const WITHIN: Duration = Duration::from_mins(2);

/// One change of one target, by hashes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mark {
    /// For people, without anything secret.
    pub(crate) text: String,
    /// What was changed.
    pub(crate) target: u64,
    /// To what.
    pub(crate) change: u64,
}

impl Mark {
    pub(crate) fn new(text: String, target: &str, change: &str) -> Self {
        let hash = |text: &str| evenkeel_base::stable_hash(text.as_bytes());
        Self { text, target: hash(target), change: hash(change) }
    }
}

/// What was changed last on behalf of each object.
#[derive(Default)]
pub(crate) struct Repeats(Mutex<BTreeMap<Key, Last>>);

#[derive(Default)]
struct Last {
    /// By target. Only recent ones: no more than an object's plans of two minutes.
    changes: BTreeMap<u64, Times>,
    /// What each status was at when it was last written.
    statuses: BTreeMap<Key, Revision>,
}

/// How often a target was changed to the same, with nothing else in between.
struct Times {
    change: u64,
    count: u32,
    /// When it was changed first and last.
    first: Timestamp,
    last: Timestamp,
}

impl Times {
    fn is_repeated(&self) -> bool {
        self.count > REPEATS_MAX
    }

    /// Once more. A repetition that did not come within a burst starts the count again.
    fn again(&mut self, now: Timestamp) {
        if !self.is_repeated() && since(self.first, now) >= BURST {
            (self.count, self.first) = (0, now);
        }
        self.count = self.count.saturating_add(1);
        self.last = now;
    }
}

/// The verdict on a pass that carried its plan out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Calm {
    /// Nothing is repeated.
    Yes,
    /// Nothing was repeated now, but a repeated change is too recent to be forgotten; for this
    /// long.
    NotYet(Duration),
    /// The same change was made too often.
    No(String),
}

impl Repeats {
    fn known(&self) -> MutexGuard<'_, BTreeMap<Key, Last>> {
        // Counters only: a panic elsewhere leaves at worst one of them behind.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes what a pass over `key` changed; `now` is monotonic time.
    pub(crate) fn note(&self, key: &Key, marks: &[Mark], now: Timestamp) -> Calm {
        let mut known = self.known();
        if marks.is_empty() && !known.contains_key(key) {
            return Calm::Yes;
        }
        let changes = &mut known.entry(key.clone()).or_default().changes;
        changes.retain(|_, times| since(times.last, now) < WITHIN);
        let mut repeated = None;
        for mark in marks {
            let fresh = Times { change: mark.change, count: 0, first: now, last: now };
            let times = changes.entry(mark.target).or_insert(fresh);
            if times.change != mark.change {
                *times = Times { change: mark.change, count: 0, first: now, last: now };
            }
            times.again(now);
            if times.is_repeated() {
                repeated.get_or_insert(&mark.text);
            }
        }
        if let Some(text) = repeated {
            return Calm::No(text.clone());
        }
        let recent = changes.values().filter(|times| times.is_repeated());
        let left = recent.map(|times| WITHIN.saturating_sub(since(times.last, now))).max();
        left.map_or(Calm::Yes, Calm::NotYet)
    }

    /// Notes that the status of `of` was written in a pass over `key`, and is at `revision` now;
    /// whether that changed anything.
    pub(crate) fn is_change(&self, key: &Key, of: &Key, revision: &Revision) -> bool {
        let mut known = self.known();
        let last = known.entry(key.clone()).or_default();
        last.statuses.insert(of.clone(), revision.clone()).as_ref() != Some(revision)
    }

    /// Forgets all objects.
    pub(crate) fn clear(&self) {
        self.known().clear();
    }

    /// Forgets an object that is gone.
    pub(crate) fn forget(&self, key: &Key) {
        self.known().remove(key);
    }
}

fn since(at: Timestamp, now: Timestamp) -> Duration {
    let passed: SignedDuration = now.duration_since(at);
    Duration::try_from(passed).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use evenkeel_api::GroupKind;

    use super::*;

    fn mark(target: &str, change: &str) -> Mark {
        Mark::new(target.to_owned(), target, change)
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn the_same_change_again_and_again_is_noticed_and_in_time_forgotten() {
        let (repeats, key) = (Repeats::default(), Key::new(GroupKind::new("", "Pod"), "a", "b"));
        let note = |changes: &[&str], second| {
            let marks: Vec<_> = changes.iter().map(|change| mark("target", change)).collect();
            repeats.note(&key, &marks, at(second))
        };
        for second in [10, 15, 20, 25, 30] {
            assert_eq!(note(&["a"], second), Calm::Yes);
            // A quiet look in between does not prove that it lasts.
            assert_eq!(note(&[], second + 1), Calm::Yes);
        }
        assert_eq!(note(&["a"], 40), Calm::No("target".to_owned()));
        assert_eq!(note(&[], 100), Calm::NotYet(Duration::from_mins(1)));
        assert_eq!(note(&["a"], 150), Calm::No("target".to_owned()));
        assert_eq!(note(&[], 270), Calm::Yes);
        assert_eq!(note(&["a"], 280), Calm::Yes, "long ago");
        repeats.forget(&key);
        assert_eq!(note(&["a"], 282), Calm::Yes);
    }

    #[test]
    fn a_controller_that_paces_its_repairs_itself_is_left_alone() {
        let (repeats, key) = (Repeats::default(), Key::new(GroupKind::new("", "Pod"), "a", "b"));
        let marks = [mark("route", "a")];
        for second in [0, 5, 15, 35, 75, 155, 315, 335, 340, 350] {
            assert_eq!(repeats.note(&key, &marks, at(second)), Calm::Yes, "{second}");
        }
    }

    #[test]
    fn what_we_change_to_and_fro_ourselves_is_not_undone_by_others() {
        let (repeats, key) = (Repeats::default(), Key::new(GroupKind::new("", "Pod"), "a", "b"));
        for second in 0..20 {
            let change = if second % 2 == 0 { "ready" } else { "unready" };
            let marks = [mark("slice", change), mark("status", &second.to_string())];
            assert_eq!(repeats.note(&key, &marks, at(second)), Calm::Yes);
        }
        // Another target that is the same every time counts for itself.
        for second in 20..30 {
            let marks = [mark("route", "a"), mark("status", &second.to_string())];
            let calm = repeats.note(&key, &marks, at(second));
            assert_eq!(calm == Calm::No("route".to_owned()), second >= 25, "{second}");
        }
    }

    #[test]
    fn a_status_that_is_already_there_is_not_a_change() {
        let (repeats, key) = (Repeats::default(), Key::new(GroupKind::new("", "Pod"), "a", "b"));
        let change = |revision: u64| repeats.is_change(&key, &key, &revision.into());
        assert!(change(1) && !change(1) && change(2));
    }
}
