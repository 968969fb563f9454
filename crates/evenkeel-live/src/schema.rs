use evenkeel_api::GroupKind;
use serde_json::{Map, Value};

/// What a `CustomResourceDefinition` keeps of the status of its objects: an API server drops every
/// field that the schema does not have, without a word.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct StatusSchema {
    /// Schema of `status`; `None` when there is none, and everything is dropped.
    status: Option<Value>,
}

impl StatusSchema {
    /// The schema of one version of a definition.
    pub(crate) fn of(crd: &Value, version: &str) -> Self {
        let all = crd.pointer("/spec/versions").and_then(Value::as_array);
        let found = all.into_iter().flatten().find(|one| one["name"] == version);
        let root = found.and_then(|version| version.pointer("/schema/openAPIV3Schema"));
        let keeps_all = crd.pointer("/spec/preserveUnknownFields") == Some(&Value::Bool(true));
        let free = || serde_json::json!({"type": "object", FREE: true});
        let status = match root {
            _ if keeps_all => Some(free()),
            None => None,
            Some(root) => {
                let below = root.get("properties").and_then(|fields| fields.get("status"));
                below.cloned().or_else(|| is_free(root).then(free))
            }
        };
        Self { status }
    }

    /// The schema of a kind in what a server publishes (`OpenAPI` v3); `None` when it is not there.
    pub(crate) fn published(document: &Value, kind: &GroupKind) -> Option<Self> {
        let is_it = |schema: &&Value| {
            let all = schema.get("x-kubernetes-group-version-kind").and_then(Value::as_array);
            let mut all = all.into_iter().flatten();
            all.any(|one| one["group"] == *kind.group && one["kind"] == *kind.kind)
        };
        let schemas = document.pointer("/components/schemas")?.as_object()?;
        let found = schemas.values().find(is_it)?;
        let status = found.get("properties").and_then(|fields| fields.get("status")).cloned();
        Some(Self { status })
    }

    /// Whether every field that `other` names has a place here, too.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        match (&self.status, &other.status) {
            (_, None) => true,
            (None, Some(_)) => false,
            (Some(own), Some(other)) => covers(own, other),
        }
    }

    /// Whether it has a place for something that evenkeel alone writes: then an evenkeel has made it,
    /// maybe of another version.
    pub(crate) fn names_ours(&self) -> bool {
        let fields = self.status.as_ref().and_then(|status| status.get("properties"));
        ["evenkeel", "slos"].iter().any(|name| fields.is_some_and(|all| all.get(name).is_some()))
    }

    /// So much of a status, or of a merge patch of one, as an API server keeps.
    pub(crate) fn kept(&self, status: &Value) -> Value {
        let schema = self.status.as_ref();
        schema.map_or_else(|| Map::new().into(), |schema| kept(status, schema))
    }

    /// Paths of the fields that an API server drops.
    pub(crate) fn lost(&self, status: &Value) -> Vec<String> {
        let mut paths = Vec::new();
        lost(status, self.status.as_ref(), "status", &mut paths);
        paths
    }
}

const FREE: &str = "x-kubernetes-preserve-unknown-fields";

/// Whether unknown fields are kept.
fn is_free(schema: &Value) -> bool {
    schema.get(FREE) == Some(&Value::Bool(true))
}

/// The schema of one field, if it has a place.
enum Place<'a> {
    None,
    Free,
    Some(&'a Value),
}

fn place<'a>(schema: &'a Value, field: &str) -> Place<'a> {
    if let Some(below) = schema.get("properties").and_then(|fields| fields.get(field)) {
        return Place::Some(below);
    }
    match schema.get("additionalProperties") {
        Some(Value::Bool(true)) => Place::Free,
        Some(below @ Value::Object(_)) => Place::Some(below),
        _ if is_free(schema) => Place::Free,
        _ => Place::None,
    }
}

fn kept(value: &Value, schema: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let one = |(name, part): (&String, &Value)| match place(schema, name) {
                Place::None => None,
                Place::Free => Some((name.clone(), part.clone())),
                Place::Some(below) => Some((name.clone(), kept(part, below))),
            };
            Value::Object(fields.iter().filter_map(one).collect())
        }
        Value::Array(items) => match schema.get("items") {
            Some(below) => Value::Array(items.iter().map(|item| kept(item, below)).collect()),
            None => value.clone(),
        },
        _ => value.clone(),
    }
}

fn lost(value: &Value, schema: Option<&Value>, path: &str, paths: &mut Vec<String>) {
    let Some(schema) = schema else {
        paths.push(path.to_owned());
        return;
    };
    match value {
        Value::Object(fields) => {
            for (name, part) in fields.iter().filter(|(_, part)| !part.is_null()) {
                let path = format!("{path}.{name}");
                match place(schema, name) {
                    Place::None => paths.push(path),
                    Place::Free => {}
                    Place::Some(below) => lost(part, Some(below), &path, paths),
                }
            }
        }
        Value::Array(items) => {
            if let Some(below) = schema.get("items") {
                for item in items {
                    lost(item, Some(below), &format!("{path}[]"), paths);
                }
                paths.dedup();
            }
        }
        _ => {}
    }
}

fn covers(own: &Value, other: &Value) -> bool {
    if is_free(own) {
        return true;
    }
    if is_free(other) {
        return false;
    }
    let fields = other.get("properties").and_then(Value::as_object);
    let mut fields = fields.into_iter().flatten();
    let fields_fit = fields.all(|(name, other)| match place(own, name) {
        Place::None => false,
        Place::Free => true,
        Place::Some(own) => covers(own, other),
    });
    let lists = (own.get("items"), other.get("items"));
    let lists_fit = matches!(lists, (Some(own), Some(other)) if covers(own, other))
        || lists.0.is_none()
        || lists.1.is_none();
    fields_fit && lists_fit
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A definition with this schema of the status.
    fn definition(status: &Value) -> Value {
        json!({"spec": {"versions": [{"name": "v1", "schema": {"openAPIV3Schema":
            {"type": "object", "properties": {"status": status}}}}]}})
    }

    fn schema(status: &Value) -> StatusSchema {
        StatusSchema::of(&definition(status), "v1")
    }

    fn flaggers() -> Value {
        let text = json!({"type": "string"});
        json!({"type": "object", "properties": {"phase": text,
            "tracked": {"type": "object", "additionalProperties": text},
            "any": {"type": "object", FREE: true},
            "conditions": {"type": "array", "items":
                {"type": "object", "properties": {"type": text}}}}})
    }

    #[test]
    fn what_a_schema_does_not_name_is_lost() {
        let schema = schema(&flaggers());
        let status = json!({"phase": "A", "tracked": {"x": "1"}, "any": {"deep": {"er": 1}},
            "own": {"step": 1}, "gone": null,
            "conditions": [{"type": "T", "seen": 1}, {"type": "U", "seen": 2}]});
        assert_eq!(schema.lost(&status), ["status.own", "status.conditions[].seen"]);
        let kept = json!({"phase": "A", "tracked": {"x": "1"}, "any": {"deep": {"er": 1}},
            "conditions": [{"type": "T"}, {"type": "U"}]});
        assert_eq!(schema.kept(&status), kept);
    }

    #[test]
    fn a_definition_without_a_schema_of_the_status_keeps_nothing_and_a_free_one_everything() {
        let status = json!({"own": {"step": 1}});
        let none = StatusSchema::of(
            &json!({"spec": {"versions": [{"name": "v1", "schema":
            {"openAPIV3Schema": {"type": "object"}}}]}}),
            "v1",
        );
        assert_eq!(
            (none.lost(&status), none.kept(&status)),
            (vec!["status".to_owned()], json!({}))
        );
        let free = schema(&json!({"type": "object", FREE: true}));
        assert_eq!((free.lost(&status), free.kept(&status)), (vec![], status.clone()));
        let old = StatusSchema::of(&json!({"spec": {"preserveUnknownFields": true}}), "v1");
        assert_eq!(old.kept(&status), status);
    }

    #[test]
    fn a_definition_covers_another_when_it_has_a_place_for_every_field() {
        let (flaggers, mut more) = (flaggers(), flaggers());
        more["properties"]["own"] = json!({"type": "object", "properties": {"step": {}}});
        assert!(schema(&more).covers(&schema(&flaggers)));
        assert!(!schema(&flaggers).covers(&schema(&more)));
        let mut less = more.clone();
        less["properties"]["own"] = json!({"type": "object"});
        assert!(!schema(&less).covers(&schema(&more)));
        let free = schema(&json!({"type": "object", FREE: true}));
        assert!(free.covers(&schema(&more)) && !schema(&more).covers(&free));
    }

    #[test]
    fn a_definition_of_another_version_of_evenkeel_is_known_by_a_field_of_its_own() {
        let crds = evenkeel_api::crds();
        let is_it = |crd: &Value| crd["metadata"]["name"] == "canaries.flagger.app";
        let mut older = crds.into_iter().find(is_it).unwrap();
        let now = StatusSchema::of(&older, "v1beta1");
        let status = "/spec/versions/0/schema/openAPIV3Schema/properties/status/properties";
        let fields = older.pointer_mut(&format!("{status}/evenkeel/properties")).unwrap();
        fields.as_object_mut().unwrap().shift_remove("routeSeen").unwrap();
        let older = StatusSchema::of(&older, "v1beta1");
        assert!(!older.covers(&now) && older.names_ours());
        assert!(!schema(&flaggers()).names_ours());
    }
}
