//! Two processes beside one API server: a crash in the middle of a release loses no step.

use std::{
    io::Read as _,
    net::TcpListener,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use evenkeel_api::Key;
use k8s_openapi::api::coordination::v1::Lease;
use serde_json::json;

use crate::{
    audit,
    bed::Bed,
    fencing::LEASE,
    figure,
    gateways::Gateways,
    objects::{APP, route_key, slo},
    process::{Evenkeel, Start},
    prometheus::Prometheus,
    releases::Stage,
    until,
};

#[test]
fn a_leader_killed_in_a_release_loses_no_step_and_repeats_none() {
    let Some(bed) = Bed::take() else { return };
    let (prometheus, gateways) = (Prometheus::start(), Gateways::start(&bed));
    let start = Start { lease: LEASE, ..Start::with(&prometheus.url) };
    let first = Evenkeel::start(&bed, &start);
    let ns = "leaders";
    let mut stage = Stage { run: first, gateways, prometheus, bed };
    stage.app_with(ns, &json!({"maxWeight": 30}));
    let start = Start { lease: LEASE, ..Start::with(&stage.prometheus.url) };
    let second = Evenkeel::start(&stage.bed, &start);
    let before = stage.bed.field(&route_key(ns, APP), "/metadata/generation").as_i64().unwrap();
    stage.bed.release(ns, "web:2");
    stage.reaches_weight(ns, 20);
    stage.run.crash();
    let writes = |user: &str| {
        let all = audit::requests(&stage.bed, user);
        let changes = all.into_iter().filter(|request| {
            let is_write = !["get", "list", "watch"].contains(&&*request.verb);
            is_write && request.resource != "leases" && !request.resource.starts_with('/')
        });
        changes.collect::<Vec<_>>()
    };
    assert!(writes(&second.user).is_empty(), "{:?}", writes(&second.user));
    let took = until("the other takes over", || !writes(&second.user).is_empty());
    figure(&format!(
        "a killed leader with a Lease of {LEASE}: next write {:.1} s later",
        took.as_secs_f64()
    ));
    stage.bed.reaches(ns, "Succeeded");
    stage.gateways.saw(ns, &[0, 10, 20, 30, 0]);
    let after = stage.bed.field(&route_key(ns, APP), "/metadata/generation").as_i64().unwrap();
    assert_eq!(after - before, 4, "each step was written once");
    assert_eq!(stage.bed.image(ns, "web-primary"), "web:2");
}

/// SLOs whose counters are asked for in one look, beside the first one.
const SLOS: usize = 9;

/// A Prometheus that takes questions and never answers; where it is, and whether it was asked about
/// an SLO.
fn silent_prometheus() -> (String, Arc<AtomicBool>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let asked = Arc::<AtomicBool>::default();
    let noting = asked.clone();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let asked = noting.clone();
            std::thread::spawn(move || {
                let (mut text, mut chunk) = (String::new(), [0; 4096]);
                // Until the client has had enough.
                while let Ok(length @ 1..) = stream.read(&mut chunk) {
                    text.push_str(&String::from_utf8_lossy(&chunk[..length]));
                    asked.fetch_or(text.contains("http_requests_total"), Ordering::Relaxed);
                }
            });
        }
    });
    (url, asked)
}

#[test]
fn a_process_told_to_stop_gives_all_its_leases_back_amid_a_look_that_takes_long() {
    let Some(bed) = Bed::take_later() else { return };
    let (url, asked) = silent_prometheus();
    let mut run = Evenkeel::start(&bed, &Start::with(&url));
    let holders = || {
        ["evenkeel-delivery", "evenkeel-slo"].map(|name| {
            let holder = bed.field(&Key::of::<Lease>("default", name), "/spec/holderIdentity");
            holder.as_str().unwrap_or_default().to_owned()
        })
    };
    until("it leads", || holders().iter().all(|holder| !holder.is_empty()));
    let ns = "stopping";
    bed.namespace(ns);
    let mut body = slo(ns, APP);
    let one = body["spec"]["slos"][0].clone();
    // One after the other waits for its answer.
    for number in 0..SLOS {
        let mut next = one.clone();
        next["name"] = json!(format!("availability-{number}"));
        body["spec"]["slos"].as_array_mut().unwrap().push(next);
    }
    bed.create(body);
    until("it looks at the SLO", || asked.load(Ordering::Relaxed));
    run.stop();
    assert_eq!(holders(), ["", ""], "{}", run.log());
}
