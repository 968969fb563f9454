//! Server-side apply: which manager set which field, and what follows from it.
//!
//! Ownership is kept of objects that clients make, or apply this way: from then on every write is
//! recorded. Objects of the controllers in this process, Events and Leases carry no
//! `managedFields`, which keeps them small. Lists of custom kinds are taken as one value.

use std::collections::BTreeMap;

use evenkeel_api::{Key, Obj};
use evenkeel_control::Subresource;
use serde_json::{Map, Value, json};

use crate::{
    error::{ApiError, Cause},
    patch::{Merge, strategy},
    request::{Write, WriteContext, Written},
    resource::Resource,
    state::State,
    value::{list_at, meta_mut, set_or_remove, stamp, text},
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
        let Write { resource, context, .. } = write;
        let rules = Rules::of(resource, false);
        if !list_at(&body, "/metadata/managedFields").is_empty() {
            return Err(ApiError::bad_request("metadata.managedFields must be nil"));
        }
        meta_mut(&mut body).shift_remove("managedFields");
        meta_mut(&mut body).shift_remove("creationTimestamp");
        meta_mut(&mut body).insert("name".to_owned(), json!(&*key.name));
        let own = owned(&rules, &body);
        let mut entry = entry(write, "Apply", &own);
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
        let mut new = old.json().clone();
        merge(&rules, &mut new, &body, "", "");
        remove(&mut new, &gone);
        if context.manager == "kubectl" {
            renew_last_applied(&mut new, &body);
        }
        if new == *old.json() {
            // The time of a manager is that of its last change.
            let time = before.as_ref().and_then(|before| before.get("time").cloned());
            set_or_remove(object(&mut entry), "time", time);
        }
        entries.push(entry);
        sort(&mut entries);
        meta_mut(&mut new).insert("managedFields".to_owned(), Value::Array(entries));
        self.update(Write { context: &context, ..write }, &old, new)
    }
}

fn is_apply(entry: &Value) -> bool {
    text(entry, "operation") == "Apply"
}

/// A new row of `managedFields`.
fn entry(write: Write<'_>, operation: &str, fields: &Value) -> Value {
    let Write { now, resource, context } = write;
    let mut entry = json!({"manager": context.manager, "operation": operation,
        "apiVersion": resource.kind.api_version(), "time": stamp(now),
        "fieldsType": "FieldsV1", "fieldsV1": fields});
    if context.subresource == Some(Subresource::Status) {
        entry["subresource"] = json!("status");
    }
    entry
}

/// Keeps the annotation of `kubectl apply` at what is applied now, so that a client that reads it
/// does not undo this.
fn renew_last_applied(new: &mut Value, body: &Value) {
    const NAME: &str = "kubectl.kubernetes.io/last-applied-configuration";
    let annotations = meta_mut(new).get_mut("annotations").and_then(Value::as_object_mut);
    let Some(old) = annotations.and_then(|annotations| annotations.get_mut(NAME)) else { return };
    let mut applied = body.clone();
    if let Some(own) = meta_mut(&mut applied).get_mut("annotations").and_then(Value::as_object_mut)
    {
        own.shift_remove(NAME);
    }
    applied.sort_all_objects();
    *old = json!(format!("{applied}\n"));
}

fn object(value: &mut Value) -> &mut Map<String, Value> {
    value.as_object_mut().expect("a row of managedFields is an object")
}

/// The order of `managedFields`.
fn sort(entries: &mut [Value]) {
    let key = |entry: &Value| {
        ["operation", "time", "manager", "subresource"].map(|field| text(entry, field).to_owned())
    };
    entries.sort_by_key(key);
}

/// `managedFields` of a new object that a client made without applying it; `None` for objects whose
/// owners nobody asks for.
pub(crate) fn first(write: Write<'_>, body: &Value) -> Option<Value> {
    let Write { resource, context, .. } = write;
    let is_brief = resource.is("", "Event") || resource.is("coordination.k8s.io", "Lease");
    if context.is_trusted || is_brief {
        return None;
    }
    let own = owned(&Rules::of(resource, true), body);
    (!is_leaf(&own)).then(|| json!([entry(write, "Update", &own)]))
}

/// Records the manager of a plain write, on objects whose field owners are known.
pub(crate) fn track(write: Write<'_>, old: &Obj, new: &mut Value, is_status: bool) {
    let Write { resource, context, .. } = write;
    let given = list_at(new, "/metadata/managedFields");
    if given == [json!({})] {
        // How a client asks to forget all owners.
        meta_mut(new).shift_remove("managedFields");
        return;
    }
    let mut entries = given.to_vec();
    if entries.is_empty() {
        return;
    }
    let rules = Rules::of(resource, true);
    let set = |body: &Value| if is_status { status(&rules, body) } else { owned(&rules, body) };
    let (before, after) = (set(old.json()), set(new));
    let mut changed = Map::new();
    collect_changes(&before, &after, Some(old.json()), Some(new), &mut changed);
    let changed = Value::Object(changed);
    let gone = difference(&before, &after);
    if is_leaf(&changed) && is_leaf(&gone) {
        return;
    }
    let part = if is_status { "status" } else { "" };
    let is_own = |entry: &Value| {
        text(entry, "manager") == context.manager
            && text(entry, "subresource") == part
            && !is_apply(entry)
    };
    let mut own = json!({});
    for entry in &mut entries {
        let left = difference(&entry["fieldsV1"], &gone);
        if is_own(entry) {
            own = left;
        } else {
            entry["fieldsV1"] = difference(&left, &changed);
        }
    }
    entries.retain(|entry| !is_own(entry) && !is_leaf(&entry["fieldsV1"]));
    unite(&mut own, &changed);
    if !is_leaf(&own) {
        entries.push(entry(write, "Update", &own));
    }
    sort(&mut entries);
    meta_mut(new).insert("managedFields".to_owned(), Value::Array(entries));
}

/// How the values of a kind merge.
struct Rules {
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
    fn of(resource: &Resource, is_update: bool) -> Self {
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

/// A field that tells elements apart, as it is when it is left out.
fn key_value(item: &Value, key: &str) -> Value {
    let absent = || if key == "protocol" { json!("TCP") } else { Value::Null };
    item.get(key).cloned().unwrap_or_else(absent)
}

/// Name of a list element in a set of fields.
fn element(keys: &[&str], item: &Value) -> String {
    let named = keys.iter().map(|key| ((*key).to_owned(), key_value(item, key)));
    format!("k:{}", Value::Object(named.collect()))
}

/// The fields of a status, in the form of `FieldsV1`.
fn status(rules: &Rules, body: &Value) -> Value {
    match body.get("status") {
        Some(value) => json!({"f:status": fields(rules, value, "", "status")}),
        None => json!({}),
    }
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
    items.iter().position(|item| keys.iter().all(|(name, value)| key_value(item, name) == *value))
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
    let mut by_manager: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for entry in entries {
        if text(entry, "manager") == manager && is_apply(entry) {
            continue;
        }
        let mut paths = Vec::new();
        shared(&contested, &entry["fieldsV1"], "", &mut paths);
        let mut who = format!("{:?}", text(entry, "manager"));
        if !text(entry, "subresource").is_empty() {
            who = format!("{who} with subresource {:?}", text(entry, "subresource"));
        }
        if !is_apply(entry) {
            who = format!("{who} using {}", text(entry, "apiVersion"));
        }
        causes.extend(paths.iter().map(|path| Cause {
            reason: "FieldManagerConflict",
            message: format!("conflict with {who}"),
            field: path.clone(),
        }));
        if !paths.is_empty() {
            by_manager.entry(who).or_default().extend(paths);
        }
    }
    let message = match causes.as_slice() {
        [] => return Ok(()),
        [cause] => format!("Apply failed with 1 conflict: {}: {}", cause.message, cause.field),
        all => {
            let words: Vec<String> = by_manager
                .iter()
                .map(|(who, paths)| format!("conflicts with {who}:\n- {}", paths.join("\n- ")))
                .collect();
            format!("Apply failed with {} conflicts: {}", all.len(), words.join("\n"))
        }
    };
    Err(ApiError { causes, ..ApiError::new(409, "Conflict", message) })
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
fn shared(set: &Value, other: &Value, path: &str, paths: &mut Vec<String>) {
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
