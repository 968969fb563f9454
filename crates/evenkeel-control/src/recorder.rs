//! Events, as client-go's recorder and correlator write them.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use evenkeel_api::{Key, Obj};
use jiff::Timestamp;
use k8s_openapi::{api::core::v1::Event, apimachinery::pkg::apis::meta::v1::Time};
use serde_json::json;

use crate::{EventNote, Host, Patch, StoreError, Write, WriteOptions, perform::chain, redact};

/// Events remembered for counting; beyond it counting starts again. **Source**:
/// `maxLruCacheEntries` of client-go's correlator.
const KNOWN_MAX: usize = 4_096;
/// Names tried when several events about one object fall on one instant, as under virtual time.
const NAMES_MAX: usize = 64;

/// The name of an event: `OBJECT.TIME`, the time in nanoseconds as 16 hexadecimal digits. Servers
/// list by name, and what is listed is shown as it comes among events of one second: so the order
/// of names is the order of time.
///
/// **Source**: `makeEvent` of client-go.
pub fn event_name(object: &str, at: Timestamp) -> String {
    format!("{object}.{:016x}", at.as_nanosecond())
}

/// Creates an event under a name for `at`, or for the next free nanosecond; returns the name.
pub async fn create_event(
    write: &dyn Write,
    event: &mut serde_json::Value,
    object: &str,
    at: Timestamp,
    manager: &'static str,
) -> Result<String, StoreError> {
    let options = WriteOptions { subresource: None, expect: None, manager };
    let mut at = at;
    let mut tries = 0;
    loop {
        let name = event_name(object, at);
        event["metadata"]["name"] = json!(name);
        tries += 1;
        match write.create(&Obj::from_json(event.clone())?, &options).await {
            Ok(_) => return Ok(name),
            Err(StoreError::Exists { .. }) if tries < NAMES_MAX => {
                at = at.checked_add(Duration::from_nanos(1)).unwrap_or(at);
            }
            Err(error) => return Err(error),
        }
    }
}

/// Records events; the same event about the same object counts up instead of piling up.
///
/// What was recorded is remembered here only: a controller that starts again records it again.
#[derive(Debug, Default)]
pub(crate) struct Recorder {
    /// Name of each event by what it says.
    known: Mutex<BTreeMap<u64, String>>,
}

impl Recorder {
    /// Records one.
    pub(crate) async fn record(
        &self,
        host: &Host,
        note: &EventNote,
        controller: &'static str,
    ) -> Result<(), StoreError> {
        let Some(about) = host.ports.read.get(&note.about).await? else { return Ok(()) };
        let kind = note.kind.as_str();
        let message = redact::text(&note.message);
        let identity = format!("{} {kind} {} {message}", about.uid(), note.reason);
        let identity = evenkeel_base::stable_hash(identity.as_bytes());
        let namespace =
            if about.namespace().is_empty() { "default" } else { about.namespace() }.to_owned();
        let now = host.ports.clock.now();
        if let Some(name) = self.known(identity)
            && count_up(host, &Key::of::<Event>(&namespace, &name), now, controller).await?
        {
            return Ok(());
        }
        let stamp = json!(Time(now));
        let mut event = json!({
            "apiVersion": "v1", "kind": "Event",
            "metadata": {"name": "", "namespace": namespace},
            "involvedObject": {
                "apiVersion": about.json().get("apiVersion"), "kind": &*about.key().kind.kind,
                "name": about.name(), "namespace": about.namespace(), "uid": about.uid(),
                "resourceVersion": about.revision().to_string()},
            "reason": note.reason, "message": message, "type": kind,
            "source": {"component": controller}, "reportingComponent": controller,
            "reportingInstance": "", "count": 1, "firstTimestamp": stamp, "lastTimestamp": stamp,
        });
        let name = create_event(&*host.write, &mut event, about.name(), now, controller).await?;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= KNOWN_MAX {
            known.clear();
        }
        known.insert(identity, name);
        Ok(())
    }

    fn known(&self, identity: u64) -> Option<String> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(&identity).cloned()
    }
}

/// Logs why an event was not written. A namespace that is being deleted accepts none, which is
/// expected.
pub(crate) fn log_if_not_recorded(
    recorded: Option<Result<(), StoreError>>,
    controller: &'static str,
    object: &Key,
    reason: &'static str,
) {
    let error = match recorded {
        Some(Ok(())) => return,
        Some(Err(error)) => chain(&error),
        None => "not within the time limit".to_owned(),
    };
    if is_terminating(&error) {
        tracing::debug!(controller, %object, reason, error, "event not written");
    } else {
        tracing::warn!(controller, %object, reason, error, "event not written");
    }
}

/// Whether a server has refused to create something because the namespace is being deleted.
///
/// **Source**: Kubernetes' admission plugin `NamespaceLifecycle`.
fn is_terminating(error: &str) -> bool {
    error.contains("because it is being terminated")
}

/// `false` when the event no longer exists.
async fn count_up(
    host: &Host,
    key: &Key,
    now: Timestamp,
    manager: &'static str,
) -> Result<bool, StoreError> {
    let Some(old) = host.ports.read.get(key).await? else { return Ok(false) };
    let count = old.json().get("count").and_then(serde_json::Value::as_i64).unwrap_or(1) + 1;
    let patch = Patch::Merge(json!({"count": count, "lastTimestamp": Time(now)}));
    let options = WriteOptions { subresource: None, expect: None, manager };
    match host.write.patch(key, &patch, &options).await {
        Ok(_) => Ok(true),
        Err(StoreError::NotFound { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_that_is_being_deleted_is_not_logged_as_a_warning() {
        let refused = |problem: &str| {
            let (object, problem) = ("Event/shop/a".to_owned(), problem.to_owned());
            is_terminating(&chain(&StoreError::Refused { object, problem }))
        };
        let terminating = "events \"a\" is forbidden: unable to create new content in namespace \
                           shop because it is being terminated";
        assert!(refused(terminating));
        assert!(!refused("events \"a\" is forbidden: User \"x\" cannot create resource"));
    }

    #[test]
    fn names_of_events_sort_by_time() {
        let at = |second: i64, ns: i32| event_name("web", Timestamp::new(second, ns).unwrap());
        assert_eq!(at(1_700_000_000, 5), "web.17979cfe362a0005");
        let names = [at(86_400, 0), at(86_400, 1), at(86_401, 0), at(1_700_000_000, 0)];
        assert!(names.is_sorted(), "{names:?}");
    }
}
