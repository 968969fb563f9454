//! What wakes a controller.

use std::time::Duration;

use evenkeel_control::{Plan, Wakes};

use crate::{
    fixture::{Fixture, Seen, copy, widget_of},
    world::{World, config, config_key, widget, widget_key},
};

#[test]
fn a_watch_that_ends_again_and_again_is_opened_once_a_second() {
    let mut world = World::of(Fixture::copying());
    world.server.end_watches();
    world.run_for(60);
    let opened = world.server.requests().iter().filter(|r| r.verb == "watch").count();
    assert!((50..=62).contains(&opened), "{opened}");
    // Each is counted for `/metrics`, but for the first one.
    let restarts =
        format!("evenkeel_watch_restarts_total{{controller=\"fixture\"}} {}", opened - 1);
    let metrics = world.activity.metrics();
    assert!(metrics.contains(&restarts), "{restarts}: {metrics}");
    // It still sees what happens.
    world.server.change(&widget_key("w"), |widget| widget["spec"]["want"] = "2".into());
    world.run_for(2);
    assert_eq!(world.server.find(&config_key("w")).unwrap().json()["data"]["value"], "2");
    world.server.heal();
    world.run_for(60);
    let again = world.server.requests().iter().filter(|r| r.verb == "watch").count();
    assert!(again <= opened + 3, "{again}");
}

#[test]
fn what_is_deleted_while_no_watch_is_open_is_noticed() {
    let mut world = World::of(Fixture::copying().minding_configs(widget_of));
    world.server.add(widget("v", "1"));
    world.run_for(5);
    world.server.cut_watches();
    world.server.remove(&widget_key("v"));
    world.server.remove(&config_key("w"));
    world.run_for(5);
    assert_eq!(world.why("v"), "", "a widget that is gone is forgotten");
    assert!(world.server.find(&config_key("w")).is_some(), "what a widget needs is made again");
}

#[test]
fn a_trigger_that_panics_on_one_object_hides_no_other() {
    let map = |config: &evenkeel_api::Obj| -> Wakes {
        assert!(config.name() != "poison", "a defect of the trigger");
        widget_of(config)
    };
    let mut world = World::new();
    world.server.add(config("poison", "1"));
    for name in ["a", "b"] {
        world.server.add(widget(name, "1"));
    }
    world.boot_with(vec![Fixture::copying().minding_configs(map)]);
    world.run_for(5);
    for name in ["a", "b"] {
        assert!(world.server.find(&config_key(name)).is_some(), "{name}");
    }
    // It is still woken, and the poison may change any number of times.
    for round in 0..50 {
        let value = round.to_string();
        world.server.change(&config_key("poison"), |config| config["data"]["value"] = value.into());
        world.server.change(&config_key("a"), |config| config["data"]["value"] = "x".into());
        world.run_for(70);
        let a = world.server.find(&config_key("a")).unwrap();
        assert_eq!(a.json()["data"]["value"], "1", "round {round}");
    }
}

#[test]
fn objects_are_worked_on_side_by_side_as_far_as_the_controller_allows() {
    let look = |key: &evenkeel_api::Key| {
        if key.name.starts_with("slow") {
            crate::fixture::Look::Silence
        } else {
            crate::fixture::Look::Well
        }
    };
    let mut world = World::new();
    for name in ["slow-1", "slow-2", "w"] {
        world.server.add(widget(name, "1"));
    }
    world.boot_with(vec![Fixture::copying().looking(look).at_once(3)]);
    world.run_for(1);
    assert!(world.server.find(&config_key("w")).is_some());
}

#[test]
fn how_many_objects_wait_is_reported() {
    let look = |_: &evenkeel_api::Key| crate::fixture::Look::Silence;
    let mut world = World::new();
    for name in ["a", "b", "c"] {
        world.server.add(widget(name, "1"));
    }
    world.boot_with(vec![Fixture::copying().looking(look)]);
    world.run_for(1);
    let depth = "evenkeel_queue_depth{controller=\"fixture\"} 2";
    assert!(world.activity.metrics().contains(depth), "one of three is being looked at");
}

#[test]
fn a_look_that_was_planned_comes_whatever_the_wall_clock_does() {
    let decide = |seen: &Seen| copy(seen).waking(Duration::from_secs(10));
    for ahead in [-3_600, 3_600] {
        let mut world = World::new();
        world.server.add(widget("w", "1"));
        let setup = world.setup("one", vec![Fixture::new(decide)]);
        let watch = setup.watch.clone();
        world.boot(setup);
        world.run_for(5);
        watch.set_ahead(ahead);
        let before = world.count("get", "ConfigMap/shop/w");
        world.run_for(60);
        let looks = world.count("get", "ConfigMap/shop/w") - before;
        assert!((5..=7).contains(&looks), "{looks} looks with the clock {ahead} s ahead");
    }
}

#[test]
fn an_object_that_is_created_later_is_seen() {
    let mut world = World::new();
    world.boot_with(vec![Fixture::new(|_: &Seen| Plan::idle("Fine"))]);
    world.run_for(5);
    world.server.add(widget("late", "1"));
    world.run_for(1);
    assert!(world.why("late").starts_with("done Fine (next never)"), "{}", world.why("late"));
}

#[test]
fn only_what_matters_of_an_object_wakes_and_that_it_is_gone() {
    let fixture = Fixture::new(|_: &Seen| Plan::idle("Fine")).minding_configs(widget_of);
    let mut world = World::of(fixture.digesting(|config| config.json()["data"].to_string()));
    world.server.add(config("w", "1"));
    world.run_for(5);
    let mut looks = world.count("get", "ConfigMap/shop/w");
    let mut woken = |world: &mut World| {
        world.run_for(2);
        let all = world.count("get", "ConfigMap/shop/w");
        std::mem::replace(&mut looks, all) != all
    };
    let label = |config: &mut serde_json::Value| {
        config["metadata"]["labels"] = serde_json::json!({"round": "1"});
    };
    world.server.change(&config_key("w"), label);
    assert!(!woken(&mut world), "the same content");
    world.server.change(&config_key("w"), |config| config["data"]["value"] = "2".into());
    assert!(woken(&mut world), "other content");
    world.server.remove(&config_key("w"));
    assert!(woken(&mut world), "it is gone");
    world.server.add(config("w", "2"));
    assert!(woken(&mut world), "it is there again");
    world.server.cut_watches();
    world.server.remove(&config_key("w"));
    assert!(woken(&mut world), "it is gone, and nobody has said so");
    world.server.add(config("w", "2"));
    assert!(woken(&mut world), "it is there again");
}
