use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use evenkeel_control::{BoxFuture, Metrics, MetricsError, Sample, Series, Span};
use evenkeel_promql::{
    engine::{self, Options, QueryError, Steps},
    exposition::Family,
    labels::Labels,
    result::{QueryResult, QueryValue},
    sample::{Point, Value},
    series::{AppendError, SeriesStore},
};
use futures::FutureExt as _;
use jiff::Timestamp;

use crate::{Limits, TargetStatus, queries::Queries, rules::Rules};

/// Families remembered over all targets; what comes later is stored without its help and type.
const FAMILIES_MAX: usize = 100_000;
/// Memory of one sample: its time and its value.
const SAMPLE_BYTES: usize = 16;
/// Memory of a series besides its samples and the texts of its labels: index, room to grow. A
/// rough mean.
const SERIES_BYTES: usize = 1_000;

/// The shared handle: series in memory, queries over them, and what is known of the targets.
#[derive(Clone, Default)]
pub struct Telemetry {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    limits: Limits,
    store: RwLock<SeriesStore>,
    targets: RwLock<BTreeMap<String, TargetStatus>>,
    families: RwLock<BTreeMap<String, Family>>,
    queries: Queries,
    rules: Rules,
}

impl Telemetry {
    /// An empty one.
    pub fn new(limits: Limits) -> Self {
        let store = RwLock::new(SeriesStore::with_limit(limits.series_max));
        Self { inner: Arc::new(Inner { limits, store, ..Inner::default() }) }
    }

    /// Its limits.
    pub fn limits(&self) -> &Limits {
        &self.inner.limits
    }

    /// The series, for reading. Writers wait until it is dropped.
    pub fn read(&self) -> RwLockReadGuard<'_, SeriesStore> {
        self.inner.store.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The series, for writing. All others wait until it is dropped.
    pub fn write(&self) -> RwLockWriteGuard<'_, SeriesStore> {
        self.inner.store.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends one sample, for what happens in this process without a scrape.
    pub fn append(&self, labels: &Labels, at: Timestamp, value: f64) -> Result<(), AppendError> {
        self.write().append(labels, at.as_millisecond(), value).map(|_| ())
    }

    /// How queries are evaluated here.
    pub fn options(&self) -> Options {
        Options {
            samples_max: self.inner.limits.query_samples_max,
            work_max: self.inner.limits.query_visits_max,
            closed_ranges: self.inner.limits.closed_ranges,
            ..Options::default()
        }
    }

    /// Evaluates a query at one time.
    pub fn instant(&self, text: &str, at_ms: i64) -> Result<QueryResult, QueryError> {
        self.instant_with(text, at_ms, &self.options())
    }

    pub(crate) fn instant_with(
        &self,
        text: &str,
        at_ms: i64,
        options: &Options,
    ) -> Result<QueryResult, QueryError> {
        let query = self.inner.queries.parse(text)?;
        engine::instant(&*self.read(), &query, at_ms, options)
    }

    /// Evaluates a query at several times.
    pub fn range(&self, text: &str, steps: Steps) -> Result<QueryResult, QueryError> {
        self.range_with(text, steps, &self.options())
    }

    pub(crate) fn range_with(
        &self,
        text: &str,
        steps: Steps,
        options: &Options,
    ) -> Result<QueryResult, QueryError> {
        let query = self.inner.queries.parse(text)?;
        engine::range(&*self.read(), &query, steps, options)
    }

    /// Forgets what is older than the retention, and more if memory is short. Call it about once
    /// a minute.
    pub fn prune(&self, now: Timestamp) {
        let limits = &self.inner.limits;
        let mut kept_ms = i64::try_from(limits.retention.as_millis()).unwrap_or(i64::MAX);
        let mut store = self.write();
        store.prune(now.as_millisecond().saturating_sub(kept_ms));
        while bytes(&store) > limits.memory_bytes_max && kept_ms > 60_000 {
            kept_ms -= kept_ms / 4;
            tracing::warn!(
                kept_s = kept_ms / 1000,
                limit_bytes = limits.memory_bytes_max,
                "series memory is used up, the oldest samples go early"
            );
            store.prune(now.as_millisecond().saturating_sub(kept_ms));
        }
    }

    /// Memory that series and samples take, estimated.
    pub fn memory_bytes(&self) -> usize {
        bytes(&self.read())
    }

    /// All targets, ordered by job and name.
    pub fn targets(&self) -> Vec<TargetStatus> {
        let targets = self.inner.targets.read().unwrap_or_else(PoisonError::into_inner);
        targets.values().cloned().collect()
    }

    /// The metadata that targets sent about their metrics, by family.
    pub fn families(&self) -> BTreeMap<String, Family> {
        self.inner.families.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn rules(&self) -> &Rules {
        &self.inner.rules
    }

    pub(crate) fn set_target(&self, status: TargetStatus) {
        let mut targets = self.inner.targets.write().unwrap_or_else(PoisonError::into_inner);
        targets.insert(status.target.id.clone(), status);
    }

    pub(crate) fn remove_target(&self, id: &str) {
        self.inner.targets.write().unwrap_or_else(PoisonError::into_inner).remove(id);
    }

    /// Takes over the metadata of a target, as far as it is new.
    pub(crate) fn learn_families(&self, sent: &BTreeMap<String, Family>) {
        let known = self.inner.families.read().unwrap_or_else(PoisonError::into_inner);
        let is_news = sent.keys().any(|name| !known.contains_key(name));
        drop(known);
        if is_news {
            let mut known = self.inner.families.write().unwrap_or_else(PoisonError::into_inner);
            for (name, family) in sent {
                if known.len() >= FAMILIES_MAX {
                    break;
                }
                known.entry(name.clone()).or_insert_with(|| family.clone());
            }
        }
    }
}

impl Metrics for Telemetry {
    fn query<'a>(
        &'a self,
        expr: &'a str,
        at: Timestamp,
    ) -> BoxFuture<'a, Result<Vec<Sample>, MetricsError>> {
        let answer = match self.instant(expr, at.as_millisecond()) {
            Ok(result) => samples(expr, result.value),
            Err(error) => invalid(expr, error.to_string()),
        };
        futures::future::ready(answer).boxed()
    }

    fn query_range<'a>(
        &'a self,
        expr: &'a str,
        span: Span,
    ) -> BoxFuture<'a, Result<Vec<Series>, MetricsError>> {
        let steps = Steps {
            start_ms: span.first.as_millisecond(),
            end_ms: span.last.as_millisecond(),
            step_ms: i64::try_from(span.step.as_millis()).unwrap_or(i64::MAX).max(1),
        };
        let answer = match self.range(expr, steps) {
            Ok(result) => series(expr, result.value),
            Err(error) => invalid(expr, error.to_string()),
        };
        futures::future::ready(answer).boxed()
    }
}

fn series(expr: &str, value: QueryValue) -> Result<Vec<Series>, MetricsError> {
    let QueryValue::Matrix(matrix) = value else {
        return invalid(expr, "it gives no series over time".to_owned());
    };
    let point = |point: &Point| match point.value {
        Value::Float(value) => Some((Timestamp::from_millisecond(point.t_ms).ok()?, value)),
        Value::Histogram(_) => None,
    };
    let all = matrix.iter().map(|series| Series {
        labels: series.labels.to_map(),
        points: series.points.iter().filter_map(point).collect(),
    });
    Ok(all.collect())
}

fn samples(expr: &str, value: QueryValue) -> Result<Vec<Sample>, MetricsError> {
    match value {
        QueryValue::Scalar { value, .. } => Ok(vec![Sample { labels: BTreeMap::new(), value }]),
        QueryValue::Vector(samples) => {
            let floats = samples.into_iter().filter_map(|sample| match sample.value {
                Value::Float(value) => Some(Sample { labels: sample.labels.to_map(), value }),
                Value::Histogram(_) => None,
            });
            Ok(floats.collect())
        }
        QueryValue::Matrix(_) => {
            invalid(expr, "it gives a range of samples, not one number per series".to_owned())
        }
        QueryValue::Text { .. } => invalid(expr, "it gives a text, not a number".to_owned()),
    }
}

fn invalid<T>(expr: &str, problem: String) -> Result<T, MetricsError> {
    Err(MetricsError::Invalid { expr: expr.to_owned(), problem })
}

fn bytes(store: &SeriesStore) -> usize {
    store.samples_len() * SAMPLE_BYTES + store.len() * SERIES_BYTES + store.label_bytes()
}
