//! Connections that are carried as bytes: where each goes, decided once, before its first byte.
//!
//! ```text
//! connect ──> Dial::To ──> connected      until it is dropped
//!    │           ^ └─────> refused ──> Dial::To ...
//!    └────────> Dial::Reset <──┘
//! ```
//! Nothing was sent while an endpoint does not answer, so another one can always be tried.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::choose::Purpose;
use super::endpoints::{Counted, SlotId};
use super::health::Sign;
use super::protocol::Protocol;
use super::request::{Open, Request};
use super::snapshot::{Backend, Listener};
use super::tally::{Direction, Tally};
use super::weights::SmoothWeights;
use super::{Engine, Next};

/// What the caller does next with a client's connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dial {
    /// Connect to this endpoint, then report whether it took the connection.
    To(SocketAddr),
    /// Reset it: nobody takes it.
    Reset,
}

/// A client's connection that is carried as bytes. It counts until it is dropped.
#[derive(Debug)]
pub struct Carried {
    listener: SocketAddr,
    client: IpAddr,
    /// Of the configuration that `target` is about. Not the configuration itself: a connection may
    /// outlive many.
    generation: u64,
    target: Target,
    tried: [Option<SlotId>; Request::ATTEMPTS_MAX],
    attempt: Option<Open>,
    counted: Option<Counted>,
    /// Of the Service that was asked.
    tally: Option<Arc<Tally>>,
    made: bool,
}

/// Whose endpoints it goes to.
#[derive(Debug, Clone, Copy)]
enum Target {
    /// Nobody's: the rule has no backend for it.
    None,
    /// The Service's own: the position of their pool.
    Own(usize),
    /// Those of a backend, by the positions of rule and backend.
    Backend(usize, usize),
}

/// How a listener splits connections.
#[derive(Debug)]
pub(super) struct Split {
    rule: usize,
    weights: SmoothWeights,
}

impl Split {
    /// Shares keep counting while the weights stay the same. `None`: nothing is split.
    pub(super) fn of(listener: &Listener, before: Option<&Self>) -> Option<Self> {
        listener.port?;
        let rule = listener.rule_for_bytes()?;
        let backends = listener.rules().get(rule)?.backends.iter();
        let weights: Vec<u32> = backends.map(|one| one.weight).collect();
        let weights = match before.filter(|before| before.weights.weights() == weights) {
            Some(before) => before.weights.clone(),
            None => SmoothWeights::new(weights),
        };
        Some(Self { rule, weights })
    }

    fn choose(&mut self) -> Target {
        self.weights.choose().map_or(Target::None, |backend| Target::Backend(self.rule, backend))
    }
}

impl Carried {
    /// Counts bytes that were passed on.
    pub fn passed(&self, direction: Direction, bytes: u64) {
        if let Some(tally) = &self.tally {
            tally.passed(direction, bytes);
        }
    }
}

impl Drop for Carried {
    fn drop(&mut self) {
        if let Some(tally) = self.tally.as_ref().filter(|_| self.made) {
            tally.open.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Engine {
    /// What a new connection to `listener` is.
    pub fn protocol(&self, listener: SocketAddr) -> Protocol {
        let port = self.snapshot.listeners.get(&listener).and_then(|listener| listener.port);
        port.map_or(Protocol::Http, |port| port.protocol)
    }

    /// A new connection of `client` that is carried as bytes.
    pub fn connect(
        &mut self,
        now: Duration,
        listener: SocketAddr,
        client: IpAddr,
    ) -> (Carried, Dial) {
        let recorder = self.listeners.get(&listener).map(|state| state.recorder);
        let mut carried = Carried {
            listener,
            client,
            generation: self.snapshot.generation,
            target: self.target(listener),
            tried: [None; Request::ATTEMPTS_MAX],
            attempt: None,
            counted: None,
            tally: recorder.map(|index| self.recorders[index].tally()),
            made: false,
        };
        let dial = self.dial(now, &mut carried);
        (carried, dial)
    }

    /// The endpoint took the connection.
    pub fn connected(&mut self, now: Duration, carried: &mut Carried) {
        let Some(attempt) = carried.attempt.take() else { return };
        self.note(now, attempt, Sign::Good);
        self.recorders[attempt.recorder].tally().made.fetch_add(1, Ordering::Relaxed);
        if let Some(tally) = &carried.tally {
            carried.made = true;
            tally.made.fetch_add(1, Ordering::Relaxed);
            tally.open.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The endpoint did not take the connection. Says who is next.
    pub fn refused(&mut self, now: Duration, carried: &mut Carried) -> Dial {
        carried.counted = None;
        if let Some(attempt) = carried.attempt.take() {
            self.note(now, attempt, Sign::Refused);
            self.recorders[attempt.recorder].tally().refused.fetch_add(1, Ordering::Relaxed);
        }
        // In another configuration the positions mean something else.
        if carried.generation != self.snapshot.generation {
            carried.generation = self.snapshot.generation;
            carried.target = self.target(carried.listener);
        }
        self.dial(now, carried)
    }

    fn target(&mut self, listener: SocketAddr) -> Target {
        let split = self.listeners.get_mut(&listener).and_then(|state| state.split.as_mut());
        if let Some(split) = split {
            return split.choose();
        }
        let port = self.snapshot.listeners.get(&listener).and_then(|listener| listener.port);
        port.map_or(Target::None, |port| Target::Own(port.pool))
    }

    fn dial(&mut self, now: Duration, carried: &mut Carried) -> Dial {
        let Some((next, place)) = self.next_for(now, carried) else {
            if let Some(tally) = &carried.tally {
                let tried = carried.tried.iter().any(Option::is_some);
                let counter = if tried { &tally.refused } else { &tally.nowhere };
                counter.fetch_add(1, Ordering::Relaxed);
            }
            return Dial::Reset;
        };
        let slot = self.slots.get(next.slot).expect("the slot was just chosen");
        carried.counted = Some(slot.connect());
        carried.tried[place] = Some(next.slot);
        carried.attempt =
            Some(Open { slot: next.slot, pool: next.pool, recorder: next.recorder, started: now });
        Dial::To(slot.address)
    }

    /// The endpoint that is asked next, and the free place among those that were tried. A share
    /// whose endpoints do not answer goes to the others, as with requests.
    fn next_for(&mut self, now: Duration, carried: &Carried) -> Option<(Next, usize)> {
        let retries = if self.switches.retries { carried.tried.len() } else { 1 };
        let place = carried.tried.iter().take(retries).position(Option::is_none)?;
        let listener = self.snapshot.listeners.get(&carried.listener)?;
        let sticky = listener.port.is_some_and(|port| port.sticky);
        let purpose = if sticky { Purpose::Client(carried.client) } else { Purpose::Connection };
        let mut in_pool = |backend: usize, pool_index: usize| {
            let pool = self.pools.get_mut(pool_index)?;
            let member = pool.ring.choose(now, &mut self.slots, &carried.tried, purpose)?;
            let (slot, recorder) = (*pool.ring.members.get(member)?, *pool.recorders.get(member)?);
            Some(Next { backend, pool: pool_index, slot, recorder })
        };
        let next = match carried.target {
            Target::None => None,
            Target::Own(pool) => in_pool(0, pool),
            Target::Backend(rule, own) => {
                let backends = &listener.rules().get(rule)?.backends;
                // The share of a backend that does not exist is nobody's.
                let own_pool = backends.get(own)?.pool?;
                let asked = |(index, one): (usize, &Backend)| {
                    let other = index != own && one.weight > 0 && self.switches.retries;
                    one.pool.filter(|_| other).map(|pool| (index, pool))
                };
                let others = backends.iter().enumerate().filter_map(asked);
                let mut all = std::iter::once((own, own_pool)).chain(others);
                all.find_map(|(index, pool)| in_pool(index, pool))
            }
        };
        Some((next?, place))
    }
}
