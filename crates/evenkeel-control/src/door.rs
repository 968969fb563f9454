use std::{fmt, sync::Arc};

use evenkeel_api::{Key, Obj};
use jiff::Timestamp;
use serde_json::Value;

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

/// What the door is asked. `Debug` does not show what the target holds.
pub struct Petition<'a> {
    /// Which controller asks.
    pub controller: &'static str,
    /// On behalf of which object.
    pub object: &'a Key,
    /// The effect.
    pub action: &'a Action,
    /// The effect in words that may be recorded: nothing secret is in it.
    pub text: &'a str,
    /// The plan's reason.
    pub reason: &'static str,
    /// The target as it is, when there is one.
    pub before: Option<Arc<Obj>>,
    /// The target as it will be. For its digest only: its content is not for the record.
    pub after: Option<&'a Value>,
    /// Computed from before and after, never declared.
    pub direction: Direction,
    /// Time of asking.
    pub now: Timestamp,
}

impl fmt::Debug for Petition<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { controller, object, text, reason, direction, .. } = self;
        let direction = direction.as_str();
        write!(f, "{controller} for {object}: {text} ({reason}, {direction})")
    }
}

/// The door's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Recorded; go ahead.
    Allow(AuditId),
    /// Not now.
    Hold {
        /// When it is worth asking again; `None` when that is not known. The loop asks again then,
        /// and from time to time before: what holds may be lifted early.
        until: Option<Timestamp>,
        /// Everything that speaks against it; the first one decided.
        objections: Vec<Objection>,
    },
    /// Not at all, as things stand.
    Deny {
        /// Everything that speaks against it; the first one decided.
        objections: Vec<Objection>,
    },
}

/// One policy's reason against an action.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Objection {
    /// The policy's name.
    pub policy: &'static str,
    /// Why, and who can change it.
    pub reason: String,
}

impl fmt::Display for Objection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.policy, self.reason)
    }
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
