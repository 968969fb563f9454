//! Pauses, and arithmetic with moments and spans that never fails.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

/// Pause before something that no watch reports is looked for again (a Gateway, an older Canary).
pub(crate) const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// Time from `since` to `now`; a clock that stepped back counts as none.
pub(crate) fn elapsed(since: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(since)).unwrap_or_default()
}

/// The moment `by` after `at`.
pub(crate) fn later(at: Timestamp, by: Duration) -> Timestamp {
    let by = SignedDuration::try_from(by).unwrap_or(SignedDuration::MAX);
    at.checked_add(by).unwrap_or(Timestamp::MAX)
}
