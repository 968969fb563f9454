use std::{fmt, time::Duration};

use evenkeel_api::{Key, Revision};
use serde_json::Value;

use crate::{Action, redact};

/// What a controller wants done, and why. Data only: nothing has happened yet.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Plan {
    /// Effects in order; the loop stops at the first one that does not happen.
    pub actions: Vec<Action>,
    /// Written after the actions, and only if all of them happened.
    pub status: Vec<StatusWrite>,
    /// Recorded after the status is written.
    pub events: Vec<EventNote>,
    /// Effects after all that: if the door holds them, the plan itself is not held up.
    pub then: Vec<Action>,
    /// Machine-readable reason, also when nothing is to be done.
    pub reason: &'static str,
    /// When to look again even if nothing changes.
    pub wake_after: Option<Duration>,
    /// What a condition of the object says while the door holds the actions: what it says now would
    /// be wrong then.
    pub when_held: Option<HeldWords>,
    /// What the controller itself does not begin yet, for the record: the door hears only of
    /// actions.
    pub withheld: Option<Box<Withheld>>,
    /// Revision of each object the plan would write, as it was seen. A write to one of them is
    /// refused when its revision has changed: a stale plan is a conflict.
    pub assumed: Vec<(Key, Revision)>,
}

impl Plan {
    /// Nothing to do until something changes.
    pub fn idle(reason: &'static str) -> Self {
        Self { reason, ..Self::default() }
    }

    /// Nothing to do before `wake_after`.
    pub fn wait(reason: &'static str, wake_after: Duration) -> Self {
        Self { reason, wake_after: Some(wake_after), ..Self::default() }
    }

    /// These effects, in order.
    pub fn act(reason: &'static str, actions: Vec<Action>) -> Self {
        Self { actions, reason, ..Self::default() }
    }

    /// What it does, in one word for metrics: `act`, `note` (status and events only), `wait` or
    /// `idle`.
    pub(crate) fn does(&self) -> &'static str {
        if !self.actions.is_empty() || !self.then.is_empty() {
            "act"
        } else if !self.status.is_empty() || !self.events.is_empty() {
            "note"
        } else if self.wake_after.is_some() {
            "wait"
        } else {
            "idle"
        }
    }

    /// Also does this, when everything else is done and written.
    #[must_use]
    pub fn then(mut self, action: Action) -> Self {
        self.then.push(action);
        self
    }

    /// Also writes this status.
    #[must_use]
    pub fn with_status(mut self, key: Key, status: Value) -> Self {
        self.status.push(StatusWrite { key, status });
        self
    }

    /// Also records this event.
    #[must_use]
    pub fn with_event(mut self, event: EventNote) -> Self {
        self.events.push(event);
        self
    }

    /// Also looks again after `wake_after`, or sooner if that was planned already.
    #[must_use]
    pub fn waking(mut self, wake_after: Duration) -> Self {
        self.wake_after = Some(self.wake_after.map_or(wake_after, |old| old.min(wake_after)));
        self
    }

    /// Was made for this revision of `key`.
    #[must_use]
    pub fn assuming(mut self, key: Key, revision: Revision) -> Self {
        self.assumed.push((key, revision));
        self
    }
}

/// Something that a controller does not begin by a rule of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Withheld {
    /// What it would begin, in words.
    pub what: String,
    /// The rule, named as the policies of the door are.
    pub policy: &'static str,
    /// Why, and who can change it.
    pub why: String,
    /// Stays the same while the reason does, whatever numbers are in the words: it is recorded once.
    pub mark: String,
}

/// The message of a condition while a plan is held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldWords {
    /// Type of the condition; an object without it stays as it is.
    pub condition: &'static str,
    /// Its message.
    pub message: String,
}

/// New status of an object. Bypasses the door: it changes what is known, not what runs.
#[derive(Debug, Clone, PartialEq)]
pub struct StatusWrite {
    /// Which object.
    pub key: Key,
    /// RFC 7386 merge patch of its `status` (without the `status` key around it).
    pub status: Value,
}

/// A Kubernetes Event to write. Secrets in its message are masked when it is written, and in
/// `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct EventNote {
    /// The object it is about.
    pub about: Key,
    /// Severity.
    pub kind: EventType,
    /// A constant in `PascalCase`.
    pub reason: &'static str,
    /// For people: what happened, to which object, what to do next.
    pub message: String,
}

impl fmt::Debug for EventNote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, message) = (self.kind.as_str(), redact::text(&self.message));
        write!(f, "{kind} {} on {}: {message}", self.reason, self.about)
    }
}

/// Severity of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventType {
    /// Nothing to do for a person.
    Normal,
    /// A person may have to act.
    Warning,
}

impl EventType {
    /// As Kubernetes writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::Warning => "Warning",
        }
    }
}
