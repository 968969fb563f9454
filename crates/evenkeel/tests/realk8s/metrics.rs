//! A Prometheus that is gone, silent, overloaded or without data: nothing is decided on it, what is
//! wrong is said, and the release goes on when there are answers again.

use std::time::Duration;

use serde_json::{Value, json};

use crate::{prometheus::Fault, releases::Stage, until};

/// Longer than a step, shorter than the patience with data that are missing.
const WHILE: Duration = Duration::from_secs(20);

/// What is said about a Canary: conditions, and messages of Events.
fn said(stage: &Stage, canary: &evenkeel_api::Key) -> String {
    let conditions = stage.bed.field(canary, "/status/conditions");
    let events = stage.bed.list::<k8s_openapi::api::core::v1::Event>(&canary.namespace);
    let events = events.iter().map(|event| event.json()["message"].clone());
    format!("{conditions} {}", Value::Array(events.collect()))
}

/// A release during which Prometheus fails; `words` must be said meanwhile.
fn is_waited_for(ns: &str, fault: Fault, words: &[&str]) {
    let Some(stage) = Stage::shared() else { return };
    let canary = stage.app_with(ns, &json!({"maxWeight": 20, "threshold": 3}));
    stage.bed.release(ns, "web:2");
    stage.reaches_weight(ns, 10);
    stage.prometheus.fail(ns, Some(fault));
    until(&format!("{fault:?} is said"), || {
        let said = said(&stage, &canary);
        words.iter().any(|words| said.contains(words))
    });
    // Not to wait for something: this is how long the fault lasts.
    std::thread::sleep(WHILE);
    let weights = stage.gateways.weights(ns);
    assert!(!weights.contains(&20), "a step without a check: {weights:?}");
    assert_eq!(stage.bed.phase(ns), "Progressing", "{}", said(&stage, &canary));
    stage.prometheus.fail(ns, None);
    stage.bed.reaches(ns, "Succeeded");
    stage.gateways.saw(ns, &[0, 10, 20, 0]);
}

#[test]
fn a_prometheus_that_is_gone_is_waited_for_and_named() {
    is_waited_for("gone", Fault::Gone, &["not answer", "unreachable", "request-success-rate"]);
}

#[test]
fn a_prometheus_that_answers_nothing_is_waited_for_and_named() {
    is_waited_for("silent", Fault::Silent, &["within", "request-success-rate"]);
}

#[test]
fn a_prometheus_that_is_overloaded_is_waited_for_and_named() {
    is_waited_for("overloaded", Fault::Unavailable, &["503", "overloaded"]);
}

#[test]
fn a_prometheus_without_data_is_waited_for_and_named() {
    is_waited_for("nodata", Fault::Empty, &["request-success-rate"]);
}
