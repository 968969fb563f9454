//! Two processes beside one API server: a crash in the middle of a release loses no step.

use serde_json::json;

use crate::{
    audit,
    bed::Bed,
    figure,
    gateways::Gateways,
    objects::{APP, route_key},
    process::{Evenkeel, Start},
    prometheus::Prometheus,
    releases::Stage,
    until,
};

#[test]
fn a_leader_killed_in_a_release_loses_no_step_and_repeats_none() {
    let Some(bed) = Bed::take() else { return };
    let (prometheus, gateways) = (Prometheus::start(), Gateways::start(&bed));
    let start = Start { lease: "3s", ..Start::with(&prometheus.url) };
    let first = Evenkeel::start(&bed, &start);
    let ns = "leaders";
    let mut stage = Stage { run: first, gateways, prometheus, bed };
    stage.app_with(ns, &json!({"maxWeight": 30}));
    let start = Start { lease: "3s", ..Start::with(&stage.prometheus.url) };
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
        "a killed leader with a Lease of 3 s: next write {:.1} s later",
        took.as_secs_f64()
    ));
    stage.bed.reaches(ns, "Succeeded");
    assert_eq!(stage.gateways.weights(ns), [0, 10, 20, 30, 0]);
    let after = stage.bed.field(&route_key(ns, APP), "/metadata/generation").as_i64().unwrap();
    assert_eq!(after - before, 4, "each step was written once");
    assert_eq!(stage.bed.image(ns, "web-primary"), "web:2");
}
