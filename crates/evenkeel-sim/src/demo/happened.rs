//! What the host of a run hands to the judge.

use super::{
    script::{Phase, Verdict},
    timeline::Moment,
};

/// What happened in one phase, as its host has it.
#[derive(Debug, Clone, PartialEq)]
pub struct Happened {
    /// The phase.
    pub phase: Phase,
    /// The Canary's moments in it, the one before first.
    pub moments: Vec<Moment>,
    /// When a pod was killed.
    pub killed_at: Option<i64>,
    /// What became of it.
    pub verdict: Verdict,
    /// When it began and ended, in milliseconds of the host's time.
    pub span_ms: (i64, i64),
    /// Longest time that the machine let a thread wait; `None` under virtual time.
    pub host_stall_ms: Option<f64>,
}
