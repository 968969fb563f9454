//! A small API server in memory with a script of faults. It has only what the tests need.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use evenkeel_api::{Key, Obj, Revision, json};
use evenkeel_base::Rng;
use evenkeel_control::{
    BoxFuture, DeleteOptions, ListQuery, Listed, Patch, Read, StoreError, Subresource, Timer as _,
    Watch, WatchEvent, Write, WriteOptions,
};
use futures::{StreamExt as _, channel::mpsc};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use crate::{time::Time, world::Log};

type Watcher = (ListQuery, mpsc::UnboundedSender<Result<WatchEvent, StoreError>>);

/// What goes wrong with a request.
#[derive(Clone)]
pub(crate) enum Fault {
    /// The server answers this; nothing happens.
    Answer(StoreError),
    /// Nothing happens, and no answer ever comes.
    Silence,
    /// It happens this much later, if the client still waits then.
    Late(Duration),
    /// It happens, but the answer is lost.
    LostAnswer,
    /// It happens, without this field of the body.
    Prune(&'static str),
    /// The client has a defect.
    Panic,
}

/// The requests that a fault applies to: by verb (`get`, `create`, `patch`, `status`, `delete`,
/// `evict`, `bind`) and kind.
struct Rule {
    verb: &'static str,
    kind: &'static str,
    fault: Fault,
    /// How often it still applies.
    left: u32,
}

/// One request, as the server saw it.
#[derive(Clone)]
pub(crate) struct Request {
    pub(crate) at: Timestamp,
    pub(crate) client: &'static str,
    pub(crate) verb: &'static str,
    pub(crate) key: String,
    /// The holder of the Lease when it was sent and when it arrived.
    pub(crate) holders: [String; 2],
    /// How long it was on its way.
    pub(crate) under_way: SignedDuration,
}

#[derive(Default)]
struct Inner {
    objects: BTreeMap<Key, Arc<Obj>>,
    revision: u64,
    watchers: Vec<Watcher>,
    rules: Vec<Rule>,
    requests: Vec<Request>,
    /// Watches end after their initial state.
    watches_end: bool,
}

/// Objects in memory.
#[derive(Clone)]
pub(crate) struct Server {
    inner: Arc<Mutex<Inner>>,
    time: Arc<Time>,
    log: Log,
}

/// The connection of one process to the server.
#[derive(Clone)]
pub(crate) struct Client {
    name: &'static str,
    server: Server,
    /// Longest delay of a request on its way, and of its answer on its way back.
    delay: Option<(Arc<Mutex<Rng>>, Duration)>,
}

impl Server {
    pub(crate) fn new(time: Arc<Time>, log: Log) -> Self {
        Self { inner: Arc::default(), time, log }
    }

    pub(crate) fn client(&self, name: &'static str) -> Client {
        Client { name, server: self.clone(), delay: None }
    }

    /// A client whose requests take a while, and are sometimes lost.
    pub(crate) fn slow_client(&self, name: &'static str, rng: Rng, most: Duration) -> Client {
        Client { name, server: self.clone(), delay: Some((Arc::new(Mutex::new(rng)), most)) }
    }

    /// Applies this fault to requests until [`Self::heal`].
    pub(crate) fn fault(&self, verb: &'static str, kind: &'static str, fault: Fault) {
        self.fault_times(verb, kind, fault, u32::MAX);
    }

    /// Applies this fault to this many requests.
    pub(crate) fn fault_times(
        &self,
        verb: &'static str,
        kind: &'static str,
        fault: Fault,
        left: u32,
    ) {
        self.inner.lock().unwrap().rules.push(Rule { verb, kind, fault, left });
    }

    /// Ends all faults.
    pub(crate) fn heal(&self) {
        let mut inner = self.inner.lock().unwrap();
        inner.rules.clear();
        inner.watches_end = false;
    }

    /// From now on watches end after their initial state; those that are open end.
    pub(crate) fn end_watches(&self) {
        let mut inner = self.inner.lock().unwrap();
        inner.watches_end = true;
        inner.watchers.clear();
    }

    /// Ends the watches that are open now.
    pub(crate) fn cut_watches(&self) {
        self.inner.lock().unwrap().watchers.clear();
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        self.inner.lock().unwrap().requests.clone()
    }

    pub(crate) fn request_count(&self) -> usize {
        self.inner.lock().unwrap().requests.len()
    }

    pub(crate) fn find(&self, key: &Key) -> Option<Arc<Obj>> {
        self.inner.lock().unwrap().objects.get(key).cloned()
    }

    pub(crate) fn all(&self) -> Vec<Arc<Obj>> {
        self.inner.lock().unwrap().objects.values().cloned().collect()
    }

    /// Creates an object, as another client.
    pub(crate) fn add(&self, mut body: Value) -> Arc<Obj> {
        let uid = format!("uid-{}", self.inner.lock().unwrap().revision + 1);
        body["metadata"]["uid"] = uid.into();
        body["metadata"]["generation"] = 1.into();
        self.put(body)
    }

    /// Changes an object, as another client; a change without effect is not an event.
    pub(crate) fn change(&self, key: &Key, change: impl FnOnce(&mut Value)) -> Option<Arc<Obj>> {
        let old = self.find(key)?;
        let mut body = old.json().clone();
        change(&mut body);
        if &body == old.json() {
            return Some(old);
        }
        if body["spec"] != old.json()["spec"] {
            body["metadata"]["generation"] = (old.generation() + 1).into();
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

    /// Notes a request; what goes wrong with it.
    fn enter(
        &self,
        client: &'static str,
        verb: &'static str,
        key: &Key,
        sent: (Timestamp, String),
    ) -> Option<Fault> {
        let (at, name, holder) = (self.time.steady(), key.to_string(), self.holder());
        let mut inner = self.inner.lock().unwrap();
        inner.requests.push(Request {
            at,
            client,
            verb,
            key: name,
            holders: [sent.1, holder],
            under_way: at.duration_since(sent.0),
        });
        let rule = inner.rules.iter_mut().find(|rule| {
            let kind = rule.kind == "*" || rule.kind == &*key.kind.kind;
            rule.left > 0 && (rule.verb == verb || rule.verb == "*") && kind
        })?;
        rule.left -= 1;
        Some(rule.fault.clone())
    }

    fn holder(&self) -> String {
        let inner = self.inner.lock().unwrap();
        let lease = inner.objects.values().find(|obj| &*obj.key().kind.kind == "Lease");
        let holder = lease.and_then(|lease| lease.json().pointer("/spec/holderIdentity")?.as_str());
        holder.unwrap_or_default().to_owned()
    }

    fn note(&self, verb: &str, key: &Key, manager: &str, result: Result<&Obj, &StoreError>) {
        let kind = &*key.kind.kind;
        if kind == "Lease" {
            return;
        }
        match result {
            Ok(obj) if kind == "Event" => {
                let text = |field: &str| obj.json()[field].as_str().unwrap_or_default().to_owned();
                let about = obj.json().pointer("/involvedObject/name").and_then(Value::as_str);
                let count = obj.json()["count"].as_i64().unwrap_or_default();
                let (about, times) = (about.unwrap_or_default(), format!("x{count}"));
                let (kind, reason) = (text("type"), text("reason"));
                self.log.line(&format!("event {kind} {reason} {about} {times}"));
            }
            Ok(_) => self.log.line(&format!("{verb} {key} by {manager}")),
            Err(error) => self.log.line(&format!("{verb} {key} by {manager}: {}", class(error))),
        }
    }
}

fn class(error: &StoreError) -> &'static str {
    match error {
        StoreError::NotFound { .. } => "not found",
        StoreError::Exists { .. } => "exists",
        StoreError::Conflict { .. } => "conflict",
        StoreError::Invalid { .. } => "invalid",
        StoreError::Busy { .. } => "busy",
        StoreError::NoKind { .. } => "no such kind",
        StoreError::Refused { .. } => "refused",
        StoreError::Malformed(_) => "malformed",
        StoreError::Unreachable { .. } => "no answer",
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

impl Client {
    async fn pause(&self) -> bool {
        let Some((rng, most)) = &self.delay else { return true };
        let (wait, arrives) = {
            let mut rng = rng.lock().unwrap();
            let wait = rng.below(u64::try_from(most.as_millis()).unwrap());
            (Duration::from_millis(wait), !rng.chance(0.05))
        };
        self.server.time.sleep(wait).await;
        arrives
    }

    /// One request with its faults: `act` is what the server does.
    async fn request<T>(
        &self,
        verb: &'static str,
        key: &Key,
        act: impl FnOnce(Option<&'static str>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let lost = || StoreError::Unreachable {
            object: key.to_string(),
            problem: "connection reset".to_owned(),
        };
        let sent = (self.server.time.steady(), self.server.holder());
        if !self.pause().await {
            return Err(lost());
        }
        let result = match self.server.enter(self.name, verb, key, sent) {
            None => act(None),
            Some(Fault::Prune(field)) => act(Some(field)),
            Some(Fault::Answer(error)) => Err(error),
            Some(Fault::Late(wait)) => {
                self.server.time.sleep(wait).await;
                act(None)
            }
            Some(Fault::Silence) => return futures::future::pending().await,
            Some(Fault::LostAnswer) => act(None).and_then(|_| Err(lost())),
            Some(Fault::Panic) => panic!("a defect of the client"),
        };
        if self.pause().await { result } else { Err(lost()) }
    }
}

fn expect(obj: &Obj, revision: Option<&Revision>, uid: Option<&str>) -> Result<(), StoreError> {
    let conflict =
        |problem: String| StoreError::Conflict { object: obj.key().to_string(), problem };
    if let Some(revision) = revision.filter(|revision| **revision != obj.revision()) {
        return Err(conflict(format!("it is at {}, not at {revision}", obj.revision())));
    }
    match uid.filter(|uid| *uid != obj.uid()) {
        Some(uid) => Err(conflict(format!("its uid is {}, not {uid}", obj.uid()))),
        None => Ok(()),
    }
}

fn missing(key: &Key) -> StoreError {
    StoreError::NotFound { object: key.to_string() }
}

impl Read for Client {
    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Arc<Obj>>, StoreError>> {
        Box::pin(self.request("get", key, |_| Ok(self.server.find(key))))
    }

    fn list<'a>(&'a self, query: &'a ListQuery) -> BoxFuture<'a, Result<Listed, StoreError>> {
        Box::pin(async move {
            let items = self.server.all().into_iter().filter(|obj| query.matches(obj)).collect();
            Ok(Listed { items, revision: Revision::default() })
        })
    }

    fn watch(&self, query: ListQuery) -> Watch {
        let (to, from) = mpsc::unbounded();
        let sent = (self.server.time.steady(), String::new());
        self.server.enter(self.name, "watch", &Key::new(query.kind.clone(), "", ""), sent);
        let mut inner = self.server.inner.lock().unwrap();
        for obj in inner.objects.values().filter(|obj| query.matches(obj)) {
            to.unbounded_send(Ok(WatchEvent::Applied(obj.clone()))).unwrap();
        }
        to.unbounded_send(Ok(WatchEvent::Synced)).unwrap();
        if !inner.watches_end {
            inner.watchers.push((query, to));
        }
        from.boxed()
    }
}

impl Write for Client {
    fn create<'a>(
        &'a self,
        obj: &'a Obj,
        options: &'a WriteOptions,
    ) -> BoxFuture<'a, Result<Arc<Obj>, StoreError>> {
        let server = &self.server;
        Box::pin(self.request("create", obj.key(), move |_| {
            let made = match server.find(obj.key()) {
                Some(_) => Err(StoreError::Exists { object: obj.key().to_string() }),
                None => Ok(server.add(obj.json().clone())),
            };
            server.note("create", obj.key(), options.manager, made.as_deref());
            made
        }))
    }

    fn patch<'a>(
        &'a self,
        key: &'a Key,
        patch: &'a Patch,
        options: &'a WriteOptions,
    ) -> BoxFuture<'a, Result<Arc<Obj>, StoreError>> {
        let server = &self.server;
        let verb = options.subresource.map_or("patch", Subresource::segment);
        Box::pin(self.request(verb, key, move |prune| {
            let Patch::Merge(patch) = patch else { unreachable!("the loop merges") };
            let change = || {
                let old = server.find(key).ok_or_else(|| missing(key))?;
                expect(&old, options.expect.as_ref(), None)?;
                let changed = server.change(key, |body| {
                    json::merge(body, patch);
                    let field = prune.and_then(|field| field.rsplit_once('/'));
                    if let Some((parent, name)) = field {
                        let parent = body.pointer_mut(parent).and_then(Value::as_object_mut);
                        parent.map(|parent| parent.shift_remove(name));
                    }
                });
                changed.ok_or_else(|| missing(key))
            };
            let changed = change();
            server.note(verb, key, options.manager, changed.as_deref());
            changed
        }))
    }

    fn delete<'a>(
        &'a self,
        key: &'a Key,
        options: &'a DeleteOptions,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        let server = &self.server;
        Box::pin(self.request("delete", key, move |_| {
            let gone = server.find(key).ok_or_else(|| missing(key)).and_then(|old| {
                expect(&old, options.expect.as_ref(), options.uid.as_deref())?;
                server.remove(key);
                Ok(old)
            });
            server.note("delete", key, "", gone.as_deref());
            gone.map(drop)
        }))
    }

    fn post<'a>(
        &'a self,
        key: &'a Key,
        subresource: Subresource,
        body: &'a Value,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        let server = &self.server;
        let evicts = subresource == Subresource::Eviction;
        let verb = if evicts { "evict" } else { "bind" };
        Box::pin(self.request(verb, key, move |_| {
            let conditions = if evicts { "/deleteOptions/preconditions" } else { "/metadata" };
            let text = |name: &str| {
                let field = body.pointer(&format!("{conditions}/{name}"));
                field.and_then(Value::as_str).map(str::to_owned)
            };
            let done = server.find(key).ok_or_else(|| missing(key)).and_then(|old| {
                let revision = text("resourceVersion").map(|text| Revision(text.into()));
                expect(&old, revision.as_ref(), text("uid").as_deref())?;
                if evicts {
                    server.remove(key);
                } else {
                    let node = body["target"]["name"].clone();
                    server.change(key, |pod| pod["spec"]["nodeName"] = node);
                }
                Ok(old)
            });
            server.note(verb, key, "", done.as_deref());
            done.map(drop)
        }))
    }
}
