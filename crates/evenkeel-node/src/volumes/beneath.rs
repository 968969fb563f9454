//! Paths below a folder that cannot leave it, whatever symlinks lie there.
//!
//! **Source**: what `pkg/volume/util/subpath` does by walking with `O_NOFOLLOW`; here the kernel
//! does it (`openat2`, since 5.6).

use std::{
    io,
    os::fd::{AsRawFd as _, OwnedFd},
    path::{Component, Path, PathBuf},
};

use rustix::fs::{Mode, OFlags, ResolveFlags, mkdirat, open, openat2};

/// The real path of `path` below `root`: one without symlinks. What is missing is made, as folders.
///
/// **Errors**: it leads out of `root`, through a symlink or otherwise.
pub(super) fn resolve_or_make(root: &Path, path: &Path, mode: u32) -> io::Result<PathBuf> {
    let root_fd = open_root(root)?;
    if let Some(found) = beneath(&root_fd, path)? {
        return real(&found);
    }
    // The first part that is missing, and all behind it.
    let mut at = PathBuf::new();
    for part in path.components() {
        let Component::Normal(name) = part else { continue };
        let above =
            beneath(&root_fd, if at.as_os_str().is_empty() { Path::new(".") } else { &at })?
                .ok_or(io::ErrorKind::NotFound)?;
        at.push(name);
        if beneath(&root_fd, &at)?.is_none() {
            match mkdirat(&above, name, Mode::from_raw_mode(mode)) {
                Ok(()) | Err(rustix::io::Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
            // Whatever the umask: as the volume itself.
            let made = beneath(&root_fd, &at)?.ok_or(io::ErrorKind::NotFound)?;
            let made = real(&made)?;
            let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
            std::fs::set_permissions(made, mode)?;
        }
    }
    let found = beneath(&root_fd, path)?.ok_or(io::ErrorKind::NotFound)?;
    real(&found)
}

/// The real path of `path` below `root`; `None` when there is nothing.
///
/// **Errors**: it leads out of `root`, through a symlink or otherwise.
pub(super) fn resolve(root: &Path, path: &Path) -> io::Result<Option<PathBuf>> {
    let found = beneath(&open_root(root)?, path)?;
    found.map(|found| real(&found)).transpose()
}

fn open_root(root: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(open(root, flags, Mode::empty())?)
}

fn beneath(root: &OwnedFd, path: &Path) -> io::Result<Option<OwnedFd>> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let rules = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    match openat2(root, path, flags, Mode::empty(), rules) {
        Ok(found) => Ok(Some(found)),
        Err(rustix::io::Errno::NOENT) => Ok(None),
        Err(rustix::io::Errno::XDEV) => {
            Err(io::Error::other(format!("{} leads out of the volume", path.display())))
        }
        Err(error) => Err(error.into()),
    }
}

/// Where an open file lies.
fn real(file: &OwnedFd) -> io::Result<PathBuf> {
    std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))
}
