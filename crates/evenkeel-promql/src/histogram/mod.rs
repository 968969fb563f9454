//! Native histograms with float counts: buckets, their bounds, and iteration over them.

mod arithmetic;
mod compare;
mod statistics;

pub use arithmetic::{HistogramError, Merge};

use crate::number::format_general;
use std::fmt::Write;

/// The schema number that stands for custom bucket bounds.
pub const CUSTOM_SCHEMA: i32 = -53;
/// The coarsest exponential schema.
pub const SCHEMA_MIN: i32 = -4;
/// The finest exponential schema.
pub const SCHEMA_MAX: i32 = 8;

/// What is known about a counter reset before a histogram sample.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ResetHint {
    /// Nothing.
    #[default]
    Unknown,
    /// There was a reset.
    Reset,
    /// There was none.
    NotReset,
    /// The histogram is a gauge.
    Gauge,
}

/// Populated buckets: index and count, sorted by index.
pub type Buckets = Vec<(i32, f64)>;

/// A native histogram.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Histogram {
    /// Resolution: bounds grow by the factor 2^(2^-schema); [`CUSTOM_SCHEMA`] for custom bounds.
    pub schema: i32,
    /// Number of observations.
    pub count: f64,
    /// Sum of observations.
    pub sum: f64,
    /// Observations in the zero bucket.
    pub zero_count: f64,
    /// Half width of the zero bucket.
    pub zero_threshold: f64,
    /// Buckets of positive observations (or the custom ones).
    pub positive: Buckets,
    /// Buckets of negative observations.
    pub negative: Buckets,
    /// Upper bounds of custom buckets, without +Inf.
    pub custom_bounds: Vec<f64>,
    /// What is known about a reset.
    pub reset: ResetHint,
}

/// One bucket with its bounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bucket {
    /// Lower bound.
    pub lower: f64,
    /// Upper bound.
    pub upper: f64,
    /// Whether the lower bound belongs to it.
    pub lower_inclusive: bool,
    /// Whether the upper bound belongs to it.
    pub upper_inclusive: bool,
    /// Observations.
    pub count: f64,
}

impl Histogram {
    /// Whether bucket bounds are custom.
    pub fn is_custom(&self) -> bool {
        self.schema == CUSTOM_SCHEMA
    }

    /// A histogram that marks the end of a series.
    pub fn stale() -> Self {
        Self { sum: crate::number::stale(), ..Self::default() }
    }

    /// Upper bound of the positive bucket with an index.
    pub fn bound(&self, index: i32) -> f64 {
        if self.is_custom() {
            custom_bound(&self.custom_bounds, index)
        } else {
            exponential_bound(self.schema, index)
        }
    }

    fn positive_bucket(&self, (index, count): (i32, f64)) -> Bucket {
        let lower = self.bound(index.saturating_sub(1));
        Bucket {
            lower,
            upper: self.bound(index),
            lower_inclusive: self.is_custom() && index == 0 && lower == f64::NEG_INFINITY,
            upper_inclusive: true,
            count,
        }
    }

    fn negative_bucket(&self, (index, count): (i32, f64)) -> Bucket {
        Bucket {
            lower: -self.bound(index),
            upper: -self.bound(index.saturating_sub(1)),
            lower_inclusive: true,
            upper_inclusive: false,
            count,
        }
    }

    fn zero_bucket(&self) -> Bucket {
        Bucket {
            lower: -self.zero_threshold,
            upper: self.zero_threshold,
            lower_inclusive: true,
            upper_inclusive: true,
            count: self.zero_count,
        }
    }

    /// All populated buckets as upstream shows them: the first custom one has no lower bound.
    pub fn shown_buckets(&self) -> Vec<Bucket> {
        let mut all = self.all_buckets();
        let first_bound = self.custom_bounds.first().copied().unwrap_or(f64::INFINITY);
        if self.is_custom()
            && let Some(first) = all.first_mut()
            && first.upper == first_bound
        {
            (first.lower, first.lower_inclusive) = (f64::NEG_INFINITY, true);
        }
        all
    }

    /// All populated buckets from the lowest to the highest, as quantiles and sums see them: the
    /// first custom one reaches from zero if its upper bound is positive.
    pub fn all_buckets(&self) -> Vec<Bucket> {
        let mut all: Vec<Bucket> =
            Vec::with_capacity(self.positive.len() + self.negative.len() + 1);
        all.extend(self.negative.iter().rev().map(|b| self.negative_bucket(*b)));
        all.extend(Some(self.zero_bucket()).filter(|zero| zero.count > 0.0));
        all.extend(self.positive.iter().map(|b| self.positive_bucket(*b)));
        all.retain(|bucket| bucket.count != 0.0);
        for bucket in &mut all {
            // The zero bucket may reach into the first exponential one.
            if self.is_custom() {
                continue;
            }
            if bucket.lower > 0.0 && bucket.lower < self.zero_threshold {
                bucket.lower = self.zero_threshold;
            }
            if bucket.upper < 0.0 && bucket.upper > -self.zero_threshold {
                bucket.upper = -self.zero_threshold;
            }
        }
        all
    }

    /// As upstream prints it: `{count:4, sum:5, (0.5,1]:1, ...}`.
    pub fn to_text(&self) -> String {
        let mut out =
            format!("{{count:{}, sum:{}", format_general(self.count), format_general(self.sum));
        // The text shows even a zero bucket below zero, which the difference of two may have.
        let mut buckets = self.shown_buckets();
        if self.zero_count < 0.0 {
            let zero = self.zero_bucket();
            buckets.insert(buckets.partition_point(|b| b.upper <= zero.lower), zero);
        }
        for bucket in buckets {
            let open = if bucket.lower_inclusive { '[' } else { '(' };
            let close = if bucket.upper_inclusive { ']' } else { ')' };
            write!(
                out,
                ", {open}{},{}{close}:{}",
                format_general(bucket.lower),
                format_general(bucket.upper),
                format_general(bucket.count)
            )
            .unwrap_or_default();
        }
        out.push('}');
        out
    }
}

/// Upper bound of an exponential bucket. **Source**: `getBoundExponential` in
/// model/histogram/generic.go.
pub fn exponential_bound(schema: i32, index: i32) -> f64 {
    if schema < 0 {
        let exponent = i64::from(index) << schema.saturating_neg().min(8);
        if exponent == 1024 {
            return f64::MAX;
        }
        return power_of_two(exponent);
    }
    let per_octave = 1_i64 << schema.min(30);
    let fraction = i64::from(index).rem_euclid(per_octave);
    let octave = i64::from(index).div_euclid(per_octave);
    if fraction == 0 {
        return if octave == 1024 { f64::MAX } else { power_of_two(octave) };
    }
    let mantissa = (fraction as f64 / per_octave as f64).exp2();
    if octave >= -1000 {
        mantissa * power_of_two(octave)
    } else {
        mantissa * power_of_two(octave + 200) * power_of_two(-200)
    }
}

fn power_of_two(exponent: i64) -> f64 {
    match exponent {
        ..=-1075 => 0.0,
        -1074..=-1023 => f64::from_bits(1_u64 << (exponent + 1074)),
        -1022..=1023 => f64::from_bits(((exponent + 1023) as u64) << 52),
        _ => f64::INFINITY,
    }
}

fn custom_bound(bounds: &[f64], index: i32) -> f64 {
    match usize::try_from(index) {
        Ok(at) => bounds.get(at).copied().unwrap_or(f64::INFINITY),
        // The first bucket reaches from zero if all bounds are positive.
        Err(_) => match bounds.first() {
            Some(first) if *first > 0.0 => 0.0,
            _ => f64::NEG_INFINITY,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_double_at_schema_zero() {
        let bounds: Vec<f64> = (-1..4).map(|i| exponential_bound(0, i)).collect();
        assert_eq!(bounds, [0.5, 1.0, 2.0, 4.0, 8.0]);
        assert_eq!(exponential_bound(-1, 2), 16.0);
        assert!((exponential_bound(1, 1) - std::f64::consts::SQRT_2).abs() < 1e-15);
        assert_eq!(exponential_bound(0, 1024), f64::MAX);
    }

    #[test]
    fn buckets_come_from_low_to_high() {
        let h = Histogram {
            count: 4.0,
            sum: 5.0,
            zero_count: 1.0,
            zero_threshold: 0.001,
            positive: vec![(0, 1.0), (2, 1.0)],
            negative: vec![(0, 1.0)],
            ..Histogram::default()
        };
        insta::assert_snapshot!(h.to_text(), @"{count:4, sum:5, [-1,-0.5):1, [-0.001,0.001]:1, (0.5,1]:1, (2,4]:1}");
    }
}
