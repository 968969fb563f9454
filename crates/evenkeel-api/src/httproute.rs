//! `gateway.networking.k8s.io/v1` HTTPRoute, Gateway and `ReferenceGrant`: the part evenkeel routes by.
//!
//! **Source**: the Gateway API's standard channel CRDs. Fields we do not act on are kept as they
//! are in `other`, so that writing a route back never loses anything.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Which requests go to which backends.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HttpRoute {
    /// Standard metadata.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// What is wanted.
    #[serde(default)]
    pub spec: HttpRouteSpec,
    /// What each parent made of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<RouteStatus>,
}

crate::api_kind!(
    HttpRoute,
    "gateway.networking.k8s.io",
    "v1",
    "HTTPRoute",
    "httproutes",
    NamespaceResourceScope
);

/// Spec of an [`HttpRoute`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HttpRouteSpec {
    /// Gateways or Services it attaches to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parent_refs: Vec<ParentRef>,
    /// Host names; not looked at for Service parents.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hostnames: Vec<String>,
    /// Rules, most specific match first wins (not list order).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<HttpRouteRule>,
}

/// What a route attaches to.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ParentRef {
    /// Default `gateway.networking.k8s.io`; empty for Services.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Default `Gateway`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Default: the route's own namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Name.
    pub name: String,
    /// Listener of a Gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub section_name: Option<String>,
    /// Port of the parent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<i32>,
}

/// One rule of a route.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HttpRouteRule {
    /// Its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Alternatives; none means every path.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub matches: Vec<HttpRouteMatch>,
    /// Changes to the request or answer, as written.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub filters: Vec<Value>,
    /// Where requests go.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub backend_refs: Vec<BackendRef>,
    /// Time limits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeouts: Option<RouteTimeouts>,
    /// Everything else (retry, sessionPersistence ...).
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// Conditions on one request; all must hold.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HttpRouteMatch {
    /// Path condition.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<ValueMatch>,
    /// Header conditions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<ValueMatch>,
    /// Query conditions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub query_params: Vec<ValueMatch>,
    /// Method condition.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
}

/// A condition on a path (no name), header or query parameter.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ValueMatch {
    /// `Exact`, `PathPrefix` or `RegularExpression`; default `PathPrefix` for paths, else `Exact`.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Header or parameter name; empty for paths.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// What to compare with.
    #[serde(default)]
    pub value: String,
}

/// A weighted destination.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackendRef {
    /// Default: core.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Default `Service`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Default: the route's own namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Name.
    pub name: String,
    /// Service port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<i32>,
    /// Share, relative to the sum over the rule; default 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<i32>,
    /// Changes for this destination only, as written.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub filters: Vec<Value>,
}

/// Time limits of a rule, as Gateway API durations (`10s`, `0s` = none).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RouteTimeouts {
    /// From the first byte of the request to the last of the answer, retries included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
    /// One attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend_request: Option<String>,
}

/// Status of a route.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RouteStatus {
    /// One entry per parent and controller.
    #[serde(default)]
    pub parents: Vec<RouteParentStatus>,
}

/// What one parent's controller made of a route.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RouteParentStatus {
    /// The parent as the route names it.
    pub parent_ref: ParentRef,
    /// The controller that wrote this entry.
    pub controller_name: String,
    /// `Accepted`, `ResolvedRefs`, `Programmed` (every worker runs `observedGeneration`).
    #[serde(default)]
    pub conditions: Vec<Condition>,
}

/// A place where traffic enters.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Gateway {
    /// Standard metadata.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// What is wanted.
    #[serde(default)]
    pub spec: GatewaySpec,
    /// What is there, as written by its controller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<Value>,
}

crate::api_kind!(
    Gateway,
    "gateway.networking.k8s.io",
    "v1",
    "Gateway",
    "gateways",
    NamespaceResourceScope
);

/// Spec of a [`Gateway`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GatewaySpec {
    /// The controller that serves it.
    #[serde(default)]
    pub gateway_class_name: String,
    /// Where it listens.
    #[serde(default)]
    pub listeners: Vec<Listener>,
    /// Everything else.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// One listener of a [`Gateway`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Listener {
    /// Its name, unique in the Gateway.
    pub name: String,
    /// Host name; none means all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// Port.
    pub port: i32,
    /// `HTTP`, `HTTPS`, `TLS`, `TCP` or `UDP`.
    pub protocol: String,
    /// Everything else (tls, allowedRoutes).
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// Lets objects of other namespaces refer to objects of its own one.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReferenceGrant {
    /// Standard metadata.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// Which objects may refer to which.
    #[serde(default)]
    pub spec: ReferenceGrantSpec,
}

// v1beta1 is the version that every release of the Gateway API serves; v1 came later, unchanged.
crate::api_kind!(
    ReferenceGrant,
    "gateway.networking.k8s.io",
    "v1beta1",
    "ReferenceGrant",
    "referencegrants",
    NamespaceResourceScope
);

/// Spec of a [`ReferenceGrant`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReferenceGrantSpec {
    /// Any of these may refer.
    #[serde(default)]
    pub from: Vec<GrantFrom>,
    /// To any of these.
    #[serde(default)]
    pub to: Vec<GrantTo>,
}

/// Objects that may refer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GrantFrom {
    /// Their group; empty for core.
    #[serde(default)]
    pub group: String,
    /// Their kind.
    pub kind: String,
    /// Their namespace.
    pub namespace: String,
}

/// Objects that may be referred to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GrantTo {
    /// Their group; empty for core.
    #[serde(default)]
    pub group: String,
    /// Their kind.
    pub kind: String,
    /// Their name; none means all of the kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

impl ReferenceGrant {
    /// Whether it lets an `HTTPRoute` of namespace `from` refer to the Service `to` of its own one.
    pub fn lets_route_use(&self, from: &str, to: &str) -> bool {
        let referring = |one: &GrantFrom| {
            one.group == "gateway.networking.k8s.io"
                && one.kind == "HTTPRoute"
                && one.namespace == from
        };
        let referred = |one: &GrantTo| {
            one.group.is_empty()
                && one.kind == "Service"
                && one.name.as_deref().is_none_or(|name| name == to)
        };
        self.spec.from.iter().any(referring) && self.spec.to.iter().any(referred)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The Gateway API's conformance test of invalid grants, one wrong field each.
    #[test]
    fn a_grant_counts_only_when_every_field_fits() {
        let lets = |from: [&str; 3], to: [&str; 2], name: Option<&str>| {
            let [group, kind, namespace] = from.map(str::to_owned);
            let from = vec![GrantFrom { group, kind, namespace }];
            let [group, kind] = to.map(str::to_owned);
            let to = vec![GrantTo { group, kind, name: name.map(str::to_owned) }];
            let spec = ReferenceGrantSpec { from, to };
            ReferenceGrant { spec, ..ReferenceGrant::default() }.lets_route_use("infra", "web")
        };
        let (from, to) = (["gateway.networking.k8s.io", "HTTPRoute", "infra"], ["", "Service"]);
        assert!(lets(from, to, Some("web")) && lets(from, to, None));
        assert!(!lets(["other", "HTTPRoute", "infra"], to, None));
        assert!(!lets(["gateway.networking.k8s.io", "Gateway", "infra"], to, None));
        assert!(!lets(["gateway.networking.k8s.io", "HTTPRoute", "other"], to, None));
        assert!(!lets(from, ["other", "Service"], None));
        assert!(!lets(from, ["", "Secret"], None));
        assert!(!lets(from, to, Some("app")));
    }
}
