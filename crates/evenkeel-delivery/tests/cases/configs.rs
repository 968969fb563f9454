//! Configs that a target uses, and the copies that its primary uses.

use evenkeel_api::json::canonical;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};

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
    // Content that was not judged does not get to the primary this way.
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

/// What is in every Secret, and how Secrets have it.
const PLANTED: [&str; 2] = ["pl4nted", "cGw0bnRlZA=="];

fn secret(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": NS},
        "type": "Opaque", "data": {"password": PLANTED[1]}})
}

/// A target that uses a Secret in each of the ways there are.
fn uses_secrets(body: &mut Value) {
    let spec = &mut body["spec"]["template"]["spec"];
    let from = json!({"secretKeyRef": {"name": "db", "key": "password"}});
    spec["containers"][0]["env"] = json!([{"name": "PASSWORD", "valueFrom": from}]);
    spec["volumes"] = json!([{"name": "tls", "secret": {"secretName": "tls"}},
        {"name": "all", "projected": {"sources": [{"secret": {"name": "extra"}}]}}]);
}

/// A service that uses Secrets, whose webhook and chat receive everything.
fn with_secrets() -> World {
    let pager = json!({"name": "pager", "type": "event",
        "url": "http://ann:pl4nted@pager.test/?token=pl4nted"});
    let chat = json!({"name": "ops", "severity": "info", "providerRef": {"name": "chat"}});
    let analysis = json!({"stepWeight": 50, "webhooks": [pager], "alerts": [chat]});
    let mut world = World::new(with(&json!({"analysis": analysis})), Settings::default());
    world.kill();
    answer(&world, &[("pager", 202)]);
    for name in ["db", "tls", "extra"] {
        world.store.create_now(secret(name));
    }
    world.store.create_now(json!({"apiVersion": "flagger.app/v1beta1", "kind": "AlertProvider",
        "metadata": {"name": "chat", "namespace": NS},
        "spec": {"type": "slack", "secretRef": {"name": "hook"}}}));
    world.store.change(&deployment_key("api-service"), uses_secrets);
    world.boot();
    world
}

fn keeps_its_secrets(world: &World) {
    let mut all = world.messages.lock().unwrap().clone();
    all.extend([world.timeline(), world.queries.lock().unwrap().join(" ")]);
    for obj in world.store.all() {
        let mut body = obj.json().clone();
        // Secrets have it, and so has who wrote the Canary.
        if obj.key().kind.is::<Secret>() {
            body["data"].take();
        } else if obj.key().kind.is::<Canary>() {
            body["spec"]["analysis"]["webhooks"].take();
        }
        all.push(body.to_string());
    }
    for words in all {
        assert!(!PLANTED.iter().any(|planted| words.contains(planted)), "{words}");
    }
}

/// Refuses each write of a life in turn: copies are made, promoted, and made again.
#[test]
fn what_is_in_secrets_is_never_sent_whatever_is_refused() {
    let mut lives = 0;
    for writes in 0..1000 {
        let mut world = with_secrets();
        world.store.refuse_after(writes);
        world.run_until(&["Initialized"]);
        let db = Key::of::<Secret>(NS, "db");
        world.store.change(&db, |body| body["data"]["user"] = PLANTED[1].into());
        world.run_until(&["Progressing"]);
        world.run_until(&["Succeeded"]);
        world.store.remove(&Key::of::<Secret>(NS, "tls-primary"));
        world.run_for(minutes(10));
        for (name, content) in [
            ("db", r#"{"password":"cGw0bnRlZA==","user":"cGw0bnRlZA=="}"#),
            ("tls", r#"{"password":"cGw0bnRlZA=="}"#),
            ("extra", r#"{"password":"cGw0bnRlZA=="}"#),
        ] {
            let copy = world.store.find(&Key::of::<Secret>(NS, &format!("{name}-primary")));
            let copy = copy.map(|copy| copy.json()["data"].to_string());
            assert_eq!(copy.as_deref(), Some(content), "{name}, refused after {writes}");
        }
        keeps_its_secrets(&world);
        lives += 1;
        if world.store.will_refuse() {
            break;
        }
    }
    // Every write of a whole life was refused once.
    assert!((20..200).contains(&lives), "{lives}");
}

/// The hash of a Secret's content alone, as earlier versions recorded it.
fn guessable() -> String {
    let content = json!([{"password": PLANTED[1]}, null]);
    format!("{:016x}", evenkeel_base::stable_hash(canonical(&content).as_bytes()))
}

#[test]
fn the_hash_of_a_secret_in_the_status_cannot_be_guessed() {
    let mut world = with_secrets();
    world.run_until(&["Initialized"]);
    let status = world.canary().json()["status"].clone();
    let tracked = &status["trackedConfigs"];
    assert_eq!(tracked["secret/db"].as_str().unwrap().len(), 16, "{tracked}");
    // The content is the same, the Secrets are not.
    assert_ne!(tracked["secret/db"], tracked["secret/tls"]);
    assert!(!status.to_string().contains(&guessable()), "{status}");
}

#[test]
fn a_hash_that_an_earlier_version_recorded_is_replaced_and_starts_no_release() {
    let mut world = with_secrets();
    world.run_until(&["Initialized"]);
    world.run_for(minutes(2));
    let key = Key::of::<Canary>(NS, "api-service");
    let before = world.canary().json()["status"].clone();
    for changed in [false, true] {
        world.kill();
        world.store.change(&key, |body| {
            for place in ["/status/trackedConfigs", "/status/evenkeel/promotedConfigs"] {
                for name in ["secret/db", "secret/tls", "secret/extra"] {
                    body.pointer_mut(place).unwrap()[name] = guessable().into();
                }
            }
        });
        if changed {
            let db = Key::of::<Secret>(NS, "db");
            world.store.change(&db, |body| body["data"]["password"] = "cGw0bnRlZDI=".into());
        }
        world.boot();
        world.run_for(minutes(2));
        let status = world.canary().json()["status"].clone();
        if changed {
            assert_ne!(status["phase"], "Initialized");
        } else {
            assert_eq!(status, before);
        }
        keeps_its_secrets(&world);
    }
}
