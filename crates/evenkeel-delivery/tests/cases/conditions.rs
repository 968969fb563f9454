//! What a Canary says of itself.

use super::*;

#[test]
fn conditions_stand_still_while_event_webhooks_are_told() {
    let hook = json!({"name": "pager", "type": "event", "url": "http://pager/"});
    let mut world = initialized(with(&json!({"analysis": {"webhooks": [hook]}})));
    budget::tell(&world, "deny", "BudgetFrozen", 0);
    world.release("2");
    world.run_for(Duration::from_secs(15));
    let first = world.condition("BudgetAllows");
    assert!(first.starts_with("False BudgetFrozen"), "{first}");
    // The webhook never answers: it is told of the hold for the whole of its timeout.
    for second in 0..300 {
        budget::tell(&world, "deny", "BudgetFrozen", 0);
        world.run_for(Duration::from_secs(1));
        assert_eq!(world.condition("BudgetAllows"), first, "after {second} s");
    }
    assert_eq!(world.events().matches("Halt").count(), 1, "{}", world.events());
}

#[test]
fn a_failed_check_stands_in_the_condition_with_value_and_threshold() {
    let mut world = initialized(with(&json!({"analysis": {"threshold": 3}})));
    world.traffic.lock().unwrap().error_ratio = Some(0.048);
    world.release("2");
    world.run_for(minutes(2) + Duration::from_secs(30));
    assert_snapshot!(world.condition("Promoted"), @"Unknown Progressing: New revision detected, progressing canary analysis. 1 of 3 failed checks, the last one: request-success-rate 95.20% < 99%.");
    world.run_until(&["Failed"]);
    assert_snapshot!(world.condition("Promoted"), @"False Failed: Canary analysis failed, Deployment scaled to zero. Failed checks threshold reached 3: request-success-rate 95.20% < 99%.");
    // What is over is not said of the next run.
    world.traffic.lock().unwrap().error_ratio = Some(0.0);
    world.release("3");
    world.run_for(minutes(2));
    assert_snapshot!(world.condition("Promoted"), @"Unknown Progressing: New revision detected, progressing canary analysis.");
    world.run_until(&["Succeeded"]);
    assert_snapshot!(world.condition("Promoted"), @"True Succeeded: Canary analysis completed successfully, promotion finished.");
}

#[test]
fn a_wait_stands_in_the_condition_for_as_long_as_it_lasts() {
    let mut world = initialized(article());
    world.broken.insert("api-service".into());
    world.release("2");
    world.run_for(Duration::from_secs(5));
    assert_snapshot!(world.condition("Promoted"), @"Unknown Progressing: New revision detected, progressing canary analysis. Waiting for api-service.shop rollout to finish: 0 of 3 (readyThreshold 100%) updated replicas are available");
    world.broken.clear();
    world.run_for(Duration::from_secs(5));
    assert_snapshot!(world.condition("Promoted"), @"Unknown Progressing: New revision detected, progressing canary analysis.");
}

#[test]
fn a_promotion_that_fails_is_not_called_an_analysis_that_failed() {
    let mut world = initialized(article());
    world.release("2");
    world.run_until(&["Promoting"]);
    world.broken.insert("api-service-primary".into());
    world.settle();
    world.store.change(&deployment_key("api-service-primary"), |body| {
        body["status"]["conditions"] = json!([{"type": "Progressing", "status": "False",
            "reason": "ProgressDeadlineExceeded"}]);
    });
    world.run_for(minutes(1));
    assert_eq!((world.weight(), world.replicas("api-service")), (Some(100), Some(3)));
    assert_snapshot!(world.condition("Promoted"), @"False Failed: Promotion failed, the primary is not ready: deployment exceeded its progress deadline. All traffic stays on the canary, which keeps running.");
}
