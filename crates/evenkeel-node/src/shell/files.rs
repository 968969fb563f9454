//! What lies in the directory of a container run.
//!
//! **Shape**: `ROOT/pods/UID/CONTAINER/ATTEMPT/{spec.json,state.json,exit.json,output.log*}`.

use std::{
    collections::BTreeMap,
    io,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::identity::Identity;
use crate::{
    runtime::{ContainerRef, Mount},
    sandbox::User,
};

/// Written by the agent, read by the shim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SpecFile {
    pub(crate) namespace: String,
    pub(crate) pod: String,
    pub(crate) image: String,
    pub(crate) program: PathBuf,
    /// The name it is started under, for programs of our own executable; `None` is its path.
    #[serde(default)]
    pub(crate) name: Option<String>,
    pub(crate) args: Vec<String>,
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) cwd: PathBuf,
    /// Programs that may be run beside it.
    pub(crate) commands: Vec<String>,
    /// A log file that grows beyond it is rotated.
    pub(crate) log_bytes_max: u64,
    /// Log files kept, the present one included.
    pub(crate) log_files_max: u32,
    /// Where it runs; `None`: where the shim runs.
    #[serde(default)]
    pub(crate) sandbox: Option<SandboxFile>,
    /// Who it runs as; `None`: who the shim runs as.
    #[serde(default)]
    pub(crate) user: Option<User>,
}

/// The surroundings of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SandboxFile {
    /// The pod's network; `None`: the node's.
    pub(crate) network: Option<PathBuf>,
    pub(crate) hostname: String,
    /// An empty folder.
    pub(crate) stage: PathBuf,
    pub(crate) mounts: Vec<Mount>,
}

/// Written by the shim when the program runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StateFile {
    pub(crate) shim: Identity,
    pub(crate) main: Identity,
    pub(crate) at: Timestamp,
}

impl StateFile {
    /// Different for every run on this machine.
    pub(crate) fn id(&self) -> String {
        format!("process://{}-{}", self.main.pid, self.main.start)
    }
}

/// Written by the shim when the program has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ExitFile {
    pub(crate) code: i32,
    pub(crate) at: Timestamp,
}

/// Directory of a pod.
pub(crate) fn pod_dir(root: &Path, uid: &str) -> PathBuf {
    root.join("pods").join(uid)
}

/// Directory of one run of a container.
pub(crate) fn run_dir(root: &Path, container: &ContainerRef) -> PathBuf {
    let of_container = pod_dir(root, &container.pod_uid).join(&container.container);
    of_container.join(container.attempt.to_string())
}

/// Runs of a container that have a directory, oldest first.
pub(crate) fn attempts(container_dir: &Path) -> Vec<u32> {
    let mut found: Vec<u32> =
        names(container_dir).iter().filter_map(|name| name.parse().ok()).collect();
    found.sort_unstable();
    found
}

/// Names in a directory, sorted; none when it is not there.
pub(crate) fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<String> =
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}

/// Makes a directory that only its owner may look into: specs hold secrets.
pub(crate) fn make_private_dir(dir: &Path) -> io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

/// Writes a file, for its owner alone, as a whole or not at all.
pub(crate) fn write_json<T: Serialize>(path: &Path, value: &T) -> io::Result<()> {
    use io::Write as _;
    let fresh = path.with_extension("new");
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.create(true).truncate(true).write(true).mode(0o600).open(&fresh)?;
    // One that was there keeps its mode.
    file.set_permissions(std::fs::Permissions::from_mode(0o600))?;
    file.write_all(&serde_json::to_vec(value)?)?;
    std::fs::rename(&fresh, path)
}

/// Reads a file written by [`write_json`]; `None` when it is not there or not understood.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_owner_may_look_at_a_spec() {
        let root = std::env::temp_dir().join(format!("evenkeel-files-{}", std::process::id()));
        let dir = root.join("pods").join("uid").join("app").join("0");
        make_private_dir(&dir).unwrap();
        let path = dir.join("spec.json");
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        // Also after one that was readable was left behind by an interrupted write.
        let fresh = path.with_extension("new");
        for _ in 0..2 {
            write_json(&path, &"pl4nted").unwrap();
            assert_eq!(mode(&path), 0o600);
            std::fs::write(&fresh, "").unwrap();
            std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o644)).unwrap();
        }
        let mut folder = dir.as_path();
        while folder != root.parent().unwrap() {
            assert_eq!(mode(folder), 0o700, "{}", folder.display());
            folder = folder.parent().unwrap();
        }
        std::fs::remove_dir_all(&root).unwrap();
    }
}
