//! Whether a good answer is an answer to what was asked. A load balancer, or a proxy that signs
//! users in, may answer every request with status 200 and JSON of its own. Taken for an object, or
//! for a list without objects, it would make everything vanish.

use evenkeel_api::GroupKind;
use serde_json::Value;

/// The kind of an object of which only the metadata was asked for.
const PARTIAL: &str = "PartialObjectMetadata";

/// Kind of a JSON value; empty when it says none.
pub(crate) fn kind_of(body: &Value) -> &str {
    body.get("kind").and_then(Value::as_str).unwrap_or_default()
}

/// The object that an answer must be.
pub(crate) struct Asked<'a> {
    pub(crate) kind: &'a GroupKind,
    /// `None` when the kind has no namespaces.
    pub(crate) namespace: Option<&'a str>,
    /// Empty when the server chooses it.
    pub(crate) name: &'a str,
}

impl Asked<'_> {
    /// **Errors**: what the answer is instead.
    pub(crate) fn check(&self, body: &Value) -> Result<(), String> {
        is_of(body, self.kind)?;
        if self.name.is_empty() {
            return Ok(());
        }
        let text = |path| body.pointer(path).and_then(Value::as_str).unwrap_or_default();
        let (namespace, name) = (text("/metadata/namespace"), text("/metadata/name"));
        if name != self.name || self.namespace.is_some_and(|asked| asked != namespace) {
            return Err(format!("the answer is {} {namespace}/{name}", self.kind.kind));
        }
        has_revision(body)
    }
}

/// Whether this is an object of a kind, whole or its metadata.
pub(crate) fn is_of(body: &Value, kind: &GroupKind) -> Result<(), String> {
    let api_version = body.get("apiVersion").and_then(Value::as_str).unwrap_or_default();
    let group = api_version.split_once('/').map_or("", |(group, _)| group);
    match kind_of(body) {
        PARTIAL if group == "meta.k8s.io" => Ok(()),
        found if found == &*kind.kind && group == &*kind.group => Ok(()),
        "" => Err(format!("the answer is not a {}, it names no kind", kind.kind)),
        found => Err(format!("the answer is not a {kind} but a {found} of {api_version:?}")),
    }
}

/// Whether an object is one that a server keeps. Without its revision, the next write would not
/// notice that another one came first.
pub(crate) fn has_revision(body: &Value) -> Result<(), String> {
    let revision = body.pointer("/metadata/resourceVersion").and_then(Value::as_str);
    if revision.is_none_or(str::is_empty) {
        return Err("the answer has no resourceVersion".to_owned());
    }
    Ok(())
}

/// Whether this says that a request which has no object as its answer succeeded.
pub(crate) fn is_success(body: &Value) -> Result<(), String> {
    let status = body.get("status").and_then(Value::as_str);
    if kind_of(body) == "Status" && status == Some("Success") {
        return Ok(());
    }
    Err("the answer does not say that it succeeded".to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_answer_is_the_object_that_was_asked_for_or_an_error() {
        let kind = GroupKind::new("apps", "Deployment");
        let asked = Asked { kind: &kind, namespace: Some("shop"), name: "web" };
        let object = |api_version: &str, kind: &str, namespace: &str, name: &str| {
            json!({"apiVersion": api_version, "kind": kind, "metadata": {
                "namespace": namespace, "name": name, "resourceVersion": "7"}})
        };
        asked.check(&object("apps/v1", "Deployment", "shop", "web")).unwrap();
        asked.check(&object("meta.k8s.io/v1", PARTIAL, "shop", "web")).unwrap();
        let other_name = Asked { name: "", ..asked };
        other_name.check(&object("apps/v1", "Deployment", "shop", "web-x7")).unwrap();
        let asked = Asked { name: "web", ..other_name };
        for other in [
            json!({"status": "maintenance"}),
            json!([]),
            object("apps/v1", "ReplicaSet", "shop", "web"),
            object("v1", "Deployment", "shop", "web"),
            object("apps/v1", "Deployment", "shop", "other"),
            object("apps/v1", "Deployment", "other", "web"),
            json!({"apiVersion": "apps/v1", "kind": "Deployment",
                "metadata": {"namespace": "shop", "name": "web"}}),
        ] {
            assert!(asked.check(&other).is_err(), "{other}");
        }
    }

    #[test]
    fn success_is_said_and_not_guessed() {
        is_success(&json!({"kind": "Status", "status": "Success"})).unwrap();
        for other in [json!({"status": "Success"}), json!({"kind": "Status", "status": "Failure"})]
        {
            assert!(is_success(&other).is_err(), "{other}");
        }
    }
}
