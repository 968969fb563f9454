//! What a team has in its namespace.

use evenkeel_api::{Key, canary::Canary, httproute::HttpRoute, slo::PrometheusServiceLevel};
use k8s_openapi::api::apps::v1::Deployment;
use serde_json::{Value, json};

use crate::bed::Bed;

/// The application of every test.
pub(crate) const APP: &str = "web";

pub(crate) fn deployment(namespace: &str, name: &str, image: &str, replicas: i32) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}},
                "spec": {"terminationGracePeriodSeconds": 1, "containers": [{"name": "main",
                    "image": image, "ports": [{"containerPort": 8080}]}]}}}})
}

/// A Canary that takes a step every ten seconds, the shortest there is.
pub(crate) fn canary(namespace: &str, name: &str, analysis: &Value) -> Value {
    let mut all = json!({"interval": "10s", "threshold": 2, "maxWeight": 50, "stepWeight": 10,
        "metrics": [{"name": "request-success-rate", "thresholdRange": {"min": 99},
            "interval": "10s"}]});
    if let (Some(all), Some(given)) = (all.as_object_mut(), analysis.as_object()) {
        all.extend(given.clone());
    }
    json!({"apiVersion": "flagger.app/v1beta1", "kind": "Canary",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"targetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": name},
            "revertOnDeletion": true,
            "service": {"port": 80, "targetPort": 8080, "gatewayRefs": [{"name": "public"}]},
            "analysis": all}})
}

pub(crate) fn slo(namespace: &str, name: &str) -> Value {
    let rate = |bad: &str| {
        format!("sum(rate(http_requests_total{{job=\"{name}\"{bad}}}[{{{{.window}}}}]))")
    };
    json!({"apiVersion": "sloth.slok.dev/v1", "kind": "PrometheusServiceLevel",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"service": name, "slos": [{"name": "availability", "objective": 99.9,
            "sli": {"events": {"errorQuery": rate(",code=~\"5..\""), "totalQuery": rate("")}},
            "alerting": {"name": "Errors", "pageAlert": {"disable": true},
                "ticketAlert": {"disable": true}}}]}})
}

pub(crate) fn canary_key(namespace: &str, name: &str) -> Key {
    Key::of::<Canary>(namespace, name)
}

pub(crate) fn slo_key(namespace: &str, name: &str) -> Key {
    Key::of::<PrometheusServiceLevel>(namespace, name)
}

pub(crate) fn route_key(namespace: &str, name: &str) -> Key {
    Key::of::<HttpRoute>(namespace, name)
}

pub(crate) fn deployment_key(namespace: &str, name: &str) -> Key {
    Key::of::<Deployment>(namespace, name)
}

/// The canary's weight in a route.
pub(crate) fn weight(route: &Value) -> i64 {
    let backends = route.pointer("/spec/rules/0/backendRefs").and_then(Value::as_array);
    let of_canary = backends
        .into_iter()
        .flatten()
        .find(|backend| backend["name"].as_str().is_some_and(|name| name.ends_with("-canary")));
    of_canary.and_then(|backend| backend["weight"].as_i64()).unwrap_or_default()
}

impl Bed {
    /// A namespace with the application and its Canary.
    pub(crate) fn app(&self, namespace: &str, analysis: &Value) -> Key {
        self.namespace(namespace);
        self.create(deployment(namespace, APP, "web:1", 1));
        self.create(canary(namespace, APP, analysis))
    }

    /// A new version of the application.
    pub(crate) fn release(&self, namespace: &str, image: &str) {
        self.patch(
            &deployment_key(namespace, APP),
            json!({"spec": {"template": {"spec": {"containers": [{"name": "main",
                "image": image, "ports": [{"containerPort": 8080}]}]}}}}),
        );
    }

    pub(crate) fn phase(&self, namespace: &str) -> String {
        let phase = self.field(&canary_key(namespace, APP), "/status/phase");
        phase.as_str().unwrap_or_default().to_owned()
    }

    /// Waits for a phase of the Canary; how long it took.
    pub(crate) fn reaches(&self, namespace: &str, phase: &str) -> std::time::Duration {
        let mut last = String::new();
        crate::until(&format!("{namespace} reaches {phase}"), || {
            let now = self.phase(namespace);
            if now != last {
                last = now;
            }
            if last == "Failed" && phase != last {
                let canary = canary_key(namespace, APP);
                panic!("{namespace} failed: {}", self.field(&canary, "/status/conditions"));
            }
            last == phase
        })
    }

    /// The image that a Deployment runs.
    pub(crate) fn image(&self, namespace: &str, name: &str) -> Value {
        self.field(&deployment_key(namespace, name), "/spec/template/spec/containers/0/image")
    }
}
