//! Releases whose traffic others split than the Gateway API, and Gateways that do not serve.
//!
//! Istio itself does not run here: what counts is what its objects say.

use evenkeel_api::{
    Key,
    httproute::HttpRoute,
    labels::SERVICE_NAME,
    weighted::{destination_rule, shares, virtual_service},
};
use k8s_openapi::{
    api::{core::v1::Service, discovery::v1::EndpointSlice},
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use serde_json::{Value, json};

use crate::{
    bed::Bed,
    gateways::{CLOSED, SILENT},
    objects::{APP, canary, canary_key, deployment, deployment_key},
    releases::Stage,
    until,
};

/// Istio's kinds as a server must know them to keep their objects, served as both versions.
fn definitions() -> Vec<Value> {
    let kinds = [("virtualservices", "VirtualService"), ("destinationrules", "DestinationRule")];
    let version = |name: &str, stored: bool| {
        json!({"name": name, "served": true, "storage": stored, "subresources": {"status": {}},
            "schema": {"openAPIV3Schema": {"type": "object",
                "x-kubernetes-preserve-unknown-fields": true}}})
    };
    let definition = |(plural, kind): (&str, &str)| {
        json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": format!("{plural}.networking.istio.io")},
            "spec": {"group": "networking.istio.io", "scope": "Namespaced",
                "names": {"plural": plural, "singular": kind.to_lowercase(), "kind": kind,
                    "listKind": format!("{kind}List")},
                "versions": [version("v1", true), version("v1beta1", false)]}})
    };
    kinds.into_iter().map(definition).collect()
}

/// An application whose Canary has this provider, and these fields besides.
fn app(bed: &Bed, namespace: &str, provider: &str, patch: &Value) -> Key {
    bed.namespace(namespace);
    bed.create(deployment(namespace, APP, "web:1", 1));
    let mut body = canary(namespace, APP, &json!({}));
    body["spec"]["provider"] = provider.into();
    let service = body["spec"]["service"].as_object_mut().unwrap();
    service.shift_remove("gatewayRefs");
    evenkeel_api::json::merge(&mut body, &json!({"spec": patch}));
    bed.create(body)
}

fn virtual_service_key(namespace: &str) -> Key {
    Key::new(virtual_service(), namespace, APP)
}

/// The canary's weight in the `VirtualService`.
fn mesh_weight(bed: &Bed, namespace: &str) -> i64 {
    let Some(route) = bed.get(&virtual_service_key(namespace)) else { return 0 };
    let all: Vec<_> = shares(route.json()).flatten().collect();
    all.iter().find(|(name, _)| *name == "web-canary").map_or(0, |(_, weight)| *weight)
}

/// Ready pods behind the apex Service: the canary's, and the primary's.
fn behind_apex(bed: &Bed, namespace: &str) -> (usize, usize) {
    let slices = bed.list::<EndpointSlice>(namespace);
    let of_apex = slices.iter().filter(|slice| slice.label(SERVICE_NAME) == Some(APP));
    let endpoints = of_apex.filter_map(|slice| slice.json()["endpoints"].as_array().cloned());
    let ready = endpoints.flatten().filter(|one| one["conditions"]["ready"] == true);
    let names: Vec<String> =
        ready.filter_map(|one| one["targetRef"]["name"].as_str().map(str::to_owned)).collect();
    let primary = names.iter().filter(|name| name.starts_with("web-primary-")).count();
    (names.len() - primary, primary)
}

fn is_gone(bed: &Bed, namespace: &str) {
    bed.delete(&canary_key(namespace, APP));
    until("the Canary is gone", || bed.get(&canary_key(namespace, APP)).is_none());
    let target = deployment_key(namespace, APP);
    assert_eq!(bed.field(&target, "/status/readyReplicas"), 1);
    let apex = Key::of::<Service>(namespace, APP);
    assert_eq!(bed.field(&apex, "/spec/selector"), json!({"app": "web"}));
}

#[test]
fn istio_is_missed_by_name_then_splits_traffic_and_is_given_back() {
    let Some(bed) = Bed::take_later() else { return };
    let stage = Stage::set(bed);
    let bed = &stage.bed;
    for definition in definitions() {
        let name = definition["metadata"]["name"].as_str().unwrap();
        let key = Key::of::<CustomResourceDefinition>("", name);
        if bed.get(&key).is_some() {
            bed.delete(&key);
            until("the definition is gone", || bed.get(&key).is_none());
        }
    }
    let steps = json!({"analysis": {"stepWeight": 25}});
    let ns = "mesh-good";
    let canary = app(bed, ns, "istio", &steps);
    until("the missing kind is named", || {
        bed.condition(&canary, "Accepted")["reason"] == "KindMissing"
    });
    let words = bed.condition(&canary, "Accepted")["message"].as_str().unwrap().to_owned();
    assert!(words.contains("VirtualService") && words.contains("istio/base"), "{words}");
    assert!(bed.get(&deployment_key(ns, "web-primary")).is_none());
    for definition in definitions() {
        bed.apply_crd(&definition);
    }
    bed.reaches(ns, "Initialized");
    for name in ["web-primary", "web-canary"] {
        assert!(bed.get(&Key::new(destination_rule(), ns, name)).is_some(), "{name}");
    }
    assert_eq!(bed.condition(&canary, "WeightsConfirmed")["reason"], "NotReported");
    bed.release(ns, "web:2");
    until("the canary has traffic", || mesh_weight(bed, ns) == 25);
    until("the canary has more traffic", || mesh_weight(bed, ns) == 50);
    bed.reaches(ns, "Succeeded");
    assert_eq!((mesh_weight(bed, ns), bed.image(ns, "web-primary")), (0, json!("web:2")));
    is_gone(bed, ns);
    assert!(bed.get(&virtual_service_key(ns)).is_none());

    bad_with_istio(&stage);
}

/// A bad version over a `VirtualService` that was there before.
fn bad_with_istio(stage: &Stage) {
    let (bed, ns) = (&stage.bed, "mesh-bad");
    bed.namespace(ns);
    let before = json!({"hosts": ["web"], "http": [{"route": [{"destination": {"host": "web"}}]}]});
    bed.create(json!({"apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
        "metadata": {"name": APP, "namespace": ns}, "spec": before}));
    bed.create(deployment(ns, APP, "web:1", 1));
    let mut body = canary(ns, APP, &json!({"stepWeight": 25}));
    body["spec"]["provider"] = "istio".into();
    body["spec"]["service"] = json!({"port": 80, "targetPort": 8080});
    bed.create(body);
    bed.reaches(ns, "Initialized");
    bed.release(ns, "web:2");
    until("the canary has traffic", || mesh_weight(bed, ns) == 25);
    stage.prometheus.worsen(ns);
    bed.reaches(ns, "Failed");
    assert_eq!((mesh_weight(bed, ns), bed.image(ns, "web-primary")), (0, json!("web:1")));
    is_gone(bed, ns);
    assert_eq!(bed.field(&virtual_service_key(ns), "/spec"), before);
    let annotations = bed.field(&virtual_service_key(ns), "/metadata/annotations");
    assert!(annotations.get("flagger.kubernetes.app/original-configuration").is_none());
}

#[test]
fn plain_services_release_a_good_version_and_keep_a_bad_one_away() {
    let Some(stage) = Stage::shared() else { return };
    let (bed, ns) = (&stage.bed, "plain");
    let analysis = json!({"iterations": 2, "stepWeight": null, "maxWeight": null});
    app(bed, ns, "kubernetes", &json!({"analysis": analysis}));
    bed.reaches(ns, "Initialized");
    let apex = Key::of::<Service>(ns, APP);
    let selector = || bed.field(&apex, "/spec/selector");
    assert_eq!(selector(), json!({"app": "web-primary"}));
    bed.release(ns, "web:2");
    bed.reaches(ns, "Succeeded");
    assert_eq!(bed.image(ns, "web-primary"), "web:2");
    stage.prometheus.worsen(ns);
    bed.release(ns, "web:3");
    bed.reaches(ns, "Failed");
    assert_eq!(
        (selector(), bed.image(ns, "web-primary")),
        (json!({"app": "web-primary"}), json!("web:2"))
    );
    assert!(bed.get(&Key::of::<HttpRoute>(ns, APP)).is_none());
    is_gone(bed, ns);
}

#[test]
fn a_plain_service_shares_requests_by_pods_and_a_bad_version_leaves_it_at_once() {
    let Some(stage) = Stage::shared() else { return };
    let (bed, ns) = (&stage.bed, "ratio");
    bed.namespace(ns);
    bed.create(deployment(ns, APP, "web:1", 4));
    let mut body = canary(ns, APP, &json!({"stepWeight": 25, "maxWeight": 50}));
    body["spec"]["provider"] = "kubernetes".into();
    body["spec"]["service"] = json!({"port": 80, "targetPort": 8080});
    let canary = bed.create(body);
    bed.reaches(ns, "Initialized");
    let template = || bed.field(&deployment_key(ns, APP), "/spec/template/metadata");
    let before = template();
    until("the primary serves alone", || behind_apex(bed, ns) == (0, 4));

    bed.release(ns, "web:2");
    until("one pod of the canary gets requests", || behind_apex(bed, ns) == (1, 4));
    until("the share in force is said", || {
        let said = bed.condition(&canary, "WeightsConfirmed");
        said["message"].as_str().is_some_and(|words| words.contains("1 of 5 pods, 20.0 %"))
    });
    until("half of all pods are the canary's", || behind_apex(bed, ns) == (4, 4));
    bed.reaches(ns, "Succeeded");
    assert_eq!((behind_apex(bed, ns), bed.image(ns, "web-primary")), ((0, 4), json!("web:2")));
    let apex = Key::of::<Service>(ns, APP);
    let selector = || bed.field(&apex, "/spec/selector");
    assert_eq!(selector(), json!({"app": "web-primary"}));
    assert_eq!(template(), before);

    bed.release(ns, "web:3");
    until("the canary gets requests", || behind_apex(bed, ns).0 > 0);
    stage.prometheus.worsen(ns);
    bed.reaches(ns, "Failed");
    assert_eq!(selector(), json!({"app": "web-primary"}));
    assert_eq!((behind_apex(bed, ns), bed.image(ns, "web-primary")), ((0, 4), json!("web:2")));
    until("the canary is scaled down", || {
        bed.field(&deployment_key(ns, APP), "/spec/replicas") == 0
    });

    bed.delete(&canary);
    until("the Canary is gone", || bed.get(&canary).is_none());
    assert_eq!(selector(), json!({"app": "web"}));
    until("the target serves alone", || behind_apex(bed, ns) == (4, 0));
}

#[test]
fn plain_services_refuse_by_name_what_pods_cannot_share() {
    let Some(stage) = Stage::shared() else { return };
    let (bed, ns) = (&stage.bed, "plain-weights");
    let canary = app(bed, ns, "kubernetes", &json!({"analysis": {"maxWeight": 80}}));
    until("the field is named", || {
        let words = bed.condition(&canary, "Accepted");
        words["message"].as_str().is_some_and(|words| words.contains("spec.analysis.maxWeight"))
    });
    assert!(bed.get(&deployment_key(ns, "web-primary")).is_none());
}

#[test]
fn a_gateway_that_does_not_serve_is_named_with_the_reason() {
    let Some(stage) = Stage::shared() else { return };
    let bed = &stage.bed;
    let with = |ns: &str, gateway: &str| {
        let refs = json!({"service": {"gatewayRefs": [{"name": gateway}]}});
        app(bed, ns, "gatewayapi:v1", &refs)
    };
    let says = |canary: &Key, reason: &str, part: &str| {
        until(&format!("{reason} is said"), || {
            let found = bed.condition(canary, "GatewaysFound");
            let words = found["message"].as_str().unwrap_or_default();
            found["reason"] == reason && words.contains(part)
        });
    };
    let gateway = |ns: &str, name: &str| {
        bed.create(json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway",
            "metadata": {"name": name, "namespace": ns},
            "spec": {"gatewayClassName": "nobodys",
                "listeners": [{"name": "http", "port": 80, "protocol": "HTTP"}]}}));
    };
    let missing = with("gateway-missing", "nowhere");
    let refused = with("gateway-refuses", CLOSED);
    gateway("gateway-refuses", CLOSED);
    let unserved = with("gateway-unserved", SILENT);
    gateway("gateway-unserved", SILENT);
    says(&missing, "GatewayMissing", "Gateway/gateway-missing/nowhere");
    says(&refused, "RouteRefused", "NotAllowedByListeners: not from this namespace");
    says(&unserved, "GatewayUnserved", "GatewayClass nobodys");

    let served = with("gateway-serves", "public");
    bed.reaches("gateway-serves", "Initialized");
    until("what the implementation reports is said", || {
        bed.condition(&served, "WeightsConfirmed")["reason"] == "AcceptedOnly"
    });
}
