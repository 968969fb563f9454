//! A wall clock that is set while a release is under way.

use std::path::Path;

use serde_json::json;

use crate::{
    bed::Bed,
    figure,
    gateways::Gateways,
    process::{Evenkeel, Start},
    prometheus::Prometheus,
    releases::Stage,
    until,
};

/// Lies to a process about the wall clock; Debian's package `libfaketime`.
const LIBRARY: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";

#[test]
fn a_wall_clock_that_is_set_hurries_no_step_and_costs_no_lease() {
    if !Path::new(LIBRARY).exists() {
        figure("skipped: a clock that is set needs the package libfaketime");
        return;
    }
    let Some(bed) = Bed::take_later() else { return };
    let (prometheus, gateways) = (Prometheus::start(), Gateways::start(&bed));
    let clock = bed.file("clock");
    std::fs::write(&clock, "+0").unwrap();
    let environment = [
        ("LD_PRELOAD", LIBRARY),
        ("FAKETIME_TIMESTAMP_FILE", clock.to_str().unwrap()),
        ("FAKETIME_NO_CACHE", "1"),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
    ];
    // A busy machine may be late with a renewal, but not by so much.
    let lease = "45s";
    let start = Start { environment: &environment, lease, ..Start::with(&prometheus.url) };
    let run = Evenkeel::start(&bed, &start);
    let stage = Stage { run, gateways, prometheus, bed };
    let ns = "clock";
    stage.app_with(ns, &json!({"maxWeight": 30}));
    stage.bed.release(ns, "web:2");
    stage.reaches_weight(ns, 10);
    std::fs::write(&clock, "+2h").unwrap();
    let first = until("the next step", || stage.gateways.weights(ns).contains(&20));
    // And back.
    std::fs::write(&clock, "+0").unwrap();
    let second = until("the step after it", || stage.gateways.weights(ns).contains(&30));
    stage.bed.reaches(ns, "Succeeded");
    stage.gateways.saw(ns, &[0, 10, 20, 30, 0]);
    figure(&format!(
        "the clock was set by two hours and back: steps of 10 s took {:.0} s and {:.0} s",
        first.as_secs_f64(),
        second.as_secs_f64()
    ));
    let log = stage.run.log();
    assert!(!log.contains("leadership lost"), "{log}");
}
