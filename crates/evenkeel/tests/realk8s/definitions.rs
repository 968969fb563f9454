//! Definitions of kinds that are not there yet, and such of other versions.

use evenkeel_api::{GroupKind, Key, beside};
use serde_json::{Value, json};

use crate::{
    bed::Bed,
    figure,
    objects::{APP, canary_key, slo, slo_key},
    peers::Definitions,
    releases::Stage,
    until,
};

const CANARIES: &str = "canaries.flagger.app";

fn definition(name: &str) -> Key {
    Key::new(GroupKind::new("apiextensions.k8s.io", "CustomResourceDefinition"), "", name)
}

fn canaries() -> Value {
    let mut all = evenkeel_api::crds().into_iter();
    all.find(|crd| crd["metadata"]["name"] == CANARIES).unwrap()
}

/// One that does not know error budgets yet, nor that evenkeel's are to be labelled.
fn older() -> Value {
    let mut crd = canaries();
    crd["metadata"].as_object_mut().unwrap().shift_remove("labels");
    let version = &mut crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"];
    let status = version["status"]["properties"].as_object_mut().unwrap();
    status.shift_remove("errorBudget").unwrap();
    crd
}

/// One with another version, which the server prefers, and a field that nobody knows here.
fn newer() -> Value {
    let mut crd = canaries();
    let mut next = crd["spec"]["versions"][0].clone();
    next["name"] = json!("v1");
    next["storage"] = json!(false);
    let versions = crd["spec"]["versions"].as_array_mut().unwrap();
    versions.push(next);
    for version in versions {
        let spec = &mut version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"];
        spec["futureField"] = json!({"type": "string"});
    }
    crd
}

#[test]
fn definitions_that_are_missing_older_and_newer_are_named_and_followed() {
    let Some(bed) = Bed::take() else { return };
    for name in [CANARIES, "prometheusservicelevels.sloth.slok.dev"] {
        bed.delete(&definition(name));
        until("it is gone", || bed.get(&definition(name)).is_none());
    }
    let stage = Stage::set(bed);
    let (bed, ns) = (&stage.bed, "definitions");
    let _back = Definitions(bed);
    let words = "the server has no kind Canary";
    until("it is named", || stage.run.log().contains(words));

    // They come, but the one of Canaries is older.
    for crd in evenkeel_api::crds() {
        let is_it = crd["metadata"]["name"] == CANARIES;
        bed.apply_crd(&if is_it { older() } else { crd });
    }
    let canary = bed.app(ns, &json!({"maxWeight": 10}));
    let found = bed.reaches(ns, "Initialized");
    figure(&format!(
        "a Canary was initialised {:.0} s after its kind was defined",
        found.as_secs_f64()
    ));
    bed.create(slo(ns, "first"));
    until("the field that has no place is kept beside the status", || {
        let found = bed.get(&canary).unwrap();
        let kept = beside::annotation(found.json(), beside::STATUS).unwrap_or_default();
        kept.contains("errorBudget")
    });

    bed.apply_crd(&newer());
    // A new schema is in force a moment after it is written.
    until("the new field is there", || {
        bed.patch(&canary, json!({"spec": {"futureField": "kept"}}));
        bed.field(&canary, "/spec/futureField") == "kept"
    });
    stage.gateways.forget_before(ns);
    until("the budget is known", || bed.field(&canary, "/status/errorBudget") != Value::Null);
    bed.release(ns, "web:2");
    bed.reaches(ns, "Succeeded");
    stage.gateways.saw(ns, &[0, 10, 0]);
    assert_eq!(bed.field(&canary_key(ns, APP), "/spec/futureField"), "kept");
    assert_ne!(bed.field(&slo_key(ns, "first"), "/status/slos/0"), Value::Null);
}
