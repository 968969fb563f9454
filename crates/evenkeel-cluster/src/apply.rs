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
    field_set::{
        Rules, collect_changes, contested, difference, is_leaf, merge, owned, remove, shared,
        status, unite,
    },
    request::{Write, WriteContext, Written},
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
