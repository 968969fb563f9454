//! The demo: one script, run in the real world by the binary and under virtual time here.

pub mod manifests;
pub mod report;
pub mod script;

/// Which safeguards are on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Safeguards {
    /// The gateway repeats failed attempts where that is safe.
    pub retries: bool,
    /// Pods are emptied before they are stopped.
    pub drain: bool,
    /// Weights count as set when every gateway worker has confirmed them.
    pub confirmation: bool,
}

/// What came of a virtual run.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// What happened, line by line with the virtual time.
    pub trace: String,
    /// The table.
    pub report: report::Report,
}

/// Plays the script under virtual time.
pub fn run(_seed: u64, _safeguards: Safeguards) -> Outcome {
    Outcome {
        trace: String::new(),
        report: report::Report { phases: Vec::new(), broken: Some("not there yet".into()) },
    }
}
