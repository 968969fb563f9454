//! Objects that another controller looks after.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use evenkeel_api::{GroupKind, Key, Obj, beside::MANAGED};
use evenkeel_control::{
    Action, BoxFuture, Controller, EventNote, EventType, ListQuery, ObserveError, Plan, Ports,
    Propagation, Steward, Stewards, StoreError,
};
use insta::assert_snapshot;
use serde_json::json;

use crate::{
    fixture::{Fixture, Look, Seen, copy},
    store::Server,
    world::{World, boxed, config, config_key, widget, widget_key, widget_kind},
};

/// Widgets are another one's.
struct Theirs;

impl Stewards for Theirs {
    fn of<'a>(&'a self, _: &'a GroupKind) -> BoxFuture<'a, Result<Steward, StoreError>> {
        let (name, why) = ("Other", "Other runs here".into());
        Box::pin(async { Ok(Steward::Other { name, why, sure: true }) })
    }
}

/// A world in which widgets are another one's, with one widget.
fn world(controller: Fixture) -> World {
    let mut world = World::new();
    world.server.add(widget("w", "1"));
    let mut setup = world.setup("one", vec![controller]);
    setup.host = Box::new(|host| host.with_stewards(Arc::new(Theirs)));
    world.boot(setup);
    world
}

fn writes(world: &World) -> usize {
    let reads = ["get", "list", "watch"];
    world.server.requests().iter().filter(|request| !reads.contains(&request.verb)).count()
}

fn mark(world: &World, value: Option<&str>) {
    world.server.change(&widget_key("w"), |widget| {
        widget["metadata"]["annotations"] = json!({MANAGED: value.unwrap_or_default()});
    });
}

#[test]
fn nothing_is_done_with_what_another_one_looks_after_and_what_would_be_is_shown() {
    let mut world = world(Fixture::copying());
    world.run_for(60);
    assert_eq!(writes(&world), 0);
    assert_snapshot!(world.why("w"), @"observed Copying (next in 60s) would Copying [apply ConfigMap/shop/w]; it is only observed: Other runs here");
    let metrics = world.activity.metrics();
    assert!(metrics.contains("evenkeel_observed_objects{controller=\"fixture\"} 1"), "{metrics}");
    assert!(metrics.contains("evenkeel_predictions_total{controller=\"fixture\"} 1"), "{metrics}");
    assert_eq!(world.activity.troubles(), []);
}

#[test]
fn an_object_that_is_handed_over_is_acted_on_until_it_is_taken_back() {
    let mut world = world(Fixture::copying());
    world.run_for(10);
    mark(&world, Some("true"));
    world.run_for(10);
    assert_eq!(world.count("create", "ConfigMap/shop/w"), 1);
    mark(&world, None);
    world.run_for(10);
    world.server.remove(&config_key("w"));
    let before = writes(&world);
    world.run_for(60);
    assert_eq!(writes(&world), before);
    assert!(world.server.find(&config_key("w")).is_none());
}

#[test]
fn a_hand_over_with_another_word_is_no_hand_over_and_is_said() {
    let mut world = world(Fixture::copying());
    mark(&world, Some("yes"));
    world.run_for(10);
    assert_eq!(writes(&world), 0);
    assert_snapshot!(world.why("w"), @r#"observed Copying (next in 110s) would Copying [apply ConfigMap/shop/w]; it is only observed: Other runs here (its annotation evenkeel.dev/managed is "yes": only "true" hands it over)"#);
}

#[test]
fn a_prediction_goes_on_to_what_follows_from_a_status_and_is_said_once() {
    let decide = |seen: &Seen| {
        let noted = seen.widget.json().pointer("/status/noted").is_some();
        if !noted {
            return Plan::idle("Noting").with_status(seen.key(), json!({"noted": true}));
        }
        let message = "the value is copied".to_owned();
        let event =
            EventNote { about: seen.key(), kind: EventType::Normal, reason: "Copied", message };
        let actions = ["a", "b", "c", "d"].map(|name| Action::Apply(boxed(config(name, "1"))));
        Plan::act("Copying", actions.to_vec()).with_event(event).waking(Duration::ZERO)
    };
    let mut world = world(Fixture::new(decide));
    world.run_for(300);
    assert_eq!(writes(&world), 0);
    assert_snapshot!(world.why("w"), @"observed Copying (next in 10s) would Noting, then Copying: the value is copied [apply ConfigMap/shop/a, apply ConfigMap/shop/b, apply ConfigMap/shop/c, 1 more]; it is only observed: Other runs here");
    assert!(
        world.activity.metrics().contains("evenkeel_predictions_total{controller=\"fixture\"} 1")
    );
}

#[test]
fn a_look_that_fails_writes_nothing_either() {
    for look in [Look::Panic, Look::Silence] {
        let fixture = Fixture::new(copy).looking(move |_| look.clone());
        let mut world = world(fixture);
        world.run_for(300);
        assert_eq!(writes(&world), 0);
    }
}

#[test]
fn what_is_put_on_an_object_is_taken_off_when_it_is_handed_back() {
    let marked = |widget: &Obj| widget.json().pointer("/status/ours").is_some();
    let fixture = Fixture::copying().handing_back(move |widget: &Obj| {
        let plan =
            Plan::idle("HandedBack").with_status(widget.key().clone(), json!({"ours": null}));
        marked(widget).then_some(plan)
    });
    let mut world = world(fixture);
    mark(&world, Some("true"));
    world.server.change(&widget_key("w"), |widget| widget["status"] = json!({"ours": 1}));
    world.run_for(10);
    mark(&world, None);
    world.run_for(60);
    assert!(!marked(&world.server.find(&widget_key("w")).unwrap()));
    assert!(world.why("w").starts_with("observed AsWanted"), "{}", world.why("w"));
}

#[test]
fn what_another_one_puts_back_is_not_taken_off_again_and_again_at_once() {
    let marked = |widget: &Obj| widget.json().pointer("/status/ours").is_some();
    let fixture = Fixture::copying().handing_back(move |widget: &Obj| {
        let plan =
            Plan::idle("HandedBack").with_status(widget.key().clone(), json!({"ours": null}));
        marked(widget).then_some(plan)
    });
    let mut world = world(fixture);
    for _ in 0..600 {
        world.server.change(&widget_key("w"), |widget| widget["status"] = json!({"ours": 1}));
        world.run_for(1);
    }
    let taken_off = world.count("status", "Widget/shop/w");
    assert!((200..=310).contains(&taken_off), "{taken_off} writes in ten minutes");
    world.run_for(60);
    assert!(!marked(&world.server.find(&widget_key("w")).unwrap()));
}

#[test]
fn a_hand_back_that_does_not_last_is_slowed_down() {
    // The server keeps what is to be taken off.
    let fixture = Fixture::copying().handing_back(|widget: &Obj| {
        Some(Plan::idle("HandedBack").with_status(widget.key().clone(), json!({"theirs": null})))
    });
    let mut world = world(fixture);
    world.run_for(60);
    let tried = world.count("status", "Widget/shop/w");
    assert!((5..=12).contains(&tried), "{tried} writes in a minute");
}

#[test]
fn an_object_that_changes_hands_while_it_is_looked_at_is_not_acted_on() {
    let server = Arc::<OnceLock<Server>>::default();
    let taking = server.clone();
    let fixture = Fixture::copying().looking(move |key| {
        let server = taking.get().unwrap();
        server.change(key, |widget| widget["metadata"]["annotations"] = json!({}));
        Look::Well
    });
    let mut world = world(fixture);
    assert!(server.set(world.server.clone()).is_ok());
    mark(&world, Some("true"));
    world.run_for(60);
    assert_eq!(writes(&world), 0);
}

/// Removes the ConfigMap of a widget that is gone.
struct Sweeper;

/// It, and its uid.
#[derive(Debug)]
struct Left(Option<(Key, String)>);

impl Controller for Sweeper {
    type View = Left;

    fn name(&self) -> &'static str {
        "sweeper"
    }

    fn owns(&self) -> ListQuery {
        ListQuery::all(widget_kind())
    }

    async fn observe(&self, key: &Key, ports: &Ports) -> Result<Option<Left>, ObserveError> {
        let widget = ports.read.get(key).await?;
        let left = ports.read.get(&config_key(&key.name)).await?.filter(|_| widget.is_none());
        Ok(Some(Left(left.map(|left| (left.key().clone(), left.uid().to_owned())))))
    }

    fn decide(&self, left: &Left) -> Plan {
        let Some((key, uid)) = left.0.clone() else { return Plan::idle("NothingLeft") };
        let propagation = Propagation::Background;
        Plan::act("Sweeping", vec![Action::Delete { key, uid, propagation }])
    }
}

#[test]
fn what_is_around_an_object_of_another_one_stays_when_the_object_is_gone() {
    for (theirs, stays) in [(true, true), (false, false)] {
        let mut world = World::new();
        world.server.add(widget("w", "1"));
        world.server.add(config("w", "1"));
        let mut setup = world.setup("one", Vec::new());
        setup.other = Some(Box::new(|run| run.with(Sweeper)));
        if theirs {
            setup.host = Box::new(|host| host.with_stewards(Arc::new(Theirs)));
        }
        world.boot(setup);
        world.run_for(10);
        world.server.remove(&widget_key("w"));
        world.run_for(60);
        assert_eq!(world.server.find(&config_key("w")).is_some(), stays);
    }
}
