//! A new volume for a claim: a folder of the node on which its pod will run.

use evenkeel_api::{Obj, labels::HOSTNAME, local_volumes};
use k8s_openapi::api::{core::v1::PersistentVolumeClaim, storage::v1::StorageClass};
use serde_json::json;

use super::{PROVISIONED_BY, VOLUME_FINALIZER, matching};
use crate::seen::{Seen, json};

/// Name of the volume that is made for a claim. **Source**: `getProvisionedVolumeNameForClaim`.
pub(super) fn name(claim: &Seen<PersistentVolumeClaim>) -> String {
    format!("pvc-{}", claim.uid())
}

/// Why no folder can be what the claim asks for.
///
/// **Source**: `Provision` in Rancher's local-path-provisioner.
pub(super) fn refusal(claim: &Seen<PersistentVolumeClaim>) -> Option<String> {
    let spec = claim.spec.as_ref()?;
    if spec.selector.is_some() {
        return Some("claim.Spec.Selector is not supported".to_owned());
    }
    let modes = spec.access_modes.iter().flatten();
    let mut others =
        modes.filter(|mode| !matches!(mode.as_str(), "ReadWriteOnce" | "ReadWriteOncePod"));
    if others.next().is_some() {
        return Some(
            "a folder of one node supports only ReadWriteOnce and ReadWriteOncePod access modes"
                .to_owned(),
        );
    }
    if spec.volume_mode.as_deref() == Some("Block") {
        return Some("a folder has volumeMode Filesystem, not Block".to_owned());
    }
    let source = spec.data_source.is_some() || spec.data_source_ref.is_some();
    source.then(|| "a folder cannot be filled from a dataSource".to_owned())
}

/// The volume of a claim on a node, by the node's host name.
pub(super) fn volume(
    claim: &Seen<PersistentVolumeClaim>,
    class: &Seen<StorageClass>,
    host: &str,
) -> Option<Obj> {
    let spec = claim.spec.as_ref()?;
    let (namespace, uid) = (claim.obj.namespace(), claim.uid());
    let body = json!({
        "apiVersion": "v1", "kind": "PersistentVolume",
        "metadata": {
            "name": name(claim),
            "annotations": {PROVISIONED_BY: local_volumes::PROVISIONER},
            "finalizers": [VOLUME_FINALIZER, local_volumes::FINALIZER],
        },
        "spec": {
            "capacity": {"storage": matching::requested(spec).map(json)},
            "accessModes": spec.access_modes,
            "volumeMode": "Filesystem",
            "persistentVolumeReclaimPolicy":
                class.reclaim_policy.as_deref().unwrap_or("Delete"),
            "storageClassName": class.name(),
            "claimRef": {"apiVersion": "v1", "kind": "PersistentVolumeClaim",
                "namespace": namespace, "name": claim.name(), "uid": uid},
            "csi": {"driver": local_volumes::PROVISIONER,
                "volumeHandle": local_volumes::folder_name(namespace, claim.name(), uid)},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
                {"key": HOSTNAME, "operator": "In", "values": [host]}]}]}},
        },
    });
    Obj::from_json(body).ok()
}
