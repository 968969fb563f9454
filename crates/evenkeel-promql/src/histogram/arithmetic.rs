//! Adding, subtracting and scaling histograms of different resolution.
//!
//! **Source**: the behaviour of `model/histogram/float_histogram.go`.

use super::{Buckets, Histogram, ResetHint};
use crate::number::kahan_add;

/// Two histograms that cannot be combined.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HistogramError {
    /// One has exponential, the other custom buckets.
    #[error(
        "cannot apply this operation on histograms with a mix of exponential and custom bucket schemas"
    )]
    IncompatibleSchema,
}

/// What a combination met on its way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Merge {
    /// One side knew of a reset, the other of none.
    pub reset_collision: bool,
    /// Custom bounds differed; their intersection was used.
    pub bounds_reconciled: bool,
}

/// Lost low-order bits of a running sum of histograms.
type Compensation = Histogram;

impl Histogram {
    /// Adds another histogram to this one.
    pub fn add(&mut self, other: &Histogram) -> Result<Merge, HistogramError> {
        self.combine(other, 1.0, None)
    }

    /// Subtracts another histogram from this one.
    pub fn sub(&mut self, other: &Histogram) -> Result<Merge, HistogramError> {
        self.combine(other, -1.0, None)
    }

    /// Adds with compensation: what is lost is gathered in `lost`, to be added at the end.
    pub fn add_compensated(
        &mut self,
        other: &Histogram,
        lost: &mut Compensation,
    ) -> Result<Merge, HistogramError> {
        self.combine(other, 1.0, Some(lost))
    }

    fn combine(
        &mut self,
        other: &Histogram,
        sign: f64,
        lost: Option<&mut Compensation>,
    ) -> Result<Merge, HistogramError> {
        if self.is_custom() != other.is_custom() {
            return Err(HistogramError::IncompatibleSchema);
        }
        let mut merge =
            Merge { reset_collision: self.adjust_reset(other.reset), bounds_reconciled: false };
        let mut scratch = Compensation::default();
        let plain = lost.is_none();
        let lost = lost.unwrap_or(&mut scratch);
        lost.align_to(self);
        if self.is_custom() {
            merge.bounds_reconciled = self.combine_custom(other, sign, lost);
        } else {
            self.combine_exponential(other, sign, lost);
        }
        if plain {
            self.count += sign * other.count;
            self.sum += sign * other.sum;
        } else {
            (self.count, lost.count) = kahan_add(sign * other.count, self.count, lost.count);
            (self.sum, lost.sum) = kahan_add(sign * other.sum, self.sum, lost.sum);
        }
        Ok(merge)
    }

    /// Gives a compensation the shape of the histogram that it belongs to.
    fn align_to(&mut self, of: &Histogram) {
        self.schema = of.schema;
        self.zero_threshold = of.zero_threshold;
        self.custom_bounds.clone_from(&of.custom_bounds);
    }

    fn combine_exponential(&mut self, other: &Histogram, sign: f64, lost: &mut Compensation) {
        let zero_other = self.reconcile_zero(other, lost);
        (self.zero_count, lost.zero_count) =
            kahan_add(sign * zero_other, self.zero_count, lost.zero_count);
        let schema = self.schema.min(other.schema);
        self.reduce_to(schema);
        lost.reduce_to(schema);
        let threshold = self.zero_threshold;
        let reduced = |buckets: &Buckets| -> Buckets {
            let mut out = reduce(buckets, other.schema, schema);
            out.retain(|(index, _)| super::exponential_bound(schema, *index) > threshold);
            out
        };
        add_buckets(&mut self.positive, &reduced(&other.positive), sign, &mut lost.positive);
        add_buckets(&mut self.negative, &reduced(&other.negative), sign, &mut lost.negative);
    }

    fn combine_custom(&mut self, other: &Histogram, sign: f64, lost: &mut Compensation) -> bool {
        if self.custom_bounds == other.custom_bounds {
            add_buckets(&mut self.positive, &other.positive, sign, &mut lost.positive);
            return false;
        }
        let bounds = intersect(&self.custom_bounds, &other.custom_bounds);
        self.rebound(&bounds);
        lost.rebound(&bounds);
        let theirs = rebounded(other, &bounds);
        add_buckets(&mut self.positive, &theirs, sign, &mut lost.positive);
        true
    }

    /// Moves the counts of custom buckets to coarser bounds.
    pub(super) fn rebound(&mut self, bounds: &[f64]) {
        self.positive = rebounded(self, bounds);
        self.custom_bounds = bounds.to_vec();
    }

    fn adjust_reset(&mut self, other: ResetHint) -> bool {
        use ResetHint::{Gauge, NotReset, Reset, Unknown};
        let (hint, collision) = match (self.reset, other) {
            (a, b) if a == b => (a, false),
            (Gauge, _) | (_, Gauge) => (Gauge, false),
            (Unknown, _) | (_, Unknown) => (Unknown, false),
            (Reset | NotReset, _) => (Unknown, true),
        };
        self.reset = hint;
        collision
    }

    /// Widens this zero bucket (and computes the other's) until both are equally wide; the other's
    /// count.
    fn reconcile_zero(&mut self, other: &Histogram, lost: &mut Compensation) -> f64 {
        let mut theirs = (other.zero_count, other.zero_threshold);
        while theirs.1 != self.zero_threshold {
            if self.zero_threshold > theirs.1 {
                theirs = other.zero_for_threshold(self.zero_threshold);
            }
            if theirs.1 > self.zero_threshold {
                self.widen_zero(theirs.1);
                let threshold = self.zero_threshold;
                lost.zero_threshold = lost.zero_threshold.min(threshold);
                lost.widen_zero_exactly(threshold);
            }
            if self.zero_threshold.is_nan() || theirs.1.is_nan() {
                break;
            }
        }
        theirs.0
    }

    fn widen_zero(&mut self, threshold: f64) {
        let (count, threshold) = self.zero_for_threshold(threshold);
        self.zero_count = count;
        self.zero_threshold = threshold;
        self.trim_below_zero_threshold();
    }

    fn widen_zero_exactly(&mut self, threshold: f64) {
        let schema = self.schema;
        let inside =
            |(index, _): &&(i32, f64)| super::exponential_bound(schema, *index) <= threshold;
        let gone = self.positive.iter().chain(&self.negative).filter(inside);
        self.zero_count += gone.map(|(_, count)| count).sum::<f64>();
        self.zero_threshold = threshold;
        self.trim_below_zero_threshold();
    }

    fn trim_below_zero_threshold(&mut self) {
        let (schema, threshold) = (self.schema, self.zero_threshold);
        let outside = |bucket: &(i32, f64)| super::exponential_bound(schema, bucket.0) > threshold;
        self.positive.retain(outside);
        self.negative.retain(outside);
    }

    /// Count and width of the zero bucket if it were at least `larger` wide; it never cuts a
    /// populated bucket.
    pub(super) fn zero_for_threshold(&self, larger: f64) -> (f64, f64) {
        let mut larger = larger;
        loop {
            let mut count = self.zero_count;
            let mut again = false;
            for (side, buckets) in [(0, &self.positive), (1, &self.negative)] {
                for (index, bucket_count) in buckets {
                    if self.bound(index.saturating_sub(1)) >= larger {
                        break;
                    }
                    count += bucket_count;
                    let upper = self.bound(*index);
                    if upper > larger {
                        if *bucket_count != 0.0 {
                            larger = upper;
                            again = side == 1;
                        }
                        break;
                    }
                }
            }
            if !again {
                return (count, larger);
            }
        }
    }

    /// Lowers the resolution.
    pub fn reduce_to(&mut self, schema: i32) {
        if schema >= self.schema || self.is_custom() {
            return;
        }
        self.positive = reduce(&self.positive, self.schema, schema);
        self.negative = reduce(&self.negative, self.schema, schema);
        self.schema = schema;
    }

    /// Multiplies all counts and the sum.
    pub fn mul(&mut self, factor: f64) {
        self.scale(|v| v * factor, factor < 0.0);
    }

    /// Divides all counts and the sum; division by zero drops all buckets.
    pub fn div(&mut self, divisor: f64) {
        self.scale(|v| v / divisor, divisor < 0.0);
        if divisor == 0.0 {
            self.positive.clear();
            self.negative.clear();
        }
    }

    fn scale(&mut self, by: impl Fn(f64) -> f64, negative: bool) {
        self.count = by(self.count);
        self.sum = by(self.sum);
        self.zero_count = by(self.zero_count);
        for (_, count) in self.positive.iter_mut().chain(&mut self.negative) {
            *count = by(*count);
        }
        if negative {
            self.reset = ResetHint::Gauge;
        }
    }

    /// Adds a compensation at the end of a compensated sum.
    pub fn settle(&mut self, lost: &Compensation) {
        self.count += lost.count;
        self.sum += lost.sum;
        self.zero_count += lost.zero_count;
        for (ours, theirs) in
            [(&mut self.positive, &lost.positive), (&mut self.negative, &lost.negative)]
        {
            for (index, count) in theirs {
                if let Ok(at) = ours.binary_search_by_key(index, |b| b.0) {
                    ours[at].1 += count;
                }
            }
        }
    }

    /// Drops empty buckets.
    pub fn compact(&mut self) {
        self.positive.retain(|bucket| bucket.1 != 0.0);
        self.negative.retain(|bucket| bucket.1 != 0.0);
    }
}

/// Adds `theirs` to `ours`, keeping both sorted; compensations in `lost`.
fn add_buckets(ours: &mut Buckets, theirs: &Buckets, sign: f64, lost: &mut Buckets) {
    if theirs.is_empty() {
        return;
    }
    let mut merged = Buckets::with_capacity(ours.len().max(theirs.len()));
    let mut merged_lost = Buckets::with_capacity(merged.capacity());
    let (mut a, mut b) = (ours.iter().peekable(), theirs.iter().peekable());
    let lost_at = |index: i32| {
        lost.binary_search_by_key(&index, |bucket| bucket.0).map_or(0.0, |at| lost[at].1)
    };
    loop {
        let index = match (a.peek(), b.peek()) {
            (Some(x), Some(y)) => x.0.min(y.0),
            (Some(x), None) => x.0,
            (None, Some(y)) => y.0,
            (None, None) => break,
        };
        let x = a.next_if(|bucket| bucket.0 == index).map_or(0.0, |bucket| bucket.1);
        let y = b.next_if(|bucket| bucket.0 == index).map_or(0.0, |bucket| bucket.1);
        let (sum, compensation) = kahan_add(sign * y, x, lost_at(index));
        merged.push((index, sum));
        merged_lost.push((index, compensation));
    }
    *ours = merged;
    *lost = merged_lost;
}

/// Buckets at a lower resolution.
pub(super) fn reduce(buckets: &Buckets, from: i32, to: i32) -> Buckets {
    if to >= from {
        return buckets.clone();
    }
    let shift = (from - to).clamp(0, 31);
    let mut out: Buckets = Vec::with_capacity(buckets.len());
    for (index, count) in buckets {
        let target = ((i64::from(*index) - 1) >> shift) as i32 + 1;
        match out.last_mut() {
            Some(last) if last.0 == target => last.1 += count,
            _ => out.push((target, *count)),
        }
    }
    out
}

/// Bounds that both lists have.
pub(super) fn intersect(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().copied().filter(|bound| b.binary_search_by(|x| x.total_cmp(bound)).is_ok()).collect()
}

/// Counts of custom buckets summed up into coarser bounds.
pub(super) fn rebounded(of: &Histogram, bounds: &[f64]) -> Buckets {
    let mut out: Buckets = Vec::with_capacity(bounds.len() + 1);
    for (index, count) in &of.positive {
        let upper = of.bound(*index);
        let target = bounds.partition_point(|bound| *bound < upper) as i32;
        match out.last_mut() {
            Some(last) if last.0 == target => last.1 += count,
            _ => out.push((target, *count)),
        }
    }
    out
}
