//! Which webhooks and providers are called, and what their answers do.

use evenkeel_api::GroupKind;

use super::*;

#[test]
fn a_hook_that_never_answers_fails_after_its_timeout() {
    let mut world = initialized(with(&json!({"analysis": {"threshold": 2}})));
    world.answers.lock().unwrap().clear();
    world.release("2");
    world.run_until(&["Failed"]);
    assert!(
        world.events().contains(
            "Halt api-service.shop advancement external check load-test failed webhook \
         http://flagger-loadtester/: no answer within 5s"
        ),
        "{}",
        world.events()
    );
    assert_snapshot!(world.timeline(), @r"
      0s Progressing shown=0 failed=0 route=0 target=3
     60s Progressing shown=10 failed=0 route=10 target=3
    125s Progressing shown=10 failed=1 route=10 target=3
    190s Progressing shown=0 failed=2 route=0 target=3
    190s Failed shown=0 failed=2 route=0 target=0
    ");
}

fn gates() -> Value {
    let hook = |name: &str| json!({"name": name, "type": name, "url": "http://gate/"});
    with(&json!({"analysis": {"webhooks": [hook("confirm-rollout"), hook("pre-rollout"),
        hook("rollout"), hook("confirm-traffic-increase"), hook("confirm-promotion"),
        hook("post-rollout"), hook("rollback")]}}))
}

#[test]
fn gates_hold_the_release_and_let_it_go() {
    let mut world = initialized(gates());
    answer(
        &world,
        &[
            ("confirm-rollout", 403),
            ("pre-rollout", 200),
            ("rollout", 200),
            ("confirm-traffic-increase", 403),
            ("confirm-promotion", 403),
            ("post-rollout", 200),
            ("rollback", 403),
        ],
    );
    world.release("2");
    world.run_for(minutes(3));
    assert_eq!(world.phase(), "Waiting");
    answer(&world, &[("confirm-rollout", 200)]);
    world.run_for(minutes(3));
    assert_eq!((world.phase().as_str(), world.weight()), ("Progressing", Some(0)));
    answer(&world, &[("confirm-traffic-increase", 200)]);
    world.run_until(&["WaitingPromotion"]);
    world.run_for(minutes(3));
    assert_eq!((world.phase().as_str(), world.weight()), ("WaitingPromotion", Some(50)));
    answer(&world, &[("confirm-promotion", 200)]);
    world.run_until(&["Succeeded"]);
    world.run_for(minutes(1));
    assert_snapshot!(world.events(), @r"
    Normal api-service-primary.shop not ready: waiting for rollout to finish: observed deployment generation less than desired generation (x2)
    Normal Initialization done! api-service.shop
    Warning Halt api-service.shop advancement waiting for approval confirm-rollout
    Normal New revision detected! Scaling up api-service.shop
    Normal Waiting for api-service.shop rollout to finish: observed deployment generation less than desired generation
    Warning Halt api-service.shop advancement waiting for traffic increase approval confirm-traffic-increase
    Normal Starting canary analysis for api-service.shop
    Normal Advance api-service.shop canary weight 10
    Normal Advance api-service.shop canary weight 20
    Normal Advance api-service.shop canary weight 30
    Normal Advance api-service.shop canary weight 40
    Normal Advance api-service.shop canary weight 50
    Warning Halt api-service.shop advancement waiting for promotion approval confirm-promotion
    Normal Copying api-service.shop template spec to api-service-primary.shop
    Normal Routing all traffic to primary api-service-primary.shop
    Normal Promotion completed! Scaling down api-service.shop
    Normal Post-rollout hook post-rollout passed
    ");
    let calls = world.calls.lock().unwrap();
    let ids: std::collections::BTreeSet<_> = calls.iter().map(|call| &call.id).collect();
    assert_eq!(ids.len(), calls.len(), "no call is made twice");
    assert_eq!(calls.last().unwrap().body["phase"], "Succeeded");
}

#[test]
fn a_rollback_hook_works_in_every_phase_of_a_run() {
    for (phase, closed) in [
        ("Waiting", "confirm-rollout"),
        ("Progressing", "none"),
        ("WaitingPromotion", "confirm-promotion"),
    ] {
        let mut world = initialized(gates());
        for hook in [
            "confirm-rollout",
            "pre-rollout",
            "rollout",
            "confirm-traffic-increase",
            "confirm-promotion",
            "post-rollout",
        ] {
            answer(&world, &[(hook, if hook == closed { 403 } else { 200 })]);
        }
        answer(&world, &[("rollback", 403)]);
        world.release("2");
        world.run_until(&[phase]);
        answer(&world, &[("rollback", 200)]);
        world.run_for(minutes(3));
        assert_eq!(world.phase(), "Failed", "{phase}: {}", world.timeline());
        assert!(world.events().contains("manual webhook invoked"));
        assert_eq!(world.image("api-service-primary"), "1");
    }
}

#[test]
fn event_webhooks_hear_every_event_in_order_and_hold_nothing_up() {
    let hook = json!({"name": "pager", "type": "event", "url": "http://pager/",
        "metadata": {"team": "shop", "eventMessage": "overridden"}});
    let mut world = initialized(with(&json!({"analysis": {"webhooks": [hook]}})));
    // It never answers: every call takes its whole timeout, and the release goes on.
    world.release("2");
    world.run_for(minutes(12));
    assert_eq!(world.phase(), "Succeeded");
    let messages: Vec<String> = world
        .calls
        .lock()
        .unwrap()
        .iter()
        .map(|call| {
            assert_eq!(call.body["metadata"]["team"], "shop");
            call.body["metadata"]["eventMessage"].as_str().unwrap().to_owned()
        })
        .collect();
    assert_snapshot!(messages.join("\n"), @r"
    Initialization done! api-service.shop
    New revision detected! Scaling up api-service.shop
    Starting canary analysis for api-service.shop
    Advance api-service.shop canary weight 10
    Advance api-service.shop canary weight 20
    Advance api-service.shop canary weight 30
    Advance api-service.shop canary weight 40
    Advance api-service.shop canary weight 50
    Copying api-service.shop template spec to api-service-primary.shop
    Routing all traffic to primary api-service-primary.shop
    Promotion completed! Scaling down api-service.shop
    ");
}

#[test]
fn webhooks_of_one_name_are_each_asked() {
    let hook = |kind: &str, url: &str| json!({"name": "pager", "type": kind, "url": url});
    let hooks = json!([
        hook("event", "http://one/"),
        hook("event", "http://two/"),
        hook("confirm-rollout", "http://first/"),
        hook("confirm-rollout", "http://second/")
    ]);
    let mut world = initialized(with(&json!({"analysis": {"webhooks": hooks}})));
    answer(&world, &[("pager", 200)]);
    world.release("2");
    world.run_until(&["Succeeded"]);
    let calls = world.calls.lock().unwrap();
    let count = |url: &str| calls.iter().filter(|call| call.url == url).count();
    assert!(count("http://one/") > 5, "{calls:?}");
    assert_eq!(count("http://one/"), count("http://two/"));
    assert_eq!((count("http://first/"), count("http://second/")), (1, 1));
}

#[test]
fn events_stored_under_the_former_name_are_still_sent() {
    let hook = json!({"name": "pager", "type": "event", "url": "http://pager/"});
    let mut world = initialized(with(&json!({"analysis": {"webhooks": [hook]}})));
    answer(&world, &[("pager", 200)]);
    world.run_for(minutes(1));
    world.kill();
    world.calls.lock().unwrap().clear();
    world.store.change(&Key::of::<Canary>(NS, "api-service"), |body| {
        body["status"]["evenkeel"]["untold"] = json!([{"kind": "Normal", "message": "an old one",
            "at": "2023-11-14T22:13:20Z"}]);
    });
    world.boot();
    world.run_for(minutes(1));
    let calls = world.calls.lock().unwrap();
    let messages: Vec<_> =
        calls.iter().map(|call| &call.body["metadata"]["eventMessage"]).collect();
    assert_eq!(messages, ["an old one"]);
    let status = world.canary().json()["status"]["evenkeel"].clone();
    assert_eq!((&status["untold"], &status["pendingEvents"]), (&Value::Null, &Value::Null));
}

fn with_alerts() -> Value {
    let alert = json!({"name": "chat", "severity": "info", "providerRef": {"name": "chat"}});
    with(&json!({"analysis": {"threshold": 1, "alerts": [alert]}}))
}

fn provider(world: &World) {
    world.store.create_now(json!({"apiVersion": "flagger.app/v1beta1", "kind": "AlertProvider",
        "metadata": {"name": "chat", "namespace": NS},
        "spec": {"type": "slack", "address": "http://chat/"}}));
}

#[test]
fn an_alert_that_is_not_delivered_stands_on_the_canary_and_holds_nothing_up() {
    let mut world = World::new(with_alerts(), Settings::default());
    world.kill();
    provider(&world);
    answer(&world, &[("load-test", 202)]);
    *world.mail_problem.lock().unwrap() = Some("HTTP 404: no_such_channel".to_owned());
    world.boot();
    world.run_until(&["Initialized"]);
    world.traffic.lock().unwrap().error_ratio = Some(0.5);
    world.release("2");
    world.run_until(&["Failed"]);
    world.run_for(minutes(2));
    let said = world.condition("AlertsDelivered");
    assert!(said.starts_with("False NotificationFailed"), "{said}");
    assert!(said.contains("AlertProvider/shop/chat") && said.contains("no_such_channel"), "{said}");
    // A process that starts anew knows nothing of it, and takes nothing back.
    world.boot();
    world.run_for(minutes(2));
    assert_eq!(world.condition("AlertsDelivered"), said);
    *world.mail_problem.lock().unwrap() = None;
    world.traffic.lock().unwrap().error_ratio = Some(0.0);
    world.release("3");
    world.run_until(&["Succeeded"]);
    world.run_for(minutes(2));
    assert_eq!(world.condition("AlertsDelivered"), "none");
}

#[test]
fn an_alert_provider_that_does_not_exist_is_named() {
    let mut world = World::new(with_alerts(), Settings::default());
    world.run_until(&["Initialized"]);
    assert_snapshot!(world.condition("AlertsDelivered"), @"False ProviderMissing: AlertProvider/shop/chat does not exist: create it, or correct spec.analysis.alerts");
    provider(&world);
    world.run_for(minutes(2));
    assert_eq!(world.condition("AlertsDelivered"), "none");
}

#[test]
fn a_provider_that_can_deliver_nothing_is_named_before_the_first_alert() {
    let mut conditions = Vec::new();
    for spec in [
        json!({"type": "pigeon".repeat(100), "address": "http://chat/"}),
        json!({"type": "slack"}),
        json!({"type": "slack", "address": "chat.example.com/T0/pl4nted"}),
        json!({"type": "slack", "address": "http:///T0"}),
        json!({"type": "slack", "secretRef": {"name": "hook"}}),
        json!({"type": "slack", "secretRef": {"name": "empty"}}),
        json!({"type": "slack", "secretRef": {"name": "token"}}),
        json!({"type": "slack", "address": "http://chat/", "proxy": "http://proxy/"}),
    ] {
        let mut world = World::new(with_alerts(), Settings::default());
        for (name, data) in [("empty", json!({})), ("token", json!({"token": "eA=="}))] {
            world.store.create_now(json!({"apiVersion": "v1", "kind": "Secret", "data": data,
                "metadata": {"name": name, "namespace": NS}}));
        }
        provider(&world);
        let key = Key::new(GroupKind::new("flagger.app", "AlertProvider"), NS, "chat");
        world.store.change(&key, |body| body["spec"] = spec);
        world.run_until(&["Initialized"]);
        conditions.push(world.condition("AlertsDelivered"));
    }
    assert_snapshot!(conditions.join("\n"), @r#"
    False ProviderInvalid: AlertProvider/shop/chat: spec.type "pigeonpigeonpigeonpigeonpigeonpigeonpigeonpigeonpigeonpigeonpige" ... is not supported; use one of slack, discord, rocket, msteams, gchat, webhook
    False ProviderInvalid: AlertProvider/shop/chat has no address: set spec.address, or `address` in the Secret of spec.secretRef
    False ProviderInvalid: AlertProvider/shop/chat: spec.address is not an http:// or https:// URL: correct it
    False ProviderInvalid: AlertProvider/shop/chat: spec.address is not an http:// or https:// URL: correct it
    False ProviderInvalid: AlertProvider/shop/chat: Secret/shop/hook does not exist: create it, or correct spec.secretRef
    False ProviderInvalid: AlertProvider/shop/chat has no address: set spec.address, or `address` in the Secret of spec.secretRef
    none
    False ProviderInvalid: AlertProvider/shop/chat: spec.proxy is not supported: remove it
    "#);
}
