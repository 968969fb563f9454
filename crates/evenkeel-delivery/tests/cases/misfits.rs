//! Parts of a Canary's status that another writer has made unreadable.

use super::*;

fn key() -> Key {
    Key::of::<Canary>(NS, "api-service")
}

/// A pointer into the status, and something that does not fit there.
fn misfits() -> Vec<(&'static str, Value)> {
    vec![
        ("/status/errorBudget", json!({"permission": "perhaps"})),
        ("/status/errorBudget", json!("none")),
        ("/status/phase", json!("Somewhere")),
        ("/status/canaryWeight", json!("ten")),
        ("/status/failedChecks", json!({})),
        ("/status/lastAppliedSpec", json!(5)),
        ("/status/lastPromotedSpec", json!([])),
        ("/status/trackedConfigs", json!({"configmap/a": 7})),
        ("/status/lastTransitionTime", json!("yesterday")),
        ("/status/conditions", json!("fine")),
        ("/status/conditions/0", json!({"type": 5})),
        ("/status/evenkeel", json!("gone")),
        ("/status/evenkeel/tick", json!(-1)),
        ("/status/evenkeel/tickedAt", json!("soon")),
        ("/status", json!("gone")),
    ]
}

fn spoil(world: &World, (pointer, value): &(&str, Value)) {
    world.store.change(&key(), |body| {
        let (parent, field) = pointer.rsplit_once('/').unwrap();
        match body.pointer_mut(parent).unwrap() {
            Value::Array(items) => items[0] = value.clone(),
            parent => parent[field] = value.clone(),
        }
    });
}

fn delete(world: &World) {
    let now = world.now().to_string();
    world.store.change(&key(), |body| body["metadata"]["deletionTimestamp"] = now.into());
}

#[test]
fn a_canary_is_deleted_whatever_its_status_says() {
    for misfit in misfits() {
        for released in [false, true] {
            let mut world = initialized(article());
            if released {
                world.release("2");
                world.run_for(Duration::from_secs(150));
                assert_eq!(world.weight(), Some(20), "{misfit:?}");
            }
            spoil(&world, &misfit);
            delete(&world);
            world.run_for(minutes(5));
            let left = world.store.find(&key());
            assert!(left.is_none(), "{misfit:?}: {}\n{}", world.events(), left.unwrap().json());
            assert_eq!((world.weight(), world.replicas("api-service")), (None, Some(3)));
        }
    }
}

#[test]
fn a_canary_is_deleted_though_the_server_keeps_no_status() {
    let mut world = initialized(article());
    world.store.prune("Canary", "/status");
    delete(&world);
    world.run_for(minutes(5));
    assert!(world.store.find(&key()).is_none(), "{}", world.events());
    assert_eq!((world.weight(), world.replicas("api-service")), (None, Some(3)));
}

#[test]
fn a_bad_version_is_taken_back_whatever_the_status_says() {
    for misfit in misfits() {
        let mut world = initialized(article());
        world.release("2");
        world.run_for(Duration::from_secs(150));
        assert_eq!(world.weight(), Some(20), "{misfit:?}");
        // The ramp may begin anew, from another phase.
        world.unchecked = true;
        world.traffic.lock().unwrap().error_ratio = Some(0.5);
        spoil(&world, &misfit);
        world.run_for(minutes(15));
        assert_eq!(world.weight(), Some(0), "{misfit:?}: {}", world.timeline());
        assert_eq!(world.image("api-service-primary"), "1", "{misfit:?}");
        assert_ne!(world.condition("Accepted"), "False ObjectUnreadable", "{misfit:?}");
    }
}

#[test]
fn a_good_version_arrives_whatever_the_status_says() {
    for misfit in misfits() {
        let mut world = initialized(article());
        world.release("2");
        world.run_for(Duration::from_secs(150));
        world.unchecked = true;
        spoil(&world, &misfit);
        world.run_until(&["Succeeded"]);
        assert_eq!(world.image("api-service-primary"), "2", "{misfit:?}");
        assert_eq!(world.condition("Accepted"), "none", "{misfit:?}");
    }
}

#[test]
fn a_part_that_cannot_be_read_is_named_and_written_anew() {
    let mut world = initialized(article());
    world.release("2");
    world.run_for(Duration::from_secs(150));
    world.unchecked = true;
    spoil(&world, &("/status/evenkeel/tick", json!("many")));
    world.settle();
    assert_eq!(world.weight(), Some(0));
    assert!(world.canary().json()["status"]["evenkeel"]["tick"].is_u64());
    let said = world.events();
    assert!(said.contains("status.evenkeel.tick: must be a whole number"), "{said}");
}

#[test]
fn nothing_begins_on_a_budget_that_cannot_be_read() {
    let mut world = initialized(article());
    spoil(&world, &("/status/errorBudget", json!({"slo": "shop/api/x", "permission": "perhaps"})));
    world.release("2");
    world.run_for(minutes(3));
    assert_eq!((world.phase().as_str(), world.weight()), ("Waiting", Some(0)));
    let said = world.condition("BudgetAllows");
    assert!(said.starts_with("False BudgetUnreadable: Halt"), "{said}");
    assert!(said.contains("status.errorBudget.permission"), "{said}");
    budget::set(&world, "allow", "BudgetHealthy", 0);
    world.run_until(&["Succeeded"]);
    assert_eq!(world.condition("BudgetAllows"), "none");
}
