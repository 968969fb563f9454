//! What the engine reads: series with their samples in a range of time.

use crate::blocks::{BLOCK, Blocks, Gap};
use crate::histogram::Histogram;
use crate::labels::Labels;
use crate::matcher::Matcher;
use crate::sample::Value;
use std::borrow::Cow;
use std::sync::Arc;

/// A span of time in milliseconds, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeRange {
    /// First millisecond.
    pub start_ms: i64,
    /// Last millisecond.
    pub end_ms: i64,
}

/// Which samples of a range a reader needs. More may come, less may not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// All of them.
    All,
    /// Those at both ends; whole blocks in between may be left out as a [`Gap`].
    Ends,
    /// The newest one.
    Newest,
}

/// The samples of one series, column by column, sorted by time.
#[derive(Clone, Debug, Default)]
pub struct Samples<'a> {
    /// Times in milliseconds.
    pub times: Cow<'a, [i64]>,
    /// Float values; meaningless where `histograms` has an entry.
    pub floats: Cow<'a, [f64]>,
    /// Native histograms; empty if the series has none at all, else as long as `times`.
    pub histograms: Cow<'a, [Option<Arc<Histogram>>]>,
    /// Start times of counters in milliseconds, 0 where unknown; empty if the series has none at
    /// all.
    pub starts: Cow<'a, [i64]>,
    /// Sums over blocks of the samples, if the storage keeps them (no histograms and start times
    /// then).
    pub blocks: Option<Blocks<'a>>,
    /// Where samples were left out.
    pub gap: Option<Gap<'a>>,
}

impl Samples<'_> {
    /// Number of samples, with those that were left out.
    pub fn count(&self) -> usize {
        self.len() + self.gap.map_or(0, |gap| gap.whole.len() * BLOCK)
    }

    /// Number of samples that are there.
    pub fn len(&self) -> usize {
        self.times.len()
    }

    /// Whether there is no sample.
    pub fn is_empty(&self) -> bool {
        self.times.is_empty()
    }

    /// The value at an index.
    pub fn value(&self, index: usize) -> Value {
        match self.histogram(index) {
            Some(histogram) => Value::Histogram(Arc::clone(histogram)),
            None => Value::Float(self.floats[index]),
        }
    }

    /// The histogram at an index, if that sample is one.
    pub fn histogram(&self, index: usize) -> Option<&Arc<Histogram>> {
        self.histograms.get(index).and_then(Option::as_ref)
    }

    /// The start time at an index, 0 if unknown.
    pub fn start(&self, index: usize) -> i64 {
        self.starts.get(index).copied().unwrap_or_default()
    }

    /// Whether the sample at an index marks the end of the series.
    pub fn is_stale(&self, index: usize) -> bool {
        match self.histogram(index) {
            Some(histogram) => crate::number::is_stale(histogram.sum),
            None => crate::number::is_stale(self.floats[index]),
        }
    }

    /// Index of the first sample at or after `t_ms`.
    pub fn first_at_or_after(&self, t_ms: i64) -> usize {
        self.times.partition_point(|t| *t < t_ms)
    }
}

/// One selected series.
#[derive(Clone, Debug)]
pub struct SelectedSeries<'a> {
    /// Its labels.
    pub labels: Labels,
    /// Its samples inside the asked range (more is allowed, less is not).
    pub samples: Samples<'a>,
}

/// A storage that could not answer.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("expanding series: {reason}")]
pub struct StorageError {
    /// What went wrong.
    pub reason: String,
}

/// Where the engine gets its data from.
pub trait Storage {
    /// The series whose labels pass all matchers, in a deterministic order, with the needed samples
    /// in `range`.
    fn select(
        &self,
        matchers: &[Matcher],
        range: TimeRange,
        needs: Needs,
    ) -> Result<Vec<SelectedSeries<'_>>, StorageError>;

    /// A number that changes whenever a series that passes the matchers gets a sample; `None` if
    /// the storage does not keep track. Rules whose inputs did not change are skipped by it.
    fn revision(&self, matchers: &[Matcher]) -> Option<u64> {
        let _ = matchers;
        None
    }
}

impl<S: Storage + ?Sized> Storage for &S {
    fn select(
        &self,
        matchers: &[Matcher],
        range: TimeRange,
        needs: Needs,
    ) -> Result<Vec<SelectedSeries<'_>>, StorageError> {
        (**self).select(matchers, range, needs)
    }

    fn revision(&self, matchers: &[Matcher]) -> Option<u64> {
        (**self).revision(matchers)
    }
}
