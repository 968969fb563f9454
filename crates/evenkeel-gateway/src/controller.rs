//! The loop: follow the objects, apply what they say, report what every worker runs.
//!
//! Unlike other controllers it looks at all objects at once: a configuration is one thing.
#![warn(clippy::disallowed_methods, reason = "must run under virtual time")]

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use evenkeel_api::gate::DRAINED;
use evenkeel_api::httproute::{Gateway, HttpRoute, ReferenceGrant};
use evenkeel_api::{GroupKind, Key, Obj};
use evenkeel_control::{
    HostPorts, ListQuery, Patch, Retry, StoreError, Subresource, WatchEvent, WriteOptions,
};
use futures::future::{Either, select};
use futures::{StreamExt as _, stream};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::json;

use crate::decide::{Desired, GatewayVerdict, Leaving, RouteVerdict, decide};
use crate::engine::Snapshot;
use crate::plane::{DataPlane, Progress};
use crate::reasons::CONTROLLER;
use crate::status;
use crate::view::{Name, PodFacts, View};

/// Changes taken together at most; a rebuild in between keeps a flood from starving traffic.
const CHANGES_AT_ONCE: usize = 1_024;
/// When to try again after a failure.
const RETRY_AFTER: Duration = Duration::from_secs(2);

/// What the controller works with.
#[derive(Clone)]
pub struct Setup {
    /// The Kubernetes API, time and waiting.
    pub ports: HostPorts,
    /// What carries the traffic.
    pub plane: Arc<dyn DataPlane>,
    /// Where Gateways listen that name no address.
    pub gateway_address: IpAddr,
}

/// A kind whose objects are followed.
struct Followed {
    kind: GroupKind,
    /// The cluster may not define the kind; then there are none, and the rest must be served.
    optional: bool,
    /// Whether all that existed at the start has been seen.
    synced: bool,
}

impl Followed {
    fn all() -> Vec<Self> {
        let one = |kind, optional| Self { kind, optional, synced: false };
        vec![
            one(GroupKind::of::<Service>(), false),
            one(GroupKind::of::<EndpointSlice>(), false),
            one(GroupKind::of::<Pod>(), false),
            one(GroupKind::of::<Namespace>(), false),
            one(GroupKind::of::<HttpRoute>(), true),
            one(GroupKind::of::<Gateway>(), true),
            one(GroupKind::of::<ReferenceGrant>(), true),
        ]
    }
}

/// Keeps the data plane in line with the objects.
pub struct Controller {
    setup: Setup,
    view: View,
    followed: Vec<Followed>,
    desired: Desired,
    /// Revisions and bodies of what we write to.
    written: BTreeMap<Key, Arc<Obj>>,
    generation: u64,
    errors: BTreeMap<SocketAddr, String>,
    applied_once: bool,
    /// Something failed that may work later.
    unfinished: bool,
}

impl Controller {
    /// A controller that has seen nothing yet.
    pub fn new(setup: Setup) -> Self {
        let view = View::empty(setup.plane.switches().drain, setup.gateway_address);
        Self {
            setup,
            view,
            followed: Followed::all(),
            desired: Desired::default(),
            written: BTreeMap::new(),
            generation: 0,
            errors: BTreeMap::new(),
            applied_once: false,
            unfinished: false,
        }
    }

    /// Serves only Gateways of this class, and no Services: beside other implementations, on a
    /// cluster whose Services have addresses already.
    #[must_use]
    pub fn of_class(mut self, class: &str) -> Self {
        self.view.class = Some(class.to_owned());
        self.view.serves_services = false;
        self
    }

    /// Leaves these addresses of Services to others that listen there.
    #[must_use]
    pub fn without(mut self, addresses: &[IpAddr]) -> Self {
        self.view.served_by_others.extend(addresses);
        self
    }

    /// Follows the objects forever; ends only when every watch has ended.
    pub async fn run(mut self) {
        let watch = |(index, followed): (usize, &Followed)| {
            let query = ListQuery::all(followed.kind.clone());
            self.setup.ports.read.watch(query).map(move |change| (index, change))
        };
        let watches: Vec<_> = self.followed.iter().enumerate().map(watch).collect();
        let mut changes = stream::select_all(watches).ready_chunks(CHANGES_AT_ONCE);
        loop {
            let seen = self.setup.plane.progress();
            self.report(seen).await;
            let progressed = self.setup.plane.progressed(seen);
            let later = if self.unfinished || !self.errors.is_empty() {
                self.setup.ports.timer.sleep(RETRY_AFTER)
            } else {
                Box::pin(std::future::pending())
            };
            match select(changes.next(), select(progressed, later)).await {
                Either::Left((Some(batch), _)) => {
                    let mut dirty = false;
                    for (followed, change) in batch {
                        dirty |= self.note(followed, change);
                    }
                    if dirty {
                        self.rebuild();
                    }
                }
                Either::Left((None, _)) => return,
                Either::Right((Either::Left(((), _)), _)) => {}
                Either::Right((Either::Right(((), _)), _)) => self.rebuild(),
            }
        }
    }

    /// Takes note of one change of a followed kind; true when it matters.
    fn note(&mut self, followed: usize, change: Result<WatchEvent, StoreError>) -> bool {
        match change {
            Ok(WatchEvent::Applied(obj)) => self.applied(&obj),
            Ok(WatchEvent::Deleted(obj)) => self.deleted(&obj),
            Ok(WatchEvent::Synced) => self.note_synced(followed),
            Err(error) => {
                tracing::warn!(controller = CONTROLLER, %error, "watch");
                let optional = self.followed.get(followed).is_some_and(|one| one.optional);
                optional && error.retry() == Retry::Slowly && self.note_synced(followed)
            }
        }
    }

    /// True when it was not known before.
    fn note_synced(&mut self, followed: usize) -> bool {
        let Some(followed) = self.followed.get_mut(followed) else { return false };
        !std::mem::replace(&mut followed.synced, true)
    }

    fn applied(&mut self, obj: &Arc<Obj>) -> bool {
        let name = (obj.namespace().to_owned(), obj.name().to_owned());
        let kind = &obj.key().kind;
        let fits = if kind.is::<Service>() {
            obj.get().map(|service| self.view.services.insert(name, service)).map(|_| true)
        } else if kind.is::<EndpointSlice>() {
            obj.get().map(|slice| self.view.slices.insert(name, slice)).map(|_| true)
        } else if kind.is::<HttpRoute>() {
            self.written.insert(obj.key().clone(), Arc::clone(obj));
            // Our own status writes come back too; only the spec counts.
            obj.get::<HttpRoute>().map(|route| {
                let before = self.view.routes.insert(name, Arc::clone(&route));
                before.is_none_or(|old| {
                    old.spec != route.spec || old.metadata.generation != route.metadata.generation
                })
            })
        } else if kind.is::<Gateway>() {
            self.written.insert(obj.key().clone(), Arc::clone(obj));
            obj.get::<Gateway>().map(|gateway| {
                let before = self.view.gateways.insert(name, Arc::clone(&gateway));
                before.is_none_or(|old| {
                    old.spec != gateway.spec
                        || old.metadata.generation != gateway.metadata.generation
                })
            })
        } else if kind.is::<ReferenceGrant>() {
            obj.get::<ReferenceGrant>().map(|grant| {
                let before = self.view.grants.insert(name, Arc::clone(&grant));
                before.is_none_or(|old| old.spec != grant.spec)
            })
        } else if kind.is::<Namespace>() {
            let labels = Arc::new(obj.labels().clone());
            let before = self.view.namespaces.insert(name.1, Arc::clone(&labels));
            Ok(before.is_none_or(|old| old != labels))
        } else {
            obj.get::<Pod>().map(|pod| {
                let facts = PodFacts::of(obj, &pod);
                self.view.pods.insert(name, facts.clone()).is_none_or(|old| old != facts)
            })
        };
        fits.unwrap_or_else(|error| {
            tracing::warn!(controller = CONTROLLER, object = %obj.key(), %error, "left out");
            false
        })
    }

    fn deleted(&mut self, obj: &Obj) -> bool {
        let name = (obj.namespace().to_owned(), obj.name().to_owned());
        self.written.remove(obj.key());
        let kind = &obj.key().kind;
        if kind.is::<Service>() {
            self.view.services.remove(&name).is_some()
        } else if kind.is::<EndpointSlice>() {
            self.view.slices.remove(&name).is_some()
        } else if kind.is::<HttpRoute>() {
            self.view.routes.remove(&name).is_some()
        } else if kind.is::<Gateway>() {
            self.view.gateways.remove(&name).is_some()
        } else if kind.is::<ReferenceGrant>() {
            self.view.grants.remove(&name).is_some()
        } else if kind.is::<Namespace>() {
            self.view.namespaces.remove(&name.1).is_some()
        } else {
            self.view.pods.remove(&name).is_some()
        }
    }

    /// Decides, and applies the configuration if it is another one. Not before everything was seen
    /// once: half a view would take endpoints out of use.
    fn rebuild(&mut self) {
        if !self.followed.iter().all(|followed| followed.synced) {
            return;
        }
        let mut desired = decide(&self.view);
        self.warn_of_unserved(&desired);
        let generation = self.desired.snapshot.generation;
        desired.snapshot.generation = generation;
        let same = self.applied_once && desired.snapshot == self.desired.snapshot;
        if !same || !self.errors.is_empty() {
            self.generation += 1;
            desired.snapshot.generation = self.generation;
            let snapshot: Arc<Snapshot> = Arc::new(desired.snapshot.clone());
            self.errors = self.setup.plane.apply(&snapshot);
            self.applied_once = true;
            tracing::debug!(
                controller = CONTROLLER,
                generation = self.generation,
                listeners = snapshot.listeners.len(),
                "configuration applied"
            );
        }
        self.desired = desired;
    }

    /// Says once of each port that it is not served.
    fn warn_of_unserved(&self, desired: &Desired) {
        for ((service, port), protocol) in &desired.unserved {
            let key = (service.clone(), *port);
            if self.desired.unserved.get(&key) != Some(protocol) {
                let object = Key::of::<Service>(&service.0, &service.1);
                tracing::warn!(
                    controller = CONTROLLER, %object, port, protocol,
                    "this port of the Service is not served at its address, only TCP is; its pods are \
                     reached at their own addresses"
                );
            }
        }
    }

    /// Writes what is true now that the workers are where they are.
    async fn report(&mut self, progress: Progress) {
        let switches = self.setup.plane.switches();
        let confirmed = progress.acknowledged >= self.generation || !switches.confirmation;
        if !self.applied_once || !confirmed {
            return;
        }
        let now = self.setup.ports.clock.now();
        self.unfinished = false;
        for (name, verdict) in self.desired.routes.clone() {
            self.report_route(&name, &verdict, now).await;
        }
        for (name, verdict) in self.desired.gateways.clone() {
            self.report_gateway(&name, &verdict, now).await;
        }
        for (name, pod) in self.desired.leaving.clone() {
            let busy = |address| self.setup.plane.in_flight_at(address) > 0;
            if !pod.address.is_some_and(busy) || !switches.drain {
                self.report_drained(name, &pod).await;
            }
        }
    }

    async fn report_route(&mut self, name: &Name, verdict: &RouteVerdict, now: Timestamp) {
        let key = Key::of::<HttpRoute>(&name.0, &name.1);
        let Some(route) = self.view.routes.get(name) else { return };
        let before = route.status.clone().unwrap_or_default();
        let parents = status::parents(&before, verdict, now);
        if parents == before.parents {
            return;
        }
        if let Some(stored) = self.write_status(&key, json!({"parents": parents})).await {
            self.applied(&stored);
        }
    }

    async fn report_gateway(&mut self, name: &Name, verdict: &GatewayVerdict, now: Timestamp) {
        let key = Key::of::<Gateway>(&name.0, &name.1);
        let Some(gateway) = self.view.gateways.get(name) else { return };
        let before = gateway.status.clone().unwrap_or_default();
        let status = status::gateway(&before, verdict, &self.errors, now);
        if status == before {
            return;
        }
        if let Some(stored) = self.write_status(&key, status).await {
            self.applied(&stored);
        }
    }

    async fn report_drained(&mut self, name: Name, pod: &Leaving) {
        let key = Key::of::<Pod>(&name.0, &name.1);
        let uid = &*pod.uid;
        // With the uid the write to a successor of the same name is refused.
        let metadata = json!({"uid": uid, "annotations": {DRAINED: uid}});
        let patch = Patch::Merge(json!({"metadata": metadata}));
        let options = WriteOptions { manager: CONTROLLER, ..WriteOptions::default() };
        match self.setup.ports.writes.patch(&key, &patch, &options).await {
            Ok(_) => tracing::info!(controller = CONTROLLER, object = %key, "drained"),
            // It is gone already, so there is nothing to report.
            Err(StoreError::NotFound { .. } | StoreError::Conflict { .. }) => {}
            Err(error) => {
                tracing::warn!(controller = CONTROLLER, object = %key, %error, "not reported");
                self.unfinished = true;
                return;
            }
        }
        self.desired.leaving.remove(&name);
        if let Some(pod) = self.view.pods.get_mut(&name) {
            pod.leaving = false;
        }
    }

    /// Writes the status as a whole; a stale write is refused and made again after the next look.
    async fn write_status(&mut self, key: &Key, status: serde_json::Value) -> Option<Arc<Obj>> {
        let options = WriteOptions {
            subresource: Some(Subresource::Status),
            expect: self.written.get(key).map(|obj| obj.revision()),
            manager: CONTROLLER,
        };
        let patch = Patch::Merge(json!({ "status": status }));
        match self.setup.ports.writes.patch(key, &patch, &options).await {
            Ok(stored) => Some(stored),
            Err(error) if error.retry() == Retry::Replan => {
                tracing::debug!(controller = CONTROLLER, object = %key, %error, "stale status");
                None
            }
            Err(error) => {
                tracing::warn!(controller = CONTROLLER, object = %key, %error, "status not written");
                self.unfinished |= error.retry() == Retry::Later;
                None
            }
        }
    }
}
