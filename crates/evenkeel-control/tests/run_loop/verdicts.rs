//! The door's answers, and their effect on the plan.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use evenkeel_api::Key;
use evenkeel_control::{Action, Objection, Observer, Pass, Plan};
use insta::assert_snapshot;

use crate::{
    fixture::{Fixture, copy},
    world::{Answer, World, boxed, config, config_key, widget, widget_key},
};

#[test]
fn what_is_allowed_is_asked_done_and_settled_once() {
    let mut world = World::of(Fixture::copying());
    world.run_for(600);
    assert_snapshot!(world.timeline(), @"
    0.000 ask apply ConfigMap/shop/w: allow
    0.000 create ConfigMap/shop/w by fixture
    0.000 settle done
    ");
    assert_snapshot!(world.why("w"), @"done Copying (next never)");
}

#[test]
fn what_is_held_shows_why_and_is_asked_again_until_it_is_allowed() {
    let mut world = World::of(Fixture::copying());
    world.gate.answer(Answer::Hold(None));
    world.run_for(60);
    assert_snapshot!(world.timeline(), @"
    0.000 ask apply ConfigMap/shop/w: hold
    0.000 status Widget/shop/w by fixture
    0.000 event Warning ActionHeld w x1
    30.000 ask apply ConfigMap/shop/w: hold
    60.000 ask apply ConfigMap/shop/w: hold
    ");
    assert_snapshot!(world.condition("w", "Held"), @"ActionHeld: fixture: apply ConfigMap/shop/w: budget: the error budget is spent; freeze: nothing changes on a Friday");
    assert_snapshot!(world.why("w"), @"held Copying (next in 30s) apply ConfigMap/shop/w: budget: the error budget is spent; freeze: nothing changes on a Friday");
    world.gate.answer(Answer::Allow);
    world.run_for(60);
    assert_snapshot!(world.timeline(), @"
    90.000 ask apply ConfigMap/shop/w: allow
    90.000 create ConfigMap/shop/w by fixture
    90.000 settle done
    90.000 status Widget/shop/w by fixture
    ");
    assert_eq!(world.condition("w", "Held"), "none");
}

#[test]
fn plans_and_verdicts_are_counted_each_verdict_under_every_policy_that_objects() {
    let mut world = World::of(Fixture::copying());
    world.gate.answer(Answer::Hold(None));
    world.run_for(35);
    world.gate.answer(Answer::Deny);
    world.run_for(30);
    world.gate.answer(Answer::Allow);
    world.run_for(60);
    let metrics = world.activity.metrics();
    let of = |family: &str| {
        let lines = metrics.lines().filter(|line| line.starts_with(family));
        lines.collect::<Vec<_>>().join("\n")
    };
    assert_snapshot!(of("evenkeel_verdicts_total"), @r#"
    evenkeel_verdicts_total{policy="",verdict="allow"} 1
    evenkeel_verdicts_total{policy="budget",verdict="deny"} 2
    evenkeel_verdicts_total{policy="budget",verdict="hold"} 2
    evenkeel_verdicts_total{policy="freeze",verdict="deny"} 2
    evenkeel_verdicts_total{policy="freeze",verdict="hold"} 2
    "#);
    let plans = of("evenkeel_plans_total");
    let acts = "evenkeel_plans_total{controller=\"fixture\",does=\"act\"} 5";
    assert!(plans.lines().any(|line| line == acts), "{plans}");
    assert_snapshot!(of("evenkeel_actions_total"), @r#"evenkeel_actions_total{controller="fixture",verb="apply",outcome="done"} 1"#);
}

#[test]
fn what_is_held_until_a_time_is_asked_again_then_and_no_sooner_than_in_a_second() {
    let mut world = World::of(Fixture::copying());
    world.gate.answer(Answer::Hold(Some(100)));
    world.run_for(99);
    let asked = world.gate.asked.lock().unwrap().len();
    world.run_for(2);
    assert_eq!(world.gate.asked.lock().unwrap().len(), asked + 1);
    // A time that has come already must not make the loop spin.
    for until in [0, -5] {
        world.gate.answer(Answer::Hold(Some(until)));
        world.run_for(100);
        let before = world.gate.asked.lock().unwrap().len();
        world.run_for(60);
        let asked = world.gate.asked.lock().unwrap().len() - before;
        assert!((1..=60).contains(&asked), "{asked} questions in a minute for {until}");
    }
    // A freeze may be lifted long before its time.
    world.gate.answer(Answer::Hold(Some(86_400)));
    world.run_for(100);
    world.gate.answer(Answer::Allow);
    world.run_for(300);
    assert_eq!(world.condition("w", "Held"), "none");
}

#[test]
fn a_held_plan_is_looked_at_again_when_it_wanted_to_be() {
    // The look may find a reason to go back, and that must not wait for the freeze to end.
    let decide = |seen: &crate::fixture::Seen| copy(seen).waking(Duration::from_secs(10));
    let mut world = World::of(Fixture::new(decide));
    world.gate.answer(Answer::Hold(Some(3_600)));
    world.run_for(60);
    let looks = world.count("get", "ConfigMap/shop/w");
    world.run_for(60);
    let looks = world.count("get", "ConfigMap/shop/w") - looks;
    assert!((6..=18).contains(&looks), "{looks} looks in a minute");
}

#[test]
fn reasons_with_numbers_in_them_do_not_make_a_held_plan_busy() {
    let mut world = World::of(Fixture::new(|seen: &crate::fixture::Seen| {
        let value = format!("at {}", seen.now);
        Plan::act(
            "Stamping",
            vec![Action::Scale {
                key: config_key(&value),
                replicas: i32::try_from(seen.now.as_second() % 1_000).unwrap(),
            }],
        )
    }));
    world.server.fault(
        "get",
        "ConfigMap",
        crate::store::Fault::Answer(evenkeel_control::StoreError::Refused {
            object: "ConfigMap".to_owned(),
            problem: "forbidden".to_owned(),
        }),
    );
    world.run_for(600);
    assert!(world.busiest_minute() <= 120, "{} requests", world.busiest_minute());
    let events = world.timeline().lines().filter(|line| line.contains(" event ")).count();
    assert!(events <= 10, "{events} events in ten minutes");
}

#[test]
fn what_is_denied_is_asked_again_ever_more_slowly_but_not_never() {
    let mut world = World::of(Fixture::copying());
    world.gate.answer(Answer::Deny);
    world.run_for(200);
    assert_snapshot!(world.timeline(), @"
    0.000 ask apply ConfigMap/shop/w: deny
    0.000 status Widget/shop/w by fixture
    0.000 event Warning ActionDenied w x1
    2.000 ask apply ConfigMap/shop/w: deny
    6.000 ask apply ConfigMap/shop/w: deny
    14.000 ask apply ConfigMap/shop/w: deny
    30.000 ask apply ConfigMap/shop/w: deny
    62.000 ask apply ConfigMap/shop/w: deny
    122.000 ask apply ConfigMap/shop/w: deny
    182.000 ask apply ConfigMap/shop/w: deny
    ");
    assert_snapshot!(world.condition("w", "Held"), @"ActionDenied: fixture: apply ConfigMap/shop/w: budget: the error budget is spent; freeze: nothing changes on a Friday");
    world.gate.answer(Answer::Allow);
    world.run_for(61);
    assert_eq!(world.server.find(&config_key("w")).unwrap().json()["data"]["value"], "1");
    assert_eq!(world.condition("w", "Held"), "none");
}

#[test]
fn one_objects_verdict_is_not_anothers() {
    let mut world = World::new();
    for name in ["a", "b"] {
        world.server.add(widget(name, "1"));
    }
    world.gate.rule(
        |petition| {
            if &*petition.object.name == "a" { Answer::Deny } else { Answer::Allow }
        },
    );
    world.boot_with(vec![Fixture::copying()]);
    world.run_for(10);
    assert!(world.server.find(&config_key("a")).is_none());
    assert!(world.server.find(&config_key("b")).is_some());
}

#[test]
fn the_rest_of_a_plan_waits_for_what_is_held() {
    let decide = |seen: &crate::fixture::Seen| {
        let actions = ["one", "two"].map(|name| Action::Apply(boxed(config(name, seen.want()))));
        Plan::act("Two", actions.to_vec())
            .with_status(seen.key(), serde_json::json!({"phase": "Done"}))
    };
    let mut world = World::of(Fixture::new(decide));
    world.gate.rule(|petition| {
        let two = petition.action.target().is_some_and(|key| &*key.name == "two");
        if two { Answer::Hold(None) } else { Answer::Allow }
    });
    world.run_for(5);
    let status = || world.server.find(&widget_key("w")).unwrap().json()["status"]["phase"].clone();
    assert!(world.server.find(&config_key("one")).is_some());
    assert!(world.server.find(&config_key("two")).is_none());
    assert_eq!(status(), serde_json::Value::Null);
    world.gate.answer(Answer::Allow);
    world.run_for(40);
    let status = world.server.find(&widget_key("w")).unwrap().json()["status"]["phase"].clone();
    assert_eq!(status, "Done");
}

#[test]
fn what_is_so_already_is_neither_asked_nor_written() {
    let decide = |seen: &crate::fixture::Seen| {
        Plan::act("Ensuring", vec![Action::Apply(boxed(config("w", seen.want())))])
            .waking(Duration::from_secs(10))
    };
    let mut world = World::of(Fixture::new(decide));
    world.run_for(600);
    assert_snapshot!(world.timeline(), @"
    0.000 ask apply ConfigMap/shop/w: allow
    0.000 create ConfigMap/shop/w by fixture
    0.000 settle done
    ");
    assert_eq!(world.condition("w", "Stalled"), "none");
}

/// Panics once, outside of any pass.
struct Bomb(Arc<AtomicBool>);

impl Observer for Bomb {
    fn passed(&self, _: &Pass) {}
    fn planned(&self, _: &'static str, _: &'static str) {}
    fn acted(&self, _: &'static str, _: &'static str, _: &'static str) {}
    fn judged(&self, _: &'static str, _: &'static str, _: &[Objection]) {}
    fn watch_interrupted(&self, _: &'static str) {}
    fn queued(&self, _: &'static str, _: usize) {
        assert!(!self.0.swap(false, Ordering::Relaxed), "a defect of the observer");
    }
    fn led(&self, _: &Key, _: bool) {}
}

#[test]
fn what_was_held_is_looked_at_again_after_the_worker_was_restarted() {
    let mut world = World::new();
    world.server.add(widget("w", "1"));
    world.gate.answer(Answer::Hold(None));
    let armed = Arc::new(AtomicBool::new(false));
    let bomb = Arc::new(Bomb(armed.clone()));
    let mut setup = world.setup("one", vec![Fixture::copying()]);
    setup.host = Box::new(|host| host.with_observer(bomb));
    world.boot(setup);
    world.run_for(5);
    armed.store(true, Ordering::Relaxed);
    world.run_for(30);
    assert!(!armed.load(Ordering::Relaxed));
    // It is at the revision that the loop's own condition left.
    world.gate.answer(Answer::Allow);
    world.run_for(60);
    assert!(world.server.find(&config_key("w")).is_some(), "{}", world.timeline());
}

#[test]
fn what_changes_while_the_door_is_asked_is_looked_at_soon() {
    let mut world = World::of(Fixture::copying());
    let server = world.server.clone();
    world.gate.rule(move |petition| {
        // Its user changes it meanwhile, once.
        server.change(&petition.object.clone(), |widget| widget["spec"]["want"] = "2".into());
        let value = petition.after.and_then(|after| after.pointer("/data/value"));
        let allowed = value.and_then(|value| value.as_str()) == Some("2");
        if allowed { Answer::Allow } else { Answer::Hold(Some(3_600)) }
    });
    world.run_for(5);
    let config = world.server.find(&config_key("w"));
    assert!(config.is_some_and(|config| config.json()["data"]["value"] == "2"));
}
