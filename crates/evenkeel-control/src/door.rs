use std::{fmt, sync::Arc};

use evenkeel_api::{Key, Obj};
use jiff::Timestamp;
use serde_json::Value;

use crate::{Action, BoxFuture, Direction, Withheld};

/// The one door that every action passes. Implementations write the record *before* they allow, and
/// the outcome afterwards.
pub trait Door: Send + Sync {
    /// May this happen now?
    ///
    /// An action whose direction is [`Direction::Safer`] is allowed even if the budget, a freeze or
    /// a failure of the record speaks against it; everything else fails closed.
    fn ask<'a>(&'a self, petition: &'a Petition<'a>) -> BoxFuture<'a, Verdict>;

    /// Records the outcome of an allowed action.
    fn settle<'a>(&'a self, id: &'a AuditId, outcome: Outcome<'a>) -> BoxFuture<'a, ()>;

    /// Records what would be done with an object that is only observed. Nothing waits for it.
    fn foresee(&self, _prediction: &Prediction<'_>) {}

    /// Records what a controller does not begin, once for as long as its mark stays the same.
    /// Nothing waits for it.
    fn withhold(&self, _hold: &OwnHold<'_>) {}
}

/// What a controller does not begin, by a rule of its own.
#[derive(Debug, Clone, Copy)]
pub struct OwnHold<'a> {
    /// Which controller.
    pub controller: &'static str,
    /// On behalf of which object.
    pub object: &'a Key,
    /// What, and why.
    pub withheld: &'a Withheld,
    /// The plan's reason.
    pub reason: &'static str,
    /// Time of the look.
    pub now: Timestamp,
}

/// What would be done with an object that is only observed.
#[derive(Debug, Clone, Copy)]
pub struct Prediction<'a> {
    /// Which controller would.
    pub controller: &'static str,
    /// The object.
    pub object: &'a Key,
    /// What would be done, as text that may be recorded.
    pub text: &'a str,
    /// The plan's reason.
    pub reason: &'static str,
    /// Time of the look.
    pub now: Timestamp,
}

/// What the door is asked. `Debug` does not show the content of the target.
pub struct Petition<'a> {
    /// Which controller asks.
    pub controller: &'static str,
    /// On behalf of which object.
    pub object: &'a Key,
    /// The effect.
    pub action: &'a Action,
    /// The effect as text that may be recorded: it has no secrets.
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
        /// When to ask again; `None` when that is not known. The loop asks then, and from time to
        /// time before: a hold may be lifted early.
        until: Option<Timestamp>,
        /// Everything that speaks against it; the first one decided.
        objections: Vec<Objection>,
    },
    /// Not allowed under the present conditions.
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
    /// Why, and how it can be changed.
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

/// The outcome of an allowed action.
#[derive(Debug, Clone, Copy)]
pub enum Outcome<'a> {
    /// It happened (or was already so).
    Done,
    /// It did not happen, or that is uncertain.
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
