use std::{fmt, sync::Arc};

use evenkeel_api::{
    ApiObject, FieldSelector, GroupKind, Key, LabelSelector, Obj, ObjError, Revision,
};
use serde_json::Value;

use crate::{BoxFuture, BoxStream, Retry, redact};

/// The reading half of the Kubernetes API: all that an observation gets.
///
/// Object-safe, over `Arc<Obj>`. `cluster` implements it in memory, `live` over kube-rs with one
/// cache per kind and query, the simulator wraps it with faults.
pub trait Read: Send + Sync {
    /// Reads one object; `None` when there is none.
    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Arc<Obj>>, StoreError>>;

    /// As [`Self::get`], from the server itself: what a cache has may be some seconds behind. For the
    /// few decisions for which that matters.
    fn get_latest<'a>(
        &'a self,
        key: &'a Key,
    ) -> BoxFuture<'a, Result<Option<Arc<Obj>>, StoreError>> {
        self.get(key)
    }

    /// Reads all objects that fit, ordered by namespace and name.
    fn list<'a>(&'a self, query: &'a ListQuery) -> BoxFuture<'a, Result<Listed, StoreError>>;

    /// As [`Self::get`], for a reader that has kept something of the object: it is only named where
    /// `is_kept` knows its revision. A cache then need not unpack it.
    fn get_changed<'a>(
        &'a self,
        key: &'a Key,
        is_kept: &'a IsKept<'a>,
    ) -> BoxFuture<'a, Result<Option<Reread>, StoreError>> {
        Box::pin(async move { Ok(self.get(key).await?.map(|obj| Reread::of(obj, is_kept))) })
    }

    /// As [`Self::list`], for a reader that has kept something of the objects: those are only named
    /// of which `is_kept` knows the revision. A cache then need not unpack them.
    fn list_changed<'a>(
        &'a self,
        query: &'a ListQuery,
        is_kept: &'a IsKept<'a>,
    ) -> BoxFuture<'a, Result<Vec<Reread>, StoreError>> {
        Box::pin(async move {
            let listed = self.list(query).await?;
            Ok(listed.items.into_iter().map(|obj| Reread::of(obj, is_kept)).collect())
        })
    }

    /// Follows all objects that fit, forever: first what is there ([`WatchEvent::Applied`] each,
    /// then one [`WatchEvent::Synced`]), then every change. The implementation resumes and lists
    /// again by itself; after a gap everything that changed in it is seen as applied or deleted.
    fn watch(&self, query: ListQuery) -> Watch;
}

/// Whether a reader has kept what it needs of an object in this revision.
pub type IsKept<'a> = dyn Fn(&Key, &str) -> bool + Send + Sync + 'a;

/// An object, for a reader that may have read it before.
#[derive(Debug, Clone)]
pub enum Reread {
    /// The reader knows this revision of it.
    Same(Key),
    /// As it is now.
    Changed(Arc<Obj>),
}

impl Reread {
    /// For a reader that may have kept it.
    pub fn of(obj: Arc<Obj>, is_kept: &IsKept<'_>) -> Self {
        let known = is_kept(obj.key(), &obj.revision().0);
        if known { Self::Same(obj.key().clone()) } else { Self::Changed(obj) }
    }

    /// Its key.
    pub fn key(&self) -> &Key {
        match self {
            Self::Same(key) => key,
            Self::Changed(obj) => obj.key(),
        }
    }
}

/// The writing half of the Kubernetes API.
///
/// Only the run loop (with a [`crate::Cleared`]) and holders of [`HostWrites`] write.
pub trait Write: Send + Sync {
    /// Creates an object (`metadata.generateName` is honoured) and returns it as stored.
    fn create<'a>(
        &'a self,
        obj: &'a Obj,
        options: &'a WriteOptions,
    ) -> BoxFuture<'a, Result<Arc<Obj>, StoreError>>;

    /// Changes an object and returns it as stored. A change that changes nothing is not an event.
    fn patch<'a>(
        &'a self,
        key: &'a Key,
        patch: &'a Patch,
        options: &'a WriteOptions,
    ) -> BoxFuture<'a, Result<Arc<Obj>, StoreError>>;

    /// Deletes an object, or marks it as being deleted when finalizers or a grace period hold it.
    fn delete<'a>(
        &'a self,
        key: &'a Key,
        options: &'a DeleteOptions,
    ) -> BoxFuture<'a, Result<(), StoreError>>;

    /// Posts to a subresource that only acts (`binding`, `eviction`).
    fn post<'a>(
        &'a self,
        key: &'a Key,
        subresource: Subresource,
        body: &'a Value,
    ) -> BoxFuture<'a, Result<(), StoreError>>;
}

/// Both halves: what a host has. An `Arc<dyn Store>` coerces to an `Arc<dyn Read>` or an `Arc<dyn
/// Write>`, so that each part gets only the half that it may use.
pub trait Store: Read + Write {}

impl<T: Read + Write + ?Sized> Store for T {}

/// Writes that rightly bypass the door: what a node agent or the gateway reports about itself.
///
/// A part that holds this shows it in its signature. It is for reports (status of pods and routes,
/// heartbeats), never for changes to what runs.
#[derive(Clone)]
pub struct HostWrites(Arc<dyn Write>);

impl HostWrites {
    /// For a part of the host that reports about itself.
    pub fn new(write: Arc<dyn Write>) -> Self {
        Self(write)
    }
}

impl std::ops::Deref for HostWrites {
    type Target = dyn Write;

    fn deref(&self) -> &Self::Target {
        &*self.0
    }
}

/// What [`Read::watch`] returns; errors inside are for the log, the stream continues.
pub type Watch = BoxStream<'static, Result<WatchEvent, StoreError>>;

/// One change, or the end of the initial state.
#[derive(Debug, Clone)]
pub enum WatchEvent {
    /// The object is there, new or changed.
    Applied(Arc<Obj>),
    /// The object is gone; this is its last known state.
    Deleted(Arc<Obj>),
    /// All that existed at the start has been sent.
    Synced,
}

/// Which objects to list or watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListQuery {
    /// Their kind.
    pub kind: GroupKind,
    /// Their namespace; `None` for all.
    pub namespace: Option<Arc<str>>,
    /// By label; empty means all.
    pub labels: LabelSelector,
    /// By field; empty means all.
    pub fields: FieldSelector,
}

impl ListQuery {
    /// Every object of a kind, in all namespaces.
    pub fn all(kind: GroupKind) -> Self {
        Self {
            kind,
            namespace: None,
            labels: LabelSelector::default(),
            fields: FieldSelector::default(),
        }
    }

    /// Every object of a Rust type's kind, in all namespaces.
    pub fn of<T: ApiObject>() -> Self {
        Self::all(GroupKind::of::<T>())
    }

    /// Only this namespace.
    #[must_use]
    pub fn within(mut self, namespace: &str) -> Self {
        self.namespace = Some(namespace.into());
        self
    }

    /// Only objects with these labels.
    #[must_use]
    pub fn with_labels(mut self, labels: LabelSelector) -> Self {
        self.labels = labels;
        self
    }

    /// Only objects with these fields.
    #[must_use]
    pub fn with_fields(mut self, fields: FieldSelector) -> Self {
        self.fields = fields;
        self
    }

    /// Whether an object is among them.
    pub fn matches(&self, obj: &Obj) -> bool {
        obj.key().kind == self.kind
            && self.namespace.as_ref().is_none_or(|ns| **ns == *obj.namespace())
            && self.labels.matches(obj.labels())
            && self.fields.matches(obj)
    }
}

/// A consistent list.
#[derive(Debug, Clone, Default)]
pub struct Listed {
    /// The objects, ordered by namespace and name.
    pub items: Vec<Arc<Obj>>,
    /// The revision of the whole store they were read at.
    pub revision: Revision,
}

/// How a write addresses an object.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WriteOptions {
    /// Part of the object that is written; `None` is everything but status.
    pub subresource: Option<Subresource>,
    /// Refuse with [`StoreError::Conflict`] unless the object is at this revision.
    pub expect: Option<Revision>,
    /// The writer, for `managedFields`.
    pub manager: &'static str,
}

/// A part of an object with an endpoint of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subresource {
    /// `/status`.
    Status,
    /// `/scale`.
    Scale,
    /// `/binding` of a Pod.
    Binding,
    /// `/eviction` of a Pod.
    Eviction,
}

impl Subresource {
    /// Its URL segment.
    pub fn segment(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Scale => "scale",
            Self::Binding => "binding",
            Self::Eviction => "eviction",
        }
    }
}

/// A change to an object. `Debug` shows no value.
#[derive(Clone, PartialEq)]
pub enum Patch {
    /// RFC 7386: objects are merged, everything else is replaced, `null` deletes.
    Merge(Value),
    /// RFC 6902 operations.
    Json(Value),
    /// Kubernetes' strategic merge: lists of the built-in kinds merge by key.
    Strategic(Value),
    /// Puts the whole object in place of the old one.
    Replace(Value),
}

impl fmt::Debug for Patch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Merge(_) => "merge patch",
            Self::Json(_) => "JSON patch",
            Self::Strategic(_) => "strategic merge patch",
            Self::Replace(_) => "replacement",
        })
    }
}

/// How a deletion is done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeleteOptions {
    /// Refuse with [`StoreError::Conflict`] unless the object has this uid.
    pub uid: Option<String>,
    /// Refuse with [`StoreError::Conflict`] unless the object is at this revision.
    pub expect: Option<Revision>,
    /// Seconds until it is gone at the latest; `None` takes the object's own.
    pub grace_seconds: Option<i64>,
    /// What happens to what it owns.
    pub propagation: Propagation,
}

/// What happens to dependents of a deleted object.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Propagation {
    /// They are deleted afterwards by the garbage collector.
    #[default]
    Background,
    /// They are deleted first, the owner waits.
    Foreground,
    /// They are left without an owner.
    Orphan,
}

/// Failures of [`Read`] and [`Write`].
///
/// A server may quote what was sent: `Debug` and `Display` do not show its message about a Secret,
/// and mask credentials in other messages.
#[derive(Clone, thiserror::Error)]
pub enum StoreError {
    /// The object does not exist.
    #[error("{object} does not exist")]
    NotFound {
        /// `Kind/namespace/name`.
        object: String,
    },
    /// An object of that name exists.
    #[error("{object} exists already")]
    Exists {
        /// `Kind/namespace/name`.
        object: String,
    },
    /// It is at another revision, or another object of the same name.
    #[error("{object} has changed: {}", redact::about_named(object, problem))]
    Conflict {
        /// `Kind/namespace/name`.
        object: String,
        /// Which expectation was not met.
        problem: String,
    },
    /// The server refuses the content.
    #[error("{object} is invalid: {}", redact::about_named(object, problem))]
    Invalid {
        /// `Kind/namespace/name`.
        object: String,
        /// Fields and what is wrong with them.
        problem: String,
    },
    /// The server refuses for now (a budget, a quota).
    #[error("{object}: {}", redact::about_named(object, problem))]
    Busy {
        /// `Kind/namespace/name`.
        object: String,
        /// Why, and when to try again if known.
        problem: String,
    },
    /// The server does not have the kind: its definition is not installed. Only this says that there
    /// are no objects of it.
    #[error("{object}: {NO_KIND} {kind}: install its CRD first (evenkeel crds --all prints it)")]
    NoKind {
        /// `Kind/namespace/name`, or the kind.
        object: String,
        /// Which kind.
        kind: GroupKind,
    },
    /// We lack permission, or something before the server refuses. What was asked for may be there.
    #[error("{object}: {}", redact::about_named(object, problem))]
    Refused {
        /// `Kind/namespace/name`.
        object: String,
        /// Why.
        problem: String,
    },
    /// What came back is not what it should be.
    #[error(transparent)]
    Malformed(#[from] ObjError),
    /// The server could not be reached or gave no clear answer: the write may have happened.
    #[error("{object}: no answer from the API server: {}", redact::about_named(object, problem))]
    Unreachable {
        /// `Kind/namespace/name`.
        object: String,
        /// The transport's words.
        problem: String,
    },
}

impl fmt::Debug for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StoreError({self})")
    }
}

/// How people are told that the server has no such kind: its CRD is not installed.
pub const NO_KIND: &str = "the server has no kind";

impl StoreError {
    /// Whether the server does not have the kind at all.
    pub fn is_without_kind(&self) -> bool {
        matches!(self, Self::NoKind { .. })
    }

    /// What the caller should do next.
    pub fn retry(&self) -> Retry {
        match self {
            Self::NotFound { .. } | Self::Exists { .. } | Self::Conflict { .. } => Retry::Replan,
            Self::Invalid { .. }
            | Self::NoKind { .. }
            | Self::Refused { .. }
            | Self::Malformed(_) => Retry::Slowly,
            Self::Busy { .. } | Self::Unreachable { .. } => Retry::Later,
        }
    }
}
