//! An object that is only observed: what would be done is decided and said, and nothing is done.

use std::{sync::Arc, time::Duration};

use evenkeel_api::{
    GroupKind, Key, Obj,
    beside::{MANAGED, Marks, misread_hand},
    json,
};
use serde_json::Value;

use crate::{
    BoxFuture, ListQuery, Listed, Plan, Ports, Prediction, Read, Retry, Standing, StoreError,
    Watch,
    controller::is_singleton,
    pass::{Done, Ended, Next, OBSERVE_MAX, Worker, undone},
    perform::chain,
    queue::BackOff,
    redact,
    repeats::Calm,
    within,
};

/// Plans that follow from each other in one prediction: taking note of an object takes one or two,
/// and what counts comes after them.
const STEPS_MAX: usize = 4;
/// An observed object is looked at no more often, however soon its plan wants to go on.
const LOOK_LEAST: Duration = Duration::from_secs(10);
/// And no more rarely: when the other controller goes, nothing about the object changes.
const LOOK_MOST: Duration = Duration::from_mins(2);
/// Actions that are named in one prediction.
const NAMED_MAX: usize = 3;

impl Ports {
    /// What evenkeel may do with an object.
    ///
    /// **Errors**: that cannot be found out now.
    pub async fn standing(&self, obj: &Obj) -> Result<Standing, StoreError> {
        self.standing_by(&obj.key().kind, &Marks::of(obj)).await
    }

    /// As [`Self::standing`], by what an object of this kind says about it.
    ///
    /// **Errors**: that cannot be found out now.
    pub async fn standing_by(
        &self,
        kind: &GroupKind,
        marks: &Marks,
    ) -> Result<Standing, StoreError> {
        Ok(Standing::of(self.stewards.of(kind).await?, marks))
    }
}

impl Worker {
    /// The end of a pass over an object that is only observed; `None` when it is to be acted on.
    pub(crate) async fn observed(&self, key: &Key) -> Option<Ended> {
        if is_singleton(key) {
            return None;
        }
        let looking = async {
            let steward = self.host.ports.stewards.of(&key.kind).await?;
            if steward == crate::Steward::Evenkeel {
                return Ok(None);
            }
            let obj = self.host.ports.read.get(key).await?;
            Ok(Some(obj.map(|obj| (Standing::of_object(steward, &obj), obj))))
        };
        let looked: Option<Result<_, StoreError>> =
            within(&*self.host.timer, OBSERVE_MAX, looking).await;
        match looked {
            // What another controller made around it is that one's to remove.
            Some(Ok(Some(None))) => Some(self.is_gone(key)),
            Some(Ok(Some(Some((Standing::Observed { why, give_back }, obj))))) => {
                // Known to be observed from here on: no condition is set on it.
                self.predictions.begin(key);
                self.flags.forget(key);
                let given_back = if give_back { self.hand_back(key).await } else { None };
                Some(match given_back {
                    Some(ended) => ended,
                    None => self.predict(key, &obj, &why).await,
                })
            }
            Some(Ok(_)) => {
                self.predictions.forget(key);
                None
            }
            Some(Err(error)) => Some(unknown(&error)),
            None => {
                let next = Next::Back(BackOff::Slow, None);
                let words = format!("who looks after it was not answered within {OBSERVE_MAX:?}");
                Some(Ended::new("timed-out", "StandingUnknown", next).saying(words))
            }
        }
    }

    /// Takes off what we put on an object while it was ours; `None` when there is nothing.
    async fn hand_back(&self, key: &Key) -> Option<Ended> {
        let leaving = self.controller.hand_back(key, &self.host.ports);
        let plan = match within(&*self.host.timer, OBSERVE_MAX, leaving).await? {
            Ok(plan) => plan?,
            Err(error) => return Some(retry(&chain(&error))),
        };
        tracing::info!(controller = self.name(), object = %key, reason = plan.reason,
            "handing it back");
        let mut done = Done::default();
        if let Err(ended) = self.perform_all(key, &plan, &mut done).await {
            return Some(ended);
        }
        // Whoever puts it back must not be answered at once for ever.
        if let Calm::No(which) = self.repeats.note(key, &done.changes, self.steady()) {
            let next = Next::Back(BackOff::Slow, None);
            return Some(Ended::new("repeated", plan.reason, next).saying(undone(&which)));
        }
        // What changed nothing changes nothing at the next look either.
        let wait = if done.changes.is_empty() { LOOK_LEAST } else { Duration::ZERO };
        Some(Ended::new("done", plan.reason, Next::Done(Some(wait))))
    }

    /// Decides as if the object were ours, and says what came of it.
    async fn predict(&self, key: &Key, obj: &Arc<Obj>, why: &str) -> Ended {
        let mut said = Vec::new();
        let mut seen = obj.clone();
        let mut last = Plan::idle("NothingToDo");
        for _ in 0..STEPS_MAX {
            let ports = self.host.ports.imagining(seen.clone());
            let planning = self.controller.plan(key, &ports);
            let plan = match within(&*self.host.timer, OBSERVE_MAX, planning).await {
                Some(Ok(Some(plan))) => plan,
                Some(Ok(None)) => return self.is_gone(key),
                Some(Err(error)) => return retry(&chain(&error)),
                None => return retry(&format!("observing took longer than {OBSERVE_MAX:?}")),
            };
            let acts = !plan.actions.is_empty() || !plan.then.is_empty();
            let next = after(&seen, key, &plan);
            // That it waits is news only when nothing else is.
            if acts || next.is_some() || said.is_empty() {
                said.push(self.words(&plan));
            }
            last = plan;
            match next {
                Some(next) if !acts => seen = next,
                _ => break,
            }
        }
        said.dedup();
        let words = redact::about(key, &format!("would {}", said.join(", then ")));
        let is_new = self.predictions.note(key, &words);
        if is_new {
            tracing::info!(controller = self.name(), object = %key, reason = last.reason,
                "observed: {words}");
            self.host.door.foresee(&Prediction {
                controller: self.name(),
                object: key,
                text: &words,
                reason: last.reason,
                now: self.now(),
            });
        }
        self.host.observer.predicted(self.name(), is_new);
        let wait = Some(last.wake_after.unwrap_or(LOOK_MOST).clamp(LOOK_LEAST, LOOK_MOST));
        let misread = misread_hand(obj.json()).map(|value| {
            format!(" (its annotation {MANAGED} is {value:?}: only \"true\" hands it over)")
        });
        let misread = misread.unwrap_or_default();
        let message = format!("{words}; it is only observed: {why}{misread}");
        Ended::new("observed", last.reason, Next::Done(wait)).saying(message)
    }

    /// What a plan does, for people.
    fn words(&self, plan: &Plan) -> String {
        let actions = plan.actions.iter().chain(&plan.then);
        let mut named: Vec<_> = actions.clone().take(NAMED_MAX).map(|a| self.text(a)).collect();
        let more = actions.count().saturating_sub(NAMED_MAX);
        if more > 0 {
            named.push(format!("{more} more"));
        }
        let events: Vec<_> = plan.events.iter().map(|event| event.message.clone()).collect();
        let mut words = plan.reason.to_owned();
        for (list, open, between, close) in [(events, ": ", "; ", ""), (named, " [", ", ", "]")] {
            if !list.is_empty() {
                words = format!("{words}{open}{}{close}", list.join(between));
            }
        }
        words
    }
}

fn retry(words: &str) -> Ended {
    let words = redact::text(words);
    Ended::new("retry", "ObservationIncomplete", Next::Back(BackOff::Quick, None)).saying(words)
}

fn unknown(error: &StoreError) -> Ended {
    let back_off = if error.retry() == Retry::Slowly { BackOff::Slow } else { BackOff::Quick };
    let words = redact::text(&chain(error));
    Ended::new("retry", "StandingUnknown", Next::Back(back_off, None)).saying(words)
}

/// The object as it would be when the status of a plan were written; `None` when it stays the same.
fn after(obj: &Obj, key: &Key, plan: &Plan) -> Option<Arc<Obj>> {
    let mut body = obj.json().clone();
    for write in plan.status.iter().filter(|write| write.key == *key) {
        let fields = body.as_object_mut()?;
        json::merge(fields.entry("status").or_insert(Value::Null), &write.status);
    }
    (body != *obj.json()).then(|| Obj::from_json(body).ok().map(Arc::new)).flatten()
}

impl Ports {
    /// The same, with one object as it is imagined.
    fn imagining(&self, obj: Arc<Obj>) -> Self {
        Self { read: Arc::new(Imagined { read: self.read.clone(), obj }), ..self.clone() }
    }
}

/// The API, with one object as it would be.
struct Imagined {
    read: Arc<dyn Read>,
    obj: Arc<Obj>,
}

impl Read for Imagined {
    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Arc<Obj>>, StoreError>> {
        if key == self.obj.key() {
            return Box::pin(async { Ok(Some(self.obj.clone())) });
        }
        self.read.get(key)
    }

    fn get_latest<'a>(
        &'a self,
        key: &'a Key,
    ) -> BoxFuture<'a, Result<Option<Arc<Obj>>, StoreError>> {
        if key == self.obj.key() { self.get(key) } else { self.read.get_latest(key) }
    }

    fn list<'a>(&'a self, query: &'a ListQuery) -> BoxFuture<'a, Result<Listed, StoreError>> {
        self.read.list(query)
    }

    fn watch(&self, query: ListQuery) -> Watch {
        self.read.watch(query)
    }
}
