//! The engine: every decision about a request, without a socket, a clock or a task.
//!
//! One engine serves one thread (or one simulation). Time comes in as `now`, counted from any fixed
//! start. The caller does what `Step` says and reports the result:
//!
//! ```text
//! start ──> Attempt ──> on_result ──> Respond ──> finish
//!   │          ^             │
//!   │          └── Attempt ──┤
//!   └────────> Answer <──────┘
//! ```
//! Connections that are not HTTP are decided once each: [`Engine::connect`].
#![warn(clippy::disallowed_methods, reason = "must run under virtual time")]

mod apply;
mod choose;
mod connections;
mod endpoints;
mod health;
mod matching;
mod metrics;
mod protocol;
mod request;
mod retry;
mod sample;
mod snapshot;
mod tally;
mod weights;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use apply::{ListenerState, PoolState};
use choose::Purpose;
pub use connections::{Carried, Dial};
pub use endpoints::{Board, Load};
use endpoints::{SlotId, Slots, Standing};
use health::Sign;
pub use matching::{Match, PathMatch, Pattern, TextMatch};
use metrics::Recorder;
pub use metrics::{
    ATTEMPT_DURATION, ATTEMPTS, BUCKETS_MS, EJECTIONS, FAILED, Flag, Metrics, REQUEST_DURATION,
    REQUESTS, RETRIES,
};
pub use protocol::{OPENING_BYTES, Opening, Protocol, opening};
use request::Open;
pub use request::{Answer, Attempt, Attempted, Connection, End, Meta, Outcome, Request, Step};
pub use retry::{IDEMPOTENCY_KEY, idempotent};
pub use sample::{Sample, Subject};
pub use snapshot::{
    Backend, Endpoint, EndpointState, Filters, HeaderChange, Listener, PathChange, Pool, PoolKey,
    Redirect, RetryRule, Rewrite, Rule, Section, ServicePort, Snapshot,
};
pub use tally::{
    Direction, TCP_BYTES, TCP_CONNECT_FAILURES, TCP_CONNECTIONS, TCP_CONNECTIONS_OPEN, TCP_CONNECTS,
};
pub use weights::SmoothWeights;

/// How long a client waits for the head of an answer when the route does not say.
pub const TIMEOUT_DEFAULT: Duration = Duration::from_mins(1);

/// Safeguards; all on, except to show their effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Switches {
    /// Repeat failed attempts where that is safe.
    pub retries: bool,
    /// Empty an endpoint before its pod is stopped.
    pub drain: bool,
    /// Report a configuration only when every worker runs it.
    pub confirmation: bool,
}

impl Default for Switches {
    fn default() -> Self {
        Self { retries: true, drain: true, confirmation: true }
    }
}

/// Decides for the requests of one thread.
#[derive(Debug)]
pub struct Engine {
    switches: Switches,
    seed: usize,
    timeout: Duration,
    snapshot: Arc<Snapshot>,
    slots: Slots,
    listeners: BTreeMap<SocketAddr, ListenerState>,
    pools: Vec<PoolState>,
    metrics: Arc<Metrics>,
    recorders: Vec<Recorder>,
    recorder_of: BTreeMap<Subject, usize>,
    emptied: bool,
}

/// Shared surroundings of an engine.
#[derive(Debug, Clone)]
pub struct Surroundings {
    /// Requests in flight, over all engines.
    pub board: Arc<Board>,
    /// Counters, over all engines.
    pub metrics: Arc<Metrics>,
    /// Safeguards.
    pub switches: Switches,
    /// Where round-robin starts, so that engines do not move in step.
    pub seed: usize,
    /// How long a client waits for the head of an answer when the route does not say.
    pub timeout: Duration,
}

impl Default for Surroundings {
    fn default() -> Self {
        Self {
            board: Arc::default(),
            metrics: Arc::default(),
            switches: Switches::default(),
            seed: 0,
            timeout: TIMEOUT_DEFAULT,
        }
    }
}

impl Engine {
    /// An engine with an empty configuration.
    pub fn new(surroundings: Surroundings) -> Self {
        let Surroundings { board, metrics, switches, seed, timeout } = surroundings;
        Self {
            switches,
            seed,
            timeout,
            snapshot: Arc::default(),
            slots: Slots::new(board),
            listeners: BTreeMap::new(),
            pools: Vec::new(),
            metrics,
            recorders: Vec::new(),
            recorder_of: BTreeMap::new(),
            emptied: false,
        }
    }

    /// The configuration that new requests get.
    pub fn snapshot(&self) -> &Arc<Snapshot> {
        &self.snapshot
    }

    /// Requests of this engine on `endpoint`.
    pub fn in_flight(&self, endpoint: SocketAddr) -> u32 {
        self.slots.by_address(endpoint).map_or(0, |slot| slot.in_flight)
    }

    /// Whether `endpoint` is in the configuration and not being emptied.
    pub fn in_use(&self, endpoint: SocketAddr) -> bool {
        let standing = self.slots.by_address(endpoint).map(|slot| slot.standing);
        matches!(standing, Some(Standing::In(EndpointState::Ready | EndpointState::Terminating)))
    }

    /// True once after the last request of an endpoint that gets no new ones has ended.
    pub fn take_emptied(&mut self) -> bool {
        std::mem::take(&mut self.emptied)
    }

    /// A new request on the address that `listener` names in the configuration.
    pub fn start(
        &mut self,
        now: Duration,
        listener: SocketAddr,
        meta: &Meta<'_>,
    ) -> (Request, Step) {
        let mut request = Request::new(Arc::clone(&self.snapshot), listener, now);
        let Some(state) = self.listeners.get_mut(&listener) else {
            return (request, Step::Answer(Answer::NotFound));
        };
        request.recorder = Some(state.recorder);
        state.budget.deposit();
        let Some((rule_index, matched)) =
            self.snapshot.listeners.get(&listener).and_then(|listener| listener.find(meta))
        else {
            let step = self.answer(now, &mut request, Answer::NotFound);
            return (request, step);
        };
        request.rule = rule_index;
        request.matched = matched;
        request.safe = retry::idempotent(meta.method, meta.headers);
        if let Some(redirect) = request.rule().and_then(|rule| rule.filters.redirect.as_ref()) {
            let answer = request.redirect(redirect, meta);
            let step = self.answer(now, &mut request, answer);
            return (request, step);
        }
        let chosen = state.rules.get_mut(rule_index).and_then(SmoothWeights::choose);
        let Some(backend) = chosen else {
            let step = self.answer(now, &mut request, Answer::InvalidBackend);
            return (request, step);
        };
        request.backend = backend;
        let redirect = request.backend().and_then(|backend| backend.filters.redirect.as_ref());
        let step = match redirect.map(|redirect| request.redirect(redirect, meta)) {
            Some(answer) => self.answer(now, &mut request, answer),
            None => self.first_attempt(now, &mut request),
        };
        (request, step)
    }

    fn first_attempt(&mut self, now: Duration, request: &mut Request) -> Step {
        if request.backend().is_none_or(|backend| backend.pool.is_none()) {
            return self.answer(now, request, Answer::InvalidBackend);
        }
        // A share whose pool is empty goes to the others; that loses nothing and repeats nothing.
        let order = if self.switches.retries { Order::OwnFirst } else { Order::OwnOnly };
        match self.next_endpoint(now, request, order) {
            Some(next) => Step::Attempt(self.begin(now, request, next)),
            None => self.answer(now, request, Answer::NoEndpoint),
        }
    }

    /// Takes the result of the attempt under way and says what to do next.
    pub fn on_result(&mut self, now: Duration, request: &mut Request, result: Attempted) -> Step {
        self.judge(now, request, result.outcome);
        let (unprocessed, order, otherwise) = match result.outcome {
            Outcome::Refused => (true, Order::OwnFirst, Some(Answer::NoEndpoint)),
            Outcome::Broken { sent, .. } => (!sent, Order::OwnFirst, Some(Answer::Broken)),
            Outcome::TimedOut => (false, Order::OthersFirst, Some(Answer::TimedOut)),
            Outcome::Head { status } => {
                request.status = status;
                let codes = request.rule().and_then(|rule| rule.retry.as_ref());
                if !retry::worth_it(status, codes.map_or(&[][..], |retry| &retry.codes)) {
                    return Step::Respond;
                }
                (false, Order::OthersFirst, None)
            }
        };
        if let Some(next) = self.retry(now, request, Wish { result, unprocessed, order }) {
            self.close(now, request, result.outcome);
            if let Some(index) = request.recorder {
                self.recorders[index].retried();
            }
            return Step::Attempt(self.begin(now, request, next));
        }
        match otherwise {
            None => Step::Respond,
            Some(answer) => {
                self.close(now, request, result.outcome);
                self.answer(now, request, answer)
            }
        }
    }

    /// Ends a request after `Step::Respond`, or at any time when the client went away.
    pub fn finish(&mut self, now: Duration, request: &mut Request, end: End) {
        let flag = match end {
            End::Complete => Flag::None,
            End::Truncated => Flag::Broken,
            End::ClientGone => Flag::ClientGone,
        };
        if let Some(open) = request.open.take() {
            self.close_with(now, open, request.status, flag);
        }
        self.record(now, request, request.status, flag);
    }

    fn judge(&mut self, now: Duration, request: &Request, outcome: Outcome) {
        let Some(open) = request.open else { return };
        let sign = match outcome {
            Outcome::Refused => Sign::Refused,
            // An idle connection that the endpoint closed says nothing about its health.
            Outcome::Broken { reused: true, .. } => return,
            Outcome::Broken { .. } | Outcome::TimedOut => Sign::Bad,
            Outcome::Head { status } if status >= 500 && status != 501 => Sign::Bad,
            Outcome::Head { .. } => Sign::Good,
        };
        self.note(now, open, sign);
    }

    /// Takes note of what an attempt says about its endpoint.
    fn note(&mut self, now: Duration, open: Open, sign: Sign) {
        let Some(slot) = self.slots.get_mut(open.slot) else { return };
        let mut health = std::mem::take(&mut slot.health);
        let ejected = health.note(now, sign, || {
            // Never more than half of a pool, or ejection itself is the outage. The pools may be
            // newer than the attempt; then its endpoint is in no pool and the bound is strict.
            let ring = self.pools.get(open.pool).map(|pool| &pool.ring);
            ring.is_some_and(|ring| (ring.ejected(now, &self.slots) + 1) * 2 <= ring.members.len())
        });
        if let Some(slot) = self.slots.get_mut(open.slot) {
            slot.health = health;
        }
        if ejected {
            self.recorders[open.recorder].ejected();
        }
    }

    fn retry(&mut self, now: Duration, request: &mut Request, wish: Wish) -> Option<Next> {
        let Wish { result, unprocessed, order } = wish;
        let in_time = now < self.deadline(request);
        let allowed = self.switches.retries && result.replayable && (request.safe || unprocessed);
        if !allowed || !in_time || request.attempts() > request.retries_max() {
            return None;
        }
        self.move_to_current(request)?;
        let next = self.next_endpoint(now, request, order)?;
        // What was not processed adds no load and costs no budget.
        let budget = &mut self.listeners.get_mut(&request.listener)?.budget;
        (unprocessed || budget.withdraw(now)).then_some(next)
    }

    /// Finds the request's rule in the current configuration; its endpoints may have changed.
    fn move_to_current(&self, request: &mut Request) -> Option<()> {
        if Arc::ptr_eq(&request.snapshot, &self.snapshot) {
            return Some(());
        }
        let rule = request.rule()?;
        let rules = self.snapshot.listeners.get(&request.listener)?.rules();
        let found = rules.iter().position(|r| r.route == rule.route && r.index == rule.index)?;
        request.backend = request.backend.min(rules.get(found)?.backends.len().saturating_sub(1));
        request.rule = found;
        request.snapshot = Arc::clone(&self.snapshot);
        Some(())
    }

    fn next_endpoint(&mut self, now: Duration, request: &Request, order: Order) -> Option<Next> {
        let backends = &request.rule()?.backends;
        let mut tried = [None; Request::ATTEMPTS_MAX];
        for (place, slot) in tried.iter_mut().zip(request.tried()) {
            *place = Some(slot);
        }
        let own = request.backend;
        let others = (0..backends.len()).filter(|index| *index != own);
        // A backend that redirects has answers for its own share only.
        let asked = |one: &Backend| one.weight > 0 && one.filters.redirect.is_none();
        let others = others.filter(|index| backends.get(*index).is_some_and(asked));
        let mut in_pool = |index: usize| {
            let pool_index = backends.get(index)?.pool?;
            let pool = self.pools.get_mut(pool_index)?;
            let member = pool.ring.choose(now, &mut self.slots, &tried, Purpose::Request)?;
            Some(Next {
                backend: index,
                pool: pool_index,
                slot: *pool.ring.members.get(member)?,
                recorder: *pool.recorders.get(member)?,
            })
        };
        match order {
            Order::OwnOnly => in_pool(own),
            Order::OwnFirst => std::iter::once(own).chain(others).find_map(in_pool),
            Order::OthersFirst => others.chain(std::iter::once(own)).find_map(&mut in_pool),
        }
    }

    fn begin(&mut self, now: Duration, request: &mut Request, next: Next) -> Attempt {
        let slot = self.slots.get_mut(next.slot).expect("the slot was just chosen");
        slot.begin();
        let endpoint = slot.address;
        request.backend = next.backend;
        request.status = 0;
        request.note_try(next.slot);
        request.open =
            Some(Open { slot: next.slot, pool: next.pool, recorder: next.recorder, started: now });
        let number = u8::try_from(request.attempts()).unwrap_or(u8::MAX);
        let first_and_safe = number == 1 && request.safe;
        let connection = if first_and_safe { Connection::Any } else { Connection::Validated };
        let own = request.rule().and_then(|rule| rule.attempt_timeout);
        let deadline = self.deadline(request);
        let deadline = own.map_or(deadline, |timeout| deadline.min(now + timeout));
        Attempt { endpoint, number, connection, deadline }
    }

    fn deadline(&self, request: &Request) -> Duration {
        let timeout = request.rule().and_then(|rule| rule.timeout).unwrap_or(self.timeout);
        request.started + timeout
    }

    fn close(&mut self, now: Duration, request: &mut Request, outcome: Outcome) {
        let Some(open) = request.open.take() else { return };
        let (code, flag) = match outcome {
            Outcome::Refused => (503, Flag::ConnectFailed),
            Outcome::Broken { .. } => (503, Flag::Broken),
            Outcome::TimedOut => (504, Flag::TimedOut),
            Outcome::Head { status } => (status, Flag::None),
        };
        self.close_with(now, open, code, flag);
    }

    fn close_with(&mut self, now: Duration, open: Open, code: u16, flag: Flag) {
        if let Some(slot) = self.slots.get_mut(open.slot) {
            self.emptied |= slot.end();
        }
        self.recorders[open.recorder].note(code, flag, now.saturating_sub(open.started));
    }

    fn answer(&mut self, now: Duration, request: &mut Request, answer: Answer) -> Step {
        self.record(now, request, answer.status(), Flag::None);
        Step::Answer(answer)
    }

    fn record(&mut self, now: Duration, request: &mut Request, code: u16, flag: Flag) {
        if let Some(index) = request.recorder.take() {
            self.recorders[index].note(code, flag, now.saturating_sub(request.started));
        }
    }
}

/// What would be repeated, and how.
#[derive(Debug, Clone, Copy)]
struct Wish {
    result: Attempted,
    unprocessed: bool,
    order: Order,
}

/// Where the next endpoint is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    OwnOnly,
    OwnFirst,
    /// After an answer that another version may not give.
    OthersFirst,
}

/// An endpoint chosen for an attempt.
#[derive(Debug, Clone, Copy)]
struct Next {
    backend: usize,
    pool: usize,
    slot: SlotId,
    recorder: usize,
}
