//! Interpolation of samples around a time, and increases of native histograms over anchored and
//! smoothed ranges.

use super::eval::Evaluator;
use super::range_calls::{Site, mixed, mixed_schemas};
use super::window::Window;
use crate::ast::Span;
use crate::histogram::{Histogram, HistogramError, ResetHint};
use crate::sample::Value;
use crate::storage::Samples;

/// The value at a time, between the samples before and after it; the one before if none follows.
pub(super) fn value_at(
    e: &mut Evaluator<'_>,
    samples: &Samples<'_>,
    t_ms: i64,
    (metric, span): (&str, Span),
) -> Option<Value> {
    let lookback = e.options.lookback_ms;
    let after = samples.times.partition_point(|t| *t <= t_ms);
    let before = after
        .checked_sub(1)
        .filter(|b| !e.left_of(samples.times[*b], t_ms.saturating_sub(lookback)));
    let after = Some(after)
        .filter(|a| samples.times.get(*a).is_some_and(|t| *t <= t_ms.saturating_add(lookback)));
    let site = Site { name: "", metric, span, range_ms: 0, step_ms: t_ms, params: [0.0; 2] };
    let (Some(before), Some(after)) = (before, after) else {
        return before.map(|b| samples.value(b));
    };
    let (from, to) = (samples.value(before), samples.value(after));
    let (t_from, t_to) = (samples.times[before], samples.times[after]);
    let share = t_ms.saturating_sub(t_from) as f64 / (t_to - t_from) as f64;
    match (&from, &to) {
        (Value::Float(low), Value::Float(high)) => {
            Some(Value::Float(if t_from == t_ms { *low } else { low + (high - low) * share }))
        }
        (Value::Histogram(low), Value::Histogram(high)) => {
            if t_from == t_ms {
                return Some(from);
            }
            let counter = low.reset != ResetHint::Gauge;
            if let Ok(h) = between(low, high, share, counter) {
                return Some(h.into());
            }
            mixed_schemas(e, site);
            None
        }
        _ => {
            mixed(e, site);
            None
        }
    }
}

/// The histogram at a share of the way; a counter that was reset starts from zero.
fn between(
    a: &Histogram,
    b: &Histogram,
    share: f64,
    counter: bool,
) -> Result<Histogram, HistogramError> {
    if a.is_custom() != b.is_custom() {
        return Err(HistogramError::IncompatibleSchema);
    }
    if counter && b.is_reset_after(a) {
        let mut out = b.clone();
        out.mul(share);
        return Ok(out);
    }
    let mut out = b.clone();
    out.sub(a)?;
    out.mul(share);
    out.add(a)?;
    out.reset = if counter { ResetHint::Unknown } else { ResetHint::Gauge };
    Ok(out)
}

/// Increase of a native histogram between the bounds of a range.
pub(super) fn histogram_increase(
    e: &mut Evaluator<'_>,
    site: Site<'_>,
    taken: Window<'_>,
    (smoothed, counter): (bool, bool),
) -> Option<Histogram> {
    note_hints(e, site, taken, counter);
    let increase = increase(taken, smoothed, counter);
    if increase.is_err() {
        mixed_schemas(e, site);
    }
    increase.ok().flatten()
}

fn note_hints(e: &mut Evaluator<'_>, site: Site<'_>, taken: Window<'_>, counter: bool) {
    let gauge = |h: &Histogram| h.reset == ResetHint::Gauge;
    let last = taken.len() - 1;
    let kind = if counter {
        taken.histogram_values().any(|h| gauge(h)).then_some("counter")
    } else {
        let ends = [taken.histogram(0), taken.histogram(last)];
        ends.iter().flatten().any(|h| !gauge(h)).then_some("gauge")
    };
    if let Some(kind) = kind {
        let text = format!("this native histogram metric is not a {kind}: {:?}", site.metric);
        e.annotations.warn(site.span, &text);
    }
}

fn increase(
    taken: Window<'_>,
    smoothed: bool,
    counter: bool,
) -> Result<Option<Histogram>, HistogramError> {
    let all: Vec<&Histogram> = taken.histogram_values().map(AsRef::as_ref).collect();
    let (Some(first), Some(last)) = (all.first(), all.last()) else { return Ok(None) };
    let end = all.len() - 1;
    let share = |at: usize, t_ms: i64| {
        (t_ms - taken.times[at]) as f64 / (taken.times[at + 1] - taken.times[at]) as f64
    };
    let left_moved = smoothed && end > 0 && taken.times[0] < taken.start_ms;
    let right_moved = smoothed && end > 0 && taken.times[end] > taken.end_ms;
    let left = if left_moved {
        between(first, all[1], share(0, taken.start_ms), counter)?
    } else {
        Histogram::clone(first)
    };
    let right = if right_moved {
        between(all[end - 1], last, share(end - 1, taken.end_ms), counter)?
    } else {
        Histogram::clone(last)
    };
    let mut result = right.clone();
    result.sub(&left)?;
    if counter {
        // A reset that the left bound was interpolated across is accounted for already.
        let mut previous = &left;
        for (i, h) in all.iter().enumerate().skip(1) {
            let now = if i == end { &right } else { *h };
            let across = i == 1 && left_moved && all[1].is_reset_after(first);
            let reset = if i == end && right_moved {
                all[end].is_reset_after(all[end - 1])
            } else {
                h.is_reset_after(all[i - 1])
            };
            if reset && !across {
                result.add(previous)?;
            }
            previous = now;
        }
    }
    result.reset = ResetHint::Gauge;
    result.compact();
    Ok(Some(result))
}
