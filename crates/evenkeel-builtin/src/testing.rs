//! A tiny API for tests: objects in a map, watches, a clock that is moved by hand, and the real
//! run loop on one thread. Watches get writes one by one, so a test can check every state between.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use evenkeel_api::{Key, Obj, Revision, json::merge};
use evenkeel_base::{Clock, Rng, name_suffix};
use evenkeel_control::{
    Action, BoxFuture, DeleteOptions, Host, ListQuery, Listed, Patch, Plan, Read, RunLoop, Store,
    StoreError, Subresource, Timer, Watch, WatchEvent, Write, WriteOptions,
};
use futures::{
    StreamExt as _,
    channel::{mpsc, oneshot},
    executor::LocalPool,
    task::LocalSpawnExt as _,
};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

/// Called with all objects after every write.
type Check = Box<dyn Fn(&BTreeMap<Key, Arc<Obj>>) + Send>;

struct Inner {
    objects: BTreeMap<Key, Arc<Obj>>,
    revision: u64,
    writes: u64,
    rng: Rng,
    now: Timestamp,
    watchers: Vec<(ListQuery, mpsc::UnboundedSender<WatchEvent>)>,
    timers: Vec<(Timestamp, oneshot::Sender<()>)>,
    check: Option<Check>,
}

/// The API of a test.
pub(crate) struct World {
    inner: Mutex<Inner>,
}

impl World {
    pub(crate) fn new(seed: u64) -> Arc<Self> {
        let inner = Inner {
            objects: BTreeMap::new(),
            revision: 0,
            writes: 0,
            rng: Rng::new(seed),
            now: at(0),
            watchers: Vec::new(),
            timers: Vec::new(),
            check: None,
        };
        Arc::new(Self { inner: Mutex::new(inner) })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    /// Calls `check` after every write.
    pub(crate) fn checking(&self, check: impl Fn(&BTreeMap<Key, Arc<Obj>>) + Send + 'static) {
        self.lock().check = Some(Box::new(check));
    }

    /// How many writes there have been.
    pub(crate) fn writes(&self) -> u64 {
        self.lock().writes
    }

    /// Creates from JSON, or replaces spec, labels and annotations as `kubectl apply` would.
    pub(crate) fn apply(&self, body: Value) {
        let obj = Obj::from_json(body).unwrap();
        let mut inner = self.lock();
        if let Some(old) = inner.objects.get(obj.key()).cloned() {
            let patch = obj.json().clone();
            inner.patch(&old, &patch, None).unwrap();
        } else {
            inner.create(&obj).unwrap();
        }
    }

    pub(crate) fn patch(&self, key: &Key, patch: &Value) {
        let mut inner = self.lock();
        let old = inner.objects[key].clone();
        inner.patch(&old, patch, None).unwrap();
    }

    pub(crate) fn set_status(&self, key: &Key, status: &Value) {
        let mut inner = self.lock();
        let old = inner.objects[key].clone();
        inner.patch(&old, &json!({"status": status}), Some(Subresource::Status)).unwrap();
    }

    pub(crate) fn delete(&self, key: &Key, options: &DeleteOptions) {
        self.lock().delete(key, options).unwrap();
    }

    pub(crate) fn find(&self, key: &Key) -> Option<Arc<Obj>> {
        self.lock().objects.get(key).cloned()
    }

    /// All objects of a kind, by name.
    pub(crate) fn all(&self, kind: &str) -> Vec<Arc<Obj>> {
        let inner = self.lock();
        inner.objects.values().filter(|obj| &*obj.key().kind.kind == kind).cloned().collect()
    }

    /// Acts as every node's agent for one pod: gone when deleting, else running, and ready if
    /// asked.
    pub(crate) fn run_pod(&self, pod: &Obj, ready: bool) {
        let mut inner = self.lock();
        if pod.is_deleting() {
            if pod.meta().finalizers.iter().flatten().next().is_none() {
                inner.remove(pod.key());
                return;
            }
            let old = inner.objects[pod.key()].clone();
            let ended = json!({"status": {"phase": "Failed"}});
            inner.patch(&old, &ended, Some(Subresource::Status)).unwrap();
            return;
        }
        let number = inner.revision;
        let since = json!(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(inner.now));
        let status = if ready { "True" } else { "False" };
        let patch = json!({"status": {"phase": "Running",
            "podIP": format!("127.64.{}.{}", number / 250, number % 250 + 1),
            "conditions": [
                {"type": "PodScheduled", "status": "True"},
                {"type": "Ready", "status": status, "lastTransitionTime": since}]}});
        let old = inner.objects[pod.key()].clone();
        inner.patch(&old, &patch, Some(Subresource::Status)).unwrap();
    }

    /// Pods on a node that are not ready yet or are leaving.
    pub(crate) fn unsettled_pods(&self) -> Vec<Arc<Obj>> {
        let is_ready = |pod: &Obj| {
            pod.get::<k8s_openapi::api::core::v1::Pod>()
                .is_ok_and(|pod| crate::pods::is_ready(&pod))
        };
        let placed = |pod: &Obj| pod.json().pointer("/spec/nodeName").is_some();
        let pods = self.all("Pod").into_iter();
        pods.filter(|pod| placed(pod) && (pod.is_deleting() || !is_ready(pod))).collect()
    }
}

impl Inner {
    fn commit(&mut self, mut body: Value) -> Result<Arc<Obj>, StoreError> {
        self.revision += 1;
        body["metadata"]["resourceVersion"] = self.revision.to_string().into();
        let obj = Arc::new(Obj::from_json(body)?);
        self.objects.insert(obj.key().clone(), obj.clone());
        self.send(&obj, &WatchEvent::Applied(obj.clone()));
        Ok(obj)
    }

    fn send(&mut self, obj: &Obj, event: &WatchEvent) {
        self.writes += 1;
        for (query, watcher) in &self.watchers {
            if query.kind.is_every() || query.matches(obj) {
                watcher.unbounded_send(event.clone()).ok();
            }
        }
        if let Some(check) = &self.check {
            check(&self.objects);
        }
    }

    fn create(&mut self, obj: &Obj) -> Result<Arc<Obj>, StoreError> {
        let mut body = obj.json().clone();
        if obj.name().is_empty() {
            let prefix = obj.meta().generate_name.clone().unwrap_or_default();
            body["metadata"]["name"] = format!("{prefix}{}", name_suffix(&mut self.rng)).into();
        } else if self.objects.contains_key(obj.key()) {
            return Err(StoreError::Exists { object: obj.key().to_string() });
        }
        body["metadata"]["uid"] = evenkeel_base::uid(&mut self.rng).into();
        body["metadata"]["generation"] = 1.into();
        body["metadata"]["creationTimestamp"] =
            json!(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(self.now));
        self.commit(body)
    }

    fn patch(
        &mut self,
        old: &Obj,
        patch: &Value,
        part: Option<Subresource>,
    ) -> Result<Arc<Obj>, StoreError> {
        let mut new = old.json().clone();
        merge(&mut new, patch);
        if part == Some(Subresource::Status) {
            let status = new["status"].clone();
            new = old.json().clone();
            new["status"] = status;
        } else if let Some(status) = old.json().get("status") {
            new["status"] = status.clone();
        }
        if new == *old.json() {
            return Ok(Arc::new(old.clone()));
        }
        if new.get("spec") != old.json().get("spec") {
            new["metadata"]["generation"] = (old.generation() + 1).into();
        }
        let finalizers = new.pointer("/metadata/finalizers").and_then(Value::as_array);
        // A pod goes when its node says so.
        let runs = new.pointer("/spec/nodeName").is_some()
            && !matches!(new["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
        let is_held = &*old.key().kind.kind == "Pod" && runs;
        if old.is_deleting() && !is_held && finalizers.is_none_or(Vec::is_empty) {
            self.remove(old.key());
            return Ok(Arc::new(old.clone()));
        }
        self.commit(new)
    }

    fn delete(&mut self, key: &Key, options: &DeleteOptions) -> Result<(), StoreError> {
        let object = key.to_string();
        let Some(old) = self.objects.get(key).cloned() else {
            return Err(StoreError::NotFound { object });
        };
        if options.uid.as_ref().is_some_and(|uid| uid != old.uid()) {
            let problem = "another uid".to_owned();
            return Err(StoreError::Conflict { object, problem });
        }
        let mut new = old.json().clone();
        let finalizer = match options.propagation {
            evenkeel_control::Propagation::Background => None,
            evenkeel_control::Propagation::Foreground => Some("foregroundDeletion"),
            evenkeel_control::Propagation::Orphan => Some("orphan"),
        };
        if let Some(finalizer) = finalizer {
            new["metadata"]["finalizers"] = json!([finalizer]);
        }
        let held = new.pointer("/metadata/finalizers").and_then(Value::as_array);
        let runs = old.json().pointer("/spec/nodeName").is_some();
        if runs || held.is_some_and(|held| !held.is_empty()) {
            if !old.is_deleting() {
                new["metadata"]["deletionTimestamp"] =
                    json!(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(self.now));
                self.commit(new)?;
            }
        } else {
            self.remove(key);
        }
        Ok(())
    }

    fn remove(&mut self, key: &Key) {
        if let Some(last) = self.objects.remove(key) {
            self.revision += 1;
            self.send(&last.clone(), &WatchEvent::Deleted(last));
        }
    }
}

impl Clock for World {
    fn now(&self) -> Timestamp {
        self.lock().now
    }
}

impl Timer for World {
    fn sleep(&self, wait: Duration) -> BoxFuture<'static, ()> {
        let mut inner = self.lock();
        if wait.is_zero() {
            return Box::pin(async {});
        }
        let due = inner.now + SignedDuration::try_from(wait).unwrap();
        let (fire, fired) = oneshot::channel();
        inner.timers.retain(|(_, sender)| !sender.is_canceled());
        inner.timers.push((due, fire));
        Box::pin(async {
            fired.await.ok();
        })
    }
}

impl Read for World {
    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Arc<Obj>>, StoreError>> {
        let found = self.find(key);
        Box::pin(async { Ok(found) })
    }

    fn list<'a>(&'a self, query: &'a ListQuery) -> BoxFuture<'a, Result<Listed, StoreError>> {
        let inner = self.lock();
        let items = inner.objects.values().filter(|obj| query.matches(obj)).cloned().collect();
        let listed = Listed { items, revision: Revision::from(inner.revision) };
        Box::pin(async { Ok(listed) })
    }

    fn watch(&self, query: ListQuery) -> Watch {
        let mut inner = self.lock();
        let (sender, receiver) = mpsc::unbounded();
        let wanted = |obj: &&Arc<Obj>| query.kind.is_every() || query.matches(obj);
        for obj in inner.objects.values().filter(wanted) {
            sender.unbounded_send(WatchEvent::Applied(obj.clone())).unwrap();
        }
        inner.watchers.push((query, sender));
        receiver.map(Ok).boxed()
    }
}

impl Write for World {
    fn create<'a>(
        &'a self,
        obj: &'a Obj,
        _options: &'a WriteOptions,
    ) -> BoxFuture<'a, Result<Arc<Obj>, StoreError>> {
        let created = self.lock().create(obj);
        Box::pin(async { created })
    }

    fn patch<'a>(
        &'a self,
        key: &'a Key,
        patch: &'a Patch,
        options: &'a WriteOptions,
    ) -> BoxFuture<'a, Result<Arc<Obj>, StoreError>> {
        let mut inner = self.lock();
        let object = key.to_string();
        let patched = match (inner.objects.get(key).cloned(), patch) {
            (None, _) => Err(StoreError::NotFound { object }),
            (Some(old), _) if options.expect.as_ref().is_some_and(|rev| *rev != old.revision()) => {
                let problem = "another revision".to_owned();
                Err(StoreError::Conflict { object, problem })
            }
            (Some(old), Patch::Merge(patch)) => inner.patch(&old, patch, options.subresource),
            (Some(_), other) => panic!("not in this test API: {other:?}"),
        };
        Box::pin(async { patched })
    }

    fn delete<'a>(
        &'a self,
        key: &'a Key,
        options: &'a DeleteOptions,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        let deleted = self.lock().delete(key, options);
        Box::pin(async { deleted })
    }

    fn post<'a>(
        &'a self,
        key: &'a Key,
        subresource: Subresource,
        body: &'a Value,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        assert_eq!(subresource, Subresource::Binding, "not in this test API");
        let patch = json!({"spec": {"nodeName": body.pointer("/target/name")}});
        let mut inner = self.lock();
        let bound = match inner.objects.get(key).cloned() {
            None => Err(StoreError::NotFound { object: key.to_string() }),
            Some(pod) => inner.patch(&pod, &patch, None).map(drop),
        };
        Box::pin(async { bound })
    }
}

/// All built-in controllers on a [`World`].
pub(crate) struct Cluster {
    pub(crate) world: Arc<World>,
    pool: LocalPool,
}

impl Cluster {
    /// Starts the controllers.
    pub(crate) fn new(seed: u64) -> Self {
        let world = World::new(seed);
        let store: Arc<dyn Store> = world.clone();
        let host = Host::new(&store, world.clone(), world.clone());
        let run = crate::install(RunLoop::new(host));
        let pool = LocalPool::new();
        pool.spawner().spawn_local(run.run()).unwrap();
        Self { world, pool }
    }

    /// Runs until all is idle and only the clock is left to move.
    pub(crate) fn settle(&mut self) {
        self.pool.run_until_stalled();
    }

    /// Lets this much time pass, with everything that falls due in it.
    pub(crate) fn pass(&mut self, time: Duration) {
        let end = self.world.now() + SignedDuration::try_from(time).unwrap();
        loop {
            self.settle();
            let mut inner = self.world.lock();
            inner.timers.retain(|(_, sender)| !sender.is_canceled());
            inner.timers.sort_by_key(|(due, _)| *due);
            if inner.timers.first().is_none_or(|(due, _)| *due > end) {
                inner.now = end;
                return;
            }
            let (due, fire) = inner.timers.remove(0);
            inner.now = inner.now.max(due);
            fire.send(()).ok();
        }
    }

    /// As nodes would: settles pods one by one, everything else following at once, until all are
    /// ready.
    pub(crate) fn bring_up(&mut self) {
        for _ in 0..1_000 {
            // A write that met a newer revision is tried again after a short pause.
            self.pass(Duration::from_secs(1));
            let Some(pod) = self.world.unsettled_pods().first().cloned() else { return };
            self.world.run_pod(&pod, true);
        }
        panic!("the pods do not settle");
    }
}

/// Seconds after the epoch.
pub(crate) fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + second).unwrap()
}

/// A node with a zone and this much room.
pub(crate) fn node(name: &str, zone: &str, (cpu, memory): (&str, &str)) -> Value {
    let room = json!({"cpu": cpu, "memory": memory, "pods": "110"});
    json!({"apiVersion": "v1", "kind": "Node",
        "metadata": {"name": name, "labels": {
            "kubernetes.io/hostname": name, "topology.kubernetes.io/zone": zone}},
        "spec": {}, "status": {"capacity": room, "allocatable": room}})
}

/// A Deployment of one container, with these fields added to its spec.
pub(crate) fn deployment(name: &str, image: &str, spec: &Value) -> Value {
    let mut body = json!({"apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {"selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}},
                "spec": {"containers": [{"name": "main", "image": image}]}}}});
    merge(&mut body["spec"], spec);
    body
}

/// A plan in a few words: reason, actions, status, events, wake-up.
pub(crate) fn words(plan: &Plan) -> String {
    let mut lines = vec![plan.reason.to_owned()];
    for action in &plan.actions {
        lines.push(match action {
            Action::Patch { key, patch } => format!("patch {key} {patch}"),
            other => other.to_string(),
        });
    }
    for write in &plan.status {
        lines.push(format!("status {} {}", write.key, write.status));
    }
    for event in &plan.events {
        lines.push(format!("event {} {}: {}", event.about, event.reason, event.message));
    }
    if let Some(wake) = plan.wake_after {
        lines.push(format!("wake after {}", evenkeel_base::format_duration(wake)));
    }
    lines.join("\n")
}
