//! The network of one pod.

use std::{
    fs::{self, File},
    io,
    net::Ipv4Addr,
    os::fd::AsFd as _,
    path::Path,
};

use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
};

use crate::{
    BRIDGE, PODS, ROUTER,
    links::Links,
    network::{block_on, on_a_thread, own},
};

/// Longest name of a link, without the final zero. **Source**: `IFNAMSIZ`.
const LINK_NAME_MAX: usize = 15;

/// Settings of a pod's network. Every port is open to its programs, whoever they run as, as in
/// containerd's `enable_unprivileged_ports`; others learn at once when an address has moved.
const SETTINGS: [(&str, &str); 2] = [
    ("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0"),
    ("/proc/sys/net/ipv4/conf/all/arp_notify", "1"),
];

/// Makes a pod's network with one address, connected to the bridge of the network that the calling
/// thread is in. `file` stands for it until [`disconnect`]; one that is connected stays as it is.
///
/// `name` must be different for every pod of the cluster; only its letters and digits count.
pub fn connect(file: &Path, name: &str, address: Ipv4Addr) -> io::Result<()> {
    if is_connected(file) {
        return Ok(());
    }
    File::create(file)?;
    let cable = cable(name);
    on_a_thread(|| {
        block_on(async {
            // Opened before the thread leaves the cluster's network.
            let outside = Links::open()?;
            let bridge = outside.index(BRIDGE).await?;
            if let Ok(old) = outside.index(&cable).await {
                // Of an attempt that was interrupted.
                outside.remove(old).await?;
            }
            unshare(CloneFlags::CLONE_NEWNET)?;
            let network = own()?;
            for (setting, value) in SETTINGS {
                fs::write(setting, value)?;
            }
            outside.add_cable(&cable, bridge, ("eth0", network.as_fd())).await?;
            let inside = Links::open()?;
            let loopback = inside.index("lo").await?;
            inside.up(loopback).await?;
            let eth0 = inside.index("eth0").await?;
            inside.add_address(eth0, address, PODS.1).await?;
            inside.up(eth0).await?;
            inside.add_default_route(ROUTER).await?;
            let flags = MsFlags::MS_BIND;
            Ok(mount(Some("/proc/thread-self/ns/net"), file, None::<&str>, flags, None::<&str>)?)
        })
    })?
}

/// Ends what [`connect`] made. Connections of processes that still run inside are cut.
pub fn disconnect(file: &Path, name: &str) -> io::Result<()> {
    let cable = cable(name);
    let cut = on_a_thread(|| {
        block_on(async {
            let links = Links::open()?;
            match links.index(&cable).await {
                Ok(index) => links.remove(index).await,
                // It goes with the last process of the pod.
                Err(_) => Ok(()),
            }
        })
    })?;
    if is_connected(file) {
        umount2(file, MntFlags::MNT_DETACH)?;
    }
    match fs::remove_file(file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => cut,
    }
}

/// Whether a file stands for the network of a pod: it is on the system's own file system for them.
pub fn is_connected(file: &Path) -> bool {
    use nix::sys::statfs::{FsType, statfs};
    /// **Source**: `NSFS_MAGIC` in `linux/magic.h`.
    const NSFS: FsType = FsType(0x6e73_6673);
    statfs(file).is_ok_and(|found| found.filesystem_type() == NSFS)
}

/// The name of a pod's link in the cluster's network.
fn cable(name: &str) -> String {
    let letters = name.chars().filter(char::is_ascii_alphanumeric);
    ['p'].into_iter().chain(letters).take(LINK_NAME_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_named_by_the_first_digits_of_a_uid() {
        assert_eq!(cable("0f3c9a11-22b4-4e5d-9c77-aa0123456789"), "p0f3c9a1122b44e");
        assert_eq!(cable("x"), "px");
    }
}
