//! How effects ended that outlived their plan, kept until an observation asks.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use evenkeel_api::Key;
use jiff::Timestamp;

/// Objects that are remembered: beyond it the one that was noted longest ago is forgotten.
const OBJECTS_MAX: usize = 10_000;
/// Targets per object and port: more than any spec names channels.
const TARGETS_MAX: usize = 32;

/// How an effect ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ending {
    /// When.
    pub at: Timestamp,
    /// What was to be done and why it failed, without secrets; `None` when it succeeded.
    pub failure: Option<String>,
}

/// The last ending per object, port and target. Empty after a restart.
#[derive(Debug, Default)]
pub struct Endings(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    objects: BTreeMap<Key, Of>,
    notes: u64,
}

#[derive(Debug, Default)]
struct Of {
    /// By port and target.
    last: BTreeMap<(&'static str, String), Ending>,
    /// Number of the last note.
    noted: u64,
}

impl Endings {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        // Entries are inserted whole; a panic elsewhere leaves no half entry.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes how an effect on behalf of `key` ended.
    pub(crate) fn note(&self, key: &Key, port: &'static str, target: &str, ending: Ending) {
        let mut kept = self.kept();
        kept.notes += 1;
        let noted = kept.notes;
        if kept.objects.len() >= OBJECTS_MAX && !kept.objects.contains_key(key) {
            let oldest = kept.objects.iter().min_by_key(|(_, of)| of.noted);
            let oldest = oldest.map(|(key, _)| key.clone());
            oldest.map(|oldest| kept.objects.remove(&oldest));
        }
        let of = kept.objects.entry(key.clone()).or_default();
        of.noted = noted;
        let whose = (port, target.to_owned());
        if of.last.len() >= TARGETS_MAX && !of.last.contains_key(&whose) {
            let oldest = of.last.iter().min_by_key(|(_, ending)| ending.at);
            let oldest = oldest.map(|(whose, _)| whose.clone());
            oldest.map(|oldest| of.last.remove(&oldest));
        }
        of.last.insert(whose, ending);
    }

    /// The last ending of each target of a port, in order of the targets.
    pub fn of(&self, key: &Key, port: &str) -> Vec<Ending> {
        let kept = self.kept();
        let all = kept.objects.get(key).into_iter().flat_map(|of| &of.last);
        all.filter(|((of, _), _)| *of == port).map(|(_, ending)| ending.clone()).collect()
    }

    /// Forgets an object that is gone.
    pub(crate) fn forget(&self, key: &Key) {
        self.kept().objects.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use evenkeel_api::GroupKind;

    use super::*;

    fn key(name: &str) -> Key {
        Key::new(GroupKind::new("", "Pod"), "shop", name)
    }

    fn ending(second: i64) -> Ending {
        Ending { at: Timestamp::from_second(second).unwrap(), failure: None }
    }

    #[test]
    fn the_last_ending_of_each_target_is_kept() {
        let endings = Endings::default();
        endings.note(&key("a"), "notify", "chat", ending(1));
        endings.note(&key("a"), "notify", "mail", ending(2));
        endings.note(&key("a"), "notify", "chat", ending(3));
        endings.note(&key("a"), "other", "chat", ending(4));
        assert_eq!(endings.of(&key("a"), "notify"), [ending(3), ending(2)]);
        assert_eq!(endings.of(&key("b"), "notify"), []);
        endings.forget(&key("a"));
        assert_eq!(endings.of(&key("a"), "notify"), []);
    }

    #[test]
    fn what_is_kept_is_bounded_and_the_oldest_goes_first() {
        let endings = Endings::default();
        for n in 0..=TARGETS_MAX {
            let second = i64::try_from(n).unwrap();
            endings.note(&key("a"), "notify", &format!("{n:03}"), ending(second));
        }
        let of = endings.of(&key("a"), "notify");
        assert_eq!((of.len(), &of[0]), (TARGETS_MAX, &ending(1)));
        for n in 0..OBJECTS_MAX {
            endings.note(&key(&format!("o{n}")), "notify", "chat", ending(5));
        }
        assert_eq!(endings.of(&key("a"), "notify"), []);
        assert_eq!(endings.of(&key("o0"), "notify"), [ending(5)]);
    }
}
