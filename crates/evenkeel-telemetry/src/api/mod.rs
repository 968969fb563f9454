//! The Prometheus HTTP API: request in, response out, no sockets.
//!
//! **Source**: web/api/v1/api.go of Prometheus; envelopes, error types and status codes are its.

mod catalog;
mod params;
mod query;
mod rules;
mod state;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::Telemetry;
use params::Params;

/// Bytes a form may have.
pub const BODY_BYTES_MAX: usize = 1 << 20;

const PREFIX: &str = "/api/v1/";
/// Warnings (and infos) shown at most, as upstream does.
const REMARKS_MAX: usize = 10;

/// Data of a successful answer, with what is worth a remark.
struct Reply {
    data: Value,
    warnings: Vec<String>,
    infos: Vec<String>,
}

impl From<Value> for Reply {
    fn from(data: Value) -> Self {
        Self { data, warnings: Vec::new(), infos: Vec::new() }
    }
}

impl Reply {
    fn with_warning(mut self, warning: Option<String>) -> Self {
        self.warnings.extend(warning);
        self
    }
}

/// An unsuccessful answer.
#[derive(Debug, Clone, PartialEq, Eq)]
enum ApiError {
    BadData(String),
    Execution(String),
    Timeout(String),
    Internal(String),
    NotFound,
}

impl ApiError {
    fn parameter(name: &str, problem: impl std::fmt::Display) -> Self {
        Self::BadData(format!("invalid parameter {name:?}: {problem}"))
    }

    fn response(&self) -> Response<Bytes> {
        let (status, kind, text) = match self {
            Self::BadData(text) => (StatusCode::BAD_REQUEST, "bad_data", text),
            Self::Execution(text) => (StatusCode::UNPROCESSABLE_ENTITY, "execution", text),
            Self::Timeout(text) => (StatusCode::SERVICE_UNAVAILABLE, "timeout", text),
            Self::Internal(text) => (StatusCode::INTERNAL_SERVER_ERROR, "internal", text),
            Self::NotFound => return plain(StatusCode::NOT_FOUND, "404 page not found\n"),
        };
        json_body(status, &json!({"status": "error", "errorType": kind, "error": text}))
    }
}

/// Answers one request. `now` is the default of `time` and similar parameters.
pub fn handle(telemetry: &Telemetry, request: &Request<Bytes>, now: Timestamp) -> Response<Bytes> {
    let path = request.uri().path();
    if let "/-/healthy" | "/-/ready" = path {
        let word = if path == "/-/ready" { "Ready" } else { "Healthy" };
        return plain(StatusCode::OK, &format!("evenkeel telemetry is {word}.\n"));
    }
    let Some(endpoint) = path.strip_prefix(PREFIX) else { return ApiError::NotFound.response() };
    if !known(endpoint) {
        return ApiError::NotFound.response();
    }
    let form = takes_form(endpoint);
    if !(request.method() == Method::GET || (form && request.method() == Method::POST)) {
        let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed\n");
        let allow = if form { "GET, POST" } else { "GET" };
        response.headers_mut().insert(header::ALLOW, header::HeaderValue::from_static(allow));
        return response;
    }
    let answer = Params::of(request, now).and_then(|params| answer(telemetry, endpoint, &params));
    match answer {
        Ok(reply) => success(reply),
        Err(error) => error.response(),
    }
}

fn answer(telemetry: &Telemetry, endpoint: &str, params: &Params) -> Result<Reply, ApiError> {
    match endpoint {
        "query" => query::instant(telemetry, params),
        "query_range" => query::range(telemetry, params),
        "format_query" => query::format(params),
        "query_exemplars" | "notifications" => Ok(json!([]).into()),
        "series" => catalog::series(telemetry, params),
        "labels" => catalog::label_names(telemetry, params),
        "metadata" => catalog::metadata(telemetry, params),
        "targets" => state::targets(telemetry, params),
        "rules" => rules::rules(telemetry, params),
        "alerts" => Ok(rules::alerts(telemetry)),
        "alertmanagers" => {
            Ok(json!({"activeAlertmanagers": [], "droppedAlertmanagers": []}).into())
        }
        "status/buildinfo" => Ok(state::build_info()),
        other => match label_of(other) {
            Some(name) => catalog::label_values(telemetry, params, name),
            None => Err(ApiError::NotFound),
        },
    }
}

fn known(endpoint: &str) -> bool {
    const ALL: [&str; 13] = [
        "query",
        "query_range",
        "format_query",
        "query_exemplars",
        "notifications",
        "series",
        "labels",
        "metadata",
        "targets",
        "rules",
        "alerts",
        "alertmanagers",
        "status/buildinfo",
    ];
    ALL.contains(&endpoint) || label_of(endpoint).is_some()
}

fn takes_form(endpoint: &str) -> bool {
    matches!(
        endpoint,
        "query" | "query_range" | "format_query" | "query_exemplars" | "series" | "labels"
    )
}

/// The name in `label/<name>/values`.
fn label_of(endpoint: &str) -> Option<&str> {
    let name = endpoint.strip_prefix("label/")?.strip_suffix("/values")?;
    (!name.contains('/')).then_some(name)
}

fn success(reply: Reply) -> Response<Bytes> {
    let mut body = json!({"status": "success", "data": reply.data});
    for (key, texts) in [("warnings", reply.warnings), ("infos", reply.infos)] {
        if !texts.is_empty() {
            body[key] = texts.into();
        }
    }
    json_body(StatusCode::OK, &body)
}

fn json_body(status: StatusCode, body: &Value) -> Response<Bytes> {
    respond(status, "application/json", Bytes::from(body.to_string()))
}

fn plain(status: StatusCode, text: &str) -> Response<Bytes> {
    respond(status, "text/plain; charset=utf-8", Bytes::copy_from_slice(text.as_bytes()))
}

fn respond(status: StatusCode, kind: &'static str, body: Bytes) -> Response<Bytes> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    response
}
