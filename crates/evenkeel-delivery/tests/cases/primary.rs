//! A primary that has traffic and cannot answer it, or is not what was promoted.

use super::*;

fn primary_key() -> Key {
    deployment_key("api-service-primary")
}

fn scale_primary(world: &World, replicas: i64) {
    world.store.change(&primary_key(), |body| body["spec"]["replicas"] = replicas.into());
}

/// Changes the pod template of the primary by hand.
fn edit(world: &World, change: impl Fn(&mut Value)) {
    world.store.change(&primary_key(), |body| change(&mut body["spec"]["template"]));
}

fn warnings(world: &World, about: &str) -> usize {
    let events = world.events();
    events.lines().filter(|line| line.starts_with("Warning") && line.contains(about)).count()
}

#[test]
fn a_primary_at_rest_without_a_pod_is_said_and_costs_nothing() {
    let mut world = initialized(article());
    world.unchecked = true;
    scale_primary(&world, 0);
    world.run_for(minutes(1));
    assert_snapshot!(world.condition("PrimaryAvailable"), @"False NoReplicas: Deployment/shop/api-service-primary gets 100 % of the traffic and has no replicas: scale it up");
    let (revision, lists) = (world.store.revision(), world.store.reads("Pod"));
    world.run_for(minutes(30));
    assert_eq!((world.store.revision(), world.store.reads("Pod")), (revision, lists));
    assert_eq!(warnings(&world, "has no replicas"), 1, "{}", world.events());
    scale_primary(&world, 3);
    world.run_for(minutes(1));
    assert_eq!(world.condition("PrimaryAvailable"), "none");
    world.broken.insert("api-service-primary".into());
    world.store.create_now(json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "api-service-primary-7", "namespace": NS,
            "labels": {"app": "api-service-primary", "tier": "web"}},
        "status": {"containerStatuses": [{"name": "app", "state": {"waiting": {
            "reason": "CrashLoopBackOff", "message": "back-off"}}}]}}));
    world.run_for(minutes(1));
    assert_snapshot!(world.condition("PrimaryAvailable"), @"False PrimaryUnready: Deployment/shop/api-service-primary gets 100 % of the traffic, and 0 of its 3 pods are available: Pod/shop/api-service-primary-7: container app: CrashLoopBackOff: back-off");
    world.broken.clear();
    world.run_for(minutes(1));
    assert_eq!(world.condition("PrimaryAvailable"), "none");
    // One of three that is missing is no outage.
    world.limping.insert("api-service-primary".into());
    world.run_for(minutes(1));
    assert_eq!(world.condition("PrimaryAvailable"), "none");
}

#[test]
fn a_primary_without_a_pod_is_said_in_a_release() {
    for (phase, pct, share) in [("Progressing", 0, 100), ("Promoting", 50, 50)] {
        let mut world = initialized(article());
        world.unchecked = true;
        world.release("2");
        world.run_until(&[phase]);
        scale_primary(&world, 0);
        world.run_for(Duration::from_secs(63));
        assert_eq!((world.phase().as_str(), world.weight()), (phase, Some(pct)));
        let message = format!("primary gets {share} % of the traffic and has no replicas");
        let condition = world.condition("PrimaryAvailable");
        assert!(condition.starts_with("False NoReplicas") && condition.contains(&message));
        scale_primary(&world, 3);
        world.run_until(&["Succeeded"]);
        assert_eq!(world.condition("PrimaryAvailable"), "none");
        assert_eq!(warnings(&world, &message), 1, "{}", world.events());
    }
}

#[test]
fn a_primary_that_was_edited_by_hand_is_said_until_it_is_what_was_promoted() {
    let mut world = initialized(article());
    let image = |to: &'static str| {
        move |template: &mut Value| template["spec"]["containers"][0]["image"] = to.into()
    };
    edit(&world, image("evenkeel/demo:9"));
    world.run_for(minutes(1));
    assert_snapshot!(world.condition("PrimaryAsPromoted"), @"False PrimaryDiffers: Deployment/shop/api-service-primary does not run the version that was promoted: container app has image evenkeel/demo:9, not evenkeel/demo:1. It stays as it is, and a release that fails goes back to it. Set it back by hand, or release a version, which writes over it");
    world.run_for(minutes(30));
    assert_eq!(world.image("api-service-primary"), "9", "it is left as it is");
    assert_eq!(warnings(&world, "image evenkeel/demo:9"), 1, "{}", world.events());
    edit(&world, image("evenkeel/demo:1"));
    world.run_for(minutes(1));
    assert_eq!(world.condition("PrimaryAsPromoted"), "none");
    // A release goes on all the same, and goes back to it when it fails.
    edit(&world, image("evenkeel/demo:9"));
    world.run_for(minutes(1));
    world.release("2");
    world.run_for(minutes(2));
    world.traffic.lock().unwrap().error_ratio = Some(0.5);
    world.run_until(&["Failed"]);
    assert_ne!(world.condition("PrimaryAsPromoted"), "none");
    world.traffic.lock().unwrap().error_ratio = Some(0.0);
    world.release("3");
    world.run_until(&["Succeeded"]);
    world.run_for(minutes(1));
    assert_eq!(world.condition("PrimaryAsPromoted"), "none");
}

#[test]
fn what_tools_do_to_a_primary_is_no_other_version() {
    let config = json!({"name": "PASSWORD",
        "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "password"}}});
    let mut world = World::new(article(), Settings::default());
    world.kill();
    world.store.create_now(json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "settings", "namespace": NS}, "data": {"password": "x"}}));
    world.store.change(&deployment_key("api-service"), |body| {
        let container = &mut body["spec"]["template"]["spec"]["containers"][0];
        container["env"] = json!([config, {"name": "SERVICE", "value": "api-service"}]);
        container["args"] = json!(["--name=api-service"]);
    });
    answer(&world, &[("load-test", 202)]);
    world.boot();
    world.run_until(&["Initialized"]);
    let read = |world: &World| world.store.find(&primary_key()).unwrap().json().clone();
    let container = &read(&world)["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(container["env"][0]["valueFrom"]["configMapKeyRef"]["name"], "settings-primary");
    scale_primary(&world, 5);
    edit(&world, |template| {
        template["metadata"]["annotations"]["kubectl.kubernetes.io/restartedAt"] = "now".into();
        template["metadata"]["labels"]["team"] = "shop".into();
        let containers = template["spec"]["containers"].as_array_mut().unwrap();
        containers[0]["args"] = json!(["--name=api-service-primary"]);
        containers[0]["resources"] = json!({"requests": {"cpu": "1"}});
        containers[0]["terminationMessagePath"] = "/dev/termination-log".into();
        let env = containers[0]["env"].as_array_mut().unwrap();
        env[1]["value"] = "api-service-primary".into();
        env.push(json!({"name": "STAKATER_SETTINGS_CONFIGMAP", "value": "1f3"}));
        containers.insert(0, json!({"name": "proxy", "image": "envoy:1"}));
    });
    world.run_for(minutes(10));
    assert_eq!(world.condition("PrimaryAsPromoted"), "none");
    // A release that fails leaves it so, as does one that succeeds.
    world.release("2");
    world.run_until(&["Succeeded"]);
    assert_eq!(world.events().matches("does not run the version").count(), 0);
}

#[test]
fn a_variable_or_a_command_of_the_primary_is_named_without_its_value() {
    let mut world = World::new(article(), Settings::default());
    world.kill();
    world.store.change(&deployment_key("api-service"), |body| {
        let container = &mut body["spec"]["template"]["spec"]["containers"][0];
        container["env"] = json!([{"name": "TOKEN", "value": "abc"}]);
    });
    answer(&world, &[("load-test", 202)]);
    world.boot();
    world.run_until(&["Initialized"]);
    edit(&world, |template| {
        let container = &mut template["spec"]["containers"][0];
        container["env"][0]["value"] = "hunter2".into();
        container["args"] = json!(["--verbose"]);
    });
    world.run_for(minutes(1));
    assert_snapshot!(world.condition("PrimaryAsPromoted"), @"False PrimaryDiffers: Deployment/shop/api-service-primary does not run the version that was promoted: container app differs in args, container app differs in variable TOKEN. It stays as it is, and a release that fails goes back to it. Set it back by hand, or release a version, which writes over it");
}

#[test]
fn that_a_rejected_version_takes_over_is_said_when_its_canary_is_deleted() {
    for (fails, said) in [(true, 1), (false, 0)] {
        let mut world = initialized(with(&json!({"revertOnDeletion": true})));
        world.release("2");
        world.run_for(minutes(2));
        if fails {
            world.traffic.lock().unwrap().error_ratio = Some(0.5);
        }
        world.run_until(&["Failed", "Succeeded"]);
        delete(&world);
        world.run_until(&["gone"]);
        let text = "api-service.shop takes the traffic over and runs the version that was rejected";
        assert_eq!(warnings(&world, text), said, "{}", world.events());
    }
}
