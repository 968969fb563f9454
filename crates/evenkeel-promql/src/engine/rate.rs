//! Rates: extrapolated, instantaneous, anchored and smoothed.

use super::QueryError;
use super::binary_element::note_merge;
use super::eval::{Evaluator, Series};
use super::range_calls::{Site, changes, mixed, mixed_schemas, resets};
use super::window::{RangeSeries, RangeSource, Window};
use crate::ast::{Extension, Selector, Span};
use crate::histogram::{Histogram, Merge, ResetHint};
use crate::sample::{Point, Value};
use crate::storage::Samples;
use std::cmp::Ordering;
use std::sync::Arc;

/// Which of rate, increase and delta.
#[derive(Clone, Copy)]
pub(super) struct Extrapolation {
    pub(super) counter: bool,
    pub(super) per_second: bool,
}

/// Start time of a sample, if it is one at all: known and before the sample.
fn start_of(window: Window<'_>, at: usize) -> Option<i64> {
    window.starts.get(at).copied().filter(|start| *start != 0 && *start < window.times[at])
}

/// Whether a counter's start time says that it restarted after the sample before.
pub(super) fn restarted(window: Window<'_>, at: usize) -> bool {
    let Some(start) = start_of(window, at) else { return false };
    match start.cmp(&window.times[at - 1]) {
        Ordering::Greater => true,
        // Back to back: only if the one before had a start of its own.
        Ordering::Equal => start_of(window, at - 1).is_some(),
        Ordering::Less => false,
    }
}

/// Whether a start time lies before the sample before it, although it is a new one.
fn overlaps(window: Window<'_>, at: usize) -> bool {
    match (start_of(window, at), start_of(window, at - 1)) {
        (Some(now), Some(before)) => now > before && now < window.times[at - 1],
        _ => false,
    }
}

/// The start of the counter if it began inside the range.
fn began_inside(e: &mut Evaluator<'_>, site: Site<'_>, window: Window<'_>) -> Option<i64> {
    if window.starts.is_empty() || !e.options.start_timestamps {
        return None;
    }
    if (1..window.len()).any(|at| overlaps(window, at)) {
        let text = format!(
            "sample has start time that overlaps with previous sample timestamp for metric {:?}",
            site.metric
        );
        e.annotations.warn(site.span, &text);
    }
    start_of(window, 0).filter(|start| *start > window.start_ms)
}

/// `rate`, `increase`, `delta`. **Source**: `extrapolatedRate` in promql/functions.go.
pub(super) fn extrapolated(
    e: &mut Evaluator<'_>,
    site: Site<'_>,
    window: Window<'_>,
    kind: Extrapolation,
) -> Option<Value> {
    let histograms = window.histogram_count();
    if histograms > 0 && histograms < window.len() {
        mixed(e, site);
        return None;
    }
    let began = if kind.counter { began_inside(e, site, window) } else { None };
    if window.count() < 2 && began.is_none() {
        return None;
    }
    let window = if e.options.start_timestamps { window } else { Window { starts: &[], ..window } };
    let last = window.len() - 1;
    let gaps = window.count() - 1;
    let (result, first_value, increase) = if histograms > 0 {
        let h = histogram_rate(e, site, window, (kind.counter, began.is_some()))?;
        let (first, increase) = (window.histogram(0)?.count, h.count);
        (Value::from(h), first, increase)
    } else {
        let mut increase = float_increase(window, kind.counter);
        if began.is_some() {
            increase += window.floats[0];
        }
        (Value::Float(increase), window.floats[0], increase)
    };
    let first_ms = began.unwrap_or(window.times[0]);
    let sampled = (window.times[last] - first_ms) as f64 / 1000.0;
    let between = match gaps {
        0 => 0.0,
        gaps => (window.times[last] - window.times[0]) as f64 / 1000.0 / gaps as f64,
    };
    let threshold = between * 1.1;
    let mut to_start = first_ms.saturating_sub(window.start_ms) as f64 / 1000.0;
    if to_start >= threshold {
        to_start = between / 2.0;
    }
    // Otherwise zero lies farther back than the start can.
    let near_zero = began.is_some() || first_value < 2.0 * increase;
    if kind.counter && increase > 0.0 && first_value >= 0.0 && near_zero {
        // A counter cannot have been below zero.
        let to_zero = sampled * (first_value / increase);
        if to_zero < to_start {
            to_start = to_zero;
        }
    }
    if began.is_some() {
        to_start = 0.0;
    }
    let mut to_end = window.end_ms.saturating_sub(window.times[last]) as f64 / 1000.0;
    if to_end >= threshold {
        to_end = between / 2.0;
    }
    let mut factor = (sampled + to_start + to_end) / sampled;
    if kind.per_second {
        factor /= site.range_ms as f64 / 1000.0;
    }
    Some(match result {
        Value::Float(v) => Value::Float(v * factor),
        Value::Histogram(h) => {
            let mut h = Arc::unwrap_or_clone(h);
            h.mul(factor);
            h.into()
        }
    })
}

fn float_increase(window: Window<'_>, counter: bool) -> f64 {
    let floats = window.floats;
    let last = floats.len() - 1;
    let mut result = floats[last] - floats[0];
    if !counter {
        return result;
    }
    if let Some(drops) = window.drops.filter(|_| window.starts.is_empty()) {
        return drops.iter().fold(result, |sum, (_, before)| sum + before);
    }
    if let Some(cut) = window.cut() {
        return result + crate::blocks::dropped(floats, cut);
    }
    if window.starts.is_empty() {
        let mut previous = floats[0];
        for v in &floats[1..] {
            if *v < previous {
                result += previous;
            }
            previous = *v;
        }
        return result;
    }
    for at in 1..floats.len() {
        if floats[at] < floats[at - 1] || restarted(window, at) {
            result += floats[at - 1];
        }
    }
    result
}

fn not_counter(e: &mut Evaluator<'_>, site: Site<'_>) {
    let text = format!("this native histogram metric is not a counter: {:?}", site.metric);
    e.annotations.warn(site.span, &text);
}

fn not_gauge(e: &mut Evaluator<'_>, site: Site<'_>) {
    let text = format!("this native histogram metric is not a gauge: {:?}", site.metric);
    e.annotations.warn(site.span, &text);
}

fn note(e: &mut Evaluator<'_>, site: Site<'_>, merge: Merge, what: &str) {
    // Counter resets are dealt with explicitly here.
    let merge = Merge { reset_collision: false, ..merge };
    note_merge(merge, what, site.span, &mut e.annotations);
}

/// **Source**: `histogramRate` in promql/functions.go.
fn histogram_rate(
    e: &mut Evaluator<'_>,
    site: Site<'_>,
    window: Window<'_>,
    (counter, began): (bool, bool),
) -> Option<Histogram> {
    let all: Vec<&Arc<Histogram>> = window.histogram_values().collect();
    let (first, last) = (*all.first()?, *all.last()?);
    let is_gauge = |h: &Histogram| h.reset == ResetHint::Gauge;
    if counter && all.iter().any(|h| is_gauge(h)) {
        not_counter(e, site);
    }
    let empty;
    let mut previous: &Histogram = first;
    let reset = |at: usize| restarted(window, at) || all[at].is_reset_after(all[at - 1]);
    let from_zero = if began {
        Some(first)
    } else {
        // The first sample does not matter if the second is a restart, nor does its layout.
        all.get(1).copied().filter(|_| counter && reset(1))
    };
    if let Some(like) = from_zero {
        empty = Histogram {
            schema: like.schema,
            custom_bounds: like.custom_bounds.clone(),
            ..Histogram::default()
        };
        previous = &empty;
    }
    let custom = previous.is_custom();
    let inner = if counter { &all[1..] } else { &all[all.len() - 1..] };
    if inner.iter().any(|h| h.is_custom() != custom) {
        mixed_schemas(e, site);
        return None;
    }
    let schema = inner.iter().map(|h| h.schema).min().unwrap_or(last.schema).min(previous.schema);
    let mut result = Histogram::clone(last);
    result.reduce_to(schema);
    if let Ok(merge) = result.sub(previous) {
        note(e, site, merge, "subtraction");
    } else {
        mixed_schemas(e, site);
        return None;
    }
    if counter {
        for at in 1..all.len() {
            let nulled = at == 1 && from_zero.is_some() && !began;
            if !nulled && reset(at) {
                if let Ok(merge) = result.add(all[at - 1]) {
                    note(e, site, merge, "addition");
                } else {
                    mixed_schemas(e, site);
                    return None;
                }
            }
        }
    } else if !is_gauge(first) || !is_gauge(last) {
        not_gauge(e, site);
    }
    result.reset = ResetHint::Gauge;
    result.compact();
    Some(result)
}

/// `irate` and `idelta`. **Source**: `instantValue` in promql/functions.go.
pub(super) fn last_two(
    e: &mut Evaluator<'_>,
    site: Site<'_>,
    window: Window<'_>,
    rate: bool,
) -> Option<Value> {
    let last = window.len().checked_sub(1)?;
    let before = last.checked_sub(1)?;
    let interval = (window.times[last] - window.times[before]) as f64 / 1000.0;
    if interval == 0.0 {
        return None;
    }
    match (window.histogram(before), window.histogram(last)) {
        (None, None) => {
            let (a, b) = (window.floats[before], window.floats[last]);
            let reset = b < a || (e.options.start_timestamps && restarted(window, last));
            let delta = if rate && reset { b } else { b - a };
            Some(Value::Float(if rate { delta / interval } else { delta }))
        }
        (Some(a), Some(b)) => {
            let gauges = [a, b].iter().filter(|h| h.reset == ResetHint::Gauge).count();
            if rate && gauges > 0 {
                not_counter(e, site);
            }
            if !rate && gauges < 2 {
                not_gauge(e, site);
            }
            let mut result = Histogram::clone(b);
            let restarts = e.options.start_timestamps && restarted(window, last);
            if !rate || !(restarts || b.is_reset_after(a)) {
                if let Ok(merge) = result.sub(a) {
                    note(e, site, merge, "subtraction");
                } else {
                    mixed_schemas(e, site);
                    return None;
                }
            }
            result.reset = ResetHint::Gauge;
            result.compact();
            if rate {
                result.div(interval);
            }
            Some(result.into())
        }
        _ => {
            mixed(e, site);
            None
        }
    }
}

/// All samples from one lookback before the range to its end (or one lookback beyond, if smoothed).
pub(super) fn wide_window<'w>(
    e: &Evaluator<'_>,
    samples: &'w Samples<'_>,
    end_ms: i64,
    source: &RangeSource<'_>,
) -> Window<'w> {
    let start_ms = end_ms.saturating_sub(source.range_ms);
    let ahead = match source.extension {
        Some(Extension::Smoothed) => e.options.lookback_ms,
        _ => 0,
    };
    let left = start_ms.saturating_sub(e.options.lookback_ms);
    let from = samples.times.partition_point(|t| e.left_of(*t, left));
    let to = samples.times.partition_point(|t| *t <= end_ms.saturating_add(ahead)).max(from);
    Window {
        times: &samples.times[from..to],
        floats: &samples.floats[from..to],
        histograms: samples.histograms.get(from..to).unwrap_or_default(),
        starts: samples.starts.get(from..to).unwrap_or_default(),
        blocks: samples.blocks.map(|b| b.skip(from)),
        gap: None,
        from,
        drops: None,
        start_ms,
        end_ms,
    }
}

fn part(window: Window<'_>, from: usize, to: usize) -> Window<'_> {
    Window {
        times: &window.times[from..to],
        floats: &window.floats[from..to],
        histograms: window.histograms.get(from..to).unwrap_or_default(),
        starts: window.starts.get(from..to).unwrap_or_default(),
        blocks: window.blocks.map(|b| b.skip(from)),
        drops: None,
        ..window
    }
}

/// First and last sample that take part: the last one at or before the start, the first one at or
/// after the end.
fn ends(window: Window<'_>, extension: Extension) -> Option<(usize, usize)> {
    let count = window.len();
    let first = window.times.partition_point(|t| *t <= window.start_ms);
    let first = first.min(count - 1).saturating_sub(usize::from(first > 0 && first < count));
    let mut last = count - 1;
    if extension == Extension::Smoothed {
        last = window.times.partition_point(|t| *t < window.end_ms).min(count - 1);
    }
    let inside = window.times[last] > window.start_ms && window.times[first] <= window.end_ms;
    inside.then_some((first, last))
}

/// Functions over a range with the samples around it.
pub(super) fn extended_rate(
    e: &mut Evaluator<'_>,
    site: Site<'_>,
    window: Window<'_>,
    extension: Extension,
) -> Option<Value> {
    let (first, last) = ends(window, extension)?;
    let taken = part(window, first, last + 1);
    match site.name {
        "changes" => return Some(Value::Float(changes(taken))),
        "resets" => return Some(Value::Float(resets(e, site, taken))),
        _ => {}
    }
    let counter = site.name != "delta";
    let histograms = taken.histogram_count();
    if histograms > 0 && histograms < taken.len() {
        mixed(e, site);
        return None;
    }
    let smoothed = extension == Extension::Smoothed;
    let seconds = site.range_ms as f64 / 1000.0;
    if histograms > 0 {
        let mut h = super::extended::histogram_increase(e, site, taken, (smoothed, counter))?;
        if site.name == "rate" {
            h.div(seconds);
        }
        return Some(h.into());
    }
    let increase = float_extended(taken, smoothed, counter);
    Some(Value::Float(if site.name == "rate" { increase / seconds } else { increase }))
}

fn float_extended(taken: Window<'_>, smoothed: bool, counter: bool) -> f64 {
    let last = taken.len() - 1;
    let (left, right) = bounds(taken, smoothed, counter);
    if !counter {
        return right - left;
    }
    let from = usize::from(taken.times[0] <= taken.start_ms);
    let to = if taken.times[last] >= taken.end_ms { last } else { last + 1 };
    let mut increase = right - left;
    let mut previous = left;
    for v in taken.floats.get(from..to).unwrap_or_default().iter().chain([&right]) {
        if *v < previous {
            increase += previous;
        }
        previous = *v;
    }
    increase
}

/// Values at the ends of the range.
fn bounds(taken: Window<'_>, smoothed: bool, counter: bool) -> (f64, f64) {
    let last = taken.len() - 1;
    let mut left = taken.floats[0];
    if smoothed && taken.times[0] < taken.start_ms && last > 0 {
        left = interpolate(taken, 0, taken.start_ms, counter);
    }
    let mut right = taken.floats[last];
    if smoothed && last > 0 && taken.times[last] > taken.end_ms {
        right = interpolate(taken, last - 1, taken.end_ms, counter);
    }
    (left, right)
}

fn interpolate(window: Window<'_>, at: usize, t_ms: i64, counter: bool) -> f64 {
    let (mut a, b) = (window.floats[at], window.floats[at + 1]);
    if counter && b < a {
        a = 0.0;
    }
    let share = (t_ms - window.times[at]) as f64 / (window.times[at + 1] - window.times[at]) as f64;
    a + (b - a) * share
}

/// The points of an anchored or smoothed range as a result of its own.
pub(super) fn extended_points(
    e: &mut Evaluator<'_>,
    source: &RangeSource<'_>,
    series: &RangeSeries<'_>,
    extension: Extension,
) -> Result<Vec<Point>, QueryError> {
    let end_ms = source.window_end(e, e.steps.start_ms);
    let window = wide_window(e, &series.samples, end_ms, source);
    if window.is_empty() {
        return Ok(Vec::new());
    }
    let Some((first, last)) = ends(window, extension) else { return Ok(Vec::new()) };
    let taken = part(window, first, last + 1);
    if taken.histogram_count() > 0 {
        return Err(QueryError::Execution(format!(
            "{} modifier on native histograms can only be used inside a function",
            extension.as_str()
        )));
    }
    let (left, right) = bounds(taken, extension == Extension::Smoothed, false);
    let mut points = vec![Point { t_ms: window.start_ms, value: left.into() }];
    for (t_ms, v) in taken.float_points() {
        if t_ms > window.start_ms && t_ms < window.end_ms {
            points.push(Point { t_ms, value: v.into() });
        }
    }
    points.push(Point { t_ms: window.end_ms, value: right.into() });
    Ok(points)
}

/// `metric smoothed`: the value between the samples around each step.
pub(super) fn smoothed_selector(
    e: &mut Evaluator<'_>,
    selector: &Selector,
    span: Span,
) -> Result<Vec<Series>, QueryError> {
    let offset_ms = e.offset_ms(selector.offset.as_ref())?;
    let selected = e.selected(selector, offset_ms, e.options.lookback_ms)?;
    let mut out = Vec::with_capacity(selected.len());
    for one in selected {
        let samples = super::window::without_markers(one.samples);
        let mut points = Vec::new();
        for step_ms in e.steps.times() {
            let t_ms = e.reference_ms(selector.at, step_ms).saturating_sub(offset_ms);
            let value =
                super::extended::value_at(e, &samples, t_ms, (one.labels.metric_name(), span));
            points.extend(value.map(|value| Point { t_ms: step_ms, value }));
        }
        e.charge(points.len() + 1)?;
        if !points.is_empty() {
            out.push(Series { labels: one.labels, drop_name: false, points });
        }
    }
    Ok(out)
}
