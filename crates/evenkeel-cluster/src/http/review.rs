use http::Method;
use serde_json::{Value, json};

use super::{
    reply::{self, Reply},
    request::Request,
};
use crate::error::ApiError;

/// Kinds that are only asked and never stored: group, plural, kind.
pub(super) const REVIEWS: [(&str, &str, &str); 5] = [
    ("authentication.k8s.io", "selfsubjectreviews", "SelfSubjectReview"),
    ("authorization.k8s.io", "selfsubjectaccessreviews", "SelfSubjectAccessReview"),
    ("authorization.k8s.io", "selfsubjectrulesreviews", "SelfSubjectRulesReview"),
    ("authorization.k8s.io", "subjectaccessreviews", "SubjectAccessReview"),
    ("authentication.k8s.io", "tokenreviews", "TokenReview"),
];

/// Answers `kubectl auth can-i` and `whoami`: a client with a token may do everything here.
pub(super) fn answer(
    request: &Request,
    group: &str,
    version: &str,
    rest: &[&str],
) -> Result<Option<Reply>, ApiError> {
    let &[plural] = rest else { return Ok(None) };
    let known = REVIEWS.iter().find(|(known, name, _)| *known == group && *name == plural);
    let Some((_, _, kind)) = known.filter(|_| version == "v1") else { return Ok(None) };
    if request.method != Method::POST {
        return Err(ApiError::method_not_allowed(format!("{kind} can only be created")));
    }
    let mut body = request.value()?;
    if !body.is_object() {
        return Err(ApiError::bad_request("the body is not an object"));
    }
    body["apiVersion"] = json!(format!("{group}/{version}"));
    body["kind"] = json!(kind);
    if body.get("metadata").is_none_or(Value::is_null) {
        body["metadata"] = json!({"creationTimestamp": null});
    }
    body["status"] = match *kind {
        "SelfSubjectReview" => {
            let mut info = json!({"username": request.user.name, "groups": request.user.groups});
            if !request.user.uid.is_empty() {
                info["uid"] = json!(request.user.uid);
            }
            if !request.user.extra.is_empty() {
                info["extra"] = json!(request.user.extra);
            }
            json!({"userInfo": info})
        }
        "SelfSubjectRulesReview" => json!({"incomplete": false,
            "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}],
            "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}]}),
        "TokenReview" => json!({"authenticated": false,
            "error": "this cluster's tokens are its own: they cannot be reviewed"}),
        _ => json!({"allowed": true, "reason": "every token of this cluster may do everything"}),
    };
    Ok(Some(reply::json(201, &body)))
}
