//! What is measured, over which time, and what missing data mean.

use super::*;

/// Steps of ten seconds, metrics over a minute.
fn quick() -> Value {
    let mut canary = with(&json!({"analysis": {"interval": "10s", "threshold": 2}}));
    canary["spec"]["analysis"]["webhooks"] = json!([]);
    canary
}

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

#[test]
fn a_metric_is_asked_for_its_own_window_however_short_the_steps_are() {
    let mut world = initialized(quick());
    world.run_for(minutes(2));
    world.release("2");
    world.run_until(&["Succeeded"]);
    let queries = world.queries.lock().unwrap();
    assert!(!queries.is_empty());
    for query in queries.iter() {
        assert!(query.contains("[1m]"), "{query}");
    }
    drop(queries);
    assert_snapshot!(world.timeline(), @r"
    120s Progressing shown=0 failed=0 route=0 target=3
    130s Progressing shown=10 failed=0 route=10 target=3
    140s Progressing shown=20 failed=0 route=20 target=3
    150s Progressing shown=30 failed=0 route=30 target=3
    160s Progressing shown=40 failed=0 route=40 target=3
    170s Progressing shown=50 failed=0 route=50 target=3
    180s Promoting shown=50 failed=0 route=50 target=3
    190s Finalising shown=0 failed=0 route=0 target=3
    200s Succeeded shown=0 failed=0 route=0 target=0
    ");
}

#[test]
fn data_that_come_late_are_waited_for_and_are_no_failed_check() {
    let mut world = initialized(quick());
    world.run_for(minutes(2));
    // The first samples of the new pods come in two scrapes after the first request.
    world.traffic.lock().unwrap().error_ratio = None;
    world.release("2");
    world.run_for(seconds(50));
    assert_eq!((world.phase().as_str(), world.weight()), ("Progressing", Some(10)));
    assert_snapshot!(world.condition("Promoted"), @"Unknown Progressing: New revision detected, progressing canary analysis. Waiting for data of metric request-success-rate: no values found. Without any until 2023-11-14T22:16:40Z the check counts as failed");
    world.traffic.lock().unwrap().error_ratio = Some(0.0);
    world.run_until(&["Succeeded"]);
    assert_eq!(world.canary().json()["status"]["failedChecks"], 0);
    assert!(!world.events().contains("Warning"), "{}", world.events());
}

#[test]
fn data_that_never_come_fail_the_checks_after_the_window() {
    let mut world = initialized(quick());
    world.run_for(minutes(2));
    world.log.lock().unwrap().clear();
    world.traffic.lock().unwrap().error_ratio = None;
    world.release("2");
    world.run_until(&["Failed"]);
    assert_snapshot!(world.timeline(), @r"
    120s Progressing shown=0 failed=0 route=0 target=3
    130s Progressing shown=10 failed=0 route=10 target=3
    200s Progressing shown=10 failed=1 route=10 target=3
    210s Progressing shown=0 failed=2 route=0 target=3
    210s Failed shown=0 failed=2 route=0 target=0
    ");
    assert_snapshot!(world.condition("Promoted"), @"False Failed: Canary analysis failed, Deployment scaled to zero. Failed checks threshold reached 2: request-success-rate: no values found.");
}

#[test]
fn no_check_looks_back_at_the_version_before() {
    let mut world = initialized(quick());
    world.run_for(minutes(2));
    world.traffic.lock().unwrap().error_ratio = Some(0.5);
    world.release("2");
    world.run_until(&["Failed"]);
    // The metrics of the bad version stay in the window of a minute for that long.
    world.queries.lock().unwrap().clear();
    world.release("3");
    world.run_for(seconds(59));
    assert_eq!((world.weight(), world.queries.lock().unwrap().len()), (Some(10), 0));
    assert_snapshot!(world.condition("Promoted"), @"Unknown Progressing: New revision detected, progressing canary analysis. Waiting until 2023-11-14T22:16:50Z: the last 1m of metric request-success-rate still holds requests to another version");
    world.traffic.lock().unwrap().error_ratio = Some(0.0);
    world.run_until(&["Succeeded"]);
    assert_eq!(world.canary().json()["status"]["failedChecks"], 0);
}

#[test]
fn a_version_that_follows_another_in_the_middle_of_its_run_is_judged_alone() {
    let mut world = initialized(quick());
    world.run_for(minutes(2));
    world.release("2");
    world.run_for(seconds(45));
    assert_eq!(world.weight(), Some(40));
    world.release("3");
    world.run_for(seconds(15));
    assert_eq!(world.weight(), Some(10));
    world.queries.lock().unwrap().clear();
    world.run_for(seconds(50));
    assert_eq!((world.weight(), world.queries.lock().unwrap().len()), (Some(10), 0));
    world.run_until(&["Succeeded"]);
}
