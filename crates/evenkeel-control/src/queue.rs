use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use evenkeel_api::Key;
use jiff::{SignedDuration, Timestamp};

/// Longest pause before an object is looked at again on which a pass has panicked. What a defect of
/// ours kept from being judged, such as a release that has traffic, is judged that soon after its
/// cause is gone; and a pass every two minutes costs nothing, should the cause stay.
pub const PANIC_PAUSE_MAX: Duration = Duration::from_mins(2);

/// Longest exponent of a growing pause: further doublings pass every limit.
const DOUBLINGS_MAX: u32 = 16;

/// How pauses grow while an object keeps failing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BackOff {
    /// A conflict, or no answer: soon again.
    Quick,
    /// Refused, or the same change again and again: only a person or another controller can help,
    /// so a change of the object may end the pause, but no sooner than the first one.
    Slow,
    /// A defect in evenkeel: long, and no event hurries it.
    Panic,
}

impl BackOff {
    /// First pause and longest pause. The longest one is how long a person waits at most after the
    /// cause is gone.
    fn bounds(self) -> (Duration, Duration) {
        match self {
            Self::Quick => (Duration::from_millis(20), Duration::from_secs(30)),
            Self::Slow => (Duration::from_secs(2), Duration::from_mins(1)),
            Self::Panic => (Duration::from_secs(30), PANIC_PAUSE_MAX),
        }
    }

    fn pause(self, failures: u32) -> Duration {
        let (first, longest) = self.bounds();
        first.saturating_mul(1 << failures.min(DOUBLINGS_MAX)).min(longest)
    }
}

/// No look at a held object sooner than this, whatever happens meanwhile: each look asks the door.
const HOLD_LEAST: Duration = Duration::from_secs(1);

/// When to look at which object. Pure and ordered: due time first, then arrival, then nothing.
///
/// All times are monotonic ([`evenkeel_base::Clock::steady`]): setting a clock does not delay a
/// look. An object is never worked on twice at once; what happens to it meanwhile is remembered.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    due: BTreeSet<(Timestamp, u64, Key)>,
    waiting: BTreeMap<Key, (Timestamp, u64)>,
    running: BTreeMap<Key, Option<Timestamp>>,
    failures: BTreeMap<Key, u32>,
    /// No look at a failing object before this, whatever happens meanwhile.
    not_before: BTreeMap<Key, Timestamp>,
    arrivals: u64,
}

impl Queue {
    /// Look at `key` at `at`, or sooner if that was asked for already.
    pub(crate) fn add(&mut self, key: &Key, at: Timestamp) {
        if let Some(again) = self.running.get_mut(key) {
            *again = Some(again.map_or(at, |old| old.min(at)));
            return;
        }
        let at = self.not_before.get(key).map_or(at, |earliest| at.max(*earliest));
        if let Some((old, arrival)) = self.waiting.get(key).copied() {
            if old <= at {
                return;
            }
            self.due.remove(&(old, arrival, key.clone()));
        }
        self.arrivals += 1;
        self.due.insert((at, self.arrivals, key.clone()));
        self.waiting.insert(key.clone(), (at, self.arrivals));
    }

    /// Takes the next object that is due; it counts as running until [`Self::done`].
    pub(crate) fn take(&mut self, now: Timestamp) -> Option<Key> {
        if self.due.first()?.0 > now {
            return None;
        }
        let (_, _, key) = self.due.pop_first()?;
        self.waiting.remove(&key);
        self.running.insert(key.clone(), None);
        Some(key)
    }

    /// When the next object is due.
    pub(crate) fn next_at(&self) -> Option<Timestamp> {
        self.due.first().map(|(at, _, _)| *at)
    }

    /// Work on `key` succeeded; look again after `wake_after`, if given.
    pub(crate) fn done(&mut self, key: &Key, now: Timestamp, wake_after: Option<Duration>) {
        self.failures.remove(key);
        self.not_before.remove(key);
        self.finish(key, wake_after.map(|wait| later(now, wait)));
    }

    /// Work on `key` failed; look again after a growing pause, or after `wake_after` if that is
    /// sooner but not sooner than the first pause.
    pub(crate) fn failed(
        &mut self,
        key: &Key,
        now: Timestamp,
        back_off: BackOff,
        wake_after: Option<Duration>,
    ) {
        let failures = self.failures.entry(key.clone()).or_default();
        let pause = back_off.pause(*failures);
        *failures = failures.saturating_add(1);
        let least = match back_off {
            BackOff::Slow => back_off.pause(0),
            BackOff::Quick | BackOff::Panic => pause,
        };
        let pause = wake_after.map_or(pause, |wait| pause.min(wait.max(least)));
        self.not_before.insert(key.clone(), later(now, least));
        self.finish(key, Some(later(now, pause)));
    }

    /// Work on `key` was held; look again after `wait`, or soon if something happened meanwhile.
    pub(crate) fn held(&mut self, key: &Key, now: Timestamp, wait: Duration) {
        self.not_before.insert(key.clone(), later(now, HOLD_LEAST));
        self.finish(key, Some(later(now, wait.max(HOLD_LEAST))));
    }

    /// When `key` is looked at again if nothing happens before.
    pub(crate) fn due(&self, key: &Key) -> Option<Timestamp> {
        self.waiting.get(key).map(|(at, _)| *at)
    }

    /// How many objects wait to be looked at.
    pub(crate) fn len(&self) -> usize {
        self.due.len()
    }

    /// Forgets what is known of an object that is gone.
    pub(crate) fn forget(&mut self, key: &Key) {
        self.failures.remove(key);
        self.not_before.remove(key);
    }

    /// Forgets everything but which objects are being worked on: those are not begun a second time.
    pub(crate) fn clear(&mut self) {
        let running = std::mem::take(&mut self.running).into_keys().map(|key| (key, None));
        *self = Self { running: running.collect(), arrivals: self.arrivals, ..Self::default() };
    }

    /// Work on `key` has ended, and nothing follows from it.
    pub(crate) fn ended(&mut self, key: &Key) {
        self.running.remove(key);
    }

    fn finish(&mut self, key: &Key, wake: Option<Timestamp>) {
        let again = self.running.remove(key).flatten();
        for at in [again, wake].into_iter().flatten() {
            self.add(key, at);
        }
    }
}

/// `wait` after `now`.
pub(crate) fn later(now: Timestamp, wait: Duration) -> Timestamp {
    let wait = SignedDuration::try_from(wait).unwrap_or(SignedDuration::MAX);
    now.checked_add(wait).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use evenkeel_api::GroupKind;

    use super::*;

    fn key(name: &str) -> Key {
        Key::new(GroupKind::new("", "Pod"), "shop", name)
    }
    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn objects_come_when_due_and_the_sooner_wish_wins() {
        let mut queue = Queue::default();
        queue.add(&key("a"), at(10));
        queue.add(&key("b"), at(5));
        queue.add(&key("a"), at(2));
        queue.add(&key("a"), at(9));
        assert_eq!(queue.take(at(1)), None);
        assert_eq!(queue.take(at(5)), Some(key("a")));
        assert_eq!(queue.take(at(5)), Some(key("b")));
        assert_eq!((queue.take(at(99)), queue.next_at()), (None, None));
    }

    #[test]
    fn an_object_is_not_worked_on_twice_at_once() {
        let mut queue = Queue::default();
        queue.add(&key("a"), at(0));
        assert_eq!(queue.take(at(0)), Some(key("a")));
        queue.add(&key("a"), at(1));
        assert_eq!(queue.take(at(2)), None);
        queue.done(&key("a"), at(2), None);
        assert_eq!(queue.take(at(2)), Some(key("a")));
    }

    /// Fails once more at second 0; the pause until the next look.
    fn pause(queue: &mut Queue, back_off: BackOff, wake_after: Option<Duration>) -> Duration {
        queue.add(&key("a"), at(0));
        queue.take(at(1_000_000)).unwrap();
        queue.failed(&key("a"), at(0), back_off, wake_after);
        Duration::try_from(queue.due(&key("a")).unwrap().duration_since(at(0))).unwrap()
    }

    #[test]
    fn pauses_grow_to_a_limit_and_success_resets_them() {
        let mut queue = Queue::default();
        let pauses: Vec<_> =
            (0..14).map(|_| pause(&mut queue, BackOff::Quick, None).as_millis()).collect();
        assert_eq!((pauses[0], pauses[1], pauses[13]), (20, 40, 30_000));
        queue.take(at(1_000_000)).unwrap();
        queue.done(&key("a"), at(0), Some(Duration::from_secs(7)));
        assert_eq!(queue.next_at(), Some(at(7)));
    }

    #[test]
    fn what_was_refused_is_tried_again_forever_but_slowly() {
        let mut queue = Queue::default();
        let pauses: Vec<_> =
            (0..8).map(|_| pause(&mut queue, BackOff::Slow, None).as_secs()).collect();
        assert_eq!(pauses, [2, 4, 8, 16, 32, 60, 60, 60]);
        // An event ends the pause, but never sooner than the first one.
        queue.add(&key("a"), at(1));
        assert_eq!(queue.next_at(), Some(at(2)));
        // A plan's own wake-up does, too.
        let five = Duration::from_secs(5);
        assert_eq!(pause(&mut queue, BackOff::Slow, Some(five)), five);
        let least = Duration::from_secs(2);
        assert_eq!(pause(&mut queue, BackOff::Slow, Some(Duration::ZERO)), least);
    }

    #[test]
    fn after_a_panic_an_object_rests_but_never_for_long() {
        let mut queue = Queue::default();
        let pauses: Vec<_> =
            (0..5).map(|_| pause(&mut queue, BackOff::Panic, None).as_secs()).collect();
        assert_eq!(pauses, [30, 60, 120, 120, PANIC_PAUSE_MAX.as_secs()]);
    }

    #[test]
    fn what_is_held_waits_and_events_do_not_make_it_spin() {
        let mut queue = Queue::default();
        queue.add(&key("a"), at(0));
        queue.take(at(0)).unwrap();
        queue.held(&key("a"), at(0), Duration::from_secs(30));
        assert_eq!(queue.due(&key("a")), Some(at(30)));
        queue.add(&key("a"), at(0));
        assert_eq!(queue.due(&key("a")), Some(at(1)));
        queue.take(at(1)).unwrap();
        queue.held(&key("a"), at(1), Duration::ZERO);
        assert_eq!(queue.due(&key("a")), Some(at(2)));
    }

    #[test]
    fn what_is_under_way_when_all_is_forgotten_is_not_begun_twice() {
        let mut queue = Queue::default();
        for name in ["a", "b"] {
            queue.add(&key(name), at(0));
        }
        assert_eq!(queue.take(at(0)), Some(key("a")));
        queue.add(&key("a"), at(0));
        queue.clear();
        assert_eq!((queue.len(), queue.take(at(9))), (0, None));
        queue.add(&key("a"), at(1));
        assert_eq!(queue.take(at(9)), None, "it is under way");
        queue.done(&key("a"), at(9), None);
        assert_eq!(queue.take(at(9)), Some(key("a")));
        queue.clear();
        queue.ended(&key("a"));
        queue.add(&key("a"), at(9));
        assert_eq!(queue.take(at(9)), Some(key("a")));
    }

    #[test]
    fn what_happens_during_a_pass_that_ends_badly_is_not_forgotten() {
        let mut queue = Queue::default();
        let begin = |queue: &mut Queue| {
            queue.add(&key("a"), at(0));
            queue.take(at(1_000_000)).unwrap();
            queue.add(&key("a"), at(0));
        };
        begin(&mut queue);
        queue.held(&key("a"), at(0), Duration::from_mins(5));
        assert_eq!(queue.due(&key("a")), Some(at(1)));
        begin(&mut queue);
        queue.failed(&key("a"), at(0), BackOff::Slow, None);
        assert_eq!(queue.due(&key("a")), Some(at(2)));
        begin(&mut queue);
        queue.failed(&key("a"), at(0), BackOff::Panic, None);
        assert_eq!(queue.due(&key("a")), Some(at(60)), "a defect is not retried sooner");
    }
}
