//! A leader that has been replaced and does not know it yet: what it sent too late bounces off.

use std::time::Duration;

use evenkeel_api::Key;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use nix::sys::signal::{Signal, kill};
use serde_json::json;

use crate::{
    audit::{self, Request},
    bed::Bed,
    figure,
    gateways::Gateways,
    objects::{APP, route_key},
    process::{Evenkeel, Start, port_of},
    prometheus::Prometheus,
    releases::Stage,
    until,
    wire::Wire,
};

/// When a network begins to hold what is sent, after a step.
const SHORTLY_BEFORE: Duration = Duration::from_millis(8_500);

/// Long enough to be kept on a busy machine.
pub(crate) const LEASE: &str = "9s";

/// Writes of a user, Events left out.
fn all_writes(bed: &Bed, user: &str) -> Vec<Request> {
    let all = audit::requests(bed, user);
    let changes = all.into_iter().filter(|request| {
        let is_write = !["get", "list", "watch"].contains(&&*request.verb);
        is_write && request.resource != "events" && !request.resource.starts_with('/')
    });
    changes.collect()
}

/// Its writes to what is released.
fn writes(bed: &Bed, user: &str) -> Vec<Request> {
    let all = all_writes(bed, user).into_iter();
    all.filter(|request| request.resource != "leases").collect()
}

/// Those that came to the server after a time.
fn since(time: Timestamp, mut requests: Vec<Request>) -> Vec<Request> {
    requests.retain(|request| request.at_ms >= time.as_millisecond());
    requests
}

fn wire(bed: &Bed) -> Wire {
    Wire::to(bed, port_of(&std::fs::read_to_string(bed.file("kubeconfig")).unwrap()))
}

/// The generation of the route: how often it was changed.
fn changes(bed: &Bed, ns: &str) -> i64 {
    bed.field(&route_key(ns, APP), "/metadata/generation").as_i64().unwrap()
}

#[test]
fn a_leader_frozen_past_its_lease_changes_nothing_when_it_is_thawed() {
    let Some(bed) = Bed::take() else { return };
    let (prometheus, gateways) = (Prometheus::start(), Gateways::start(&bed));
    let start = Start { lease: LEASE, ..Start::with(&prometheus.url) };
    let first = Evenkeel::start(&bed, &start);
    let stage = Stage { run: first, gateways, prometheus, bed };
    let (bed, ns) = (&stage.bed, "frozen-leader");
    stage.app_with(ns, &json!({"maxWeight": 40}));
    let start = Start { lease: LEASE, ..Start::with(&stage.prometheus.url) };
    let second = Evenkeel::start(bed, &start);
    let before = changes(bed, ns);
    bed.release(ns, "web:2");
    stage.reaches_weight(ns, 10);
    kill(stage.run.pid(), Signal::SIGSTOP).unwrap();
    let took = until("the other takes over", || !writes(bed, &second.user).is_empty());
    stage.reaches_weight(ns, 20);
    let thawed = Timestamp::now();
    // It wakes up amid what it did, long after its step was due.
    kill(stage.run.pid(), Signal::SIGCONT).unwrap();
    bed.reaches(ns, "Succeeded");
    stage.gateways.saw(ns, &[0, 10, 20, 30, 40, 0]);
    assert_eq!(changes(bed, ns) - before, 5, "each step was written once");
    let late = since(thawed, writes(bed, &stage.run.user));
    figure(&format!(
        "a frozen leader with a Lease of {LEASE}: next write {:.1} s later; thawed, it sent {} writes",
        took.as_secs_f64(),
        late.len()
    ));
    assert!(late.iter().all(|request| request.code == 409), "{late:?}");
}

#[test]
fn a_write_that_the_network_brings_too_late_bounces_off() {
    let Some(bed) = Bed::take() else { return };
    let wire = wire(&bed);
    let (prometheus, gateways) = (Prometheus::start(), Gateways::start(&bed));
    // A step is due well before the end of the term.
    let lease = "21s";
    let start = Start { lease, through: Some(wire.port), ..Start::with(&prometheus.url) };
    let first = Evenkeel::start(&bed, &start);
    let stage = Stage { run: first, gateways, prometheus, bed };
    let (bed, ns) = (&stage.bed, "late");
    stage.app_with(ns, &json!({"maxWeight": 30}));
    let second = Evenkeel::start(bed, &Start { lease, ..Start::with(&stage.prometheus.url) });
    let before = changes(bed, ns);
    bed.release(ns, "web:2");
    stage.reaches_weight(ns, 10);
    let noted = || bed.field(&crate::objects::canary_key(ns, APP), "/status/canaryWeight") == 10;
    until("the step is noted", noted);
    // Not to wait for something: the next step is due ten seconds after that one.
    std::thread::sleep(SHORTLY_BEFORE);
    wire.hold();
    let took = until("the other takes over", || !writes(bed, &second.user).is_empty());
    stage.reaches_weight(ns, 20);
    let delivered = Timestamp::now();
    wire.deliver();
    let come = || !since(delivered, all_writes(bed, &stage.run.user)).is_empty();
    until("what was held comes to the server", come);
    bed.reaches(ns, "Succeeded");
    let mut late = since(delivered, all_writes(bed, &stage.run.user));
    // What it leads besides: that Lease may not have expired yet.
    late.retain(|request| request.name != "evenkeel-slo");
    figure(&format!(
        "a leader cut off with a Lease of 21 s: next write {:.1} s later; {} writes came late: {:?}",
        took.as_secs_f64(),
        late.len(),
        late.iter().map(|late| format!("{} {}", late.resource, late.code)).collect::<Vec<_>>()
    ));
    // Which of its writes these are is up to the connections that it had when the network began to
    // hold: on a new one nothing comes after the first words.
    assert!(late.iter().all(|request| request.code == 409), "{late:?}");
    stage.gateways.saw(ns, &[0, 10, 20, 30, 0]);
    assert_eq!(changes(bed, ns) - before, 4, "each step was written once");
}

#[test]
fn a_renewal_whose_answer_was_lost_keeps_the_lease() {
    let Some(bed) = Bed::take_later() else { return };
    let wire = wire(&bed);
    let prometheus = Prometheus::start();
    // One that is still held when the second renewal after the lost one is late, too.
    let start = Start { through: Some(wire.port), lease: "60s", ..Start::with(&prometheus.url) };
    let run = Evenkeel::start(&bed, &start);
    let lease = Key::of::<Lease>("default", "evenkeel-delivery");
    until("a Lease is taken", || bed.field(&lease, "/spec/holderIdentity") != json!(null));
    let holder = bed.field(&lease, "/spec/holderIdentity");
    let renewed = || bed.field(&lease, "/spec/renewTime");
    wire.mute(true);
    let until_muted = renewed();
    until("a renewal comes to the server", || renewed() != until_muted);
    until("and it has no answer", || run.log().contains("lease not renewed"));
    wire.mute(false);
    let last = renewed();
    until("it is renewed again", || renewed() != last);
    std::thread::sleep(Duration::from_millis(500));
    let log = run.log();
    assert!(!log.contains("leadership lost") && !log.contains("another process leads"), "{log}");
    assert_eq!(bed.field(&lease, "/spec/holderIdentity"), holder);
    assert_eq!(bed.field(&lease, "/spec/leaseTransitions"), 0);
}
