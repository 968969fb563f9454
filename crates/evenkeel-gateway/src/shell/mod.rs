//! The shell: threads, sockets and HTTP around the engine.
//!
//! Each worker is a thread with its own runtime, engine, listening sockets (`SO_REUSEPORT`) and
//! connections; workers share counters and nothing else. A request lives in the task of its client's
//! connection from beginning to end; nothing is spawned for it. So does a connection that is
//! carried as bytes.

mod answer;
mod body;
mod check;
mod client;
mod exchange;
mod forward;
mod listen;
mod pump;
mod serve;
mod tcp;
mod timers;
mod upstream;
mod wire;
mod worker;

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{mpsc, watch};

pub use client::Limits;
pub use listen::BindError;
use listen::Unserved;
use worker::{Apply, Command};

use evenkeel_control::BoxFuture;

use crate::engine::{Board, Metrics, Snapshot, Switches};
pub use crate::plane::Lag;
use crate::plane::{DataPlane, Progress};

/// A network of its own for endpoints and Service addresses.
pub trait Network: std::fmt::Debug + Send + Sync {
    /// Moves the calling thread there. Sockets stay in the network in which they were made.
    fn enter(&self) -> io::Result<()>;

    /// Whether an address is there, and not in the network of the process.
    fn has(&self, address: IpAddr) -> bool;
}

/// How a gateway is set up.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Threads; at least one.
    pub workers: usize,
    /// Safeguards.
    pub switches: Switches,
    /// A fault: workers that are late with every configuration.
    pub lag: Option<Lag>,
    /// How long connections wait.
    pub limits: Limits,
    /// The network of endpoints and Service addresses, when it is not that of the process.
    pub network: Option<Arc<dyn Network>>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            workers: 2,
            switches: Switches::default(),
            lag: None,
            limits: Limits::default(),
            network: None,
        }
    }
}

/// What all workers share.
#[derive(Debug)]
pub(crate) struct Shared {
    started: Instant,
    board: Arc<Board>,
    metrics: Arc<Metrics>,
    switches: Switches,
    lag: Option<Lag>,
    limits: Limits,
    network: Option<Arc<dyn Network>>,
    /// Per worker: the generation it runs.
    running: Vec<AtomicU64>,
    progress: watch::Sender<Progress>,
}

impl Shared {
    /// Sockets for an address, made in the network that has it.
    fn bind(
        &self,
        address: SocketAddr,
        count: usize,
    ) -> Result<(SocketAddr, Vec<TcpListener>), BindError> {
        let Some(network) = self.network.as_ref().filter(|network| network.has(address.ip()))
        else {
            return listen::bind(address, count);
        };
        let bound = std::thread::scope(|scope| {
            let inside = || network.enter().map(|()| listen::bind(address, count));
            let thread = std::thread::Builder::new().spawn_scoped(scope, inside)?;
            thread.join().map_err(|_| io::Error::other("panicked"))?
        });
        bound.unwrap_or_else(|error| Err(BindError::Network(address, error.kind())))
    }

    fn acknowledged(&self) -> u64 {
        self.running.iter().map(|one| one.load(Ordering::SeqCst)).min().unwrap_or(0)
    }
}

/// A running gateway. Dropping it stops the workers.
#[derive(Debug)]
pub struct Gateway {
    shared: Arc<Shared>,
    workers: Vec<mpsc::UnboundedSender<Command>>,
    threads: Vec<JoinHandle<()>>,
    addresses: Mutex<BTreeMap<SocketAddr, SocketAddr>>,
    unserved: Mutex<Unserved>,
}

impl Gateway {
    /// Starts the workers with an empty configuration. `Err` when the system gives no threads.
    pub fn start(settings: Settings) -> io::Result<Self> {
        let count = settings.workers.max(1);
        let shared = Arc::new(Shared {
            started: Instant::now(),
            board: Arc::default(),
            metrics: Arc::default(),
            switches: settings.switches,
            lag: settings.lag,
            limits: settings.limits,
            network: settings.network,
            running: (0..count).map(|_| AtomicU64::new(0)).collect(),
            progress: watch::Sender::new(Progress::default()),
        });
        let (addresses, unserved) = (Mutex::default(), Mutex::default());
        let mut gateway =
            Self { shared, workers: Vec::new(), threads: Vec::new(), addresses, unserved };
        for index in 0..count {
            let (sender, receiver) = mpsc::unbounded_channel();
            let shared = Arc::clone(&gateway.shared);
            let runtime = Builder::new_current_thread();
            let thread = std::thread::Builder::new().name(format!("gateway-{index}"));
            let thread = thread.spawn(move || work(index, shared, receiver, runtime))?;
            gateway.workers.push(sender);
            gateway.threads.push(thread);
        }
        Ok(gateway)
    }

    /// Hands a configuration to every worker and returns at once. Returns the addresses that cannot
    /// be listened on; they are tried again with the next configuration.
    ///
    /// A worker that runs it acknowledges it: see `acknowledged` and `progress`.
    pub fn apply(&self, snapshot: &Arc<Snapshot>) -> BTreeMap<SocketAddr, BindError> {
        let mut errors = BTreeMap::new();
        let mut addresses = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        addresses.retain(|address, _| snapshot.listeners.contains_key(address));
        let mut unserved = self.unserved.lock().unwrap_or_else(PoisonError::into_inner);
        unserved.retain(|address| snapshot.listeners.contains_key(address));
        let mut sockets: Vec<Vec<_>> = self.workers.iter().map(|_| Vec::new()).collect();
        for address in snapshot
            .listeners
            .keys()
            .filter(|one| !addresses.contains_key(*one))
            .copied()
            .collect::<Vec<_>>()
        {
            let bound = self.shared.bind(address, self.workers.len());
            // Sockets share their address, so the system would let two listeners have it, too.
            let bound = bound.and_then(|(at, sockets)| {
                let taken = addresses.values().any(|other| *other == at);
                if taken { Err(BindError::InUse(at)) } else { Ok((at, sockets)) }
            });
            match bound {
                Ok((bound, per_worker)) => {
                    if address.port() != 0 && bound != address {
                        tracing::warn!(
                            %address, served = %bound,
                            "this user may not listen on ports below 1024: served at another port"
                        );
                    }
                    if unserved.ended(address) {
                        tracing::info!(%address, "address is served now");
                    }
                    addresses.insert(address, bound);
                    for (all, socket) in sockets.iter_mut().zip(per_worker) {
                        all.push((address, socket));
                    }
                }
                Err(error) => {
                    if unserved.is_news(address, error, Instant::now()) {
                        tracing::warn!(%address, %error, "address is not served");
                    }
                    errors.insert(address, error);
                }
            }
        }
        let sent = Instant::now();
        for (worker, sockets) in self.workers.iter().zip(sockets) {
            let snapshot = Arc::clone(snapshot);
            let apply = Apply { snapshot, listeners: sockets, sent };
            self.send(worker, Command::Apply(Box::new(apply)));
        }
        errors
    }

    fn send(&self, worker: &mpsc::UnboundedSender<Command>, command: Command) {
        if worker.send(command).is_err() {
            tracing::error!(workers = self.workers.len(), "a gateway worker has ended");
        }
    }

    /// The generation that every worker runs.
    pub fn acknowledged(&self) -> u64 {
        self.shared.acknowledged()
    }

    /// A watch that changes when all workers run a newer generation or an endpoint was emptied.
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.shared.progress.subscribe()
    }

    /// Requests given to `endpoint` and not finished, over all workers.
    pub fn in_flight(&self, endpoint: SocketAddr) -> u32 {
        self.shared.board.in_flight(endpoint)
    }

    /// Configured addresses and the ones really listened on; they differ where the system does not
    /// allow a port below 1024.
    pub fn addresses(&self) -> BTreeMap<SocketAddr, SocketAddr> {
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Counters of attempts and requests.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.shared.metrics
    }

    /// Safeguards it was started with.
    pub fn switches(&self) -> Switches {
        self.shared.switches
    }

    /// From now on each client's connection is closed with its next answer, never while idle.
    pub fn close_clients(&self) {
        for worker in &self.workers {
            self.send(worker, Command::Close);
        }
    }
}

impl DataPlane for Gateway {
    fn apply(&self, snapshot: &Arc<Snapshot>) -> BTreeMap<SocketAddr, String> {
        let errors = Self::apply(self, snapshot);
        errors.into_iter().map(|(address, error)| (address, error.to_string())).collect()
    }

    fn progress(&self) -> Progress {
        *self.shared.progress.borrow()
    }

    fn progressed(&self, seen: Progress) -> BoxFuture<'static, ()> {
        let mut watch = self.shared.progress.subscribe();
        Box::pin(async move {
            if watch.wait_for(|progress| *progress != seen).await.is_err() {
                // The gateway is gone; nothing will ever progress.
                std::future::pending::<()>().await;
            }
        })
    }

    fn in_flight_at(&self, address: IpAddr) -> u32 {
        self.shared.board.in_flight_at(address)
    }

    fn switches(&self) -> Switches {
        self.shared.switches
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        for worker in &self.workers {
            self.send(worker, Command::Stop);
        }
        // A worker that is late by order of a test is not waited for.
        let late = self.shared.lag.is_some();
        for thread in self.threads.drain(..).filter(|_| !late) {
            if thread.join().is_err() {
                tracing::error!("a gateway worker has panicked");
            }
        }
    }
}

fn work(
    index: usize,
    shared: Arc<Shared>,
    commands: mpsc::UnboundedReceiver<Command>,
    mut runtime: Builder,
) {
    if let Some(network) = &shared.network
        && let Err(error) = network.enter()
    {
        tracing::error!(index, %error, "a gateway worker cannot enter the cluster's network");
        return;
    }
    match runtime.enable_all().build_local(LocalOptions::default()) {
        Ok(runtime) => runtime.block_on(worker::run(index, shared, commands)),
        Err(error) => tracing::error!(index, %error, "a gateway worker cannot start"),
    }
}
