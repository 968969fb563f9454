//! From a pod and what it refers to, to what its volumes are to hold.

use std::collections::BTreeMap;

use evenkeel_api::{Key, Quantity};
use k8s_openapi::api::core::v1::{
    ConfigMap, EmptyDirVolumeSource, PersistentVolumeClaim, PersistentVolumeClaimVolumeSource, Pod,
    Secret, Volume,
};

use super::{
    claims,
    payload::{self, Selection},
    projected,
    view::{HostPath, Limit, Sources, Wanted},
};

/// Objects that a pod's volumes refer to; those of claims have volumes of their own.
pub(crate) fn references(pod: &Pod) -> Vec<Key> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let mut keys = Vec::new();
    for volume in pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
        let map = volume.config_map.iter().map(|map| map.name.as_str());
        keys.extend(map.map(|name| Key::of::<ConfigMap>(namespace, name)));
        let secret = volume.secret.iter().filter_map(|secret| secret.secret_name.as_deref());
        keys.extend(secret.map(|name| Key::of::<Secret>(namespace, name)));
        let sources = volume.projected.iter().flat_map(|it| it.sources.iter().flatten());
        for source in sources {
            let map = source.config_map.iter();
            keys.extend(map.map(|map| Key::of::<ConfigMap>(namespace, &map.name)));
            let secret = source.secret.iter();
            keys.extend(secret.map(|secret| Key::of::<Secret>(namespace, &secret.name)));
        }
        let claim = claim_of(pod, volume);
        keys.extend(claim.map(|c| Key::of::<PersistentVolumeClaim>(namespace, &c.claim_name)));
    }
    keys.sort();
    keys.dedup();
    keys
}

/// The claim behind a volume: the one it names, or the one that was made for it.
///
/// **Source**: `VolumeClaimName` in `component-helpers/storage/ephemeral`.
fn claim_of(pod: &Pod, volume: &Volume) -> Option<PersistentVolumeClaimVolumeSource> {
    let named = volume.persistent_volume_claim.clone();
    named.or_else(|| {
        volume.ephemeral.as_ref()?;
        let pod = pod.metadata.name.as_deref()?;
        let claim_name = format!("{pod}-{}", volume.name);
        Some(PersistentVolumeClaimVolumeSource { claim_name, read_only: None })
    })
}

/// What a pod's volumes are to hold, by name.
///
/// **Errors**: the first volume that cannot be made, in the kubelet's words.
pub(crate) fn wanted(pod: &Pod, sources: &Sources) -> Result<BTreeMap<String, Wanted>, String> {
    let mut all = BTreeMap::new();
    for volume in pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
        let name = &volume.name;
        if let Some(claim) = claim_of(pod, volume) {
            let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
            let wanted = claims::wanted(namespace, &claim, sources).map_err(|problem| {
                format!(
                    "Unable to attach or mount volumes: unmounted volumes=[{name}], unattached \
                     volumes=[], failed to process volumes=[{name}]: {problem}"
                )
            })?;
            all.insert(name.clone(), wanted);
            continue;
        }
        let wanted = of_volume(pod, volume, sources).and_then(checked);
        all.insert(name.clone(), wanted.map_err(|problem| failure(name, &problem))?);
    }
    Ok(all)
}

/// As the kubelet says that a volume could not be made.
pub(super) fn failure(volume: &str, problem: &str) -> String {
    format!("MountVolume.SetUp failed for volume \"{volume}\" : {problem}")
}

fn checked(wanted: Wanted) -> Result<Wanted, String> {
    Ok(match wanted {
        Wanted::Files { kind, payload, changes } => {
            payload::check(&payload)?;
            Wanted::Files { kind, payload: payload::clean(payload), changes }
        }
        other => other,
    })
}

fn of_volume(pod: &Pod, volume: &Volume, sources: &Sources) -> Result<Wanted, String> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    if let Some(map) = &volume.config_map {
        let object = sources.get::<ConfigMap>(&Key::of::<ConfigMap>(namespace, &map.name))?;
        let is_fixed = object.as_ref().is_some_and(|object| object.immutable == Some(true));
        let selection = Selection {
            items: map.items.as_deref(),
            default_mode: map.default_mode,
            is_optional: map.optional.unwrap_or(false),
        };
        let payload = payload::config_map(&map.name, object.as_deref(), selection)?;
        return Ok(Wanted::Files { kind: "configmap", payload, changes: !is_fixed });
    }
    if let Some(secret) = &volume.secret {
        let name = secret.secret_name.as_deref().unwrap_or_default();
        let object = sources.get::<Secret>(&Key::of::<Secret>(namespace, name))?;
        let is_fixed = object.as_ref().is_some_and(|object| object.immutable == Some(true));
        let selection = Selection {
            items: secret.items.as_deref(),
            default_mode: secret.default_mode,
            is_optional: secret.optional.unwrap_or(false),
        };
        let payload = payload::secret(name, object.as_deref(), selection)?;
        return Ok(Wanted::Files { kind: "secret", payload, changes: !is_fixed });
    }
    if let Some(downward) = &volume.downward_api {
        let items = downward.items.as_deref().unwrap_or_default();
        let mode = downward.default_mode;
        let payload = projected::downward_api(pod, items, mode, &sources.allocatable)?;
        return Ok(Wanted::Files { kind: "downward-api", payload, changes: true });
    }
    if let Some(projected) = &volume.projected {
        let payload = projected::payload(pod, projected, sources)?;
        return Ok(Wanted::Files { kind: "projected", payload, changes: true });
    }
    if let Some(host) = &volume.host_path {
        let kind = host.type_.clone().unwrap_or_default();
        let host = HostPath { path: host.path.clone(), kind, is_read_only: false };
        return Ok(Wanted::HostPath(host));
    }
    match &volume.empty_dir {
        Some(empty) => empty_dir(empty),
        // A source that is none of those above; no source at all is an emptyDir by default.
        None => Err(format!(
            "this kind of volume is not supported here ({}): use emptyDir, configMap, secret, \
             projected, downwardAPI, persistentVolumeClaim or hostPath",
            kind_of(volume)
        )),
    }
}

fn empty_dir(empty: &EmptyDirVolumeSource) -> Result<Wanted, String> {
    let is_memory = match empty.medium.as_deref().unwrap_or_default() {
        "" => false,
        "Memory" => true,
        medium => return Err(format!("emptyDir medium {medium:?} is not supported")),
    };
    let limit = match &empty.size_limit {
        None => None,
        Some(text) => {
            let amount = Quantity::parse(&text.0).map_err(|error| error.to_string())?.ceil();
            let bytes = u64::try_from(amount).unwrap_or_default();
            // A limit of nothing is none. **Source**: `localVolumeEviction` asks for the sign.
            (bytes > 0).then(|| Limit { bytes, text: text.0.clone() })
        }
    };
    Ok(Wanted::EmptyDir { is_memory, limit })
}

/// The name of a volume's source, as the manifest has it.
fn kind_of(volume: &Volume) -> String {
    let body = serde_json::to_value(volume).unwrap_or_default();
    let fields = body.as_object().into_iter().flatten().map(|(name, _)| name.as_str());
    let kinds: Vec<&str> = fields.filter(|name| *name != "name").collect();
    if kinds.is_empty() { "no source".to_owned() } else { kinds.join(", ") }
}
