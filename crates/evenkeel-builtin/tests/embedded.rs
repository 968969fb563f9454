//! All controllers together on the real API server, in memory, with a clock moved by hand. The
//! test plays the nodes.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a step that fails fails the test")]

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use evenkeel_api::{ApiObject, GroupKind, Key, Obj};
use evenkeel_base::{Clock, Rng};
use evenkeel_cluster::ApiServer;
use evenkeel_control::{
    BoxFuture, DeleteOptions, Host, ListQuery, Patch, RunLoop, Store, Subresource, Timer,
    WriteOptions,
};
use futures::{
    channel::oneshot,
    executor::{LocalPool, block_on},
    task::LocalSpawnExt as _,
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::{
        apps::v1::{Deployment, ReplicaSet},
        core::v1::{Event, Namespace, Node, Pod, Service},
        discovery::v1::EndpointSlice,
    },
    apimachinery::pkg::apis::meta::v1::Time,
};
use serde_json::{Value, json};

/// Sleeping tasks, and until when they sleep.
type Sleepers = Vec<(Timestamp, oneshot::Sender<()>)>;

/// Time that advances only when the test moves it.
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

struct Cluster {
    store: Arc<dyn Store>,
    time: Arc<ManualTime>,
    pool: LocalPool,
}

const TEST: WriteOptions = WriteOptions { subresource: None, expect: None, manager: "test" };

impl Cluster {
    fn new() -> Self {
        let start = Timestamp::from_second(1_700_000_000).unwrap();
        let time = Arc::new(ManualTime { now: Mutex::new((start, Vec::new())) });
        let store = ApiServer::new(time.clone(), Rng::new(1)).store();
        let host = Host::new(&store, time.clone(), time.clone());
        let run = evenkeel_builtin::install(RunLoop::new(host));
        let pool = LocalPool::new();
        pool.spawner().spawn_local(run.run()).unwrap();
        let cluster = Self { store, time, pool };
        cluster.create::<Namespace>(json!({"metadata": {"name": "shop"}}));
        for zone in ["a", "b", "c"] {
            let room = json!({"cpu": "8", "memory": "16Gi", "pods": "58"});
            cluster.create::<Node>(json!({"metadata": {"name": format!("n-{zone}"), "labels": {
                    "kubernetes.io/hostname": format!("n-{zone}"),
                    "topology.kubernetes.io/zone": zone}},
                "status": {"capacity": room, "allocatable": room,
                    "conditions": [{"type": "Ready", "status": "True"}]}}));
        }
        cluster
    }

    fn create<T: ApiObject>(&self, mut body: Value) {
        body["apiVersion"] = T::API_VERSION.into();
        body["kind"] = T::KIND.into();
        let status = body.get("status").cloned();
        let obj = Obj::from_json(body).unwrap();
        let made = block_on(self.store.create(&obj, &TEST)).unwrap();
        if let Some(status) = status {
            self.write_status(made.key(), &status);
        }
    }

    fn patch(&self, key: &Key, patch: Value) {
        block_on(self.store.patch(key, &Patch::Merge(patch), &TEST)).unwrap();
    }

    fn write_status(&self, key: &Key, status: &Value) {
        let options = WriteOptions { subresource: Some(Subresource::Status), ..TEST };
        let patch = Patch::Merge(json!({"status": status}));
        block_on(self.store.patch(key, &patch, &options)).unwrap();
    }

    fn all<T: ApiObject>(&self) -> Vec<Arc<Obj>> {
        let query = ListQuery::all(GroupKind::of::<T>()).within("shop");
        block_on(self.store.list(&query)).unwrap().items
    }

    fn find<T: ApiObject>(&self, name: &str) -> Arc<Obj> {
        block_on(self.store.get(&Key::of::<T>("shop", name))).unwrap().unwrap()
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

    /// What the nodes would do now, all pods at once; whether anything was to be done.
    fn play_nodes(&self) -> bool {
        let mut busy = false;
        for (number, pod) in self.all::<Pod>().iter().enumerate() {
            if pod.is_deleting() {
                let now = DeleteOptions { grace_seconds: Some(0), ..DeleteOptions::default() };
                block_on(self.store.delete(pod.key(), &now)).unwrap();
                busy = true;
            } else if pod.json().pointer("/spec/nodeName").is_some()
                && pod.json().pointer("/status/podIP").is_none()
            {
                let ip = format!("127.64.{number}.{}", pod.revision().0.len());
                let since = json!(Time(self.time.now()));
                self.write_status(
                    pod.key(),
                    &json!({"phase": "Running", "podIP": ip,
                    "conditions": [{"type": "Ready", "status": "True",
                        "lastTransitionTime": since}]}),
                );
                busy = true;
            }
        }
        busy
    }

    fn settle(&mut self) {
        for _ in 0..100 {
            self.tick();
            if !self.play_nodes() {
                return;
            }
        }
        panic!("the cluster does not settle");
    }
}

fn web(image: &str) -> Value {
    json!({"metadata": {"name": "web", "namespace": "shop"},
        "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{
                "name": "main", "image": image,
                "ports": [{"name": "http", "containerPort": 8080}],
                "readinessProbe": {"httpGet": {"path": "/health", "port": "http"}},
                "resources": {"requests": {"cpu": "250m", "memory": "128Mi"}}}]}}}})
}

#[test]
fn a_deployment_comes_up_rolls_and_goes_on_the_embedded_api() {
    let mut cluster = Cluster::new();
    cluster.create::<Service>(json!({"metadata": {"name": "web", "namespace": "shop"},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": "http"}]}}));
    cluster.create::<Deployment>(web("web:1"));
    cluster.settle();
    let number = |cluster: &Cluster, field: &str| {
        let deployment = cluster.find::<Deployment>("web");
        deployment.json().pointer(&format!("/status/{field}")).and_then(Value::as_i64)
    };
    assert_eq!(number(&cluster, "availableReplicas"), Some(3));
    let nodes: Vec<String> = cluster
        .all::<Pod>()
        .iter()
        .filter_map(|pod| Some(pod.json().pointer("/spec/nodeName")?.as_str()?.to_owned()))
        .collect();
    for node in ["n-a", "n-b", "n-c"] {
        assert!(nodes.iter().any(|found| found == node), "{nodes:?}");
    }

    let key = Key::of::<Deployment>("shop", "web");
    cluster.patch(&key, json!({"spec": web("web:2")["spec"]}));
    cluster.settle();
    assert_eq!(number(&cluster, "updatedReplicas"), Some(3));
    assert_eq!(number(&cluster, "replicas"), Some(3));
    assert_eq!(cluster.all::<ReplicaSet>().len(), 2);
    let deployment = cluster.find::<Deployment>("web");
    assert_eq!(deployment.annotation("deployment.kubernetes.io/revision"), Some("2"));
    let slices = cluster.all::<EndpointSlice>();
    assert_eq!(slices.len(), 1);
    let endpoints = slices[0].json().pointer("/endpoints").and_then(Value::as_array).unwrap();
    assert_eq!(endpoints.len(), 3);
    assert!(endpoints.iter().all(|endpoint| endpoint["conditions"]["ready"] == true));

    // Nothing is written while nothing happens.
    let query = ListQuery::all(GroupKind::of::<Pod>());
    let revision = block_on(cluster.store.list(&query)).unwrap().revision;
    for _ in 0..60 {
        cluster.tick();
    }
    assert_eq!(block_on(cluster.store.list(&query)).unwrap().revision, revision);

    block_on(cluster.store.delete(&key, &DeleteOptions::default())).unwrap();
    cluster.settle();
    assert!(cluster.all::<ReplicaSet>().is_empty() && cluster.all::<Pod>().is_empty());
}

#[test]
fn events_of_one_instant_are_listed_as_they_came() {
    let mut cluster = Cluster::new();
    cluster.create::<Deployment>(web("web:1"));
    cluster.settle();
    let key = Key::of::<Deployment>("shop", "web");
    for replicas in [7, 2, 9, 4, 7, 2] {
        cluster.patch(&key, json!({"spec": {"replicas": replicas}}));
        cluster.pool.run_until_stalled();
    }
    let events = cluster.all::<Event>();
    let about = events.iter().filter(|event| event.json()["involvedObject"]["name"] == "web");
    let text = |event: &Arc<Obj>| {
        let event = event.get::<Event>().unwrap();
        let message = event.message.clone().unwrap();
        let (_, sizes) = message.split_once(" from ").unwrap();
        format!("{sizes} x{}", event.count.unwrap())
    };
    let recorded: Vec<String> = about.map(text).collect();
    // The second 7 to 2 counts up the first one.
    assert_eq!(
        recorded,
        ["0 to 3 x1", "3 to 7 x1", "7 to 2 x2", "2 to 9 x1", "9 to 4 x1", "4 to 7 x1"]
    );
}

#[test]
fn a_rollout_that_cannot_start_says_so_within_its_deadline() {
    let mut cluster = Cluster::new();
    let mut body = web("web:1");
    body["spec"]["progressDeadlineSeconds"] = 20.into();
    let resources = "/spec/template/spec/containers/0/resources";
    *body.pointer_mut(resources).unwrap() = json!({"requests": {"cpu": "64"}});
    cluster.create::<Deployment>(body);
    for _ in 0..25 {
        cluster.tick();
    }
    let deployment = cluster.find::<Deployment>("web").get::<Deployment>().unwrap();
    let status = deployment.status.as_ref().unwrap();
    let late = status.conditions.iter().flatten().find(|c| c.type_ == "Progressing").unwrap();
    assert_eq!(late.reason.as_deref(), Some("ProgressDeadlineExceeded"));
    let pod = cluster.all::<Pod>()[0].get::<Pod>().unwrap();
    let conditions = pod.status.as_ref().unwrap().conditions.as_ref().unwrap();
    let why = conditions.iter().find(|c| c.type_ == "PodScheduled").unwrap();
    assert_eq!(why.message.as_deref(), Some("0/3 nodes are available: 3 Insufficient cpu."));
}

/// Objects of a kind that is defined while everything runs.
fn custom(cluster: &Cluster, body: Value) -> Arc<Obj> {
    let obj = Obj::from_json(body).unwrap();
    block_on(cluster.store.create(&obj, &TEST)).unwrap()
}

#[test]
fn owners_of_every_kind_are_collected_for_also_kinds_defined_later() {
    let mut cluster = Cluster::new();
    cluster.tick();
    for (group, kind, plural) in
        [("shop.test", "Order", "orders"), ("shop.test", "Parcel", "parcels")]
    {
        let names = json!({"kind": kind, "plural": plural, "singular": kind.to_lowercase(),
            "listKind": format!("{kind}List")});
        custom(
            &cluster,
            json!({"apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition", "metadata": {"name": format!("{plural}.{group}")},
            "spec": {"group": group, "scope": "Namespaced", "names": names, "versions": [{
                "name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {
                    "type": "object", "x-kubernetes-preserve-unknown-fields": true}}}]}}),
        );
    }
    cluster.tick();
    let order = custom(
        &cluster,
        json!({"apiVersion": "shop.test/v1", "kind": "Order",
        "metadata": {"name": "o", "namespace": "shop"}}),
    );
    let owned = |body: Value| {
        let mut body = body;
        body["metadata"] = json!({"name": "p", "namespace": "shop", "ownerReferences": [{
            "apiVersion": "shop.test/v1", "kind": "Order", "name": "o", "uid": order.uid()}]});
        custom(&cluster, body)
    };
    let parcel = owned(json!({"apiVersion": "shop.test/v1", "kind": "Parcel"}));
    let map = owned(json!({"apiVersion": "v1", "kind": "ConfigMap"}));
    cluster.tick();
    let left = |cluster: &Cluster| {
        let there = |key: &Key| block_on(cluster.store.get(key)).unwrap().is_some();
        [parcel.key(), map.key()].into_iter().filter(|key| there(key)).count()
    };
    assert_eq!(left(&cluster), 2);
    block_on(cluster.store.delete(order.key(), &DeleteOptions::default())).unwrap();
    cluster.tick();
    assert_eq!(left(&cluster), 0);
}
