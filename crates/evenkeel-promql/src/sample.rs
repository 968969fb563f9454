//! One sample's value: a float or a native histogram.

use crate::histogram::Histogram;
use std::sync::Arc;

/// A value at one time.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A float.
    Float(f64),
    /// A native histogram.
    Histogram(Arc<Histogram>),
}

impl Value {
    /// The float, `None` for a histogram.
    pub fn as_float(&self) -> Option<f64> {
        match self {
            Self::Float(value) => Some(*value),
            Self::Histogram(_) => None,
        }
    }

    /// The histogram, `None` for a float.
    pub fn as_histogram(&self) -> Option<&Arc<Histogram>> {
        match self {
            Self::Float(_) => None,
            Self::Histogram(histogram) => Some(histogram),
        }
    }

    /// Whether this marks the end of a series.
    pub fn is_stale(&self) -> bool {
        match self {
            Self::Float(value) => crate::number::is_stale(*value),
            Self::Histogram(histogram) => crate::number::is_stale(histogram.sum),
        }
    }
}

impl From<f64> for Value {
    fn from(value: f64) -> Self {
        Self::Float(value)
    }
}

impl From<Histogram> for Value {
    fn from(value: Histogram) -> Self {
        Self::Histogram(Arc::new(value))
    }
}

/// A value and when it was, in milliseconds since the epoch.
#[derive(Clone, Debug, PartialEq)]
pub struct Point {
    /// Milliseconds since the epoch.
    pub t_ms: i64,
    /// The value.
    pub value: Value,
}
