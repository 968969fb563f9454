//! One action of a plan: looked at, judged, asked about, performed, and its outcome recorded.

use std::{panic::AssertUnwindSafe, sync::Arc, sync::PoisonError, time::Duration};

use evenkeel_api::{Key, Obj, Revision};
use futures::FutureExt as _;
use serde_json::Value;

use crate::{
    Action, AuditId, BoxFuture, Change, Direction, EffectCall, EffectError, Effected, Ending,
    EventNote, EventType, Host, Objection, Outcome, Petition, Plan, Retry, Reversal, StoreError,
    Verdict,
    action::TargetError,
    conditions::{Flag, HELD},
    pass::{Done, Ended, Next, REQUEST_MAX, Worker, assumed, panic_words, wish},
    perform::{Cleared, PerformError, Performed, perform},
    queue::BackOff,
    recorder::{Recorder, log_if_not_recorded},
    redact, within,
};

/// How long a held action waits before the door is asked again, when the door gave no time.
const HOLD: Duration = Duration::from_secs(30);
/// Longest wait of a held action: a freeze may be lifted before its time.
const HOLD_MAX: Duration = Duration::from_mins(5);
/// The soonest look at a held plan: each look asks the door, the API and the metrics. An event of
/// the object still wakes it at once.
const HOLD_WISH_LEAST: Duration = Duration::from_secs(10);
/// Longest effect, whatever its effector says.
const EFFECT_MAX: Duration = Duration::from_mins(15);

/// Effects of one controller whose outcome is awaited beside its work. Beyond it, new ones fail at
/// once: a channel that does not answer must neither fill the memory nor hold up a plan.
const PENDING_MAX: usize = 256;

/// Everything about one action of a plan.
struct Step<'a> {
    key: &'a Key,
    plan: &'a Plan,
    action: &'a Action,
    /// The action as text that may be recorded.
    text: String,
}

/// The target before and after.
struct Target {
    before: Option<Arc<Obj>>,
    /// The patch from one to the other, for actions that use one.
    patch: Option<Value>,
    after: Option<Value>,
    /// The revision that the write must find.
    expect: Option<Revision>,
}

impl Worker {
    /// Asks the door about one action and performs it. A change that is already there is skipped.
    pub(crate) async fn step(
        &self,
        key: &Key,
        plan: &Plan,
        action: &Action,
        done: &mut Done,
    ) -> Result<(), Ended> {
        self.check_leads(plan)?;
        let step = Step { key, plan, action, text: self.text(action) };
        let mut target = match self.target(&step, done).await {
            Ok(Some(target)) => target,
            Ok(None) => return Ok(()),
            Err(error) => return Err(self.broke(&step, &error).await),
        };
        let (direction, judged) = self.direction(&step, &target).await;
        let petition = Petition {
            controller: self.name(),
            object: key,
            action,
            text: &step.text,
            reason: plan.reason,
            before: target.before.clone(),
            after: target.after.as_ref(),
            direction,
            now: self.now(),
        };
        let audit = self.ask(&step, &petition).await?;
        // What was judged is what is written; an unjudged patch may meet any revision.
        if judged || matches!(action, Action::Apply(_) | Action::SetWeights { .. }) {
            let judged_at = target.before.as_ref().map(|obj| obj.revision());
            target.expect = target.expect.or(judged_at);
        }
        let mark = action.mark(target.patch.as_ref());
        let cleared = Cleared {
            action,
            patch: target.patch,
            exists: target.before.is_some(),
            audit,
            manager: self.name(),
            expect: target.expect,
        };
        self.perform(&step, cleared, done).await?;
        done.changes.push(mark);
        Ok(())
    }

    /// An action as text that may be recorded.
    pub(crate) fn text(&self, action: &Action) -> String {
        match action {
            Action::Effect(call) => {
                let effector = self.host.effectors.find(call);
                let text = effector.map(|effector| effector.redact(call));
                let text = redact::text(&text.unwrap_or_else(|| call.to_string()));
                match &call.reverts {
                    Reversal::By { verb, .. } => format!("{text}, undone by {verb}"),
                    Reversal::Irreversible => text,
                }
            }
            other => other.to_string(),
        }
    }

    /// The target before and after; `None` when it needs no change. An action without an existing
    /// target is refused unless it creates or removes it.
    async fn target(&self, step: &Step<'_>, done: &Done) -> Result<Option<Target>, PerformError> {
        let action = step.action;
        action.check()?;
        if let Action::Effect(call) = action {
            self.host.effectors.find(call).ok_or(PerformError::NoEffector(call.port))?;
        }
        let Some(key) = action.target().filter(|key| !key.name.is_empty()) else {
            let after = action.after(None, None);
            return Ok(Some(Target { before: None, patch: None, after, expect: None }));
        };
        let before = if let Some(stored) = done.stored.get(key) {
            Some(stored.clone())
        } else {
            let reading = self.host.ports.read.get(key);
            let read = within(&*self.host.timer, REQUEST_MAX, reading).await;
            read.unwrap_or_else(|| {
                let problem = format!("not read within {REQUEST_MAX:?}");
                Err(StoreError::Unreachable { object: key.to_string(), problem })
            })?
        };
        if action.removes() {
            match &before {
                // Already gone is what was wanted.
                None => return Ok(None),
                Some(before) => action.check_uid(before)?,
            }
        }
        let expect = expected(step.plan, key, before.as_deref(), done)?;
        if before.is_none() && !action.makes() {
            return Err(TargetError::Missing(key.clone()).into());
        }
        let body = before.as_deref().map(Obj::json);
        let patch = body.map(|body| action.patch_of(body)).transpose()?.flatten();
        let after = action.after(body, patch.as_ref());
        if body.is_some() && after.as_ref() == body {
            return Ok(None);
        }
        Ok(Some(Target { before, patch, after, expect }))
    }

    /// Which way it moves the risk, and whether a judge computed it.
    async fn direction(&self, step: &Step<'_>, target: &Target) -> (Direction, bool) {
        match (step.action, step.action.target()) {
            (Action::Effect(call), _) => {
                let effector = self.host.effectors.find(call);
                (effector.map_or(Direction::Riskier, |e| e.direction(call)), false)
            }
            (_, Some(key)) => {
                let before = target.before.as_deref();
                let change = Change { key, before, after: target.after.as_ref(), owner: step.key };
                let judging = self.host.judges.direction(change, &*self.host.ports.read);
                let judged = within(&*self.host.timer, REQUEST_MAX, judging).await;
                judged.unwrap_or((Direction::Riskier, true))
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
        let wake = wish(step.plan);
        let (result, verdict, next, reason, objections) = match verdict {
            Verdict::Allow(audit) => {
                self.host.observer.judged(self.name(), "allow", &[]);
                return Ok(audit);
            }
            Verdict::Hold { until, objections } => {
                let wait = until.map_or(HOLD, |until| {
                    Duration::try_from(until.duration_since(petition.now)).unwrap_or_default()
                });
                // A look may find a reason to roll back: that must not wait for the end of a
                // freeze.
                let wish = wake.map_or(HOLD_MAX, |wake| wake.max(HOLD_WISH_LEAST));
                let wait = wait.min(HOLD_MAX).min(wish);
                ("held", "hold", Next::Held(wait), "ActionHeld", objections)
            }
            Verdict::Deny { objections } => {
                ("denied", "deny", Next::Back(BackOff::Slow, wake), "ActionDenied", objections)
            }
        };
        self.host.observer.judged(self.name(), verdict, &objections);
        let policies: Vec<_> = objections.iter().map(ToString::to_string).collect();
        let message = format!("{}: {}", step.text, policies.join("; "));
        let shows = step.plan.when_held.clone();
        let flag = Flag { kind: HELD, reason, message: message.clone(), shows };
        self.raise(step.key, flag).await;
        let ended = Ended::new(result, step.plan.reason, next).saying(message);
        Err(Ended { policies, ..ended })
    }

    /// Performs what was allowed, and records the outcome.
    async fn perform(
        &self,
        step: &Step<'_>,
        cleared: Cleared<'_>,
        done: &mut Done,
    ) -> Result<(), Ended> {
        if let Err(ended) = self.check_leads(step.plan) {
            // The door was slow, and another process leads by now.
            self.settle(&cleared.audit, Outcome::Failed(&ended.message)).await;
            return Err(ended);
        }
        let error = match self.try_perform(step.action, &cleared).await {
            Ok(Performed { effected, stored }) => {
                if let Some(key) = step.action.target() {
                    match stored {
                        Some(stored) => drop(done.stored.insert(key.clone(), stored)),
                        None => done.touched.push(key.clone()),
                    }
                }
                match effected {
                    Effected::Done => self.succeeded(step, &cleared.audit).await,
                    Effected::Pending(outcome) => {
                        if let Action::Effect(call) = step.action {
                            self.follow(step, call, cleared.audit, outcome);
                        }
                    }
                }
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

    /// Performs, within the time that there is for it. A panic is a failure like others, so that
    /// its outcome is recorded.
    async fn try_perform(
        &self,
        action: &Action,
        cleared: &Cleared<'_>,
    ) -> Result<Performed, PerformError> {
        let performing = AssertUnwindSafe(perform(&self.host, cleared)).catch_unwind();
        let (limit, performed) = match action {
            Action::Effect(call) => {
                let effector = self.host.effectors.find(call);
                let limit = effector.map_or(REQUEST_MAX, |effector| effector.deadline(call));
                let limit = limit.min(EFFECT_MAX);
                (limit, within(&*self.host.timer, limit, performing).await)
            }
            _ => (REQUEST_MAX, self.while_leading(performing).await),
        };
        match performed {
            Some(Ok(performed)) => performed,
            Some(Err(panic)) => Err(PerformError::Panicked(panic_words(&*panic))),
            None if self.leads() => Err(PerformError::TimedOut(limit)),
            None => Err(PerformError::TermOver),
        }
    }

    async fn succeeded(&self, step: &Step<'_>, audit: &AuditId) {
        self.settle(audit, Outcome::Done).await;
        self.host.observer.acted(self.name(), step.action.verb(), "done");
        tracing::debug!(controller = self.name(), object = %step.key,
            reason = step.plan.reason, action = step.text, "done");
    }

    async fn settle(&self, audit: &AuditId, outcome: Outcome<'_>) {
        settle(&self.host, self.name(), audit, outcome).await;
    }

    /// Records the outcome of an effect when it is known; the plan continues meanwhile.
    fn follow(
        &self,
        step: &Step<'_>,
        call: &EffectCall,
        audit: AuditId,
        outcome: BoxFuture<'static, Result<(), EffectError>>,
    ) {
        let (host, recorder, name) = (self.host.clone(), self.recorder.clone(), self.name());
        let (key, text, verb) = (step.key.clone(), step.text.clone(), call.verb);
        let (port, target) = (call.port, call.target.clone());
        let awaited = Arc::clone(&self.awaited);
        let working = self.busy.enter();
        // The worker has one itself, and this is another.
        let outcome = if Arc::strong_count(&awaited) - 2 < PENDING_MAX {
            outcome
        } else {
            let words = format!(
                "{PENDING_MAX} effects wait for their outcome already; this one was given up, and \
                 may have taken effect"
            );
            futures::future::ready(Err(EffectError::new(&words, Retry::Proceed))).boxed()
        };
        let pending = async move {
            let outcome = AssertUnwindSafe(outcome).catch_unwind();
            let failed = |words: &str| Err(EffectError::new(words, Retry::Proceed));
            let ended = match within(&*host.timer, EFFECT_MAX, outcome).await {
                Some(Ok(ended)) => ended,
                Some(Err(panic)) => failed(&format!("internal error: {}", panic_words(&*panic))),
                None => failed(&format!("no outcome within {EFFECT_MAX:?}")),
            };
            let words = ended.as_ref().err().map(ToString::to_string);
            let outcome = words.as_deref().map_or(Outcome::Done, Outcome::Failed);
            settle(&host, name, &audit, outcome).await;
            host.observer.acted(name, verb, if words.is_some() { "failed" } else { "done" });
            let failure = words.map(|words| format!("{text}: {words}"));
            let (at, failed) = (host.ports.clock.now(), failure.clone());
            host.ports.endings.note(&key, port, &target, Ending { at, failure });
            if let Some(words) = failed {
                record_failure(&host, &recorder, name, key, &words).await;
            }
            drop((awaited, working));
        };
        self.pending.lock().unwrap_or_else(PoisonError::into_inner).push(pending.boxed());
    }

    /// An action could not be carried out.
    async fn broke(&self, step: &Step<'_>, error: &PerformError) -> Ended {
        let (controller, object) = (self.name(), step.key);
        let target = step.action.target();
        let words = error.words(target);
        // Most errors name their object, and the text has just named it.
        let named = target.and_then(|key| words.strip_prefix(&format!("{key}: ")));
        let words = format!("{}: {}", step.text, named.unwrap_or(&words));
        match error {
            PerformError::Panicked(_) => return self.panicked(step.key, &words).await,
            error if error.retry() == Retry::Replan => {
                tracing::debug!(controller, %object, error = words, "looking again");
            }
            _ => tracing::warn!(controller, %object, error = words, "will retry"),
        }
        let mut ended = self.failed(step.key, step.plan, error.retry(), words).await;
        if matches!(error, PerformError::TimedOut(_)) {
            ended.result = "timed-out";
        }
        ended
    }
}

/// The revision that a write must find. A plan made for another one is stale, and its action is not
/// sent to the door.
fn expected(
    plan: &Plan,
    key: &Key,
    before: Option<&Obj>,
    done: &Done,
) -> Result<Option<Revision>, StoreError> {
    if let Some(stored) = done.stored.get(key) {
        return Ok(Some(stored.revision()));
    }
    let Some(assumed) = assumed(plan, key).filter(|_| !done.touched.contains(key)) else {
        return Ok(None);
    };
    let found = before.map(Obj::revision);
    if found.as_ref() == Some(&assumed) {
        return Ok(Some(assumed));
    }
    let is = found.map_or("it is gone".to_owned(), |found| format!("it is at {found}"));
    let problem = format!("{is}, the plan was made for {assumed}");
    Err(StoreError::Conflict { object: key.to_string(), problem })
}

async fn settle(host: &Host, controller: &'static str, audit: &AuditId, outcome: Outcome<'_>) {
    let settling = host.door.settle(audit, outcome);
    if within(&*host.timer, REQUEST_MAX, settling).await.is_none() {
        tracing::warn!(controller, audit = audit.0, "outcome not recorded");
    }
}

/// An effect beside the plan failed: people must see that on the object.
async fn record_failure(
    host: &Host,
    recorder: &Recorder,
    controller: &'static str,
    key: Key,
    message: &str,
) {
    tracing::warn!(controller, object = %key, message, "effect failed");
    let (kind, message) = (EventType::Warning, message.to_owned());
    let note = EventNote { about: key, kind, reason: "EffectFailed", message };
    let recording = recorder.record(host, &note, controller);
    let recorded = within(&*host.timer, REQUEST_MAX, recording).await;
    log_if_not_recorded(recorded, controller, &note.about, note.reason);
}
