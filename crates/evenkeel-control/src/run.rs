use std::{
    collections::{BTreeMap, BTreeSet},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    task::Poll,
    time::Duration,
};

use evenkeel_api::{Key, Obj, Revision};
use futures::{
    FutureExt as _, Stream, StreamExt as _,
    channel::mpsc,
    future::{Either, select},
    stream::{self, BoxStream, FuturesUnordered, SelectAll},
};
use jiff::{SignedDuration, Timestamp};

use crate::{
    BoxFuture, DynController, Host, Interest, LeaseSettings, ListQuery, Read, StoreError, Timer,
    Trigger, Wakes, WatchEvent,
    busy::Busy,
    controller::singleton,
    lease::{Elector, Leadership, NOT_RELEASED},
    pass::{Ended, Next, Pending, Worker, panic_words},
    queue::Queue,
    within,
};

/// Pause before a watch that ended is opened again, and before a worker that panicked is restarted.
const REOPEN_AFTER: Duration = Duration::from_secs(1);
/// How long passes that are under way may continue after a request to stop.
const STOP_WITHIN: Duration = Duration::from_secs(5);
/// Longest time for which a controller goes on without a pause for the others. A pass that finds all
/// it needs in memory waits for nothing, and all controllers and the renewals of their Leases take
/// turns on one thread: with a thousand such passes due, a Lease would run out meanwhile.
const TURN_MAX: SignedDuration = SignedDuration::from_millis(10);
/// Objects on which a trigger has panicked that are remembered, to log it once for each.
const POISONS_MAX: usize = 100;

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

    /// The host that it runs on.
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

    /// Runs all controllers until `stop` is ready. Then no new action begins, and those under way
    /// may end; looks are given up. The Lease is released when they have; otherwise it expires, so
    /// that no write lands while another process leads.
    pub async fn run_until(self, stop: impl Future<Output = ()>) {
        let leadership = match &self.lease {
            Some(_) => Leadership::elected(),
            None => Leadership::always(),
        };
        let busy = Busy::default();
        let mut parts: FuturesUnordered<BoxFuture<'static, ()>> = FuturesUnordered::new();
        let mut workers = Vec::new();
        for controller in self.controllers {
            let (notify, notified) = mpsc::unbounded();
            workers.push(notify);
            let worker =
                Worker::new(controller, self.host.clone(), leadership.clone(), busy.clone());
            parts.push(supervise(worker, notified).boxed());
        }
        if let Some(lease) = &self.lease {
            let (host, lease) = (self.host.clone(), lease.clone());
            parts.push(Elector::new(host, lease, leadership.clone(), workers).run().boxed());
        }
        let all = async { while parts.next().await.is_some() {} };
        let (all, stop) = (std::pin::pin!(all), std::pin::pin!(stop));
        let Either::Right(((), all)) = select(all, stop).await else { return };
        leadership.resign();
        let timer = &*self.host.timer;
        let ended = within(timer, STOP_WITHIN, select(all, busy.idle())).await;
        let Some(lease) = &self.lease else { return };
        if ended.is_none() {
            tracing::warn!(lease = %lease.key, "work is still under way: {NOT_RELEASED}");
            return;
        }
        let releasing = Elector::release(&self.host, lease);
        if within(timer, STOP_WITHIN, releasing).await.is_none() {
            tracing::warn!(lease = %lease.key, "{NOT_RELEASED}");
        }
    }
}

/// Runs a worker; restarts it after a panic outside of a pass.
async fn supervise(worker: Worker, mut notified: mpsc::UnboundedReceiver<()>) {
    loop {
        let work = work(&worker, &mut notified);
        let Err(panic) = AssertUnwindSafe(work).catch_unwind().await else { return };
        let error = crate::redact::text(&panic_words(&*panic));
        tracing::error!(controller = worker.name(), error, "controller panicked, restarting it");
        worker.host.timer.sleep(REOPEN_AFTER).await;
    }
}

/// What one worker keeps while it runs.
struct State {
    queue: Queue,
    interests: Vec<Interest>,
    /// Objects of the controller's own kind.
    known: BTreeSet<Key>,
    /// The revision of each in the last event of the watch.
    heard: BTreeMap<Key, Revision>,
    /// Those that were seen again since the watch of that kind was opened again.
    again: Option<BTreeSet<Key>>,
    /// Other watches that were opened again and have not yet listed everything.
    gaps: BTreeSet<usize>,
    /// The last error of each watch, logged once for as long as it stays the same.
    logged: BTreeMap<usize, String>,
    /// Objects on which a trigger has panicked.
    poisons: BTreeSet<Key>,
    /// What was last seen of objects of which only some changes matter, by watch.
    digests: BTreeMap<(usize, Key), u64>,
    /// Whether this process leads, as far as the queue knows. A follower keeps nothing: a term
    /// begins with everything that exists.
    in_term: bool,
    /// A term has ended, and its memory is still there.
    owes_end: bool,
}

type Events = SelectAll<BoxStream<'static, (usize, Heard)>>;

async fn work(worker: &Worker, leads: &mut mpsc::UnboundedReceiver<()>) {
    let concurrency = worker.controller.concurrency();
    let mut state = State::new(worker.controller.interests(), worker.leads());
    let mut events = state.follow_all(worker);
    let mut working: FuturesUnordered<BoxFuture<'_, (Key, Ended)>> = FuturesUnordered::new();
    let mut pending: FuturesUnordered<Pending> = FuturesUnordered::new();
    let mut turn_began = worker.steady();
    loop {
        let now = worker.steady();
        if now.duration_since(turn_began) >= TURN_MAX {
            give_way().await;
            turn_began = worker.steady();
        }
        let may_act = worker.leads();
        if state.turns(worker, may_act, working.is_empty()) {
            // What is kept for the old watches serves the new ones, which come first.
            events = state.follow_all(worker);
        }
        // Passes never wait for effects that are pending: a rollback must not wait for a chat.
        while may_act && working.len() < concurrency {
            let Some(key) = state.queue.take(now) else { break };
            working.push(worker.pass(key).boxed());
        }
        worker.host.observer.queued(worker.name(), state.queue.len());
        let room = may_act && working.len() < concurrency;
        let mut alarm = match state.queue.next_at().filter(|_| room) {
            Some(at) => {
                let wait = Duration::try_from(at.duration_since(now)).unwrap_or_default();
                worker.host.timer.sleep(wait).fuse()
            }
            None => futures::future::pending().boxed().fuse(),
        };
        let turn = async {
            futures::select_biased! {
                (key, ended) = working.select_next_some() => {
                    pending.extend(worker.take_pending());
                    state.ended(&key, &ended.next, worker.steady());
                    worker.report(&key, &ended, state.queue.due(&key));
                }
                () = pending.select_next_some() => {}
                (index, heard) = events.select_next_some() => state.hear(worker, index, heard),
                _ = leads.next() => {}
                () = alarm => {}
            }
        };
        if waits(turn).await {
            turn_began = worker.steady();
        }
    }
}

/// Whether this has let others go first on its way to its end.
async fn waits(future: impl Future<Output = ()>) -> bool {
    let (mut future, mut has_waited) = (std::pin::pin!(future), false);
    std::future::poll_fn(|context| {
        let polled = future.as_mut().poll(context);
        has_waited |= polled.is_pending();
        polled
    })
    .await;
    has_waited
}

/// Lets everything else that is ready go first.
async fn give_way() {
    let mut has_given_way = false;
    std::future::poll_fn(|context| {
        if std::mem::replace(&mut has_given_way, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// What comes from a watch.
enum Heard {
    Event(WatchEvent),
    /// It has failed, and resumes by itself.
    Interrupted(StoreError),
    /// It ended and was opened again: deletions in between were missed.
    Reopened,
}

/// A watch that is opened again if it ends, which it should not.
fn follow(
    read: Arc<dyn Read>,
    timer: Arc<dyn Timer>,
    query: ListQuery,
) -> impl Stream<Item = Heard> + Send {
    let first = read.watch(query.clone());
    stream::unfold((first, read, timer, query), |(mut watch, read, timer, query)| async move {
        let heard = match watch.next().await {
            Some(Ok(event)) => Heard::Event(event),
            Some(Err(error)) => Heard::Interrupted(error),
            None => {
                timer.sleep(REOPEN_AFTER).await;
                watch = read.watch(query.clone());
                Heard::Reopened
            }
        };
        Some((heard, (watch, read, timer, query)))
    })
}

impl State {
    fn new(interests: Vec<Interest>, in_term: bool) -> Self {
        Self {
            queue: Queue::default(),
            interests,
            known: BTreeSet::new(),
            heard: BTreeMap::new(),
            again: None,
            gaps: BTreeSet::new(),
            logged: BTreeMap::new(),
            poisons: BTreeSet::new(),
            digests: BTreeMap::new(),
            in_term,
            owes_end: false,
        }
    }

    /// Watches for everything that concerns the controller, each from its beginning.
    fn follow_all(&self, worker: &Worker) -> Events {
        let one = |(index, interest): (usize, &Interest)| {
            let (read, timer) = (worker.host.ports.read.clone(), worker.host.timer.clone());
            let watch = follow(read, timer, interest.query.clone());
            watch.map(move |heard| (index, heard)).boxed()
        };
        self.interests.iter().enumerate().map(one).collect()
    }

    /// Notes whether this process leads; `is_idle`: no pass is under way. Whether a term begins:
    /// then everything is to be heard again.
    ///
    /// A follower could not keep a queue: only a pass takes an object out of it. And an object that
    /// was deleted while nobody led is passed over because something of it is still there.
    fn turns(&mut self, worker: &Worker, leads: bool, is_idle: bool) -> bool {
        let begins = leads && !self.in_term;
        if leads != self.in_term {
            self.in_term = leads;
            self.owes_end |= !leads;
            self.queue.clear();
            (self.known, self.heard) = (BTreeSet::new(), BTreeMap::new());
            (self.again, self.gaps) = (None, BTreeSet::new());
            self.digests.clear();
        }
        if self.owes_end && (is_idle || begins) {
            self.owes_end = false;
            worker.term_ended();
        }
        begins
    }

    fn hear(&mut self, worker: &Worker, watch: usize, heard: Heard) {
        match heard {
            Heard::Event(_) if !self.in_term => {
                self.logged.remove(&watch);
            }
            Heard::Event(WatchEvent::Synced) => {
                self.logged.remove(&watch);
                self.close_gap(watch, worker.steady());
            }
            Heard::Event(WatchEvent::Applied(obj)) => {
                self.logged.remove(&watch);
                if watch == 0 {
                    self.known.insert(obj.key().clone());
                    self.again.as_mut().map(|again| again.insert(obj.key().clone()));
                    let heard = self.heard.insert(obj.key().clone(), obj.revision());
                    if worker.has_only_flagged(&obj, heard.as_ref()) {
                        return;
                    }
                }
                if self.is_news(watch, &obj) {
                    self.wake(worker, watch, &obj);
                }
            }
            Heard::Event(WatchEvent::Deleted(obj)) => {
                self.logged.remove(&watch);
                self.digests.remove(&(watch, obj.key().clone()));
                if watch == 0 {
                    self.known.remove(obj.key());
                    self.heard.remove(obj.key());
                }
                self.wake(worker, watch, &obj);
            }
            Heard::Interrupted(error) => {
                let optional = self.interests.get(watch).is_some_and(|it| it.is_optional);
                if !(optional && error.is_without_kind()) {
                    self.interrupted(worker, watch, error.to_string());
                }
            }
            Heard::Reopened => {
                if self.in_term && watch == 0 {
                    self.again = Some(BTreeSet::new());
                } else if self.in_term {
                    self.gaps.insert(watch);
                    self.digests.retain(|(of, _), _| *of != watch);
                }
                self.interrupted(worker, watch, "the watch ended".to_owned());
            }
        }
    }

    /// Wakes what may have missed a deletion while a watch was closed.
    fn close_gap(&mut self, watch: usize, now: Timestamp) {
        let mut missed = BTreeSet::new();
        if let Some(again) = self.again.take_if(|_| watch == 0) {
            missed.extend(self.known.difference(&again).cloned());
            self.known = again;
            self.heard.retain(|key, _| self.known.contains(key));
        }
        if self.gaps.remove(&watch) {
            // Which of them the missed deletion concerned is unknown.
            missed.extend(self.known.iter().cloned());
        }
        if matches!(self.interests.first().map(|own| &own.trigger), Some(Trigger::Itself)) {
            for key in &missed {
                self.queue.add(key, now);
            }
        }
    }

    /// Logs why a watch fails, once for as long as the error stays the same: a kind that a cluster
    /// does not have is asked for again and again.
    fn interrupted(&mut self, worker: &Worker, watch: usize, error: String) {
        worker.host.observer.watch_interrupted(worker.name());
        if self.logged.get(&watch) != Some(&error) {
            tracing::warn!(controller = worker.name(), error, "watch interrupted, resuming");
            self.logged.insert(watch, error);
        }
    }

    fn ended(&mut self, key: &Key, next: &Next, now: Timestamp) {
        match next {
            _ if !self.in_term => self.queue.ended(key),
            Next::Done(wake_after) => self.queue.done(key, now, *wake_after),
            Next::Held(wait) => self.queue.held(key, now, *wait),
            Next::Back(back_off, wake_after) => {
                self.queue.failed(key, now, *back_off, *wake_after);
            }
            Next::Gone => {
                self.queue.done(key, now, None);
                self.queue.forget(key);
            }
        }
    }

    /// Whether an object has changed in what matters of it.
    fn is_news(&mut self, watch: usize, obj: &Obj) -> bool {
        let digest = self.interests.get(watch).and_then(|interest| interest.digest.as_ref());
        let Some(digest) = digest else { return true };
        // One that panics is left to the trigger.
        let digest = catch_unwind(AssertUnwindSafe(|| digest(obj)));
        let Ok(digest) = digest else { return true };
        let digest = evenkeel_base::stable_hash(digest.as_bytes());
        self.digests.insert((watch, obj.key().clone()), digest) != Some(digest)
    }

    fn wake(&mut self, worker: &Worker, watch: usize, obj: &Obj) {
        let Some(interest) = self.interests.get(watch) else { return };
        // A trigger that panics on one object must not hide the others.
        let concerned = AssertUnwindSafe(|| concerned(&interest.trigger, obj));
        let wakes = catch_unwind(concerned).unwrap_or_else(|panic| {
            if self.poisons.len() < POISONS_MAX && self.poisons.insert(obj.key().clone()) {
                let error = crate::redact::about(obj.key(), &panic_words(&*panic));
                tracing::error!(controller = worker.name(), object = %obj.key(), error,
                    "trigger panicked, changes to this object are ignored");
            }
            Wakes::These(Vec::new())
        });
        let now = worker.steady();
        let Self { queue, known, .. } = self;
        match wakes {
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
