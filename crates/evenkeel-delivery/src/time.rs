//! Arithmetic with moments and spans that never fails.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

/// Time from `since` to `now`; a clock that stepped back counts as none.
pub(crate) fn elapsed(since: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(since)).unwrap_or_default()
}

/// The moment `by` after `at`.
pub(crate) fn later(at: Timestamp, by: Duration) -> Timestamp {
    let by = SignedDuration::try_from(by).unwrap_or(SignedDuration::MAX);
    at.checked_add(by).unwrap_or(Timestamp::MAX)
}
