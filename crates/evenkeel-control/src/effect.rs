use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use serde_json::Value;

use crate::{BoxFuture, Direction, Retry, redact};

/// How long an effect may take if its effector sets no other limit.
const DEADLINE: Duration = Duration::from_secs(30);

/// A change to something that is not an API object, as data.
///
/// `Debug` and `Display` show neither the arguments nor what is secret in the target.
#[derive(Clone, PartialEq)]
pub struct EffectCall {
    /// Which [`Effector`] performs it: `webhook`, `notify`, ...
    pub port: &'static str,
    /// What it does, for records and metrics.
    pub verb: &'static str,
    /// What it acts on; an empty one is refused.
    pub target: String,
    /// Everything else the effector needs.
    pub args: Value,
    /// How it is taken back; this is recorded.
    pub reverts: Reversal,
}

/// How an effect is taken back; there are only two ways. `Debug` does not show the arguments.
#[derive(Clone, PartialEq)]
pub enum Reversal {
    /// By this verb of the same port on the same target.
    By {
        /// The verb.
        verb: &'static str,
        /// Its arguments.
        args: Value,
    },
    /// Not at all.
    Irreversible,
}

impl fmt::Display for EffectCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.port, self.verb, redact::url(&self.target))
    }
}

impl fmt::Debug for EffectCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Debug for Reversal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::By { verb, .. } => write!(f, "by {verb}"),
            Self::Irreversible => f.write_str("irreversible"),
        }
    }
}

/// An effect that the door let through. Only the run loop makes one.
#[derive(Debug)]
pub struct ClearedEffect<'a> {
    call: &'a EffectCall,
}

impl<'a> ClearedEffect<'a> {
    pub(crate) fn new(call: &'a EffectCall) -> Self {
        Self { call }
    }

    /// What is to be done.
    pub fn call(&self) -> &'a EffectCall {
        self.call
    }
}

/// Performs the effects of one port. Hosts register one per port with [`crate::Host`].
pub trait Effector: Send + Sync {
    /// Does it.
    fn perform<'a>(
        &'a self,
        effect: &'a ClearedEffect<'a>,
    ) -> BoxFuture<'a, Result<Effected, EffectError>>;

    /// Which way it moves the risk, computed from the call.
    fn direction(&self, call: &EffectCall) -> Direction;

    /// What a record may say about the call, on one line; nothing secret.
    fn redact(&self, call: &EffectCall) -> String {
        call.to_string()
    }

    /// The longest it may take.
    fn deadline(&self, _call: &EffectCall) -> Duration {
        DEADLINE
    }
}

/// How far an effect has come when [`Effector::perform`] returns.
pub enum Effected {
    /// It happened.
    Done,
    /// It is under way and must not hold up the plan. The record gets its outcome when this ends;
    /// a failure becomes an Event, and the next observation sees it through [`crate::Endings`].
    Pending(BoxFuture<'static, Result<(), EffectError>>),
}

/// Why an effect did not happen, or why that is uncertain.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{problem}")]
pub struct EffectError {
    problem: String,
    retry: Retry,
}

impl EffectError {
    /// A failure as text, from which secrets are removed here.
    pub fn new(problem: &str, retry: Retry) -> Self {
        Self { problem: redact::text(problem), retry }
    }

    /// What the loop should do next.
    pub fn retry(&self) -> Retry {
        self.retry
    }
}

/// The effectors of a host, by port.
#[derive(Clone, Default)]
pub(crate) struct Effectors(BTreeMap<&'static str, Arc<dyn Effector>>);

impl Effectors {
    pub(crate) fn add(&mut self, port: &'static str, effector: Arc<dyn Effector>) {
        self.0.insert(port, effector);
    }

    pub(crate) fn find(&self, call: &EffectCall) -> Option<&Arc<dyn Effector>> {
        self.0.get(call.port)
    }
}
