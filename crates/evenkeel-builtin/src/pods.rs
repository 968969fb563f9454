//! What several controllers ask of a pod.

use std::time::Duration;

use evenkeel_api::Obj;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodCondition};

/// Its phase; empty until one is written.
pub(crate) fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

/// Whether it has ended and will not run again.
pub(crate) fn is_terminal(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

/// Whether it counts as a replica: not ended and not being deleted.
///
/// **Source**: `FilterActivePods` in `pkg/controller/controller_utils.go`: a pod that terminates
/// counts as gone at once.
pub(crate) fn is_active(pod: &Pod) -> bool {
    !is_terminal(pod) && pod.metadata.deletion_timestamp.is_none()
}

/// One of its conditions.
pub(crate) fn condition<'a>(pod: &'a Pod, kind: &str) -> Option<&'a PodCondition> {
    pod.status.as_ref()?.conditions.as_ref()?.iter().find(|condition| condition.type_ == kind)
}

/// Whether its Ready condition is true.
pub(crate) fn is_ready(pod: &Pod) -> bool {
    condition(pod, "Ready").is_some_and(|ready| ready.status == "True")
}

/// Since when it is ready; `None` when it is not.
pub(crate) fn ready_since(pod: &Pod) -> Option<Timestamp> {
    let ready = condition(pod, "Ready").filter(|ready| ready.status == "True")?;
    Some(ready.last_transition_time.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0))
}

/// How long until it counts as available: zero when it does, `None` when it is not ready.
pub(crate) fn available_in(pod: &Pod, ready_s_min: i32, now: Timestamp) -> Option<Duration> {
    let since = ready_since(pod)?;
    let needed = Duration::from_secs(u64::try_from(ready_s_min).unwrap_or_default());
    let lasted = Duration::try_from(now.duration_since(since)).unwrap_or_default();
    Some(needed.saturating_sub(lasted))
}

/// Name of the node it is placed on; `None` while it waits for one.
pub(crate) fn node(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref().filter(|name| !name.is_empty())
}

/// Whether this object's managing controller has this uid.
pub(crate) fn is_controlled_by(obj: &Obj, uid: &str) -> bool {
    obj.controller().is_some_and(|owner| owner.uid == uid)
}
