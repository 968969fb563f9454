//! Changes that do not last, and statuses that are not kept.

use std::time::Duration;

use evenkeel_control::{Action, Plan};
use insta::assert_snapshot;
use serde_json::json;

use crate::{
    fixture::{Fixture, Seen, copy, widget_of},
    store::Fault,
    world::{World, boxed, config, config_key, widget_key},
};

#[test]
fn the_same_change_again_and_again_is_slowed_down_and_shown() {
    // The server does not keep what is written.
    let mut world = World::of(Fixture::new(|seen: &Seen| copy(seen).waking(Duration::ZERO)));
    world.server.add(config("w", "0"));
    world.server.fault("patch", "ConfigMap", Fault::Prune("/data/value"));
    world.run_for(130);
    assert_snapshot!(world.timeline(), @"
    0.000 ask apply ConfigMap/shop/w: allow
    0.000 patch ConfigMap/shop/w by fixture
    0.000 settle done
    0.000 ask apply ConfigMap/shop/w: allow
    0.000 patch ConfigMap/shop/w by fixture
    0.000 settle done
    0.000 ask apply ConfigMap/shop/w: allow
    0.000 patch ConfigMap/shop/w by fixture
    0.000 settle done
    0.000 ask apply ConfigMap/shop/w: allow
    0.000 patch ConfigMap/shop/w by fixture
    0.000 settle done
    0.000 ask apply ConfigMap/shop/w: allow
    0.000 patch ConfigMap/shop/w by fixture
    0.000 settle done
    0.000 ask apply ConfigMap/shop/w: allow
    0.000 patch ConfigMap/shop/w by fixture
    0.000 settle done
    0.000 status Widget/shop/w by fixture
    0.000 event Warning RepeatedPlan w x1
    2.000 ask apply ConfigMap/shop/w: allow
    2.000 patch ConfigMap/shop/w by fixture
    2.000 settle done
    6.000 ask apply ConfigMap/shop/w: allow
    6.000 patch ConfigMap/shop/w by fixture
    6.000 settle done
    14.000 ask apply ConfigMap/shop/w: allow
    14.000 patch ConfigMap/shop/w by fixture
    14.000 settle done
    30.000 ask apply ConfigMap/shop/w: allow
    30.000 patch ConfigMap/shop/w by fixture
    30.000 settle done
    62.000 ask apply ConfigMap/shop/w: allow
    62.000 patch ConfigMap/shop/w by fixture
    62.000 settle done
    122.000 ask apply ConfigMap/shop/w: allow
    122.000 patch ConfigMap/shop/w by fixture
    122.000 settle done
    ");
    assert_snapshot!(world.condition("w", "Stalled"), @"RepeatedPlan: fixture: the same change was made more than 5 times within a minute and does not last: another controller or the API server undoes it (apply ConfigMap/shop/w)");
    assert_snapshot!(world.why("w"), @"repeated Copying (next in 52s) the same change was made more than 5 times within a minute and does not last: another controller or the API server undoes it (apply ConfigMap/shop/w)");
    assert!(world.busiest_minute() <= 120, "{}", world.busiest_minute());
    world.server.heal();
    world.run_for(300);
    assert_eq!(world.condition("w", "Stalled"), "none");
}

#[test]
fn the_change_that_is_repeated_is_named_and_not_what_stands_already() {
    let decide = |_: &Seen| {
        let actions = ["standing", "w"].map(|name| Action::Apply(boxed(config(name, "1"))));
        Plan::act("Copying", actions.to_vec()).waking(Duration::ZERO)
    };
    let mut world = World::of(Fixture::new(decide));
    world.server.add(config("standing", "1"));
    world.server.add(config("w", "0"));
    world.server.fault("patch", "ConfigMap", Fault::Prune("/data/value"));
    world.run_for(60);
    let said = world.condition("w", "Stalled");
    assert!(said.contains("undoes it (apply ConfigMap/shop/w)"), "{said}");
}

#[test]
fn a_repeated_plan_is_still_looked_at_when_it_wanted_to_be() {
    let mut world =
        World::of(Fixture::new(|seen: &Seen| copy(seen).waking(Duration::from_secs(5))));
    world.server.add(config("w", "0"));
    world.server.fault("patch", "ConfigMap", Fault::Prune("/data/value"));
    world.run_for(300);
    let before = world.count("patch", "ConfigMap/shop/w");
    world.run_for(60);
    assert_eq!(world.count("patch", "ConfigMap/shop/w") - before, 12);
}

#[test]
fn a_fight_with_another_writer_is_slowed_down_although_it_looks_calm_in_between() {
    let fixture = Fixture::copying().minding_configs(widget_of);
    let mut world = World::of(fixture);
    world.run_for(10);
    for _ in 0..600 {
        // The other one undoes it half a second later, when we have seen our own change.
        world.server.change(&config_key("w"), |config| config["data"]["value"] = "theirs".into());
        world.run_for(1);
    }
    let patches = world.count("patch", "ConfigMap/shop/w");
    assert!(patches <= 310, "{patches} patches in ten minutes");
    assert!(world.condition("w", "Stalled").starts_with("RepeatedPlan"));
    let events = world.timeline().lines().filter(|line| line.contains("RepeatedPlan")).count();
    assert!(events <= 2, "{events} events");
    // When the other one gives up, everything recovers without intervention.
    world.run_for(300);
    assert_eq!(world.condition("w", "Stalled"), "none");
}

#[test]
fn the_same_status_written_at_every_look_is_not_a_fight() {
    let decide = |seen: &Seen| {
        Plan::wait("Looking", Duration::from_secs(10))
            .with_status(seen.key(), json!({"phase": seen.want()}))
    };
    let mut world = World::of(Fixture::new(decide));
    world.run_for(600);
    assert_eq!(world.condition("w", "Stalled"), "none");
    assert!(world.why("w").starts_with("done Looking"), "{}", world.why("w"));
}

#[test]
fn different_calls_to_one_target_are_not_a_repetition() {
    let decide = |seen: &Seen| {
        let call = evenkeel_control::EffectCall {
            port: "count",
            verb: "count",
            target: "one".to_owned(),
            args: json!(seen.now.as_second()),
            reverts: evenkeel_control::Reversal::Irreversible,
        };
        Plan::act("Counting", vec![Action::Effect(call)]).waking(Duration::from_secs(10))
    };
    let mut world = World::new();
    world.server.add(crate::world::widget("w", "1"));
    let mut setup = world.setup("one", vec![Fixture::new(decide)]);
    setup.host =
        Box::new(|host| host.with_effector("count", std::sync::Arc::new(crate::effects::Prompt)));
    world.boot(setup);
    world.run_for(600);
    assert_eq!(world.condition("w", "Stalled"), "none");
}

#[test]
fn a_status_that_the_server_does_not_keep_is_said() {
    let decide = |seen: &Seen| {
        let have = seen.widget.json().pointer("/status/own").is_some();
        let plan = Plan::wait("Looking", Duration::ZERO);
        if have { plan } else { plan.with_status(seen.key(), json!({"own": {"step": 1}})) }
    };
    let mut world = World::of(Fixture::new(decide));
    world.server.fault("status", "Widget", Fault::Prune("/status/own"));
    world.run_for(300);
    assert_snapshot!(world.condition("w", "Stalled"), @"StatusDropped: fixture: the API server does not keep status.own of Widget/shop/w: the CustomResourceDefinition that is installed has no such field; `evenkeel crds` prints those that have");
    assert!(world.busiest_minute() <= 120, "{}", world.busiest_minute());
}

#[test]
fn the_loops_conditions_survive_the_controllers_own() {
    let decide = |seen: &Seen| {
        let ready = json!({"type": "Ready", "status": "True"});
        copy(seen)
            .waking(Duration::from_secs(5))
            .with_status(seen.key(), json!({"conditions": [ready], "seen": seen.now.to_string()}))
    };
    let mut world = World::of(Fixture::new(decide));
    world.server.add(config("w", "0"));
    world.server.fault("patch", "ConfigMap", Fault::Prune("/data/value"));
    world.run_for(300);
    for kind in ["Stalled", "Ready"] {
        assert_ne!(world.condition("w", kind), "none", "{kind}");
    }
}

#[test]
fn two_controllers_of_one_kind_leave_each_others_conditions_alone() {
    let bad = Fixture::new(|seen: &Seen| {
        Plan::act("Copying", vec![Action::Create(boxed(config(seen.name(), "1")))])
    });
    let good = Fixture::new(|_: &Seen| Plan::wait("Looking", Duration::from_secs(7)));
    let mut world = World::new();
    world.server.add(crate::world::widget("w", "1"));
    let refused = evenkeel_control::StoreError::Refused {
        object: "ConfigMap/shop/w".into(),
        problem: "no right to".into(),
    };
    world.server.fault("create", "ConfigMap", Fault::Answer(refused));
    world.boot_with(vec![bad.named("bad"), good.named("good")]);
    world.run_for(120);
    assert_snapshot!(world.condition("w", "Stalled"), @"Refused: bad: create ConfigMap/shop/w: no right to");
    world.server.heal();
    world.run_for(61);
    assert_eq!(world.condition("w", "Stalled"), "none");
    assert!(world.server.find(&widget_key("w")).is_some());
}
