//! The objects that a Canary makes around its target.

use super::*;

fn service(world: &World, name: &str) -> Value {
    world.store.find(&Key::of::<Service>(NS, name)).unwrap().json()["spec"].clone()
}

#[test]
fn the_primary_gets_the_targets_labels_and_annotations_and_nobodys_bookkeeping() {
    let mut world = World::new(article(), Settings::default());
    world.kill();
    world.answers.lock().unwrap().insert("load-test", 202);
    world.store.change(&deployment_key("api-service"), |body| {
        body["metadata"]["labels"] = json!({"app": "api-service", "team": "pay"});
        body["metadata"]["annotations"] = json!({"team.example.com/owner": "pay",
            "kubectl.kubernetes.io/last-applied-configuration": "{}",
            "deployment.kubernetes.io/revision": "3", "evenkeel.dev/managed": "true"});
    });
    world.boot();
    world.run_until(&["Initialized"]);
    let metadata = |world: &World| {
        let found = world.store.find(&deployment_key("api-service-primary")).unwrap();
        let metadata = &found.json()["metadata"];
        format!("{} {}", metadata["labels"], metadata["annotations"])
    };
    assert_snapshot!(metadata(&world), @r#"{"app":"api-service-primary","team":"pay"} {"team.example.com/owner":"pay"}"#);
    // Those of others stay, and new ones come with the next promotion.
    world.store.change(&deployment_key("api-service-primary"), |body| {
        body["metadata"]["annotations"]["other.example.com/mark"] = "kept".into();
    });
    world.store.change(&deployment_key("api-service"), |body| {
        body["metadata"]["labels"]["tier"] = "gold".into();
        body["metadata"]["annotations"]["team.example.com/owner"] = "shop".into();
    });
    world.release("2");
    world.run_until(&["Succeeded"]);
    assert_snapshot!(metadata(&world), @r#"{"app":"api-service-primary","team":"pay","tier":"gold"} {"team.example.com/owner":"shop","other.example.com/mark":"kept"}"#);
}

#[test]
fn discovered_ports_never_collide() {
    let canary = with(&json!({"service": {"port": 3000, "targetPort": 3000,
        "portDiscovery": true}}));
    let mut world = World::new(canary, Settings::default());
    world.kill();
    world.store.change(&deployment_key("api-service"), |body| {
        body["spec"]["template"]["spec"]["containers"][0]["ports"] = json!([
            {"name": "http", "containerPort": 8080}, {"name": "mcp", "containerPort": 8081},
            {"name": "http-ui", "containerPort": 3000}, {"containerPort": 53},
            {"containerPort": 53, "protocol": "UDP"}, {"name": "mcp-2", "containerPort": 8081}]);
    });
    world.boot();
    world.run_until(&["Initialized"]);
    let spec = service(&world, "api-service-primary");
    let ports = spec["ports"].as_array().unwrap().iter().map(|port| {
        format!("{}:{}/{}", port["name"].as_str().unwrap(), port["port"], port["protocol"])
    });
    assert_snapshot!(ports.collect::<Vec<_>>().join(" "), @r#"http:3000/"TCP" tcp-app-0:8080/"TCP" mcp:8081/"TCP" tcp-app-3:53/"TCP" udp-app-4:53/"UDP""#);
    // Only the Canary's own port is split; the others are the primary's.
    let route = world.store.find(&Key::of::<HttpRoute>(NS, "api-service")).unwrap();
    assert_eq!(route.json().pointer("/spec/parentRefs/0/port"), Some(&3000.into()));
}

/// A Deployment labelled as the Kubernetes documentation recommends, and its Canary.
fn recommended(world: &World, name: &str) {
    let mut deployment = world::deployment(name, "1");
    let labels = json!({"app.kubernetes.io/name": "app", "app.kubernetes.io/instance": name});
    deployment["spec"]["selector"]["matchLabels"] = labels.clone();
    deployment["spec"]["template"]["metadata"]["labels"] = labels;
    world.store.create_now(deployment);
    let mut canary = article();
    canary["metadata"]["name"] = name.into();
    canary["spec"]["targetRef"]["name"] = name.into();
    world.store.create_now(canary);
}

#[test]
fn services_distinguish_two_instances_of_one_app() {
    let mut world = initialized(article());
    for name in ["app-a", "app-b"] {
        recommended(&world, name);
    }
    world.run_for(minutes(1));
    for name in ["app-a", "app-b"] {
        let canary = world.store.find(&Key::of::<Canary>(NS, name)).unwrap();
        assert_eq!(canary.json()["status"]["phase"], "Initialized", "{}", canary.json());
        for suffix in ["", "-primary", "-canary"] {
            let service = format!("{name}{suffix}");
            let key = Key::of::<k8s_openapi::api::discovery::v1::EndpointSlice>(NS, &service);
            let slice = world.store.find(&key).unwrap();
            for endpoint in slice.json()["endpoints"].as_array().unwrap() {
                let pod = endpoint.pointer("/targetRef/name").unwrap().as_str().unwrap();
                assert!(pod.starts_with(name), "{service}: {pod}");
            }
        }
    }
    assert_snapshot!(service(&world, "app-a-primary")["selector"], @r#"{"app.kubernetes.io/instance":"app-a","app.kubernetes.io/name":"app-primary"}"#);
    assert_snapshot!(service(&world, "app-a-canary")["selector"], @r#"{"app.kubernetes.io/instance":"app-a","app.kubernetes.io/name":"app"}"#);
}

#[test]
fn an_apex_that_was_there_keeps_its_ports_and_loses_none_of_its_callers() {
    let mut world = World::new(article(), Settings::default());
    world.kill();
    world.store.create_now(json!({"apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "api-service", "namespace": NS},
        "spec": {"selector": {"app": "api-service", "tier": "web"}, "ports": [
            {"name": "web", "port": 80, "targetPort": "http", "nodePort": 30080},
            {"name": "metrics", "port": 9100, "targetPort": 9100}]}}));
    world.boot();
    world.run_until(&["Initialized"]);
    assert_snapshot!(service(&world, "api-service"), @r#"{"selector":{"app":"api-service-primary","tier":"web"},"ports":[{"name":"web","port":80,"targetPort":"http","nodePort":30080},{"name":"metrics","port":9100,"targetPort":9100}]}"#);
    let route = world.store.find(&Key::of::<HttpRoute>(NS, "api-service")).unwrap();
    assert_eq!(route.json().pointer("/spec/parentRefs/0/port"), Some(&80.into()));
    let key = Key::of::<Canary>(NS, "api-service");
    world.store.change(&key, |body| {
        body["metadata"]["deletionTimestamp"] = "2024-01-01T00:00:00Z".into();
    });
    world.run_for(minutes(5));
    assert!(world.store.find(&key).is_none(), "{}", world.events());
    assert_snapshot!(service(&world, "api-service"), @r#"{"selector":{"app":"api-service","tier":"web"},"ports":[{"name":"web","port":80,"targetPort":"http","nodePort":30080},{"name":"metrics","port":9100,"targetPort":9100}]}"#);
}

#[test]
fn an_apex_without_the_canarys_port_gets_it() {
    let mut world = World::new(article(), Settings::default());
    world.kill();
    world.store.create_now(json!({"apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "api-service", "namespace": NS},
        "spec": {"selector": {"app": "api-service"}, "ports": [
            {"name": "http", "port": 9100, "targetPort": 9100}]}}));
    world.boot();
    world.run_until(&["Initialized"]);
    assert_snapshot!(service(&world, "api-service")["ports"], @r#"[{"name":"http","port":9100,"targetPort":9100},{"name":"canary","port":80,"protocol":"TCP","targetPort":8080}]"#);
}

#[test]
fn what_is_not_acted_on_becomes_a_condition_and_changes_nothing() {
    let mut world = World::new(with(&json!({"service": {"headless": true}})), Settings::default());
    world.run_for(minutes(1));
    assert_snapshot!(world.condition("Accepted"), @"False InvalidSpec: spec.service.headless: is not supported: the gateway routes by the Services' cluster addresses; remove it");
    assert!(world.store.find(&Key::of::<Service>(NS, "api-service")).is_none());
}

#[test]
fn a_gateway_that_does_not_exist_is_named() {
    let mut world = initialized(article());
    assert_snapshot!(world.condition("GatewaysFound"), @"False GatewayMissing: Gateway/shop/public-gateway not found: the route is attached to it as soon as it exists");
    world.store.create_now(json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway",
        "metadata": {"name": "public-gateway", "namespace": NS},
        "spec": {"gatewayClassName": "x", "listeners": []}}));
    world.run_for(minutes(1));
    assert_eq!(world.condition("GatewaysFound"), "none");
}

#[test]
fn a_gateway_without_mesh_confirms_although_it_refuses_the_service() {
    let mut world = World::new(article(), Settings::default());
    world.confirming = false;
    world.store.create_now(json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway",
        "metadata": {"name": "public-gateway", "namespace": NS},
        "spec": {"gatewayClassName": "x", "listeners": []}}));
    world.run_for(minutes(1));
    assert_eq!(world.phase(), "Initializing");
    let parent = |kind: &str, accepted: &str| {
        json!({"parentRef": {"kind": kind, "name": "x"}, "controllerName": "example.com/gateway",
            "conditions": [{"type": "Accepted", "status": accepted, "observedGeneration": 1,
                "reason": "x", "message": "", "lastTransitionTime": "2024-01-01T00:00:00Z"}]})
    };
    world.store.change(&Key::of::<HttpRoute>(NS, "api-service"), |body| {
        body["status"] =
            json!({"parents": [parent("Service", "False"), parent("Gateway", "True")]});
    });
    world.run_for(minutes(1));
    assert_eq!(world.phase(), "Initialized");
}
