//! What must never happen, whatever the faults. The checkers see the true store and each
//! process's writes; they know nothing of the controllers.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use evenkeel_api::{GroupKind, Key, Obj, httproute::HttpRoute};
use evenkeel_control::{ListQuery, Store, WatchEvent};
use futures::{FutureExt as _, StreamExt as _};
use k8s_openapi::api::{apps::v1::Deployment, coordination::v1::Lease, core::v1::Service};
use serde_json::Value;

use super::time::{VirtualTime, locked};

/// The Lease of the controllers of releases.
const RELEASES: &str = "evenkeel-delivery";

/// Something that must not have happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Breach {
    /// When, in milliseconds since the beginning.
    pub at_ms: i64,
    /// What.
    pub what: String,
}

/// Sees everything and remembers what must not have been.
pub struct Checks {
    time: Arc<VirtualTime>,
    store: Arc<dyn Store>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    breaches: Vec<Breach>,
    /// Images that no primary may ever run.
    bad_images: Vec<String>,
    replicas: BTreeMap<(String, String), i64>,
    weights: BTreeMap<String, Vec<i64>>,
}

impl Checks {
    pub(crate) fn new(time: Arc<VirtualTime>, store: Arc<dyn Store>) -> Self {
        Self { time, store, state: Mutex::default() }
    }

    /// No primary may ever run this image.
    pub fn forbid_image(&self, image: &str) {
        locked(&self.state).bad_images.push(image.to_owned());
    }

    /// Everything that must not have been, oldest first.
    pub fn breaches(&self) -> Vec<Breach> {
        locked(&self.state).breaches.clone()
    }

    /// The weights of a route's canary, in the order in which they were set.
    pub fn weights(&self, route: &str) -> Vec<i64> {
        locked(&self.state).weights.get(route).cloned().unwrap_or_default()
    }

    fn breach(&self, state: &mut State, what: String) {
        let at_ms = i64::try_from(self.time.elapsed().as_millis()).unwrap_or(i64::MAX);
        state.breaches.push(Breach { at_ms, what });
    }

    /// A process is about to write: what only releases change is written by their leader only.
    pub(crate) fn write(&self, writer: &str, key: &Key) {
        let released =
            key.kind.is::<HttpRoute>() || key.kind.is::<Deployment>() || key.kind.is::<Service>();
        if !released {
            return;
        }
        // The true store answers at once; a watch would tell of a new leader too late.
        let lease = Key::of::<Lease>("default", RELEASES);
        let lease = self.store.get(&lease).now_or_never();
        let lease = lease.and_then(Result::ok).flatten();
        let holder =
            lease.as_ref().and_then(|l| l.json().pointer("/spec/holderIdentity")?.as_str());
        let holder = holder.unwrap_or_default();
        let mut state = locked(&self.state);
        if holder != writer {
            let what = format!("{writer} writes {key} while {holder:?} leads");
            self.breach(&mut state, what);
        }
    }

    /// Follows the true store until dropped.
    pub(crate) async fn follow(self: Arc<Self>) {
        let kinds = [GroupKind::of::<Deployment>(), GroupKind::of::<HttpRoute>()];
        let watches = kinds.map(|kind| self.store.watch(ListQuery::all(kind)));
        let mut events = futures::stream::select_all(watches);
        while let Some(event) = events.next().await {
            if let Ok(WatchEvent::Applied(obj)) = event {
                self.see(&obj);
            }
        }
    }

    fn see(&self, obj: &Obj) {
        let mut state = locked(&self.state);
        let body = obj.json();
        let place = |name: &str| (obj.namespace().to_owned(), name.to_owned());
        if obj.key().kind.is::<Deployment>() {
            let replicas = body.pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or(1);
            state.replicas.insert(place(obj.name()), replicas);
            let image = body.pointer("/spec/template/spec/containers/0/image");
            let image = image.and_then(Value::as_str).unwrap_or_default();
            if obj.name().ends_with("-primary") && state.bad_images.iter().any(|bad| bad == image) {
                let what = format!("{} runs {image}, which failed its checks", obj.key());
                self.breach(&mut state, what);
            }
            return;
        }
        let Some(weight) = canary_weight(body) else { return };
        let weights = state.weights.entry(obj.name().to_owned()).or_default();
        let last = weights.last().copied();
        if last == Some(weight) {
            return;
        }
        weights.push(weight);
        let step = weight - last.unwrap_or_default();
        // A promotion sends everything to the primary; nothing ever jumps towards the canary.
        if step > STEP_PCT {
            let what = format!("{} jumps from {last:?} to {weight}", obj.key());
            self.breach(&mut state, what);
        }
        let replicas = state.replicas.get(&place(obj.name())).copied().unwrap_or_default();
        if weight > 0 && replicas == 0 {
            let what = format!("{} sends {weight} % to nobody", obj.key());
            self.breach(&mut state, what);
        }
    }
}

/// The step of every Canary of these worlds.
pub(crate) const STEP_PCT: i64 = 10;

fn canary_weight(route: &Value) -> Option<i64> {
    let backends = route.pointer("/spec/rules/0/backendRefs")?.as_array()?;
    let canary =
        backends.iter().find(|b| b["name"].as_str().is_some_and(|n| n.ends_with("-canary")))?;
    Some(canary.get("weight").and_then(Value::as_i64).unwrap_or(1))
}
