//! What `run` must be allowed to do is what the domains declare, no less and no more.
#![expect(clippy::unwrap_used, reason = "a step that fails fails the test")]

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use evenkeel_api::{
    Key,
    canary::Canary,
    slo::{PrometheusRule, PrometheusServiceLevel},
    weighted::{shares, virtual_service},
};
use evenkeel_assembly::{COMMON, LEASES, domains};
use evenkeel_base::Clock as _;
use evenkeel_control::ListQuery;
use evenkeel_sim::world::{Right, WITH_PODS, World, releases};
use jiff::SignedDuration;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use serde_json::json;

/// Verbs on resources, as a role has them.
type Rights = BTreeSet<(String, String)>;

/// What `evenkeel install` grants.
fn granted() -> Rights {
    let domains = domains();
    let of_domains = domains.iter().flat_map(|domain| domain.rights);
    let all = COMMON.iter().chain(LEASES).chain(of_domains);
    let mut rights = Rights::new();
    for right in all {
        for resource in right.resources {
            let resource = format!("{resource}.{}", right.group);
            rights.extend(right.verbs.iter().map(|verb| ((*verb).to_owned(), resource.clone())));
        }
    }
    rights
}

/// The plural of a kind, as all kinds here form it.
fn resource(right: &Right) -> String {
    let kind = right.kind.kind.to_lowercase();
    let plural = match kind.strip_suffix('y') {
        Some(stem) if !kind.ends_with("ay") => format!("{stem}ies"),
        _ if kind.ends_with('s') => format!("{kind}es"),
        _ => format!("{kind}s"),
    };
    let subresource = if right.subresource.is_empty() {
        String::new()
    } else {
        format!("/{}", right.subresource)
    };
    format!("{plural}{subresource}.{}", right.kind.group)
}

async fn reach(world: &World, phase: &str) {
    reaches(world, "shop", phase).await;
}

async fn reaches(world: &World, service: &str, phase: &str) {
    let end = world.time.elapsed() + Duration::from_hours(2);
    while releases::phase(world, service).await != phase {
        if world.time.elapsed() >= end {
            let canary = releases::canary(world, service).await;
            let status = canary.map(|canary| canary.json()["status"].to_string());
            assert!(status.is_none(), "{service} is never {phase}: {status:?}");
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
}

/// Istio's kinds, as far as a server must know them to keep their objects.
async fn install_istio(world: &World) {
    for (plural, kind) in
        [("virtualservices", "VirtualService"), ("destinationrules", "DestinationRule")]
    {
        let schema = json!({"openAPIV3Schema": {"type": "object",
            "x-kubernetes-preserve-unknown-fields": true}});
        let crd = json!({"apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {"name": format!("{plural}.networking.istio.io")},
            "spec": {"group": "networking.istio.io", "scope": "Namespaced",
                "names": {"plural": plural, "singular": kind.to_lowercase(), "kind": kind,
                    "listKind": format!("{kind}List")},
                "versions": [{"name": "v1beta1", "served": true, "storage": true,
                    "schema": schema}]}});
        world.create(crd).await.unwrap();
    }
}

/// A Canary whose traffic Istio splits, from its first object to its deletion.
async fn live_with_istio(world: &World) {
    releases::install(world, "mesh").await.unwrap();
    let key = Key::of::<Canary>("default", "mesh");
    world.patch(&key, json!({"spec": {"provider": "istio"}})).await.unwrap();
    reaches(world, "mesh", "Initialized").await;
    let policy = json!({"connectionPool": {"tcp": {"maxConnections": 10}}});
    let spec = json!({"service": {"trafficPolicy": policy}});
    world.patch(&key, json!({"spec": spec})).await.unwrap();
    releases::release(world, "mesh", "evenkeel/demo:v2").await.unwrap();
    let route = Key::new(virtual_service(), "default", "mesh");
    let end = world.time.elapsed() + Duration::from_hours(1);
    loop {
        let found = world.store.get(&route).await.unwrap().unwrap();
        if shares(found.json()).any(|shares| shares.contains(&("mesh-canary", 10))) {
            break;
        }
        assert!(world.time.elapsed() < end, "the canary gets no traffic");
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    world.delete(&key).await.unwrap();
    reaches(world, "mesh", "").await;
    assert!(world.store.get(&route).await.unwrap().is_none());
}

/// A Canary whose requests a plain Service shares by pods, from its first object to its deletion.
async fn live_with_plain_services(world: &World) {
    world.traffic.set("plain", releases::GOOD);
    releases::install(world, "plain").await.unwrap();
    let target = Key::new(evenkeel_api::GroupKind::new("apps", "Deployment"), "default", "plain");
    let template = json!({"metadata": {"annotations": {WITH_PODS: "true"}}});
    world.patch(&target, json!({"spec": {"template": template}})).await.unwrap();
    let key = Key::of::<Canary>("default", "plain");
    let service = json!({"gateways": null, "hosts": null, "gatewayRefs": null});
    let spec = json!({"provider": "kubernetes", "service": service});
    world.patch(&key, json!({"spec": spec})).await.unwrap();
    reaches(world, "plain", "Initialized").await;
    releases::release(world, "plain", "evenkeel/demo:v2").await.unwrap();
    reaches(world, "plain", "Succeeded").await;
    world.delete(&key).await.unwrap();
    reaches(world, "plain", "").await;
}

/// A service with everything that the controllers look at.
async fn install(world: &World) {
    let now = world.time.now();
    let meta = |name: &str| json!({"name": name, "namespace": "default"});
    let query = |filter: &str| format!("sum(rate(hits{{app=\"shop\"{filter}}}[{{{{.window}}}}]))");
    for body in [
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta("settings"),
            "data": {"mode": "a"}}),
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": meta("db"), "type": "Opaque",
            "data": {"password": "YQ=="}}),
        json!({"apiVersion": "flagger.app/v1beta1", "kind": "AlertProvider",
            "metadata": meta("chat"), "spec": {"type": "slack", "address": "http://127.0.0.1:1/"}}),
        json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway",
            "metadata": meta("public"), "spec": {"gatewayClassName": "x",
                "listeners": [{"name": "http", "port": 80, "protocol": "HTTP"}]}}),
        json!({"apiVersion": "sloth.slok.dev/v1", "kind": "PrometheusServiceLevel",
            "metadata": meta("shop"), "spec": {"service": "shop", "slos": [{
                "name": "requests", "objective": 99.9,
                "sli": {"events": {"errorQuery": query(",code=~\"5..\""),
                    "totalQuery": query("")}},
                "alerting": {"name": "Errors", "pageAlert": {"disable": true},
                    "ticketAlert": {"disable": true}}}]}}),
        json!({"apiVersion": "evenkeel.dev/v1alpha1", "kind": "ErrorBudgetPolicy",
            "metadata": meta("shop"), "spec": {"selector": {"services": ["shop"]}}}),
        json!({"apiVersion": "evenkeel.dev/v1alpha1", "kind": "BreakGlass",
            "metadata": meta("hotfix"), "spec": {"reason": "a test", "author": "ann",
                "granted": now, "expires": now + SignedDuration::from_hours(12),
                "classes": ["deploy"]}}),
        json!({"apiVersion": "evenkeel.dev/v1alpha1", "kind": "SloMaintenance",
            "metadata": meta("window"), "spec": {"reason": "a test", "author": "ann",
                "from": now - SignedDuration::from_hours(2),
                "to": now - SignedDuration::from_hours(1)}}),
    ] {
        world.create(body).await.unwrap();
    }
    releases::install(world, "shop").await.unwrap();
    let key = Key::of::<Canary>("default", "shop");
    let alerts = json!([{"name": "ops", "severity": "info", "providerRef": {"name": "chat"}}]);
    let spec = json!({"service": {"gatewayRefs": [{"name": "public"}]},
        "analysis": {"alerts": alerts}});
    world.patch(&key, json!({"spec": spec})).await.unwrap();
    let target = Key::new(evenkeel_api::GroupKind::new("apps", "Deployment"), "default", "shop");
    let container = json!({"name": "load", "image": "evenkeel/demo:v1",
        "envFrom": [
            {"configMapRef": {"name": "settings"}}, {"secretRef": {"name": "db"}}]});
    // Used by an init container: a release replaces the containers.
    let template = json!({"spec": {"initContainers": [container]}});
    world.patch(&target, json!({"spec": {"template": template}})).await.unwrap();
}

#[test]
fn what_is_granted_is_what_a_life_of_releases_needs() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    let asked = runtime.block_on(async {
        let mut world = World::new(7).await.unwrap();
        world.traffic.set("shop", releases::GOOD);
        install(&world).await;
        install_istio(&world).await;
        let process = world.start();
        reach(&world, "Initialized").await;
        live_with_istio(&world).await;
        live_with_plain_services(&world).await;
        let key = Key::of::<PrometheusServiceLevel>("default", "shop");
        let level = world.store.get(&key).await.unwrap().unwrap();
        let mut slos = level.json()["spec"]["slos"].clone();
        slos[0]["objective"] = 99.5.into();
        world.patch(&key, json!({"spec": {"slos": slos}})).await.unwrap();
        let key = Key::of::<ConfigMap>("default", "settings");
        world.patch(&key, json!({"data": {"mode": "b"}})).await.unwrap();
        let key = Key::of::<Secret>("default", "db");
        world.patch(&key, json!({"data": {"password": "Yg=="}})).await.unwrap();
        releases::release(&world, "shop", "evenkeel/demo:v2").await.unwrap();
        reach(&world, "Succeeded").await;
        world.traffic.set("shop", releases::BAD);
        releases::release(&world, "shop", "evenkeel/demo:v3").await.unwrap();
        reach(&world, "Failed").await;
        world.delete(&Key::of::<Canary>("default", "shop")).await.unwrap();
        reach(&world, "").await;
        let key = Key::of::<PrometheusServiceLevel>("default", "shop");
        world.delete(&key).await.unwrap();
        let rules = ListQuery::of::<PrometheusRule>();
        let end = world.time.elapsed() + Duration::from_hours(1);
        while !world.store.list(&rules).await.unwrap().items.is_empty() {
            assert!(world.time.elapsed() < end, "the rules stay");
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
        world.process(process).unwrap().store.requests().asked
    });
    let granted = granted();
    let asked: BTreeMap<(String, String), &Right> =
        asked.iter().map(|right| ((right.verb.to_owned(), resource(right)), right)).collect();
    let missing: Vec<_> = asked.keys().filter(|right| !granted.contains(*right)).collect();
    assert!(missing.is_empty(), "not granted: {missing:#?}");
    // What is read may be followed from the cache, and the API server alone asks for finalizers.
    // No definition of Sloth is installed here, under which the status is kept in an annotation.
    let beside_sloth = ("patch", "prometheusservicelevels.sloth.slok.dev");
    let plain = |right: &&(String, String)| {
        !["get", "list", "watch"].contains(&right.0.as_str())
            && !right.1.contains("/finalizers")
            && (right.0.as_str(), right.1.as_str()) != beside_sloth
    };
    let idle: Vec<_> =
        granted.iter().filter(plain).filter(|right| !asked.contains_key(*right)).collect();
    assert!(idle.is_empty(), "granted and never asked for: {idle:#?}");
}
