//! What a query returns, and its shape in the Prometheus HTTP API.

use crate::annotation::{Annotations, Level};
use crate::histogram::Histogram;
use crate::labels::Labels;
use crate::number::format_float;
use crate::sample::{Point, Value};
use serde_json::{Value as Json, json};

/// Warnings (and infos) the HTTP API shows at most.
const SHOWN_MAX: usize = 10;

/// The value of a query.
#[derive(Clone, Debug, PartialEq)]
pub enum QueryValue {
    /// A number.
    Scalar {
        /// Evaluation time.
        t_ms: i64,
        /// The number.
        value: f64,
    },
    /// A text.
    Text {
        /// Evaluation time.
        t_ms: i64,
        /// The text.
        text: String,
    },
    /// One sample per series.
    Vector(Vec<VectorSample>),
    /// Several samples per series.
    Matrix(Vec<MatrixSeries>),
}

/// A series' sample in an instant vector.
#[derive(Clone, Debug, PartialEq)]
pub struct VectorSample {
    /// The series.
    pub labels: Labels,
    /// The sample's time.
    pub t_ms: i64,
    /// The sample's value.
    pub value: Value,
}

/// A series in a matrix.
#[derive(Clone, Debug, PartialEq)]
pub struct MatrixSeries {
    /// The series.
    pub labels: Labels,
    /// Its samples by time.
    pub points: Vec<Point>,
}

/// A query's value, what is worth knowing about it, and what it cost.
#[derive(Clone, Debug, PartialEq)]
pub struct QueryResult {
    /// The value.
    pub value: QueryValue,
    /// Warnings and infos.
    pub annotations: Annotations,
    /// The query's text; positions in annotations refer to it.
    pub text: std::sync::Arc<str>,
    /// Samples read.
    pub samples_read: u64,
}

impl QueryResult {
    /// Warnings with their positions.
    pub fn warnings(&self) -> Vec<String> {
        self.annotations.texts(Level::Warning, &self.text)
    }

    /// Infos with their positions.
    pub fn infos(&self) -> Vec<String> {
        self.annotations.texts(Level::Info, &self.text)
    }

    /// `{"resultType": ..., "result": ...}`, the `data` of `/api/v1/query` and
    /// `/api/v1/query_range`.
    pub fn to_json(&self) -> Json {
        self.value.to_json()
    }

    /// The whole answer: `{"status": "success", "data": ..., "warnings": [...], "infos": [...]}`.
    pub fn to_response(&self) -> Json {
        let mut out = json!({"status": "success", "data": self.to_json()});
        for (key, mut texts) in [("warnings", self.warnings()), ("infos", self.infos())] {
            if texts.len() > SHOWN_MAX {
                let more = texts.len() - SHOWN_MAX;
                texts.truncate(SHOWN_MAX);
                texts.push(format!("{more} more {key} omitted"));
            }
            if !texts.is_empty() {
                out[key] = json!(texts);
            }
        }
        out
    }
}

impl QueryValue {
    /// `{"resultType": ..., "result": ...}`
    pub fn to_json(&self) -> Json {
        let (kind, result) = match self {
            Self::Scalar { t_ms, value } => ("scalar", pair(*t_ms, *value)),
            Self::Text { t_ms, text } => ("string", json!([timestamp(*t_ms), text])),
            Self::Vector(samples) => ("vector", samples.iter().map(vector_item).collect()),
            Self::Matrix(series) => ("matrix", series.iter().map(matrix_item).collect()),
        };
        json!({"resultType": kind, "result": result})
    }
}

/// Seconds with at most three decimals, as a JSON number.
fn timestamp(t_ms: i64) -> Json {
    if t_ms % 1000 == 0 { json!(t_ms / 1000) } else { json!(t_ms as f64 / 1000.0) }
}

fn pair(t_ms: i64, value: f64) -> Json {
    json!([timestamp(t_ms), format_float(value)])
}

fn vector_item(sample: &VectorSample) -> Json {
    let metric = json!(sample.labels);
    match &sample.value {
        Value::Float(value) => json!({"metric": metric, "value": pair(sample.t_ms, *value)}),
        Value::Histogram(h) => {
            json!({"metric": metric, "histogram": [timestamp(sample.t_ms), histogram(h)]})
        }
    }
}

fn matrix_item(series: &MatrixSeries) -> Json {
    let mut item = json!({"metric": series.labels});
    let floats: Vec<Json> = series
        .points
        .iter()
        .filter_map(|p| p.value.as_float().map(|value| pair(p.t_ms, value)))
        .collect();
    let histograms: Vec<Json> = series
        .points
        .iter()
        .filter_map(|p| p.value.as_histogram().map(|h| json!([timestamp(p.t_ms), histogram(h)])))
        .collect();
    if !floats.is_empty() || histograms.is_empty() {
        item["values"] = Json::Array(floats);
    }
    if !histograms.is_empty() {
        item["histograms"] = Json::Array(histograms);
    }
    item
}

/// `{"count": "4", "sum": "5", "buckets": [[boundaries, "0.5", "1", "1"], ...]}`
fn histogram(h: &Histogram) -> Json {
    let mut out = json!({"count": format_float(h.count), "sum": format_float(h.sum)});
    let buckets: Vec<Json> = h
        .shown_buckets()
        .iter()
        .map(|b| {
            // 0 open left, 1 open right, 2 open both, 3 closed both.
            let boundaries = match (b.lower_inclusive, b.upper_inclusive) {
                (false, true) => 0,
                (true, false) => 1,
                (false, false) => 2,
                (true, true) => 3,
            };
            json!([boundaries, format_float(b.lower), format_float(b.upper), format_float(b.count)])
        })
        .collect();
    if !buckets.is_empty() {
        out["buckets"] = Json::Array(buckets);
    }
    out
}
