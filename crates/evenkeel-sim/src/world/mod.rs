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
mod plant;
pub mod releases;
pub(crate) mod time;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use evenkeel_api::{Key, Obj};
use evenkeel_assembly::{Assembly, Domain, Leases, Settings, lease_name};
use evenkeel_base::Rng;
use evenkeel_cluster::ApiServer;
use evenkeel_control::{Activity, Host, Metrics, Patch, Store, StoreError, WriteOptions};
use evenkeel_guard::MemoryDoor;
use k8s_openapi::api::coordination::v1::Lease;
use serde_json::Value;
use tokio::task::JoinHandle;

pub use checks::{Breach, Checks};
pub use faults::{FaultyStore, Menu, Requests};
pub use time::VirtualTime;

use time::locked;

/// How long a leader may be silent in these worlds.
pub const LEASE: Duration = Duration::from_secs(15);
const OPTIONS: WriteOptions = WriteOptions { subresource: None, expect: None, manager: "world" };

/// A cluster, its processes, and what is checked all the time.
pub struct World {
    /// The time.
    pub time: Arc<VirtualTime>,
    /// The true store.
    pub store: Arc<dyn Store>,
    /// What must never happen.
    pub checks: Arc<Checks>,
    metrics: Arc<dyn Metrics>,
    rng: Rng,
    extra: Vec<Domain>,
    /// Off only to show what it is good for: every process then acts.
    pub election: bool,
    processes: BTreeMap<usize, Process>,
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
    /// An empty cluster. Needs a tokio runtime whose clock is paused.
    pub async fn new(seed: u64, metrics: Arc<dyn Metrics>) -> Result<Self, StoreError> {
        let (time, rng) = (Arc::new(VirtualTime::begin()), Rng::new(seed));
        let store = ApiServer::new(time.clone(), rng.child("api")).store();
        for crd in evenkeel_api::crds() {
            store.create(&Obj::from_json(crd)?, &OPTIONS).await?;
        }
        let checks = Arc::new(Checks::new(time.clone(), store.clone()));
        let parts =
            vec![tokio::spawn(plant::play(store.clone())), tokio::spawn(checks.clone().follow())];
        Ok(Self {
            time,
            store,
            checks,
            metrics,
            rng,
            extra: Vec::new(),
            election: true,
            processes: BTreeMap::new(),
            started: 0,
            parts,
        })
    }

    /// Processes run this domain, too.
    pub fn add_domain(&mut self, domain: Domain) {
        self.extra.push(domain);
    }

    /// Starts a process; its number.
    pub fn start(&mut self) -> usize {
        self.started += 1;
        let (number, identity) = (self.started, format!("process-{}", self.started));
        let checks = self.checks.clone();
        let writer = identity.clone();
        let seen = move |key: &Key| checks.write(&writer, key);
        let rng = self.rng.child(&identity);
        let store = FaultyStore::new(self.store.clone(), rng, seen);
        let activity = Arc::<Activity>::default();
        let faulty: Arc<dyn Store> = Arc::new(store.clone());
        let host = Host::new(&faulty, self.time.clone(), self.time.clone())
            .with_metrics(self.metrics.clone())
            .with_door(Arc::new(MemoryDoor::new(self.time.clone())))
            .with_observer(activity.clone());
        let look_every = Duration::from_secs(15);
        let settings = Settings { confirm: true, metric_servers: None, look_every };
        let leases = Leases {
            namespace: "default".to_owned(),
            identity,
            duration: LEASE,
            annotations: BTreeMap::new(),
        };
        let mut assembly = Assembly::new(host, settings);
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

    /// Ends a process where it stands, as `kill -9` does.
    pub fn kill(&mut self, number: usize) {
        if let Some(process) = self.processes.remove(&number) {
            process.running.abort();
        }
    }

    /// Every process has this wrong with its store.
    pub fn set_all(&self, menu: &Menu) {
        self.processes.values().for_each(|process| process.store.set(menu.clone()));
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

    /// Changes an object in the true store, as a person would.
    pub async fn patch(&self, key: &Key, patch: Value) -> Result<(), StoreError> {
        self.store.patch(key, &Patch::Merge(patch), &OPTIONS).await.map(drop)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.processes.values().for_each(|process| process.running.abort());
        self.parts.iter().for_each(JoinHandle::abort);
    }
}

/// Metrics of paper: what a service's new version answers, by the name of the service.
#[derive(Default)]
pub struct Traffic(Mutex<BTreeMap<String, Quality>>);

/// What the requests of a service's new version look like.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Quality {
    /// Share of answers that are 5xx; `None` is no data at all.
    pub error_ratio: Option<f64>,
    /// 99th percentile of durations.
    pub p99_ms: f64,
}

impl Traffic {
    /// From now on a service's new version is like this.
    pub fn set(&self, service: &str, quality: Quality) {
        locked(&self.0).insert(service.to_owned(), quality);
    }

    fn of(&self, expr: &str) -> Option<Quality> {
        // The longest name that the query speaks of: `a` is part of `a-b`.
        let qualities = locked(&self.0);
        let spoken = qualities.iter().filter(|(service, _)| expr.contains(service.as_str()));
        spoken.max_by_key(|(service, _)| service.len()).map(|(_, quality)| *quality)
    }
}

impl Metrics for Traffic {
    fn query<'a>(
        &'a self,
        expr: &'a str,
        _at: jiff::Timestamp,
    ) -> evenkeel_control::BoxFuture<
        'a,
        Result<Vec<evenkeel_control::Sample>, evenkeel_control::MetricsError>,
    > {
        let quality = self.of(expr);
        let value = quality.and_then(|quality| {
            let ratio = quality.error_ratio?;
            Some(if expr.contains("bucket") {
                quality.p99_ms
            } else if expr.contains("5.*") {
                ratio * 10.0
            } else {
                10.0
            })
        });
        let sample = |value| evenkeel_control::Sample { labels: BTreeMap::new(), value };
        Box::pin(async move { Ok(value.map(sample).into_iter().collect()) })
    }
}
