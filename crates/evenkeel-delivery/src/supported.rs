//! Fields of a Canary's spec that are not acted on, by who splits its traffic: refused by name rather
//! than ignored.

use evenkeel_api::canary::Canary;
use serde_json::Value;

use crate::{router::Router, spec_error::SpecError};

/// What a `VirtualService` does besides, and others do not.
const ISTIO_ONLY: [&str; 4] =
    ["service.delegation", "service.trafficPolicy", "service.retries", "service.corsPolicy"];
/// What only a route of the Gateway API does.
const GATEWAY_ONLY: [&str; 2] = ["service.gatewayRefs", "service.backendTimeout"];
/// What takes a route, and plain Services do not have.
const ROUTE_ONLY: [&str; 6] = [
    "service.gateways",
    "service.hosts",
    "service.match",
    "service.timeout",
    "service.rewrite",
    "service.headers",
];
/// What asks for weights.
const WEIGHTS: [&str; 2] = ["analysis.stepWeights", "analysis.stepWeight"];

/// Fields of the Canary's spec that would change what happens to users, and that are not acted on:
/// refused by name rather than ignored. Paths lead into `spec`.
const REFUSED: [(&str, &str); 15] = [
    ("autoscalerRef", "the primary would not be scaled; remove it and set replicas"),
    ("ingressRef", "traffic is split by an HTTPRoute; remove it"),
    ("routeRef", "traffic is split by an HTTPRoute; remove it"),
    ("upstreamRef", "traffic is split by an HTTPRoute; remove it"),
    ("service.headless", "the gateway routes by the Services' cluster addresses; remove it"),
    ("service.delegation", "traffic is split by an HTTPRoute; remove it"),
    ("service.trafficPolicy", "no DestinationRule is made; remove it"),
    ("service.retries", "the gateway retries by its own rules; remove it"),
    ("service.mirror", "requests are not copied; remove it"),
    ("service.corsPolicy", "answer CORS requests in the service; remove it"),
    ("service.meshName", "App Mesh is not served; remove it"),
    ("service.backends", "App Mesh is not served; remove it"),
    ("analysis.match", "A/B tests are not made; use stepWeight"),
    ("analysis.mirror", "requests are not copied; use stepWeight"),
    ("analysis.sessionAffinity", "remove it"),
];

/// Whether a field says anything: `false`, an empty list and the like do not.
pub(crate) fn says_something(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Bool(true) => true,
    }
}

/// Refuses fields that would change what happens to users, and that this router does not act on.
fn check_routed(canary: &Canary, router: Router, spec: &Value) -> Result<(), SpecError> {
    let says = |path: &&str| {
        let value = spec.pointer(&format!("/{}", path.replace('.', "/")));
        value.is_some_and(says_something)
    };
    let refuse =
        |path: &str, why: &str| Err(SpecError::new(&format!("spec.{path}"), why.to_owned()));
    for (path, why) in REFUSED.iter().filter(|(path, _)| says(path)) {
        if router == Router::Istio && ISTIO_ONLY.contains(path) {
            continue;
        }
        let why = why.replace("an HTTPRoute", router.words());
        return refuse(path, &format!("is not supported: {why}"));
    }
    let words = router.words();
    if let Some(path) = GATEWAY_ONLY.iter().find(|path| router != Router::Gateway && says(path)) {
        let instead = match (router, *path) {
            (Router::Istio, "service.gatewayRefs") => "name Istio's gateways in service.gateways",
            _ => "remove it, or write provider gatewayapi:v1",
        };
        return refuse(path, &format!("is not supported: traffic is split by {words}; {instead}"));
    }
    if router == Router::Istio {
        let delegated = says(&"service.delegation");
        if delegated && (says(&"service.hosts") || says(&"service.gateways")) {
            let problem = "cannot be used with service.hosts and service.gateways: the \
                           VirtualService that delegates has them; remove them";
            return refuse("service.delegation", problem);
        }
    }
    if router != Router::Service {
        return Ok(());
    }
    if let Some(path) = ROUTE_ONLY.iter().find(|path| says(path)) {
        let problem = format!(
            "is not supported: traffic is split by {words}; remove it, or write provider \
             gatewayapi:v1 or istio"
        );
        return refuse(path, &problem);
    }
    let iterates = canary.spec.analysis.iterations.unwrap_or_default() > 0;
    let weighs = WEIGHTS.iter().any(says);
    if !iterates && !weighs && !canary.spec.skip_analysis {
        let problem = "is missing: write how many checks a version must pass, or stepWeight and \
                       maxWeight";
        return refuse("analysis.iterations", problem);
    }
    Ok(())
}

/// Refuses a spec that this router cannot act on.
///
/// **Errors**: the first such field, and what to do.
pub(crate) fn check(canary: &Canary, router: Router) -> Result<(), SpecError> {
    let spec = &canary.spec;
    let refuse = |field: &str, problem: &str| Err(SpecError::new(field, problem.to_owned()));
    if spec.target_ref.kind != "Deployment" {
        return refuse("spec.targetRef.kind", "only Deployment is supported so far");
    }
    if spec.target_ref.name.is_empty() {
        return refuse("spec.targetRef.name", "is empty: name the Deployment");
    }
    if !(1..=65535).contains(&spec.service.port) {
        return refuse("spec.service.port", "is not a port: write the Services' port, such as 80");
    }
    // A spec is plain data; that it serialises is checked by the tests of its kind.
    let written = serde_json::to_value(spec).unwrap_or_default();
    check_routed(canary, router, &written)?;
    for (index, hook) in spec.analysis.webhooks.iter().enumerate() {
        if hook.other.get("disableTLS").is_some_and(says_something) {
            let field = format!("spec.analysis.webhooks[{index}].disableTLS");
            return refuse(&field, "is not supported: certificates are always checked; remove it");
        }
    }
    if router != Router::Gateway {
        return Ok(());
    }
    if let Some((index, problem)) = spec.service.matches.iter().enumerate().find_map(|(i, m)| {
        let field = evenkeel_api::canary::gateway_match(m).err()?;
        Some((i, format!("{field:?} cannot be expressed by an HTTPRoute; remove it")))
    }) {
        return refuse(&format!("spec.service.match[{index}]"), &problem);
    }
    Ok(())
}
