//! The live state of endpoints, kept across configurations.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::health::Health;
use super::snapshot::{EndpointState, Snapshot};

/// Requests in flight and connections per endpoint, over all engines that share the board.
#[derive(Debug, Default)]
pub struct Board {
    loads: Mutex<BTreeMap<SocketAddr, Arc<Load>>>,
}

/// One endpoint's entry on the board.
#[derive(Debug, Default)]
pub struct Load {
    in_flight: AtomicU32,
    /// Carried as bytes; they do not hold up a drain.
    connections: AtomicU32,
}

/// A connection that counts for its endpoint until this is dropped.
#[derive(Debug)]
pub(super) struct Counted(Arc<Load>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Board {
    /// Requests that were given to `address` and are not finished, over all engines.
    pub fn in_flight(&self, address: SocketAddr) -> u32 {
        let loads = self.loads.lock().unwrap_or_else(PoisonError::into_inner);
        loads.get(&address).map_or(0, |load| load.in_flight.load(Ordering::SeqCst))
    }

    /// The same for all endpoints of one pod.
    pub fn in_flight_at(&self, address: IpAddr) -> u32 {
        let loads = self.loads.lock().unwrap_or_else(PoisonError::into_inner);
        let own = loads.iter().filter(|(endpoint, _)| endpoint.ip() == address);
        own.map(|(_, load)| load.in_flight.load(Ordering::SeqCst)).sum()
    }

    fn load(&self, address: SocketAddr) -> Arc<Load> {
        let mut loads = self.loads.lock().unwrap_or_else(PoisonError::into_inner);
        // Entries that no engine holds any more are not needed.
        if loads.len() > 1_000 {
            loads.retain(|_, load| Arc::strong_count(load) > 1);
        }
        Arc::clone(loads.entry(address).or_default())
    }
}

/// Where a slot stands in the current configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    In(EndpointState),
    /// Not in the configuration any more; kept while requests are in flight.
    Gone,
}

/// The live state of one endpoint.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) address: SocketAddr,
    pub(super) standing: Standing,
    pub(super) in_flight: u32,
    pub(super) health: Health,
    /// When it joined a running gateway; `None` for those that were there first.
    pub(super) joined: Option<Duration>,
    /// Turns saved up during slow start; a whole one buys a request.
    pub(super) warm_credit: f32,
    epoch: u32,
    load: Arc<Load>,
}

/// Names a slot; never confuses an endpoint with a later one in the same place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SlotId {
    index: u32,
    epoch: u32,
}

impl Slot {
    pub(super) fn begin(&mut self) {
        self.in_flight += 1;
        self.load.in_flight.fetch_add(1, Ordering::SeqCst);
    }

    /// A connection to the endpoint that is carried as bytes.
    pub(super) fn connect(&self) -> Counted {
        self.load.connections.fetch_add(1, Ordering::Relaxed);
        Counted(Arc::clone(&self.load))
    }

    /// Such connections, over all engines.
    pub(super) fn connections(&self) -> u32 {
        self.load.connections.load(Ordering::Relaxed)
    }

    /// True when this was the last request of an endpoint that gets no new ones.
    pub(super) fn end(&mut self) -> bool {
        self.in_flight = self.in_flight.saturating_sub(1);
        let before = self.load.in_flight.fetch_sub(1, Ordering::SeqCst);
        before == 1 && self.standing != Standing::In(EndpointState::Ready)
    }
}

/// All slots of one engine.
#[derive(Debug)]
pub(super) struct Slots {
    board: Arc<Board>,
    all: Vec<Slot>,
    by_address: BTreeMap<SocketAddr, u32>,
    epoch: u32,
    started: bool,
}

impl Slots {
    pub(super) fn new(board: Arc<Board>) -> Self {
        Self { board, all: Vec::new(), by_address: BTreeMap::new(), epoch: 0, started: false }
    }

    pub(super) fn get(&self, id: SlotId) -> Option<&Slot> {
        self.all.get(id.index as usize).filter(|slot| slot.epoch == id.epoch)
    }

    pub(super) fn get_mut(&mut self, id: SlotId) -> Option<&mut Slot> {
        self.all.get_mut(id.index as usize).filter(|slot| slot.epoch == id.epoch)
    }

    pub(super) fn by_address(&self, address: SocketAddr) -> Option<&Slot> {
        let index = self.by_address.get(&address)?;
        self.all.get(*index as usize)
    }

    /// Takes over a configuration; returns the slot of each endpoint of each pool, in their order.
    pub(super) fn apply(&mut self, now: Duration, snapshot: &Snapshot) -> Vec<Vec<SlotId>> {
        self.epoch = self.epoch.wrapping_add(1);
        let mut standing: BTreeMap<SocketAddr, EndpointState> = BTreeMap::new();
        for endpoint in snapshot.pools.iter().flat_map(|pool| &pool.endpoints) {
            let state = standing.entry(endpoint.address).or_insert(endpoint.state);
            // A pod in several Services: the most careful state holds for all.
            if careful(endpoint.state) > careful(*state) {
                *state = endpoint.state;
            }
        }
        self.release(&standing);
        let joined = self.started.then_some(now);
        self.started = true;
        for (address, state) in standing {
            let index = match self.by_address.get(&address) {
                Some(index) => *index,
                None => self.add(address, joined),
            };
            if let Some(slot) = self.all.get_mut(index as usize) {
                if slot.standing == Standing::Gone {
                    slot.joined = joined;
                    slot.health = Health::default();
                }
                slot.standing = Standing::In(state);
            }
        }
        let id = |address: &SocketAddr| {
            let index = *self.by_address.get(address)?;
            Some(SlotId { index, epoch: self.all.get(index as usize)?.epoch })
        };
        let pools = snapshot.pools.iter();
        pools.map(|pool| pool.endpoints.iter().filter_map(|e| id(&e.address)).collect()).collect()
    }

    fn release(&mut self, keep: &BTreeMap<SocketAddr, EndpointState>) {
        let slots = &mut self.all;
        self.by_address.retain(|address, index| {
            let Some(slot) = slots.get_mut(*index as usize) else { return false };
            if !keep.contains_key(address) {
                slot.standing = Standing::Gone;
            }
            slot.standing != Standing::Gone || slot.in_flight > 0
        });
    }

    fn add(&mut self, address: SocketAddr, joined: Option<Duration>) -> u32 {
        let slot = Slot {
            address,
            standing: Standing::Gone,
            in_flight: 0,
            health: Health::default(),
            joined,
            warm_credit: 0.0,
            epoch: self.epoch,
            load: self.board.load(address),
        };
        let free = self.all.iter().position(|slot| {
            slot.standing == Standing::Gone && slot.in_flight == 0 && slot.epoch != self.epoch
        });
        let index = free.unwrap_or(self.all.len());
        match self.all.get_mut(index) {
            Some(place) => *place = slot,
            None => self.all.push(slot),
        }
        let index = u32::try_from(index).expect("fewer than 2^32 endpoints");
        self.by_address.insert(address, index);
        index
    }
}

fn careful(state: EndpointState) -> u8 {
    match state {
        EndpointState::Ready => 0,
        EndpointState::Terminating => 1,
        EndpointState::Draining => 2,
    }
}
