//! Releases among faults. First the named ones, each with what must still work meanwhile; then
//! seeds, of which each draws its own.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a step that fails fails the test")]

#[path = "world/clocks.rs"]
mod clocks;
#[path = "world/endings.rs"]
mod endings;
#[path = "world/exceptions.rs"]
mod exceptions;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use evenkeel_api::{
    GroupKind, Key, canary::Canary, httproute::HttpRoute, slo::PrometheusServiceLevel,
};
use evenkeel_assembly::Domain;
use evenkeel_control::{Controller, ListQuery, ObserveError, Plan, Ports};
use evenkeel_sim::world::{LEASE, Menu, Traffic, World, releases};
use k8s_openapi::api::apps::v1::Deployment;
use serde_json::{Value, json};

/// Seeds that every test run plays; `EVENKEEL_SEEDS` and `cargo xtask sim --seeds 10000` play more.
const SEEDS: u64 = 1_000;

fn play(story: impl AsyncFnOnce(World, Arc<Traffic>)) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        let world = World::new(7).await.unwrap();
        let traffic = world.traffic.clone();
        for service in ["shop", "shop-api"] {
            traffic.set(service, releases::GOOD);
            releases::install(&world, service).await.unwrap();
        }
        story(world, traffic).await;
    });
}

async fn reach(world: &World, service: &str, phase: &str, limit: Duration) {
    let end = world.time.elapsed() + limit;
    while releases::phase(world, service).await != phase {
        if world.time.elapsed() > end {
            let canary = releases::canary(world, service).await.unwrap();
            panic!("{service} is not {phase} within {limit:?}: {}", canary.json()["status"]);
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

async fn both(world: &World, phase: &str, limit: Duration) {
    reach(world, "shop", phase, limit).await;
    reach(world, "shop-api", phase, limit).await;
}

/// The loop's own condition on a Canary: `Type Reason`, or nothing.
async fn flag(world: &World, service: &str) -> String {
    let canary = releases::canary(world, service).await.unwrap();
    let conditions = canary.json().pointer("/status/conditions").cloned().unwrap_or_default();
    let text = |c: &Value, field: &str| c[field].as_str().unwrap_or_default().to_owned();
    let flags = conditions
        .as_array()
        .unwrap()
        .iter()
        .filter(|condition| ["Held", "Stalled"].contains(&text(condition, "type").as_str()));
    let flags: Vec<_> =
        flags.map(|c| format!("{} {}", text(c, "type"), text(c, "reason"))).collect();
    flags.join(", ")
}

const MINUTE: Duration = Duration::from_mins(1);

#[test]
fn a_black_holed_api_server_for_a_minute_costs_a_minute() {
    play(async |mut world, _| {
        let process = world.start();
        both(&world, "Initialized", 30 * MINUTE).await;
        releases::release(&world, "shop", "evenkeel/demo:v2").await.unwrap();
        reach(&world, "shop", "Progressing", 5 * MINUTE).await;
        let before = world.process(process).unwrap().store.requests();
        world.set_all(&Menu { silent: true, ..Menu::default() });
        tokio::time::sleep(MINUTE).await;
        let asked = world.process(process).unwrap().store.requests();
        // Two requests a second would be 120.
        let (reads, writes) = (asked.reads - before.reads, asked.writes - before.writes);
        assert!(reads + writes < 60, "{reads} reads and {writes} writes in a minute");
        assert!(asked.watches - before.watches < 60);
        // The process says why nothing is done: it does not lead any more.
        let activity = world.process(process).unwrap().activity.clone();
        let metrics = activity.metrics();
        let led = "evenkeel_leader{lease=\"Lease/default/evenkeel-delivery\"} 0";
        assert!(metrics.contains(led), "{metrics}");
        world.set_all(&Menu::default());
        reach(&world, "shop", "Succeeded", 15 * MINUTE).await;
        assert!(activity.metrics().contains(&led.replace("} 0", "} 1")));
        let why = activity.why("Canary/default/shop");
        assert!(why.iter().all(|pass| pass.result == "done"), "{why:?}");
        assert_eq!(world.checks.breaches(), []);
        assert_eq!(world.checks.weights("shop"), [0, 10, 20, 30, 40, 50, 0]);
    });
}

#[test]
fn a_write_that_is_forbidden_is_said_and_tried_again_while_others_go_on() {
    play(async |mut world, traffic| {
        let process = world.start();
        both(&world, "Initialized", 30 * MINUTE).await;
        traffic.set("shop", releases::BAD);
        releases::release(&world, "shop", "evenkeel/demo:bad").await.unwrap();
        while world.checks.weights("shop").last() != Some(&10) {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        // A rollback is due, and a policy of the cluster forbids it.
        let forbidden = BTreeSet::from([GroupKind::of::<HttpRoute>()]);
        world.set_all(&Menu { forbidden, ..Menu::default() });
        tokio::time::sleep(10 * MINUTE).await;
        assert_eq!(flag(&world, "shop").await, "Stalled Refused");
        assert_eq!(world.checks.weights("shop").last(), Some(&10));
        let before = world.process(process).unwrap().store.requests().writes;
        tokio::time::sleep(MINUTE).await;
        let asked = world.process(process).unwrap().store.requests().writes - before;
        assert!((1..60).contains(&asked), "{asked} writes in a minute");
        world.set_all(&Menu::default());
        reach(&world, "shop", "Failed", 5 * MINUTE).await;
        assert_eq!(world.checks.weights("shop"), [0, 10, 0]);
        assert_eq!(flag(&world, "shop").await, "");
        assert_eq!(world.checks.breaches(), []);
    });
}

/// Decides about Canaries, and panics at one of them.
struct Panicky;

impl Controller for Panicky {
    type View = String;

    fn name(&self) -> &'static str {
        "panicky"
    }
    fn owns(&self) -> ListQuery {
        ListQuery::of::<Canary>()
    }
    async fn observe(&self, key: &Key, _: &Ports) -> Result<Option<String>, ObserveError> {
        Ok(Some(key.name.to_string()))
    }
    fn decide(&self, view: &String) -> Plan {
        assert_ne!(view, "shop", "a defect of this controller");
        Plan::idle("Fine")
    }
}

#[test]
fn a_panic_in_one_controller_stops_that_object_there_and_nothing_else() {
    play(async |mut world, _| {
        world.add_domain(Domain {
            name: "panicky",
            about: "Has a defect",
            install: |run, _| run.with(Panicky),
            rights: &[],
        });
        let process = world.start();
        both(&world, "Initialized", 30 * MINUTE).await;
        for service in ["shop", "shop-api"] {
            releases::release(&world, service, "evenkeel/demo:v2").await.unwrap();
        }
        both(&world, "Succeeded", 15 * MINUTE).await;
        let activity = world.process(process).unwrap().activity.clone();
        let why = activity.why("Canary/default/shop");
        let panicked = why.iter().find(|pass| pass.controller == "panicky").unwrap();
        assert_eq!(panicked.result, "panicked");
        assert!(panicked.message.contains("a defect of this controller"), "{panicked:?}");
        let fine = activity.why("Canary/default/shop-api");
        assert!(fine.iter().all(|pass| pass.result == "done"), "{fine:?}");
        assert_eq!(world.checks.breaches(), []);
    });
}

#[test]
fn a_panic_of_our_own_controllers_at_one_object_stops_that_object_and_heals() {
    play(async |mut world, _| {
        let process = world.start();
        both(&world, "Initialized", 30 * MINUTE).await;
        for name in ["bad", "good"] {
            world.create(service_level(name)).await.unwrap();
        }
        let panics_on = BTreeSet::from([
            Key::of::<Canary>("default", "shop"),
            Key::of::<PrometheusServiceLevel>("default", "bad"),
        ]);
        world.set_all(&Menu { panics_on, ..Menu::default() });
        for service in ["shop", "shop-api"] {
            releases::release(&world, service, "evenkeel/demo:v2").await.unwrap();
        }
        reach(&world, "shop-api", "Succeeded", 15 * MINUTE).await;
        assert_eq!(releases::phase(&world, "shop").await, "Initialized");
        // Nothing can be said on an object whose reading panics; `why` says it.
        let activity = world.process(process).unwrap().activity.clone();
        let result = |object: &str, controller: &str| {
            let why = activity.why(object);
            why.into_iter().find(|pass| pass.controller == controller).map(|pass| pass.result)
        };
        let panicked = Some("panicked".to_owned());
        for controller in ["delivery", "slo-answer"] {
            assert_eq!(result("Canary/default/shop", controller), panicked, "{controller}");
        }
        assert_eq!(result("PrometheusServiceLevel/default/bad", "slo"), panicked);
        let good = result("PrometheusServiceLevel/default/good", "slo");
        assert!(good.is_some() && good != panicked, "{good:?}");
        world.set_all(&Menu::default());
        reach(&world, "shop", "Succeeded", 30 * MINUTE).await;
        assert_eq!(flag(&world, "shop").await, "");
        assert_ne!(result("PrometheusServiceLevel/default/bad", "slo"), panicked);
        assert_eq!(world.checks.breaches(), []);
    });
}

fn service_level(name: &str) -> Value {
    json!({"apiVersion": "sloth.slok.dev/v1", "kind": "PrometheusServiceLevel",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"service": name, "slos": [{"name": "requests", "objective": 99.9,
            "sli": {"events": {"errorQuery": "rate(bad[{{.window}}])",
                "totalQuery": "rate(all[{{.window}}])"}},
            "alerting": {"pageAlert": {"disable": true}, "ticketAlert": {"disable": true}}}]}})
}

#[test]
fn what_a_mute_watch_does_not_bring_is_seen_when_it_is_opened_anew() {
    play(async |mut world, _| {
        let process = world.start();
        both(&world, "Initialized", 30 * MINUTE).await;
        world.set_all(&Menu { dropped_pct: 100, ..Menu::default() });
        let before = world.process(process).unwrap().store.requests().watches;
        releases::release(&world, "shop", "evenkeel/demo:v2").await.unwrap();
        reach(&world, "shop", "Succeeded", 60 * MINUTE).await;
        assert!(world.process(process).unwrap().store.requests().watches > before);
        assert_eq!(world.checks.weights("shop"), [0, 10, 20, 30, 40, 50, 0]);
        assert_eq!(world.checks.breaches(), []);
    });
}

#[test]
fn events_that_are_sent_twice_change_nothing() {
    play(async |mut world, _| {
        world.start();
        both(&world, "Initialized", 30 * MINUTE).await;
        world.set_all(&Menu { told_twice_pct: 100, ..Menu::default() });
        releases::release(&world, "shop", "evenkeel/demo:v2").await.unwrap();
        reach(&world, "shop", "Succeeded", 15 * MINUTE).await;
        assert_eq!(world.checks.weights("shop"), [0, 10, 20, 30, 40, 50, 0]);
        assert_eq!(world.checks.breaches(), []);
    });
}

#[test]
fn lists_and_objects_of_a_moment_ago_do_not_let_a_bad_version_through() {
    play(async |mut world, traffic| {
        world.start();
        both(&world, "Initialized", 30 * MINUTE).await;
        world.set_all(&Menu { stale_pct: 50, ..Menu::default() });
        traffic.set("shop", releases::BAD);
        world.checks.forbid_image("evenkeel/demo:bad");
        releases::release(&world, "shop", "evenkeel/demo:bad").await.unwrap();
        releases::release(&world, "shop-api", "evenkeel/demo:v2").await.unwrap();
        reach(&world, "shop", "Failed", 30 * MINUTE).await;
        reach(&world, "shop-api", "Succeeded", 30 * MINUTE).await;
        world.set_all(&Menu::default());
        tokio::time::sleep(5 * MINUTE).await;
        assert_eq!(world.checks.weights("shop").last(), Some(&0));
        assert_eq!(flag(&world, "shop").await, "");
        assert_eq!(world.checks.breaches(), []);
    });
}

#[test]
fn a_kind_that_may_not_be_read_is_said_and_read_again_when_it_may() {
    for kind in [GroupKind::of::<HttpRoute>(), GroupKind::of::<Deployment>()] {
        play(async |mut world, _| {
            let process = world.start();
            both(&world, "Initialized", 30 * MINUTE).await;
            releases::release(&world, "shop", "evenkeel/demo:v2").await.unwrap();
            reach(&world, "shop", "Progressing", 5 * MINUTE).await;
            let unreadable = BTreeSet::from([kind.clone()]);
            let menu = Menu { unreadable, ..Menu::default() };
            world.set_all(&menu);
            tokio::time::sleep(10 * MINUTE).await;
            let canary = releases::canary(&world, "shop").await.unwrap();
            let said = canary.json()["status"]["conditions"].to_string();
            assert!(said.contains("this user may not read it"), "{kind}: {said}");
            let before = world.process(process).unwrap().store.requests();
            tokio::time::sleep(MINUTE).await;
            let after = world.process(process).unwrap().store.requests();
            let asked = after.reads + after.watches - before.reads - before.watches;
            assert!((1..60).contains(&asked), "{kind}: {asked} requests in a minute");
            // One that is started meanwhile cannot even watch it.
            world.kill(process);
            world.start();
            world.set_all(&menu);
            tokio::time::sleep(5 * MINUTE).await;
            world.set_all(&Menu::default());
            reach(&world, "shop", "Succeeded", 30 * MINUTE).await;
            assert_eq!(flag(&world, "shop").await, "", "{kind}");
            assert_eq!(world.checks.breaches(), [], "{kind}");
        });
    }
}

#[test]
fn watches_that_end_in_a_loop_are_reopened_at_leisure_and_nothing_is_missed() {
    play(async |mut world, _| {
        let process = world.start();
        both(&world, "Initialized", 30 * MINUTE).await;
        world.set_all(&Menu { watches_end: true, ..Menu::default() });
        releases::release(&world, "shop", "evenkeel/demo:v2").await.unwrap();
        let before = world.process(process).unwrap().store.requests().watches;
        tokio::time::sleep(MINUTE).await;
        let opened = world.process(process).unwrap().store.requests().watches - before;
        // Twelve watches, each at most once a second.
        assert!(opened <= 13 * 60, "{opened} watches opened in a minute");
        reach(&world, "shop", "Succeeded", 20 * MINUTE).await;
        assert_eq!(world.checks.breaches(), []);
    });
}

#[test]
fn when_the_leader_is_killed_in_a_release_the_other_goes_on_within_the_lease() {
    play(async |mut world, _| {
        let (first, _second) = (world.start(), world.start());
        both(&world, "Initialized", 30 * MINUTE).await;
        assert_eq!(world.leader("delivery").await.unwrap(), "process-1");
        releases::release(&world, "shop", "evenkeel/demo:v2").await.unwrap();
        while world.checks.weights("shop").last() != Some(&20) {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        world.kill(first);
        let killed = world.time.elapsed();
        while world.leader("delivery").await.unwrap() != "process-2" {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let took = world.time.elapsed().saturating_sub(killed);
        assert!(took <= LEASE + Duration::from_secs(3), "taken over after {took:?}");
        reach(&world, "shop", "Succeeded", 15 * MINUTE).await;
        // No step twice, none lost.
        assert_eq!(world.checks.weights("shop"), [0, 10, 20, 30, 40, 50, 0]);
        assert_eq!(world.checks.breaches(), []);
    });
}

#[test]
fn without_an_election_two_processes_act_and_the_checkers_see_it() {
    play(async |mut world, _| {
        world.election = false;
        world.start();
        world.start();
        both(&world, "Initialized", 30 * MINUTE).await;
        // What one of them has decided the other decides, too, before it hears of it.
        world.set_all(&Menu { slow_pct: 50, ..Menu::default() });
        releases::release(&world, "shop", "evenkeel/demo:v2").await.unwrap();
        reach(&world, "shop", "Succeeded", 15 * MINUTE).await;
        assert!(!world.checks.breaches().is_empty());
    });
}

/// With 7 and 99 a version that was taken back while its Deployment could not be read kept its pods;
/// with 312 the loop's condition stayed, because what was read was older than what was heard of.
/// 220 stepped 22 seconds after the gateway's confirmation, 1096 never went on after the faults. With
/// 480, 682 and 1000 a follower asked a watch of the Lease that had ended, and never led again. The
/// others go up again after old states were read, which is no defect of what was decided.
#[test]
fn seeds_that_once_showed_a_defect_are_fine() {
    for seed in [7, 99, 220, 312, 411, 480, 682, 1000, 1096, 1535, 5716, 9726] {
        let outcome = releases::play(seed);
        assert_eq!(outcome.breaches, [], "seed {seed}: {:?}", outcome.trace);
    }
}

#[test]
fn whatever_goes_wrong_nothing_unsafe_happens_and_all_heals() {
    let seeds = std::env::var("EVENKEEL_SEEDS").map_or(SEEDS, |seeds| seeds.parse().unwrap());
    let outcomes = releases::play_all(1..seeds + 1);
    let bad: Vec<_> = outcomes.iter().filter(|outcome| !outcome.breaches.is_empty()).collect();
    assert!(bad.is_empty(), "{bad:#?}");
    // The faults are real: processes died, and both ends of a release were seen.
    assert!(outcomes.iter().map(|outcome| outcome.deaths).sum::<usize>() > outcomes.len() / 2);
    let text = format!("{outcomes:?}");
    assert!(text.contains("Succeeded") && text.contains("Failed"));
    assert_eq!(releases::play(3), outcomes[2], "the same seed gives the same run");
}
