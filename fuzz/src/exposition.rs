//! Exposition texts through the same intake as a scrape.
//!
//! Input: the answers of one target, one after the other, separated by NUL bytes. An answer that
//! says `# EOF` is taken as OpenMetrics.

use crate::parts;
use evenkeel_base::Clock;
use evenkeel_control::{BoxFuture, Timer};
use evenkeel_promql::exposition::{Format, parse};
use evenkeel_telemetry::{
    Fetch, FetchError, Fetched, Limits, ScrapeSettings, Scraper, Target, Telemetry,
};
use futures::FutureExt as _;
use jiff::Timestamp;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

const START_MS: i64 = 1_700_000_000_000;
/// Answers that are taken from one input.
const ANSWERS_MAX: usize = 8;

/// Time that passes during waits, and the answers that are left.
#[derive(Default)]
struct Host {
    waited_ms: Mutex<i64>,
    answers: Mutex<Vec<Fetched>>,
}

impl Host {
    fn next(&self) -> Option<Fetched> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    fn is_done(&self) -> bool {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }
}

impl Clock for Host {
    fn now(&self) -> Timestamp {
        let waited_ms = *self.waited_ms.lock().unwrap_or_else(PoisonError::into_inner);
        Timestamp::from_millisecond(START_MS.saturating_add(waited_ms)).unwrap_or_default()
    }
}

impl Timer for Host {
    fn sleep(&self, wait: Duration) -> BoxFuture<'static, ()> {
        if self.is_done() {
            return futures::future::pending().boxed();
        }
        let wait_ms = i64::try_from(wait.as_millis()).unwrap_or_default();
        *self.waited_ms.lock().unwrap_or_else(PoisonError::into_inner) += wait_ms;
        futures::future::ready(()).boxed()
    }
}

impl Fetch for Host {
    fn fetch<'a>(
        &'a self,
        _target: &'a Target,
        _settings: &'a ScrapeSettings,
    ) -> BoxFuture<'a, Result<Fetched, FetchError>> {
        match self.next() {
            Some(answer) => futures::future::ready(Ok(answer)).boxed(),
            None => futures::future::pending().boxed(),
        }
    }
}

/// Feeds one input.
pub fn run(data: &[u8]) {
    let mut answers = Vec::new();
    for text in parts(data).into_iter().take(ANSWERS_MAX) {
        for format in [Format::Text, Format::OpenMetrics] {
            if let Err(error) = parse(&text, format) {
                assert!(error.line >= 1 && error.column >= 1, "an error has a place");
            }
        }
        let format = if text.contains("# EOF") { Format::OpenMetrics } else { Format::Text };
        answers.push(Fetched { text, format });
    }
    answers.reverse();
    let telemetry = scraped(answers);
    let store = telemetry.read();
    assert!(store.len() <= 200, "the store keeps to its limit");
    drop(store);
    let at_ms = START_MS + 60_000;
    for query in ["{__name__=~\".+\"}", "sum by (job) (rate({__name__=~\".+\"}[5m]))"] {
        if let Ok(result) = telemetry.instant(query, at_ms) {
            drop(result.to_response().to_string());
        }
    }
}

/// Plays a target's answers, 15 seconds apart.
fn scraped(answers: Vec<Fetched>) -> Telemetry {
    let limits = Limits { series_max: 200, ..Limits::default() };
    let telemetry = Telemetry::new(limits);
    let host = Arc::new(Host { answers: Mutex::new(answers), ..Host::default() });
    let settings = ScrapeSettings { samples_max: 100, labels_max: 16, ..ScrapeSettings::default() };
    let mut target = Target::fixed("fuzz", "http://127.0.0.1:1/metrics");
    target.honor_labels = false;
    let scraper =
        Scraper::new(telemetry.clone(), settings, host.clone(), host.clone(), host.clone())
            .with_target(target);
    let mut run = std::pin::pin!(scraper.run());
    let mut ctx = Context::from_waker(Waker::noop());
    // Everything is ready until the answers are used up; then nothing ever is.
    while let Poll::Pending = run.as_mut().poll(&mut ctx)
        && !host.is_done()
    {}
    telemetry
}
