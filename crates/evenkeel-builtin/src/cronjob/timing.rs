//! Which run is due, and when to look for the next one.
//!
//! **Source**: `mostRecentScheduleTime`, `nextScheduleTimeDuration`.

use std::time::Duration;

use evenkeel_base::Schedule;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::CronJobSpec;

use super::View;

/// A run is looked for a little after its time. **Source**: `nextScheduleDelta`.
const AFTER: SignedDuration = SignedDuration::from_millis(100);
/// More missed runs than this are worth a warning.
const MISSED_MAX: i64 = 100;

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Times {
    /// The last time that a run was due at.
    pub(crate) due: Option<Timestamp>,
    pub(crate) is_too_late: bool,
    pub(crate) has_missed_many: bool,
    /// Whether the schedule has no second time.
    pub(crate) is_invalid: bool,
    /// `None` when there is no next time.
    pub(crate) next_in: Option<Duration>,
}

/// The last time before now, and how many there were.
struct Recent {
    since: Timestamp,
    last: Option<Timestamp>,
    missed: i64,
}

impl Times {
    pub(crate) fn of(view: &View, spec: &CronJobSpec, schedule: &Schedule) -> Self {
        let now = view.now;
        let limit = spec.starting_deadline_seconds.map(SignedDuration::from_secs);
        let status = view.cron.status.as_ref();
        let last = status.and_then(|status| status.last_schedule_time.as_ref());
        let since = last.map_or_else(|| view.cron.created(), |time| time.0);
        let earliest = limit.and_then(|limit| now.checked_sub(limit).ok());
        let bounded = earliest.map_or(since, |earliest| earliest.max(since));
        let found = recent(schedule, bounded, now);
        let due = found.as_ref().and_then(|found| found.last);
        let ends = due.zip(limit).and_then(|(due, limit)| due.checked_add(limit).ok());
        let from = match recent(schedule, since, now) {
            Some(Recent { last: Some(last), .. }) => last,
            Some(Recent { since, missed: 0, .. }) => since,
            _ => now,
        };
        let next = schedule.next(from).and_then(|next| next.checked_add(AFTER).ok());
        Self {
            due,
            is_too_late: ends.is_some_and(|ends| ends < now),
            has_missed_many: found.as_ref().is_some_and(|found| found.missed > MISSED_MAX),
            is_invalid: found.is_none(),
            next_in: next
                .map(|next| Duration::try_from(next.duration_since(now)).unwrap_or_default()),
        }
    }
}

/// `None` when the schedule has one time but no second one.
fn recent(schedule: &Schedule, since: Timestamp, now: Timestamp) -> Option<Recent> {
    let none = Recent { since, last: None, missed: 0 };
    // What never comes is not due, and nothing to complain of before it should have come.
    let Some(first) = schedule.next(since).filter(|first| *first <= now) else {
        return Some(none);
    };
    let second = schedule.next(first)?;
    if now < second {
        return Some(Recent { last: Some(first), ..none });
    }
    let between = second.duration_since(first).as_secs();
    if between < 1 {
        return None;
    }
    let missed = now.duration_since(first).as_secs() / between + 1;
    // Near the end, one step earlier: schedules need not be regular.
    let near = SignedDuration::from_secs((missed - 2) * between);
    let mut last = None;
    let mut time = schedule.next(first.checked_add(near).ok()?);
    while let Some(found) = time.filter(|time| *time <= now) {
        last = Some(found);
        time = schedule.next(found);
    }
    Some(Recent { since, last, missed })
}
