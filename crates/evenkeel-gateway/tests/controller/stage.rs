//! A store that sends what the test says and records what is written; a data plane without data.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Waker};
use std::time::Duration;

use evenkeel_api::{GroupKind, Key, Obj};
use evenkeel_base::FixedClock;
use evenkeel_control::{
    BoxFuture, DeleteOptions, HostPorts, ListQuery, Listed, Patch, Read, Store, StoreError,
    Subresource, Timer, Watch, WatchEvent, Write, WriteOptions,
};
use evenkeel_gateway::engine::{Listener, Protocol, Rule, Snapshot, Switches};
use evenkeel_gateway::{Controller, DataPlane, Progress, controller::Setup};
use futures::StreamExt as _;
use futures::channel::mpsc;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::watch;

type Sender = mpsc::UnboundedSender<Result<WatchEvent, StoreError>>;

#[derive(Default)]
struct FakeStore {
    watches: Mutex<BTreeMap<GroupKind, Sender>>,
    objects: Mutex<BTreeMap<Key, Arc<Obj>>>,
    writes: Mutex<Vec<String>>,
}

impl FakeStore {
    fn put(&self, body: Value) -> Arc<Obj> {
        let obj = Arc::new(Obj::from_json(body).unwrap());
        self.objects.lock().unwrap().insert(obj.key().clone(), Arc::clone(&obj));
        let watches = self.watches.lock().unwrap();
        if let Some(watch) = watches.get(&obj.key().kind) {
            watch.unbounded_send(Ok(WatchEvent::Applied(Arc::clone(&obj)))).unwrap();
        }
        obj
    }
}

/// RFC 7386.
fn merge(into: &mut Value, patch: &Value) {
    let Some(patch) = patch.as_object() else {
        *into = patch.clone();
        return;
    };
    if !into.is_object() {
        *into = json!({});
    }
    for (name, value) in patch {
        merge(&mut into[name], value);
    }
}

fn conditions(list: &Value) -> String {
    let one = |condition: &Value| {
        let text = |field: &str| condition[field].as_str().unwrap_or_default().to_owned();
        let message = if text("message").is_empty() {
            String::new()
        } else {
            format!(" ({})", text("message"))
        };
        let generation = &condition["observedGeneration"];
        format!("{}={} {}@{generation}{message}", text("type"), text("status"), text("reason"))
    };
    list.as_array().into_iter().flatten().map(one).collect::<Vec<_>>().join(", ")
}

/// Name, kinds and number of routes of a listener, and what is wrong with it.
fn listener(status: &Value) -> String {
    let kinds = status["supportedKinds"].as_array().into_iter().flatten();
    let kinds: Vec<&str> = kinds.map(|kind| kind["kind"].as_str().unwrap()).collect();
    let all = status["conditions"].as_array().into_iter().flatten();
    let wrong = |one: &&Value| (one["type"] == "Conflicted") == (one["status"] == "True");
    let wrong = conditions(&all.filter(wrong).cloned().collect());
    let name = status["name"].as_str().unwrap();
    format!("\n  {name} {}={} {wrong}", kinds.join(" "), status["attachedRoutes"])
        .trim_end()
        .to_owned()
}

fn describe(key: &Key, patch: &Value) -> String {
    if let Some(annotations) = patch.pointer("/metadata/annotations").and_then(Value::as_object) {
        let pairs =
            annotations.iter().map(|(name, value)| format!("{name}={}", value.as_str().unwrap()));
        return format!("{key} {}", pairs.collect::<Vec<_>>().join(" "));
    }
    let status = &patch["status"];
    let Some(parents) = status["parents"].as_array() else {
        let addresses = status["addresses"].as_array().into_iter().flatten();
        let addresses: Vec<&str> = addresses.map(|one| one["value"].as_str().unwrap()).collect();
        let listeners = status["listeners"].as_array().into_iter().flatten().map(listener);
        let listeners: String = listeners.collect();
        let told = conditions(&status["conditions"]);
        return format!("{key} at {} status {told}{listeners}", addresses.join(" "));
    };
    let parents = parents.iter().map(|parent| {
        format!(
            "{}: {}",
            parent["parentRef"]["name"].as_str().unwrap(),
            conditions(&parent["conditions"])
        )
    });
    format!("{key} status {}", parents.collect::<Vec<_>>().join("; "))
}

impl Read for FakeStore {
    fn get<'a>(&'a self, _: &'a Key) -> BoxFuture<'a, Result<Option<Arc<Obj>>, StoreError>> {
        unreachable!()
    }
    fn list<'a>(&'a self, _: &'a ListQuery) -> BoxFuture<'a, Result<Listed, StoreError>> {
        unreachable!()
    }
    fn watch(&self, query: ListQuery) -> Watch {
        let (sender, receiver) = mpsc::unbounded();
        self.watches.lock().unwrap().insert(query.kind, sender);
        receiver.boxed()
    }
}

impl Write for FakeStore {
    fn create<'a>(
        &'a self,
        _: &'a Obj,
        _: &'a WriteOptions,
    ) -> BoxFuture<'a, Result<Arc<Obj>, StoreError>> {
        unreachable!()
    }
    fn patch<'a>(
        &'a self,
        key: &'a Key,
        patch: &'a Patch,
        options: &'a WriteOptions,
    ) -> BoxFuture<'a, Result<Arc<Obj>, StoreError>> {
        let Patch::Merge(patch) = patch else { unreachable!() };
        let before = self.objects.lock().unwrap()[key].clone();
        assert!(options.expect.as_ref().is_none_or(|expect| *expect == before.revision()));
        let uid = patch.pointer("/metadata/uid").and_then(Value::as_str);
        if uid.is_some_and(|uid| uid != before.uid()) {
            let (object, problem) = (key.to_string(), "the uid is another one".to_owned());
            return Box::pin(async { Err(StoreError::Conflict { object, problem }) });
        }
        self.writes.lock().unwrap().push(describe(key, patch));
        let mut body = before.json().clone();
        merge(&mut body, patch);
        body["metadata"]["resourceVersion"] = json!(format!("{}w", before.revision()));
        let stored = self.put(body);
        Box::pin(async move { Ok(stored) })
    }
    fn delete<'a>(
        &'a self,
        _: &'a Key,
        _: &'a DeleteOptions,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        unreachable!()
    }
    fn post<'a>(
        &'a self,
        _: &'a Key,
        _: Subresource,
        _: &'a Value,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        unreachable!()
    }
}

struct FakePlane {
    applied: Mutex<Option<Arc<Snapshot>>>,
    progress: watch::Sender<Progress>,
    in_flight: Mutex<BTreeMap<IpAddr, u32>>,
}

impl DataPlane for FakePlane {
    fn apply(&self, snapshot: &Arc<Snapshot>) -> BTreeMap<SocketAddr, String> {
        *self.applied.lock().unwrap() = Some(Arc::clone(snapshot));
        BTreeMap::new()
    }
    fn progress(&self) -> Progress {
        *self.progress.borrow()
    }
    fn progressed(&self, seen: Progress) -> BoxFuture<'static, ()> {
        let mut watch = self.progress.subscribe();
        Box::pin(async move {
            watch.wait_for(|progress| *progress != seen).await.unwrap();
        })
    }
    fn in_flight_at(&self, address: IpAddr) -> u32 {
        self.in_flight.lock().unwrap().get(&address).copied().unwrap_or(0)
    }
    fn switches(&self) -> Switches {
        Switches::default()
    }
}

struct Never;

impl Timer for Never {
    fn sleep(&self, _: Duration) -> BoxFuture<'static, ()> {
        Box::pin(std::future::pending())
    }
}

pub(crate) struct Stage {
    store: Arc<FakeStore>,
    plane: Arc<FakePlane>,
    run: Pin<Box<dyn Future<Output = ()>>>,
}

impl Stage {
    pub(crate) fn new() -> Self {
        Self::with(|controller| controller)
    }

    /// One whose controller is set up further.
    pub(crate) fn with(set_up: impl FnOnce(Controller) -> Controller) -> Self {
        let store = Arc::new(FakeStore::default());
        let plane = Arc::new(FakePlane {
            applied: Mutex::new(None),
            progress: watch::Sender::new(Progress::default()),
            in_flight: Mutex::default(),
        });
        let now = Timestamp::from_second(1_000).unwrap();
        let shared: Arc<dyn Store> = store.clone();
        let setup = Setup {
            ports: HostPorts::new(&shared, Arc::new(FixedClock(now)), Arc::new(Never)),
            plane: plane.clone(),
            gateway_address: IpAddr::from([127, 0, 0, 1]),
        };
        let mut stage = Self { store, plane, run: Box::pin(set_up(Controller::new(setup)).run()) };
        stage.settle();
        stage
    }

    /// Lets the controller do all it can do now.
    fn settle(&mut self) {
        let mut cx = Context::from_waker(Waker::noop());
        for _ in 0..5 {
            assert!(self.run.as_mut().poll(&mut cx).is_pending());
        }
    }

    pub(crate) fn apply(&mut self, manifests: &str) {
        for text in manifests.split("\n---\n") {
            self.store.put(serde_saphyr::from_str(text).unwrap());
        }
        self.settle();
    }

    pub(crate) fn sync(&mut self) {
        self.sync_only(|_| true);
    }

    /// Says of these kinds that all that exists has been sent.
    pub(crate) fn sync_only(&mut self, kinds: impl Fn(&str) -> bool) {
        let watches = self.store.watches.lock().unwrap().clone();
        for (_, watch) in watches.iter().filter(|(kind, _)| kinds(&kind.kind)) {
            watch.unbounded_send(Ok(WatchEvent::Synced)).unwrap();
        }
        self.settle();
    }

    /// The server refuses to list or watch a kind.
    pub(crate) fn refuse(&mut self, kind: &str) {
        let watches = self.store.watches.lock().unwrap().clone();
        for (_, watch) in watches.iter().filter(|(one, _)| &*one.kind == kind) {
            let (object, problem) = (kind.to_owned(), "no such kind".to_owned());
            watch.unbounded_send(Err(StoreError::Refused { object, problem })).unwrap();
        }
        self.settle();
    }

    /// Puts another object in place of the one of the same name, without an event.
    pub(crate) fn replace_unseen(&mut self, kind: &str, namespace: &str, name: &str) {
        let key = Key::new(GroupKind::new("", kind), namespace, name);
        let mut objects = self.store.objects.lock().unwrap();
        let mut body = objects[&key].json().clone();
        body["metadata"]["uid"] = json!("another");
        objects.insert(key, Arc::new(Obj::from_json(body).unwrap()));
    }

    pub(crate) fn acknowledge(&mut self, generation: u64) {
        self.plane.progress.send_modify(|progress| progress.acknowledged = generation);
        self.settle();
    }

    pub(crate) fn acknowledge_all(&mut self) {
        let generation = self.plane.applied.lock().unwrap().as_ref().unwrap().generation;
        self.acknowledge(generation);
    }

    pub(crate) fn in_flight(&mut self, address: &str, count: u32) {
        self.plane.in_flight.lock().unwrap().insert(address.parse().unwrap(), count);
        self.plane.progress.send_modify(|progress| progress.emptied += 1);
        self.settle();
    }

    /// Marks an object as being deleted.
    pub(crate) fn delete_softly(&mut self, kind: &str, namespace: &str, name: &str) {
        let key = Key::new(GroupKind::new("", kind), namespace, name);
        let mut body = self.store.objects.lock().unwrap()[&key].json().clone();
        body["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        self.store.put(body);
        self.settle();
    }

    /// Takes an object away.
    pub(crate) fn remove(&mut self, kind: &str, namespace: &str, name: &str) {
        let key = Key::new(GroupKind::new("gateway.networking.k8s.io", kind), namespace, name);
        let obj = self.store.objects.lock().unwrap().remove(&key).unwrap();
        let watch = self.store.watches.lock().unwrap()[&key.kind].clone();
        watch.unbounded_send(Ok(WatchEvent::Deleted(obj))).unwrap();
        self.settle();
    }

    /// What was written since the last question.
    pub(crate) fn writes(&self) -> String {
        std::mem::take(&mut *self.store.writes.lock().unwrap()).join("\n")
    }

    /// The configuration that was applied last.
    pub(crate) fn configuration(&self) -> String {
        let applied = self.plane.applied.lock().unwrap();
        let Some(snapshot) = &*applied else { return String::new() };
        let mut text = format!("{}: ", snapshot.generation);
        for (address, listener) in &snapshot.listeners {
            let rules: Vec<String> =
                listener.rules().iter().map(|one| rule(one, snapshot)).collect();
            let rules = rules.join("; ");
            let carries = carries(listener);
            let (namespace, service) = (&listener.namespace, &listener.service);
            writeln!(text, "{address} {namespace}/{service}{carries} -> {rules}").unwrap();
        }
        for pool in &snapshot.pools {
            let endpoints = pool.endpoints.iter();
            let endpoints =
                endpoints.map(|e| format!(" {} {:?} ({})", e.address, e.state, e.workload));
            let endpoints = endpoints.collect::<Vec<_>>().join(",");
            writeln!(
                text,
                "pool {}/{}:{}{endpoints}",
                pool.key.namespace, pool.key.service, pool.key.port
            )
            .unwrap();
        }
        text
    }
}

/// What a listener is besides HTTP.
fn carries(listener: &Listener) -> String {
    let Some(port) = listener.port.filter(|port| port.protocol != Protocol::Http) else {
        return String::new();
    };
    let sticky = if port.sticky { " sticky" } else { "" };
    let split = if listener.rules().iter().any(|rule| rule.splits_bytes) { " split" } else { "" };
    format!(" {:?}{sticky}{split}", port.protocol)
}

fn rule(rule: &Rule, snapshot: &Snapshot) -> String {
    let backends = rule.backends.iter().map(|backend| match backend.pool {
        Some(pool) => {
            let key = &snapshot.pools[pool].key;
            format!("{}/{}:{}={}", key.namespace, key.service, key.port, backend.weight)
        }
        None => format!("nowhere={}", backend.weight),
    });
    let mut text = backends.collect::<Vec<_>>().join(" ");
    if text.is_empty() {
        text.push_str("nothing");
    }
    if !rule.hostnames.is_empty() {
        text = format!("[{}] {text}", rule.hostnames.join(" "));
    }
    for backend in &rule.backends {
        if let Some(rewrite) = &backend.filters.rewrite {
            text = format!("{text} {rewrite:?}");
        }
        if let Some(redirect) = &backend.filters.redirect {
            text = format!("{text} {redirect:?}");
        }
    }
    if let Some(timeout) = rule.timeout {
        text = format!("{text} within {timeout:?}");
    }
    text
}
