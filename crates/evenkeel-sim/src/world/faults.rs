//! A store between a process and the cluster that misbehaves as its menu says.
//!
//! ```text
//! reads    an earlier state, slow, 403 on a kind, never answered, or the process panics
//! watches  slow, sent twice, ended cleanly again and again, mute until opened anew, 403 on a kind
//! writes   conflict, slow, answer lost after the write, 403 or 422 on a kind, never answered,
//!          and death after any write
//! ```
//! Each process has its own; all stand before one true store.
//!
//! Not here, because no API server does it: an event that is lost on a watch that goes on. A
//! connection may break without a sign; what was lost on it comes with the next one, but only what
//! is left of it (`feed.rs`). Nor is a list ever made of two states.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use evenkeel_api::{GroupKind, Key, Obj};
use evenkeel_base::Rng;
use evenkeel_control::{
    BoxFuture, DeleteOptions, ListQuery, Listed, Patch, Read, Store, StoreError, Subresource,
    Watch, Write, WriteOptions,
};
use k8s_openapi::api::coordination::v1::Lease;
use serde_json::Value;

use super::{
    feed::Feed,
    menu::{Menu, Requests, Right, Shared, unreadable, wait},
    time::locked,
};

/// The store of one process. Cheap to clone.
#[derive(Clone)]
pub struct FaultyStore {
    inner: Arc<dyn Store>,
    shared: Arc<Mutex<Shared>>,
    /// Sees each write before it is sent.
    on_write: Arc<dyn Fn(&Key) + Send + Sync>,
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
            listed: BTreeMap::new(),
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

    fn note(&self, verb: &'static str, kind: &GroupKind, subresource: Option<Subresource>) {
        let subresource = subresource.map_or("", Subresource::segment);
        let right = Right { verb, kind: kind.clone(), subresource };
        locked(&self.shared).requests.asked.insert(right);
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

    /// Whether a read is answered, after how long, and how.
    async fn read<T>(
        &self,
        kind: &GroupKind,
        object: impl Fn() -> String,
        read: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let fate = {
            let mut shared = locked(&self.shared);
            if !kind.is::<Lease>() {
                shared.requests.reads += 1;
            }
            if shared.dead || shared.menu.silent { None } else { Some(shared.delay()) }
        };
        let Some(delay) = fate else { return std::future::pending().await };
        wait(delay).await;
        if locked(&self.shared).menu.unreadable.contains(kind) {
            return Err(unreadable(object()));
        }
        read.await
    }
}

impl Read for FaultyStore {
    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Arc<Obj>>, StoreError>> {
        self.note("get", &key.kind, None);
        let get = async move {
            let panics = locked(&self.shared).menu.panics_on.contains(key);
            assert!(!panics, "a defect that {key} shows");
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
        };
        Box::pin(self.read(&key.kind, || key.to_string(), get))
    }

    fn list<'a>(&'a self, query: &'a ListQuery) -> BoxFuture<'a, Result<Listed, StoreError>> {
        self.note("list", &query.kind, None);
        let list = async move {
            let place = format!("{query:?}");
            {
                let mut shared = locked(&self.shared);
                let pct = shared.menu.stale_pct;
                if shared.hits(pct)
                    && let Some(old) = shared.listed.get(&place)
                {
                    return Ok(old.clone());
                }
            }
            let fresh = self.inner.list(query).await?;
            locked(&self.shared).listed.insert(place, fresh.clone());
            Ok(fresh)
        };
        Box::pin(self.read(&query.kind, || query.kind.to_string(), list))
    }

    fn watch(&self, query: ListQuery) -> Watch {
        self.note("watch", &query.kind, None);
        Feed::open(self.inner.clone(), self.shared.clone(), query)
    }
}

impl Write for FaultyStore {
    fn create<'a>(
        &'a self,
        obj: &'a Obj,
        options: &'a WriteOptions,
    ) -> BoxFuture<'a, Result<Arc<Obj>, StoreError>> {
        self.note("create", &obj.key().kind, None);
        Box::pin(async move { self.write(obj.key(), self.inner.create(obj, options)).await })
    }

    fn patch<'a>(
        &'a self,
        key: &'a Key,
        patch: &'a Patch,
        options: &'a WriteOptions,
    ) -> BoxFuture<'a, Result<Arc<Obj>, StoreError>> {
        self.note("patch", &key.kind, options.subresource);
        Box::pin(async move { self.write(key, self.inner.patch(key, patch, options)).await })
    }

    fn delete<'a>(
        &'a self,
        key: &'a Key,
        options: &'a DeleteOptions,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        self.note("delete", &key.kind, None);
        Box::pin(async move { self.write(key, self.inner.delete(key, options)).await })
    }

    fn post<'a>(
        &'a self,
        key: &'a Key,
        subresource: Subresource,
        body: &'a Value,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        self.note("create", &key.kind, Some(subresource));
        Box::pin(async move { self.write(key, self.inner.post(key, subresource, body)).await })
    }
}
