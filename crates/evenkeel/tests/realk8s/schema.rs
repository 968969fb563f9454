//! With Flagger's own definition of a Canary the API server drops part of what evenkeel keeps.

use serde_json::{Value, json};

use crate::{bed::Bed, objects::APP, releases::Stage, until};

/// Puts evenkeel's definition back, however the test ends.
struct Foreign<'a>(&'a Bed);

impl Drop for Foreign<'_> {
    fn drop(&mut self) {
        for crd in evenkeel_api::crds() {
            self.0.apply_crd(&crd);
        }
    }
}

/// A definition whose schema of the status has only Flagger's fields.
fn foreign() -> Value {
    let mut crd = evenkeel_api::crds()
        .into_iter()
        .find(|crd| crd["metadata"]["name"] == "canaries.flagger.app")
        .unwrap();
    let text = json!({"type": "string"});
    let number = json!({"type": "number"});
    let condition = json!({"type": "object", "required": ["type", "status", "reason"],
        "properties": {"type": text, "status": text, "reason": text, "message": text,
            "lastTransitionTime": text, "lastUpdateTime": text}});
    let schema = &mut crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"];
    schema["status"] = json!({"type": "object", "properties": {
        "phase": {"type": "string", "enum": ["", "Initializing", "Initialized", "Waiting",
            "Progressing", "WaitingPromotion", "Promoting", "Finalising", "Succeeded", "Failed",
            "Terminating", "Terminated"]},
        "failedChecks": number, "canaryWeight": number, "iterations": number,
        "sessionAffinityCookie": text, "previousSessionAffinityCookie": text,
        "lastAppliedSpec": text, "lastPromotedSpec": text, "lastTransitionTime": text,
        "trackedConfigs": {"type": "object", "additionalProperties": text},
        "conditions": {"type": "array", "items": condition}}});
    crd
}

#[test]
fn a_definition_that_drops_the_status_is_reported_and_no_release_begins() {
    let Some(bed) = Bed::take_later() else { return };
    let stage = Stage::set(bed);
    let (bed, ns) = (&stage.bed, "schema");
    let _back = Foreign(bed);
    bed.apply_crd(&foreign());
    let canary = bed.app(ns, &json!({}));
    let said = |bed: &Bed| {
        let conditions = bed.field(&canary, "/status/conditions").to_string();
        conditions.contains("status.evenkeel") && conditions.contains("evenkeel crds")
    };
    until("it is reported", || said(bed));
    bed.release(ns, "web:2");
    // Long enough for a step if there were one.
    std::thread::sleep(std::time::Duration::from_secs(15));
    assert!(stage.gateways.weights(ns).iter().all(|weight| *weight == 0));
    assert!(said(bed), "{}", bed.field(&canary, "/status"));

    // With the right definition it continues by itself.
    drop(Foreign(bed));
    bed.reaches(ns, "Initialized");
    until("the release begins", || {
        let image = bed.image(ns, APP);
        image == "web:2" && stage.gateways.weights(ns).iter().any(|weight| *weight > 0)
    });
}
