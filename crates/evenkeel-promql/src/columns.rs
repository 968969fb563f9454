//! The samples of one series: packed while they are plain floats, column by column otherwise.

use crate::histogram::Histogram;
use crate::number::is_stale;
use crate::packed::Packed;
use crate::sample::Value;
use crate::storage::{Needs, Samples, TimeRange};
use std::borrow::Cow;
use std::sync::Arc;

/// A front smaller than this share of a series (1/n) is not cut off yet, so that pruning stays
/// cheap.
const PRUNE_SHARE: usize = 8;

/// The samples, by what they are.
#[derive(Clone, Debug)]
pub(crate) enum Columns {
    /// Floats without start times.
    Packed(Packed),
    /// At least one histogram or start time.
    Plain(Box<Plain>),
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Plain {
    times: Vec<i64>,
    floats: Vec<f64>,
    /// Empty, or as long as `times`.
    histograms: Vec<Option<Arc<Histogram>>>,
    /// Empty, or as long as `times`.
    starts: Vec<i64>,
}

impl Default for Columns {
    fn default() -> Self {
        Self::Packed(Packed::default())
    }
}

impl Columns {
    /// Number of samples.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Packed(packed) => packed.len(),
            Self::Plain(plain) => plain.times.len(),
        }
    }

    /// Time of the newest sample.
    pub(crate) fn newest_ms(&self) -> Option<i64> {
        match self {
            Self::Packed(packed) => packed.newest().map(|(t_ms, _)| t_ms),
            Self::Plain(plain) => plain.times.last().copied(),
        }
    }

    /// The newest sample.
    pub(crate) fn newest(&self) -> Option<(i64, Value)> {
        match self {
            Self::Packed(packed) => packed.newest().map(|(t_ms, v)| (t_ms, Value::Float(v))),
            Self::Plain(plain) => {
                let at = plain.times.len().checked_sub(1)?;
                let histogram = plain.histograms.get(at).cloned().flatten();
                let value = histogram.map_or(Value::Float(plain.floats[at]), Value::Histogram);
                Some((plain.times[at], value))
            }
        }
    }

    /// Whether a value says the same as the newest sample.
    pub(crate) fn repeats_newest(&self, value: &Value) -> bool {
        match (value, self.newest()) {
            (Value::Float(new), Some((_, Value::Float(old)))) => {
                old.to_bits() == new.to_bits() || (old.is_nan() && new.is_nan() && !is_stale(*new))
            }
            (Value::Histogram(new), Some((_, Value::Histogram(old)))) => *new == old,
            _ => false,
        }
    }

    /// Adds a sample that is newer than all others.
    pub(crate) fn push(&mut self, t_ms: i64, value: Value, start_ms: i64) {
        match (&mut *self, value) {
            (Self::Packed(packed), Value::Float(v)) if start_ms == 0 => packed.push(t_ms, v),
            (Self::Packed(packed), value) => {
                let (times, floats) = packed.columns();
                let mut plain = Plain { times, floats, ..Plain::default() };
                plain.push(t_ms, value, start_ms);
                *self = Self::Plain(Box::new(plain));
            }
            (Self::Plain(plain), value) => plain.push(t_ms, value, start_ms),
        }
    }

    /// Forgets samples from before a time, unless they are a small part of many.
    pub(crate) fn drop_before(&mut self, t_ms: i64) {
        match self {
            Self::Packed(packed) => packed.drop_before(t_ms, PRUNE_SHARE),
            Self::Plain(plain) => plain.drop_before(t_ms),
        }
    }

    /// Whether there is a sample in a range.
    pub(crate) fn touches(&self, range: TimeRange) -> bool {
        match self {
            Self::Packed(packed) => packed.touches(range),
            Self::Plain(plain) => !plain.samples(range).is_empty(),
        }
    }

    /// The samples of a range, at least those that are needed.
    pub(crate) fn samples(&self, range: TimeRange, needs: Needs) -> Samples<'_> {
        match self {
            Self::Packed(packed) => packed.samples(range, needs),
            Self::Plain(plain) => plain.samples(range),
        }
    }
}

impl Plain {
    fn samples(&self, range: TimeRange) -> Samples<'_> {
        let from = self.times.partition_point(|t| *t < range.start_ms);
        let to = self.times.partition_point(|t| *t <= range.end_ms).max(from);
        Samples {
            times: Cow::Borrowed(&self.times[from..to]),
            floats: Cow::Borrowed(&self.floats[from..to]),
            histograms: Cow::Borrowed(self.histograms.get(from..to).unwrap_or_default()),
            starts: Cow::Borrowed(self.starts.get(from..to).unwrap_or_default()),
            ..Samples::default()
        }
    }

    fn push(&mut self, t_ms: i64, value: Value, start_ms: i64) {
        let before = self.times.len();
        self.times.push(t_ms);
        match value {
            Value::Float(v) => {
                self.floats.push(v);
                if !self.histograms.is_empty() {
                    self.histograms.push(None);
                }
            }
            Value::Histogram(histogram) => {
                self.floats.push(0.0);
                self.histograms.resize(before, None);
                self.histograms.push(Some(histogram));
            }
        }
        if start_ms != 0 {
            self.starts.resize(before, 0);
        }
        if start_ms != 0 || !self.starts.is_empty() {
            self.starts.push(start_ms);
        }
    }

    fn drop_before(&mut self, t_ms: i64) {
        let gone = self.times.partition_point(|t| *t < t_ms);
        if gone == 0 || gone < self.times.len() / PRUNE_SHARE {
            return;
        }
        self.times.drain(..gone);
        self.floats.drain(..gone);
        if !self.histograms.is_empty() {
            self.histograms.drain(..gone);
        }
        if !self.starts.is_empty() {
            self.starts.drain(..gone);
        }
    }
}
