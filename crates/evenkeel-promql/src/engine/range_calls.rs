//! Functions of range vectors.

use super::QueryError;
use super::avg::{HistogramMean, Mean};
use super::binary_element::note_merge;
use super::calls::absent_labels;
use super::eval::{Evaluator, Series};
use super::math::{quantile, regression};
use super::rate::{Extrapolation, extended_rate, extrapolated, last_two};
use super::window::Window;
use crate::ast::{Expr, ExprKind, Extension, Span, ValueType};
use crate::number::{format_general, kahan_add};
use crate::sample::{Point, Value};
use crate::storage::{Needs, Samples};
use std::sync::Arc;

/// Functions that do not look at every sample where sums over blocks are known.
const BY_BLOCKS: [&str; 10] = [
    "rate",
    "increase",
    "delta",
    "sum_over_time",
    "avg_over_time",
    "count_over_time",
    "present_over_time",
    "last_over_time",
    "first_over_time",
    "absent_over_time",
];

/// What a function of one window sees besides the window.
#[derive(Clone, Copy)]
pub(super) struct Site<'s> {
    pub(super) name: &'static str,
    pub(super) metric: &'s str,
    /// The position of the first argument in the query.
    pub(super) span: Span,
    pub(super) range_ms: i64,
    pub(super) step_ms: i64,
    /// The scalar arguments at this step.
    pub(super) params: [f64; 2],
}

impl Evaluator<'_> {
    pub(super) fn range_call(
        &mut self,
        name: &'static str,
        args: &[Expr],
    ) -> Result<Vec<Series>, QueryError> {
        let at = args.iter().position(|a| a.value_type() == ValueType::Matrix).unwrap_or_default();
        let mut scalars: Vec<Vec<f64>> = Vec::new();
        for (i, arg) in args.iter().enumerate() {
            if i != at {
                scalars.push(self.scalar(arg)?);
            }
        }
        let needs = if BY_BLOCKS.contains(&name) { Needs::Ends } else { Needs::All };
        let source = self.range_source(&args[at], needs)?;
        if name == "absent_over_time" {
            return self.absent_over_time(&source, &args[at]);
        }
        // As upstream: a subquery has no place of its own.
        let span = match args[0].unwrapped().kind {
            ExprKind::Subquery(_) => Span::default(),
            _ => args[0].span,
        };
        let keeps_name = matches!(name, "last_over_time" | "first_over_time");
        let mut out = Vec::with_capacity(source.series.len());
        let (start, step_width) = (self.steps.start_ms, self.steps.step_ms.max(1));
        let mut noted_counter = false;
        for one in &source.series {
            let metric = one.labels.metric_name();
            let site = |step_ms: i64| {
                let at = ((step_ms - start) / step_width) as usize;
                let param =
                    |i: usize| scalars.get(i).and_then(|s| s.get(at)).copied().unwrap_or_default();
                let params = [param(0), param(1)];
                Site { name, metric, span, range_ms: source.range_ms, step_ms, params }
            };
            let points = match source.extension {
                None => self.plain_values(&source, &one.samples, &site)?,
                Some(extension) => {
                    self.extended_values(&source, &one.samples, (extension, &site))?
                }
            };
            if !noted_counter && points.iter().any(|point| point.value.as_float().is_some()) {
                noted_counter = self.note_counter(name, one, span);
            }
            if points.is_empty() {
                continue;
            }
            let (labels, drop_name) = if keeps_name {
                (one.labels.clone(), one.drop_name)
            } else {
                self.unnamed(one.labels.clone())
            };
            out.push(Series { labels, drop_name, points });
        }
        // Series of one metric stay distinct without its name.
        let one_metric = matches!(
            &args[at].unwrapped().kind,
            ExprKind::Range { selector, .. } if selector.name.is_some()
        );
        if !self.options.delayed_name_removal && !one_metric {
            super::eval::check_distinct(&out)?;
        }
        Ok(out)
    }

    fn plain_values<'s>(
        &mut self,
        source: &super::window::RangeSource<'_>,
        samples: &Samples<'_>,
        site: &dyn Fn(i64) -> Site<'s>,
    ) -> Result<Vec<Point>, QueryError> {
        let name = site(self.steps.start_ms).name;
        let counter = matches!(name, "rate" | "increase");
        let mut running = RunningSum::default();
        let mut steady = Steady::default();
        self.slide(source, samples, |e, t_ms, window, out| {
            if name == "sum_over_time"
                && let Some(sum) = running.follow(window)
            {
                out.push(Point { t_ms, value: Value::Float(sum) });
                return Ok(());
            }
            if name == "double_exponential_smoothing" {
                check_factors(site(t_ms).params)?;
            }
            if !counter {
                let value = window_value(e, site(t_ms), window);
                out.extend(value.map(|value| Point { t_ms, value }));
                return Ok(());
            }
            let shape = Shape::of(window);
            if shape.is_none() || shape != steady.shape {
                let value = window_value(e, site(t_ms), window);
                let Some(Value::Float(number)) = value else {
                    out.extend(value.map(|value| Point { t_ms, value }));
                    return Ok(());
                };
                steady = Steady { shape, value: number };
            }
            out.push(Point { t_ms, value: Value::Float(steady.value) });
            Ok(())
        })
    }

    fn extended_values<'s>(
        &mut self,
        source: &super::window::RangeSource<'_>,
        samples: &Samples<'_>,
        (extension, site): (Extension, &dyn Fn(i64) -> Site<'s>),
    ) -> Result<Vec<Point>, QueryError> {
        let mut out = Vec::new();
        for t_ms in self.steps.times() {
            let end_ms = source.window_end(self, t_ms);
            let window = super::rate::wide_window(self, samples, end_ms, source);
            self.work_on(window.len())?;
            if window.is_empty() {
                continue;
            }
            let value = extended_rate(self, site(t_ms), window, extension);
            out.extend(value.map(|value| Point { t_ms, value }));
        }
        self.charge(out.len())?;
        Ok(out)
    }

    fn note_counter(
        &mut self,
        name: &str,
        series: &super::window::RangeSeries<'_>,
        span: Span,
    ) -> bool {
        let metric = series.labels.metric_name();
        if !matches!(name, "rate" | "increase") || metric.is_empty() {
            return false;
        }
        if self.options.type_and_unit_labels {
            let kind = series.labels.get(crate::labels::TYPE_LABEL);
            if !kind.is_empty() && kind != "counter" && kind != "histogram" {
                let text = format!(
                    "metric might not be a counter, __type__ label is not set to \"counter\" or \"histogram\", got {kind:?}: {metric:?}"
                );
                self.annotations.info(span, &text);
                return true;
            }
            if !kind.is_empty() {
                return false;
            }
        }
        if ["_total", "_sum", "_count", "_bucket"].iter().any(|s| metric.ends_with(s)) {
            return false;
        }
        let text = format!(
            "metric might not be a counter, name does not end in _total/_sum/_count/_bucket: {metric:?}"
        );
        self.annotations.info(span, &text);
        false
    }

    fn absent_over_time(
        &mut self,
        source: &super::window::RangeSource<'_>,
        arg: &Expr,
    ) -> Result<Vec<Series>, QueryError> {
        let mut present = std::collections::BTreeSet::new();
        for one in &source.series {
            present.extend(self.slide(source, &one.samples, |_, t_ms, _, out| {
                out.push(t_ms);
                Ok(())
            })?);
        }
        let points: Vec<Point> = self
            .steps
            .times()
            .filter(|t_ms| !present.contains(t_ms))
            .map(|t_ms| Point { t_ms, value: Value::Float(1.0) })
            .collect();
        let labels = absent_labels(arg);
        Ok(vec![Series { labels, drop_name: false, points }])
    }
}

/// All that an extrapolated increase depends on, for a counter that neither drops in the window nor
/// began shortly before it.
#[derive(PartialEq)]
struct Shape {
    first_after_ms: i64,
    last_before_ms: i64,
    samples: usize,
    increase: u64,
}

impl Shape {
    fn of(window: Window<'_>) -> Option<Self> {
        let plain = window.histograms.is_empty() && window.starts.is_empty();
        if !plain || window.drops.is_none_or(|drops| !drops.is_empty()) {
            return None;
        }
        let (first, last) = (*window.floats.first()?, *window.floats.last()?);
        let increase = last - first;
        // Else the distance to zero counts too.
        (increase >= 0.0 && first >= 2.0 * increase).then_some(Self {
            first_after_ms: window.times.first()? - window.start_ms,
            last_before_ms: window.end_ms - window.times.last()?,
            samples: window.len(),
            increase: increase.to_bits(),
        })
    }
}

/// The value of the newest window, for others of its shape.
#[derive(Default)]
struct Steady {
    shape: Option<Shape>,
    value: f64,
}

/// The sum of a window that only grew since the last step continues from the previous sum, in the
/// same order as from the start.
#[derive(Default)]
struct RunningSum {
    from: usize,
    to: usize,
    sum: f64,
    lost: f64,
}

impl RunningSum {
    fn follow(&mut self, window: Window<'_>) -> Option<f64> {
        if window.gap.is_some() || !window.histograms.is_empty() {
            return None;
        }
        let to = window.from + window.len();
        let grown = window.from == self.from && self.to > self.from && self.to <= to;
        let mut fresh = window.floats;
        if grown {
            fresh = &window.floats[self.to - self.from..];
        } else if let Some((sum, lost)) =
            window.cut().and_then(|cut| crate::blocks::sum(window.floats, cut))
        {
            (self.sum, self.lost, fresh) = (sum, lost, &[]);
        } else {
            (self.sum, self.lost) = (0.0, 0.0);
        }
        for v in fresh {
            (self.sum, self.lost) = kahan_add(*v, self.sum, self.lost);
        }
        (self.from, self.to) = (window.from, to);
        Some(self.sum + self.lost)
    }
}

/// The value of a function over one window, which holds at least one sample.
fn window_value(e: &mut Evaluator<'_>, site: Site<'_>, window: Window<'_>) -> Option<Value> {
    match site.name {
        "rate" => extrapolated(e, site, window, Extrapolation { counter: true, per_second: true }),
        "increase" => {
            extrapolated(e, site, window, Extrapolation { counter: true, per_second: false })
        }
        "delta" => {
            extrapolated(e, site, window, Extrapolation { counter: false, per_second: false })
        }
        "irate" => last_two(e, site, window, true),
        "idelta" => last_two(e, site, window, false),
        "sum_over_time" | "avg_over_time" => sum_or_avg(e, site, window),
        "count_over_time" => Some(Value::Float(window.count() as f64)),
        "present_over_time" => Some(Value::Float(1.0)),
        "last_over_time" => Some(window.value(window.len() - 1)),
        "first_over_time" => Some(window.value(0)),
        "ts_of_last_over_time" => window.times.last().copied().map(seconds),
        "ts_of_first_over_time" => window.times.first().copied().map(seconds),
        "changes" => Some(Value::Float(changes(window))),
        "resets" => Some(Value::Float(resets(e, site, window))),
        _ => float_value(e, site, window),
    }
}

fn check_factors(factors: [f64; 2]) -> Result<(), QueryError> {
    for (factor, what, sign) in [(factors[0], "smoothing", "sf"), (factors[1], "trend", "tf")] {
        if factor <= 0.0 || factor >= 1.0 {
            let reason =
                format!("invalid {what} factor. Expected: 0 < {sign} < 1, got: {factor:.6}");
            return Err(QueryError::Execution(reason));
        }
    }
    Ok(())
}

fn seconds(t_ms: i64) -> Value {
    Value::Float(t_ms as f64 / 1000.0)
}

/// Functions that see floats only; histograms beside them are noted.
fn float_value(e: &mut Evaluator<'_>, site: Site<'_>, window: Window<'_>) -> Option<Value> {
    let histograms = window.histogram_count();
    let floats = window.len() - histograms;
    let needed = if matches!(site.name, "deriv" | "predict_linear" | "double_exponential_smoothing")
    {
        2
    } else {
        1
    };
    if histograms > 0 && floats > 0 {
        let text = format!(
            "ignored histograms in a range containing both floats and histograms for metric name {:?}",
            site.metric
        );
        e.annotations.info(site.span, &text);
    }
    if floats < needed {
        return None;
    }
    let mut points = window.float_points();
    let all = || window.float_points().map(|(_, v)| v);
    let value = match site.name {
        "min_over_time" => extreme(window, |a, b| a < b)?.1,
        "max_over_time" => extreme(window, |a, b| a > b)?.1,
        "ts_of_min_over_time" => extreme(window, |a, b| a <= b)?.0 as f64 / 1000.0,
        "ts_of_max_over_time" => extreme(window, |a, b| a >= b)?.0 as f64 / 1000.0,
        "quantile_over_time" => {
            let q = site.params[0];
            if !(0.0..=1.0).contains(&q) {
                let text =
                    format!("quantile value should be between 0 and 1, got {}", format_general(q));
                e.annotations.warn(site.span, &text);
            }
            quantile(q, all().collect())
        }
        "stddev_over_time" => variance(all()).sqrt(),
        "stdvar_over_time" => variance(all()),
        "mad_over_time" if all().any(f64::is_nan) => f64::NAN,
        "mad_over_time" => {
            let median = quantile(0.5, all().collect());
            quantile(0.5, all().map(|v| (v - median).abs()).collect())
        }
        "deriv" => {
            let (first, _) = points.next()?;
            regression(window.float_points(), first).0
        }
        "predict_linear" => {
            let (slope, intercept) = regression(window.float_points(), site.step_ms);
            slope * site.params[0] + intercept
        }
        "double_exponential_smoothing" => smoothing(all(), site.params),
        _ => return None,
    };
    Some(Value::Float(value))
}

/// The sample that beats all others; NaN only if there is nothing else.
fn extreme(window: Window<'_>, beats: impl Fn(f64, f64) -> bool) -> Option<(i64, f64)> {
    let mut points = window.float_points();
    let first = points.next()?;
    Some(points.fold(
        first,
        |best, point| {
            if beats(point.1, best.1) || best.1.is_nan() { point } else { best }
        },
    ))
}

fn variance(values: impl Iterator<Item = f64>) -> f64 {
    let mut count = 0.0;
    let (mut mean, mut mean_lost) = (0.0, 0.0);
    let (mut squares, mut squares_lost) = (0.0, 0.0);
    for v in values {
        count += 1.0;
        let delta = v - (mean + mean_lost);
        (mean, mean_lost) = kahan_add(delta / count, mean, mean_lost);
        (squares, squares_lost) =
            kahan_add(delta * (v - (mean + mean_lost)), squares, squares_lost);
    }
    (squares + squares_lost) / count
}

fn smoothing(mut values: impl Iterator<Item = f64>, [sf, tf]: [f64; 2]) -> f64 {
    let (Some(first), Some(second)) = (values.next(), values.next()) else { return f64::NAN };
    let mut trend = second - first;
    let mut smooth = first;
    let mut previous = 0.0;
    for (i, v) in [second].into_iter().chain(values).enumerate() {
        let scaled = sf * v;
        if i > 0 {
            trend = tf * (smooth - previous) + (1.0 - tf) * trend;
        }
        let carried = (1.0 - sf) * (smooth + trend);
        previous = smooth;
        smooth = scaled + carried;
    }
    smooth
}

fn sum_or_avg(e: &mut Evaluator<'_>, site: Site<'_>, window: Window<'_>) -> Option<Value> {
    let average = site.name == "avg_over_time";
    let histograms = window.histogram_count();
    if histograms == 0 {
        if let Some((sum, lost)) = window.cut().and_then(|c| crate::blocks::sum(window.floats, c)) {
            let count = window.count() as f64;
            return Some(Value::Float(if average {
                sum / count + lost / count
            } else {
                sum + lost
            }));
        }
        return Some(Value::Float(if average {
            let mut mean = Mean::default();
            window.floats.iter().for_each(|v| mean.add(*v));
            mean.finish()
        } else {
            let (sum, lost) =
                window.floats.iter().fold((0.0, 0.0), |(sum, lost), v| kahan_add(*v, sum, lost));
            sum + lost
        }));
    }
    if histograms < window.len() {
        mixed(e, site);
        return None;
    }
    let mut mean = HistogramMean::new(average);
    let (mut saw_reset, mut saw_none) = (false, false);
    for h in window.histogram_values() {
        saw_reset |= h.reset == crate::histogram::ResetHint::Reset;
        saw_none |= h.reset == crate::histogram::ResetHint::NotReset;
        if let Ok(mut merge) = mean.add(h) {
            merge.reset_collision = false;
            note_merge(merge, "aggregation", site.span, &mut e.annotations);
        } else {
            mixed_schemas(e, site);
            return None;
        }
    }
    if saw_reset && saw_none {
        let text = "conflicting counter resets during histogram aggregation";
        e.annotations.warn(site.span, text);
    }
    mean.finish().map(Value::from)
}

/// Notes a window with both floats and histograms.
pub(super) fn mixed(e: &mut Evaluator<'_>, site: Site<'_>) {
    let text =
        format!("encountered a mix of histograms and floats for metric name {:?}", site.metric);
    e.annotations.warn(site.span, &text);
}

/// Notes a window with both kinds of bucket schemas.
pub(super) fn mixed_schemas(e: &mut Evaluator<'_>, site: Site<'_>) {
    let text = format!(
        "vector contains a mix of histograms with exponential and custom buckets schemas for metric name {:?}",
        site.metric
    );
    e.annotations.warn(site.span, &text);
}

pub(super) fn changes(window: Window<'_>) -> f64 {
    let changed = |i: &usize| match (window.histogram(i - 1), window.histogram(*i)) {
        (None, None) => {
            let (a, b) = (window.floats[i - 1], window.floats[*i]);
            a != b && !(a.is_nan() && b.is_nan())
        }
        (Some(a), Some(b)) => !Arc::ptr_eq(a, b) && !a.same_as(b),
        _ => true,
    };
    (1..window.len()).filter(changed).count() as f64
}

pub(super) fn resets(e: &mut Evaluator<'_>, _site: Site<'_>, window: Window<'_>) -> f64 {
    let starts = e.options.start_timestamps;
    let reset = |i: &usize| {
        if starts && super::rate::restarted(window, *i) {
            return true;
        }
        match (window.histogram(i - 1), window.histogram(*i)) {
            (None, None) => window.floats[*i] < window.floats[i - 1],
            (Some(a), Some(b)) => b.is_reset_after(a),
            _ => true,
        }
    };
    (1..window.len()).filter(reset).count() as f64
}
