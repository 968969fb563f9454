//! Evaluation of queries as Prometheus 3 does it.
//!
//! A query is evaluated node by node over all its steps at once: series are selected once per
//! selector, windows slide over them. **Source** of the semantics: promql/engine.go, functions.go
//! and quantile.go of Prometheus.

mod aggregate;
mod avg;
mod binary;
mod binary_element;
mod calls;
mod eval;
mod extended;
mod fold;
mod histogram_calls;
mod info;
mod label_calls;
mod lengths;
mod math;
mod quantile;
mod range_calls;
mod rate;
mod select;
mod time_calls;
mod topk;
mod window;

use crate::annotation::Annotations;
use crate::ast::{Query, ValueType};
use crate::parser::{ParseError, parse};
use crate::result::{MatrixSeries, QueryResult, QueryValue, VectorSample};
use crate::storage::{Storage, StorageError};
pub(crate) use eval::is_invariant;
use eval::{Data, Evaluator};
use std::sync::Arc;

/// How queries are evaluated, and what they may cost.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "independent switches, as upstream has them")]
pub struct Options {
    /// How long a series counts as present after its last sample.
    pub lookback_ms: i64,
    /// Ranges and lookback include their left end, as in Prometheus 2.
    pub closed_ranges: bool,
    /// Metric names are removed at the end of the query instead of in each function.
    pub delayed_name_removal: bool,
    /// Type and unit labels are kept where they still describe the result.
    pub type_and_unit_labels: bool,
    /// Start times of counters take part in rates.
    pub start_timestamps: bool,
    /// Every sample of a window is looked at, even where the storage knows sums over blocks.
    pub sample_by_sample: bool,
    /// Step of subqueries that name none.
    pub default_step_ms: i64,
    /// Samples a query may hold.
    pub samples_max: u64,
    /// Samples a query may touch, counting repeated touches: bounds its time.
    pub work_max: u64,
    /// Steps a range query may have.
    pub steps_max: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            lookback_ms: 300_000,
            closed_ranges: false,
            delayed_name_removal: false,
            type_and_unit_labels: false,
            start_timestamps: false,
            sample_by_sample: false,
            default_step_ms: 60_000,
            samples_max: 50_000_000,
            work_max: 4_000_000_000,
            steps_max: 11_000,
        }
    }
}

/// Times farther than this from the epoch are refused (36 million years): their sums and
/// differences with ranges and offsets must fit.
pub(crate) const TIME_MS_MAX: i64 = 1 << 60;

/// The times of a range query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Steps {
    /// First evaluation, milliseconds.
    pub start_ms: i64,
    /// Last evaluation at most, milliseconds.
    pub end_ms: i64,
    /// Distance between evaluations, milliseconds.
    pub step_ms: i64,
}

impl Steps {
    /// A single evaluation.
    pub fn once(at_ms: i64) -> Self {
        Self { start_ms: at_ms, end_ms: at_ms, step_ms: 1 }
    }

    /// Number of evaluations.
    pub fn count(&self) -> usize {
        if self.end_ms < self.start_ms || self.step_ms <= 0 {
            return 0;
        }
        let span = i128::from(self.end_ms) - i128::from(self.start_ms);
        usize::try_from(span / i128::from(self.step_ms) + 1).unwrap_or(usize::MAX)
    }

    /// The evaluation times.
    pub fn times(&self) -> impl Iterator<Item = i64> + use<> {
        let Self { start_ms, step_ms, .. } = *self;
        (0..self.count()).map(move |i| start_ms + i as i64 * step_ms)
    }
}

/// A query without a result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// The text is not a query.
    #[error(transparent)]
    Parse(#[from] ParseError),
    /// The query asks for something impossible with this data.
    #[error("{0}")]
    Execution(String),
    /// The storage could not answer.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The query would hold too many samples.
    #[error("query processing would load too many samples into memory in query execution")]
    TooManySamples,
    /// The query would take too long.
    #[error("query timed out in query execution: more than {0} sample visits")]
    TooMuchWork(u64),
    /// A range query's times make no sense.
    #[error("{0}")]
    BadRange(String),
}

impl QueryError {
    /// `errorType` of the HTTP API: `bad_data`, `execution`, `timeout` or `internal`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Parse(_) | Self::BadRange(_) => "bad_data",
            Self::Execution(_) | Self::TooManySamples => "execution",
            Self::Storage(_) => "internal",
            Self::TooMuchWork(_) => "timeout",
        }
    }
}

/// Evaluates a query at one time.
pub fn instant(
    storage: &dyn Storage,
    query: &Query,
    at_ms: i64,
    options: &Options,
) -> Result<QueryResult, QueryError> {
    check_time(at_ms)?;
    let mut evaluator = Evaluator::new(storage, query, Steps::once(at_ms), options);
    let value = match query.expr.value_type() {
        ValueType::Matrix => QueryValue::Matrix(evaluator.whole_range(&query.expr)?),
        _ => match evaluator.eval(&query.expr)? {
            Data::Scalar(values) => QueryValue::Scalar {
                t_ms: at_ms,
                value: values.first().copied().unwrap_or(f64::NAN),
            },
            Data::Text(text) => QueryValue::Text { t_ms: at_ms, text },
            Data::Vector(series) => {
                let series = Evaluator::without_dropped_names(series)?;
                let samples = series.into_iter().filter_map(|mut s| {
                    let point = s.points.pop()?;
                    Some(VectorSample { labels: s.labels, t_ms: at_ms, value: point.value })
                });
                QueryValue::Vector(samples.collect())
            }
        },
    };
    Ok(evaluator.finish(value))
}

/// Evaluates a query at several times.
pub fn range(
    storage: &dyn Storage,
    query: &Query,
    steps: Steps,
    options: &Options,
) -> Result<QueryResult, QueryError> {
    check_steps(query, steps, options)?;
    range_unbounded(storage, query, steps, options)
}

/// As [`range`], for callers that chose the steps themselves.
pub(crate) fn range_unbounded(
    storage: &dyn Storage,
    query: &Query,
    steps: Steps,
    options: &Options,
) -> Result<QueryResult, QueryError> {
    let mut evaluator = Evaluator::new(storage, query, steps, options);
    let mut series = match evaluator.eval(&query.expr)? {
        Data::Vector(series) => Evaluator::without_dropped_names(series)?,
        scalar => evaluator.as_vector(scalar),
    };
    series.retain(|s| !s.points.is_empty());
    let mut matrix: Vec<MatrixSeries> =
        series.into_iter().map(|s| MatrixSeries { labels: s.labels, points: s.points }).collect();
    matrix.sort_by(|a, b| a.labels.cmp(&b.labels));
    Ok(evaluator.finish(QueryValue::Matrix(matrix)))
}

/// Parses and evaluates at one time.
pub fn instant_text(
    storage: &dyn Storage,
    text: &str,
    at_ms: i64,
    options: &Options,
) -> Result<QueryResult, QueryError> {
    instant(storage, &parse(text)?, at_ms, options)
}

fn check_steps(query: &Query, steps: Steps, options: &Options) -> Result<(), QueryError> {
    let bad = |reason: String| Err(QueryError::BadRange(reason));
    if steps.step_ms <= 0 {
        return bad("zero or negative query resolution step widths are not accepted. Try a positive integer".to_owned());
    }
    check_time(steps.start_ms)?;
    check_time(steps.end_ms)?;
    if steps.end_ms < steps.start_ms {
        return bad("end timestamp must not be before start time".to_owned());
    }
    if steps.count() as u64 > options.steps_max {
        return bad(format!(
            "exceeded maximum resolution of {} points per timeseries. Try decreasing the query resolution (?step=XX)",
            thousands(options.steps_max)
        ));
    }
    match query.expr.value_type() {
        ValueType::Scalar | ValueType::Vector => Ok(()),
        other => bad(format!(
            "invalid expression type {:?} for range query, must be Scalar or instant Vector",
            other.as_str()
        )),
    }
}

fn check_time(t_ms: i64) -> Result<(), QueryError> {
    if (-TIME_MS_MAX..=TIME_MS_MAX).contains(&t_ms) {
        return Ok(());
    }
    Err(QueryError::BadRange(format!("time {t_ms} ms is out of bounds")))
}

fn thousands(n: u64) -> String {
    if n < 1000 { n.to_string() } else { format!("{},{:03}", thousands(n / 1000), n % 1000) }
}

impl Evaluator<'_> {
    fn finish(self, value: QueryValue) -> QueryResult {
        QueryResult {
            value,
            annotations: self.annotations,
            text: Arc::clone(self.text),
            samples_read: self.samples_read,
        }
    }
}

/// Room for annotations that are not asked for.
pub(crate) type Notes = Annotations;
