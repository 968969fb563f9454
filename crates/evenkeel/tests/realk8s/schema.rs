//! With Flagger's own definition of a Canary the API server drops part of what evenkeel keeps in a
//! status, and a release goes on all the same.

use evenkeel_api::beside;
use serde_json::json;

use crate::{
    bed::Bed,
    gateways::Gateways,
    objects::APP,
    peers::Definitions,
    process::{Evenkeel, Start},
    prometheus::Prometheus,
    until,
};

#[test]
fn a_release_survives_a_restart_under_a_definition_that_drops_its_bookkeeping() {
    let Some(bed) = Bed::take_later() else { return };
    let Some(_definitions) = Definitions::install(&bed) else { return };
    let (prometheus, gateways) = (Prometheus::start(), Gateways::start(&bed));
    let start = Start { manage: "all", ..Start::with(&prometheus.url) };
    let mut run = Evenkeel::start(&bed, &start);
    let ns = "schema";
    let canary = bed.app(ns, &json!({}));
    bed.reaches(ns, "Initialized");
    gateways.forget_before(ns);
    bed.release(ns, "web:2");
    until("it has begun", || gateways.weights(ns).contains(&20));
    run.crash();
    let _next = Evenkeel::start(&bed, &start);
    bed.reaches(ns, "Succeeded");
    gateways.saw(ns, &[0, 10, 20, 30, 40, 50, 0]);
    assert_eq!(bed.image(ns, "web-primary"), "web:2");
    assert_eq!(bed.field(&canary, "/status/failedChecks"), json!(0));
    let annotation = bed.get(&canary).unwrap();
    let annotation = beside::annotation(annotation.json(), beside::STATUS).unwrap().to_owned();
    assert!(annotation.contains("\"Succeeded\""), "{annotation}");
    assert_eq!(bed.image(ns, APP), "web:2");
}
