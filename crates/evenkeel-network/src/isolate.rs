use std::{fs, io};

use nix::{
    errno::Errno,
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    unistd::{getgid, getuid},
};

/// Why a cluster cannot have a network of its own on this machine.
#[derive(Debug, thiserror::Error)]
#[error("{step}: {problem}")]
pub struct Forbidden {
    /// What was tried.
    step: &'static str,
    problem: io::Error,
}

impl Forbidden {
    /// For `map_err`: what was tried when it failed.
    pub(crate) fn during<E: Into<io::Error>>(step: &'static str) -> impl FnOnce(E) -> Self {
        move |problem| Self { step, problem: problem.into() }
    }
}

/// Gives this process a mount namespace of its own and, when it may not have that, a user namespace
/// too, in which it is root with the user's rights outside.
///
/// **Errors**: the system forbids it (a sysctl, `AppArmor`, a container's rules), or the process has
/// more than one thread. It may then be half isolated: try it in a child process first.
pub fn isolate() -> Result<(), Forbidden> {
    match unshare(CloneFlags::CLONE_NEWNS) {
        Ok(()) => {}
        Err(Errno::EPERM) => become_root()?,
        Err(error) => return Err(Forbidden::during("make a mount namespace")(error)),
    }
    // What the host mounts later is seen here; what is mounted here stays here.
    let flags = MsFlags::MS_REC | MsFlags::MS_SLAVE;
    mount(None::<&str>, "/", None::<&str>, flags, None::<&str>)
        .map_err(Forbidden::during("keep mounts to itself"))
}

fn become_root() -> Result<(), Forbidden> {
    let (user, group) = (getuid(), getgid());
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS)
        .map_err(Forbidden::during("make a user namespace"))?;
    // Without this the system does not let a group be mapped.
    fs::write("/proc/self/setgroups", "deny").map_err(Forbidden::during("drop groups"))?;
    fs::write("/proc/self/uid_map", format!("0 {user} 1"))
        .map_err(Forbidden::during("map the user"))?;
    fs::write("/proc/self/gid_map", format!("0 {group} 1"))
        .map_err(Forbidden::during("map the group"))
}
