//! Manifests of the conformance suite, through the controller's decision to an engine.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use evenkeel_gateway::engine::{
    Answer, Attempted, Engine, Filters, HeaderChange, Meta, Outcome, Request, Step, Surroundings,
};
use evenkeel_gateway::{Desired, Finding, Name, View, decide};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use serde_json::{Value, json};

/// Namespace of nearly everything.
pub(crate) const INFRA: &str = "gateway-conformance-infra";

/// A cluster with these manifests, and a gateway in front of it.
pub(crate) struct Scene {
    decided: Desired,
    engine: Engine,
    /// The Service whose pods have an address.
    owners: BTreeMap<IpAddr, String>,
}

fn documents(name: &str) -> Vec<Value> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/gateway-api");
    let text = std::fs::read_to_string(folder.join(format!("{name}.yaml"))).unwrap();
    let parts = text.split("\n---").map(|part| part.trim_start_matches("---"));
    let parts = parts.filter(|part| part.contains("\nkind:") || part.starts_with("kind:"));
    parts.map(|part| serde_saphyr::from_str(part).unwrap()).collect()
}

fn text(of: &Value, pointer: &str) -> String {
    of.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn name(of: &Value) -> Name {
    (text(of, "/metadata/namespace"), text(of, "/metadata/name"))
}

/// Makes endpoints, two per Service, of addresses that tell the Service.
struct Pods {
    owners: BTreeMap<IpAddr, String>,
    made: u8,
}

impl Pods {
    fn endpoints(&mut self, service: &str) -> Value {
        let mut one = || {
            self.made += 1;
            let address = IpAddr::from([127, 1, 0, self.made]);
            self.owners.insert(address, service.to_owned());
            json!({"addresses": [address.to_string()], "conditions": {"ready": true}})
        };
        json!([one(), one()])
    }

    /// What the endpoint controller makes of a Service with a selector.
    fn slice(&mut self, service: &Value) -> Value {
        let (namespace, name) = name(service);
        let ports = service["spec"]["ports"].as_array().unwrap().iter();
        let ports: Vec<_> =
            ports.map(|port| json!({"name": port["name"], "port": port["targetPort"]})).collect();
        json!({"metadata": {"namespace": namespace, "name": format!("{name}-made"),
                "labels": {"kubernetes.io/service-name": name}},
            "addressType": "IPv4", "ports": ports, "endpoints": self.endpoints(&name)})
    }
}

impl Scene {
    /// The base manifests and those of one test.
    pub(crate) fn of(test: &str) -> Self {
        let mut view = View::empty(true, IpAddr::from([127, 0, 0, 1]));
        let mut pods = Pods { owners: BTreeMap::new(), made: 0 };
        for body in documents("base").into_iter().chain(documents(test)) {
            see(&mut view, &mut pods, body);
        }
        let decided = decide(&view);
        let mut engine = Engine::new(Surroundings::default());
        engine.apply(Duration::ZERO, Arc::new(decided.snapshot.clone()));
        Self { decided, engine, owners: pods.owners }
    }

    /// Where a Gateway of the infra namespace listens on a port.
    fn address(&self, gateway: &str, port: u16) -> SocketAddr {
        let verdict = &self.decided.gateways[&(INFRA.to_owned(), gateway.to_owned())];
        let all = verdict.listeners.iter().flat_map(|listener| &listener.addresses);
        *all.into_iter().find(|address| address.port() == port).unwrap()
    }

    /// What becomes of a request: the backend's Service and what is changed on the way, or the
    /// status and where it redirects to.
    ///
    /// **Shape** of a request: `[METHOD ][HOST[:PORT]]PATH[?QUERY][ NAME:VALUE]..`. The port is that
    /// of the listener, too.
    pub(crate) fn ask(&mut self, gateway: &str, request: &str) -> String {
        let mut words = request.split_whitespace().peekable();
        let method = words.next_if(|word| word.bytes().all(|byte| byte.is_ascii_uppercase()));
        let method = Method::from_bytes(method.unwrap_or("GET").as_bytes()).unwrap();
        let target = words.next().unwrap();
        let (host, path) = target.split_at(target.find('/').unwrap());
        let (path, query) = match path.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (path, None),
        };
        let headers = headers(words);
        let port = host.split_once(':').and_then(|(_, port)| port.parse().ok());
        let host = if host.is_empty() { "gateway.test" } else { host };
        // A port of the host name alone means nothing.
        let port = port.filter(|port| *port != 1234).unwrap_or(80);
        let listen = self.address(gateway, port);
        let meta = Meta { method: &method, path, query, host: Some(host), headers: &headers };
        let (mut request, step) = self.engine.start(Duration::ZERO, listen, &meta);
        match step {
            Step::Attempt(attempt) => {
                let mut told = vec![self.owners[&attempt.endpoint.ip()].clone()];
                told.extend(changes(&request, path, &headers));
                let outcome = Outcome::Head { status: 200 };
                let result = Attempted { outcome, replayable: true };
                self.engine.on_result(Duration::ZERO, &mut request, result);
                told.join(" ")
            }
            Step::Answer(Answer::Redirect { status, location }) => {
                format!("{status} {location}")
            }
            Step::Answer(answer) => answer.status().to_string(),
            Step::Respond => "nothing was asked".to_owned(),
        }
    }

    /// `Accepted` and `ResolvedRefs` of a route, as reasons, per parent.
    pub(crate) fn route(&self, namespace: &str, name: &str) -> String {
        let verdict = &self.decided.routes[&(namespace.to_owned(), name.to_owned())];
        let one = |finding: &Finding| {
            let sign = if finding.good { "" } else { "not " };
            format!("{sign}{}", finding.reason)
        };
        let parents = verdict.parents.iter();
        let parents =
            parents.map(|parent| format!("{} {}", one(&parent.accepted), one(&parent.resolved)));
        parents.collect::<Vec<_>>().join("; ")
    }

    /// Routes per listener of a Gateway, with what is wrong with the listener.
    pub(crate) fn listeners(&self, gateway: &str) -> String {
        let verdict = &self.decided.gateways[&(INFRA.to_owned(), gateway.to_owned())];
        let listeners = verdict.listeners.iter().map(|listener| {
            let findings = [&listener.accepted, &listener.resolved];
            let wrong = findings.into_iter().filter(|finding| !finding.good);
            let count = format!("{}={}", listener.name, listener.routes);
            let words =
                std::iter::once(count).chain(wrong.map(|finding| finding.reason.to_owned()));
            words.collect::<Vec<_>>().join(" ")
        });
        listeners.collect::<Vec<_>>().join(", ")
    }
}

fn see(view: &mut View, pods: &mut Pods, mut body: Value) {
    let key = name(&body);
    macro_rules! put {
        ($map:ident) => {{
            view.$map.insert(key, Arc::new(serde_json::from_value(body).unwrap()));
        }};
    }
    match text(&body, "/kind").as_str() {
        "Namespace" => {
            let mut labels: BTreeMap<String, String> =
                serde_json::from_value(body["metadata"]["labels"].clone()).unwrap_or_default();
            // Every API server does.
            labels.insert("kubernetes.io/metadata.name".to_owned(), key.1.clone());
            view.namespaces.insert(key.1, Arc::new(labels));
        }
        "Service" => {
            if body["spec"].get("selector").is_some() {
                let slice = pods.slice(&body);
                let made = (key.0.clone(), format!("{}-made", key.1));
                view.slices.insert(made, Arc::new(serde_json::from_value(slice).unwrap()));
            }
            put!(services);
        }
        "EndpointSlice" => {
            // Whoever runs the suite fills them with pods.
            let service = text(&body, "/metadata/labels/kubernetes.io~1service-name");
            body["endpoints"] = pods.endpoints(&service);
            put!(slices);
        }
        "HTTPRoute" => put!(routes),
        "Gateway" => put!(gateways),
        "ReferenceGrant" => put!(grants),
        _ => {}
    }
}

fn headers<'a>(words: impl Iterator<Item = &'a str>) -> HeaderMap {
    let pair = |word: &str| {
        let (name, value) = word.split_once(':').unwrap();
        (HeaderName::try_from(name).unwrap(), HeaderValue::try_from(value).unwrap())
    };
    words.map(pair).collect()
}

/// The headers that differ, as `name:VALUE,VALUE` or `-name`, by name.
fn difference(
    before: &HeaderMap,
    changes: impl Iterator<Item = HeaderChange>,
) -> impl Iterator<Item = String> {
    let mut after = before.clone();
    changes.for_each(|change| change.apply(&mut after));
    let values = |of: &HeaderMap, name: &str| {
        let all = of.get_all(name).into_iter().map(|value| value.to_str().unwrap());
        all.collect::<Vec<_>>().join(",")
    };
    let names = before.keys().chain(after.keys()).map(|name| name.as_str().to_owned());
    let names: BTreeSet<String> = names.collect();
    let told = names.into_iter().filter_map(|name| {
        let (old, new) = (values(before, &name), values(&after, &name));
        if !after.contains_key(&name) {
            return Some(format!("-{name}"));
        }
        (old != new).then(|| format!("{name}:{new}"))
    });
    told.collect::<Vec<_>>().into_iter()
}

/// What is changed of a request and its answer on the way. The answer has the request's headers.
fn changes(request: &Request, path: &str, headers: &HeaderMap) -> Vec<String> {
    let rule = request.rule().map(|rule| &rule.filters);
    let backend = request.backend().map(|backend| &backend.filters);
    let filters: Vec<&Filters> = rule.into_iter().chain(backend).collect();
    let mut told = Vec::new();
    told.extend(request.rewritten_host().map(|host| format!("host={host}")));
    told.extend(request.rewritten_path(path).map(|path| format!("path={path}")));
    told.extend(difference(headers, filters.iter().map(|f| f.request_headers.clone())));
    let mut answer =
        difference(headers, filters.iter().map(|f| f.response_headers.clone())).peekable();
    if answer.peek().is_some() {
        told.push("answer".to_owned());
        told.extend(answer);
    }
    told
}
