//! One pass over one object: observe, decide, carry out, report.

use std::{
    any::Any,
    collections::BTreeMap,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, PoisonError},
    task::Poll,
    time::Duration,
};

use evenkeel_api::{Key, Obj, Revision};
use futures::FutureExt as _;
use jiff::{SignedDuration, Timestamp};

use crate::{
    BoxFuture, DynController, EventNote, EventType, Host, OwnHold, Pass, Plan, Retry, StatusWrite,
    StoreError, Subresource, WriteOptions,
    busy::Busy,
    conditions::{Flag, Flags, STALLED},
    lease::Leadership,
    perform::{chain, dropped, write_status},
    predictions::Predictions,
    queue::{BackOff, later},
    recorder::{Recorder, log_if_not_recorded},
    redact,
    repeats::{Calm, Mark, REPEATS_MAX, Repeats},
    within,
};

/// Pause before the next look at a condition that could not be removed.
const CLEAR_AGAIN: Duration = Duration::from_secs(10);
/// Longest observation. Metrics servers answer within seconds or not at all.
pub(crate) const OBSERVE_MAX: Duration = Duration::from_mins(1);
/// Longest request to the API server, to the door or of a judge.
pub(crate) const REQUEST_MAX: Duration = Duration::from_secs(30);
/// After a pass that changed nothing, the next one comes no sooner than this: a plan that always
/// asks for an immediate look would never rest.
const LOOK_LEAST: Duration = Duration::from_secs(1);
/// A plan that asks for a look this soon means: at once.
const AT_ONCE: Duration = Duration::from_millis(20);

/// The outcome of effects that outlive their plan.
pub(crate) type Pending = BoxFuture<'static, ()>;

/// One controller at work: everything but its queue.
pub(crate) struct Worker {
    pub(crate) controller: Arc<dyn DynController>,
    pub(crate) host: Host,
    pub(crate) leadership: Leadership,
    pub(crate) recorder: Arc<Recorder>,
    pub(crate) flags: Flags,
    pub(crate) predictions: Predictions,
    pub(crate) repeats: Repeats,
    pub(crate) pending: Mutex<Vec<Pending>>,
    /// Each effect whose outcome is awaited holds one of these.
    pub(crate) awaited: Arc<()>,
    /// What is being done: a process that is told to stop waits for it, and not for looks.
    pub(crate) busy: Busy,
}

/// How a pass ended.
pub(crate) struct Ended {
    pub(crate) result: &'static str,
    pub(crate) reason: &'static str,
    pub(crate) message: String,
    pub(crate) policies: Vec<String>,
    pub(crate) next: Next,
    pub(crate) took: Duration,
}

/// What the queue does next with the object.
pub(crate) enum Next {
    /// It succeeded; look again after this long.
    Done(Option<Duration>),
    /// The door holds the plan; look again after this long.
    Held(Duration),
    /// Look again after a growing pause, or when the plan wanted to, if that is sooner.
    Back(BackOff, Option<Duration>),
    /// The object is gone.
    Gone,
}

impl Ended {
    pub(crate) fn new(result: &'static str, reason: &'static str, next: Next) -> Self {
        let (message, policies) = (String::new(), Vec::new());
        Self { result, reason, message, policies, next, took: Duration::ZERO }
    }

    pub(crate) fn saying(mut self, message: String) -> Self {
        self.message = message;
        self
    }
}

/// What a plan has done so far.
#[derive(Default)]
pub(crate) struct Done {
    /// A mark of each change.
    pub(crate) changes: Vec<Mark>,
    /// Objects as they were stored: later steps build on them.
    pub(crate) stored: BTreeMap<Key, Arc<Obj>>,
    /// Objects that were written without an answer that contains their new state.
    pub(crate) touched: Vec<Key>,
    /// A field of a status that the server did not keep.
    dropped: Option<String>,
}

impl Worker {
    pub(crate) fn new(
        controller: Arc<dyn DynController>,
        host: Host,
        leadership: Leadership,
        busy: Busy,
    ) -> Self {
        Self {
            busy,
            flags: Flags::new(controller.name()),
            controller,
            host,
            leadership,
            recorder: Arc::default(),
            predictions: Predictions::default(),
            repeats: Repeats::default(),
            pending: Mutex::default(),
            awaited: Arc::default(),
        }
    }

    pub(crate) fn name(&self) -> &'static str {
        self.controller.name()
    }

    /// Present time, for people and records.
    pub(crate) fn now(&self) -> Timestamp {
        self.host.ports.clock.now()
    }

    /// Monotonic time, for waits.
    pub(crate) fn steady(&self) -> Timestamp {
        self.host.ports.clock.steady()
    }

    pub(crate) fn leads(&self) -> bool {
        self.leadership.holds(self.steady())
    }

    /// Effects that were started and whose outcome is still to be recorded.
    pub(crate) fn take_pending(&self) -> Vec<Pending> {
        std::mem::take(&mut *self.pending.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Looks at one object and does what is due. A panic ends this pass only.
    pub(crate) async fn pass(&self, key: Key) -> (Key, Ended) {
        let started = self.steady();
        let mut ended = match AssertUnwindSafe(self.work(&key)).catch_unwind().await {
            Ok(ended) => ended,
            Err(panic) => self.panicked(&key, &redact::about(&key, &panic_words(&*panic))).await,
        };
        ended.took = Duration::try_from(self.steady().duration_since(started)).unwrap_or_default();
        (key, ended)
    }

    async fn work(&self, key: &Key) -> Ended {
        if let Some(ended) = self.observed(key).await {
            return ended;
        }
        let planning = self.controller.plan(key, &self.host.ports);
        match within(&*self.host.timer, OBSERVE_MAX, planning).await {
            Some(Ok(Some(plan))) => {
                // It may have changed hands while it was looked at.
                let acts = !plan.actions.is_empty() || !plan.then.is_empty();
                if acts && let Some(ended) = self.observed(key).await {
                    return ended;
                }
                self.host.observer.planned(self.name(), plan.does());
                match self.carry_out(key, &plan).await {
                    Ok(ended) | Err(ended) => ended,
                }
            }
            Some(Ok(None)) => self.is_gone(key),
            Some(Err(error)) => {
                let words = redact::text(&chain(&error));
                // An error that only a change of the object can fix is logged once, not at every
                // look.
                if self.flags.says(key, STALLED, &words) {
                    tracing::debug!(controller = self.name(), object = %key, error = words,
                        "observation incomplete");
                } else {
                    tracing::warn!(controller = self.name(), object = %key, error = words,
                        "observation incomplete");
                }
                let plan = Plan::idle("ObservationIncomplete");
                self.failed(key, &plan, error.retry(), words).await
            }
            None => {
                let words = format!("observing took longer than {OBSERVE_MAX:?}");
                tracing::warn!(controller = self.name(), object = %key, "{words}");
                self.stall(key, "TimedOut", &words).await;
                let next = Next::Back(BackOff::Slow, None);
                Ended::new("timed-out", "TimedOut", next).saying(words)
            }
        }
    }

    /// Nothing is remembered of an object that is gone.
    pub(crate) fn is_gone(&self, key: &Key) -> Ended {
        self.flags.forget(key);
        self.predictions.forget(key);
        self.repeats.forget(key);
        self.host.ports.endings.forget(key);
        Ended::new("gone", "Gone", Next::Gone)
    }

    /// Forgets what was learnt in a term that has ended: no pass frees it any more, and the next
    /// term may never come.
    pub(crate) fn term_ended(&self) {
        self.flags.forget_all();
        self.predictions.clear();
        self.repeats.clear();
        let resigning = AssertUnwindSafe(|| self.controller.resigned());
        if let Err(panic) = std::panic::catch_unwind(resigning) {
            let error = redact::text(&panic_words(&*panic));
            tracing::error!(
                controller = self.name(),
                error,
                "controller panicked at its resignation"
            );
        }
    }

    /// The one way from a plan to the world. `Err` is how the plan ended early.
    async fn carry_out(&self, key: &Key, plan: &Plan) -> Result<Ended, Ended> {
        let mut done = Done::default();
        self.perform_all(key, plan, &mut done).await?;
        Ok(self.rest(key, plan, &done).await)
    }

    /// All that a plan says, in order.
    pub(crate) async fn perform_all(
        &self,
        key: &Key,
        plan: &Plan,
        done: &mut Done,
    ) -> Result<(), Ended> {
        let _working = self.busy.enter();
        for action in &plan.actions {
            self.step(key, plan, action, done).await?;
        }
        for write in &plan.status {
            self.write_status(key, plan, write, done).await?;
        }
        self.record_events(key, &plan.events).await;
        if let Some(withheld) = plan.withheld.as_deref().filter(|_| self.leads()) {
            let (controller, now) = (self.name(), self.now());
            let hold = OwnHold { controller, object: key, withheld, reason: plan.reason, now };
            self.host.door.withhold(&hold);
        }
        for action in &plan.then {
            self.step(key, plan, action, done).await?;
        }
        Ok(())
    }

    /// The end of a pass that carried its plan out.
    async fn rest(&self, key: &Key, plan: &Plan, done: &Done) -> Ended {
        let wake = wish(plan);
        if let Some(field) = &done.dropped {
            let message = format!(
                "the API server does not keep {field}: the CustomResourceDefinition that is \
                 installed has no such field; `evenkeel crds` prints those that have"
            );
            self.stall(key, "StatusDropped", &message).await;
            let next = Next::Back(BackOff::Slow, wake);
            return Ended::new("refused", plan.reason, next).saying(message);
        }
        match self.repeats.note(key, &done.changes, self.steady()) {
            Calm::No(which) => {
                let message = undone(&which);
                self.stall(key, "RepeatedPlan", &message).await;
                let next = Next::Back(BackOff::Slow, wake);
                Ended::new("repeated", plan.reason, next).saying(message)
            }
            // Not cleared yet: the other writer may undo it again at any moment.
            Calm::NotYet(left) => {
                let wait = wake.map_or(left, |wait| wait.max(LOOK_LEAST).min(left));
                Ended::new("done", plan.reason, Next::Done(Some(wait)))
            }
            Calm::Yes => {
                let clearing = self.flags.clear(&self.host, key, done.stored.get(key));
                let is_clear = self.while_leading(clearing).await == Some(true);
                let spins = done.changes.is_empty() && wake != plan.wake_after;
                let mut wait = if spins { Some(LOOK_LEAST) } else { plan.wake_after };
                if !is_clear {
                    tracing::debug!(controller = self.name(), object = %key,
                        "condition not removed");
                    wait = Some(wait.map_or(CLEAR_AGAIN, |wait| wait.min(CLEAR_AGAIN)));
                }
                Ended::new("done", plan.reason, Next::Done(wait))
            }
        }
    }

    /// Writes one status of a plan.
    async fn write_status(
        &self,
        key: &Key,
        plan: &Plan,
        write: &StatusWrite,
        done: &mut Done,
    ) -> Result<(), Ended> {
        self.check_leads(plan)?;
        let stored = done.stored.get(&write.key).map(|obj| obj.revision());
        let planned = assumed(plan, &write.key).filter(|_| !done.touched.contains(&write.key));
        let options = WriteOptions {
            subresource: Some(Subresource::Status),
            expect: stored.or(planned),
            manager: self.name(),
        };
        let writing = write_status(&self.host, write, &self.flags, &options);
        match self.while_leading(writing).await {
            Some(Ok(obj)) => {
                if self.repeats.is_change(key, &write.key, &obj.revision()) {
                    let target = format!("status of {}", write.key);
                    let status = write.status.to_string();
                    done.changes.push(Mark::new(target.clone(), &target, &status));
                }
                if let Some(field) = dropped(obj.json().get("status"), &write.status) {
                    done.dropped = Some(format!("status.{field} of {}", write.key));
                }
                done.stored.insert(write.key.clone(), obj);
                Ok(())
            }
            Some(Err(StoreError::NotFound { .. })) => Ok(()),
            Some(Err(error)) => {
                let words = chain(&error);
                tracing::debug!(controller = self.name(), object = %key, error = words,
                    "status not written");
                Err(self.failed(key, plan, error.retry(), words).await)
            }
            None => {
                let words = format!("status of {} not written within {REQUEST_MAX:?}", write.key);
                let next = Next::Back(BackOff::Quick, None);
                Err(Ended::new("timed-out", plan.reason, next).saying(words))
            }
        }
    }

    /// Nothing is written after leadership is lost, even if it was planned before.
    pub(crate) fn check_leads(&self, plan: &Plan) -> Result<(), Ended> {
        if self.leads() {
            return Ok(());
        }
        let words = "another process leads now".to_owned();
        Err(Ended::new("retry", plan.reason, Next::Back(BackOff::Quick, None)).saying(words))
    }

    /// The result of a write to the API, within the time that it has. It is given up when our term
    /// ends: none of our writes may still be under way when another process begins.
    ///
    /// Nor does it go on after that: a process that was frozen amid it wakes up with the write next
    /// in turn, before any timer. In a process that is told to stop it may end.
    pub(crate) async fn while_leading<T>(&self, write: impl Future<Output = T>) -> Option<T> {
        let _working = self.busy.enter();
        let mut write = std::pin::pin!(write);
        let mut write = std::future::poll_fn(move |context| {
            let may_end = self.leadership.lasts(self.steady());
            if may_end { write.as_mut().poll(context) } else { Poll::Pending }
        });
        let end = later(self.steady(), REQUEST_MAX);
        loop {
            // Each renewal prolongs it.
            let until = self.leadership.ends().min(end);
            let left = Duration::try_from(until.duration_since(self.steady())).unwrap_or_default();
            if left.is_zero() {
                return None;
            }
            let answer = within(&*self.host.timer, left, &mut write).await;
            if answer.is_some() {
                return answer;
            }
        }
    }

    /// The end of a pass that failed, by what the failure asks for.
    pub(crate) async fn failed(
        &self,
        key: &Key,
        plan: &Plan,
        retry: Retry,
        words: String,
    ) -> Ended {
        let (result, next) = match retry {
            Retry::Later | Retry::Replan | Retry::Proceed => {
                ("retry", Next::Back(BackOff::Quick, None))
            }
            Retry::Slowly => {
                self.stall(key, "Refused", &words).await;
                ("refused", Next::Back(BackOff::Slow, wish(plan)))
            }
        };
        Ended::new(result, plan.reason, next).saying(words)
    }

    /// How a pass ends that found a defect in evenkeel.
    pub(crate) async fn panicked(&self, key: &Key, words: &str) -> Ended {
        let words = format!("internal error: {words}");
        tracing::error!(controller = self.name(), object = %key, error = words, "pass panicked");
        let stalling = AssertUnwindSafe(self.stall(key, "Panicked", &words)).catch_unwind();
        if stalling.await.is_err() {
            tracing::error!(controller = self.name(), object = %key, "and so did its condition");
        }
        let next = Next::Back(BackOff::Panic, None);
        Ended::new("panicked", "Panicked", next).saying(words)
    }

    pub(crate) async fn record_events(&self, key: &Key, notes: &[EventNote]) {
        for note in notes.iter().filter(|_| self.leads()) {
            let recording = self.recorder.record(&self.host, note, self.name());
            let recorded = self.while_leading(recording).await;
            // An Event is for people; losing one must not repeat the actions before it.
            log_if_not_recorded(recorded, self.name(), key, note.reason);
        }
    }

    async fn stall(&self, key: &Key, reason: &'static str, words: &str) {
        let message = words.to_owned();
        self.raise(key, Flag { kind: STALLED, reason, message, shows: None }).await;
    }

    /// Sets a condition of the loop's own, with a Warning event when it is news.
    pub(crate) async fn raise(&self, key: &Key, flag: Flag) {
        // Nothing is written on what is only observed.
        if !self.leads() || self.predictions.has(key) {
            return;
        }
        let (reason, message) = (flag.reason, flag.message.clone());
        let raising = self.flags.raise(&self.host, key, flag);
        if self.while_leading(raising).await == Some(true) {
            tracing::info!(controller = self.name(), object = %key, reason, message);
            let note = EventNote { about: key.clone(), kind: EventType::Warning, reason, message };
            self.record_events(key, &[note]).await;
        }
    }

    /// Whether nothing has happened to an object except that the loop set or removed a condition.
    pub(crate) fn has_only_flagged(&self, obj: &Obj, heard: Option<&Revision>) -> bool {
        self.flags.hear(obj);
        self.flags.left(obj, heard)
    }

    /// Reports a pass to the observer; `due` is when the next one comes, in monotonic time.
    pub(crate) fn report(&self, key: &Key, ended: &Ended, due: Option<Timestamp>) {
        let now = self.now();
        let wait = due.map(|due| due.duration_since(self.steady()).max(SignedDuration::ZERO));
        self.host.observer.passed(&Pass {
            controller: self.name().to_owned(),
            object: key.to_string(),
            at: now,
            took_ms: u64::try_from(ended.took.as_millis()).unwrap_or_default(),
            result: ended.result.to_owned(),
            reason: ended.reason.to_owned(),
            since: now,
            message: ended.message.clone(),
            policies: ended.policies.clone(),
            next_look: wait.and_then(|wait| now.checked_add(wait).ok()),
        });
    }
}

/// The message of a panic.
pub(crate) fn panic_words(panic: &(dyn Any + Send)) -> String {
    let words = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    words.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default()
}

/// That a change does not last.
pub(crate) fn undone(which: &str) -> String {
    format!(
        "the same change was made more than {REPEATS_MAX} times within a minute and does not last: \
         another controller or the API server undoes it ({which})"
    )
}

/// When a plan wants to be looked at again. `None` when it wants to continue at once: that means
/// that what it does has an effect.
pub(crate) fn wish(plan: &Plan) -> Option<Duration> {
    plan.wake_after.filter(|wait| *wait >= AT_ONCE)
}

/// The revision of an object that a plan was made for.
pub(crate) fn assumed(plan: &Plan, target: &Key) -> Option<Revision> {
    plan.assumed.iter().find(|(key, _)| key == target).map(|(_, revision)| revision.clone())
}
