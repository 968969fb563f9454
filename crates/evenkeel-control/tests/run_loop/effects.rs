//! What is not an API object: webhooks, notifications and whatever a host registers.

use std::{sync::Arc, time::Duration};

use evenkeel_control::{
    Action, BoxFuture, ClearedEffect, Direction, EffectCall, EffectError, Effected, Effector,
    HookCall, Notification, Notifier, Plan, Retry, Reversal, Timer as _,
};
use insta::assert_snapshot;
use serde_json::json;

use crate::{
    fixture::{Fixture, Seen},
    time::Time,
    world::{Answer, World, boxed, config, config_key, widget},
};

/// Does everything at once.
pub(crate) struct Prompt;

impl Effector for Prompt {
    fn perform<'a>(
        &'a self,
        _: &'a ClearedEffect<'a>,
    ) -> BoxFuture<'a, Result<Effected, EffectError>> {
        Box::pin(async { Ok(Effected::Done) })
    }

    fn direction(&self, _: &EffectCall) -> Direction {
        Direction::Neutral
    }
}

/// What happens to a call by its verb.
struct Scripted(Arc<Time>);

impl Effector for Scripted {
    fn perform<'a>(
        &'a self,
        effect: &'a ClearedEffect<'a>,
    ) -> BoxFuture<'a, Result<Effected, EffectError>> {
        let wait = self.0.sleep(Duration::from_secs(20));
        let later = |end: Result<(), EffectError>| {
            let ending: BoxFuture<'static, _> = Box::pin(async move {
                wait.await;
                end
            });
            Ok(Effected::Pending(ending))
        };
        let error = |retry| EffectError::new("the channel is closed", retry);
        let result = match effect.call().verb {
            "later" => later(Ok(())),
            "later-fails" => later(Err(error(Retry::Proceed))),
            "later-never" => Ok(Effected::Pending(Box::pin(futures::future::pending()))),
            "later-panics" => Ok(Effected::Pending(Box::pin(async { panic!("a late defect") }))),
            "proceeds" => Err(error(Retry::Proceed)),
            "fails" => Err(error(Retry::Slowly)),
            "never" => return Box::pin(futures::future::pending()),
            "panics" => panic!("a defect of the effector"),
            _ => Ok(Effected::Done),
        };
        Box::pin(async { result })
    }

    fn direction(&self, _: &EffectCall) -> Direction {
        Direction::Neutral
    }

    fn deadline(&self, _: &EffectCall) -> Duration {
        Duration::from_secs(45)
    }
}

fn call(port: &'static str, verb: &'static str) -> Action {
    Action::Effect(EffectCall {
        port,
        verb,
        target: "channel".to_owned(),
        args: json!({}),
        reverts: Reversal::Irreversible,
    })
}

/// A world whose widget makes this call once, then its ConfigMap.
fn calling(verb: &'static str) -> World {
    calling_port("script", verb)
}

fn calling_port(port: &'static str, verb: &'static str) -> World {
    let decide = move |seen: &Seen| {
        if seen.config.is_some() {
            return Plan::idle("AsWanted");
        }
        let create = Action::Create(boxed(config(seen.name(), "1")));
        Plan::act("Calling", vec![call(port, verb), create])
    };
    let mut world = World::new();
    world.server.add(widget("w", "1"));
    let mut setup = world.setup("one", vec![Fixture::new(decide)]);
    let script = Arc::new(Scripted(world.time.clone()));
    setup.host = Box::new(|host| host.with_effector("script", script));
    world.boot(setup);
    world
}

#[test]
fn an_effect_is_asked_done_and_settled_in_order() {
    let mut world = calling("at-once");
    world.run_for(30);
    assert_snapshot!(world.timeline(), @"
    0.000 ask script at-once channel: allow
    0.000 settle done
    0.000 ask create ConfigMap/shop/w: allow
    0.000 create ConfigMap/shop/w by fixture
    0.000 settle done
    ");
}

#[test]
fn what_takes_longer_does_not_hold_up_the_plan_and_its_outcome_is_recorded_later() {
    let mut world = calling("later");
    world.run_for(30);
    assert_snapshot!(world.timeline(), @"
    0.000 ask script later channel: allow
    0.000 ask create ConfigMap/shop/w: allow
    0.000 create ConfigMap/shop/w by fixture
    0.000 settle done
    20.000 settle done
    ");
}

#[test]
fn what_fails_later_is_recorded_on_the_object() {
    let mut world = calling("later-fails");
    world.run_for(30);
    assert_snapshot!(world.timeline(), @"
    0.000 ask script later-fails channel: allow
    0.000 ask create ConfigMap/shop/w: allow
    0.000 create ConfigMap/shop/w by fixture
    0.000 settle done
    20.000 settle failed: the channel is closed
    20.000 event Warning EffectFailed w x1
    ");
    let metrics = world.activity.metrics();
    let failed =
        "evenkeel_actions_total{controller=\"fixture\",verb=\"later-fails\",outcome=\"failed\"} 1";
    assert!(metrics.contains(failed), "{metrics}");
}

#[test]
fn what_never_ends_or_panics_later_is_settled_as_a_failure() {
    for verb in ["later-never", "later-panics"] {
        let mut world = calling(verb);
        world.run_for(1_000);
        assert!(world.server.find(&config_key("w")).is_some(), "{verb}");
        assert_eq!(world.gate.failures.lock().unwrap().len(), 1, "{verb}");
        let timeline = world.timeline();
        assert!(timeline.contains("event Warning EffectFailed w x1"), "{verb}: {timeline}");
    }
}

#[test]
fn an_outcome_that_is_not_recorded_does_not_stop_the_controller() {
    let mut world = calling("later");
    *world.gate.settles.lock().unwrap() = false;
    world.run_for(200);
    assert!(world.why("w").starts_with("done Calling"), "{}", world.why("w"));
}

#[test]
fn a_failure_that_may_be_passed_over_does_not_stop_the_plan() {
    let mut world = calling("proceeds");
    world.run_for(30);
    assert_snapshot!(world.timeline(), @"
    0.000 ask script proceeds channel: allow
    0.000 settle failed: the channel is closed
    0.000 ask create ConfigMap/shop/w: allow
    0.000 create ConfigMap/shop/w by fixture
    0.000 settle done
    ");
}

#[test]
fn other_failures_stop_the_plan_and_come_again_slowly() {
    let mut world = calling("fails");
    world.run_for(30);
    assert_snapshot!(world.timeline(), @"
    0.000 ask script fails channel: allow
    0.000 settle failed: the channel is closed
    0.000 status Widget/shop/w by fixture
    0.000 event Warning Refused w x1
    2.000 ask script fails channel: allow
    2.000 settle failed: the channel is closed
    6.000 ask script fails channel: allow
    6.000 settle failed: the channel is closed
    14.000 ask script fails channel: allow
    14.000 settle failed: the channel is closed
    30.000 ask script fails channel: allow
    30.000 settle failed: the channel is closed
    ");
    assert_snapshot!(world.condition("w", "Stalled"), @"Refused: fixture: script fails channel: the channel is closed");
}

#[test]
fn an_effect_that_never_ends_is_given_up_after_its_own_time() {
    let mut world = calling("never");
    world.run_for(46);
    assert_snapshot!(world.timeline(), @"
    0.000 ask script never channel: allow
    45.000 settle failed: no answer within 45s; the action may have taken effect
    45.020 ask script never channel: allow
    ");
}

#[test]
fn a_panic_of_an_effector_is_settled_and_shown() {
    let mut world = calling("panics");
    world.run_for(20);
    assert_snapshot!(world.timeline(), @"
    0.000 ask script panics channel: allow
    0.000 settle failed: internal error (a defect of the effector); the action may have taken effect
    0.000 status Widget/shop/w by fixture
    0.000 event Warning Panicked w x1
    ");
    assert_snapshot!(world.condition("w", "Stalled"), @"Panicked: fixture: internal error: script panics channel: internal error (a defect of the effector); the action may have taken effect");
}

#[test]
fn an_effect_without_effector_is_refused_before_the_door() {
    let mut world = calling_port("unknown", "call");
    world.run_for(30);
    assert_snapshot!(world.timeline(), @"
    0.000 status Widget/shop/w by fixture
    0.000 event Warning Refused w x1
    ");
    assert_snapshot!(world.condition("w", "Stalled"), @r#"Refused: fixture: unknown call channel: this process performs no effects of "unknown""#);
}

#[test]
fn an_effect_on_nothing_is_refused_before_the_door() {
    let decide = |_: &Seen| {
        let hook = HookCall {
            owner: "w".to_owned(),
            id: "1".to_owned(),
            url: "  ".to_owned(),
            namespace: String::new(),
            body: std::collections::BTreeMap::new(),
            timeout: Duration::from_secs(1),
            retries: 0,
            way_back: false,
        };
        Plan::act("Calling", vec![hook.into()])
    };
    let mut world = World::of(Fixture::new(decide));
    world.run_for(30);
    assert_eq!(*world.gate.asked.lock().unwrap(), Vec::<String>::new());
}

/// Delivers to one provider, and to no other.
struct Pager;

impl Notifier for Pager {
    fn deliver(&self, notification: Notification) -> BoxFuture<'static, Result<(), String>> {
        let known = notification.provider == "pager";
        Box::pin(async move { if known { Ok(()) } else { Err("no such channel".to_owned()) } })
    }
}

#[test]
fn notifications_are_recorded_and_counted_by_their_outcome() {
    let decide = |seen: &Seen| {
        if seen.config.is_some() {
            return Plan::idle("AsWanted");
        }
        let notify = |provider: &str| {
            Action::from(Notification {
                id: format!("1-{provider}"),
                owner: "Widget/shop/w".to_owned(),
                namespace: "shop".to_owned(),
                provider: provider.to_owned(),
                severity: "info".to_owned(),
                message: "a release began".to_owned(),
                fields: Vec::new(),
            })
        };
        let create = Action::Create(boxed(config(seen.name(), "1")));
        Plan::act("Notifying", vec![notify("pager"), notify("gone"), create])
    };
    let mut world = World::new();
    world.server.add(widget("w", "1"));
    let mut setup = world.setup("one", vec![Fixture::new(decide)]);
    setup.host = Box::new(|host| host.with_notifier(Arc::new(Pager)));
    world.boot(setup);
    world.run_for(5);
    assert_eq!(*world.gate.failures.lock().unwrap(), ["no such channel"]);
    let metrics = world.activity.metrics();
    for outcome in ["done", "failed"] {
        let counted = format!(
            "evenkeel_actions_total{{controller=\"fixture\",verb=\"notify\",outcome=\"{outcome}\"}} 1"
        );
        assert!(metrics.contains(&counted), "{metrics}");
    }
}

/// Effects of one controller whose outcome is awaited.
const PENDING_MAX: usize = 256;

#[test]
fn a_channel_that_does_not_answer_neither_fills_the_memory_nor_holds_up_other_objects() {
    let mut world = World::new();
    // One more than may wait, and one that calls nobody.
    let names = (0..=PENDING_MAX).map(|n| format!("w{n:03}"));
    names.for_each(|name| drop(world.server.add(widget(&name, "1"))));
    world.server.add(widget("z", "1"));
    let decide = move |seen: &Seen| {
        if seen.name() == "z" && seen.config.is_none() {
            return Plan::act("Creating", vec![Action::Create(boxed(config("z", "1")))]);
        }
        if seen.name() == "z" || seen.widget.json().pointer("/status/phase").is_some() {
            return Plan::idle("AsWanted");
        }
        Plan::act("Calling", vec![call("script", "later-never")])
            .with_status(seen.key(), json!({"phase": "Called"}))
    };
    let mut setup = world.setup("one", vec![Fixture::new(decide)]);
    let script = Arc::new(Scripted(world.time.clone()));
    setup.host = Box::new(|host| host.with_effector("script", script));
    world.boot(setup);
    world.run_for(1);
    assert!(world.server.find(&config_key("z")).is_some(), "it waits for the channel");
    assert_eq!(world.gate.asked.lock().unwrap().len(), PENDING_MAX + 2);
    assert_eq!(
        *world.gate.failures.lock().unwrap(),
        ["256 effects wait for their outcome already; this one was given up, and may have taken \
          effect"]
    );
    // Those that are not answered are given up after their time, and there is room again.
    world.run_for(1_000);
    assert_eq!(world.gate.failures.lock().unwrap().len(), PENDING_MAX + 1);
    world.server.add(widget("w999", "1"));
    world.run_for(1);
    assert_eq!(world.gate.asked.lock().unwrap().len(), PENDING_MAX + 3);
    assert_eq!(world.gate.failures.lock().unwrap().len(), PENDING_MAX + 1);
}

#[test]
fn a_held_effect_does_not_happen() {
    let mut world = calling("at-once");
    world.gate.answer(Answer::Hold(None));
    world.run_for(5);
    assert!(world.condition("w", "Held").starts_with("ActionHeld"));
    assert!(world.server.find(&config_key("w")).is_none());
}
