use std::{collections::BTreeMap, fmt::Write as _, time::Duration};

use bytes::Bytes;
use evenkeel_control::{BoxFuture, Metrics, MetricsError, Sample, Series, Span};
use evenkeel_promql::number::parse_float;
use http::{Method, header};
use jiff::Timestamp;
use serde_json::Value;

use super::endpoint::{ClientError, Endpoint};

/// How long one query may take by default.
const TIMEOUT: Duration = Duration::from_secs(5);
/// A Prometheus, Thanos or Mimir that answers `PromQL` over HTTP.
#[derive(Clone)]
pub struct PrometheusClient {
    endpoint: Endpoint,
    authorization: Option<String>,
    timeout: Duration,
}

impl PrometheusClient {
    /// A client for the server at `url`, a prefix path included. With `https://` its certificate
    /// must be signed by one that the platform trusts; `SSL_CERT_FILE` may name others.
    pub fn new(url: &str) -> Result<Self, ClientError> {
        let endpoint = Endpoint::new(url, "/api/v1", "http://prometheus:9090")?;
        Ok(Self { endpoint, authorization: None, timeout: TIMEOUT })
    }

    /// The alerts that are pending or firing: `data.alerts` of Prometheus' API.
    pub async fn alerts(&self) -> Result<Vec<Value>, MetricsError> {
        let asked = tokio::time::timeout(self.timeout, self.exchange(Method::GET, "alerts", ""));
        let (status, body) = asked
            .await
            .map_err(|_| unreachable(format!("no answer within {:?}", self.timeout)))??;
        let answer: Value = serde_json::from_slice(&body)
            .map_err(|_| unreachable(format!("HTTP status {status} without a JSON answer")))?;
        answer.pointer("/data/alerts").and_then(Value::as_array).cloned().ok_or_else(odd)
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
        let (status, body) =
            tokio::time::timeout(self.timeout, self.exchange(Method::POST, path, &form))
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

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        form: &str,
    ) -> Result<(u16, Bytes), MetricsError> {
        let mut request = self
            .endpoint
            .request(method, path)
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header(header::ACCEPT, "application/json");
        if let Some(authorization) = &self.authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        self.endpoint.send(request, form.to_owned()).await.map_err(unreachable)
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
pub(super) fn encode(text: &str) -> String {
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };
    use tokio_rustls::{
        TlsAcceptor,
        rustls::{self, ClientConfig, RootCertStore, ServerConfig, pki_types::PrivateKeyDer},
    };

    use super::*;

    /// A server that answers 7 to every query, over TLS; its port, and what clients must trust.
    async fn server() -> (u16, RootCertStore) {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let chain = vec![made.cert.der().clone()];
        let mut roots = RootCertStore::empty();
        roots.add(made.cert.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let acceptor = TlsAcceptor::from(Arc::new(config.clone()));
                tokio::spawn(async move {
                    let Ok(mut stream) = acceptor.accept(stream).await else { return };
                    let mut request = vec![0; 4096];
                    assert!(stream.read(&mut request).await.unwrap() > 0);
                    let body = r#"{"status": "success", "data":
                        {"resultType": "scalar", "result": [0, "7"]}}"#;
                    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
                    stream.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
                });
            }
        });
        (port, roots)
    }

    #[tokio::test]
    async fn https_is_spoken_with_those_whose_certificate_is_trusted() {
        let (port, roots) = server().await;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let mut client = PrometheusClient::new(&format!("https://localhost:{port}")).unwrap();
        let error = client.query("x", Timestamp::UNIX_EPOCH).await.unwrap_err().to_string();
        assert!(error.contains("invalid peer certificate: UnknownIssuer"), "{error}");
        client.endpoint.trust(config);
        let samples = client.query("x", Timestamp::UNIX_EPOCH).await.unwrap();
        assert_eq!(samples.iter().map(|sample| sample.value).collect::<Vec<_>>(), [7.0]);
    }

    #[tokio::test]
    async fn a_silent_server_has_a_limit_in_the_handshake_too() {
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://localhost:{}", silent.local_addr().unwrap().port());
        let client = PrometheusClient::new(&url).unwrap().with_timeout(Duration::from_millis(50));
        let error = client.query("x", Timestamp::UNIX_EPOCH).await.unwrap_err();
        assert_eq!(error.to_string(), "metrics server: no answer within 50ms");
    }
}
