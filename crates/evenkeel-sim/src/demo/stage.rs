//! A whole cluster in one thread: every part is the real one but processes and sockets.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex},
    time::Duration,
};

use evenkeel_api::{GroupKind, Key, Obj, clusterconfig::ClusterConfig};
use evenkeel_assembly::{Assembly, Settings};
use evenkeel_base::Rng;
use evenkeel_cluster::ApiServer;
use evenkeel_control::{
    BoxFuture, HookCall, HookError, HookReply, Hooks, Host, HostPorts, ListQuery, Replies, RunLoop,
    Store, StoreError, WatchEvent, WriteOptions,
};
use evenkeel_delivery::loadtester;
use evenkeel_gateway::{
    Controller, Lag, Setup,
    engine::Switches,
    simulated::{Simulated, Simulation},
};
use evenkeel_guard::{BudgetGate, MemoryDoor};
use evenkeel_node::agent::{self, AgentConfig};
use evenkeel_telemetry::{
    Fetch, FetchError, Fetched, Limits, RuleController, RuleRunner, ScrapeSettings, Scraper,
    Source, Target, Telemetry,
};
use futures::StreamExt as _;
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Node, Service},
};
use serde_json::Value;
use tokio::{sync::watch, task::JoinHandle};

use super::{
    Safeguards,
    clients::Clients,
    fleet::{Fleet, SimRuntime},
    load::{Load, Scene},
    manifests,
    script::{Pace, Release},
    timeline::{Moment, Timeline},
};
use crate::world::time::{Trace, VirtualTime, locked, millis};

/// The article's Canary as written.
pub(super) const PACE: Pace = Pace::ARTICLE;

/// Longest wait for the cluster to stand.
const PATIENCE: Duration = Duration::from_mins(5);
/// Nodes come within this time.
const NODES_WITHIN_MS: u64 = 1_000;
const OPTIONS: WriteOptions = WriteOptions { subresource: None, expect: None, manager: "demo" };

/// What could not even be tried.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Broken(String);

impl Broken {
    /// In these words.
    pub(super) fn new(problem: &str) -> Self {
        Self(problem.to_owned())
    }
}

impl From<StoreError> for Broken {
    fn from(error: StoreError) -> Self {
        Self(error.to_string())
    }
}

/// Everything that runs.
pub(super) struct Stage {
    /// The time.
    pub(super) time: Arc<VirtualTime>,
    /// What happened.
    pub(super) trace: Trace,
    /// The cluster's API.
    pub(super) store: Arc<dyn Store>,
    /// Its processes.
    pub(super) fleet: Arc<Fleet>,
    /// What clients see.
    pub(super) clients: Arc<Mutex<Clients>>,
    /// What the Canary says.
    pub(super) canary: Timeline,
    safeguards: Safeguards,
    host: Host,
    controllers: JoinHandle<()>,
    load: JoinHandle<()>,
    stop_load: watch::Sender<bool>,
}

impl Stage {
    /// Starts the cluster, the controllers and the load; ready when the first requests flow.
    pub(super) async fn set(
        time: Arc<VirtualTime>,
        trace: Trace,
        rng: &Rng,
        safeguards: Safeguards,
    ) -> Result<Self, Broken> {
        let store = ApiServer::new(time.clone(), rng.child("api")).store();
        for crd in evenkeel_api::crds() {
            let crd = Obj::from_json(crd).map_err(|error| Broken(error.to_string()))?;
            store.create(&crd, &OPTIONS).await?;
        }
        let plain = Host::new(&store, time.clone(), time.clone());
        let parts = HostPorts::new(&store, time.clone(), time.clone());
        let telemetry = Telemetry::new(Limits::default());
        let builtin = RunLoop::new(plain.clone());
        let rules = RuleController::new(telemetry.clone());
        tokio::spawn(evenkeel_builtin::install(builtin).with(rules).run());
        let gateway = gateway(&time, safeguards);
        let gateway_address = IpAddr::from([127, 0, 0, 1]);
        let plane = Arc::new(gateway.clone());
        let setup = Setup { ports: parts.clone(), plane, gateway_address };
        tokio::spawn(Controller::new(setup).run());
        start_telemetry(&telemetry, &time, &gateway);
        let fleet = Fleet::new(time.clone(), trace.clone());
        start_nodes(&parts, &fleet, rng)?;
        follow_scaling(&store, trace.clone());
        let canary = follow_canary(&store, &time, trace.clone());
        let host = plain.with_metrics(Arc::new(telemetry)).with_hooks(Arc::<Accepting>::default());
        let controllers = spawn_controllers(&host, safeguards);
        let clients = Arc::<Mutex<Clients>>::default();
        let (stop_load, stop) = watch::channel(false);
        let mut stage = Self {
            time,
            trace,
            store,
            fleet,
            clients,
            canary,
            safeguards,
            host,
            controllers,
            load: tokio::spawn(async {}),
            stop_load,
        };
        stage.put(&stage.deployment(None)?).await?;
        for manifest in [
            manifests::SLO,
            manifests::POLICY,
            &manifests::client_series(&PACE),
            &manifests::canary(&PACE),
        ] {
            stage.put(&parse(manifest)?).await?;
        }
        let initialized = |now: &Moment| now.phase == "Initialized";
        let ready = stage.canary.wait_since(0, PATIENCE, initialized).await;
        ready.ok_or_else(|| Broken::new("the Canary does not take over api-service"))?;
        if !safeguards.confirmation {
            // Nobody says when the gateway serves at all; that is not what the run is about.
            tokio::time::sleep(PACE.gateway_lag).await;
        }
        let scene = Scene {
            time: stage.time.clone(),
            gateway,
            trace: stage.trace.clone(),
            fleet: stage.fleet.clone(),
            clients: stage.clients.clone(),
            listener: service_address(stage.store.as_ref()).await?,
        };
        stage.load = tokio::spawn(Load::new(scene, rng.child("load")).run(stop));
        Ok(stage)
    }

    /// The Deployment's manifest with this release in it.
    pub(super) fn deployment(&self, release: Option<&Release>) -> Result<Value, Broken> {
        let drain = self.safeguards.drain;
        let options = manifests::Options { pace: PACE, ledger: "", drain };
        parse(&manifests::deployment(&options, release))
    }

    /// Ends the controllers where they stand.
    pub(super) async fn kill_controllers(&mut self) {
        self.controllers.abort();
        // It ends as aborted; that is what was asked for.
        (&mut self.controllers).await.unwrap_or_default();
        self.trace.say("controllers killed");
    }

    /// Starts the controllers again; they remember nothing.
    pub(super) fn start_controllers(&mut self) {
        let host = self.host.clone().with_hooks(Arc::<Accepting>::default());
        self.controllers = spawn_controllers(&host, self.safeguards);
        self.trace.say("controllers started again");
    }

    /// Ends the load; ready when its last request is settled.
    pub(super) async fn stop_load(&mut self) {
        self.stop_load.send_replace(true);
        (&mut self.load).await.unwrap_or_default();
    }

    async fn put(&self, manifest: &Value) -> Result<(), Broken> {
        let mut manifest = manifest.clone();
        manifest["metadata"]["namespace"] = "default".into();
        let obj = Obj::from_json(manifest).map_err(|error| Broken(error.to_string()))?;
        self.store.create(&obj, &OPTIONS).await?;
        Ok(())
    }
}

fn parse(text: &str) -> Result<Value, Broken> {
    serde_saphyr::from_str(text).map_err(|error| Broken(error.to_string()))
}

fn gateway(time: &Arc<VirtualTime>, safeguards: Safeguards) -> Simulated {
    let Safeguards { retries, drain, confirmation } = safeguards;
    Simulated::new(Simulation {
        clock: time.clone(),
        timer: time.clone(),
        workers: 2,
        switches: Switches { retries, drain, confirmation },
        lag: Some(Lag { worker: 0, delay: PACE.gateway_lag }),
    })
}

fn spawn_controllers(host: &Host, safeguards: Safeguards) -> JoinHandle<()> {
    let gate = BudgetGate::default();
    let door = MemoryDoor::new(host.ports().clock.clone()).with_policy(gate.clone());
    let read = host.ports().read.clone();
    let settings = Settings {
        confirm: safeguards.confirmation,
        metric_servers: None,
        look_every: PACE.scrape,
    };
    let assembly = Assembly::new(host.clone().with_door(Arc::new(door)), settings);
    tokio::spawn(assembly.beside(gate.follow(read)).run())
}

struct GatewayMetrics(Simulated);

impl Source for GatewayMetrics {
    fn expose(&self) -> String {
        self.0.metrics().render()
    }
}

/// There are no sockets to fetch from.
struct NoFetch;

impl Fetch for NoFetch {
    fn fetch<'a>(
        &'a self,
        _: &'a Target,
        _: &'a ScrapeSettings,
    ) -> BoxFuture<'a, Result<Fetched, FetchError>> {
        let problem = "no sockets under virtual time".to_owned();
        Box::pin(async { Err(FetchError::Unreachable { problem }) })
    }
}

fn start_telemetry(telemetry: &Telemetry, time: &Arc<VirtualTime>, gateway: &Simulated) {
    let settings = ScrapeSettings::every(PACE.scrape);
    let fetch = Arc::new(NoFetch);
    let scraper = Scraper::new(telemetry.clone(), settings, fetch, time.clone(), time.clone())
        .with_source("evenkeel-gateway", "gateway", Arc::new(GatewayMetrics(gateway.clone())));
    tokio::spawn(scraper.run());
    tokio::spawn(RuleRunner::new(telemetry.clone(), time.clone(), time.clone()).run());
}

/// Accepts load tests, as the built-in load tester does; their requests are few beside the load.
#[derive(Default)]
struct Accepting(Mutex<BTreeMap<String, Result<HookReply, HookError>>>);

impl Hooks for Accepting {
    fn call<'a>(&'a self, call: &'a HookCall) -> BoxFuture<'a, Result<HookReply, HookError>> {
        let command = call.body.get("metadata").and_then(|metadata| metadata.get("cmd"));
        let command = command.and_then(Value::as_str).unwrap_or_default();
        let reply = match loadtester::plan(command) {
            Ok(_) => Ok(HookReply { status: 202, body: String::new() }),
            Err(error) => Err(HookError { url: call.url.clone(), problem: error.to_string() }),
        };
        locked(&self.0).insert(call.id.clone(), reply.clone());
        Box::pin(async { reply })
    }
}

impl Replies for Accepting {
    fn reply(&self, id: &str) -> Option<Result<HookReply, HookError>> {
        locked(&self.0).get(id).cloned()
    }
}

fn start_nodes(ports: &HostPorts, fleet: &Arc<Fleet>, rng: &Rng) -> Result<(), Broken> {
    let cluster = ClusterConfig::parse(manifests::CLUSTER);
    for node in cluster.map_err(|error| Broken(error.to_string()))?.nodes {
        let mut rng = rng.child(&node.name);
        let wait = Duration::from_millis(rng.below(NODES_WITHIN_MS));
        let runtime = Arc::new(SimRuntime::new(fleet.clone(), rng));
        let (config, ports) = (config(node.to_node()), ports.clone());
        tokio::spawn(async move {
            tokio::time::sleep(wait).await;
            if let Err(error) = agent::run(config, ports, runtime).await {
                tracing::error!(%error, "node agent ended");
            }
        });
    }
    Ok(())
}

fn config(node: Node) -> AgentConfig {
    let spec = node.spec.unwrap_or_default();
    let capacity = node.status.and_then(|status| status.capacity).unwrap_or_default();
    AgentConfig {
        labels: node.metadata.labels.unwrap_or_default(),
        taints: spec.taints.unwrap_or_default(),
        capacity: capacity.into_iter().map(|(name, amount)| (name, amount.0)).collect(),
        pod_cidr: spec.pod_cidr,
        lease_period: None,
        ..AgentConfig::named(&node.metadata.name.unwrap_or_default())
    }
}

/// Follows the Canary, with a line for every change.
fn follow_canary(store: &Arc<dyn Store>, time: &Arc<VirtualTime>, trace: Trace) -> Timeline {
    let time = time.clone();
    let told = move |now: &Moment| {
        let Moment { phase, weight, failed_checks, .. } = now;
        trace.say(&format!("canary: {phase}, weight {weight} %, failed checks {failed_checks}"));
    };
    Timeline::follow(store, move || millis(time.elapsed()), told)
}

/// Writes a line for every change of a Deployment's size or of how many of its pods are ready.
fn follow_scaling(store: &Arc<dyn Store>, trace: Trace) {
    let mut events = store.watch(ListQuery::all(GroupKind::of::<Deployment>()));
    tokio::spawn(async move {
        let mut known = BTreeMap::new();
        while let Some(event) = events.next().await {
            let Ok(WatchEvent::Applied(obj)) = event else { continue };
            let number = |path| obj.json().pointer(path).and_then(Value::as_i64);
            let wanted = number("/spec/replicas").unwrap_or_default();
            let ready = number("/status/readyReplicas").unwrap_or_default();
            let now = (wanted, ready);
            if known.insert(obj.name().to_owned(), now) != Some(now) {
                trace.say(&format!("deployment {}: {ready} of {wanted} ready", obj.name()));
            }
        }
    });
}

async fn service_address(store: &dyn Store) -> Result<SocketAddr, Broken> {
    let key = Key::of::<Service>("default", "api-service");
    let found = store.get(&key).await?;
    let ip = found.as_ref().and_then(|obj| obj.json().pointer("/spec/clusterIP")?.as_str());
    let ip = ip.and_then(|ip| ip.parse::<IpAddr>().ok());
    let ip = ip.ok_or_else(|| Broken(format!("{key} has no cluster IP")))?;
    Ok(SocketAddr::new(ip, 80))
}
