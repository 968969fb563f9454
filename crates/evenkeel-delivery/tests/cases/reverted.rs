//! A Canary that has served is deleted while its primary, its target or its gateway is not ready.

use super::*;

/// How the Canary ended: weight, what the apex selects, and the target's replicas.
fn state(world: &World) -> (Option<i64>, String, Option<i64>) {
    let apex = world.store.find(&Key::of::<Service>(NS, "api-service")).unwrap();
    let app = apex.json()["spec"]["selector"]["app"].as_str().unwrap_or_default().to_owned();
    (world.weight(), app, world.replicas("api-service"))
}

/// Its last pod is evicted just as the Canary is deleted, and the target's start slowly.
fn deleted_in_a_gap(canary: Value) -> World {
    let mut world = initialized(canary);
    world.broken.extend(["api-service".into(), "api-service-primary".into()]);
    world.settle();
    delete(&world);
    world.run_for(minutes(1));
    world
}

#[test]
fn a_primary_that_is_away_for_a_moment_is_not_left_for_a_target_that_is_not_ready() {
    for canary in [article(), routers::istio(&json!({})), routers::plain(&json!({}))] {
        let mut world = deleted_in_a_gap(canary);
        // That nothing serves is said, also while the Canary is deleted.
        assert!(world.condition("PrimaryAvailable").starts_with("False PrimaryUnready"));
        let (weight, app, replicas) = state(&world);
        assert_eq!((weight.unwrap_or_default(), replicas), (0, Some(3)), "{}", world.timeline());
        assert_eq!(app, "api-service-primary", "{}", world.timeline());
        world.broken.remove("api-service-primary");
        world.run_for(minutes(3));
        assert_eq!(world.phase(), "Terminating");
        assert_eq!(world.condition("PrimaryAvailable"), "none");
        world.broken.clear();
        world.run_until(&["gone"]);
        assert_eq!(state(&world), (None, "api-service".to_owned(), Some(3)));
    }
}

#[test]
fn a_gap_counts_as_one_although_the_server_keeps_no_status() {
    let mut world = initialized(article());
    world.broken.extend(["api-service".into(), "api-service-primary".into()]);
    world.store.prune("Canary", "/status");
    delete(&world);
    world.run_for(minutes(5));
    assert_eq!(state(&world), (Some(0), "api-service-primary".to_owned(), Some(3)));
}

#[test]
fn a_target_that_does_not_become_ready_is_named_with_the_way_out() {
    let mut world = deleted_in_a_gap(with(&json!({"progressDeadlineSeconds": 120})));
    assert_eq!(world.condition("Accepted"), "none");
    world.run_for(minutes(3));
    assert_snapshot!(world.condition("Accepted"), @"False CanaryUnready: api-service.shop is still not ready to take over after 2m (spec.progressDeadlineSeconds): waiting for rollout to finish: 0 of 3 (readyThreshold 100%) updated replicas are available. Until it is, the Canary is not deleted: its primary would go with it, and nothing would be left that serves. Correct Deployment/shop/api-service. To delete it without giving the traffic back, take its finalizer finalizer.flagger.app off");
    let warnings = |world: &World| {
        world.events().lines().filter(|line| line.contains("finalizer.flagger.app")).count()
    };
    world.run_for(minutes(30));
    assert_eq!((warnings(&world), world.phase().as_str()), (1, "Terminating"));
    // The documented way out.
    world.store.change(&canary_key(), |body| body["metadata"]["finalizers"] = json!([]));
    world.run_for(minutes(1));
    assert_eq!(world.phase(), "gone");
    assert_eq!(world.replicas("api-service"), Some(3));
}

#[test]
fn a_deletion_that_the_gateway_holds_up_says_so() {
    let mut world = initialized(article());
    world.confirming = false;
    let route = Key::of::<HttpRoute>(NS, "api-service");
    world.store.change(&route, |body| {
        let conditions = body.pointer_mut("/status/parents/0/conditions").unwrap();
        let mut accepted = conditions[0].clone();
        accepted["type"] = "Accepted".into();
        conditions.as_array_mut().unwrap().push(accepted);
    });
    delete(&world);
    world.run_for(minutes(5));
    assert_eq!(world.weight(), Some(100));
    let said = "Waiting until the gateway confirms that api-service.shop has all traffic";
    assert!(world.events().contains(said), "{}", world.events());
    world.confirming = true;
    world.run_until(&["gone"]);
}

#[test]
fn a_version_that_does_not_start_loses_its_share_when_its_canary_is_deleted() {
    let mut world = initialized(article());
    world.release("2");
    world.run_for(Duration::from_secs(90));
    assert_eq!(world.weight(), Some(10));
    // Both before the next look, which would take its share away by itself.
    world.kill();
    world.broken.insert("api-service".into());
    world.settle();
    delete(&world);
    world.boot();
    world.run_for(minutes(1));
    assert_eq!(state(&world), (Some(0), "api-service-primary".to_owned(), Some(3)));
    world.run_for(minutes(30));
    assert_eq!((world.phase().as_str(), world.weight()), ("Terminating", Some(0)));
    world.broken.clear();
    world.run_until(&["gone"]);
    assert_eq!(state(&world), (None, "api-service".to_owned(), Some(3)));
}

#[test]
fn a_primary_that_is_not_there_any_more_is_not_kept() {
    let mut world = initialized(article());
    world.broken.insert("api-service".into());
    world.store.remove(&deployment_key("api-service-primary"));
    delete(&world);
    world.run_until(&["gone"]);
    assert_eq!(state(&world).1, "api-service");
}
