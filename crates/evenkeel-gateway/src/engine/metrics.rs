//! What is counted: attempts (for canary analysis) and requests (for objectives).
//!
//! Each engine writes its own slots with plain loads and stores; a scrape sums over the engines.
//! Attempts carry the names and labels that Istio's telemetry gives them, so that queries written
//! for Istio work.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::sample::{Sample, Subject, float};
use super::tally::{TCP_METRICS, Tallies, Tally};

/// Upper bounds of the duration buckets in milliseconds. Dense around half a second, where canary
/// checks usually set their limit.
pub const BUCKETS_MS: [u64; 24] = [
    1, 2, 5, 10, 25, 50, 75, 100, 150, 200, 250, 300, 350, 400, 450, 500, 600, 700, 800, 1_000,
    2_500, 5_000, 10_000, 30_000,
];

/// Attempts: one per request that went to an endpoint.
pub const ATTEMPTS: &str = "istio_requests_total";
/// Duration of attempts.
pub const ATTEMPT_DURATION: &str = "istio_request_duration_milliseconds";
/// What clients saw.
pub const REQUESTS: &str = "evenkeel_gateway_requests_total";
/// What clients saw fail: an answer of 500 or more, or one that broke off.
pub const FAILED: &str = "evenkeel_gateway_failed_requests_total";
/// Duration of requests as clients saw it.
pub const REQUEST_DURATION: &str = "evenkeel_gateway_request_duration_seconds";
/// Attempts that followed a failed one.
pub const RETRIES: &str = "evenkeel_gateway_retries_total";
/// Endpoints put out of use for a while.
pub const EJECTIONS: &str = "evenkeel_gateway_ejections_total";

/// How an attempt ended, as Istio's `response_flags` says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Flag {
    /// A whole answer.
    None,
    /// Connection failure.
    ConnectFailed,
    /// The connection broke before the answer was whole.
    Broken,
    /// No answer in time.
    TimedOut,
    /// The client went away.
    ClientGone,
}

impl Flag {
    /// The label's value.
    pub fn text(self) -> &'static str {
        match self {
            Self::None => "-",
            Self::ConnectFailed => "UF",
            Self::Broken => "UC",
            Self::TimedOut => "UT",
            Self::ClientGone => "DC",
        }
    }
}

/// Counters of one subject and one status code, written by one engine only.
#[derive(Debug, Default)]
pub(super) struct Cell {
    count: AtomicU64,
    sum_us: AtomicU64,
    buckets: [AtomicU64; BUCKETS_MS.len()],
}

impl Cell {
    fn note(&self, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        bump(&self.count, 1);
        bump(&self.sum_us, us);
        let bucket = BUCKETS_MS.partition_point(|bound| bound * 1_000 < us);
        if let Some(bucket) = self.buckets.get(bucket) {
            bump(bucket, 1);
        }
    }
}

/// One writer, so a load and a store do; no locked instruction on the hot path.
fn bump(counter: &AtomicU64, by: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(by), Ordering::Relaxed);
}

/// The series of one subject as one engine writes them.
#[derive(Debug)]
pub(super) struct Recorder {
    subject: Subject,
    metrics: Arc<Metrics>,
    // Few codes per subject: a scan beats a map.
    cells: Vec<((u16, Flag), Arc<Cell>)>,
    retries: Arc<AtomicU64>,
    ejections: Arc<AtomicU64>,
    tally: Option<Arc<Tally>>,
}

impl Recorder {
    pub(super) fn new(metrics: Arc<Metrics>, subject: Subject) -> Self {
        let (retries, ejections) = metrics.events(&subject);
        Self { subject, metrics, cells: Vec::new(), retries, ejections, tally: None }
    }

    pub(super) fn note(&mut self, code: u16, flag: Flag, took: Duration) {
        if let Some((_, cell)) = self.cells.iter().find(|(key, _)| *key == (code, flag)) {
            cell.note(took);
            return;
        }
        let cell = self.metrics.cell(&self.subject, code, flag);
        cell.note(took);
        self.cells.push(((code, flag), cell));
    }

    /// What is counted of its connections; there from the first one on.
    pub(super) fn tally(&mut self) -> Arc<Tally> {
        let tally = self.tally.get_or_insert_with(|| self.metrics.tallies.of(&self.subject));
        Arc::clone(tally)
    }

    pub(super) fn retried(&self) {
        self.retries.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn ejected(&self) {
        self.ejections.fetch_add(1, Ordering::Relaxed);
    }
}

/// All series, over all engines.
#[derive(Debug, Default)]
pub struct Metrics {
    cells: Mutex<BTreeMap<SeriesKey, Vec<Arc<Cell>>>>,
    events: Mutex<BTreeMap<Subject, Events>>,
    tallies: Tallies,
}

/// What a counter and its histogram are about: subject, status code, how it ended.
type SeriesKey = (Subject, u16, Flag);

/// Retries and ejections of one subject.
type Events = (Arc<AtomicU64>, Arc<AtomicU64>);

/// A histogram's name, its three series names, and microseconds per unit of its bounds.
struct HistogramNames {
    bucket: &'static str,
    sum: &'static str,
    count: &'static str,
    ms_per_unit: f64,
}

const ATTEMPT_NAMES: HistogramNames = HistogramNames {
    bucket: "istio_request_duration_milliseconds_bucket",
    sum: "istio_request_duration_milliseconds_sum",
    count: "istio_request_duration_milliseconds_count",
    ms_per_unit: 1.0,
};

const REQUEST_NAMES: HistogramNames = HistogramNames {
    bucket: "evenkeel_gateway_request_duration_seconds_bucket",
    sum: "evenkeel_gateway_request_duration_seconds_sum",
    count: "evenkeel_gateway_request_duration_seconds_count",
    ms_per_unit: 1_000.0,
};

impl Metrics {
    fn cell(&self, subject: &Subject, code: u16, flag: Flag) -> Arc<Cell> {
        let cell = Arc::new(Cell::default());
        let mut cells = self.cells.lock().unwrap_or_else(PoisonError::into_inner);
        cells.entry((subject.clone(), code, flag)).or_default().push(Arc::clone(&cell));
        cell
    }

    fn events(&self, subject: &Subject) -> Events {
        let mut events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        events.entry(subject.clone()).or_default().clone()
    }

    /// Calls `each` with every sample, grouped by metric name.
    pub fn samples(&self, mut each: impl FnMut(Sample)) {
        let cells = self.cells.lock().unwrap_or_else(PoisonError::into_inner);
        for attempts in [true, false] {
            let of_kind =
                cells.iter().filter(|((subject, _, _), _)| subject.attempts() == attempts);
            let counter = if attempts { ATTEMPTS } else { REQUESTS };
            for ((subject, code, flag), cells) in of_kind.clone() {
                let total = sum(cells, |cell| &cell.count);
                each(Sample { name: counter, labels: labels(subject, *code, *flag), value: total });
            }
            let names = if attempts { ATTEMPT_NAMES } else { REQUEST_NAMES };
            for ((subject, code, flag), cells) in of_kind {
                histogram(&names, &labels(subject, *code, *flag), cells, &mut each);
            }
        }
        // From the first request on, so that a service without failures has a zero and no gap.
        let mut failed = BTreeMap::<&Subject, f64>::new();
        for ((subject, code, flag), cells) in cells.iter().filter(|((s, ..), _)| !s.attempts()) {
            let count = failed.entry(subject).or_default();
            if *code >= 500 || *flag == Flag::Broken {
                *count += sum(cells, |cell| &cell.count);
            }
        }
        for (subject, value) in failed {
            each(Sample { name: FAILED, labels: subject.labels(), value });
        }
        drop(cells);
        let events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        for (name, of_attempts) in [(RETRIES, false), (EJECTIONS, true)] {
            for (subject, counts) in events.iter().filter(|(s, _)| s.attempts() == of_attempts) {
                let count = if of_attempts { &counts.1 } else { &counts.0 };
                let value = float(count.load(Ordering::Relaxed));
                each(Sample { name, labels: subject.labels(), value });
            }
        }
        drop(events);
        self.tallies.samples(&mut each);
    }

    /// The Prometheus text exposition of all series.
    pub fn render(&self) -> String {
        let mut text = String::new();
        let of_requests = [
            (ATTEMPTS, "counter"),
            (ATTEMPT_DURATION, "histogram"),
            (REQUESTS, "counter"),
            (FAILED, "counter"),
            (REQUEST_DURATION, "histogram"),
            (RETRIES, "counter"),
            (EJECTIONS, "counter"),
        ];
        for (name, kind) in of_requests.into_iter().chain(TCP_METRICS) {
            let mut body = String::new();
            self.samples(|sample| {
                let base = ["_bucket", "_sum", "_count"]
                    .iter()
                    .find_map(|end| sample.name.strip_suffix(end));
                if sample.name == name || base == Some(name) {
                    line(&mut body, &sample);
                }
            });
            if !body.is_empty() {
                write!(text, "# TYPE {name} {kind}\n{body}")
                    .expect("writing to a String cannot fail");
            }
        }
        text
    }
}

fn histogram(
    names: &HistogramNames,
    labels: &[(&'static str, String)],
    cells: &[Arc<Cell>],
    each: &mut impl FnMut(Sample),
) {
    let mut below = 0.0;
    for (index, bound_ms) in BUCKETS_MS.iter().enumerate() {
        below += cells
            .iter()
            .filter_map(|cell| cell.buckets.get(index))
            .map(|bucket| float(bucket.load(Ordering::Relaxed)))
            .sum::<f64>();
        let mut labels = labels.to_vec();
        labels.push(("le", (float(*bound_ms) / names.ms_per_unit).to_string()));
        each(Sample { name: names.bucket, labels, value: below });
    }
    let total = sum(cells, |cell| &cell.count);
    let mut with_inf = labels.to_vec();
    with_inf.push(("le", "+Inf".to_owned()));
    each(Sample { name: names.bucket, labels: with_inf, value: total });
    let units = sum(cells, |cell| &cell.sum_us) / 1_000.0 / names.ms_per_unit;
    each(Sample { name: names.sum, labels: labels.to_vec(), value: units });
    each(Sample { name: names.count, labels: labels.to_vec(), value: total });
}

fn sum(cells: &[Arc<Cell>], field: impl Fn(&Cell) -> &AtomicU64) -> f64 {
    cells.iter().map(|cell| float(field(cell).load(Ordering::Relaxed))).sum()
}

fn labels(subject: &Subject, code: u16, flag: Flag) -> Vec<(&'static str, String)> {
    let mut labels = subject.labels();
    if subject.attempts() {
        labels.push(("request_protocol", "http".to_owned()));
        labels.push(("response_code", code.to_string()));
        labels.push(("response_flags", flag.text().to_owned()));
    } else {
        labels.push(("code", code.to_string()));
        labels.push(("flag", flag.text().to_owned()));
    }
    labels
}

fn line(text: &mut String, sample: &Sample) {
    text.push_str(sample.name);
    for (index, (name, value)) in sample.labels.iter().enumerate() {
        let open = if index == 0 { '{' } else { ',' };
        let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        write!(text, "{open}{name}=\"{value}\"").expect("writing to a String cannot fail");
    }
    let close = if sample.labels.is_empty() { "" } else { "}" };
    writeln!(text, "{close} {}", sample.value).expect("writing to a String cannot fail");
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCUMENT: &str = include_str!("../../../../docs/gateway-metrics.md");

    /// ``| `name` | `label`, `label` |`` of everything that is exported, histograms by their base.
    fn exported() -> Vec<String> {
        let metrics = Arc::new(Metrics::default());
        let name: Arc<str> = "x".into();
        let requests = Subject::Requests { namespace: name.clone(), service: name.clone() };
        let attempts =
            Subject::Attempts { namespace: name.clone(), service: name.clone(), workload: name };
        for subject in [requests, attempts] {
            let mut recorder = Recorder::new(Arc::clone(&metrics), subject);
            recorder.note(200, Flag::None, Duration::from_millis(1));
            recorder.retried();
            recorder.ejected();
            recorder.tally();
        }
        let mut rows: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        metrics.samples(|sample| {
            let ends = ["_bucket", "_sum", "_count"];
            let base = ends.iter().find_map(|end| sample.name.strip_suffix(end));
            let names = sample.labels.iter().map(|(name, _)| *name).filter(|name| *name != "le");
            rows.insert(base.unwrap_or(sample.name), names.collect());
        });
        let row = |(name, labels): (&&str, &Vec<&str>)| {
            format!("| `{name}` | `{}` |", labels.join("`, `"))
        };
        rows.iter().map(row).collect()
    }

    #[test]
    fn failures_are_counted_from_zero_on_and_broken_answers_with_them() {
        let metrics = Arc::new(Metrics::default());
        let name: Arc<str> = "x".into();
        let subject = Subject::Requests { namespace: name.clone(), service: name };
        let mut recorder = Recorder::new(Arc::clone(&metrics), subject);
        let failed = || {
            let mut found = Vec::new();
            metrics.samples(|sample| {
                if sample.name == FAILED {
                    found.push((sample.labels.len(), sample.value.to_string()));
                }
            });
            found
        };
        assert_eq!(failed(), []);
        recorder.note(200, Flag::None, Duration::ZERO);
        recorder.note(404, Flag::None, Duration::ZERO);
        recorder.note(0, Flag::ClientGone, Duration::ZERO);
        assert_eq!(failed(), [(2, "0".to_owned())]);
        recorder.note(200, Flag::Broken, Duration::ZERO);
        recorder.note(500, Flag::Broken, Duration::ZERO);
        recorder.note(503, Flag::ConnectFailed, Duration::ZERO);
        assert_eq!(failed(), [(2, "3".to_owned())]);
    }

    #[test]
    fn the_documented_metrics_are_those_that_are_exported() {
        let rows = DOCUMENT.lines().filter(|line| line.starts_with("| `"));
        let mut documented: Vec<String> = rows
            .map(|row| {
                let cells: Vec<&str> = row.splitn(4, '|').take(3).collect();
                format!("{}|", cells.join("|"))
            })
            .collect();
        documented.sort_unstable();
        assert_eq!(documented, exported());
    }
}
