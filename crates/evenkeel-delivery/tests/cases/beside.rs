//! A Canary on a cluster of Flagger: watched, taken over, refused, given back.

use std::sync::{Arc, Mutex};

use evenkeel_api::beside::MANAGED;
use evenkeel_control::Steward;

use super::*;

/// A Canary as Flagger leaves it, and a process that knows whose it is.
fn of_flagger(change: impl Fn(&mut Value)) -> World {
    let mut world = initialized(article());
    world.kill();
    world.others = Some(Arc::new(world::Flaggers));
    world.store.change(&canary_key(), |body| {
        let status = &mut body["status"];
        status["lastAppliedSpec"] = "5978589476".into();
        status["lastPromotedSpec"] = "5978589476".into();
        status.as_object_mut().unwrap().remove("evenkeel");
        body["metadata"]["finalizers"] = json!([]);
        change(body);
    });
    world
}

fn route_key() -> Key {
    Key::of::<HttpRoute>(NS, "api-service")
}

fn hand_over(world: &World) {
    world.store.change(&canary_key(), |body| {
        body["metadata"]["annotations"][MANAGED] = "true".into();
        body["spec"]["suspend"] = true.into();
    });
}

fn take_back(world: &World) {
    world.store.change(&canary_key(), |body| {
        body["metadata"]["annotations"] = json!({});
        body["spec"]["suspend"] = false.into();
    });
}

fn status(world: &World, field: &str) -> Value {
    world.canary().json()["status"][field].clone()
}

/// All objects but the Canary and the Events, with their revisions.
fn around(world: &World) -> Vec<(String, String)> {
    let all = world.store.all().into_iter();
    let others = all.filter(|obj| !["Canary", "Event"].contains(&&*obj.key().kind.kind));
    others.map(|obj| (obj.key().to_string(), obj.revision().to_string())).collect()
}

#[test]
fn what_was_not_handed_over_is_left_alone() {
    let mut world = of_flagger(|_| {});
    let seen = |world: &World| (world.canary(), world.weight(), world.store.find(&route_key()));
    let before = seen(&world);
    world.boot();
    world.run_for(minutes(5));
    world.release("2");
    world.run_for(minutes(5));
    assert_eq!(seen(&world), before);
    assert_eq!(world.image("api-service-primary"), "1");
}

#[test]
fn a_release_of_flagger_is_judged_although_it_is_only_watched() {
    for (errors, verdict) in [(0.0, "Advance api-service.shop canary weight"), (0.5, "Halt")] {
        let mut world = of_flagger(|body| {
            body["status"]["phase"] = "Progressing".into();
            body["status"]["canaryWeight"] = 10.into();
            body["status"]["lastAppliedSpec"] = "6d8f5c9b7f".into();
        });
        world.unchecked = true;
        world.release("2");
        world.store.change(&deployment_key("api-service"), |body| {
            body["spec"]["replicas"] = 3.into();
        });
        // As Flagger's route differs from ours, which nobody is to hear of now.
        world.store.change(&route_key(), |body| {
            body["spec"]["hostnames"] = json!(["of-flagger.example.com"]);
            for rule in body["spec"]["rules"].as_array_mut().unwrap() {
                for (backend, weight) in [(0, 90), (1, 10)] {
                    rule["backendRefs"][backend]["weight"] = weight.into();
                }
            }
        });
        world.traffic.lock().unwrap().error_ratio = Some(errors);
        world.run_for(minutes(1));
        world.boot();
        world.run_for(minutes(2));
        let told = world.messages.lock().unwrap().clone();
        let told: Vec<_> = told.iter().filter(|text| text.starts_with("foreseen")).collect();
        assert!(told.iter().any(|text| text.contains(verdict)), "{told:#?}");
        assert_eq!(world.weight(), Some(10));
    }
}

#[test]
fn a_canary_that_flagger_looks_after_too_is_not_acted_on() {
    let mut world = of_flagger(|body| body["metadata"]["annotations"] = json!({MANAGED: "true"}));
    world.boot();
    world.release("2");
    world.run_for(minutes(5));
    assert_eq!((world.phase().as_str(), world.weight()), ("Initialized", Some(0)));
    assert_snapshot!(world.condition("Accepted"), @"False InBothHands: Flagger looks after this Canary, too: set spec.suspend: true, which stops Flagger and not evenkeel, or take the annotation evenkeel.dev/managed away");
}

#[test]
fn a_canary_that_is_handed_over_is_released_although_it_is_suspended() {
    let mut world = of_flagger(|_| {});
    hand_over(&world);
    world.boot();
    world.run_for(minutes(5));
    assert_eq!((world.phase().as_str(), world.weight()), ("Initialized", Some(0)));
    world.release("2");
    world.run_until(&["Succeeded"]);
    assert_eq!(world.image("api-service-primary"), "2");
}

#[test]
fn a_release_that_flagger_began_is_not_taken_over_in_the_middle() {
    let mut world = of_flagger(|body| body["status"]["phase"] = "Progressing".into());
    world.unchecked = true;
    hand_over(&world);
    let target = world.store.find(&deployment_key("api-service")).unwrap();
    world.boot();
    world.run_for(minutes(5));
    assert_eq!((world.phase().as_str(), world.weight()), ("Progressing", Some(0)));
    assert_eq!(world.store.find(&deployment_key("api-service")).unwrap(), target);
    assert_snapshot!(world.condition("Accepted"), @"False ReleaseOfAnother: a release by Flagger is under way (Progressing, 0 % of the traffic on the canary), and evenkeel does not take it over in the middle: set spec.suspend: false until it has ended, then true");
    // It has ended meanwhile.
    world.store.change(&canary_key(), |body| body["status"]["phase"] = "Succeeded".into());
    world.run_for(minutes(1));
    assert_eq!(world.condition("Accepted"), "none");
}

#[test]
fn a_canary_is_given_back_as_flagger_wants_to_find_it() {
    let mut world = of_flagger(|_| {});
    hand_over(&world);
    world.boot();
    world.release("2");
    world.run_until(&["Succeeded"]);
    let before = around(&world);
    take_back(&world);
    world.run_for(minutes(1));
    // It initializes anew, finds everything as it wants it, and takes the version as promoted.
    assert_eq!(world.phase(), "Initializing");
    for field in ["lastAppliedSpec", "lastPromotedSpec", "trackedConfigs", "evenkeel"] {
        assert!(status(&world, field).is_null(), "{field}: {}", status(&world, field));
    }
    let types: Vec<_> = status(&world, "conditions")
        .as_array()
        .unwrap()
        .iter()
        .map(|condition| condition["type"].clone())
        .collect();
    assert_eq!(types, ["Promoted"]);
    assert!(world.canary().meta().finalizers.iter().flatten().next().is_none());
    assert_eq!(around(&world), before);
    let revision = world.store.revision();
    world.run_for(minutes(10));
    assert_eq!(world.store.revision(), revision, "nothing more is written");
}

#[test]
fn a_version_that_is_new_or_has_failed_is_still_that_for_flagger() {
    for (phase, version, left) in [("Succeeded", "3", "Succeeded"), ("Failed", "2", "Failed")] {
        let mut world = of_flagger(|_| {});
        hand_over(&world);
        world.boot();
        world.release("2");
        if phase == "Failed" {
            world.run_for(minutes(2));
            world.traffic.lock().unwrap().error_ratio = Some(0.5);
        }
        world.run_until(&[phase]);
        world.unchecked = true;
        world.kill();
        if version == "3" {
            world.release(version);
        }
        take_back(&world);
        world.boot();
        world.run_for(minutes(1));
        assert_eq!(world.phase(), left);
        assert!(status(&world, "lastAppliedSpec").is_null());
        assert_eq!(world.weight(), Some(0));
    }
}

/// A Canary whose last release Flagger has rejected: the target is at version 2, the primary at 1.
fn rejected_by_flagger() -> World {
    let world = of_flagger(|body| {
        body["status"]["phase"] = "Failed".into();
        body["status"]["lastAppliedSpec"] = "6d8f5c9b7f".into();
    });
    world.release("2");
    world
}

#[test]
fn what_flagger_has_rejected_is_not_released_when_it_is_handed_over() {
    let mut world = rejected_by_flagger();
    // Nor is it foretold.
    world.boot();
    world.run_for(minutes(2));
    let told = world.messages.lock().unwrap().join("\n");
    assert!(told.contains("foreseen") && !told.contains("New revision"), "{told}");
    hand_over(&world);
    world.run_for(minutes(10));
    assert_eq!((world.phase().as_str(), world.weight()), ("Failed", Some(0)));
    assert_eq!(world.replicas("api-service"), Some(0));
    assert_snapshot!(world.condition("Promoted"), @"False Failed: api-service.shop failed its last release, before evenkeel took it over: the target as it is now counts as the version that was rejected, and is not released. Evenkeel cannot tell whether it has changed since then: if so, change its pod template once more.");
    assert_eq!(world.events().matches("before evenkeel took it over").count(), 1);
    world.release("3");
    world.run_until(&["Succeeded"]);
    assert_eq!(world.image("api-service-primary"), "3");
}

#[test]
fn a_target_that_is_set_back_after_flagger_rejected_it_is_at_rest() {
    let mut world = rejected_by_flagger();
    hand_over(&world);
    world.boot();
    world.run_for(minutes(2));
    world.release("1");
    world.run_for(minutes(5));
    assert_eq!((world.phase().as_str(), world.weight()), ("Failed", Some(0)));
    assert_eq!(world.replicas("api-service"), Some(0));
    // Flagger then finds everything there, and takes the version as promoted.
    take_back(&world);
    world.run_for(minutes(1));
    assert_eq!(world.phase(), "Initializing");
    assert!(!world.events().contains("is given back"), "{}", world.events());
}

#[test]
fn that_a_rejected_version_is_released_again_by_flagger_is_said_when_it_is_given_back() {
    let mut world = rejected_by_flagger();
    hand_over(&world);
    world.boot();
    world.run_for(minutes(2));
    take_back(&world);
    world.run_for(minutes(5));
    assert_eq!(world.phase(), "Failed");
    let events = world.events();
    let said: Vec<_> = events.lines().filter(|line| line.contains("is given back")).collect();
    assert_snapshot!(said.join("\n"), @"Warning api-service.shop is given back after a release that failed, and who takes it releases that version again: set the pod template of Deployment api-service back to what its primary runs");
}

#[test]
fn what_flagger_writes_while_it_is_given_back_stays() {
    let mut world = of_flagger(|_| {});
    hand_over(&world);
    world.boot();
    world.release("2");
    world.run_until(&["Succeeded"]);
    take_back(&world);
    // As Flagger writes a status: whole, without the fields that it does not know.
    let theirs = json!({"phase": "Progressing", "canaryWeight": 0, "failedChecks": 0,
        "iterations": 0, "lastAppliedSpec": "6d8f5c9b7f", "lastPromotedSpec": "5978589476",
        "trackedConfigs": {"configmap/a": "1"},
        "conditions": [{"type": "Promoted", "status": "Unknown", "reason": "Progressing"}]});
    let status = theirs.clone();
    world.store.be_faster(&canary_key(), move |body| body["status"] = status);
    world.run_for(minutes(1));
    assert!(world.store.was_faster());
    assert_eq!(world.canary().json()["status"], theirs);
}

#[test]
fn of_what_flagger_has_begun_only_what_is_evenkeels_is_taken_off() {
    let mut world = of_flagger(|_| {});
    hand_over(&world);
    world.boot();
    world.release("2");
    world.run_until(&["Succeeded"]);
    world.kill();
    take_back(&world);
    // It keeps what it knows, under whatever hash.
    world.store.change(&canary_key(), |body| {
        body["status"].as_object_mut().unwrap().shift_remove("evenkeel");
        body["status"]["phase"] = "Progressing".into();
        body["status"]["lastAppliedSpec"] = "6d8f5c9b7f".into();
        body["status"]["trackedConfigs"] = json!({"configmap/a": "1"});
    });
    assert!(status(&world, "lastPromotedSpec").as_str().unwrap().starts_with("ek1-"));
    world.boot();
    world.run_for(minutes(1));
    assert!(status(&world, "lastPromotedSpec").is_null());
    assert_eq!(status(&world, "lastAppliedSpec"), "6d8f5c9b7f");
    assert_eq!(status(&world, "phase"), "Progressing");
    assert_eq!(status(&world, "trackedConfigs"), json!({"configmap/a": "1"}));
}

/// Flagger, as far as one sign of it says.
fn maybe_flagger() -> Steward {
    Steward::Other { name: "Flagger", why: "Flagger runs here".into(), sure: false }
}

fn consent() -> Steward {
    Steward::Consent { why: "evenkeel runs with --manage annotated".into() }
}

/// A Canary of ours, and a process that is told who looks after Canaries.
fn of_ours(steward: Steward) -> (World, Arc<Mutex<Steward>>) {
    let mut world = initialized(article());
    world.kill();
    let steward = Arc::new(Mutex::new(steward));
    world.others = Some(Arc::new(world::Told(steward.clone())));
    (world, steward)
}

fn finalizers(world: &World) -> Vec<String> {
    world.canary().meta().finalizers.clone().unwrap_or_default()
}

#[test]
fn a_canary_in_both_hands_is_not_reverted_when_it_is_deleted() {
    let mut world = of_flagger(|body| {
        body["metadata"]["annotations"] = json!({MANAGED: "true"});
        body["metadata"]["finalizers"] = json!(["finalizer.flagger.app"]);
    });
    delete(&world);
    let before = around(&world);
    world.boot();
    world.run_for(minutes(5));
    assert_eq!(around(&world), before);
    assert_eq!(finalizers(&world), ["finalizer.flagger.app"]);
    assert_snapshot!(world.condition("Accepted"), @"False InBothHands: Flagger looks after this Canary, too: set spec.suspend: true, which stops Flagger and not evenkeel, or take the annotation evenkeel.dev/managed away. It is being deleted: Flagger alone reverts it, unless you do so");
    world.unchecked = true;
    world.store.change(&canary_key(), |body| body["spec"]["suspend"] = true.into());
    world.run_for(minutes(10));
    assert_eq!(world.replicas("api-service"), Some(3), "the target serves again");
    let left = world.store.find(&canary_key());
    assert!(left.is_none_or(|left| left.meta().finalizers.iter().flatten().next().is_none()));
}

#[test]
fn a_release_is_ended_although_another_controller_shows_up() {
    for (fails, phase) in [(true, "Failed"), (false, "Succeeded")] {
        let (mut world, steward) = of_ours(Steward::Evenkeel);
        world.boot();
        world.release("2");
        world.run_for(minutes(3));
        assert!(world.weight() > Some(0), "{}", world.timeline());
        *steward.lock().unwrap() = maybe_flagger();
        if fails {
            world.traffic.lock().unwrap().error_ratio = Some(0.5);
        }
        world.run_until(&[phase]);
        world.run_for(minutes(5));
        assert_eq!(world.weight(), Some(0));
        // What is at rest is only observed: neither acted on nor given back.
        world.release("3");
        world.run_for(minutes(5));
        assert_eq!((world.phase().as_str(), world.weight()), (phase, Some(0)));
        assert_eq!(finalizers(&world), ["finalizer.flagger.app"]);
        assert!(!status(&world, "evenkeel").is_null());
        *steward.lock().unwrap() = Steward::Evenkeel;
        world.run_for(minutes(3));
        assert_eq!(world.phase(), "Progressing");
    }
}

#[test]
fn what_another_controller_has_begun_is_its_own() {
    let (mut world, steward) = of_ours(Steward::Evenkeel);
    world.unchecked = true;
    world.boot();
    world.release("2");
    world.run_for(minutes(3));
    *steward.lock().unwrap() = maybe_flagger();
    // Flagger writes the whole status, without the fields that it does not know.
    world.store.change(&canary_key(), |body| {
        let theirs = json!({"phase": "Progressing", "canaryWeight": 10, "failedChecks": 0,
            "iterations": 0, "lastAppliedSpec": "6d8f5c9b7f", "lastPromotedSpec": "5978589476"});
        body["status"] = theirs;
    });
    world.settle();
    let before = (world.canary(), around(&world));
    world.traffic.lock().unwrap().error_ratio = Some(0.5);
    world.run_for(minutes(10));
    assert_eq!((world.canary(), around(&world)), before);
}

#[test]
fn an_object_is_given_back_when_its_own_annotation_goes() {
    let (mut world, steward) = of_ours(Steward::Evenkeel);
    world.store.change(&canary_key(), |body| {
        body["metadata"]["annotations"][MANAGED] = "true".into();
    });
    world.boot();
    world.run_for(minutes(1));
    *steward.lock().unwrap() = maybe_flagger();
    world.store.change(&canary_key(), |body| body["spec"]["suspend"] = true.into());
    world.run_for(minutes(1));
    take_back(&world);
    world.run_for(minutes(1));
    assert!(status(&world, "evenkeel").is_null());
    assert!(finalizers(&world).is_empty());
}

#[test]
fn suspend_does_not_come_to_mean_evenkeel_when_the_other_controller_leaves() {
    let mut world = of_flagger(|_| {});
    let steward = Arc::new(Mutex::new(maybe_flagger()));
    world.others = Some(Arc::new(world::Told(steward.clone())));
    hand_over(&world);
    world.boot();
    world.release("2");
    world.run_for(minutes(3));
    assert!(world.weight() > Some(0), "{}", world.timeline());
    assert_eq!(world.condition("SuspendHeeded"), "none");
    *steward.lock().unwrap() = Steward::Evenkeel;
    world.traffic.lock().unwrap().error_ratio = Some(0.5);
    world.run_until(&["Failed"]);
    assert_eq!(world.weight(), Some(0));
    world.run_for(minutes(1));
    assert_snapshot!(world.condition("SuspendHeeded"), @r#"False HandedOver: spec.suspend: true does not stop evenkeel while the annotation evenkeel.dev/managed: "true" is there: take the annotation away to stop it, or set spec.suspend: false"#);
    // Without the annotation it is.
    world.store.change(&canary_key(), |body| body["metadata"]["annotations"] = json!({}));
    world.run_for(minutes(1));
    world.release("3");
    world.run_for(minutes(5));
    assert_eq!((world.phase().as_str(), world.weight()), ("Failed", Some(0)));
}

#[test]
fn a_finalizer_is_left_only_to_a_controller_that_is_there() {
    for (steward, left) in [(consent(), 0), (world::flaggers(), 1)] {
        let mut world = of_flagger(|body| {
            body["spec"]["revertOnDeletion"] = true.into();
            body["metadata"]["finalizers"] = json!(["finalizer.flagger.app"]);
        });
        let told = Arc::new(Mutex::new(steward));
        world.others = Some(Arc::new(world::Told(told)));
        hand_over(&world);
        world.boot();
        world.run_for(minutes(2));
        assert_eq!(finalizers(&world), ["finalizer.flagger.app"]);
        take_back(&world);
        world.run_for(minutes(2));
        assert!(status(&world, "evenkeel").is_null());
        assert_eq!(finalizers(&world).len(), left);
    }
}

#[test]
fn a_release_that_nobody_would_go_on_with_is_ended_before_it_is_given_back() {
    let (mut world, _) = of_ours(consent());
    world.store.change(&canary_key(), |body| {
        body["metadata"]["annotations"][MANAGED] = "true".into();
    });
    world.boot();
    world.release("2");
    world.run_for(minutes(3));
    assert!(world.weight() > Some(0), "{}", world.timeline());
    take_back(&world);
    world.traffic.lock().unwrap().error_ratio = Some(0.5);
    world.run_until(&["Failed"]);
    world.run_for(minutes(2));
    assert_eq!(world.weight(), Some(0));
    assert!(status(&world, "evenkeel").is_null());
    assert!(finalizers(&world).is_empty());
}
