use std::{collections::BTreeMap, fmt, time::Duration};

use evenkeel_api::{Key, Obj};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::Propagation;

/// One effect on the world. Closed on purpose: whatever a new domain does is one of these.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Makes a new object; that one of the name exists is a conflict.
    Create(Box<Obj>),
    /// Makes the object, or brings the given fields of the existing one to the given values.
    /// Lists are replaced whole; fields not given are left alone.
    Apply(Box<Obj>),
    /// Merges into an object.
    Patch {
        /// Which object.
        key: Key,
        /// RFC 7386 merge patch.
        patch: Value,
    },
    /// Deletes an object.
    Delete {
        /// Which object.
        key: Key,
        /// The uid it must have, so that a namesake survives.
        uid: String,
        /// What happens to its dependents.
        propagation: Propagation,
    },
    /// Asks for a pod to leave, within its disruption budget.
    Evict {
        /// Which pod.
        key: Key,
        /// The uid it must have.
        uid: String,
    },
    /// Sets the number of replicas.
    Scale {
        /// Which workload.
        key: Key,
        /// How many from now on.
        replicas: i32,
    },
    /// Places a pod on a node.
    Bind {
        /// Which pod.
        pod: Key,
        /// Name of the node.
        node: String,
    },
    /// Splits a route's traffic.
    SetWeights {
        /// The HTTPRoute.
        route: Key,
        /// Backend Service and its share; every rule that names these backends is set.
        weights: Vec<RouteWeight>,
    },
    /// Calls a webhook; the reply is there for the next observation.
    RunHook(HookCall),
    /// Tells people.
    Notify {
        /// Where to: a channel known to the host.
        channel: String,
        /// What.
        message: String,
    },
}

/// A share of a route's traffic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteWeight {
    /// Backend Service.
    pub backend: String,
    /// Relative weight; evenkeel writes percent.
    pub weight: i32,
}

/// A webhook call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookCall {
    /// Whom it is made for.
    pub owner: String,
    /// Identity of this very call: the reply is kept under it, and it is made once per id.
    pub id: String,
    /// Where to. In-cluster Service names are resolved by the host.
    pub url: String,
    /// Namespace in which short Service names are looked up.
    pub namespace: String,
    /// JSON body.
    pub body: BTreeMap<String, Value>,
    /// Longest wait.
    pub timeout: Duration,
    /// Further attempts after a failed one.
    pub retries: u32,
}

impl Action {
    /// The object it changes; `None` for hooks and notifications.
    pub fn target(&self) -> Option<&Key> {
        match self {
            Self::Create(obj) | Self::Apply(obj) => Some(obj.key()),
            Self::Patch { key, .. }
            | Self::Delete { key, .. }
            | Self::Evict { key, .. }
            | Self::Scale { key, .. } => Some(key),
            Self::Bind { pod, .. } => Some(pod),
            Self::SetWeights { route, .. } => Some(route),
            Self::RunHook(_) | Self::Notify { .. } => None,
        }
    }

    /// Its verb, for records and metrics.
    pub fn verb(&self) -> &'static str {
        match self {
            Self::Create(_) => "create",
            Self::Apply(_) => "apply",
            Self::Patch { .. } => "patch",
            Self::Delete { .. } => "delete",
            Self::Evict { .. } => "evict",
            Self::Scale { .. } => "scale",
            Self::Bind { .. } => "bind",
            Self::SetWeights { .. } => "set-weights",
            Self::RunHook(_) => "run-hook",
            Self::Notify { .. } => "notify",
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Scale { key, replicas } => write!(f, "scale {key} to {replicas}"),
            Self::Bind { pod, node } => write!(f, "bind {pod} to {node}"),
            Self::SetWeights { route, weights } => {
                write!(f, "set-weights {route}")?;
                weights
                    .iter()
                    .try_for_each(|share| write!(f, " {}={}", share.backend, share.weight))
            }
            Self::RunHook(call) => write!(f, "run-hook {} {}", call.id, call.url),
            Self::Notify { channel, .. } => write!(f, "notify {channel}"),
            Self::Patch { key, patch } => write!(f, "patch {key} {patch}"),
            other => match other.target() {
                Some(key) => write!(f, "{} {key}", other.verb()),
                None => f.write_str(other.verb()),
            },
        }
    }
}
