//! Reads that fail: the version that runs is judged all the same, and only what needs the object
//! waits.

use k8s_openapi::api::core::v1::{ConfigMap, Secret};

use super::*;

/// A service that uses a `ConfigMap` and a Secret, initialized.
fn with_configs(analysis: &Value) -> World {
    let mut world = World::new(with(&json!({"analysis": analysis})), Settings::default());
    world.kill();
    answer(&world, &[("load-test", 202)]);
    world.store.create_now(json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "settings", "namespace": NS}, "data": {"mode": "a"}}));
    world.store.create_now(json!({"apiVersion": "v1", "kind": "Secret", "type": "Opaque",
        "metadata": {"name": "db", "namespace": NS}, "data": {"password": "YQ=="}}));
    world.store.change(&deployment_key("api-service"), |body| {
        body["spec"]["template"]["spec"]["containers"][0]["envFrom"] = json!([
            {"configMapRef": {"name": "settings"}}, {"secretRef": {"name": "db"}}]);
    });
    world.boot();
    world
}

/// A release of it that has a share of the traffic.
fn running() -> World {
    let mut world = with_configs(&json!({"threshold": 2}));
    world.run_until(&["Initialized"]);
    world.release("2");
    world.run_for(Duration::from_secs(150));
    assert_eq!((world.phase().as_str(), world.weight()), ("Progressing", Some(20)));
    world
}

fn change_secret(world: &World) {
    let db = Key::of::<Secret>(NS, "db");
    world.store.change(&db, |body| body["data"]["password"] = "Yg==".into());
}

#[test]
fn a_version_is_judged_while_a_read_fails_that_only_its_promotion_needs() {
    for (what, code) in [
        ("Secret/shop/db", 500),
        ("Secret/shop/db", 403),
        ("Secret/shop/db", 429),
        ("Secret/shop/db-primary", 500),
        ("ConfigMap/shop/settings", 500),
        ("ConfigMap/shop/settings-primary", 403),
        ("Gateway/shop/public-gateway", 500),
        ("Pod", 403),
    ] {
        let mut world = running();
        world.store.answer_reads(what, code);
        world.run_for(minutes(1));
        assert_eq!(world.weight(), Some(30), "{what} {code}: {}", world.condition("Promoted"));
        world.traffic.lock().unwrap().error_ratio = Some(0.5);
        world.run_for(minutes(3));
        assert_eq!((world.phase().as_str(), world.weight()), ("Failed", Some(0)), "{what} {code}");
        assert_eq!(world.replicas("api-service"), Some(0), "{what} {code}");
    }
}

#[test]
fn a_version_is_judged_while_services_or_endpoints_cannot_be_read_and_gets_no_more_traffic() {
    for (what, code) in [
        ("Service/shop/api-service", 500),
        ("Service/shop/api-service-canary", 500),
        ("EndpointSlice", 500),
    ] {
        let mut world = running();
        world.store.answer_reads(what, code);
        world.run_for(minutes(10));
        assert_eq!((world.phase().as_str(), world.weight()), ("Progressing", Some(20)), "{what}");
        assert_eq!(world.canary().json()["status"]["failedChecks"], 0, "{what}");
        let said = world.condition("ObjectsReadable");
        assert!(
            said.ends_with("the canary gets no more traffic; what runs is judged all the same"),
            "{said}"
        );
        world.store.answer_reads(what, 200);
        world.run_for(minutes(1));
        assert_eq!(world.weight(), Some(30), "{what}");
        world.store.answer_reads(what, code);
        world.traffic.lock().unwrap().error_ratio = Some(0.5);
        world.run_until(&["Failed"]);
        assert_eq!(world.weight(), Some(0), "{what}");
    }
}

#[test]
fn a_promotion_waits_for_what_it_copies_and_the_version_is_judged_meanwhile() {
    let mut world = running();
    world.store.answer_reads("Secret/shop/db", 500);
    world.run_for(minutes(20));
    assert_eq!((world.phase().as_str(), world.weight()), ("Progressing", Some(50)));
    assert_eq!(world.image("api-service-primary"), "1");
    assert_snapshot!(world.condition("ObjectsReadable"), @"False ReadFailed: Secret/shop/db: no answer from the API server: the reason is withheld, it may quote the content of Secret/shop/db. Until that can be read, no new release begins, nothing is promoted; what runs is judged all the same");
    assert_snapshot!(world.condition("Promoted"), @"Unknown Progressing: New revision detected, progressing canary analysis. Waiting to promote api-service.shop until its configs can be read: Secret/shop/db");
    let asked = world.queries.lock().unwrap().len();
    let called = world.calls.lock().unwrap().len();
    world.run_for(minutes(3));
    assert!(world.queries.lock().unwrap().len() >= asked + 3, "it is not judged any more");
    assert!(world.calls.lock().unwrap().len() >= called + 3, "no more webhooks are called");
    let events = world.events();
    let count = |text: &str| events.lines().filter(|line| line.contains(text)).count();
    assert_eq!((count("Until that can be read"), count("Waiting to promote")), (1, 1), "{events}");
    world.store.answer_reads("Secret/shop/db", 200);
    world.run_until(&["Succeeded"]);
    assert_eq!(world.image("api-service-primary"), "2");
    assert_eq!(world.condition("ObjectsReadable"), "none");
}

#[test]
fn a_version_that_waits_for_its_promotion_is_rolled_back_when_it_turns_bad() {
    let mut world = running();
    world.store.answer_reads("Secret/shop/db", 403);
    world.run_for(minutes(20));
    assert_eq!(world.weight(), Some(50));
    let said = world.condition("ObjectsReadable");
    let refused = "Secret/shop/db: the API server does not let us read it";
    assert!(said.starts_with(&format!("False ReadFailed: {refused}")), "{said}");
    world.traffic.lock().unwrap().error_ratio = Some(0.5);
    world.run_for(minutes(4));
    assert_eq!((world.phase().as_str(), world.weight()), ("Failed", Some(0)));
}

/// Takes a second: it is looked at for a day.
#[test]
fn a_promotion_does_not_wait_for_ever() {
    let mut world = with_configs(&json!({"interval": "2h", "stepWeight": 50}));
    world.run_until(&["Initialized"]);
    world.release("2");
    world.run_for(minutes(1));
    world.store.answer_reads("Secret/shop/db", 500);
    world.run_for(minutes(12 * 60));
    assert_eq!((world.phase().as_str(), world.weight()), ("Progressing", Some(50)));
    world.run_until(&["Failed"]);
    assert_eq!(world.weight(), Some(0));
    let said = world.condition("Promoted");
    assert!(said.contains("could not be read: Secret/shop/db"), "{said}");
}

/// Takes a second: it is looked at for a day.
#[test]
fn the_wait_of_a_promotion_begins_when_it_was_approved() {
    let hook = json!({"name": "confirm-promotion", "type": "confirm-promotion",
        "url": "http://gate/"});
    let analysis = json!({"interval": "2h", "stepWeight": 50, "webhooks": [hook]});
    let mut world = with_configs(&analysis);
    answer(&world, &[("confirm-promotion", 403)]);
    world.run_until(&["Initialized"]);
    world.release("2");
    world.run_until(&["WaitingPromotion"]);
    world.run_for(minutes(21 * 60));
    assert_eq!(world.phase(), "WaitingPromotion");
    world.store.answer_reads("Secret/shop/db", 500);
    answer(&world, &[("confirm-promotion", 200)]);
    world.run_for(minutes(12 * 60));
    assert_eq!((world.phase().as_str(), world.weight()), ("Progressing", Some(50)));
    world.store.answer_reads("Secret/shop/db", 200);
    world.run_until(&["Succeeded"]);
}

#[test]
fn a_bad_version_is_rolled_back_while_several_reads_are_not_answered() {
    let mut world = running();
    for what in [
        "Service/shop/api-service",
        "Service/shop/api-service-primary",
        "EndpointSlice",
        "Gateway/shop/public-gateway",
        "Secret/shop/db",
    ] {
        world.store.answer_reads(what, 504);
    }
    world.traffic.lock().unwrap().error_ratio = Some(0.5);
    world.run_for(minutes(5));
    assert_eq!((world.phase().as_str(), world.weight()), ("Failed", Some(0)));
}

#[test]
fn a_promotion_without_analysis_waits_too() {
    let mut world = with_configs(&json!({}));
    world.run_until(&["Initialized"]);
    world.store.change(&Key::of::<Canary>(NS, "api-service"), |body| {
        body["spec"]["skipAnalysis"] = true.into();
    });
    world.release("2");
    world.run_for(Duration::from_secs(1));
    world.store.answer_reads("Secret/shop/db-primary", 500);
    world.run_for(minutes(10));
    assert_eq!(world.image("api-service-primary"), "1");
    world.store.answer_reads("Secret/shop/db-primary", 200);
    world.run_until(&["Succeeded"]);
    assert_eq!(world.image("api-service-primary"), "2");
}

#[test]
fn no_release_begins_before_the_configs_of_its_target_can_be_read() {
    let mut world = with_configs(&json!({}));
    world.run_until(&["Initialized"]);
    world.store.answer_reads("Secret/shop/db", 500);
    change_secret(&world);
    world.release("2");
    world.run_for(minutes(10));
    assert_eq!((world.phase().as_str(), world.replicas("api-service")), ("Initialized", Some(0)));
    assert_snapshot!(world.condition("ObjectsReadable"), @"False ReadFailed: Secret/shop/db: no answer from the API server: the reason is withheld, it may quote the content of Secret/shop/db. Until that can be read, no new release begins, nothing is promoted; what runs is judged all the same");
    world.store.answer_reads("Secret/shop/db", 200);
    world.run_for(minutes(1));
    assert_eq!(world.phase(), "Progressing");
    world.run_until(&["Succeeded"]);
    let copy = world.store.find(&Key::of::<Secret>(NS, "db-primary")).unwrap();
    assert_eq!(copy.json()["data"]["password"], "Yg==");
}

#[test]
fn a_read_that_fails_at_rest_starts_and_repairs_nothing() {
    let mut world = with_configs(&json!({}));
    world.run_until(&["Initialized"]);
    world.run_for(minutes(1));
    let before = world.canary().json()["status"].clone();
    let reads = [
        "Secret/shop/db",
        "Secret/shop/db-primary",
        "ConfigMap/shop/settings-primary",
        "Service/shop/api-service",
        "EndpointSlice",
        "Gateway/shop/public-gateway",
    ];
    for what in reads {
        world.store.answer_reads(what, 500);
        let written = world.store.revision();
        world.run_for(minutes(5));
        // The condition and its event.
        assert!(world.store.revision() <= written + 2, "{what}: {}", world.events());
        assert_eq!(world.condition("ObjectsInSync"), "none", "{what}");
        world.store.answer_reads(what, 200);
        world.run_for(minutes(1));
        assert_eq!(world.canary().json()["status"], before, "{what}");
    }
}

#[test]
fn a_config_that_changed_while_it_could_not_be_read_starts_the_run_anew() {
    let mut world = running();
    world.store.answer_reads("Secret/shop/db", 500);
    change_secret(&world);
    world.run_for(minutes(1));
    assert_eq!(world.weight(), Some(30));
    world.store.answer_reads("Secret/shop/db", 200);
    world.run_for(Duration::from_secs(31));
    assert_eq!(world.weight(), Some(0), "{}", world.timeline());
    world.run_until(&["Succeeded"]);
}

#[test]
fn a_target_is_not_taken_over_before_its_configs_can_be_read() {
    for what in ["Secret/shop/db", "ConfigMap/shop/settings-primary", "Service/shop/api-service"] {
        let mut world = with_configs(&json!({}));
        world.store.answer_reads(what, 500);
        world.run_for(minutes(10));
        assert_eq!(world.phase(), "Initializing", "{what}");
        assert!(world.store.find(&deployment_key("api-service-primary")).is_none(), "{what}");
        let said = world.condition("ObjectsReadable");
        assert!(said.starts_with(&format!("False ReadFailed: {what}: no answer")), "{said}");
        world.store.answer_reads(what, 200);
        world.run_until(&["Initialized"]);
    }
}

#[test]
fn a_canary_is_not_deleted_before_its_apex_can_be_read() {
    let mut world = with_configs(&json!({}));
    world.run_until(&["Initialized"]);
    world.store.answer_reads("Service/shop/api-service", 500);
    let key = Key::of::<Canary>(NS, "api-service");
    world.store.change(&key, |body| {
        body["metadata"]["deletionTimestamp"] = "2024-01-01T00:00:00Z".into();
    });
    world.run_for(minutes(10));
    assert!(world.store.find(&key).is_some());
    assert_eq!(world.weight(), Some(0));
    world.store.answer_reads("Service/shop/api-service", 200);
    world.run_for(minutes(5));
    assert!(world.store.find(&key).is_none());
    let apex = world.store.find(&Key::of::<Service>(NS, "api-service")).unwrap();
    assert_eq!(apex.json()["spec"]["selector"], json!({"app": "api-service"}));
}

#[test]
fn a_route_keeps_a_gateway_that_cannot_be_read() {
    let mut world = World::new(article(), Settings::default());
    world.store.create_now(json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway",
        "metadata": {"name": "public-gateway", "namespace": NS},
        "spec": {"gatewayClassName": "x", "listeners": []}}));
    answer(&world, &[("load-test", 202)]);
    world.run_until(&["Initialized"]);
    let parents = |world: &World| {
        let route = world.store.find(&Key::of::<HttpRoute>(NS, "api-service")).unwrap();
        route.json()["spec"]["parentRefs"].clone()
    };
    let attached = parents(&world);
    assert_eq!(attached[1]["name"], "public-gateway");
    for code in [403, 500] {
        world.store.answer_reads("Gateway/shop/public-gateway", code);
        // So that it is looked at.
        world.store.change(&deployment_key("api-service"), |body| {
            body["metadata"]["labels"] = json!({"touched": code.to_string()});
        });
        world.run_for(minutes(5));
        assert_eq!(parents(&world), attached, "{code}");
        assert_eq!(world.condition("GatewaysFound"), "none", "{code}");
    }
    assert_snapshot!(world.condition("ObjectsReadable"), @"False ReadFailed: Gateway/shop/public-gateway: no answer from the API server: HTTP status 500. Until that can be read, the route keeps the Gateways that it has; what runs is judged all the same");
}

#[test]
fn a_template_that_cannot_be_read_is_a_metric_that_cannot_be_measured() {
    let metric = json!({"name": "errors", "interval": "1m", "thresholdRange": {"max": 1},
        "templateRef": {"name": "errors"}});
    let analysis = json!({"threshold": 2, "metrics": [metric]});
    let mut world = World::new(with(&json!({"analysis": analysis})), Settings::default());
    answer(&world, &[("load-test", 202)]);
    world.store.create_now(json!({"apiVersion": "flagger.app/v1beta1", "kind": "MetricTemplate",
        "metadata": {"name": "errors", "namespace": NS},
        "spec": {"provider": {"type": "prometheus"}, "query": "errors{code=~\"5.*\"}"}}));
    world.run_until(&["Initialized"]);
    world.release("2");
    world.run_for(Duration::from_secs(150));
    assert_eq!(world.weight(), Some(20));
    world.store.answer_reads("MetricTemplate/shop/errors", 500);
    world.run_for(Duration::from_secs(40));
    assert_snapshot!(world.condition("MetricsAvailable"), @"False ReadFailed: MetricTemplate/shop/errors: no answer from the API server: HTTP status 500");
    assert_eq!(world.phase(), "Progressing");
    world.run_until(&["Failed"]);
    assert_eq!(world.weight(), Some(0));
}

#[test]
fn pods_that_may_not_be_listed_are_said_and_not_asked_for_at_every_look() {
    let mut world = initialized(article());
    world.store.answer_reads("Pod", 403);
    world.broken.insert("api-service".into());
    world.release("2");
    let before = world.store.reads("Pod");
    world.run_for(minutes(4));
    let looks = world.store.reads("Deployment/shop/api-service");
    assert!(looks > 10, "{looks}");
    assert_eq!(world.store.reads("Pod") - before, 1);
    assert_snapshot!(world.condition("Promoted"), @"Unknown Progressing: New revision detected, progressing canary analysis. Waiting for api-service.shop rollout to finish: 0 of 3 (readyThreshold 100%) updated replicas are available: pods cannot be listed: Pod: HTTP status 403");
    // From time to time, because the right may have been granted.
    world.run_for(minutes(4));
    assert_eq!(world.store.reads("Pod") - before, 2);
}

/// The content that a promotion copies is what was judged: it is read once more before.
#[test]
fn nothing_is_promoted_without_its_content_whichever_read_fails() {
    for what in ["ConfigMap/shop/settings", "ConfigMap/shop/settings-primary"] {
        let mut world = with_configs(&json!({}));
        world.run_until(&["Initialized"]);
        let settings = Key::of::<ConfigMap>(NS, "settings");
        world.store.change(&settings, |body| body["data"]["mode"] = "b".into());
        world.run_until(&["Progressing"]);
        world.store.answer_reads(what, 500);
        world.run_for(minutes(30));
        assert_eq!(world.phase(), "Progressing", "{what}");
        let copy = || world.store.find(&Key::of::<ConfigMap>(NS, "settings-primary")).unwrap();
        assert_eq!(copy().json()["data"]["mode"], "a", "{what}");
        world.store.answer_reads(what, 200);
        world.run_for(minutes(5));
        let copy = world.store.find(&Key::of::<ConfigMap>(NS, "settings-primary")).unwrap();
        assert_eq!(copy.json()["data"]["mode"], "b", "{what}");
    }
}
