use std::sync::atomic::AtomicU64;

/// What the record cost so far.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) batches: AtomicU64,
    pub(crate) syncs: AtomicU64,
}
