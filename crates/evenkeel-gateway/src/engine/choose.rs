//! Which endpoint of a pool gets the next attempt.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::endpoints::{Slot, SlotId, Slots, Standing};
use super::snapshot::EndpointState;

/// How long a new endpoint takes to its full share.
pub(super) const SLOW_START: Duration = Duration::from_secs(10);
/// Its share at the start.
const SLOW_START_SHARE_MIN: f32 = 0.1;

/// What an endpoint is chosen for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// A request: the less loaded of the next two.
    Request,
    /// A connection, which may last: the one with the fewest, over all engines.
    Connection,
    /// A connection of this client: the same one as before, as long as that is fit.
    Client(IpAddr),
}

/// The members of one pool and whose turn it is.
#[derive(Debug, Default)]
pub(super) struct Ring {
    pub(super) members: Vec<SlotId>,
    cursor: usize,
}

impl Ring {
    pub(super) fn new(members: Vec<SlotId>, seed: usize) -> Self {
        let cursor = seed.checked_rem(members.len()).unwrap_or(0);
        Self { members, cursor }
    }

    /// Whose turn it would be, kept when the configuration changes.
    pub(super) fn cursor(&self) -> usize {
        self.cursor
    }

    /// The position (in the pool) of the endpoint for the next attempt, never one in `tried`.
    /// Ready ones first; if there are none, ejected ones, then terminating ones.
    pub(super) fn choose(
        &mut self,
        now: Duration,
        slots: &mut Slots,
        tried: &[Option<SlotId>],
        purpose: Purpose,
    ) -> Option<usize> {
        let settled = matches!(purpose, Purpose::Client(_));
        let healthy = |slot: &Slot| {
            ready(slot)
                && !slot.health.ejected(now)
                && (slot.in_flight == 0 || !slot.health.on_probation())
        };
        let chosen = self
            .pick(slots, tried, purpose, &mut |slot| healthy(slot) && (settled || warm(slot, now)))
            .or_else(|| self.pick(slots, tried, purpose, &mut |slot| healthy(slot)))
            .or_else(|| self.pick(slots, tried, purpose, &mut |slot| ready(slot)))
            .or_else(|| {
                let last_resort = Standing::In(EndpointState::Terminating);
                self.pick(slots, tried, purpose, &mut |slot| slot.standing == last_resort)
            })?;
        self.cursor = (chosen + 1) % self.members.len().max(1);
        Some(chosen)
    }

    fn pick(
        &self,
        slots: &mut Slots,
        tried: &[Option<SlotId>],
        purpose: Purpose,
        fit: &mut dyn FnMut(&mut Slot) -> bool,
    ) -> Option<usize> {
        let cost = |slot: &Slot| match purpose {
            Purpose::Request => None,
            Purpose::Connection => Some(u64::from(slot.connections())),
            Purpose::Client(client) => Some(distance(client, slot.address)),
        };
        let count = self.members.len();
        let mut best: Option<(usize, u64)> = None;
        for index in (0..count).map(|step| (self.cursor + step) % count) {
            let id = *self.members.get(index)?;
            let Some(slot) = slots.get_mut(id).filter(|_| !tried.contains(&Some(id))) else {
                continue;
            };
            let Some(cost) = cost(slot) else { return self.round(slots, tried, fit) };
            if fit(slot) && best.is_none_or(|(_, least)| cost < least) {
                best = Some((index, cost));
            }
        }
        best.map(|(index, _)| index)
    }

    /// The less loaded of the next two in the ring that are fit; the first when they are equal.
    fn round(
        &self,
        slots: &mut Slots,
        tried: &[Option<SlotId>],
        fit: &mut dyn FnMut(&mut Slot) -> bool,
    ) -> Option<usize> {
        let count = self.members.len();
        let mut first: Option<(usize, u32)> = None;
        for step in 0..count {
            let index = (self.cursor + step) % count;
            let id = *self.members.get(index)?;
            if tried.contains(&Some(id)) {
                continue;
            }
            let Some(slot) = slots.get_mut(id) else { continue };
            if !fit(slot) {
                continue;
            }
            let Some((other, load)) = first else {
                if slot.in_flight == 0 {
                    return Some(index);
                }
                first = Some((index, slot.in_flight));
                continue;
            };
            return Some(if slot.in_flight < load { index } else { other });
        }
        first.map(|(index, _)| index)
    }

    /// How many of the members are out at `now`.
    pub(super) fn ejected(&self, now: Duration, slots: &Slots) -> usize {
        let out = |id: &&SlotId| slots.get(**id).is_some_and(|slot| slot.health.ejected(now));
        self.members.iter().filter(out).count()
    }
}

/// Rendezvous hashing: every engine finds the same endpoint for a client; when one comes or
/// goes, only its own clients move. FNV-1a, and a finish that spreads near addresses.
fn distance(client: IpAddr, endpoint: SocketAddr) -> u64 {
    let octets = |ip: IpAddr| match ip.to_canonical() {
        IpAddr::V4(ip) => u128::from(ip.to_bits()),
        IpAddr::V6(ip) => ip.to_bits(),
    };
    let (client, server) = (octets(client).to_be_bytes(), octets(endpoint.ip()).to_be_bytes());
    let port = endpoint.port().to_be_bytes();
    let bytes = client.iter().chain(&server).chain(&port);
    let mut hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    for factor in [0xff51_afd7_ed55_8ccd_u64, 0xc4ce_b9fe_1a85_ec53] {
        hash = (hash ^ (hash >> 33)).wrapping_mul(factor);
    }
    hash ^ (hash >> 33)
}

fn ready(slot: &Slot) -> bool {
    slot.standing == Standing::In(EndpointState::Ready)
}

/// Slow start: a new endpoint takes every tenth of its turns at first, all of them in the end.
fn warm(slot: &mut Slot, now: Duration) -> bool {
    let Some(joined) = slot.joined else { return true };
    let age = now.saturating_sub(joined);
    if age >= SLOW_START {
        slot.joined = None;
        return true;
    }
    slot.warm_credit += (age.as_secs_f32() / SLOW_START.as_secs_f32()).max(SLOW_START_SHARE_MIN);
    if slot.warm_credit < 1.0 {
        return false;
    }
    slot.warm_credit -= 1.0;
    true
}
