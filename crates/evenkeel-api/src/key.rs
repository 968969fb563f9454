use std::{fmt, sync::Arc};

use crate::ApiObject;

/// What a thing is, whichever version it is written in.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupKind {
    /// API group; empty for the core group.
    pub group: Arc<str>,
    /// Kind in CamelCase, singular.
    pub kind: Arc<str>,
}

impl GroupKind {
    /// A kind by its group (empty for core) and name.
    pub fn new(group: &str, kind: &str) -> Self {
        Self { group: group.into(), kind: kind.into() }
    }

    /// The kind of a Rust type.
    pub fn of<T: ApiObject>() -> Self {
        Self::new(T::GROUP, T::KIND)
    }

    /// Stands for every kind that there is or will be, where objects are watched. Only the
    /// embedded API server answers to it.
    pub fn every() -> Self {
        Self::new("*", "*")
    }

    /// Whether this is [`GroupKind::every`].
    pub fn is_every(&self) -> bool {
        &*self.kind == "*"
    }

    /// Whether this is the kind of `T`.
    pub fn is<T: ApiObject>(&self) -> bool {
        &*self.group == T::GROUP && &*self.kind == T::KIND
    }
}

impl fmt::Display for GroupKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.group.is_empty() {
            f.write_str(&self.kind)
        } else {
            write!(f, "{}.{}", self.kind, self.group)
        }
    }
}

/// The full name of one object. Printed as `Kind/namespace/name` or `Kind/name`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// What it is.
    pub kind: GroupKind,
    /// Namespace; empty for cluster-scoped kinds.
    pub namespace: Arc<str>,
    /// Name.
    pub name: Arc<str>,
}

impl Key {
    /// Names an object of Rust type `T`; `namespace` is empty for cluster-scoped kinds.
    pub fn of<T: ApiObject>(namespace: &str, name: &str) -> Self {
        Self::new(GroupKind::of::<T>(), namespace, name)
    }

    /// Names an object of any kind; `namespace` is empty for cluster-scoped kinds.
    pub fn new(kind: GroupKind, namespace: &str, name: &str) -> Self {
        Self { kind, namespace: namespace.into(), name: name.into() }
    }

    /// Another object of kind `T` in the same namespace.
    #[must_use]
    pub fn sibling<T: ApiObject>(&self, name: &str) -> Self {
        Self { kind: GroupKind::of::<T>(), namespace: self.namespace.clone(), name: name.into() }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            write!(f, "{}/{}", self.kind.kind, self.name)
        } else {
            write!(f, "{}/{}/{}", self.kind.kind, self.namespace, self.name)
        }
    }
}

/// A `resourceVersion`. Opaque to clients of a real cluster: compare for equality only.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Revision(pub Arc<str>);

impl From<u64> for Revision {
    fn from(number: u64) -> Self {
        Self(number.to_string().into())
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
