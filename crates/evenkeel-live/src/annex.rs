//! The part of a status that the API server does not keep, in an annotation of the same object.
//!
//! ```text
//! read    status of the object  <-- fields of the annotation take their place
//! write   1. annotation: every field that was ever written this way, whole; conditioned on the
//!            revision that was read, so that two writers do not lose each other's part
//!         2. status: the same fields, as far as the schema has them; for people
//! ```
//! What counts is in one write. The second one may be lost or refused; the next one repeats it.

use evenkeel_api::beside::{self, STATUS};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Version of the format.
const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Annex {
    version: u32,
    /// Of the object: a copy of it elsewhere does not begin in the middle of something.
    uid: String,
    status: Map<String, Value>,
}

/// The fields that the annotation of an object holds; `None` when it has none of its own.
///
/// **Errors**: why they cannot be read, in words.
pub(crate) fn fields(object: &Value) -> Result<Option<Map<String, Value>>, String> {
    let Some(text) = beside::annotation(object, STATUS) else { return Ok(None) };
    let annex: Annex = serde_json::from_str(text)
        .map_err(|error| format!("annotation {STATUS} cannot be read, remove it: {error}"))?;
    if annex.version > VERSION {
        return Err(format!(
            "annotation {STATUS} has format {}, this version knows formats up to {VERSION}: run \
             the newer evenkeel that wrote it",
            annex.version
        ));
    }
    let uid = object.pointer("/metadata/uid").and_then(Value::as_str).unwrap_or_default();
    Ok((annex.uid == uid).then_some(annex.status))
}

/// Puts the fields of the annotation in their place.
pub(crate) fn overlay(object: &mut Value) {
    let Ok(Some(fields)) = fields(object) else { return };
    let Some(object) = object.as_object_mut() else { return };
    let status = object.entry("status").or_insert_with(|| Map::new().into());
    if !status.is_object() {
        *status = Map::new().into();
    }
    let Some(status) = status.as_object_mut() else { return };
    for (name, part) in fields {
        if part.is_null() {
            status.shift_remove(&name);
        } else {
            status.insert(name, part);
        }
    }
}

/// The annotation that holds, besides what it holds already, the fields that `patch` names, as they
/// are in `status`.
pub(crate) fn with(
    old: Option<Map<String, Value>>,
    status: &Value,
    patch: &Value,
) -> Map<String, Value> {
    let mut fields = old.unwrap_or_default();
    for name in patch.as_object().into_iter().flat_map(Map::keys) {
        fields.insert(name.clone(), status.get(name).cloned().unwrap_or(Value::Null));
    }
    fields
}

/// The text of the annotation.
pub(crate) fn text(uid: &str, status: Map<String, Value>) -> String {
    let annex = Annex { version: VERSION, uid: uid.to_owned(), status };
    // Strings, numbers and maps with text keys always serialise.
    serde_json::to_string(&annex).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(annotation: &str) -> Value {
        json!({"metadata": {"uid": "u", "annotations": {STATUS: annotation}},
            "status": {"phase": "Old", "gone": 1, "theirs": 2}})
    }

    #[test]
    fn what_was_kept_is_read_back_in_its_place() {
        let status = json!({"phase": "New", "own": {"step": 1}});
        let patch = json!({"phase": "New", "own": {"step": 1}, "gone": null});
        let mut read = object(&text("u", with(None, &status, &patch)));
        overlay(&mut read);
        assert_eq!(read["status"], json!({"phase": "New", "theirs": 2, "own": {"step": 1}}));
    }

    #[test]
    fn an_annotation_of_another_object_or_format_counts_as_none() {
        let fields_of = |text: &str| fields(&object(text));
        assert_eq!(fields_of(&text("other", Map::new())), Ok(None));
        let newer = json!({"version": 2, "uid": "u", "status": {}}).to_string();
        assert!(fields_of(&newer).unwrap_err().contains("format 2"));
        assert!(fields_of("{").unwrap_err().contains("remove it"));
        for text in [&newer, "{"] {
            let mut read = object(text);
            overlay(&mut read);
            assert_eq!(read["status"], object("")["status"]);
        }
    }
}
