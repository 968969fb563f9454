//! The files that a container sees: those of the host, with its mounts over them.

use std::{
    ffi::OsStr,
    fs, io,
    os::{fd::OwnedFd, unix::fs::MetadataExt as _},
    path::{Component, Path, PathBuf},
};

use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sys::statvfs::{FsFlags, statvfs},
    unistd::{chdir, pivot_root},
};
use rustix::{
    fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, mkdirat, openat, openat2},
    io::Errno,
    mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree},
};

use crate::runtime::Mount;

/// What a folder may hold that has to be shown again, entry by entry.
const ENTRIES_MAX: usize = 10_000;

/// Puts each mount in its place, outer ones first. `stage` is an empty folder of the pod's.
///
/// A place that is not there cannot be made in the host's folders, so the folder that it would be
/// in is replaced by a new one that shows the same entries.
pub(super) fn furnish(mounts: &[Mount], stage: &Path) -> io::Result<()> {
    // All of them before anything covers them or moves the root away.
    let trees: Vec<_> = mounts.iter().map(|one| named(one, tree(&one.source))).collect();
    let mut placed = Vec::new();
    for (one, tree) in mounts.iter().zip(trees) {
        let target = named(one, place(one, tree?, stage, &placed))?;
        placed.push(target);
    }
    Ok(())
}

fn named<T>(one: &Mount, result: io::Result<T>) -> io::Result<T> {
    result.map_err(|error| io::Error::other(format!("mount on {}: {error}", one.target.display())))
}

/// A copy of what is mounted below a path, which is nowhere yet.
fn tree(source: &Path) -> io::Result<OwnedFd> {
    // A container that shares the volume may have put a symlink there since the path was looked up.
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let source = openat2(CWD, source, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS)?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE
        | OpenTreeFlags::AT_EMPTY_PATH;
    Ok(open_tree(source, "", flags)?)
}

fn place(
    one: &Mount,
    tree: OwnedFd,
    stage: &Path,
    placed: &[(PathBuf, PathBuf)],
) -> io::Result<(PathBuf, PathBuf)> {
    let is_dir = FileType::from_raw_mode(fstat(&tree)?.st_mode).is_dir();
    let target = plain(&one.target)?;
    let volume = placed.iter().rev().find_map(|(outer, real)| {
        let rest = target.strip_prefix(outer).ok()?;
        (!rest.as_os_str().is_empty()).then_some((real, rest))
    });
    let (at, real) = if let Some((volume, rest)) = volume {
        (below(volume, rest, is_dir)?, volume.join(rest))
    } else {
        let real = make_place(&target, is_dir, stage)?;
        (openat2(CWD, &real, PLACE, Mode::empty(), ResolveFlags::NO_SYMLINKS)?, real)
    };
    let by_descriptor =
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(tree, "", at, "", by_descriptor)?;
    if one.read_only {
        let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY | kept(&real)?;
        mount(None::<&str>, &real, None::<&str>, flags, None::<&str>)?;
    }
    Ok((target, real))
}

/// What only stands for a file.
const PLACE: OFlags = OFlags::PATH.union(OFlags::CLOEXEC);

/// A place in a volume, made as a part of it if need be, as container runtimes do. Another
/// container may work on the volume meanwhile: no symlink is followed, and nothing that is there is
/// opened for writing.
fn below(volume: &Path, rest: &Path, is_dir: bool) -> io::Result<OwnedFd> {
    let enter = |at: &OwnedFd, name: &OsStr| {
        let rules = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        openat2(at, name, PLACE, Mode::empty(), rules)
    };
    let mut at = openat2(CWD, volume, PLACE, Mode::empty(), ResolveFlags::NO_SYMLINKS)?;
    let mut names = rest.components().map(Component::as_os_str).peekable();
    while let Some(name) = names.next() {
        at = match enter(&at, name) {
            Err(Errno::NOENT) if is_dir || names.peek().is_some() => {
                mkdirat(&at, name, Mode::from_raw_mode(0o755))?;
                enter(&at, name)?
            }
            Err(Errno::NOENT) => {
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                drop(openat(&at, name, flags | OFlags::WRONLY, Mode::from_raw_mode(0o644))?);
                enter(&at, name)?
            }
            found => found?,
        };
    }
    Ok(at)
}

/// Restrictions of the host's mount, which nobody but the host may drop.
fn kept(path: &Path) -> io::Result<MsFlags> {
    let flags = statvfs(path)?.flags();
    let pairs = [
        (FsFlags::ST_NOSUID, MsFlags::MS_NOSUID),
        (FsFlags::ST_NODEV, MsFlags::MS_NODEV),
        (FsFlags::ST_NOEXEC, MsFlags::MS_NOEXEC),
        (FsFlags::ST_NOATIME, MsFlags::MS_NOATIME),
        (FsFlags::ST_NODIRATIME, MsFlags::MS_NODIRATIME),
        (FsFlags::ST_RELATIME, MsFlags::MS_RELATIME),
    ];
    let kept = pairs.into_iter().filter(|(is, _)| flags.contains(*is));
    Ok(kept.fold(MsFlags::empty(), |all, (_, flag)| all | flag))
}

/// A folder or file of the host to mount on at this path, made if need be; its path without
/// symlinks.
fn make_place(target: &Path, is_dir: bool, stage: &Path) -> io::Result<PathBuf> {
    if let Ok(found) = fs::metadata(target) {
        if found.is_dir() != is_dir {
            let (is, wanted) = if is_dir { ("file", "folder") } else { ("folder", "file") };
            return Err(io::Error::other(format!("there is a {is}, and the volume is a {wanted}")));
        }
        return fs::canonicalize(target);
    }
    let mut there = target;
    let mut missing: Vec<&OsStr> = Vec::new();
    while fs::metadata(there).is_err() {
        let (Some(parent), Some(name)) = (there.parent(), there.file_name()) else { break };
        missing.push(name);
        there = parent;
    }
    let there = fs::canonicalize(there)?;
    replace(&there, stage)?;
    let mut path = there;
    while let Some(name) = missing.pop() {
        path.push(name);
        if missing.is_empty() && !is_dir {
            fs::File::create(&path)?;
        } else {
            fs::create_dir(&path)?;
        }
    }
    Ok(path)
}

/// An absolute path without `.` and `..`.
fn plain(path: &Path) -> io::Result<PathBuf> {
    let is_plain = path
        .components()
        .all(|part| matches!(part, Component::RootDir | Component::Normal(_) | Component::CurDir));
    if path.is_absolute() && is_plain {
        Ok(path.components().collect())
    } else {
        Err(io::Error::other("not an absolute path"))
    }
}

/// Puts a new folder in the place of one, with the same entries.
fn replace(folder: &Path, stage: &Path) -> io::Result<()> {
    let options = Some("mode=755");
    mount(Some("none"), stage, Some("tmpfs"), MsFlags::empty(), options)?;
    let had = fs::metadata(folder)?;
    fs::set_permissions(stage, had.permissions())?;
    // Only root of the machine may give it to others.
    std::os::unix::fs::chown(stage, Some(had.uid()), Some(had.gid())).unwrap_or_default();
    for (count, entry) in fs::read_dir(folder)?.enumerate() {
        if count == ENTRIES_MAX {
            let problem = format!("{} has more than {ENTRIES_MAX} entries", folder.display());
            return Err(io::Error::other(problem));
        }
        let entry = entry?;
        match show_again(&entry, &stage.join(entry.file_name())) {
            // It has just gone.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            shown => shown?,
        }
    }
    if folder == Path::new("/") {
        // The old root ends up below the new one, and is let go from there.
        chdir(stage)?;
        pivot_root(".", ".")?;
        umount2(".", MntFlags::MNT_DETACH)?;
        return Ok(chdir("/")?);
    }
    mount(Some(stage), folder, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)?;
    Ok(umount2(stage, MntFlags::MNT_DETACH)?)
}

fn show_again(entry: &fs::DirEntry, at: &Path) -> io::Result<()> {
    let kind = entry.file_type()?;
    if kind.is_symlink() {
        return std::os::unix::fs::symlink(fs::read_link(entry.path())?, at);
    }
    if kind.is_dir() {
        fs::create_dir(at)?;
    } else {
        fs::File::create(at)?;
    }
    let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
    Ok(mount(Some(&entry.path()), at, None::<&str>, flags, None::<&str>)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_absolute_paths_are_mounted_on() {
        assert_eq!(plain(Path::new("/a//b/./c/")).unwrap(), Path::new("/a/b/c"));
        assert!(plain(Path::new("/a/../b")).is_err());
        assert!(plain(Path::new("a")).is_err());
    }
}
