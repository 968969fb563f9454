//! The garbage collector: deletes what is owned together with its owner.
//!
//! It sees events of all objects. A live one is checked for its own owners; one that is gone or
//! being deleted is looked up as an owner. Both directions are needed: owners may go first, and
//! dependents may come late. **Source**: `pkg/controller/garbagecollector`.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use evenkeel_api::{GroupKind, Key, Obj};
use evenkeel_control::{
    Action, Controller, ListQuery, ObserveError, Plan, Ports, Propagation, StoreError, Trigger,
    Wakes,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use serde_json::json;

use crate::reasons;

/// Finalizer of an owner that waits for its dependents.
const FOREGROUND: &str = "foregroundDeletion";
/// Finalizer of an owner whose dependents are to stay.
const ORPHAN: &str = "orphan";

/// The controller. It watches every kind that the server has or will have: what owns others, and
/// what is owned, is not for a list to say.
pub(crate) struct GarbageCollector {
    /// Kinds of which some object has, or had, an owner.
    owned: Arc<Mutex<BTreeSet<GroupKind>>>,
}

/// What one object's decision looks at.
#[derive(Debug)]
pub(crate) struct View {
    /// The object; `None` when it is gone.
    pub(crate) object: Option<Arc<Obj>>,
    /// Its owners, and what has their name now.
    pub(crate) owners: Vec<(OwnerReference, Owner)>,
    /// Objects that name it as an owner. Only read when it is gone or going.
    pub(crate) dependents: Vec<Dependent>,
}

/// An object that names another one as its owner.
#[derive(Debug)]
pub(crate) struct Dependent {
    pub(crate) object: Arc<Obj>,
    /// Its owners, as for the view's own object.
    pub(crate) owners: Vec<(OwnerReference, Owner)>,
}

/// What is known of an owner.
#[derive(Debug, Clone)]
pub(crate) enum Owner {
    /// An object of that name, perhaps another one than meant.
    Found(Arc<Obj>),
    /// Certainly no object of that name.
    Gone,
    /// The server does not know the kind: no reason to delete anything.
    Unknown,
}

impl Owner {
    /// The object, if it is the one that the reference means.
    fn meant_by(&self, reference: &OwnerReference) -> Option<&Obj> {
        match self {
            Self::Found(owner) if owner.uid() == reference.uid => Some(owner),
            _ => None,
        }
    }
}

impl GarbageCollector {
    pub(crate) fn new() -> Self {
        Self { owned: Arc::default() }
    }
}

/// Events are many, own nothing and are not owned. **Source**: upstream ignores them too.
fn is_event(kind: &GroupKind) -> bool {
    &*kind.kind == "Event" && matches!(&*kind.group, "" | "events.k8s.io")
}

/// An owner in foreground deletion waits for exactly this.
fn itself_and_owners(obj: &Obj) -> Wakes {
    let owners = obj.meta().owner_references.iter().flatten();
    let blocked = owners.filter(|owner| owner.block_owner_deletion == Some(true));
    let keys = blocked.map(|owner| owner_key(owner, obj.namespace()));
    Wakes::These(std::iter::once(obj.key().clone()).chain(keys).collect())
}

impl Controller for GarbageCollector {
    type View = View;

    fn name(&self) -> &'static str {
        "garbage-collector-controller"
    }

    fn owns(&self) -> ListQuery {
        ListQuery::all(GroupKind::every())
    }

    fn trigger(&self) -> Trigger {
        let owned = self.owned.clone();
        Trigger::Mapped(Arc::new(move |obj| {
            if is_event(&obj.key().kind) {
                return Wakes::These(Vec::new());
            }
            if obj.meta().owner_references.iter().flatten().next().is_some() {
                let mut owned = owned.lock().unwrap_or_else(PoisonError::into_inner);
                if !owned.contains(&obj.key().kind) {
                    owned.insert(obj.key().kind.clone());
                }
            }
            itself_and_owners(obj)
        }))
    }

    async fn observe(&self, key: &Key, ports: &Ports) -> Result<Option<View>, ObserveError> {
        let object = ports.read.get(key).await?;
        let mut known = BTreeMap::new();
        let owners = match &object {
            Some(object) => owners_of(ports, object, &mut known).await?,
            None => Vec::new(),
        };
        let looks_down = object.as_ref().is_none_or(|object| waits_for(object).is_some());
        let mut dependents = Vec::new();
        if looks_down {
            let kinds = self.owned.lock().unwrap_or_else(PoisonError::into_inner).clone();
            for found in dependents_of(ports, &kinds, key).await? {
                let owners = owners_of(ports, &found, &mut known).await?;
                dependents.push(Dependent { object: found, owners });
            }
        }
        Ok(Some(View { object, owners, dependents }))
    }

    fn decide(&self, view: &View) -> Plan {
        decide(view)
    }
}

/// The finalizer that makes its deletion wait for this controller.
fn waits_for(object: &Obj) -> Option<&'static str> {
    let has = |name: &str| object.meta().finalizers.iter().flatten().any(|held| held == name);
    let held = [FOREGROUND, ORPHAN].into_iter().find(|name| has(name));
    held.filter(|_| object.is_deleting())
}

fn owner_key(owner: &OwnerReference, namespace: &str) -> Key {
    let group = owner.api_version.split_once('/').map_or("", |(group, _)| group);
    Key::new(GroupKind::new(group, &owner.kind), namespace, &owner.name)
}

async fn owners_of(
    ports: &Ports,
    object: &Obj,
    known: &mut BTreeMap<Key, Owner>,
) -> Result<Vec<(OwnerReference, Owner)>, ObserveError> {
    let mut all = Vec::new();
    for reference in object.meta().owner_references.iter().flatten() {
        let key = owner_key(reference, object.namespace());
        let mut owner = lookup(ports, &key, known).await?;
        // A namespaced dependent may have a cluster-scoped owner; the reference does not say which.
        if !matches!(owner, Owner::Found(_)) && !object.namespace().is_empty() {
            match lookup(ports, &owner_key(reference, ""), known).await? {
                Owner::Unknown => {}
                better => owner = better,
            }
        }
        all.push((reference.clone(), owner));
    }
    Ok(all)
}

async fn lookup(
    ports: &Ports,
    key: &Key,
    known: &mut BTreeMap<Key, Owner>,
) -> Result<Owner, ObserveError> {
    if let Some(owner) = known.get(key) {
        return Ok(owner.clone());
    }
    let owner = match ports.read.get(key).await {
        Ok(Some(found)) => Owner::Found(found),
        Ok(None) => Owner::Gone,
        Err(
            StoreError::NoKind { .. }
            | StoreError::Refused { .. }
            | StoreError::Invalid { .. }
            | StoreError::NotFound { .. },
        ) => Owner::Unknown,
        Err(error) => return Err(error.into()),
    };
    known.insert(key.clone(), owner.clone());
    Ok(owner)
}

async fn dependents_of(
    ports: &Ports,
    kinds: &BTreeSet<GroupKind>,
    owner: &Key,
) -> Result<Vec<Arc<Obj>>, ObserveError> {
    let mut all = Vec::new();
    for kind in kinds {
        let mut query = ListQuery::all(kind.clone());
        if !owner.namespace.is_empty() {
            query = query.within(&owner.namespace);
        }
        let items = match ports.read.list(&query).await {
            Ok(listed) => listed.items,
            // A kind that this server does not know, or does not serve, has no objects.
            Err(StoreError::NoKind { .. } | StoreError::Refused { .. }) => continue,
            Err(error) => return Err(error.into()),
        };
        let names_owner = |object: &Arc<Obj>| {
            let mut owners = object.meta().owner_references.iter().flatten();
            owners.any(|reference| owner_key(reference, &owner.namespace) == *owner)
        };
        all.extend(items.into_iter().filter(names_owner));
    }
    Ok(all)
}

/// Collects the object itself, or what depends on it.
pub(crate) fn decide(view: &View) -> Plan {
    let Some(object) = &view.object else { return collect_dependents(view) };
    match waits_for(object) {
        Some(ORPHAN) => orphan(view, object),
        Some(_) => foreground(view, object),
        None if object.is_deleting() => Plan::idle(reasons::BEING_DELETED),
        None => {
            let mut plan = Plan::idle(reasons::OWNERS_ALIVE);
            collect(object, &view.owners, &mut plan);
            plan
        }
    }
}

/// Deletes an object that has lost all its owners; one that keeps some only forgets the others.
fn collect(object: &Obj, owners: &[(OwnerReference, Owner)], plan: &mut Plan) {
    let lives = |(reference, owner): &&(OwnerReference, Owner)| {
        matches!(owner, Owner::Unknown) || owner.meant_by(reference).is_some()
    };
    let alive: Vec<&OwnerReference> =
        owners.iter().filter(lives).map(|(reference, _)| reference).collect();
    if owners.is_empty() || alive.len() == owners.len() || object.is_deleting() {
        return;
    }
    plan.reason = reasons::OWNERS_GONE;
    if alive.is_empty() {
        plan.actions.push(delete(object, Propagation::Background));
    } else {
        plan.actions.push(set_owners(object, &alive));
        plan.assumed.push((object.key().clone(), object.revision()));
    }
}

fn collect_dependents(view: &View) -> Plan {
    let mut plan = Plan::idle(reasons::OWNERS_ALIVE);
    for dependent in &view.dependents {
        collect(&dependent.object, &dependent.owners, &mut plan);
    }
    plan
}

fn is_owned_by(object: &Obj, owner: &Obj) -> bool {
    object.meta().owner_references.iter().flatten().any(|reference| reference.uid == owner.uid())
}

/// Dependents first; the owner goes when none that blocks it is left.
fn foreground(view: &View, owner: &Obj) -> Plan {
    let mut plan = Plan::idle(reasons::DEPENDENTS_FIRST);
    let mut blocked = false;
    for dependent in view.dependents.iter().filter(|d| is_owned_by(&d.object, owner)) {
        let object = &dependent.object;
        let mut references = object.meta().owner_references.iter().flatten();
        blocked |= references.any(|reference| {
            reference.uid == owner.uid() && reference.block_owner_deletion == Some(true)
        });
        let lives_on = dependent.owners.iter().any(|(reference, other)| {
            let other = other.meant_by(reference).filter(|_| reference.uid != owner.uid());
            other.is_some_and(|other| waits_for(other) != Some(FOREGROUND))
        });
        if !object.is_deleting() && !lives_on {
            // Its own dependents go first too.
            plan.actions.push(delete(object, Propagation::Foreground));
        }
    }
    if blocked || !plan.actions.is_empty() { plan } else { release(owner, FOREGROUND) }
}

fn orphan(view: &View, owner: &Obj) -> Plan {
    let mut plan = Plan::idle(reasons::ORPHANING);
    for dependent in view.dependents.iter().filter(|d| is_owned_by(&d.object, owner)) {
        let references = dependent.object.meta().owner_references.iter().flatten();
        let kept: Vec<_> = references.filter(|reference| reference.uid != owner.uid()).collect();
        plan.actions.push(set_owners(&dependent.object, &kept));
        plan.assumed.push((dependent.object.key().clone(), dependent.object.revision()));
    }
    if plan.actions.is_empty() {
        return release(owner, ORPHAN);
    }
    plan.waking(Duration::ZERO)
}

fn release(owner: &Obj, finalizer: &str) -> Plan {
    let all = owner.meta().finalizers.iter().flatten();
    let kept: Vec<&String> = all.filter(|held| *held != finalizer).collect();
    let patch = json!({"metadata": {"finalizers": kept}});
    let key = owner.key().clone();
    Plan::act(reasons::DEPENDENTS_GONE, vec![Action::Patch { key: key.clone(), patch }])
        .assuming(key, owner.revision())
}

fn set_owners(object: &Obj, owners: &[&OwnerReference]) -> Action {
    let patch = json!({"metadata": {"ownerReferences": owners}});
    Action::Patch { key: object.key().clone(), patch }
}

fn delete(object: &Obj, propagation: Propagation) -> Action {
    Action::Delete { key: object.key().clone(), uid: object.uid().to_owned(), propagation }
}

#[cfg(test)]
mod tests;
