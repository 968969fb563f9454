use std::fmt;

use evenkeel_api::{GroupKind, Key, ObjError};
use evenkeel_control::{NO_KIND, StoreError};
use serde_json::{Map, Value, json};

/// A refusal as the Kubernetes API words it; becomes a `Status` object or a [`StoreError`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiError {
    /// HTTP status.
    pub code: u16,
    /// Machine-readable reason, such as `NotFound`.
    pub reason: &'static str,
    /// For people.
    pub message: String,
    /// Group, kind or plural, and name of the object; empty texts are left out.
    pub about: Box<About>,
    /// One entry per field that is wrong.
    pub causes: Vec<Cause>,
    /// Seconds after which trying again may help.
    pub retry_after_seconds: Option<u32>,
    /// Whether the server has no such kind.
    pub no_kind: bool,
}

/// What a refusal is about.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct About {
    /// API group.
    pub group: String,
    /// Kind or plural, as Kubernetes does for this reason.
    pub kind: String,
    /// Object name.
    pub name: String,
    /// Object uid.
    pub uid: String,
}

/// What is wrong with one field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// Such as `FieldValueInvalid`.
    pub reason: &'static str,
    /// Path, such as `spec.template.spec.containers[0].image`.
    pub field: String,
    /// What is wrong, without the path.
    pub message: String,
}

impl ApiError {
    /// A refusal without details.
    pub fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            reason,
            message: message.into(),
            about: Box::default(),
            causes: Vec::new(),
            retry_after_seconds: None,
            no_kind: false,
        }
    }

    /// The request itself makes no sense.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    /// Not allowed for any client.
    pub fn method_not_allowed(message: impl Into<String>) -> Self {
        Self::new(405, "MethodNotAllowed", message)
    }

    /// The server has no such kind.
    pub fn no_kind(kind: &GroupKind) -> Self {
        let mut error = Self::new(404, "NotFound", format!("{NO_KIND} {kind}"));
        error.no_kind = true;
        error
    }

    /// The URL names nothing this server has.
    pub fn no_resource() -> Self {
        Self::new(404, "NotFound", "the server could not find the requested resource")
    }

    /// The URL names something that Kubernetes has and this server has not.
    pub fn not_served(why: &str) -> Self {
        Self::new(
            404,
            "NotFound",
            format!("the server could not find the requested resource: {why}"),
        )
    }

    /// The wanted point in history is no longer kept.
    pub fn expired(revision: u64) -> Self {
        Self::new(410, "Expired", format!("too old resource version: {revision}"))
    }

    /// `plural.group "name" not found`.
    pub fn not_found(group: &str, plural: &str, name: &str) -> Self {
        let message = format!("{} \"{name}\" not found", qualified(group, plural));
        Self::new(404, "NotFound", message).about(group, plural, name)
    }

    /// `plural.group "name" already exists`.
    pub fn exists(group: &str, plural: &str, name: &str) -> Self {
        let message = format!("{} \"{name}\" already exists", qualified(group, plural));
        Self::new(409, "AlreadyExists", message).about(group, plural, name)
    }

    /// Another writer was faster, or it is another object of the same name.
    pub fn conflict(group: &str, plural: &str, name: &str, problem: &str) -> Self {
        let message = format!(
            "Operation cannot be fulfilled on {} \"{name}\": {problem}",
            qualified(group, plural)
        );
        Self::new(409, "Conflict", message).about(group, plural, name)
    }

    /// Refused for a reason outside of the object.
    pub fn forbidden(group: &str, plural: &str, name: &str, problem: &str) -> Self {
        let message = format!("{} \"{name}\" is forbidden: {problem}", qualified(group, plural));
        Self::new(403, "Forbidden", message).about(group, plural, name)
    }

    /// Fields are wrong.
    pub fn invalid(group: &str, kind: &str, name: &str, causes: Vec<Cause>) -> Self {
        let mut words: Vec<String> =
            causes.iter().map(|cause| format!("{}: {}", cause.field, cause.message)).collect();
        let words = match words.len() {
            1 => words.remove(0),
            _ => format!("[{}]", words.join(", ")),
        };
        let message = format!("{} \"{name}\" is invalid: {words}", qualified(group, kind));
        Self { causes, ..Self::new(422, "Invalid", message).about(group, kind, name) }
    }

    fn about(mut self, group: &str, kind: &str, name: &str) -> Self {
        self.about = Box::new(About {
            group: group.to_owned(),
            kind: kind.to_owned(),
            name: name.to_owned(),
            uid: String::new(),
        });
        self
    }

    /// The `Status` object that says so.
    pub fn to_status(&self) -> Value {
        let mut details = Map::new();
        for (field, text) in [
            ("name", &self.about.name),
            ("group", &self.about.group),
            ("kind", &self.about.kind),
            ("uid", &self.about.uid),
        ] {
            if !text.is_empty() {
                details.insert(field.to_owned(), json!(text));
            }
        }
        if !self.causes.is_empty() {
            let causes: Vec<Value> = self
                .causes
                .iter()
                .map(|cause| {
                    json!({"reason": cause.reason, "message": cause.message, "field": cause.field})
                })
                .collect();
            details.insert("causes".to_owned(), Value::Array(causes));
        }
        if let Some(seconds) = self.retry_after_seconds {
            details.insert("retryAfterSeconds".to_owned(), json!(seconds));
        }
        let mut status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {},
            "status": "Failure", "message": self.message, "reason": self.reason});
        // Also when empty: kubectl debug looks into it without asking whether it is there.
        status["details"] = Value::Object(details);
        status["code"] = json!(self.code);
        status
    }

    /// The same refusal for callers of the [`evenkeel_control::Store`] port.
    pub fn to_store_error(&self, key: &Key) -> StoreError {
        let object = key.to_string();
        let problem = self.message.clone();
        match (self.code, self.reason) {
            _ if self.no_kind => StoreError::NoKind { object, kind: key.kind.clone() },
            (404, _) if self.about.name == *key.name => StoreError::NotFound { object },
            (409, "AlreadyExists") => StoreError::Exists { object },
            (409, _) => StoreError::Conflict { object, problem },
            (400 | 422, _) => StoreError::Invalid { object, problem },
            (429 | 503 | 507, _) => StoreError::Busy { object, problem },
            _ => StoreError::Refused { object, problem },
        }
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ApiError {}

impl From<ObjError> for ApiError {
    fn from(error: ObjError) -> Self {
        Self::bad_request(error.to_string())
    }
}

/// `deployments.apps`, or the bare word in the core group.
pub(crate) fn qualified(group: &str, kind: &str) -> String {
    if group.is_empty() { kind.to_owned() } else { format!("{kind}.{group}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_read_as_kubernetes_words_them() {
        let error = ApiError::not_found("apps", "deployments", "web");
        assert_eq!(error.message, "deployments.apps \"web\" not found");
        assert_eq!(error.to_status()["details"]["kind"], "deployments");
        let cause = |field: &str| Cause {
            reason: "FieldValueRequired",
            field: field.to_owned(),
            message: "Required value".to_owned(),
        };
        let error = ApiError::invalid("", "Pod", "a", vec![cause("spec.a"), cause("spec.b")]);
        assert_eq!(
            error.message,
            "Pod \"a\" is invalid: [spec.a: Required value, spec.b: Required value]"
        );
        assert_eq!(error.to_status()["details"]["causes"][1]["field"], "spec.b");
    }
}
