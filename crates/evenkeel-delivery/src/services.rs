//! The three Services of a Canary, and the route that splits traffic between them.

use std::collections::BTreeSet;

use evenkeel_api::{
    Obj,
    canary::{CanarySpec, ServiceMeta, gateway_match},
    httproute::ParentRef,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::{Value, json};

use crate::workload::{TOOLKIT, Workload};

/// Sidecars whose ports are not the service's.
const SIDECARS: [&str; 2] = ["istio-proxy", "envoy"];
/// Longest name of a Service's port.
const PORT_NAME_MAX: usize = 63;

/// Names of everything that belongs to one Canary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Names {
    pub(crate) namespace: String,
    /// Deployment as the user wrote it.
    pub(crate) target: String,
    /// Its copy.
    pub(crate) target_primary: String,
    /// Service that users call, and the route.
    pub(crate) apex: String,
    pub(crate) primary: String,
    pub(crate) canary: String,
}

impl Names {
    pub(crate) fn from_spec(spec: &CanarySpec, namespace: &str) -> Self {
        let target = spec.target_ref.name.clone();
        let apex = spec.service.name.clone().filter(|name| !name.is_empty());
        let apex = apex.unwrap_or_else(|| target.clone());
        Self {
            namespace: namespace.to_owned(),
            target_primary: format!("{target}-primary"),
            primary: format!("{apex}-primary"),
            canary: format!("{apex}-canary"),
            target,
            apex,
        }
    }

    /// The Services of another apex than the spec's.
    pub(crate) fn around(apex: &str, names: &Self) -> Self {
        Self {
            apex: apex.to_owned(),
            primary: format!("{apex}-primary"),
            canary: format!("{apex}-canary"),
            ..names.clone()
        }
    }

    /// The Service of this role.
    pub(crate) fn of(&self, role: Role) -> &str {
        match role {
            Role::Apex => &self.apex,
            Role::Primary => &self.primary,
            Role::Canary => &self.canary,
        }
    }

    /// The target as events name it.
    pub(crate) fn full(&self) -> String {
        format!("{}.{}", self.target, self.namespace)
    }
}

/// Which of the three Services.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Apex,
    Primary,
    Canary,
}

/// A Service as it should be.
pub(crate) fn service(
    spec: &CanarySpec,
    names: &Names,
    role: Role,
    target: &Workload,
    owner: &Value,
) -> Value {
    let name = names.of(role);
    let meta = match role {
        Role::Apex => &spec.service.apex,
        Role::Primary => &spec.service.primary,
        Role::Canary => &spec.service.canary,
    };
    let unmanaged = |kind: &str, key: &str| {
        let all = spec.service.other.get("unmanagedMetadata").and_then(|all| all.get(kind));
        let keys = all.and_then(Value::as_array).into_iter().flatten();
        keys.filter_map(Value::as_str).any(|unmanaged| unmanaged == key)
    };
    let label = target.selector().map_or("app", |(label, _)| label);
    let mut service = json!({"apiVersion": "v1", "kind": "Service",
        "metadata": {"name": name, "namespace": names.namespace, "ownerReferences": [owner],
            "labels": {label: name}},
        "spec": {"selector": selector(role, target), "ports": ports(spec, target)}});
    let ServiceMeta { labels, annotations } = meta.clone().unwrap_or_default();
    for (name, value) in labels.into_iter().filter(|(name, _)| !unmanaged("labels", name)) {
        service["metadata"]["labels"][name] = value.into();
    }
    let annotations = annotations
        .into_iter()
        .filter(|(name, _)| !name.contains(TOOLKIT) && !unmanaged("annotations", name));
    for (name, value) in annotations {
        service["metadata"]["annotations"][name] = value.into();
    }
    if let Some(distribution) = &spec.service.traffic_distribution {
        service["spec"]["trafficDistribution"] = distribution.as_str().into();
    }
    service
}

/// An apex Service that existed before, as it should be: it keeps all it has, selects the
/// primary's pods, and has the port that the Canary names.
pub(crate) fn adopted_apex(spec: &CanarySpec, target: &Workload, have: &Obj) -> Value {
    let mut service = json!({"apiVersion": "v1", "kind": "Service",
        "metadata": {"name": have.name(), "namespace": have.namespace()},
        "spec": {"selector": selector(Role::Apex, target)}});
    let mut kept: Vec<Value> =
        have.json().pointer("/spec/ports").and_then(Value::as_array).cloned().unwrap_or_default();
    let named = |port: &Value| port.get("port") == Some(&json!(spec.service.port));
    if !kept.iter().any(named) {
        let mut port = main_port(spec);
        // One port may be nameless, several may not.
        for (number, port) in (1..).zip(&mut kept) {
            if text(port, "name").is_empty() {
                port["name"] = format!("port-{number}").into();
            }
        }
        let taken: BTreeSet<String> = kept.iter().map(|port| text(port, "name")).collect();
        port["name"] = free_name(&taken, &[text(&port, "name"), "canary".to_owned()]).into();
        kept.push(port);
        service["spec"]["ports"] = kept.into();
    }
    service
}

fn selector(role: Role, target: &Workload) -> Value {
    match role {
        Role::Canary => target.selector_of_canary(),
        Role::Apex | Role::Primary => target.selector_of_primary(),
    }
}

fn main_port(spec: &CanarySpec) -> Value {
    let service = &spec.service;
    let mut port = json!({"name": service.port_name.as_deref().unwrap_or("http"),
        "port": service.port, "protocol": "TCP", "targetPort": main_target(spec)});
    if let Some(protocol) = &service.app_protocol {
        port["appProtocol"] = protocol.as_str().into();
    }
    port
}

fn main_target(spec: &CanarySpec) -> IntOrString {
    spec.service.target_port.clone().unwrap_or(IntOrString::Int(spec.service.port))
}

fn ports(spec: &CanarySpec, target: &Workload) -> Vec<Value> {
    let mut ports = vec![main_port(spec)];
    if !spec.service.port_discovery {
        return ports;
    }
    let main = main_target(spec);
    let mut names = BTreeSet::from([text(&ports[0], "name")]);
    let mut numbers = BTreeSet::from([(i64::from(spec.service.port), "TCP".to_owned())]);
    let containers = target.template().pointer("/spec/containers").and_then(Value::as_array);
    for container in containers.into_iter().flatten() {
        let container_name = text(container, "name");
        if SIDECARS.contains(&container_name.as_str()) {
            continue;
        }
        let found = container.get("ports").and_then(Value::as_array);
        for (index, port) in found.into_iter().flatten().enumerate() {
            let number = port.get("containerPort").and_then(Value::as_i64).unwrap_or_default();
            let protocol = Some(text(port, "protocol")).filter(|name| !name.is_empty());
            let protocol = protocol.unwrap_or_else(|| "TCP".to_owned());
            let is_main = match &main {
                IntOrString::Int(main) => i64::from(*main) == number,
                IntOrString::String(main) => text(port, "name") == *main,
            };
            if is_main || !numbers.insert((number, protocol.clone())) {
                continue;
            }
            let fallback = format!("{}-{container_name}-{index}", protocol.to_lowercase());
            let names_of_it = [text(port, "name"), fallback];
            let name = free_name(&names, &names_of_it);
            ports.push(json!({"name": name, "port": number, "protocol": protocol,
                "targetPort": number}));
            names.insert(name);
        }
    }
    ports
}

/// The first of these names that is not taken, as the port of a Service may be called.
fn free_name(taken: &BTreeSet<String>, wanted: &[String; 2]) -> String {
    let cut = |name: &str| name.chars().take(PORT_NAME_MAX).collect::<String>();
    let numbered = (2..).map(|number| format!("port-{number}"));
    let mut names = wanted.iter().map(|name| cut(name)).chain(numbered);
    let free = |name: &String| !name.is_empty() && !taken.contains(name);
    names.find(free).unwrap_or_default()
}

fn text(value: &Value, field: &str) -> String {
    value.get(field).and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// What a route is attached to.
pub(crate) struct Parents<'a> {
    pub(crate) gateways: &'a [ParentRef],
    /// How many ports the apex Service has.
    pub(crate) apex_ports: usize,
}

/// The route as it should be, with this share for the canary.
pub(crate) fn route(
    spec: &CanarySpec,
    names: &Names,
    parents: &Parents<'_>,
    canary_pct: i32,
    owner: &Value,
) -> Value {
    let service = ParentRef {
        group: Some(String::new()),
        kind: Some("Service".to_owned()),
        name: names.apex.clone(),
        // The other ports are served by the primary's pods themselves.
        port: Some(spec.service.port).filter(|_| parents.apex_ports > 1),
        ..ParentRef::default()
    };
    let parents: Vec<_> =
        std::iter::once(service).chain(parents.gateways.iter().cloned()).collect();
    let backend = |name: &str, weight: i32| {
        json!({"group": "", "kind": "Service", "name": name, "port": spec.service.port,
            "weight": weight})
    };
    let mut rule = json!({"backendRefs": [
        backend(&names.primary, 100 - canary_pct), backend(&names.canary, canary_pct)]});
    // What cannot be expressed was refused with the spec.
    let matches: Vec<_> =
        spec.service.matches.iter().filter_map(|istio| gateway_match(istio).ok()).collect();
    if !matches.is_empty() {
        rule["matches"] = json!(matches);
    }
    let filters = filters(spec);
    if !filters.is_empty() {
        rule["filters"] = filters.into();
    }
    for (field, value) in
        [("request", &spec.service.timeout), ("backendRequest", &spec.service.backend_timeout)]
    {
        if let Some(value) = value {
            rule["timeouts"][field] = value.as_str().into();
        }
    }
    let mut route = json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": {"name": names.apex, "namespace": names.namespace, "ownerReferences": [owner]},
        "spec": {"parentRefs": parents, "rules": [rule]}});
    if !spec.service.hosts.is_empty() && !spec.service.hosts.iter().any(|host| host == "*") {
        route["spec"]["hostnames"] = json!(spec.service.hosts);
    }
    route
}

/// Header changes and rewrites in the Gateway API's words, names sorted.
fn filters(spec: &CanarySpec) -> Vec<Value> {
    let mut filters = Vec::new();
    let other = &spec.service.other;
    for (side, kind, field) in [
        ("request", "RequestHeaderModifier", "requestHeaderModifier"),
        ("response", "ResponseHeaderModifier", "responseHeaderModifier"),
    ] {
        let Some(changes) = other.get("headers").and_then(|headers| headers.get(side)) else {
            continue;
        };
        let mut modifier = json!({});
        for verb in ["add", "set"] {
            let Some(headers) = changes.get(verb).and_then(Value::as_object) else { continue };
            let sorted: std::collections::BTreeMap<_, _> = headers.iter().collect();
            let pair = |(name, value)| json!({"name": name, "value": value});
            modifier[verb] = sorted.into_iter().map(pair).collect();
        }
        if let Some(names) = changes.get("remove") {
            modifier["remove"] = names.clone();
        }
        filters.push(json!({"type": kind, field: modifier}));
    }
    if let Some(rewrite) = other.get("rewrite") {
        let mut change = json!({});
        if let Some(uri) = rewrite.get("uri") {
            let prefix = rewrite.get("type").and_then(Value::as_str) == Some("ReplacePrefixMatch");
            let (kind, field) = if prefix {
                ("ReplacePrefixMatch", "replacePrefixMatch")
            } else {
                ("ReplaceFullPath", "replaceFullPath")
            };
            change["path"] = json!({"type": kind, field: uri});
        }
        if let Some(authority) = rewrite.get("authority") {
            change["hostname"] = authority.clone();
        }
        filters.push(json!({"type": "URLRewrite", "urlRewrite": change}));
    }
    filters
}
