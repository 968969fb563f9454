use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use evenkeel_api::{GroupKind, LabelSelector, Obj};
use evenkeel_control::{
    BoxFuture, DefinedBy, ListQuery, Manage, Neighbour, Read as _, Seen, Steward, Stewards,
    StoreError,
};
use serde_json::Value;

use crate::{CachedStore, time::since_boot};

/// Controllers that look after kinds of ours: API group, name for people, and the label values by
/// which their Deployment is found.
const OTHERS: [(&str, &str, &str); 2] =
    [("flagger.app", "Flagger", "flagger"), ("sloth.slok.dev", "Sloth", "sloth")];
/// Labels that carry the name of a program: of Helm charts, and of plain manifests.
const NAME_LABELS: [&str; 2] = ["app.kubernetes.io/name", "app"];
/// Whether another controller runs is looked up no more often.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// Finds out who looks after a kind on this cluster: by whose its `CustomResourceDefinition` is, and
/// by the Deployment of the other controller.
pub struct Neighbours {
    store: CachedStore,
    manage: Manage,
    /// What was said last, by kind.
    said: Mutex<BTreeMap<GroupKind, Steward>>,
    /// What was seen of other controllers, by name, and when.
    seen: Mutex<BTreeMap<&'static str, (Duration, Seen)>>,
}

impl Neighbours {
    /// Acts on these objects.
    pub fn new(store: CachedStore, manage: Manage) -> Self {
        Self { store, manage, said: Mutex::default(), seen: Mutex::default() }
    }

    async fn look(&self, kind: &GroupKind) -> Result<Steward, StoreError> {
        let other = OTHERS.iter().find(|(group, ..)| *group == &*kind.group);
        let Some((_, name, label)) = other.copied() else { return Ok(Steward::Evenkeel) };
        if self.manage == Manage::All {
            return Ok(Steward::Evenkeel);
        }
        let found = self.store.definition(kind).await?;
        let crd = found.as_ref().map_or_else(|| kind.to_string(), |found| found.name.clone());
        let definition = match found.map(|found| found.is_ours) {
            Some(true) => DefinedBy::Us,
            Some(false) => DefinedBy::Another,
            None => DefinedBy::Unknown,
        };
        let neighbour = Neighbour { name, crd, definition, seen: self.seen(label).await? };
        Steward::of(&neighbour, self.manage)
            .map_err(|problem| StoreError::Refused { object: kind.to_string(), problem })
    }

    /// The Deployment of another controller.
    async fn seen(&self, label: &'static str) -> Result<Seen, StoreError> {
        let now = since_boot();
        let known = |known: &BTreeMap<&str, (Duration, Seen)>| {
            let (at, seen) = known.get(label)?;
            (now.saturating_sub(*at) < LOOK_EVERY).then(|| seen.clone())
        };
        if let Some(seen) = known(&self.seen.lock().unwrap_or_else(PoisonError::into_inner)) {
            return Ok(seen);
        }
        let namespace = self.store.namespace();
        let mut seen = if namespace.is_some() { Seen::NotFoundHere } else { Seen::NotFound };
        for name in NAME_LABELS {
            let Ok(labels) = LabelSelector::parse(&format!("{name}={label}")) else { continue };
            let mut query =
                ListQuery::all(GroupKind::new("apps", "Deployment")).with_labels(labels);
            if let Some(namespace) = namespace {
                query = query.within(namespace);
            }
            let listed = match self.store.list(&query).await {
                Ok(listed) => listed.items,
                Err(StoreError::Refused { .. }) => {
                    seen = Seen::CannotLook;
                    break;
                }
                Err(error) => return Err(error),
            };
            if let Some(one) = listed.iter().find(|one| has_or_wants_pods(one)) {
                seen = Seen::Running { deployment: one.key().to_string() };
                break;
            }
            if !listed.is_empty() && namespace.is_none() {
                seen = Seen::WithoutReplicas;
            }
        }
        let mut known = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert(label, (now, seen.clone()));
        Ok(seen)
    }

    /// Says in the log who looks after a kind, when that is news.
    fn say(&self, kind: &GroupKind, steward: &Steward) {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let old = said.insert(kind.clone(), steward.clone());
        drop(said);
        if old.as_ref() == Some(steward) {
            return;
        }
        match steward {
            Steward::Other { why, .. } | Steward::Consent { why } => tracing::warn!(
                kind = %kind.kind,
                "only objects with the annotation evenkeel.dev/managed: \"true\" are acted on, the \
                 others are observed: {why}"
            ),
            Steward::Evenkeel if old.is_some() => {
                tracing::warn!(kind = %kind.kind, "all objects are acted on from now on");
            }
            Steward::Evenkeel => tracing::info!(kind = %kind.kind, "all objects are acted on"),
        }
    }
}

impl Stewards for Neighbours {
    fn of<'a>(&'a self, kind: &'a GroupKind) -> BoxFuture<'a, Result<Steward, StoreError>> {
        Box::pin(async move {
            let steward = self.look(kind).await?;
            self.say(kind, &steward);
            Ok(steward)
        })
    }
}

/// Whether a Deployment runs, or may at any moment: one that is updated may have no pod for a while.
fn has_or_wants_pods(deployment: &Obj) -> bool {
    let count = |path: &str| deployment.json().pointer(path).and_then(Value::as_u64);
    count("/spec/replicas").unwrap_or(1) > 0 || count("/status/replicas").unwrap_or(0) > 0
}
