//! Quantiles and fractions of classic histograms. **Source**: promql/quantile.go.

/// A bucket of a classic histogram: observations up to a bound.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct ClassicBucket {
    pub(super) upper: f64,
    pub(super) count: f64,
}

/// Relative difference between neighbouring buckets that counts as noise.
const NOISE: f64 = 1e-12;

/// Buckets whose counts were below the one before, and were raised to it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Raised {
    /// Bounds of the lowest and of the highest one.
    pub(super) buckets: (f64, f64),
    /// By how much at most.
    pub(super) difference: f64,
}

/// The q-quantile, and which buckets had to be raised for it.
pub(super) fn bucket_quantile(
    q: f64,
    buckets: Vec<ClassicBucket>,
) -> Option<(f64, Option<Raised>)> {
    if q.is_nan() {
        return Some((f64::NAN, None));
    }
    if q < 0.0 {
        return Some((f64::NEG_INFINITY, None));
    }
    if q > 1.0 {
        return Some((f64::INFINITY, None));
    }
    let buckets = sorted(buckets)?;
    if !is_complete(&buckets) {
        return Some((f64::NAN, None));
    }
    let mut buckets = coalesced(buckets);
    let forced = make_monotonic(&mut buckets);
    if buckets.len() < 2 {
        return Some((f64::NAN, None));
    }
    let total = buckets[buckets.len() - 1].count;
    if total == 0.0 {
        return Some((f64::NAN, None));
    }
    let rank = q * total;
    let last = buckets.len() - 1;
    let at = buckets[..last].partition_point(|b| b.count < rank);
    if at == last {
        return Some((buckets[last - 1].upper, forced));
    }
    if at == 0 && buckets[0].upper <= 0.0 {
        return Some((buckets[0].upper, forced));
    }
    let end = buckets[at].upper;
    let (start, below) = match at.checked_sub(1) {
        Some(before) => (buckets[before].upper, buckets[before].count),
        None => (0.0, 0.0),
    };
    let count = buckets[at].count - below;
    Some((start + (end - start) * ((rank - below) / count), forced))
}

/// The share of observations between two bounds.
pub(super) fn bucket_fraction(lower: f64, upper: f64, buckets: Vec<ClassicBucket>) -> Option<f64> {
    let buckets = sorted(buckets)?;
    if !is_complete(&buckets) {
        return Some(f64::NAN);
    }
    let mut buckets = coalesced(buckets);
    make_monotonic(&mut buckets);
    let total = buckets.last()?.count;
    if total == 0.0 || lower.is_nan() || upper.is_nan() {
        return Some(f64::NAN);
    }
    if lower >= upper {
        return Some(0.0);
    }
    Some((rank_of(upper, &buckets, total) - rank_of(lower, &buckets, total)) / total)
}

/// Observations up to a value, by linear interpolation.
fn rank_of(value: f64, buckets: &[ClassicBucket], total: f64) -> f64 {
    let mut below = 0.0;
    let mut lower = if buckets[0].upper > 0.0 { 0.0 } else { f64::NEG_INFINITY };
    for bucket in buckets {
        if value <= lower {
            return below;
        }
        if value < bucket.upper {
            let width = bucket.upper - lower;
            if width.is_infinite() {
                return if lower.is_infinite() { bucket.count } else { below };
            }
            return below + (bucket.count - below) * (value - lower) / width;
        }
        below = bucket.count;
        lower = bucket.upper;
    }
    total
}

fn sorted(mut buckets: Vec<ClassicBucket>) -> Option<Vec<ClassicBucket>> {
    buckets.sort_by(|a, b| a.upper.total_cmp(&b.upper));
    if buckets.is_empty() { None } else { Some(buckets) }
}

/// The highest bucket must be the one without bound.
fn is_complete(buckets: &[ClassicBucket]) -> bool {
    buckets.last().is_some_and(|b| b.upper == f64::INFINITY)
}

/// Buckets with one bound fall together.
fn coalesced(buckets: Vec<ClassicBucket>) -> Vec<ClassicBucket> {
    let mut out: Vec<ClassicBucket> = Vec::with_capacity(buckets.len());
    for bucket in buckets {
        match out.last_mut() {
            Some(last) if last.upper == bucket.upper => last.count += bucket.count,
            _ => out.push(bucket),
        }
    }
    out
}

/// Counts must not fall; small differences are noise, others are reported.
fn make_monotonic(buckets: &mut [ClassicBucket]) -> Option<Raised> {
    let mut raised: Option<Raised> = None;
    let first = buckets.first()?;
    let mut previous = first.count;
    for bucket in buckets.iter_mut().skip(1) {
        if bucket.count == previous {
            continue;
        }
        if nearly_equal(previous, bucket.count) {
            bucket.count = previous;
        } else if bucket.count < previous {
            let difference = previous - bucket.count;
            bucket.count = previous;
            let all =
                raised.get_or_insert(Raised { buckets: (bucket.upper, bucket.upper), difference });
            all.buckets.1 = bucket.upper;
            all.difference = all.difference.max(difference);
        } else {
            previous = bucket.count;
        }
    }
    raised
}

fn nearly_equal(a: f64, b: f64) -> bool {
    let difference = (a - b).abs();
    let sum = a.abs() + b.abs();
    if a == 0.0 || b == 0.0 || sum < f64::MIN_POSITIVE {
        return difference < NOISE * f64::MIN_POSITIVE;
    }
    difference / sum.min(f64::MAX) < NOISE
}
