use std::{
    any::{Any, TypeId},
    collections::BTreeMap,
    fmt,
    sync::{Arc, OnceLock},
};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use serde_json::Value;

use crate::{ApiObject, GroupKind, Key, Revision, misfit};

/// Why JSON is not an object of the wanted kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ObjError {
    /// A field every object must have is missing or of the wrong type.
    #[error("{object}: field {field} {problem}")]
    Malformed {
        /// `Kind/namespace/name` as far as known.
        object: String,
        /// Path of the field, `metadata.labels.team`.
        field: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The body does not fit the Rust type.
    #[error("{object} does not fit {kind}: {problem}")]
    Decode {
        /// `Kind/namespace/name`.
        object: String,
        /// The wanted kind.
        kind: &'static str,
        /// The decoder's words, with the field.
        problem: String,
    },
    /// The object is of another kind.
    #[error("{object} is not a {kind}")]
    OtherKind {
        /// `Kind/namespace/name`.
        object: String,
        /// The wanted kind.
        kind: &'static str,
    },
}

/// One API object: immutable, shared as `Arc<Obj>`.
///
/// **Shape**: key, metadata and the whole body as JSON (metadata included). The typed view is
/// decoded on first use and kept, so that ten controllers looking at one Pod decode it once.
pub struct Obj {
    key: Key,
    meta: ObjectMeta,
    body: Value,
    typed: OnceLock<Decoded>,
}

type Decoded = (TypeId, Result<Arc<dyn Any + Send + Sync>, ObjError>);

impl Obj {
    /// Wraps a JSON body.
    ///
    /// **Errors**: `apiVersion`, `kind` or `metadata` is missing or malformed. An empty name is
    /// accepted when `metadata.generateName` is there (the server will fill it in). A label or
    /// annotation that is null has an empty value, as an API server decodes it.
    pub fn from_json(mut body: Value) -> Result<Self, ObjError> {
        fill_nulls(&mut body);
        let text = |field: &str| body.get(field).and_then(Value::as_str).unwrap_or_default();
        let (api_version, kind) = (text("apiVersion"), text("kind"));
        let name = body.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
        let object = format!("{}/{name}", if kind.is_empty() { "object" } else { kind });
        let malformed = |field: &str, problem: String| ObjError::Malformed {
            object,
            field: field.to_owned(),
            problem,
        };
        if api_version.is_empty() {
            return Err(malformed("apiVersion", missing_text(&body, "apiVersion")));
        }
        if kind.is_empty() {
            return Err(malformed("kind", missing_text(&body, "kind")));
        }
        let group = api_version.split_once('/').map_or("", |(group, _)| group);
        let Some(meta) = body.get("metadata") else {
            return Err(malformed("metadata", "is missing".to_owned()));
        };
        let meta: ObjectMeta = serde::Deserialize::deserialize(meta).map_err(|error| {
            let by_default = || ("metadata".to_owned(), error.to_string());
            let (field, problem) = wrong_metadata(meta).unwrap_or_else(by_default);
            malformed(&field, problem)
        })?;
        let namespace = meta.namespace.clone().unwrap_or_default();
        let key = Key::new(
            GroupKind::new(group, kind),
            &namespace,
            meta.name.as_deref().unwrap_or_default(),
        );
        Ok(Self { key, meta, body, typed: OnceLock::new() })
    }

    /// Wraps a typed object.
    ///
    /// **Errors**: it does not serialise to an object with metadata.
    pub fn of<T: ApiObject>(object: &T) -> Result<Self, ObjError> {
        let mut body = serde_json::to_value(object).map_err(|error| ObjError::Decode {
            object: object.metadata().name.clone().unwrap_or_default(),
            kind: T::KIND,
            problem: error.to_string(),
        })?;
        if let Some(fields) = body.as_object_mut() {
            fields.insert("apiVersion".to_owned(), T::API_VERSION.into());
            fields.insert("kind".to_owned(), T::KIND.into());
        }
        Self::from_json(body)
    }

    /// The typed view, decoded at most once.
    ///
    /// **Errors**: another kind, or a body that does not fit. Treat it as the object's fault:
    /// report it on the object and continue with the others.
    pub fn get<T: ApiObject>(&self) -> Result<Arc<T>, ObjError> {
        if !self.key.kind.is::<T>() {
            return Err(ObjError::OtherKind { object: self.key.to_string(), kind: T::KIND });
        }
        let (type_id, decoded) =
            self.typed.get_or_init(|| (TypeId::of::<T>(), self.decode::<T>().map(|t| t as _)));
        if *type_id != TypeId::of::<T>() {
            // Two Rust types for one kind: the second one pays for its own decoding.
            return self.decode::<T>();
        }
        let any = decoded.clone()?;
        any.downcast::<T>()
            .map_err(|_| ObjError::OtherKind { object: self.key.to_string(), kind: T::KIND })
    }

    fn decode<T: ApiObject>(&self) -> Result<Arc<T>, ObjError> {
        T::deserialize(&self.body).map(Arc::new).map_err(|error| ObjError::Decode {
            object: self.key.to_string(),
            kind: T::KIND,
            // The decoder quotes what it cannot decode.
            problem: if T::KIND == "Secret" {
                "its content is not of the right type".to_owned()
            } else {
                let decode = |body: &Value| T::deserialize(body).err().map(|e| e.to_string());
                misfit::described(&decode, &self.body, &error.to_string())
            },
        })
    }

    /// Its full name.
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// Its metadata.
    pub fn meta(&self) -> &ObjectMeta {
        &self.meta
    }

    /// The whole body, metadata included.
    pub fn json(&self) -> &Value {
        &self.body
    }

    /// Takes the body out.
    pub fn into_json(self) -> Value {
        self.body
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.key.name
    }

    /// Its namespace; empty when cluster-scoped.
    pub fn namespace(&self) -> &str {
        &self.key.namespace
    }

    /// Its uid; empty before it is stored.
    pub fn uid(&self) -> &str {
        self.meta.uid.as_deref().unwrap_or_default()
    }

    /// Its `resourceVersion`; empty before it is stored.
    pub fn revision(&self) -> Revision {
        Revision(self.meta.resource_version.as_deref().unwrap_or_default().into())
    }

    /// `metadata.generation`, 0 when there is none.
    pub fn generation(&self) -> i64 {
        self.meta.generation.unwrap_or_default()
    }

    /// Its labels.
    pub fn labels(&self) -> &BTreeMap<String, String> {
        static NONE: BTreeMap<String, String> = BTreeMap::new();
        self.meta.labels.as_ref().unwrap_or(&NONE)
    }

    /// One label.
    pub fn label(&self, name: &str) -> Option<&str> {
        self.meta.labels.as_ref()?.get(name).map(String::as_str)
    }

    /// One annotation.
    pub fn annotation(&self, name: &str) -> Option<&str> {
        self.meta.annotations.as_ref()?.get(name).map(String::as_str)
    }

    /// The owner that manages it, if any.
    pub fn controller(&self) -> Option<&OwnerReference> {
        self.meta.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))
    }

    /// Whether its deletion has been requested.
    pub fn is_deleting(&self) -> bool {
        self.meta.deletion_timestamp.is_some()
    }

    /// An owner reference to this object, as its managing controller writes it.
    pub fn owner_reference(&self) -> OwnerReference {
        OwnerReference {
            api_version: self
                .body
                .get("apiVersion")
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned(),
            kind: self.key.kind.kind.to_string(),
            name: self.key.name.to_string(),
            uid: self.uid().to_owned(),
            controller: Some(true),
            block_owner_deletion: Some(true),
        }
    }
}

/// Gives labels and annotations that are null an empty value.
fn fill_nulls(body: &mut Value) {
    for field in ["/metadata/labels", "/metadata/annotations"] {
        let map = body.pointer_mut(field).and_then(Value::as_object_mut);
        for (_, value) in map.into_iter().flatten().filter(|(_, value)| value.is_null()) {
            *value = Value::String(String::new());
        }
    }
}

/// What is wrong with a text field that is not there.
fn missing_text(body: &Value, field: &str) -> String {
    match body.get(field) {
        None | Some(Value::Null | Value::String(_)) => "is missing".to_owned(),
        Some(other) => must_be_text(other),
    }
}

fn must_be_text(found: &Value) -> String {
    format!("must be text, not {}", described(found))
}

fn described(value: &Value) -> String {
    match value {
        Value::Null => "nothing".to_owned(),
        Value::Bool(flag) => format!("the boolean {flag}"),
        Value::Number(number) => format!("the number {number}"),
        Value::String(text) => format!("the text {text:?}"),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "a mapping".to_owned(),
    }
}

/// The first field of `metadata` that has the wrong type, and what is wrong with it.
fn wrong_metadata(meta: &Value) -> Option<(String, String)> {
    const TEXTS: [&str; 5] = ["name", "namespace", "generateName", "uid", "resourceVersion"];
    let not_a = |what: &str, found: &Value| format!("must be {what}, not {}", described(found));
    let Some(fields) = meta.as_object() else {
        return Some(("metadata".to_owned(), not_a("a mapping", meta)));
    };
    for (name, value) in fields.iter().filter(|(_, value)| !value.is_null()) {
        let field = format!("metadata.{name}");
        match (name.as_str(), value) {
            ("labels" | "annotations", Value::Object(entries)) => {
                let wrong = entries.iter().find(|(_, value)| !value.is_string());
                if let Some((key, value)) = wrong {
                    return Some((format!("{field}.{key}"), must_be_text(value)));
                }
            }
            ("labels" | "annotations", other) => return Some((field, not_a("a mapping", other))),
            ("finalizers", Value::Array(items)) => {
                let wrong = items.iter().enumerate().find(|(_, item)| !item.is_string());
                if let Some((index, item)) = wrong {
                    return Some((format!("{field}[{index}]"), must_be_text(item)));
                }
            }
            ("finalizers" | "ownerReferences", other) if !other.is_array() => {
                return Some((field, not_a("a list", other)));
            }
            (name, other) if TEXTS.contains(&name) && !other.is_string() => {
                return Some((field, must_be_text(other)));
            }
            _ => {}
        }
    }
    None
}

impl Clone for Obj {
    fn clone(&self) -> Self {
        Self {
            key: self.key.clone(),
            meta: self.meta.clone(),
            body: self.body.clone(),
            typed: OnceLock::new(),
        }
    }
}

impl PartialEq for Obj {
    fn eq(&self, other: &Self) -> bool {
        self.body == other.body
    }
}

impl fmt::Debug for Obj {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.key, self.revision())
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
    use serde_json::json;

    use super::*;

    #[test]
    fn an_object_is_named_typed_and_decoded_once() {
        let body = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {
            "name": "a", "namespace": "shop", "resourceVersion": "7"}, "spec": {"containers": []}});
        let obj = Obj::from_json(body).unwrap();
        assert_eq!(format!("{obj:?}"), "Pod/shop/a@7");
        let (first, second) = (obj.get::<Pod>().unwrap(), obj.get::<Pod>().unwrap());
        assert!(Arc::ptr_eq(&first, &second));
        assert_eq!(
            obj.get::<ConfigMap>().unwrap_err().to_string(),
            "Pod/shop/a is not a ConfigMap"
        );
        assert_eq!(Obj::of(&*first).unwrap().key(), obj.key());
    }

    #[test]
    fn a_malformed_secret_is_not_quoted() {
        let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a"},
            "data": {"key": "not base64: pl4nted"}, "type": 3});
        let error = Obj::from_json(secret).unwrap().get::<Secret>().unwrap_err();
        assert!(!format!("{error} {error:?}").contains("pl4nted"), "{error}");
    }

    #[test]
    fn a_null_label_or_annotation_is_empty() {
        let metadata = json!({"name": "a", "annotations": {"note": null}, "labels": {"x": null}});
        let body = json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata});
        let obj = Obj::from_json(body).unwrap();
        assert_eq!((obj.annotation("note"), obj.label("x")), (Some(""), Some("")));
        assert_eq!(obj.json()["metadata"]["annotations"]["note"], "");
    }

    #[test]
    fn a_malformed_object_names_the_field() {
        let error = Obj::from_json(json!({"kind": "Pod", "metadata": {"name": "a"}})).unwrap_err();
        assert_eq!(error.to_string(), "Pod/a: field apiVersion is missing");
        let wrong = |metadata: Value| {
            let body = json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata});
            Obj::from_json(body).unwrap_err().to_string()
        };
        assert_eq!(
            wrong(json!({"name": "a", "labels": {"a": "b", "x": true}})),
            "Pod/a: field metadata.labels.x must be text, not the boolean true"
        );
        assert_eq!(
            wrong(json!({"name": 5})),
            "Pod/: field metadata.name must be text, not the number 5"
        );
        assert_eq!(
            wrong(json!({"name": "a", "annotations": ["a"]})),
            "Pod/a: field metadata.annotations must be a mapping, not a list"
        );
        assert_eq!(
            wrong(json!({"name": "a", "finalizers": ["a", {}]})),
            "Pod/a: field metadata.finalizers[1] must be text, not a mapping"
        );
        assert_eq!(
            wrong(json!({"name": "a", "generation": "x"})),
            "Pod/a: field metadata invalid type: string \"x\", expected i64"
        );
        let broken = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"},
            "spec": {"containers": 3}});
        let error = Obj::from_json(broken).unwrap().get::<Pod>().unwrap_err().to_string();
        let wanted = "Pod/a does not fit Pod: spec.containers: must be a list, not the number 3";
        assert_eq!(error, wanted);
    }
}
