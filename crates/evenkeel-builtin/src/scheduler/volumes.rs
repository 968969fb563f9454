//! What a pod's claims ask of its node.
//!
//! **Source**: `pkg/scheduler/framework/plugins/volumebinding` and `volumerestrictions`. A claim
//! that waits for a node gets it as an annotation; the pod is bound when its volumes are.

use std::collections::{BTreeMap, BTreeSet};

use evenkeel_api::{GroupKind, Key, local_volumes};
use evenkeel_control::{Action, ListQuery, ObserveError, Ports};
use k8s_openapi::api::{
    core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod},
    storage::v1::StorageClass,
};
use serde_json::json;

use crate::{
    node_terms::volume_allows,
    pods,
    seen::{Seen, list_as},
    storage,
};

const NO_VOLUME: &str = "node(s) didn't find available persistent volumes to bind";

/// Claims, volumes and classes, as far as a waiting pod needs them.
#[derive(Debug, Default)]
pub(crate) struct Storage {
    pub(crate) claims: BTreeMap<Key, Seen<PersistentVolumeClaim>>,
    pub(crate) volumes: BTreeMap<String, Seen<PersistentVolume>>,
    pub(crate) classes: BTreeMap<String, Seen<StorageClass>>,
}

impl Storage {
    /// Reads them, if a pod of these has claims at all.
    pub(crate) async fn observe(
        ports: &Ports,
        pending: impl Iterator<Item = &Seen<Pod>>,
    ) -> Result<Self, ObserveError> {
        let mut pending = pending;
        if !pending.any(|pod| !storage::claims_of(&pod.obj).is_empty()) {
            return Ok(Self::default());
        }
        let kind = GroupKind::of::<PersistentVolumeClaim>();
        let claims = list_as::<PersistentVolumeClaim>(ports, &ListQuery::all(kind)).await?;
        let kind = GroupKind::of::<PersistentVolume>();
        let volumes = list_as::<PersistentVolume>(ports, &ListQuery::all(kind)).await?;
        let kind = GroupKind::of::<StorageClass>();
        let classes = list_as::<StorageClass>(ports, &ListQuery::all(kind)).await?;
        Ok(Self {
            claims: claims.into_iter().map(|claim| (claim.key().clone(), claim)).collect(),
            volumes: volumes.into_iter().map(|it| (it.name().to_owned(), it)).collect(),
            classes: classes.into_iter().map(|it| (it.name().to_owned(), it)).collect(),
        })
    }
}

/// The claims of one pod.
#[derive(Debug, Default)]
pub(crate) struct Needs<'a> {
    /// Volumes that it has.
    bound: Vec<&'a Seen<PersistentVolume>>,
    /// Claims that wait for the pod's node.
    open: Vec<Open<'a>>,
}

#[derive(Debug)]
struct Open<'a> {
    claim: &'a Seen<PersistentVolumeClaim>,
    /// Volumes that it could get, the best first; `None` when one would be made on any node.
    choice: Option<Vec<&'a Seen<PersistentVolume>>>,
}

impl<'a> Needs<'a> {
    /// `taken`: volumes that the same plan gives to other pods.
    ///
    /// **Errors**: why no node can take the pod as its claims are.
    pub(crate) fn of(
        storage: &'a Storage,
        pod: &Seen<Pod>,
        others: &[Seen<Pod>],
        taken: &BTreeSet<&str>,
    ) -> Result<Self, String> {
        let mut needs = Self::default();
        for key in storage::claims_of(&pod.obj) {
            let name = &key.name;
            let Some(claim) = storage.claims.get(&key) else {
                if storage::brings(&pod.obj, name) {
                    return Err(format!(
                        "waiting for ephemeral volume controller to create the \
                         persistentvolumeclaim \"{name}\""
                    ));
                }
                return Err(format!("persistentvolumeclaim \"{name}\" not found"));
            };
            if claim.obj.is_deleting() {
                return Err(format!("persistentvolumeclaim \"{name}\" is being deleted"));
            }
            if is_exclusive(claim) && others.iter().any(|other| holds(other, pod, &key)) {
                return Err("node has pod using PersistentVolumeClaim with the same name and \
                            ReadWriteOncePod access mode"
                    .to_owned());
            }
            needs.add(storage, claim, taken)?;
        }
        Ok(needs)
    }

    fn add(
        &mut self,
        storage: &'a Storage,
        claim: &'a Seen<PersistentVolumeClaim>,
        taken: &BTreeSet<&str>,
    ) -> Result<(), String> {
        let phase = claim.status.as_ref().and_then(|status| status.phase.as_deref());
        if phase == Some("Lost") {
            return Err(format!(
                "persistentvolumeclaim \"{}\" bound to non-existent persistentvolume \"{}\"",
                claim.name(),
                claim.spec.as_ref().and_then(|s| s.volume_name.as_deref()).unwrap_or_default()
            ));
        }
        let spec = claim.spec.as_ref();
        let named = spec.and_then(|spec| spec.volume_name.as_deref());
        let unbound = || Err("pod has unbound immediate PersistentVolumeClaims".to_owned());
        if let Some(name) = named.filter(|name| !name.is_empty()) {
            let volume = storage.volumes.get(name).filter(|_| phase == Some("Bound"));
            let Some(volume) = volume else { return unbound() };
            self.bound.push(volume);
            return Ok(());
        }
        let class = spec.and_then(|spec| spec.storage_class_name.as_deref());
        // One without a class is about to get the default one.
        let class = match class {
            Some(name) => storage.classes.get(name),
            None => storage::default_of(storage.classes.values()),
        };
        let waits = |class: &&Seen<StorageClass>| {
            class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer")
        };
        let Some(class) = class.filter(waits) else { return unbound() };
        let is_made = class.provisioner != "kubernetes.io/no-provisioner";
        let free = storage.volumes.values().filter(|volume| !taken.contains(volume.name()));
        let choice = (!is_made).then(|| storage::choice(free, claim));
        self.open.push(Open { claim, choice });
        Ok(())
    }

    /// Why a node cannot have the volumes.
    pub(crate) fn refusal(&self, node: &Seen<Node>) -> Option<&'static str> {
        if !self.bound.iter().all(|volume| volume_allows(volume, node)) {
            return Some("node(s) had volume node affinity conflict");
        }
        let is_elsewhere = |open: &Open<'_>| {
            selected_node(open.claim).is_some_and(|selected| selected != node.name())
        };
        let cannot = self.open.iter().any(is_elsewhere) || self.chosen(node).is_none();
        cannot.then_some(NO_VOLUME)
    }

    /// Names of the volumes that its claims get on a node, another one for each. `None` when there
    /// are not enough.
    ///
    /// **Source**: `findMatchingVolumes` in `volumebinding/binder.go`.
    pub(crate) fn chosen(&self, node: &Seen<Node>) -> Option<BTreeSet<&'a str>> {
        let mut chosen = BTreeSet::new();
        for choice in self.open.iter().filter_map(|open| open.choice.as_ref()) {
            let mut free = choice.iter().copied().filter(|volume| volume_allows(volume, node));
            let volume = free.find(|volume| !chosen.contains(volume.name()))?;
            chosen.insert(volume.name());
        }
        Some(chosen)
    }

    /// Forgets nodes that were chosen before and are gone, or have no volume left for the claim:
    /// another claim was faster.
    pub(crate) fn without_gone<'n>(
        mut self,
        find: impl Fn(&str) -> Option<&'n Seen<Node>>,
    ) -> (Self, Vec<Action>) {
        let mut freed = Vec::new();
        self.open.retain(|open| {
            let Some(name) = selected_node(open.claim) else { return true };
            let can = find(name).is_some_and(|node| {
                let choice = open.choice.as_ref();
                choice.is_none_or(|all| all.iter().any(|volume| volume_allows(volume, node)))
            });
            if !can {
                freed.push(select(open.claim, None));
            }
            can
        });
        (self, freed)
    }

    /// What its claims have to be told before the pod can be bound; `None` when they are bound.
    pub(crate) fn tell(&self, node: &str) -> Option<Vec<Action>> {
        let untold = self.open.iter().filter(|open| selected_node(open.claim).is_none());
        let told = untold.map(|open| select(open.claim, Some(node))).collect();
        (!self.open.is_empty()).then_some(told)
    }
}

fn select(claim: &Seen<PersistentVolumeClaim>, node: Option<&str>) -> Action {
    let patch = json!({"metadata": {"annotations": {local_volumes::SELECTED_NODE: node}}});
    Action::Patch { key: claim.key().clone(), patch }
}

fn selected_node(claim: &Seen<PersistentVolumeClaim>) -> Option<&str> {
    let annotations = claim.obj.meta().annotations.as_ref()?;
    annotations.get(local_volumes::SELECTED_NODE).map(String::as_str)
}

fn is_exclusive(claim: &PersistentVolumeClaim) -> bool {
    let modes = claim.spec.as_ref().and_then(|spec| spec.access_modes.as_ref());
    modes.is_some_and(|modes| modes.iter().any(|mode| mode == "ReadWriteOncePod"))
}

/// Whether another pod, on a node, uses the claim.
fn holds(other: &Seen<Pod>, pod: &Seen<Pod>, claim: &Key) -> bool {
    other.uid() != pod.uid()
        && pods::node(other).is_some()
        && storage::claims_of(&other.obj).contains(claim)
}
