//! What an installation has on the cluster, and who else is there.

use std::{collections::BTreeMap, process::ExitCode, sync::Arc};

use anyhow::{bail, ensure};
use evenkeel_api::{
    GroupKind, Key, LabelSelector, Obj, beside,
    canary::{Canary, Phase},
    crds,
};
use evenkeel_assembly::domains;
use evenkeel_control::{ListQuery, Read as _, StoreError};
use evenkeel_delivery::{FINALIZER, is_kept_on};
use evenkeel_live::KubeStore;
use k8s_openapi::api::{
    apps::v1::StatefulSet, coordination::v1::Lease, core::v1::PersistentVolumeClaim,
};
use serde_json::Value;

use super::super::place::{PART_OF, Place};
use crate::{install_flags::UninstallArgs, io, tools::crds::definition};

/// The group whose controllers put finalizers on Canaries, and their name as field manager.
const DELIVERY: &str = "delivery";
/// Of our own kinds.
const OWN_GROUP: &str = "evenkeel.dev";

/// What there is.
pub(super) struct Found {
    pub(super) set: Option<Key>,
    /// The other objects that `install` prints, in the order in which they are deleted.
    pub(super) rest: Vec<Key>,
    pub(super) leases: Vec<Key>,
    /// Volumes with the record.
    pub(super) claims: Vec<Key>,
    /// Canaries with our finalizer that nobody else looks after.
    pub(super) canaries: Vec<Key>,
    /// Those of them whose traffic is split, or whose deletion is not done.
    busy: Vec<String>,
    /// Canaries that were taken over from another controller, and not given back.
    handed_over: Vec<String>,
    /// Definitions of our kinds, and what uses them.
    pub(super) definitions: Vec<(Key, Option<String>)>,
    /// Objects with the names of ours that are not.
    foreign: Vec<Key>,
    /// Objects that Helm keeps, by its release.
    of_helm: Vec<(Key, String)>,
    others: Vec<Other>,
}

/// Another installation.
struct Other {
    key: Key,
    only: Vec<String>,
    watched: Option<String>,
}

impl Other {
    fn of(set: &Obj) -> Self {
        let args = set.json().pointer("/spec/template/spec/containers/0/args");
        let args = args.and_then(Value::as_array);
        let flag = |name: &str| {
            let mut texts = args.into_iter().flatten().filter_map(Value::as_str);
            texts.find_map(|text| text.strip_prefix(name)?.strip_prefix('=').map(str::to_owned))
        };
        let only = flag("--only").unwrap_or_default();
        let only = only.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect();
        Self { key: set.key().clone(), only, watched: flag("--watch-namespace") }
    }

    fn looks_after_canaries_in(&self, namespace: &str) -> bool {
        let runs = self.only.is_empty() || self.only.iter().any(|group| group == DELIVERY);
        runs && self.watched.as_ref().is_none_or(|watched| watched == namespace)
    }

    /// The flags that name it.
    fn flags(&self) -> String {
        let mut flags = format!("--namespace {}", self.key.namespace);
        if *self.key.name != *"evenkeel" && !self.only.is_empty() {
            flags.extend([" --only ", &self.only.join(",")]);
        }
        if let Some(watched) = &self.watched {
            flags.extend([" --watch-namespace ", watched]);
        }
        flags
    }
}

pub(super) async fn at(store: &KubeStore, place: &Place) -> anyhow::Result<Found> {
    let set = Key::of::<StatefulSet>(&place.namespace, &place.name());
    let (claims, others) = (claims(store, place).await?, others(store, place, &set).await?);
    let mut found = Found {
        set: None,
        rest: Vec::new(),
        leases: Vec::new(),
        claims,
        canaries: Vec::new(),
        busy: Vec::new(),
        handed_over: Vec::new(),
        definitions: Vec::new(),
        foreign: Vec::new(),
        of_helm: Vec::new(),
        others,
    };
    for key in std::iter::once(set.clone()).chain(printed(place)) {
        let Some(obj) = known(store, &key).await? else { continue };
        let label = |name: &str| obj.labels().get(name).map(String::as_str);
        if label(PART_OF.0) != Some(PART_OF.1) {
            found.foreign.push(key);
        } else if label("app.kubernetes.io/managed-by") == Some("Helm") {
            let release = obj.annotation("meta.helm.sh/release-name").unwrap_or_default();
            found.of_helm.push((key, release.to_owned()));
        } else if key == set {
            found.set = Some(key);
        } else {
            found.rest.push(key);
        }
    }
    for domain in domains().iter().filter(|domain| place.runs(domain.name)) {
        let name = evenkeel_assembly::lease_name(domain.name);
        found.leases.push(Key::of::<Lease>(place.leases(), &name));
    }
    if found.is_set_foreign() {
        // They are its volumes.
        found.claims.clear();
    }
    if place.runs(DELIVERY) {
        found.look_at_canaries(store, place).await?;
    }
    found.look_at_definitions(store, place).await?;
    Ok(found)
}

/// An object, `None` also where its kind is not known.
async fn known(store: &KubeStore, key: &Key) -> anyhow::Result<Option<Arc<Obj>>> {
    match store.get(key).await {
        Ok(found) => Ok(found),
        Err(StoreError::NoKind { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// What `install` prints besides the `StatefulSet`, the rights last.
fn printed(place: &Place) -> Vec<Key> {
    let name = place.name();
    let rbac = |kind: &str| GroupKind::new("rbac.authorization.k8s.io", kind);
    let inside = |kind: GroupKind| Key::new(kind, &place.namespace, &name);
    let roles = place.watched.as_ref().unwrap_or(&place.namespace);
    let mut keys = vec![
        inside(GroupKind::new("monitoring.coreos.com", "ServiceMonitor")),
        inside(GroupKind::new("", "Service")),
        inside(GroupKind::new("policy", "PodDisruptionBudget")),
        inside(GroupKind::new("networking.k8s.io", "NetworkPolicy")),
        Key::new(rbac("RoleBinding"), roles, &name),
        Key::new(rbac("Role"), roles, &name),
    ];
    if place.watched.is_none() {
        keys.push(Key::new(rbac("ClusterRoleBinding"), "", &place.cluster_role()));
        keys.push(Key::new(rbac("ClusterRole"), "", &place.cluster_role()));
    }
    keys.push(inside(GroupKind::new("", "ServiceAccount")));
    keys
}

async fn claims(store: &KubeStore, place: &Place) -> anyhow::Result<Vec<Key>> {
    // A claim has the labels that its set selects by, and no more.
    let label = LabelSelector::from_labels(&BTreeMap::from([named(place)]));
    let query = ListQuery::of::<PersistentVolumeClaim>().within(&place.namespace);
    let all = store.list(&query.with_labels(label)).await?.items;
    let ours = format!("data-{}-", place.name());
    let keys = all.iter().map(|claim| claim.key().clone());
    Ok(keys.filter(|key| key.name.starts_with(&ours)).collect())
}

/// Other installations, as far as they can be seen.
async fn others(store: &KubeStore, place: &Place, ours: &Key) -> anyhow::Result<Vec<Other>> {
    let label = LabelSelector::from_labels(&BTreeMap::from([part_of()]));
    let everywhere = ListQuery::of::<StatefulSet>().with_labels(label);
    let sets = match store.list(&everywhere).await {
        Ok(sets) => sets.items,
        // Who may look after one namespace only.
        Err(StoreError::Refused { .. }) if place.watched.is_some() => {
            store.list(&everywhere.within(&place.namespace)).await?.items
        }
        Err(error) => return Err(error.into()),
    };
    Ok(sets.iter().filter(|set| set.key() != ours).map(|set| Other::of(set)).collect())
}

/// Objects of this installation; the name alone may be somebody else's.
pub(super) fn labels(place: &Place) -> LabelSelector {
    LabelSelector::from_labels(&BTreeMap::from([named(place), part_of()]))
}

fn named(place: &Place) -> (String, String) {
    ("app.kubernetes.io/name".to_owned(), place.name())
}

fn part_of() -> (String, String) {
    (PART_OF.0.to_owned(), PART_OF.1.to_owned())
}

impl Found {
    /// Whether somebody else's `StatefulSet` has the name of ours.
    pub(super) fn is_set_foreign(&self) -> bool {
        self.foreign.iter().any(|key| key.kind.is::<StatefulSet>())
    }

    async fn look_at_canaries(&mut self, store: &KubeStore, place: &Place) -> anyhow::Result<()> {
        let query = ListQuery::of::<Canary>();
        let query = match &place.watched {
            Some(watched) => query.within(watched),
            None => query,
        };
        let canaries = match store.list(&query).await {
            Err(StoreError::NoKind { .. }) => return Ok(()),
            listed => listed?.items,
        };
        for canary in canaries {
            let key = canary.key().clone();
            let is_kept =
                self.others.iter().any(|other| other.looks_after_canaries_in(&key.namespace));
            if is_kept || !is_ours(store, &key).await? {
                continue;
            }
            let phase = canary.json().pointer("/status/phase").and_then(Value::as_str);
            let phase = phase.unwrap_or_default();
            if beside::is_handed_over(canary.json()) {
                self.handed_over.push(key.to_string());
            }
            if Phase::parse(phase).is_some_and(Phase::is_moving) {
                self.busy.push(format!("{key} ({phase})"));
            }
            if canary.meta().finalizers.iter().flatten().any(|name| name == FINALIZER) {
                self.canaries.push(key);
            }
        }
        Ok(())
    }

    async fn look_at_definitions(
        &mut self,
        store: &KubeStore,
        place: &Place,
    ) -> anyhow::Result<()> {
        if place.watched.is_some() {
            // They are the cluster's.
            return Ok(());
        }
        for crd in crds() {
            let text = |path: &str| crd.pointer(path).and_then(Value::as_str).unwrap_or_default();
            let key = definition(text("/metadata/name"));
            if text("/spec/group") != OWN_GROUP || store.get(&key).await?.is_none() {
                continue;
            }
            let kind = GroupKind::new(OWN_GROUP, text("/spec/names/kind"));
            let used = if let Some(other) = self.others.first() {
                Some(format!("{} needs it", other.key))
            } else {
                let count = store.list(&ListQuery::all(kind)).await?.items.len();
                (count > 0).then(|| format!("there are {count} objects of this kind"))
            };
            self.definitions.push((key, used));
        }
        Ok(())
    }

    /// Whether it can be done. A dry run says what it would be refused for, and goes on.
    pub(super) fn check(&self, args: &UninstallArgs) -> anyhow::Result<ExitCode> {
        if let Some((key, release)) = self.of_helm.first() {
            bail!(
                "Helm keeps {}: run `helm uninstall {release} -n {}` first, then this again, which \
                 removes what Helm does not know",
                key,
                if key.namespace.is_empty() { "NAMESPACE" } else { &key.namespace }
            );
        }
        for key in &self.foreign {
            io::complain(&format!("left {key}: it is not of `evenkeel install`"));
        }
        let mut refused = Vec::new();
        if !self.busy.is_empty() && !args.force {
            refused.push(format!(
                "something is under way: {}. Traffic would stay as it is split then: wait until it \
                 has ended, delete the Canary, or use --force",
                self.busy.join(", ")
            ));
        }
        if !self.handed_over.is_empty() && !args.force {
            refused.push(format!(
                "handed over and not given back: {}. Nobody would look after them: take the \
                 annotation {} away first, while evenkeel runs, or use --force",
                self.handed_over.join(", "),
                beside::MANAGED
            ));
        }
        ensure!(refused.is_empty() || args.dry_run, "{}", refused.join("; "));
        for reason in &refused {
            io::complain(&format!("would be refused: {reason}"));
        }
        for busy in &self.busy {
            io::complain(&format!("warning: {busy} stays as it is"));
        }
        Ok(if refused.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    pub(super) fn say_who_else_is_there(&self) {
        for other in &self.others {
            io::print(&format!("still there: {} ({})\n", other.key, other.flags()));
        }
    }
}

/// Whether our controllers look after this Canary: Flagger gives the finalizer the same name. What
/// they put on a Canary they take off when they give it back; who wrote a field stays noted for ever.
async fn is_ours(store: &KubeStore, key: &Key) -> anyhow::Result<bool> {
    let canary = store.raw(key).await?.unwrap_or_default();
    let entries = canary.pointer("/metadata/managedFields").and_then(Value::as_array);
    let is_written = entries.into_iter().flatten().any(|entry| entry["manager"] == DELIVERY);
    // The finalizer comes before the first status.
    let has_begun = canary.pointer("/status/phase").is_some();
    Ok(is_kept_on(&canary) || (is_written && !has_begun))
}
