//! Projected and downwardAPI volumes.

use std::collections::BTreeMap;

use evenkeel_api::Key;
use k8s_openapi::api::core::v1::{
    ConfigMap, DownwardAPIVolumeFile, Pod, ProjectedVolumeSource, Secret,
    ServiceAccountTokenProjection,
};

use super::{
    fields,
    payload::{self, File, Payload, Selection},
    tokens::TokenWanted,
    view::Sources,
};

/// How long a token is good for that does not say. **Source**: API default.
const TOKEN_S: i64 = 3_600;
/// Mode of a token when the pod's processes share a group. **Source**: `collectData` in
/// `pkg/volume/projected/projected.go`.
const TOKEN_MODE: i32 = 0o600;

/// The tokens that a pod's volumes ask for.
pub(crate) fn tokens(pod: &Pod) -> Vec<TokenWanted> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let sources = volumes.filter_map(|volume| volume.projected.as_ref());
    let sources = sources.flat_map(|projected| projected.sources.iter().flatten());
    let found = sources.filter_map(|source| source.service_account_token.as_ref());
    found.map(|projection| token_wanted(pod, projection)).collect()
}

fn token_wanted(pod: &Pod, projection: &ServiceAccountTokenProjection) -> TokenWanted {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let account = pod.spec.as_ref().map(|spec| text(&spec.service_account_name));
    TokenWanted {
        namespace: text(&pod.metadata.namespace),
        service_account: account
            .filter(|name| !name.is_empty())
            .unwrap_or_else(|| "default".to_owned()),
        pod: text(&pod.metadata.name),
        pod_uid: text(&pod.metadata.uid),
        audience: text(&projection.audience),
        seconds: projection.expiration_seconds.unwrap_or(TOKEN_S),
    }
}

/// The files of a projected volume; a later source wins over an earlier one.
///
/// **Source**: `collectData` in `pkg/volume/projected/projected.go`.
pub(crate) fn payload(
    pod: &Pod,
    projected: &ProjectedVolumeSource,
    sources: &Sources,
) -> Result<Payload, String> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let default_mode = projected.default_mode;
    let (mut files, mut problems) = (Payload::new(), Vec::new());
    for source in projected.sources.iter().flatten() {
        let selection = |items: &'_ _, optional: Option<bool>| Selection {
            items: <Option<&[_]>>::clone(items),
            default_mode,
            is_optional: optional.unwrap_or(false),
        };
        let found = if let Some(secret) = &source.secret {
            let key = Key::of::<Secret>(namespace, &secret.name);
            sources.get::<Secret>(&key).and_then(|object| {
                let selection = selection(&secret.items.as_deref(), secret.optional);
                payload::secret(&secret.name, object.as_deref(), selection)
            })
        } else if let Some(map) = &source.config_map {
            let key = Key::of::<ConfigMap>(namespace, &map.name);
            sources.get::<ConfigMap>(&key).and_then(|object| {
                let selection = selection(&map.items.as_deref(), map.optional);
                payload::config_map(&map.name, object.as_deref(), selection)
            })
        } else if let Some(downward) = &source.downward_api {
            let items = downward.items.as_deref().unwrap_or_default();
            downward_api(pod, items, default_mode, &sources.allocatable)
        } else if let Some(projection) = &source.service_account_token {
            token(pod, projection, default_mode, sources)
        } else if source.cluster_trust_bundle.is_some() {
            Err("clusterTrustBundle sources are not supported".to_owned())
        } else {
            Err("a projected source of this kind is not supported".to_owned())
        };
        match found {
            Ok(found) => files.extend(found),
            Err(problem) => problems.push(problem),
        }
    }
    match problems.as_slice() {
        [] => Ok(files),
        [problem] => Err(problem.clone()),
        _ => Err(format!("[{}]", problems.join(", "))),
    }
}

fn token(
    pod: &Pod,
    projection: &ServiceAccountTokenProjection,
    default_mode: Option<i32>,
    sources: &Sources,
) -> Result<Payload, String> {
    let shared = pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref());
    let is_shared = shared.is_some_and(|context| context.fs_group.is_some());
    let mode = if is_shared { Some(TOKEN_MODE) } else { default_mode };
    let answer = sources.tokens.get(&token_wanted(pod, projection));
    let token = match answer {
        Some(Ok(token)) => token,
        Some(Err(problem)) => return Err(format!("failed to fetch token: {problem}")),
        None => return Err("failed to fetch token: it was not asked for".to_owned()),
    };
    Ok(Payload::from([(projection.path.clone(), File::new(token.as_bytes(), mode))]))
}

/// The files of a downwardAPI volume.
///
/// **Source**: `CollectData` in `pkg/volume/downwardapi/downwardapi.go`.
pub(crate) fn downward_api(
    pod: &Pod,
    items: &[DownwardAPIVolumeFile],
    default_mode: Option<i32>,
    allocatable: &BTreeMap<String, String>,
) -> Result<Payload, String> {
    let mut files = Payload::new();
    for item in items {
        let text = if let Some(field) = &item.field_ref {
            fields::metadata_field(pod, &field.field_path)?
        } else if let Some(field) = &item.resource_field_ref {
            let name = field.container_name.as_deref().unwrap_or_default();
            let spec = pod.spec.as_ref();
            let inits = spec.into_iter().flat_map(|spec| spec.init_containers.iter().flatten());
            let mut all = inits.chain(spec.into_iter().flat_map(|spec| &spec.containers));
            let container = all.find(|container| container.name == name);
            let container = container.ok_or_else(|| format!("container {name} not found"))?;
            fields::resource_value(container, field, allocatable)?
        } else {
            continue;
        };
        let mode = item.mode.or(default_mode);
        files.insert(item.path.clone(), File::new(text.as_bytes(), mode));
    }
    Ok(files)
}
