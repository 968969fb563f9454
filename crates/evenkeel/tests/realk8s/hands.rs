//! One controller acts on an object, also where it is not certain who the other one is.

use evenkeel_api::{Key, beside};
use evenkeel_control::{DeleteOptions, Write as _};
use k8s_openapi::api::apps::v1::Deployment;
use serde_json::{Value, json};

use crate::{
    bed::Bed,
    gateways::Gateways,
    install::evenkeel,
    objects::{APP, deployment, deployment_key, route_key, weight},
    peers::Definitions,
    process::{Evenkeel, Start, why},
    prometheus::Prometheus,
    releases::Stage,
    until,
};

/// A Deployment that says that it is Flagger; deleted when dropped.
struct Pretender<'a>(&'a Bed, Key);

impl<'a> Pretender<'a> {
    fn start(bed: &'a Bed, namespace: &str, replicas: i32) -> Self {
        let mut body = deployment(namespace, "flagger", "flagger:1", replicas);
        body["metadata"]["labels"] = json!({"app": "flagger"});
        Self(bed, bed.create(body))
    }
}

impl Drop for Pretender<'_> {
    fn drop(&mut self) {
        let Self(bed, key) = self;
        // The next test on this cluster must not meet it.
        bed.runtime.block_on(bed.store.delete(key, &DeleteOptions::default())).unwrap_or_default();
    }
}

fn mark(value: Option<&str>, suspend: bool) -> Value {
    json!({"metadata": {"annotations": {beside::MANAGED: value}}, "spec": {"suspend": suspend}})
}

fn finalizers(bed: &Bed, canary: &Key) -> Value {
    bed.field(canary, "/metadata/finalizers")
}

#[test]
fn who_acts_on_annotated_canaries_only_does_not_act_while_flagger_does() {
    let Some(bed) = Bed::take_later() else { return };
    let (prometheus, _gateways) = (Prometheus::start(), Gateways::start(&bed));
    let ns = "annotated";
    let canary = bed.app(ns, &json!({}));
    let _flagger = Pretender::start(&bed, ns, 1);
    bed.patch(&canary, mark(Some("true"), false));
    let start = Start { manage: "annotated", ..Start::with(&prometheus.url) };
    let _run = Evenkeel::start(&bed, &start);
    until("it is refused", || bed.condition(&canary, "Accepted")["reason"] == "InBothHands");
    assert!(bed.get(&deployment_key(ns, "web-primary")).is_none());
    bed.patch(&canary, mark(Some("true"), true));
    bed.reaches(ns, "Initialized");
    assert!(bed.get(&Key::of::<Deployment>(ns, "web-primary")).is_some());
}

#[test]
fn a_deployment_called_flagger_does_not_stop_a_release() {
    let Some(bed) = Bed::take() else { return };
    let stage = Stage::set(bed);
    let (bed, ns) = (&stage.bed, "pretended");
    let canary = stage.app(ns);
    bed.release(ns, "web:2");
    stage.reaches_weight(ns, 10);
    let pretender = Pretender::start(bed, ns, 1);
    until("it is noticed", || stage.run.log().contains("Flagger runs here"));
    assert_eq!(bed.field(&canary, "/status/phase"), "Progressing");
    stage.prometheus.worsen(ns);
    bed.reaches(ns, "Failed");
    assert_eq!(weight(bed.get(&route_key(ns, APP)).unwrap().json()), 0);
    // At rest it is only observed, and nothing is given back to somebody who may not be there.
    let observed = || why(bed, &format!("canary/{APP}"), ns).contains("only observed");
    until("it is observed", observed);
    assert_eq!(finalizers(bed, &canary), json!(["finalizer.flagger.app"]));
    assert!(!bed.field(&canary, "/status/evenkeel").is_null());
    let none = json!({"spec": {"replicas": 0}});
    bed.patch(&pretender.1, none);
    until("it is not mistaken any more", || {
        stage.run.log().contains("all objects are acted on from now on")
    });
}

#[test]
fn what_was_given_back_keeps_its_finalizer_when_evenkeel_goes() {
    let Some(bed) = Bed::take_later() else { return };
    let Some(_definitions) = Definitions::install(&bed) else { return };
    let (prometheus, _gateways) = (Prometheus::start(), Gateways::start(&bed));
    let ns = "given-back";
    let canary = bed.app(ns, &json!({}));
    bed.patch(&canary, mark(Some("true"), true));
    let mut run = Evenkeel::start(&bed, &Start::with(&prometheus.url));
    bed.reaches(ns, "Initialized");
    until("it holds its deletion", || !finalizers(&bed, &canary).is_null());
    bed.patch(&canary, mark(None, false));
    let left = || bed.get(&canary).unwrap().json().to_string();
    until("it is given back", || !left().contains("evenkeel") && !left().contains("ek1-"));
    run.crash();
    let before = bed.get(&canary).unwrap();
    assert_eq!(finalizers(&bed, &canary), json!(["finalizer.flagger.app"]));
    let file = bed.file("kubeconfig");
    let said = evenkeel(&["uninstall", "--kubeconfig", file.to_str().unwrap(), "-n", ns]);
    assert!(!said.contains("freed"), "{said}");
    assert_eq!(bed.get(&canary).unwrap().json(), before.json());
}
