//! Who is who: names and ordinals, and the pod that an ordinal is to have.

use evenkeel_api::Obj;
use k8s_openapi::api::{apps::v1::StatefulSet, core::v1::PersistentVolumeClaim};
use serde_json::{Value, json};

use crate::{pods, seen::Seen};

/// Label with the name of the pod, for a Service of one pod.
pub(crate) const POD_NAME: &str = "statefulset.kubernetes.io/pod-name";
const POD_INDEX: &str = "apps.kubernetes.io/pod-index";
/// Label with the name of the revision that a pod was made of.
pub(crate) const REVISION: &str = "controller-revision-hash";

/// Name of the set and ordinal in a pod's name. **Source**: `getParentNameAndOrdinal`.
pub(crate) fn parent(pod: &str) -> Option<(&str, i64)> {
    let (set, ordinal) = pod.rsplit_once('-')?;
    let is_number = !ordinal.is_empty() && ordinal.bytes().all(|digit| digit.is_ascii_digit());
    let ordinal = ordinal.parse::<i32>().ok().filter(|_| is_number)?;
    Some((set, i64::from(ordinal)))
}

/// A pod's ordinal, if its name is one of this set's.
pub(crate) fn ordinal(set: &str, pod: &str) -> Option<i64> {
    parent(pod).filter(|(parent, _)| *parent == set).map(|(_, ordinal)| ordinal)
}

/// The first ordinal.
pub(crate) fn start(set: &StatefulSet) -> i64 {
    let ordinals = set.spec.as_ref().and_then(|spec| spec.ordinals.as_ref());
    ordinals.and_then(|ordinals| ordinals.start).map_or(0, i64::from)
}

/// How many pods it wants.
pub(crate) fn replicas(set: &StatefulSet) -> i64 {
    set.spec.as_ref().and_then(|spec| spec.replicas).map_or(1, i64::from)
}

/// The ordinals that it wants.
pub(crate) fn range(set: &StatefulSet) -> std::ops::Range<i64> {
    start(set)..start(set) + replicas(set)
}

/// The pod of an ordinal. **Source**: `newVersionedStatefulSetPod`, `initIdentity`,
/// `updateStorage`.
pub(crate) fn new_pod(
    set: &Seen<StatefulSet>,
    (template, revision): (&Value, &str),
    ordinal: i64,
) -> Option<Obj> {
    let name = format!("{}-{ordinal}", set.name());
    let mut body = pods::from_template(&set.obj, template, &name);
    let labels = body["metadata"].as_object_mut()?.entry("labels").or_insert_with(|| json!({}));
    labels[POD_NAME] = json!(name);
    labels[POD_INDEX] = json!(ordinal.to_string());
    labels[REVISION] = json!(revision);
    let spec = &mut body["spec"];
    spec["hostname"] = json!(name);
    let service = set.spec.as_ref().and_then(|spec| spec.service_name.as_deref());
    if let Some(service) = service.filter(|name| !name.is_empty()) {
        spec["subdomain"] = json!(service);
    }
    let templates = templates(set);
    let mut volumes: Vec<Value> = templates
        .iter()
        .map(|template| {
            let claim = claim_name(template, set.name(), ordinal);
            json!({"name": template.metadata.name,
                "persistentVolumeClaim": {"claimName": claim}})
        })
        .collect();
    let others = spec["volumes"].as_array().into_iter().flatten().filter(|volume| {
        !templates.iter().any(|claim| volume["name"].as_str() == claim.metadata.name.as_deref())
    });
    volumes.extend(others.cloned());
    if !volumes.is_empty() {
        spec["volumes"] = Value::Array(volumes);
    }
    Obj::from_json(body).ok()
}

/// The claims that each pod has.
pub(crate) fn templates(set: &StatefulSet) -> &[PersistentVolumeClaim] {
    let spec = set.spec.as_ref();
    spec.and_then(|spec| spec.volume_claim_templates.as_deref()).unwrap_or_default()
}

/// Name of an ordinal's claim.
pub(crate) fn claim_name(template: &PersistentVolumeClaim, set: &str, ordinal: i64) -> String {
    format!("{}-{set}-{ordinal}", template.metadata.name.as_deref().unwrap_or_default())
}
