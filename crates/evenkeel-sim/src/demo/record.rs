//! What clients saw, as plain data: both worlds fill one, and the judge reads nothing else of them.

use std::collections::BTreeMap;

/// Everything that clients saw.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ClientRecord {
    /// One per phase that is over and settled.
    pub phases: Vec<PhaseSeen>,
    /// Every failed request.
    pub failures: Vec<Failure>,
    /// What was answered when, in order of time.
    pub seconds: Vec<Second>,
}

/// What clients saw of one phase.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PhaseSeen {
    /// Its name.
    pub name: String,
    /// Requests sent; answered and failed ones add up to it.
    pub sent: u64,
    /// GETs that failed.
    pub failed_get: u64,
    /// POSTs that failed.
    pub failed_post: u64,
    /// POSTs that were executed more than once.
    pub executed_twice: u64,
    /// Median latency in milliseconds; `None` when nothing was answered.
    pub p50_ms: Option<f64>,
    /// 99th percentile.
    pub p99_ms: Option<f64>,
}

/// A failed request.
#[derive(Debug, Clone, PartialEq)]
pub struct Failure {
    /// Name of the phase that it was sent in.
    pub phase: String,
    /// When, in milliseconds of the host's time.
    pub at: i64,
    /// Whether it was a POST.
    pub post: bool,
    /// Status of the answer; `None` without a whole one.
    pub status: Option<u16>,
    /// Version that answered; `None` when the gateway did.
    pub version: Option<String>,
}

/// What was answered in about a second.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Second {
    /// Its beginning, in milliseconds of the host's time.
    pub from: i64,
    /// Its end. Further away than a second when the client was late.
    pub to: i64,
    /// Answers by version, failing ones included.
    pub versions: BTreeMap<String, u64>,
}

/// Who answered in some time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Answers {
    /// Answers by the version that was asked about.
    pub of_version: u64,
    /// Answers by any.
    pub all: u64,
}

impl ClientRecord {
    /// What was seen of a phase; all zeros when nothing was.
    pub fn phase(&self, name: &str) -> PhaseSeen {
        self.phases.iter().find(|seen| seen.name == name).cloned().unwrap_or_default()
    }

    /// The failures of a phase.
    pub fn failures_in<'a>(&'a self, phase: &'a str) -> impl Iterator<Item = &'a Failure> {
        self.failures.iter().filter(move |failure| failure.phase == phase)
    }

    /// The answers in the seconds that lie between two times.
    pub fn answers(&self, version: &str, from: i64, to: i64) -> Answers {
        let mut answers = Answers::default();
        let within = |second: &&Second| second.from >= from && second.to <= to;
        for (name, count) in self.seconds.iter().filter(within).flat_map(|one| &one.versions) {
            answers.all += count;
            if name == version {
                answers.of_version += count;
            }
        }
        answers
    }
}
