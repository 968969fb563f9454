use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

/// Buckets of the latency histogram: 32 per factor of two over a microsecond, 26 factors (67 s).
const BUCKETS: usize = 32 * 26;
/// Versions counted separately in a phase.
const VERSIONS_MAX: usize = 16;

/// One line of the client's output, as JSON with the name of the variant around it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Line {
    /// Once a second.
    Second(SecondReport),
    /// At once when it happens.
    Failure(Failure),
    /// When the last request of a phase that is over has been settled.
    Phase(PhaseReport),
}

/// What happened in one second, and in the run so far.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SecondReport {
    /// Milliseconds of the Unix epoch.
    pub at: i64,
    /// The phase that is being sent.
    pub phase: String,
    /// Requests sent in this second.
    pub sent: u64,
    /// Requests answered with success in this second.
    pub answered: u64,
    /// Requests that failed in this second.
    pub failed: u64,
    /// Requests without an answer yet.
    pub in_flight: u64,
    /// 99th percentile of what was answered in this second; `None` when nothing was.
    pub p99_ms: Option<f64>,
    /// Answers (also failing ones) of this second by header `X-Version`.
    pub versions: BTreeMap<String, u64>,
    /// Sent since the start.
    pub sent_total: u64,
    /// Failed since the start.
    pub failed_total: u64,
}

/// A request that did not end in a 2xx answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Failure {
    /// When it was meant to be sent, in milliseconds of the Unix epoch.
    pub at: i64,
    /// How long after that it failed.
    pub after_ms: f64,
    /// The phase it was sent in.
    pub phase: String,
    /// GET or POST.
    pub method: String,
    /// Its Idempotency-Key, of a POST.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// What went wrong.
    pub kind: FailureKind,
    /// The status, if there was an answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// What answered: header `X-Evenkeel-Endpoint`, else `X-Pod`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Which version answered: header `X-Version`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The transport's words, of a broken request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// What went wrong with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// No connection could be made.
    Connect,
    /// The connection broke before the whole answer was there.
    Broken,
    /// No whole answer within the timeout.
    Timeout,
    /// An answer outside 2xx.
    Status,
}

/// What clients saw in one phase.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PhaseReport {
    /// Its name.
    pub name: String,
    /// First intended send time, in milliseconds of the Unix epoch.
    pub from: i64,
    /// When the next phase began.
    pub to: i64,
    /// Requests sent; answered and failed ones add up to it.
    pub sent: u64,
    /// Answered with success.
    pub answered: u64,
    /// Not answered with success.
    pub failed: u64,
    /// POSTs among the sent.
    pub sent_post: u64,
    /// POSTs among the failed.
    pub failed_post: u64,
    /// Median latency of the answered; `None` when there were none.
    pub p50_ms: Option<f64>,
    /// 99th percentile.
    pub p99_ms: Option<f64>,
    /// Slowest.
    pub max_ms: Option<f64>,
    /// Failed requests by kind.
    pub kinds: BTreeMap<FailureKind, u64>,
    /// Answers (also failing ones) by header `X-Version`.
    pub versions: BTreeMap<String, u64>,
}

/// How one request ended.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Settled {
    pub(crate) phase: usize,
    pub(crate) is_post: bool,
    pub(crate) took: Duration,
    pub(crate) version: Option<String>,
    pub(crate) failure: Option<Failure>,
}

/// Counts by phase and by second. Plain arithmetic: time comes in.
pub(crate) struct Records {
    phases: Vec<Phase>,
    second: Tally,
    total: Tally,
}

#[derive(Default)]
struct Tally {
    sent: u64,
    answered: u64,
    failed: u64,
    latency: Latency,
    versions: BTreeMap<String, u64>,
}

struct Phase {
    name: String,
    from: i64,
    to: Option<i64>,
    reported: bool,
    sent_post: u64,
    failed_post: u64,
    tally: Tally,
    kinds: BTreeMap<FailureKind, u64>,
}

impl Records {
    pub(crate) fn new(phase: &str, now: i64) -> Self {
        let mut records =
            Self { phases: Vec::new(), second: Tally::default(), total: Tally::default() };
        records.mark(phase, now);
        records
    }

    /// The present phase ends, the next one begins. A phase of that name that is still there is
    /// not continued: names are the caller's.
    pub(crate) fn mark(&mut self, name: &str, now: i64) {
        self.finish(now);
        self.phases.push(Phase {
            name: name.to_owned(),
            from: now,
            to: None,
            reported: false,
            sent_post: 0,
            failed_post: 0,
            tally: Tally::default(),
            kinds: BTreeMap::new(),
        });
    }

    /// The present phase ends.
    pub(crate) fn finish(&mut self, now: i64) {
        if let Some(phase) = self.phases.last_mut() {
            phase.to.get_or_insert(now);
        }
    }

    /// A request of the present phase is on its way; says which phase that is.
    pub(crate) fn sent(&mut self, is_post: bool) -> (usize, String) {
        let at = self.phases.len() - 1;
        let phase = &mut self.phases[at];
        phase.tally.sent += 1;
        phase.sent_post += u64::from(is_post);
        self.second.sent += 1;
        self.total.sent += 1;
        (at, phase.name.clone())
    }

    pub(crate) fn settled(&mut self, end: &Settled) {
        let phase = &mut self.phases[end.phase];
        for tally in [&mut phase.tally, &mut self.second, &mut self.total] {
            if end.failure.is_some() {
                tally.failed += 1;
            } else {
                tally.answered += 1;
                tally.latency.add(end.took);
            }
        }
        if let Some(failure) = &end.failure {
            phase.failed_post += u64::from(end.is_post);
            *phase.kinds.entry(failure.kind).or_default() += 1;
        }
        if let Some(version) = &end.version {
            phase.tally.answered_by(version);
            self.second.answered_by(version);
        }
    }

    /// The second that ends now.
    pub(crate) fn second(&mut self, now: i64) -> SecondReport {
        let second = std::mem::take(&mut self.second);
        let total = &self.total;
        SecondReport {
            at: now,
            phase: self.phases.last().map(|phase| phase.name.clone()).unwrap_or_default(),
            sent: second.sent,
            answered: second.answered,
            failed: second.failed,
            in_flight: total.sent.saturating_sub(total.answered + total.failed),
            p99_ms: second.latency.quantile_ms(0.99),
            versions: second.versions,
            sent_total: total.sent,
            failed_total: total.failed,
        }
    }

    /// Phases that are over, fully settled, and not reported yet.
    pub(crate) fn finished(&mut self) -> Vec<PhaseReport> {
        let over = |phase: &&mut Phase| {
            let Tally { sent, answered, failed, .. } = phase.tally;
            !phase.reported && phase.to.is_some() && sent == answered + failed
        };
        self.phases.iter_mut().filter(over).map(Phase::report).collect()
    }
}

impl Tally {
    fn answered_by(&mut self, version: &str) {
        let known = self.versions.contains_key(version);
        let name = if known || self.versions.len() < VERSIONS_MAX { version } else { "other" };
        *self.versions.entry(name.to_owned()).or_default() += 1;
    }
}

impl Phase {
    fn report(&mut self) -> PhaseReport {
        self.reported = true;
        let Tally { sent, answered, failed, latency, versions } = &self.tally;
        PhaseReport {
            name: self.name.clone(),
            from: self.from,
            to: self.to.unwrap_or(self.from),
            sent: *sent,
            answered: *answered,
            failed: *failed,
            sent_post: self.sent_post,
            failed_post: self.failed_post,
            p50_ms: latency.quantile_ms(0.5),
            p99_ms: latency.quantile_ms(0.99),
            max_ms: latency.quantile_ms(1.0),
            kinds: self.kinds.clone(),
            versions: versions.clone(),
        }
    }
}

/// A log-linear histogram: a quantile is at most 1/32 too high.
struct Latency {
    counts: Vec<u32>,
    total: u64,
    max: Duration,
}

impl Default for Latency {
    fn default() -> Self {
        Self { counts: Vec::new(), total: 0, max: Duration::ZERO }
    }
}

impl Latency {
    fn add(&mut self, took: Duration) {
        if self.counts.is_empty() {
            self.counts = vec![0; BUCKETS];
        }
        self.counts[bucket(took)] += 1;
        self.total += 1;
        self.max = self.max.max(took);
    }

    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "counts of requests are far below 2^52"
    )]
    fn quantile_ms(&self, share: f64) -> Option<f64> {
        if self.total == 0 {
            return None;
        }
        let rank = ((self.total as f64 * share).ceil() as u64).clamp(1, self.total);
        let mut below = 0;
        let at = self.counts.iter().position(|count| {
            below += u64::from(*count);
            below >= rank
        });
        // The last bucket has no bound of its own.
        let at = at.filter(|at| *at < BUCKETS - 1);
        let bound = at.map_or(self.max, upper_bound).min(self.max);
        Some((bound.as_secs_f64() * 1e6).round() / 1e3)
    }
}

fn bucket(took: Duration) -> usize {
    let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(1);
    let power = micros.ilog2();
    // The five bits below the leading one.
    let part = if power >= 5 { (micros >> (power - 5)) & 31 } else { (micros << (5 - power)) & 31 };
    let index = usize::try_from(u64::from(power) * 32 + part).unwrap_or(usize::MAX);
    index.min(BUCKETS - 1)
}

fn upper_bound(bucket: usize) -> Duration {
    let (power, part) = (bucket / 32, u64::try_from(bucket % 32).unwrap_or_default());
    Duration::from_micros(((33 + part) << power) / 32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settled(phase: usize, millis: u64, failure: Option<FailureKind>) -> Settled {
        let failure = failure.map(|kind| Failure {
            at: 0,
            after_ms: 0.0,
            phase: String::new(),
            method: "GET".to_owned(),
            key: None,
            kind,
            status: None,
            endpoint: None,
            version: None,
            problem: None,
        });
        let took = Duration::from_millis(millis);
        Settled { phase, is_post: false, took, version: Some("1".to_owned()), failure }
    }

    #[test]
    fn a_request_counts_where_it_was_sent_and_a_phase_waits_for_its_last_one() {
        let mut records = Records::new("steady", 0);
        let (first, _) = records.sent(false);
        records.sent(true);
        records.mark("release", 1000);
        let (late, name) = records.sent(false);
        assert_eq!((first, late, name.as_str()), (0, 1, "release"));
        records.settled(&settled(0, 10, None));
        assert!(records.finished().is_empty(), "one of its requests is still on its way");
        records.settled(&settled(0, 0, Some(FailureKind::Timeout)));
        let finished = records.finished();
        insta::assert_snapshot!(serde_json::to_string(&finished).unwrap(), @r#"[{"name":"steady","from":0,"to":1000,"sent":2,"answered":1,"failed":1,"sent_post":1,"failed_post":0,"p50_ms":10.0,"p99_ms":10.0,"max_ms":10.0,"kinds":{"timeout":1},"versions":{"1":2}}]"#);
        assert!(records.finished().is_empty(), "reported once");
        let second = records.second(2000);
        assert_eq!((second.sent, second.answered, second.failed, second.in_flight), (3, 1, 1, 1));
        assert_eq!(records.second(3000).sent, 0);
    }

    #[test]
    fn quantiles_are_close_to_the_exact_ones() {
        let mut latency = Latency::default();
        assert_eq!(latency.quantile_ms(0.5), None);
        for millis in 1..=1000 {
            latency.add(Duration::from_millis(millis));
        }
        for (share, exact) in [(0.5, 500.0), (0.99, 990.0), (1.0, 1000.0)] {
            let got = latency.quantile_ms(share).unwrap();
            assert!((exact..=exact * 1.04).contains(&got), "p{share}: {got}");
        }
        latency.add(Duration::from_secs(1000));
        assert_eq!(latency.quantile_ms(1.0), Some(1_000_000.0));
        assert_eq!(bucket(Duration::ZERO), 0);
    }
}
