//! What volumes are made from, and what they are to be.

use std::{collections::BTreeMap, sync::Arc};

use evenkeel_api::{ApiObject, Key, Obj};

use super::{payload::Payload, tokens::TokenWanted};

/// What volumes are made from, besides the pod.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sources {
    /// What [`super::references`] named and is there; volumes of claims, too.
    pub(crate) objects: BTreeMap<Key, Arc<Obj>>,
    /// The answers to what [`super::tokens_of`] named.
    pub(crate) tokens: BTreeMap<TokenWanted, Result<String, String>>,
    /// What the node has, for limits that are not set.
    pub(crate) allocatable: BTreeMap<String, String>,
}

impl Sources {
    pub(super) fn get<T: ApiObject>(&self, key: &Key) -> Result<Option<Arc<T>>, String> {
        let found = self.objects.get(key).map(|object| object.get::<T>());
        found.transpose().map_err(|error| error.to_string())
    }
}

/// What one volume is to be.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Wanted {
    /// Files that are written for the pod.
    Files {
        kind: &'static str,
        payload: Payload,
        /// Whether what they are made of may change.
        changes: bool,
    },
    /// A folder that lives as long as the pod.
    EmptyDir { is_memory: bool, limit: Option<Limit> },
    /// The folder of a claim, by its name below the root of claims.
    Claim { folder: String, is_read_only: bool },
    /// A folder or file of this machine.
    HostPath(HostPath),
}

impl Wanted {
    /// The same without the content of files, which may be secret.
    pub(crate) fn emptied(self) -> Self {
        match self {
            Self::Files { kind, changes, .. } => {
                Self::Files { kind, payload: Payload::new(), changes }
            }
            other => other,
        }
    }
}

/// `sizeLimit` of an emptyDir.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Limit {
    pub(crate) bytes: u64,
    /// As written.
    pub(crate) text: String,
}

/// A path of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HostPath {
    pub(crate) path: String,
    /// `Directory`, `FileOrCreate` ...; empty checks nothing.
    pub(crate) kind: String,
    pub(crate) is_read_only: bool,
}
