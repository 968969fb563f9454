//! A person, a freeze or a full disk stops automation: the way back stays open.

use super::*;

/// The article's Canary at 20 %, with a threshold of two.
fn at_twenty(patch: &Value) -> World {
    let mut canary = with(&json!({"analysis": {"threshold": 2}}));
    merge(&mut canary, &json!({"spec": patch}));
    let mut world = initialized(canary);
    answer(&world, &[("back", 403)]);
    world.release("2");
    world.run_for(minutes(2) + Duration::from_secs(1));
    assert_eq!(world.weight(), Some(20));
    world
}

#[test]
fn a_bad_version_is_taken_out_of_traffic_although_its_webhooks_are_held() {
    let mut world = at_twenty(&json!({}));
    world.stop();
    world.traffic.lock().unwrap().error_ratio = Some(0.5);
    world.run_for(minutes(3));
    assert_eq!(world.weight(), Some(0), "{}", world.timeline());
}

#[test]
fn a_version_without_data_does_not_keep_its_traffic_although_its_webhooks_are_held() {
    let mut world = at_twenty(&json!({}));
    world.stop();
    world.traffic.lock().unwrap().error_ratio = None;
    world.run_for(minutes(5));
    assert_eq!(world.weight(), Some(0), "{}", world.timeline());
}

#[test]
fn a_held_webhook_is_asked_about_now_and_then_and_called_when_it_may_be() {
    let mut world = at_twenty(&json!({}));
    world.stop();
    let queries = world.queries.lock().unwrap().len();
    world.run_for(minutes(10));
    assert_eq!(world.weight(), Some(20));
    let queries = world.queries.lock().unwrap().len() - queries;
    assert!(queries <= 3 * 6 * 10, "{queries} queries in ten minutes");
    world.resume();
    world.run_until(&["Succeeded"]);
}

#[test]
fn a_load_test_goes_on_while_the_checks_fail() {
    let mut world = at_twenty(&json!({"analysis": {"threshold": 5}}));
    let calls = world.calls.lock().unwrap().len();
    world.traffic.lock().unwrap().error_ratio = Some(0.5);
    world.run_until(&["Failed"]);
    // At the threshold no more webhooks are called.
    assert_eq!(world.calls.lock().unwrap().len() - calls, 4);
}

#[test]
fn a_person_can_roll_back_by_webhook_while_all_else_is_stopped() {
    let hook = json!({"name": "back", "type": "rollback", "url": "http://gate/"});
    let mut world = at_twenty(&json!({"analysis": {"webhooks": [hook]}}));
    world.stop();
    answer(&world, &[("back", 200)]);
    world.run_for(minutes(2));
    assert_eq!(world.weight(), Some(0), "{}", world.timeline());
}

fn alerts() -> Value {
    let alert = json!({"name": "chat", "severity": "error", "providerRef": {"name": "chat"}});
    json!({"analysis": {"alerts": [alert]}})
}

#[test]
fn a_rollback_pages_and_ends_while_all_else_is_stopped() {
    for stop in [World::freeze, World::stop] {
        let mut world = at_twenty(&alerts());
        stop(&mut world);
        world.traffic.lock().unwrap().error_ratio = Some(0.5);
        world.run_for(minutes(3));
        let at = world.timeline();
        assert_eq!(
            (world.phase().as_str(), world.replicas("api-service")),
            ("Failed", Some(0)),
            "{at}"
        );
        let expected = "error Rolling back api-service.shop, its traffic goes to the primary: \
                        failed checks threshold reached 2: request-success-rate 50.00% < 99%";
        assert_eq!(*world.mail.lock().unwrap(), [expected]);
    }
}

#[test]
fn a_rollback_pages_although_the_gateway_never_confirms_it() {
    let mut world = at_twenty(&alerts());
    world.confirming = false;
    world.run_for(minutes(4));
    assert_eq!((world.phase().as_str(), world.weight()), ("Progressing", Some(0)));
    assert_eq!(world.mail.lock().unwrap().len(), 1);
}

#[test]
fn a_target_that_is_scaled_down_otherwise_waits_for_the_freeze_to_end() {
    let mut world = initialized(article());
    world.release("2");
    world.run_until(&["Finalising"]);
    world.freeze();
    world.run_for(minutes(5));
    assert_eq!(world.phase(), "Finalising");
    world.resume();
    world.run_until(&["Succeeded"]);
}
