//! Paths below a folder that cannot leave it, whatever symlinks lie there.
//!
//! **Source**: what `pkg/volume/util/subpath` does by walking with `O_NOFOLLOW`; here the kernel
//! does it (`openat2`, since 5.6).

use std::{
    ffi::OsStr,
    fs, io,
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::fs::PermissionsExt as _,
    },
    path::{Component, Path, PathBuf},
};

use rustix::fs::{Mode, OFlags, ResolveFlags, mkdirat, open, openat, openat2};

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
                Ok(()) => open_up(&above, name, mode)?,
                Err(rustix::io::Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
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

/// Gives a folder that was just made its mode, whatever the umask: as the volume itself.
///
/// A container may have put a symlink in its place meanwhile: that is not followed, and the mode is
/// set on the folder that was opened, not on what its path leads to by then.
fn open_up(above: &OwnedFd, name: &OsStr, mode: u32) -> io::Result<()> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let made = openat(above, name, flags, Mode::empty())?;
    // There is no fchmod of a descriptor that is only a place.
    fs::set_permissions(place(&made), fs::Permissions::from_mode(mode))
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
    fs::read_link(place(file))
}

/// A path that leads to an open file, wherever that lies by then.
fn place(file: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_in_place_of_a_new_folder_is_not_followed() {
        let dir = std::env::temp_dir().join(format!("evenkeel-beneath-{}", std::process::id()));
        for name in ["volume/made", "else"] {
            fs::create_dir_all(dir.join(name)).unwrap();
            fs::set_permissions(dir.join(name), fs::Permissions::from_mode(0o700)).unwrap();
        }
        std::os::unix::fs::symlink(dir.join("else"), dir.join("volume/link")).unwrap();
        let mode = |name: &str| fs::metadata(dir.join(name)).unwrap().permissions().mode() & 0o7777;
        let volume = open_root(&dir.join("volume")).unwrap();
        open_up(&volume, OsStr::new("made"), 0o777).unwrap();
        assert!(open_up(&volume, OsStr::new("link"), 0o777).is_err());
        assert_eq!((mode("volume/made"), mode("else")), (0o777, 0o700));
        fs::remove_dir_all(&dir).unwrap();
    }
}
