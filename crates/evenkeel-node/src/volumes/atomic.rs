//! Files that change as a whole or not at all.
//!
//! ```text
//! NAME -> ..data/NAME      what the container opens
//! ..data -> ..2026_11_29_04_51_00.123456789     turned by one rename
//! ..2026_11_29_04_51_00.123456789/NAME          one version of all files
//! ```
//! **Source**: `AtomicWriter` in `pkg/volume/util/atomic_writer.go`. One difference: what a crash
//! left behind (`..data_tmp`, versions that nobody points to) is removed by the next write.

use std::{
    collections::BTreeSet,
    fs, io,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _, symlink},
    path::{Path, PathBuf},
};

use jiff::Timestamp;

use super::payload::{File, Payload};

const DATA: &str = "..data";
const NEW_DATA: &str = "..data_tmp";

/// What has just been done; a test ends the work after any of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Folder,
    File,
    Link,
    Turned,
    Shown,
    Hidden,
    Cleared,
}

/// Everything of a write besides the files.
pub(super) struct Writer<'a> {
    /// The volume.
    pub(super) dir: &'a Path,
    pub(super) now: Timestamp,
    /// The group that is to own the files.
    pub(super) group: Option<u32>,
    /// Asked after each step; an error ends the work as it stands.
    pub(super) after: &'a mut dyn FnMut(Step) -> io::Result<()>,
}

impl Writer<'_> {
    /// Brings the volume to these files. `false` when they were there already.
    pub(super) fn write(&mut self, payload: &Payload) -> io::Result<bool> {
        let current = self.current();
        let is_same = current.as_ref().is_some_and(|dir| holds(dir, payload, self.group));
        if !is_same {
            let version = self.version(payload)?;
            let fresh = self.dir.join(NEW_DATA);
            remove_file(&fresh)?;
            symlink(&version, &fresh)?;
            (self.after)(Step::Link)?;
            fs::rename(&fresh, self.dir.join(DATA))?;
            (self.after)(Step::Turned)?;
        }
        self.show(payload)?;
        self.hide(payload)?;
        self.clear()?;
        Ok(!is_same)
    }

    /// The version that readers see.
    fn current(&self) -> Option<PathBuf> {
        let name = fs::read_link(self.dir.join(DATA)).ok()?;
        Some(self.dir.join(name)).filter(|dir| dir.is_dir())
    }

    /// Writes all files into a folder of their own; returns its name.
    fn version(&mut self, payload: &Payload) -> io::Result<String> {
        let stamp = self.now.strftime("..%Y_%m_%d_%H_%M_%S");
        let mut number = self.now.subsec_nanosecond();
        // Random upstream; here the next free number is as good.
        let name = loop {
            let name = format!("{stamp}.{number:09}");
            match fs::DirBuilder::new().mode(0o755).create(self.dir.join(&name)) {
                Ok(()) => break name,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => number += 1,
                Err(error) => return Err(error),
            }
        };
        let root = self.dir.join(&name);
        self.open_folder(&root)?;
        (self.after)(Step::Folder)?;
        for (path, file) in payload {
            if let Some((folders, _)) = path.rsplit_once('/') {
                let mut folder = root.clone();
                for part in folders.split('/') {
                    folder.push(part);
                    if !folder.is_dir() {
                        fs::create_dir(&folder)?;
                        self.open_folder(&folder)?;
                    }
                }
            }
            let path = root.join(path);
            write_file(&path, file, self.group)?;
            (self.after)(Step::File)?;
        }
        Ok(name)
    }

    /// Everybody whom the folders above let in may read it, whatever the umask.
    fn open_folder(&self, folder: &Path) -> io::Result<()> {
        let group_bits = if self.group.is_some() { 0o2000 } else { 0 };
        give(folder, self.group);
        fs::set_permissions(folder, fs::Permissions::from_mode(0o755 | group_bits))
    }

    /// A link per name at the top. Those of a version that was turned to before a crash, too.
    fn show(&mut self, payload: &Payload) -> io::Result<()> {
        for name in top(payload) {
            let link = self.dir.join(name);
            if fs::symlink_metadata(&link).is_err() {
                symlink(Path::new(DATA).join(name), &link)?;
                (self.after)(Step::Shown)?;
            }
        }
        Ok(())
    }

    /// Links to what is no more.
    fn hide(&mut self, payload: &Payload) -> io::Result<()> {
        let wanted = top(payload);
        for entry in fs::read_dir(self.dir)? {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            // A folder that a `subPath` without a file has made is not ours.
            let is_ours = entry.file_type()?.is_symlink() && !name.starts_with("..");
            if is_ours && !wanted.contains(&*name) {
                remove_file(&entry.path())?;
                (self.after)(Step::Hidden)?;
            }
        }
        Ok(())
    }

    /// Versions that are no more seen.
    fn clear(&mut self) -> io::Result<()> {
        let current = self.current();
        for entry in fs::read_dir(self.dir)? {
            let entry = entry?;
            let name = entry.file_name();
            let is_version = name.to_string_lossy().starts_with("..") && name != DATA;
            if is_version && current.as_ref() != Some(&entry.path()) {
                if entry.file_type()?.is_dir() {
                    fs::remove_dir_all(entry.path())?;
                } else {
                    remove_file(&entry.path())?;
                }
                (self.after)(Step::Cleared)?;
            }
        }
        Ok(())
    }
}

/// The first parts of all paths.
fn top(payload: &Payload) -> BTreeSet<&str> {
    payload.keys().map(|path| path.split_once('/').map_or(path.as_str(), |(top, _)| top)).collect()
}

/// The mode of a file that is shared with a group. **Source**: `SetVolumeOwnership` with
/// `roMask` in `pkg/volume/volume_linux.go`.
fn mode(file: &File, group: Option<u32>) -> u32 {
    file.mode | if group.is_some() { 0o440 } else { 0 }
}

fn write_file(path: &Path, file: &File, group: Option<u32>) -> io::Result<()> {
    use io::Write as _;
    // Never readable by more than it will be.
    let mut opened = fs::OpenOptions::new().create_new(true).write(true).mode(0o600).open(path)?;
    opened.write_all(&file.data)?;
    give(path, group);
    opened.set_permissions(fs::Permissions::from_mode(mode(file, group)))
}

/// Gives a file to a group where the system lets us; it lets an ordinary user give to groups of
/// their own only, and the mode stays right without.
fn give(path: &Path, group: Option<u32>) {
    if let Some(group) = group
        && let Err(error) = std::os::unix::fs::lchown(path, None, Some(group))
    {
        tracing::debug!(group, %error, "file not given to the fsGroup");
    }
}

/// Whether a version has exactly these files.
fn holds(dir: &Path, payload: &Payload, group: Option<u32>) -> bool {
    let has = |(path, file): (&String, &File)| {
        let path = dir.join(path);
        let meta = fs::symlink_metadata(&path);
        meta.is_ok_and(|meta| {
            meta.is_file()
                && meta.permissions().mode() & 0o7777 == mode(file, group)
                && fs::read(&path).is_ok_and(|data| data == file.data)
        })
    };
    payload.iter().all(has) && count(dir).is_ok_and(|files| files == payload.len())
}

fn count(dir: &Path) -> io::Result<usize> {
    let mut files = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        files += if entry.file_type()?.is_dir() { count(&entry.path())? } else { 1 };
    }
    Ok(files)
}

fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
