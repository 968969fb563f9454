use std::{collections::BTreeMap, fmt::Write as _, time::Duration};

use bytes::Bytes;
use evenkeel_control::{BoxFuture, Metrics, MetricsError, Sample, Series, Span};
use evenkeel_promql::number::parse_float;
use http::{Request, Uri, header};
use http_body_util::{BodyExt as _, Full, Limited};
use jiff::Timestamp;
use serde_json::Value;

use super::{HttpClient, chain, http_client};

/// How long one query may take unless told otherwise.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes an answer may have: checks ask for a few numbers.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// A Prometheus, Thanos or Mimir that answers `PromQL` over HTTP.
#[derive(Clone)]
pub struct PrometheusClient {
    client: HttpClient,
    url: String,
    authorization: Option<String>,
    timeout: Duration,
}

/// Why an address cannot be one of a Prometheus.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{url:?} is no address of a metrics server: {problem} (write it like http://prometheus:9090)"
)]
pub struct ClientError {
    /// As given.
    pub url: String,
    /// What is wrong with it.
    pub problem: String,
}

impl PrometheusClient {
    /// A client for the server at `url`, a prefix path included.
    pub fn new(url: &str) -> Result<Self, ClientError> {
        let bad = |problem: String| ClientError { url: url.to_owned(), problem };
        let uri: Uri =
            url.parse().map_err(|error: http::uri::InvalidUri| bad(error.to_string()))?;
        match uri.scheme_str() {
            Some("http") => {}
            Some(other) => return Err(bad(format!("{other} is not supported, only http is"))),
            None => return Err(bad("the http:// in front is missing".to_owned())),
        }
        if uri.query().is_some() {
            return Err(bad("it must not have a query".to_owned()));
        }
        let url = format!("{}/api/v1", url.trim_end_matches('/'));
        Ok(Self { client: http_client(TIMEOUT), url, authorization: None, timeout: TIMEOUT })
    }

    /// Sends this `Authorization` header, such as `Bearer ...`.
    #[must_use]
    pub fn with_authorization(mut self, header: &str) -> Self {
        self.authorization = Some(header.to_owned());
        self
    }

    /// Waits this long for an answer instead of 5 s.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    async fn instant(&self, expr: &str, at: Timestamp) -> Result<Vec<Sample>, MetricsError> {
        let form = format!("query={}&time={}", encode(expr), seconds(at));
        let answer = self.ask(expr, "query", form).await?;
        samples(expr, &answer)
    }

    async fn range(&self, expr: &str, span: Span) -> Result<Vec<Series>, MetricsError> {
        let (start, end) = (seconds(span.first), seconds(span.last));
        let step = span.step.as_secs_f64();
        let form = format!("query={}&start={start}&end={end}&step={step}", encode(expr));
        let answer = self.ask(expr, "query_range", form).await?;
        series(expr, &answer)
    }

    async fn ask(&self, expr: &str, path: &str, form: String) -> Result<Value, MetricsError> {
        let (status, body) = tokio::time::timeout(self.timeout, self.post(path, form))
            .await
            .map_err(|_| unreachable(format!("no answer within {:?}", self.timeout)))??;
        let answer: Value = serde_json::from_slice(&body)
            .map_err(|_| unreachable(format!("HTTP status {status} without a JSON answer")))?;
        let text = |field: &str| answer.get(field).and_then(Value::as_str).unwrap_or_default();
        match (text("status"), text("errorType")) {
            ("success", _) => Ok(answer),
            ("error", "bad_data" | "execution") => Err(MetricsError::Invalid {
                expr: expr.to_owned(),
                problem: text("error").to_owned(),
            }),
            (_, kind) => {
                Err(unreachable(format!("HTTP status {status} {kind}: {}", text("error"))))
            }
        }
    }

    async fn post(&self, path: &str, form: String) -> Result<(u16, Bytes), MetricsError> {
        let url = format!("{}/{path}", self.url);
        let mut request = Request::post(&url)
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header(header::ACCEPT, "application/json");
        if let Some(authorization) = &self.authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        let request = request
            .body(Full::from(form))
            .map_err(|error| unreachable(format!("cannot ask {url}: {error}")))?;
        let response =
            self.client.request(request).await.map_err(|error| unreachable(chain(&error)))?;
        let status = response.status().as_u16();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX)
            .collect()
            .await
            .map_err(|error| unreachable(chain(&*error)))?;
        Ok((status, body.to_bytes()))
    }
}

impl Metrics for PrometheusClient {
    fn query<'a>(
        &'a self,
        expr: &'a str,
        at: Timestamp,
    ) -> BoxFuture<'a, Result<Vec<Sample>, MetricsError>> {
        Box::pin(self.instant(expr, at))
    }

    fn query_range<'a>(
        &'a self,
        expr: &'a str,
        span: Span,
    ) -> BoxFuture<'a, Result<Vec<Series>, MetricsError>> {
        Box::pin(self.range(expr, span))
    }
}

/// A moment as the API takes it: seconds with three decimals.
fn seconds(at: Timestamp) -> String {
    let ms = at.as_millisecond();
    format!("{}.{:03}", ms.div_euclid(1000), ms.rem_euclid(1000))
}

fn unreachable(problem: String) -> MetricsError {
    MetricsError::Unreachable { problem }
}

fn odd() -> MetricsError {
    unreachable("the answer is not in the shape of the Prometheus API".to_owned())
}

/// Kind and elements of a successful answer.
fn result(answer: &Value) -> Option<(&str, &Vec<Value>)> {
    let kind = answer.pointer("/data/resultType")?.as_str()?;
    Some((kind, answer.pointer("/data/result")?.as_array()?))
}

fn labels(item: &Value) -> BTreeMap<String, String> {
    let labels = item.get("metric").and_then(Value::as_object).into_iter().flatten();
    labels.filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned()))).collect()
}

/// The value of a pair of time and text.
fn number(pair: &Value) -> Option<f64> {
    parse_float(pair.get(1)?.as_str()?)
}

/// The samples of a successful answer.
fn samples(expr: &str, answer: &Value) -> Result<Vec<Sample>, MetricsError> {
    let (kind, items) = result(answer).ok_or_else(odd)?;
    match kind {
        "scalar" => {
            let pair = Value::Array(items.clone());
            Ok(vec![Sample { labels: BTreeMap::new(), value: number(&pair).ok_or_else(odd)? }])
        }
        "vector" => items
            .iter()
            // Native histograms have no "value": no number to judge by.
            .filter_map(|item| Some((item, item.get("value")?)))
            .map(|(item, pair)| {
                Ok(Sample { labels: labels(item), value: number(pair).ok_or_else(odd)? })
            })
            .collect(),
        other => Err(MetricsError::Invalid {
            expr: expr.to_owned(),
            problem: format!("it gives a {other}, not one number per series"),
        }),
    }
}

/// The series of a successful answer.
fn series(expr: &str, answer: &Value) -> Result<Vec<Series>, MetricsError> {
    let (kind, items) = result(answer).ok_or_else(odd)?;
    if kind != "matrix" {
        let problem = format!("it gives a {kind}, not numbers over time");
        return Err(MetricsError::Invalid { expr: expr.to_owned(), problem });
    }
    let point = |pair: &Value| {
        #[expect(clippy::cast_possible_truncation, reason = "a time in milliseconds fits")]
        let ms = (pair.get(0)?.as_f64()? * 1000.0).round() as i64;
        Some((Timestamp::from_millisecond(ms).ok()?, number(pair)?))
    };
    let one = |item: &Value| {
        let pairs = item.get("values").and_then(Value::as_array).into_iter().flatten();
        let points: Option<Vec<_>> = pairs.map(point).collect();
        Ok(Series { labels: labels(item), points: points.ok_or_else(odd)? })
    };
    items.iter().map(one).collect()
}

/// Encodes a form value.
fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + text.len() / 2);
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            write!(out, "%{byte:02X}").unwrap_or_default();
        }
    }
    out
}
