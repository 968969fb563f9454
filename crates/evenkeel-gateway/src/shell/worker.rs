//! One thread of the gateway: its own engine, sockets, connections and tasks.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::Shared;
use super::client::{Client, Limits};
use super::pump::CHUNK;
use super::serve::serve;
use super::timers::Deadlines;
use super::upstream::Idle;
use crate::engine::{Engine, Snapshot, Surroundings};
use crate::plane::Lag;

/// Client connections per worker; more wait in the kernel's queue.
const CLIENTS_MAX: usize = 16_384;
/// How often idle connections are looked through.
const PRUNE_EVERY: Duration = Duration::from_secs(10);
/// Pause after the system refused a connection (no file descriptors).
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// A command to a worker.
#[derive(Debug)]
pub(super) enum Command {
    /// Run this configuration, and listen on these further addresses.
    Apply(Box<Apply>),
    /// Close each client's connection with its next answer.
    Close,
    /// End.
    Stop,
}

/// A configuration on its way to a worker.
#[derive(Debug)]
pub(super) struct Apply {
    pub(super) snapshot: Arc<Snapshot>,
    /// Sockets for the addresses that are new.
    pub(super) listeners: Vec<(SocketAddr, std::net::TcpListener)>,
    pub(super) sent: Instant,
}

/// The state of a worker, shared by its tasks.
#[derive(Debug)]
pub(super) struct Worker {
    index: usize,
    started: Instant,
    pub(super) engine: RefCell<Engine>,
    pub(super) idle: RefCell<Idle>,
    pub(super) deadlines: Deadlines,
    pub(super) closing: Cell<bool>,
    clients: RefCell<Vec<Weak<Client>>>,
    /// The time, as of the last look at the clients.
    coarse: Cell<Duration>,
    /// Where bytes pass through that are carried.
    pub(super) scratch: RefCell<Box<[u8]>>,
    shared: Arc<Shared>,
}

impl Worker {
    /// Time since the gateway started.
    pub(super) fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// The time as of the last tick: for limits that need no better resolution.
    pub(super) fn coarse_now(&self) -> Duration {
        self.coarse.get()
    }

    pub(super) fn limits(&self) -> &Limits {
        &self.shared.limits
    }

    /// Notifies the gateway when an endpoint that gets no new requests has none left.
    pub(super) fn report_emptied(&self) {
        if self.engine.borrow_mut().take_emptied() {
            self.shared.progress.send_modify(|progress| progress.emptied += 1);
        }
    }

    fn apply(&self, snapshot: &Arc<Snapshot>) {
        let now = self.now();
        self.engine.borrow_mut().apply(now, Arc::clone(snapshot));
        let engine = self.engine.borrow();
        self.idle.borrow_mut().prune(now, |endpoint| engine.in_use(endpoint));
    }

    fn acknowledge(&self, generation: u64) {
        if let Some(own) = self.shared.running.get(self.index) {
            own.store(generation, Ordering::SeqCst);
        }
        let all = self.shared.acknowledged();
        self.shared.progress.send_if_modified(|progress| {
            let news = progress.acknowledged != all;
            progress.acknowledged = all;
            news
        });
    }
}

/// Runs a worker until it gets the command to stop.
pub(super) async fn run(
    index: usize,
    shared: Arc<Shared>,
    mut commands: mpsc::UnboundedReceiver<Command>,
) {
    let engine = Engine::new(Surroundings {
        board: Arc::clone(&shared.board),
        metrics: Arc::clone(&shared.metrics),
        switches: shared.switches,
        seed: index,
        timeout: shared.limits.response,
    });
    let worker = Rc::new(Worker {
        index,
        started: shared.started,
        engine: RefCell::new(engine),
        idle: RefCell::default(),
        deadlines: Deadlines::default(),
        closing: Cell::new(false),
        clients: RefCell::default(),
        coarse: Cell::new(shared.started.elapsed()),
        scratch: RefCell::new(vec![0; CHUNK].into()),
        shared,
    });
    let timers = tokio::task::spawn_local({
        let worker = Rc::clone(&worker);
        async move { worker.deadlines.run(|| worker.now()).await }
    });
    let pruning = tokio::task::spawn_local(prune(Rc::clone(&worker)));
    let looking = tokio::task::spawn_local(look(Rc::clone(&worker)));
    let mut accepting: BTreeMap<SocketAddr, JoinHandle<()>> = BTreeMap::new();
    while let Some(command) = commands.recv().await {
        match command {
            Command::Apply(apply) => {
                let Apply { snapshot, listeners, sent } = *apply;
                if let Some(late) = Lag::of(worker.shared.lag, index) {
                    tokio::time::sleep_until((sent + late).into()).await;
                }
                worker.apply(&snapshot);
                for (address, listener) in listeners {
                    let accept = accept(Rc::clone(&worker), address, listener);
                    accepting.insert(address, tokio::task::spawn_local(accept));
                }
                accepting.retain(|address, task| {
                    let keep = snapshot.listeners.contains_key(address);
                    if !keep {
                        task.abort();
                    }
                    keep
                });
                worker.acknowledge(snapshot.generation);
            }
            Command::Close => worker.closing.set(true),
            Command::Stop => break,
        }
    }
    timers.abort();
    pruning.abort();
    looking.abort();
    accepting.values().for_each(JoinHandle::abort);
}

async fn prune(worker: Rc<Worker>) {
    loop {
        tokio::time::sleep(PRUNE_EVERY).await;
        let now = worker.now();
        let engine = worker.engine.borrow();
        worker.idle.borrow_mut().prune(now, |endpoint| engine.in_use(endpoint));
    }
}

/// Looks through the clients for those that have waited too long.
async fn look(worker: Rc<Worker>) {
    let tick = worker.limits().tick();
    loop {
        tokio::time::sleep(tick).await;
        let now = worker.now();
        worker.coarse.set(now);
        let engine = worker.engine.borrow();
        worker.clients.borrow_mut().retain(|client| {
            let Some(client) = client.upgrade() else { return false };
            client.look(now, worker.limits(), |endpoint| engine.in_use(endpoint));
            true
        });
    }
}

async fn accept(worker: Rc<Worker>, address: SocketAddr, listener: std::net::TcpListener) {
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%address, %error, "cannot accept connections");
            return;
        }
    };
    loop {
        if !has_room(&mut worker.clients.borrow_mut()) {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        }
        match listener.accept().await {
            Ok((stream, peer)) => {
                let client = Rc::new(Client::new(Rc::clone(&worker), address, peer.ip()));
                worker.clients.borrow_mut().push(Rc::downgrade(&client));
                tokio::task::spawn_local(serve(client, stream));
            }
            Err(error) => {
                tracing::warn!(%address, %error, "a connection was not accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Forgets connections that have ended, when the list is full.
fn has_room(clients: &mut Vec<Weak<Client>>) -> bool {
    if clients.len() >= CLIENTS_MAX {
        clients.retain(|client| client.strong_count() > 0);
    }
    clients.len() < CLIENTS_MAX
}
