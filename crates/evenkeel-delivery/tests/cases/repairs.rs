//! Objects that something else keeps changing.

use super::*;

fn route_key() -> Key {
    Key::of::<HttpRoute>(NS, "api-service")
}

/// A Canary with a time limit, on a server whose Gateway API does not know time limits.
fn old_gateway_api() -> World {
    let canary = with(&json!({"service": {"timeout": "15s"}, "analysis": {"threshold": 2}}));
    let mut world = World::new(canary, Settings::default());
    world.answers.lock().unwrap().insert("load-test", 202);
    world.store.prune("HTTPRoute", "/spec/rules/0/timeouts");
    world.run_until(&["Initialized"]);
    world
}

#[test]
fn a_field_that_the_server_does_not_keep_is_reported_and_not_set_forever() {
    let mut world = old_gateway_api();
    world.run_for(minutes(60));
    assert_snapshot!(world.condition("ObjectsInSync"), @"False RepairNotKept: HTTPRoute/shop/api-service (spec.rules[0].timeouts; set 17 times) keeps being changed back: the API server or another controller does not keep it");
    let patches = world.store.patches(&route_key());
    assert!((3..25).contains(&patches), "{patches} in an hour");
    let said = world.events().matches("does not keep it").count();
    assert_eq!(said, 1, "{}", world.events());
}

#[test]
fn a_field_that_the_server_does_not_keep_stops_neither_release_nor_rollback() {
    let mut world = old_gateway_api();
    world.run_for(minutes(2));
    world.log.lock().unwrap().clear();
    world.release("2");
    world.run_until(&["Succeeded"]);
    assert_snapshot!(world.timeline(), @r"
    120s Progressing shown=0 failed=0 route=0 target=3
    180s Progressing shown=10 failed=0 route=10 target=3
    240s Progressing shown=20 failed=0 route=20 target=3
    300s Progressing shown=30 failed=0 route=30 target=3
    360s Progressing shown=40 failed=0 route=40 target=3
    420s Progressing shown=50 failed=0 route=50 target=3
    480s Promoting shown=50 failed=0 route=50 target=3
    540s Finalising shown=0 failed=0 route=0 target=3
    600s Succeeded shown=0 failed=0 route=0 target=0
    ");
    world.traffic.lock().unwrap().error_ratio = Some(0.5);
    world.release("3");
    world.run_until(&["Failed"]);
    assert_eq!((world.weight(), world.image("api-service-primary")), (Some(0), "2".to_owned()));
}

#[test]
fn what_is_in_order_again_is_not_called_a_problem() {
    let mut world = old_gateway_api();
    world.run_for(minutes(2));
    assert_ne!(world.condition("ObjectsInSync"), "none");
    world.store.change(&Key::of::<Canary>(NS, "api-service"), |body| {
        body["spec"]["service"]["timeout"] = Value::Null;
    });
    world.run_for(minutes(2));
    assert_eq!(world.condition("ObjectsInSync"), "none");
}

#[test]
fn what_a_person_changes_in_the_canary_to_and_fro_is_carried_out_at_once() {
    let mut world = initialized(article());
    for round in 0..8 {
        let host = if round % 2 == 0 { "shp.example.com" } else { "shop.example.com" };
        world.store.change(&Key::of::<Canary>(NS, "api-service"), |body| {
            body["spec"]["service"]["hosts"] = json!([host]);
        });
        world.run_for(Duration::from_secs(1));
        let route = world.store.find(&route_key()).unwrap();
        assert_eq!(route.json()["spec"]["hostnames"], json!([host]), "round {round}");
        assert_eq!(world.condition("ObjectsInSync"), "none");
    }
}

#[test]
fn a_service_that_is_deleted_during_a_run_is_made_again() {
    let mut world = initialized(article());
    world.release("2");
    world.run_for(minutes(2));
    let key = Key::of::<Service>(NS, "api-service-canary");
    world.store.remove(&key);
    world.run_for(Duration::from_secs(1));
    assert!(world.store.find(&key).is_some());
    world.run_until(&["Succeeded"]);
    assert!(
        world.events().contains("Repairing Service/shop/api-service-canary, which is missing"),
        "{}",
        world.events()
    );
}

#[test]
fn somebody_who_changes_a_service_back_all_the_time_holds_the_ramp_but_not_the_checks() {
    let mut world = initialized(with(&json!({"analysis": {"threshold": 2}})));
    world.release("2");
    world.run_for(Duration::from_secs(90));
    assert_eq!(world.weight(), Some(10));
    world.meddler = Some(|store| {
        store.change(&Key::of::<Service>(NS, "api-service-primary"), |body| {
            body["spec"]["ports"][0]["targetPort"] = 9999.into();
        });
    });
    world.run_for(minutes(30));
    assert_eq!((world.phase().as_str(), world.weight()), ("Progressing", Some(10)));
    let patches = world.store.patches(&Key::of::<Service>(NS, "api-service-primary"));
    assert!((3..20).contains(&patches), "{patches} in half an hour");
    assert_snapshot!(world.condition("ObjectsInSync"), @"False RepairNotKept: Service/shop/api-service-primary (spec.ports[0].targetPort; set 11 times) keeps being changed back: the API server or another controller does not keep it");
    world.traffic.lock().unwrap().error_ratio = Some(0.5);
    world.run_for(minutes(3));
    assert_eq!((world.phase().as_str(), world.weight()), ("Failed", Some(0)));
}

#[test]
fn a_failing_check_counts_before_anything_is_repaired() {
    let mut world = initialized(with(&json!({"analysis": {"threshold": 1}})));
    world.release("2");
    world.run_for(Duration::from_secs(119));
    world.traffic.lock().unwrap().error_ratio = Some(0.5);
    world.kill();
    world.store.remove(&Key::of::<Service>(NS, "api-service-canary"));
    world.run_for(Duration::from_secs(2));
    // Only one more write gets through: the decision to roll back.
    world.store.die_after(Some(1));
    world.boot();
    world.settle();
    assert!(world.store.find(&Key::of::<Service>(NS, "api-service-canary")).is_none());
    assert!(world.canary().json().pointer("/status/evenkeel/rollback/cause").is_some());
}

#[test]
fn a_rollback_ends_when_the_route_is_deleted_meanwhile() {
    let mut world = initialized(with(&json!({"analysis": {"threshold": 1}})));
    world.release("2");
    world.run_for(Duration::from_secs(90));
    world.traffic.lock().unwrap().error_ratio = Some(0.5);
    world.confirming = false;
    world.run_for(minutes(2));
    assert_eq!((world.phase().as_str(), world.weight()), ("Progressing", Some(0)));
    world.store.remove(&route_key());
    world.confirming = true;
    world.run_for(minutes(1));
    assert_eq!((world.phase().as_str(), world.weight()), ("Failed", Some(0)));
}
