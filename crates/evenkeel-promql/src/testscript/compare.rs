//! Results against expectations.

use super::command::{Eval, Notices};
use super::notation::Noted;
use crate::histogram::{Buckets, Histogram};
use crate::labels::Labels;
use crate::number::{format_float, is_stale};
use crate::result::{QueryResult, QueryValue, VectorSample};
use crate::sample::{Point, Value};
use std::collections::BTreeMap;

/// Relative difference that counts as equal.
const EPSILON: f64 = 1e-6;

pub(super) fn annotations(eval: &Eval, result: &QueryResult) -> Result<(), String> {
    for (name, wanted, got) in
        [("warn", &eval.warn, result.warnings()), ("info", &eval.info, result.infos())]
    {
        notices(name, wanted, &got)?;
    }
    Ok(())
}

fn notices(name: &str, wanted: &Notices, got: &[String]) -> Result<(), String> {
    if wanted.none && !got.is_empty() {
        return Err(format!("expected no {name}, got {got:?}"));
    }
    if wanted.any && got.is_empty() {
        return Err(format!("expected a {name}, got none"));
    }
    for pattern in &wanted.some {
        if !got.iter().any(|text| pattern.matches(text)) {
            return Err(format!("expected {name} {:?}, got {got:?}", pattern.as_text()));
        }
    }
    if let Some(extra) =
        got.iter().find(|text| !wanted.some.iter().any(|pattern| pattern.matches(text)))
        && !wanted.some.is_empty()
    {
        return Err(format!("unexpected {name} {extra:?}"));
    }
    Ok(())
}

pub(super) fn failure(eval: &Eval, error: &str) -> Result<(), String> {
    match eval.fail.iter().find(|pattern| !pattern.matches(error)) {
        None => Ok(()),
        Some(pattern) => Err(format!("expected failure {:?}, got {error:?}", pattern.as_text())),
    }
}

pub(super) fn value(eval: &Eval, value: &QueryValue) -> Result<(), String> {
    match value {
        QueryValue::Scalar { value, .. } => match eval.expected.scalar {
            Some(wanted) if near(wanted, *value) => Ok(()),
            Some(wanted) => Err(format!("expected {wanted}, got {value}")),
            None => Err(format!("expected no scalar, got {value}")),
        },
        QueryValue::Text { text, .. } => match &eval.expected.text {
            Some(wanted) if wanted == text => Ok(()),
            wanted => Err(format!("expected text {wanted:?}, got {text:?}")),
        },
        QueryValue::Vector(samples) => vector(eval, samples),
        QueryValue::Matrix(series) => {
            let times = match (eval.when, eval.expected.times) {
                (_, Some((from, _, step))) => (from, step),
                (super::command::When::Range { start_ms, step_ms, .. }, None) => {
                    (start_ms, step_ms)
                }
                (super::command::When::At(_), None) => {
                    return Err("got a range vector, expected none".to_owned());
                }
            };
            let got: Vec<(&Labels, &[Point])> =
                series.iter().map(|s| (&s.labels, s.points.as_slice())).collect();
            matrix(eval, &got, times)
        }
    }
}

fn vector(eval: &Eval, samples: &[VectorSample]) -> Result<(), String> {
    if let Some(wanted) = eval.expected.scalar {
        return Err(format!("expected scalar {wanted}, got a vector"));
    }
    if eval.expected.text.is_some() {
        return Err("expected a string, got a vector".to_owned());
    }
    let mut wanted: BTreeMap<&Labels, (usize, &Noted)> = BTreeMap::new();
    for (i, line) in eval.expected.series.iter().enumerate() {
        let [point] = line.points.as_slice() else {
            return Err(format!("{}: expected one point", line.labels));
        };
        wanted.insert(&line.labels, (i, point));
    }
    for (i, sample) in samples.iter().enumerate() {
        let Some((position, point)) = wanted.remove(&sample.labels) else {
            return Err(format!("unexpected {} = {}", sample.labels, show(&sample.value)));
        };
        if eval.ordered && position != i {
            return Err(format!("{} is at position {i}, expected {position}", sample.labels));
        }
        same(point, &sample.value).map_err(|e| format!("{}: {e}", sample.labels))?;
    }
    match wanted.keys().next() {
        Some(labels) => Err(format!("missing {labels}")),
        None => Ok(()),
    }
}

fn matrix(
    eval: &Eval,
    got: &[(&Labels, &[Point])],
    (start_ms, step_ms): (i64, i64),
) -> Result<(), String> {
    let mut wanted: BTreeMap<&Labels, &[Noted]> =
        eval.expected.series.iter().map(|l| (&l.labels, l.points.as_slice())).collect();
    for (labels, points) in got {
        let Some(noted) = wanted.remove(labels) else {
            return Err(format!("unexpected series {labels}"));
        };
        let mut points = points.iter().peekable();
        for (i, noted) in noted.iter().enumerate() {
            let t_ms = start_ms.saturating_add(step_ms.saturating_mul(i as i64));
            let point = points.next_if(|p| p.t_ms == t_ms);
            match (&noted.value, point) {
                (None, None) => {}
                (Some(_), Some(point)) => {
                    same(noted, &point.value).map_err(|e| format!("{labels} at {t_ms} ms: {e}"))?;
                }
                (None, Some(point)) => {
                    let shown = show(&point.value);
                    return Err(format!("{labels}: unexpected {shown} at {t_ms} ms"));
                }
                (Some(value), None) => {
                    return Err(format!("{labels}: missing {} at {t_ms} ms", show(value)));
                }
            }
        }
        if let Some(point) = points.next() {
            let shown = show(&point.value);
            return Err(format!("{labels}: unexpected {shown} at {} ms", point.t_ms));
        }
    }
    let missing = wanted.iter().find(|(_, noted)| noted.iter().any(|n| n.value.is_some()));
    match missing {
        Some((labels, _)) => Err(format!("missing series {labels}")),
        None => Ok(()),
    }
}

fn same(wanted: &Noted, got: &Value) -> Result<(), String> {
    let equal = match (&wanted.value, got) {
        (Some(Value::Float(a)), Value::Float(b)) => near(*a, *b),
        (Some(Value::Histogram(a)), Value::Histogram(b)) => {
            near_histogram(a, b) && (!wanted.hint_given || a.reset == b.reset)
        }
        _ => false,
    };
    if equal {
        return Ok(());
    }
    let wanted_text = wanted.value.as_ref().map_or("nothing".to_owned(), show);
    Err(format!("expected {wanted_text}, got {}", show(got)))
}

fn show(value: &Value) -> String {
    match value {
        Value::Float(v) => format_float(*v),
        Value::Histogram(h) => {
            format!(
                "{} schema {} reset {:?} bounds {:?}",
                h.to_text(),
                h.schema,
                h.reset,
                h.custom_bounds
            )
        }
    }
}

/// Equal within the tolerance of upstream's runner.
pub(crate) fn near(a: f64, b: f64) -> bool {
    if is_stale(a) || is_stale(b) {
        return is_stale(a) && is_stale(b);
    }
    if a == b || (a.is_nan() && b.is_nan()) {
        return true;
    }
    let sum = a.abs() + b.abs();
    let difference = (a - b).abs();
    if a == 0.0 || b == 0.0 || sum < f64::MIN_POSITIVE {
        return difference < EPSILON * f64::MIN_POSITIVE;
    }
    difference / sum.min(f64::MAX) < EPSILON
}

/// Histograms equal within the tolerance.
pub(crate) fn near_histogram(a: &Histogram, b: &Histogram) -> bool {
    a.schema == b.schema
        && near(a.count, b.count)
        && near(a.sum, b.sum)
        && (a.is_custom()
            || (a.zero_threshold == b.zero_threshold && near(a.zero_count, b.zero_count)))
        && a.custom_bounds == b.custom_bounds
        && near_buckets(&a.positive, &b.positive)
        && near_buckets(&a.negative, &b.negative)
}

fn near_buckets(a: &Buckets, b: &Buckets) -> bool {
    let populated = |x: &Buckets| x.iter().filter(|x| x.1 != 0.0).copied().collect::<Vec<_>>();
    let (a, b) = (populated(a), populated(b));
    a.len() == b.len() && a.iter().zip(&b).all(|(x, y)| x.0 == y.0 && near(x.1, y.1))
}
