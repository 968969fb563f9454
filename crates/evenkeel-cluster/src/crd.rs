use std::sync::Arc;

use evenkeel_api::{GroupKind, Kind, Obj, Scope};
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::{
    custom::Custom,
    error::{ApiError, Cause},
    resource::{Body, Registry, Resource, Service},
    value::{stamp, text},
};

/// Group and kind of `CustomResourceDefinition`.
pub(crate) const CRD: (&str, &str) = ("apiextensions.k8s.io", "CustomResourceDefinition");

/// The kind that a definition defines; only served versions count.
pub(crate) fn resource(definition: &Obj) -> Option<Resource> {
    let spec = definition.json().get("spec")?;
    let names = spec.get("names")?;
    let versions: Vec<&Value> = spec
        .get("versions")?
        .as_array()?
        .iter()
        .filter(|version| version.get("served") == Some(&Value::Bool(true)))
        .collect();
    let storage = versions
        .iter()
        .find(|version| version.get("storage") == Some(&Value::Bool(true)))
        .or(versions.first())?;
    let list = |name: &str| -> Vec<Arc<str>> {
        let items = names.get(name).and_then(Value::as_array);
        items.into_iter().flatten().filter_map(Value::as_str).map(Arc::from).collect()
    };
    let has = |pointer: &str| versions.iter().any(|version| version.pointer(pointer).is_some());
    let cluster = text(spec, "scope") == "Cluster";
    let kind = Kind {
        id: GroupKind::new(text(spec, "group"), text(names, "kind")),
        version: text(storage, "name").into(),
        versions: versions.iter().map(|version| text(version, "name").into()).collect(),
        plural: text(names, "plural").into(),
        singular: text(names, "singular").into(),
        short_names: list("shortNames"),
        categories: list("categories"),
        scope: if cluster { Scope::Cluster } else { Scope::Namespaced },
        has_status: has("/subresources/status"),
        has_scale: has("/subresources/scale"),
    };
    let custom = Arc::new(Custom::parse(spec));
    Some(Resource {
        kind,
        service: Service::Served,
        has_generation: true,
        body: Body::Custom(custom),
    })
}

/// Fills in what the server fills in: names derived from the kind, and the conversion strategy.
pub(crate) fn default(body: &mut Value) {
    let Some(spec) = body.get_mut("spec").and_then(Value::as_object_mut) else { return };
    spec.entry("conversion").or_insert_with(|| json!({"strategy": "None"}));
    if let Some(names) = spec.get_mut("names").and_then(Value::as_object_mut) {
        let kind = names.get("kind").and_then(Value::as_str).unwrap_or_default().to_owned();
        if names.get("singular").and_then(Value::as_str).unwrap_or_default().is_empty() {
            names.insert("singular".to_owned(), json!(kind.to_lowercase()));
        }
        if names.get("listKind").and_then(Value::as_str).unwrap_or_default().is_empty() {
            names.insert("listKind".to_owned(), json!(format!("{kind}List")));
        }
    }
}

/// Sets the status that the kind is served. Done in the same write: there is nothing to wait for
/// here.
pub(crate) fn establish(body: &mut Value, now: Timestamp) {
    if body.pointer("/status/conditions").is_some_and(|list| list.as_array().is_some()) {
        return;
    }
    let condition = |kind: &str, reason: &str, message: &str| {
        json!({"type": kind, "status": "True", "lastTransitionTime": stamp(now),
            "reason": reason, "message": message})
    };
    let names = body.pointer("/spec/names").cloned().unwrap_or_default();
    let stored: Vec<Value> = body
        .pointer("/spec/versions")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter(|version| version.get("storage") == Some(&Value::Bool(true)))
        .filter_map(|version| version.get("name").cloned())
        .collect();
    body["status"] = json!({
        "conditions": [
            condition("NamesAccepted", "NoConflicts", "no conflicts found"),
            condition("Established", "InitialNamesAccepted",
                "the initial names have been accepted"),
        ],
        "acceptedNames": names,
        "storedVersions": stored,
    });
}

/// Whether the definition's names clash with another kind's.
pub(crate) fn check_names(registry: &Registry, definition: &Obj) -> Result<(), ApiError> {
    let Some(new) = resource(definition) else { return Ok(()) };
    for old in registry.iter().filter(|old| old.group() == new.group()) {
        let same_kind = old.kind.id == new.kind.id;
        let same_plural = old.kind.plural == new.kind.plural;
        if same_kind != same_plural || (same_kind && old.custom().is_none()) {
            let cause = Cause {
                reason: "FieldValueInvalid",
                field: "spec.names".to_owned(),
                message: format!(
                    "Invalid value: {:?}: {} is already in use by kind {}",
                    new.plural(),
                    old.plural(),
                    old.kind.id
                ),
            };
            let group = "apiextensions.k8s.io";
            let causes = vec![cause];
            return Err(ApiError::invalid(
                group,
                "CustomResourceDefinition",
                definition.name(),
                causes,
            ));
        }
    }
    Ok(())
}

/// An empty object where a version has no schema, so that the document stays valid.
pub(crate) fn schema_or_empty(schema: &Value) -> Value {
    if schema.is_object() { schema.clone() } else { Value::Object(Map::new()) }
}
