//! The run loop from outside: real controllers, a small server with faults, a scripted door and
//! virtual time. A timeline is `seconds what`, one line per question, write and outcome.
#![expect(clippy::unwrap_used, reason = "a setup that fails is a test that fails")]
#![expect(clippy::panic, reason = "defects are part of the script")]

mod assumed;
mod beside;
mod effects;
mod failures;
mod fixture;
mod leadership;
mod repeated;
mod secrets;
mod standing;
mod store;
mod time;
mod verdicts;
mod watches;
mod world;
