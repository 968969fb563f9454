//! What writers ask for, and what they get.

use std::sync::Arc;

use evenkeel_api::{Obj, Revision};
use evenkeel_control::{Propagation, Subresource};
use jiff::Timestamp;
use serde_json::Value;

use crate::resource::Resource;

/// What to do about fields that the kind does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Fields {
    /// Drop them.
    Ignore,
    /// Drop them and warn.
    #[default]
    Warn,
    /// Refuse.
    Strict,
}

/// How something is written.
#[derive(Debug, Clone, Default)]
pub(crate) struct WriteContext {
    pub(crate) subresource: Option<Subresource>,
    pub(crate) expect: Option<Revision>,
    pub(crate) manager: String,
    pub(crate) dry_run: bool,
    pub(crate) fields: Fields,
    /// The writer is in this process: a status it writes is well formed.
    pub(crate) is_trusted: bool,
    /// The write is a server-side apply and keeps its own record of owners.
    pub(crate) is_apply: bool,
    /// `managedFields` of a new object.
    pub(crate) managed: Option<Value>,
}

/// One write: the writer, the kind, the time and the options.
#[derive(Clone, Copy)]
pub(crate) struct Write<'a> {
    pub(crate) now: Timestamp,
    pub(crate) resource: &'a Resource,
    pub(crate) context: &'a WriteContext,
}

/// A finished write.
pub(crate) struct Written {
    pub(crate) obj: Arc<Obj>,
    pub(crate) warnings: Vec<String>,
}

/// A request to delete.
#[derive(Debug, Clone, Default)]
pub(crate) struct DeleteRequest {
    pub(crate) uid: Option<String>,
    pub(crate) revision: Option<String>,
    pub(crate) grace_seconds: Option<i64>,
    pub(crate) propagation: Option<Propagation>,
    pub(crate) dry_run: bool,
}

/// How a deletion ended for now.
pub(crate) enum Deleted {
    /// The object has been deleted.
    Gone(Arc<Obj>),
    /// It is marked and waits for its finalizers or its grace period.
    Marked(Arc<Obj>),
}
