//! Which endpoint of a pool gets the next attempt.

use std::time::Duration;

use super::endpoints::{Slot, SlotId, Slots, Standing};
use super::snapshot::EndpointState;

/// How long a new endpoint takes to its full share.
pub(super) const SLOW_START: Duration = Duration::from_secs(10);
/// Its share at the start.
const SLOW_START_SHARE_MIN: f32 = 0.1;

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
    ) -> Option<usize> {
        let healthy = |slot: &Slot| {
            ready(slot)
                && !slot.health.ejected(now)
                && (slot.in_flight == 0 || !slot.health.on_probation())
        };
        let chosen = self
            .round(slots, tried, &mut |slot| healthy(slot) && warm(slot, now))
            .or_else(|| self.round(slots, tried, &mut |slot| healthy(slot)))
            .or_else(|| self.round(slots, tried, &mut |slot| ready(slot)))
            .or_else(|| {
                let last_resort = Standing::In(EndpointState::Terminating);
                self.round(slots, tried, &mut |slot| slot.standing == last_resort)
            })?;
        self.cursor = (chosen + 1) % self.members.len().max(1);
        Some(chosen)
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
