//! `evenkeel run` against a real Kubernetes: what its API server holds in the end is what counts.
//!
//! ```text
//! cargo xtask realk8s        builds and starts the control planes, runs this, stops them
//! Bed       a control plane, one test (or one Stage) at a time
//! Evenkeel  the real program, as a process
//! Prometheus, Gateways, Wire   fakes of the surroundings: metrics, the status of routes, a
//!           network that stops answering
//! audit     which client has sent which requests to the API server
//! node      a control plane with a real node, for what only real pods show
//! ```
//! Without a control plane every test says that it is skipped, once for all.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a step that fails fails the test")]

mod audit;
mod bed;
mod gateways;
mod node;
mod objects;
mod peers;
mod process;
mod prometheus;
mod rights;
mod servers;
mod wire;

mod beside;
mod clocks;
mod credentials;
mod definitions;
mod fencing;
mod hands;
mod install;
mod leaders;
mod many;
mod metrics;
mod pods;
mod quiet;
mod refusals;
mod releases;
mod restarts;
mod routers;
mod schema;
mod silence;
mod startup;
mod uninstall;
mod upgrade;
mod watched;

use std::time::{Duration, Instant};

/// Longest wait for something that must happen; generous, for busy machines.
const PATIENCE: Duration = Duration::from_mins(5);
const PAUSE: Duration = Duration::from_millis(100);

/// Waits until `check` gives something; how long it took.
fn soon<T>(what: &str, mut check: impl FnMut() -> Option<T>) -> (T, Duration) {
    let began = Instant::now();
    loop {
        if let Some(found) = check() {
            return (found, began.elapsed());
        }
        assert!(began.elapsed() < PATIENCE, "did not happen within {PATIENCE:?}: {what}");
        std::thread::sleep(PAUSE);
    }
}

/// Waits until `check` holds; how long it took.
fn until(what: &str, mut check: impl FnMut() -> bool) -> Duration {
    soon(what, || check().then_some(())).1
}

/// Says why tests are not run.
fn skip(why: &str) {
    use std::io::Write as _;
    let text = format!("skipped: {why}; run `cargo xtask realk8s`\n");
    std::io::stderr().write_all(text.as_bytes()).unwrap();
}

/// A figure for people, which the test's own summary shows.
fn figure(text: &str) {
    use std::io::Write as _;
    // Past the harness, which hides what a passing test prints.
    std::io::stderr().write_all(format!("figure: {text}\n").as_bytes()).unwrap();
}
