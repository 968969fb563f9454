//! The embedded API server with our controllers, on a clock that is moved by hand.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use evenkeel_api::{GroupKind, Key, Obj};
use evenkeel_base::{Clock, Rng};
use evenkeel_cluster::ApiServer;
use evenkeel_control::{
    BoxFuture, DeleteOptions, Host, ListQuery, Patch, Propagation, RunLoop, Store, Subresource,
    Timer, WriteOptions,
};
use futures::{
    channel::oneshot,
    executor::{LocalPool, block_on},
    task::LocalSpawnExt as _,
};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::commands::Side;

/// As long as the real controllers are given.
const CALM_SECONDS: u64 = 3;
const TEST: WriteOptions = WriteOptions { subresource: None, expect: None, manager: "test" };

type Sleepers = Vec<(Timestamp, oneshot::Sender<()>)>;

struct ManualTime {
    now: Mutex<(Timestamp, Sleepers)>,
}

impl Clock for ManualTime {
    fn now(&self) -> Timestamp {
        self.now.lock().unwrap().0
    }
}

impl Timer for ManualTime {
    fn sleep(&self, wait: Duration) -> BoxFuture<'static, ()> {
        let mut now = self.now.lock().unwrap();
        if wait.is_zero() {
            return Box::pin(async {});
        }
        let due = now.0 + SignedDuration::try_from(wait).unwrap();
        let (fire, fired) = oneshot::channel();
        now.1.push((due, fire));
        Box::pin(async {
            fired.await.ok();
        })
    }
}

pub(crate) struct Embedded {
    store: Arc<dyn Store>,
    time: Arc<ManualTime>,
    pool: LocalPool,
    namespace: String,
}

impl Embedded {
    pub(crate) fn start(case: &str) -> Self {
        let start = "2026-01-01T12:00:00Z".parse().unwrap();
        let time = Arc::new(ManualTime { now: Mutex::new((start, Vec::new())) });
        let store = ApiServer::new(time.clone(), Rng::new(1)).store();
        let host = Host::new(&store, time.clone(), time.clone());
        let run = evenkeel_builtin::install(RunLoop::new(host));
        let pool = LocalPool::new();
        pool.spawner().spawn_local(run.run()).unwrap();
        let namespace = crate::namespace(case);
        let mut side = Self { store, time, pool, namespace: namespace.clone() };
        let named = |name: &str| json!({"metadata": {"name": name}});
        let mut body = named(&namespace);
        body["apiVersion"] = "v1".into();
        body["kind"] = "Namespace".into();
        side.create(body);
        // Those of `tests/realk8s/up`.
        for number in 1..=2 {
            let name = format!("node-{number}");
            let room = json!({"cpu": "64", "memory": "256Gi", "pods": "500"});
            let mut node = named(&name);
            node["apiVersion"] = "v1".into();
            node["kind"] = "Node".into();
            node["metadata"]["labels"] = json!({"kubernetes.io/hostname": name});
            side.create(node);
            let key = Key::new(GroupKind::new("", "Node"), "", &name);
            let status = json!({"status": {"capacity": room, "allocatable": room,
                "conditions": [{"type": "Ready", "status": "True"}]}});
            side.write(&key, status, true);
        }
        side
    }

    fn create(&mut self, body: Value) {
        let obj = Obj::from_json(body).unwrap();
        block_on(self.store.create(&obj, &TEST)).unwrap();
    }

    fn write(&self, key: &Key, patch: Value, is_status: bool) {
        let subresource = is_status.then_some(Subresource::Status);
        let options = WriteOptions { subresource, ..TEST };
        block_on(self.store.patch(key, &Patch::Merge(patch), &options)).unwrap();
    }

    fn key(&self, (name, object): (&str, &str)) -> Key {
        let kind = kind(name);
        let namespace = if &*kind.kind == "Node" { "" } else { &self.namespace };
        Key::new(kind, namespace, object)
    }

    /// Lets a second pass, with everything that falls due in it.
    fn tick(&mut self) {
        let end = self.time.now() + SignedDuration::from_secs(1);
        loop {
            self.pool.run_until_stalled();
            let mut now = self.time.now.lock().unwrap();
            now.1.retain(|(_, fire)| !fire.is_canceled());
            now.1.sort_by_key(|(due, _)| *due);
            if now.1.first().is_none_or(|(due, _)| *due > end) {
                now.0 = end;
                return;
            }
            let (due, fire) = now.1.remove(0);
            now.0 = now.0.max(due);
            fire.send(()).ok();
        }
    }
}

/// Kinds as sessions write them.
fn kind(name: &str) -> GroupKind {
    let (group, kind) = match name.trim_end_matches('s') {
        "pod" => ("", "Pod"),
        "event" => ("", "Event"),
        "node" => ("", "Node"),
        "pvc" => ("", "PersistentVolumeClaim"),
        "statefulset" => ("apps", "StatefulSet"),
        "daemonset" => ("apps", "DaemonSet"),
        "controllerrevision" => ("apps", "ControllerRevision"),
        "job" => ("batch", "Job"),
        "cronjob" => ("batch", "CronJob"),
        other => panic!("no such kind: {other}"),
    };
    GroupKind::new(group, kind)
}

impl Side for Embedded {
    fn apply(&mut self, objects: Vec<Value>) {
        for mut body in objects {
            body["metadata"]["namespace"] = self.namespace.clone().into();
            let obj = Obj::from_json(body.clone()).unwrap();
            if block_on(self.store.get(obj.key())).unwrap().is_some() {
                self.write(obj.key(), body, false);
            } else {
                self.create(body);
            }
        }
    }

    fn patch(&mut self, target: (&str, &str), patch: &Value, is_status: bool) {
        let patch = if is_status { json!({"status": patch}) } else { patch.clone() };
        self.write(&self.key(target), patch, is_status);
    }

    fn delete(&mut self, target: (&str, &str), propagation: &str) {
        let propagation = match propagation {
            "Foreground" => Propagation::Foreground,
            "Orphan" => Propagation::Orphan,
            _ => Propagation::Background,
        };
        let options = DeleteOptions { propagation, ..DeleteOptions::default() };
        block_on(self.store.delete(&self.key(target), &options)).unwrap();
    }

    fn list(&mut self, name: &str) -> Vec<Value> {
        let query = ListQuery::all(kind(name)).within(&self.namespace);
        let listed = block_on(self.store.list(&query)).unwrap();
        listed.items.iter().map(|obj| obj.json().clone()).collect()
    }

    fn now(&self) -> String {
        self.time.now().to_string()
    }

    fn wait(&mut self, seconds: u64) {
        (0..seconds).for_each(|_| self.tick());
    }

    fn settle(&mut self) {
        self.wait(CALM_SECONDS);
    }
}
