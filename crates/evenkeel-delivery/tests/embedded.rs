//! The Canary controller beside the built-in ones on the real API server, in memory and virtual
//! time. The test plays the nodes and the gateway.
#![expect(clippy::unwrap_used, reason = "a setup that fails is a test that fails")]

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use evenkeel_api::{ApiObject, GroupKind, Key, Obj, canary::Canary, httproute::HttpRoute};
use evenkeel_base::{Clock, Rng};
use evenkeel_cluster::ApiServer;
use evenkeel_control::{
    BoxFuture, DeleteOptions, HookCall, HookError, HookReply, Hooks, Host, ListQuery, Metrics,
    MetricsError, Patch, Replies, RunLoop, Sample, Store, Subresource, Timer, WriteOptions,
};
use evenkeel_delivery::{Settings, install};
use futures::{
    channel::oneshot,
    executor::{LocalPool, block_on},
    task::LocalSpawnExt as _,
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::{
        apps::v1::Deployment,
        core::v1::{ConfigMap, Event, Namespace, Node, Pod, Service},
        discovery::v1::EndpointSlice,
    },
    apimachinery::pkg::apis::meta::v1::Time,
};
use serde_json::{Value, json};

const NS: &str = "production";
const TEST: WriteOptions = WriteOptions { subresource: None, expect: None, manager: "test" };

/// Time that stands until it is moved.
struct Hands(Mutex<(Timestamp, Vec<Alarm>)>);

type Alarm = (Timestamp, oneshot::Sender<()>);

impl Clock for Hands {
    fn now(&self) -> Timestamp {
        self.0.lock().unwrap().0
    }
}

impl Timer for Hands {
    fn sleep(&self, wait: Duration) -> BoxFuture<'static, ()> {
        if wait.is_zero() {
            return Box::pin(async {});
        }
        let mut hands = self.0.lock().unwrap();
        let due = hands.0 + SignedDuration::try_from(wait).unwrap();
        let (fire, fired) = oneshot::channel();
        hands.1.push((due, fire));
        Box::pin(async {
            fired.await.ok();
        })
    }
}

/// Metrics of a canary whose share of failed answers is given.
struct Share(Arc<Mutex<f64>>);

impl Metrics for Share {
    fn query<'a>(
        &'a self,
        expr: &'a str,
        _at: Timestamp,
    ) -> BoxFuture<'a, Result<Vec<Sample>, MetricsError>> {
        let failed = *self.0.lock().unwrap();
        let value = match expr {
            duration if duration.contains("bucket") => 20.0,
            bad if bad.contains("5.*") => failed * 10.0,
            _ => 10.0,
        };
        Box::pin(async move { Ok(vec![Sample { labels: BTreeMap::new(), value }]) })
    }
}

/// A load tester that accepts everything.
struct Accepting(Mutex<BTreeMap<String, HookReply>>);

impl Hooks for Accepting {
    fn call<'a>(&'a self, call: &'a HookCall) -> BoxFuture<'a, Result<HookReply, HookError>> {
        let reply = HookReply { status: 202, body: String::new() };
        self.0.lock().unwrap().insert(call.id.clone(), reply.clone());
        Box::pin(async { Ok(reply) })
    }
}

impl Replies for Accepting {
    fn reply(&self, id: &str) -> Option<Result<HookReply, HookError>> {
        self.0.lock().unwrap().get(id).cloned().map(Ok)
    }
}

struct Cluster {
    store: Arc<dyn Store>,
    hands: Arc<Hands>,
    pool: LocalPool,
    failed: Arc<Mutex<f64>>,
    served: bool,
}

impl Cluster {
    fn new() -> Self {
        let start = Timestamp::from_second(1_700_000_000).unwrap();
        let hands = Arc::new(Hands(Mutex::new((start, Vec::new()))));
        let store = ApiServer::new(hands.clone(), Rng::new(1)).store();
        for crd in evenkeel_api::crds() {
            block_on(store.create(&Obj::from_json(crd).unwrap(), &TEST)).unwrap();
        }
        let failed = Arc::new(Mutex::new(0.0));
        let host = Host::new(&store, hands.clone(), hands.clone())
            .with_metrics(Arc::new(Share(failed.clone())))
            .with_hooks(Arc::new(Accepting(Mutex::default())));
        let run = RunLoop::new(host);
        let run = evenkeel_builtin::install(run);
        let run = install(run, Settings::default());
        let pool = LocalPool::new();
        pool.spawner().spawn_local(run.run()).unwrap();
        let cluster = Self { store, hands, pool, failed, served: false };
        cluster.create::<Namespace>(json!({"metadata": {"name": NS}}));
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
        let made = block_on(self.store.create(&Obj::from_json(body).unwrap(), &TEST)).unwrap();
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
        let query = ListQuery::all(GroupKind::of::<T>()).within(NS);
        block_on(self.store.list(&query)).unwrap().items
    }

    fn find<T: ApiObject>(&self, name: &str) -> Option<Arc<Obj>> {
        block_on(self.store.get(&Key::of::<T>(NS, name))).unwrap()
    }

    fn text<T: ApiObject>(&self, name: &str, path: &str) -> String {
        let found = self.find::<T>(name);
        let value = found.as_ref().and_then(|obj| obj.json().pointer(path));
        value.map_or("-".to_owned(), |value| value.to_string().replace('"', ""))
    }

    /// Lets a second pass, with everything that falls due in it.
    fn second(&mut self) {
        let end = self.hands.now() + SignedDuration::from_secs(1);
        loop {
            self.pool.run_until_stalled();
            self.play();
            self.pool.run_until_stalled();
            self.check();
            let mut hands = self.hands.0.lock().unwrap();
            hands.1.retain(|(_, fire)| !fire.is_canceled());
            hands.1.sort_by_key(|(due, _)| *due);
            if hands.1.first().is_none_or(|(due, _)| *due > end) {
                hands.0 = end;
                return;
            }
            let (due, fire) = hands.1.remove(0);
            hands.0 = hands.0.max(due);
            fire.send(()).ok();
        }
    }

    /// Nodes start and stop pods at once; the gateway follows the routes.
    fn play(&self) {
        for (number, pod) in self.all::<Pod>().iter().enumerate() {
            if pod.is_deleting() {
                let now = DeleteOptions { grace_seconds: Some(0), ..DeleteOptions::default() };
                block_on(self.store.delete(pod.key(), &now)).unwrap();
            } else if pod.json().pointer("/spec/nodeName").is_some()
                && pod.json().pointer("/status/podIP").is_none()
            {
                let since = json!(Time(self.hands.now()));
                self.write_status(
                    pod.key(),
                    &json!({"phase": "Running", "podIP": format!("127.64.0.{}", number + 1),
                        "conditions": [{"type": "Ready", "status": "True",
                            "lastTransitionTime": since}]}),
                );
            }
        }
        for route in self.all::<HttpRoute>() {
            let condition = json!({"type": "Programmed", "status": "True", "reason": "Programmed",
                "message": "", "lastTransitionTime": "2024-01-01T00:00:00Z",
                "observedGeneration": route.generation()});
            self.write_status(
                route.key(),
                &json!({"parents": [{"parentRef": {"group": "", "kind": "Service",
                    "name": route.name()}, "controllerName": "evenkeel.dev/gateway",
                    "conditions": [condition]}]}),
            );
        }
    }

    /// Users always find a ready pod behind every share of their traffic.
    fn check(&mut self) {
        let behind = |service: &str| {
            self.all::<EndpointSlice>().iter().any(|slice| {
                slice.label("kubernetes.io/service-name") == Some(service)
                    && slice.json().pointer("/endpoints").and_then(Value::as_array).is_some_and(
                        |all| all.iter().any(|endpoint| endpoint["conditions"]["ready"] == true),
                    )
            })
        };
        let ready = match self.find::<HttpRoute>("api-service") {
            None => behind("api-service"),
            Some(route) => {
                let backends = route.json().pointer("/spec/rules/0/backendRefs").cloned().unwrap();
                backends.as_array().unwrap().iter().all(|backend| {
                    backend["weight"] == 0 || behind(backend["name"].as_str().unwrap())
                })
            }
        };
        assert!(ready || !self.served, "users find no pod");
        self.served = ready;
    }

    fn run_until(&mut self, what: &str, done: impl Fn(&Self) -> bool) -> i64 {
        for seconds in 0..3600 {
            if done(self) {
                return seconds;
            }
            self.second();
        }
        let mut events: Vec<_> = self.all::<Event>();
        events.sort_by_key(|event| event.revision().0.parse::<u64>().unwrap_or_default());
        for event in events {
            eprintln_event(&event);
        }
        unreachable!("never {what}: {}", self.text::<Canary>("api-service", "/status"))
    }

    fn phase(&self) -> String {
        self.text::<Canary>("api-service", "/status/phase")
    }

    fn release(&self, version: &str) {
        self.patch(
            &Key::of::<Deployment>(NS, "api-service"),
            json!({"spec": {"template": {"spec": {"containers": [{"name": "app",
                "image": format!("evenkeel/demo:{version}"),
                "ports": [{"containerPort": 8080}]}]}}}}),
        );
    }
}

#[expect(clippy::print_stderr, reason = "shown only when the test fails")]
fn eprintln_event(event: &Obj) {
    eprintln!("{}", event.json()["message"]);
}

fn api_service() -> Value {
    json!({"metadata": {"name": "api-service", "namespace": NS},
        "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "api-service"}},
            "template": {"metadata": {"labels": {"app": "api-service"}},
                "spec": {"containers": [{"name": "app", "image": "evenkeel/demo:1",
                    "ports": [{"containerPort": 8080}]}]}}}})
}

#[test]
fn the_articles_canary_lives_its_life_on_the_embedded_api() {
    let mut cluster = Cluster::new();
    // A service that runs already, as users know it.
    cluster.create::<Service>(json!({"metadata": {"name": "api-service", "namespace": NS},
        "spec": {"selector": {"app": "api-service"},
            "ports": [{"name": "http", "port": 80, "targetPort": 8080}]}}));
    cluster.create::<Deployment>(api_service());
    (0..5).for_each(|_| cluster.second());
    let mut canary: Value = serde_saphyr::from_str(include_str!("world/canary.yaml")).unwrap();
    canary["metadata"]["namespace"] = NS.into();
    cluster.create::<Canary>(canary);
    let took = cluster.run_until("initialized", |c| c.phase() == "Initialized");
    assert!(took < 60, "{took}");
    let apex = cluster.find::<Service>("api-service").unwrap();
    assert_eq!(apex.json().pointer("/spec/selector/app").unwrap(), "api-service-primary");
    assert!(apex.controller().is_none(), "a Service that was there before is not taken over");
    (0..5).for_each(|_| cluster.second());
    assert_eq!(cluster.text::<Deployment>("api-service", "/spec/replicas"), "0");

    cluster.release("2");
    let took = cluster.run_until("succeeded", |c| c.phase() == "Succeeded");
    assert!((480..500).contains(&took), "{took}");
    let image = "/spec/template/spec/containers/0/image";
    assert_eq!(cluster.text::<Deployment>("api-service-primary", image), "evenkeel/demo:2");

    *cluster.failed.lock().unwrap() = 0.05;
    cluster.release("3");
    let took = cluster.run_until("failed", |c| c.phase() == "Failed");
    // One interval to start, then ten failed checks.
    assert!((660..680).contains(&took), "{took}");
    assert_eq!(cluster.text::<Deployment>("api-service-primary", image), "evenkeel/demo:2");
    assert_eq!(cluster.text::<Canary>("api-service", "/status/canaryWeight"), "0");

    // A settled Canary writes nothing.
    (0..5).for_each(|_| cluster.second());
    let revision = cluster.find::<Canary>("api-service").unwrap().revision();
    (0..300).for_each(|_| cluster.second());
    assert_eq!(cluster.find::<Canary>("api-service").unwrap().revision(), revision);

    block_on(
        cluster.store.delete(&Key::of::<Canary>(NS, "api-service"), &DeleteOptions::default()),
    )
    .unwrap();
    cluster.run_until("deleted", |c| c.find::<Canary>("api-service").is_none());
    cluster.run_until("collected", |c| c.find::<Deployment>("api-service-primary").is_none());
    (0..5).for_each(|_| cluster.second());
    let apex = cluster.find::<Service>("api-service").unwrap();
    assert_eq!(apex.json().pointer("/spec/selector/app").unwrap(), "api-service");
    assert_eq!(cluster.text::<Deployment>("api-service", "/status/availableReplicas"), "3");
}

#[test]
fn what_the_api_server_refuses_stands_on_the_canary() {
    let mut cluster = Cluster::new();
    cluster.create::<Deployment>(api_service());
    let mut canary: Value = serde_saphyr::from_str(include_str!("world/canary.yaml")).unwrap();
    canary["metadata"]["namespace"] = NS.into();
    canary["spec"]["service"]["portName"] = "Not A Name".into();
    cluster.create::<Canary>(canary);
    (0..30).for_each(|_| cluster.second());
    assert_eq!(cluster.phase(), "Initializing");
    let conditions = cluster.text::<Canary>("api-service", "/status/conditions");
    assert!(
        conditions.contains("Stalled") && conditions.contains("spec.ports[0].name"),
        "{conditions}"
    );
    let corrected = json!({"spec": {"service": {"portName": "http"}}});
    cluster.patch(&Key::of::<Canary>(NS, "api-service"), corrected);
    cluster.run_until("initialized", |c| c.phase() == "Initialized");
    let conditions = cluster.text::<Canary>("api-service", "/status/conditions");
    assert!(!conditions.contains("Stalled"), "{conditions}");
}

#[test]
fn a_shared_config_outlives_the_canary_that_is_deleted() {
    let mut cluster = Cluster::new();
    cluster.create::<ConfigMap>(
        json!({"metadata": {"name": "shared", "namespace": NS}, "data": {"mode": "a"}}),
    );
    let names = ["api-service", "other"];
    for name in names {
        let text = api_service().to_string().replace("api-service", name);
        let mut deployment: Value = serde_json::from_str(&text).unwrap();
        deployment["spec"]["template"]["spec"]["containers"][0]["envFrom"] =
            json!([{"configMapRef": {"name": "shared"}}]);
        cluster.create::<Deployment>(deployment);
        let text = include_str!("world/canary.yaml").replace("api-service", name);
        let mut canary: Value = serde_saphyr::from_str(&text).unwrap();
        canary["metadata"]["namespace"] = NS.into();
        cluster.create::<Canary>(canary);
    }
    let phase = |c: &Cluster, name: &str| c.text::<Canary>(name, "/status/phase");
    cluster.run_until("initialized", |c| names.iter().all(|name| phase(c, name) == "Initialized"));
    let used = |c: &Cluster, name: &str| {
        let path = "/spec/template/spec/containers/0/envFrom/0/configMapRef/name";
        c.text::<Deployment>(&format!("{name}-primary"), path)
    };
    let (first, second) = (used(&cluster, "api-service"), used(&cluster, "other"));
    assert_ne!(first, second);
    let key = Key::of::<Canary>(NS, "api-service");
    block_on(cluster.store.delete(&key, &DeleteOptions::default())).unwrap();
    cluster.run_until("deleted", |c| c.find::<Canary>("api-service").is_none());
    cluster.run_until("collected", |c| c.find::<ConfigMap>(&first).is_none());
    (0..30).for_each(|_| cluster.second());
    assert!(cluster.find::<ConfigMap>(&second).is_some());
}

/// Ready pods behind the apex: the canary's, and the primary's.
fn behind_apex(cluster: &Cluster) -> (usize, usize) {
    let slices = cluster.all::<EndpointSlice>();
    let of_apex = slices
        .iter()
        .filter(|slice| slice.label("kubernetes.io/service-name") == Some("api-service"));
    let endpoints = of_apex.filter_map(|slice| slice.json()["endpoints"].as_array().cloned());
    let ready = endpoints.flatten().filter(|one| one["conditions"]["ready"] == true);
    let names: Vec<String> =
        ready.filter_map(|one| one["targetRef"]["name"].as_str().map(str::to_owned)).collect();
    let primary = names.iter().filter(|name| name.starts_with("api-service-primary-")).count();
    (names.len() - primary, primary)
}

#[test]
fn a_plain_service_shares_requests_by_pods_on_the_embedded_api() {
    let mut cluster = Cluster::new();
    cluster.create::<Deployment>(api_service());
    let mut canary: Value = serde_saphyr::from_str(include_str!("world/canary.yaml")).unwrap();
    canary["metadata"]["namespace"] = NS.into();
    canary["spec"]["provider"] = "kubernetes".into();
    for field in ["gateways", "hosts"] {
        canary["spec"]["service"].as_object_mut().unwrap().shift_remove(field);
    }
    // Pods count in seconds, of which these metrics know nothing.
    canary["spec"]["analysis"]["metrics"].as_array_mut().unwrap().truncate(1);
    cluster.create::<Canary>(canary);
    cluster.run_until("initialized", |c| c.phase() == "Initialized");
    let mut seen = Vec::new();
    let mut live = |cluster: &mut Cluster, phase: &str| {
        for _ in 0..3600 {
            cluster.second();
            let now = behind_apex(cluster);
            // All of the primary, but for the one that is replaced while it is promoted.
            assert!(now.0 <= 3 && now.0 + now.1 >= 3, "{now:?}: {seen:?}");
            if seen.last() != Some(&now) {
                seen.push(now);
            }
            if cluster.phase() == phase {
                return std::mem::take(&mut seen);
            }
        }
        let status = cluster.text::<Canary>("api-service", "/status");
        unreachable!("never {phase}: {seen:?} {status}");
    };
    cluster.release("2");
    let seen = live(&mut cluster, "Succeeded");
    assert!(seen.starts_with(&[(0, 3), (1, 3), (2, 3), (3, 3)]), "{seen:?}");
    assert_eq!(seen.last(), Some(&(0, 3)));
    *cluster.failed.lock().unwrap() = 0.05;
    cluster.release("3");
    assert_eq!(live(&mut cluster, "Failed"), [(0, 3), (1, 3), (0, 3)]);
    let image = "/spec/template/spec/containers/0/image";
    assert_eq!(cluster.text::<Deployment>("api-service-primary", image), "evenkeel/demo:2");
    let key = Key::of::<Canary>(NS, "api-service");
    block_on(cluster.store.delete(&key, &DeleteOptions::default())).unwrap();
    cluster.run_until("deleted", |c| c.find::<Canary>("api-service").is_none());
    assert_eq!(behind_apex(&cluster), (3, 0));
}
