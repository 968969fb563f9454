//! A small store: enough of the API for one controller, nothing else.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use evenkeel_api::{GroupKind, Key, Obj, Revision, json::merge};
use evenkeel_control::{
    BoxFuture, DeleteOptions, ListQuery, Listed, Patch, Read, StoreError, Subresource, Timer as _,
    Watch, WatchEvent, Write, WriteOptions,
};
use futures::{StreamExt as _, channel::mpsc};
use serde_json::Value;

use super::host::Time;

/// For [`MemStore::answer_reads`]: the page of a load balancer, of status 404, which names no object.
pub(crate) const PAGE: u16 = 4040;

type Change = Box<dyn FnOnce(&mut Value) + Send>;
type Watcher = (ListQuery, mpsc::UnboundedSender<Result<WatchEvent, StoreError>>);

#[derive(Default)]
struct Inner {
    objects: BTreeMap<Key, Arc<Obj>>,
    revision: u64,
    watchers: Vec<Watcher>,
    /// Writes that still get through; then the writer is as good as dead.
    writes_left: Option<u64>,
    /// Writes until one is refused.
    writes_taken: Option<u64>,
    /// Fields that the server does not know, by kind.
    pruned: Vec<(&'static str, &'static str)>,
    /// Patches of each object by the controller.
    patches: BTreeMap<Key, u32>,
    /// What reads are answered instead, by `Kind/namespace/name`, for lists by kind.
    broken: BTreeMap<String, u16>,
    /// Reads of each, by the same names.
    reads: BTreeMap<String, u32>,
    /// What another client writes just before the controller's next write of an object.
    faster: Option<(Key, Change)>,
    /// By what a read waits that is not answered.
    time: Arc<Time>,
}

/// Objects in memory.
#[derive(Clone, Default)]
pub(crate) struct MemStore {
    inner: Arc<Mutex<Inner>>,
}

impl MemStore {
    /// An empty one.
    pub(super) fn new(time: Arc<Time>) -> Self {
        Self { inner: Arc::new(Mutex::new(Inner { time, ..Inner::default() })) }
    }

    pub(crate) fn find(&self, key: &Key) -> Option<Arc<Obj>> {
        self.inner.lock().unwrap().objects.get(key).cloned()
    }

    /// Lets this many more writes of the controller through, then none.
    pub(crate) fn die_after(&self, writes: Option<u64>) {
        self.inner.lock().unwrap().writes_left = writes;
    }

    /// Changes an object just before the controller writes it next.
    pub(crate) fn be_faster(&self, key: &Key, change: impl FnOnce(&mut Value) + Send + 'static) {
        self.inner.lock().unwrap().faster = Some((key.clone(), Box::new(change)));
    }

    /// Whether [`Self::be_faster`] has struck.
    pub(crate) fn was_faster(&self) -> bool {
        self.inner.lock().unwrap().faster.is_none()
    }

    /// Whether [`Self::die_after`] has struck.
    pub(crate) fn is_dead(&self) -> bool {
        self.inner.lock().unwrap().writes_left == Some(0)
    }

    /// Refuses one write of the controller, after this many, and quotes all of it.
    pub(crate) fn refuse_after(&self, writes: u64) {
        self.inner.lock().unwrap().writes_taken = Some(writes);
    }

    /// Whether [`Self::refuse_after`] has not struck yet.
    pub(crate) fn will_refuse(&self) -> bool {
        self.inner.lock().unwrap().writes_taken.is_some()
    }

    /// Answers reads of `Kind/namespace/name`, or lists of a kind, with this status from now on; 200
    /// is as they should be, 404 is that there is no such kind, and 504 comes only when a client has waited for its 30 s.
    pub(crate) fn answer_reads(&self, what: &str, code: u16) {
        let broken = &mut self.inner.lock().unwrap().broken;
        if code == 200 {
            broken.remove(what);
        } else {
            broken.insert(what.to_owned(), code);
        }
    }

    /// How often the controller has read this.
    pub(crate) fn reads(&self, what: &str) -> u32 {
        self.inner.lock().unwrap().reads.get(what).copied().unwrap_or_default()
    }

    /// Notes a read, and how it fails if it does.
    async fn failure(&self, object: String) -> Option<StoreError> {
        let (code, time) = {
            let mut inner = self.inner.lock().unwrap();
            *inner.reads.entry(object.clone()).or_default() += 1;
            (*inner.broken.get(&object)?, inner.time.clone())
        };
        if code == 504 {
            time.sleep(Duration::from_secs(30)).await;
        }
        let problem = format!("HTTP status {code}");
        Some(match code {
            401 | 403 | PAGE => StoreError::Refused { object, problem },
            404 => {
                let kind = GroupKind::new("", object.split('/').next().unwrap());
                StoreError::NoKind { object, kind }
            }
            429 => StoreError::Busy { object, problem },
            _ => StoreError::Unreachable { object, problem },
        })
    }

    /// What a server says that does not like a body, or an admission webhook behind it.
    fn refusal(&self, key: &Key, body: &Value) -> Option<StoreError> {
        let taken = &mut self.inner.lock().unwrap().writes_taken;
        *taken = (*taken)?.checked_sub(1);
        if taken.is_some() {
            return None;
        }
        let problem = format!("data: Invalid value: {body}: must not be that");
        Some(StoreError::Invalid { object: key.to_string(), problem })
    }

    /// Waits forever once no more writes get through.
    async fn alive(&self) {
        if self.is_dead() {
            futures::future::pending::<()>().await;
        }
        let mut inner = self.inner.lock().unwrap();
        inner.writes_left = inner.writes_left.map(|left| left - 1);
    }

    /// Does not keep this field of a kind from now on, as a server with another schema.
    pub(crate) fn prune(&self, kind: &'static str, pointer: &'static str) {
        self.inner.lock().unwrap().pruned.push((kind, pointer));
        for obj in self.all() {
            self.change(obj.key(), |_| {});
        }
    }

    /// How often the controller has patched this object.
    pub(crate) fn patches(&self, key: &Key) -> u32 {
        self.inner.lock().unwrap().patches.get(key).copied().unwrap_or_default()
    }

    fn drop_pruned(&self, body: &mut Value) {
        for (kind, pointer) in &self.inner.lock().unwrap().pruned {
            let (parent, field) = pointer.rsplit_once('/').unwrap();
            if body["kind"] == *kind
                && let Some(fields) = body.pointer_mut(parent).and_then(Value::as_object_mut)
            {
                fields.shift_remove(field);
            }
        }
    }

    /// Number of writes so far.
    pub(crate) fn revision(&self) -> u64 {
        self.inner.lock().unwrap().revision
    }

    pub(crate) fn all(&self) -> Vec<Arc<Obj>> {
        self.inner.lock().unwrap().objects.values().cloned().collect()
    }

    pub(crate) fn create_now(&self, body: Value) -> Arc<Obj> {
        let mut body = body;
        let uid = format!("uid-{}", self.inner.lock().unwrap().revision + 1);
        body["metadata"]["uid"] = uid.into();
        body["metadata"]["generation"] = 1.into();
        self.drop_pruned(&mut body);
        self.put(body)
    }

    /// Changes an object; its generation counts changes of its spec.
    pub(crate) fn change(&self, key: &Key, change: impl FnOnce(&mut Value)) -> Option<Arc<Obj>> {
        let old = self.find(key)?;
        let mut body = old.json().clone();
        change(&mut body);
        self.drop_pruned(&mut body);
        if &body == old.json() {
            return Some(old);
        }
        if body["spec"] != old.json()["spec"] {
            body["metadata"]["generation"] = (old.generation() + 1).into();
        }
        let held = body.pointer("/metadata/finalizers").and_then(Value::as_array);
        if old.is_deleting() && held.is_none_or(Vec::is_empty) {
            self.remove(key);
            return Some(old);
        }
        Some(self.put(body))
    }

    pub(crate) fn remove(&self, key: &Key) {
        let mut inner = self.inner.lock().unwrap();
        if let Some(gone) = inner.objects.remove(key) {
            inner.send(&WatchEvent::Deleted(gone));
        }
    }

    fn put(&self, mut body: Value) -> Arc<Obj> {
        let mut inner = self.inner.lock().unwrap();
        inner.revision += 1;
        body["metadata"]["resourceVersion"] = inner.revision.to_string().into();
        let obj = Arc::new(Obj::from_json(body).unwrap());
        inner.objects.insert(obj.key().clone(), obj.clone());
        inner.send(&WatchEvent::Applied(obj.clone()));
        obj
    }
}

impl Inner {
    fn send(&mut self, event: &WatchEvent) {
        let (WatchEvent::Applied(obj) | WatchEvent::Deleted(obj)) = event else { return };
        self.watchers.retain(|(query, to)| {
            !query.matches(obj) || to.unbounded_send(Ok(event.clone())).is_ok()
        });
    }
}

fn missing(key: &Key) -> StoreError {
    StoreError::NotFound { object: key.to_string() }
}

impl Read for MemStore {
    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Arc<Obj>>, StoreError>> {
        Box::pin(async move {
            let failure = self.failure(key.to_string()).await;
            failure.map_or_else(|| Ok(self.find(key)), Err)
        })
    }

    fn list<'a>(&'a self, query: &'a ListQuery) -> BoxFuture<'a, Result<Listed, StoreError>> {
        Box::pin(async move {
            if let Some(failure) = self.failure(query.kind.kind.to_string()).await {
                return Err(failure);
            }
            let items = self.all().into_iter().filter(|obj| query.matches(obj)).collect();
            Ok(Listed { items, revision: Revision::default() })
        })
    }

    fn watch(&self, query: ListQuery) -> Watch {
        let (to, from) = mpsc::unbounded();
        let mut inner = self.inner.lock().unwrap();
        for obj in inner.objects.values().filter(|obj| query.matches(obj)) {
            to.unbounded_send(Ok(WatchEvent::Applied(obj.clone()))).unwrap();
        }
        to.unbounded_send(Ok(WatchEvent::Synced)).unwrap();
        inner.watchers.push((query, to));
        from.boxed()
    }
}

impl Write for MemStore {
    fn create<'a>(
        &'a self,
        obj: &'a Obj,
        _options: &'a WriteOptions,
    ) -> BoxFuture<'a, Result<Arc<Obj>, StoreError>> {
        Box::pin(async move {
            self.alive().await;
            if let Some(refusal) = self.refusal(obj.key(), obj.json()) {
                return Err(refusal);
            }
            if self.find(obj.key()).is_some() {
                return Err(StoreError::Exists { object: obj.key().to_string() });
            }
            Ok(self.create_now(obj.json().clone()))
        })
    }

    fn patch<'a>(
        &'a self,
        key: &'a Key,
        patch: &'a Patch,
        options: &'a WriteOptions,
    ) -> BoxFuture<'a, Result<Arc<Obj>, StoreError>> {
        Box::pin(async move {
            self.alive().await;
            let faster = self.inner.lock().unwrap().faster.take_if(|(of, _)| of == key);
            if let Some((_, change)) = faster {
                self.change(key, change);
            }
            let old = self.find(key).ok_or_else(|| missing(key))?;
            if options.expect.as_ref().is_some_and(|expect| *expect != old.revision()) {
                let problem = "revision".to_owned();
                return Err(StoreError::Conflict { object: key.to_string(), problem });
            }
            let Patch::Merge(patch) = patch else { unreachable!("delivery merges") };
            if let Some(refusal) = self.refusal(key, patch) {
                return Err(refusal);
            }
            *self.inner.lock().unwrap().patches.entry(key.clone()).or_default() += 1;
            self.change(key, |body| merge(body, patch)).ok_or_else(|| missing(key))
        })
    }

    fn delete<'a>(
        &'a self,
        key: &'a Key,
        _options: &'a DeleteOptions,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            self.alive().await;
            self.remove(key);
            Ok(())
        })
    }

    fn post<'a>(
        &'a self,
        _key: &'a Key,
        _subresource: Subresource,
        _body: &'a Value,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        unreachable!("delivery neither binds nor evicts")
    }
}
