//! What may go wrong with the store of one process, and what is known of it so far.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use evenkeel_api::{GroupKind, Key, Obj};
use evenkeel_base::Rng;
use evenkeel_control::{Listed, StoreError};

/// Longest delay of a slow answer or a late event.
const SLOW_MAX_MS: u64 = 5_000;

/// What goes wrong, in percent of requests unless it says otherwise.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Menu {
    /// Nothing is answered.
    pub silent: bool,
    /// Reads of one object, and lists, that show an earlier state: what they showed before.
    pub stale_pct: u64,
    /// Requests and events that take up to five seconds.
    pub slow_pct: u64,
    /// Writes that get a conflict as the answer and do not happen.
    pub conflict_pct: u64,
    /// Writes that happen and whose answer is lost.
    pub lost_answer_pct: u64,
    /// Watch events that come again ten seconds later.
    pub told_twice_pct: u64,
    /// Watch events that do not come, nor any after them until the watch is opened anew: then what
    /// is left of them does.
    pub dropped_pct: u64,
    /// Watches end after every event but those of the initial state, as if all were well.
    pub watches_end: bool,
    /// Kinds whose reads are forbidden (403); a watch that is open stays open, as with a real API
    /// server.
    pub unreadable: BTreeSet<GroupKind>,
    /// Who reads one of these meets a defect of its own, and panics.
    pub panics_on: BTreeSet<Key>,
    /// Kinds whose writes are forbidden (403).
    pub forbidden: BTreeSet<GroupKind>,
    /// Kinds whose writes are refused as invalid (422).
    pub invalid: BTreeSet<GroupKind>,
    /// Writes until the process is dead; `None` is never.
    pub dies_after: Option<u64>,
}

/// What a process asked of its store.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Requests {
    /// `get` and `list` of anything but Leases.
    pub reads: u64,
    /// Watches opened.
    pub watches: u64,
    /// Everything that writes but the renewal of Leases, whatever became of it.
    pub writes: u64,
    /// What must be allowed for all of it.
    pub asked: BTreeSet<Right>,
}

/// Something that is done with objects of a kind, as authorisation has it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Right {
    /// `get`, `list`, `watch`, `create`, `patch`, `delete`.
    pub verb: &'static str,
    /// Which kind.
    pub kind: GroupKind,
    /// `status` and its like; empty for the object itself.
    pub subresource: &'static str,
}

/// What all requests of a process share.
pub(super) struct Shared {
    pub(super) menu: Menu,
    pub(super) rng: Rng,
    pub(super) dead: bool,
    pub(super) requests: Requests,
    pub(super) seen: BTreeMap<Key, Option<Arc<Obj>>>,
    /// By query.
    pub(super) listed: BTreeMap<String, Listed>,
}

/// What reads of a forbidden kind are answered.
pub(super) fn unreadable(object: String) -> StoreError {
    let problem = "this user may not read it".to_owned();
    StoreError::Refused { object, problem }
}

impl Shared {
    pub(super) fn hits(&mut self, pct: u64) -> bool {
        pct > 0 && self.rng.below(100) < pct
    }

    pub(super) fn delay(&mut self) -> Duration {
        let pct = self.menu.slow_pct;
        if self.hits(pct) {
            Duration::from_millis(self.rng.below(SLOW_MAX_MS))
        } else {
            Duration::ZERO
        }
    }
}

pub(super) async fn wait(time: Duration) {
    if !time.is_zero() {
        tokio::time::sleep(time).await;
    }
}
