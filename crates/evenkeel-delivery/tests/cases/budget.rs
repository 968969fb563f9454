//! What a Canary makes of its error budget.

use super::*;

/// The SLO controller's answer, found `age` seconds ago.
pub(crate) fn set(world: &World, permission: &str, reason: &str, age: i64) {
    let observed_at = world.now().as_second() - age;
    let budget = json!({"slo": "shop/api/api-requests", "state": "frozen",
        "permission": permission, "reason": reason, "message": "0.0 % of the budget is left",
        "observedAt": observed_at});
    let key = Key::of::<Canary>(NS, "api-service");
    world.store.change(&key, |body| body["status"]["errorBudget"] = budget);
}

fn condition(world: &World) -> String {
    world.condition("BudgetAllows")
}

#[test]
fn a_frozen_budget_holds_the_start_until_it_recovers() {
    let mut world = initialized(article());
    set(&world, "deny", "BudgetFrozen", 0);
    world.release("2");
    world.run_for(minutes(3));
    assert_eq!((world.phase().as_str(), world.weight()), ("Waiting", Some(0)));
    assert_eq!(world.replicas("api-service"), Some(0), "nothing is started");
    assert_snapshot!(condition(&world), @"False BudgetFrozen: Halt api-service.shop advancement shop/api/api-requests: 0.0 % of the budget is left");
    set(&world, "allow", "BudgetHealthy", 0);
    world.run_until(&["Succeeded"]);
    assert_eq!(condition(&world), "none");
    let halts = world.events().matches("Halt").count();
    assert_eq!(halts, 1, "said once: {}", world.events());
}

#[test]
fn an_answer_nobody_repeats_holds_and_one_without_policy_does_not() {
    let mut world = initialized(article());
    set(&world, "allow", "BudgetHealthy", 3_600);
    world.release("2");
    world.run_for(minutes(3));
    assert_eq!(world.phase(), "Waiting");
    assert!(condition(&world).contains("last looked at"), "{}", condition(&world));
    set(&world, "allow", "NoPolicy", 3_600);
    world.run_until(&["Succeeded"]);
}

#[test]
fn little_budget_makes_the_steps_longer() {
    let start_to_end = |permission: &str| {
        let mut world = initialized(article());
        set(&world, permission, "NoPolicy", 0);
        world.release("2");
        let from = world.now();
        world.run_until(&["Succeeded"]);
        world.now().duration_since(from).as_secs_f64()
    };
    let (normal, slower) = (start_to_end("allow"), start_to_end("slower"));
    assert!(slower > normal * 1.8, "{normal} s, {slower} s");
}

#[test]
fn a_version_that_is_taken_back_while_it_waits_is_forgotten() {
    let mut world = initialized(article());
    set(&world, "deny", "BudgetFrozen", 0);
    let image = world.image("api-service");
    world.release("2");
    world.run_for(minutes(2));
    assert_eq!(world.phase(), "Waiting");
    world.release(&image);
    world.run_for(minutes(2));
    assert_eq!(world.phase(), "Initialized");
    assert_eq!(condition(&world), "none");
}

#[test]
fn a_canary_is_deleted_while_its_budget_burns() {
    let mut world = initialized(article());
    world.burn();
    let key = Key::of::<Canary>(NS, "api-service");
    world.store.change(&key, |body| {
        body["metadata"]["deletionTimestamp"] = "2024-01-01T00:00:00Z".into();
    });
    world.run_for(minutes(5));
    assert!(world.store.find(&key).is_none(), "{}", world.events());
    assert_eq!(world.replicas("api-service"), Some(3));
}

#[test]
fn a_canary_is_deleted_while_nothing_is_known_of_its_budget() {
    for (permission, reason) in [("approve", "BudgetUnknown"), ("deny", "BudgetFrozen")] {
        let mut world = initialized(article());
        set(&world, permission, reason, 0);
        let key = Key::of::<Canary>(NS, "api-service");
        world.store.change(&key, |body| {
            body["metadata"]["deletionTimestamp"] = "2024-01-01T00:00:00Z".into();
        });
        world.run_for(minutes(5));
        assert!(world.store.find(&key).is_none(), "{permission}: {}", world.events());
        assert_eq!(world.replicas("api-service"), Some(3), "{permission}");
    }
}

#[test]
fn a_canary_takes_over_from_a_primary_that_is_gone_while_the_budget_burns() {
    let mut world = initialized(article());
    world.release("2");
    world.run_for(Duration::from_secs(90));
    assert_eq!(world.weight(), Some(10));
    world.burn();
    world.unchecked = true;
    world.store.remove(&deployment_key("api-service-primary"));
    world.run_for(Duration::from_secs(1));
    assert_eq!(world.weight(), Some(100));
}

#[test]
fn a_step_up_is_held_while_the_budget_burns() {
    let mut world = initialized(article());
    world.release("2");
    world.run_for(Duration::from_secs(90));
    world.burn();
    world.run_for(minutes(10));
    assert_eq!((world.phase().as_str(), world.weight()), ("Progressing", Some(10)));
    assert!(world.condition("Held").starts_with("True ActionHeld"), "{}", world.condition("Held"));
}
