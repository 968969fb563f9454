//! Inputs that break in the middle of a run: traffic goes back to the primary.

use super::*;

/// A release that has a share of the traffic.
fn running() -> World {
    let mut world = initialized(with(&json!({"analysis": {"threshold": 2}})));
    world.release("2");
    world.run_for(Duration::from_secs(150));
    assert_eq!((world.phase().as_str(), world.weight()), ("Progressing", Some(20)));
    world.unchecked = true;
    world
}

#[test]
fn a_target_that_is_deleted_loses_its_traffic_at_once_and_may_come_back() {
    let mut world = running();
    world.store.remove(&deployment_key("api-service"));
    world.run_for(Duration::from_secs(1));
    assert_eq!((world.phase().as_str(), world.weight()), ("Progressing", Some(0)));
    assert_snapshot!(world.condition("Accepted"), @"False TargetMissing: Deployment/shop/api-service does not exist: create it, or correct spec.targetRef.name. Until then all traffic goes to the primary");
    world.run_for(minutes(30));
    assert_eq!(world.phase(), "Progressing");
    world.store.create_now(world::deployment("api-service", "2"));
    world.run_until(&["Succeeded"]);
    assert_eq!(
        (world.condition("Accepted"), world.image("api-service-primary")),
        ("none".to_owned(), "2".to_owned())
    );
}

#[test]
fn a_spec_that_is_edited_to_something_refused_sends_traffic_back() {
    let mut world = running();
    world.store.change(&canary_key(), |body| body["spec"]["provider"] = "nginx".into());
    world.run_for(Duration::from_secs(1));
    assert_eq!((world.weight(), world.replicas("api-service")), (Some(0), Some(3)));
    assert_snapshot!(world.condition("Accepted"), @r#"False InvalidSpec: spec.provider: "nginx" is not served by evenkeel; known are gatewayapi:v1, gatewayapi:v1beta1, istio, kubernetes, linkerd, traefik; without one evenkeel's gateway routes. Until then all traffic goes to the primary"#);
    world.run_for(minutes(10));
    world.store.change(&canary_key(), |body| body["spec"]["provider"] = Value::Null);
    world.run_until(&["Succeeded"]);
    assert_eq!(world.condition("Accepted"), "none");
}

#[test]
fn a_spec_that_cannot_be_read_sends_traffic_back() {
    let mut world = running();
    world.store.change(&canary_key(), |body| body["spec"]["analysis"]["threshold"] = "x".into());
    world.run_for(Duration::from_secs(1));
    assert_eq!(world.weight(), Some(0));
    assert_snapshot!(world.condition("Accepted"), @r#"False InvalidSpec: spec.analysis.threshold: must be a whole number, not the text "x". Until then all traffic goes to the primary"#);
    world.store.change(&canary_key(), |body| body["spec"]["analysis"]["threshold"] = 2.into());
    world.run_until(&["Succeeded"]);
}

#[test]
fn a_rollback_that_is_due_is_done_whatever_the_spec_says() {
    let mut world = running();
    world.confirming = false;
    world.traffic.lock().unwrap().error_ratio = Some(0.5);
    world.run_for(minutes(3));
    assert_eq!((world.phase().as_str(), world.weight()), ("Progressing", Some(0)));
    assert!(world.canary().json().pointer("/status/evenkeel/rollback/cause").is_some());
    world.store.change(&canary_key(), |body| body["spec"]["provider"] = "nginx".into());
    world.store.change(&Key::of::<HttpRoute>(NS, "api-service"), |body| {
        body["spec"]["rules"][0]["backendRefs"][1]["weight"] = 20.into();
    });
    world.confirming = true;
    world.run_for(minutes(1));
    assert_eq!((world.phase().as_str(), world.weight()), ("Failed", Some(0)));
    assert_eq!(world.replicas("api-service"), Some(0));
    assert!(world.condition("Accepted").starts_with("False InvalidSpec"));
}

#[test]
fn an_older_canary_on_the_same_target_ends_the_exposure() {
    let mut world = running();
    let mut rival = article();
    rival["metadata"]["name"] = "a-rival".into();
    rival["spec"]["service"]["name"] = "a-rival".into();
    rival["spec"]["suspend"] = true.into();
    world.store.create_now(rival);
    world.store.change(&canary_key(), |body| body["metadata"]["labels"] = json!({"touched": "1"}));
    world.run_for(Duration::from_secs(1));
    assert_eq!(world.weight(), Some(0));
    assert_snapshot!(world.condition("Accepted"), @"False DuplicateTarget: Canary/shop/a-rival has the same spec.targetRef (Deployment/api-service) and is older: delete one of the two. Until then all traffic goes to the primary");
}

#[test]
fn without_a_primary_that_serves_the_weight_stays_and_is_reported() {
    let mut world = running();
    world.broken.insert("api-service-primary".into());
    world.settle();
    world.store.change(&canary_key(), |body| body["spec"]["provider"] = "nginx".into());
    world.run_for(minutes(1));
    assert_eq!(world.weight(), Some(20));
    assert_snapshot!(world.condition("Accepted"), @r#"False InvalidSpec: spec.provider: "nginx" is not served by evenkeel; known are gatewayapi:v1, gatewayapi:v1beta1, istio, kubernetes, linkerd, traefik; without one evenkeel's gateway routes. The canary keeps its 20 % of the traffic: no replica of api-service-primary is available"#);
    world.broken.clear();
    world.run_for(minutes(1));
    assert_eq!(world.weight(), Some(0));
}

#[test]
fn an_endpoint_slice_that_cannot_be_read_stops_no_check() {
    let mut world = running();
    world.store.create_now(json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "addressType": "IPv4", "endpoints": [{"conditions": {"ready": "yes"}}, 7], "ports": "all",
        "metadata": {"name": "spoilt", "namespace": NS,
            "labels": {"kubernetes.io/service-name": "api-service-canary"}}}));
    world.run_for(minutes(1));
    assert_eq!(world.weight(), Some(30));
    world.traffic.lock().unwrap().error_ratio = Some(0.5);
    world.run_until(&["Failed"]);
    assert_eq!(world.weight(), Some(0));
}

#[test]
fn a_target_that_cannot_be_read_sends_traffic_back() {
    let mut world = running();
    world.store.change(&deployment_key("api-service"), |body| {
        body["spec"]["strategy"] = "fast".into();
    });
    world.run_for(Duration::from_secs(1));
    assert_eq!(world.weight(), Some(0));
    let said = world.condition("Accepted");
    assert!(said.starts_with("False ObjectUnreadable: Deployment/shop/api-service"), "{said}");
}

#[test]
fn a_rollback_ends_only_when_a_target_that_could_not_be_read_is_scaled_down() {
    let mut world = running();
    world.traffic.lock().unwrap().error_ratio = Some(0.5);
    world.confirming = false;
    world.run_for(minutes(3));
    assert_eq!((world.phase().as_str(), world.weight()), ("Progressing", Some(0)));
    let store = world.store.clone();
    let strategy = |strategy: Value| {
        store.change(&deployment_key("api-service"), |body| {
            body["spec"]["strategy"] = strategy;
        });
    };
    strategy("fast".into());
    world.confirming = true;
    world.run_for(minutes(10));
    assert_eq!((world.phase().as_str(), world.replicas("api-service")), ("Progressing", Some(3)));
    let said = world.condition("Accepted");
    assert!(said.starts_with("False ObjectUnreadable: Deployment/shop/api-service"), "{said}");
    strategy(json!({}));
    world.run_until(&["Failed"]);
    assert_eq!(world.replicas("api-service"), Some(0));
}

#[test]
fn a_canary_is_deleted_without_a_gap_also_when_its_spec_is_refused() {
    let mut world = initialized(article());
    world.store.change(&canary_key(), |body| {
        body["spec"]["provider"] = "nginx".into();
        body["metadata"]["deletionTimestamp"] = "2024-01-01T00:00:00Z".into();
    });
    world.run_for(minutes(5));
    assert!(world.store.find(&canary_key()).is_none(), "{}", world.events());
    assert_eq!(world.replicas("api-service"), Some(3));
    let apex = world.store.find(&Key::of::<Service>(NS, "api-service")).unwrap();
    assert_eq!(apex.json()["spec"]["selector"], json!({"app": "api-service"}));
}

#[test]
fn a_canary_and_its_target_can_be_deleted_together_in_the_middle_of_a_run() {
    let mut world = running();
    // No pod is left to serve users.
    world.unchecked = true;
    world.store.remove(&deployment_key("api-service"));
    world.store.change(&canary_key(), |body| {
        body["metadata"]["deletionTimestamp"] = "2024-01-01T00:00:00Z".into();
    });
    world.run_for(minutes(5));
    assert!(world.store.find(&canary_key()).is_none(), "{}", world.events());
    assert!(world.store.find(&deployment_key("api-service")).is_none());
}

#[test]
fn a_server_that_does_not_keep_our_status_gets_no_release() {
    let mut world = initialized(article());
    world.store.prune("Canary", "/status/evenkeel");
    world.release("2");
    world.run_for(minutes(10));
    assert_eq!((world.phase().as_str(), world.weight()), ("Initialized", Some(0)));
    assert_snapshot!(world.condition("Accepted"), @"False StatusPruned: status.evenkeel, without which a release cannot go on after a restart, is not there. If the Canary was written anew without its annotations, as by `kubectl replace`, it is made again. If it stays away, the API server does not keep it, and evenkeel cannot read the CustomResourceDefinition canaries.flagger.app to keep it elsewhere: allow it to get, list and watch customresourcedefinitions, or apply the definition that `evenkeel crds --all` prints");
}

#[test]
fn a_server_that_stops_keeping_our_status_ends_the_exposure() {
    let mut world = running();
    world.store.prune("Canary", "/status/evenkeel");
    world.run_for(Duration::from_secs(1));
    assert_eq!(world.weight(), Some(0));
    assert!(world.condition("Accepted").starts_with("False StatusPruned"));
    world.run_for(minutes(10));
    assert_eq!((world.phase().as_str(), world.weight()), ("Progressing", Some(0)));
}

#[test]
fn a_service_that_is_renamed_during_a_run_leaves_no_traffic_behind() {
    let mut world = running();
    world.store.change(&canary_key(), |body| body["spec"]["service"]["name"] = "front".into());
    world.run_for(Duration::from_secs(1));
    assert_eq!(world.weight(), Some(0));
    assert!(
        world.events().contains("HTTPRoute/shop/api-service no longer belongs to this Canary"),
        "{}",
        world.events()
    );
    world.run_until(&["Succeeded"]);
}

#[test]
fn a_primary_that_is_deleted_during_a_run_leaves_its_users_to_the_canary() {
    let mut world = running();
    world.store.remove(&deployment_key("api-service-primary"));
    world.run_for(Duration::from_secs(1));
    assert_eq!(world.weight(), Some(100));
    assert!(world.condition("Accepted").starts_with("False PrimaryMissing"));
}

#[test]
fn a_canary_that_dies_after_a_promotion_that_failed_leaves_its_users_to_the_primary() {
    let mut world = initialized(article());
    world.release("2");
    world.run_until(&["Promoting"]);
    world.limping.insert("api-service-primary".into());
    world.settle();
    world.store.change(&deployment_key("api-service-primary"), |body| {
        body["status"]["conditions"] = json!([{"type": "Progressing", "status": "False",
            "reason": "ProgressDeadlineExceeded"}]);
    });
    world.weight_max = 100;
    world.run_for(minutes(1));
    assert_eq!((world.phase().as_str(), world.weight()), ("Failed", Some(100)));
    world.unchecked = true;
    world.broken.insert("api-service".into());
    world.run_for(Duration::from_secs(1));
    assert_eq!(world.weight(), Some(0));
    assert_snapshot!(world.condition("Promoted"), @"False Failed: The run failed. No replica of api-service.shop is available: all traffic goes to api-service-primary.shop.");
}

#[test]
fn a_suspended_run_says_that_its_weight_stays() {
    let mut world = running();
    world.store.change(&canary_key(), |body| body["spec"]["suspend"] = true.into());
    world.run_for(minutes(5));
    assert_eq!(world.weight(), Some(20));
    assert!(
        world.events().contains("is suspended: the canary keeps its 20 % of the traffic"),
        "{}",
        world.events()
    );
}
