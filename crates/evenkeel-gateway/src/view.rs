//! What the gateway's controller has seen: plain data.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use evenkeel_api::httproute::{Gateway, HttpRoute, ReferenceGrant};
use evenkeel_api::{Obj, gate};
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;

/// Namespace and name.
pub type Name = (String, String);

/// Everything that `decide` looks at.
#[derive(Debug, Clone)]
pub struct View {
    /// Services by name.
    pub services: BTreeMap<Name, Arc<Service>>,
    /// `EndpointSlices` by name.
    pub slices: BTreeMap<Name, Arc<EndpointSlice>>,
    /// Routes by name.
    pub routes: BTreeMap<Name, Arc<HttpRoute>>,
    /// Gateways by name.
    pub gateways: BTreeMap<Name, Arc<Gateway>>,
    /// What namespaces let routes of others use, by name.
    pub grants: BTreeMap<Name, Arc<ReferenceGrant>>,
    /// Labels of namespaces, by their names.
    pub namespaces: BTreeMap<String, Arc<BTreeMap<String, String>>>,
    /// Pods by name.
    pub pods: BTreeMap<Name, PodFacts>,
    /// Whether gated pods are emptied.
    pub drain: bool,
    /// Where Gateways listen that name no address.
    pub gateway_address: IpAddr,
    /// The class of the Gateways that are ours; `None`: all are.
    pub class: Option<String>,
    /// Whether the addresses of Services are ours to serve, too.
    pub serves_services: bool,
    /// Addresses of Services on which others listen.
    pub served_by_others: BTreeSet<IpAddr>,
}

impl View {
    /// A cluster without objects.
    pub fn empty(drain: bool, gateway_address: IpAddr) -> Self {
        Self {
            services: BTreeMap::new(),
            slices: BTreeMap::new(),
            routes: BTreeMap::new(),
            gateways: BTreeMap::new(),
            grants: BTreeMap::new(),
            namespaces: BTreeMap::new(),
            pods: BTreeMap::new(),
            drain,
            gateway_address,
            class: None,
            serves_services: true,
            served_by_others: BTreeSet::new(),
        }
    }

    /// Whether a Gateway is ours: others leave theirs, and routes to them, to others.
    pub(crate) fn is_ours(&self, gateway: &Gateway) -> bool {
        self.class.as_ref().is_none_or(|class| gateway.spec.gateway_class_name == *class)
    }
}

/// The facts about a pod that the gateway needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodFacts {
    /// Its uid: a successor of the same name is another pod.
    pub uid: Arc<str>,
    /// Its address.
    pub address: Option<IpAddr>,
    /// The Deployment (or other owner) it belongs to.
    pub workload: Arc<str>,
    /// Whether it waits to be emptied: gated, being deleted, and not reported as drained.
    pub leaving: bool,
    /// Whether it carries the gate and is being deleted.
    pub gated: bool,
}

impl PodFacts {
    /// Reads them off a pod.
    pub fn of(obj: &Obj, pod: &Pod) -> Self {
        let gated = obj.is_deleting() && gate::gated(obj.meta());
        let address = pod.status.as_ref().and_then(|status| status.pod_ip.as_deref());
        Self {
            uid: obj.uid().into(),
            address: address.and_then(|ip| ip.parse().ok()),
            workload: workload(obj).into(),
            leaving: gated && !gate::drained(obj.meta()),
            gated,
        }
    }
}

/// The Deployment behind a `ReplicaSet`'s pod, as Istio derives it: the `ReplicaSet`'s name without the
/// template hash. Other owners stand for themselves; a pod without owner too.
fn workload(obj: &Obj) -> String {
    let Some(owner) = obj.controller() else { return obj.name().to_owned() };
    let hash =
        obj.label(evenkeel_api::labels::POD_TEMPLATE_HASH).filter(|_| owner.kind == "ReplicaSet");
    let deployment = hash.and_then(|hash| owner.name.strip_suffix(hash)?.strip_suffix('-'));
    deployment.unwrap_or(&owner.name).to_owned()
}
