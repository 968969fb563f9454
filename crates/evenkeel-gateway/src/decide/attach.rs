//! Which routes are served where: Service parents by address, Gateway parents by host name.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use evenkeel_api::httproute::{HttpRoute, ParentRef};

use super::gateways::{self, Placed};
use super::pools::{Pools, ServiceAddress};
use super::rules::{self, Translated};
use super::{Finding, GatewayVerdict, ParentVerdict, RouteVerdict};
use crate::engine::{Listener, Protocol, Rule, Section, ServicePort};
use crate::reasons::{
    ACCEPTED, NO_MATCHING_LISTENER_HOSTNAME, NO_MATCHING_PARENT, NOT_ALLOWED_BY_LISTENERS,
    UNSUPPORTED_PROTOCOL, UNSUPPORTED_VALUE,
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
    gateways: BTreeMap<&'a Name, Placed<'a>>,
    served: BTreeMap<SocketAddr, Served>,
}

/// What is collected for an address, and the Gateway that it belongs to.
#[derive(Default)]
struct Served {
    owner: Name,
    /// What it is of a Service.
    port: Option<ServicePort>,
    /// One for a Service; for a Gateway those of its listeners, by their names.
    sections: BTreeMap<String, Section>,
}

impl<'a> Places<'a> {
    fn of(view: &'a View, pools: &'a Pools) -> Self {
        let mut by_service: BTreeMap<(&str, &str), Vec<&ServiceAddress>> = BTreeMap::new();
        let mut served: BTreeMap<SocketAddr, Served> = BTreeMap::new();
        let mut taken = BTreeMap::new();
        for one in &pools.services {
            by_service.entry((&one.service.0, &one.service.1)).or_default().push(one);
            let object = format!("Service/{}/{}", one.service.0, one.service.1);
            taken.insert(one.address, object);
            let sections = [(String::new(), Section::default())].into();
            let (owner, port) = (one.service.clone(), Some(one.carries));
            served.insert(one.address, Served { owner, port, sections });
        }
        let gateways = gateways::place(view, &mut taken);
        for (name, gateway) in &gateways {
            for listener in &gateway.listeners {
                for address in &listener.verdict.addresses {
                    let place = served.entry(*address).or_default();
                    place.owner.clone_from(name);
                    let hostname = listener.hostname().map(str::to_owned);
                    let section = Section { hostname, rules: Vec::new() };
                    place.sections.insert(listener.spec.name.clone(), section);
                }
            }
        }
        Self { view, by_service, gateways, served }
    }

    /// Adds rules to what a listener (a Service has the one without name) serves at an address.
    fn add(&mut self, address: SocketAddr, listener: &str, rules: impl Iterator<Item = Rule>) {
        let place = self.served.get_mut(&address);
        if let Some(section) = place.and_then(|place| place.sections.get_mut(listener)) {
            section.rules.extend(rules);
        }
    }

    /// A Service that is not a parent of any route serves its own endpoints.
    fn complete(&mut self, pools: &Pools) {
        for one in &pools.services {
            let sections = self.served.get_mut(&one.address).map(|place| &mut place.sections);
            let section = sections.and_then(|sections| sections.get_mut(""));
            if let Some(section) = section.filter(|section| section.rules.is_empty()) {
                section.rules.push(Rule::to_pool(one.carries.pool));
            }
        }
    }
}

/// Attaches every route to its parents.
pub(super) fn routes(view: &View, pools: &Pools) -> Attached {
    let mut places = Places::of(view, pools);
    let mut verdicts = BTreeMap::new();
    for (name, route) in by_age(view) {
        let translated = rules::translate(view, name, route, pools);
        let mut parents = Vec::new();
        for parent in &route.spec.parent_refs {
            if !may_be_ours(view, name, parent) {
                continue;
            }
            let accepted = match kind(parent) {
                ("" | "core", "Service") => to_service(name, parent, &translated, &mut places),
                ("gateway.networking.k8s.io", "Gateway") => {
                    to_gateway((name, route), parent, &translated, &mut places)
                }
                // A parent of another implementation.
                _ => continue,
            };
            let accepted = if accepted.good {
                let mut own = translated.accepted.clone();
                own.note(&accepted.message);
                own
            } else {
                accepted
            };
            let resolved = translated.resolved.clone();
            parents.push(ParentVerdict { parent: parent.clone(), accepted, resolved });
        }
        if !parents.is_empty() {
            let generation = route.metadata.generation.unwrap_or_default();
            verdicts.insert(name.clone(), RouteVerdict { generation, parents });
        }
    }
    places.complete(pools);
    let listener = |place: Served| {
        let sections = place.sections.into_values().collect();
        let listener = Listener::of_sections(&place.owner.0, &place.owner.1, sections);
        match place.port {
            Some(port) => listener.at_port(port),
            None => listener,
        }
    };
    let Places { served, gateways, .. } = places;
    let listeners = served.into_iter().map(|(address, place)| (address, listener(place))).collect();
    let verdict = |(name, one): (&Name, Placed<'_>)| (name.clone(), one.verdict());
    let gateways = gateways.into_iter().map(verdict).collect();
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

/// Whether we say something about a parent. Where Gateways have classes, one that does not exist is
/// not ours: each implementation would say so.
fn may_be_ours(view: &View, route: &Name, parent: &ParentRef) -> bool {
    match kind(parent) {
        ("" | "core", "Service") => view.serves_services,
        _ if view.class.is_none() => true,
        _ => {
            let namespace = parent.namespace.as_ref().unwrap_or(&route.0);
            let gateway = view.gateways.get(&(namespace.clone(), parent.name.clone()));
            gateway.is_some_and(|gateway| view.is_ours(gateway))
        }
    }
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
    // Without a port the route means every port that may be HTTP: requests of the others are no
    // requests, and the backends' ports are those of the application.
    let wanted = |one: &&&ServiceAddress| match parent.port {
        Some(port) => port == i32::from(one.port),
        None => one.only || one.carries.protocol != Protocol::Bytes,
    };
    let addresses: Vec<&ServiceAddress> =
        addresses.into_iter().flatten().filter(wanted).copied().collect();
    if addresses.is_empty() {
        let message = format!("{object} with such a TCP port and a cluster IP does not exist");
        return Finding::bad(NO_MATCHING_PARENT, message);
    }
    let mut accepted = Finding::good(ACCEPTED);
    for one in addresses {
        let splits_bytes = one.only || parent.port.is_some();
        let rules = translated.rules.iter().cloned();
        places.add(one.address, "", rules.map(|rule| Rule { splits_bytes, ..rule }));
        if one.carries.protocol == Protocol::Bytes {
            accepted.note(&format!(
                "port {} of {object} is not HTTP by its name or appProtocol: connections are split, \
                 by the weights of the first rule without matches",
                one.port
            ));
        }
    }
    accepted
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
    let Some(gateway) = places.gateways.get_mut(&key) else {
        return Finding::bad(NO_MATCHING_PARENT, format!("{object} does not exist"));
    };
    let mut problem = Finding::bad(
        NO_MATCHING_PARENT,
        format!("{object} has no such listener; see spec.listeners"),
    );
    let mut attached = Vec::new();
    for listener in &mut gateway.listeners {
        let spec = listener.spec;
        let named = parent.section_name.as_ref().is_none_or(|section| *section == spec.name);
        if !named || parent.port.is_some_and(|port| port != spec.port) {
            continue;
        }
        let refused = |reason, text: String| Finding::bad(reason, format!("{object} {text}"));
        if !listener.verdict.takes_routes {
            // Also where it is not served: the route would not fit if it were.
            let why = format!("listener {}: it takes no HTTPRoutes", spec.name);
            problem = refused(NOT_ALLOWED_BY_LISTENERS, why);
            continue;
        }
        if listener.verdict.addresses.is_empty() {
            let other_protocol = listener.verdict.accepted.reason == UNSUPPORTED_PROTOCOL;
            let reason = if other_protocol { UNSUPPORTED_VALUE } else { NO_MATCHING_PARENT };
            problem = refused(reason, listener.said());
            continue;
        }
        if let Err(why) = listener.takes(places.view, namespace, &name.0) {
            problem = refused(NOT_ALLOWED_BY_LISTENERS, format!("listener {}: {why}", spec.name));
            continue;
        }
        let Some(hostnames) = common(listener.hostname(), &route.spec.hostnames) else {
            let why = format!("listener {} serves none of the host names", spec.name);
            problem = refused(NO_MATCHING_LISTENER_HOSTNAME, why);
            continue;
        };
        listener.verdict.routes += 1;
        let addresses = listener.verdict.addresses.iter();
        attached.extend(addresses.map(|address| (*address, &*spec.name, hostnames.clone())));
    }
    if attached.is_empty() {
        return problem;
    }
    for (address, listener, hostnames) in attached {
        let rules = translated.rules.iter().cloned();
        let rules = rules.map(|rule| Rule { hostnames: hostnames.clone(), ..rule });
        places.add(address, listener, rules);
    }
    Finding::good(ACCEPTED)
}

/// Host names that both the listener and the route serve; `None` when there are none.
fn common(listener: Option<&str>, route: &[String]) -> Option<Vec<String>> {
    let Some(listener) = listener else { return Some(route.to_vec()) };
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
    // Several names of the route may come down to the listener's.
    let both: BTreeSet<String> = both.collect();
    (!both.is_empty()).then(|| both.into_iter().collect())
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
