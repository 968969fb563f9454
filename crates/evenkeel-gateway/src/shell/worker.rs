//! One thread of the gateway: its own engine, sockets, connections and tasks.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinHandle};

use super::Shared;
use super::forward::{Client, forward};
use super::timers::Deadlines;
use super::upstream::Idle;
use crate::engine::{Engine, Snapshot, Surroundings};
use crate::plane::Lag;

/// A client that sends nothing for this long is left. Generous: closing an idle connection may cross
/// the client's next request.
const CLIENT_IDLE_MAX: Duration = Duration::from_mins(5);
/// Client connections per worker; more wait in the kernel's queue.
const CLIENTS_MAX: usize = 16_384;
/// How often idle connections are looked through.
const PRUNE_EVERY: Duration = Duration::from_secs(10);
/// Pause after the system refused a connection (no file descriptors).
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// What a worker is told.
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
    clients: RefCell<Vec<(Weak<Client>, AbortHandle)>>,
    shared: Arc<Shared>,
}

impl Worker {
    /// Time since the gateway started.
    pub(super) fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// Tells the gateway when an endpoint that gets no more requests has none left.
    pub(super) fn tell_emptied(&self) {
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

/// Runs a worker until it is told to stop.
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
    });
    let worker = Rc::new(Worker {
        index,
        started: shared.started,
        engine: RefCell::new(engine),
        idle: RefCell::default(),
        deadlines: Deadlines::default(),
        closing: Cell::new(false),
        clients: RefCell::default(),
        shared,
    });
    let timers = tokio::task::spawn_local({
        let worker = Rc::clone(&worker);
        async move { worker.deadlines.run(|| worker.now()).await }
    });
    let pruning = tokio::task::spawn_local(prune(Rc::clone(&worker)));
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
    accepting.values().for_each(JoinHandle::abort);
}

async fn prune(worker: Rc<Worker>) {
    loop {
        tokio::time::sleep(PRUNE_EVERY).await;
        let now = worker.now();
        let engine = worker.engine.borrow();
        worker.idle.borrow_mut().prune(now, |endpoint| engine.in_use(endpoint));
        worker.clients.borrow_mut().retain(|(client, task)| {
            let Some(client) = client.upgrade() else { return false };
            let idle = client.idle_since.get();
            if idle.is_some_and(|since| now.saturating_sub(since) >= CLIENT_IDLE_MAX) {
                task.abort();
            }
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
                let client = Rc::new(Client {
                    worker: Rc::clone(&worker),
                    listener: address,
                    peer: peer.ip(),
                    deadline: worker.deadlines.add(),
                    idle_since: Cell::new(Some(worker.now())),
                });
                let weak = Rc::downgrade(&client);
                let task = tokio::task::spawn_local(serve(client, stream));
                worker.clients.borrow_mut().push((weak, task.abort_handle()));
            }
            Err(error) => {
                tracing::warn!(%address, %error, "a connection was not accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Forgets connections that have ended, when the list is full.
fn has_room(clients: &mut Vec<(Weak<Client>, AbortHandle)>) -> bool {
    if clients.len() >= CLIENTS_MAX {
        clients.retain(|(client, _)| client.strong_count() > 0);
    }
    clients.len() < CLIENTS_MAX
}

async fn serve(client: Rc<Client>, stream: TcpStream) {
    let peer = client.peer;
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%peer, %error, "connection lost before it was served");
        return;
    }
    let service = service_fn(move |request| forward(Rc::clone(&client), request));
    let connection = http1::Builder::new()
        .auto_date_header(false)
        .header_read_timeout(None)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    if let Err(error) = connection.await {
        tracing::debug!(%peer, %error, "client connection ended early");
    }
}
