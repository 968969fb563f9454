//! What is planted in Secrets, and where it may be found: in the files of the pods that use it,
//! which only their owner may read.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, ensure};

use crate::world::{Cluster, Folder, soon};

/// In each Secret, plain and in base64.
const PLANTED: [&str; 2] = ["pl4nted", "cGw0bnRlZA=="];

/// A Secret that is refused.
pub(crate) const UNFIT: &str = "
apiVersion: v1
kind: Secret
metadata: {name: Unfit}
data: {password: cGw0bnRlZA==}
";
/// A Secret, and pods that use it: one that runs, and one that asks for too much.
const KEEPER: &str = "
apiVersion: v1
kind: Secret
metadata: {name: vault}
stringData: {password: pl4nted}
---
apiVersion: v1
kind: Pod
metadata: {name: keeper}
spec:
  containers:
  - name: keeper
    image: evenkeel/demo:v1
    env: [{name: PASSWORD, valueFrom: {secretKeyRef: {name: vault, key: password}}}]
---
apiVersion: v1
kind: Pod
metadata: {name: seeker}
spec:
  containers:
  - name: seeker
    image: evenkeel/demo:v1
    env:
    - {name: PASSWORD, valueFrom: {secretKeyRef: {name: vault, key: password}}}
    - {name: USER, valueFrom: {secretKeyRef: {name: vault, key: user}}}
";

/// Pods use a Secret, and its content is shown nowhere.
pub(crate) fn are_kept(cluster: &Cluster, folder: &Folder) -> anyhow::Result<()> {
    let complaints = cluster.complaints()?;
    let unfit = "not applied: unfit.yaml";
    ensure!(complaints.contains(unfit) && complaints.contains("is withheld"), "{complaints}");
    cluster.applies(
        "apply -f -",
        KEEPER,
        "secret/vault created
         pod/keeper created
         pod/seeker created",
    )?;
    cluster
        .says("wait --for=condition=Ready pod/keeper --timeout=30s", "pod/keeper condition met")?;
    let waiting = "get pod seeker -o jsonpath={.status.containerStatuses[0].state.waiting.reason}";
    soon(|| cluster.says(waiting, "CreateContainerConfigError"))?;
    // If there were none, the search would not find it elsewhere either.
    ensure!(are_in_private_files_alone(folder)? > 0, "no pod has the Secret");
    for words in ["describe pods", "describe secret vault", "get events -o yaml", "logs keeper"] {
        are_not_in(&cluster.kubectl(words, "")?.out)?;
    }
    cluster.says(
        "delete secret/vault pod/keeper pod/seeker",
        "secret \"vault\" deleted
         pod \"keeper\" deleted
         pod \"seeker\" deleted",
    )
}

/// Searches all that `up` has written; returns how many files of pods have what was planted.
pub(crate) fn are_in_private_files_alone(folder: &Folder) -> anyhow::Result<u32> {
    are_not_in(&fs::read_to_string(folder.path("stderr"))?)?;
    let data = folder.path("data");
    ensure!(data.join("audit").is_dir(), "no record in {}", data.display());
    let mut specs = 0;
    for path in files(&data)? {
        // What belongs to a pod goes with it, at any time.
        let Ok(text) = fs::read(&path) else { continue };
        let has_secrets = are_not_in(&String::from_utf8_lossy(&text)).is_err();
        if path.ends_with("cluster/state.redb") {
            // Secrets are objects, and this is where objects are kept.
            let modes = [&*path, path.parent().context("no folder")?]
                .map(|path| fs::metadata(path).map(|meta| meta.permissions().mode() & 0o777));
            ensure!(matches!(modes, [Ok(0o600), Ok(0o700)]), "{}: {modes:?}", path.display());
        } else if has_secrets {
            ensure!(path.ends_with("spec.json"), "{} has a secret in it", path.display());
            specs += 1;
        }
        // Those of pods may all have one in them.
        if path.components().any(|part| part.as_os_str() == "pods") {
            is_private(&path)?;
        }
    }
    Ok(specs)
}

/// Whether only its owner can read a file and look into its folders, up to the one of all pods.
fn is_private(file: &Path) -> anyhow::Result<()> {
    let pods = file.ancestors().find(|folder| folder.ends_with("pods")).context("no pod")?;
    for path in file.ancestors().take_while(|path| *path != pods).chain([pods]) {
        let Ok(meta) = fs::metadata(path) else { continue };
        let wanted = if meta.is_dir() { 0o700 } else { 0o600 };
        let mode = meta.permissions().mode() & 0o777;
        ensure!(mode == wanted, "{}: {mode:o}", path.display());
    }
    Ok(())
}

pub(crate) fn are_not_in(text: &str) -> anyhow::Result<()> {
    ensure!(!PLANTED.iter().any(|planted| text.contains(planted)), "{text}");
    Ok(())
}

/// All files below a folder.
fn files(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut left = vec![folder.to_owned()];
    while let Some(folder) = left.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten() {
            let path = entry?.path();
            if path.is_dir() { left.push(path) } else { found.push(path) }
        }
    }
    Ok(found)
}
