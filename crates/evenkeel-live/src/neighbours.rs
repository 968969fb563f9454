use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use evenkeel_api::{GroupKind, LabelSelector};
use evenkeel_control::{BoxFuture, ListQuery, Read as _, Steward, Stewards, StoreError};

use crate::{CachedStore, time::since_boot};

/// Controllers that look after kinds of ours: API group, name for people, and the label values by
/// which their Deployment is found.
const OTHERS: [(&str, &str, &str); 2] =
    [("flagger.app", "Flagger", "flagger"), ("sloth.slok.dev", "Sloth", "sloth")];
/// Labels that carry the name of a program: of Helm charts, and of plain manifests.
const NAME_LABELS: [&str; 2] = ["app.kubernetes.io/name", "app"];
/// Whether another controller runs is looked up no more often.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// Nor, by so much more, where Deployments may not be listed.
const REFUSED_PAUSE: Duration = Duration::from_mins(5);

/// Which objects are acted on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manage {
    /// All.
    All,
    /// Those that were handed over.
    Annotated,
    /// Where another controller looks after a kind, those that were handed over; else all.
    Auto,
}

/// Finds out who looks after a kind on this cluster: by whose its `CustomResourceDefinition` is, and
/// by the Deployment of the other controller.
pub struct Neighbours {
    store: CachedStore,
    manage: Manage,
    /// What was said last, by kind.
    said: Mutex<BTreeMap<GroupKind, Steward>>,
    /// Deployments of other controllers, by name, and when that was looked up.
    running: Mutex<BTreeMap<&'static str, (Duration, Option<String>)>>,
}

impl Neighbours {
    /// Acts on these objects.
    pub fn new(store: CachedStore, manage: Manage) -> Self {
        Self { store, manage, said: Mutex::default(), running: Mutex::default() }
    }

    async fn look(&self, kind: &GroupKind) -> Result<Steward, StoreError> {
        let other = OTHERS.iter().find(|(group, ..)| *group == &*kind.group);
        let Some((_, name, label)) = other.copied() else { return Ok(Steward::Evenkeel) };
        match self.manage {
            Manage::All => return Ok(Steward::Evenkeel),
            Manage::Annotated => {
                let why = "evenkeel runs with --manage annotated".into();
                return Ok(Steward::Consent { why });
            }
            Manage::Auto => {}
        }
        let Some(definition) = self.store.definition(kind).await? else {
            return Err(StoreError::Refused {
                object: kind.to_string(),
                problem: format!(
                    "its CustomResourceDefinition cannot be read, so it may be {name}'s: allow to \
                     get, list and watch customresourcedefinitions, or run with --manage all"
                ),
            });
        };
        if !definition.is_ours {
            let why = format!("the CustomResourceDefinition {} is {name}'s", definition.name);
            return Ok(Steward::Other { name, why: why.into() });
        }
        Ok(match self.running(label).await? {
            Some(deployment) => {
                Steward::Other { name, why: format!("{name} runs here ({deployment})").into() }
            }
            None => Steward::Evenkeel,
        })
    }

    /// The Deployment of another controller.
    async fn running(&self, label: &'static str) -> Result<Option<String>, StoreError> {
        let now = since_boot();
        let known = |running: &BTreeMap<&str, (Duration, Option<String>)>| {
            let (at, found) = running.get(label)?;
            (now.saturating_sub(*at) < LOOK_EVERY).then(|| found.clone())
        };
        if let Some(found) = known(&self.running.lock().unwrap_or_else(PoisonError::into_inner)) {
            return Ok(found);
        }
        let (mut found, mut at) = (None, now);
        for name in NAME_LABELS {
            let Ok(labels) = LabelSelector::parse(&format!("{name}={label}")) else { continue };
            let mut query =
                ListQuery::all(GroupKind::new("apps", "Deployment")).with_labels(labels);
            if let Some(namespace) = self.store.namespace() {
                query = query.within(namespace);
            }
            match self.store.list(&query).await {
                Ok(listed) => found = listed.items.first().map(|one| one.key().to_string()),
                // The definition alone decides then.
                Err(StoreError::Refused { .. }) => {
                    at = now.saturating_add(REFUSED_PAUSE);
                    break;
                }
                Err(error) => return Err(error),
            }
            if found.is_some() {
                break;
            }
        }
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.insert(label, (at, found.clone()));
        Ok(found)
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
