//! `ControllerRevision`: the templates that a `StatefulSet` or `DaemonSet` has had.
//!
//! **Source**: `pkg/controller/history/controller_history.go`.

use evenkeel_api::{Key, Obj, Revision, json::same};
use evenkeel_control::{Action, Plan, Propagation};
use k8s_openapi::api::apps::v1::ControllerRevision;
use serde_json::{Map, Value, json};

use crate::{
    pods,
    seen::{Seen, json},
};

/// The patch that gives an owner a template back, as `kubectl rollout undo` applies it.
///
/// Fields are in the order of their names and `creationTimestamp` is there, because the hash of a
/// `StatefulSet`'s revision is that of these bytes.
pub(crate) fn patch_of(template: &Value) -> Value {
    let mut template = sorted(template);
    if let Some(fields) = template.as_object_mut() {
        fields.insert("$patch".to_owned(), json!("replace"));
        let metadata = fields.entry("metadata").or_insert_with(|| json!({}));
        if let Some(metadata) = metadata.as_object_mut() {
            metadata.entry("creationTimestamp").or_insert(Value::Null);
        }
    }
    sorted(&json!({"spec": {"template": template}}))
}

fn sorted(value: &Value) -> Value {
    let mut value = value.clone();
    value.sort_all_objects();
    value
}

/// The template in a revision.
pub(crate) fn template_of(revision: &ControllerRevision) -> Option<Value> {
    let mut template = revision.data.as_ref()?.0.pointer("/spec/template")?.clone();
    template.as_object_mut()?.shift_remove("$patch");
    Some(template)
}

/// Whether a revision has this template.
pub(crate) fn is_of(revision: &ControllerRevision, patch: &Value) -> bool {
    revision.data.as_ref().is_some_and(|data| same(&data.0, patch))
}

/// FNV-1 of 32 bits, as `New32` of Go's `hash/fnv` has it.
pub(crate) fn fnv32(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| hash.wrapping_mul(0x0100_0193) ^ u32::from(*byte))
}

/// A number in the letters of `rand.SafeEncodeString`, with which no word can be formed.
pub(crate) fn encoded(number: u32) -> String {
    const LETTERS: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
    let letter = |digit: u8| char::from(LETTERS[usize::from(digit) % LETTERS.len()]);
    number.to_string().bytes().map(letter).collect()
}

/// An owner's revisions, the oldest first.
pub(crate) struct History<'a> {
    owner: &'a Obj,
    /// All of its namespace: names are unique among them.
    everyone: &'a [Seen<ControllerRevision>],
    pub(crate) own: Vec<&'a Seen<ControllerRevision>>,
}

/// What a new revision is made of.
pub(crate) struct Draft<'a> {
    pub(crate) patch: &'a Value,
    pub(crate) labels: Map<String, Value>,
    /// The label with the hash.
    pub(crate) hash_label: &'static str,
    /// The hash of this many collisions.
    pub(crate) hash: &'a dyn Fn(i32) -> String,
}

/// The revision of the present template.
#[derive(Debug)]
pub(crate) struct Update {
    pub(crate) name: String,
    pub(crate) collisions: i32,
    /// What makes it the newest one; `None` when it is.
    pub(crate) action: Option<Action>,
    assumed: Option<(Key, Revision)>,
}

impl Update {
    pub(crate) fn add_to(&self, plan: &mut Plan) {
        plan.actions.extend(self.action.clone());
        plan.assumed.extend(self.assumed.clone());
    }
}

impl<'a> History<'a> {
    pub(crate) fn of(owner: &'a Obj, everyone: &'a [Seen<ControllerRevision>]) -> Self {
        let owned = |one: &&Seen<ControllerRevision>| pods::is_controlled_by(&one.obj, owner.uid());
        let mut own: Vec<_> = everyone.iter().filter(owned).collect();
        own.sort_by_key(|one| (one.revision, one.created(), one.name().to_owned()));
        Self { owner, everyone, own }
    }

    fn next(&self) -> i64 {
        self.own.last().map_or(0, |last| last.revision) + 1
    }

    /// Finds the revision of the present template, or makes it. An earlier one becomes the newest
    /// one by its number: that is what a rollback is.
    pub(crate) fn update(&self, draft: &Draft<'_>, mut collisions: i32) -> Update {
        if let Some(found) = self.own.iter().rev().find(|one| is_of(one, draft.patch)) {
            let is_newest = self.own.last().is_some_and(|last| last.uid() == found.uid());
            let bump = (!is_newest).then(|| Action::Patch {
                key: found.key().clone(),
                patch: json!({"revision": self.next()}),
            });
            return Update {
                name: found.name().to_owned(),
                collisions,
                assumed: bump.is_some().then(|| found.assumed()),
                action: bump,
            };
        }
        loop {
            let hash = (draft.hash)(collisions);
            let name = format!("{}-{hash}", self.owner.name());
            let taken = self.everyone.iter().find(|one| one.name() == name);
            if taken.is_some_and(|taken| !is_of(taken, draft.patch)) {
                collisions += 1;
                continue;
            }
            let action = taken.is_none().then(|| self.create(draft, &name, &hash)).flatten();
            return Update { name, collisions, action, assumed: None };
        }
    }

    fn create(&self, draft: &Draft<'_>, name: &str, hash: &str) -> Option<Action> {
        let mut labels = draft.labels.clone();
        labels.insert(draft.hash_label.to_owned(), hash.into());
        let mut metadata = json!({"name": name, "namespace": self.owner.namespace(),
            "labels": labels, "ownerReferences": [self.owner.owner_reference()]});
        if let Some(annotations) = &self.owner.meta().annotations {
            metadata["annotations"] = json(annotations);
        }
        let body = json!({"apiVersion": "apps/v1", "kind": "ControllerRevision",
            "metadata": metadata, "data": draft.patch, "revision": self.next()});
        Some(Action::Create(Box::new(Obj::from_json(body).ok()?)))
    }

    /// Deletes the oldest ones beyond the limit that are not in use.
    pub(crate) fn truncate(&self, limit: i32, is_live: impl Fn(&str) -> bool) -> Vec<Action> {
        let Ok(limit) = usize::try_from(limit) else { return Vec::new() };
        let idle: Vec<_> = self.own.iter().filter(|one| !is_live(one.name())).collect();
        let surplus = idle.len().saturating_sub(limit);
        let delete = |one: &&&Seen<ControllerRevision>| Action::Delete {
            key: one.key().clone(),
            uid: one.uid().to_owned(),
            propagation: Propagation::Background,
        };
        idle.iter().take(surplus).map(delete).collect()
    }
}
