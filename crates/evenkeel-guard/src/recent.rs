//! A bounded map from texts that forgets what was noted longest ago.

use std::collections::BTreeMap;

pub(crate) struct Recent<V> {
    max: usize,
    /// With the number of the last note.
    values: BTreeMap<String, (u64, V)>,
    /// The same by that number: oldest first.
    order: BTreeMap<u64, String>,
    notes: u64,
}

impl<V> Recent<V> {
    pub(crate) const fn new(max: usize) -> Self {
        Self { max, values: BTreeMap::new(), order: BTreeMap::new(), notes: 0 }
    }

    pub(crate) fn get(&self, key: &str) -> Option<&V> {
        self.values.get(key).map(|(_, value)| value)
    }

    /// Notes a value; what was noted before. Only a new key can make another one be forgotten.
    pub(crate) fn insert(&mut self, key: String, value: V) -> Option<V> {
        let before = self.remove(&key);
        if self.values.len() >= self.max
            && let Some((_, oldest)) = self.order.pop_first()
        {
            self.values.remove(&oldest);
        }
        self.notes += 1;
        self.order.insert(self.notes, key.clone());
        self.values.insert(key, (self.notes, value));
        before
    }

    pub(crate) fn remove(&mut self, key: &str) -> Option<V> {
        let (note, value) = self.values.remove(key)?;
        self.order.remove(&note);
        Some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_noted_longest_ago_is_forgotten_and_only_for_something_new() {
        let mut recent = Recent::new(3);
        for key in ["z", "b", "c"] {
            assert_eq!(recent.insert(key.to_owned(), 1), None);
        }
        assert_eq!(recent.insert("z".to_owned(), 2), Some(1));
        assert_eq!(recent.get("b"), Some(&1));
        assert_eq!(recent.insert("a".to_owned(), 3), None);
        let kept = ["a", "b", "c", "z"].map(|key| recent.get(key).copied());
        assert_eq!(kept, [Some(3), None, Some(1), Some(2)]);
        assert_eq!(recent.remove("c"), Some(1));
        assert_eq!(recent.insert("d".to_owned(), 4), None);
        assert_eq!(recent.get("z"), Some(&2));
    }
}
