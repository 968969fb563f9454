//! The gateway without sockets and threads: the same engines, in the host's kind of time.
//!
//! Requests are made one by one by the simulator, each through the engine of one worker; the endpoint is
//! a function. Workers apply configurations at once, or late when a lag is injected.
#![warn(clippy::disallowed_methods, reason = "must run under virtual time")]

use std::collections::{BTreeMap, VecDeque};
use std::future::poll_fn;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::time::Duration;

use evenkeel_base::Clock;
use evenkeel_control::{BoxFuture, Timer};
use futures::future::select;
use jiff::Timestamp;

use crate::engine::{
    Attempted, Board, End, Engine, Meta, Metrics, Outcome, Snapshot, Step, Surroundings, Switches,
};
use crate::plane::{DataPlane, Lag, Progress};

/// How a simulated gateway is set up.
#[derive(Clone)]
pub struct Simulation {
    /// Present time.
    pub clock: Arc<dyn Clock>,
    /// Waiting in that time.
    pub timer: Arc<dyn Timer>,
    /// Engines; at least one.
    pub workers: usize,
    /// Safeguards.
    pub switches: Switches,
    /// A fault: workers that are late with every configuration.
    pub lag: Option<Lag>,
}

/// A gateway for simulations. Cheap to clone; clones are the same gateway.
#[derive(Clone)]
pub struct Simulated {
    setup: Simulation,
    started: Timestamp,
    board: Arc<Board>,
    metrics: Arc<Metrics>,
    state: Arc<Mutex<State>>,
}

struct State {
    workers: Vec<Worker>,
    emptied: u64,
    /// Grows with every change, so that no waiter misses what has happened.
    changes: u64,
    waiting: Vec<Waker>,
}

struct Worker {
    engine: Engine,
    running: u64,
    /// Configurations that it will apply, and when.
    due: VecDeque<(Duration, Arc<Snapshot>)>,
}

/// What an endpoint does with an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reply {
    /// How the attempt goes.
    pub outcome: Outcome,
    /// How long that takes.
    pub took: Duration,
    /// How the answer ends, if there is one.
    pub end: End,
}

/// What the client of a simulated request saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sent {
    /// Status; the gateway's own one when no endpoint answered.
    pub status: u16,
    /// Whether the whole answer arrived.
    pub whole: bool,
    /// Time over all attempts.
    pub took: Duration,
    /// Attempts made.
    pub attempts: u32,
    /// The endpoint that answered.
    pub endpoint: Option<SocketAddr>,
}

impl Simulated {
    /// A gateway with an empty configuration.
    pub fn new(setup: Simulation) -> Self {
        let (board, metrics) = (Arc::<Board>::default(), Arc::<Metrics>::default());
        let worker = |seed| Worker {
            engine: Engine::new(Surroundings {
                board: Arc::clone(&board),
                metrics: Arc::clone(&metrics),
                switches: setup.switches,
                seed,
                ..Surroundings::default()
            }),
            running: 0,
            due: VecDeque::new(),
        };
        let workers = (0..setup.workers.max(1)).map(worker).collect();
        let state = State { workers, emptied: 0, changes: 0, waiting: Vec::new() };
        let started = setup.clock.now();
        Self { setup, started, board, metrics, state: Arc::new(Mutex::new(state)) }
    }

    /// Counters of attempts and requests.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// Time since the start, as engines count it. A clock that steps back stands still.
    pub fn now(&self) -> Duration {
        Duration::try_from(self.setup.clock.now().duration_since(self.started)).unwrap_or_default()
    }

    /// Sends one request now, from beginning to end, through the engine of worker `worker` (modulo their
    /// number). `endpoint` is asked for each attempt, with the time that has passed since the start of
    /// the request.
    pub fn send(
        &self,
        worker: usize,
        listener: SocketAddr,
        meta: &Meta<'_>,
        mut endpoint: impl FnMut(SocketAddr, Duration) -> Reply,
    ) -> Sent {
        let begin = self.now();
        let mut sent =
            Sent { status: 0, whole: true, took: Duration::ZERO, attempts: 0, endpoint: None };
        self.with_engine(worker, |engine| {
            let (mut request, mut step) = engine.start(begin, listener, meta);
            let mut end = End::Complete;
            while let Step::Attempt(attempt) = step {
                let reply = endpoint(attempt.endpoint, sent.took);
                sent.took += reply.took;
                sent.attempts += 1;
                sent.endpoint = Some(attempt.endpoint);
                end = reply.end;
                if let Outcome::Head { status } = reply.outcome {
                    sent.status = status;
                }
                let result = Attempted { outcome: reply.outcome, replayable: true };
                step = engine.on_result(begin + sent.took, &mut request, result);
            }
            if let Step::Answer(answer) = step {
                (sent.status, sent.endpoint, end) = (answer.status(), None, End::Complete);
            }
            sent.whole = end == End::Complete;
            engine.finish(begin + sent.took, &mut request, end);
        });
        sent
    }

    /// Works on one engine directly: for requests that overlap.
    pub fn with_engine<T>(&self, worker: usize, work: impl FnOnce(&mut Engine) -> T) -> T {
        let now = self.now();
        let mut state = self.state();
        state.catch_up(now);
        let index = worker % state.workers.len();
        let worker = state.workers.get_mut(index).expect("the index is within the workers");
        let result = work(&mut worker.engine);
        let emptied = worker.engine.take_emptied();
        if emptied {
            state.emptied += 1;
            state.changed();
        }
        result
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn changed(&mut self) {
        self.changes += 1;
        self.waiting.drain(..).for_each(Waker::wake);
    }

    /// Applies what is due; returns how long until the next one is.
    fn catch_up(&mut self, now: Duration) -> Option<Duration> {
        let mut applied = false;
        for worker in &mut self.workers {
            while let Some((_, snapshot)) = worker.due.pop_front_if(|(at, _)| *at <= now) {
                worker.running = snapshot.generation;
                worker.engine.apply(now, snapshot);
                applied = true;
            }
        }
        if applied {
            self.changed();
        }
        let next = self.workers.iter().filter_map(|worker| Some(worker.due.front()?.0)).min();
        next.map(|at| at.saturating_sub(now))
    }

    fn progress(&self) -> Progress {
        let acknowledged = self.workers.iter().map(|worker| worker.running).min();
        Progress { acknowledged: acknowledged.unwrap_or(0), emptied: self.emptied }
    }
}

impl DataPlane for Simulated {
    fn apply(&self, snapshot: &Arc<Snapshot>) -> BTreeMap<SocketAddr, String> {
        let now = self.now();
        let mut state = self.state();
        for (index, worker) in state.workers.iter_mut().enumerate() {
            let at = now + Lag::of(self.setup.lag, index).unwrap_or_default();
            worker.due.push_back((at, Arc::clone(snapshot)));
        }
        state.catch_up(now);
        BTreeMap::new()
    }

    fn progress(&self) -> Progress {
        let now = self.now();
        let mut state = self.state();
        state.catch_up(now);
        state.progress()
    }

    fn progressed(&self, seen: Progress) -> BoxFuture<'static, ()> {
        let own = self.clone();
        Box::pin(async move {
            loop {
                let now = own.now();
                let (next, changes) = {
                    let mut state = own.state();
                    let next = state.catch_up(now);
                    if state.progress() != seen {
                        return;
                    }
                    (next, state.changes)
                };
                let changed = poll_fn(|cx| {
                    let mut state = own.state();
                    if state.changes != changes {
                        return Poll::Ready(());
                    }
                    state.waiting.retain(|waker| !waker.will_wake(cx.waker()));
                    state.waiting.push(cx.waker().clone());
                    Poll::Pending
                });
                match next {
                    None => changed.await,
                    Some(wait) => drop(select(changed, own.setup.timer.sleep(wait)).await),
                }
            }
        })
    }

    fn in_flight_at(&self, address: IpAddr) -> u32 {
        self.board.in_flight_at(address)
    }

    fn switches(&self) -> Switches {
        self.setup.switches
    }
}
