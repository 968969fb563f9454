use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use evenkeel_api::Key;

/// What was predicted last, by object.
#[derive(Default)]
pub(crate) struct Predictions(Mutex<BTreeMap<Key, String>>);

impl Predictions {
    fn known(&self) -> MutexGuard<'_, BTreeMap<Key, String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether an object is only observed, as far as is known.
    pub(crate) fn has(&self, key: &Key) -> bool {
        self.known().contains_key(key)
    }

    pub(crate) fn forget(&self, key: &Key) {
        self.known().remove(key);
    }

    /// Forgets all objects.
    pub(crate) fn clear(&self) {
        self.known().clear();
    }

    /// Takes an object that is only observed, about which nothing is predicted yet.
    pub(crate) fn begin(&self, key: &Key) {
        self.known().entry(key.clone()).or_default();
    }

    /// Takes a prediction; whether it is a new one.
    pub(crate) fn note(&self, key: &Key, words: &str) -> bool {
        let old = self.known().insert(key.clone(), words.to_owned());
        old.is_none_or(|old| old != words)
    }
}
