//! Reads that the server refuses: what may not be looked at may be there.

use super::*;

const APEX: &str = "Service/shop/api-service";
const ROUTE: &str = "HTTPRoute/shop/api-service";
const TARGET: &str = "Deployment/shop/api-service";
const PRIMARY: &str = "Deployment/shop/api-service-primary";
const TEMPLATE: &str = "MetricTemplate/shop/errors";

fn measured() -> Value {
    let metric = json!({"name": "errors", "interval": "1m", "thresholdRange": {"max": 1},
        "templateRef": {"name": "errors"}});
    let alert = json!({"name": "chat", "severity": "info", "providerRef": {"name": "chat"}});
    with(&json!({"analysis": {"threshold": 2, "metrics": [metric], "alerts": [alert]}}))
}

/// A service whose release is judged by a template, initialized.
fn at_rest() -> World {
    let mut world = World::new(measured(), Settings::default());
    world.kill();
    answer(&world, &[("load-test", 202)]);
    world.store.create_now(json!({"apiVersion": "flagger.app/v1beta1", "kind": "MetricTemplate",
        "metadata": {"name": "errors", "namespace": NS},
        "spec": {"provider": {"type": "prometheus"}, "query": "errors{code=~\"5.*\"}"}}));
    world.store.create_now(json!({"apiVersion": "flagger.app/v1beta1", "kind": "AlertProvider",
        "metadata": {"name": "chat", "namespace": NS},
        "spec": {"type": "slack", "address": "http://chat/"}}));
    world.boot();
    world.run_until(&["Initialized"]);
    world
}

/// A release of it that has a share of the traffic.
fn running() -> World {
    let mut world = initialized(with(&json!({"analysis": {"threshold": 2, "alerts": [
        {"name": "chat", "severity": "info", "providerRef": {"name": "chat"}}]}})));
    world.store.create_now(json!({"apiVersion": "flagger.app/v1beta1", "kind": "AlertProvider",
        "metadata": {"name": "chat", "namespace": NS},
        "spec": {"type": "slack", "address": "http://chat/"}}));
    world.release("2");
    world.run_for(Duration::from_secs(150));
    assert_eq!((world.phase().as_str(), world.weight()), ("Progressing", Some(20)));
    world
}

#[test]
fn a_canary_is_not_deleted_while_what_it_gives_back_may_not_be_read() {
    for what in [TARGET, PRIMARY, ROUTE, APEX, "Service/shop/api-service-primary", "EndpointSlice"]
    {
        for code in [401, 403, PAGE] {
            let mut world = at_rest();
            world.store.answer_reads(what, code);
            delete(&world);
            world.run_for(minutes(10));
            assert!(world.store.find(&canary_key()).is_some(), "{what} {code}: it is gone");
            let said =
                format!("{} {}", world.condition("Accepted"), world.condition("ObjectsReadable"));
            let name = what.trim_start_matches("EndpointSlice");
            assert!(said.contains(name) && said.contains("HTTP status"), "{what} {code}: {said}");
            world.store.answer_reads(what, 200);
            world.run_for(minutes(10));
            assert!(world.store.find(&canary_key()).is_none(), "{what} {code}: {}", world.events());
            assert_eq!(world.replicas("api-service"), Some(3), "{what} {code}");
            let apex = world.store.find(&Key::of::<Service>(NS, "api-service")).unwrap();
            assert_eq!(apex.json()["spec"]["selector"], json!({"app": "api-service"}));
        }
    }
}

#[test]
fn a_canary_that_waits_to_be_deleted_says_for_what_and_how_to_do_without() {
    let mut world = at_rest();
    world.store.answer_reads(TARGET, 403);
    delete(&world);
    world.run_for(minutes(1));
    assert_snapshot!(world.condition("Accepted"), @"False ObjectUnreadable: Deployment/shop/api-service cannot be read: Deployment/shop/api-service: HTTP status 403. Until that can be read, the Canary is not deleted: its target could be left without replicas. To delete it without giving the traffic back, take its finalizer finalizer.flagger.app off");
    assert_eq!(world.events().lines().filter(|line| line.contains("finalizer")).count(), 1);
}

#[test]
fn a_deletion_does_not_wait_for_what_it_does_not_need() {
    for code in [401, 403, 404, PAGE, 500] {
        let mut world = at_rest();
        world.store.answer_reads(TEMPLATE, code);
        world.store.answer_reads("AlertProvider/shop/chat", code);
        delete(&world);
        world.run_for(minutes(10));
        assert!(world.store.find(&canary_key()).is_none(), "{code}: {}", world.events());
        assert_eq!(world.replicas("api-service"), Some(3), "{code}: {}", world.events());
    }
}

#[test]
fn a_route_that_may_not_be_read_is_not_said_to_send_nobody_to_the_canary() {
    for code in [403, 404, PAGE] {
        let mut world = running();
        world.store.answer_reads(ROUTE, code);
        world.run_for(minutes(5));
        let said = world.condition("Accepted");
        assert!(said.starts_with("False WeightUnknown: "), "{code}: {said}");
        assert!(!said.contains("all traffic goes to the primary"), "{code}: {said}");
        if code == 403 {
            assert_snapshot!(said, @"False WeightUnknown: HTTPRoute/shop/api-service cannot be read: HTTPRoute/shop/api-service: HTTP status 403. api-service.shop may still get 20 % of the traffic (the last known weight): it cannot be judged or taken out of traffic until HTTPRoute/shop/api-service can be read");
        }
        let mail = world.mail.lock().unwrap().clone();
        let alerts = mail.iter().filter(|line| line.contains("may still get 20 %")).count();
        assert_eq!(alerts, 1, "{code}: {mail:?}");
        assert_eq!((world.phase().as_str(), world.weight()), ("Progressing", Some(20)));
        world.store.answer_reads(ROUTE, 200);
        world.run_until(&["Succeeded"]);
        assert_eq!(world.condition("Accepted"), "none");
    }
}

#[test]
fn a_rollback_that_is_due_waits_for_its_route_and_does_not_blame_the_gateway() {
    let mut world = running();
    world.broken.insert("api-service-primary".to_owned());
    world.traffic.lock().unwrap().error_ratio = Some(0.5);
    world.run_for(minutes(4));
    assert_eq!((world.phase().as_str(), world.weight()), ("Progressing", Some(20)));
    assert!(world.events().contains("cannot be taken out of traffic"), "{}", world.events());
    world.store.answer_reads(ROUTE, 403);
    world.broken.clear();
    world.run_for(minutes(5));
    let said = world.condition("Accepted");
    assert!(said.starts_with("False WeightUnknown: "), "{said}");
    assert!(said.contains("may still get 20 %"), "{said}");
    assert!(said.contains("It is to be rolled back: "), "{said}");
    assert!(!world.events().contains("Look at the status of"), "{}", world.events());
    assert_eq!((world.phase().as_str(), world.replicas("api-service")), ("Progressing", Some(3)));
    world.store.answer_reads(ROUTE, 200);
    world.run_until(&["Failed"]);
    assert_eq!(world.weight(), Some(0));
}

#[test]
fn a_canary_that_is_suspended_does_not_say_what_it_does_not_know() {
    let mut world = running();
    world.store.answer_reads(ROUTE, 403);
    world.store.change(&canary_key(), |body| body["spec"]["suspend"] = true.into());
    world.run_for(minutes(1));
    let events = world.events();
    assert!(events.contains("the last known weight is 20 %"), "{events}");
}

#[test]
fn the_pods_of_a_primary_that_may_not_be_read_take_the_traffic_back() {
    let mut world = running();
    world.store.answer_reads(PRIMARY, 403);
    world.run_for(minutes(1));
    assert_eq!(world.weight(), Some(0), "{}", world.events());
    assert!(!world.events().to_lowercase().contains("no replica"), "{}", world.events());
    world.store.answer_reads(PRIMARY, 200);
    world.run_until(&["Succeeded"]);
}

#[test]
fn a_primary_of_which_nothing_is_known_is_not_said_to_be_down() {
    let mut world = running();
    world.store.answer_reads(PRIMARY, 403);
    world.store.answer_reads("EndpointSlice", 403);
    world.run_for(minutes(5));
    assert_eq!(world.weight(), Some(20));
    let said = world.condition("Accepted");
    assert!(said.contains("cannot be read, and no ready pod of it is known"), "{said}");
    assert!(!said.contains("no replica"), "{said}");
}

#[test]
fn services_that_may_not_be_read_let_the_version_be_judged() {
    for (what, code) in [(APEX, 403), ("EndpointSlice", 403), ("EndpointSlice", PAGE)] {
        let mut world = running();
        world.store.answer_reads(what, code);
        world.run_for(minutes(10));
        assert_eq!((world.phase().as_str(), world.weight()), ("Progressing", Some(20)), "{what}");
        world.traffic.lock().unwrap().error_ratio = Some(0.5);
        world.run_until(&["Failed"]);
        assert_eq!(world.weight(), Some(0), "{what}");
    }
}

#[test]
fn an_earlier_route_that_may_not_be_looked_for_is_named() {
    let mut world = running();
    world.store.answer_reads("HTTPRoute", 403);
    world.store.change(&canary_key(), |body| body["spec"]["service"]["name"] = "shop".into());
    world.run_for(minutes(1));
    let said = world.condition("Accepted");
    assert!(said.starts_with("False WeightUnknown: routes cannot be listed: "), "{said}");
    world.store.answer_reads("HTTPRoute", 200);
    world.run_for(minutes(1));
    assert_eq!(world.weight(), Some(0));
}

#[test]
fn an_alert_provider_that_may_not_be_read_is_not_said_to_be_missing() {
    let mut world = at_rest();
    world.store.answer_reads("AlertProvider/shop/chat", 403);
    world.run_for(minutes(5));
    assert_snapshot!(world.condition("AlertsDelivered"), @"False ProviderUnread: AlertProvider/shop/chat: HTTP status 403");
    world.store.answer_reads("AlertProvider/shop/chat", 404);
    world.run_for(minutes(5));
    assert!(world.condition("AlertsDelivered").starts_with("False ProviderMissing: "));
}

#[test]
fn a_canary_that_was_replaced_without_its_annotations_is_told_why_and_goes_on() {
    let mut world = at_rest();
    world.store.change(&canary_key(), |body| {
        body["status"].as_object_mut().unwrap().remove("evenkeel");
    });
    world.run_for(minutes(1));
    assert!(world.events().contains("kubectl replace"), "{}", world.events());
    assert_eq!(world.condition("Accepted"), "none");
    world.release("2");
    world.run_for(minutes(2));
    assert_eq!(world.phase(), "Progressing");
}
