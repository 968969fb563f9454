use std::{
    any::{Any, TypeId},
    collections::BTreeMap,
    fmt,
    sync::{Arc, OnceLock},
};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use serde_json::Value;

use crate::{ApiObject, GroupKind, Key, Revision};

/// Why JSON is not an object of the wanted kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ObjError {
    /// A field every object must have is missing or of the wrong type.
    #[error("{object}: field {field} {problem}")]
    Malformed {
        /// `Kind/namespace/name` as far as known.
        object: String,
        /// Path of the field.
        field: &'static str,
        /// What is wrong with it.
        problem: &'static str,
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
    /// accepted when `metadata.generateName` is there (the server will fill it in).
    pub fn from_json(body: Value) -> Result<Self, ObjError> {
        let text = |field: &str| body.get(field).and_then(Value::as_str).unwrap_or_default();
        let (api_version, kind) = (text("apiVersion"), text("kind"));
        let name = body.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
        let object = format!("{}/{name}", if kind.is_empty() { "object" } else { kind });
        let malformed = |field, problem| ObjError::Malformed { object, field, problem };
        if api_version.is_empty() {
            return Err(malformed("apiVersion", "is missing"));
        }
        if kind.is_empty() {
            return Err(malformed("kind", "is missing"));
        }
        let group = api_version.split_once('/').map_or("", |(group, _)| group);
        let Some(meta) = body.get("metadata") else {
            return Err(malformed("metadata", "is missing"));
        };
        let meta: ObjectMeta = serde::Deserialize::deserialize(meta)
            .map_err(|_| malformed("metadata", "is malformed"))?;
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
    /// **Errors**: another kind, or a body that does not fit. Treat as the object's fault: report
    /// it on the object and go on with the others.
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
            problem: match T::KIND {
                // The decoder quotes what it cannot decode.
                "Secret" => "its content is not of the right type".to_owned(),
                _ => error.to_string(),
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

    /// Whether somebody has asked for its deletion.
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
            "data": {"key": "not base64: s3cret"}, "type": 3});
        let error = Obj::from_json(secret).unwrap().get::<Secret>().unwrap_err();
        assert!(!format!("{error} {error:?}").contains("s3cret"), "{error}");
    }

    #[test]
    fn a_malformed_object_names_the_field() {
        let error = Obj::from_json(json!({"kind": "Pod", "metadata": {"name": "a"}})).unwrap_err();
        assert_eq!(error.to_string(), "Pod/a: field apiVersion is missing");
        let broken = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"},
            "spec": {"containers": 3}});
        let error = Obj::from_json(broken).unwrap().get::<Pod>().unwrap_err().to_string();
        assert!(error.starts_with("Pod/a does not fit Pod"), "{error}");
    }
}
