use std::sync::{Mutex, PoisonError, atomic::AtomicU64};

use jiff::Timestamp;

/// What the record cost so far, and how it is.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) batches: AtomicU64,
    pub(crate) syncs: AtomicU64,
    /// Lines that wait until it can be written.
    pub(crate) late: AtomicU64,
    trouble: Mutex<Option<Trouble>>,
}

/// Why the record could not be written at the last attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Trouble {
    /// When the first attempt failed.
    pub(crate) since: Timestamp,
    /// What the last one met.
    pub(crate) error: String,
}

impl Counters {
    pub(crate) fn trouble(&self) -> Option<Trouble> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// An attempt failed.
    pub(crate) fn failed(&self, error: &str, now: Timestamp) {
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        let since = trouble.as_ref().map_or(now, |trouble| trouble.since);
        *trouble = Some(Trouble { since, error: error.to_owned() });
    }

    /// An attempt succeeded; what the trouble before it was, if there was any.
    pub(crate) fn succeeded(&self) -> Option<Trouble> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}
