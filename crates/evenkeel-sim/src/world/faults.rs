//! A store between a process and the cluster that misbehaves as told.
//!
//! ```text
//! reads    stale, slow, refused, never answered
//! watches  delayed, events held back and replayed twice, ended cleanly again and again
//! writes   conflict, slow, answer lost after the write, 403 or 422 on a kind, never answered,
//!          and death after any write
//! ```
//! Each process has its own; all stand before one true store.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use evenkeel_api::{GroupKind, Key, Obj};
use evenkeel_base::Rng;
use evenkeel_control::{
    BoxFuture, DeleteOptions, ListQuery, Listed, Patch, Read, Store, StoreError, Subresource,
    Watch, WatchEvent, Write, WriteOptions,
};
use futures::{FutureExt as _, StreamExt as _, stream};
use k8s_openapi::api::coordination::v1::Lease;
use serde_json::Value;

use super::time::locked;

/// Longest delay of a slow answer or a late event.
const SLOW_MAX_MS: u64 = 5_000;
/// How long an event is held back before it is replayed.
const HELD_BACK: Duration = Duration::from_secs(10);

/// What goes wrong, in percent of requests unless it says otherwise.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Menu {
    /// Nothing is answered.
    pub silent: bool,
    /// Reads that show an earlier state.
    pub stale_pct: u64,
    /// Requests and events that take up to five seconds.
    pub slow_pct: u64,
    /// Writes that are told of a conflict and do not happen.
    pub conflict_pct: u64,
    /// Writes that happen and whose answer is lost.
    pub lost_answer_pct: u64,
    /// Watch events that come late, and twice.
    pub held_back_pct: u64,
    /// Watches end after every event, as if all were well.
    pub watches_end: bool,
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
    /// `get` and `list`.
    pub reads: u64,
    /// Watches opened.
    pub watches: u64,
    /// Everything that writes but the renewal of Leases, whatever became of it.
    pub writes: u64,
}

/// The store of one process. Cheap to clone.
#[derive(Clone)]
pub struct FaultyStore {
    inner: Arc<dyn Store>,
    shared: Arc<Mutex<Shared>>,
    /// Sees each write before it is sent.
    on_write: Arc<dyn Fn(&Key) + Send + Sync>,
}

struct Shared {
    menu: Menu,
    rng: Rng,
    dead: bool,
    requests: Requests,
    seen: BTreeMap<Key, Option<Arc<Obj>>>,
}

enum Fate {
    Never,
    Fails(StoreError),
    /// Happens after this long; the answer is lost or not.
    Happens(Duration, bool),
}

impl FaultyStore {
    /// Before this store, with everything right so far.
    pub fn new(
        inner: Arc<dyn Store>,
        rng: Rng,
        on_write: impl Fn(&Key) + Send + Sync + 'static,
    ) -> Self {
        let shared = Shared {
            menu: Menu::default(),
            rng,
            dead: false,
            requests: Requests::default(),
            seen: BTreeMap::new(),
        };
        Self { inner, shared: Arc::new(Mutex::new(shared)), on_write: Arc::new(on_write) }
    }

    /// From now on this goes wrong.
    pub fn set(&self, menu: Menu) {
        locked(&self.shared).menu = menu;
    }

    /// Whether the process has died in the middle of its work.
    pub fn is_dead(&self) -> bool {
        locked(&self.shared).dead
    }

    /// What was asked so far.
    pub fn requests(&self) -> Requests {
        locked(&self.shared).requests.clone()
    }

    fn fate_of_write(&self, key: &Key) -> Fate {
        (self.on_write)(key);
        let mut shared = locked(&self.shared);
        if !key.kind.is::<Lease>() {
            shared.requests.writes += 1;
        }
        if shared.menu.dies_after == Some(0) {
            shared.dead = true;
        }
        if let Some(left) = &mut shared.menu.dies_after {
            *left = left.saturating_sub(1);
        }
        if shared.dead || shared.menu.silent {
            return Fate::Never;
        }
        let object = key.to_string();
        if shared.menu.forbidden.contains(&key.kind) {
            let problem = "forbidden by a policy of this cluster".to_owned();
            return Fate::Fails(StoreError::Refused { object, problem });
        }
        if shared.menu.invalid.contains(&key.kind) {
            let problem = "spec: refused by a webhook of this cluster".to_owned();
            return Fate::Fails(StoreError::Invalid { object, problem });
        }
        let (conflict_pct, lost_pct) = (shared.menu.conflict_pct, shared.menu.lost_answer_pct);
        if shared.hits(conflict_pct) {
            let problem = "somebody else was faster".to_owned();
            return Fate::Fails(StoreError::Conflict { object, problem });
        }
        let lost = shared.hits(lost_pct);
        Fate::Happens(shared.delay(), lost)
    }

    async fn write<T>(
        &self,
        key: &Key,
        write: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        match self.fate_of_write(key) {
            Fate::Never => std::future::pending().await,
            Fate::Fails(error) => Err(error),
            Fate::Happens(after, lost) => {
                wait(after).await;
                let written = write.await;
                if lost {
                    let problem = "the answer was lost".to_owned();
                    return Err(StoreError::Unreachable { object: key.to_string(), problem });
                }
                written
            }
        }
    }

    /// Whether a read is answered, and after how long.
    fn fate_of_read(&self) -> Option<Duration> {
        let mut shared = locked(&self.shared);
        shared.requests.reads += 1;
        if shared.dead || shared.menu.silent { None } else { Some(shared.delay()) }
    }
}

impl Shared {
    fn hits(&mut self, pct: u64) -> bool {
        pct > 0 && self.rng.below(100) < pct
    }

    fn delay(&mut self) -> Duration {
        let pct = self.menu.slow_pct;
        if self.hits(pct) {
            Duration::from_millis(self.rng.below(SLOW_MAX_MS))
        } else {
            Duration::ZERO
        }
    }
}

async fn wait(time: Duration) {
    if !time.is_zero() {
        tokio::time::sleep(time).await;
    }
}

impl Read for FaultyStore {
    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Arc<Obj>>, StoreError>> {
        Box::pin(async move {
            let Some(delay) = self.fate_of_read() else { return std::future::pending().await };
            wait(delay).await;
            {
                let mut shared = locked(&self.shared);
                let pct = shared.menu.stale_pct;
                if shared.hits(pct)
                    && let Some(old) = shared.seen.get(key)
                {
                    return Ok(old.clone());
                }
            }
            let fresh = self.inner.get(key).await?;
            locked(&self.shared).seen.insert(key.clone(), fresh.clone());
            Ok(fresh)
        })
    }

    fn list<'a>(&'a self, query: &'a ListQuery) -> BoxFuture<'a, Result<Listed, StoreError>> {
        Box::pin(async move {
            let Some(delay) = self.fate_of_read() else { return std::future::pending().await };
            wait(delay).await;
            self.inner.list(query).await
        })
    }

    fn watch(&self, query: ListQuery) -> Watch {
        let store = self.clone();
        locked(&self.shared).requests.watches += 1;
        let events = self.inner.watch(query);
        let late = stream::FuturesUnordered::<BoxFuture<'static, WatchEvent>>::new();
        stream::unfold(Some((store, events, late)), |state| async move {
            let (store, mut events, mut late) = state?;
            loop {
                let event = futures::select_biased! {
                    event = late.select_next_some() => return Some((Ok(event), Some((store, events, late)))),
                    event = events.next().fuse() => event?,
                };
                let (silent, delay, held, ends) = {
                    let mut shared = locked(&store.shared);
                    let pct = shared.menu.held_back_pct;
                    let silent = shared.dead || shared.menu.silent;
                    (silent, shared.delay(), shared.hits(pct), shared.menu.watches_end)
                };
                // What a silent connection did not bring comes with the next one.
                if (silent || held)
                    && let Ok(event) = &event
                {
                    let (store, event) = (store.clone(), event.clone());
                    late.push(Box::pin(async move {
                        tokio::time::sleep(HELD_BACK).await;
                        while locked(&store.shared).menu.silent {
                            tokio::time::sleep(HELD_BACK).await;
                        }
                        event
                    }));
                    if silent {
                        continue;
                    }
                }
                wait(delay).await;
                let next = (!ends).then_some((store, events, late));
                return Some((event, next));
            }
        })
        .boxed()
    }
}

impl Write for FaultyStore {
    fn create<'a>(
        &'a self,
        obj: &'a Obj,
        options: &'a WriteOptions,
    ) -> BoxFuture<'a, Result<Arc<Obj>, StoreError>> {
        Box::pin(async move { self.write(obj.key(), self.inner.create(obj, options)).await })
    }

    fn patch<'a>(
        &'a self,
        key: &'a Key,
        patch: &'a Patch,
        options: &'a WriteOptions,
    ) -> BoxFuture<'a, Result<Arc<Obj>, StoreError>> {
        Box::pin(async move { self.write(key, self.inner.patch(key, patch, options)).await })
    }

    fn delete<'a>(
        &'a self,
        key: &'a Key,
        options: &'a DeleteOptions,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move { self.write(key, self.inner.delete(key, options)).await })
    }

    fn post<'a>(
        &'a self,
        key: &'a Key,
        subresource: Subresource,
        body: &'a Value,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move { self.write(key, self.inner.post(key, subresource, body)).await })
    }
}
