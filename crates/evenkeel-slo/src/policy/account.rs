//! Reservations: the expected cost of what is under way, until its measured cost is known.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::spec::ActionClass;
use crate::duration::PromDuration;

/// Budget set aside for one action.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Reservation {
    /// What it is for.
    pub class: ActionClass,
    /// Expected cost. Unit: share of the budget.
    pub expected: f64,
    /// What it has cost so far, as measured; already part of what the budget lost.
    pub spent: f64,
    /// When it was made.
    pub made: Timestamp,
    /// When it ends by itself, if it is not settled.
    pub expires: Timestamp,
}

/// Expected against measured, when an action is over.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Settlement {
    /// What was reserved. Unit: share of the budget.
    pub expected: f64,
    /// What it cost. Unit: share of the budget.
    pub measured: f64,
    /// When.
    pub at: Timestamp,
}

/// Why a booking is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AccountError {
    /// The id is in use.
    #[error("{id} has a reservation already")]
    Exists {
        /// The action.
        id: String,
    },
    /// There is nothing to settle.
    #[error("{id} has no reservation")]
    Unknown {
        /// The action.
        id: String,
    },
    /// Not a share.
    #[error("a cost must be a number of at least 0")]
    NotACost,
    /// Too many at once.
    #[error("there are {max} reservations already; settle some first")]
    TooMany {
        /// [`Account::RESERVATIONS_MAX`].
        max: usize,
    },
}

/// The reservations of one budget. Small enough for a status field.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Account {
    /// By id of the action.
    reservations: BTreeMap<String, Reservation>,
    /// The last settlements, newest last.
    settled: Vec<(String, Settlement)>,
}

impl Account {
    /// Most actions under way at once on one SLO; more is a loop gone wrong.
    pub const RESERVATIONS_MAX: usize = 100;
    /// Settlements that are remembered, to compare expectations with.
    pub const SETTLED_MAX: usize = 50;

    /// Sets budget aside.
    pub fn reserve(
        &mut self,
        id: &str,
        ask: (ActionClass, f64),
        now: Timestamp,
        lasts: PromDuration,
    ) -> Result<(), AccountError> {
        let (class, expected) = ask;
        if !(expected >= 0.0 && expected.is_finite()) {
            return Err(AccountError::NotACost);
        }
        self.expire(now);
        if self.reservations.contains_key(id) {
            return Err(AccountError::Exists { id: id.to_owned() });
        }
        if self.reservations.len() >= Self::RESERVATIONS_MAX {
            return Err(AccountError::TooMany { max: Self::RESERVATIONS_MAX });
        }
        let end = i64::try_from(lasts.as_ms())
            .ok()
            .and_then(|ms| Timestamp::from_millisecond(now.as_millisecond().checked_add(ms)?).ok());
        let expires = end.unwrap_or(Timestamp::MAX);
        let made = Reservation { class, expected, spent: 0.0, made: now, expires };
        self.reservations.insert(id.to_owned(), made);
        Ok(())
    }

    /// Notes what an action has cost so far, so that it is not counted twice.
    pub fn progress(&mut self, id: &str, spent: f64) -> Result<(), AccountError> {
        let found = self.reservations.get_mut(id);
        let found = found.ok_or_else(|| AccountError::Unknown { id: id.to_owned() })?;
        if !(spent >= 0.0 && spent.is_finite()) {
            return Err(AccountError::NotACost);
        }
        found.spent = found.spent.max(spent);
        Ok(())
    }

    /// Ends a reservation with the measured cost, which the budget has lost already.
    pub fn settle(
        &mut self,
        id: &str,
        measured: f64,
        now: Timestamp,
    ) -> Result<Settlement, AccountError> {
        if !(measured >= 0.0 && measured.is_finite()) {
            return Err(AccountError::NotACost);
        }
        let found = self.reservations.remove(id);
        let found = found.ok_or_else(|| AccountError::Unknown { id: id.to_owned() })?;
        let settlement = Settlement { expected: found.expected, measured, at: now };
        self.settled.push((id.to_owned(), settlement));
        if self.settled.len() > Self::SETTLED_MAX {
            self.settled.remove(0);
        }
        Ok(settlement)
    }

    /// Drops reservations that were not settled in time and returns them, for the record.
    pub fn expire(&mut self, now: Timestamp) -> Vec<(String, Reservation)> {
        let late: Vec<_> = self
            .reservations
            .iter()
            .filter(|(_, r)| r.expires <= now)
            .map(|(id, _)| id.clone())
            .collect();
        late.into_iter().filter_map(|id| self.reservations.remove_entry(&id)).collect()
    }

    /// Share of the budget that is still set aside; `except` leaves one action's own out.
    pub fn open(&self, now: Timestamp, except: Option<&str>) -> f64 {
        let others = self
            .reservations
            .iter()
            .filter(|(id, r)| r.expires > now && except.is_none_or(|own| own != id.as_str()));
        others.fold(0.0, |sum, (_, r)| sum + (r.expected - r.spent).max(0.0))
    }

    /// Leaves only who has reserved and who was settled.
    pub(crate) fn forget_numbers(&mut self) {
        for reservation in self.reservations.values_mut() {
            (reservation.expected, reservation.spent) = (0.0, 0.0);
        }
        for (_, settled) in &mut self.settled {
            (settled.expected, settled.measured) = (0.0, 0.0);
        }
    }

    /// Drops the oldest settlements but for so many.
    pub(crate) fn keep_settled(&mut self, count: usize) {
        let surplus = self.settled.len().saturating_sub(count);
        self.settled.drain(..surplus);
    }

    /// The reservations under way.
    pub fn reservations(&self) -> &BTreeMap<String, Reservation> {
        &self.reservations
    }

    /// The last settlements, oldest first.
    pub fn settled(&self) -> &[(String, Settlement)] {
        &self.settled
    }
}
