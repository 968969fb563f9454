use std::{
    panic::AssertUnwindSafe,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use evenkeel_api::{Key, Obj};
use evenkeel_control::{IsKept, ListQuery, Listed, Reread, StoreError, Watch};
use futures::{FutureExt as _, StreamExt as _, stream};
use tokio::task::AbortHandle;

use super::{Shared, readers::Reader};
use crate::{
    informer::{Change, Detail, Informer},
    packed::{Packed, Recent},
    shelf::{Shelf, Update},
    time::since_boot,
};

/// Pause after an internal error in a watch.
const PANIC_PAUSE: Duration = Duration::from_secs(1);

/// The objects of one query, kept up to date by one watch. Its watch ends when it is dropped.
pub(super) struct Cache {
    query: ListQuery,
    detail: Detail,
    recent: Arc<Recent>,
    state: Mutex<State>,
    /// When the watch last showed a sign of life, and a read was last answered: milliseconds
    /// since boot.
    alive_ms: AtomicU64,
    read_ms: AtomicU64,
    fresh_for: Duration,
    task: OnceLock<AbortHandle>,
}

struct State {
    shelf: Shelf,
    readers: Vec<Weak<Reader>>,
}

/// What one cache holds, for people and `/metrics`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Kind, and namespace and selectors as far as it has any.
    pub query: String,
    /// Objects in it.
    pub objects: usize,
    /// Bytes that they take, packed.
    pub bytes: usize,
    /// Watches of controllers that it feeds.
    pub readers: usize,
    /// Whether it answers reads: its watch is alive, and has told all that there is.
    pub is_fresh: bool,
}

impl Drop for Cache {
    fn drop(&mut self) {
        if let Some(task) = self.task.get() {
            task.abort();
        }
    }
}

impl Cache {
    pub(super) fn new(
        query: ListQuery,
        detail: Detail,
        recent: Arc<Recent>,
        fresh_for: Duration,
    ) -> Self {
        let shelf = Shelf::new(query.clone());
        Self {
            query,
            detail,
            recent,
            state: Mutex::new(State { shelf, readers: Vec::new() }),
            alive_ms: AtomicU64::default(),
            read_ms: AtomicU64::new(millis(since_boot())),
            fresh_for,
            task: OnceLock::new(),
        }
    }

    /// Names the task that runs [`drive`] for it.
    pub(super) fn fed_by(&self, task: AbortHandle) {
        self.task.get_or_init(|| task);
    }

    pub(super) fn query(&self) -> &ListQuery {
        &self.query
    }

    pub(super) fn detail(&self) -> Detail {
        self.detail
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether all objects of `query` are among its own.
    pub(super) fn covers(&self, query: &ListQuery) -> bool {
        let own = &self.query;
        own.kind == query.kind
            && (own.namespace.is_none() || own.namespace == query.namespace)
            && (own.labels.is_empty() || own.labels == query.labels)
            && (own.fields.is_empty() || own.fields == query.fields)
    }

    /// Whether an object of this name may be among its own.
    pub(super) fn may_have(&self, key: &Key) -> bool {
        let namespace = self.query.namespace.as_ref();
        self.query.kind == key.kind && namespace.is_none_or(|own| *own == key.namespace)
    }

    pub(super) fn is_fresh(&self) -> bool {
        let silent = since_boot().saturating_sub(read(&self.alive_ms));
        silent < self.fresh_for && self.state().shelf.is_synced()
    }

    pub(super) fn is_idle(&self, now: Duration, idle: Duration) -> bool {
        now.saturating_sub(read(&self.read_ms)) > idle
            && self.state().readers.iter().all(|reader| reader.strong_count() == 0)
    }

    pub(super) fn get(&self, key: &Key) -> Option<Arc<Obj>> {
        self.read_ms.store(millis(since_boot()), Ordering::Relaxed);
        let found = self.state().shelf.get(key).cloned();
        found.map(|found| self.recent.open(&found))
    }

    pub(super) fn list(&self, query: &ListQuery) -> Listed {
        self.read_ms.store(millis(since_boot()), Ordering::Relaxed);
        let state = self.state();
        let (found, revision) = (state.shelf.list(query), state.shelf.revision().clone());
        drop(state);
        Listed { items: found.iter().map(|found| self.recent.open(found)).collect(), revision }
    }

    /// As [`Self::get`], for a reader that may have kept it.
    pub(super) fn get_changed(&self, key: &Key, is_kept: &IsKept<'_>) -> Option<Reread> {
        self.read_ms.store(millis(since_boot()), Ordering::Relaxed);
        let found = self.state().shelf.get(key).cloned();
        found.map(|found| self.reread(&found, is_kept))
    }

    /// As [`Self::list`], for a reader that may have kept them.
    pub(super) fn list_changed(&self, query: &ListQuery, is_kept: &IsKept<'_>) -> Vec<Reread> {
        self.read_ms.store(millis(since_boot()), Ordering::Relaxed);
        let found = self.state().shelf.list(query);
        found.iter().map(|found| self.reread(found, is_kept)).collect()
    }

    fn reread(&self, found: &Arc<Packed>, is_kept: &IsKept<'_>) -> Reread {
        if is_kept(found.key(), found.revision()) {
            Reread::Same(found.key().clone())
        } else {
            Reread::Changed(self.recent.open(found))
        }
    }

    pub(super) fn kept(&self) -> Kept {
        let is_fresh = self.is_fresh();
        let state = self.state();
        let mut query = self.query.kind.to_string();
        if let Some(namespace) = &self.query.namespace {
            query = format!("{query} in {namespace}");
        }
        if !self.query.labels.is_empty() || !self.query.fields.is_empty() {
            query.push_str(" (selected)");
        }
        let readers = state.readers.iter().filter(|reader| reader.strong_count() > 0).count();
        let (objects, bytes) = (state.shelf.len(), state.shelf.bytes());
        Kept { query, objects, bytes, readers, is_fresh }
    }

    pub(super) fn written(&self, obj: &Arc<Obj>) {
        let packed = match self.detail {
            Detail::Whole => Packed::of(obj, &self.query.kind),
            Detail::Metadata => match self.detail.cut(obj) {
                Ok(cut) => Packed::of(&cut, &self.query.kind),
                Err(_) => return,
            },
        };
        let mut state = self.state();
        let told = state.shelf.written(&packed);
        state.tell(told);
    }

    pub(super) fn unmade(&self, key: &Key, uid: &str) {
        let mut state = self.state();
        let told = state.shelf.unmade(key, uid);
        state.tell(told);
    }

    fn take(&self, change: Change) {
        self.alive_ms.store(millis(since_boot()), Ordering::Relaxed);
        let mut state = self.state();
        let was_synced = state.shelf.is_synced();
        let told = state.shelf.take(change);
        state.tell(told);
        if !was_synced && state.shelf.is_synced() {
            state.each(Reader::synced);
        }
    }

    fn failed(&self, error: &StoreError) {
        self.state().each(|reader| reader.failed(error.clone()));
    }
}

impl State {
    fn each(&mut self, tell: impl Fn(&Reader)) {
        self.readers.retain(|reader| match reader.upgrade() {
            Some(reader) => {
                tell(&reader);
                true
            }
            None => false,
        });
    }

    fn tell(&mut self, told: impl IntoIterator<Item = Update>) {
        for told in told {
            self.each(|reader| reader.tell(&told));
        }
    }
}

/// Feeds a cache from its watch, for as long as it is there. After an internal error the watch is
/// begun anew: whoever reads the cache would wait for ever, and nobody would notice.
pub(super) async fn keep_driving(
    cache: Weak<Cache>,
    informer: impl Fn() -> Informer,
    shared: Weak<Shared>,
) {
    loop {
        let driving = drive(cache.clone(), informer(), shared.clone());
        if AssertUnwindSafe(driving).catch_unwind().await.is_ok() {
            return;
        }
        tracing::error!("internal error in a watch, which is opened again");
        tokio::time::sleep(PANIC_PAUSE).await;
    }
}

async fn drive(cache: Weak<Cache>, mut informer: Informer, shared: Weak<Shared>) {
    loop {
        let change = informer.next().await;
        let Some(cache) = cache.upgrade() else { return };
        match change {
            Ok(change) => cache.take(change),
            Err(error) => cache.failed(&error),
        }
        // A watch is opened again every minute, so this comes often enough.
        drop(cache);
        if let Some(shared) = shared.upgrade() {
            shared.sweep();
        }
    }
}

/// What is there, then every change; keeps the cache open.
pub(super) fn follow(cache: Arc<Cache>, query: &ListQuery) -> Watch {
    let reader = Arc::new(Reader::new(query.clone(), cache.recent.clone()));
    {
        let mut state = cache.state();
        for obj in state.shelf.list(query) {
            reader.tell(&Update::Applied { old: None, new: obj });
        }
        if state.shelf.is_synced() {
            reader.synced();
        }
        state.readers.push(Arc::downgrade(&reader));
    }
    stream::unfold((reader, cache), |(reader, cache)| async move {
        let event = reader.next().await;
        Some((event, (reader, cache)))
    })
    .boxed()
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn read(time: &AtomicU64) -> Duration {
    Duration::from_millis(time.load(Ordering::Relaxed))
}
