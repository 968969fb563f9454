//! Times as `evenkeel why` prints them: how long ago, and when.

use jiff::{SignedDuration, Timestamp};

/// `4m ago (10:03:12Z)`, `in 25s (10:07:40Z)`.
pub(super) fn moment(now: Timestamp, at: Timestamp) -> String {
    let (span, when) = (span(now, at), clock(now, at));
    if at > now { format!("in {span} ({when})") } else { format!("{span} ago ({when})") }
}

/// How long from one moment to another, in the largest unit that says enough, as kubectl has it.
pub(super) fn span(now: Timestamp, at: Timestamp) -> String {
    let seconds = now.duration_since(at).as_secs().unsigned_abs();
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7_200 => format!("{}m", seconds / 60),
        7_200..172_800 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// The time of day; with the date when it is another day's.
fn clock(now: Timestamp, at: Timestamp) -> String {
    let is_near = now.duration_since(at).abs() < SignedDuration::from_hours(12);
    let whole = format!("{at:.0}");
    match whole.split_once('T') {
        Some((_, time)) if is_near => time.to_owned(),
        _ => whole,
    }
}
