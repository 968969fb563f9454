//! `EndpointSlice`: the addresses behind a Service.
//!
//! **Source**: `staging/src/k8s.io/endpointslice` (reconciler.go, utils.go). Mirroring into the
//! legacy Endpoints kind is left out: nothing here reads it.

mod slices;

use std::collections::BTreeMap;

use evenkeel_api::{
    GroupKind, Key, LabelSelector,
    labels::{SERVICE_NAME, ZONE},
};
use evenkeel_control::{Controller, Interest, ListQuery, ObserveError, Plan, Ports, Wakes};
use k8s_openapi::{
    api::{
        core::v1::{Container, Node, ObjectReference, Pod, Service, ServicePort},
        discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice},
    },
    apimachinery::pkg::util::intstr::IntOrString,
};

use crate::{
    pods, reasons,
    seen::{Seen, get_as, list_as},
};

const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGER: &str = "endpointslice-controller.k8s.io";
const HEADLESS: &str = "service.kubernetes.io/headless";

/// The controller.
pub(crate) struct EndpointSlices;

/// What one Service's decision looks at.
#[derive(Debug)]
pub(crate) struct View {
    pub(crate) service: Seen<Service>,
    /// The pods its selector matches.
    pub(crate) pods: Vec<Seen<Pod>>,
    /// Zone of each node that has one.
    pub(crate) zones: BTreeMap<String, String>,
    /// The slices of this Service that this controller manages.
    pub(crate) slices: Vec<Seen<EndpointSlice>>,
}

impl Controller for EndpointSlices {
    type View = View;

    fn name(&self) -> &'static str {
        "endpointslice-controller"
    }

    fn owns(&self) -> ListQuery {
        ListQuery::of::<Service>()
    }

    fn also(&self) -> Vec<Interest> {
        let pod = Interest::mapped::<Pod>(|pod| Wakes::Namespace(pod.namespace().to_owned()));
        let slice = Interest::mapped::<EndpointSlice>(|slice| {
            let service =
                slice.label(SERVICE_NAME).filter(|_| slice.label(MANAGED_BY) == Some(MANAGER));
            let key = service.map(|name| Key::of::<Service>(slice.namespace(), name));
            Wakes::These(key.into_iter().collect())
        });
        vec![pod, slice]
    }

    async fn observe(&self, key: &Key, ports: &Ports) -> Result<Option<View>, ObserveError> {
        let Some(service) = get_as::<Service>(ports, key).await? else { return Ok(None) };
        let Some(selector) = selector(&service) else {
            let (pods, zones, slices) = Default::default();
            return Ok(Some(View { service, pods, zones, slices }));
        };
        let query = ListQuery::all(GroupKind::of::<Pod>()).within(&key.namespace);
        let pods = list_as::<Pod>(ports, &query.with_labels(selector)).await?;
        let owned = [(SERVICE_NAME, service.name()), (MANAGED_BY, MANAGER)];
        let owned = owned.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        let query = ListQuery::all(GroupKind::of::<EndpointSlice>())
            .within(&key.namespace)
            .with_labels(LabelSelector::from_labels(&owned));
        let slices = list_as::<EndpointSlice>(ports, &query).await?;
        let zones = zones(ports).await?;
        Ok(Some(View { service, pods, zones, slices }))
    }

    fn decide(&self, view: &View) -> Plan {
        decide(view)
    }
}

async fn zones(ports: &Ports) -> Result<BTreeMap<String, String>, ObserveError> {
    let nodes = ports.read.list(&ListQuery::all(GroupKind::of::<Node>())).await?.items;
    let zone =
        |node: &evenkeel_api::Obj| Some((node.name().to_owned(), node.label(ZONE)?.to_owned()));
    Ok(nodes.iter().filter_map(|node| zone(node)).collect())
}

/// What to match; `None` when the endpoints are managed by another writer.
fn selector(service: &Service) -> Option<LabelSelector> {
    let spec = service.spec.as_ref()?;
    let labels = spec.selector.as_ref().filter(|labels| !labels.is_empty())?;
    (spec.type_.as_deref() != Some("ExternalName")).then(|| LabelSelector::from_labels(labels))
}

/// Brings the slices to what the pods are now.
pub(crate) fn decide(view: &View) -> Plan {
    if selector(&view.service).is_none() {
        return Plan::idle(reasons::NOT_MANAGED);
    }
    if view.service.obj.is_deleting() {
        return Plan::idle(reasons::BEING_DELETED);
    }
    let mut wanted: BTreeMap<slices::PortsKey, slices::Wanted> = BTreeMap::new();
    for pod in &view.pods {
        if let Some(endpoint) = endpoint(view, pod) {
            let ports = ports(&view.service, pod);
            let group = wanted.entry(slices::PortsKey::of(&ports)).or_default();
            group.ports = ports;
            group.endpoints.insert(pod.uid().to_owned(), endpoint);
        }
    }
    slices::reconcile(view, wanted)
}

/// The pod as an endpoint; `None` while it has no address or when it has ended.
fn endpoint(view: &View, pod: &Seen<Pod>) -> Option<Endpoint> {
    let ip = pod.status.as_ref()?.pod_ip.clone().filter(|ip| !ip.is_empty())?;
    if pods::is_terminal(pod) {
        return None;
    }
    let spec = view.service.spec.as_ref()?;
    let serving = pods::is_ready(pod);
    let terminating = pod.obj.is_deleting();
    let published = spec.publish_not_ready_addresses.unwrap_or_default();
    let node = pods::node(pod);
    let pod_spec = pod.spec.as_ref()?;
    let hostname = pod_spec.hostname.clone().filter(|name| {
        !name.is_empty() && pod_spec.subdomain.as_deref() == Some(view.service.name())
    });
    Some(Endpoint {
        addresses: vec![ip],
        conditions: Some(EndpointConditions {
            ready: Some(published || (serving && !terminating)),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        hostname,
        node_name: node.map(str::to_owned),
        zone: node.and_then(|node| view.zones.get(node)).cloned(),
        target_ref: Some(ObjectReference {
            kind: Some("Pod".to_owned()),
            namespace: Some(pod.obj.namespace().to_owned()),
            name: Some(pod.name().to_owned()),
            uid: Some(pod.uid().to_owned()),
            ..ObjectReference::default()
        }),
        ..Endpoint::default()
    })
}

/// The Service's ports as this very pod serves them; one whose name the pod does not have is left
/// out.
fn ports(service: &Service, pod: &Pod) -> Vec<EndpointPort> {
    let all = service.spec.as_ref().and_then(|spec| spec.ports.as_ref()).into_iter().flatten();
    all.filter_map(|port| {
        Some(EndpointPort {
            app_protocol: port.app_protocol.clone(),
            name: Some(port.name.clone().unwrap_or_default()),
            port: Some(target(port, pod)?),
            protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".to_owned())),
        })
    })
    .collect()
}

fn target(port: &ServicePort, pod: &Pod) -> Option<i32> {
    let name = match &port.target_port {
        None | Some(IntOrString::Int(0)) => return Some(port.port),
        Some(IntOrString::Int(number)) => return Some(*number),
        Some(IntOrString::String(name)) => name,
    };
    if name.is_empty() {
        return Some(port.port);
    }
    let protocol = port.protocol.as_deref().unwrap_or("TCP");
    let spec = pod.spec.as_ref()?;
    // Sidecars serve too: init containers that keep running.
    let is_sidecar = |container: &&Container| container.restart_policy.as_deref() == Some("Always");
    let sidecars = spec.init_containers.iter().flatten().filter(is_sidecar);
    let mut open = spec.containers.iter().chain(sidecars).flat_map(|c| c.ports.iter().flatten());
    open.find(|open| {
        open.name.as_deref() == Some(name) && open.protocol.as_deref().unwrap_or("TCP") == protocol
    })
    .map(|open| open.container_port)
}

#[cfg(test)]
mod tests;
