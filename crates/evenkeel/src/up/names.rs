//! The names of the cluster: what its Services and their endpoints are called in DNS.
//!
//! **Source**: Kubernetes DNS-Based Service Discovery, version 1.1.0, and `CoreDNS` where that is
//! silent.

use std::{collections::BTreeMap, net::Ipv4Addr, sync::Arc};

use evenkeel_api::{GroupKind, Key, Obj};
use evenkeel_control::{ListQuery, Store, WatchEvent};
use evenkeel_network::{Record, Target, Zone};
use futures::{FutureExt as _, StreamExt as _};
use k8s_openapi::api::{
    core::v1::{Service, ServicePort},
    discovery::v1::{Endpoint, EndpointSlice},
};
use tokio::sync::watch;

/// The label by which a slice belongs to its Service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// The cluster's domain.
pub(crate) const DOMAIN: &str = "cluster.local";

/// Follows Services and their endpoints, and sends the zone after every change.
pub(super) async fn follow(store: Arc<dyn Store>, zone: watch::Sender<Arc<Zone>>) {
    let kinds = [GroupKind::of::<Service>(), GroupKind::of::<EndpointSlice>()];
    let watches = kinds.map(|kind| store.watch(ListQuery::all(kind)));
    let mut events = futures::stream::select_all(watches);
    let mut objects: BTreeMap<Key, Arc<Obj>> = BTreeMap::new();
    while let Some(event) = events.next().await {
        apply(&mut objects, event);
        // What came at the same time is one change.
        while let Some(Some(event)) = events.next().now_or_never() {
            apply(&mut objects, event);
        }
        let new = Arc::new(of(objects.values()));
        zone.send_if_modified(|old| {
            let is_new = *old != new;
            *old = new;
            is_new
        });
    }
}

fn apply(
    objects: &mut BTreeMap<Key, Arc<Obj>>,
    event: Result<WatchEvent, evenkeel_control::StoreError>,
) {
    match event {
        Ok(WatchEvent::Applied(obj)) => {
            objects.insert(obj.key().clone(), obj);
        }
        Ok(WatchEvent::Deleted(obj)) => {
            objects.remove(obj.key());
        }
        Ok(WatchEvent::Synced) => {}
        Err(error) => tracing::debug!(%error, "watch of Services"),
    }
}

/// All names of these objects.
fn of<'a>(objects: impl Iterator<Item = &'a Arc<Obj>>) -> Zone {
    let (mut services, mut slices) = (Vec::new(), BTreeMap::<_, Vec<_>>::new());
    for obj in objects {
        if let Ok(service) = obj.get::<Service>() {
            services.push((obj.namespace(), obj.name(), service));
        } else if let Ok(slice) = obj.get::<EndpointSlice>()
            && let Some(service) = obj.labels().get(SERVICE_NAME)
        {
            slices.entry((obj.namespace(), service.as_str())).or_default().push(slice);
        }
    }
    let mut zone = Zone::default();
    for (namespace, name, service) in services {
        let Some(spec) = &service.spec else { continue };
        let full = format!("{name}.{namespace}.svc.{DOMAIN}");
        if let Some(other) = &spec.external_name
            && spec.type_.as_deref() == Some("ExternalName")
        {
            zone.add(&full, Record::Alias(other.trim_end_matches('.').to_owned()));
        } else if spec.cluster_ip.as_deref() == Some("None") {
            let own = slices.get(&(namespace, name));
            for slice in own.into_iter().flatten() {
                add_endpoints(&mut zone, &full, slice);
            }
        } else if let Some(ip) = spec.cluster_ip.as_deref().and_then(|ip| ip.parse().ok()) {
            zone.add(&full, Record::Address(ip));
            zone.add_reverse(ip, &full);
            for port in spec.ports.iter().flatten() {
                add_port(&mut zone, &full, port);
            }
        }
    }
    zone
}

fn add_port(zone: &mut Zone, full: &str, port: &ServicePort) {
    let protocol = port.protocol.as_deref().unwrap_or("TCP").to_lowercase();
    if let (Some(name), Ok(number)) = (port.name.as_deref(), u16::try_from(port.port)) {
        let target = Target { name: full.to_owned(), port: number };
        zone.add(&format!("_{name}._{protocol}.{full}"), Record::Port(target));
    }
}

/// The endpoints of a headless Service: each has a name of its own, too.
fn add_endpoints(zone: &mut Zone, full: &str, slice: &EndpointSlice) {
    for endpoint in slice.endpoints.iter().filter(|endpoint| is_ready(endpoint)) {
        let addresses = endpoint.addresses.iter().filter_map(|ip| ip.parse::<Ipv4Addr>().ok());
        for ip in addresses {
            let host = endpoint.hostname.clone();
            let own = host.clone().unwrap_or_else(|| ip.to_string().replace('.', "-"));
            let own = format!("{own}.{full}");
            zone.add(full, Record::Address(ip));
            zone.add(&own, Record::Address(ip));
            if host.is_some() {
                zone.add_reverse(ip, &own);
            }
            for port in slice.ports.iter().flatten() {
                let number = port.port.and_then(|port| u16::try_from(port).ok());
                let name = port.name.as_deref().filter(|name| !name.is_empty());
                let (Some(name), Some(port_number)) = (name, number) else { continue };
                let protocol = port.protocol.as_deref().unwrap_or("TCP").to_lowercase();
                let target = Target { name: own.clone(), port: port_number };
                zone.add(&format!("_{name}._{protocol}.{full}"), Record::Port(target));
            }
        }
    }
}

/// A Service with `publishNotReadyAddresses` has slices that call all of them ready.
fn is_ready(endpoint: &Endpoint) -> bool {
    endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn zone(objects: &[serde_json::Value]) -> Zone {
        let objects: Vec<_> =
            objects.iter().map(|body| Arc::new(Obj::from_json(body.clone()).unwrap())).collect();
        of(objects.iter())
    }

    fn service(spec: &serde_json::Value) -> serde_json::Value {
        json!({"apiVersion": "v1", "kind": "Service", "spec": spec,
            "metadata": {"name": "db", "namespace": "shop"}})
    }

    #[test]
    fn a_service_has_an_address_its_named_ports_and_a_name_of_its_address() {
        let ports = json!([{"name": "sql", "port": 5432}, {"port": 80}]);
        let found = zone(&[service(&json!({"clusterIP": "10.96.0.7", "ports": ports}))]);
        let mut expected = Zone::default();
        let full = "db.shop.svc.cluster.local";
        let ip = Ipv4Addr::new(10, 96, 0, 7);
        expected.add(full, Record::Address(ip));
        expected.add_reverse(ip, full);
        let target = Target { name: full.to_owned(), port: 5432 };
        expected.add(&format!("_sql._tcp.{full}"), Record::Port(target));
        assert_eq!(found, expected);
    }

    #[test]
    fn a_headless_service_has_its_ready_endpoints() {
        let slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "addressType": "IPv4", "ports": [{"name": "sql", "port": 5432}],
            "metadata": {"name": "db-x", "namespace": "shop", "labels": {SERVICE_NAME: "db"}},
            "endpoints": [
                {"addresses": ["10.244.0.4"], "hostname": "db-0", "conditions": {"ready": true}},
                {"addresses": ["10.244.1.5"], "conditions": {"ready": true}},
                {"addresses": ["10.244.1.6"], "conditions": {"ready": false}}]});
        let other = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "addressType": "IPv4", "ports": [], "endpoints": [{"addresses": ["10.244.0.9"]}],
            "metadata": {"name": "db-y", "namespace": "b", "labels": {SERVICE_NAME: "db"}}});
        let found = zone(&[service(&json!({"clusterIP": "None"})), slice, other]);
        let mut expected = Zone::default();
        let full = "db.shop.svc.cluster.local";
        for (host, ip) in [("db-0", [10, 244, 0, 4]), ("10-244-1-5", [10, 244, 1, 5])] {
            let (own, ip) = (format!("{host}.{full}"), Ipv4Addr::from(ip));
            expected.add(full, Record::Address(ip));
            expected.add(&own, Record::Address(ip));
            let target = Target { name: own, port: 5432 };
            expected.add(&format!("_sql._tcp.{full}"), Record::Port(target));
        }
        expected.add_reverse(Ipv4Addr::new(10, 244, 0, 4), &format!("db-0.{full}"));
        assert_eq!(found, expected);
    }

    #[test]
    fn an_external_name_is_an_alias() {
        let found =
            zone(&[service(&json!({"type": "ExternalName", "externalName": "db.example.org."}))]);
        let mut expected = Zone::default();
        expected.add("db.shop.svc.cluster.local", Record::Alias("db.example.org".to_owned()));
        assert_eq!(found, expected);
    }
}
