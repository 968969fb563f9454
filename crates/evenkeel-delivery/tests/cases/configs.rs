//! Configs that a target uses, and the copies that its primary uses.

use k8s_openapi::api::core::v1::ConfigMap;

use super::*;

#[test]
fn a_config_that_changes_is_judged_like_a_new_version() {
    let mut world = World::new(article(), Settings::default());
    world.answers.lock().unwrap().insert("load-test", 202);
    world.store.create_now(json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "settings", "namespace": NS}, "data": {"mode": "a", "old": "x"}}));
    world.store.change(&deployment_key("api-service"), |body| {
        body["spec"]["template"]["spec"]["containers"][0]["envFrom"] =
            json!([{"configMapRef": {"name": "settings"}}]);
    });
    world.run_until(&["Initialized"]);
    let store = world.store.clone();
    let copy = || {
        let key = Key::of::<ConfigMap>(NS, "settings-primary");
        store.find(&key).unwrap().json()["data"].to_string()
    };
    assert_eq!(copy(), r#"{"mode":"a","old":"x"}"#);
    let primary = world.store.find(&deployment_key("api-service-primary")).unwrap();
    let from =
        primary.json().pointer("/spec/template/spec/containers/0/envFrom/0/configMapRef/name");
    assert_eq!(from.unwrap(), "settings-primary");
    world.store.change(&Key::of::<ConfigMap>(NS, "settings"), |body| {
        body["data"] = json!({"mode": "b"});
    });
    world.run_for(minutes(2));
    assert_eq!(
        (world.phase().as_str(), copy().as_str()),
        ("Progressing", r#"{"mode":"a","old":"x"}"#)
    );
    world.run_until(&["Succeeded"]);
    let copy = world.store.find(&Key::of::<ConfigMap>(NS, "settings-primary")).unwrap();
    assert_eq!(copy.json()["data"].to_string(), r#"{"mode":"b"}"#);
}

fn config(name: &str, mode: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": NS},
        "data": {"mode": mode}})
}

fn uses_shared(body: &mut Value) {
    body["spec"]["template"]["spec"]["containers"][0]["envFrom"] =
        json!([{"configMapRef": {"name": "shared"}}]);
}

/// The copy that a primary uses: its name, its content, and whose it is.
fn copy_of(world: &World, deployment: &str) -> String {
    let primary = world.store.find(&deployment_key(&format!("{deployment}-primary"))).unwrap();
    let used =
        primary.json().pointer("/spec/template/spec/containers/0/envFrom/0/configMapRef/name");
    let name = used.unwrap().as_str().unwrap().to_owned();
    let Some(copy) = world.store.find(&Key::of::<ConfigMap>(NS, &name)) else {
        return format!("{name} is missing");
    };
    let owners = copy.json().pointer("/metadata/ownerReferences").unwrap().as_array().unwrap();
    let owners: Vec<_> = owners.iter().map(|owner| owner["name"].as_str().unwrap()).collect();
    format!("{name} {} of {}", copy.json()["data"]["mode"], owners.join("+"))
}

/// Two services that use one ConfigMap, each with a Canary.
fn two_services() -> World {
    let mut world = World::new(article(), Settings::default());
    world.kill();
    world.answers.lock().unwrap().insert("load-test", 202);
    world.store.create_now(config("shared", "a"));
    world.store.change(&deployment_key("api-service"), uses_shared);
    let mut other = world::deployment("other", "1");
    uses_shared(&mut other);
    world.store.create_now(other);
    let mut canary = article();
    canary["metadata"]["name"] = "other".into();
    canary["spec"]["targetRef"]["name"] = "other".into();
    // It is at rest while the first one releases.
    canary["spec"]["analysis"]["interval"] = "6h".into();
    world.store.create_now(canary);
    world.boot();
    world.run_for(minutes(1));
    world
}

#[test]
fn two_canaries_that_share_a_config_have_a_copy_each() {
    let mut world = two_services();
    assert_snapshot!(copy_of(&world, "api-service"), @r#"shared-primary "a" of api-service"#);
    assert_snapshot!(copy_of(&world, "other"), @r#"shared-other-primary "a" of other"#);
    world
        .store
        .change(&Key::of::<ConfigMap>(NS, "shared"), |body| body["data"]["mode"] = "b".into());
    world.run_until(&["Succeeded"]);
    assert_snapshot!(copy_of(&world, "api-service"), @r#"shared-primary "b" of api-service"#);
    assert_snapshot!(copy_of(&world, "other"), @r#"shared-other-primary "a" of other"#);
}

#[test]
fn a_copy_that_two_primaries_share_already_belongs_to_both() {
    let mut world = two_services();
    world.kill();
    // As an earlier version left it: both primaries read the copy of the first.
    world.store.change(&deployment_key("other-primary"), |body| {
        body["spec"]["template"]["spec"]["containers"][0]["envFrom"][0]["configMapRef"]["name"] =
            "shared-primary".into();
    });
    world.store.remove(&Key::of::<ConfigMap>(NS, "shared-other-primary"));
    world.boot();
    world.run_for(minutes(1));
    assert_snapshot!(copy_of(&world, "other"), @r#"shared-primary "a" of api-service+other"#);
    // With its own next promotion the first one leaves it to the other.
    world
        .store
        .change(&Key::of::<ConfigMap>(NS, "shared"), |body| body["data"]["mode"] = "b".into());
    world.run_until(&["Succeeded"]);
    assert_snapshot!(copy_of(&world, "api-service"), @r#"shared-api-service-primary "b" of api-service"#);
    assert_snapshot!(copy_of(&world, "other"), @r#"shared-primary "a" of api-service+other"#);
}

#[test]
fn a_copy_that_is_deleted_is_made_again_from_what_was_promoted() {
    let mut world = two_services();
    let copy = Key::of::<ConfigMap>(NS, "shared-primary");
    world.store.remove(&copy);
    world.run_for(minutes(1));
    assert_snapshot!(copy_of(&world, "api-service"), @r#"shared-primary "a" of api-service"#);
    assert!(
        world.events().contains("Repairing ConfigMap/shop/shared-primary, which is missing"),
        "{}",
        world.events()
    );
    // Content that nobody has judged does not get to the primary this way.
    world.run_for(minutes(20));
    world
        .store
        .change(&Key::of::<ConfigMap>(NS, "shared"), |body| body["data"]["mode"] = "b".into());
    world.run_for(minutes(2));
    world.store.remove(&copy);
    world.run_for(Duration::from_secs(1));
    assert_snapshot!(copy_of(&world, "api-service"), @"shared-primary is missing");
    assert_snapshot!(world.condition("ObjectsInSync"), @"False RepairNotKept: ConfigMap/shop/shared-primary is missing and cannot be made again: ConfigMap/shop/shared has changed since it was promoted; put it back to what it was, or release a version");
    world.run_until(&["Succeeded"]);
    world.run_for(minutes(6));
    assert_snapshot!(copy_of(&world, "api-service"), @r#"shared-primary "b" of api-service"#);
    assert_eq!(world.condition("ObjectsInSync"), "none");
}

#[test]
fn a_config_of_somebody_else_is_never_taken_for_a_copy() {
    let mut world = World::new(article(), Settings::default());
    world.kill();
    world.store.create_now(config("shared", "a"));
    world.store.create_now(config("shared-primary", "theirs"));
    world.store.change(&deployment_key("api-service"), uses_shared);
    world.boot();
    world.run_until(&["Initialized"]);
    assert_snapshot!(copy_of(&world, "api-service"), @r#"shared-api-service-primary "a" of api-service"#);
    let theirs = world.store.find(&Key::of::<ConfigMap>(NS, "shared-primary")).unwrap();
    assert_eq!(theirs.json()["data"]["mode"], "theirs");
}

#[test]
fn another_tools_primary_is_adopted_whatever_its_copies_are_called() {
    let mut world = two_services();
    world.kill();
    world.store.change(&deployment_key("other-primary"), |body| {
        body["spec"]["template"]["spec"]["containers"][0]["envFrom"][0]["configMapRef"]["name"] =
            "shared-primary".into();
    });
    let key = Key::of::<Canary>(NS, "other");
    world.store.change(&key, |body| {
        body["status"]["lastAppliedSpec"] = "5978589476".into();
        body["status"]["lastPromotedSpec"] = "5978589476".into();
    });
    world.boot();
    world.run_for(minutes(5));
    let other = world.store.find(&key).unwrap();
    assert_eq!(other.json()["status"]["phase"], "Initialized");
}
