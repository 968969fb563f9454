use std::{collections::BTreeMap, sync::Arc};

use crate::{ApiObject, GroupKind};

/// Whether objects of a kind live in namespaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// One per namespace and name.
    Namespaced,
    /// One per name in the cluster.
    Cluster,
}

/// How a kind is spelled in URLs and in `kubectl`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kind {
    /// Group and kind.
    pub id: GroupKind,
    /// The version objects are stored and preferred in.
    pub version: Arc<str>,
    /// Every served version, preferred first.
    pub versions: Vec<Arc<str>>,
    /// URL path segment.
    pub plural: Arc<str>,
    /// Lower-case singular.
    pub singular: Arc<str>,
    /// Abbreviations such as `deploy`.
    pub short_names: Vec<Arc<str>>,
    /// Groups of kinds such as `all`.
    pub categories: Vec<Arc<str>>,
    /// Where its objects live.
    pub scope: Scope,
    /// Whether status is written apart from the rest.
    pub has_status: bool,
    /// Whether it has `/scale`.
    pub has_scale: bool,
}

impl Kind {
    /// Coordinates of a Rust type; no short names, no subresources.
    pub fn of<T: ApiObject>(scope: Scope) -> Self {
        let version: Arc<str> = T::VERSION.into();
        Self {
            id: GroupKind::of::<T>(),
            versions: vec![version.clone()],
            version,
            plural: T::URL_PATH_SEGMENT.into(),
            singular: T::KIND.to_lowercase().into(),
            short_names: Vec::new(),
            categories: Vec::new(),
            scope,
            has_status: false,
            has_scale: false,
        }
    }

    /// `group/version`, or the bare version in the core group.
    pub fn api_version(&self) -> String {
        if self.id.group.is_empty() {
            self.version.to_string()
        } else {
            format!("{}/{}", self.id.group, self.version)
        }
    }
}

/// All known kinds, by group and kind.
#[derive(Debug, Clone, Default)]
pub struct KindTable {
    kinds: BTreeMap<GroupKind, Arc<Kind>>,
}

impl KindTable {
    /// Adds or replaces a kind.
    pub fn insert(&mut self, kind: Kind) {
        self.kinds.insert(kind.id.clone(), Arc::new(kind));
    }

    /// Removes a kind, for a deleted CustomResourceDefinition.
    pub fn remove(&mut self, id: &GroupKind) {
        self.kinds.remove(id);
    }

    /// The kind by its identity.
    pub fn get(&self, id: &GroupKind) -> Option<&Arc<Kind>> {
        self.kinds.get(id)
    }

    /// The kind that a URL names.
    pub fn by_plural(&self, group: &str, plural: &str) -> Option<&Arc<Kind>> {
        self.kinds.values().find(|kind| &*kind.id.group == group && &*kind.plural == plural)
    }

    /// All kinds, ordered by group, then kind.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Kind>> {
        self.kinds.values()
    }
}
