//! Quantiles, fractions, deviation and trimming of native histograms. **Source**:
//! promql/quantile.go, functions.go.

use super::{Bucket, Histogram};

impl Histogram {
    /// `histogram_count`, `histogram_sum`, `histogram_avg`, `histogram_stddev`, `histogram_stdvar`
    /// by name.
    pub(crate) fn statistic(&self, name: &str) -> f64 {
        match name {
            "histogram_count" => self.count,
            "histogram_sum" => self.sum,
            "histogram_avg" => self.sum / self.count,
            "histogram_stddev" => self.variance().sqrt(),
            _ => self.variance(),
        }
    }

    fn variance(&self) -> f64 {
        let mean = self.sum / self.count;
        let (mut sum, mut lost) = (0.0, 0.0);
        for bucket in self.all_buckets() {
            let middle = if self.is_custom() {
                f64::midpoint(bucket.upper, bucket.lower)
            } else if bucket.lower <= 0.0 && bucket.upper >= 0.0 {
                0.0
            } else {
                let middle = (bucket.upper * bucket.lower).sqrt();
                if bucket.upper < 0.0 { -middle } else { middle }
            };
            let delta = middle - mean;
            (sum, lost) = crate::number::kahan_add(bucket.count * delta * delta, sum, lost);
        }
        (sum + lost) / self.count
    }

    /// The zero bucket holds only one sign if all other buckets have that sign.
    fn with_known_sign(&self, mut bucket: Bucket) -> Bucket {
        if bucket.lower < 0.0 && bucket.upper > 0.0 && !self.is_custom() {
            match (self.negative.is_empty(), self.positive.is_empty()) {
                (true, false) => bucket.lower = 0.0,
                (false, true) => bucket.upper = 0.0,
                _ => {}
            }
        }
        bucket
    }

    /// The q-quantile; beside it, if there were NaN observations, whether it is NaN for that (else
    /// too high).
    pub fn quantile(&self, q: f64) -> (f64, Option<bool>) {
        if q < 0.0 {
            return (f64::NEG_INFINITY, None);
        }
        if q > 1.0 {
            return (f64::INFINITY, None);
        }
        if self.count == 0.0 || q.is_nan() {
            return (f64::NAN, None);
        }
        let buckets = self.all_buckets();
        // Coming from the nearer end keeps small errors small; NaN observations count as highest.
        let nan_sum = self.sum.is_nan();
        let forward = nan_sum || q < 0.5;
        let mut rank = if forward { q * self.count } else { (1.0 - q) * self.count };
        let mut seen = 0.0;
        let mut hit: Option<Bucket> = None;
        let mut walk = |bucket: &Bucket| {
            hit = Some(*bucket);
            seen += bucket.count;
            seen >= rank
        };
        let _found = if forward {
            buckets.iter().any(&mut walk)
        } else {
            buckets.iter().rev().any(&mut walk)
        };
        let Some(bucket) = hit else { return (f64::NAN, nan_sum.then_some(true)) };
        let mut bucket = self.with_known_sign(bucket);
        if self.is_custom() {
            if bucket.lower == f64::NEG_INFINITY {
                if bucket.upper <= 0.0 {
                    return (bucket.upper, None);
                }
                bucket.lower = 0.0;
            } else if bucket.upper == f64::INFINITY {
                return (bucket.lower, None);
            }
        }
        // Due to numerical inaccuracies, or NaN observations, the rank may lie beyond all buckets.
        if seen < rank {
            return if nan_sum { (f64::NAN, Some(true)) } else { (bucket.upper, None) };
        }
        rank -= seen - bucket.count;
        if !forward {
            rank = bucket.count - rank;
        }
        let mut note = None;
        if nan_sum && let Some(last) = buckets.last() {
            // Upstream counts on through all buckets and stays at the last one.
            bucket = *last;
            let observed: f64 = buckets.iter().map(|b| b.count).sum();
            note = (observed < self.count).then_some(false);
        }
        let share = rank / bucket.count;
        (self.interpolate(&bucket, share), note)
    }

    /// The value at a share of a bucket: linear around zero and for custom bounds, else
    /// exponential.
    fn interpolate(&self, bucket: &Bucket, share: f64) -> f64 {
        if self.is_custom() || (bucket.lower <= 0.0 && bucket.upper >= 0.0) {
            return bucket.lower + (bucket.upper - bucket.lower) * share;
        }
        let low = bucket.lower.abs().log2();
        let high = bucket.upper.abs().log2();
        if bucket.lower > 0.0 {
            (low + (high - low) * share).exp2()
        } else {
            -(high + (low - high) * (1.0 - share)).exp2()
        }
    }

    /// Share of a bucket below a value inside it.
    fn share_below(&self, bucket: &Bucket, value: f64) -> f64 {
        if self.is_custom() || (bucket.lower <= 0.0 && bucket.upper >= 0.0) {
            return (value - bucket.lower) / (bucket.upper - bucket.lower);
        }
        let low = bucket.lower.abs().log2();
        let high = bucket.upper.abs().log2();
        let at = value.abs().log2();
        if value > 0.0 { (at - low) / (high - low) } else { 1.0 - (at - high) / (low - high) }
    }

    /// The share of observations between two bounds; beside it, whether there were NaN
    /// observations, which lie in no share.
    pub fn fraction(&self, lower: f64, upper: f64) -> (f64, bool) {
        if self.count == 0.0 || lower.is_nan() || upper.is_nan() {
            return (f64::NAN, false);
        }
        if lower >= upper {
            return (0.0, false);
        }
        let mut all = self.count;
        if self.sum.is_nan() {
            all = self.all_buckets().iter().map(|b| b.count).sum();
        }
        let rank = |value| {
            let rank = self.rank(value);
            if rank > all { all } else { rank }
        };
        ((rank(upper) - rank(lower)) / self.count, all < self.count)
    }

    /// Observations up to a value.
    fn rank(&self, value: f64) -> f64 {
        let mut below = 0.0;
        for bucket in self.all_buckets() {
            let mut bucket = self.with_known_sign(bucket);
            if self.is_custom() && bucket.lower.is_infinite() && bucket.upper > 0.0 {
                // As in classic histograms: values below the first bound are taken as positive.
                // Upstream starts every bucket that touches 0 there, so that those up to `le="0"`
                // lie in no fraction.
                bucket.lower = 0.0;
            }
            if value <= bucket.lower {
                return below;
            }
            if value >= bucket.upper {
                below += bucket.count;
                continue;
            }
            let unbounded = bucket.lower.is_infinite() || bucket.upper.is_infinite();
            if unbounded {
                return if bucket.lower.is_infinite() { below + bucket.count } else { below };
            }
            return below + bucket.count * self.share_below(&bucket, value);
        }
        below
    }

    /// Without the observations above (or below) a bound; the sum is estimated again if anything
    /// was cut.
    pub(crate) fn trimmed(&self, bound: f64, upper: bool) -> Histogram {
        let mut out = self.clone();
        let everything = if upper { f64::INFINITY } else { f64::NEG_INFINITY };
        if bound.is_nan() || bound == everything {
            return out;
        }
        let mut sum = 0.0;
        let mut keep = |bucket: Bucket| -> f64 {
            let (count, middle) = self.kept(self.with_known_sign(bucket), bound, upper);
            if count != 0.0 {
                sum += count * middle;
            }
            count
        };
        for entry in &mut out.positive {
            entry.1 = keep(self.positive_bucket(*entry));
        }
        for entry in &mut out.negative {
            entry.1 = keep(self.negative_bucket(*entry));
        }
        if self.zero_count > 0.0 {
            out.zero_count = keep(self.zero_bucket());
        }
        let changed = out.positive != self.positive
            || out.negative != self.negative
            || out.zero_count != self.zero_count;
        out.compact();
        if changed {
            let all = out.positive.iter().chain(&out.negative);
            out.count = out.zero_count + all.map(|b| b.1).sum::<f64>();
            out.sum = sum;
        }
        out
    }

    /// What is left of a bucket, and the value its observations are taken for.
    fn kept(&self, bucket: Bucket, bound: f64, upper: bool) -> (f64, f64) {
        let Bucket { lower, upper: top, count, .. } = bucket;
        if lower == f64::NEG_INFINITY && top == f64::INFINITY {
            return (0.0, 0.0);
        }
        if top == f64::INFINITY {
            // Its extent is unknown: it stays whole above, and goes whole below.
            let goes = upper || bound == f64::INFINITY;
            return if goes { (0.0, 0.0) } else { (count, lower.max(bound)) };
        }
        if lower == f64::NEG_INFINITY {
            if upper {
                return (count, top.min(bound));
            }
            return (0.0, 0.0);
        }
        // The first custom bucket has no lower bound of its own, which shows for negative values
        // only.
        let first_custom = self.is_custom() && lower == 0.0 && self.bound(0) == top;
        if first_custom && !upper && bound < 0.0 {
            return (0.0, 0.0);
        }
        let cut = if bound >= top {
            (lower, top, 1.0)
        } else if bound <= lower {
            (lower, lower, 0.0)
        } else {
            (lower, bound, self.share_below(&bucket, bound))
        };
        if upper {
            return (count * cut.2, self.middle(cut.0, cut.1));
        }
        let from = if bound > lower { bound.min(top) } else { lower };
        (count * (1.0 - cut.2), self.middle(from, top))
    }

    fn middle(&self, lower: f64, upper: f64) -> f64 {
        if self.is_custom() || (lower <= 0.0 && upper >= 0.0) {
            return f64::midpoint(lower, upper);
        }
        if lower.abs() <= self.zero_threshold && upper.abs() <= self.zero_threshold {
            return f64::midpoint(lower, upper);
        }
        (lower * upper).sqrt().copysign(lower)
    }
}
