//! The Gateway API's conformance tests for what is supported: their manifests through the
//! controller's decision, their requests through the engine, without sockets.
//!
//! **Source**: the requests and what they must come to are those of kubernetes-sigs/gateway-api,
//! `conformance/tests/NAME.go`, written down as tables. What is not played is named in `list.rs`,
//! with the reason.
#![expect(clippy::unwrap_used, reason = "tests")]

mod filters;
mod hosts;
mod list;
mod matching;
mod redirects;
mod references;
mod scene;

use std::collections::BTreeMap;

use scene::Scene;

/// Plays requests of one test through one Gateway; a row is a request and what becomes of it.
fn play(test: &str, gateway: &str, rows: &[(&str, &str)]) {
    let mut scene = Scene::of(test);
    let wrong: Vec<String> = rows
        .iter()
        .filter_map(|(request, expected)| {
            let got = scene.ask(gateway, request);
            (got != *expected).then(|| format!("{request}\n  must be {expected}\n  but is  {got}"))
        })
        .collect();
    assert!(wrong.is_empty(), "{test}:\n{}", wrong.join("\n"));
}

/// The Gateway that most tests use.
const SAME: &str = "same-namespace";
const V1: &str = "infra-backend-v1";
const V2: &str = "infra-backend-v2";
const V3: &str = "infra-backend-v3";

#[test]
fn a_route_serves_its_backend() {
    play("httproute-simple-same-namespace", SAME, &[("/", V1)]);
    play("httproute-cross-namespace", "backend-namespaces", &[("/", "web-backend")]);
    play("httproute-named-rule", SAME, &[("/named", V1), ("/unnamed", V2)]);
    play(
        "httproute-service-types",
        SAME,
        &[
            ("/manual-endpointslices", "manual-endpointslices"),
            ("/headless", "headless"),
            ("/headless-manual-endpointslices", "headless-manual-endpointslices"),
        ],
    );
}

#[test]
fn gateways_that_share_a_route_keep_apart_what_they_do_not_share() {
    play("httproute-multiple-gateways", SAME, &[("/shared", V1), ("/", V2), ("/any", V2)]);
    play("httproute-multiple-gateways", "all-namespaces", &[("/shared", V1), ("/", V3)]);
}

#[test]
fn backends_get_their_share_of_the_requests() {
    let mut scene = Scene::of("httproute-weight");
    let mut share: BTreeMap<String, u32> = BTreeMap::new();
    for _ in 0..500 {
        *share.entry(scene.ask(SAME, "/")).or_default() += 1;
    }
    // The suite allows 5 % more or less.
    let share = share.into_iter().map(|(backend, n)| (backend, f64::from(n) / 500.0));
    let share: BTreeMap<String, f64> = share.collect();
    assert_eq!(share.len(), 2, "{share:?}");
    assert!((share[V1] - 0.7).abs() <= 0.05 && (share[V2] - 0.3).abs() <= 0.05, "{share:?}");
}

#[test]
fn each_backend_of_a_rule_changes_headers_for_itself() {
    let mut scene = Scene::of("httproute-request-header-modifier-backend-weights");
    let mut seen: Vec<String> = (0..20).map(|_| scene.ask(SAME, "/")).collect();
    seen.sort();
    seen.dedup();
    assert_eq!(seen, [format!("{V1} backend:{V1}"), format!("{V2} backend:{V2}")]);
}
