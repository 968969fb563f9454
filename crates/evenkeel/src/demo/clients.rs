//! The reports of the load client, and the record of them.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use evenkeel_sim::demo::{
    record::{self, ClientRecord, PhaseSeen},
    timeline::Moment,
};
use evenkeel_workload::load::{Failure, Line, PhaseReport, SecondReport};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::ChildStdout,
    task::JoinHandle,
};

use crate::io;

/// A first report covers this long.
const SECOND_MS: i64 = 1_000;

/// All reports of the load client so far.
#[derive(Debug, Default)]
pub(super) struct Clients {
    /// One per second.
    pub(super) seconds: Vec<SecondReport>,
    /// Every failed request.
    pub(super) failures: Vec<Failure>,
    /// One per phase that is over and settled.
    pub(super) phases: Vec<PhaseReport>,
    /// POSTs that the workload executed more than once, by phase.
    pub(super) executed_twice: BTreeMap<&'static str, u64>,
}

/// The load client's reports, shared with the task that reads them.
#[derive(Debug, Clone, Default)]
pub(super) struct Shared(Arc<Mutex<Clients>>);

impl Shared {
    /// What was reported so far.
    pub(super) fn lock(&self) -> MutexGuard<'_, Clients> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the client's lines until it ends; the task is over when the last one is taken in.
    pub(super) fn read_from(&self, stdout: ChildStdout) -> JoinHandle<()> {
        let shared = self.clone();
        tokio::spawn(async move {
            let mut lines = BufReader::new(stdout).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                let mut clients = shared.lock();
                match serde_json::from_str(&line) {
                    Ok(Line::Second(second)) => clients.seconds.push(second),
                    Ok(Line::Failure(failure)) => clients.failures.push(failure),
                    Ok(Line::Phase(phase)) => clients.phases.push(phase),
                    Err(error) => tracing::warn!(%error, line, "the load client said"),
                }
            }
        })
    }
}

impl Clients {
    /// Prints a line about the state of the Canary and of the clients, once there are any.
    pub(super) fn report(&self, moment: &Moment) {
        let Some(last) = self.seconds.last() else { return };
        io::complain(&format!(
            "  {:<12} weight {:>3} %  failed checks {}  {} requests/s  {} failed so far",
            moment.phase, moment.weight, moment.failed_checks, last.sent, last.failed_total
        ));
    }

    /// What clients saw so far, as the judge reads it.
    pub(super) fn record(&self) -> ClientRecord {
        let failures = self.failures.iter().map(|failure| record::Failure {
            phase: failure.phase.clone(),
            at: failure.at,
            post: failure.method == "POST",
            status: failure.status,
            version: failure.version.clone(),
        });
        let phases = self.phases.iter().map(|phase| PhaseSeen {
            name: phase.name.clone(),
            sent: phase.sent,
            failed_get: phase.failed.saturating_sub(phase.failed_post),
            failed_post: phase.failed_post,
            executed_twice: self.executed_twice.get(&*phase.name).copied().unwrap_or_default(),
            p50_ms: phase.p50_ms,
            p99_ms: phase.p99_ms,
        });
        // A report covers the time since the one before it, however late the client was.
        let first = self.seconds.first().map(|second| second.at - SECOND_MS);
        let begins = first.into_iter().chain(self.seconds.iter().map(|second| second.at));
        let seconds = begins.zip(&self.seconds).map(|(from, second)| record::Second {
            from,
            to: second.at,
            versions: second.versions.clone(),
        });
        ClientRecord {
            phases: phases.collect(),
            failures: failures.collect(),
            seconds: seconds.collect(),
        }
    }
}
