//! The immutable configuration: listeners, rules, backends and endpoints, replaced as a whole.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue};

use super::matching::{self, Match};
use super::protocol::Protocol;

/// Everything the gateway needs to know, immutable; a change is a new snapshot.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Snapshot {
    /// Grows with every change; what workers acknowledge.
    pub generation: u64,
    /// Endpoints of Service ports; backends refer to them by position.
    pub pools: Vec<Pool>,
    /// By the address that clients connect to: a Service's or a Gateway listener's.
    pub listeners: BTreeMap<SocketAddr, Listener>,
}

/// Names one pool: a port of a Service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PoolKey {
    /// The Service's namespace.
    pub namespace: Arc<str>,
    /// The Service's name.
    pub service: Arc<str>,
    /// The Service's port.
    pub port: u16,
}

impl PoolKey {
    /// A key from plain text.
    pub fn new(namespace: &str, service: &str, port: u16) -> Self {
        Self { namespace: namespace.into(), service: service.into(), port }
    }
}

/// The endpoints behind one port of a Service.
#[derive(Debug, Clone, PartialEq)]
pub struct Pool {
    /// Which Service port this is.
    pub key: PoolKey,
    /// In a stable order (by address).
    pub endpoints: Vec<Endpoint>,
}

/// One pod behind a Service.
#[derive(Debug, Clone, PartialEq)]
pub struct Endpoint {
    /// Where the pod listens.
    pub address: SocketAddr,
    /// The Deployment (or other owner) of the pod; the label `destination_workload`.
    pub workload: Arc<str>,
    /// Whether it may get requests.
    pub state: EndpointState,
}

/// Whether an endpoint may get new requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndpointState {
    /// Ready: gets requests.
    Ready,
    /// Terminating but still serving: a last resort when nothing is ready (KEP-1669).
    Terminating,
    /// Being emptied through the termination gate: never a new request.
    Draining,
}

/// What one address serves.
#[derive(Debug, Clone, PartialEq)]
pub struct Listener {
    /// Namespace of the Service or Gateway.
    pub namespace: Arc<str>,
    /// Name of the Service or Gateway; the label `service` of client-level metrics.
    pub service: Arc<str>,
    /// The Service's port that it stands for; `None` for those of Gateways, which are HTTP.
    pub port: Option<ServicePort>,
    rules: Vec<Rule>,
    sections: Vec<matching::Section>,
}

/// What a listener knows about the port of a Service, besides rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServicePort {
    /// What its connections are.
    pub protocol: Protocol,
    /// Position of its own endpoints in `Snapshot::pools`.
    pub pool: usize,
    /// Whether connections that are carried as bytes go to the same endpoint when they come from
    /// the same client (`sessionAffinity: ClientIP`).
    pub sticky: bool,
}

/// What one listener of a Gateway serves on an address that it shares with others.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Section {
    /// Its host name (`*.` prefix allowed); `None` is every host.
    pub hostname: Option<String>,
    /// Its rules.
    pub rules: Vec<Rule>,
}

impl Listener {
    /// Sorts the matches of `rules` by the Gateway API's precedence. Among equals the order of `rules`
    /// decides: older routes first, then by namespace and name, then by position in the route.
    pub fn new(namespace: &str, service: &str, rules: Vec<Rule>) -> Self {
        Self::of_sections(namespace, service, vec![Section { hostname: None, rules }])
    }

    /// The same for several listeners of a Gateway. A request belongs to the one with the most
    /// specific host name, and never falls through to another.
    pub fn of_sections(namespace: &str, service: &str, sections: Vec<Section>) -> Self {
        let mut rules = Vec::new();
        let mut sorted = Vec::with_capacity(sections.len());
        for section in sections {
            let first = rules.len();
            rules.extend(section.rules);
            let own = (0_u16..).zip(&rules).skip(first);
            sorted.push(matching::Section::new(section.hostname, own));
        }
        sorted.sort_by_cached_key(matching::Section::precedence);
        let (namespace, service) = (namespace.into(), service.into());
        Self { namespace, service, port: None, rules, sections: sorted }
    }

    /// The same for the port of a Service.
    #[must_use]
    pub fn at_port(self, port: ServicePort) -> Self {
        Self { port: Some(port), ..self }
    }

    /// The rule by which connections are split that are carried as bytes; `None`: they go to the
    /// Service's own endpoints. A rule with conditions speaks of requests, and one that redirects
    /// has no backends.
    pub(super) fn rule_for_bytes(&self) -> Option<usize> {
        let fits = |rule: &Rule| {
            let unconditional = rule.matches.is_empty() || rule.matches.iter().any(Match::is_any);
            rule.splits_bytes && unconditional && rule.filters.redirect.is_none()
        };
        self.rules.iter().position(fits)
    }

    /// The rules as given.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// Position of the rule for a request; `None` is a 404.
    pub(super) fn find(&self, meta: &super::Meta<'_>) -> Option<(usize, usize)> {
        matching::find(&self.rules, &self.sections, meta)
    }
}

/// One rule of a route, with everything a request through it needs.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Rule {
    /// `namespace/name` of the `HTTPRoute`; empty for the rule that every Service has by default.
    pub route: Arc<str>,
    /// Position within the route.
    pub index: usize,
    /// Host names (`*.` prefix allowed); none means any.
    pub hostnames: Vec<String>,
    /// Alternatives; none means every request.
    pub matches: Vec<Match>,
    /// Changes to the request and the answer.
    pub filters: Filters,
    /// Where requests go, by weight.
    pub backends: Vec<Backend>,
    /// From the first request byte read to the head of the answer.
    pub timeout: Option<Duration>,
    /// The same for one attempt.
    pub attempt_timeout: Option<Duration>,
    /// Own retry rules of the route.
    pub retry: Option<RetryRule>,
    /// Whether connections that are carried as bytes are split by its weights, too.
    pub splits_bytes: bool,
}

impl Rule {
    /// The rule of a Service without routes: every request to its own endpoints.
    pub fn to_pool(pool: usize) -> Self {
        Self { backends: vec![Backend::new(pool, 1)], ..Self::default() }
    }
}

/// What an `HTTPRoute`'s `retry` says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RetryRule {
    /// Status codes worth another attempt; empty means the default ones.
    pub codes: Vec<u16>,
    /// Attempts besides the first.
    pub attempts: Option<u8>,
}

/// A weighted target of a rule.
#[derive(Debug, Clone, PartialEq)]
pub struct Backend {
    /// Position in `Snapshot::pools`; `None` when the reference is invalid: its share answers 500.
    pub pool: Option<usize>,
    /// Share of the requests, relative to the sum over the rule.
    pub weight: u32,
    /// Changes only for this backend.
    pub filters: Filters,
}

impl Backend {
    /// A plain backend.
    pub fn new(pool: usize, weight: u32) -> Self {
        Self { pool: Some(pool), weight, filters: Filters::default() }
    }
}

/// Changes to a request and its answer. Those of a backend count after those of its rule.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Filters {
    /// Request headers.
    pub request_headers: HeaderChange,
    /// Answer headers.
    pub response_headers: HeaderChange,
    /// Answer with a redirect instead of asking a backend.
    pub redirect: Option<Redirect>,
    /// Change host or path on the way.
    pub rewrite: Option<Rewrite>,
}

impl Filters {
    /// Whether a redirect or rewrite replaces the prefix that matched.
    pub fn replaces_prefix(&self) -> bool {
        let redirect = self.redirect.as_ref().and_then(|one| one.path.as_ref());
        let rewrite = self.rewrite.as_ref().and_then(|one| one.path.as_ref());
        redirect.into_iter().chain(rewrite).any(|path| matches!(path, PathChange::Prefix(_)))
    }
}

/// Headers to set, add and remove, in this order of fields.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct HeaderChange {
    /// Replaced or added.
    pub set: Vec<(HeaderName, HeaderValue)>,
    /// Appended.
    pub add: Vec<(HeaderName, HeaderValue)>,
    /// Removed.
    pub remove: Vec<HeaderName>,
}

impl HeaderChange {
    /// Applies the change.
    pub fn apply(&self, headers: &mut http::HeaderMap) {
        for (name, value) in &self.set {
            headers.insert(name.clone(), value.clone());
        }
        for (name, value) in &self.add {
            headers.append(name.clone(), value.clone());
        }
        for name in &self.remove {
            headers.remove(name);
        }
    }
}

/// `RequestRedirect`: what is `None` stays as the client sent it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Redirect {
    /// `http` or `https`.
    pub scheme: Option<String>,
    /// Host name without port.
    pub hostname: Option<String>,
    /// Path change.
    pub path: Option<PathChange>,
    /// Port; the scheme's own port is left out of `Location`.
    pub port: Option<u16>,
    /// 301, 302, 303, 307 or 308.
    pub status: u16,
}

/// `URLRewrite`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rewrite {
    /// New `Host`.
    pub hostname: Option<String>,
    /// Path change.
    pub path: Option<PathChange>,
}

/// How a path is changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathChange {
    /// The whole path is replaced.
    Full(String),
    /// Only the prefix that matched is replaced.
    Prefix(String),
}

impl PathChange {
    /// The new path, given the path and the prefix that matched it.
    pub fn apply(&self, path: &str, matched_prefix: &str) -> String {
        match self {
            Self::Full(to) => to.clone(),
            Self::Prefix(to) => {
                let rest = path.strip_prefix(matched_prefix.trim_end_matches('/')).unwrap_or(path);
                let to = to.trim_end_matches('/');
                let rest = rest.trim_start_matches('/');
                if rest.is_empty() && !to.is_empty() {
                    to.to_owned()
                } else {
                    format!("{to}/{rest}")
                }
            }
        }
    }
}
