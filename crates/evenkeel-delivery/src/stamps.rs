//! The stamps of a release while the wall clock is set.
//!
//! ```text
//! stamps in the status        wall clock, for people and for whoever goes on after a crash
//! time from a stamp to now    as the even clock counts it, while this process has looked on
//! ```
//! A clock that is set moves the stamps along: an interval that has run for ten seconds has run for
//! ten seconds afterwards, and a deadline is neither met nor missed by it. A process that has just
//! started cannot know: a stamp later than now is then taken as made now, once, so that a step back
//! costs one more interval and not the step.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use evenkeel_api::{Key, canary::RunStatus};
use evenkeel_base::Clock;
use jiff::{SignedDuration, Timestamp};

use crate::CanaryView;

/// Smaller ones are the everyday corrections of NTP.
const STEP_MIN: SignedDuration = SignedDuration::from_secs(1);

/// A change of our own comes back within this, as an event of the watch. What changed later may be
/// another process's, which led meanwhile and whose clock is not known: it is taken as right.
const OWN_CHANGE: SignedDuration = SignedDuration::from_secs(1);

/// What this process knows of the clock by which each Canary's stamps were made.
#[derive(Debug, Default)]
pub(crate) struct Clocks(Mutex<BTreeMap<Key, Seen>>);

#[derive(Debug)]
struct Seen {
    /// The stamps as they were stored.
    run: RunStatus,
    /// Wall clock less even clock when they were made.
    made_at: SignedDuration,
    /// The same at the last look, when newer ones may have been made.
    looked_at: SignedDuration,
    /// When that was, by the even clock.
    last_look: Timestamp,
}

impl Clocks {
    fn seen(&self) -> MutexGuard<'_, BTreeMap<Key, Seen>> {
        // Whole entries are put in and taken out.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Brings the stamps of a view, which has just been read, to the wall clock of the look.
    pub(crate) fn correct(&self, view: &mut CanaryView, look: &LookClock) {
        let (key, now) = (view.obj.key().clone(), look.wall);
        let off = now.duration_since(look.even);
        let mut all = self.seen();
        let made_at = match all.get(&key) {
            Some(seen) if seen.run == view.run => seen.made_at,
            Some(seen) if look.even.duration_since(seen.last_look) <= OWN_CHANGE => seen.looked_at,
            _ => off,
        };
        let run = view.run.clone();
        all.insert(key, Seen { run, made_at, looked_at: off, last_look: look.even });
        drop(all);
        let step = off.saturating_sub(made_at);
        for stamp in stamps(view) {
            if step.abs() >= STEP_MIN {
                *stamp = stamp.saturating_add(step).unwrap_or(*stamp);
            }
            *stamp = now.min(*stamp);
        }
    }

    /// Forgets a Canary that is gone.
    pub(crate) fn forget(&self, key: &Key) {
        self.seen().remove(key);
    }
}

/// The wall clock of one look, which does not see it being set.
pub(crate) struct LookClock {
    wall: Timestamp,
    even: Timestamp,
}

impl LookClock {
    pub(crate) fn begin(clock: &dyn Clock) -> Self {
        Self { wall: clock.now(), even: clock.steady() }
    }

    /// When the look began.
    pub(crate) fn began(&self) -> Timestamp {
        self.wall
    }

    /// The time now, on the clock as it was when the look began.
    pub(crate) fn now(&self, clock: &dyn Clock) -> Timestamp {
        let passed = clock.steady().duration_since(self.even);
        self.wall.saturating_add(passed).unwrap_or(self.wall)
    }
}

/// The stamps that waits are counted from.
fn stamps(view: &mut CanaryView) -> impl Iterator<Item = &mut Timestamp> {
    let run = &mut view.run;
    let own = [
        &mut run.started_at,
        &mut run.ticked_at,
        &mut run.confirmed_at,
        &mut run.waiting_since,
        &mut run.clean_since,
        &mut run.data_missing_since,
        &mut run.alerted_at,
    ];
    let rollback = run.rollback.as_mut().map(|rollback| &mut rollback.since);
    let repairs = run.repairs.iter_mut().map(|repair| &mut repair.at);
    let shown = view.status.last_transition_time.as_mut().map(|time| &mut time.0);
    own.into_iter().flatten().chain(rollback).chain(repairs).chain(shown)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use evenkeel_api::Obj;
    use serde_json::json;

    use super::*;
    use crate::Settings;

    /// Even time and wall time, in seconds.
    struct Hands(Mutex<(i64, i64)>);

    impl Hands {
        fn pass(&self, seconds: i64) {
            self.set(0, seconds);
        }
        fn set(&self, by: i64, passed: i64) {
            let mut hands = self.0.lock().unwrap();
            hands.0 += passed;
            hands.1 += passed + by;
        }
        fn at(second: i64) -> Timestamp {
            Timestamp::from_second(second).unwrap()
        }
    }

    impl Clock for Hands {
        fn now(&self) -> Timestamp {
            Self::at(self.0.lock().unwrap().1)
        }
        fn steady(&self) -> Timestamp {
            Self::at(self.0.lock().unwrap().0)
        }
    }

    struct Case {
        clocks: Clocks,
        hands: Hands,
        stored: i64,
    }

    impl Case {
        /// A release whose last tick was at second 100 of the wall clock.
        fn new() -> Self {
            let hands = Hands(Mutex::new((7, 100)));
            Self { clocks: Clocks::default(), hands, stored: 100 }
        }

        /// Seconds since the last tick as this process sees it, perhaps writing that down.
        fn look(&mut self, writes: bool) -> i64 {
            let at = Hands::at(self.stored);
            let obj = Obj::from_json(json!({"apiVersion": "flagger.app/v1beta1", "kind": "Canary",
                "metadata": {"name": "api", "namespace": "shop"}, "spec": {"targetRef": {}},
                "status": {"evenkeel": {"tickedAt": at, "startedAt": at,
                    "rollback": {"cause": "x", "since": at}}}}));
            let now = self.hands.now();
            let mut view = CanaryView::new(Arc::new(obj.unwrap()), &Settings::default(), now);
            self.clocks.correct(&mut view, &LookClock::begin(&self.hands));
            let ticked = view.run.ticked_at.unwrap();
            assert_eq!(view.run.rollback.unwrap().since, ticked);
            if writes {
                self.stored = ticked.as_second();
            }
            now.duration_since(ticked).as_secs()
        }
    }

    #[test]
    fn a_step_of_the_clock_neither_cuts_nor_stretches_what_has_passed() {
        for step in [26, -3_600, 86_400, -86_400] {
            let mut case = Case::new();
            case.hands.pass(10);
            assert_eq!(case.look(false), 10);
            case.hands.set(step, 5);
            // Whether it could be written or not, it is not counted twice.
            for (writes, passed) in [(false, 15), (true, 16), (false, 17), (true, 18)] {
                assert_eq!(case.look(writes), passed, "after a step of {step} s");
                case.hands.pass(1);
            }
            case.hands.set(-2 * step, 0);
            assert_eq!(case.look(true), 19, "after another one");
        }
    }

    #[test]
    fn who_did_not_look_on_takes_a_later_stamp_as_made_now_once() {
        let mut case = Case::new();
        case.hands.set(-3_600, 0);
        assert_eq!(case.look(true), 0);
        case.hands.pass(30);
        assert_eq!(case.look(true), 30);
    }

    #[test]
    fn a_stamp_of_another_leader_is_right_as_it_is() {
        for step in [-3_600, 3_600] {
            let mut case = Case::new();
            assert_eq!(case.look(false), 0);
            // Another process leads; the clock is set, then it makes a stamp; this one leads again.
            case.hands.set(step, 30);
            case.stored = case.hands.now().as_second();
            case.hands.pass(5);
            assert_eq!(case.look(false), 5, "after a step of {step} s");
        }
    }

    #[test]
    fn a_look_does_not_see_the_clock_being_set() {
        let case = Case::new();
        let look = LookClock::begin(&case.hands);
        case.hands.set(-3_600, 40);
        assert_eq!(look.now(&case.hands).duration_since(look.began()).as_secs(), 40);
    }

    #[test]
    fn a_stamp_that_was_made_meanwhile_is_right_as_it_is() {
        let mut case = Case::new();
        assert_eq!(case.look(false), 0);
        case.hands.set(3_600, 30);
        assert_eq!(case.look(false), 30);
        case.stored = case.hands.now().as_second();
        case.hands.pass(3);
        assert_eq!(case.look(false), 3);
    }
}
