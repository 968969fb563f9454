//! What is there before a Canary makes its own, and a Canary that never got so far.

use evenkeel_api::beside::MANAGED;

use super::*;

/// A world whose controller has not seen anything yet.
fn before() -> World {
    let mut world = World::new(article(), Settings::default());
    world.kill();
    answer(&world, &[("load-test", 202)]);
    world
}

fn is_gone(world: &World) -> bool {
    let left = world.store.find(&canary_key());
    left.is_none_or(|left| left.meta().finalizers.iter().flatten().next().is_none())
}

#[test]
fn a_deployment_of_somebody_else_is_not_overwritten() {
    let mut world = before();
    let mut theirs = world::deployment("api-service-primary", "9");
    theirs["metadata"]["labels"] = json!({"team": "other"});
    world.store.create_now(theirs);
    let key = deployment_key("api-service-primary");
    let spec = |world: &World| world.store.find(&key).unwrap().json()["spec"].clone();
    let was = spec(&world);
    world.boot();
    world.run_for(minutes(5));
    assert_eq!(spec(&world), was);
    assert_eq!(world.replicas("api-service"), Some(3));
    assert_snapshot!(world.condition("Accepted"), @r#"False NameTaken: Deployment/shop/api-service-primary is there already and not of this Canary: rename one of the two, or hand it over by the annotation evenkeel.dev/managed: "true" on it"#);
    world.store.change(&key, |body| {
        body["metadata"]["annotations"] = json!({MANAGED: "true"});
    });
    // It runs another version, so the target's is a release.
    world.run_until(&["Succeeded"]);
}

#[test]
fn a_service_of_somebody_else_is_not_taken_over() {
    let mut world = before();
    world.store.create_now(json!({"apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "api-service-primary", "namespace": NS},
        "spec": {"selector": {"app": "other"}, "ports": [{"port": 9999}]}}));
    world.boot();
    world.run_for(minutes(5));
    let key = Key::of::<Service>(NS, "api-service-primary");
    let service = world.store.find(&key).unwrap();
    assert_eq!(service.json()["spec"]["selector"], json!({"app": "other"}));
    assert_snapshot!(world.condition("Accepted"), @r#"False NameTaken: Service/shop/api-service-primary is there already and not of this Canary: rename one of the two, or hand it over by the annotation evenkeel.dev/managed: "true" on it"#);
    world.store.remove(&key);
    world.run_until(&["Initialized"]);
}

#[test]
fn what_a_canary_of_that_name_has_left_is_gone_on_with() {
    let mut world = initialized(article());
    world.kill();
    let canary = world.canary().json()["spec"].clone();
    world.store.remove(&canary_key());
    let mut again = article();
    again["spec"] = canary;
    world.store.create_now(again);
    world.boot();
    world.run_until(&["Initialized"]);
}

#[test]
fn a_canary_whose_pods_never_started_can_be_deleted() {
    for service in [None, Some("ExternalName")] {
        let mut world = before();
        world.unchecked = true;
        if let Some(kind) = service {
            world.store.create_now(json!({"apiVersion": "v1", "kind": "Service",
                "metadata": {"name": "api-service", "namespace": NS},
                "spec": {"type": kind, "externalName": "example.com"}}));
        } else {
            world.broken.extend(["api-service".into(), "api-service-primary".into()]);
        }
        world.boot();
        world.run_for(minutes(5));
        delete(&world);
        world.run_for(minutes(2));
        assert!(is_gone(&world), "{service:?}: {}", world.timeline());
    }
}

#[test]
fn a_primary_that_serves_is_kept_until_its_target_does() {
    let mut world = initialized(article());
    world.broken.insert("api-service".into());
    delete(&world);
    world.run_for(minutes(10));
    assert!(!is_gone(&world));
    world.broken.clear();
    world.run_for(minutes(5));
    assert!(is_gone(&world), "{}", world.timeline());
}
