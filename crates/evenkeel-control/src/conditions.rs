//! The conditions that the loop itself sets on the objects of a controller.
//!
//! ```text
//! Held     the door holds or denies the plan: reason, policies, what to do
//! Stalled  no pass ends well: refused, panicked, timed out, the same change again and again
//! ```
//! They are written when they change, and taken away by the next pass that ends well.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
};

use evenkeel_api::{Key, Obj};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

use crate::{Host, Patch, Subresource, WriteOptions};

/// The door holds or denies the plan.
pub(crate) const HELD: &str = "Held";
/// No pass ends well.
pub(crate) const STALLED: &str = "Stalled";

/// Whether a condition in a list is one of the loop's.
pub(crate) fn is_own(condition: &Value) -> bool {
    condition.get("type").is_some_and(|kind| kind == HELD || kind == STALLED)
}

/// One condition that is raised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Flag {
    pub(crate) kind: &'static str,
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

/// What is raised on which object, as far as this process knows.
#[derive(Default)]
pub(crate) struct Flags(Mutex<Known>);

#[derive(Default)]
struct Known {
    raised: BTreeMap<Key, Flag>,
    /// Objects that were looked at for conditions of a process before this one.
    checked: BTreeSet<Key>,
}

impl Flags {
    fn known(&self) -> MutexGuard<'_, Known> {
        // What was written is written; at worst a condition is written twice.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Raises a condition on an object; whether it is news.
    pub(crate) async fn raise(
        &self,
        host: &Host,
        key: &Key,
        flag: Flag,
        manager: &'static str,
    ) -> bool {
        if self.known().raised.get(key) == Some(&flag) {
            return false;
        }
        self.known().raised.insert(key.clone(), flag.clone());
        self.write(host, key, Some(&flag), manager).await;
        true
    }

    /// Takes the loop's conditions from an object on which all is well.
    pub(crate) async fn clear(&self, host: &Host, key: &Key, manager: &'static str) {
        {
            let mut known = self.known();
            let was_raised = known.raised.remove(key).is_some();
            if !known.checked.insert(key.clone()) && !was_raised {
                return;
            }
        }
        self.write(host, key, None, manager).await;
    }

    /// Forgets an object that is gone.
    pub(crate) fn forget(&self, key: &Key) {
        let mut known = self.known();
        known.raised.remove(key);
        known.checked.remove(key);
    }

    async fn write(&self, host: &Host, key: &Key, flag: Option<&Flag>, manager: &'static str) {
        let Ok(Some(obj)) = host.ports.read.get(key).await else { return };
        let Some(list) = updated(&obj, flag, host.ports.clock.now()) else { return };
        let options = WriteOptions {
            subresource: Some(Subresource::Status),
            expect: Some(obj.revision()),
            manager,
        };
        let patch = Patch::Merge(json!({"status": {"conditions": list}}));
        if let Err(error) = host.write.patch(key, &patch, &options).await {
            // The Event and `why` still say it; the next pass tries again.
            tracing::debug!(object = %key, %error, "condition not written");
            let mut known = self.known();
            known.raised.remove(key);
            known.checked.remove(key);
        }
    }
}

/// The conditions of an object with this one raised and no other of ours; `None` when they are so.
fn updated(obj: &Obj, flag: Option<&Flag>, now: Timestamp) -> Option<Vec<Value>> {
    let have = obj.json().pointer("/status/conditions").and_then(Value::as_array);
    let mut list: Vec<Value> = have.cloned().unwrap_or_default();
    let old = list.iter().find(|condition| {
        flag.is_some_and(|flag| condition.get("type").is_some_and(|kind| kind == flag.kind))
    });
    let since = old.and_then(|old| old.get("lastTransitionTime")).cloned();
    list.retain(|condition| !is_own(condition));
    if let Some(flag) = flag {
        list.push(json!({
            "type": flag.kind, "status": "True", "reason": flag.reason, "message": flag.message,
            "observedGeneration": obj.generation(),
            "lastTransitionTime": since.unwrap_or_else(|| json!(Time(now))),
        }));
    }
    (have.map_or(0, Vec::len) != list.len() || have.is_some_and(|have| *have != list))
        .then_some(list)
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

    #[test]
    fn a_flag_keeps_the_time_since_when_it_is_so_and_others_stay() {
        let now = Timestamp::from_second(100).unwrap();
        let flag =
            |message: &str| Flag { kind: HELD, reason: "ActionHeld", message: message.to_owned() };
        let other = json!({"type": "Promoted", "status": "True"});
        let first = updated(&object(&json!([other])), Some(&flag("a")), now).unwrap();
        assert_eq!((first.len(), &first[0]), (2, &other));
        let later = Timestamp::from_second(200).unwrap();
        let obj = object(&json!(first));
        assert_eq!(updated(&obj, Some(&flag("a")), later), None);
        let second = updated(&obj, Some(&flag("b")), later).unwrap();
        assert_eq!(second[1]["lastTransitionTime"], first[1]["lastTransitionTime"]);
        assert_eq!(updated(&obj, None, later), Some(vec![other]));
    }
}
