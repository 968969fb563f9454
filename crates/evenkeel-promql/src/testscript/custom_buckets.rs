//! Classic histograms as native ones with custom buckets (`load_with_nhcb`).

use crate::histogram::{CUSTOM_SCHEMA, Histogram};
use crate::labels::{BUCKET_LABEL, Labels, METRIC_NAME};
use crate::number::{is_stale, parse_float};
use crate::sample::Value;
use std::collections::BTreeMap;

#[derive(Default)]
struct Classic {
    buckets: Vec<(f64, f64)>,
    count: Option<f64>,
    sum: f64,
}

/// The native histograms that a batch of classic series amounts to.
pub(super) fn convert<'s>(
    series: impl Iterator<Item = (&'s Labels, i64, &'s Value)>,
) -> Vec<(Labels, i64, Histogram)> {
    let mut found: BTreeMap<(Labels, i64), Classic> = BTreeMap::new();
    for (labels, t_ms, value) in series {
        let Some(v) = value.as_float() else { continue };
        if is_stale(v) {
            continue;
        }
        let name = labels.metric_name();
        let key = |suffix: &str| {
            let base = name.strip_suffix(suffix)?;
            Some((labels.drop(&[BUCKET_LABEL]).with(METRIC_NAME, base), t_ms))
        };
        if let (Some(key), Some(upper)) = (key("_bucket"), parse_float(labels.get(BUCKET_LABEL))) {
            found.entry(key).or_default().buckets.push((upper, v));
        } else if let Some(key) = key("_count") {
            found.entry(key).or_default().count = Some(v);
        } else if let Some(key) = key("_sum") {
            found.entry(key).or_default().sum = v;
        }
    }
    found
        .into_iter()
        .filter_map(|((labels, t_ms), classic)| Some((labels, t_ms, native(classic)?)))
        .collect()
}

fn native(mut classic: Classic) -> Option<Histogram> {
    if classic.buckets.is_empty() {
        return None;
    }
    classic.buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut h = Histogram { schema: CUSTOM_SCHEMA, sum: classic.sum, ..Histogram::default() };
    let mut below = 0.0;
    for (i, (upper, count)) in classic.buckets.iter().enumerate() {
        if *count < below {
            return None;
        }
        h.positive.push((i as i32, count - below));
        below = *count;
        if upper.is_finite() {
            h.custom_bounds.push(*upper);
        }
    }
    h.count = classic.count.unwrap_or(below);
    if h.custom_bounds.len() == classic.buckets.len() {
        if h.count < below {
            return None;
        }
        h.positive.push((classic.buckets.len() as i32, h.count - below));
    }
    h.compact();
    Some(h)
}
