use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use evenkeel_api::{GroupKind, Key, Obj};
use futures::{
    FutureExt as _, StreamExt as _,
    stream::{FuturesUnordered, SelectAll},
};

use crate::{
    BoxFuture, DynController, EventNote, EventType, Host, Outcome, Petition, Plan, Retry,
    StoreError, Trigger, Verdict, Wakes, WatchEvent, direction, perform, perform::Cleared,
    queue::Queue, recorder::Recorder,
};

/// How long a held action waits before the door is asked again, when the door gave no time.
const HOLD: Duration = Duration::from_secs(30);

/// Drives controllers: watches, queues, plans, asks the door, performs. Ends when dropped.
///
/// Every controller has its own queue and works on its own; inside one, at most
/// [`crate::Controller::concurrency`] objects at once. On a single-threaded executor the order of
/// everything is a function of the order of store events and of time.
pub struct RunLoop {
    host: Host,
    controllers: Vec<Arc<dyn DynController>>,
}

impl RunLoop {
    /// A loop without controllers.
    pub fn new(host: Host) -> Self {
        Self { host, controllers: Vec::new() }
    }

    /// Adds a controller.
    #[must_use]
    pub fn with(mut self, controller: impl DynController + 'static) -> Self {
        self.controllers.push(Arc::new(controller));
        self
    }

    /// Runs all controllers until dropped.
    pub async fn run(self) {
        let mut all: FuturesUnordered<_> = self
            .controllers
            .into_iter()
            .map(|controller| {
                Worker { controller, host: self.host.clone(), recorder: Recorder::default() }.run()
            })
            .collect();
        while all.next().await.is_some() {}
    }
}

/// One controller at work.
struct Worker {
    controller: Arc<dyn DynController>,
    host: Host,
    recorder: Recorder,
}

/// How work on one object ended.
enum Ended {
    /// Plan carried out; look again after this long.
    Well(Option<Duration>),
    /// Look again after a growing pause.
    Badly,
    /// Look again when somebody changes something.
    Stuck,
}

impl Worker {
    async fn run(self) {
        let interests = self.controller.interests();
        let mut events = SelectAll::new();
        for (index, interest) in interests.iter().enumerate() {
            let watch = self.host.ports.read.watch(interest.query.clone());
            events.push(watch.map(move |event| (index, event)).boxed());
        }
        let mut queue = Queue::default();
        let mut known = BTreeSet::new();
        let mut working: FuturesUnordered<BoxFuture<'_, (Key, Ended)>> = FuturesUnordered::new();
        let mut told = BTreeMap::new();
        loop {
            let now = self.host.ports.clock.now();
            while working.len() < self.controller.concurrency() {
                let Some(key) = queue.take(now) else { break };
                working.push(self.work(key).boxed());
            }
            let room = working.len() < self.controller.concurrency();
            let mut alarm = match queue.next_at().filter(|_| room) {
                Some(at) => {
                    let wait = Duration::try_from(at.duration_since(now)).unwrap_or_default();
                    self.host.timer.sleep(wait).fuse()
                }
                None => futures::future::pending().boxed().fuse(),
            };
            futures::select_biased! {
                (key, ended) = working.select_next_some() => {
                    self.ended(&mut queue, &key, &ended);
                }
                (index, event) = events.select_next_some() => match event {
                    Ok(event) => {
                        told.remove(&index);
                        if index == 0 {
                            remember(&mut known, &event);
                        }
                        self.wake(&mut queue, &known, &interests[index].trigger, &event);
                    }
                    Err(error) => self.interrupted(&mut told, index, error.to_string()),
                },
                () = alarm => {}
            }
        }
    }

    /// Says why a watch does not get on, once for as long as it stays the same: a kind that a
    /// cluster does not have is asked for again and again.
    fn interrupted(&self, told: &mut BTreeMap<usize, String>, watch: usize, error: String) {
        if told.get(&watch) != Some(&error) {
            tracing::warn!(
                controller = self.controller.name(),
                error,
                "watch interrupted, resuming"
            );
            told.insert(watch, error);
        }
    }

    fn ended(&self, queue: &mut Queue, key: &Key, ended: &Ended) {
        let now = self.host.ports.clock.now();
        match ended {
            Ended::Well(wake_after) => queue.done(key, now, *wake_after),
            Ended::Stuck => queue.done(key, now, None),
            Ended::Badly => {
                queue.failed(key, now);
            }
        }
    }

    fn wake(
        &self,
        queue: &mut Queue,
        known: &BTreeSet<Key>,
        trigger: &Trigger,
        event: &WatchEvent,
    ) {
        let now = self.host.ports.clock.now();
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
            Wakes::Singleton => queue.add(&singleton(self.controller.name()), now),
        }
    }

    async fn work(&self, key: Key) -> (Key, Ended) {
        let ended = match self.controller.plan(&key, &self.host.ports).await {
            Ok(None) => Ended::Well(None),
            Ok(Some(plan)) => self.carry_out(&key, &plan).await,
            Err(error) => {
                tracing::warn!(controller = self.controller.name(), object = %key,
                    error = %chain(&error), "observation incomplete");
                match error.retry() {
                    Retry::Never => Ended::Stuck,
                    Retry::Later | Retry::Replan => Ended::Badly,
                }
            }
        };
        (key, ended)
    }

    /// The one way from a plan to the world.
    async fn carry_out(&self, key: &Key, plan: &Plan) -> Ended {
        for action in &plan.actions {
            let before = match action.target() {
                Some(target) if !target.name.is_empty() => self.host.ports.read.get(target).await,
                _ => Ok(None),
            };
            let before = match before {
                Ok(before) => before,
                Err(error) => return self.badly(key, action, &error, error.retry()),
            };
            let petition = Petition {
                controller: self.controller.name(),
                object: key.to_string(),
                action,
                reason: plan.reason,
                direction: direction(before.as_deref(), action),
                before,
                now: self.host.ports.clock.now(),
            };
            let audit = match self.host.door.ask(&petition).await {
                Verdict::Allow(audit) => audit,
                Verdict::Hold { until, reason } => {
                    let wait = until.map_or(HOLD, |until| {
                        Duration::try_from(until.duration_since(petition.now)).unwrap_or(HOLD)
                    });
                    self.refused(key, action, "ActionHeld", &reason).await;
                    return Ended::Well(Some(wait));
                }
                Verdict::Deny { reason } => {
                    self.refused(key, action, "ActionDenied", &reason).await;
                    return Ended::Stuck;
                }
            };
            let expect = action.target().and_then(|target| {
                plan.assumed.iter().find(|(key, _)| key == target).map(|(_, rev)| rev.clone())
            });
            let cleared = Cleared { action, audit, manager: self.controller.name(), expect };
            let performed = perform::perform(&self.host, &cleared).await;
            let failure = performed.as_ref().err().map(|error| chain(error));
            let outcome = failure.as_deref().map_or(Outcome::Done, Outcome::Failed);
            self.host.door.settle(&cleared.audit, outcome).await;
            if let Err(error) = performed {
                return self.badly(key, action, &error, error.retry());
            }
            tracing::debug!(controller = self.controller.name(), object = %key,
                reason = plan.reason, %action, "done");
        }
        self.report(key, plan).await
    }

    async fn report(&self, key: &Key, plan: &Plan) -> Ended {
        for write in &plan.status {
            match perform::write_status(&self.host, write, self.controller.name()).await {
                Ok(_) | Err(StoreError::NotFound { .. }) => {}
                Err(error) => {
                    tracing::debug!(controller = self.controller.name(), object = %key, %error,
                        "status not written");
                    return Ended::Badly;
                }
            }
        }
        for note in &plan.events {
            let told = self.recorder.tell(&self.host, note, self.controller.name());
            if let Err(error) = told.await {
                // An event is for people; losing one must not repeat the actions before it.
                tracing::warn!(controller = self.controller.name(), object = %key, %error,
                    reason = note.reason, "event not written");
            }
        }
        Ended::Well(plan.wake_after)
    }

    async fn refused(&self, key: &Key, action: &crate::Action, reason: &'static str, why: &str) {
        let message = format!("{action}: {why}");
        tracing::info!(controller = self.controller.name(), object = %key, reason, message);
        let note = EventNote { about: key.clone(), kind: EventType::Warning, reason, message };
        let told = self.recorder.tell(&self.host, &note, self.controller.name());
        if let Err(error) = told.await {
            tracing::warn!(object = %key, %error, "event not written");
        }
    }

    fn badly(
        &self,
        key: &Key,
        action: &crate::Action,
        error: &dyn std::error::Error,
        retry: Retry,
    ) -> Ended {
        let controller = self.controller.name();
        let text = chain(error);
        match retry {
            Retry::Replan => {
                tracing::debug!(controller, object = %key, %action, error = text, "looking again");
                Ended::Badly
            }
            Retry::Later => {
                tracing::warn!(controller, object = %key, %action, error = text, "will retry");
                Ended::Badly
            }
            Retry::Never => {
                tracing::error!(controller, object = %key, %action, error = text, "gave up");
                Ended::Stuck
            }
        }
    }
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

/// Keeps the list of objects of the controller's own kind.
fn remember(known: &mut BTreeSet<Key>, event: &WatchEvent) {
    match event {
        WatchEvent::Applied(obj) => {
            known.insert(obj.key().clone());
        }
        WatchEvent::Deleted(obj) => {
            known.remove(obj.key());
        }
        WatchEvent::Synced => {}
    }
}

/// An error with its causes, once, for the log.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
