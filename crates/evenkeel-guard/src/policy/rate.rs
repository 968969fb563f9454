use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Mutex, PoisonError},
};

use evenkeel_api::Key;
use evenkeel_control::{Action, Direction, Petition};
use jiff::{SignedDuration, Timestamp};

use crate::{Opinion, Policy};

/// What the bounds below count in.
const WINDOW: SignedDuration = SignedDuration::from_secs(60);
/// Riskier actions of one controller. Fifty releases that step every ten seconds make 300 a minute;
/// a controller that makes more has lost its way.
const CONTROLLER_MAX: usize = 600;
/// Riskier actions for one object. A release with many parts makes dozens at its start; only a
/// loop makes two a second.
const OBJECT_MAX: usize = 120;
/// Deletions and evictions of one controller: the blast radius of a wrong selector.
const REMOVALS_MAX: usize = 60;

/// Bounds how much one controller may do in a minute that makes things riskier.
#[derive(Default)]
pub struct RateLimit {
    recent: Mutex<BTreeMap<&'static str, VecDeque<Recent>>>,
}

struct Recent {
    time: Timestamp,
    object: Key,
    removal: bool,
}

impl Policy for RateLimit {
    fn name(&self) -> &'static str {
        "rate"
    }

    fn judge(&self, petition: &Petition<'_>) -> Opinion {
        if petition.direction != Direction::Riskier {
            return Opinion::Allow;
        }
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let recent = recent.entry(petition.controller).or_default();
        // Also what lies in the future: the clock was set back.
        recent.retain(|action| petition.now.duration_since(action.time).abs() < WINDOW);
        let object = petition.object;
        let all: Vec<&Recent> = recent.iter().collect();
        let own = recent.iter().filter(|action| action.object == *object).collect();
        let removals = recent.iter().filter(|action| action.removal).collect();
        let bounds: [(&str, usize, Vec<&Recent>); 3] = [
            ("riskier actions", CONTROLLER_MAX, all),
            ("riskier actions for this object", OBJECT_MAX, own),
            ("deletions and evictions", REMOVALS_MAX, removals),
        ];
        let concerned = if is_removal(petition.action) { 3 } else { 2 };
        for (what, max, counted) in bounds.iter().take(concerned) {
            if counted.len() < *max {
                continue;
            }
            let oldest = counted.first();
            return Opinion::Hold {
                until: oldest.and_then(|action| action.time.checked_add(WINDOW).ok()),
                reason: format!(
                    "{} made {max} {what} within a minute, which is the limit; it continues at \
                     this pace, and if that is intended, no action is needed",
                    petition.controller
                ),
            };
        }
        Opinion::Allow
    }

    fn allowed(&self, petition: &Petition<'_>) {
        if petition.direction != Direction::Riskier {
            return;
        }
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.entry(petition.controller).or_default().push_back(Recent {
            time: petition.now,
            object: petition.object.clone(),
            removal: is_removal(petition.action),
        });
    }
}

fn is_removal(action: &Action) -> bool {
    matches!(action, Action::Delete { .. } | Action::Evict { .. })
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;

    use super::*;

    struct Case {
        limit: RateLimit,
        controller: &'static str,
    }

    impl Case {
        /// How many of `count` actions, each for its own object or all for one, go through.
        fn through(&self, second: i64, count: usize, own_objects: bool, removal: bool) -> usize {
            let key = Key::of::<Pod>("shop", "a");
            let action = if removal {
                Action::Evict { key, uid: "u".to_owned() }
            } else {
                Action::Scale { key, replicas: 1 }
            };
            let one = |index: usize| {
                let object = if own_objects { index } else { 0 };
                let object = Key::of::<Pod>("shop", &object.to_string());
                let petition = Petition {
                    controller: self.controller,
                    object: &object,
                    action: &action,
                    text: "",
                    after: None,
                    reason: "Test",
                    before: None,
                    direction: Direction::Riskier,
                    now: Timestamp::from_second(second).unwrap(),
                };
                let allowed = self.limit.judge(&petition) == Opinion::Allow;
                if allowed {
                    self.limit.allowed(&petition);
                }
                allowed
            };
            (0..count).filter(|index| one(*index)).count()
        }
    }

    fn case() -> Case {
        Case { limit: RateLimit::default(), controller: "delivery" }
    }

    #[test]
    fn so_many_in_a_minute_and_no_more() {
        let mut case = case();
        assert_eq!(case.through(0, 1000, true, false), CONTROLLER_MAX);
        assert_eq!(case.through(59, 1, true, false), 0);
        case.controller = "slo";
        assert_eq!(case.through(59, 1, true, false), 1, "others have their own bound");
        case.controller = "delivery";
        assert_eq!(case.through(60, 1000, true, false), CONTROLLER_MAX);
        assert_eq!(case.through(-9000, 1, true, false), 1, "the clock was set back");
    }

    #[test]
    fn one_object_and_removals_have_tighter_bounds() {
        assert_eq!(case().through(0, 1000, false, false), OBJECT_MAX);
        let case = case();
        assert_eq!(case.through(0, 1000, true, true), REMOVALS_MAX);
        assert_eq!(case.through(0, 1, true, false), 1);
    }
}
