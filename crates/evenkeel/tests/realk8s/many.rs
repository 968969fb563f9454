//! Several of everything, in one namespace and in two clusters.

use std::time::Duration;

use evenkeel_api::Key;
use serde_json::{Value, json};

use crate::{
    audit,
    bed::Bed,
    objects::{canary, canary_key, deployment, deployment_key, slo, slo_key},
    releases::Stage,
    until,
};

/// Time without a write after which an object counts as settled.
const SETTLING: Duration = Duration::from_secs(3);

/// The names of the SLOs that a Canary answers to, as its status shows them.
fn slos_of(bed: &Bed, key: &Key) -> Value {
    bed.field(key, "/status/errorBudget")
}

#[test]
fn canaries_and_slos_of_one_namespace_keep_apart() {
    let Some(stage) = Stage::shared() else { return };
    let (bed, ns) = (&stage.bed, "several");
    bed.namespace(ns);
    let names = ["first", "second"];
    for name in names {
        bed.create(slo(ns, name));
        bed.create(deployment(ns, name, "web:1", 1));
        let mut canary = canary(ns, name, &json!({"maxWeight": 10}));
        canary["metadata"]["annotations"] = json!({"evenkeel.dev/slos": name});
        bed.create(canary);
    }
    for name in names {
        until("each has its budget", || slos_of(bed, &canary_key(ns, name)) != Value::Null);
        until("it is initialised", || {
            bed.field(&canary_key(ns, name), "/status/phase") == "Initialized"
        });
        let counted = format!("{name}-availability");
        until("its SLO is counted", || {
            bed.field(&slo_key(ns, name), "/status/slos/0/id") == *counted
        });
        let budget = slos_of(bed, &canary_key(ns, name)).to_string();
        let other = names.iter().find(|other| **other != name).unwrap();
        let says = |name: &str| budget.contains(&format!("{ns}/{name}"));
        assert!(says(name) && !says(other), "{name}: {budget}");
    }
    bed.patch(
        &deployment_key(ns, "first"),
        json!({"spec": {"template": {"spec": {"containers": [{"name": "main", "image": "web:2",
            "ports": [{"containerPort": 8080}]}]}}}}),
    );
    until("one is released", || {
        bed.field(&canary_key(ns, "first"), "/status/phase") == "Succeeded"
    });
    assert_eq!(bed.field(&canary_key(ns, "second"), "/status/phase"), "Initialized");
    assert_eq!(bed.image(ns, "first-primary"), "web:2");
    assert_eq!(bed.image(ns, "second-primary"), "web:1");
}

#[test]
fn objects_of_one_name_in_two_clusters_do_not_mix() {
    let (Some(one), Some(two)) = (Bed::take_later(), Bed::take_later()) else { return };
    let (one, two) = (Stage::set(one), Stage::set(two));
    let ns = "twins";
    for stage in [&one, &two] {
        stage.app_with(ns, &json!({"maxWeight": 10}));
    }
    let revision = |stage: &Stage| {
        stage.bed.field(&canary_key(ns, crate::objects::APP), "/metadata/resourceVersion")
    };
    let mut quiet = Value::Null;
    until("nothing is written to it any more", || {
        let before = std::mem::replace(&mut quiet, revision(&two));
        // Longer than the look that follows an initialisation.
        std::thread::sleep(SETTLING);
        before == quiet
    });
    one.bed.release(ns, "web:2");
    one.bed.reaches(ns, "Succeeded");
    one.gateways.saw(ns, &[0, 10, 0]);
    two.gateways.saw(ns, &[0]);
    assert_eq!(two.bed.phase(ns), "Initialized");
    assert_eq!(two.bed.image(ns, "web-primary"), "web:1");
    assert_eq!(quiet, revision(&two), "the other cluster's Canary was written to");
    for (here, there) in [(&one, &two), (&two, &one)] {
        assert!(audit::requests(&here.bed, &there.run.user).is_empty());
    }
}
