//! One pass over one object: observe, decide, ask the door, perform, report.

use std::{
    collections::BTreeMap,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use evenkeel_api::{Key, Obj, Revision};
use futures::FutureExt as _;
use jiff::Timestamp;
use serde_json::Value;

use crate::{
    Action, AuditId, BoxFuture, Change, Direction, DynController, EffectError, Effected, EventNote,
    EventType, Host, Objection, Outcome, Pass, Petition, Plan, Retry, StoreError, Verdict,
    conditions::{Flag, Flags, HELD, STALLED},
    lease::Leadership,
    perform::{Cleared, PerformError, chain, perform, write_status},
    queue::BackOff,
    recorder::Recorder,
    redact, within,
};

/// How long a held action waits before the door is asked again, when the door gave no time.
const HOLD: Duration = Duration::from_secs(30);
/// Longest observation. Metrics servers answer within seconds or not at all.
const OBSERVE_MAX: Duration = Duration::from_secs(60);
/// Longest request to the API server or to the door.
const REQUEST_MAX: Duration = Duration::from_secs(30);
/// Longest effect, whatever its effector says.
const EFFECT_MAX: Duration = Duration::from_secs(15 * 60);
/// How often the same plan may be carried out in a row before it is slowed down: a few times is
/// what a lagging cache or a second writer costs.
const REPEATS_MAX: u32 = 3;

/// The outcome of effects that outlive their plan.
pub(crate) type Pending = BoxFuture<'static, ()>;

/// One controller at work: everything but its queue.
pub(crate) struct Worker {
    pub(crate) controller: Arc<dyn DynController>,
    pub(crate) host: Host,
    pub(crate) leadership: Leadership,
    recorder: Arc<Recorder>,
    flags: Arc<Flags>,
    repeats: Mutex<BTreeMap<Key, (u64, u32)>>,
    pending: Mutex<Vec<Pending>>,
}

/// How a pass ended.
pub(crate) struct Ended {
    result: &'static str,
    reason: &'static str,
    message: String,
    policies: Vec<String>,
    pub(crate) next: Next,
}

/// What the queue is told.
pub(crate) enum Next {
    /// All is well; look again after this long.
    Done(Option<Duration>),
    /// Look again after a growing pause, or when the plan wanted to, if that is sooner.
    Back(BackOff, Option<Duration>),
    /// The object is gone.
    Gone,
}

impl Ended {
    fn new(result: &'static str, reason: &'static str, next: Next) -> Self {
        Self { result, reason, message: String::new(), policies: Vec::new(), next }
    }

    fn saying(mut self, message: String) -> Self {
        self.message = message;
        self
    }
}

/// Everything about one action of a plan.
struct Step<'a> {
    key: &'a Key,
    plan: &'a Plan,
    action: &'a Action,
    /// The action in words that may be recorded.
    text: String,
}

impl Worker {
    pub(crate) fn new(
        controller: Arc<dyn DynController>,
        host: Host,
        leadership: Leadership,
    ) -> Self {
        Self {
            controller,
            host,
            leadership,
            recorder: Arc::default(),
            flags: Arc::default(),
            repeats: Mutex::default(),
            pending: Mutex::default(),
        }
    }

    pub(crate) fn name(&self) -> &'static str {
        self.controller.name()
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.host.ports.clock.now()
    }

    /// Effects that were started and whose outcome is still to be recorded.
    pub(crate) fn take_pending(&self) -> Vec<Pending> {
        std::mem::take(&mut *self.pending.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Looks at one object and does what is due. A panic ends this pass only.
    pub(crate) async fn pass(&self, key: Key) -> (Key, Ended) {
        let started = self.now();
        let ended = match AssertUnwindSafe(self.work(&key)).catch_unwind().await {
            Ok(ended) => ended,
            Err(panic) => self.panicked(&key, panic_words(&*panic)).await,
        };
        self.report_pass(&key, started, &ended);
        (key, ended)
    }

    async fn work(&self, key: &Key) -> Ended {
        let planning = self.controller.plan(key, &self.host.ports);
        let planned = within(&*self.host.timer, OBSERVE_MAX, planning).await;
        let plan = match planned {
            Some(Ok(Some(plan))) => plan,
            Some(Ok(None)) => {
                self.flags.forget(key);
                self.forget_repeats(key);
                return Ended::new("gone", "Gone", Next::Gone);
            }
            Some(Err(error)) => {
                let words = redact::text(&chain(&error));
                tracing::warn!(controller = self.name(), object = %key, error = words,
                    "observation incomplete");
                return self.failed(key, "ObservationIncomplete", error.retry(), words, None).await;
            }
            None => {
                let words = format!("observing took longer than {OBSERVE_MAX:?}");
                tracing::warn!(controller = self.name(), object = %key, "{words}");
                let ended = Next::Back(BackOff::Slow, None);
                self.stall(key, "TimedOut", &words).await;
                return Ended::new("timed-out", "TimedOut", ended).saying(words);
            }
        };
        match self.carry_out(key, &plan).await {
            Ok(ended) | Err(ended) => ended,
        }
    }

    /// The one way from a plan to the world. `Err` is how the plan ended early.
    async fn carry_out(&self, key: &Key, plan: &Plan) -> Result<Ended, Ended> {
        let mut wrote = Vec::new();
        for action in &plan.actions {
            let text = match action {
                Action::Effect(call) => {
                    let effector = self.host.effectors.find(call);
                    effector.map_or_else(|| call.to_string(), |effector| effector.redact(call))
                }
                other => other.to_string(),
            };
            let step = Step { key, plan, action, text };
            wrote.push(self.step(&step).await?);
        }
        self.write_statuses(key, plan, &mut wrote).await?;
        self.tell(key, &plan.events).await;
        if self.is_repetition(key, &wrote) {
            let message = format!(
                "the same change was made {REPEATS_MAX} times in a row and did not last: another \
                 controller or the API server undoes it{}",
                plan.actions.first().map(|action| format!(" ({action})")).unwrap_or_default()
            );
            self.stall(key, "RepeatedPlan", &message).await;
            let next = Next::Back(BackOff::Slow, plan.wake_after);
            return Ok(Ended::new("repeated", plan.reason, next).saying(message));
        }
        self.flags.clear(&self.host, key, self.name()).await;
        Ok(Ended::new("done", plan.reason, Next::Done(plan.wake_after)))
    }

    /// Asks the door about one action and performs it; a mark of what was done.
    async fn step(&self, step: &Step<'_>) -> Result<u64, Ended> {
        let action = step.action;
        if !self.leadership.holds(self.now()) {
            let next = Next::Back(BackOff::Quick, None);
            return Err(Ended::new("retry", "LeadershipLost", next));
        }
        let before = self.before(step).await?;
        let body = before.as_deref().map(Obj::json);
        let patch = match body.map(|body| action.patch_of(body)).transpose() {
            Ok(patch) => patch.flatten(),
            Err(error) => return Err(self.broke(step, &error.into()).await),
        };
        let after = action.after(body, patch.as_ref());
        let (direction, judged) = self.direction(step, before.as_deref(), after.as_ref()).await;
        let petition = Petition {
            controller: self.name(),
            object: step.key,
            action,
            text: &step.text,
            reason: step.plan.reason,
            before: before.clone(),
            after: after.as_ref(),
            direction,
            now: self.now(),
        };
        let audit = self.ask(step, &petition).await?;
        let assumed = action.target().and_then(|target| assumed(step.plan, target));
        let by_patch = matches!(action, Action::Apply(_) | Action::SetWeights { .. });
        let seen = before.as_ref().filter(|_| judged || by_patch).map(|obj| obj.revision());
        let mark = mark_of(&[&step.text, &after.map(|a| a.to_string()).unwrap_or_default()]);
        let cleared = Cleared {
            action,
            patch,
            exists: before.is_some(),
            audit,
            manager: self.name(),
            expect: assumed.or(seen),
        };
        self.do_it(step, cleared).await?;
        Ok(mark)
    }

    /// The target as it is. An action without an existing target is refused unless it makes one.
    async fn before(&self, step: &Step<'_>) -> Result<Option<Arc<Obj>>, Ended> {
        if let Err(error) = step.action.check() {
            return Err(self.broke(step, &error.into()).await);
        }
        let Some(target) = step.action.target().filter(|target| !target.name.is_empty()) else {
            return Ok(None);
        };
        let reading = self.host.ports.read.get(target);
        let before = match within(&*self.host.timer, REQUEST_MAX, reading).await {
            Some(Ok(before)) => before,
            Some(Err(error)) => return Err(self.broke(step, &error.into()).await),
            None => {
                let error = PerformError::TimedOut(REQUEST_MAX);
                return Err(self.broke(step, &error).await);
            }
        };
        let makes = matches!(step.action, Action::Create(_) | Action::Apply(_));
        // What is to go and is gone needs no more doing; the write says so.
        let goes = matches!(step.action, Action::Delete { .. } | Action::Evict { .. });
        if before.is_none() && !makes && !goes {
            let error = crate::action::TargetError::Missing(target.clone());
            return Err(self.broke(step, &error.into()).await);
        }
        Ok(before)
    }

    async fn direction(
        &self,
        step: &Step<'_>,
        before: Option<&Obj>,
        after: Option<&Value>,
    ) -> (Direction, bool) {
        match (step.action, step.action.target()) {
            (Action::Effect(call), _) => {
                let effector = self.host.effectors.find(call);
                (effector.map_or(Direction::Riskier, |e| e.direction(call)), false)
            }
            (_, Some(key)) => {
                let change = Change { key, before, after, owner: step.key };
                self.host.judges.direction(change, &*self.host.ports.read).await
            }
            (_, None) => (Direction::Riskier, false),
        }
    }

    async fn ask(&self, step: &Step<'_>, petition: &Petition<'_>) -> Result<AuditId, Ended> {
        let asking = self.host.door.ask(petition);
        let verdict = within(&*self.host.timer, REQUEST_MAX, asking).await;
        let verdict = verdict.unwrap_or_else(|| Verdict::Hold {
            until: None,
            objections: vec![Objection {
                policy: "door",
                reason: format!("no answer within {REQUEST_MAX:?}"),
            }],
        });
        let (result, wait, reason, objections) = match verdict {
            Verdict::Allow(audit) => {
                self.host.observer.judged(self.name(), "allow", &[]);
                return Ok(audit);
            }
            Verdict::Hold { until, objections } => {
                let wait = until.map_or(HOLD, |until| {
                    Duration::try_from(until.duration_since(petition.now)).unwrap_or(HOLD)
                });
                ("held", Next::Done(Some(wait)), "ActionHeld", objections)
            }
            Verdict::Deny { objections } => {
                let next = Next::Back(BackOff::Slow, step.plan.wake_after);
                ("denied", next, "ActionDenied", objections)
            }
        };
        let verdict = if result == "held" { "hold" } else { "deny" };
        self.host.observer.judged(self.name(), verdict, &objections);
        let policies: Vec<_> = objections.iter().map(ToString::to_string).collect();
        let message = format!("{}: {}", step.text, policies.join("; "));
        self.raise(step.key, HELD, reason, message.clone()).await;
        Err(Ended { result, reason: step.plan.reason, message, policies, next: wait })
    }

    /// Performs what was allowed, and records what became of it.
    async fn do_it(&self, step: &Step<'_>, cleared: Cleared<'_>) -> Result<(), Ended> {
        let limit = match step.action {
            Action::Effect(call) => {
                let effector = self.host.effectors.find(call);
                effector.map_or(REQUEST_MAX, |effector| effector.deadline(call)).min(EFFECT_MAX)
            }
            _ => REQUEST_MAX,
        };
        let performed = within(&*self.host.timer, limit, perform(&self.host, &cleared)).await;
        let performed = performed.unwrap_or(Err(PerformError::TimedOut(limit)));
        let error = match performed {
            Ok(Effected::Done) => {
                self.settle(&cleared.audit, Outcome::Done).await;
                self.host.observer.acted(self.name(), step.action.verb(), "done");
                tracing::debug!(controller = self.name(), object = %step.key,
                    reason = step.plan.reason, action = step.text, "done");
                return Ok(());
            }
            Ok(Effected::Pending(outcome)) => {
                self.follow(step, cleared.audit, outcome);
                return Ok(());
            }
            Err(error) => error,
        };
        let words = error.words(step.action.target());
        self.settle(&cleared.audit, Outcome::Failed(&words)).await;
        self.host.observer.acted(self.name(), step.action.verb(), "failed");
        if error.retry() == Retry::Proceed {
            tracing::debug!(controller = self.name(), object = %step.key, action = step.text,
                error = words, "effect failed");
            return Ok(());
        }
        Err(self.broke(step, &error).await)
    }

    async fn settle(&self, audit: &AuditId, outcome: Outcome<'_>) {
        let settling = self.host.door.settle(audit, outcome);
        if within(&*self.host.timer, REQUEST_MAX, settling).await.is_none() {
            tracing::warn!(controller = self.name(), audit = audit.0, "outcome not recorded");
        }
    }

    /// Records the outcome of an effect when it is known; the plan goes on meanwhile.
    fn follow(
        &self,
        step: &Step<'_>,
        audit: AuditId,
        outcome: BoxFuture<'static, Result<(), EffectError>>,
    ) {
        let (host, recorder, name) = (self.host.clone(), self.recorder.clone(), self.name());
        let (key, text, verb) = (step.key.clone(), step.text.clone(), step.action.verb());
        let pending = async move {
            let ended = within(&*host.timer, EFFECT_MAX, outcome).await;
            let ended = ended.unwrap_or_else(|| {
                let problem = format!("no outcome within {EFFECT_MAX:?}");
                Err(EffectError::new(&problem, Retry::Proceed))
            });
            let words = ended.as_ref().err().map(ToString::to_string);
            let outcome = words.as_deref().map_or(Outcome::Done, Outcome::Failed);
            host.door.settle(&audit, outcome).await;
            let counted = if words.is_some() { "failed" } else { "done" };
            host.observer.acted(name, verb, counted);
            if let Some(words) = words {
                tell_failed(&host, &recorder, name, key, &text, &words).await;
            }
        };
        self.pending.lock().unwrap_or_else(PoisonError::into_inner).push(pending.boxed());
    }

    /// An action could not be carried out.
    async fn broke(&self, step: &Step<'_>, error: &PerformError) -> Ended {
        let (controller, object) = (self.name(), step.key);
        let words = format!("{}: {}", step.text, error.words(step.action.target()));
        match error.retry() {
            Retry::Replan => tracing::debug!(controller, %object, error = words, "looking again"),
            _ => tracing::warn!(controller, %object, error = words, "will retry"),
        }
        let retry = match error {
            // Nothing that a retry could mend soon, whatever the port says.
            PerformError::NoEffector(_) => Retry::Slowly,
            other => other.retry(),
        };
        self.failed(step.key, step.plan.reason, retry, words, step.plan.wake_after).await
    }

    /// How a pass ends after a failure, by what the failure asks for.
    async fn failed(
        &self,
        key: &Key,
        reason: &'static str,
        retry: Retry,
        words: String,
        wake_after: Option<Duration>,
    ) -> Ended {
        match retry {
            Retry::Later | Retry::Replan | Retry::Proceed => {
                Ended::new("retry", reason, Next::Back(BackOff::Quick, None)).saying(words)
            }
            Retry::Slowly => {
                self.stall(key, "Refused", &words).await;
                let next = Next::Back(BackOff::Slow, wake_after);
                Ended::new("refused", reason, next).saying(words)
            }
        }
    }

    async fn write_statuses(
        &self,
        key: &Key,
        plan: &Plan,
        wrote: &mut Vec<u64>,
    ) -> Result<(), Ended> {
        for write in &plan.status {
            let acted = plan.actions.iter().any(|action| action.target() == Some(&write.key));
            let expect = assumed(plan, &write.key).filter(|_| !acted);
            let writing = write_status(&self.host, write, expect, self.name());
            let words = match within(&*self.host.timer, REQUEST_MAX, writing).await {
                Some(Ok(_) | Err(StoreError::NotFound { .. })) => {
                    wrote.push(mark_of(&[&write.key.to_string(), &write.status.to_string()]));
                    continue;
                }
                Some(Err(error)) => {
                    let words = redact::about(&write.key, &chain(&error));
                    tracing::debug!(controller = self.name(), object = %key, error = words,
                        "status not written");
                    let wake = plan.wake_after;
                    return Err(self.failed(key, plan.reason, error.retry(), words, wake).await);
                }
                None => format!("status of {} not written within {REQUEST_MAX:?}", write.key),
            };
            let next = Next::Back(BackOff::Quick, None);
            return Err(Ended::new("timed-out", plan.reason, next).saying(words));
        }
        Ok(())
    }

    async fn tell(&self, key: &Key, notes: &[EventNote]) {
        for note in notes {
            let telling = self.recorder.tell(&self.host, note, self.name());
            let told = within(&*self.host.timer, REQUEST_MAX, telling).await;
            if !matches!(told, Some(Ok(()))) {
                // An Event is for people; losing one must not repeat the actions before it.
                tracing::warn!(controller = self.name(), object = %key, reason = note.reason,
                    "event not written");
            }
        }
    }

    async fn panicked(&self, key: &Key, words: String) -> Ended {
        let words = format!("internal error in {}: {}", self.name(), redact::text(&words));
        tracing::error!(controller = self.name(), object = %key, error = words, "pass panicked");
        let telling = AssertUnwindSafe(self.stall(key, "Panicked", &words)).catch_unwind();
        if telling.await.is_err() {
            tracing::error!(controller = self.name(), object = %key, "and so did its condition");
        }
        let next = Next::Back(BackOff::Panic, None);
        Ended::new("panicked", "Panicked", next).saying(words)
    }

    async fn stall(&self, key: &Key, reason: &'static str, words: &str) {
        self.raise(key, STALLED, reason, words.to_owned()).await;
    }

    /// Sets a condition of the loop's own, with a Warning event when it is news.
    async fn raise(&self, key: &Key, kind: &'static str, reason: &'static str, message: String) {
        let flag = Flag { kind, reason, message: message.clone() };
        let raising = self.flags.raise(&self.host, key, flag, self.name());
        if within(&*self.host.timer, REQUEST_MAX, raising).await.unwrap_or(true) {
            tracing::info!(controller = self.name(), object = %key, reason, message);
            let note = EventNote { about: key.clone(), kind: EventType::Warning, reason, message };
            self.tell(key, &[note]).await;
        }
    }

    /// Whether the same things were done once more, too often in a row.
    fn is_repetition(&self, key: &Key, wrote: &[u64]) -> bool {
        let mut repeats = self.repeats.lock().unwrap_or_else(PoisonError::into_inner);
        if wrote.is_empty() {
            repeats.remove(key);
            return false;
        }
        let marks: Vec<u8> = wrote.iter().flat_map(|mark| mark.to_le_bytes()).collect();
        let mark = evenkeel_base::stable_hash(&marks);
        let entry = repeats.entry(key.clone()).or_insert((mark, 0));
        if entry.0 == mark {
            entry.1 = entry.1.saturating_add(1);
        } else {
            *entry = (mark, 1);
        }
        entry.1 > REPEATS_MAX
    }

    fn forget_repeats(&self, key: &Key) {
        self.repeats.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }

    fn report_pass(&self, key: &Key, started: Timestamp, ended: &Ended) {
        let now = self.now();
        let took = now.duration_since(started).as_millis();
        let wait = match &ended.next {
            Next::Done(wait) | Next::Back(_, wait) => *wait,
            Next::Gone => None,
        };
        let next_look = wait.and_then(|wait| now.checked_add(wait).ok());
        self.host.observer.passed(&Pass {
            controller: self.name().to_owned(),
            object: key.to_string(),
            at: now,
            took_ms: u64::try_from(took).unwrap_or_default(),
            result: ended.result.to_owned(),
            reason: ended.reason.to_owned(),
            since: now,
            message: ended.message.clone(),
            policies: ended.policies.clone(),
            next_look,
        });
    }
}

/// An effect that was to happen beside the plan did not: people must see it on the object.
async fn tell_failed(
    host: &Host,
    recorder: &Recorder,
    controller: &'static str,
    key: Key,
    text: &str,
    words: &str,
) {
    let message = format!("{text}: {words}");
    tracing::warn!(controller, object = %key, message, "effect failed");
    let kind = EventType::Warning;
    let note = EventNote { about: key, kind, reason: "EffectFailed", message };
    if let Err(error) = recorder.tell(host, &note, controller).await {
        tracing::warn!(controller, %error, "event not written");
    }
}

/// What a panic said.
fn panic_words(panic: &(dyn std::any::Any + Send)) -> String {
    let words = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    words.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default()
}

fn assumed(plan: &Plan, target: &Key) -> Option<Revision> {
    plan.assumed.iter().find(|(key, _)| key == target).map(|(_, revision)| revision.clone())
}

fn mark_of(parts: &[&str]) -> u64 {
    evenkeel_base::stable_hash(parts.join("\n").as_bytes())
}
