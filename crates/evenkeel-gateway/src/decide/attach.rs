//! Which routes are served where: Service parents by address, Gateway parents by host name.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use evenkeel_api::httproute::{Gateway, HttpRoute, Listener as GatewayListener, ParentRef};
use serde_json::Value;

use super::pools::{Pools, ServiceAddress};
use super::rules::{self, Translated};
use super::{Finding, GatewayVerdict, ParentVerdict, RouteVerdict};
use crate::engine::{Listener, Rule};
use crate::reasons::{
    ACCEPTED, NO_MATCHING_LISTENER_HOSTNAME, NO_MATCHING_PARENT, NOT_ALLOWED_BY_LISTENERS,
    UNSUPPORTED_VALUE,
};
use crate::view::{Name, View};

/// Listeners and what was found on the way.
pub(super) struct Attached {
    pub(super) listeners: BTreeMap<SocketAddr, Listener>,
    pub(super) routes: BTreeMap<Name, RouteVerdict>,
    pub(super) gateways: BTreeMap<Name, GatewayVerdict>,
}

/// What routes are attached to, while they are being attached.
struct Places<'a> {
    view: &'a View,
    by_service: BTreeMap<(&'a str, &'a str), Vec<&'a ServiceAddress>>,
    served: BTreeMap<SocketAddr, Served>,
    gateways: BTreeMap<Name, GatewayVerdict>,
}

/// Rules collected for an address, and whom it belongs to.
#[derive(Default)]
struct Served {
    owner: Name,
    rules: Vec<Rule>,
}

/// Attaches every route to its parents.
pub(super) fn routes(view: &View, pools: &Pools) -> Attached {
    let mut served: BTreeMap<SocketAddr, Served> = BTreeMap::new();
    let gateways = gateway_listeners(view, &mut served);
    let mut by_service: BTreeMap<(&str, &str), Vec<&ServiceAddress>> = BTreeMap::new();
    for one in &pools.services {
        by_service.entry((&one.service.0, &one.service.1)).or_default().push(one);
        served.entry(one.address).or_default().owner = one.service.clone();
    }
    let mut places = Places { view, by_service, served, gateways };
    let mut verdicts = BTreeMap::new();
    for (name, route) in by_age(view) {
        let translated = rules::translate(&name.0, &name.1, route, pools);
        let mut parents = Vec::new();
        for parent in &route.spec.parent_refs {
            let accepted = match kind(parent) {
                ("" | "core", "Service") => to_service(name, parent, &translated, &mut places),
                ("gateway.networking.k8s.io", "Gateway") => {
                    to_gateway((name, route), parent, &translated, &mut places)
                }
                // Somebody else's parent.
                _ => continue,
            };
            let accepted = if accepted.good { translated.accepted.clone() } else { accepted };
            let resolved = translated.resolved.clone();
            parents.push(ParentVerdict { parent: parent.clone(), accepted, resolved });
        }
        if !parents.is_empty() {
            let generation = route.metadata.generation.unwrap_or_default();
            verdicts.insert(name.clone(), RouteVerdict { generation, parents });
        }
    }
    // A Service that no route speaks for serves its own endpoints.
    for one in &pools.services {
        if let Some(place) =
            places.served.get_mut(&one.address).filter(|place| place.rules.is_empty())
        {
            place.rules.push(Rule::to_pool(one.pool));
        }
    }
    let listener = |place: Served| Listener::new(&place.owner.0, &place.owner.1, place.rules);
    let Places { served, gateways, .. } = places;
    let listeners = served.into_iter().map(|(address, place)| (address, listener(place))).collect();
    Attached { listeners, routes: verdicts, gateways }
}

/// Older routes win over younger ones, then the alphabet decides.
fn by_age(view: &View) -> Vec<(&Name, &HttpRoute)> {
    let mut routes: Vec<_> = view.routes.iter().map(|(name, route)| (name, &**route)).collect();
    let age = |route: &HttpRoute| route.metadata.creation_timestamp.as_ref().map(|time| time.0);
    routes.sort_by(|a, b| age(a.1).cmp(&age(b.1)).then_with(|| a.0.cmp(b.0)));
    routes
}

fn kind(parent: &ParentRef) -> (&str, &str) {
    let group = parent.group.as_deref().unwrap_or("gateway.networking.k8s.io");
    (group, parent.kind.as_deref().unwrap_or("Gateway"))
}

fn to_service(
    name: &Name,
    parent: &ParentRef,
    translated: &Translated,
    places: &mut Places<'_>,
) -> Finding {
    let namespace = parent.namespace.as_deref().unwrap_or(&name.0);
    let object = format!("Service/{namespace}/{}", parent.name);
    if namespace != name.0 {
        let message = format!("{object} is in another namespace; move the route there");
        return Finding::bad(NOT_ALLOWED_BY_LISTENERS, message);
    }
    let addresses = places.by_service.get(&(namespace, parent.name.as_str()));
    let wanted =
        |one: &&&ServiceAddress| parent.port.is_none_or(|port| port == i32::from(one.port));
    let mut found = false;
    for one in addresses.into_iter().flatten().filter(wanted) {
        found = true;
        if let Some(place) = places.served.get_mut(&one.address) {
            place.rules.extend(translated.rules.iter().cloned());
        }
    }
    if found {
        Finding::good(ACCEPTED)
    } else {
        let message = format!("{object} with such an HTTP port and a cluster IP does not exist");
        Finding::bad(NO_MATCHING_PARENT, message)
    }
}

/// The listeners of all Gateways, without routes yet.
fn gateway_listeners(
    view: &View,
    served: &mut BTreeMap<SocketAddr, Served>,
) -> BTreeMap<Name, GatewayVerdict> {
    let mut verdicts = BTreeMap::new();
    for (name, gateway) in &view.gateways {
        let address = own_address(gateway).unwrap_or(view.gateway_address);
        let listeners = gateway.spec.listeners.iter().map(|listener| {
            let port = u16::try_from(listener.port).ok().filter(|_| listener.protocol == "HTTP");
            let address = port.map(|port| SocketAddr::new(address, port));
            if let Some(address) = address {
                served.entry(address).or_default().owner = name.clone();
            }
            (listener.name.clone(), address, 0)
        });
        let listeners = listeners.collect();
        let generation = gateway.metadata.generation.unwrap_or_default();
        verdicts.insert(name.clone(), GatewayVerdict { generation, listeners });
    }
    verdicts
}

fn own_address(gateway: &Gateway) -> Option<IpAddr> {
    let addresses = gateway.spec.other.get("addresses")?.as_array()?;
    addresses.iter().find_map(|one| one.get("value")?.as_str()?.parse().ok())
}

fn to_gateway(
    (name, route): (&Name, &HttpRoute),
    parent: &ParentRef,
    translated: &Translated,
    places: &mut Places<'_>,
) -> Finding {
    let namespace = parent.namespace.as_deref().unwrap_or(&name.0);
    let key = (namespace.to_owned(), parent.name.clone());
    let object = format!("Gateway/{namespace}/{}", parent.name);
    let (Some(gateway), Some(verdict)) =
        (places.view.gateways.get(&key), places.gateways.get_mut(&key))
    else {
        return Finding::bad(NO_MATCHING_PARENT, format!("{object} does not exist"));
    };
    let mut problem = Finding::bad(
        NO_MATCHING_PARENT,
        format!("{object} has no such listener; see spec.listeners"),
    );
    let mut attached = false;
    for (listener, state) in gateway.spec.listeners.iter().zip(&mut verdict.listeners) {
        let named = parent.section_name.as_ref().is_none_or(|section| *section == listener.name);
        if !named || parent.port.is_some_and(|port| port != listener.port) {
            continue;
        }
        let Some(address) = state.1 else {
            let message = format!("{object} listener {}: only HTTP is served", listener.name);
            problem = Finding::bad(UNSUPPORTED_VALUE, message);
            continue;
        };
        if !allowed(listener, namespace == name.0) {
            let message =
                format!("{object} listener {} takes no routes from {}", listener.name, name.0);
            problem = Finding::bad(NOT_ALLOWED_BY_LISTENERS, message);
            continue;
        }
        let Some(hostnames) = common(listener.hostname.as_deref(), &route.spec.hostnames) else {
            let message =
                format!("{object} listener {} serves none of the host names", listener.name);
            problem = Finding::bad(NO_MATCHING_LISTENER_HOSTNAME, message);
            continue;
        };
        attached = true;
        state.2 += 1;
        let place = places.served.entry(address).or_default();
        let rules = translated.rules.iter().cloned();
        place.rules.extend(rules.map(|rule| Rule { hostnames: hostnames.clone(), ..rule }));
    }
    if attached { Finding::good(ACCEPTED) } else { problem }
}

fn allowed(listener: &GatewayListener, same_namespace: bool) -> bool {
    let allowed = listener.other.get("allowedRoutes");
    let kinds = allowed.and_then(|allowed| allowed.get("kinds")).and_then(Value::as_array);
    let our_kind = |kind: &Value| kind.get("kind").and_then(Value::as_str) == Some("HTTPRoute");
    let from =
        allowed.and_then(|allowed| allowed.pointer("/namespaces/from")).and_then(Value::as_str);
    kinds.is_none_or(|kinds| kinds.is_empty() || kinds.iter().any(our_kind))
        && match from.unwrap_or("Same") {
            "All" => true,
            "Same" => same_namespace,
            // Namespace labels are not looked at; refusing is the safe side.
            _ => false,
        }
}

/// Host names that both the listener and the route serve; `None` when there are none.
fn common(listener: Option<&str>, route: &[String]) -> Option<Vec<String>> {
    let Some(listener) = listener.filter(|name| !name.is_empty()) else {
        return Some(route.to_vec());
    };
    if route.is_empty() {
        return Some(vec![listener.to_owned()]);
    }
    let both = route.iter().filter_map(|name| {
        if covers(listener, name) {
            Some(name.clone())
        } else if covers(name, listener) {
            Some(listener.to_owned())
        } else {
            None
        }
    });
    let both: Vec<String> = both.collect();
    (!both.is_empty()).then_some(both)
}

/// Whether every host that `narrow` means is meant by `wide` too.
fn covers(wide: &str, narrow: &str) -> bool {
    match wide.strip_prefix('*') {
        Some(suffix) => {
            narrow.strip_prefix('*').unwrap_or(narrow).ends_with(suffix) && narrow != suffix
        }
        None => wide == narrow,
    }
}
