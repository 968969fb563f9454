//! The base of all other crates: time, durations as people write them, ids and randomness.
//!
//! No I/O, no async, no global state. A real clock is passed in by the host, so nothing below a
//! host can read one by accident.
#![warn(clippy::disallowed_methods, reason = "this crate must run under virtual time")]

mod clock;
mod duration;
mod hash;
mod ids;
mod rng;
mod schedule;

pub use clock::{Clock, FixedClock};
pub use duration::{DurationError, format_duration, parse_duration};
pub use hash::stable_hash;
pub use ids::{name_suffix, uid};
pub use rng::Rng;
pub use schedule::{Fields, Schedule, ScheduleError, time_zone};
