//! What the containers of a pod share on disk: `ROOT/sandboxes/UID/{network,hosts,resolv.conf}`.

use std::{
    fs, io,
    net::IpAddr,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use super::files::{SandboxFile, make_private_dir};
use crate::{
    runtime::{Mount, StartOrder},
    sandbox::User,
};

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
        write_for_all(&source, text)?;
        mounts.push(Mount { source, target: target.into(), read_only: false });
    }
    if let Some(user) = &order.user {
        for (file, target, line) in entries(user) {
            let known = fs::read_to_string(target).unwrap_or_default();
            if !has(&known, file, user) {
                let source = dir.join(format!("{file}-{}-{}", user.uid, user.gid));
                write_for_all(&source, &(known + &line))?;
                mounts.push(Mount { source, target: target.into(), read_only: false });
            }
        }
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
    Ok(Some(SandboxFile { network, hostname, stage, mounts }))
}

/// Writes a file for every user of the container, as a whole or not at all. Containers that run
/// keep the one that they were started with, as with the kubelet.
fn write_for_all(file: &Path, text: &str) -> io::Result<()> {
    let fresh = file.with_extension("new");
    fs::write(&fresh, text)?;
    fs::set_permissions(&fresh, fs::Permissions::from_mode(0o644))?;
    fs::rename(&fresh, file)
}

/// The files that name users and groups, and what a user without a name is called in them: programs
/// such as PostgreSQL refuse to run as nobody in particular. **Source**: podman's and CRI-O's.
fn entries(user: &User) -> [(&'static str, &'static str, String); 2] {
    let User { uid, gid, .. } = user;
    let line = format!("user{uid}:x:{uid}:{gid}:container user:/:/usr/sbin/nologin\n");
    let group = format!("group{gid}:x:{gid}:\n");
    [("passwd", "/etc/passwd", line), ("group", "/etc/group", group)]
}

/// Whether the file names the user, or the group.
fn has(text: &str, file: &str, user: &User) -> bool {
    let id = if file == "passwd" { user.uid } else { user.gid };
    text.lines().any(|line| line.split(':').nth(2).is_some_and(|found| found == id.to_string()))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_without_a_name_gets_one() {
        let passwd = "root:x:0:0:root:/root:/bin/bash\nme:x:1000:1000::/:/bin/sh\n";
        let user = |uid, gid| User { uid, gid, groups: Vec::new() };
        assert!(has(passwd, "passwd", &user(1000, 5)) && has(passwd, "passwd", &user(0, 0)));
        assert!(!has(passwd, "passwd", &user(100, 1000)));
        assert!(has("staff:x:50:\n", "group", &user(1, 50)) && !has("", "group", &user(1, 50)));
        let [(_, _, line), (_, _, group)] = entries(&user(999, 998));
        assert!(has(&line, "passwd", &user(999, 0)) && has(&group, "group", &user(0, 998)));
    }
}
