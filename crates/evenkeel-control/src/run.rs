use std::{
    collections::{BTreeMap, BTreeSet},
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use evenkeel_api::{GroupKind, Key, Obj};
use futures::{
    FutureExt as _, Stream, StreamExt as _,
    channel::mpsc,
    future::{Either, select},
    stream::{self, FuturesUnordered, SelectAll},
};
use jiff::Timestamp;

use crate::{
    BoxFuture, DynController, Host, LeaseSettings, ListQuery, Read, StoreError, Timer, Trigger,
    Wakes, WatchEvent,
    lease::{Elector, Leadership},
    pass::{Ended, Next, Pending, Worker},
    queue::Queue,
};

/// Pause before a watch that ended is opened again, and before a worker that panicked starts anew.
const REOPEN_AFTER: Duration = Duration::from_secs(1);
/// Effects of one controller whose outcome is awaited beside its work. Beyond it, new passes wait:
/// a channel that answers nobody must not fill the memory.
const PENDING_MAX: usize = 256;
/// How long passes that are under way may go on after a request to stop.
const STOP_WITHIN: Duration = Duration::from_secs(5);
/// Between two looks at whether they have ended.
const STOP_CHECK: Duration = Duration::from_millis(20);

/// Drives controllers: watches, queues, plans, asks the door, performs. Ends when dropped.
///
/// Every controller has its own queue and works on its own; inside one, at most
/// [`crate::Controller::concurrency`] objects at once. On a single-threaded executor the order of
/// everything is a function of the order of store events and of time.
///
/// Duties: every request has a deadline; a panic ends one pass, not the loop; nothing ends without
/// a next look; a plan that is carried out again and again is slowed down; with a Lease, only the
/// leader acts.
pub struct RunLoop {
    host: Host,
    lease: Option<LeaseSettings>,
    controllers: Vec<Arc<dyn DynController>>,
}

impl RunLoop {
    /// A loop without controllers.
    pub fn new(host: Host) -> Self {
        Self { host, lease: None, controllers: Vec::new() }
    }

    /// Adds a controller.
    #[must_use]
    pub fn with(mut self, controller: impl DynController + 'static) -> Self {
        self.controllers.push(Arc::new(controller));
        self
    }

    /// Acts only while it holds this Lease.
    #[must_use]
    pub fn with_lease(mut self, lease: LeaseSettings) -> Self {
        self.lease = Some(lease);
        self
    }

    /// What it stands on.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// With another host: a domain adds its judges this way.
    #[must_use]
    pub fn map_host(mut self, change: impl FnOnce(Host) -> Host) -> Self {
        self.host = change(self.host);
        self
    }

    /// Runs all controllers until dropped.
    pub async fn run(self) {
        self.run_until(futures::future::pending()).await;
    }

    /// Runs all controllers until `stop` is ready. Then no new action begins, passes under way
    /// may end, and the Lease is given back.
    pub async fn run_until(self, stop: impl Future<Output = ()>) {
        let leadership = match &self.lease {
            Some(_) => Leadership::elected(),
            None => Leadership::always(),
        };
        let busy = Arc::new(AtomicUsize::new(0));
        let mut parts: FuturesUnordered<BoxFuture<'static, ()>> = FuturesUnordered::new();
        let mut workers = Vec::new();
        for controller in self.controllers {
            let (tell, told) = mpsc::unbounded();
            workers.push(tell);
            let worker = Worker::new(controller, self.host.clone(), leadership.clone());
            parts.push(supervise(worker, told, busy.clone()).boxed());
        }
        if let Some(lease) = &self.lease {
            let (host, lease) = (self.host.clone(), lease.clone());
            parts.push(Elector::new(host, lease, leadership.clone(), workers).run().boxed());
        }
        let all = async { while parts.next().await.is_some() {} };
        let (all, stop) = (std::pin::pin!(all), std::pin::pin!(stop));
        if let Either::Right(((), all)) = select(all, stop).await {
            leadership.resign();
            let timer = self.host.timer.clone();
            let idle = async {
                let mut waited = Duration::ZERO;
                while busy.load(Ordering::Relaxed) > 0 && waited < STOP_WITHIN {
                    timer.sleep(STOP_CHECK).await;
                    waited += STOP_CHECK;
                }
            };
            let idle = std::pin::pin!(idle);
            select(all, idle).await;
            if let Some(lease) = &self.lease {
                let releasing = Elector::release(&self.host, lease);
                if crate::within(&*self.host.timer, STOP_WITHIN, releasing).await.is_none() {
                    tracing::warn!(lease = %lease.key, "lease not released, it will expire");
                }
            }
        }
    }
}

/// Runs a worker; a panic outside of a pass starts it anew.
async fn supervise(worker: Worker, mut told: mpsc::UnboundedReceiver<()>, busy: Arc<AtomicUsize>) {
    loop {
        let counted = busy.load(Ordering::Relaxed);
        let work = work(&worker, &mut told, &busy);
        if AssertUnwindSafe(work).catch_unwind().await.is_ok() {
            return;
        }
        // Its passes died with it.
        busy.store(counted, Ordering::Relaxed);
        tracing::error!(controller = worker.name(), "controller panicked, starting it anew");
        worker.host.timer.sleep(REOPEN_AFTER).await;
    }
}

/// What one worker keeps while it runs.
struct State {
    queue: Queue,
    known: BTreeSet<Key>,
    /// The last error of each watch, told once for as long as it stays the same.
    told: BTreeMap<usize, String>,
}

async fn work(worker: &Worker, leads: &mut mpsc::UnboundedReceiver<()>, busy: &AtomicUsize) {
    let interests = worker.controller.interests();
    let concurrency = worker.controller.concurrency();
    let mut events = SelectAll::new();
    for (index, interest) in interests.iter().enumerate() {
        let (read, timer) = (worker.host.ports.read.clone(), worker.host.timer.clone());
        let watch = follow(read, timer, interest.query.clone());
        events.push(watch.map(move |event| (index, event)).boxed());
    }
    let mut state =
        State { queue: Queue::default(), known: BTreeSet::new(), told: BTreeMap::new() };
    let mut working: FuturesUnordered<BoxFuture<'_, (Key, Ended)>> = FuturesUnordered::new();
    let mut pending: FuturesUnordered<Pending> = FuturesUnordered::new();
    loop {
        let now = worker.now();
        let may_act = worker.leadership.holds(now);
        while may_act && working.len() < concurrency && pending.len() < PENDING_MAX {
            let Some(key) = state.queue.take(now) else { break };
            busy.fetch_add(1, Ordering::Relaxed);
            working.push(worker.pass(key).boxed());
        }
        worker.host.observer.queued(worker.name(), state.queue.len());
        let room = may_act && working.len() < concurrency && pending.len() < PENDING_MAX;
        let mut alarm = match state.queue.next_at().filter(|_| room) {
            Some(at) => {
                let wait = Duration::try_from(at.duration_since(now)).unwrap_or_default();
                worker.host.timer.sleep(wait).fuse()
            }
            None => futures::future::pending().boxed().fuse(),
        };
        futures::select_biased! {
            (key, ended) = working.select_next_some() => {
                busy.fetch_sub(1, Ordering::Relaxed);
                pending.extend(worker.take_pending());
                state.ended(&key, &ended.next, worker.now());
            }
            () = pending.select_next_some() => {}
            (index, event) = events.select_next_some() => match event {
                Ok(event) => {
                    state.told.remove(&index);
                    if index == 0 {
                        state.remember(&event);
                    }
                    state.wake(worker, &interests[index].trigger, &event);
                }
                Err(error) => state.interrupted(worker, index, &error),
            },
            _ = leads.next() => {}
            () = alarm => {}
        }
    }
}

impl State {
    /// Says why a watch does not get on, once for as long as it stays the same: a kind that a
    /// cluster does not have is asked for again and again.
    fn interrupted(&mut self, worker: &Worker, watch: usize, error: &StoreError) {
        worker.host.observer.watch_interrupted(worker.name());
        let error = crate::redact::text(&error.to_string());
        if self.told.get(&watch) != Some(&error) {
            tracing::warn!(controller = worker.name(), error, "watch interrupted, resuming");
            self.told.insert(watch, error);
        }
    }

    fn ended(&mut self, key: &Key, next: &Next, now: Timestamp) {
        match next {
            Next::Done(wake_after) => self.queue.done(key, now, *wake_after),
            Next::Back(back_off, wake_after) => {
                self.queue.failed(key, now, *back_off, *wake_after);
            }
            Next::Gone => {
                self.queue.done(key, now, None);
                self.queue.forget(key);
            }
        }
    }

    /// Keeps the list of objects of the controller's own kind.
    fn remember(&mut self, event: &WatchEvent) {
        match event {
            WatchEvent::Applied(obj) => {
                self.known.insert(obj.key().clone());
            }
            WatchEvent::Deleted(obj) => {
                self.known.remove(obj.key());
            }
            WatchEvent::Synced => {}
        }
    }

    fn wake(&mut self, worker: &Worker, trigger: &Trigger, event: &WatchEvent) {
        let now = worker.now();
        let Self { queue, known, .. } = self;
        let obj = match event {
            WatchEvent::Synced => return,
            WatchEvent::Applied(obj) | WatchEvent::Deleted(obj) => obj,
        };
        match concerned(trigger, obj) {
            Wakes::These(keys) => keys.iter().for_each(|key| queue.add(key, now)),
            Wakes::Namespace(ns) => {
                let inside = known.iter().filter(|key| *key.namespace == *ns);
                inside.for_each(|key| queue.add(key, now));
            }
            Wakes::All => known.iter().for_each(|key| queue.add(key, now)),
            Wakes::Singleton => queue.add(&singleton(worker.name()), now),
        }
    }
}

/// A watch that is opened again should it end, which it should not.
fn follow(
    read: Arc<dyn Read>,
    timer: Arc<dyn Timer>,
    query: ListQuery,
) -> impl Stream<Item = Result<WatchEvent, StoreError>> + Send {
    let first = read.watch(query.clone());
    stream::unfold((first, read, timer, query), |(mut watch, read, timer, query)| async move {
        if let Some(event) = watch.next().await {
            return Some((event, (watch, read, timer, query)));
        }
        timer.sleep(REOPEN_AFTER).await;
        let ended = StoreError::Unreachable {
            object: query.kind.to_string(),
            problem: "the watch ended".to_owned(),
        };
        watch = read.watch(query.clone());
        Some((Err(ended), (watch, read, timer, query)))
    })
}

/// What stands for all objects of a controller that looks at them at once.
fn singleton(controller: &str) -> Key {
    Key::new(GroupKind::new("evenkeel.dev", "Singleton"), "", controller)
}

fn concerned(trigger: &Trigger, obj: &Obj) -> Wakes {
    match trigger {
        Trigger::Itself => Wakes::These(vec![obj.key().clone()]),
        Trigger::Owner(kind) => {
            let owner = obj.controller().filter(|owner| {
                let group = owner.api_version.split_once('/').map_or("", |(group, _)| group);
                *owner.kind == *kind.kind && group == &*kind.group
            });
            let key = |owner: &k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference| {
                Key::new(kind.clone(), obj.namespace(), &owner.name)
            };
            Wakes::These(owner.map(key).into_iter().collect())
        }
        Trigger::Mapped(map) => map(obj),
    }
}
