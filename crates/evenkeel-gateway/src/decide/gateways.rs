//! Where Gateways listen, which routes their listeners take, and what is wrong with them.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use evenkeel_api::LabelSelector;
use evenkeel_api::httproute::{Gateway, Listener as ListenerSpec};
use serde_json::Value;

use super::{Finding, GatewayVerdict, ListenerVerdict};
use crate::reasons::{
    ACCEPTED, HOSTNAME_CONFLICT, INVALID, INVALID_ROUTE_KINDS, LISTENERS_NOT_VALID,
    PORT_UNAVAILABLE, RESOLVED_REFS, UNSUPPORTED_ADDRESS, UNSUPPORTED_PROTOCOL,
};
use crate::view::{Name, View};

/// On loopback, a Gateway that meets an older one on its port gets an address of this network.
/// Nodes have 127.64.0.0 and up, Services 127.192.0.0/16.
const OWN_NET: [u8; 2] = [127, 191];
/// Addresses tried in it.
const OWN_ADDRESSES_MAX: u8 = 254;

/// A Gateway, placed.
pub(super) struct Placed<'a> {
    pub(super) listeners: Vec<PlacedListener<'a>>,
    generation: i64,
    /// Addresses in `spec.addresses` that are not IP addresses.
    unsupported: Option<String>,
    addresses: Vec<IpAddr>,
}

/// One listener of it.
pub(super) struct PlacedListener<'a> {
    pub(super) spec: &'a ListenerSpec,
    pub(super) verdict: ListenerVerdict,
    allowed: Allowed,
}

/// Namespaces whose routes a listener takes.
enum Allowed {
    All,
    Same,
    Labelled(LabelSelector),
    None,
}

/// Places every Gateway. `taken` holds what Services listen on, by their names; it is extended.
/// Older Gateways choose first, so that a new one never takes an address or port from another.
pub(super) fn place<'a>(
    view: &'a View,
    taken: &mut BTreeMap<SocketAddr, String>,
) -> BTreeMap<&'a Name, Placed<'a>> {
    let ours = view.gateways.iter().map(|(name, one)| (name, &**one));
    let mut gateways: Vec<_> = ours.filter(|(_, one)| view.is_ours(one)).collect();
    let age = |one: &Gateway| one.metadata.creation_timestamp.as_ref().map(|time| time.0);
    gateways.sort_by(|a, b| age(a.1).cmp(&age(b.1)).then_with(|| a.0.cmp(b.0)));
    let placed = gateways.into_iter().map(|(name, gateway)| {
        let object = format!("Gateway/{}/{}", name.0, name.1);
        (name, Placed::of(view, gateway, &object, taken))
    });
    placed.collect()
}

impl<'a> Placed<'a> {
    fn of(
        view: &View,
        gateway: &'a Gateway,
        object: &str,
        taken: &mut BTreeMap<SocketAddr, String>,
    ) -> Self {
        let (mut addresses, unsupported) = named_addresses(gateway);
        if addresses.is_empty() && unsupported.is_none() {
            addresses.push(free_address(view, gateway, taken));
        }
        let mut listeners: Vec<PlacedListener<'a>> = Vec::new();
        for spec in &gateway.spec.listeners {
            let mut one = PlacedListener::of(spec);
            let twin = listeners.iter().find(|other| one.collides(other));
            if let Some(twin) = twin {
                let message =
                    format!("listener {} has the same port and host name", twin.spec.name);
                one.verdict.conflict = Some(Finding::bad(HOSTNAME_CONFLICT, message));
                one.verdict.accepted = Finding::bad(HOSTNAME_CONFLICT, String::new());
            }
            one.listen(&addresses, object, taken);
            listeners.push(one);
        }
        let generation = gateway.metadata.generation.unwrap_or_default();
        Self { listeners, generation, unsupported, addresses }
    }

    /// What the Gateway's status says.
    pub(super) fn verdict(self) -> GatewayVerdict {
        let bad = |one: &&PlacedListener<'_>| !one.verdict.accepted.good;
        let problems: Vec<String> =
            self.listeners.iter().filter(bad).map(PlacedListener::said).collect();
        let mut accepted = Finding::good(ACCEPTED);
        if !problems.is_empty() {
            // One good listener is enough to take the Gateway.
            accepted.good = problems.len() < self.listeners.len();
            accepted.reason = LISTENERS_NOT_VALID;
            accepted.message = problems.join("; ");
        }
        if let Some(problem) = self.unsupported {
            accepted = Finding::bad(UNSUPPORTED_ADDRESS, problem);
        }
        GatewayVerdict {
            generation: self.generation,
            accepted,
            addresses: self.addresses,
            listeners: self.listeners.into_iter().map(|one| one.verdict).collect(),
        }
    }
}

impl<'a> PlacedListener<'a> {
    fn of(spec: &'a ListenerSpec) -> Self {
        let port = u16::try_from(spec.port).ok().filter(|port| *port > 0);
        let accepted = if spec.protocol != "HTTP" {
            let message = format!("protocol {} is not served, only HTTP", spec.protocol);
            Finding::bad(UNSUPPORTED_PROTOCOL, message)
        } else if port.is_none() {
            Finding::bad(PORT_UNAVAILABLE, format!("{} is not a valid port", spec.port))
        } else {
            Finding::good(ACCEPTED)
        };
        let (takes_routes, resolved) = kinds(spec);
        let mut verdict = ListenerVerdict {
            name: spec.name.clone(),
            addresses: Vec::new(),
            routes: 0,
            takes_routes,
            accepted,
            resolved,
            conflict: None,
        };
        let allowed = Allowed::of(spec).unwrap_or_else(|problem| {
            verdict.accepted = Finding::bad(INVALID, problem);
            Allowed::None
        });
        Self { spec, verdict, allowed }
    }

    /// Its host name; `None` is every host.
    pub(super) fn hostname(&self) -> Option<&str> {
        self.spec.hostname.as_deref().filter(|name| !name.is_empty())
    }

    fn collides(&self, other: &Self) -> bool {
        let same_name = match (self.hostname(), other.hostname()) {
            (Some(one), Some(two)) => one.eq_ignore_ascii_case(two),
            (None, None) => true,
            _ => false,
        };
        same_name && self.spec.port == other.spec.port && other.spec.protocol == self.spec.protocol
    }

    /// Takes its port on every address where that is free or the Gateway's own already.
    fn listen(
        &mut self,
        addresses: &[IpAddr],
        object: &str,
        taken: &mut BTreeMap<SocketAddr, String>,
    ) {
        let Ok(port) = u16::try_from(self.spec.port) else { return };
        if !self.verdict.accepted.good {
            return;
        }
        for address in addresses.iter().map(|ip| SocketAddr::new(*ip, port)) {
            let owner = taken.entry(address).or_insert_with(|| object.to_owned());
            if owner == object {
                self.verdict.addresses.push(address);
                continue;
            }
            let message = format!(
                "port {port} of {} belongs to {owner}, which was there before; choose another \
                 port, or another address in spec.addresses",
                address.ip()
            );
            self.verdict.accepted = Finding::bad(PORT_UNAVAILABLE, message);
        }
    }

    /// What is wrong with it, as a message.
    pub(super) fn said(&self) -> String {
        let finding = self.verdict.conflict.as_ref().unwrap_or(&self.verdict.accepted);
        format!("listener {}: {}", self.spec.name, finding.message)
    }

    /// Whether it takes `HTTPRoute`s of a namespace; `Err` says why not.
    pub(super) fn takes(&self, view: &View, gateway: &str, route: &str) -> Result<(), String> {
        let labels = || view.namespaces.get(route).map(|labels| &**labels);
        let none = BTreeMap::new();
        match &self.allowed {
            Allowed::All => Ok(()),
            Allowed::Same if gateway == route => Ok(()),
            Allowed::Labelled(selector) if selector.matches(labels().unwrap_or(&none)) => Ok(()),
            Allowed::Labelled(_) => Err(format!(
                "the labels of namespace {route} do not fit allowedRoutes.namespaces.selector"
            )),
            Allowed::Same | Allowed::None => Err(format!("it takes no routes from {route}")),
        }
    }
}

impl Allowed {
    fn of(spec: &ListenerSpec) -> Result<Self, String> {
        let namespaces = spec.other.get("allowedRoutes").and_then(|all| all.get("namespaces"));
        let from = namespaces.and_then(|all| all.get("from")).and_then(Value::as_str);
        match from.unwrap_or("Same") {
            "All" => Ok(Self::All),
            "Same" => Ok(Self::Same),
            "None" => Ok(Self::None),
            "Selector" => {
                let at = "allowedRoutes.namespaces.selector";
                let selector = namespaces.and_then(|all| all.get("selector"));
                let selector = selector.ok_or_else(|| format!("{at} is missing"))?;
                let selector = serde_json::from_value(selector.clone());
                let selector = selector.map_err(|error| format!("{at}: {error}"))?;
                let selector = LabelSelector::from_object(&selector);
                selector.map(Self::Labelled).map_err(|error| format!("{at}: {error}"))
            }
            other => Err(format!("allowedRoutes.namespaces.from: {other} is not known")),
        }
    }
}

/// Whether `HTTPRoute`s are among `allowedRoutes.kinds`, and what is wrong with the others.
fn kinds(spec: &ListenerSpec) -> (bool, Finding) {
    let kinds = spec.other.get("allowedRoutes").and_then(|all| all.get("kinds"));
    let Some(kinds) = kinds.and_then(Value::as_array).filter(|kinds| !kinds.is_empty()) else {
        return (true, Finding::good(RESOLVED_REFS));
    };
    let text =
        |kind: &Value, field: &str| kind.get(field).and_then(Value::as_str).map(str::to_owned);
    let ours = |kind: &&Value| {
        text(kind, "group").is_none_or(|group| group == "gateway.networking.k8s.io")
            && text(kind, "kind").as_deref() == Some("HTTPRoute")
    };
    let other = kinds.iter().find(|kind| !ours(kind));
    let resolved = other.map_or_else(
        || Finding::good(RESOLVED_REFS),
        |kind| {
            let kind = text(kind, "kind").unwrap_or_default();
            let message = format!("allowedRoutes.kinds: {kind} is not served, only HTTPRoute");
            Finding::bad(INVALID_ROUTE_KINDS, message)
        },
    );
    (kinds.iter().any(|kind| ours(&kind)), resolved)
}

/// IP addresses in `spec.addresses`, and the message for other entries. An entry without value
/// leaves the choice to us.
fn named_addresses(gateway: &Gateway) -> (Vec<IpAddr>, Option<String>) {
    let list = gateway.spec.other.get("addresses").and_then(Value::as_array);
    let (mut addresses, mut problem) = (Vec::new(), None);
    for one in list.into_iter().flatten() {
        let text = |field: &str| one.get(field).and_then(Value::as_str).unwrap_or_default();
        match (text("type"), text("value")) {
            (_, "") => {}
            ("" | "IPAddress", value) if value.parse::<IpAddr>().is_ok() => {
                addresses.extend(value.parse::<IpAddr>());
            }
            (kind, value) => {
                let kind = if kind.is_empty() { "IPAddress" } else { kind };
                problem = Some(format!("{kind} {value} is not supported; name an IP address"));
            }
        }
    }
    (addresses, problem)
}

/// An address for a Gateway that names none: the one it has, the common one, or one of its own; the
/// first on which no older listener has one of its ports.
fn free_address(view: &View, gateway: &Gateway, taken: &BTreeMap<SocketAddr, String>) -> IpAddr {
    let common = view.gateway_address;
    let own = |host| IpAddr::V4(Ipv4Addr::new(OWN_NET[0], OWN_NET[1], 0, host));
    let ours = |ip: &IpAddr| {
        let own = matches!(ip, IpAddr::V4(ip) if ip.octets().starts_with(&OWN_NET));
        *ip == common || (own && common.is_loopback())
    };
    let status = gateway.status.as_ref();
    let had = status.and_then(|status| status.pointer("/addresses/0/value")?.as_str());
    let had = had.and_then(|ip| ip.parse().ok()).filter(ours);
    let more = (1..=OWN_ADDRESSES_MAX).filter(|_| common.is_loopback());
    let free = |ip: &IpAddr| {
        let ports = gateway.spec.listeners.iter().filter_map(|one| u16::try_from(one.port).ok());
        ports.map(|port| SocketAddr::new(*ip, port)).all(|address| !taken.contains_key(&address))
    };
    had.into_iter().chain([common]).chain(more.map(own)).find(free).unwrap_or(common)
}
