//! Which volume fits a claim.

use evenkeel_api::{LabelSelector, Quantity};
use k8s_openapi::{
    api::core::v1::{PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimSpec},
    apimachinery::pkg::api::resource,
};

use crate::seen::Seen;

/// Whether a volume is reserved for this claim, by name or for good.
///
/// **Source**: `IsVolumeBoundToClaim` in `component-helpers/storage/volume`.
pub(crate) fn is_bound_to(volume: &PersistentVolume, claim: &Seen<PersistentVolumeClaim>) -> bool {
    let of = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
    of.is_some_and(|of| {
        of.name.as_deref() == Some(claim.name())
            && of.namespace.as_deref() == Some(claim.obj.namespace())
            && of.uid.as_deref().is_none_or(|uid| uid.is_empty() || uid == claim.uid())
    })
}

/// Bytes that are asked for, or there.
pub(super) fn bytes(amount: Option<&resource::Quantity>) -> Option<i64> {
    Quantity::parse(&amount?.0).ok().map(Quantity::ceil)
}

pub(super) fn requested(spec: &PersistentVolumeClaimSpec) -> Option<&resource::Quantity> {
    spec.resources.as_ref()?.requests.as_ref()?.get("storage")
}

/// Why a claim that names a volume cannot have it.
///
/// **Source**: `checkVolumeSatisfyClaim` in `pkg/controller/volume/persistentvolume`.
pub(super) fn mismatch(
    volume: &Seen<PersistentVolume>,
    claim: &PersistentVolumeClaim,
) -> Option<&'static str> {
    let (have, want) = (volume.spec.as_ref()?, claim.spec.as_ref()?);
    let class = |name: &Option<String>| name.clone().unwrap_or_default();
    let mode = |mode: &Option<String>| mode.clone().unwrap_or_else(|| "Filesystem".to_owned());
    let modes = have.access_modes.clone().unwrap_or_default();
    let room = bytes(have.capacity.as_ref().and_then(|capacity| capacity.get("storage")));
    if volume.obj.is_deleting() {
        Some("the volume is marked for deletion")
    } else if room < bytes(requested(want)) {
        Some("requested PV is too small")
    } else if class(&have.storage_class_name) != class(&want.storage_class_name) {
        Some("storageClassName does not match")
    } else if mode(&have.volume_mode) != mode(&want.volume_mode) {
        Some("incompatible volumeMode")
    } else if !want.access_modes.iter().flatten().all(|mode| modes.contains(mode)) {
        Some("incompatible accessMode")
    } else {
        None
    }
}

/// Whether a free volume is one that the claim may have.
///
/// **Source**: `FindMatchingVolume` in `component-helpers/storage/volume`.
fn fits(volume: &Seen<PersistentVolume>, claim: &PersistentVolumeClaim) -> bool {
    let (Some(have), Some(want)) = (volume.spec.as_ref(), claim.spec.as_ref()) else {
        return false;
    };
    let phase = volume.status.as_ref().and_then(|status| status.phase.as_deref());
    let selector = want.selector.as_ref().map(LabelSelector::from_object);
    let is_selected = match selector {
        None => true,
        Some(Ok(selector)) => selector.matches(volume.obj.labels()),
        Some(Err(_)) => false,
    };
    have.claim_ref.is_none()
        && phase != Some("Failed")
        && is_selected
        && mismatch(volume, claim).is_none()
}

/// The smallest free volume that fits, for a pod on this node if it is known.
pub(super) fn best<'a>(
    volumes: &'a [Seen<PersistentVolume>],
    claim: &PersistentVolumeClaim,
    may_use: impl Fn(&PersistentVolume) -> bool,
) -> Option<&'a Seen<PersistentVolume>> {
    let fitting = volumes.iter().filter(|volume| fits(volume, claim) && may_use(volume));
    fitting.min_by_key(|volume| rank(volume))
}

/// The free volumes that a claim may have, the best first; only its own when one is kept for it.
pub(crate) fn choice<'a>(
    volumes: impl Iterator<Item = &'a Seen<PersistentVolume>>,
    claim: &Seen<PersistentVolumeClaim>,
) -> Vec<&'a Seen<PersistentVolume>> {
    let mut volumes: Vec<_> = volumes.collect();
    if let Some(own) = volumes.iter().copied().find(|volume| is_bound_to(volume, claim)) {
        return vec![own];
    }
    volumes.retain(|volume| fits(volume, claim));
    volumes.sort_by_key(|volume| rank(volume));
    volumes
}

/// Small ones first; those of one size by name.
fn rank(volume: &Seen<PersistentVolume>) -> (Option<i64>, String) {
    let spec = volume.spec.as_ref();
    let room = spec.and_then(|spec| bytes(spec.capacity.as_ref()?.get("storage")));
    (room, volume.name().to_owned())
}
