use std::{collections::BTreeMap, sync::Mutex};

use evenkeel_api::GroupKind;
use kube::Client;

/// How a kind is reached: URL parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Route {
    /// `group/version`, or `v1`.
    pub(crate) api_version: String,
    /// URL segment.
    pub(crate) plural: String,
    /// Whether objects live in namespaces.
    pub(crate) namespaced: bool,
}

impl Route {
    /// Path of the collection, or of one object when `name` is given.
    pub(crate) fn path(&self, namespace: Option<&str>, name: Option<&str>) -> String {
        let root = if self.api_version.contains('/') { "/apis/" } else { "/api/" };
        let mut path = format!("{root}{}", self.api_version);
        if let Some(namespace) = namespace.filter(|ns| self.namespaced && !ns.is_empty()) {
            path.push_str("/namespaces/");
            path.push_str(namespace);
        }
        path.push('/');
        path.push_str(&self.plural);
        if let Some(name) = name {
            path.push('/');
            path.push_str(name);
        }
        path
    }
}

/// Kinds known to the server, read once and again when an unknown one is asked for.
pub(crate) struct Kinds {
    known: Mutex<BTreeMap<GroupKind, Route>>,
}

impl Kinds {
    pub(crate) fn new() -> Self {
        Self { known: Mutex::new(BTreeMap::new()) }
    }

    fn look_up(&self, kind: &GroupKind) -> Option<Route> {
        self.known.lock().unwrap_or_else(std::sync::PoisonError::into_inner).get(kind).cloned()
    }

    /// The route of a kind. `Ok(None)`: the server does not have it.
    pub(crate) async fn find(
        &self,
        client: &Client,
        kind: &GroupKind,
    ) -> Result<Option<Route>, kube::Error> {
        if let Some(route) = self.look_up(kind) {
            return Ok(Some(route));
        }
        let found = kube::discovery::Discovery::new(client.clone()).run_aggregated().await?;
        let mut fresh = BTreeMap::new();
        for group in found.groups_alphabetical() {
            for (resource, capabilities) in group.recommended_resources() {
                let route = Route {
                    api_version: resource.api_version.clone(),
                    plural: resource.plural.clone(),
                    namespaced: capabilities.scope == kube::discovery::Scope::Namespaced,
                };
                fresh.insert(GroupKind::new(&resource.group, &resource.kind), route);
            }
        }
        *self.known.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = fresh;
        Ok(self.look_up(kind))
    }
}
