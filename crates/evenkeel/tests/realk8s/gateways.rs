use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use evenkeel_api::{Obj, httproute::HttpRoute};
use evenkeel_control::{
    ListQuery, Patch, Read as _, StoreError, Subresource, WatchEvent, Write as _, WriteOptions,
};
use futures::StreamExt as _;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::{PAUSE, bed::Bed, objects::weight};

/// Weights of the canary that a route had, one after the other.
type Seen = Arc<Mutex<BTreeMap<String, Vec<i64>>>>;

/// Longest time that a watch needs for an event.
const ARRIVAL: Duration = Duration::from_secs(20);

/// Name of a Gateway that no route may use.
pub(crate) const CLOSED: &str = "closed";
/// Name of a Gateway that nobody serves.
pub(crate) const SILENT: &str = "silent";

/// A Gateway API implementation as others write them: it accepts each generation of a route, for
/// the parents that are Gateways, and serves no mesh.
pub(crate) struct Gateways {
    seen: Seen,
    task: JoinHandle<()>,
}

impl Gateways {
    pub(crate) fn start(bed: &Bed) -> Self {
        let (store, seen) = (bed.store.clone(), Seen::default());
        let noting = seen.clone();
        let task = bed.runtime.spawn(async move {
            let mut routes = store.watch(ListQuery::of::<HttpRoute>());
            while let Some(event) = routes.next().await {
                let Ok(WatchEvent::Applied(route)) = event else { continue };
                note(&noting, &route);
                let status = json!({"status": {"parents": parents(&route)}});
                if is_accepted(&route) {
                    continue;
                }
                let options = WriteOptions {
                    subresource: Some(Subresource::Status),
                    ..WriteOptions::default()
                };
                let patch = Patch::Merge(status);
                // A route that has changed or gone meanwhile comes again.
                while let Err(StoreError::Unreachable { .. } | StoreError::Busy { .. }) =
                    store.patch(route.key(), &patch, &options).await
                {
                    tokio::time::sleep(PAUSE).await;
                }
            }
        });
        Self { seen, task }
    }

    /// All weights that the routes of a namespace had, repetitions left out.
    pub(crate) fn weights(&self, namespace: &str) -> Vec<i64> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.get(namespace).cloned().unwrap_or_default()
    }

    /// Checks that the routes of a namespace had these weights, one after the other. The last one may
    /// be on its way here: who splits the traffic hears of it when it likes.
    pub(crate) fn saw(&self, namespace: &str, weights: &[i64]) {
        let began = Instant::now();
        while self.weights(namespace) != weights && began.elapsed() < ARRIVAL {
            std::thread::sleep(PAUSE);
        }
        assert_eq!(self.weights(namespace), weights, "weights in {namespace}");
    }

    /// Forgets what was seen in a namespace, but for the present weight.
    pub(crate) fn forget_before(&self, namespace: &str) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(weights) = seen.get_mut(namespace) {
            weights.drain(..weights.len().saturating_sub(1));
        }
    }
}

impl Drop for Gateways {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn note(seen: &Seen, route: &Obj) {
    let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
    let weights = seen.entry(route.namespace().to_owned()).or_default();
    let now = weight(route.json());
    if weights.last() != Some(&now) {
        weights.push(now);
    }
}

fn is_accepted(route: &Obj) -> bool {
    let status = route.json().pointer("/status/parents").and_then(Value::as_array);
    let mut parents = status.into_iter().flatten();
    parents.any(|parent| parent["conditions"][0]["observedGeneration"] == route.generation())
}

fn parents(route: &Obj) -> Vec<Value> {
    let refs = route.json().pointer("/spec/parentRefs").and_then(Value::as_array);
    let gateways = refs.into_iter().flatten();
    let gateways =
        gateways.filter(|parent| parent["kind"] != "Service" && parent["name"] != SILENT);
    let now = jiff::Timestamp::from_second(jiff::Timestamp::now().as_second()).unwrap();
    let condition = |kind: &str, reason: &str| {
        json!({"type": kind, "status": "True", "reason": reason, "message": "",
            "observedGeneration": route.generation(), "lastTransitionTime": now.to_string()})
    };
    let answer = |parent: &Value| {
        let mut accepted = condition("Accepted", "Accepted");
        if parent["name"] == CLOSED {
            accepted["status"] = "False".into();
            accepted["reason"] = "NotAllowedByListeners".into();
            accepted["message"] = "not from this namespace".into();
        }
        json!({"parentRef": parent, "controllerName": "example.com/gateway",
            "conditions": [accepted, condition("ResolvedRefs", "ResolvedRefs")]})
    };
    gateways.map(answer).collect()
}
