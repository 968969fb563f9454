//! What the domains cost the API server when nothing is to be done, counted over a real connection
//! with the cache of `evenkeel run`.
#![expect(clippy::unwrap_used, reason = "a step that fails fails the test")]

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use evenkeel_api::{
    Key, Obj,
    canary::Canary,
    slo::{PrometheusRule, PrometheusServiceLevel},
};
use evenkeel_assembly::{Assembly, Settings};
use evenkeel_base::Rng;
use evenkeel_cluster::{
    ApiServer, NoExec, NoLogs,
    http::{self, HttpOptions, Serving},
};
use evenkeel_control::{
    BoxFuture, Host, ListQuery, Metrics, MetricsError, Objection, Observer, Pass, Patch, Sample,
    Series, Span, Store, Subresource, WatchEvent, WriteOptions,
};
use evenkeel_live::{CachedStore, LiveSettings, RealTime, connect_with};
use futures::StreamExt as _;
use jiff::Timestamp;
use k8s_openapi::api::{apps::v1::Deployment, core::v1::ConfigMap};
use serde_json::{Value, json};

const NS: &str = "shop";
const STATUS: WriteOptions =
    WriteOptions { subresource: Some(Subresource::Status), expect: None, manager: "test" };
/// Generous, for machines that do much else.
const PATIENCE: Duration = Duration::from_mins(3);
const POLL: Duration = Duration::from_millis(20);
/// Looks without a pass that mean that all is at rest.
const QUIET: u32 = 50;

/// Passes by `CONTROLLER OBJECT`.
#[derive(Default)]
struct Passes(Mutex<BTreeMap<String, u64>>);

impl Passes {
    fn all(&self) -> BTreeMap<String, u64> {
        self.0.lock().unwrap().clone()
    }

    fn of(&self, object: &str) -> u64 {
        self.0.lock().unwrap().get(object).copied().unwrap_or_default()
    }
}

impl Observer for Passes {
    fn passed(&self, pass: &Pass) {
        let of = format!("{} {}", pass.controller, pass.object);
        *self.0.lock().unwrap().entry(of).or_default() += 1;
    }
    fn planned(&self, _: &'static str, _: &'static str) {}
    fn acted(&self, _: &'static str, _: &'static str, _: &'static str) {}
    fn judged(&self, _: &'static str, _: &'static str, _: &[Objection]) {}
    fn watch_interrupted(&self, _: &'static str) {}
    fn queued(&self, _: &'static str, _: usize) {}
    fn led(&self, _: &Key, _: bool) {}
}

/// A metrics server that has nothing.
struct Empty;

impl Metrics for Empty {
    fn query<'a>(
        &'a self,
        _: &'a str,
        _: Timestamp,
    ) -> BoxFuture<'a, Result<Vec<Sample>, MetricsError>> {
        Box::pin(async { Ok(Vec::new()) })
    }

    fn query_range<'a>(
        &'a self,
        _: &'a str,
        _: Span,
    ) -> BoxFuture<'a, Result<Vec<Series>, MetricsError>> {
        Box::pin(async { Ok(Vec::new()) })
    }
}

fn deployment(name: &str) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": name, "namespace": NS},
        "spec": {"replicas": 1, "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}},
                "spec": {"containers": [{"name": "app", "image": "evenkeel/demo:1"}]}}}})
}

fn canary(name: &str) -> Value {
    json!({"apiVersion": "flagger.app/v1beta1", "kind": "Canary",
        "metadata": {"name": name, "namespace": NS},
        "spec": {"targetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": name},
            "service": {"port": 80}, "analysis": {"interval": "1m", "threshold": 2,
                "maxWeight": 50, "stepWeight": 10}}})
}

fn slo(name: &str) -> Value {
    let query =
        |filter: &str| format!("sum(rate(hits{{app=\"{name}\"{filter}}}[{{{{.window}}}}]))");
    json!({"apiVersion": "sloth.slok.dev/v1", "kind": "PrometheusServiceLevel",
        "metadata": {"name": name, "namespace": NS},
        "spec": {"service": name, "slos": [{"name": "requests", "objective": 99.9,
            "sli": {"events": {"errorQuery": query(",code=~\"5..\""), "totalQuery": query("")}},
            "alerting": {"name": "Errors", "pageAlert": {"disable": true},
                "ticketAlert": {"disable": true}}}]}})
}

/// What nodes do: every replica that is wanted serves.
async fn roll(store: Arc<dyn Store>) {
    let mut events = store.watch(ListQuery::of::<Deployment>());
    while let Some(event) = events.next().await {
        let Ok(WatchEvent::Applied(obj)) = event else { continue };
        let wanted = obj.json()["spec"]["replicas"].as_i64().unwrap_or(1);
        let status = json!({"status": {"observedGeneration": obj.generation(),
            "replicas": wanted, "updatedReplicas": wanted, "readyReplicas": wanted,
            "availableReplicas": wanted}});
        // A change that changes nothing is no event.
        store.patch(obj.key(), &Patch::Merge(status), &STATUS).await.unwrap();
    }
}

struct World {
    truth: Arc<dyn Store>,
    cached: CachedStore,
    passes: Arc<Passes>,
    names: Vec<String>,
    tasks: tokio::task::JoinSet<()>,
    /// Ends with it.
    _serving: Serving,
}

impl World {
    /// So many Canaries and SLOs, at rest.
    async fn at_rest(canaries: usize, slos: usize, look_every: Duration) -> Self {
        let time = Arc::new(RealTime::start());
        let server = ApiServer::new(time.clone(), Rng::new(1));
        let truth = server.store();
        let options = HttpOptions {
            addr: ([127, 0, 0, 1], 0).into(),
            tokens: BTreeMap::from([("token".to_owned(), "admin".to_owned())]),
            logs: Arc::new(NoLogs),
            exec: Arc::new(NoExec),
            tls_dir: None,
        };
        let serving = http::serve(server, options).await.unwrap();
        let names: Vec<String> = (0..canaries).map(|n| format!("app-{n:02}")).collect();
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NS}});
        let mut objects = evenkeel_api::crds();
        objects.push(namespace);
        objects.extend(names.iter().flat_map(|name| [deployment(name), canary(name)]));
        objects.extend((0..slos).map(|n| slo(&format!("app-{n:02}"))));
        for object in objects {
            let object = Obj::from_json(object).unwrap();
            truth.create(&object, &WriteOptions::default()).await.unwrap();
        }
        let file = format!("rest-{canaries}-{slos}.kubeconfig");
        let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(file);
        fs::write(&file, http::kubeconfig(&serving, "token")).unwrap();
        let live = connect_with(Some(&file), LiveSettings::default()).await.unwrap();
        let cached = CachedStore::new(live);
        let store: Arc<dyn Store> = Arc::new(cached.clone());
        let passes = Arc::new(Passes::default());
        let host = Host::new(&store, time.clone(), time)
            .with_metrics(Arc::new(Empty))
            .with_observer(passes.clone());
        let settings = Settings { confirm: false, metric_servers: None, look_every };
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(Assembly::new(host, settings).run());
        tasks.spawn(roll(truth.clone()));
        let world = Self { truth, cached, passes, names, tasks, _serving: serving };
        world.settle(slos).await;
        world
    }

    /// Waits until all is made that is to be made, and nobody looks at anything but SLOs.
    async fn settle(&self, slos: usize) {
        until("everything is initialized", async || {
            let rules = ListQuery::of::<PrometheusRule>();
            let rules = self.truth.list(&rules).await.unwrap().items.len();
            let canaries = self.truth.list(&ListQuery::of::<Canary>()).await.unwrap().items;
            let levels = ListQuery::of::<PrometheusServiceLevel>();
            let levels = self.truth.list(&levels).await.unwrap().items;
            rules == slos
                && canaries.iter().all(|obj| obj.json()["status"]["phase"] == "Initialized")
                && levels.iter().all(|obj| obj.json()["status"]["slos"].is_array())
        })
        .await;
        self.quiet().await;
    }

    /// Waits until no Canary was looked at for a while.
    async fn quiet(&self) {
        let mut looks = 0;
        let mut seen = BTreeMap::new();
        until("all is at rest", async || {
            let mut now = self.passes.all();
            now.retain(|of, _| of.starts_with("delivery "));
            looks = if now == seen { looks + 1 } else { 0 };
            seen = now;
            looks >= QUIET
        })
        .await;
    }

    /// Reads and writes that the server was asked for; watches are opened anew by time.
    fn requests(&self) -> (u64, u64) {
        let counts = self.cached.counts();
        let of = |verbs: &[&str]| verbs.iter().map(|verb| counts.of(verb)).sum();
        (of(&["get", "list"]), of(&["create", "update", "patch", "delete"]))
    }
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !holds().await {
            tokio::time::sleep(POLL).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, waiting).await.is_ok(), "waited for: {what}");
}

/// Each write to a `ConfigMap` makes every Canary of its namespace look at it, for any of them may
/// use it. What they need to know comes from watches.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_config_map_that_is_written_beside_50_canaries_and_50_slos_costs_no_request() {
    let mut world = World::at_rest(50, 50, Duration::from_hours(1)).await;
    let key = Key::of::<ConfigMap>(NS, "settings");
    let settings = json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "settings", "namespace": NS}, "data": {"n": "0"}});
    let options = WriteOptions::default();
    world.truth.create(&Obj::from_json(settings).unwrap(), &options).await.unwrap();
    world.quiet().await;
    let before = world.requests();
    assert!(before.0 > 0 && before.1 > 50, "what was made was counted: {before:?}");
    for n in 1..=5 {
        let passes = world.passes.all();
        let patch = Patch::Merge(json!({"data": {"n": n.to_string()}}));
        world.truth.patch(&key, &patch, &options).await.unwrap();
        until("every Canary has looked", async || {
            world.names.iter().all(|name| {
                let of = format!("delivery Canary/{NS}/{name}");
                world.passes.of(&of) > passes.get(&of).copied().unwrap_or_default()
            })
        })
        .await;
        world.quiet().await;
    }
    let after = world.requests();
    assert_eq!((after.0 - before.0, after.1 - before.1), (0, 0), "{:?}", world.cached.counts());
    world.tasks.shutdown().await;
}

/// The states of SLOs go into Canaries; where nothing changes, nothing is written.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_slos_and_a_canary_at_rest_cost_no_request() {
    let mut world = World::at_rest(1, 2, Duration::from_millis(50)).await;
    let looks = |world: &World| {
        ["app-00", "app-01"].map(|name| {
            let all = world.passes.all();
            let of = format!("PrometheusServiceLevel/{NS}/{name}");
            all.iter().filter(|(who, _)| who.ends_with(&of)).map(|(_, n)| n).max().copied()
        })
    };
    let (before, begun) = (world.requests(), looks(&world));
    until("each SLO was looked at 20 times", async || {
        let now = looks(&world);
        now.iter().zip(&begun).all(|(now, begun)| now.unwrap_or(0) >= begun.unwrap_or(0) + 20)
    })
    .await;
    let after = world.requests();
    // Each SLO is written once in two minutes, and the Canary with it.
    assert_eq!(after.0 - before.0, 0, "{:?}", world.cached.counts());
    assert!(after.1 - before.1 <= 3, "{:?}", world.cached.counts());
    world.tasks.shutdown().await;
}
