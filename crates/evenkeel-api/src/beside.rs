//! What evenkeel writes on objects, and on definitions, of a cluster on which others work, too.

use serde_json::Value;

/// Annotation by which a person hands an object over to evenkeel: `"true"`. Taking it away hands
/// the object back.
pub const MANAGED: &str = "evenkeel.dev/managed";

/// Annotation with the part of a status that the object's `CustomResourceDefinition` does not keep.
///
/// **Shape**: JSON with `version`, `uid` of the object, and `status`: fields of the status by name,
/// each whole; `null` for one that is not there.
pub const STATUS: &str = "evenkeel.dev/status";

/// Label of the `CustomResourceDefinition`s that evenkeel brings, with the value `"true"`.
pub const DEFINITION: &str = "evenkeel.dev/definition";

/// Whether an object was handed over to evenkeel.
pub fn is_handed_over(object: &Value) -> bool {
    annotation(object, MANAGED) == Some("true")
}

/// An annotation of an object.
pub fn annotation<'a>(object: &'a Value, name: &str) -> Option<&'a str> {
    object.get("metadata")?.get("annotations")?.get(name)?.as_str()
}

/// Whether a `CustomResourceDefinition` says that it is one of evenkeel's.
pub fn is_our_definition(crd: &Value) -> bool {
    let labels = crd.get("metadata").and_then(|metadata| metadata.get("labels"));
    labels.and_then(|labels| labels.get(DEFINITION)).and_then(Value::as_str) == Some("true")
}
