//! From what was seen to a configuration, and to the status to write about it.
#![warn(clippy::disallowed_methods, reason = "must run under virtual time")]

mod attach;
mod filters;
mod gateways;
mod pools;
mod rules;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use evenkeel_api::httproute::ParentRef;

use crate::engine::Snapshot;
use crate::view::{Name, PodFacts, View};
use pools::Pools;

/// The desired state.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Desired {
    /// The configuration; its generation is given when it is applied.
    pub snapshot: Snapshot,
    /// The status of each route that concerns us.
    pub routes: BTreeMap<Name, RouteVerdict>,
    /// The status of each Gateway.
    pub gateways: BTreeMap<Name, GatewayVerdict>,
    /// Pods that wait to be emptied.
    pub leaving: BTreeMap<Name, Leaving>,
    /// Ports of Services that are not served, by Service and port, with their protocol (UDP, SCTP).
    pub unserved: BTreeMap<(Name, i32), String>,
}

/// A pod that waits to be emptied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaving {
    /// Which pod of that name.
    pub uid: Arc<str>,
    /// Where its requests go; a pod that never had an address has none.
    pub address: Option<IpAddr>,
}

/// The status of a route, once every worker runs the configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RouteVerdict {
    /// The generation that was looked at.
    pub generation: i64,
    /// Per parent that is ours.
    pub parents: Vec<ParentVerdict>,
}

/// The verdict of one parent on a route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParentVerdict {
    /// The parent as the route names it.
    pub parent: ParentRef,
    /// Whether the parent takes the route.
    pub accepted: Finding,
    /// Whether its backends exist.
    pub resolved: Finding,
}

/// The status of a Gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewayVerdict {
    /// The generation that was looked at.
    pub generation: i64,
    /// Whether it is taken, and which listeners are not.
    pub accepted: Finding,
    /// Where it listens.
    pub addresses: Vec<IpAddr>,
    /// In the order of the spec.
    pub listeners: Vec<ListenerVerdict>,
}

/// The status of a listener of a Gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerVerdict {
    /// Its name.
    pub name: String,
    /// Where it listens; empty when it is not served.
    pub addresses: Vec<SocketAddr>,
    /// How many routes are attached to it.
    pub routes: usize,
    /// Whether it takes `HTTPRoute`s at all.
    pub takes_routes: bool,
    /// Whether it is served.
    pub accepted: Finding,
    /// Whether the kinds that it names exist.
    pub resolved: Finding,
    /// Another listener that wants the same.
    pub conflict: Option<Finding>,
}

/// A condition in the making.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Whether the condition is good.
    pub good: bool,
    /// Reason of the condition.
    pub reason: &'static str,
    /// For people.
    pub message: String,
}

impl Leaving {
    fn of(pod: &PodFacts) -> Self {
        Self { uid: Arc::clone(&pod.uid), address: pod.address }
    }
}

impl Finding {
    /// A good condition; `kind` is its type and its reason.
    pub fn good(kind: &'static str) -> Self {
        Self { good: true, reason: kind, message: String::new() }
    }

    /// Adds a note about something that is served differently than requested. A problem is reported
    /// instead.
    pub fn note(&mut self, words: &str) {
        // Every text contains the empty one.
        if self.good && !self.message.contains(words) {
            let separator = if self.message.is_empty() { "" } else { "; " };
            self.message = format!("{}{separator}{words}", self.message);
        }
    }

    /// Something is wrong.
    pub fn bad(reason: &'static str, message: String) -> Self {
        Self { good: false, reason, message }
    }
}

/// Decides. Pure: same view, same configuration.
pub fn decide(view: &View) -> Desired {
    let pools = Pools::of(view);
    let attached = attach::routes(view, &pools);
    let leaving = view.pods.iter().filter(|(_, pod)| pod.leaving);
    Desired {
        snapshot: Snapshot { generation: 0, pools: pools.all, listeners: attached.listeners },
        routes: attached.routes,
        gateways: attached.gateways,
        leaving: leaving.map(|(name, pod)| (name.clone(), Leaving::of(pod))).collect(),
        unserved: pools::unserved(view),
    }
}
