//! What must never happen, whatever the faults. The checkers see the true store and each
//! process's writes; they know nothing of the controllers.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use evenkeel_api::{GroupKind, Key, Obj, canary::Canary, httproute::HttpRoute};
use evenkeel_control::{ListQuery, PANIC_PAUSE_MAX, Store, WatchEvent};
use futures::{FutureExt as _, StreamExt as _};
use k8s_openapi::api::{
    apps::v1::Deployment, coordination::v1::Lease, core::v1::Service, discovery::v1::EndpointSlice,
};
use serde_json::Value;

use super::{
    menu::Menu,
    plant::Troubles,
    time::{VirtualTime, locked, millis},
    traffic::Traffic,
    watched::{Truth, Watched, service_of},
};

/// The Lease of the controllers of releases.
const RELEASES: &str = "evenkeel-delivery";
/// Between two looks when nothing changes.
const LOOK: Duration = Duration::from_secs(15);

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
    traffic: Arc<Traffic>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    breaches: Vec<Breach>,
    /// Images that no primary may ever run.
    bad_images: Vec<String>,
    services: BTreeMap<String, Watched>,
    /// Processes that act without a Lease.
    unled: BTreeSet<String>,
    /// Deployments whose pods are kept from becoming ready.
    broken: BTreeSet<String>,
    /// Since when all is well; `None` while something is not.
    calm_since: Option<Duration>,
    stores_are_calm: bool,
    /// Whether processes may read old states now, and when they last did.
    reads_are_stale: bool,
    stale_at: Option<Duration>,
    /// Until when processes may leave an object alone on which they panicked; as long as they do,
    /// forever.
    resting_until: Duration,
    plant_is_calm: bool,
}

impl Checks {
    pub(super) fn new(
        time: Arc<VirtualTime>,
        store: Arc<dyn Store>,
        traffic: Arc<Traffic>,
    ) -> Self {
        let state = State {
            stores_are_calm: true,
            plant_is_calm: true,
            calm_since: Some(time.elapsed()),
            ..State::default()
        };
        Self { time, store, traffic, state: Mutex::new(state) }
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
    pub fn weights(&self, service: &str) -> Vec<i64> {
        let state = locked(&self.state);
        state.services.get(service).map(|watched| watched.weights.clone()).unwrap_or_default()
    }

    /// This is wrong with the stores.
    pub(super) fn stores(&self, menu: &Menu) {
        let mut state = locked(&self.state);
        if state.reads_are_stale {
            state.stale_at = Some(self.time.elapsed());
        }
        // A version whose target or primary may not be read is taken out of traffic, and goes on when
        // they can be.
        let hidden = menu.unreadable.contains(&GroupKind::of::<Deployment>());
        state.reads_are_stale = menu.stale_pct > 0 || hidden;
        if !menu.panics_on.is_empty() {
            state.resting_until = Duration::MAX;
        } else if state.resting_until == Duration::MAX {
            state.resting_until = self.time.elapsed() + PANIC_PAUSE_MAX;
        }
        state.stores_are_calm = *menu == Menu::default();
        state.calm_since = state.is_calm().then(|| self.time.elapsed());
    }

    /// This is wrong with the cluster.
    pub(super) fn plant(&self, troubles: &Troubles) {
        let mut state = locked(&self.state);
        state.plant_is_calm = *troubles == Troubles::default();
        state.broken.clone_from(&troubles.broken);
        state.calm_since = state.is_calm().then(|| self.time.elapsed());
    }

    /// A process is gone.
    pub(super) fn gone(&self, writer: &str) {
        let mut state = locked(&self.state);
        state.unled.remove(writer);
        state.calm_since = state.is_calm().then(|| self.time.elapsed());
    }

    fn breach(&self, state: &mut State, what: String) {
        state.breaches.push(Breach { at_ms: millis(self.time.elapsed()), what });
    }

    /// A process is about to write: what only releases change is written by their leader only,
    /// and without an election by one process only.
    pub(super) fn write(&self, writer: &str, has_leases: bool, key: &Key) {
        let released =
            key.kind.is::<HttpRoute>() || key.kind.is::<Deployment>() || key.kind.is::<Service>();
        if !released {
            return;
        }
        let mut state = locked(&self.state);
        if !has_leases {
            state.unled.insert(writer.to_owned());
            if state.unled.len() > 1 {
                let what = format!("{writer} writes {key}, and so do others");
                self.breach(&mut state, what);
            }
            return;
        }
        // The true store answers at once; a watch would report a new leader too late.
        let lease = Key::of::<Lease>("default", RELEASES);
        let lease = self.store.get(&lease).now_or_never();
        let lease = lease.and_then(Result::ok).flatten();
        let holder =
            lease.as_ref().and_then(|l| l.json().pointer("/spec/holderIdentity")?.as_str());
        let holder = holder.unwrap_or_default();
        if holder != writer {
            let what = format!("{writer} writes {key} while {holder:?} leads");
            self.breach(&mut state, what);
        }
    }

    /// Follows the true store until dropped.
    pub(super) async fn follow(self: Arc<Self>) {
        let kinds = [
            GroupKind::of::<Canary>(),
            GroupKind::of::<Deployment>(),
            GroupKind::of::<HttpRoute>(),
            GroupKind::of::<EndpointSlice>(),
        ];
        let watches = kinds.map(|kind| self.store.watch(ListQuery::all(kind)));
        let mut events = futures::stream::select_all(watches);
        loop {
            let mut changes = Vec::new();
            // Elapsed is as good as an event: what has not happened is looked at then.
            if let Ok(event) = tokio::time::timeout(LOOK, events.next()).await {
                let Some(event) = event else { return };
                changes.extend(change(event));
                while let Some(Some(event)) = events.next().now_or_never() {
                    changes.extend(change(event));
                }
            }
            // Watches of several kinds bring what happened in no order.
            changes.sort_by_key(|(obj, _)| obj.revision().0.parse::<u64>().unwrap_or_default());
            for (obj, gone) in changes {
                self.see(&obj, gone);
            }
            self.look();
        }
    }

    fn see(&self, obj: &Obj, gone: bool) {
        let mut state = locked(&self.state);
        let service = service_of(obj).to_owned();
        if obj.key().kind.is::<Deployment>() && obj.name().ends_with("-primary") {
            let image = obj.json().pointer("/spec/template/spec/containers/0/image");
            let image = image.and_then(Value::as_str).unwrap_or_default();
            if state.bad_images.iter().any(|bad| bad == image) {
                let what = format!("{} runs {image}, which failed its checks", obj.key());
                self.breach(&mut state, what);
            }
        }
        let truth = self.truth(&state, &service);
        let watched = state.services.entry(service.clone()).or_default();
        for what in watched.see(obj, gone, &truth) {
            self.breach(&mut state, format!("{service}: {what}"));
        }
    }

    fn look(&self) {
        let mut state = locked(&self.state);
        let services: Vec<String> = state.services.keys().cloned().collect();
        for service in services {
            let truth = self.truth(&state, &service);
            let mut wrong = Vec::new();
            if let Some(watched) = state.services.get_mut(&service) {
                watched.look(&truth, &mut wrong);
            }
            for what in wrong {
                self.breach(&mut state, format!("{service}: {what}"));
            }
        }
    }

    fn truth(&self, state: &State, service: &str) -> Truth {
        Truth {
            at: self.time.elapsed(),
            bad_since: self.traffic.bad_since(service),
            calm_since: state.calm_since.map(|since| since.max(state.resting_until)),
            stale_at: if state.reads_are_stale {
                Some(self.time.elapsed())
            } else {
                state.stale_at
            },
            broken: state.broken.iter().any(|name| name.trim_end_matches("-primary") == service),
        }
    }
}

impl State {
    fn is_calm(&self) -> bool {
        self.stores_are_calm && self.plant_is_calm
    }
}

fn change(event: Result<WatchEvent, evenkeel_control::StoreError>) -> Option<(Arc<Obj>, bool)> {
    match event {
        Ok(WatchEvent::Applied(obj)) => Some((obj, false)),
        Ok(WatchEvent::Deleted(obj)) => Some((obj, true)),
        Ok(WatchEvent::Synced) | Err(_) => None,
    }
}
