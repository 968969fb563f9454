//! One leader at a time.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use evenkeel_api::Key;
use evenkeel_base::Rng;
use evenkeel_control::{LeaseSettings, Plan};
use insta::assert_snapshot;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::coordination::v1::Lease;

use crate::{
    fixture::{Fixture, Look, Seen, widget_of},
    store::{Client, Fault},
    world::{World, config_key, widget, widget_key},
};

fn lease_key() -> Key {
    Key::of::<Lease>("evenkeel", "group")
}

/// A loop that wants to lead; its controller counts in its widget's status, once a second.
fn candidate(world: &mut World, name: &'static str, client: Client) -> crate::time::Watch {
    let decide = |seen: &Seen| {
        Plan::wait("Counting", Duration::from_secs(1))
            .with_status(seen.key(), serde_json::json!({"at": seen.now.to_string()}))
    };
    let mut setup = world.setup(name, vec![Fixture::new(decide).named(name)]);
    setup.client = client;
    setup.lease = Some(LeaseSettings::new("evenkeel", "group", name));
    let watch = setup.watch.clone();
    world.boot(setup);
    watch
}

fn pair() -> World {
    let mut world = World::new();
    world.server.add(widget("w", "1"));
    for name in ["a", "b"] {
        let client = world.server.client(name);
        candidate(&mut world, name, client);
    }
    world
}

fn holder(world: &World) -> String {
    let lease = world.server.find(&lease_key());
    let holder = lease.as_ref().and_then(|lease| lease.json().pointer("/spec/holderIdentity"));
    holder.and_then(|holder| holder.as_str()).unwrap_or_default().to_owned()
}

fn writes(world: &World, client: &str) -> usize {
    let all = world.server.requests();
    all.iter()
        .filter(|r| r.client == client && r.key == "Widget/shop/w" && r.verb == "status")
        .count()
}

/// The leader at each time, without its writes.
fn reign(world: &World) -> String {
    let all = world.timeline();
    let lines = all.lines().filter(|line| line.ends_with(" leads") || line.ends_with(" follows"));
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn a_follower_does_nothing_and_takes_over_after_the_leases_time() {
    let mut world = pair();
    world.run_for(60);
    assert_eq!((holder(&world).as_str(), writes(&world, "b")), ("a", 0));
    assert!(writes(&world, "a") > 50);
    world.kill("a");
    world.run_for(30);
    assert_eq!(holder(&world), "b");
    assert!(writes(&world, "b") > 10);
    assert_snapshot!(reign(&world), @"
    0.000 a leads
    75.000 b leads
    ");
}

#[test]
fn a_leader_that_stops_gives_the_lease_back_at_once() {
    let mut world = pair();
    world.run_for(60);
    world.stop("a");
    world.run_for(3);
    assert!(world.has_ended("a"));
    assert_eq!(holder(&world), "b");
    let acted = writes(&world, "a");
    world.run_for(60);
    assert_eq!(writes(&world, "a"), acted);
    assert_snapshot!(reign(&world), @"
    0.000 a leads
    60.000 b leads
    ");
}

#[test]
fn a_leader_with_a_pass_under_way_does_not_give_the_lease_to_another_process() {
    let mut world = pair();
    world.run_for(60);
    world.server.fault_times("status", "Widget", Fault::Silence, 1);
    world.run_for(2);
    world.stop("a");
    world.run_for(6);
    assert!(world.has_ended("a"));
    // Its write may still land: the next one waits for the Lease to expire.
    assert_eq!(holder(&world), "a");
    world.run_for(20);
    assert_eq!(holder(&world), "b");
}

#[test]
fn a_write_under_way_at_a_stop_may_end_and_then_the_lease_is_given_back() {
    let mut world = pair();
    world.run_for(60);
    world.server.fault_times("status", "Widget", Fault::Late(Duration::from_secs(2)), 1);
    world.run_for(1);
    world.stop("a");
    world.run_for(3);
    assert!(world.has_ended("a"));
    assert_eq!(holder(&world), "b");
}

#[test]
fn a_look_under_way_at_a_stop_is_given_up() {
    let mut world = World::new();
    world.server.add(widget("w", "1"));
    let looking = Fixture::copying().looking(|_| Look::Silence);
    let mut setup = world.setup("a", vec![looking]);
    setup.lease = Some(LeaseSettings::new("evenkeel", "group", "a"));
    world.boot(setup);
    world.run_for(10);
    assert_eq!(holder(&world), "a");
    world.stop("a");
    world.run_for(1);
    assert!(world.has_ended("a"));
    assert_eq!(holder(&world), "");
}

#[test]
fn a_leader_that_cannot_renew_stops_before_the_next_one_begins() {
    let mut world = pair();
    world.run_for(60);
    // The server no longer hears the leader's renewals, but its writes.
    let silent = StoreSilence::begin(&world, "a");
    world.run_for(30);
    silent.check(&world);
}

#[test]
fn a_write_under_way_is_given_up_when_the_term_ends() {
    let mut world = pair();
    world.run_for(60);
    // The leader's next write would take 20 s, and meanwhile its renewals are lost.
    world.server.fault_times("status", "Widget", Fault::Late(Duration::from_secs(20)), 1);
    world.server.fault_times("patch", "Lease", Fault::Silence, 3);
    world.timeline();
    world.run_for(60);
    let all = world.timeline();
    let (_, after) = all.split_once("b leads").unwrap();
    assert!(!after.contains("by a"), "{all}");
    assert!(writes(&world, "b") > 10);
}

/// From its beginning on the requests for Leases of one client fail.
struct StoreSilence {
    from: Timestamp,
}

impl StoreSilence {
    fn begin(world: &World, _client: &str) -> Self {
        world.server.fault("patch", "Lease", Fault::Silence);
        Self { from: world.time.steady() }
    }

    fn check(&self, world: &World) {
        let all = world.server.requests();
        let acts = all.iter().filter(|r| r.verb == "status" && r.at > self.from);
        let last = acts.map(|r| r.at.duration_since(self.from).as_secs()).max();
        assert!(last.unwrap_or_default() <= 10, "{last:?}");
    }
}

#[test]
fn an_answer_that_was_lost_is_read_again() {
    let mut world = pair();
    world.run_for(60);
    for _ in 0..20 {
        world.server.fault_times("patch", "Lease", Fault::LostAnswer, 1);
        world.run_for(7);
    }
    assert_eq!((holder(&world).as_str(), writes(&world, "b")), ("a", 0));
    assert_snapshot!(reign(&world), @"0.000 a leads");
}

#[test]
fn a_renewal_that_is_answered_with_another_holder_is_none() {
    let mut world = World::new();
    world.server.add(widget("w", "1"));
    let client = world.server.client("a");
    candidate(&mut world, "a", client);
    world.run_for(30);
    world.server.fault("patch", "Lease", Fault::Prune("/spec/holderIdentity"));
    world.run_for(15);
    let before = writes(&world, "a");
    world.run_for(60);
    assert_eq!(writes(&world, "a"), before);
}

#[test]
fn a_deleted_lease_changes_hands_no_sooner() {
    let mut world = pair();
    world.run_for(60);
    world.suspend("a", Duration::from_secs(8));
    world.run_for(1);
    world.server.remove(&lease_key());
    world.run_for(6);
    // The one that is suspended may wake up any time and believe that it leads.
    assert_eq!(writes(&world, "b"), 0);
    world.run_for(30);
    assert_eq!(holder(&world), "a");
}

#[test]
fn a_follower_leaves_the_conditions_alone() {
    let mut world = World::new();
    world.server.add(widget("w", "1"));
    for name in ["a", "b"] {
        let mut setup = world.setup(name, vec![Fixture::copying().named(name)]);
        setup.lease = Some(LeaseSettings::new("evenkeel", "group", name));
        world.boot(setup);
    }
    world.run_for(60);
    let by_b = world.server.requests().into_iter().filter(|r| r.client == "b");
    let other = by_b.filter(|r| r.verb != "watch" && !r.key.starts_with("Lease/")).count();
    assert_eq!(other, 0);
    assert!(world.server.find(&config_key("w")).is_some());
}

/// A loop that wants to lead, with widgets that have ConfigMaps; what it has looked at.
fn looker(world: &mut World, name: &'static str) -> Arc<Mutex<Vec<(Timestamp, String)>>> {
    let seen: Arc<Mutex<Vec<_>>> = Arc::default();
    let (looks, time) = (seen.clone(), world.time.clone());
    let fixture = Fixture::copying().named(name).minding_configs(widget_of).looking(move |key| {
        looks.lock().unwrap().push((time.steady(), key.name.to_string()));
        Look::Well
    });
    let mut setup = world.setup(name, vec![fixture]);
    setup.lease = Some(LeaseSettings::new("evenkeel", "group", name));
    world.boot(setup);
    seen
}

#[test]
fn a_follower_has_no_queue_and_the_next_leader_looks_at_everything_at_once() {
    let mut world = World::new();
    for n in 0..40 {
        world.server.add(widget(&format!("w{n}"), "1"));
    }
    looker(&mut world, "a");
    let seen = looker(&mut world, "b");
    world.run_for(60);
    for n in 0..40 {
        world.server.change(&widget_key(&format!("w{n}")), |widget| {
            widget["spec"]["want"] = "2".into();
        });
    }
    world.run_for(10);
    let depth = "evenkeel_queue_depth{controller=\"b\"} 0";
    assert!(world.activity.metrics().contains(depth), "{}", world.activity.metrics());
    assert!(seen.lock().unwrap().is_empty());
    world.kill("a");
    // What is deleted while nobody leads still has something that is left of it.
    world.server.remove(&widget_key("w7"));
    world.run_for(30);
    assert_eq!(holder(&world), "b");
    let looks = seen.lock().unwrap().clone();
    let names: std::collections::BTreeSet<_> = looks.iter().map(|(_, name)| name).collect();
    assert!(names.contains(&"w7".to_owned()), "{names:?}");
    assert_eq!(names.len(), 40);
    let first = |name: &str| looks.iter().find(|(_, seen)| seen == name).map(|(at, _)| *at);
    let last = (0..40).filter_map(|n| first(&format!("w{n}"))).max().unwrap();
    assert!(last.duration_since(looks[0].0) < SignedDuration::from_secs(1));
}

#[test]
fn a_controller_is_told_that_its_term_has_ended_and_the_next_one_begins_anew() {
    let mut world = World::new();
    world.server.add(widget("w", "1"));
    let resigned = Arc::new(AtomicUsize::new(0));
    let count = resigned.clone();
    let decide = |seen: &Seen| {
        Plan::wait("Counting", Duration::from_secs(1))
            .with_status(seen.key(), serde_json::json!({"at": seen.now.to_string()}))
    };
    let fixture = Fixture::new(decide).resigning(move || {
        count.fetch_add(1, Ordering::SeqCst);
    });
    let mut setup = world.setup("a", vec![fixture]);
    setup.lease = Some(LeaseSettings::new("evenkeel", "group", "a"));
    world.boot(setup);
    world.run_for(60);
    assert_eq!(resigned.load(Ordering::SeqCst), 0);
    world.server.fault("patch", "Lease", Fault::Silence);
    world.run_for(30);
    assert_eq!(resigned.load(Ordering::SeqCst), 1);
    let depth = "evenkeel_queue_depth{controller=\"fixture\"} 0";
    assert!(world.activity.metrics().contains(depth), "{}", world.activity.metrics());
    let before = writes(&world, "a");
    world.server.heal();
    world.run_for(30);
    assert!(writes(&world, "a") > before + 5);
    assert_eq!(resigned.load(Ordering::SeqCst), 1);
}

#[test]
fn setting_the_wall_clock_makes_no_second_leader() {
    for (a, b) in [(-86_400, 0), (86_400, 0), (0, 86_400), (0, -86_400)] {
        let mut world = World::new();
        world.server.add(widget("w", "1"));
        let (one, two) = (world.server.client("a"), world.server.client("b"));
        let clock_a = candidate(&mut world, "a", one);
        let clock_b = candidate(&mut world, "b", two);
        world.run_for(31);
        clock_a.set_ahead(a);
        clock_b.set_ahead(b);
        world.run_for(14);
        assert_eq!((holder(&world).as_str(), writes(&world, "b")), ("a", 0), "{a} {b}");
        // And a leader whose clock was set back still stops in time.
        world.server.fault("*", "Lease", Fault::Silence);
        world.run_for(11);
        let before = writes(&world, "a");
        world.run_for(60);
        assert_eq!(writes(&world, "a"), before, "{a} {b}");
    }
}

/// Two loops with slow, lossy connections to the server, processes that are suspended, clocks that
/// are set, Leases that are deleted: everything that is written lands while the Lease names its
/// writer.
fn lands_only_under_its_own_lease(seed: u64) {
    let rng = Rng::new(seed);
    let mut world = World::new();
    world.server.add(widget("w", "1"));
    // Less than what lies between a leader's end and its successor's beginning.
    let most = Duration::from_millis(1_500);
    let mut clocks = Vec::new();
    for name in ["a", "b"] {
        let client = world.server.slow_client(name, rng.child(name), most);
        clocks.push(candidate(&mut world, name, client));
    }
    let mut chaos = rng.child("chaos");
    let end = world.time.steady().checked_add(Duration::from_mins(10)).unwrap();
    let mut next_fault = world.time.steady();
    while world.leap(end) {
        if world.time.steady() < next_fault {
            continue;
        }
        next_fault = next_fault.checked_add(Duration::from_secs(chaos.below(20))).unwrap();
        let name = if chaos.chance(0.5) { "a" } else { "b" };
        match chaos.below(6) {
            0 => world.suspend(name, Duration::from_secs(chaos.below(30))),
            1 => world.server.fault_times("patch", "Lease", Fault::Silence, 2),
            2 => world.server.fault_times("get", "Lease", Fault::Silence, 2),
            3 => {
                let ahead = i64::try_from(chaos.below(200)).unwrap() - 100;
                clocks[usize::from(name == "b")].set_ahead(ahead);
            }
            4 => world.server.fault_times("patch", "Lease", Fault::LostAnswer, 1),
            _ => world.server.fault_times("status", "Widget", Fault::Silence, 1),
        }
    }
    // Then all faults stop, and one process acts again.
    world.server.heal();
    let before = world.server.request_count();
    world.run_for(120);
    let acted = world.server.requests()[before..].iter().any(|r| r.key == "Widget/shop/w");
    assert!(acted, "seed {seed}: no process acts");
    check_writers(&world, most, seed);
}

fn check_writers(world: &World, most: Duration, seed: u64) {
    let most = SignedDuration::try_from(most).unwrap();
    for request in world.server.requests() {
        if request.key != "Widget/shop/w" || request.verb != "status" {
            continue;
        }
        let at = crate::world::second(request.at);
        let [sent, arrived] = &request.holders;
        assert_eq!(request.client, sent, "seed {seed} at second {at}");
        // No election can call back writes in the buffers of a process that was suspended: the
        // revisions that a write must find protect against those.
        if request.under_way <= most {
            assert_eq!(request.client, arrived, "seed {seed} at second {at}");
        }
    }
}

// Longer than a second: each seed is ten minutes of two processes that lose what they send.
#[test]
fn two_loops_over_one_server_never_both_act() {
    for seed in 0..40 {
        lands_only_under_its_own_lease(seed);
    }
}

#[test]
fn many_passes_that_wait_for_nothing_do_not_cost_the_lease() {
    let mut world = World::new();
    for n in 0..400 {
        world.server.add(widget(&format!("w{n}"), "1"));
    }
    let time = world.time.clone();
    let decide = move |_: &Seen| {
        // So long a pass is at work, on a slow machine.
        let end = time.steady() + Duration::from_millis(100);
        time.set(end);
        while time.leap(end) {}
        Plan::wait("Counting", Duration::from_hours(1))
    };
    let mut setup = world.setup("a", vec![Fixture::new(decide).named("a")]);
    setup.client = world.server.client("a");
    setup.lease = Some(LeaseSettings::new("evenkeel", "group", "a"));
    world.boot(setup);
    world.run_for(90);
    assert_snapshot!(reign(&world), @"0.000 a leads");
}
