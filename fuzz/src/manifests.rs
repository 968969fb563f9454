//! Manifests through the embedded API server, and all controllers' decisions about them.
//!
//! Input: YAML documents that are created; then, behind NUL bytes, YAML values that every object is
//! patched with, and texts that are read as selectors and quantities.

use crate::parts;
use evenkeel_api::clusterconfig::ClusterConfig;
use evenkeel_api::httproute::{Gateway, HttpRoute, ReferenceGrant};
use evenkeel_api::{FieldSelector, Key, LabelSelector, Obj, Quantity, crds};
use evenkeel_base::{FixedClock, Rng};
use evenkeel_cluster::ApiServer;
use evenkeel_control::{
    BoxFuture, DeleteOptions, Host, ListQuery, Patch, RunLoop, Store, Subresource, Timer,
    WriteOptions,
};
use evenkeel_gateway::{Name, PodFacts, View};
use futures::FutureExt as _;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Waker};
use std::time::Duration;

/// Objects, patches and texts taken from one input.
const COUNT_MAX: usize = 12;

/// Our own kinds.
static DEFINITIONS: LazyLock<Vec<Obj>> = LazyLock::new(|| {
    let parsed = crds().into_iter().map(Obj::from_json);
    parsed.map(|crd| crd.expect("our own definitions are well formed")).collect()
});

/// Time stands still: a wait never ends.
struct Never;

impl Timer for Never {
    fn sleep(&self, _wait: Duration) -> BoxFuture<'static, ()> {
        futures::future::pending().boxed()
    }
}

/// Feeds one input.
pub fn run(data: &[u8]) {
    let parts = parts(data);
    let documents: Vec<Value> =
        parts.first().and_then(|text| serde_saphyr::from_multiple(text).ok()).unwrap_or_default();
    let clock = Arc::new(FixedClock(Timestamp::from_second(1_700_000_000).unwrap_or_default()));
    let server = ApiServer::new(clock.clone(), Rng::new(7));
    let store = server.store();
    for crd in &*DEFINITIONS {
        now(store.create(crd, &WriteOptions::default())).expect("our own definitions are accepted");
    }
    let mut keys = Vec::new();
    for document in documents.into_iter().take(COUNT_MAX) {
        keys.extend(created(&*store, document));
    }
    for text in parts.iter().skip(1).take(COUNT_MAX) {
        texts(text);
        if let Ok(value) = serde_saphyr::from_str::<Value>(text) {
            keys.iter().for_each(|key| patched(&*store, key, &value));
        }
    }
    controlled(Host::new(&store, clock, Arc::new(Never)));
    routed(&*store, &keys);
    for key in &keys {
        let _refused = now(store.delete(key, &DeleteOptions::default())).is_err();
    }
}

/// The outcome of a call that never waits.
fn now<T>(call: BoxFuture<'_, T>) -> T {
    call.now_or_never().expect("the server in memory answers at once")
}

fn created(store: &dyn Store, document: Value) -> Option<Key> {
    if ClusterConfig::is_one(&document)
        && let Ok(config) = ClusterConfig::from_json(&document)
    {
        assert!(config.nodes.len() <= 10_000, "a cluster of processes has few nodes");
        for node in config.nodes.iter().take(COUNT_MAX) {
            let node = Obj::of(&node.to_node()).expect("a node is well formed");
            let _refused = now(store.create(&node, &WriteOptions::default())).is_err();
        }
    }
    let obj = Obj::from_json(document).ok()?;
    let made = now(store.create(&obj, &WriteOptions::default())).ok()?;
    Some(made.key().clone())
}

fn patched(store: &dyn Store, key: &Key, value: &Value) {
    for patch in [
        Patch::Merge(value.clone()),
        Patch::Strategic(value.clone()),
        Patch::Json(value.clone()),
        Patch::Replace(value.clone()),
    ] {
        for subresource in [None, Some(Subresource::Status), Some(Subresource::Scale)] {
            let options = WriteOptions { subresource, ..WriteOptions::default() };
            let _refused = now(store.patch(key, &patch, &options)).is_err();
        }
    }
}

fn texts(text: &str) {
    let labels = BTreeMap::from([("a".to_owned(), "b".to_owned())]);
    if let Ok(selector) = LabelSelector::parse(text) {
        assert!(selector.matches(&labels) || !selector.is_empty(), "the empty one matches all");
    }
    let _refused = FieldSelector::parse(text).is_err();
    if let Ok(quantity) = Quantity::parse(text) {
        let whole = quantity.ceil();
        assert!(Quantity::whole(whole).ceil() == whole, "a whole quantity is itself: {text:?}");
    }
}

/// All controllers, as far as they get without time passing.
fn controlled(host: Host) {
    let run = RunLoop::new(host);
    let run = evenkeel_builtin::install(run);
    let run = evenkeel_delivery::install(run, evenkeel_delivery::Settings::default());
    let mut run = std::pin::pin!(run.run());
    let mut ctx = Context::from_waker(Waker::noop());
    for _ in 0..4 {
        if run.as_mut().poll(&mut ctx).is_ready() {
            return;
        }
    }
}

/// The gateway's configuration from whatever became of the objects.
fn routed(store: &dyn Store, keys: &[Key]) {
    let mut view = View::empty(true, Ipv4Addr::LOCALHOST.into());
    let kinds: std::collections::BTreeSet<_> = keys.iter().map(|key| key.kind.clone()).collect();
    for kind in kinds {
        let Ok(listed) = now(store.list(&ListQuery::all(kind))) else { continue };
        for obj in listed.items {
            let name: Name = (obj.namespace().to_owned(), obj.name().to_owned());
            if let Ok(service) = obj.get::<Service>() {
                view.services.insert(name, service);
            } else if let Ok(slice) = obj.get::<EndpointSlice>() {
                view.slices.insert(name, slice);
            } else if let Ok(route) = obj.get::<HttpRoute>() {
                view.routes.insert(name, route);
            } else if let Ok(gateway) = obj.get::<Gateway>() {
                view.gateways.insert(name, gateway);
            } else if let Ok(grant) = obj.get::<ReferenceGrant>() {
                view.grants.insert(name, grant);
            } else if obj.get::<Namespace>().is_ok() {
                view.namespaces.insert(name.1, Arc::new(obj.labels().clone()));
            } else if let Ok(pod) = obj.get::<Pod>() {
                view.pods.insert(name, PodFacts::of(&obj, &pod));
            }
        }
    }
    drop(evenkeel_gateway::decide(&view));
}
