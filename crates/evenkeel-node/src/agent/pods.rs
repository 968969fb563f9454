use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use evenkeel_api::{FieldSelector, GroupKind, Key, Obj, labels::HOSTNAME};
use evenkeel_control::{BoxFuture, ListQuery, Retry, StoreError, Watch, WatchEvent};
use futures::{
    StreamExt as _,
    future::{AbortHandle, Aborted, abortable},
    stream::FuturesUnordered,
};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, PersistentVolume, Pod};
use serde_json::Value;

use super::{
    AgentConfig, RETRY_FIRST, RETRY_MAX,
    addresses::Addresses,
    node,
    volumes::{self, LetGo},
    work::{Layout, PodDone, PodIo, WrittenEvent, status_patch},
};
use crate::{
    pod::{Effect, PodMachine},
    runtime::{Adopted, ContainerRef},
};

/// Events of one pod that are counted separately; beyond it counting starts again.
const NOTES_MAX: usize = 64;
/// How long a volume that is being deleted on another node is left alone: that node may go.
const RELEASE_LOOK: Duration = Duration::from_mins(1);
/// Shortest wait for a pod's own timer: a clock that lags behind the timer must not spin.
const TICK_MIN: Duration = Duration::from_millis(1);

/// The agent's memory.
pub(super) struct Agent {
    config: AgentConfig,
    io: PodIo,
    addresses: Addresses,
    /// What an earlier agent left, by pod; emptied when the first list is complete.
    adopted: BTreeMap<String, Vec<Adopted>>,
    pods: BTreeMap<String, Held>,
    /// Whether the first list of pods is complete.
    is_synced: bool,
    /// Pods of the first list that have no address yet: those that have one come first, or theirs
    /// would be given away.
    unaddressed: Vec<Arc<Obj>>,
    wakes: BTreeSet<(Timestamp, String)>,
    alarm: Option<(Timestamp, AbortHandle)>,
    work: FuturesUnordered<BoxFuture<'static, Done>>,
    node_writing: bool,
    /// Volumes that are looked at again later; one wait for each, however often it changes.
    release_due: BTreeSet<Key>,
}

/// One pod.
struct Held {
    machine: PodMachine,
    key: Key,
    /// Its volumes as they were last set up.
    volumes: Arc<Layout>,
    /// The last status that was written, as its patch.
    written: Option<Value>,
    writing: bool,
    retry: Duration,
    wake: Option<Timestamp>,
    /// Its object is gone.
    gone: bool,
    notes: BTreeMap<String, WrittenEvent>,
}

enum Done {
    Pods(Option<Result<WatchEvent, StoreError>>, Watch),
    Node(Option<Result<WatchEvent, StoreError>>, Watch),
    /// A volume of claims has changed.
    Volume(Option<Result<WatchEvent, StoreError>>, Watch),
    /// Its folder is removed, if it was to be; or it is still another node's.
    Released(Arc<Obj>, Result<LetGo, String>),
    ReleaseDue(Arc<Obj>),
    Pod(String, PodDone),
    Tick,
    Lease(Result<(), StoreError>),
    LeaseDue,
    NodePosted(Result<(), StoreError>),
    NodeDue,
}

impl Agent {
    pub(super) fn new(
        config: AgentConfig,
        io: PodIo,
        addresses: Addresses,
        adopted: Vec<Adopted>,
    ) -> Self {
        let mut by_pod: BTreeMap<String, Vec<Adopted>> = BTreeMap::new();
        for one in adopted {
            by_pod.entry(one.container.pod_uid.clone()).or_default().push(one);
        }
        Self {
            config,
            io,
            addresses,
            adopted: by_pod,
            pods: BTreeMap::new(),
            is_synced: false,
            unaddressed: Vec::new(),
            wakes: BTreeSet::new(),
            alarm: None,
            work: FuturesUnordered::new(),
            node_writing: false,
            release_due: BTreeSet::new(),
        }
    }

    /// Runs until its store's watch ends, which stores promise not to do.
    pub(super) async fn run(&mut self) {
        let ours = |kind, path: &str, name: &str| {
            ListQuery::all(kind).with_fields(FieldSelector::equal(path, name))
        };
        let name = self.config.name.clone();
        let pods = ours(GroupKind::of::<Pod>(), "spec.nodeName", &name);
        let nodes = ours(GroupKind::of::<Node>(), "metadata.name", &name);
        let store = self.io.ports.read.clone();
        self.follow(store.watch(pods), Done::Pods);
        self.follow(store.watch(nodes), Done::Node);
        if self.io.disk.is_some() {
            let volumes = ListQuery::all(GroupKind::of::<PersistentVolume>());
            self.follow(store.watch(volumes), Done::Volume);
        }
        self.post_node();
        self.renew_lease();
        while let Some(done) = self.work.next().await {
            match done {
                Done::Pods(None, _) => return,
                Done::Pods(Some(event), watch) => {
                    self.follow(watch, Done::Pods);
                    match event {
                        Ok(event) => self.seen(event),
                        Err(error) => tracing::warn!(%error, "watch of pods interrupted"),
                    }
                }
                Done::Node(None, _) | Done::Volume(None, _) => {}
                Done::Node(Some(event), watch) => {
                    self.follow(watch, Done::Node);
                    // The node was marked not ready: post that it is.
                    if matches!(event, Ok(WatchEvent::Applied(node)) if !node::is_ready(&node)) {
                        self.post_node();
                    }
                }
                Done::Volume(Some(event), watch) => {
                    self.follow(watch, Done::Volume);
                    if let Ok(WatchEvent::Applied(volume)) = event {
                        self.release(volume);
                    }
                }
                Done::Released(volume, done) => self.released(volume, done),
                Done::ReleaseDue(volume) => {
                    self.release_due.remove(volume.key());
                    self.release(volume);
                }
                Done::Pod(uid, done) => self.done(&uid, done),
                Done::Tick => self.tick(),
                Done::LeaseDue => self.renew_lease(),
                Done::Lease(result) => {
                    if let Err(error) = result {
                        tracing::warn!(object = self.config.name, %error, "lease not renewed");
                    }
                    if let Some(period) = self.config.lease_period {
                        self.later(period, Done::LeaseDue);
                    }
                }
                Done::NodeDue => self.post_node(),
                Done::NodePosted(result) => {
                    self.node_writing = false;
                    if let Err(error) = result {
                        tracing::warn!(object = self.config.name, %error, "node not written");
                        self.later(RETRY_MAX, Done::NodeDue);
                    }
                }
            }
        }
    }

    fn follow(
        &self,
        mut watch: Watch,
        done: fn(Option<Result<WatchEvent, StoreError>>, Watch) -> Done,
    ) {
        self.work.push(Box::pin(async move {
            let event = watch.next().await;
            done(event, watch)
        }));
    }

    fn later(&self, wait: Duration, done: Done) {
        let sleeping = self.io.ports.timer.sleep(wait);
        self.work.push(Box::pin(async move {
            sleeping.await;
            done
        }));
    }

    /// Removes the folder of a volume that is being deleted, if it lies here.
    fn release(&self, volume: Arc<Obj>) {
        let Some(disk) = self.io.disk.clone().filter(|_| volume.is_deleting()) else { return };
        let host = self.config.labels.get(HOSTNAME).unwrap_or(&self.config.name).clone();
        let ports = self.io.ports.clone();
        self.work.push(Box::pin(async move {
            let done = volumes::let_go(&host, disk, &ports, volume.key()).await;
            Done::Released(volume, done)
        }));
    }

    fn released(&mut self, volume: Arc<Obj>, done: Result<LetGo, String>) {
        let wait = match done {
            Ok(LetGo::Done) => return,
            Ok(LetGo::NotOurs) => RELEASE_LOOK,
            Err(error) => {
                tracing::warn!(object = %volume.key(), error, "folder not removed, will retry");
                RETRY_MAX
            }
        };
        if self.release_due.insert(volume.key().clone()) {
            self.later(wait, Done::ReleaseDue(volume));
        }
    }

    fn renew_lease(&self) {
        if self.config.lease_period.is_none() {
            return;
        }
        let (config, ports) = (self.config.clone(), self.io.ports.clone());
        self.work
            .push(Box::pin(async move { Done::Lease(node::renew_lease(&config, &ports).await) }));
    }

    fn post_node(&mut self) {
        if std::mem::replace(&mut self.node_writing, true) {
            return;
        }
        let (config, ports, ip) = (self.config.clone(), self.io.ports.clone(), self.io.host_ip);
        self.work.push(Box::pin(async move {
            Done::NodePosted(node::post_status(&config, &ports, ip).await)
        }));
    }

    fn seen(&mut self, event: WatchEvent) {
        match event {
            WatchEvent::Applied(object) => {
                self.unaddressed.retain(|pod| pod.uid() != object.uid());
                if !self.is_synced && lacks_address(&object) {
                    self.unaddressed.push(object);
                } else {
                    self.applied(&object);
                }
            }
            WatchEvent::Deleted(object) => {
                let uid = object.uid().to_owned();
                self.unaddressed.retain(|pod| pod.uid() != uid);
                let now = self.now();
                let Some(held) = self.pods.get_mut(&uid) else { return };
                held.gone = true;
                held.machine.orphaned(now);
                self.touch(&uid);
            }
            WatchEvent::Synced => {
                self.is_synced = true;
                for pod in std::mem::take(&mut self.unaddressed) {
                    self.applied(&pod);
                }
                // What is left has no object any more.
                let mut left: BTreeSet<String> =
                    std::mem::take(&mut self.adopted).into_keys().collect();
                left.extend(self.io.disk.iter().flat_map(|disk| disk.pods()));
                left.retain(|uid| !self.pods.contains_key(uid));
                for uid in left {
                    tracing::info!(object = uid, "removing what is left of a deleted pod");
                    let removing = self.io.remove(uid.clone());
                    self.spawn(&uid, removing);
                }
            }
        }
    }

    fn applied(&mut self, object: &Arc<Obj>) {
        let uid = object.uid().to_owned();
        let pod = match object.get::<Pod>() {
            Ok(pod) => pod,
            Err(error) => {
                tracing::warn!(object = %object.key(), %error, "pod not understood");
                return;
            }
        };
        let now = self.now();
        if let Some(held) = self.pods.get_mut(&uid) {
            held.machine.observe(pod, now);
            let stands = |written: &Value| held.writing || !contradicts(object.json(), written);
            if !held.written.as_ref().is_some_and(stands) {
                held.written = None;
            }
            self.touch(&uid);
            return;
        }
        let spec = pod.spec.as_ref();
        let on_host = spec.and_then(|spec| spec.host_network).unwrap_or(false);
        let had = pod.status.as_ref().and_then(|status| status.pod_ip.as_deref()?.parse().ok());
        let ip: IpAddr = if on_host {
            self.io.host_ip
        } else if let Some(ip) = self.addresses.take(had) {
            ip
        } else {
            tracing::error!(object = %object.key(), "no address left for the pod on this node");
            return;
        };
        let mut machine = PodMachine::new(pod, ip, self.io.host_ip, now);
        machine.adopt(&self.adopted.remove(&uid).unwrap_or_default(), now);
        let running: Vec<_> =
            machine.running().map(|(c, attempt)| (c.to_owned(), attempt)).collect();
        for (container, attempt) in running {
            let waiting = self.io.wait(ContainerRef { pod_uid: uid.clone(), container, attempt });
            self.spawn(&uid, waiting);
        }
        let held = Held {
            machine,
            key: object.key().clone(),
            volumes: Arc::default(),
            written: None,
            writing: false,
            retry: RETRY_FIRST,
            wake: None,
            gone: false,
            notes: BTreeMap::new(),
        };
        self.pods.insert(uid.clone(), held);
        self.touch(&uid);
    }

    fn done(&mut self, uid: &str, done: PodDone) {
        let now = self.now();
        let Some(held) = self.pods.get_mut(uid) else { return };
        match done {
            PodDone::Volumes(result) => {
                let found = result.map(|(found, layout)| {
                    held.volumes = Arc::new(layout);
                    found
                });
                held.machine.on_volumes(found, now);
            }
            PodDone::Start { container, result } => {
                let attempt = held.machine.attempt(&container);
                let runs = result.is_ok();
                held.machine.on_start(&container, result, now);
                if runs {
                    let pod_uid = uid.to_owned();
                    let waiting = self.io.wait(ContainerRef { pod_uid, container, attempt });
                    self.spawn(uid, waiting);
                }
            }
            PodDone::Exit { container, attempt, exit } => {
                held.machine.on_exit(&container, attempt, exit);
            }
            PodDone::PostStart { container, result } => {
                held.machine.on_post_start(&container, result, now);
            }
            PodDone::PreStop { container, result } => held.machine.on_pre_stop(&container, result),
            PodDone::Probe { container, attempt, kind, reply } => {
                let settled =
                    held.machine.on_probe((&container, attempt, kind), &reply.outcome, now);
                if let Some(changed) = reply.steady_until.filter(|_| settled) {
                    held.machine.park(&container, kind);
                    self.spawn(
                        uid,
                        Box::pin(async move {
                            changed.await;
                            PodDone::Unpark { container, kind }
                        }),
                    );
                }
            }
            PodDone::Unpark { container, kind } => held.machine.unpark(&container, kind, now),
            PodDone::Status(result) => {
                held.writing = false;
                held.retry = if result.is_ok() { RETRY_FIRST } else { held.retry };
                if let Err(error) = result {
                    self.not_written(uid, &error);
                    return;
                }
            }
            PodDone::Removed => {
                if held.gone || held.machine.is_orphan() {
                    self.drop_pod(uid);
                    return;
                }
                let deleting = self.io.delete(held.key.clone(), uid.to_owned());
                self.spawn(uid, deleting);
            }
            PodDone::Deleted(result) => return self.deleted(uid, result),
            PodDone::Recorded(identity, written) => {
                if held.notes.len() >= NOTES_MAX {
                    held.notes.clear();
                }
                held.notes.insert(identity, written);
                return;
            }
            PodDone::Nothing => return,
        }
        self.touch(uid);
    }

    fn deleted(&mut self, uid: &str, result: Result<(), StoreError>) {
        let Some(held) = self.pods.get_mut(uid) else { return };
        match result {
            Ok(()) | Err(StoreError::NotFound { .. } | StoreError::Conflict { .. }) => {
                self.drop_pod(uid);
            }
            Err(error) => {
                tracing::warn!(object = %held.key, %error, "pod not deleted, will retry");
                let wait = held.retry;
                held.retry = (wait * 2).min(RETRY_MAX);
                let again = self.io.after(wait, PodDone::Removed);
                self.spawn(uid, again);
                self.touch(uid);
            }
        }
    }

    fn not_written(&mut self, uid: &str, error: &StoreError) {
        let Some(held) = self.pods.get_mut(uid) else { return };
        if matches!(error, StoreError::NotFound { .. }) || error.retry() == Retry::Slowly {
            // Gone, which the watch will report; or never possible: the next change tries again.
            tracing::debug!(object = %held.key, %error, "status not written");
            return;
        }
        tracing::warn!(object = %held.key, %error, "status not written, will retry");
        held.written = None;
        held.writing = true;
        let wait = held.retry;
        held.retry = (wait * 2).min(RETRY_MAX);
        let again = self.io.after(wait, PodDone::Status(Ok(())));
        self.spawn(uid, again);
    }

    /// Advances a pod's machine, writes its status if that has changed, sets its timer.
    fn touch(&mut self, uid: &str) {
        let now = self.now();
        let Some(held) = self.pods.get_mut(uid) else { return };
        let effects = held.machine.poll(now);
        for effect in effects {
            self.carry_out(uid, effect);
        }
        let Some(held) = self.pods.get_mut(uid) else { return };
        if !held.writing && !held.gone && !held.machine.is_finished() {
            let patch = status_patch(&held.machine.status(now));
            if held.written.as_ref() != Some(&patch) {
                held.writing = true;
                held.written = Some(patch.clone());
                let writing = self.io.write_status(held.key.clone(), uid.to_owned(), patch);
                self.spawn(uid, writing);
            }
        }
        self.set_wake(uid, now);
    }

    fn carry_out(&mut self, uid: &str, effect: Effect) {
        let Some(held) = self.pods.get_mut(uid) else { return };
        let container = |container: String| {
            let attempt = held.machine.attempt(&container);
            ContainerRef { pod_uid: uid.to_owned(), container, attempt }
        };
        let io = &self.io;
        let future = match effect {
            Effect::SetUpVolumes => io.set_up_volumes(held.machine.pod().clone()),
            Effect::Start { container, attempt } => {
                let run = ContainerRef { pod_uid: uid.to_owned(), container, attempt };
                let (pod, ip) = (held.machine.pod().clone(), held.machine.ip());
                io.start(pod, ip, run, held.volumes.clone())
            }
            Effect::PostStart { container: name, hook } => {
                let done = |container, result| PodDone::PostStart { container, result };
                io.hook(container(name), hook, None, done)
            }
            Effect::PreStop { container: name, hook, limit } => {
                let done = |container, result| PodDone::PreStop { container, result };
                io.hook(container(name), hook, Some(limit), done)
            }
            Effect::Signal { container: name, signal } => io.signal(container(name), signal),
            Effect::Probe { container: name, kind, check, timeout } => {
                io.probe(container(name), kind, check, timeout)
            }
            Effect::Finish => io.remove(uid.to_owned()),
            Effect::Record(note) => {
                tracing::info!(object = %held.key, reason = note.reason, "{}", note.message);
                if !self.config.events || held.gone {
                    return;
                }
                let written = held.notes.get(&note.identity()).cloned();
                io.record_event(held.machine.pod(), &self.config.name, note, written)
            }
        };
        self.spawn(uid, future);
    }

    fn spawn(&self, uid: &str, work: BoxFuture<'static, PodDone>) {
        let uid = uid.to_owned();
        self.work.push(Box::pin(async move { Done::Pod(uid, work.await) }));
    }

    fn drop_pod(&mut self, uid: &str) {
        let Some(held) = self.pods.remove(uid) else { return };
        if let Some(wake) = held.wake {
            self.wakes.remove(&(wake, uid.to_owned()));
        }
        if held.machine.ip() != self.io.host_ip {
            self.addresses.give_back(held.machine.ip());
        }
    }

    fn set_wake(&mut self, uid: &str, now: Timestamp) {
        let Some(held) = self.pods.get_mut(uid) else { return };
        let soonest = now.checked_add(TICK_MIN).unwrap_or(now);
        let wake = held.machine.wake().map(|wake| wake.max(soonest));
        if held.wake != wake {
            if let Some(old) = std::mem::replace(&mut held.wake, wake) {
                self.wakes.remove(&(old, uid.to_owned()));
            }
            if let Some(new) = wake {
                self.wakes.insert((new, uid.to_owned()));
            }
        }
        self.set_alarm(now);
    }

    /// One timer for all pods: the earliest wake.
    fn set_alarm(&mut self, now: Timestamp) {
        let Some((first, _)) = self.wakes.first() else { return };
        let first = *first;
        if self.alarm.as_ref().is_some_and(|(at, _)| *at == first) {
            return;
        }
        if let Some((_, handle)) = self.alarm.take() {
            handle.abort();
        }
        let wait = Duration::try_from(first.duration_since(now)).unwrap_or_default();
        let (sleeping, handle) = abortable(self.io.ports.timer.sleep(wait));
        self.alarm = Some((first, handle));
        self.work.push(Box::pin(async move {
            match sleeping.await {
                // Aborted or not: a look too many does no harm.
                Ok(()) | Err(Aborted) => Done::Tick,
            }
        }));
    }

    fn tick(&mut self) {
        let now = self.now();
        if self.alarm.as_ref().is_some_and(|(at, _)| *at <= now) {
            self.alarm = None;
        }
        let due: Vec<String> = self
            .wakes
            .iter()
            .take_while(|(at, _)| *at <= now)
            .map(|(_, uid)| uid.clone())
            .collect();
        for uid in due {
            if let Some(held) = self.pods.get_mut(&uid)
                && let Some(wake) = held.wake.take()
            {
                self.wakes.remove(&(wake, uid.clone()));
            }
            self.touch(&uid);
        }
        self.set_alarm(now);
    }

    fn now(&self) -> Timestamp {
        self.io.ports.clock.now()
    }
}

/// Whether a pod is to get any address that is free.
fn lacks_address(pod: &Obj) -> bool {
    let on_host = pod.json().pointer("/spec/hostNetwork").and_then(Value::as_bool);
    let ip = pod.json().pointer("/status/podIP").and_then(Value::as_str);
    on_host != Some(true) && ip.is_none_or(str::is_empty)
}

/// Whether another writer has overwritten what we wrote: the phase, the address or readiness.
fn contradicts(object: &Value, written: &Value) -> bool {
    let have = object.get("status").unwrap_or(&Value::Null);
    let ready = |status: &Value| {
        let conditions = status.get("conditions").and_then(Value::as_array);
        let mut all = conditions.into_iter().flatten();
        let found = all.find(|condition| condition.get("type").is_some_and(|kind| kind == "Ready"));
        found.and_then(|condition| condition.get("status").cloned())
    };
    have.get("phase") != written.get("phase")
        || have.get("podIP") != written.get("podIP")
        || ready(have) != ready(written)
}
