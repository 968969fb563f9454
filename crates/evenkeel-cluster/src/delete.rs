use std::sync::Arc;

use evenkeel_api::{GroupKind, Key, Obj};
use evenkeel_control::Propagation;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::{
    crd::CRD,
    error::ApiError,
    request::{DeleteRequest, Deleted},
    resource::Resource,
    state::{OWN_NAMESPACES, State},
    value::{list_at, meta_mut, number_at, stamp, text_at},
    write::is_finished,
};

/// How long an Event is kept after it was last recorded, as the API server does by default.
const EVENT_AGE: SignedDuration = SignedDuration::from_hours(1);
/// Events kept at most: enough for a busy hour, few enough to stay small.
const EVENTS_MAX: usize = 4_000;
/// New Events between two looks for old ones, so that creating one stays cheap.
const EVENTS_BETWEEN: u64 = 64;

/// Keeps a `CustomResourceDefinition` until its objects are gone.
const CRD_FINALIZER: &str = "customresourcecleanup.apiextensions.k8s.io";

impl State {
    pub(crate) fn delete(
        &mut self,
        now: Timestamp,
        resource: &Resource,
        key: &Key,
        request: &DeleteRequest,
    ) -> Result<Deleted, ApiError> {
        let old = self.found(resource, key)?;
        check_preconditions(resource, &old, request)?;
        if resource.is("", "Namespace") && OWN_NAMESPACES.contains(&old.name()) {
            let problem = "this namespace may not be deleted";
            return Err(ApiError::forbidden("", "namespaces", old.name(), problem));
        }
        let mut new = old.json().clone();
        set_finalizers(resource, &mut new, request.propagation);
        let grace = grace_seconds(resource, &old, request);
        let is_first = !old.is_deleting();
        let shortens = number_at(&new, "/metadata/deletionGracePeriodSeconds")
            .is_some_and(|running| grace < running);
        if is_first || shortens {
            let since = if is_first { now } else { started(&old).unwrap_or(now) };
            let at = since.checked_add(SignedDuration::from_secs(grace)).unwrap_or(now);
            let meta = meta_mut(&mut new);
            meta.insert("deletionTimestamp".to_owned(), json!(stamp(at)));
            meta.insert("deletionGracePeriodSeconds".to_owned(), json!(grace));
            if is_first && resource.has_generation {
                meta.insert("generation".to_owned(), json!(old.generation() + 1));
            }
        }
        if resource.is("", "Namespace") {
            new["status"]["phase"] = json!("Terminating");
        }
        let finished = is_finished(resource, &new);
        if request.dry_run {
            let obj = Arc::new(Obj::from_json(new)?);
            return Ok(if finished { Deleted::Gone(obj) } else { Deleted::Marked(obj) });
        }
        if finished {
            return self.commit_removal(resource, new, now).map(Deleted::Gone);
        }
        if new == *old.json() {
            return Ok(Deleted::Marked(old));
        }
        let marked = self.commit(new, now)?;
        self.cascade(resource, &marked, now)?;
        Ok(match self.find(key) {
            Some(held) => Deleted::Marked(held.clone()),
            None => Deleted::Gone(marked),
        })
    }

    /// Removes an object; `body` is its last state.
    pub(crate) fn commit_removal(
        &mut self,
        resource: &Resource,
        mut body: Value,
        now: Timestamp,
    ) -> Result<Arc<Obj>, ApiError> {
        let revision = self.revision + 1;
        meta_mut(&mut body).insert("resourceVersion".to_owned(), json!(revision.to_string()));
        let last = Arc::new(Obj::from_json(body)?);
        self.revision = revision;
        self.remove(last.clone(), now);
        self.release_dropped(resource, last.json(), &Value::Null);
        if resource.is(CRD.0, CRD.1) {
            self.registry_mut().remove(&defined(&last));
        }
        if resource.custom().is_some() {
            self.settle_definition(resource, now)?;
        }
        if resource.is_namespaced() {
            self.settle_emptied(last.namespace(), now)?;
        }
        Ok(last)
    }

    /// Deletes what belongs to a namespace or to the definition of a kind.
    fn cascade(
        &mut self,
        resource: &Resource,
        marked: &Obj,
        now: Timestamp,
    ) -> Result<(), ApiError> {
        if resource.is("", "Namespace") {
            for kind in self.kinds_in_use() {
                self.delete_all(&kind, Some(marked.name()), now)?;
            }
            self.settle_emptied(marked.name(), now)?;
        }
        if resource.is(CRD.0, CRD.1) {
            let kind = defined(marked);
            self.delete_all(&kind, None, now)?;
            if let Some(defined) = self.registry.get(&kind).cloned() {
                self.settle_definition(&defined, now)?;
            }
        }
        Ok(())
    }

    /// Drops Events that are too old, or too many.
    pub(crate) fn forget_events(
        &mut self,
        resource: &Resource,
        now: Timestamp,
    ) -> Result<(), ApiError> {
        self.events_created += 1;
        if !self.events_created.is_multiple_of(EVENTS_BETWEEN) {
            return Ok(());
        }
        let last_recorded = |event: &Obj| {
            let body = event.json();
            let times = [text_at(body, "/lastTimestamp"), text_at(body, "/eventTime")];
            let at = times.into_iter().find_map(|at| at.parse::<Timestamp>().ok());
            at.or_else(|| event.meta().creation_timestamp.as_ref().map(|at| at.0))
        };
        let mut events: Vec<(Option<Timestamp>, Arc<Obj>)> = self
            .objects(&resource.kind.id, None)
            .map(|event| (last_recorded(event), event.clone()))
            .collect();
        events.sort_by_key(|(at, _)| *at);
        let oldest = now.checked_sub(EVENT_AGE).unwrap_or(Timestamp::MIN);
        let too_many = events.len().saturating_sub(EVENTS_MAX);
        for (index, (at, event)) in events.into_iter().enumerate() {
            if index < too_many || at.is_none_or(|at| at < oldest) {
                self.commit_removal(resource, event.json().clone(), now)?;
            }
        }
        Ok(())
    }

    fn delete_all(
        &mut self,
        kind: &GroupKind,
        namespace: Option<&str>,
        now: Timestamp,
    ) -> Result<(), ApiError> {
        let Some(resource) = self.registry.get(kind).cloned() else { return Ok(()) };
        if namespace.is_some() && !resource.is_namespaced() {
            return Ok(());
        }
        let keys: Vec<Key> = self.objects(kind, namespace).map(|obj| obj.key().clone()).collect();
        let request =
            DeleteRequest { propagation: Some(Propagation::Background), ..Default::default() };
        for key in keys {
            match self.delete(now, &resource, &key, &request) {
                Ok(_) => {}
                // Already deleted together with another object.
                Err(error) if error.code == 404 => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Removes a namespace that is being deleted once nothing is left in it.
    fn settle_emptied(&mut self, namespace: &str, now: Timestamp) -> Result<(), ApiError> {
        let key = Key::new(GroupKind::new("", "Namespace"), "", namespace);
        let Some(found) = self.find(&key).cloned() else { return Ok(()) };
        let held = !list_at(found.json(), "/metadata/finalizers").is_empty();
        if !found.is_deleting() || held || self.is_namespace_in_use(namespace) {
            return Ok(());
        }
        let Some(resource) = self.registry.get(&key.kind).cloned() else { return Ok(()) };
        let mut last = found.json().clone();
        if let Some(spec) = last.get_mut("spec").and_then(Value::as_object_mut) {
            spec.shift_remove("finalizers");
        }
        self.commit_removal(&resource, last, now).map(drop)
    }

    /// The same for a namespace whose own finalizers have just been taken off.
    pub(crate) fn settle_namespace(
        &mut self,
        resource: &Resource,
        obj: &Obj,
        now: Timestamp,
    ) -> Result<(), ApiError> {
        if resource.is("", "Namespace") && obj.is_deleting() {
            self.settle_emptied(obj.name(), now)?;
        }
        Ok(())
    }

    /// Removes a definition that is being deleted once no object of its kind is left.
    fn settle_definition(&mut self, defined: &Resource, now: Timestamp) -> Result<(), ApiError> {
        let name = format!("{}.{}", defined.plural(), defined.group());
        let key = Key::new(GroupKind::new(CRD.0, CRD.1), "", &name);
        let Some(found) = self.find(&key).cloned() else { return Ok(()) };
        if !found.is_deleting() || self.objects(&defined.kind.id, None).next().is_some() {
            return Ok(());
        }
        let Some(resource) = self.registry.get(&key.kind).cloned() else { return Ok(()) };
        let mut last = found.json().clone();
        if let Some(finalizers) = meta_mut(&mut last).get_mut("finalizers") {
            let kept = finalizers.as_array_mut().map(std::mem::take).unwrap_or_default();
            *finalizers = kept.into_iter().filter(|name| *name != CRD_FINALIZER).collect();
        }
        if is_finished(&resource, &last) {
            self.commit_removal(&resource, last, now).map(drop)
        } else {
            self.commit(last, now).map(drop)
        }
    }
}

fn check_preconditions(
    resource: &Resource,
    old: &Obj,
    request: &DeleteRequest,
) -> Result<(), ApiError> {
    let revision = old.revision();
    for (what, wanted, found) in [
        ("UID", request.uid.as_deref(), old.uid()),
        ("ResourceVersion", request.revision.as_deref(), &*revision.0),
    ] {
        if let Some(wanted) = wanted.filter(|wanted| !wanted.is_empty() && *wanted != found) {
            return Err(ApiError::conflict(
                resource.group(),
                resource.plural(),
                old.name(),
                &format!(
                    "the {what} in the precondition ({wanted}) does not match the {what} in \
                     record ({found}). The object might have been deleted and then recreated"
                ),
            ));
        }
    }
    Ok(())
}

fn set_finalizers(resource: &Resource, body: &mut Value, propagation: Option<Propagation>) {
    let mut finalizers: Vec<Value> = list_at(body, "/metadata/finalizers").to_vec();
    let wanted = match propagation {
        Some(Propagation::Foreground) => Some("foregroundDeletion"),
        Some(Propagation::Orphan) => Some("orphan"),
        Some(Propagation::Background) => None,
        // No policy was given: existing finalizers stay.
        None => {
            let has = |name: &str| finalizers.iter().any(|have| have == name);
            ["foregroundDeletion", "orphan"].into_iter().find(|name| has(name))
        }
    };
    finalizers.retain(|name| name != "foregroundDeletion" && name != "orphan");
    finalizers.extend(wanted.map(|name| json!(name)));
    if resource.is(CRD.0, CRD.1) && !finalizers.iter().any(|name| name == CRD_FINALIZER) {
        finalizers.push(json!(CRD_FINALIZER));
    }
    let list = (!finalizers.is_empty()).then_some(Value::Array(finalizers));
    crate::value::set_or_remove(meta_mut(body), "finalizers", list);
}

/// Only pods are deleted gracefully, and only those that may be running somewhere.
fn grace_seconds(resource: &Resource, old: &Obj, request: &DeleteRequest) -> i64 {
    if !resource.is("", "Pod") {
        return 0;
    }
    let body = old.json();
    let is_placed = !text_at(body, "/spec/nodeName").is_empty();
    let is_over = matches!(text_at(body, "/status/phase"), "Succeeded" | "Failed");
    if !is_placed || is_over {
        return 0;
    }
    let own = number_at(body, "/spec/terminationGracePeriodSeconds").unwrap_or(30);
    // Kubernetes takes a negative period as the shortest one.
    match request.grace_seconds.unwrap_or(own) {
        seconds if seconds < 0 => 1,
        seconds => seconds,
    }
}

/// When a running grace period began.
fn started(obj: &Obj) -> Option<Timestamp> {
    let end = obj.meta().deletion_timestamp.as_ref()?.0;
    let grace = obj.meta().deletion_grace_period_seconds?;
    end.checked_sub(SignedDuration::from_secs(grace)).ok()
}

/// The kind that a definition defines.
fn defined(definition: &Obj) -> GroupKind {
    let spec = definition.json();
    GroupKind::new(text_at(spec, "/spec/group"), text_at(spec, "/spec/names/kind"))
}
