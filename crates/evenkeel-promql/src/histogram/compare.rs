//! Counter resets between two histograms, and equality as the engine's comparisons see it.

use super::arithmetic::{intersect, rebounded, reduce};
use super::{Buckets, Histogram, ResetHint};

impl Histogram {
    /// Whether a counter was reset between `previous` and this sample.
    pub fn is_reset_after(&self, previous: &Histogram) -> bool {
        match self.reset {
            ResetHint::Reset => return true,
            ResetHint::NotReset => return false,
            ResetHint::Unknown | ResetHint::Gauge => {}
        }
        if self.count < previous.count || self.is_custom() != previous.is_custom() {
            return true;
        }
        if self.is_custom() {
            return self.custom_reset_after(previous);
        }
        if self.schema > previous.schema || self.zero_threshold < previous.zero_threshold {
            return true;
        }
        let (zero_before, threshold) = previous.zero_for_threshold(self.zero_threshold);
        if threshold != self.zero_threshold || self.zero_count < zero_before {
            return true;
        }
        let before = |buckets: &Buckets| {
            let mut out = reduce(buckets, previous.schema, self.schema);
            out.retain(|(index, _)| super::exponential_bound(self.schema, *index) > threshold);
            out
        };
        shrank(&self.positive, &before(&previous.positive))
            || shrank(&self.negative, &before(&previous.negative))
    }

    fn custom_reset_after(&self, previous: &Histogram) -> bool {
        if self.custom_bounds == previous.custom_bounds {
            return shrank(&self.positive, &previous.positive);
        }
        let bounds = intersect(&self.custom_bounds, &previous.custom_bounds);
        shrank(&rebounded(self, &bounds), &rebounded(previous, &bounds))
    }

    /// Whether two histograms hold the same observations (empty buckets and reset hints do not
    /// count).
    pub fn same_as(&self, other: &Histogram) -> bool {
        let populated = |b: &Buckets| b.iter().filter(|x| x.1 != 0.0).copied().collect::<Vec<_>>();
        let zero = self.is_custom()
            || (self.zero_count == other.zero_count && self.zero_threshold == other.zero_threshold);
        self.schema == other.schema
            && self.count.to_bits() == other.count.to_bits()
            && self.sum.to_bits() == other.sum.to_bits()
            && zero
            && self.custom_bounds == other.custom_bounds
            && populated(&self.positive) == populated(&other.positive)
            && populated(&self.negative) == populated(&other.negative)
    }
}

/// Whether any bucket holds less than it did.
fn shrank(now: &Buckets, before: &Buckets) -> bool {
    before.iter().any(|(index, old)| {
        let new = now.binary_search_by_key(index, |bucket| bucket.0).map_or(0.0, |at| now[at].1);
        new < *old
    })
}
