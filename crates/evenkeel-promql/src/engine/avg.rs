//! Means that do not lose precision and do not overflow.

use crate::histogram::{Histogram, HistogramError, Merge};
use crate::number::kahan_add;

/// A running mean: a compensated sum, or an incremental mean once that would overflow.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Mean {
    count: f64,
    sum: f64,
    lost: f64,
    incremental: bool,
}

impl Mean {
    pub(super) fn add(&mut self, v: f64) {
        self.count += 1.0;
        if self.count == 1.0 {
            self.sum = v;
            return;
        }
        if !self.incremental {
            let (sum, lost) = kahan_add(v, self.sum, self.lost);
            if !sum.is_infinite() {
                (self.sum, self.lost) = (sum, lost);
                return;
            }
            self.incremental = true;
            self.sum /= self.count - 1.0;
            self.lost /= self.count - 1.0;
        }
        if self.sum.is_infinite() {
            let same = v.is_infinite() && (self.sum > 0.0) == (v > 0.0);
            if same || v.is_finite() {
                return;
            }
        }
        let kept = (self.count - 1.0) / self.count;
        (self.sum, self.lost) = kahan_add(v / self.count, kept * self.sum, kept * self.lost);
    }

    pub(super) fn finish(self) -> f64 {
        if self.incremental {
            self.sum + self.lost
        } else {
            self.sum / self.count + self.lost / self.count
        }
    }
}

/// A running sum or mean of histograms.
#[derive(Debug)]
pub(super) struct HistogramMean {
    average: bool,
    count: f64,
    sum: Option<Histogram>,
    lost: Histogram,
    incremental: bool,
}

impl HistogramMean {
    pub(super) fn new(average: bool) -> Self {
        Self { average, count: 0.0, sum: None, lost: Histogram::default(), incremental: false }
    }

    pub(super) fn add(&mut self, h: &Histogram) -> Result<Merge, HistogramError> {
        self.count += 1.0;
        let Some(sum) = &mut self.sum else {
            self.sum = Some(h.clone());
            return Ok(Merge::default());
        };
        if self.average && !self.incremental {
            let mut tried = sum.clone();
            let mut lost = self.lost.clone();
            let merge = tried.add_compensated(h, &mut lost)?;
            if !overflows(&tried) {
                (*sum, self.lost) = (tried, lost);
                return Ok(merge);
            }
            self.incremental = true;
            sum.div(self.count - 1.0);
            self.lost.div(self.count - 1.0);
        }
        if !self.incremental {
            return sum.add_compensated(h, &mut self.lost);
        }
        let kept = (self.count - 1.0) / self.count;
        sum.mul(kept);
        self.lost.mul(kept);
        let mut part = h.clone();
        part.div(self.count);
        sum.add_compensated(&part, &mut self.lost)
    }

    pub(super) fn finish(self) -> Option<Histogram> {
        let mut sum = self.sum?;
        let mut lost = self.lost;
        if self.average && !self.incremental {
            sum.div(self.count);
            lost.div(self.count);
        }
        sum.settle(&lost);
        sum.compact();
        Some(sum)
    }
}

fn overflows(h: &Histogram) -> bool {
    h.count.is_infinite()
        || h.sum.is_infinite()
        || h.zero_count.is_infinite()
        || h.positive.iter().chain(&h.negative).any(|b| b.1.is_infinite())
}
