//! An open-loop HTTP/1.1 client: sends at a fixed rate whatever comes back, and never retries.
//!
//! ```text
//! pace --intended send time--> one task per request --pooled connection--> target
//!                                   |                                        |
//!                              Records <--- answered or failed, once --------+
//! ```
//! Latency counts from the *intended* send time, so a stall is seen by every request it delays.
//! `sent = answered + failed` holds for every phase once its last request is settled. Phases are
//! named from outside ([`Command::Mark`]); a request belongs to the phase in which it was sent.

mod client;
mod pool;
mod records;

pub use client::{Command, LoadSettings, Sink, drive, main};
pub use records::{Failure, FailureKind, Line, PhaseReport, SecondReport};
