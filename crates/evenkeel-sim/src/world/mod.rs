//! Controllers among faults, under virtual time.
//!
//! ```text
//! true store (the embedded API server)  <-- plant: Deployments roll, endpoints, gateway
//!     ^
//!     | one FaultyStore per process          checkers: see the true store only
//!     |
//! process: assembly (domains, door, Lease)  killed and started again as the scenario says
//! ```
//! First the faults, under which nothing unsafe may happen; then none, and everything must heal.

mod checks;
mod faults;
mod feed;
pub(crate) mod fleet;
mod menu;
mod plant;
pub mod releases;
pub(crate) mod time;
mod traffic;
mod watched;

use std::{
    collections::BTreeMap,
    sync::{Arc, LazyLock},
    time::Duration,
};

use evenkeel_api::{Key, Obj, clusterconfig::ClusterConfig};
use evenkeel_assembly::{Assembly, Domain, Leases, Settings, lease_name};
use evenkeel_base::Rng;
use evenkeel_cluster::ApiServer;
use evenkeel_control::{
    Activity, DeleteOptions, Host, HostPorts, Patch, RunLoop, Store, StoreError, WriteOptions,
};
use evenkeel_guard::{BudgetGate, Line, MemoryDoor};
use k8s_openapi::api::coordination::v1::Lease;
use serde_json::Value;
use tokio::{sync::watch, task::JoinHandle};

pub use checks::{Breach, Checks};
pub use faults::FaultyStore;
pub use menu::{Menu, Requests, Right};
pub use plant::{Troubles, WITH_PODS, play as play_plant};
pub use time::VirtualTime;
pub use traffic::{Quality, Traffic};
pub use watched::canary_weight;

use fleet::Fleet;
use time::Trace;

/// How long a leader may be silent in these worlds.
pub const LEASE: Duration = Duration::from_secs(15);
/// Parsed once for all worlds.
static CRDS: LazyLock<Vec<Value>> = LazyLock::new(evenkeel_api::crds);
const OPTIONS: WriteOptions = WriteOptions { subresource: None, expect: None, manager: "world" };

/// A cluster, its processes, and what is checked all the time.
pub struct World {
    /// The time.
    pub time: Arc<VirtualTime>,
    /// What happened.
    pub(crate) trace: Trace,
    /// The true store.
    pub store: Arc<dyn Store>,
    /// What must never happen.
    pub checks: Arc<Checks>,
    /// What new versions are really like.
    pub traffic: Arc<Traffic>,
    troubles: watch::Sender<Troubles>,
    /// All that is random is drawn from its children.
    pub(crate) rng: Rng,
    /// What processes run, by name; none named means all.
    pub domains: Vec<String>,
    extra: Vec<Domain>,
    /// Off only to show what it is good for: every process then acts.
    pub election: bool,
    processes: BTreeMap<usize, Process>,
    doors: Vec<Arc<MemoryDoor>>,
    started: usize,
    parts: Vec<JoinHandle<()>>,
}

/// One process that runs the domains.
pub struct Process {
    /// Its way to the cluster.
    pub store: FaultyStore,
    /// What it did.
    pub activity: Arc<Activity>,
    running: JoinHandle<()>,
}

impl World {
    /// A cluster of paper, empty: what is applied is so at once. Needs a tokio runtime whose clock
    /// is paused.
    pub async fn new(seed: u64) -> Result<Self, StoreError> {
        let mut world = Self::bare(seed).await?;
        world.part(plant::play(world.store.clone(), world.troubles.subscribe()));
        Ok(world)
    }

    /// Only the API server, without anything that acts on what is applied.
    pub(crate) async fn bare(seed: u64) -> Result<Self, StoreError> {
        let (time, rng) = (Arc::new(VirtualTime::begin()), Rng::new(seed));
        let store = ApiServer::new(time.clone(), rng.child("api")).store();
        for crd in CRDS.iter() {
            store.create(&Obj::from_json(crd.clone())?, &OPTIONS).await?;
        }
        let traffic = Arc::new(Traffic::new(time.clone()));
        let checks = Arc::new(Checks::new(time.clone(), store.clone(), traffic.clone()));
        let parts = vec![tokio::spawn(checks.clone().follow())];
        Ok(Self {
            trace: Trace::new(time.clone()),
            time,
            store,
            checks,
            traffic,
            troubles: watch::Sender::new(Troubles::default()),
            rng,
            domains: Vec::new(),
            extra: Vec::new(),
            election: true,
            processes: BTreeMap::new(),
            doors: Vec::new(),
            started: 0,
            parts,
        })
    }

    /// Processes run this domain, too.
    pub fn add_domain(&mut self, domain: Domain) {
        self.extra.push(domain);
    }

    /// Goes on beside the processes for as long as the world does.
    pub(crate) fn part(&mut self, part: impl Future<Output = ()> + Send + 'static) {
        self.parts.push(tokio::spawn(part));
    }

    /// Nodes with processes, and the built-in controllers that start pods on them.
    pub(crate) fn fleet(&mut self, cluster: ClusterConfig) -> Arc<Fleet> {
        let host = Host::new(&self.store, self.time.clone(), self.time.clone());
        self.part(evenkeel_builtin::install(RunLoop::new(host)).run());
        let ports = HostPorts::new(&self.store, self.time.clone(), self.time.clone());
        let fleet = Fleet::new(self.time.clone(), self.trace.clone());
        for node in fleet::nodes(cluster, &ports, &fleet, &self.rng) {
            self.parts.push(tokio::spawn(node));
        }
        fleet
    }

    /// Starts a process with all domains, which reads the metrics of [`Self::traffic`]; its number.
    pub fn start(&mut self) -> usize {
        let (traffic, timer) = (self.traffic.clone(), self.time.clone());
        let gate = BudgetGate::default();
        let door = MemoryDoor::new(self.time.clone()).with_policy(gate.clone());
        let door = Arc::new(door);
        self.doors.push(door.clone());
        let look_every = Duration::from_secs(15);
        let settings = Settings { confirm: true, metric_servers: None, look_every };
        self.start_with(|host| {
            let read = host.ports().read.clone();
            let host = host.with_metrics(traffic).with_door(door);
            Assembly::new(host, settings).beside(gate.follow(read, timer))
        })
    }

    /// Starts a process that is put together like this; its number.
    pub(crate) fn start_with(&mut self, assemble: impl FnOnce(Host) -> Assembly) -> usize {
        self.started += 1;
        let (number, identity) = (self.started, identity(self.started));
        let (checks, writer, has_leases) = (self.checks.clone(), identity.clone(), self.election);
        let seen = move |key: &Key| checks.write(&writer, has_leases, key);
        let rng = self.rng.child(&identity);
        let store = FaultyStore::new(self.store.clone(), rng, seen);
        let activity = Arc::<Activity>::default();
        let faulty: Arc<dyn Store> = Arc::new(store.clone());
        let host = Host::new(&faulty, self.time.clone(), self.time.clone())
            .with_observer(activity.clone());
        let leases = Leases {
            namespace: "default".to_owned(),
            identity,
            duration: LEASE,
            annotations: BTreeMap::new(),
        };
        let mut assembly = assemble(host).only(&self.domains);
        if self.election {
            assembly = assembly.with_leases(leases);
        }
        for domain in &self.extra {
            assembly = assembly.with_domain(*domain);
        }
        let running = tokio::spawn(assembly.run());
        self.processes.insert(number, Process { store, activity, running });
        number
    }

    /// A process by its number.
    pub fn process(&self, number: usize) -> Option<&Process> {
        self.processes.get(&number)
    }

    /// What the processes that [`Self::start`] made have recorded, one after the other.
    pub fn record(&self) -> Vec<Line> {
        self.doors.iter().flat_map(|door| door.lines()).collect()
    }

    /// Ends a process where it stands, as `kill -9` does.
    pub fn kill(&mut self, number: usize) {
        if let Some(process) = self.processes.remove(&number) {
            process.running.abort();
            self.checks.gone(&identity(number));
        }
    }

    /// Every process has this wrong with its store.
    pub fn set_all(&self, menu: &Menu) {
        self.checks.stores(menu);
        self.processes.values().for_each(|process| process.store.set(menu.clone()));
    }

    /// This is wrong with the cluster around the processes.
    pub fn trouble(&self, troubles: &Troubles) {
        self.checks.plant(troubles);
        self.troubles.send_replace(troubles.clone());
    }

    /// Processes that died in the middle of a write; they are taken away.
    pub fn bury(&mut self) -> usize {
        let dead = |process: &Process| process.store.is_dead();
        let gone: Vec<usize> =
            self.processes.iter().filter(|(_, p)| dead(p)).map(|(n, _)| *n).collect();
        for number in &gone {
            self.kill(*number);
        }
        gone.len()
    }

    /// Who holds the Lease of a domain; empty when nobody does.
    pub async fn leader(&self, domain: &str) -> Result<String, StoreError> {
        let key = Key::of::<Lease>("default", &lease_name(domain));
        let lease = self.store.get(&key).await?;
        let holder =
            lease.as_ref().and_then(|l| l.json().pointer("/spec/holderIdentity")?.as_str());
        Ok(holder.unwrap_or_default().to_owned())
    }

    /// Makes an object in the true store.
    pub async fn create(&self, body: Value) -> Result<(), StoreError> {
        self.store.create(&Obj::from_json(body)?, &OPTIONS).await.map(drop)
    }

    /// Takes an object out of the true store, as a person would.
    pub async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        self.store.delete(key, &DeleteOptions::default()).await
    }

    /// Changes an object in the true store, as a person would.
    pub async fn patch(&self, key: &Key, patch: Value) -> Result<(), StoreError> {
        self.store.patch(key, &Patch::Merge(patch), &OPTIONS).await.map(drop)
    }
}

fn identity(number: usize) -> String {
    format!("process-{number}")
}

impl Drop for World {
    fn drop(&mut self) {
        self.processes.values().for_each(|process| process.running.abort());
        self.parts.iter().for_each(JoinHandle::abort);
    }
}
