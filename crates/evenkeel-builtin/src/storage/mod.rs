//! Claims and the volumes that they are bound to.
//!
//! ```text
//! Pod -> scheduler -> selected node on the claim -> Claims: a new PersistentVolume (a folder there)
//!                                                     |     or one that fits, bound both ways
//!        node agent: makes the folder, removes it <---+-- Volumes: phase, reclaim, protection
//! ```
//! **Source**: `pkg/controller/volume/persistentvolume`, `pvcprotection`, `pvprotection`, and
//! Rancher's local-path-provisioner for what the default class does. Not here: attaching, snapshots,
//! volumes of other provisioners (they are waited for, as upstream waits).

mod claims;
mod ephemeral;
mod matching;
mod provision;
mod volumes;

#[cfg(test)]
mod tests;

use evenkeel_api::{Obj, local_volumes};
use k8s_openapi::api::{core::v1::PersistentVolumeClaim, storage::v1::StorageClass};
use serde_json::json;

use crate::seen::Seen;

pub(crate) use claims::{Claims, claims_of};
pub(crate) use ephemeral::{Ephemerals, brings};
pub(crate) use matching::choice;
pub(crate) use volumes::Volumes;

/// Holds a claim that a pod uses. **Source**: `PVCProtectionFinalizer`.
const CLAIM_FINALIZER: &str = "kubernetes.io/pvc-protection";
/// Holds a volume that is bound. **Source**: `PVProtectionFinalizer`.
const VOLUME_FINALIZER: &str = "kubernetes.io/pv-protection";
/// Both halves of the binding have been written. **Source**: `AnnBindCompleted`.
const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
/// The controller chose the other half. **Source**: `AnnBoundByController`.
const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
/// Who made a volume. **Source**: `AnnDynamicallyProvisioned`.
const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
/// Who is to make the volume of a claim. **Source**: `AnnStorageProvisioner`.
const STORAGE_PROVISIONER: &str = "volume.kubernetes.io/storage-provisioner";
const IS_DEFAULT: &str = "storageclass.kubernetes.io/is-default-class";

/// What a cluster has by itself: the default `StorageClass`, folders of the node that a pod runs on.
pub fn default_class() -> Obj {
    let body = json!({
        "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass",
        "metadata": {"name": local_volumes::CLASS, "annotations": {IS_DEFAULT: "true"}},
        "provisioner": local_volumes::PROVISIONER,
        "reclaimPolicy": "Delete",
        "volumeBindingMode": "WaitForFirstConsumer",
        // A folder has the size that its disk has.
        "allowVolumeExpansion": true,
    });
    Obj::from_json(body).expect("a StorageClass with a name is an object")
}

/// The class that claims without one get: of several the newest.
///
/// **Source**: `GetDefaultClass` in `pkg/volume/util/storageclass.go`.
pub(crate) fn default_of<'a>(
    classes: impl Iterator<Item = &'a Seen<StorageClass>>,
) -> Option<&'a Seen<StorageClass>> {
    let is_default = |class: &&Seen<StorageClass>| {
        class.obj.meta().annotations.iter().flatten().any(|(k, v)| k == IS_DEFAULT && v == "true")
    };
    let newest =
        |class: &&Seen<StorageClass>| (class.created(), std::cmp::Reverse(class.name().to_owned()));
    classes.filter(is_default).max_by_key(newest)
}

/// The class that a claim names; empty is none.
fn class_of(claim: &PersistentVolumeClaim) -> Option<&str> {
    claim.spec.as_ref()?.storage_class_name.as_deref()
}

fn annotation<'a>(obj: &'a Obj, name: &str) -> Option<&'a str> {
    let annotations = obj.meta().annotations.as_ref()?;
    annotations.get(name).map(String::as_str).filter(|value| !value.is_empty())
}

fn has_finalizer(obj: &Obj, name: &str) -> bool {
    obj.meta().finalizers.iter().flatten().any(|have| have == name)
}

/// The finalizers with this one, or without it.
fn finalizers(obj: &Obj, name: &str, wanted: bool) -> Vec<String> {
    let mut all: Vec<String> = obj.meta().finalizers.clone().unwrap_or_default();
    all.retain(|have| have != name);
    if wanted {
        all.push(name.to_owned());
    }
    all
}
