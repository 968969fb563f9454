//! Field sets, as `managedFields` holds them: what is in them, what they share, what they remove.
//!
//! Steps are `f:NAME` for a field, `k:{KEYS}` and `v:VALUE` for elements of a list, and `.` for the
//! map or the list itself. A set without steps is a leaf.
//!
//! **Source**: `structured-merge-diff`, fieldpath.

use serde_json::{Map, Value, json};

use crate::{
    patch::{Merge, strategy},
    resource::Resource,
};

/// How the values of a kind merge.
pub(super) struct Rules {
    is_custom: bool,
    /// The set is of a plain write: it names maps and lists that it made, too, not only what is in
    /// them.
    is_update: bool,
}

/// Parts that every object of a built-in kind has, so that no write makes them.
const ALWAYS: [&str; 8] = [
    "metadata",
    "spec",
    "status",
    "template",
    "strategy",
    "updateStrategy",
    "jobTemplate",
    "containers",
];

impl Rules {
    pub(super) fn of(resource: &Resource, is_update: bool) -> Self {
        Self { is_custom: resource.custom().is_some(), is_update }
    }

    /// Marks a map or a list as made by a write.
    fn mark(&self, set: &mut Map<String, Value>, field: &str) {
        if self.is_update && (self.is_custom || !ALWAYS.contains(&field)) {
            set.insert(".".to_owned(), json!({}));
        }
    }

    /// Fields that tell the elements of a list apart; those of a port are two.
    fn keys(field: &str, key: &'static str) -> Vec<&'static str> {
        if field == "ports" { vec![key, "protocol"] } else { vec![key] }
    }

    fn list(&self, parent: &str, field: &str) -> Option<Merge> {
        if self.is_custom && parent != "metadata" { None } else { strategy(parent, field) }
    }

    /// Objects that are one value.
    fn is_atomic(field: &str) -> bool {
        matches!(
            field,
            "selector"
                | "nodeSelector"
                | "matchLabels"
                | "labelSelector"
                | "fieldRef"
                | "resourceFieldRef"
                | "configMapKeyRef"
                | "secretKeyRef"
        )
    }
}

/// Not owned by any manager: identity, and what the server sets.
pub(super) fn is_unowned(path: &str, name: &str) -> bool {
    match path {
        "" => matches!(name, "apiVersion" | "kind" | "status"),
        "metadata" => matches!(
            name,
            "name"
                | "namespace"
                | "uid"
                | "resourceVersion"
                | "generation"
                | "creationTimestamp"
                | "deletionTimestamp"
                | "deletionGracePeriodSeconds"
                | "managedFields"
                | "selfLink"
                | "generateName"
        ),
        _ => false,
    }
}

/// A field that tells elements apart, as it is when it is left out.
pub(super) fn key_value(item: &Value, key: &str) -> Value {
    let absent = || if key == "protocol" { json!("TCP") } else { Value::Null };
    item.get(key).cloned().unwrap_or_else(absent)
}

/// Name of a list element in a set of fields.
pub(super) fn element(keys: &[&str], item: &Value) -> String {
    let named = keys.iter().map(|key| ((*key).to_owned(), key_value(item, key)));
    format!("k:{}", Value::Object(named.collect()))
}

/// The fields of a status, in the form of `FieldsV1`.
pub(super) fn status(rules: &Rules, body: &Value) -> Value {
    match body.get("status") {
        Some(value) => json!({"f:status": fields(rules, value, "", "status")}),
        None => json!({}),
    }
}

/// The fields that a configuration sets, in the form of `FieldsV1`.
pub(super) fn owned(rules: &Rules, body: &Value) -> Value {
    let mut set = Map::new();
    for (name, value) in body.as_object().into_iter().flatten() {
        if is_unowned("", name) {
            continue;
        }
        if name == "metadata" {
            let mut meta = Map::new();
            for (name, value) in value.as_object().into_iter().flatten() {
                if !is_unowned("metadata", name) {
                    meta.insert(format!("f:{name}"), fields(rules, value, "metadata", name));
                }
            }
            if !meta.is_empty() {
                set.insert("f:metadata".to_owned(), Value::Object(meta));
            }
        } else {
            set.insert(format!("f:{name}"), fields(rules, value, "", name));
        }
    }
    Value::Object(set)
}

pub(super) fn fields(rules: &Rules, value: &Value, parent: &str, field: &str) -> Value {
    let mut set = Map::new();
    match value {
        Value::Object(inner) if !Rules::is_atomic(field) => {
            if !inner.is_empty() {
                rules.mark(&mut set, field);
            }
            for (name, value) in inner {
                set.insert(format!("f:{name}"), fields(rules, value, field, name));
            }
        }
        Value::Array(items) => match rules.list(parent, field) {
            Some(Merge::ByKey(key)) => {
                if !items.is_empty() {
                    rules.mark(&mut set, field);
                }
                let keys = Rules::keys(field, key);
                for item in items {
                    if field == "ownerReferences" {
                        // Its elements are one value each.
                        set.insert(element(&keys, item), json!({}));
                        continue;
                    }
                    let mut inner = Map::from_iter([(".".to_owned(), json!({}))]);
                    for (name, value) in item.as_object().into_iter().flatten() {
                        inner.insert(format!("f:{name}"), fields(rules, value, field, name));
                    }
                    set.insert(element(&keys, item), Value::Object(inner));
                }
            }
            Some(Merge::Set) => {
                if !items.is_empty() {
                    rules.mark(&mut set, field);
                }
                set.extend(items.iter().map(|item| (format!("v:{item}"), json!({}))));
            }
            None => {}
        },
        _ => {}
    }
    Value::Object(set)
}

/// The fields of a set that are others than before.
pub(super) fn collect_changes(
    before: &Value,
    after: &Value,
    old: Option<&Value>,
    new: Option<&Value>,
    changed: &mut Map<String, Value>,
) {
    for (step, below) in after.as_object().into_iter().flatten() {
        let (old, new) = (old.and_then(|v| child(v, step)), new.and_then(|v| child(v, step)));
        if step == "." || old == new {
            continue;
        }
        match before.get(step) {
            Some(had) if is_leaf(below) || is_leaf(had) => {
                changed.insert(step.clone(), json!({}));
            }
            None => {
                changed.insert(step.clone(), below.clone());
            }
            Some(had) => {
                let mut inner = Map::new();
                collect_changes(had, below, old, new, &mut inner);
                if !inner.is_empty() {
                    changed.insert(step.clone(), Value::Object(inner));
                }
            }
        }
    }
}

pub(super) fn is_leaf(set: &Value) -> bool {
    set.as_object().is_none_or(Map::is_empty)
}

/// What a step of a field set leads to.
pub(super) fn child<'a>(value: &'a Value, step: &str) -> Option<&'a Value> {
    if let Some(name) = step.strip_prefix("f:") {
        return value.get(name);
    }
    let items = value.as_array()?;
    if let Some(plain) = step.strip_prefix("v:") {
        return items.iter().find(|item| is_plain(item, plain));
    }
    let at = position(items, step.strip_prefix("k:")?)?;
    items.get(at)
}

/// Whether a plain list element is the one of that name in a set.
pub(super) fn is_plain(item: &Value, name: &str) -> bool {
    serde_json::from_str::<Value>(name).is_ok_and(|named| named == *item)
}

/// Index of the list element with the given keys.
pub(super) fn position(items: &[Value], keys: &str) -> Option<usize> {
    let keys: Map<String, Value> = serde_json::from_str(keys).ok()?;
    items.iter().position(|item| keys.iter().all(|(name, value)| key_value(item, name) == *value))
}

/// What is in `set` and not in `other`.
pub(super) fn difference(set: &Value, other: &Value) -> Value {
    let mut left = Map::new();
    for (step, below) in set.as_object().into_iter().flatten() {
        match other.get(step) {
            None => {
                left.insert(step.clone(), below.clone());
            }
            Some(_) if is_leaf(below) => {}
            Some(other) => {
                let below = difference(below, other);
                if !is_leaf(&below) {
                    left.insert(step.clone(), below);
                }
            }
        }
    }
    Value::Object(left)
}

pub(super) fn unite(set: &mut Value, other: &Value) {
    let (Some(set), Some(other)) = (set.as_object_mut(), other.as_object()) else { return };
    for (step, below) in other {
        unite(set.entry(step.clone()).or_insert_with(|| json!({})), below);
    }
}

/// The part of a set in which the wanted value is not the present one.
pub(super) fn contested(set: &Value, present: &Value, wanted: &Value) -> Value {
    let mut differing = Map::new();
    for (step, below) in set.as_object().into_iter().flatten() {
        let (have, want) = (child(present, step), child(wanted, step));
        if step == "." || have == want {
            continue;
        }
        let below = match (have, want) {
            (Some(have), Some(want)) if !is_leaf(below) => match contested(below, have, want) {
                // Different only in what this configuration does not name.
                inner if is_leaf(&inner) => continue,
                inner => inner,
            },
            _ => json!({}),
        };
        differing.insert(step.clone(), below);
    }
    Value::Object(differing)
}

/// A step to a list element as `FieldManagerConflict` shows it.
fn shown_step(step: &str) -> String {
    let Some(keys) = step.strip_prefix("k:") else {
        return format!("[={}]", step.get(2..).unwrap_or_default());
    };
    let keys: Map<String, Value> = serde_json::from_str(keys).unwrap_or_default();
    let keys: Vec<String> = keys.iter().map(|(name, value)| format!("{name}={value}")).collect();
    format!("[{}]", keys.join(","))
}

/// Paths that are in both sets.
pub(super) fn shared(set: &Value, other: &Value, path: &str, paths: &mut Vec<String>) {
    for (step, below) in set.as_object().into_iter().flatten() {
        let Some(other) = other.get(step) else { continue };
        let path = match step.strip_prefix("f:") {
            Some(name) => format!("{path}.{name}"),
            None => format!("{path}{}", shown_step(step)),
        };
        if is_leaf(below) || is_leaf(other) {
            paths.push(path);
        } else {
            shared(below, other, &path, paths);
        }
    }
}

/// Sets the fields of a configuration.
pub(super) fn merge(rules: &Rules, target: &mut Value, wanted: &Value, parent: &str, field: &str) {
    match (&mut *target, wanted) {
        (Value::Object(target), Value::Object(wanted)) if !Rules::is_atomic(field) => {
            for (name, value) in wanted {
                let place = target.entry(name.clone()).or_insert(Value::Null);
                merge(rules, place, value, field, name);
            }
        }
        (Value::Array(have), Value::Array(wanted)) => match rules.list(parent, field) {
            Some(Merge::ByKey(key)) => {
                let keys = Rules::keys(field, key);
                for item in wanted {
                    let same =
                        |old: &Value, key: &&str| key_value(old, key) == key_value(item, key);
                    let at = have.iter().position(|old| keys.iter().all(|key| same(old, key)));
                    match at.and_then(|at| have.get_mut(at)) {
                        Some(old) => merge(rules, old, item, "", field),
                        None => have.push(item.clone()),
                    }
                }
            }
            Some(Merge::Set) => {
                let fresh: Vec<Value> =
                    wanted.iter().filter(|item| !have.contains(item)).cloned().collect();
                have.extend(fresh);
            }
            None => have.clone_from(wanted),
        },
        _ => target.clone_from(wanted),
    }
}

/// Removes the fields of a set.
pub(super) fn remove(target: &mut Value, set: &Value) {
    for (step, below) in set.as_object().into_iter().flatten() {
        if let Some(name) = step.strip_prefix("f:") {
            let Some(fields) = target.as_object_mut() else { continue };
            if is_leaf(below) {
                fields.shift_remove(name);
            } else if let Some(inner) = fields.get_mut(name) {
                remove(inner, below);
                if inner.as_object().is_some_and(Map::is_empty) {
                    fields.shift_remove(name);
                }
            }
        } else if let Some(items) = target.as_array_mut() {
            if let Some(plain) = step.strip_prefix("v:") {
                items.retain(|item| !is_plain(item, plain));
            } else if let Some(at) = step.strip_prefix("k:").and_then(|keys| position(items, keys))
            {
                if below.get(".").is_some() {
                    items.remove(at);
                } else if let Some(item) = items.get_mut(at) {
                    remove(item, below);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUILTIN: Rules = Rules { is_custom: false, is_update: false };

    #[test]
    fn sets_of_fields_are_computed_subtracted_and_removed() {
        let body = json!({"kind": "Deployment", "metadata": {"name": "a", "labels": {"x": "y"}},
            "spec": {"replicas": 2, "template": {"spec": {"containers": [
                {"name": "c", "image": "i"}]}}}});
        let set = owned(&BUILTIN, &body);
        assert_eq!(
            set,
            json!({"f:metadata": {"f:labels": {"f:x": {}}}, "f:spec": {"f:replicas": {},
                "f:template": {"f:spec": {"f:containers": {
                    "k:{\"name\":\"c\"}": {".": {}, "f:name": {}, "f:image": {}}}}}}})
        );
        let less = json!({"spec": {"template": {"spec": {"containers": []}}}});
        let gone = difference(&set, &owned(&BUILTIN, &less));
        let mut left = body;
        remove(&mut left, &gone);
        assert_eq!(left["spec"], json!({"template": {"spec": {"containers": []}}}));
        assert_eq!(left["metadata"], json!({"name": "a"}));
    }

    #[test]
    fn a_plain_write_is_seen_as_its_changes() {
        let rules = Rules { is_update: true, ..BUILTIN };
        let old = json!({"spec": {"replicas": 2, "paused": false}});
        let new = json!({"spec": {"replicas": 3, "paused": false, "strategy": {
            "rollingUpdate": {"maxSurge": 1}}}, "metadata": {"labels": {"a": "b"}}});
        let (before, after) = (owned(&rules, &old), owned(&rules, &new));
        let mut changed = Map::new();
        collect_changes(&before, &after, Some(&old), Some(&new), &mut changed);
        assert_eq!(
            Value::Object(changed),
            json!({"f:spec": {"f:replicas": {}, "f:strategy": {
                "f:rollingUpdate": {".": {}, "f:maxSurge": {}}}},
                "f:metadata": {"f:labels": {".": {}, "f:a": {}}}})
        );
    }
}
