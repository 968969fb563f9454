//! A release from the first object to the last, good and bad, and a Canary deleted in between.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use evenkeel_api::Key;
use k8s_openapi::api::core::v1::{Event, Service};
use serde_json::{Value, json};

use crate::{
    bed::Bed,
    figure,
    gateways::Gateways,
    objects::{APP, canary_key, deployment_key, route_key, weight},
    process::{Evenkeel, Start},
    prometheus::Prometheus,
    until,
};

/// What tests share that do not disturb each other: each has a namespace of its own.
pub(crate) struct Stage {
    pub(crate) run: Evenkeel,
    pub(crate) gateways: Gateways,
    pub(crate) prometheus: Prometheus,
    // Last: what is above talks to it until it ends.
    pub(crate) bed: Bed,
}

impl Stage {
    /// The one that is up, or a new one; `None` without a control plane.
    pub(crate) fn shared() -> Option<Arc<Self>> {
        static UP: Mutex<Weak<Stage>> = Mutex::new(Weak::new());
        let mut up = UP.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(stage) = up.upgrade() {
            return Some(stage);
        }
        let stage = Arc::new(Self::set(Bed::take()?));
        *up = Arc::downgrade(&stage);
        Some(stage)
    }

    /// One of a test's own.
    pub(crate) fn set(bed: Bed) -> Self {
        let (prometheus, gateways) = (Prometheus::start(), Gateways::start(&bed));
        let run = Evenkeel::start(&bed, &Start::with(&prometheus.url));
        Self { run, gateways, prometheus, bed }
    }

    /// An application that is ready for its first release.
    pub(crate) fn app(&self, namespace: &str) -> Key {
        self.app_with(namespace, &json!({}))
    }

    /// One whose Canary's analysis differs in these fields.
    pub(crate) fn app_with(&self, namespace: &str, analysis: &Value) -> Key {
        let key = self.bed.app(namespace, analysis);
        self.bed.reaches(namespace, "Initialized");
        self.gateways.forget_before(namespace);
        key
    }

    /// Waits until the canary has this share or more.
    pub(crate) fn reaches_weight(&self, namespace: &str, pct: i64) {
        let route = route_key(namespace, APP);
        until(&format!("{namespace} has weight {pct}"), || {
            self.bed.get(&route).is_some_and(|route| weight(route.json()) >= pct)
        });
    }
}

#[test]
fn a_good_release_goes_step_by_step_and_is_promoted() {
    let Some(stage) = Stage::shared() else { return };
    let (bed, ns) = (&stage.bed, "good");
    let canary = stage.app(ns);
    for service in ["web", "web-primary", "web-canary"] {
        assert!(bed.get(&Key::of::<Service>(ns, service)).is_some(), "{service}");
    }
    assert_eq!(bed.field(&deployment_key(ns, "web-primary"), "/status/readyReplicas"), 1);
    assert_eq!(bed.field(&deployment_key(ns, APP), "/spec/replicas"), 0);

    bed.release(ns, "web:2");
    let took = bed.reaches(ns, "Succeeded");
    figure(&format!("a release of five steps of 10 s took {:.0} s", took.as_secs_f64()));
    stage.gateways.saw(ns, &[0, 10, 20, 30, 40, 50, 0]);
    assert_eq!(bed.image(ns, "web-primary"), "web:2");
    assert_eq!(bed.field(&deployment_key(ns, APP), "/spec/replicas"), 0);
    let promoted = bed.condition(&canary, "Promoted");
    assert_eq!((&promoted["status"], &promoted["reason"]), (&json!("True"), &json!("Succeeded")));
    assert_eq!(bed.field(&canary, "/status/failedChecks"), json!(0));
    stamps_are_right(bed, ns);
}

/// So many seconds an API server on a busy machine may take for a write; a wrong clock is further off.
pub(crate) const SLOW_S: i64 = 60;

/// An Event was written when it says that it happened.
fn stamps_are_right(bed: &Bed, namespace: &str) {
    let events = bed.list::<Event>(namespace);
    let stamp = |value: &Value| value.as_str()?.parse::<jiff::Timestamp>().ok();
    let mut ours = 0;
    for event in events {
        let body = event.json();
        if body["involvedObject"]["kind"] != "Canary" {
            continue;
        }
        ours += 1;
        let made = stamp(&body["metadata"]["creationTimestamp"]).unwrap();
        let said = stamp(&body["firstTimestamp"]).or_else(|| stamp(&body["eventTime"])).unwrap();
        let apart = made.duration_since(said).abs();
        assert!(apart.as_secs() <= SLOW_S, "{apart:?}: {body}");
    }
    assert!(ours > 3, "{ours} Events about the Canary in {namespace}");
}

#[test]
fn a_bad_release_is_rolled_back() {
    let Some(stage) = Stage::shared() else { return };
    let (bed, ns) = (&stage.bed, "bad");
    let canary = stage.app(ns);
    bed.release(ns, "web:2");
    stage.reaches_weight(ns, 20);
    stage.prometheus.worsen(ns);
    let took = bed.reaches(ns, "Failed");
    figure(&format!("two failed checks of 10 s rolled back after {:.0} s", took.as_secs_f64()));
    until("the canary has no traffic", || stage.gateways.weights(ns).ends_with(&[0]));
    let weights = stage.gateways.weights(ns);
    assert!([&[0, 10, 20, 0][..], &[0, 10, 20, 30, 0]].contains(&&*weights), "{weights:?}");
    assert_eq!(bed.image(ns, "web-primary"), "web:1");
    until("the canary is scaled down", || {
        bed.field(&deployment_key(ns, APP), "/spec/replicas") == 0
    });
    let promoted = bed.condition(&canary, "Promoted");
    assert_eq!((&promoted["status"], &promoted["reason"]), (&json!("False"), &json!("Failed")));
    let words = promoted["message"].as_str().unwrap();
    assert!(words.contains("request-success-rate 80.00% < 99%"), "{words}");
}

#[test]
fn a_canary_deleted_in_a_release_gives_everything_back() {
    let Some(stage) = Stage::shared() else { return };
    let (bed, ns) = (&stage.bed, "deleted");
    let canary = stage.app(ns);
    bed.release(ns, "web:2");
    stage.reaches_weight(ns, 10);
    bed.delete(&canary);
    let took = until("the Canary is gone", || bed.get(&canary_key(ns, APP)).is_none());
    figure(&format!("a Canary deleted in a release was gone after {:.1} s", took.as_secs_f64()));
    let target = deployment_key(ns, APP);
    assert_eq!(bed.field(&target, "/spec/replicas"), 1);
    assert_eq!(bed.field(&target, "/status/readyReplicas"), 1);
    let apex = Key::of::<Service>(ns, APP);
    assert_eq!(bed.field(&apex, "/spec/selector"), json!({"app": "web"}));
    until("the primary is collected", || bed.get(&deployment_key(ns, "web-primary")).is_none());
}
