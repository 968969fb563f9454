use std::sync::Arc;

use evenkeel_api::Obj;
use jiff::Timestamp;

use crate::{Action, BoxFuture, Direction};

/// The one door every action leaves by. Implementations write the record *before* they allow, and
/// its outcome afterwards.
pub trait Door: Send + Sync {
    /// May this happen now?
    ///
    /// Laws: an action whose direction is [`Direction::Safer`] is allowed whatever the budget, a
    /// freeze or the record's own failure says; everything else fails closed.
    fn ask<'a>(&'a self, petition: &'a Petition<'a>) -> BoxFuture<'a, Verdict>;

    /// Records what became of an allowed action.
    fn settle<'a>(&'a self, id: &'a AuditId, outcome: Outcome<'a>) -> BoxFuture<'a, ()>;
}

/// What the door is asked.
#[derive(Debug)]
pub struct Petition<'a> {
    /// Which controller asks.
    pub controller: &'static str,
    /// On behalf of which object, as `Kind/namespace/name`.
    pub object: String,
    /// The effect.
    pub action: &'a Action,
    /// The plan's reason.
    pub reason: &'static str,
    /// The target as it is, when there is one.
    pub before: Option<Arc<Obj>>,
    /// Computed from before and after, never declared.
    pub direction: Direction,
    /// Time of asking.
    pub now: Timestamp,
}

/// The door's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Recorded; go ahead.
    Allow(AuditId),
    /// Not now.
    Hold {
        /// When to ask again, or never before somebody acts.
        until: Option<Timestamp>,
        /// Why, and who can change it.
        reason: String,
    },
    /// Not at all.
    Deny {
        /// Why.
        reason: String,
    },
}

/// Position in the record.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct AuditId(pub String);

/// What became of an allowed action.
#[derive(Debug, Clone, Copy)]
pub enum Outcome<'a> {
    /// It happened (or was already so).
    Done,
    /// It did not happen, or not surely.
    Failed(&'a str),
}

/// A door that lets everything through and records nothing: for the embedded cluster's built-in
/// controllers, which are the cluster, and for tests.
pub struct OpenDoor;

impl Door for OpenDoor {
    fn ask<'a>(&'a self, _petition: &'a Petition<'a>) -> BoxFuture<'a, Verdict> {
        Box::pin(async { Verdict::Allow(AuditId(String::new())) })
    }
    fn settle<'a>(&'a self, _id: &'a AuditId, _outcome: Outcome<'a>) -> BoxFuture<'a, ()> {
        Box::pin(async {})
    }
}
