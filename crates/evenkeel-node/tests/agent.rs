//! The agent on the embedded API, with a simulated runtime, under virtual time.
#![expect(clippy::unwrap_used, reason = "a setup that fails is a test that fails")]

#[path = "agent/volumes.rs"]
mod volumes;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use evenkeel_api::{
    Key, Obj,
    gate::{DRAINED, TERMINATION_GATE},
};
use evenkeel_base::{Clock, Rng};
use evenkeel_cluster::ApiServer;
use evenkeel_control::{
    BoxFuture, DeleteOptions, HostPorts, ListQuery, Patch, Store, Subresource, Timer, WatchEvent,
    WriteOptions,
};
use evenkeel_node::{
    agent::{self, AgentConfig},
    probe::Outcome,
    runtime::{
        Adopted, Check, ContainerRef, ExecOutput, Exit, Mount, ProbeReply, Runtime, RuntimeError,
        Signal, StartError, StartOrder, Started,
    },
};
use futures::StreamExt as _;
use jiff::Timestamp;
use k8s_openapi::{
    api::{
        coordination::v1::Lease,
        core::v1::{Event, Node},
    },
    apimachinery::pkg::apis::meta::v1::MicroTime,
};
use serde_json::{Value, json};
use tokio::{sync::watch, task::JoinHandle};

/// Virtual time since the start of the test.
struct VirtualClock(tokio::time::Instant);

impl Clock for VirtualClock {
    fn now(&self) -> Timestamp {
        Timestamp::UNIX_EPOCH + Duration::from_hours(24) + self.0.elapsed()
    }
}

struct TokioTimer;

impl Timer for TokioTimer {
    fn sleep(&self, wait: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(wait))
    }
}

/// A run: when it began, and where its exit code goes.
type Run = (Started, watch::Sender<Option<i32>>);

/// Simulated containers: they start at once, end on request, and are as healthy as set.
struct FakeRuntime {
    clock: Arc<dyn Clock>,
    said: Mutex<Vec<String>>,
    runs: Mutex<BTreeMap<ContainerRef, Run>>,
    healthy: watch::Sender<bool>,
    env: Mutex<BTreeMap<String, String>>,
    mounts: Mutex<Vec<Mount>>,
    /// Whether a probe reports until when nothing changes.
    reports_changes: bool,
}

impl FakeRuntime {
    fn new(clock: &Arc<dyn Clock>, reports_changes: bool) -> Arc<Self> {
        Arc::new(Self {
            clock: clock.clone(),
            said: Mutex::default(),
            runs: Mutex::default(),
            healthy: watch::Sender::new(true),
            env: Mutex::default(),
            mounts: Mutex::default(),
            reports_changes,
        })
    }

    fn say(&self, what: &str) {
        let second = self.clock.now().as_second() - 86_400;
        self.said.lock().unwrap().push(format!("{second} {what}"));
    }

    fn said(&self) -> String {
        self.said.lock().unwrap().join("\n")
    }

    fn end(&self, container: &ContainerRef, code: i32) {
        self.runs.lock().unwrap()[container].1.send_replace(Some(code));
    }

    fn end_all(&self, code: i32) {
        for (_, end) in self.runs.lock().unwrap().values() {
            end.send_replace(Some(code));
        }
    }
}

impl Runtime for FakeRuntime {
    fn adopt(&self) -> BoxFuture<'_, Vec<Adopted>> {
        let runs = self.runs.lock().unwrap();
        let adopted = |(container, (started, _)): (&ContainerRef, &Run)| Adopted {
            container: container.clone(),
            started: started.clone(),
            exit: None,
        };
        let found = runs.iter().map(adopted).collect();
        Box::pin(async move { found })
    }

    fn start<'a>(&'a self, order: &'a StartOrder) -> BoxFuture<'a, Result<Started, StartError>> {
        let ContainerRef { container, attempt, .. } = &order.container;
        self.say(&format!("start {container}#{attempt} on {}", order.ip));
        self.env.lock().unwrap().clone_from(&order.env);
        self.mounts.lock().unwrap().clone_from(&order.mounts);
        let id = format!("runtime://{container}{attempt}");
        let started = Started { id, at: self.clock.now() };
        let run = (started.clone(), watch::Sender::new(None));
        self.runs.lock().unwrap().insert(order.container.clone(), run);
        Box::pin(async move { Ok(started) })
    }

    fn wait<'a>(&'a self, container: &'a ContainerRef) -> BoxFuture<'a, Exit> {
        let mut end = self.runs.lock().unwrap()[container].1.subscribe();
        Box::pin(async move {
            let code = end.wait_for(Option::is_some).await.unwrap().unwrap();
            Exit { code, at: self.clock.now(), unseen: None }
        })
    }

    fn signal<'a>(&'a self, container: &'a ContainerRef, signal: Signal) -> BoxFuture<'a, ()> {
        self.say(&format!("{signal:?} {}", container.container));
        self.end(container, if signal == Signal::Term { 143 } else { 137 });
        Box::pin(async {})
    }

    fn exec<'a>(
        &'a self,
        _: &'a ContainerRef,
        command: &'a [String],
    ) -> BoxFuture<'a, Result<ExecOutput, RuntimeError>> {
        self.say(&format!("exec {}", command.join(" ")));
        Box::pin(async { Ok(ExecOutput::default()) })
    }

    fn probe<'a>(&'a self, container: &'a ContainerRef, _: &'a Check) -> BoxFuture<'a, ProbeReply> {
        let mut healthy = self.healthy.subscribe();
        let is_healthy = *healthy.borrow_and_update();
        self.say(&format!("probe {} {is_healthy}", container.container));
        let outcome =
            if is_healthy { Outcome::Success } else { Outcome::Failure("down".to_owned()) };
        let change = async move { healthy.changed().await.unwrap() };
        let steady_until = self.reports_changes.then(|| Box::pin(change) as _);
        Box::pin(async { ProbeReply { outcome, steady_until } })
    }

    fn remove<'a>(&'a self, pod_uid: &'a str) -> BoxFuture<'a, ()> {
        self.say("remove");
        self.runs.lock().unwrap().retain(|container, _| container.pod_uid != pod_uid);
        Box::pin(async {})
    }
}

struct World {
    store: Arc<dyn Store>,
    server: Arc<ApiServer>,
    ports: HostPorts,
    runtime: Arc<FakeRuntime>,
    config: AgentConfig,
}

impl World {
    fn new(reports_changes: bool) -> Self {
        let clock: Arc<dyn Clock> = Arc::new(VirtualClock(tokio::time::Instant::now()));
        let server = ApiServer::new(clock.clone(), Rng::new(1));
        let store = server.store();
        let ports = HostPorts::new(&store, clock.clone(), Arc::new(TokioTimer));
        let mut config = AgentConfig::named("n1");
        config.pod_cidr = Some("127.64.0.0/16".to_owned());
        config.zone = Some("z1".to_owned());
        config.lease_period = None;
        Self { store, server, ports, runtime: FakeRuntime::new(&clock, reports_changes), config }
    }

    fn start(&self) -> JoinHandle<Result<(), agent::AgentError>> {
        tokio::spawn(agent::run(self.config.clone(), self.ports.clone(), self.runtime.clone()))
    }

    async fn pod(&self, name: &str, spec: &str, annotation: Option<&str>) -> Key {
        let mut spec: Value = serde_saphyr::from_str(spec).unwrap();
        spec["nodeName"] = json!("n1");
        let annotations = annotation.map_or_else(|| json!({}), |name| json!({name: "gateway"}));
        let pod = Obj::from_json(json!({"apiVersion": "v1", "kind": "Pod", "spec": spec,
            "metadata": {"name": name, "namespace": "default", "annotations": annotations}}));
        let options = WriteOptions { manager: "test", ..WriteOptions::default() };
        self.store.create(&pod.unwrap(), &options).await.unwrap().key().clone()
    }

    /// Follows an object until it fits; `None` is: it is gone.
    async fn until(&self, key: &Key, fits: impl Fn(Option<&Obj>) -> bool) -> Option<Arc<Obj>> {
        let mut watch = self.store.watch(ListQuery::all(key.kind.clone()));
        let mut last = None;
        let waiting = async {
            let mut known = false;
            while let Some(event) = watch.next().await {
                match event.unwrap() {
                    WatchEvent::Applied(object) if object.key() == key => last = Some(object),
                    WatchEvent::Deleted(object) if object.key() == key => last = None,
                    WatchEvent::Synced => known = true,
                    _ => {}
                }
                if known && fits(last.as_deref()) {
                    return;
                }
            }
        };
        let waited = tokio::time::timeout(Duration::from_mins(10), waiting).await;
        assert!(
            waited.is_ok(),
            "the condition was never met: {:?}",
            last.map(|o| o.json().clone())
        );
        last
    }

    async fn until_ready(&self, key: &Key, status: &str) -> Arc<Obj> {
        self.until(key, |pod| pod.is_some_and(|pod| ready(pod) == status)).await.unwrap()
    }

    async fn delete(&self, key: &Key, grace_seconds: Option<i64>) {
        let options = DeleteOptions { grace_seconds, ..DeleteOptions::default() };
        self.store.delete(key, &options).await.unwrap();
    }

    async fn patch(&self, key: &Key, body: Value, subresource: Option<Subresource>) {
        let options = WriteOptions { subresource, expect: None, manager: "test" };
        self.store.patch(key, &Patch::Strategic(body), &options).await.unwrap();
    }

    async fn events(&self) -> Vec<String> {
        let query = ListQuery::all(evenkeel_api::GroupKind::of::<Event>());
        let events = self.store.list(&query).await.unwrap().items;
        let text = |event: &Arc<Obj>| {
            let event = event.get::<Event>().unwrap();
            format!("{} {}", event.reason.as_ref().unwrap(), event.count.unwrap())
        };
        events.iter().map(text).collect()
    }

    fn seconds(&self) -> i64 {
        self.ports.clock.now().as_second() - 86_400
    }
}

fn ready(pod: &Obj) -> String {
    let conditions = pod.json().pointer("/status/conditions").and_then(Value::as_array);
    let mut all = conditions.into_iter().flatten();
    let found = all.find(|condition| condition["type"] == "Ready");
    found.map_or_else(String::new, |found| found["status"].as_str().unwrap().to_owned())
}

const PROBED: &str = "{containers: [{name: a, image: i, \
    readinessProbe: {tcpSocket: {port: 80}, failureThreshold: 1}}]}";

#[tokio::test(start_paused = true)]
async fn a_node_registers_and_its_pods_become_ready() {
    let world = World::new(false);
    let _agent = world.start();
    let node = Key::of::<Node>("", "n1");
    let node = world.until(&node, |node| node.is_some_and(|n| ready(n) == "True")).await.unwrap();
    assert_eq!(node.label("topology.kubernetes.io/zone"), Some("z1"));
    assert_eq!(node.json()["spec"]["podCIDR"], "127.64.0.0/16");
    assert_eq!(node.json()["status"]["allocatable"]["cpu"], "4");

    let key = world.pod("web", PROBED, None).await;
    let pod = world.until_ready(&key, "True").await;
    let status = &pod.json()["status"];
    assert_eq!((&status["phase"], &status["podIP"]), (&json!("Running"), &json!("127.64.0.2")));
    assert_eq!(status["hostIP"], "127.64.0.1");
    assert_eq!(status["containerStatuses"][0]["containerID"], "runtime://a0");
    let env = world.runtime.env.lock().unwrap().clone();
    assert_eq!((env["POD_IP"].as_str(), env["NODE_NAME"].as_str()), ("127.64.0.2", "n1"));
}

#[tokio::test(start_paused = true)]
async fn events_are_listed_as_they_came_and_counted_when_they_come_again() {
    let world = World::new(false);
    let _agent = world.start();
    let key = world.pod("web", PROBED, None).await;
    world.until_ready(&key, "True").await;
    // All of one instant: what is listed by name is listed by time, too.
    assert_eq!(world.events().await, ["Pulled 1", "Created 1", "Started 1"]);
    world.runtime.end_all(1);
    world.until_ready(&key, "False").await;
    world.until_ready(&key, "True").await;
    assert_eq!(world.events().await, ["Pulled 2", "Created 2", "Started 2"]);
}

#[tokio::test(start_paused = true)]
async fn what_is_kept_back_of_a_node_is_not_allocatable() {
    let mut world = World::new(false);
    world.config.allocatable = BTreeMap::from([("cpu".to_owned(), "3920m".to_owned())]);
    let _agent = world.start();
    let node = Key::of::<Node>("", "n1");
    let node = world.until(&node, |node| node.is_some_and(|n| ready(n) == "True")).await.unwrap();
    let status = &node.json()["status"];
    assert_eq!(
        (&status["capacity"]["cpu"], &status["allocatable"]["cpu"]),
        (&json!("4"), &json!("3920m"))
    );
    assert_eq!(status["allocatable"]["memory"], status["capacity"]["memory"]);
}

#[tokio::test(start_paused = true)]
async fn readiness_is_written_when_it_changes_and_only_then() {
    let world = World::new(false);
    let _agent = world.start();
    let key = world.pod("web", PROBED, None).await;
    world.until_ready(&key, "True").await;
    let before = world.server.revision();
    tokio::time::sleep(Duration::from_mins(5)).await;
    assert_eq!(world.server.revision(), before, "a write without a reason");
    world.runtime.healthy.send_replace(false);
    let pod = world.until_ready(&key, "False").await;
    assert_eq!(pod.json()["status"]["containerStatuses"][0]["restartCount"], 0);
    world.runtime.healthy.send_replace(true);
    world.until_ready(&key, "True").await;
}

#[tokio::test(start_paused = true)]
async fn a_runtime_that_reports_changes_makes_a_steady_pod_cost_nothing() {
    let world = World::new(true);
    let _agent = world.start();
    let key = world.pod("web", PROBED, None).await;
    world.until_ready(&key, "True").await;
    tokio::time::sleep(Duration::from_hours(1)).await;
    assert_eq!(world.runtime.said().matches("probe").count(), 1);
    // A change is seen at the next time on the grid, as if it had been probed all along.
    let changed = world.seconds();
    world.runtime.healthy.send_replace(false);
    world.until_ready(&key, "False").await;
    assert!((0..=10).contains(&(world.seconds() - changed)));
    assert_eq!(world.runtime.said().matches("probe").count(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_deleted_pod_is_asked_to_stop_and_then_its_object_goes() {
    let world = World::new(false);
    let _agent = world.start();
    let key = world.pod("web", PROBED, None).await;
    world.until_ready(&key, "True").await;
    let began = world.seconds();
    world.delete(&key, None).await;
    world.until(&key, |pod| pod.is_none()).await;
    assert_eq!(world.seconds(), began, "nothing to wait for");
    let said = world.runtime.said();
    let order: Vec<_> = said.lines().filter(|line| !line.contains("probe")).collect();
    assert_eq!(order, ["0 start a#0 on 127.64.0.2", "0 Term a", "0 remove"]);
    // Its address goes to another pod last of all.
    let key = world.pod("next", PROBED, None).await;
    let pod = world.until_ready(&key, "True").await;
    assert_eq!(pod.json()["status"]["podIP"], "127.64.0.3");
}

#[tokio::test(start_paused = true)]
async fn a_gated_pod_is_stopped_once_the_gateway_has_emptied_it() {
    let world = World::new(false);
    let _agent = world.start();
    let key = world.pod("web", PROBED, Some(TERMINATION_GATE)).await;
    world.until_ready(&key, "True").await;
    world.delete(&key, None).await;
    tokio::time::sleep(Duration::from_secs(7)).await;
    assert!(!world.runtime.said().contains("Term"));
    let uid = world.store.get(&key).await.unwrap().unwrap().uid().to_owned();
    let drained = json!({"metadata": {"annotations": {DRAINED: uid}}});
    world.patch(&key, drained, None).await;
    world.until(&key, |pod| pod.is_none()).await;
    assert!(world.runtime.said().contains("7 Term a"), "{}", world.runtime.said());

    // The gate is not opened: two seconds of the grace period are left for stopping.
    let key = world.pod("other", PROBED, Some(TERMINATION_GATE)).await;
    world.until_ready(&key, "True").await;
    let began = world.seconds();
    world.delete(&key, Some(20)).await;
    world.until(&key, |pod| pod.is_none()).await;
    assert_eq!(world.seconds() - began, 18);
}

#[tokio::test(start_paused = true)]
async fn a_crashed_container_comes_back_under_the_same_address() {
    let world = World::new(false);
    let _agent = world.start();
    let key = world.pod("web", PROBED, None).await;
    world.until_ready(&key, "True").await;
    world.runtime.end_all(137);
    world.until_ready(&key, "False").await;
    let pod = world.until_ready(&key, "True").await;
    let status = &pod.json()["status"];
    assert_eq!(status["podIP"], "127.64.0.2");
    assert_eq!(status["containerStatuses"][0]["restartCount"], 1);
    let last = &status["containerStatuses"][0]["lastState"]["terminated"];
    assert_eq!(last["exitCode"], 137);
}

#[tokio::test(start_paused = true)]
async fn the_next_agent_takes_over_without_a_blink() {
    let world = World::new(false);
    let agent = world.start();
    let key = world.pod("web", PROBED, None).await;
    let before = world.until_ready(&key, "True").await;
    let doomed = world.pod("doomed", PROBED, None).await;
    world.until_ready(&doomed, "True").await;
    agent.abort();
    assert!(agent.await.is_err());
    // While no agent runs, one pod is deleted by force.
    world.delete(&doomed, Some(0)).await;
    let _agent = world.start();
    tokio::time::sleep(Duration::from_mins(2)).await;
    let after = world.store.get(&key).await.unwrap().unwrap();
    assert_eq!(after.json()["status"], before.json()["status"]);
    let said = world.runtime.said();
    assert_eq!(said.matches("start").count(), 2, "{said}");
    assert_eq!(said.matches("remove").count(), 1, "{said}");
}

#[tokio::test(start_paused = true)]
async fn a_new_pod_does_not_get_the_address_of_a_running_one() {
    let world = World::new(false);
    let agent = world.start();
    let running = world.pod("web", PROBED, None).await;
    world.until_ready(&running, "True").await;
    agent.abort();
    assert!(agent.await.is_err());
    // The next agent sees this one first.
    let new = world.pod("api", PROBED, None).await;
    let _agent = world.start();
    let new = world.until_ready(&new, "True").await;
    let running = world.store.get(&running).await.unwrap().unwrap();
    assert_eq!(running.json()["status"]["podIP"], "127.64.0.2");
    assert_eq!(new.json()["status"]["podIP"], "127.64.0.3");
}

#[tokio::test(start_paused = true)]
async fn what_others_say_about_node_and_pods_is_set_right() {
    let world = World::new(false);
    let _agent = world.start();
    let key = world.pod("web", PROBED, None).await;
    world.until_ready(&key, "True").await;
    // As the node controller does when the Lease runs out.
    let dead = json!({"status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}});
    let node = Key::of::<Node>("", "n1");
    world.patch(&node, dead, Some(Subresource::Status)).await;
    world.until(&node, |node| node.is_some_and(|node| ready(node) == "True")).await;
    let unready = json!({"status": {"conditions": [{"type": "Ready", "status": "False"}]}});
    world.patch(&key, unready, Some(Subresource::Status)).await;
    world.until_ready(&key, "True").await;
}

#[tokio::test(start_paused = true)]
async fn the_lease_is_renewed_every_ten_seconds() {
    let mut world = World::new(false);
    world.config.lease_period = Some(Duration::from_secs(10));
    let _agent = world.start();
    let key = Key::of::<Lease>("kube-node-lease", "n1");
    tokio::time::sleep(Duration::from_secs(35)).await;
    let lease = world.store.get(&key).await.unwrap().unwrap().get::<Lease>().unwrap();
    let spec = lease.spec.as_ref().unwrap();
    let MicroTime(renewed) = spec.renew_time.clone().unwrap();
    assert_eq!(renewed.as_second() - 86_400, 30);
    assert_eq!(spec.lease_duration_seconds, Some(40));
}

#[tokio::test(start_paused = true)]
async fn a_hook_runs_before_the_signal() {
    let world = World::new(false);
    let _agent = world.start();
    let spec = "{containers: [{name: a, image: i, \
                lifecycle: {preStop: {exec: {command: [drain, now]}}}}]}";
    let key = world.pod("web", spec, None).await;
    world.until_ready(&key, "True").await;
    world.delete(&key, None).await;
    world.until(&key, |pod| pod.is_none()).await;
    let said = world.runtime.said();
    let at = |what: &str| said.find(what).unwrap();
    assert!(at("exec drain now") < at("Term a"), "{said}");
}
