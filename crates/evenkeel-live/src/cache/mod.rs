//! One cache for all controllers of a process.
//!
//! ```text
//!              CachedStore   which cache answers; opens and closes them
//!  Read  --->    | get, list, watch
//!                v
//!              Cache         one watch of the server, one Shelf, any number of readers
//!                |
//!  Write --->  KubeStore     the answer of a write goes into the caches at once
//! ```
//! **What is cached.** What somebody watches, for as long as it is watched. What is only read, from
//! the third read within a few minutes on, one namespace at a time; closed when nobody reads it any
//! more. Never leases, which decide by being current, nor Events. Of Secrets only the metadata:
//! their content is fetched when it is read, and kept by nobody.
//!
//! **What a reader may count on.** An answer is what the server had a moment ago, all writes that
//! went through this store included. A cache whose watch has not been alive for over a minute
//! answers nothing: the read goes to the server, and fails when that is away. Events come after the
//! cache has what they tell, each object's in order; a slow reader sees the latest state of each
//! object, not every step.
//!
//! **What it takes.** Objects are kept packed, in a tenth of the memory that they take when they are
//! used; the ones that were read last are kept as they are used, too (`packed`).
//!
//! **Foreign definitions.** What a `CustomResourceDefinition` of another project drops of a status
//! is kept in an annotation of the object (`annex`), and read as if it were in the status.

mod definitions;
mod kept;
mod readers;
mod status;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use evenkeel_api::{GroupKind, Key, Obj};
use evenkeel_control::{
    BoxFuture, DeleteOptions, IsKept, ListQuery, Listed, Patch, Read, Reread, StoreError,
    Subresource, Watch, Write, WriteOptions,
};
use serde_json::Value;
use tokio::runtime::Handle;

use crate::{
    counts::{ApiCounts, Tally},
    informer::{Detail, Informer},
    packed::Recent,
    store::{Deleted, KubeStore},
    time::since_boot,
};
pub use definitions::Definition;
use definitions::Definitions;
use kept::Cache;
pub use kept::Kept;

/// Kinds whose reads must be current, or that nobody reads twice.
const NEVER: [(&str, &str); 3] =
    [("coordination.k8s.io", "Lease"), ("", "Event"), ("events.k8s.io", "Event")];
/// So many reads of one kind in one namespace, within [`LiveSettings::cache_idle`], are worth a
/// watch: a list and a request per minute.
///
/// [`LiveSettings::cache_idle`]: crate::LiveSettings::cache_idle
const READS_MIN: u32 = 3;
/// Namespaces of one kind that are cached one by one; beyond it the whole kind is.
const NAMESPACES_MAX: usize = 8;
/// Places that reads are counted for; beyond it counting starts afresh.
const PLACES_MAX: usize = 1024;

/// A [`KubeStore`] with one cache per kind and query. Cheap to clone; clones share.
#[derive(Clone)]
pub struct CachedStore {
    live: KubeStore,
    shared: Arc<Shared>,
    runtime: Handle,
}

struct Shared {
    caches: Mutex<Vec<Arc<Cache>>>,
    recent: Arc<Recent>,
    reads: Mutex<BTreeMap<(GroupKind, Arc<str>), Reads>>,
    idle: Duration,
    definitions: Definitions,
    /// Only objects of this namespace are looked at.
    namespace: Option<String>,
}

/// Reads that no cache has answered.
struct Reads {
    count: u32,
    since: Duration,
}

impl CachedStore {
    /// A cache in front of `live`. Call it on the runtime that the watches shall run on.
    pub fn new(live: KubeStore) -> Self {
        Self::within(live, None)
    }

    /// A cache for users who look at one namespace only, if one is named: what this part asks for
    /// itself is readable with rights in that namespace.
    pub fn within(live: KubeStore, namespace: Option<&str>) -> Self {
        let idle = live.client.settings.cache_idle;
        let (caches, reads) = (Mutex::default(), Mutex::default());
        let namespace = namespace.map(str::to_owned);
        let (recent, definitions) = (Arc::default(), Definitions::default());
        let shared = Shared { caches, recent, reads, idle, definitions, namespace };
        Self { live, shared: Arc::new(shared), runtime: Handle::current() }
    }

    /// The only namespace that is looked at.
    pub(crate) fn namespace(&self) -> Option<&str> {
        self.shared.namespace.as_deref()
    }

    /// The store behind the cache.
    pub fn live(&self) -> &KubeStore {
        &self.live
    }

    /// What has been asked of the server, and answered from the cache, so far.
    pub fn counts(&self) -> ApiCounts {
        self.live.counts()
    }

    /// What is kept at present.
    pub fn kept(&self) -> Vec<Kept> {
        self.shared.caches().iter().map(|cache| cache.kept()).collect()
    }

    /// Objects that were unpacked so far.
    pub(crate) fn unpacked(&self) -> u64 {
        self.shared.recent.unpacked()
    }

    /// A cache that can answer this query now.
    fn answering(&self, query: &ListQuery) -> Option<Arc<Cache>> {
        if is_never_cached(&query.kind) {
            return None;
        }
        let caches = self.shared.caches();
        caches.iter().find(|cache| cache.covers(query) && cache.is_fresh()).cloned()
    }

    /// The cache of a query, opened when there is none.
    fn open(&self, query: ListQuery) -> Arc<Cache> {
        let mut caches = self.shared.caches();
        if let Some(cache) = caches.iter().find(|cache| cache.covers(&query)) {
            return cache.clone();
        }
        let detail = Self::detail(&query.kind);
        let (live, of) = (self.live.clone(), query.clone());
        let informer = move || Informer::new(live.clone(), of.clone(), detail);
        let fresh_for = self.live.client.settings.stale_after;
        let cache = Arc::new(Cache::new(query, detail, self.shared.recent.clone(), fresh_for));
        let driving =
            kept::keep_driving(Arc::downgrade(&cache), informer, Arc::downgrade(&self.shared));
        cache.fed_by(self.runtime.spawn(driving).abort_handle());
        caches.push(cache.clone());
        cache
    }

    /// The content of Secrets is not kept in memory: they are fetched when they are read.
    fn detail(kind: &GroupKind) -> Detail {
        let is_secret = kind.group.is_empty() && &*kind.kind == "Secret";
        if is_secret { Detail::Metadata } else { Detail::Whole }
    }

    /// Counts a read that went to the server, and opens a cache when there are many.
    fn missed(&self, query: &ListQuery) {
        self.live.client.counts.tally(Tally::CacheMiss);
        if is_never_cached(&query.kind) {
            return;
        }
        let namespace = query.namespace.clone().unwrap_or_default();
        if self.shared.count_read(&query.kind, &namespace) < READS_MIN {
            return;
        }
        let of_kind = |cache: &&Arc<Cache>| cache.query().kind == query.kind;
        let namespaces = self.shared.caches().iter().filter(of_kind).count();
        let whole = ListQuery::all(query.kind.clone());
        self.open(match &query.namespace {
            // Across all namespaces: no more than what was asked for.
            None => query.clone(),
            Some(namespace) if namespaces < NAMESPACES_MAX => whole.within(namespace),
            Some(_) => whole,
        });
    }

    fn written(&self, obj: &Arc<Obj>) {
        for cache in self.shared.of(obj.key()) {
            cache.written(obj);
        }
    }
}

fn is_never_cached(kind: &GroupKind) -> bool {
    NEVER.contains(&(&*kind.group, &*kind.kind))
}

/// The query that a read of one object is a part of.
fn place(key: &Key) -> ListQuery {
    let all = ListQuery::all(key.kind.clone());
    if key.namespace.is_empty() { all } else { all.within(&key.namespace) }
}

impl Shared {
    fn caches(&self) -> MutexGuard<'_, Vec<Arc<Cache>>> {
        self.caches.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All caches that an object may be in.
    fn of(&self, key: &Key) -> Vec<Arc<Cache>> {
        self.caches().iter().filter(|cache| cache.may_have(key)).cloned().collect()
    }

    fn count_read(&self, kind: &GroupKind, namespace: &Arc<str>) -> u32 {
        let now = since_boot();
        let mut reads = self.reads.lock().unwrap_or_else(PoisonError::into_inner);
        if reads.len() >= PLACES_MAX {
            reads.clear();
        }
        let place = reads
            .entry((kind.clone(), namespace.clone()))
            .or_insert(Reads { count: 0, since: now });
        if now.saturating_sub(place.since) > self.idle {
            *place = Reads { count: 0, since: now };
        }
        place.count = place.count.saturating_add(1);
        place.count
    }

    /// Closes what nobody has watched or read for a while.
    fn sweep(&self) {
        let now = since_boot();
        // What is dropped is dropped outside of the lock.
        let closed: Vec<_> =
            self.caches().extract_if(.., |cache| cache.is_idle(now, self.idle)).collect();
        for cache in &closed {
            tracing::debug!(query = cache.kept().query, "cache closed, nobody reads it");
        }
    }
}

impl Read for CachedStore {
    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Arc<Obj>>, StoreError>> {
        Box::pin(async move {
            let query = place(key);
            if let Some(cache) = self.answering(&query) {
                let found = cache.get(key);
                if found.is_none() || cache.detail() == Detail::Whole {
                    self.live.client.counts.tally(Tally::CacheHit);
                    return Ok(found);
                }
                self.live.client.counts.tally(Tally::CacheMiss);
                return self.live.get(key).await;
            }
            let found = self.live.get(key).await?;
            self.missed(&query);
            Ok(found)
        })
    }

    fn get_latest<'a>(
        &'a self,
        key: &'a Key,
    ) -> BoxFuture<'a, Result<Option<Arc<Obj>>, StoreError>> {
        self.live.get(key)
    }

    fn list<'a>(&'a self, query: &'a ListQuery) -> BoxFuture<'a, Result<Listed, StoreError>> {
        Box::pin(async move {
            if let Some(cache) = self.answering(query) {
                if cache.detail() == Detail::Whole {
                    self.live.client.counts.tally(Tally::CacheHit);
                    return Ok(cache.list(query));
                }
                self.live.client.counts.tally(Tally::CacheMiss);
                return self.live.list(query).await;
            }
            let listed = self.live.list(query).await?;
            self.missed(query);
            Ok(listed)
        })
    }

    fn get_changed<'a>(
        &'a self,
        key: &'a Key,
        is_kept: &'a IsKept<'a>,
    ) -> BoxFuture<'a, Result<Option<Reread>, StoreError>> {
        Box::pin(async move {
            let answering = self.answering(&place(key));
            if let Some(cache) = answering.filter(|cache| cache.detail() == Detail::Whole) {
                self.live.client.counts.tally(Tally::CacheHit);
                return Ok(cache.get_changed(key, is_kept));
            }
            Ok(self.get(key).await?.map(|obj| Reread::of(obj, is_kept)))
        })
    }

    fn list_changed<'a>(
        &'a self,
        query: &'a ListQuery,
        is_kept: &'a IsKept<'a>,
    ) -> BoxFuture<'a, Result<Vec<Reread>, StoreError>> {
        Box::pin(async move {
            let answering = self.answering(query);
            if let Some(cache) = answering.filter(|cache| cache.detail() == Detail::Whole) {
                self.live.client.counts.tally(Tally::CacheHit);
                return Ok(cache.list_changed(query, is_kept));
            }
            let listed = self.list(query).await?;
            Ok(listed.items.into_iter().map(|obj| Reread::of(obj, is_kept)).collect())
        })
    }

    fn watch(&self, query: ListQuery) -> Watch {
        if is_never_cached(&query.kind) {
            return self.live.watch(query);
        }
        kept::follow(self.open(query.clone()), &query)
    }
}

impl Write for CachedStore {
    fn create<'a>(
        &'a self,
        obj: &'a Obj,
        options: &'a WriteOptions,
    ) -> BoxFuture<'a, Result<Arc<Obj>, StoreError>> {
        Box::pin(async move {
            let made = self.live.create(obj, options).await?;
            self.written(&made);
            Ok(made)
        })
    }

    fn patch<'a>(
        &'a self,
        key: &'a Key,
        patch: &'a Patch,
        options: &'a WriteOptions,
    ) -> BoxFuture<'a, Result<Arc<Obj>, StoreError>> {
        Box::pin(async move {
            if let (Some(Subresource::Status), Patch::Merge(body)) = (options.subresource, patch)
                && let Some(status) = body.get("status")
                && body.as_object().is_some_and(|fields| fields.len() == 1)
            {
                return self.patch_status(key, status, options).await;
            }
            let made = self.live.patch(key, patch, options).await?;
            // The answer of a scale is a Scale.
            if made.key() == key {
                self.written(&made);
            }
            Ok(made)
        })
    }

    fn delete<'a>(
        &'a self,
        key: &'a Key,
        options: &'a DeleteOptions,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            match self.live.delete_now(key, options).await? {
                Deleted::Marked(obj) => self.written(&obj),
                Deleted::Gone(uid) => {
                    for cache in self.shared.of(key) {
                        cache.unmade(key, &uid);
                    }
                }
            }
            Ok(())
        })
    }

    /// The caches see what it did when the watch does: there is no object in the answer.
    fn post<'a>(
        &'a self,
        key: &'a Key,
        subresource: Subresource,
        body: &'a Value,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        self.live.post(key, subresource, body)
    }
}
