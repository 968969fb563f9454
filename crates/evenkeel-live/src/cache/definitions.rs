use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use evenkeel_api::{FieldSelector, GroupKind, Key, Obj, Revision, beside};
use evenkeel_control::{ListQuery, Read as _, Reread, StoreError};

use super::CachedStore;
use crate::{kinds::Route, schema::StatusSchema, time::since_boot};

/// A definition that was read without a cache is not read again sooner.
const FOUND_FOR: Duration = Duration::from_secs(5);
/// Without the right to read definitions, it is tried again after this long.
const REFUSED_FOR: Duration = Duration::from_mins(1);

/// What is known of the `CustomResourceDefinition` of a kind.
#[derive(Debug)]
pub struct Definition {
    /// Its name: `canaries.flagger.app`.
    pub name: String,
    /// Whether it is evenkeel's own, or has a place for all that evenkeel's has one for.
    pub is_ours: bool,
    pub(crate) status: StatusSchema,
}

impl Definition {
    fn of(crd: &Obj, route: &Route) -> Self {
        let status = StatusSchema::of(crd.json(), version(route));
        let found = Self::with(crd.name().to_owned(), status, route);
        Self { is_ours: found.is_ours || beside::is_our_definition(crd.json()), ..found }
    }

    fn with(name: String, status: StatusSchema, route: &Route) -> Self {
        let own = evenkeel_api::crds().into_iter().find(|own| own["metadata"]["name"] == name);
        let covers = |own| status.covers(&StatusSchema::of(&own, version(route)));
        Self { is_ours: own.is_none_or(covers) || status.names_ours(), name, status }
    }

    /// Paths of a status that the API server drops under this definition.
    pub fn lost(&self, status: &serde_json::Value) -> Vec<String> {
        self.status.lost(status)
    }
}

fn version(route: &Route) -> &str {
    route.api_version.rsplit('/').next().unwrap_or_default()
}

/// Definitions by kind, read when one is asked for and followed from then on.
#[derive(Default)]
pub(super) struct Definitions {
    known: Mutex<BTreeMap<GroupKind, Known>>,
    reading: tokio::sync::Mutex<()>,
}

#[derive(Clone)]
struct Known {
    revision: Revision,
    found: Option<Arc<Definition>>,
    until: Duration,
}

impl Definitions {
    fn known(&self, kind: &GroupKind) -> Option<Known> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(kind).cloned()
    }

    /// What was read a moment ago.
    fn current(&self, kind: &GroupKind) -> Option<Known> {
        self.known(kind).filter(|known| since_boot() < known.until)
    }

    fn note(&self, kind: &GroupKind, known: Known) {
        let mut all = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(kind.clone(), known);
    }

    /// What the definition says, which is read once per revision.
    fn learn(&self, kind: &GroupKind, crd: Option<&Obj>, route: &Route) -> Option<Arc<Definition>> {
        let until = since_boot().saturating_add(FOUND_FOR);
        let revision = crd.map(Obj::revision).unwrap_or_default();
        let old = self.known(kind).filter(|old| old.revision == revision);
        let found = match old.and_then(|old| old.found) {
            Some(found) => Some(found),
            None => crd.map(|crd| Arc::new(Definition::of(crd, route))),
        };
        self.note(kind, Known { revision, found: found.clone(), until });
        found
    }
}

/// Whether another project may have made the definition of a kind.
pub(super) fn may_be_foreign(kind: &GroupKind) -> bool {
    let group = &*kind.group;
    group.contains('.') && !group.ends_with(".k8s.io") && group != "evenkeel.dev"
}

impl CachedStore {
    /// The definition of a kind; `None` for built-in kinds and those that are evenkeel's alone, and
    /// where it cannot be read.
    ///
    /// **Errors**: the server does not answer.
    pub async fn definition(
        &self,
        kind: &GroupKind,
    ) -> Result<Option<Arc<Definition>>, StoreError> {
        if !may_be_foreign(kind) {
            return Ok(None);
        }
        let Some(route) = self.live.find(kind).await? else { return Ok(None) };
        let name = format!("{}.{}", route.plural, kind.group);
        let crds = GroupKind::new("apiextensions.k8s.io", "CustomResourceDefinition");
        let query = ListQuery::all(crds).with_fields(FieldSelector::equal("metadata.name", &name));
        let definitions = &self.shared.definitions;
        if let Some(cache) = self.answering(&query) {
            let known = definitions.known(kind).filter(|known| known.found.is_some());
            let is_kept = |_: &Key, revision: &str| {
                known.as_ref().is_some_and(|known| *known.revision.0 == *revision)
            };
            return Ok(match cache.list_changed(&query, &is_kept).into_iter().next() {
                Some(Reread::Same(_)) => known.and_then(|known| known.found),
                Some(Reread::Changed(crd)) => definitions.learn(kind, Some(&crd), &route),
                None => definitions.learn(kind, None, &route),
            });
        }
        if let Some(known) = definitions.current(kind) {
            return Ok(known.found);
        }
        let _one_at_a_time = definitions.reading.lock().await;
        if let Some(known) = definitions.current(kind) {
            return Ok(known.found);
        }
        let listed = match self.namespace() {
            // No Role in a namespace can grant it.
            Some(_) => Err(StoreError::Refused {
                object: name.clone(),
                problem: "definitions belong to no namespace".to_owned(),
            }),
            None => self.live.list(&query).await,
        };
        match listed {
            Ok(listed) => {
                self.open(query);
                Ok(definitions.learn(kind, listed.items.first().map(AsRef::as_ref), &route))
            }
            Err(error @ (StoreError::Refused { .. } | StoreError::NoKind { .. })) => {
                // Who may act in one namespace only may not read definitions, but their schemas.
                let published = self.live.published(&route).await?;
                let status = published.and_then(|all| StatusSchema::published(&all, kind));
                let found = status.map(|status| Arc::new(Definition::with(name, status, &route)));
                if found.is_none() {
                    tracing::warn!(kind = %kind, %error, "its definition cannot be read");
                }
                let until = since_boot().saturating_add(REFUSED_FOR);
                let known = Known { revision: Revision::default(), found: found.clone(), until };
                definitions.note(kind, known);
                Ok(found)
            }
            Err(error) => Err(error),
        }
    }
}
