//! Endpoints of Service ports, from `EndpointSlices` and pods.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Service, ServicePort};
use k8s_openapi::api::discovery::v1::{Endpoint as SliceEndpoint, EndpointSlice};

use crate::engine::{Endpoint, EndpointState, Pool, PoolKey, Protocol, ServicePort as Carries};
use crate::view::{Name, View};

/// Label that ties a slice to its Service.
const SERVICE_NAME: &str = evenkeel_api::labels::SERVICE_NAME;
/// Every Service port with its endpoints.
pub(super) struct Pools {
    pub(super) all: Vec<Pool>,
    index: BTreeMap<PoolKey, usize>,
    /// Ports of Services that have an address.
    pub(super) services: Vec<ServiceAddress>,
}

/// An address that a Service is reached at.
pub(super) struct ServiceAddress {
    pub(super) service: Name,
    pub(super) port: u16,
    pub(super) address: SocketAddr,
    pub(super) carries: Carries,
    /// Whether the Service has no other port.
    pub(super) only: bool,
}

impl Pools {
    pub(super) fn of(view: &View) -> Self {
        let mut slices: BTreeMap<(&str, &str), Vec<&EndpointSlice>> = BTreeMap::new();
        for ((namespace, _), slice) in &view.slices {
            let labels = slice.metadata.labels.as_ref();
            if let Some(service) = labels.and_then(|labels| labels.get(SERVICE_NAME)) {
                slices.entry((namespace, service)).or_default().push(slice);
            }
        }
        let mut pools = Self { all: Vec::new(), index: BTreeMap::new(), services: Vec::new() };
        for (name, service) in &view.services {
            let own = slices.get(&(name.0.as_str(), name.1.as_str()));
            for port in ports(service) {
                let pool = pools.add(view, name, port, own.map_or(&[][..], Vec::as_slice));
                if view.serves_services {
                    pools.add_address(view, name, (service, port), pool);
                }
            }
        }
        pools
    }

    /// Adds the pool of a port; returns its position.
    fn add(
        &mut self,
        view: &View,
        name: &Name,
        port: &ServicePort,
        slices: &[&EndpointSlice],
    ) -> usize {
        let key = PoolKey::new(&name.0, &name.1, number(port));
        let mut endpoints = BTreeMap::new();
        for slice in slices {
            let ports = slice.ports.iter().flatten();
            let same_name = |p: &str| p == port.name.as_deref().unwrap_or_default();
            let mut targets = ports.filter(|p| same_name(p.name.as_deref().unwrap_or_default()));
            let target = targets.next().and_then(|p| u16::try_from(p.port?).ok());
            let Some(target) = target else { continue };
            for one in &slice.endpoints {
                let Some(state) = state(view, &name.0, one) else { continue };
                for address in one.addresses.iter().filter_map(|ip| ip.parse::<IpAddr>().ok()) {
                    let address = SocketAddr::new(address, target);
                    let workload = workload(view, &name.0, one, name);
                    endpoints.insert(address, Endpoint { address, workload, state });
                }
            }
        }
        let pool = self.all.len();
        self.all.push(Pool { key: key.clone(), endpoints: endpoints.into_values().collect() });
        self.index.insert(key, pool);
        pool
    }

    fn add_address(
        &mut self,
        view: &View,
        name: &Name,
        (service, port): (&Service, &ServicePort),
        pool: usize,
    ) {
        let spec = service.spec.as_ref();
        let Some(ip) = spec.and_then(|spec| spec.cluster_ip.as_deref()?.parse::<IpAddr>().ok())
        else {
            return;
        };
        if view.served_by_others.contains(&ip) {
            return;
        }
        let affinity = spec.and_then(|spec| spec.session_affinity.as_deref());
        let sticky = affinity == Some("ClientIP");
        let (protocol, only) = (protocol(port), ports(service).count() == 1);
        let port = number(port);
        self.services.push(ServiceAddress {
            service: name.clone(),
            address: SocketAddr::new(ip, port),
            port,
            carries: Carries { protocol, pool, sticky },
            only,
        });
    }

    /// The pool of a Service's port.
    pub(super) fn find(&self, namespace: &str, service: &str, port: u16) -> Option<usize> {
        self.index.get(&PoolKey::new(namespace, service, port)).copied()
    }
}

/// Ports of Services that have an address but are not served, with what they want.
pub(super) fn unserved(view: &View) -> BTreeMap<(Name, i32), String> {
    let with_address = |service: &&Service| {
        let ip = service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref());
        let ip = ip.and_then(|ip| ip.parse::<IpAddr>().ok());
        view.serves_services && ip.is_some_and(|ip| !view.served_by_others.contains(&ip))
    };
    let services = view.services.iter().map(|(name, service)| (name, &**service));
    let ports =
        services.filter(|(_, service)| with_address(service)).flat_map(|(name, service)| {
            let all = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
            all.map(move |port| (name, port))
        });
    let other = ports.filter_map(|(name, port)| {
        let protocol = port.protocol.as_deref().filter(|protocol| *protocol != "TCP")?;
        Some(((name.clone(), port.port), protocol.to_owned()))
    });
    other.collect()
}

fn ports(service: &Service) -> impl Iterator<Item = &ServicePort> {
    let ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
    ports.filter(|port| {
        port.protocol.as_deref().unwrap_or("TCP") == "TCP" && u16::try_from(port.port).is_ok()
    })
}

/// Ports that do not fit were left out by `ports`.
fn number(port: &ServicePort) -> u16 {
    u16::try_from(port.port).unwrap_or_default()
}

fn protocol(port: &ServicePort) -> Protocol {
    Protocol::declared(port.app_protocol.as_deref(), port.name.as_deref(), number(port))
}

/// Whether an endpoint gets requests; `None` when it must not be used as a last resort either.
fn state(view: &View, namespace: &str, endpoint: &SliceEndpoint) -> Option<EndpointState> {
    let pod = pod_name(namespace, endpoint).and_then(|name| view.pods.get(&name));
    if view.drain && pod.is_some_and(|pod| pod.gated) {
        return Some(EndpointState::Draining);
    }
    let conditions = endpoint.conditions.as_ref();
    let ready = conditions.and_then(|c| c.ready).unwrap_or(true);
    let serving = conditions.and_then(|c| c.serving).unwrap_or(ready);
    let terminating = conditions.and_then(|c| c.terminating).unwrap_or(false);
    if ready && !terminating {
        Some(EndpointState::Ready)
    } else if serving && terminating {
        Some(EndpointState::Terminating)
    } else {
        None
    }
}

fn workload(view: &View, namespace: &str, endpoint: &SliceEndpoint, service: &Name) -> Arc<str> {
    let pod = pod_name(namespace, endpoint).and_then(|name| view.pods.get(&name));
    // The slice may be seen before its pod; the Service's name is the best guess until then.
    pod.map_or_else(|| service.1.as_str().into(), |pod| Arc::clone(&pod.workload))
}

fn pod_name(namespace: &str, endpoint: &SliceEndpoint) -> Option<Name> {
    let target = endpoint.target_ref.as_ref().filter(|one| one.kind.as_deref() == Some("Pod"))?;
    Some((namespace.to_owned(), target.name.clone()?))
}
