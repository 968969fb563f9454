//! The text formats that programs expose metrics in: Prometheus text 0.0.4 and `OpenMetrics` 1.0.

mod line;
mod parse;
mod write;

pub use parse::parse;
pub use write::{BucketCounts, Writer};

use crate::labels::Labels;
use std::collections::BTreeMap;

/// Bytes one exposition may have.
pub const BYTES_MAX: usize = 64 << 20;

/// Which of the two formats a text is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Prometheus text, version 0.0.4 (timestamps in milliseconds).
    Text,
    /// `OpenMetrics` (timestamps in seconds, `# EOF` at the end).
    OpenMetrics,
}

impl Format {
    /// The format a `Content-Type` header names; plain text when in doubt.
    pub fn of_content_type(content_type: &str) -> Self {
        let kind = content_type.split(';').next().unwrap_or_default().trim();
        if kind.eq_ignore_ascii_case("application/openmetrics-text") {
            Self::OpenMetrics
        } else {
            Self::Text
        }
    }

    /// The `Content-Type` header for it.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// What a metric family is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// Only grows, until its process restarts.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Buckets, sum and count.
    Histogram,
    /// A histogram whose counts go up and down.
    GaugeHistogram,
    /// Quantiles, sum and count.
    Summary,
    /// Constant 1 with informative labels.
    Info,
    /// One of several states.
    StateSet,
    /// Not given.
    #[default]
    Unknown,
}

impl Kind {
    /// As the formats and the HTTP API write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
            Self::GaugeHistogram => "gaugehistogram",
            Self::Summary => "summary",
            Self::Info => "info",
            Self::StateSet => "stateset",
            Self::Unknown => "unknown",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "counter" => Self::Counter,
            "gauge" => Self::Gauge,
            "histogram" => Self::Histogram,
            "gaugehistogram" => Self::GaugeHistogram,
            "summary" => Self::Summary,
            "info" => Self::Info,
            "stateset" => Self::StateSet,
            "unknown" | "untyped" => Self::Unknown,
            _ => return None,
        })
    }
}

/// What is known about a metric family besides its samples.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Family {
    /// Its kind.
    pub kind: Kind,
    /// Its help text, unescaped.
    pub help: String,
    /// Its unit.
    pub unit: String,
}

/// An exemplar of a sample.
#[derive(Clone, Debug, PartialEq)]
pub struct Exemplar {
    /// Its labels, such as a trace id.
    pub labels: Labels,
    /// The observed value.
    pub value: f64,
    /// When, in milliseconds, if given.
    pub t_ms: Option<i64>,
}

/// One sample line.
#[derive(Clone, Debug, PartialEq)]
pub struct ExposedSample {
    /// Labels with the metric name.
    pub labels: Labels,
    /// The value.
    pub value: f64,
    /// Explicit time in milliseconds, if given.
    pub t_ms: Option<i64>,
    /// Exemplar, if given.
    pub exemplar: Option<Exemplar>,
}

/// A parsed exposition.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Exposition {
    /// Families by name.
    pub families: BTreeMap<String, Family>,
    /// Samples in the order of the text.
    pub samples: Vec<ExposedSample>,
}

/// A text that is not an exposition: position and reason.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("line {line}, column {column}: {reason}")]
pub struct ExpositionError {
    /// Line, from 1.
    pub line: usize,
    /// Byte in the line, from 1.
    pub column: usize,
    /// What is wrong there.
    pub reason: String,
}

#[cfg(test)]
mod tests;
