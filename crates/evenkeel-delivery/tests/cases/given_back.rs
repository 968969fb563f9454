//! What Istio had before a Canary, and gets back: what was there, not what somebody applied long ago.

use evenkeel_api::weighted::{destination_rule, virtual_service};

use super::*;

const APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
const NOTED: &str = "flagger.kubernetes.app/original-configuration";

fn route_key() -> Key {
    Key::new(virtual_service(), NS, "api-service")
}

fn rule_key() -> Key {
    Key::new(destination_rule(), NS, "api-service-primary")
}

fn spec(world: &World, key: &Key) -> Value {
    world.store.find(key).unwrap().json()["spec"].clone()
}

/// A `VirtualService` that sends everything to this host.
fn to(host: &str) -> Value {
    json!({"hosts": ["api-service"], "http": [{"route": [{"destination": {"host": host}}]}]})
}

/// What an object of this spec has noted by `kubectl apply`.
fn applied(spec: &Value) -> String {
    json!({"spec": spec}).to_string()
}

/// A world in which this is there before a controller runs.
fn with_before(key: &Key, spec: &Value, applied_spec: &Value) -> World {
    let mut world = World::new(routers::istio(&json!({})), Settings::default());
    world.kill();
    world.store.create_now(json!({"apiVersion": "networking.istio.io/v1", "kind": &*key.kind.kind,
        "metadata": {"name": &*key.name, "namespace": NS,
            "annotations": {APPLIED: applied(applied_spec)}},
        "spec": spec}));
    answer(&world, &[("load-test", 202)]);
    world.boot();
    world
}

#[test]
fn what_was_there_is_given_back_and_not_what_was_applied_long_before() {
    let rule = |host: &str| json!({"host": host, "trafficPolicy": {"tls": {"mode": "DISABLE"}}});
    for (key, before, old) in [
        (route_key(), to("api-service"), to("of-last-year")),
        (rule_key(), rule("api-service"), rule("of-last-year")),
    ] {
        let mut world = with_before(&key, &before, &old);
        world.run_until(&["Initialized"]);
        assert_ne!(spec(&world, &key), before);
        world.release("2");
        world.run_until(&["Succeeded"]);
        delete(&world);
        world.run_until(&["gone"]);
        assert_eq!(spec(&world, &key), before);
        let left = world.store.find(&key).unwrap();
        assert_eq!(left.json()["metadata"]["annotations"], json!({APPLIED: applied(&old)}));
    }
}

#[test]
fn a_destination_rule_that_was_never_changed_is_left_as_it_is() {
    let before = json!({"host": "api-service-primary"});
    let old = json!({"host": "api-service-primary", "trafficPolicy": {"tls": {"mode": "SIMPLE"}}});
    let mut world = with_before(&rule_key(), &before, &old);
    world.run_until(&["Initialized"]);
    delete(&world);
    world.run_until(&["gone"]);
    assert_eq!(spec(&world, &rule_key()), before);
    assert_eq!(world.store.patches(&rule_key()), 0);
}

#[test]
fn a_virtual_service_that_was_never_taken_over_is_left_as_it_is() {
    let mut world = with_before(&route_key(), &to("api-service"), &to("of-last-year"));
    world.unchecked = true;
    world.broken.insert("api-service-primary".into());
    world.run_for(minutes(5));
    assert_eq!(world.phase(), "Initializing");
    delete(&world);
    world.run_until(&["gone"]);
    assert_eq!(spec(&world, &route_key()), to("api-service"));
    assert_eq!(world.store.patches(&route_key()), 0);
}

#[test]
fn what_an_earlier_version_has_changed_gets_what_was_applied() {
    let before = json!({"host": "api-service"});
    for (key, before) in [(route_key(), to("api-service")), (rule_key(), before)] {
        for drifts in [false, true] {
            let mut world = with_before(&key, &before, &before);
            world.run_until(&["Initialized"]);
            // It relied on what was applied.
            world.store.change(&key, |body| {
                body["metadata"]["annotations"].as_object_mut().unwrap().shift_remove(NOTED);
            });
            if drifts {
                world.store.change(&key, |body| body["spec"]["exportTo"] = json!(["."]));
                world.run_for(minutes(2));
                assert_eq!(spec(&world, &key)["exportTo"], Value::Null);
            }
            delete(&world);
            world.run_until(&["gone"]);
            assert_eq!(spec(&world, &key), before, "{key} {drifts}");
        }
    }
}

#[test]
fn what_its_owner_applies_meanwhile_is_given_back() {
    let mut world = with_before(&route_key(), &to("api-service"), &to("api-service"));
    world.run_until(&["Initialized"]);
    let newer = to("api-service.shop.svc.cluster.local");
    world.store.change(&route_key(), |body| {
        body["spec"] = newer.clone();
        body["metadata"]["annotations"][APPLIED] = applied(&newer).into();
    });
    world.run_for(minutes(2));
    assert_eq!(world.weight(), Some(0), "it is brought back");
    delete(&world);
    world.run_until(&["gone"]);
    assert_eq!(spec(&world, &route_key()), newer);
}
