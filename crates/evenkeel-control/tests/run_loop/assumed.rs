//! A stale plan is a conflict, whatever the verb; what was judged is what is written.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, Ordering},
};

use evenkeel_api::{GroupKind, Obj};
use evenkeel_control::{Action, Change, Direction, Judged, Plan, Propagation, RouteWeight};
use k8s_openapi::api::core::v1::ConfigMap;
use serde_json::{Value, json};

use crate::{
    fixture::{Fixture, Seen},
    world::{World, boxed, config, config_key, widget},
};

/// A wildcard for every kind: the server accepts it.
fn target() -> Value {
    let mut body = config("w", "old");
    body["spec"] = json!({"replicas": 1, "rules": [{"backendRefs": [{"name": "a", "weight": 1}]}]});
    body
}

/// One action per verb on an object as it was seen.
fn verbs() -> Vec<fn(&Obj) -> Action> {
    vec![
        |_| {
            let mut want = target();
            want["data"]["value"] = "new".into();
            Action::Apply(boxed(want))
        },
        |obj| Action::Patch { key: obj.key().clone(), patch: json!({"data": {"value": "new"}}) },
        |obj| Action::Delete {
            key: obj.key().clone(),
            uid: obj.uid().to_owned(),
            propagation: Propagation::Background,
        },
        |obj| Action::Evict { key: obj.key().clone(), uid: obj.uid().to_owned() },
        |obj| Action::Scale { key: obj.key().clone(), replicas: 2 },
        |obj| Action::Bind { pod: obj.key().clone(), node: "node-1".to_owned() },
        |obj| Action::SetWeights {
            route: obj.key().clone(),
            weights: vec![RouteWeight { backend: "a".to_owned(), weight: 2 }],
        },
    ]
}

/// A world in which a plan for this action assumes what it saw, once.
fn world(
    make: fn(&Obj) -> Action,
    assumes: bool,
    meanwhile: impl Fn() + Send + Sync + 'static,
) -> World {
    let world = World::new();
    world.server.add(widget("w", "1"));
    world.server.add(target());
    let planned = AtomicBool::new(false);
    let decide = move |seen: &Seen| {
        let Some(config) = seen.config.as_ref() else { return Plan::idle("Gone") };
        if planned.swap(true, Ordering::Relaxed) {
            return Plan::idle("PlannedBefore");
        }
        let plan = Plan::act("Acting", vec![make(config)]);
        let plan =
            if assumes { plan.assuming(config.key().clone(), config.revision()) } else { plan };
        meanwhile();
        plan
    };
    let mut world = world;
    world.boot_with(vec![Fixture::new(decide)]);
    world
}

fn touch(server: &crate::store::Server) {
    server.change(&config_key("w"), |config| config["data"]["theirs"] = "kept".into());
}

#[test]
fn a_plan_made_for_an_older_revision_is_not_asked_about() {
    for (row, make) in verbs().into_iter().enumerate() {
        let server = Arc::new(Mutex::new(None::<crate::store::Server>));
        let later = server.clone();
        let mut world = world(make, true, move || {
            later.lock().unwrap().iter().for_each(touch);
        });
        *server.lock().unwrap() = Some(world.server.clone());
        world.run_for(60);
        let config = world.server.find(&config_key("w")).unwrap();
        assert_eq!(config.json()["data"], json!({"value": "old", "theirs": "kept"}), "row {row}");
        assert_eq!(config.json()["spec"], target()["spec"], "row {row}");
        assert_eq!(*world.gate.asked.lock().unwrap(), Vec::<String>::new(), "row {row}");
        assert!(world.why("w").starts_with("done PlannedBefore"), "row {row}: {}", world.why("w"));
    }
}

#[test]
fn what_moves_on_while_the_door_thinks_is_not_written_over() {
    for (row, make) in verbs().into_iter().enumerate() {
        let mut world = world(make, true, || {});
        let server = world.server.clone();
        world.gate.rule(move |_| {
            touch(&server);
            crate::world::Answer::Allow
        });
        world.run_for(60);
        let config = world.server.find(&config_key("w")).unwrap();
        assert_eq!(config.json()["data"], json!({"value": "old", "theirs": "kept"}), "row {row}");
        assert_eq!(config.json()["spec"], target()["spec"], "row {row}");
        let failures = world.gate.failures.lock().unwrap().clone();
        assert_eq!(failures.len(), 1, "row {row}: {failures:?}");
        assert!(failures[0].contains("has changed"), "row {row}: {failures:?}");
    }
}

#[test]
fn what_was_judged_is_what_is_written_even_if_nothing_was_assumed() {
    for (row, make) in verbs().into_iter().enumerate() {
        let mut world = World::new();
        world.server.add(widget("w", "1"));
        world.server.add(target());
        let judged = Arc::new(Mutex::new(Vec::new()));
        let seen = judged.clone();
        let judge = Judged(move |change: Change<'_>| {
            seen.lock().unwrap().push(change.before.unwrap().revision());
            Direction::Safer
        });
        let planned = AtomicBool::new(false);
        let decide = move |seen: &Seen| match &seen.config {
            Some(config) if !planned.swap(true, Ordering::Relaxed) => {
                Plan::act("Acting", vec![make(config)])
            }
            _ => Plan::idle("PlannedBefore"),
        };
        let mut setup = world.setup("one", vec![Fixture::new(decide)]);
        setup.host = Box::new(|host| host.with_judge(GroupKind::of::<ConfigMap>(), judge));
        let server = world.server.clone();
        world.gate.rule(move |petition| {
            assert_eq!(petition.direction, Direction::Safer);
            touch(&server);
            crate::world::Answer::Allow
        });
        world.boot(setup);
        world.run_for(60);
        let config = world.server.find(&config_key("w")).unwrap();
        assert_eq!(config.json()["data"], json!({"value": "old", "theirs": "kept"}), "row {row}");
        assert_eq!(judged.lock().unwrap().len(), 1, "row {row}");
    }
}

#[test]
fn what_was_deleted_meanwhile_is_not_made_again() {
    let server = Arc::new(Mutex::new(None::<crate::store::Server>));
    let later = server.clone();
    let mut world = world(verbs()[0], true, move || {
        later.lock().unwrap().iter().for_each(|server| server.remove(&config_key("w")));
    });
    *server.lock().unwrap() = Some(world.server.clone());
    world.run_for(60);
    assert!(world.server.find(&config_key("w")).is_none());
    assert_eq!(*world.gate.asked.lock().unwrap(), Vec::<String>::new());
}

#[test]
fn what_was_made_meanwhile_is_not_taken_for_the_plans() {
    let mut world = World::of(Fixture::new(|seen: &Seen| match seen.config {
        None => Plan::act("Making", vec![Action::Create(boxed(config("w", "ours")))]),
        Some(_) => Plan::idle("There"),
    }));
    let server = world.server.clone();
    world.gate.rule(move |_| {
        server.add(config("w", "theirs"));
        crate::world::Answer::Allow
    });
    world.run_for(60);
    let config = world.server.find(&config_key("w")).unwrap();
    assert_eq!(config.json()["data"]["value"], "theirs");
    assert!(world.why("w").starts_with("done There"), "{}", world.why("w"));
}

#[test]
fn another_object_of_the_same_name_is_not_deleted() {
    let stale = |_: &Obj| Action::Delete {
        key: config_key("w"),
        uid: "uid-before".to_owned(),
        propagation: Propagation::Background,
    };
    let mut world = world(stale, false, || {});
    world.run_for(60);
    assert!(world.server.find(&config_key("w")).is_some());
}

#[test]
fn what_is_gone_already_counts_as_deleted() {
    for verb in [2, 4 - 1] {
        let server = Arc::new(Mutex::new(None::<crate::store::Server>));
        let later = server.clone();
        let mut world = world(verbs()[verb], false, move || {
            later.lock().unwrap().iter().for_each(|server| server.remove(&config_key("w")));
        });
        *server.lock().unwrap() = Some(world.server.clone());
        world.run_for(1);
        assert!(world.why("w").starts_with("done Acting"), "{}", world.why("w"));
    }
}

#[test]
fn two_changes_of_one_object_in_one_plan_build_on_each_other() {
    let decide = |seen: &Seen| {
        let Some(config) = &seen.config else { return Plan::idle("Gone") };
        if config.json()["data"]["two"] == "2" {
            return Plan::idle("AsWanted");
        }
        let patch = |name: &str, value: &str| Action::Patch {
            key: config.key().clone(),
            patch: json!({"data": {name: value}}),
        };
        Plan::act("Acting", vec![patch("one", "1"), patch("two", "2")])
            .assuming(config.key().clone(), config.revision())
    };
    let mut world = World::of(Fixture::new(decide));
    world.server.add(target());
    world.run_for(60);
    let config = world.server.find(&config_key("w")).unwrap();
    assert_eq!(config.json()["data"], json!({"value": "old", "one": "1", "two": "2"}));
    assert!(world.gate.failures.lock().unwrap().is_empty());
}

#[test]
fn a_stale_status_is_a_conflict_too() {
    let planned = AtomicBool::new(false);
    let server = Arc::new(Mutex::new(None::<crate::store::Server>));
    let later = server.clone();
    let decide = move |seen: &Seen| {
        if planned.swap(true, Ordering::Relaxed) {
            return Plan::idle("PlannedBefore");
        }
        for server in later.lock().unwrap().iter() {
            server.change(&seen.key(), |widget| widget["status"]["theirs"] = "kept".into());
        }
        Plan::idle("Acting")
            .with_status(seen.key(), json!({"ours": 1}))
            .assuming(seen.key(), seen.widget.revision())
    };
    let mut world = World::of(Fixture::new(decide));
    *server.lock().unwrap() = Some(world.server.clone());
    world.run_for(60);
    let widget = world.server.find(&crate::world::widget_key("w")).unwrap();
    assert_eq!(widget.json()["status"], json!({"theirs": "kept"}));
}
