//! What the server answered, or that it did not answer, in the terms of the port.

use std::time::Duration;

use evenkeel_control::StoreError;
use http::StatusCode;
use serde_json::Value;

use crate::words::describe;

/// Characters of an answer that is not a Status that are shown: proxies send whole pages.
const TEXT_MAX: usize = 300;

/// Why an exchange gave no result.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The server answered with a refusal.
    Status(Status),
    /// It did not answer in time.
    Silent(Duration),
    /// There was no exchange, or it broke off.
    Broken(String),
}

/// A refusal: what we read of a `Status` object, or of whatever came in its place.
#[derive(Debug, Default)]
pub(crate) struct Status {
    code: u16,
    reason: String,
    message: String,
    /// `details.name`: the object that is not there.
    name: String,
    /// `details.kind`: a plural, as in URLs.
    plural: String,
    retry_after: Option<Duration>,
}

impl Failure {
    /// An answer with a bad status line.
    pub(crate) fn status(code: StatusCode, body: &[u8]) -> Self {
        let status = serde_json::from_slice(body).ok().and_then(|body| Status::read(&body));
        let plain = || Status {
            message: String::from_utf8_lossy(body).trim().chars().take(TEXT_MAX).collect(),
            ..Status::default()
        };
        Self::Status(Status { code: code.as_u16(), ..status.unwrap_or_else(plain) })
    }

    /// No exchange, because of this error; `plugin` is where the credentials come from.
    pub(crate) fn broken(error: &kube::Error, plugin: Option<&str>) -> Self {
        Self::Broken(match error {
            // The envelope adds nothing.
            kube::Error::Service(error) => describe(&**error, plugin),
            other => describe(other, plugin),
        })
    }

    /// A `Status` object in the place of a watch event.
    pub(crate) fn event(body: &Value) -> Self {
        Self::Status(Status::read(body).unwrap_or_default())
    }

    /// Whether the server knows no such path: the kind, or this version of it, is not served.
    /// "There is no such object" has the same code, but names the object.
    pub(crate) fn is_unknown_path(&self) -> bool {
        matches!(self, Self::Status(status) if status.code == 404 && !status.names_an_object())
    }

    /// Whether the server has forgotten a revision of its history.
    pub(crate) fn is_gone(&self) -> bool {
        matches!(self, Self::Status(status) if status.code == 410)
    }

    /// Whether only a person can change the answer.
    pub(crate) fn is_refusal(&self) -> bool {
        matches!(self, Self::Status(status) if matches!(status.code, 401 | 403 | 404 | 405))
    }

    /// Whether something is wrong. That an object is missing, exists already or has changed is
    /// normal.
    pub(crate) fn is_trouble(&self) -> bool {
        match self {
            Self::Status(status) => !matches!(status.code, 404 | 409 | 410),
            Self::Silent(_) | Self::Broken(_) => true,
        }
    }

    /// How long the server asks us to wait.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status(status) => status.retry_after,
            Self::Silent(_) | Self::Broken(_) => None,
        }
    }

    /// The same for a caller of the port; `object` is what the request was about.
    pub(crate) fn translate(self, object: &str) -> StoreError {
        let object = object.to_owned();
        match self {
            Self::Status(status) => status.translate(object),
            Self::Silent(limit) => {
                StoreError::Unreachable { object, problem: format!("nothing within {limit:?}") }
            }
            Self::Broken(problem) => StoreError::Unreachable { object, problem },
        }
    }
}

impl From<kube::Error> for Failure {
    fn from(error: kube::Error) -> Self {
        Self::broken(&error, None)
    }
}

impl Status {
    fn read(body: &Value) -> Option<Self> {
        let text = |path: &str| {
            body.pointer(path).and_then(Value::as_str).map(str::to_owned).unwrap_or_default()
        };
        if text("/kind") != "Status" {
            return None;
        }
        let code = body.get("code").and_then(Value::as_u64).and_then(|code| code.try_into().ok());
        let seconds = body.pointer("/details/retryAfterSeconds").and_then(Value::as_u64);
        Some(Self {
            code: code.unwrap_or(500),
            reason: text("/reason"),
            message: text("/message"),
            name: text("/details/name"),
            plural: text("/details/kind"),
            retry_after: seconds.filter(|seconds| *seconds > 0).map(Duration::from_secs),
        })
    }

    fn names_an_object(&self) -> bool {
        self.reason == "NotFound" && !self.name.is_empty()
    }

    fn translate(self, object: String) -> StoreError {
        let problem = if self.message.is_empty() {
            format!("HTTP status {}", self.code)
        } else {
            self.message.clone()
        };
        match (self.code, self.reason.as_str()) {
            // A write into a namespace that is not there is about the namespace.
            (404, _) if self.plural == "namespaces" && self.names_an_object() => {
                StoreError::NotFound { object: format!("Namespace/{}", self.name) }
            }
            (404, _) if self.names_an_object() => StoreError::NotFound { object },
            (409, "AlreadyExists") => StoreError::Exists { object },
            (409 | 410, _) => StoreError::Conflict { object, problem },
            (400 | 422, _) => StoreError::Invalid { object, problem },
            (429, _) => StoreError::Busy { object, problem },
            (code, _) if code >= 500 => StoreError::Unreachable { object, problem },
            _ => StoreError::Refused { object, problem },
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn answer(code: u16, body: &str) -> Failure {
        Failure::status(StatusCode::from_u16(code).unwrap(), body.as_bytes())
    }

    #[test]
    fn a_missing_object_and_an_unknown_kind_are_distinguished() {
        let missing = json!({"kind": "Status", "code": 404, "reason": "NotFound",
            "message": "pods \"a\" not found", "details": {"name": "a", "kind": "pods"}});
        let missing = answer(404, &missing.to_string());
        assert!(!missing.is_unknown_path());
        assert!(matches!(missing.translate("Pod/x/a"), StoreError::NotFound { .. }));
        for unknown in [
            answer(404, "404 page not found\n"),
            answer(
                404,
                &json!({"kind": "Status", "code": 404, "reason": "NotFound", "details": {},
                    "message": "the server could not find the requested resource"})
                .to_string(),
            ),
            answer(404, "<html>default backend - 404</html>"),
        ] {
            assert!(unknown.is_unknown_path(), "{unknown:?}");
            let error = unknown.translate("Pod/x/a");
            assert!(matches!(error, StoreError::Refused { .. }), "{error:?}");
        }
    }

    #[test]
    fn a_write_into_a_missing_namespace_names_the_namespace() {
        let body = json!({"kind": "Status", "code": 404, "reason": "NotFound",
            "message": "namespaces \"x\" not found", "details": {"name": "x", "kind": "namespaces"}});
        let error = answer(404, &body.to_string()).translate("ConfigMap/x/a");
        assert_eq!(error.to_string(), "Namespace/x does not exist");
    }

    #[test]
    fn an_answer_that_is_not_a_status_is_shown_in_short() {
        let error = answer(502, &"x".repeat(5000)).translate("Pod/x/a");
        assert!(matches!(error, StoreError::Unreachable { .. }), "{error:?}");
        assert!(error.to_string().len() < 400, "{error}");
        let empty = answer(403, "").translate("Pod/x/a");
        assert_eq!(empty.to_string(), "Pod/x/a: HTTP status 403");
    }

    #[test]
    fn the_server_may_ask_for_a_pause() {
        let body = json!({"kind": "Status", "code": 429, "reason": "TooManyRequests",
            "details": {"retryAfterSeconds": 3}});
        assert_eq!(answer(429, &body.to_string()).retry_after(), Some(Duration::from_secs(3)));
    }
}
