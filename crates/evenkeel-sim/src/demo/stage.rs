//! The demo's cluster in a world: every part is the real one but processes and sockets.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex},
    time::Duration,
};

use evenkeel_api::{GroupKind, Key, clusterconfig::ClusterConfig};
use evenkeel_assembly::{Assembly, Settings};
use evenkeel_control::{
    BoxFuture, HookCall, HookError, HookReply, Hooks, Host, HostPorts, ListQuery, Replies, RunLoop,
    Store, StoreError, WatchEvent,
};
use evenkeel_delivery::loadtester;
use evenkeel_gateway::{
    Controller, Lag, Setup,
    engine::Switches,
    simulated::{Simulated, Simulation},
};
use evenkeel_guard::{BudgetGate, MemoryDoor};
use evenkeel_telemetry::{
    Fetch, FetchError, Fetched, Limits, RuleController, RuleRunner, ScrapeSettings, Scraper,
    Source, Target, Telemetry,
};
use futures::StreamExt as _;
use k8s_openapi::api::{apps::v1::Deployment, core::v1::Service};
use serde_json::Value;
use tokio::{sync::watch, task::JoinHandle};

use super::{
    Safeguards,
    clients::Clients,
    load::{Load, Scene},
    manifests,
    script::{Pace, Release},
    timeline::{Moment, Timeline},
};
use crate::world::{
    World,
    fleet::Fleet,
    time::{Trace, VirtualTime, locked, millis},
};

/// The article's Canary as written.
pub(super) const PACE: Pace = Pace::ARTICLE;

/// Longest wait for the cluster to stand.
const PATIENCE: Duration = Duration::from_mins(5);

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
    /// Time, store and controllers.
    pub(super) world: World,
    /// The cluster's processes.
    pub(super) fleet: Arc<Fleet>,
    /// What clients see.
    pub(super) clients: Arc<Mutex<Clients>>,
    /// What the Canary says.
    pub(super) canary: Timeline,
    safeguards: Safeguards,
    telemetry: Arc<Telemetry>,
    controllers: usize,
    load: JoinHandle<()>,
    stop_load: watch::Sender<bool>,
}

impl Stage {
    /// Starts the cluster, the controllers and the load; ready when the first requests flow.
    pub(super) async fn set(mut world: World, safeguards: Safeguards) -> Result<Self, Broken> {
        // One process at a time, which need not wait for the Lease of the one before.
        world.election = false;
        let cluster = ClusterConfig::parse(manifests::CLUSTER);
        let fleet = world.fleet(cluster.map_err(|error| Broken(error.to_string()))?);
        let gateway = gateway(&world.time, safeguards);
        let setup = Setup {
            ports: HostPorts::new(&world.store, world.time.clone(), world.time.clone()),
            plane: Arc::new(gateway.clone()),
            gateway_address: IpAddr::from([127, 0, 0, 1]),
        };
        world.part(Controller::new(setup).run());
        let telemetry = Arc::new(start_telemetry(&mut world, &gateway));
        follow_scaling(&mut world);
        let canary = follow_canary(&world.store, &world.time, world.trace.clone());
        let (stop_load, stop) = watch::channel(false);
        let mut stage = Self {
            world,
            fleet,
            clients: Arc::default(),
            canary,
            safeguards,
            telemetry,
            controllers: 0,
            load: tokio::spawn(async {}),
            stop_load,
        };
        stage.controllers = stage.start();
        stage.apply().await?;
        let initialized = |now: &Moment| now.phase == "Initialized";
        let ready = stage.canary.wait_since(0, PATIENCE, initialized).await;
        ready.ok_or_else(|| Broken::new("the Canary does not take over api-service"))?;
        if !safeguards.confirmation {
            // Nobody says when the gateway serves at all; that is not what the run is about.
            tokio::time::sleep(PACE.gateway_lag).await;
        }
        let world = &stage.world;
        let scene = Scene {
            time: world.time.clone(),
            gateway,
            trace: world.trace.clone(),
            fleet: stage.fleet.clone(),
            clients: stage.clients.clone(),
            listener: service_address(world.store.as_ref()).await?,
        };
        stage.load = tokio::spawn(Load::new(scene, world.rng.child("load")).run(stop));
        Ok(stage)
    }

    async fn apply(&self) -> Result<(), Broken> {
        let canary = manifests::canary(&PACE);
        let series = manifests::client_series(&PACE);
        let rest = [manifests::SLO, manifests::POLICY, &series, &canary].map(parse);
        for manifest in std::iter::once(self.deployment(None)).chain(rest) {
            let mut manifest = manifest?;
            manifest["metadata"]["namespace"] = "default".into();
            self.world.create(manifest).await?;
        }
        Ok(())
    }

    fn start(&mut self) -> usize {
        let (telemetry, safeguards) = (self.telemetry.clone(), self.safeguards);
        let time = self.world.time.clone();
        self.world.start_with(|host| {
            let hooks = Arc::<Accepting>::default();
            controllers(host.with_metrics(telemetry).with_hooks(hooks), &time, safeguards)
        })
    }

    /// The Deployment's manifest with this release in it.
    pub(super) fn deployment(&self, release: Option<&Release>) -> Result<Value, Broken> {
        let drain = self.safeguards.drain;
        let options = manifests::Options { pace: PACE, ledger: "", drain };
        parse(&manifests::deployment(&options, release))
    }

    /// Ends the controllers where they stand.
    pub(super) fn kill_controllers(&mut self) {
        self.world.kill(self.controllers);
        self.world.trace.say("controllers killed");
    }

    /// Starts the controllers again; they remember nothing.
    pub(super) fn start_controllers(&mut self) {
        self.controllers = self.start();
        self.world.trace.say("controllers started again");
    }

    /// Ends the load; ready when its last request is settled.
    pub(super) async fn stop_load(&mut self) {
        self.stop_load.send_replace(true);
        (&mut self.load).await.unwrap_or_default();
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

fn controllers(host: Host, time: &Arc<VirtualTime>, safeguards: Safeguards) -> Assembly {
    let gate = BudgetGate::default();
    let door = MemoryDoor::new(host.ports().clock.clone()).with_policy(gate.clone());
    let (read, timer) = (host.ports().read.clone(), time.clone());
    let settings = Settings {
        confirm: safeguards.confirmation,
        metric_servers: None,
        look_every: PACE.scrape,
    };
    Assembly::new(host.with_door(Arc::new(door)), settings).beside(gate.follow(read, timer))
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

/// Scrapes the gateway and evaluates rules.
fn start_telemetry(world: &mut World, gateway: &Simulated) -> Telemetry {
    let (telemetry, time) = (Telemetry::new(Limits::default()), world.time.clone());
    let settings = ScrapeSettings::every(PACE.scrape);
    let fetch = Arc::new(NoFetch);
    let scraper = Scraper::new(telemetry.clone(), settings, fetch, time.clone(), time.clone())
        .with_source("evenkeel-gateway", "gateway", Arc::new(GatewayMetrics(gateway.clone())));
    world.part(scraper.run());
    world.part(RuleRunner::new(telemetry.clone(), time.clone(), time.clone()).run());
    let host = Host::new(&world.store, time.clone(), time);
    world.part(RunLoop::new(host).with(RuleController::new(telemetry.clone())).run());
    telemetry
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
fn follow_scaling(world: &mut World) {
    let mut events = world.store.watch(ListQuery::all(GroupKind::of::<Deployment>()));
    let trace = world.trace.clone();
    world.part(async move {
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
