//! What the clients saw.

use std::{sync::Arc, time::Duration};

use super::time::millis;

/// A failed request.
#[derive(Debug, Clone)]
pub(super) struct Failure {
    /// Name of the phase that it was sent in.
    pub(super) phase: &'static str,
    /// When it failed, in milliseconds.
    pub(super) at: i64,
    /// Whether it was a POST.
    pub(super) post: bool,
    /// Status of the answer.
    pub(super) status: u16,
    /// Version that answered; `None` when the gateway did.
    pub(super) version: Option<Arc<str>>,
}

/// What clients saw of one phase.
#[derive(Debug, Default)]
pub(super) struct PhaseSeen {
    /// Its name.
    pub(super) name: &'static str,
    /// Requests sent.
    pub(super) sent: u64,
    /// GETs that failed.
    pub(super) failed_get: u64,
    /// POSTs that failed.
    pub(super) failed_post: u64,
    /// POSTs that were executed more than once.
    pub(super) executed_twice: u64,
    /// How long each answered one took, in microseconds.
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
    pub(super) phases: Vec<PhaseSeen>,
    /// Every failed request.
    pub(super) failures: Vec<Failure>,
    /// Answers by version, per second from the beginning.
    seconds: Vec<Vec<(Arc<str>, u32)>>,
}

impl Clients {
    /// From now on requests belong to this phase.
    pub(super) fn mark(&mut self, name: &'static str) {
        self.phases.push(PhaseSeen { name, ..PhaseSeen::default() });
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
                phase: phase.name,
                at: millis(seen.at),
                post: seen.post,
                status: seen.status,
                version: seen.version,
            });
        }
    }

    /// Share of answers by `version` in the seconds between two times; `None` without answers.
    pub(super) fn share(&self, version: &str, from_ms: i64, to_ms: i64) -> Option<f64> {
        let (mut of_version, mut all) = (0_u32, 0_u32);
        for (begin, counts) in (0_i64..).step_by(1000).zip(&self.seconds) {
            if begin < from_ms || begin + 1000 > to_ms {
                continue;
            }
            for (name, count) in counts {
                all = all.saturating_add(*count);
                if &**name == version {
                    of_version = of_version.saturating_add(*count);
                }
            }
        }
        (all > 0).then(|| f64::from(of_version) / f64::from(all))
    }
}

impl PhaseSeen {
    /// The median and the 99th percentile in milliseconds.
    pub(super) fn percentiles(&self) -> (Option<f64>, Option<f64>) {
        let mut sorted = self.took_us.clone();
        sorted.sort_unstable();
        let at = |percent: usize| {
            let index = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
            sorted.get(index).map(|us| f64::from(*us) / 1e3)
        };
        (at(50), at(99))
    }
}
