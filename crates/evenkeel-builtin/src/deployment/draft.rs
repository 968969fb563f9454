//! The plan in the making: edits of `ReplicaSets`, collected so that each is written once.

use std::collections::BTreeMap;

use evenkeel_api::{Obj, json::merge};
use evenkeel_control::{Action, EventNote, EventType, Plan};
use k8s_openapi::api::apps::v1::DeploymentCondition;
use serde_json::{Map, Value, json};

use super::{
    View,
    conditions::{condition, set_condition},
    sets::{DESIRED, Limits, MAX, REVISION, REVISION_HISTORY, Set, Sets},
    template,
};
use crate::{reasons, seen::whole_second};

/// Annotations of a Deployment that its `ReplicaSets` do not inherit.
const NOT_INHERITED: [&str; 6] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    REVISION_HISTORY,
    DESIRED,
    MAX,
    "deprecated.deployment.rollback.to",
];
/// Longest revision history kept, in bytes. **Source**: `maxRevHistoryLengthInChars`.
const HISTORY_BYTES_MAX: usize = 2_000;

pub(crate) struct Draft<'a> {
    pub(crate) view: &'a View,
    pub(crate) limits: Limits,
    pub(crate) reason: &'static str,
    /// The Deployment's conditions as they are to be written.
    pub(crate) conditions: Vec<DeploymentCondition>,
    pub(crate) collisions: Option<i32>,
    created: Option<Obj>,
    edits: BTreeMap<String, Value>,
    revision: Option<String>,
    pub(crate) doomed: Vec<Action>,
    events: Vec<EventNote>,
}

impl<'a> Draft<'a> {
    pub(crate) fn new(view: &'a View, limits: Limits) -> Self {
        let status = view.deployment.status.as_ref();
        Self {
            view,
            limits,
            reason: reasons::SETTLED,
            conditions: status.and_then(|s| s.conditions.clone()).unwrap_or_default(),
            collisions: status.and_then(|s| s.collision_count),
            created: None,
            edits: BTreeMap::new(),
            revision: None,
            doomed: Vec::new(),
            events: Vec::new(),
        }
    }

    /// A condition of type Progressing with this content, now.
    pub(crate) fn progressing(
        &self,
        status: &str,
        reason: &str,
        message: String,
    ) -> DeploymentCondition {
        self.condition("Progressing", status, (reason, message))
    }

    pub(crate) fn condition(
        &self,
        kind: &str,
        status: &str,
        (reason, message): (&str, String),
    ) -> DeploymentCondition {
        DeploymentCondition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message),
            last_transition_time: Some(whole_second(self.view.now)),
            last_update_time: Some(whole_second(self.view.now)),
        }
    }

    /// Stops the progress clock while paused, and starts it again afterwards.
    pub(crate) fn note_pause(&mut self) {
        let reason = condition(&self.conditions, "Progressing").and_then(|c| c.reason.as_deref());
        if self.limits.deadline_s.is_none() || reason == Some(reasons::PROGRESS_DEADLINE_EXCEEDED) {
            return;
        }
        let was_paused = reason == Some(reasons::DEPLOYMENT_PAUSED);
        let (reason, message) = match (self.limits.paused, was_paused) {
            (true, false) => (reasons::DEPLOYMENT_PAUSED, "Deployment is paused"),
            (false, true) => (reasons::DEPLOYMENT_RESUMED, "Deployment is resumed"),
            _ => return,
        };
        let progressing = self.progressing("Unknown", reason, message.to_owned());
        set_condition(&mut self.conditions, progressing);
    }

    /// Sizes a `ReplicaSet`, and notes on it what it was sized for.
    pub(crate) fn scale(&mut self, set: &mut Set<'_>, replicas: i64) {
        let replicas = replicas.clamp(0, i64::from(i32::MAX));
        let Limits { replicas: desired, .. } = self.limits;
        let most = self.limits.total_max();
        if set.desired() != Some(desired) || set.max() != Some(most) {
            let notes = json!({DESIRED: desired.to_string(), MAX: most.to_string()});
            self.edit(set, json!({"metadata": {"annotations": notes}}));
        }
        if set.replicas == replicas {
            return;
        }
        self.edit(set, json!({"spec": {"replicas": replicas}}));
        let direction = if replicas > set.replicas { "up" } else { "down" };
        let name = set.seen.name();
        self.record(format!(
            "Scaled {direction} replica set {name} from {} to {replicas}",
            set.replicas
        ));
        set.replicas = replicas;
    }

    fn edit(&mut self, set: &Set<'_>, patch: Value) {
        let edit = self.edits.entry(set.seen.name().to_owned()).or_insert_with(|| json!({}));
        combine(edit, patch);
        self.reason = reasons::SCALING_REPLICA_SET;
    }

    fn record(&mut self, message: String) {
        self.events.push(EventNote {
            about: self.view.deployment.key().clone(),
            kind: EventType::Normal,
            reason: reasons::SCALING_REPLICA_SET,
            message,
        });
    }

    /// Brings annotations, revision and `minReadySeconds` of the new `ReplicaSet` up to date. A
    /// rollback is nothing else: the old one becomes the new one and gets the next revision.
    pub(crate) fn keep_revision(&mut self, sets: &mut Sets<'_>) {
        let next = next_revision(sets);
        let Some(new) = &sets.new else { return };
        let mut notes = self.inherited(new);
        let revision = new.revision();
        if revision < next {
            notes.insert(REVISION.to_owned(), next.to_string().into());
            if let Some(history) = history(new) {
                notes.insert(REVISION_HISTORY.to_owned(), history.into());
            }
        }
        if !notes.is_empty() {
            self.edit(new, json!({"metadata": {"annotations": notes}}));
        }
        let spec = new.seen.spec.as_ref();
        let ready_s_min = spec.and_then(|spec| spec.min_ready_seconds).unwrap_or_default();
        if ready_s_min != self.limits.ready_s_min {
            self.edit(new, json!({"spec": {"minReadySeconds": self.limits.ready_s_min}}));
        }
        self.revision = Some(revision.max(next).to_string());
        if self.limits.deadline_s.is_some() && condition(&self.conditions, "Progressing").is_none()
        {
            let message = format!("Found new replica set \"{}\"", new.seen.name());
            let found = self.progressing("True", reasons::FOUND_NEW_REPLICA_SET, message);
            set_condition(&mut self.conditions, found);
        }
    }

    fn inherited(&self, new: &Set<'_>) -> Map<String, Value> {
        let own = self.view.deployment.metadata.annotations.iter().flatten();
        own.filter(|(key, value)| {
            !NOT_INHERITED.contains(&key.as_str())
                && new.seen.obj.annotation(key) != Some(value.as_str())
        })
        .map(|(key, value)| (key.clone(), Value::from(value.as_str())))
        .collect()
    }

    /// Makes the `ReplicaSet` of the present template.
    pub(crate) fn create(&mut self, sets: &Sets<'_>) {
        let deployment = &self.view.deployment;
        let Some(spec) = deployment.spec.as_ref() else { return };
        let hash = template::hash(&spec.template, self.collisions.unwrap_or_default());
        let name = format!("{}-{hash}", deployment.name());
        if self.view.names.contains(&name) {
            // Taken by another template or owner: count the collision, which changes the next hash.
            self.collisions = Some(self.collisions.unwrap_or_default() + 1);
            self.reason = reasons::NAME_TAKEN;
            return;
        }
        let replicas = if self.limits.recreate {
            self.limits.replicas
        } else {
            (self.limits.total_max() - sets.held()).clamp(0, self.limits.replicas.max(0))
        };
        let next = next_revision(sets).to_string();
        self.created = self.new_set(&name, &hash, (replicas, &next));
        self.reason = reasons::NEW_REPLICA_SET_CREATED;
        if replicas > 0 {
            self.record(format!("Scaled up replica set {name} from 0 to {replicas}"));
        }
        self.revision = Some(next);
        if self.limits.deadline_s.is_some() {
            let message = format!("Created new replica set \"{name}\"");
            let made = self.progressing("True", reasons::NEW_REPLICA_SET_CREATED, message);
            set_condition(&mut self.conditions, made);
        }
    }

    fn new_set(&self, name: &str, hash: &str, (replicas, revision): (i64, &str)) -> Option<Obj> {
        let deployment = &self.view.deployment;
        let body = deployment.obj.json();
        let mut template = body.pointer("/spec/template")?.clone();
        let mut selector = body.pointer("/spec/selector")?.clone();
        let labelled = json!({"metadata": {"labels": {template::HASH_LABEL: hash}}});
        merge(&mut template, &labelled);
        merge(&mut selector, &json!({"matchLabels": {template::HASH_LABEL: hash}}));
        let mut annotations: Map<String, Value> = Map::new();
        for (key, value) in deployment.metadata.annotations.iter().flatten() {
            if !NOT_INHERITED.contains(&key.as_str()) {
                annotations.insert(key.clone(), value.as_str().into());
            }
        }
        annotations.insert(REVISION.to_owned(), revision.into());
        annotations.insert(DESIRED.to_owned(), self.limits.replicas.to_string().into());
        annotations.insert(MAX.to_owned(), self.limits.total_max().to_string().into());
        let mut spec = json!({"replicas": replicas, "selector": selector, "template": template});
        if self.limits.ready_s_min > 0 {
            spec["minReadySeconds"] = self.limits.ready_s_min.into();
        }
        Obj::from_json(json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {
            "name": name, "namespace": deployment.obj.namespace(),
            "labels": template.pointer("/metadata/labels"), "annotations": annotations,
            "ownerReferences": [deployment.obj.owner_reference()]}, "spec": spec}))
        .ok()
    }

    /// Actions, events and assumptions of the plan; status is still missing.
    pub(crate) fn into_plan(self) -> Plan {
        let mut plan = Plan { reason: self.reason, events: self.events, ..Plan::default() };
        plan.actions.extend(self.created.map(|set| Action::Create(Box::new(set))));
        for (name, patch) in self.edits {
            let Some(set) = self.view.sets.iter().find(|set| set.name() == name) else { continue };
            plan.actions.push(Action::Patch { key: set.key().clone(), patch });
            plan.assumed.push(set.assumed());
        }
        plan.actions.extend(self.doomed);
        let deployment = &self.view.deployment;
        if let Some(revision) = self.revision
            && deployment.obj.annotation(REVISION) != Some(&revision)
        {
            plan.actions.push(Action::Patch {
                key: deployment.key().clone(),
                patch: json!({"metadata": {"annotations": {REVISION: revision}}}),
            });
            plan.assumed.push(deployment.assumed());
        }
        plan
    }
}

fn next_revision(sets: &Sets<'_>) -> i64 {
    sets.old.iter().map(Set::revision).max().unwrap_or_default() + 1
}

/// The revision history with the present revision added, cut at its oldest end.
fn history(set: &Set<'_>) -> Option<String> {
    let revision = set.seen.obj.annotation(REVISION)?;
    let old = set.seen.obj.annotation(REVISION_HISTORY).unwrap_or_default();
    let mut parts: Vec<&str> = old.split(',').filter(|part| !part.is_empty()).collect();
    parts.push(revision);
    let mut text = parts.join(",");
    while text.len() > HISTORY_BYTES_MAX && parts.len() > 1 {
        parts.remove(0);
        text = parts.join(",");
    }
    Some(text)
}

/// Makes two merge patches one. Unlike in a merge, a `null` stays: it is still to delete something.
fn combine(edit: &mut Value, patch: Value) {
    match (edit, patch) {
        (Value::Object(edit), Value::Object(patch)) => {
            for (name, value) in patch {
                combine(edit.entry(name).or_insert(Value::Null), value);
            }
        }
        (edit, patch) => *edit = patch,
    }
}
