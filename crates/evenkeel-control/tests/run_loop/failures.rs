//! What goes wrong in a pass, and how it ends.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use evenkeel_api::{GroupKind, Obj};
use evenkeel_control::{
    Action, BoxFuture, Change, Direction, Judge, MetricsError, ObserveError, Plan, Propagation,
    Read, StoreError,
};
use insta::assert_snapshot;
use k8s_openapi::api::core::v1::ConfigMap;

use crate::{
    fixture::{Fixture, Look, Seen, copy},
    secrets::Lines,
    store::Fault,
    world::{Answer, World, boxed, config, config_key, widget, widget_key},
};

fn refused() -> StoreError {
    StoreError::Refused { object: "ConfigMap/shop/w".into(), problem: "no right to".into() }
}

fn conflict() -> StoreError {
    StoreError::Conflict { object: "ConfigMap/shop/w".into(), problem: "another write".into() }
}

#[test]
fn what_the_server_refuses_is_shown_and_tried_again_slowly_until_it_is_allowed() {
    let mut world = World::of(Fixture::copying());
    world.server.fault("create", "ConfigMap", Fault::Answer(refused()));
    world.run_for(200);
    assert_snapshot!(world.timeline(), @"
    0.000 ask apply ConfigMap/shop/w: allow
    0.000 settle failed: ConfigMap/shop/w: no right to
    0.000 status Widget/shop/w by fixture
    0.000 event Warning Refused w x1
    2.000 ask apply ConfigMap/shop/w: allow
    2.000 settle failed: ConfigMap/shop/w: no right to
    6.000 ask apply ConfigMap/shop/w: allow
    6.000 settle failed: ConfigMap/shop/w: no right to
    14.000 ask apply ConfigMap/shop/w: allow
    14.000 settle failed: ConfigMap/shop/w: no right to
    30.000 ask apply ConfigMap/shop/w: allow
    30.000 settle failed: ConfigMap/shop/w: no right to
    62.000 ask apply ConfigMap/shop/w: allow
    62.000 settle failed: ConfigMap/shop/w: no right to
    122.000 ask apply ConfigMap/shop/w: allow
    122.000 settle failed: ConfigMap/shop/w: no right to
    182.000 ask apply ConfigMap/shop/w: allow
    182.000 settle failed: ConfigMap/shop/w: no right to
    ");
    assert_snapshot!(world.condition("w", "Stalled"), @"Refused: fixture: apply ConfigMap/shop/w: no right to");
    assert_snapshot!(world.why("w"), @"refused Copying (next in 42s) apply ConfigMap/shop/w: no right to");
    assert!(world.busiest_minute() <= 60, "{}", world.busiest_minute());
    world.server.heal();
    world.run_for(61);
    assert_eq!(world.server.find(&config_key("w")).unwrap().json()["data"]["value"], "1");
    assert_eq!(world.condition("w", "Stalled"), "none");
}

#[test]
fn a_refused_plan_is_looked_at_again_when_it_wanted_to_be() {
    // The look may find a reason to go back, and that must not wait for the pause to end.
    let decide = |seen: &Seen| copy(seen).waking(Duration::from_secs(10));
    let mut world = World::of(Fixture::new(decide));
    world.server.fault("create", "ConfigMap", Fault::Answer(refused()));
    world.run_for(600);
    let looks = world.count("get", "ConfigMap/shop/w");
    world.run_for(60);
    let looks = world.count("get", "ConfigMap/shop/w") - looks;
    assert!((6..=18).contains(&looks), "{looks} looks in a minute");
    assert!(world.why("w").starts_with("refused Copying"), "{}", world.why("w"));
}

#[test]
fn a_kind_that_is_refused_does_not_stop_the_objects_that_do_without_it() {
    let mut world = World::new();
    for (name, want) in [("a", "1"), ("b", "2"), ("c", "1")] {
        world.server.add(widget(name, want));
    }
    world.server.fault("create", "Secret", Fault::Answer(refused()));
    let decide = |seen: &Seen| {
        if seen.want() == "1" {
            return copy(seen);
        }
        let mut secret = config(seen.name(), "2");
        secret["kind"] = "Secret".into();
        Plan::act("Copying", vec![Action::Create(boxed(secret))])
    };
    world.boot_with(vec![Fixture::new(decide)]);
    world.run_for(30);
    assert!(world.server.find(&config_key("a")).is_some());
    assert!(world.server.find(&config_key("c")).is_some());
    assert!(world.condition("b", "Stalled").starts_with("Refused"));
    assert_eq!(world.condition("a", "Stalled"), "none");
    // A change of the object is tried at once, as far as the first pause allows.
    world.server.change(&widget_key("b"), |widget| widget["spec"]["want"] = "1".into());
    world.run_for(5);
    assert!(world.server.find(&config_key("b")).is_some());
}

#[test]
fn a_conflict_is_tried_again_soon() {
    let mut world = World::of(Fixture::copying());
    world.server.fault_times("create", "ConfigMap", Fault::Answer(conflict()), 2);
    world.run_for(600);
    assert_snapshot!(world.timeline(), @"
    0.000 ask apply ConfigMap/shop/w: allow
    0.000 settle failed: ConfigMap/shop/w has changed: another write
    0.020 ask apply ConfigMap/shop/w: allow
    0.020 settle failed: ConfigMap/shop/w has changed: another write
    0.060 ask apply ConfigMap/shop/w: allow
    0.060 create ConfigMap/shop/w by fixture
    0.060 settle done
    ");
    assert_eq!(world.condition("w", "Stalled"), "none");
}

#[test]
fn every_failure_that_lasts_stays_below_two_requests_a_second_and_heals() {
    let unreachable = StoreError::Unreachable { object: "all".into(), problem: "reset".into() };
    let busy = StoreError::Busy { object: "all".into(), problem: "quota".into() };
    let invalid = StoreError::Invalid { object: "all".into(), problem: "spec: no".into() };
    let malformed = || StoreError::Malformed(Obj::from_json(serde_json::json!({})).unwrap_err());
    let rows = [
        ("create", "ConfigMap", Fault::Answer(refused())),
        ("create", "ConfigMap", Fault::Answer(conflict())),
        ("create", "ConfigMap", Fault::Answer(unreachable.clone())),
        ("create", "ConfigMap", Fault::Answer(busy)),
        ("create", "ConfigMap", Fault::Answer(invalid.clone())),
        ("create", "ConfigMap", Fault::Silence),
        ("create", "ConfigMap", Fault::LostAnswer),
        ("create", "ConfigMap", Fault::Panic),
        ("get", "ConfigMap", Fault::Answer(unreachable)),
        ("get", "ConfigMap", Fault::Answer(refused())),
        ("get", "ConfigMap", Fault::Answer(malformed())),
        ("get", "*", Fault::Answer(malformed())),
        ("get", "ConfigMap", Fault::Silence),
        ("get", "ConfigMap", Fault::Panic),
        ("get", "*", Fault::Silence),
        ("status", "Widget", Fault::Answer(refused())),
        ("status", "Widget", Fault::Answer(conflict())),
        ("status", "Widget", Fault::Answer(invalid)),
        ("status", "Widget", Fault::Silence),
        ("create", "Event", Fault::Silence),
        ("*", "*", Fault::Silence),
        ("*", "*", Fault::Panic),
    ];
    for (row, (verb, kind, fault)) in rows.into_iter().enumerate() {
        let decide = |seen: &Seen| {
            let phase = serde_json::json!({"phase": seen.want()});
            if seen.widget.json()["status"]["phase"] == phase["phase"] {
                return copy(seen);
            }
            copy(seen).with_status(seen.key(), phase)
        };
        let mut world = World::of(Fixture::new(decide));
        world.server.fault(verb, kind, fault);
        world.run_for(1_200);
        let most = world.busiest_minute();
        assert!(most <= 120, "row {row}: {most} requests in a minute\n{}", world.timeline());
        world.server.heal();
        world.run_for(700);
        let config = world.server.find(&config_key("w"));
        assert!(config.is_some(), "row {row} does not heal:\n{}", world.timeline());
        for kind in ["Held", "Stalled"] {
            assert_eq!(world.condition("w", kind), "none", "row {row}");
        }
    }
}

#[test]
fn a_panic_stops_one_object_for_a_long_while_and_no_other() {
    type Make = fn() -> Fixture;
    let observe: Make = || {
        Fixture::copying().looking(|key| if &*key.name == "bad" { Look::Panic } else { Look::Well })
    };
    let decide: Make = || {
        Fixture::new(|seen: &Seen| {
            assert!(seen.name() != "bad", "a defect of decide");
            copy(seen)
        })
    };
    for (make, words) in [(observe, "a defect of observe"), (decide, "a defect of decide")] {
        let mut world = World::new();
        for name in ["a", "bad", "c"] {
            world.server.add(widget(name, "1"));
        }
        world.boot_with(vec![make()]);
        world.run_for(3_600);
        assert!(world.server.find(&config_key("a")).is_some());
        assert!(world.server.find(&config_key("c")).is_some());
        let shown = world.condition("bad", "Stalled");
        assert!(shown.starts_with("Panicked: ") && shown.contains(words), "{shown}");
        let looks = world.activity.metrics();
        assert!(
            looks.contains("evenkeel_passes_total{controller=\"fixture\",result=\"panicked\"} 32"),
            "{looks}"
        );
        assert!(
            world.why("bad").starts_with("panicked Panicked (next in "),
            "{}",
            world.why("bad")
        );
    }
}

#[test]
fn a_panic_while_acting_is_settled_as_a_failure() {
    let mut world = World::of(Fixture::copying());
    world.server.fault_times("create", "ConfigMap", Fault::Panic, 1);
    world.run_for(60);
    assert_snapshot!(world.timeline(), @"
    0.000 ask apply ConfigMap/shop/w: allow
    0.000 settle failed: internal error (a defect of the client); the action may have taken effect
    0.000 status Widget/shop/w by fixture
    0.000 event Warning Panicked w x1
    30.000 ask apply ConfigMap/shop/w: allow
    30.000 create ConfigMap/shop/w by fixture
    30.000 settle done
    30.000 status Widget/shop/w by fixture
    ");
    assert_eq!(world.condition("w", "Stalled"), "none");
}

#[test]
fn a_panic_of_the_door_stops_nothing_else() {
    let mut world = World::new();
    for name in ["a", "b"] {
        world.server.add(widget(name, "1"));
    }
    world.gate.rule(
        |petition| {
            if &*petition.object.name == "a" { Answer::Panic } else { Answer::Allow }
        },
    );
    world.boot_with(vec![Fixture::copying()]);
    world.run_for(5);
    assert!(world.server.find(&config_key("b")).is_some());
    assert!(world.condition("a", "Stalled").starts_with("Panicked"));
}

#[test]
fn an_observation_that_never_ends_is_given_up_and_the_next_object_comes() {
    let silent = Arc::new(AtomicBool::new(true));
    let still = silent.clone();
    let look = move |key: &evenkeel_api::Key| {
        let silent = still.load(Ordering::Relaxed) && &*key.name == "a";
        if silent { Look::Silence } else { Look::Well }
    };
    let mut world = World::new();
    for name in ["a", "b"] {
        world.server.add(widget(name, "1"));
    }
    world.boot_with(vec![Fixture::copying().looking(look)]);
    world.run_for(59);
    assert!(world.server.find(&config_key("b")).is_none(), "one at a time");
    world.run_for(2);
    assert!(world.server.find(&config_key("b")).is_some());
    assert_snapshot!(world.condition("a", "Stalled"), @"TimedOut: fixture: observing took longer than 60s");
    silent.store(false, Ordering::Relaxed);
    world.run_for(200);
    assert!(world.server.find(&config_key("a")).is_some());
    assert_eq!(world.condition("a", "Stalled"), "none");
}

#[test]
fn a_write_without_answer_is_given_up_and_reported_as_uncertain() {
    let mut world = World::of(Fixture::copying());
    world.server.fault_times("create", "ConfigMap", Fault::Silence, 1);
    world.run_for(60);
    assert_snapshot!(world.timeline(), @"
    0.000 ask apply ConfigMap/shop/w: allow
    30.000 settle failed: no answer within 30s; the action may have taken effect
    30.020 ask apply ConfigMap/shop/w: allow
    30.020 create ConfigMap/shop/w by fixture
    30.020 settle done
    ");
}

#[test]
fn a_silent_door_holds_what_it_was_asked() {
    let mut world = World::of(Fixture::copying());
    world.gate.answer(Answer::Silence);
    world.run_for(45);
    assert_snapshot!(world.timeline(), @"
    0.000 ask apply ConfigMap/shop/w: silence
    30.000 status Widget/shop/w by fixture
    30.000 event Warning ActionHeld w x1
    ");
    assert_snapshot!(world.condition("w", "Held"), @"ActionHeld: fixture: apply ConfigMap/shop/w: door: no answer within 30s");
    world.gate.answer(Answer::Allow);
    world.run_for(60);
    assert!(world.server.find(&config_key("w")).is_some());
}

#[test]
fn a_door_that_takes_no_outcomes_does_not_stop_the_plan() {
    let mut world = World::of(Fixture::copying());
    *world.gate.settles.lock().unwrap() = false;
    world.run_for(100);
    assert!(world.why("w").starts_with("done Copying"), "{}", world.why("w"));
}

/// A judge that asks a server that does not answer.
struct Silent;

impl Judge for Silent {
    fn direction<'a>(&'a self, _: Change<'a>, _: &'a dyn Read) -> BoxFuture<'a, Direction> {
        Box::pin(futures::future::pending())
    }
}

#[test]
fn a_silent_judge_means_riskier() {
    let mut world = World::new();
    world.server.add(widget("w", "1"));
    let mut setup = world.setup("one", vec![Fixture::copying()]);
    setup.host = Box::new(|host| host.with_judge(GroupKind::of::<ConfigMap>(), Silent));
    world.gate.rule(|petition| {
        if petition.direction == Direction::Riskier { Answer::Deny } else { Answer::Allow }
    });
    world.boot(setup);
    world.run_for(40);
    assert!(world.condition("w", "Held").starts_with("ActionDenied"));
}

#[test]
fn an_observation_that_fails_says_what_is_missing() {
    let rows = [
        (ObserveError::Store(refused()), "refused", "Refused"),
        (
            ObserveError::Metrics(MetricsError::Unreachable { problem: "refused".into() }),
            "retry",
            "none",
        ),
    ];
    for (error, result, condition) in rows {
        let look = move |_: &evenkeel_api::Key| Look::Fails(error.clone());
        let mut world = World::of(Fixture::copying().looking(look));
        world.run_for(60);
        let why = world.why("w");
        assert!(why.starts_with(&format!("{result} ObservationIncomplete")), "{why}");
        assert!(world.condition("w", "Stalled").starts_with(condition));
    }
}

#[test]
fn what_only_a_change_of_the_object_can_fix_is_a_warning_once() {
    let lines = Lines::default();
    let guard = tracing::subscriber::set_default(lines.clone());
    let look = |_: &evenkeel_api::Key| Look::Fails(ObserveError::Store(refused()));
    let mut world = World::of(Fixture::copying().looking(look));
    world.run_for(3_600);
    drop(guard);
    let text = lines.0.lock().unwrap();
    let incomplete = || text.lines().filter(|line| line.contains("observation incomplete"));
    assert!(incomplete().count() > 2, "{text}");
    let warnings = incomplete().filter(|line| line.starts_with("WARN"));
    assert_eq!(warnings.count(), 1, "{text}");
}

#[test]
fn a_target_that_names_nothing_is_refused_before_the_door() {
    type Make = fn() -> Action;
    let rows: [Make; 6] = [
        || Action::Apply(boxed(config("", "1"))),
        || Action::Patch { key: config_key(""), patch: serde_json::json!({}) },
        || Action::Scale { key: config_key("absent"), replicas: 0 },
        || Action::Delete {
            key: config_key("w"),
            uid: String::new(),
            propagation: Propagation::Background,
        },
        || Action::Evict { key: config_key("w"), uid: String::new() },
        || Action::Bind { pod: config_key("w"), node: String::new() },
    ];
    for (row, make) in rows.into_iter().enumerate() {
        let mut world = World::of(Fixture::new(move |_: &Seen| Plan::act("Wild", vec![make()])));
        world.server.add(config("w", "1"));
        world.run_for(120);
        assert_eq!(*world.gate.asked.lock().unwrap(), Vec::<String>::new(), "row {row}");
        assert_eq!(world.server.find(&config_key("w")).unwrap().json()["data"]["value"], "1");
        assert!(world.busiest_minute() <= 120, "row {row}");
    }
}

#[test]
fn an_object_that_is_gone_is_forgotten() {
    let mut world = World::of(Fixture::copying());
    world.gate.answer(Answer::Deny);
    world.run_for(10);
    assert!(world.why("w").starts_with("denied"));
    world.server.remove(&widget_key("w"));
    world.run_for(10);
    assert_eq!(world.why("w"), "");
    let asked = world.gate.asked.lock().unwrap().len();
    world.run_for(600);
    assert_eq!(world.gate.asked.lock().unwrap().len(), asked);
}

#[test]
fn a_plan_that_does_nothing_and_wants_another_look_at_once_does_not_spin() {
    let decide = |_: &Seen| Plan::wait("Spinning", Duration::ZERO);
    let mut world = World::of(Fixture::new(decide));
    world.run_for(600);
    // One look a second, of two requests each.
    assert!(world.busiest_minute() <= 2 * 62, "{} requests", world.busiest_minute());
}
