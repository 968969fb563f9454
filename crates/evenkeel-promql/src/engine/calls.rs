//! Function calls.

use super::QueryError;
use super::eval::{Cursors, Data, Evaluator, Series, is_invariant};
use super::lengths::step_seconds;
use super::math::{round_to, unary};
use crate::ast::{Expr, ExprKind, Span, ValueType};
use crate::labels::Labels;
use crate::matcher::MatchOp;
use crate::sample::{Point, Value};
use std::cmp::Ordering;

impl Evaluator<'_> {
    pub(super) fn call(
        &mut self,
        name: &'static str,
        args: &[Expr],
        span: Span,
    ) -> Result<Data, QueryError> {
        if let Some(apply) = unary(name) {
            let series = self.vector(&args[0])?;
            let float = |value: Value| value.as_float().map(|v| Value::Float(apply(v)));
            return self.checked(self.map(series, float));
        }
        if args.iter().any(|a| a.value_type() == ValueType::Matrix) {
            return self.range_call(name, args).map(Data::Vector);
        }
        match name {
            "time" | "pi" | "start" | "end" | "step" | "range" | "min_of" | "max_of" => {
                self.scalar_call(name, args)
            }
            "vector" => {
                let values = self.eval(&args[0])?;
                Ok(Data::Vector(self.as_vector(values)))
            }
            "scalar" => self.single_value(&args[0]),
            "clamp" | "clamp_min" | "clamp_max" | "round" => self.clamp(name, args),
            "absent" => self.absent(&args[0]),
            "sort" | "sort_desc" => self.sort(name == "sort_desc", &args[0], span),
            "sort_by_label" | "sort_by_label_desc" => self.sort_by_label(name, args, span),
            "label_replace" => self.label_replace(args),
            "label_join" => self.label_join(args),
            "info" => self.info(args),
            "timestamp" | "start_timestamp" => self.sample_time(name, &args[0]),
            "histogram_count" | "histogram_sum" | "histogram_avg" | "histogram_stddev"
            | "histogram_stdvar" => {
                let plain = matches!(name, "histogram_count" | "histogram_sum" | "histogram_avg");
                let series = self.with_statistics(plain, |e| e.vector(&args[0]))?;
                self.checked(self.map(series, |value| {
                    value.as_histogram().map(|h| Value::Float(h.statistic(name)))
                }))
            }
            "histogram_quantile" => self.with_statistics(false, |e| e.histogram_quantile(args)),
            "histogram_quantiles" => self.with_statistics(false, |e| e.histogram_quantiles(args)),
            "histogram_fraction" => self.with_statistics(false, |e| e.histogram_fraction(args)),
            _ => self.calendar(name, args),
        }
    }

    /// Without delayed removal of names, label sets that clash are found at once.
    pub(super) fn checked(&mut self, series: Vec<Series>) -> Result<Data, QueryError> {
        if !self.options.delayed_name_removal {
            super::eval::check_distinct(&series)?;
        }
        self.charge(series.iter().map(|s| s.points.len()).sum())?;
        Ok(Data::Vector(series))
    }

    fn scalar_call(&mut self, name: &str, args: &[Expr]) -> Result<Data, QueryError> {
        let outer = self.outer;
        let all = |value: f64| Ok(Data::Scalar(vec![value; self.steps.count()]));
        match name {
            "time" => Ok(Data::Scalar(self.steps.times().map(|t| t as f64 / 1000.0).collect())),
            "pi" => all(std::f64::consts::PI),
            "start" => all(outer.start_ms as f64 / 1000.0),
            "end" => all(outer.end_ms as f64 / 1000.0),
            "step" => all(step_seconds(outer)),
            "range" => all(outer.end_ms.saturating_sub(outer.start_ms) as f64 / 1000.0),
            _ => {
                let (l, r) = (self.scalar(&args[0])?, self.scalar(&args[1])?);
                let pick = if name == "min_of" { go_min } else { go_max };
                Ok(Data::Scalar(l.iter().zip(&r).map(|(l, r)| pick(*l, *r)).collect()))
            }
        }
    }

    fn single_value(&mut self, arg: &Expr) -> Result<Data, QueryError> {
        let series = self.vector(arg)?;
        let mut cursors = Cursors::new(series.len());
        let mut out = Vec::with_capacity(self.steps.count());
        for t_ms in self.steps.times() {
            let mut floats = (0..series.len())
                .filter_map(|i| cursors.value(&series, i, t_ms).and_then(Value::as_float));
            let first = floats.next();
            out.push(match (first, floats.next()) {
                (Some(value), None) => value,
                _ => f64::NAN,
            });
        }
        Ok(Data::Scalar(out))
    }

    fn clamp(&mut self, name: &str, args: &[Expr]) -> Result<Data, QueryError> {
        let series = self.vector(&args[0])?;
        let first = match args.get(1) {
            Some(arg) => self.scalar(arg)?,
            None => vec![1.0; self.steps.count()],
        };
        let second = match args.get(2) {
            Some(arg) => self.scalar(arg)?,
            None => Vec::new(),
        };
        let (start, step) = (self.steps.start_ms, self.steps.step_ms);
        let mut out = Vec::new();
        for one in series {
            let (labels, drop_name) = self.unnamed(one.labels);
            let mut points = Vec::with_capacity(one.points.len());
            for point in one.points {
                let Some(v) = point.value.as_float() else { continue };
                let at = ((point.t_ms - start) / step.max(1)) as usize;
                let a = first.get(at).copied().unwrap_or(f64::NAN);
                let value = match name {
                    "clamp_min" => go_max(v, a),
                    "clamp_max" => go_min(v, a),
                    "round" => round_to(v, a),
                    _ => {
                        let b = second.get(at).copied().unwrap_or(f64::NAN);
                        if b < a {
                            continue;
                        }
                        go_max(a, go_min(b, v))
                    }
                };
                points.push(Point { t_ms: point.t_ms, value: value.into() });
            }
            if !points.is_empty() {
                out.push(Series { labels, drop_name, points });
            }
        }
        self.checked(out)
    }

    fn absent(&mut self, arg: &Expr) -> Result<Data, QueryError> {
        let series = self.vector(arg)?;
        let mut cursors = Cursors::new(series.len());
        let mut points = Vec::new();
        for t_ms in self.steps.times() {
            if (0..series.len()).all(|i| cursors.value(&series, i, t_ms).is_none()) {
                points.push(Point { t_ms, value: Value::Float(1.0) });
            }
        }
        Ok(Data::Vector(vec![Series { labels: absent_labels(arg), drop_name: false, points }]))
    }

    /// Says that sorting does nothing to a range query, even to one with a single step.
    pub(super) fn note_sort(&mut self, arg: &Expr, span: Span) {
        if self.steps.start_ms == self.steps.end_ms || is_invariant(arg) {
            return;
        }
        let text =
            "sort is ineffective for range queries since results are always ordered by labels";
        self.annotations.warn(span, text);
    }

    fn sort(&mut self, descending: bool, arg: &Expr, span: Span) -> Result<Data, QueryError> {
        let mut series = self.vector(arg)?;
        for one in &mut series {
            one.points.retain(|p| p.value.as_float().is_some());
        }
        series.retain(|one| !one.points.is_empty());
        if self.steps.count() == 1 {
            let key = |s: &Series| s.points.first().and_then(|p| p.value.as_float());
            series.sort_by(|a, b| {
                let (a, b) = (key(a).unwrap_or(f64::NAN), key(b).unwrap_or(f64::NAN));
                match (a.is_nan(), b.is_nan()) {
                    (false, false) if descending => b.partial_cmp(&a).unwrap_or(Ordering::Equal),
                    (false, false) => a.partial_cmp(&b).unwrap_or(Ordering::Equal),
                    // NaN goes to the end either way.
                    (a_nan, b_nan) => a_nan.cmp(&b_nan),
                }
            });
        }
        self.note_sort(arg, span);
        Ok(Data::Vector(series))
    }

    fn sample_time(&mut self, name: &str, arg: &Expr) -> Result<Data, QueryError> {
        let start = name == "start_timestamp";
        if let ExprKind::Selector(selector) = &arg.unwrapped().kind {
            let series =
                if start { self.picked_starts(selector)? } else { self.picked_times(selector)? };
            return self.checked(self.map(series, Some));
        }
        let mut series = self.vector(arg)?;
        if start {
            return Ok(Data::Vector(Vec::new()));
        }
        for point in series.iter_mut().flat_map(|s| &mut s.points) {
            point.value = Value::Float(point.t_ms as f64 / 1000.0);
        }
        self.checked(self.map(series, Some))
    }
}

/// Labels that an absent vector would have had: those its selector fixes to one value.
pub(super) fn absent_labels(arg: &Expr) -> Labels {
    let arg = arg.unwrapped();
    let (ExprKind::Selector(selector) | ExprKind::Range { selector, .. }) = &arg.kind else {
        return Labels::empty();
    };
    let mut labels = Labels::empty();
    let mut seen: Vec<&str> = Vec::new();
    for matcher in &selector.matchers {
        let name = &*matcher.name;
        if name == crate::labels::METRIC_NAME {
            continue;
        }
        // As upstream: a second matcher spoils the first, but for an `=` behind an `=~`.
        if matcher.op == MatchOp::Equal && !seen.contains(&name) {
            labels = labels.with(name, &matcher.value);
            seen.push(name);
        } else {
            labels = labels.drop(&[name]);
            if matcher.op != MatchOp::Regex {
                seen.push(name);
            }
        }
    }
    labels
}

/// As Go's `math.Max`: NaN wins over all but +Inf.
fn go_max(a: f64, b: f64) -> f64 {
    if a == f64::INFINITY || b == f64::INFINITY {
        return f64::INFINITY;
    }
    if a.is_nan() || b.is_nan() { f64::NAN } else { a.max(b) }
}

/// As Go's `math.Min`: NaN wins over all but -Inf.
fn go_min(a: f64, b: f64) -> f64 {
    if a == f64::NEG_INFINITY || b == f64::NEG_INFINITY {
        return f64::NEG_INFINITY;
    }
    if a.is_nan() || b.is_nan() { f64::NAN } else { a.min(b) }
}
