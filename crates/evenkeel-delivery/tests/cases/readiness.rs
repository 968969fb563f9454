//! Pods that do not start, die, or of which some are missing.

use super::*;

#[test]
fn a_canary_that_does_not_start_meets_no_user() {
    let mut world = initialized(with(&json!({"progressDeadlineSeconds": 120})));
    world.broken.insert("api-service".into());
    world.release("2");
    world.run_for(minutes(5));
    assert_snapshot!(world.timeline(), @r"
      0s Progressing shown=0 failed=0 route=0 target=3
    180s Failed shown=0 failed=0 route=0 target=0
    ");
    assert_snapshot!(world.events(), @r"
    Normal api-service-primary.shop not ready: waiting for rollout to finish: observed deployment generation less than desired generation
    Normal Initialization done! api-service.shop
    Normal New revision detected! Scaling up api-service.shop
    Normal Waiting for api-service.shop rollout to finish: observed deployment generation less than desired generation
    Normal Waiting for api-service.shop rollout to finish: 0 of 3 (readyThreshold 100%) updated replicas are available
    Warning Rolling back api-service.shop progress deadline exceeded: rollout to finish: 0 of 3 (readyThreshold 100%) updated replicas are available
    Warning Canary failed! Scaling down api-service.shop
    Warning Rolled back api-service.shop in 0s from the decision until no request reached it: progress deadline exceeded: rollout to finish: 0 of 3 (readyThreshold 100%) updated replicas are available
    ");
}

#[test]
fn a_canary_that_dies_is_taken_out_of_traffic_at_once_and_may_come_back() {
    let mut world = initialized(article());
    world.release("2");
    world.run_for(minutes(2) + Duration::from_secs(30));
    world.broken.insert("api-service".into());
    world.run_for(Duration::from_secs(1));
    assert_eq!(world.weight(), Some(0));
    world.broken.clear();
    world.run_until(&["Succeeded"]);
    assert_snapshot!(world.timeline(), @r"
      0s Progressing shown=0 failed=0 route=0 target=3
     60s Progressing shown=10 failed=0 route=10 target=3
    120s Progressing shown=20 failed=0 route=20 target=3
    150s Progressing shown=0 failed=1 route=0 target=3
    210s Progressing shown=10 failed=1 route=10 target=3
    270s Progressing shown=20 failed=1 route=20 target=3
    330s Progressing shown=30 failed=1 route=30 target=3
    390s Progressing shown=40 failed=1 route=40 target=3
    450s Progressing shown=50 failed=1 route=50 target=3
    510s Promoting shown=50 failed=1 route=50 target=3
    570s Finalising shown=0 failed=1 route=0 target=3
    630s Succeeded shown=0 failed=1 route=0 target=0
    ");
}

#[test]
fn a_promotion_that_fails_leaves_the_traffic_where_it_is_served() {
    let mut world = initialized(article());
    world.release("2");
    world.run_until(&["Promoting"]);
    // The primary rolls and its new pods never come up.
    world.broken.insert("api-service-primary".into());
    world.settle();
    world.store.change(&deployment_key("api-service-primary"), |body| {
        body["status"]["conditions"] = json!([{"type": "Progressing", "status": "False",
            "reason": "ProgressDeadlineExceeded"}]);
    });
    world.run_for(minutes(1));
    assert_eq!((world.phase().as_str(), world.weight()), ("Failed", Some(100)));
    assert_eq!(world.image("api-service"), "2");
    // Another version repairs it: judged with all the traffic it has, then promoted.
    world.release("3");
    world.run_for(minutes(1));
    world.broken.clear();
    world.run_until(&["Succeeded"]);
    assert_eq!(world.image("api-service-primary"), "3");
    assert_snapshot!(world.timeline(), @r"
      0s Progressing shown=0 failed=0 route=0 target=3
     60s Progressing shown=10 failed=0 route=10 target=3
    120s Progressing shown=20 failed=0 route=20 target=3
    180s Progressing shown=30 failed=0 route=30 target=3
    240s Progressing shown=40 failed=0 route=40 target=3
    300s Progressing shown=50 failed=0 route=50 target=3
    360s Promoting shown=50 failed=0 route=50 target=3
    360s Failed shown=100 failed=0 route=100 target=3
    420s Progressing shown=100 failed=0 route=100 target=3
    480s Promoting shown=100 failed=0 route=100 target=3
    540s Finalising shown=0 failed=0 route=0 target=3
    600s Succeeded shown=0 failed=0 route=0 target=0
    ");
}

#[test]
fn a_primary_that_limps_holds_the_next_step_but_not_the_checks() {
    let mut world = initialized(with(&json!({"analysis": {"threshold": 2}})));
    world.release("2");
    world.run_for(Duration::from_secs(130));
    world.store.change(&deployment_key("api-service-primary"), |body| {
        body["spec"]["replicas"] = 4.into();
    });
    world.limping.insert("api-service-primary".into());
    world.run_for(minutes(5));
    assert_eq!((world.phase().as_str(), world.weight()), ("Progressing", Some(20)));
    world.traffic.lock().unwrap().error_ratio = Some(0.5);
    world.run_for(minutes(5));
    assert_eq!((world.phase().as_str(), world.weight()), ("Failed", Some(0)));
}
