//! The clients' requests, one by one, through the gateway's engines.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use evenkeel_base::Rng;
use evenkeel_gateway::{
    engine::{Attempted, Connection, End, IDEMPOTENCY_KEY, Meta, Outcome, Request, Step},
    simulated::Simulated,
};
use http::{HeaderMap, HeaderValue, Method};
use tokio::sync::watch;

use super::{
    clients::{Clients, Seen},
    script::{GETS_PER_S, POSTS_PER_S},
};
use crate::world::{
    fleet::Fleet,
    time::{Trace, VirtualTime, locked},
};

/// Requests are looked after this often; their own times are exact.
const SLICE: Duration = Duration::from_millis(5);
/// The host that clients ask for.
const HOST: &str = "api.elseblock.io";

/// What happens at some time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// An attempt ends: place in `flights`, and which attempt of that place.
    Ended(usize, u64),
    /// A GET is due.
    Get,
    /// A POST is due.
    Post,
}

/// A request that waits for an answer.
struct Flight {
    request: Request,
    worker: usize,
    post: bool,
    phase: usize,
    sent_at: Duration,
    executed: u32,
    attempt: Underway,
}

/// The attempt under way.
struct Underway {
    stamp: u64,
    process: usize,
    ends_at: Duration,
    outcome: Outcome,
    executes: bool,
    reused: bool,
}

/// What the load goes through.
pub(super) struct Scene {
    /// The time.
    pub(super) time: Arc<VirtualTime>,
    /// The gateway.
    pub(super) gateway: Simulated,
    /// Who answers.
    pub(super) fleet: Arc<Fleet>,
    /// Where failures are reported.
    pub(super) trace: Trace,
    /// Where results go.
    pub(super) clients: Arc<Mutex<Clients>>,
    /// The address that clients ask.
    pub(super) listener: SocketAddr,
}

/// All clients.
pub(super) struct Load {
    scene: Scene,
    rng: Rng,
    events: BinaryHeap<Reverse<(Duration, u64, Event)>>,
    /// Numbers events, so that those at the same time keep their order.
    number: u64,
    flights: Vec<Option<Flight>>,
    free: Vec<usize>,
    sent: usize,
    stopping: bool,
    get_headers: HeaderMap,
    post_headers: HeaderMap,
}

impl Load {
    /// Clients that have sent nothing yet.
    pub(super) fn new(scene: Scene, rng: Rng) -> Self {
        let key = HeaderValue::from_static("key");
        Self {
            scene,
            rng,
            events: BinaryHeap::new(),
            number: 0,
            flights: Vec::new(),
            free: Vec::new(),
            sent: 0,
            stopping: false,
            get_headers: HeaderMap::new(),
            post_headers: std::iter::once((IDEMPOTENCY_KEY, key)).collect(),
        }
    }

    /// Sends until told to stop, then settles what is under way.
    pub(super) async fn run(mut self, stop: watch::Receiver<bool>) {
        let mut slice = self.scene.time.elapsed();
        self.schedule(slice, Event::Get);
        self.schedule(slice, Event::Post);
        loop {
            slice += SLICE;
            self.scene.time.until(slice).await;
            self.stopping = *stop.borrow();
            for (process, at) in self.scene.fleet.take_ended() {
                self.break_off(process, at);
            }
            while let Some(Reverse((at, _, event))) = self.events.peek().copied() {
                if at > slice {
                    break;
                }
                self.events.pop();
                match event {
                    Event::Get => self.arrive(at, false),
                    Event::Post => self.arrive(at, true),
                    Event::Ended(place, stamp) => self.ended(at, place, stamp),
                }
            }
            if self.stopping && self.flights.iter().all(Option::is_none) {
                return;
            }
        }
    }

    fn schedule(&mut self, at: Duration, event: Event) {
        self.number += 1;
        self.events.push(Reverse((at, self.number, event)));
    }

    /// Attempts on a process break when it ends.
    fn break_off(&mut self, process: usize, at: Duration) {
        let mut broken = Vec::new();
        for (place, flight) in self.flights.iter_mut().enumerate() {
            let Some(flight) = flight else { continue };
            if flight.attempt.process == process && flight.attempt.ends_at > at {
                self.number += 1;
                flight.attempt.stamp = self.number;
                flight.attempt.breaks(at);
                broken.push((place, self.number));
            }
        }
        for (place, stamp) in broken {
            self.schedule(at, Event::Ended(place, stamp));
        }
    }

    fn arrive(&mut self, at: Duration, post: bool) {
        if self.stopping {
            return;
        }
        let (per_second, event) =
            if post { (POSTS_PER_S, Event::Post) } else { (GETS_PER_S, Event::Get) };
        let gap = (Duration::from_secs(1) / per_second).mul_f64(0.5 + self.rng.unit());
        self.schedule(at + gap, event);
        self.sent += 1;
        let worker = self.sent;
        let phase = locked(&self.scene.clients).sent();
        let (method, headers) = if post {
            (Method::POST, &self.post_headers)
        } else {
            (Method::GET, &self.get_headers)
        };
        let meta = Meta { method: &method, path: "/", query: None, host: Some(HOST), headers };
        let listener = self.scene.listener;
        let (request, step) =
            self.scene.gateway.with_engine(worker, |engine| engine.start(at, listener, &meta));
        let attempt = Underway {
            stamp: 0,
            process: usize::MAX,
            ends_at: at,
            outcome: Outcome::Refused,
            executes: false,
            reused: false,
        };
        let flight = Flight { request, worker, post, phase, sent_at: at, executed: 0, attempt };
        self.go_on(at, flight, step);
    }

    /// Does what the engine says, until there is something to wait for or the request is over.
    fn go_on(&mut self, at: Duration, mut flight: Flight, mut step: Step) {
        loop {
            let (status, version) = match step {
                Step::Attempt(attempt) => {
                    let method = if flight.post { "POST" } else { "GET" };
                    let Some(taken) = self.scene.fleet.ask(attempt.endpoint, at, method) else {
                        let result = Attempted { outcome: Outcome::Refused, replayable: true };
                        step = self.tell(at, &mut flight, result);
                        continue;
                    };
                    self.number += 1;
                    let mut underway = Underway {
                        stamp: self.number,
                        process: taken.process,
                        ends_at: taken.at,
                        outcome: Outcome::Head { status: taken.status },
                        executes: taken.executes,
                        reused: attempt.connection == Connection::Any,
                    };
                    if attempt.deadline < underway.ends_at {
                        underway.ends_at = attempt.deadline;
                        underway.outcome = Outcome::TimedOut;
                    }
                    if let Some(end) = taken.ends_at.filter(|end| *end < underway.ends_at) {
                        underway.breaks(end);
                    }
                    flight.attempt = underway;
                    return self.park(flight);
                }
                Step::Respond => {
                    let status = match flight.attempt.outcome {
                        Outcome::Head { status } => status,
                        _ => 502,
                    };
                    (status, self.scene.fleet.version(flight.attempt.process))
                }
                Step::Answer(answer) => (answer.status(), None),
            };
            self.scene.gateway.with_engine(flight.worker, |engine| {
                engine.finish(at, &mut flight.request, End::Complete);
            });
            if status >= 400 {
                let by = version.as_deref().unwrap_or("the gateway");
                let method = if flight.post { "POST" } else { "GET" };
                self.scene.trace.say(&format!("{method} failed: {status} by {by}"));
            }
            let Flight { phase, post, sent_at, executed, .. } = flight;
            let seen = Seen { phase, post, sent_at, at, status, version, executed };
            return locked(&self.scene.clients).answered(seen);
        }
    }

    fn tell(&self, at: Duration, flight: &mut Flight, result: Attempted) -> Step {
        let (worker, request) = (flight.worker, &mut flight.request);
        self.scene.gateway.with_engine(worker, |engine| engine.on_result(at, request, result))
    }

    fn park(&mut self, flight: Flight) {
        let (at, stamp) = (flight.attempt.ends_at, flight.attempt.stamp);
        let place = self.free.pop().unwrap_or_else(|| {
            self.flights.push(None);
            self.flights.len() - 1
        });
        if let Some(free) = self.flights.get_mut(place) {
            *free = Some(flight);
        }
        self.schedule(at, Event::Ended(place, stamp));
    }

    fn ended(&mut self, at: Duration, place: usize, stamp: u64) {
        let Some(slot) = self.flights.get_mut(place) else { return };
        // An older plan for this attempt, or for one before it.
        let Some(mut flight) = slot.take_if(|flight| flight.attempt.stamp == stamp) else { return };
        self.free.push(place);
        let outcome = flight.attempt.outcome;
        if flight.attempt.executes && matches!(outcome, Outcome::Head { .. }) {
            flight.executed += 1;
        }
        // An upload is larger than what the gateway keeps for a second attempt.
        let result = Attempted { outcome, replayable: !flight.post };
        let step = self.tell(at, &mut flight, result);
        self.go_on(at, flight, step);
    }
}

impl Underway {
    fn breaks(&mut self, at: Duration) {
        self.ends_at = at;
        self.outcome = Outcome::Broken { sent: true, reused: self.reused };
    }
}
