//! The evaluator: dispatch over nodes, limits, and the shape of values in between.

use super::window::{RangeSeries, RangeSource};
use super::{Notes, Options, QueryError, Steps};
use crate::ast::{Expr, ExprKind, Query, ValueType};
use crate::labels::Labels;
use crate::result::MatrixSeries;
use crate::sample::{Point, Value};
use crate::storage::{Needs, Storage};
use std::collections::HashMap;
use std::sync::Arc;

/// Text of the error for two samples with one label set.
pub(super) const SAME_LABELS: &str = "vector cannot contain metrics with the same labelset";

/// One series of an intermediate result: at most one point per step, in order.
#[derive(Clone, Debug)]
pub(super) struct Series {
    pub(super) labels: Labels,
    /// The metric name no longer fits and goes at the end of the query.
    pub(super) drop_name: bool,
    pub(super) points: Vec<Point>,
}

/// The value of a node over all steps.
#[derive(Clone, Debug)]
pub(super) enum Data {
    /// One number per step.
    Scalar(Vec<f64>),
    Text(String),
    Vector(Vec<Series>),
}

pub(super) struct Evaluator<'a> {
    pub(super) storage: &'a dyn Storage,
    pub(super) text: &'a Arc<str>,
    /// The steps that are evaluated here (a subquery has its own).
    pub(super) steps: Steps,
    /// The steps of the query.
    pub(super) outer: Steps,
    pub(super) options: &'a Options,
    pub(super) annotations: Notes,
    pub(super) samples_read: u64,
    /// Inside of a function that only wants counts and sums of histograms: they are read without
    /// their buckets, and reset hints are found on the fly. Never inside of a subquery.
    pub(super) statistics: bool,
    pub(super) in_subquery: bool,
    /// Values of leaves, while what stands above them is evaluated.
    pub(super) leaves: super::fold::Leaves,
    /// Whether that is so.
    pub(super) folding: bool,
    samples_held: u64,
    work: u64,
}

impl<'a> Evaluator<'a> {
    pub(super) fn new(
        storage: &'a dyn Storage,
        query: &'a Query,
        steps: Steps,
        options: &'a Options,
    ) -> Self {
        Self {
            storage,
            text: &query.text,
            steps,
            outer: steps,
            options,
            annotations: Notes::default(),
            samples_read: 0,
            statistics: false,
            in_subquery: false,
            leaves: Vec::new(),
            folding: false,
            samples_held: 0,
            work: 0,
        }
    }

    /// Evaluates with other steps, then returns to the present ones.
    pub(super) fn with_steps<T>(
        &mut self,
        steps: Steps,
        run: impl FnOnce(&mut Self) -> Result<T, QueryError>,
    ) -> Result<T, QueryError> {
        let before = std::mem::replace(&mut self.steps, steps);
        let out = run(self);
        self.steps = before;
        out
    }

    /// Evaluates with or without buckets of histograms, then restores the setting.
    pub(super) fn with_statistics<T>(
        &mut self,
        plain: bool,
        run: impl FnOnce(&mut Self) -> Result<T, QueryError>,
    ) -> Result<T, QueryError> {
        let before = std::mem::replace(&mut self.statistics, plain && !self.in_subquery);
        let out = run(self);
        self.statistics = before;
        out
    }

    /// Counts samples that are held.
    pub(super) fn charge(&mut self, samples: usize) -> Result<(), QueryError> {
        self.samples_held = self.samples_held.saturating_add(samples as u64);
        self.work_on(samples)?;
        if self.samples_held > self.options.samples_max {
            return Err(QueryError::TooManySamples);
        }
        Ok(())
    }

    /// Counts samples that are looked at.
    pub(super) fn work_on(&mut self, samples: usize) -> Result<(), QueryError> {
        self.work = self.work.saturating_add(samples as u64);
        if self.work > self.options.work_max {
            return Err(QueryError::TooMuchWork(self.options.work_max));
        }
        Ok(())
    }

    pub(super) fn eval(&mut self, expr: &Expr) -> Result<Data, QueryError> {
        if self.steps.count() > 1 && expr.value_type() == ValueType::Vector && is_invariant(expr) {
            return self.eval_once(expr);
        }
        if self.folding {
            if let Some(data) = self.take_leaf(expr) {
                return Ok(data);
            }
        } else if !self.options.sample_by_sample && super::fold::is_foldable(expr, self.steps) {
            return self.folded(expr);
        }
        match &expr.kind {
            ExprKind::Number { value, .. } => Ok(Data::Scalar(vec![*value; self.steps.count()])),
            ExprKind::Text(text) => Ok(Data::Text(text.clone())),
            ExprKind::Paren(inner) => self.eval(inner),
            ExprKind::Unary { negate, expr: inner } => self.unary(*negate, inner),
            ExprKind::Binary(binary) => self.binary(expr, binary),
            ExprKind::Aggregate(aggregate) => {
                self.aggregate(aggregate, expr.span).map(Data::Vector)
            }
            ExprKind::Call { function, args } => self.call(function.name, args, expr.span),
            ExprKind::Selector(selector) => {
                self.instant_selector(selector, expr.span).map(Data::Vector)
            }
            ExprKind::Range { .. } | ExprKind::Subquery(_) => {
                Err(QueryError::Execution("a range vector cannot be used here".to_owned()))
            }
        }
    }

    /// Evaluates what does not depend on the step once and repeats it.
    fn eval_once(&mut self, expr: &Expr) -> Result<Data, QueryError> {
        let first = Steps { end_ms: self.steps.start_ms, ..self.steps };
        let data = self.with_steps(first, |e| e.eval(expr))?;
        let Data::Vector(mut series) = data else { return Ok(data) };
        let times: Vec<i64> = self.steps.times().collect();
        self.charge(series.len().saturating_mul(times.len()))?;
        for one in &mut series {
            let Some(point) = one.points.pop() else { continue };
            let repeat = |t_ms: &i64| Point { t_ms: *t_ms, value: point.value.clone() };
            one.points = times.iter().map(repeat).collect();
        }
        Ok(Data::Vector(series))
    }

    fn unary(&mut self, negate: bool, inner: &Expr) -> Result<Data, QueryError> {
        let data = self.eval(inner)?;
        if !negate {
            return Ok(data);
        }
        match data {
            Data::Scalar(values) => Ok(Data::Scalar(values.into_iter().map(|v| -v).collect())),
            Data::Vector(series) => {
                let negated = |value: Value| match value {
                    Value::Float(v) => Some(Value::Float(-v)),
                    Value::Histogram(h) => {
                        let mut h = Arc::unwrap_or_clone(h);
                        h.mul(-1.0);
                        Some(h.into())
                    }
                };
                let out = self.map(series, negated);
                // Unlike functions, upstream checks here at once.
                if !self.options.delayed_name_removal {
                    check_distinct(&out)?;
                }
                Ok(Data::Vector(out))
            }
            Data::Text(_) => Ok(data),
        }
    }

    /// Evaluates an instant vector.
    pub(super) fn vector(&mut self, expr: &Expr) -> Result<Vec<Series>, QueryError> {
        match self.eval(expr)? {
            Data::Vector(series) => Ok(series),
            other => Ok(self.as_vector(other)),
        }
    }

    /// Evaluates a scalar: one number per step.
    pub(super) fn scalar(&mut self, expr: &Expr) -> Result<Vec<f64>, QueryError> {
        match self.eval(expr)? {
            Data::Scalar(values) => Ok(values),
            _ => Err(QueryError::Execution("a scalar is needed here".to_owned())),
        }
    }

    /// The text of a literal argument.
    pub(super) fn literal(expr: &Expr) -> Result<String, QueryError> {
        match &expr.unwrapped().kind {
            ExprKind::Text(text) => Ok(text.clone()),
            _ => Err(QueryError::Execution("a string is needed here".to_owned())),
        }
    }

    /// A scalar as a vector of one unlabelled series.
    pub(super) fn as_vector(&self, data: Data) -> Vec<Series> {
        match data {
            Data::Vector(series) => series,
            Data::Text(_) => Vec::new(),
            Data::Scalar(values) => {
                let points = self.steps.times().zip(values);
                let points = points.map(|(t_ms, v)| Point { t_ms, value: v.into() }).collect();
                vec![Series { labels: Labels::empty(), drop_name: false, points }]
            }
        }
    }

    /// Labels of a function's result: without the name, or marked for it.
    pub(super) fn unnamed(&self, labels: Labels) -> (Labels, bool) {
        if self.options.delayed_name_removal {
            (labels, true)
        } else {
            (labels.without_name(), false)
        }
    }

    /// Applies a function to every sample; the metric name goes.
    pub(super) fn map(
        &self,
        series: Vec<Series>,
        mut apply: impl FnMut(Value) -> Option<Value>,
    ) -> Vec<Series> {
        let mut out = Vec::with_capacity(series.len());
        for one in series {
            let (labels, drop_name) = self.unnamed(one.labels);
            let points: Vec<Point> = one
                .points
                .into_iter()
                .filter_map(|p| Some(Point { t_ms: p.t_ms, value: apply(p.value)? }))
                .collect();
            if !points.is_empty() {
                out.push(Series { labels, drop_name, points });
            }
        }
        out
    }

    /// Removes names that were marked, and refuses label sets that clash by it.
    pub(super) fn without_dropped_names(series: Vec<Series>) -> Result<Vec<Series>, QueryError> {
        let mut merge = Merge::default();
        for mut one in series {
            if one.drop_name {
                one.labels = one.labels.without_name();
                one.drop_name = false;
            }
            merge.add(one)?;
        }
        Ok(merge.series)
    }

    /// A range vector as the result of an instant query.
    pub(super) fn whole_range(&mut self, expr: &Expr) -> Result<Vec<MatrixSeries>, QueryError> {
        let RangeSource { series, .. } = self.range_source(expr, Needs::All)?;
        let mut out = Vec::new();
        for one in series {
            let window = self.last_window(expr, &one)?;
            if !window.is_empty() {
                out.push(MatrixSeries { labels: result_labels(one), points: window });
            }
        }
        out.sort_by(|a, b| a.labels.cmp(&b.labels));
        Ok(out)
    }
}

fn result_labels(series: RangeSeries<'_>) -> Labels {
    if series.drop_name { series.labels.without_name() } else { series.labels }
}

/// Gathers series by labels; two samples of one label set at one time are an error.
#[derive(Default)]
pub(super) struct Merge {
    index: HashMap<Labels, usize>,
    pub(super) series: Vec<Series>,
}

impl Merge {
    pub(super) fn add(&mut self, one: Series) -> Result<(), QueryError> {
        let at = *self.index.entry(one.labels.clone()).or_insert(self.series.len());
        let Some(there) = self.series.get_mut(at) else {
            self.series.push(one);
            return Ok(());
        };
        there.drop_name |= one.drop_name;
        let mut points = std::mem::take(&mut there.points);
        points.extend(one.points);
        points.sort_by_key(|p| p.t_ms);
        if points.windows(2).any(|pair| pair[0].t_ms == pair[1].t_ms) {
            return Err(QueryError::Execution(SAME_LABELS.to_owned()));
        }
        there.points = points;
        Ok(())
    }

    /// The index of the series with these labels.
    pub(super) fn slot(&mut self, labels: &Labels, drop_name: bool) -> usize {
        if let Some(at) = self.index.get(labels) {
            return *at;
        }
        let at = self.series.len();
        self.index.insert(labels.clone(), at);
        self.series.push(Series { labels: labels.clone(), drop_name, points: Vec::new() });
        at
    }

    /// Appends a point; times must ascend.
    pub(super) fn push(&mut self, slot: usize, t_ms: i64, value: Value) -> Result<(), QueryError> {
        let points = &mut self.series[slot].points;
        if points.last().is_some_and(|last| last.t_ms == t_ms) {
            return Err(QueryError::Execution(SAME_LABELS.to_owned()));
        }
        points.push(Point { t_ms, value });
        Ok(())
    }

    pub(super) fn finish(mut self) -> Vec<Series> {
        self.series.retain(|s| !s.points.is_empty());
        self.series
    }
}

/// Refuses two series with one label set and a common time.
pub(super) fn check_distinct(series: &[Series]) -> Result<(), QueryError> {
    let mut merge = Merge::default();
    let mut seen = std::collections::HashSet::new();
    for one in series {
        if !seen.insert(&one.labels) {
            // Only then the costly look at times.
            for again in series {
                merge.add(again.clone())?;
            }
            return Ok(());
        }
    }
    Ok(())
}

/// Positions in several series as time advances.
pub(super) struct Cursors(Vec<usize>);

impl Cursors {
    pub(super) fn new(count: usize) -> Self {
        Self(vec![0; count])
    }

    /// The value of a series at a time; times must ascend.
    pub(super) fn value<'s>(
        &mut self,
        series: &'s [Series],
        at: usize,
        t_ms: i64,
    ) -> Option<&'s Value> {
        let points = &series[at].points;
        let position = &mut self.0[at];
        while points.get(*position).is_some_and(|p| p.t_ms < t_ms) {
            *position += 1;
        }
        points.get(*position).filter(|p| p.t_ms == t_ms).map(|p| &p.value)
    }
}

/// Functions whose value depends on the evaluation time itself.
const TIME_DEPENDENT: [&str; 16] = [
    "days_in_month",
    "day_of_month",
    "day_of_week",
    "day_of_year",
    "hour",
    "minute",
    "month",
    "year",
    "predict_linear",
    "time",
    "timestamp",
    "start_timestamp",
    "start",
    "end",
    "step",
    "range",
];

/// Whether an expression has the same value at every step.
pub(crate) fn is_invariant(expr: &Expr) -> bool {
    match &expr.kind {
        ExprKind::Selector(selector) | ExprKind::Range { selector, .. } => selector.at.is_some(),
        ExprKind::Subquery(subquery) => subquery.at.is_some(),
        ExprKind::Call { function, .. } if TIME_DEPENDENT.contains(&function.name) => false,
        // What says which labels are wanted is read at the times of the first argument.
        ExprKind::Call { function, args } if function.name == "info" => is_invariant(&args[0]),
        kind => kind.children().all(is_invariant),
    }
}
