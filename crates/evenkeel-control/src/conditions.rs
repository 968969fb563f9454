//! The conditions that the loop itself sets on the objects of a controller.
//!
//! ```text
//! Held     the door holds or denies the plan: reason, policies, what to do
//! Stalled  no pass succeeds: refused, panicked, timed out, the same change again and again
//! ```
//! **Shape** of the message: `CONTROLLER: words`. Several controllers may look after one object;
//! each removes only what it has set itself, when one of its passes succeeds.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use evenkeel_api::{Key, Obj, Revision};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

use crate::{HeldWords, Host, Patch, Subresource, WriteOptions, controller::is_singleton};

/// The door holds or denies the plan.
pub(crate) const HELD: &str = "Held";
/// No pass succeeds.
pub(crate) const STALLED: &str = "Stalled";
/// Text that differs from the last one only in its numbers is reported again after this long:
/// numbers may change all the time.
const WORDS_EVERY: Duration = Duration::from_mins(1);

/// Whether a condition in a list was set by the loop of this controller.
pub fn is_condition_of(controller: &str, condition: &Value) -> bool {
    let text = |field| condition.get(field).and_then(Value::as_str).unwrap_or_default();
    let own = text("message").strip_prefix(controller);
    [HELD, STALLED].contains(&text("type")) && own.is_some_and(|rest| rest.starts_with(": "))
}

/// One condition that is raised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Flag {
    pub(crate) kind: &'static str,
    pub(crate) reason: &'static str,
    pub(crate) message: String,
    /// What another condition of the object says meanwhile.
    pub(crate) shows: Option<HeldWords>,
}

/// What one controller has raised on which object, as far as this process knows.
pub(crate) struct Flags {
    controller: &'static str,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    raised: BTreeMap<Key, Raised>,
    /// Objects that were looked at for conditions of a process before this one.
    checked: BTreeSet<Key>,
    /// Objects whose last event had a condition of this controller.
    bearing: BTreeSet<Key>,
    /// The revision of each object before its conditions were last written here, and since.
    wrote: BTreeMap<Key, (Revision, Revision)>,
}

struct Raised {
    flag: Flag,
    /// When it was reported, in monotonic time.
    reported_at: Timestamp,
    /// The condition as it was written; `None` when it could not be.
    condition: Option<Value>,
}

impl Flags {
    pub(crate) fn new(controller: &'static str) -> Self {
        Self { controller, known: Mutex::default() }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // What was written is complete; at worst a condition is written twice.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Raises a condition on an object; whether it is new.
    pub(crate) async fn raise(&self, host: &Host, key: &Key, flag: Flag) -> bool {
        let now = host.ports.clock.steady();
        let (flag, is_news) = self.note(key, flag, now);
        // Also when it is not new: another client may have written the list without it.
        if let Ok(condition) = self.write(host, key, Some(&flag), None).await
            && let Some(raised) = self.known().raised.get_mut(key)
        {
            raised.condition = condition;
        }
        is_news
    }

    /// Remembers what is raised; the flag as it is to be shown, and whether it is new.
    fn note(&self, key: &Key, flag: Flag, now: Timestamp) -> (Flag, bool) {
        let mut known = self.known();
        let every = SignedDuration::try_from(WORDS_EVERY).unwrap_or(SignedDuration::MAX);
        let old = known.raised.get(key).filter(|old| {
            let same = (old.flag.kind, old.flag.reason) == (flag.kind, flag.reason)
                && old.flag.shows == flag.shows
                && without_numbers(&old.flag.message) == without_numbers(&flag.message);
            let recent = now.duration_since(old.reported_at) < every;
            same && (old.flag.message == flag.message || recent)
        });
        if let Some(old) = old {
            return (old.flag.clone(), false);
        }
        let raised = Raised { flag: flag.clone(), reported_at: now, condition: None };
        known.raised.insert(key.clone(), raised);
        (flag, true)
    }

    /// Whether exactly this is raised on an object already.
    pub(crate) fn says(&self, key: &Key, kind: &str, message: &str) -> bool {
        let known = self.known();
        let raised = known.raised.get(key);
        raised.is_some_and(|raised| raised.flag.kind == kind && raised.flag.message == message)
    }

    /// The condition that is raised on an object, as it was written.
    pub(crate) fn raised(&self, key: &Key) -> Option<Value> {
        self.known().raised.get(key)?.condition.clone()
    }

    /// Notes an object from a watch.
    pub(crate) fn hear(&self, obj: &Obj) {
        let conditions = obj.json().pointer("/status/conditions").and_then(Value::as_array);
        let mut known = self.known();
        if conditions.into_iter().flatten().any(|condition| self.owns(condition)) {
            known.bearing.insert(obj.key().clone());
        } else {
            known.bearing.remove(obj.key());
        }
    }

    /// Removes this controller's condition from an object whose pass succeeded; whether it has none
    /// now. `fresh` is the object as it was just written, if it was.
    ///
    /// A read may return an older state than the last event: then the condition is still there.
    pub(crate) async fn clear(&self, host: &Host, key: &Key, fresh: Option<&Arc<Obj>>) -> bool {
        {
            let mut known = self.known();
            let was_raised = known.raised.remove(key).is_some();
            let is_first = known.checked.insert(key.clone());
            if !is_first && !was_raised && !known.bearing.contains(key) {
                return true;
            }
        }
        if self.write(host, key, None, fresh).await.is_err() {
            self.known().checked.remove(key);
            return false;
        }
        !self.known().bearing.contains(key)
    }

    /// Forgets all objects. What is raised on them is found again by the next look.
    pub(crate) fn forget_all(&self) {
        *self.known() = Known::default();
    }

    /// Forgets an object that is gone.
    pub(crate) fn forget(&self, key: &Key) {
        let mut known = self.known();
        known.raised.remove(key);
        known.checked.remove(key);
        known.bearing.remove(key);
        known.wrote.remove(key);
    }

    /// Whether nothing has happened to an object since `heard` but the last write of a condition. A
    /// watch that was opened again reports only the last of several writes.
    pub(crate) fn left(&self, obj: &Obj, heard: Option<&Revision>) -> bool {
        let known = self.known();
        let wrote = known.wrote.get(obj.key());
        wrote.is_some_and(|(before, after)| {
            *after == obj.revision() && heard.is_some_and(|heard| [before, after].contains(&heard))
        })
    }

    /// Whether a condition in a list was set by this controller's loop.
    pub(crate) fn owns(&self, condition: &Value) -> bool {
        is_condition_of(self.controller, condition)
    }

    /// Brings the list of conditions up to date; returns the condition that it holds now.
    async fn write(
        &self,
        host: &Host,
        key: &Key,
        flag: Option<&Flag>,
        fresh: Option<&Arc<Obj>>,
    ) -> Result<Option<Value>, ()> {
        if is_singleton(key) {
            return Ok(None);
        }
        let obj = match fresh {
            Some(fresh) => fresh.clone(),
            None => match host.ports.read.get(key).await {
                Ok(Some(obj)) => obj,
                Ok(None) => return Ok(None),
                Err(_) => return Err(()),
            },
        };
        let (list, condition) = self.updated(&obj, flag, host.ports.clock.now());
        let Some(list) = list else { return Ok(condition) };
        let options = WriteOptions {
            subresource: Some(Subresource::Status),
            expect: Some(obj.revision()),
            manager: self.controller,
        };
        let patch = Patch::Merge(json!({"status": {"conditions": list}}));
        match host.write.patch(key, &patch, &options).await {
            Ok(stored) => {
                self.known().wrote.insert(key.clone(), (obj.revision(), stored.revision()));
                self.hear(&stored);
                Ok(condition)
            }
            Err(error) => {
                // The Event and `why` still say it; the next pass tries again.
                tracing::debug!(object = %key, %error, "condition not written");
                Err(())
            }
        }
    }

    /// The conditions of an object with this one raised and no other of ours, `None` when they are
    /// so; and the one that is raised.
    fn updated(
        &self,
        obj: &Obj,
        flag: Option<&Flag>,
        now: Timestamp,
    ) -> (Option<Vec<Value>>, Option<Value>) {
        let have = obj.json().pointer("/status/conditions").and_then(Value::as_array);
        let mut list: Vec<Value> = have.cloned().unwrap_or_default();
        list.retain(|condition| !self.owns(condition));
        let same = |condition: &&Value| {
            flag.is_some_and(|flag| condition.get("type").is_some_and(|kind| kind == flag.kind))
        };
        // A list has one condition per type: another controller's stays until it is removed.
        let is_taken = list.iter().any(|condition| same(&condition));
        let raised = flag.filter(|_| !is_taken).map(|flag| {
            let old = have.into_iter().flatten().find(same);
            let since = old.and_then(|old| old.get("lastTransitionTime")).cloned();
            json!({
                "type": flag.kind, "status": "True", "reason": flag.reason,
                "message": format!("{}: {}", self.controller, flag.message),
                "observedGeneration": obj.generation(),
                "lastTransitionTime": since.unwrap_or_else(|| json!(Time(now))),
            })
        });
        if let Some(HeldWords { condition, message }) = flag.and_then(|flag| flag.shows.as_ref()) {
            let shown =
                list.iter_mut().find(|have| have.get("type").is_some_and(|t| t == condition));
            if let Some(shown) = shown {
                shown["message"] = message.as_str().into();
            }
        }
        list.extend(raised.clone());
        let is_so = have.map_or(&[] as &[Value], Vec::as_slice) == list;
        ((!is_so).then_some(list), raised)
    }
}

/// The text without the numbers in it.
fn without_numbers(words: &str) -> String {
    let is_number = |c: char| c.is_ascii_digit() || c == '.';
    words.split(is_number).filter(|part| !part.is_empty()).collect::<Vec<_>>().join("#")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(conditions: &Value) -> Obj {
        Obj::from_json(json!({"apiVersion": "flagger.app/v1beta1", "kind": "Canary",
            "metadata": {"name": "api", "namespace": "shop", "generation": 3},
            "status": {"conditions": conditions}}))
        .unwrap()
    }

    fn flag(message: &str) -> Flag {
        Flag { kind: HELD, reason: "ActionHeld", message: message.to_owned(), shows: None }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn a_flag_keeps_the_time_since_when_it_is_so_and_others_stay() {
        let flags = Flags::new("delivery");
        let updated = |conditions: &Value, flag: Option<&Flag>, second| {
            flags.updated(&object(conditions), flag, at(second)).0
        };
        let other = json!({"type": "Promoted", "status": "True"});
        let first = updated(&json!([other]), Some(&flag("a")), 100).unwrap();
        assert_eq!((first.len(), &first[0]), (2, &other));
        assert_eq!(first[1]["message"], "delivery: a");
        assert_eq!(updated(&json!(first), Some(&flag("a")), 200), None);
        let second = updated(&json!(first), Some(&flag("b")), 200).unwrap();
        assert_eq!(second[1]["lastTransitionTime"], first[1]["lastTransitionTime"]);
        assert_eq!(updated(&json!(first), None, 200), Some(vec![other]));
    }

    #[test]
    fn what_another_controller_has_raised_is_left_alone() {
        let theirs = json!([{"type": HELD, "status": "True", "message": "slo: a"}]);
        let flags = Flags::new("delivery");
        for flag in [None, Some(&flag("a"))] {
            assert_eq!(flags.updated(&object(&theirs), flag, at(1)), (None, None));
        }
        assert!(Flags::new("slo").updated(&object(&theirs), None, at(1)).0.is_some());
    }

    #[test]
    fn only_what_follows_on_what_was_heard_is_the_loops_own_doing() {
        let at = |revision: &str| {
            let mut body = object(&json!([])).into_json();
            body["metadata"]["resourceVersion"] = revision.into();
            Obj::from_json(body).unwrap()
        };
        let (flags, flagged) = (Flags::new("delivery"), at("7"));
        let wrote = (at("6").revision(), flagged.revision());
        flags.known().wrote.insert(flagged.key().clone(), wrote);
        assert!(flags.left(&flagged, Some(&at("6").revision())));
        // The write before it was not reported, as when the watch was opened again in between.
        assert!(!flags.left(&flagged, Some(&at("5").revision())));
        assert!(!flags.left(&flagged, None));
        assert!(flags.left(&flagged, Some(&flagged.revision())), "reported twice");
        assert!(!flags.left(&at("8"), Some(&flagged.revision())));
    }

    #[test]
    fn words_that_change_all_the_time_are_reported_once_a_minute() {
        let (flags, key) = (Flags::new("delivery"), object(&json!([])).key().clone());
        let news = |message: &str, second| flags.note(&key, flag(message), at(second)).1;
        assert!(news("burn 14.1", 0));
        assert!(!news("burn 14.2", 1) && !news("burn 14.1", 100));
        assert!(news("burn 14.3", 101));
        let stalled = Flag { kind: STALLED, reason: "Refused", ..flag("burn 14.3") };
        assert!(flags.note(&key, stalled, at(102)).1, "another reason is news at once");
    }

    #[test]
    fn another_policy_that_holds_is_reported_at_once() {
        let (flags, key) = (Flags::new("delivery"), object(&json!([])).key().clone());
        let shown = |message: &str, second| flags.note(&key, flag(message), at(second)).0.message;
        assert_eq!(shown("freeze: until 10:00", 0), "freeze: until 10:00");
        assert_eq!(shown("freeze: until 10:05", 1), "freeze: until 10:00", "a number only");
        assert_eq!(shown("budget: 12 % left", 2), "budget: 12 % left");
    }

    #[test]
    fn while_a_plan_is_held_the_other_condition_says_so() {
        let flags = Flags::new("delivery");
        let promoted = json!([{"type": "Promoted", "status": "Unknown", "message": "going on"}]);
        let shows = Some(HeldWords { condition: "Promoted", message: "held".to_owned() });
        let held = Flag { shows, ..flag("a") };
        let list = flags.updated(&object(&promoted), Some(&held), at(1)).0.unwrap();
        assert_eq!((&list[0]["message"], list.len()), (&json!("held"), 2));
        assert_eq!(flags.updated(&object(&json!(list)), Some(&held), at(2)).0, None);
        let alone = flags.updated(&object(&json!([])), Some(&held), at(1)).0.unwrap();
        assert_eq!(alone.len(), 1, "there is no such condition");
    }
}
