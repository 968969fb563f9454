//! The demo: one script, run in the real world by the binary and under virtual time here.
//!
//! ```text
//! script, manifests, pods     what happens to what
//! timeline, record            what the Canary said; what clients saw
//! ledger                      what the SLO's ledger says that the releases cost
//! happened, judge, report     from these to a row; the table and the JSON. Both worlds share all nine
//! stage     the demo's cluster in a `world`: gateway, metrics, controllers, and the Canary in it
//! load      clients' requests through the gateway's engines, one by one
//! clients   what they saw, request by request
//! ```

mod clients;
#[cfg(test)]
mod deletion;
pub mod happened;
pub mod judge;
pub mod ledger;
mod load;
pub mod manifests;
mod phases;
pub mod pods;
pub mod record;
pub mod report;
pub mod script;
mod stage;
pub mod timeline;

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

/// Plays the script under virtual time, with the article's Canary as written.
///
/// The same seed gives the same outcome, byte by byte, wherever it runs.
pub fn run(seed: u64, safeguards: Safeguards) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime without I/O needs nothing from the system");
    runtime.block_on(phases::play(seed, safeguards))
}
