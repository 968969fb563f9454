//! What several controllers ask of a pod.

use std::{collections::BTreeSet, time::Duration};

use evenkeel_api::Obj;
use evenkeel_base::{Rng, name_suffix, stable_hash};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodCondition};
use serde_json::{Value, json};

use crate::seen::Seen;

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

/// Whether it is being deleted and has not ended. **Source**: `FilterTerminatingPods`.
pub(crate) fn is_terminating(pod: &Pod) -> bool {
    !is_terminal(pod) && pod.metadata.deletion_timestamp.is_some()
}

/// The body of a pod that an owner makes of a template: its labels, annotations and finalizers, and
/// nothing else of the template's metadata.
///
/// **Source**: `GetPodFromTemplate` in `pkg/controller/controller_utils.go`.
pub(crate) fn from_template(owner: &Obj, template: &Value, name: &str) -> Value {
    let mut metadata = json!({
        "name": name,
        "generateName": format!("{}-", owner.name()),
        "namespace": owner.namespace(),
        "ownerReferences": [owner.owner_reference()],
    });
    for field in ["labels", "annotations", "finalizers"] {
        if let Some(value) = template.pointer(&format!("/metadata/{field}")) {
            metadata[field] = value.clone();
        }
    }
    let spec = template.get("spec").cloned().unwrap_or_else(|| json!({}));
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
}

/// Names that no present pod has, drawn from what was seen: the same stale view gives the same
/// names, and the server refuses the second pod of a name instead of running one too many.
pub(crate) struct FreshNames {
    rng: Rng,
    taken: BTreeSet<String>,
}

impl FreshNames {
    pub(crate) fn new(owner: &Obj, pods: &[Seen<Pod>]) -> Self {
        let mut seed = format!("{} {}", owner.uid(), owner.revision());
        for pod in pods {
            seed.push(' ');
            seed.push_str(pod.name());
        }
        let rng = Rng::new(stable_hash(seed.as_bytes()));
        Self { rng, taken: pods.iter().map(|pod| pod.name().to_owned()).collect() }
    }

    pub(crate) fn next(&mut self, prefix: &str) -> String {
        loop {
            let name = format!("{prefix}{}", name_suffix(&mut self.rng));
            if self.taken.insert(name.clone()) {
                return name;
            }
        }
    }
}
