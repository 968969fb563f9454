//! Canaries whose traffic is split by others than the Gateway API, and Gateways that do not serve.

use evenkeel_api::weighted::{destination_rule, virtual_service};

use super::*;

/// The article's Canary with Istio.
pub(super) fn istio(patch: &Value) -> Value {
    let mut canary = with(&json!({"provider": "istio"}));
    merge(&mut canary, &json!({"spec": patch}));
    canary
}

/// A Canary with nothing but Services: two checks, no weights.
pub(super) fn plain(patch: &Value) -> Value {
    let mut canary = with(&json!({"provider": "kubernetes",
        "service": {"gateways": null, "hosts": null},
        "analysis": {"stepWeight": null, "maxWeight": null, "iterations": 2}}));
    merge(&mut canary, &json!({"spec": patch}));
    canary
}

fn route_key() -> Key {
    Key::new(virtual_service(), NS, "api-service")
}

fn route(world: &World) -> Value {
    world.store.find(&route_key()).unwrap().json().clone()
}

fn apex_selector(world: &World) -> String {
    let apex = world.store.find(&Key::of::<Service>(NS, "api-service")).unwrap();
    apex.json()["spec"]["selector"].to_string()
}

#[test]
fn istio_gets_the_objects_that_flagger_makes() {
    let world = initialized(istio(&json!({"service": {"timeout": "15s",
        "retries": {"attempts": 3, "perTryTimeout": "1s"},
        "match": [{"uri": {"prefix": "/api"}}],
        "rewrite": {"uri": "/", "type": "ReplacePrefixMatch"},
        "corsPolicy": {"allowOrigins": [{"exact": "*"}]},
        "headers": {"request": {"add": {"x-a": "b"}}},
        "apex": {"labels": {"team": "shop"}},
        "trafficPolicy": {"tls": {"mode": "ISTIO_MUTUAL"}}}})));
    let route = route(&world);
    assert_snapshot!(route["spec"]["http"], @r#"[{"route":[{"destination":{"host":"api-service-primary"},"weight":100},{"destination":{"host":"api-service-canary"},"weight":0}],"match":[{"uri":{"prefix":"/api"}}],"timeout":"15s","retries":{"attempts":3,"perTryTimeout":"1s"},"corsPolicy":{"allowOrigins":[{"exact":"*"}]},"headers":{"request":{"add":{"x-a":"b"}}},"rewrite":{"uri":"/"}}]"#);
    assert_snapshot!(route["spec"]["hosts"], @r#"["api.elseblock.io","api-service"]"#);
    assert_snapshot!(route["spec"]["gateways"], @r#"["public-gateway"]"#);
    assert_snapshot!(route["metadata"]["labels"], @r#"{"team":"shop"}"#);
    for name in ["api-service-primary", "api-service-canary"] {
        let rule = world.store.find(&Key::new(destination_rule(), NS, name)).unwrap();
        assert_eq!(
            rule.json()["spec"],
            json!({"host": name,
            "trafficPolicy": {"tls": {"mode": "ISTIO_MUTUAL"}}})
        );
    }
    assert_snapshot!(world.condition("WeightsConfirmed"), @"False NotReported: Istio does not report when its proxies route by a VirtualService: a weight counts as in use 10s after it was stored");
    assert_snapshot!(world.condition("GatewaysFound"), @"False GatewayMissing: Gateway/shop/public-gateway not found: the route is attached to it as soon as it exists");
    assert!(world.store.find(&Key::of::<HttpRoute>(NS, "api-service")).is_none());

    let world = initialized(istio(&json!({"service": {"appProtocol": "TCP",
        "match": [{"port": 80}]}})));
    assert_snapshot!(self::route(&world)["spec"], @r#"{"hosts":["api.elseblock.io","api-service"],"gateways":["public-gateway"],"tcp":[{"route":[{"destination":{"host":"api-service-primary"},"weight":100},{"destination":{"host":"api-service-canary"},"weight":0}],"match":[{"port":80}]}]}"#);
    let world = initialized(istio(&json!({"service": {"delegation": true, "hosts": null,
        "gateways": null}})));
    assert_snapshot!(self::route(&world)["spec"], @r#"{"http":[{"route":[{"destination":{"host":"api-service-primary"},"weight":100},{"destination":{"host":"api-service-canary"},"weight":0}]}]}"#);
}

#[test]
fn a_release_with_istio_waits_until_each_weight_has_settled() {
    let mut world = initialized(istio(&json!({})));
    world.release("2");
    world.run_until(&["Succeeded"]);
    assert_snapshot!(world.timeline(), @r"
     10s Progressing shown=0 failed=0 route=0 target=3
     70s Progressing shown=10 failed=0 route=10 target=3
    140s Progressing shown=20 failed=0 route=20 target=3
    210s Progressing shown=30 failed=0 route=30 target=3
    280s Progressing shown=40 failed=0 route=40 target=3
    350s Progressing shown=50 failed=0 route=50 target=3
    420s Promoting shown=50 failed=0 route=50 target=3
    480s Finalising shown=0 failed=0 route=0 target=3
    540s Succeeded shown=0 failed=0 route=0 target=0
    ");
    assert_eq!(world.image("api-service-primary"), "2");
    assert!(world.queries.lock().unwrap()[0].contains("istio_requests_total"));
}

#[test]
fn a_bad_release_with_istio_is_rolled_back_though_everything_risky_is_frozen() {
    let mut world = initialized(istio(&json!({"analysis": {"threshold": 2}})));
    world.release("2");
    world.run_for(minutes(3));
    assert_eq!(world.weight(), Some(20));
    world.freeze();
    world.traffic.lock().unwrap().error_ratio = Some(0.5);
    world.run_until(&["Failed"]);
    assert_eq!((world.weight(), world.replicas("api-service")), (Some(0), Some(0)));
}

#[test]
fn istio_is_believed_where_it_reports() {
    let mut world = initialized(istio(&json!({})));
    let report = |world: &World, seen: i64| {
        world.store.change(&route_key(), |body| {
            body["status"] = json!({"observedGeneration": seen.to_string(),
                "conditions": [{"type": "Reconciled", "status": "True"}]});
        });
    };
    report(&world, 1);
    world.release("2");
    world.run_for(minutes(1) + Duration::from_secs(30));
    let confirmed = |world: &World| {
        let canary = world.canary();
        canary.json().pointer("/status/evenkeel/confirmedAt").is_some()
    };
    assert_eq!((world.weight(), confirmed(&world)), (Some(10), false));
    assert_eq!(world.condition("WeightsConfirmed"), "none");
    report(&world, 2);
    world.run_for(Duration::from_secs(40));
    assert!(confirmed(&world));
}

#[test]
fn a_virtual_service_that_was_there_before_is_given_back() {
    let before = json!({"hosts": ["api-service"], "exportTo": ["."],
        "http": [{"route": [{"destination": {"host": "api-service"}}]}]});
    // Another one's may have an owner, too.
    let owner = json!([{"apiVersion": "example.com/v1", "kind": "Shop", "name": "shop",
        "uid": "uid-shop", "controller": true}]);
    for (annotations, owners) in [
        (json!({}), json!([])),
        (json!({}), owner),
        (
            json!({"kubectl.kubernetes.io/last-applied-configuration":
                json!({"kind": "VirtualService", "spec": before}).to_string()}),
            json!([]),
        ),
    ] {
        let mut world = World::new(istio(&json!({})), Settings::default());
        world.kill();
        world.store.create_now(json!({"apiVersion": "networking.istio.io/v1",
            "kind": "VirtualService", "spec": before,
            "metadata": {"name": "api-service", "namespace": NS, "annotations": annotations,
                "ownerReferences": owners}}));
        answer(&world, &[("load-test", 202)]);
        world.boot();
        world.run_until(&["Initialized"]);
        assert_eq!((world.weight(), &route(&world)["spec"]["exportTo"]), (Some(0), &Value::Null));
        let patches = world.store.patches(&route_key());
        world.run_for(minutes(10));
        assert_eq!(world.store.patches(&route_key()), patches, "it is written again and again");
        world.release("2");
        world.run_until(&["Succeeded"]);
        delete(&world);
        world.run_until(&["gone"]);
        assert_eq!(route(&world)["spec"], before);
        assert_eq!(route(&world)["metadata"]["annotations"], annotations);
        assert_eq!(route(&world)["metadata"]["ownerReferences"], owners);
        assert_eq!(apex_selector(&world), r#"{"app":"api-service"}"#);
    }
}

#[test]
fn a_destination_rule_that_was_there_before_is_given_back() {
    let key = Key::new(destination_rule(), NS, "api-service-primary");
    let before = json!({"host": "api-service", "trafficPolicy": {"tls": {"mode": "DISABLE"}}});
    let mut world = World::new(istio(&json!({})), Settings::default());
    world.kill();
    world.store.create_now(json!({"apiVersion": "networking.istio.io/v1",
        "kind": "DestinationRule", "spec": before,
        "metadata": {"name": "api-service-primary", "namespace": NS}}));
    answer(&world, &[("load-test", 202)]);
    world.boot();
    world.run_until(&["Initialized"]);
    let rule = || world.store.find(&key).unwrap().json().clone();
    assert_eq!(rule()["spec"]["host"], "api-service-primary");
    delete(&world);
    world.run_until(&["gone"]);
    let rule = world.store.find(&key).unwrap();
    assert_eq!(rule.json()["spec"], before);
    assert!(rule.annotation("flagger.kubernetes.app/original-configuration").is_none());
}

#[test]
fn a_virtual_service_that_evenkeel_made_goes_with_its_canary() {
    let mut world = initialized(istio(&json!({})));
    world.release("2");
    world.run_for(minutes(3));
    delete(&world);
    world.run_until(&["gone"]);
    assert!(world.store.find(&route_key()).is_none());
    assert_eq!(world.replicas("api-service"), Some(3));
}

#[test]
fn a_virtual_service_without_weights_is_not_taken_for_zero_percent() {
    for lost in [
        json!([{"route": [{"destination": {"host": "elsewhere"}}]}]),
        json!([{"route": [{"destination": {"host": "api-service-primary"}, "weight": 0},
            {"destination": {"host": "api-service-canary"}, "weight": 0}]}]),
        json!([{"route": [{"destination": {"host": "api-service-primary"}, "weight": 100},
                {"destination": {"host": "api-service-canary"}, "weight": 0}]},
            {"match": [{"headers": {"x": {"exact": "y"}}}],
                "route": [{"destination": {"host": "api-service-canary"}}]}]),
    ] {
        let mut world = initialized(istio(&json!({})));
        world.release("2");
        world.run_for(minutes(3));
        world.freeze();
        world.store.change(&route_key(), |body| body["spec"]["http"] = lost);
        world.run_for(minutes(1));
        assert_eq!(world.weight(), Some(0));
        let words = "VirtualService/shop/api-service does not contain routes with weights";
        assert!(world.events().contains(words), "{}", world.events());
        world.resume();
        world.run_until(&["Succeeded"]);
    }
}

#[test]
fn without_istio_nothing_is_done_and_what_to_install_is_said() {
    let mut world = World::new(istio(&json!({})), Settings::default());
    world.store.answer_reads("VirtualService/shop/api-service", 404);
    world.run_for(minutes(5));
    assert_snapshot!(world.condition("Accepted"), @"False KindMissing: the server has no kind VirtualService.networking.istio.io: spec.provider istio needs Istio: install it (the chart istio/base has its CRDs), or write another provider");
    assert!(world.store.find(&Key::of::<Service>(NS, "api-service")).is_none());
    world.store.answer_reads("VirtualService/shop/api-service", 200);
    world.run_until(&["Initialized"]);
    assert_eq!(world.condition("Accepted"), "none");
    delete(&world);
    world.store.answer_reads("VirtualService/shop/api-service", 404);
    world.run_until(&["gone"]);
}

#[test]
fn plain_services_test_a_version_before_its_promotion() {
    let mut world = initialized(plain(&json!({})));
    assert_snapshot!(apex_selector(&world), @r#"{"app":"api-service-primary"}"#);
    world.release("2");
    world.run_until(&["Succeeded"]);
    assert_snapshot!(world.timeline(), @r"
      0s Progressing shown=0 failed=0 route=- target=3
    180s Promoting shown=0 failed=0 route=- target=3
    240s Finalising shown=0 failed=0 route=- target=3
    300s Succeeded shown=0 failed=0 route=- target=0
    ");
    assert_eq!(world.image("api-service-primary"), "2");
    assert_snapshot!(world.queries.lock().unwrap()[0], @r#"sum(rate(http_request_duration_seconds_count{kubernetes_namespace="shop",kubernetes_pod_name=~"api-service-[0-9a-zA-Z]+(-[0-9a-zA-Z]+)"}[1m]))"#);
    assert_snapshot!(apex_selector(&world), @r#"{"app":"api-service-primary"}"#);
    let kinds = ["HTTPRoute", "VirtualService", "DestinationRule"];
    assert!(!world.store.all().iter().any(|obj| kinds.contains(&&*obj.key().kind.kind)));
}

#[test]
fn a_bad_version_behind_plain_services_is_given_up() {
    let mut world = initialized(plain(&json!({"analysis": {"threshold": 2}})));
    world.release("2");
    world.run_for(minutes(1));
    world.traffic.lock().unwrap().error_ratio = Some(0.5);
    world.run_until(&["Failed"]);
    assert_eq!(world.replicas("api-service"), Some(0));
    assert_eq!(world.image("api-service-primary"), "1");
    assert_snapshot!(apex_selector(&world), @r#"{"app":"api-service-primary"}"#);
}

#[test]
fn plain_services_go_back_to_the_target_with_a_deletion() {
    let mut world = initialized(plain(&json!({})));
    world.release("2");
    world.run_for(minutes(1));
    delete(&world);
    world.run_until(&["gone"]);
    assert_snapshot!(apex_selector(&world), @r#"{"app":"api-service"}"#);
    assert_eq!(world.replicas("api-service"), Some(3));
}

#[test]
fn an_apex_that_another_client_points_to_the_canary_is_brought_back() {
    let mut world = initialized(plain(&json!({})));
    world.release("2");
    world.run_for(minutes(1));
    world.freeze();
    world.store.change(&Key::of::<Service>(NS, "api-service"), |body| {
        body["spec"]["selector"] = json!({"app": "api-service"});
    });
    world.run_for(minutes(1));
    assert_snapshot!(apex_selector(&world), @r#"{"app":"api-service-primary"}"#);
}

fn answered(conditions: &Value) -> Value {
    json!({"parents": [{"parentRef": {"name": "public-gateway"},
        "controllerName": "example.com/gateway", "conditions": conditions}]})
}

#[test]
fn a_gateway_that_cannot_listen_is_said_by_the_canary_too() {
    let mut world = World::new(with(&json!({"provider": "gatewayapi:v1"})), Settings::default());
    let unusable = |reason: &str, programmed: &str| {
        json!({"conditions": [
            {"type": "Accepted", "status": "True", "reason": "Accepted", "message": ""},
            {"type": "Programmed", "status": programmed, "reason": reason,
                "message": "127.0.0.1:80 is in use by another process"}]})
    };
    let gateway = world.store.create_now(json!({"kind": "Gateway",
        "apiVersion": "gateway.networking.k8s.io/v1",
        "metadata": {"name": "public-gateway", "namespace": NS},
        "spec": {"gatewayClassName": "evenkeel", "listeners": []},
        "status": unusable("AddressNotUsable", "False")}));
    world.confirming = false;
    world.run_for(minutes(1));
    let route = Key::of::<HttpRoute>(NS, "api-service");
    let answer = |controller: &str| {
        json!({"parents": [{"parentRef": {"name": "public-gateway"},
            "controllerName": controller, "conditions": [{"type": "Accepted", "status": "True",
            "reason": "Accepted", "message": "", "observedGeneration": 1,
            "lastTransitionTime": "2024-01-01T00:00:00Z"}]}]})
    };
    world.store.change(&route, |body| body["status"] = answer("evenkeel.dev/gateway"));
    world.run_for(minutes(1));
    assert_snapshot!(world.condition("GatewaysFound"), @"False GatewayUnserved: Gateway/shop/public-gateway does not serve its listeners: AddressNotUsable: 127.0.0.1:80 is in use by another process");
    // Others say it where only a load balancer is missing.
    world.store.change(&route, |body| body["status"] = answer("example.com/gateway"));
    world.run_for(minutes(1));
    assert_eq!(world.condition("GatewaysFound"), "none");
    world.store.change(&route, |body| body["status"] = answer("evenkeel.dev/gateway"));
    world.store.change(gateway.key(), |body| body["status"] = unusable("Programmed", "True"));
    world.run_for(minutes(1));
    assert_eq!(world.condition("GatewaysFound"), "none");
}

#[test]
fn who_does_not_serve_a_route_is_named_with_the_reason() {
    let mut world = World::new(with(&json!({"provider": "gatewayapi:v1"})), Settings::default());
    world.confirming = false;
    let gateway = world.store.create_now(json!({"kind": "Gateway",
        "apiVersion": "gateway.networking.k8s.io/v1",
        "metadata": {"name": "public-gateway", "namespace": NS},
        "spec": {"gatewayClassName": "nobody", "listeners": []}}));
    world.run_for(minutes(1));
    assert_snapshot!(world.condition("GatewaysFound"), @"False GatewayUnserved: nobody serves Gateway/shop/public-gateway: no implementation of the Gateway API has accepted it; see that GatewayClass nobody exists and its controller runs");
    world.store.change(gateway.key(), |body| {
        body["status"] = json!({"conditions": [{"type": "Accepted", "status": "False",
            "reason": "InvalidParameters", "message": "no such class"}]});
    });
    world.run_for(minutes(1));
    assert_snapshot!(world.condition("GatewaysFound"), @"False GatewayUnserved: Gateway/shop/public-gateway is not accepted: InvalidParameters: no such class");
    let route = Key::of::<HttpRoute>(NS, "api-service");
    let condition = |kind: &str, status: &str, reason: &str, message: &str| {
        json!({"type": kind, "status": status, "reason": reason, "message": message,
            "observedGeneration": 1, "lastTransitionTime": "2024-01-01T00:00:00Z"})
    };
    let refused =
        condition("Accepted", "False", "NotAllowedByListeners", "not from namespace shop");
    world.store.change(&route, |body| body["status"] = answered(&json!([refused])));
    world.run_for(minutes(1));
    assert_snapshot!(world.condition("GatewaysFound"), @"False RouteRefused: Gateway/shop/public-gateway refuses HTTPRoute api-service: NotAllowedByListeners: not from namespace shop");
    assert_eq!(world.phase(), "Initializing");
    let accepted = condition("Accepted", "True", "Accepted", "");
    world.store.change(&route, |body| body["status"] = answered(&json!([accepted])));
    world.run_for(minutes(1));
    assert_eq!(
        (world.phase(), world.condition("GatewaysFound")),
        ("Initialized".into(), "none".into())
    );
    assert_snapshot!(world.condition("WeightsConfirmed"), @"False AcceptedOnly: example.com/gateway reports that it accepts a route, not that it routes by it: the window of a weight starts when the route with that weight is accepted");
}

#[test]
fn a_route_that_names_no_gateway_and_that_nobody_serves_is_said() {
    let spec = json!({"provider": "gatewayapi:v1", "service": {"gateways": null}});
    let mut world = World::new(with(&spec), Settings::default());
    world.confirming = false;
    world.run_for(minutes(2));
    assert_eq!(world.phase(), "Initializing");
    assert_snapshot!(world.condition("GatewaysFound"), @"False NoGateway: nobody serves HTTPRoute/shop/api-service: spec.service.gatewayRefs names no Gateway, and no mesh has accepted a route of Service api-service. Name the Gateway, or run evenkeel's gateway or a mesh that serves routes of Services");
    // A mesh accepts it.
    world.confirming = true;
    world.run_for(minutes(1));
    assert_eq!(world.phase(), "Initialized");
    assert_eq!(world.condition("GatewaysFound"), "none");
}

#[test]
fn what_a_weight_waits_for_is_said_from_the_start() {
    let mut world = World::new(with(&json!({"provider": "gatewayapi:v1"})), Settings::default());
    world.confirming = false;
    world.store.create_now(json!({"kind": "Gateway",
        "apiVersion": "gateway.networking.k8s.io/v1",
        "metadata": {"name": "public-gateway", "namespace": NS},
        "spec": {"gatewayClassName": "example", "listeners": []}}));
    answer(&world, &[("load-test", 202)]);
    let route = Key::of::<HttpRoute>(NS, "api-service");
    let accept = |world: &World| {
        let generation = world.store.find(&route).unwrap().generation();
        let accepted = json!({"type": "Accepted", "status": "True", "reason": "Accepted",
            "message": "", "observedGeneration": generation,
            "lastTransitionTime": "2024-01-01T00:00:00Z"});
        world.store.change(&route, |body| body["status"] = answered(&json!([accepted])));
        generation
    };
    world.run_for(minutes(1));
    accept(&world);
    world.run_until(&["Initialized"]);
    world.release("2");
    world.run_for(minutes(1) + Duration::from_secs(5));
    assert_eq!(world.weight(), Some(10));
    assert_snapshot!(world.condition("Promoted"), @"Unknown Progressing: New revision detected, progressing canary analysis. Waiting until Gateway/shop/public-gateway confirms weight 10 of HTTPRoute/shop/api-service in generation 2");
    world.run_for(Duration::from_secs(35));
    assert_snapshot!(world.condition("WeightsConfirmed"), @"False ConfirmationPending: example.com/gateway has not accepted generation 2 of HTTPRoute/shop/api-service yet, which has weight 10: what it says is about an earlier one");
    accept(&world);
    world.run_for(Duration::from_secs(5));
    assert!(world.condition("WeightsConfirmed").starts_with("False AcceptedOnly"));
    assert!(!world.condition("Promoted").contains("Waiting"), "{}", world.condition("Promoted"));
}

#[test]
fn without_the_gateway_api_what_to_install_is_said() {
    let mut world = World::new(with(&json!({"provider": "gatewayapi:v1"})), Settings::default());
    world.store.answer_reads("HTTPRoute/shop/api-service", 404);
    world.run_for(minutes(5));
    assert_snapshot!(world.condition("Accepted"), @"False KindMissing: the server has no kind HTTPRoute.gateway.networking.k8s.io: install the CRDs of the Gateway API (`evenkeel crds --all` prints HTTPRoute and Gateway), and an implementation that serves them");
    assert!(world.store.find(&Key::of::<Service>(NS, "api-service")).is_none());
}

#[test]
fn another_provider_in_the_middle_of_a_release_takes_the_canary_out_of_traffic() {
    for provider in ["istio", "kubernetes"] {
        let mut world = initialized(article());
        world.release("2");
        world.run_for(minutes(3));
        let route = Key::of::<HttpRoute>(NS, "api-service");
        let weight = |world: &World| {
            let route = world.store.find(&route).unwrap();
            route.json()["spec"]["rules"][0]["backendRefs"][1]["weight"].clone()
        };
        assert_eq!(weight(&world), 20);
        world.freeze();
        world.store.change(&Key::of::<Canary>(NS, "api-service"), |body| {
            body["spec"]["provider"] = provider.into();
        });
        world.run_for(minutes(1));
        assert_eq!(weight(&world), 0, "{provider}: {}", world.events());
    }
}
