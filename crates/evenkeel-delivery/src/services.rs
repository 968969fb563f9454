//! The three Services of a Canary, and the route that splits traffic between them.

use evenkeel_api::{
    canary::{CanarySpec, ServiceMeta, gateway_match},
    httproute::ParentRef,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::{Value, json};

use crate::workload::Workload;

/// Sidecars whose ports are not the service's.
const SIDECARS: [&str; 2] = ["istio-proxy", "envoy"];
/// Annotations with this in their name steer another tool and are not copied.
const TOOLKIT: &str = "toolkit.fluxcd.io";

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
    pub(crate) fn of(spec: &CanarySpec, namespace: &str) -> Self {
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

/// A Service as it should be. `owner` is `None` for one that somebody else made: then only what
/// must be is set.
pub(crate) fn service(
    spec: &CanarySpec,
    names: &Names,
    role: Role,
    target: &Workload,
    owner: Option<&Value>,
) -> Value {
    let (name, meta) = match role {
        Role::Apex => (&names.apex, &spec.service.apex),
        Role::Primary => (&names.primary, &spec.service.primary),
        Role::Canary => (&names.canary, &spec.service.canary),
    };
    let (label, value) = target.selector().unwrap_or(("app", &names.target));
    let selected = if role == Role::Canary { value.to_owned() } else { format!("{value}-primary") };
    let mut service = json!({"apiVersion": "v1", "kind": "Service",
        "metadata": {"name": name, "namespace": names.namespace},
        "spec": {"selector": {label: selected}, "ports": ports(spec, target)}});
    let Some(owner) = owner else { return service };
    service["metadata"]["ownerReferences"] = json!([owner]);
    service["metadata"]["labels"] = json!({label: name});
    let ServiceMeta { labels, annotations } = meta.clone().unwrap_or_default();
    for (name, value) in labels {
        service["metadata"]["labels"][name] = value.into();
    }
    for (name, value) in annotations.into_iter().filter(|(name, _)| !name.contains(TOOLKIT)) {
        service["metadata"]["annotations"][name] = value.into();
    }
    if spec.service.headless {
        service["spec"]["clusterIP"] = "None".into();
    }
    if let Some(distribution) = &spec.service.traffic_distribution {
        service["spec"]["trafficDistribution"] = distribution.as_str().into();
    }
    service
}

fn ports(spec: &CanarySpec, target: &Workload) -> Vec<Value> {
    let service = &spec.service;
    let main = service.target_port.clone().unwrap_or(IntOrString::Int(service.port));
    let mut first = json!({"name": service.port_name.as_deref().unwrap_or("http"),
        "port": service.port, "protocol": "TCP", "targetPort": main});
    if let Some(protocol) = &service.app_protocol {
        first["appProtocol"] = protocol.as_str().into();
    }
    let mut ports = vec![first];
    if !service.port_discovery {
        return ports;
    }
    let containers = target.template().pointer("/spec/containers").and_then(Value::as_array);
    for container in containers.into_iter().flatten() {
        let container_name = container.get("name").and_then(Value::as_str).unwrap_or_default();
        if SIDECARS.contains(&container_name) {
            continue;
        }
        let found = container.get("ports").and_then(Value::as_array);
        for (index, port) in found.into_iter().flatten().enumerate() {
            let number = port.get("containerPort").and_then(Value::as_i64).unwrap_or_default();
            let name = port.get("name").and_then(Value::as_str);
            let is_main = match &main {
                IntOrString::Int(main) => i64::from(*main) == number,
                IntOrString::String(main) => Some(main.as_str()) == name,
            };
            if is_main || number == i64::from(service.port) {
                continue;
            }
            let fallback = || format!("tcp-{container_name}-{index}");
            let name = name.map_or_else(fallback, str::to_owned);
            let protocol = port.get("protocol").and_then(Value::as_str).unwrap_or("TCP");
            ports.push(json!({"name": name, "port": number, "protocol": protocol,
                "targetPort": number}));
        }
    }
    ports
}

/// The route as it should be, with this share for the canary.
pub(crate) fn route(
    spec: &CanarySpec,
    names: &Names,
    gateways: &[ParentRef],
    canary_pct: i32,
    owner: &Value,
) -> Value {
    let service = ParentRef {
        group: Some(String::new()),
        kind: Some("Service".to_owned()),
        name: names.apex.clone(),
        ..ParentRef::default()
    };
    let mut parents = vec![service];
    parents.extend(gateways.iter().cloned());
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
