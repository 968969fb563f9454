//! The clients' requests, counted.

use std::{sync::Arc, time::Duration};

use super::record::{ClientRecord, Failure, PhaseSeen, Second};
use crate::world::time::millis;

/// What is counted of one phase.
#[derive(Debug, Default)]
struct Phase {
    name: &'static str,
    sent: u64,
    failed_get: u64,
    failed_post: u64,
    executed_twice: u64,
    /// How long each answered request took, in microseconds.
    took_us: Vec<u32>,
}

/// An answer, as the client has it.
pub(super) struct Seen {
    /// Number of the phase that it was sent in.
    pub(super) phase: usize,
    /// Whether it was a POST.
    pub(super) post: bool,
    /// When it was sent.
    pub(super) sent_at: Duration,
    /// When it was answered.
    pub(super) at: Duration,
    /// Status.
    pub(super) status: u16,
    /// Version that answered.
    pub(super) version: Option<Arc<str>>,
    /// How often it was executed.
    pub(super) executed: u32,
}

/// Everything that clients saw.
#[derive(Debug, Default)]
pub(super) struct Clients {
    /// One per phase that has begun.
    phases: Vec<Phase>,
    /// Every failed request.
    failures: Vec<Failure>,
    /// Answers by version, per second from the beginning.
    seconds: Vec<Vec<(Arc<str>, u32)>>,
}

impl Clients {
    /// From now on requests belong to this phase.
    pub(super) fn mark(&mut self, name: &'static str) {
        self.phases.push(Phase { name, ..Phase::default() });
    }

    /// A request is sent; returns its phase.
    pub(super) fn sent(&mut self) -> usize {
        let Some(phase) = self.phases.last_mut() else { return 0 };
        phase.sent += 1;
        self.phases.len() - 1
    }

    /// A request is answered.
    pub(super) fn answered(&mut self, seen: Seen) {
        let Some(phase) = self.phases.get_mut(seen.phase) else { return };
        let took = seen.at.saturating_sub(seen.sent_at).as_micros();
        phase.took_us.push(u32::try_from(took).unwrap_or(u32::MAX));
        phase.executed_twice += u64::from(seen.executed.saturating_sub(1));
        if let Some(version) = &seen.version {
            let second = usize::try_from(seen.at.as_secs()).unwrap_or(usize::MAX);
            if self.seconds.len() <= second {
                self.seconds.resize(second.saturating_add(1), Vec::new());
            }
            if let Some(counts) = self.seconds.get_mut(second) {
                match counts.iter_mut().find(|(known, _)| known == version) {
                    Some((_, count)) => *count += 1,
                    None => counts.push((version.clone(), 1)),
                }
            }
        }
        if seen.status >= 400 {
            *(if seen.post { &mut phase.failed_post } else { &mut phase.failed_get }) += 1;
            self.failures.push(Failure {
                phase: phase.name.to_owned(),
                at: millis(seen.at),
                post: seen.post,
                status: Some(seen.status),
                version: seen.version.map(|version| version.to_string()),
            });
        }
    }

    /// What they saw so far, as the judge reads it.
    pub(super) fn record(&self) -> ClientRecord {
        let second = |(from, counts): (i64, &Vec<(Arc<str>, u32)>)| Second {
            from,
            to: from + 1_000,
            versions: counts.iter().map(|(name, n)| (name.to_string(), u64::from(*n))).collect(),
        };
        ClientRecord {
            phases: self.phases.iter().map(Phase::seen).collect(),
            failures: self.failures.clone(),
            seconds: (0_i64..).step_by(1_000).zip(&self.seconds).map(second).collect(),
        }
    }
}

impl Phase {
    fn seen(&self) -> PhaseSeen {
        let mut sorted = self.took_us.clone();
        sorted.sort_unstable();
        let at = |percent: usize| {
            let index = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
            sorted.get(index).map(|us| f64::from(*us) / 1e3)
        };
        PhaseSeen {
            name: self.name.to_owned(),
            sent: self.sent,
            failed_get: self.failed_get,
            failed_post: self.failed_post,
            executed_twice: self.executed_twice,
            p50_ms: at(50),
            p99_ms: at(99),
        }
    }
}
