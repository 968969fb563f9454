//! The files that a container sees: those of the host, with its mounts over them.

use std::{
    ffi::OsStr,
    fs, io,
    os::fd::OwnedFd,
    path::{Component, Path, PathBuf},
};

use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sys::statvfs::{FsFlags, statvfs},
    unistd::{chdir, pivot_root},
};
use rustix::{
    fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, openat2},
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

fn place(one: &Mount, tree: OwnedFd, stage: &Path, placed: &[PathBuf]) -> io::Result<PathBuf> {
    let is_dir = FileType::from_raw_mode(fstat(&tree)?.st_mode).is_dir();
    let target = make_place(&one.target, is_dir, stage, placed)?;
    move_mount(tree, "", CWD, &target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    if one.read_only {
        let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY | kept(&target)?;
        mount(None::<&str>, &target, None::<&str>, flags, None::<&str>)?;
    }
    Ok(target)
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

/// A folder or file to mount on at this path, made if need be; its path without symlinks. In a
/// volume that is `placed` it is made as a part of that, as container runtimes do.
fn make_place(
    target: &Path,
    is_dir: bool,
    stage: &Path,
    placed: &[PathBuf],
) -> io::Result<PathBuf> {
    let target = plain(target)?;
    if let Ok(found) = fs::metadata(&target) {
        if found.is_dir() != is_dir {
            let (is, wanted) = if is_dir { ("file", "folder") } else { ("folder", "file") };
            return Err(io::Error::other(format!("there is a {is}, and the volume is a {wanted}")));
        }
        return fs::canonicalize(&target);
    }
    let mut there = target.as_path();
    let mut missing: Vec<&OsStr> = Vec::new();
    while fs::metadata(there).is_err() {
        let (Some(parent), Some(name)) = (there.parent(), there.file_name()) else { break };
        missing.push(name);
        there = parent;
    }
    let there = fs::canonicalize(there)?;
    if !placed.iter().any(|volume| there.starts_with(volume)) {
        replace(&there, stage)?;
    }
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
    for (count, entry) in fs::read_dir(folder)?.enumerate() {
        if count == ENTRIES_MAX {
            let problem = format!("{} has more than {ENTRIES_MAX} entries", folder.display());
            return Err(io::Error::other(problem));
        }
        let entry = entry?;
        show_again(&entry, &stage.join(entry.file_name()))?;
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
