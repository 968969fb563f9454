//! Volumes of pods, and the folders of claims that are deleted.

use std::{collections::BTreeMap, sync::Arc};

use evenkeel_api::{GroupKind, Key, Obj, labels::HOSTNAME};
use evenkeel_control::{BoxFuture, HostPorts, ListQuery, Patch, StoreError, WriteOptions};
use k8s_openapi::api::core::v1::{Container, Node, PersistentVolume, PersistentVolumeClaim, Pod};
use serde_json::json;

use super::{
    MANAGER,
    work::{Layout, PodDone, PodIo},
};
use crate::{
    pod::VolumesSetUp,
    runtime::{Mount, StartError},
    volumes::{Disk, PodOf, Sources, references, release, tokens_of, wanted},
};

impl PodIo {
    pub(super) fn set_up_volumes(&self, pod: Arc<Pod>) -> BoxFuture<'static, PodDone> {
        let io = self.clone();
        Box::pin(async move { PodDone::Volumes(io.make_volumes(&pod).await) })
    }

    async fn make_volumes(&self, pod: &Pod) -> Result<(VolumesSetUp, Layout), String> {
        let sources = self.volume_sources(pod).await.map_err(|error| {
            format!("Unable to attach or mount volumes: what they refer to cannot be read: {error}")
        })?;
        let volumes = wanted(pod, &sources)?;
        // A node without a disk (the simulator's) has looked whether they could be made.
        let Some(disk) = self.disk.clone() else {
            return Ok((VolumesSetUp::default(), Layout::new()));
        };
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let context = pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref());
        let group = context.and_then(|context| context.fs_group);
        let group = group.and_then(|group| u32::try_from(group).ok());
        let now = self.ports.clock.now();
        blocking(move || {
            let found = disk.set_up(PodOf { uid: &uid, group, now }, &volumes)?;
            Ok((found, volumes.into_iter().map(|(name, it)| (name, it.emptied())).collect()))
        })
        .await
    }

    async fn volume_sources(&self, pod: &Pod) -> Result<Sources, StoreError> {
        let mut sources = Sources { allocatable: self.allocatable.clone(), ..Sources::default() };
        for key in references(pod) {
            let Some(object) = self.ports.read.get(&key).await? else { continue };
            if key.kind.is::<PersistentVolumeClaim>() {
                let claim = object.get::<PersistentVolumeClaim>()?;
                let volume = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref());
                if let Some(name) = volume.filter(|name| !name.is_empty()) {
                    let key = Key::of::<PersistentVolume>("", name);
                    let found = self.ports.read.get(&key).await?;
                    sources.objects.extend(found.map(|found| (key, found)));
                }
            }
            sources.objects.insert(key, object);
        }
        for wanted in tokens_of(pod) {
            let token = self.tokens.token(&wanted).await;
            sources.tokens.insert(wanted, token);
        }
        Ok(sources)
    }

    /// What a container sees of its pod's volumes.
    pub(super) async fn mounts(
        &self,
        uid: &str,
        container: &Container,
        volumes: &Arc<Layout>,
        env: &BTreeMap<String, String>,
    ) -> Result<Vec<Mount>, StartError> {
        let Some(disk) = self.disk.clone() else { return Ok(Vec::new()) };
        let (uid, container) = (uid.to_owned(), container.clone());
        let (volumes, env) = (volumes.clone(), env.clone());
        let mounts = blocking(move || disk.mounts(&uid, &container, &volumes, &env)).await;
        mounts.map_err(StartError::Config)
    }

    /// Removes what is left of a pod's volumes.
    pub(super) async fn tear_down(&self, uid: &str) {
        let Some(disk) = self.disk.clone() else { return };
        let pod = uid.to_owned();
        let removed = blocking(move || disk.tear_down(&pod).map_err(|error| error.to_string()));
        if let Err(error) = removed.await {
            tracing::warn!(object = uid, error, "volumes of the pod not removed");
        }
    }
}

/// Runs what may block beside the agent.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => Err(format!("the work on its folders has failed: {error}")),
    }
}

/// What became of a volume that is being deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LetGo {
    /// There is nothing to do for it until it changes.
    Done,
    /// It waits for the node that it lies on.
    NotOurs,
}

/// Removes the folder of a claim whose volume is being deleted, if it lies on this node and is to
/// go; then lets the volume go. So does any node when that one is no more.
pub(super) async fn let_go(
    host: &str,
    disk: Arc<Disk>,
    ports: &HostPorts,
    key: &Key,
) -> Result<LetGo, String> {
    let text = |error: StoreError| error.to_string();
    let Some(object) = ports.read.get(key).await.map_err(text)? else { return Ok(LetGo::Done) };
    let volume = object.get::<PersistentVolume>().map_err(|error| error.to_string())?;
    let Some(release) = release(&volume) else { return Ok(LetGo::Done) };
    if release.host != host {
        let nodes =
            ports.read.list(&ListQuery::all(GroupKind::of::<Node>())).await.map_err(text)?;
        let is_there =
            |node: &Arc<Obj>| node.label(HOSTNAME).unwrap_or(node.name()) == release.host;
        if nodes.items.iter().any(is_there) {
            return Ok(LetGo::NotOurs);
        }
    }
    if let Some(folder) = release.folder {
        tracing::info!(object = %key, folder, "removing the folder of the claim");
        blocking(move || disk.remove_claim(&folder)).await?;
    }
    let patch = Patch::Merge(json!({"metadata": {"finalizers": []}}));
    let options =
        WriteOptions { subresource: None, expect: Some(object.revision()), manager: MANAGER };
    match ports.writes.patch(key, &patch, &options).await {
        Ok(_) | Err(StoreError::NotFound { .. }) => Ok(LetGo::Done),
        Err(error) => Err(error.to_string()),
    }
}
