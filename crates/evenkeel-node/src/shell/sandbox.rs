//! What the containers of a pod share on disk: `ROOT/sandboxes/UID/{network,hosts,resolv.conf}`.

use std::{
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
};

use super::files::{SandboxFile, make_private_dir};
use crate::runtime::{Mount, StartOrder};

/// Files that are the same in all containers of the pod, and where they see them.
const HOSTS: (&str, &str) = ("hosts", "/etc/hosts");
const RESOLVER: (&str, &str) = ("resolv.conf", "/etc/resolv.conf");

fn dir(root: &Path, pod_uid: &str) -> PathBuf {
    root.join("sandboxes").join(pod_uid)
}

/// Makes what is not there yet; `None` for a pod that shares the host's network and files.
pub(super) fn prepare(root: &Path, order: &StartOrder) -> io::Result<Option<SandboxFile>> {
    let Some(sandbox) = &order.sandbox else { return Ok(None) };
    let dir = dir(root, &order.container.pod_uid);
    let stage = dir.join("stage");
    make_private_dir(&stage)?;
    // What is mounted is found without following symlinks.
    let dir = fs::canonicalize(dir)?;
    let mut mounts = Vec::new();
    for ((name, target), text) in [(HOSTS, &sandbox.hosts), (RESOLVER, &sandbox.resolver)] {
        let source = dir.join(name);
        // Written once: the program may have changed its copy.
        if !source.exists() {
            fs::write(&source, text)?;
        }
        mounts.push(Mount { source, target: target.into(), read_only: false });
    }
    mounts.extend(order.mounts.iter().cloned());
    let network = match order.ip {
        IpAddr::V4(ip) if !sandbox.is_on_host => {
            let file = dir.join("network");
            evenkeel_network::connect(&file, &order.container.pod_uid, ip)?;
            Some(file)
        }
        _ => None,
    };
    let hostname = sandbox.hostname.clone();
    Ok(Some(SandboxFile { network, hostname, stage, mounts, user: order.user }))
}

/// Removes what [`prepare`] made; nothing of the pod runs any more.
pub(super) fn remove(root: &Path, pod_uid: &str) -> io::Result<()> {
    let dir = dir(root, pod_uid);
    let network = dir.join("network");
    if network.exists() {
        evenkeel_network::disconnect(&network, pod_uid)?;
    }
    match fs::remove_dir_all(&dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
