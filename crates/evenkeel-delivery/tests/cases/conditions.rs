//! What a Canary says of itself.

use super::*;

#[test]
fn conditions_stay_the_same_while_event_webhooks_are_called() {
    let hook = json!({"name": "pager", "type": "event", "url": "http://pager/"});
    let mut world = initialized(with(&json!({"analysis": {"webhooks": [hook]}})));
    budget::set(&world, "deny", "BudgetFrozen", 0);
    world.release("2");
    world.run_for(Duration::from_secs(15));
    let first = world.condition("BudgetAllows");
    assert!(first.starts_with("False BudgetFrozen"), "{first}");
    // The webhook never answers: its call for the hold takes its whole timeout.
    for second in 0..300 {
        budget::set(&world, "deny", "BudgetFrozen", 0);
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

#[test]
fn what_keeps_pods_from_starting_stands_in_the_condition() {
    let mut world = initialized(article());
    world.broken.insert("api-service".into());
    world.store.create_now(json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "api-service-7", "namespace": NS, "labels": {"app": "api-service"}},
        "status": {"containerStatuses": [{"name": "app", "state": {"waiting": {
            "reason": "ImagePullBackOff", "message": "Back-off pulling image \"demo:2\""}}}]}}));
    world.release("2");
    world.run_for(Duration::from_secs(5));
    assert_snapshot!(world.condition("Promoted"), @r#"Unknown Progressing: New revision detected, progressing canary analysis. Waiting for api-service.shop rollout to finish: 0 of 3 (readyThreshold 100%) updated replicas are available: Pod/shop/api-service-7: container app: ImagePullBackOff: Back-off pulling image "demo:2""#);
    world.run_until(&["Failed"]);
    assert_snapshot!(world.condition("Promoted"), @r#"False Failed: Canary analysis failed, Deployment scaled to zero. Progress deadline exceeded: rollout to finish: 0 of 3 (readyThreshold 100%) updated replicas are available: Pod/shop/api-service-7: container app: ImagePullBackOff: Back-off pulling image "demo:2"."#);
}

#[test]
fn what_is_held_is_not_said_to_go_on() {
    let mut world = initialized(article());
    world.release("2");
    world.run_for(Duration::from_secs(90));
    world.burn();
    world.run_for(minutes(10));
    assert_snapshot!(world.condition("Promoted"), @"Unknown Progressing: The next step is held, see the condition Held. New revision detected, progressing canary analysis.");
    world.resume();
    world.run_for(minutes(6));
    assert!(!world.condition("Promoted").contains("held"), "{}", world.condition("Promoted"));
    assert_eq!(world.condition("Held"), "none");
    let mut world = initialized(article());
    budget::set(&world, "deny", "BudgetFrozen", 0);
    world.release("2");
    world.run_for(minutes(3));
    assert_snapshot!(world.condition("Promoted"), @"Unknown Waiting: Waiting for the error budget, see the condition BudgetAllows.");
}

#[test]
fn a_field_of_a_wrong_type_is_named_once() {
    let mut world = initialized(article());
    world.store.change(&Key::of::<Canary>(NS, "api-service"), |body| {
        body["spec"]["analysis"]["stepWeight"] = "ten".into();
    });
    world.run_for(minutes(10));
    assert_snapshot!(world.condition("Accepted"), @r#"False InvalidSpec: spec.analysis.stepWeight: must be a whole number, not the text "ten""#);
    assert_eq!(world.condition("Stalled"), "none");
    assert_eq!(world.events().matches("stepWeight").count(), 1, "{}", world.events());
}

#[test]
fn a_duration_beyond_all_sense_is_refused() {
    let interval = "99999999999999999m";
    let metric = json!([{"name": "request-success-rate", "thresholdRange": {"min": 99},
        "interval": "2161h"}]);
    let hook = json!([{"name": "load-test", "url": "http://x/", "timeout": "25h"}]);
    let mut said = Vec::new();
    for analysis in [
        json!({"interval": interval}),
        json!({"metrics": metric}),
        json!({"webhooks": hook}),
        json!({"interval": "0s"}),
    ] {
        let mut world = World::new(with(&json!({"analysis": analysis})), Settings::default());
        world.run_for(minutes(1));
        said.push(world.condition("Accepted"));
    }
    assert_snapshot!(said.join("\n"), @r#"
    False InvalidSpec: spec.analysis.interval: "99999999999999999m" must not be longer than 168h, for example 1m
    False InvalidSpec: spec.analysis.metrics[0].interval: "2161h" must not be longer than 2160h, for example 1m
    False InvalidSpec: spec.analysis.webhooks[0].timeout: "25h" must not be longer than 24h, for example 1m
    False InvalidSpec: spec.analysis.interval: "0s" must be longer than 0, for example 1m
    "#);
}
