//! A network, and an API server, that stop answering.

use std::time::Duration;

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::json;

use crate::{
    audit,
    bed::Bed,
    figure,
    gateways::Gateways,
    process::{Evenkeel, Start, port_of},
    prometheus::Prometheus,
    releases::Stage,
    until,
    wire::Wire,
};

/// How long the API server is stopped.
const STOPPED: Duration = Duration::from_mins(1);

#[test]
fn connections_that_are_lost_without_an_error_are_noticed() {
    let Some(bed) = Bed::take() else { return };
    let server = port_of(&std::fs::read_to_string(bed.file("kubeconfig")).unwrap());
    let wire = Wire::to(&bed, server);
    let (prometheus, gateways) = (Prometheus::start(), Gateways::start(&bed));
    let start = Start { through: Some(wire.port), ..Start::with(&prometheus.url) };
    let run = Evenkeel::start(&bed, &start);
    let stage = Stage { run, gateways, prometheus, bed };
    let ns = "silence";
    stage.app_with(ns, &json!({"maxWeight": 30}));
    stage.bed.release(ns, "web:2");
    stage.reaches_weight(ns, 10);
    let before = audit::requests(&stage.bed, &stage.run.user).len();
    let connections = wire.opened();
    wire.cut();
    let heard =
        until("it asks again", || audit::requests(&stage.bed, &stage.run.user).len() > before + 2);
    let fresh = until("all caches are fresh again", || {
        let made = stage.run.metric("evenkeel_api_silences_total") >= 1.0;
        made && wire.opened() > connections
    });
    stage.bed.reaches(ns, "Succeeded");
    figure(&format!(
        "all connections lost: asked again after {:.0} s, new connections {} after {:.0} s, \
         silences counted {}",
        heard.as_secs_f64(),
        wire.opened() - connections,
        (heard + fresh).as_secs_f64(),
        stage.run.metric("evenkeel_api_silences_total"),
    ));
    stage.gateways.saw(ns, &[0, 10, 20, 30, 0]);
}

/// Resumes when the test ends, however it ends.
struct Paused(Pid);

impl Drop for Paused {
    fn drop(&mut self) {
        kill(self.0, Signal::SIGCONT).unwrap();
    }
}

#[test]
fn an_api_server_that_stops_for_a_minute_is_found_again() {
    let Some(bed) = Bed::take() else { return };
    let server = bed.pid("apiserver");
    let stage = Stage::set(bed);
    let ns = "stopped";
    stage.app_with(ns, &json!({"maxWeight": 20}));
    stage.bed.release(ns, "web:2");
    stage.reaches_weight(ns, 10);
    let paused = Paused(server);
    kill(server, Signal::SIGSTOP).unwrap();
    let asked = audit::requests(&stage.bed, &stage.run.user).len();
    // Not to wait for something: this is how long the fault lasts.
    std::thread::sleep(STOPPED);
    let weights = stage.gateways.weights(ns);
    drop(paused);
    let healed = until("it writes again", || {
        let all = audit::requests(&stage.bed, &stage.run.user);
        let late = all.get(asked..).unwrap_or_default();
        late.iter().any(|request| request.resource == "canaries/status" && request.code == 200)
    });
    figure(&format!(
        "API server stopped for 60 s: next status written {:.1} s after it resumed",
        healed.as_secs_f64()
    ));
    assert!(weights.ends_with(&[10]), "no step while the server stood still: {weights:?}");
    stage.bed.reaches(ns, "Succeeded");
    stage.gateways.saw(ns, &[0, 10, 20, 0]);
}
