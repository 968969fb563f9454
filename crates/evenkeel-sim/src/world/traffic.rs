//! Metrics of paper: what a service's new version answers, by the name of the service.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use evenkeel_control::{BoxFuture, Metrics, MetricsError, Sample};
use jiff::Timestamp;

use super::time::{VirtualTime, locked};

/// More 5xx answers than this are too many for the Canaries of these worlds, in percent.
pub(super) const ERRORS_PCT_MAX: f64 = 1.0;
/// Slower than this is too slow for them.
pub(super) const P99_MS_MAX: f64 = 500.0;

/// Seconds between two scrapes.
const SCRAPE_S: i64 = 10;

/// What the requests of a service's new version look like.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Quality {
    /// Share of answers that are 5xx; `None` means no data at all.
    pub error_ratio: Option<f64>,
    /// 99th percentile of durations.
    pub p99_ms: f64,
}

impl Quality {
    fn is_bad(self) -> bool {
        let errors_pct = self.error_ratio.map(|ratio| ratio * 100.0);
        errors_pct.is_none_or(|pct| pct > ERRORS_PCT_MAX) || self.p99_ms > P99_MS_MAX
    }
}

/// What the requests of all services look like.
pub struct Traffic {
    time: Arc<VirtualTime>,
    now: Mutex<BTreeMap<String, Now>>,
}

#[derive(Clone, Copy)]
struct Now {
    quality: Quality,
    bad_since: Option<Duration>,
}

impl Traffic {
    pub(super) fn new(time: Arc<VirtualTime>) -> Self {
        Self { time, now: Mutex::default() }
    }

    /// From now on a service's new version is like this.
    pub fn set(&self, service: &str, quality: Quality) {
        let mut all = locked(&self.now);
        let before = all.get(service).and_then(|now| now.bad_since);
        let bad_since = quality.is_bad().then(|| before.unwrap_or(self.time.elapsed()));
        all.insert(service.to_owned(), Now { quality, bad_since });
    }

    /// Since when a service's new version is bad; `None` when it is not.
    pub(super) fn bad_since(&self, service: &str) -> Option<Duration> {
        locked(&self.now).get(service)?.bad_since
    }

    fn of(&self, expr: &str) -> Option<Quality> {
        // The longest name that the query speaks of: `a` is part of `a-b`.
        let all = locked(&self.now);
        let spoken = all.iter().filter(|(service, _)| expr.contains(service.as_str()));
        spoken.max_by_key(|(service, _)| service.len()).map(|(_, now)| now.quality)
    }
}

impl Metrics for Traffic {
    fn query<'a>(
        &'a self,
        expr: &'a str,
        at: Timestamp,
    ) -> BoxFuture<'a, Result<Vec<Sample>, MetricsError>> {
        let quality = self.of(expr);
        let value = quality.and_then(|quality| {
            let ratio = quality.error_ratio?;
            Some(if expr.contains("timestamp(") {
                let scraped = at.as_second() / SCRAPE_S * SCRAPE_S;
                f64::from(u32::try_from(scraped).unwrap_or_default())
            } else if expr.contains("_seconds_bucket") {
                quality.p99_ms / 1000.0
            } else if expr.contains("bucket") {
                quality.p99_ms
            } else if expr.contains("5.*") {
                ratio * 10.0
            } else {
                10.0
            })
        });
        let sample = |value| Sample { labels: BTreeMap::new(), value };
        Box::pin(async move { Ok(value.map(sample).into_iter().collect()) })
    }
}
