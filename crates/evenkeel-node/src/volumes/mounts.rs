//! From the `volumeMounts` of a container to what it sees where.

use std::{
    collections::BTreeMap,
    path::{Component, Path, PathBuf},
};

use k8s_openapi::api::core::v1::{Container, VolumeMount};

use super::{Wanted, beneath, disk::Disk};
use crate::{expansion::expand_known, runtime::Mount};

/// Mode of folders that a `subPath` names and that are not there, as of the volume.
const FOLDER_MODE: u32 = 0o777;

impl Disk {
    /// What a container sees of its pod's volumes, outer targets first.
    ///
    /// **Errors**: in the kubelet's words, for `CreateContainerConfigError`.
    pub(crate) fn mounts(
        &self,
        uid: &str,
        container: &Container,
        volumes: &BTreeMap<String, Wanted>,
        env: &BTreeMap<String, String>,
    ) -> Result<Vec<Mount>, String> {
        if container.volume_devices.as_ref().is_some_and(|devices| !devices.is_empty()) {
            return Err("volumeDevices are not supported: use volumeMounts".to_owned());
        }
        let mut mounts = Vec::new();
        for mount in container.volume_mounts.iter().flatten() {
            let Some(wanted) = volumes.get(&mount.name) else {
                return Err(format!("cannot find volume {:?} to mount", mount.name));
            };
            check(mount)?;
            let root = self.source(uid, &mount.name, wanted)?;
            let source = match sub_path(mount, env)? {
                None => root,
                Some(path) => {
                    let made = beneath::resolve_or_make(&root, Path::new(&path), FOLDER_MODE);
                    made.map_err(|error| {
                        format!(
                            "failed to prepare subPath for volumeMount {:?} of container {:?}: \
                             {error}",
                            mount.name, container.name
                        )
                    })?
                }
            };
            let read_only = mount.read_only.unwrap_or(false) || wanted.is_read_only();
            mounts.push(Mount { source, target: target(&mount.mount_path), read_only });
        }
        // Stable: of two mounts on one path the later one hides the other, as written.
        mounts.sort_by_key(|mount| mount.target.components().count());
        Ok(mounts)
    }
}

/// What cannot be done for a process, by name.
fn check(mount: &VolumeMount) -> Result<(), String> {
    if mount.mount_propagation.as_deref() == Some("Bidirectional") {
        return Err(format!(
            "volumeMount {:?}: mountPropagation Bidirectional is not supported, what a container \
             mounts stays its own",
            mount.name
        ));
    }
    Ok(())
}

/// The path in the volume, checked as upstream does before and after expansion.
fn sub_path(mount: &VolumeMount, env: &BTreeMap<String, String>) -> Result<Option<String>, String> {
    let given = |path: &Option<String>| path.clone().filter(|path| !path.is_empty());
    let path = match (given(&mount.sub_path_expr), given(&mount.sub_path)) {
        (Some(text), _) => expand_known(&text, env)
            .map_err(|name| format!("missing value for {name:?}"))
            .map(Some)?,
        (None, path) => path,
    };
    let Some(path) = path.filter(|path| !path.is_empty()) else { return Ok(None) };
    if path.starts_with('/') {
        return Err(format!("error SubPath `{path}` must not be an absolute path"));
    }
    if path.split('/').any(|part| part == "..") {
        return Err(format!("unable to provision SubPath `{path}`: must not contain '..'"));
    }
    Ok(Some(path))
}

/// Absolute and without `.` and `..`, which lead nowhere above the root.
fn target(path: &str) -> PathBuf {
    let mut clean = PathBuf::from("/");
    for part in Path::new(path).components() {
        match part {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => {
                clean.pop();
            }
            Component::Prefix(_) | Component::RootDir | Component::CurDir => {}
        }
    }
    clean
}
