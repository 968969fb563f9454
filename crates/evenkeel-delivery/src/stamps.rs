//! The stamps of a release while the wall clock is set.
//!
//! ```text
//! stamps in the status        wall clock, for people and for whoever goes on after a crash
//! time from a stamp to now    as the even clock counts it, while this process has looked on
//! ```
//! A clock that is set moves the stamps along: an interval that has run for ten seconds has run for
//! ten seconds afterwards, and a deadline is neither met nor missed by it. A process that has just
//! started cannot know: a stamp later than now is then taken as made now, once, so that a step back
//! costs one more interval and not the step. The same holds for stamps that a process
//! neither saw at its last look nor planned then: another one has led since and made them.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use evenkeel_api::{
    Key,
    canary::{CanaryStatus, RunStatus},
    json,
};
use evenkeel_base::Clock;
use evenkeel_control::Plan;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use crate::CanaryView;

/// Smaller ones are the everyday corrections of NTP.
const STEP_MIN: SignedDuration = SignedDuration::from_secs(1);

/// What this process knows of the clock by which each Canary's stamps were made.
#[derive(Debug, Default)]
pub(crate) struct Clocks(Mutex<BTreeMap<Key, Seen>>);

#[derive(Debug)]
struct Seen {
    /// The stamps as they were stored.
    stored: Stamps,
    /// Wall clock less even clock when they were made.
    made_at: SignedDuration,
    /// What the last look planned to store instead; `None` when it did not come to that.
    planned: Option<Planned>,
}

#[derive(Debug)]
struct Planned {
    stamps: Stamps,
    /// Wall clock less even clock when they were made.
    made_at: SignedDuration,
}

/// The stamps of a run, in a fixed order; `None` for one that is not set.
type Stamps = Vec<Option<Timestamp>>;

impl Clocks {
    fn seen(&self) -> MutexGuard<'_, BTreeMap<Key, Seen>> {
        // Whole entries are put in and taken out.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Brings the stamps of a view, which has just been read, to the wall clock as it is now. Returns
    /// wall clock less even clock, for [`Self::correct_again`].
    pub(crate) fn correct(&self, view: &mut CanaryView, clock: &dyn Clock) -> SignedDuration {
        let stored = stored(&mut view.run.clone());
        let now = clock.now();
        let off = now.duration_since(clock.steady());
        let mut all = self.seen();
        let made_at = match all.get(view.obj.key()) {
            Some(seen) if seen.stored == stored => seen.made_at,
            Some(Seen { planned: Some(planned), .. }) if planned.stamps == stored => {
                planned.made_at
            }
            _ => off,
        };
        all.insert(view.obj.key().clone(), Seen { stored, made_at, planned: None });
        drop(all);
        shift(view, now, off.saturating_sub(made_at));
        off
    }

    /// Ends the reads of a look: takes the present time as that of the view, and brings the stamps
    /// along if the clock was set since [`Self::correct`] returned `off`.
    pub(crate) fn correct_again(
        view: &mut CanaryView,
        off: SignedDuration,
        clock: &dyn Clock,
    ) -> SignedDuration {
        let now = clock.now();
        let off_now = now.duration_since(clock.steady());
        view.now = now;
        shift(view, now, off_now.saturating_sub(off));
        off_now
    }

    /// Remembers which stamps this process is about to write, made by the clock of this look.
    pub(crate) fn planned(&self, view: &CanaryView, plan: &Plan, made_at: SignedDuration) {
        let key = view.obj.key();
        let mut status = view.obj.json().get("status").cloned().unwrap_or(Value::Null);
        for write in plan.status.iter().filter(|write| write.key == *key) {
            json::merge(&mut status, &write.status);
        }
        let run = CanaryStatus::read(&status).and_then(|status| status.evenkeel);
        let stamps = stored(&mut run.unwrap_or_default());
        if let Some(seen) = self.seen().get_mut(key) {
            seen.planned = Some(Planned { stamps, made_at });
        }
    }

    /// Forgets all Canaries.
    pub(crate) fn forget_all(&self) {
        self.seen().clear();
    }

    /// Forgets a Canary that is gone.
    pub(crate) fn forget(&self, key: &Key) {
        self.seen().remove(key);
    }
}

/// Moves the stamps of a view by a step of the clock; none is later than now.
fn shift(view: &mut CanaryView, now: Timestamp, step: SignedDuration) {
    let shown = view.status.last_transition_time.as_mut().map(|time| &mut time.0);
    for stamp in stamps(&mut view.run).into_iter().flatten().chain(shown) {
        if step.abs() >= STEP_MIN {
            *stamp = stamp.saturating_add(step).unwrap_or(*stamp);
        }
        *stamp = now.min(*stamp);
    }
}

fn stored(run: &mut RunStatus) -> Stamps {
    stamps(run).into_iter().map(|stamp| stamp.map(|at| *at)).collect()
}

/// The stamps that waits are counted from.
fn stamps(run: &mut RunStatus) -> Vec<Option<&mut Timestamp>> {
    let own = [
        &mut run.started_at,
        &mut run.ticked_at,
        &mut run.confirmed_at,
        &mut run.waiting_since,
        &mut run.clean_since,
        &mut run.data_missing_since,
        &mut run.alerted_at,
    ];
    let mut all: Vec<_> = own.into_iter().map(Option::as_mut).collect();
    all.push(run.rollback.as_mut().map(|rollback| &mut rollback.since));
    all.push(run.route_seen.as_mut().map(|seen| &mut seen.at));
    all.extend(run.repairs.iter_mut().map(|repair| Some(&mut repair.at)));
    all
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
        /// How the clock is set, and how much time passes, in the next look.
        meanwhile: (i64, i64),
    }

    impl Case {
        /// A release whose last tick was at second 100 of the wall clock.
        fn new() -> Self {
            let hands = Hands(Mutex::new((7, 100)));
            Self { clocks: Clocks::default(), hands, stored: 100, meanwhile: (0, 0) }
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
            let off = self.clocks.correct(&mut view, &self.hands);
            let (by, passed) = std::mem::take(&mut self.meanwhile);
            self.hands.set(by, passed);
            let off = Clocks::correct_again(&mut view, off, &self.hands);
            let now = view.now;
            let ticked = view.run.ticked_at.unwrap();
            assert_eq!(view.run.rollback.as_ref().unwrap().since, ticked);
            let mut plan = Plan::idle("Test");
            if writes {
                let run = json!({"tickedAt": ticked, "startedAt": ticked,
                    "rollback": {"cause": "x", "since": ticked}});
                plan = plan.with_status(view.obj.key().clone(), json!({"evenkeel": run}));
                self.stored = ticked.as_second();
            }
            self.clocks.planned(&view, &plan, off);
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
    fn a_stamp_that_another_process_made_is_right_as_it_is() {
        for step in [3_600, -3_600] {
            let mut case = Case::new();
            assert_eq!(case.look(true), 0);
            // It leads, and the clock is set meanwhile.
            case.hands.set(step, 30);
            case.stored = case.hands.now().as_second();
            case.hands.pass(3);
            assert_eq!(case.look(false), 3, "after a step of {step} s");
            case.hands.pass(1);
            assert_eq!(case.look(true), 4, "after a step of {step} s");
        }
    }

    #[test]
    fn a_clock_that_is_set_within_a_look_is_noticed_once() {
        for (step, writes) in [(3_600, true), (3_600, false), (-3_600, true), (-3_600, false)] {
            let mut case = Case::new();
            case.hands.pass(10);
            case.meanwhile = (step, 5);
            assert_eq!(case.look(writes), 15, "after a step of {step} s");
            case.hands.pass(1);
            assert_eq!(case.look(writes), 16, "after a step of {step} s");
        }
    }
}
