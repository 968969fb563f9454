//! Server-side apply: which manager set which field, and what follows from it.
//!
//! Ownership is kept once an object has been applied this way: from then on plain writes are
//! recorded too. Objects never applied carry no `managedFields`, which keeps them small. Lists of
//! custom kinds are taken as one value.

use evenkeel_api::{Key, Obj};
use serde_json::{Map, Value, json};

use crate::{
    error::{ApiError, Cause},
    patch::{Merge, strategy},
    request::{Write, WriteContext, Written},
    state::State,
    value::{list_at, meta_mut, stamp, text},
};

impl State {
    /// Brings an object to what the manager's configuration says: sets its fields, and removes
    /// those that it had set before, no longer sets, and no other manager has set.
    pub(crate) fn apply(
        &mut self,
        write: Write<'_>,
        key: &Key,
        mut body: Value,
        force: bool,
    ) -> Result<Written, ApiError> {
        let Write { now, resource, context } = write;
        let rules = Rules { is_custom: resource.custom().is_some() };
        if !list_at(&body, "/metadata/managedFields").is_empty() {
            return Err(ApiError::bad_request("metadata.managedFields must be nil"));
        }
        meta_mut(&mut body).shift_remove("managedFields");
        meta_mut(&mut body).shift_remove("creationTimestamp");
        meta_mut(&mut body).insert("name".to_owned(), json!(&*key.name));
        let own = owned(&rules, &body);
        let entry = json!({"manager": context.manager, "operation": "Apply",
            "apiVersion": resource.kind.api_version(), "time": stamp(now),
            "fieldsType": "FieldsV1", "fieldsV1": own});
        let context = WriteContext { is_apply: true, ..context.clone() };
        let Some(old) = self.find(key).cloned() else {
            let context = WriteContext { managed: Some(json!([entry])), ..context };
            return self.create(Write { context: &context, ..write }, &key.namespace, body);
        };
        let mut entries = list_at(old.json(), "/metadata/managedFields").to_vec();
        let is_own = |entry: &Value| text(entry, "manager") == context.manager && is_apply(entry);
        let before = entries.iter().find(|entry| is_own(entry)).cloned();
        check_conflicts(&entries, &own, old.json(), &body, (force, &context.manager))?;
        let mut gone =
            before.as_ref().map(|entry| difference(&entry["fieldsV1"], &own)).unwrap_or_default();
        for entry in entries.iter_mut().filter(|entry| !is_own(entry)) {
            gone = difference(&gone, &entry["fieldsV1"]);
            if force {
                let kept = difference(&entry["fieldsV1"], &contested(&own, old.json(), &body));
                entry["fieldsV1"] = kept;
            }
        }
        entries.retain(|entry| !is_own(entry) && !is_leaf(&entry["fieldsV1"]));
        let same = before.filter(|before| before["fieldsV1"] == own);
        entries.push(same.unwrap_or(entry));
        let mut new = old.json().clone();
        merge(&rules, &mut new, &body, "", "");
        remove(&mut new, &gone);
        meta_mut(&mut new).insert("managedFields".to_owned(), Value::Array(entries));
        self.update(Write { context: &context, ..write }, &old, new)
    }
}

fn is_apply(entry: &Value) -> bool {
    text(entry, "operation") == "Apply"
}

/// Records the manager of a plain write, on objects whose field owners are known.
pub(crate) fn track(write: Write<'_>, old: &Obj, new: &mut Value) {
    let Write { now, resource, context } = write;
    let mut entries = list_at(old.json(), "/metadata/managedFields").to_vec();
    if entries.is_empty() {
        return;
    }
    let rules = Rules { is_custom: resource.custom().is_some() };
    let changed = changes(&rules, old.json(), new);
    if is_leaf(&changed) {
        return;
    }
    let is_own = |entry: &Value| text(entry, "manager") == context.manager && !is_apply(entry);
    let mut own = json!({});
    for entry in &mut entries {
        if is_own(entry) {
            own = entry["fieldsV1"].clone();
        } else {
            entry["fieldsV1"] = difference(&entry["fieldsV1"], &changed);
        }
    }
    entries.retain(|entry| !is_own(entry) && !is_leaf(&entry["fieldsV1"]));
    unite(&mut own, &changed);
    entries.push(json!({"manager": context.manager, "operation": "Update",
        "apiVersion": resource.kind.api_version(), "time": stamp(now),
        "fieldsType": "FieldsV1", "fieldsV1": own}));
    meta_mut(new).insert("managedFields".to_owned(), Value::Array(entries));
}

/// How the values of a kind merge.
struct Rules {
    is_custom: bool,
}

impl Rules {
    fn list(&self, parent: &str, field: &str) -> Option<Merge> {
        if self.is_custom && parent != "metadata" { None } else { strategy(parent, field) }
    }

    /// Objects that are one value.
    fn is_atomic(field: &str) -> bool {
        matches!(field, "selector" | "nodeSelector" | "matchLabels" | "labelSelector")
    }
}

/// Not owned by any manager: identity, and what the server sets.
fn is_unowned(path: &str, name: &str) -> bool {
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

/// Name of a list element in a set of fields.
fn element(key: &str, item: &Value) -> String {
    format!("k:{}", json!({key: item.get(key)}))
}

/// The fields that a configuration sets, in the form of `FieldsV1`.
fn owned(rules: &Rules, body: &Value) -> Value {
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

fn fields(rules: &Rules, value: &Value, parent: &str, field: &str) -> Value {
    let mut set = Map::new();
    match value {
        Value::Object(inner) if !Rules::is_atomic(field) => {
            for (name, value) in inner {
                set.insert(format!("f:{name}"), fields(rules, value, field, name));
            }
        }
        Value::Array(items) => match rules.list(parent, field) {
            Some(Merge::ByKey(key)) => {
                for item in items {
                    let mut inner = Map::from_iter([(".".to_owned(), json!({}))]);
                    for (name, value) in item.as_object().into_iter().flatten() {
                        inner.insert(format!("f:{name}"), fields(rules, value, field, name));
                    }
                    set.insert(element(key, item), Value::Object(inner));
                }
            }
            Some(Merge::Set) => {
                set.extend(items.iter().map(|item| (format!("v:{item}"), json!({}))));
            }
            None => {}
        },
        _ => {}
    }
    Value::Object(set)
}

/// The fields in which two bodies differ.
fn changes(rules: &Rules, old: &Value, new: &Value) -> Value {
    let (before, after) = (owned(rules, old), owned(rules, new));
    let mut changed = Map::new();
    collect_changes(&before, &after, Some(old), Some(new), &mut changed);
    Value::Object(changed)
}

fn collect_changes(
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

fn is_leaf(set: &Value) -> bool {
    set.as_object().is_none_or(Map::is_empty)
}

/// What a step of a field set leads to.
fn child<'a>(value: &'a Value, step: &str) -> Option<&'a Value> {
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
fn is_plain(item: &Value, name: &str) -> bool {
    serde_json::from_str::<Value>(name).is_ok_and(|named| named == *item)
}

/// Index of the list element with the given keys.
fn position(items: &[Value], keys: &str) -> Option<usize> {
    let keys: Map<String, Value> = serde_json::from_str(keys).ok()?;
    items.iter().position(|item| keys.iter().all(|(name, value)| item.get(name) == Some(value)))
}

/// What is in `set` and not in `other`.
fn difference(set: &Value, other: &Value) -> Value {
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

fn unite(set: &mut Value, other: &Value) {
    let (Some(set), Some(other)) = (set.as_object_mut(), other.as_object()) else { return };
    for (step, below) in other {
        unite(set.entry(step.clone()).or_insert_with(|| json!({})), below);
    }
}

/// The part of a set in which the wanted value is not the present one.
fn contested(set: &Value, present: &Value, wanted: &Value) -> Value {
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

fn check_conflicts(
    entries: &[Value],
    own: &Value,
    present: &Value,
    wanted: &Value,
    (force, manager): (bool, &str),
) -> Result<(), ApiError> {
    if force {
        return Ok(());
    }
    let contested = contested(own, present, wanted);
    let mut causes = Vec::new();
    for entry in entries {
        if text(entry, "manager") == manager && is_apply(entry) {
            continue;
        }
        let mut paths = Vec::new();
        shared(&contested, &entry["fieldsV1"], "", &mut paths);
        causes.extend(paths.into_iter().map(|path| Cause {
            reason: "FieldManagerConflict",
            message: format!(
                "conflict with {:?} using {}",
                text(entry, "manager"),
                text(entry, "apiVersion")
            ),
            field: path,
        }));
    }
    if causes.is_empty() {
        return Ok(());
    }
    let words: Vec<String> =
        causes.iter().map(|cause| format!("{}: {}", cause.message, cause.field)).collect();
    let plural = if causes.len() == 1 { "conflict" } else { "conflicts" };
    let message = format!("Apply failed with {} {plural}: {}", causes.len(), words.join(", "));
    Err(ApiError { causes, ..ApiError::new(409, "Conflict", message) })
}

/// Paths that are in both sets.
fn shared(set: &Value, other: &Value, path: &str, paths: &mut Vec<String>) {
    for (step, below) in set.as_object().into_iter().flatten() {
        let Some(other) = other.get(step) else { continue };
        let path = match step.strip_prefix("f:") {
            Some(name) => format!("{path}.{name}"),
            None => format!("{path}[{}]", step.get(2..).unwrap_or_default()),
        };
        if is_leaf(below) || is_leaf(other) {
            paths.push(path);
        } else {
            shared(below, other, &path, paths);
        }
    }
}

/// Sets the fields of a configuration.
fn merge(rules: &Rules, target: &mut Value, wanted: &Value, parent: &str, field: &str) {
    match (&mut *target, wanted) {
        (Value::Object(target), Value::Object(wanted)) if !Rules::is_atomic(field) => {
            for (name, value) in wanted {
                let place = target.entry(name.clone()).or_insert(Value::Null);
                merge(rules, place, value, field, name);
            }
        }
        (Value::Array(have), Value::Array(wanted)) => match rules.list(parent, field) {
            Some(Merge::ByKey(key)) => {
                for item in wanted {
                    let at = have.iter().position(|old| old.get(key) == item.get(key));
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
fn remove(target: &mut Value, set: &Value) {
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

    const BUILTIN: Rules = Rules { is_custom: false };

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
        let old = json!({"spec": {"replicas": 2, "paused": false}});
        let new = json!({"spec": {"replicas": 3, "paused": false}});
        assert_eq!(changes(&BUILTIN, &old, &new), json!({"f:spec": {"f:replicas": {}}}));
    }
}
