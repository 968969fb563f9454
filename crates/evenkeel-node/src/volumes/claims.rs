//! Claims: which folder of this machine a bound claim is.

use evenkeel_api::{Key, local_volumes};
use k8s_openapi::api::core::v1::{
    PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimVolumeSource,
};

use super::view::{HostPath, Sources, Wanted};

/// The folder behind a claim that a pod uses.
///
/// **Source**: `getPVCExtractPV` and `getPVSpec` in
/// `pkg/kubelet/volumemanager/populator/desired_state_of_world_populator.go`.
pub(super) fn wanted(
    namespace: &str,
    claim: &PersistentVolumeClaimVolumeSource,
    sources: &Sources,
) -> Result<Wanted, String> {
    let name = &claim.claim_name;
    let key = Key::of::<PersistentVolumeClaim>(namespace, name);
    let fail = |problem: &str| Err(format!("error processing PVC {namespace}/{name}: {problem}"));
    let Some(found) = sources.get::<PersistentVolumeClaim>(&key)? else {
        let problem = format!("persistentvolumeclaims \"{name}\" not found");
        return fail(&format!("failed to fetch PVC from API server: {problem}"));
    };
    if found.metadata.deletion_timestamp.is_some() {
        return fail("PVC is being deleted");
    }
    let spec = found.spec.clone().unwrap_or_default();
    let phase = found.status.as_ref().and_then(|status| status.phase.as_deref());
    let volume = spec.volume_name.filter(|name| !name.is_empty());
    let (Some("Bound"), Some(volume)) = (phase, volume) else { return fail("PVC is not bound") };
    if spec.volume_mode.as_deref() == Some("Block") {
        return fail("volumeMode Block is not supported, only Filesystem");
    }
    let Some(found_volume) =
        sources.get::<PersistentVolume>(&Key::of::<PersistentVolume>("", &volume))?
    else {
        return fail(&format!("failed to fetch PV {volume} from API server: not found"));
    };
    let spec = found_volume.spec.clone().unwrap_or_default();
    let uid = spec.claim_ref.as_ref().and_then(|claim| claim.uid.as_deref());
    if uid.is_some() && uid != found.metadata.uid.as_deref() {
        return fail(&format!("PV {volume} is bound to another claim"));
    }
    let is_read_only = claim.read_only.unwrap_or(false);
    if let Some(folder) = local_volumes::folder(&spec) {
        return Ok(Wanted::Claim { folder, is_read_only });
    }
    let path = spec.host_path.map(|host| (host.path, host.type_.unwrap_or_default()));
    let path = path.or_else(|| spec.local.map(|local| (local.path, "Directory".to_owned())));
    match path {
        Some((path, kind)) => Ok(Wanted::HostPath(HostPath { path, kind, is_read_only })),
        None => fail(&format!(
            "PV {volume} is no folder of this machine: use StorageClass {:?}, or a PV with \
             hostPath or local",
            local_volumes::CLASS
        )),
    }
}

/// What a node has to do for a volume that is being deleted before it lets it go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Release {
    /// Host name of the node that it lies on.
    pub(crate) host: String,
    /// The folder to remove; `None` when the data stay.
    pub(crate) folder: Option<String>,
}

/// Whether a volume waits for its node, and for nothing else: while another finalizer holds it, a
/// claim may still be bound to it (`kubernetes.io/pv-protection`) and a pod use the folder. Only a
/// reclaim policy that says so costs data.
pub(crate) fn release(volume: &PersistentVolume) -> Option<Release> {
    let spec = volume.spec.as_ref()?;
    volume.metadata.deletion_timestamp.as_ref()?;
    let host = local_volumes::node(spec)?.to_owned();
    let folder = local_volumes::folder(spec)?;
    let has = volume.metadata.finalizers.as_ref()?;
    let is_last = !has.is_empty() && has.iter().all(|name| name == local_volumes::FINALIZER);
    let is_deleted = spec.persistent_volume_reclaim_policy.as_deref() == Some("Delete");
    is_last.then(|| Release { host, folder: is_deleted.then_some(folder) })
}
