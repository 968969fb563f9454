//! What the load client saw.

use std::sync::{Arc, Mutex, PoisonError};

use evenkeel_workload::load::{Failure, Line, PhaseReport, SecondReport};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::ChildStdout,
    task::JoinHandle,
};

/// Everything the load client said so far.
#[derive(Debug, Default)]
pub(super) struct Clients {
    /// One per second.
    pub(super) seconds: Vec<SecondReport>,
    /// Every failed request.
    pub(super) failures: Vec<Failure>,
    /// One per phase that is over and settled.
    pub(super) phases: Vec<PhaseReport>,
}

impl Clients {
    /// Reads the client's lines until it ends; the task is over when the last one is taken in.
    pub(super) fn read_from(clients: Arc<Mutex<Self>>, stdout: ChildStdout) -> JoinHandle<()> {
        tokio::spawn(async move {
            let mut lines = BufReader::new(stdout).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                let mut clients = clients.lock().unwrap_or_else(PoisonError::into_inner);
                match serde_json::from_str(&line) {
                    Ok(Line::Second(second)) => clients.seconds.push(second),
                    Ok(Line::Failure(failure)) => clients.failures.push(failure),
                    Ok(Line::Phase(phase)) => clients.phases.push(phase),
                    Err(error) => tracing::warn!(%error, line, "the load client said"),
                }
            }
        })
    }

    /// Share of answers by `version` in the seconds between two times; `None` without answers.
    pub(super) fn share(&self, version: &str, from_ms: i64, to_ms: i64) -> Option<f64> {
        let within = |second: &&SecondReport| second.at - 1000 >= from_ms && second.at <= to_ms;
        let (mut of_version, mut all) = (0_u32, 0_u32);
        for second in self.seconds.iter().filter(within) {
            for (name, count) in &second.versions {
                let count = u32::try_from(*count).unwrap_or(u32::MAX);
                all = all.saturating_add(count);
                if name == version {
                    of_version = of_version.saturating_add(count);
                }
            }
        }
        (all > 0).then(|| f64::from(of_version) / f64::from(all))
    }
}
