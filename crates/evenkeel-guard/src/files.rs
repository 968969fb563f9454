use std::{
    fs::{self, DirBuilder, File, TryLockError},
    io,
    os::unix::fs::{DirBuilderExt as _, FileExt as _, MetadataExt as _},
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering::Relaxed},
};

use jiff::Timestamp;

use crate::{
    Dropped, Keep, SigningKey, Unsound,
    book::{AppendError, Sink},
    counters::Counters,
    end::{self, End},
    head::Head,
    key::make_private,
    record::Tip,
    regular::writable,
    retention::{FILE_BYTES_MAX, Size, is_full, overdue},
    segment,
};

/// Why a record could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The file system refuses.
    #[error("audit record {path}")]
    Io {
        /// Which file or folder.
        path: PathBuf,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// Another process writes it.
    #[error(
        "audit record {path} is open in another evenkeel process; stop that one or give this one its own --data-dir"
    )]
    InUse {
        /// The folder.
        path: PathBuf,
    },
}

/// A change that is about to be made on disk. Tests let the process die between any two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// A file is made.
    Create,
    /// Lines are written behind the others.
    Write,
    /// Lines are made durable.
    Sync,
    /// The folder is made durable.
    SyncDir,
    /// HEAD is written.
    Head,
    /// What a failed write left is cut off.
    Truncate,
    /// An old file is removed.
    Remove,
}

/// Asked before every [`Step`]; an error stops it.
pub(crate) type Probe = Box<dyn FnMut(Step) -> io::Result<()> + Send>;

/// Appends lines to numbered files in a folder and keeps HEAD.
///
/// **Order on disk**: lines, one sync, HEAD. HEAD is not synced: the lines are signed themselves,
/// so a HEAD that is behind after a crash is no harm. It is never ahead of what is durable.
pub struct FileSink {
    dir: PathBuf,
    key: Arc<SigningKey>,
    keep: Keep,
    file_bytes_max: u64,
    number: u32,
    file: Option<File>,
    /// Up to here the file holds our lines.
    len: u64,
    /// The last of these bytes, which are not durable yet. They are kept because after a failed
    /// sync the system may forget them.
    unsynced: Vec<u8>,
    unsynced_tip: Option<Tip>,
    /// Time of the first line of the file.
    started: Option<Timestamp>,
    old_format: bool,
    head: Option<File>,
    /// What a failed write left behind could not be cut off yet.
    unclean: bool,
    counters: Arc<Counters>,
    probe: Option<Probe>,
    _lock: File,
}

impl FileSink {
    /// Opens the folder and finds the end of the record; the third value is what is wrong with it,
    /// if anything. An existing record opens also when the disk is full.
    pub(crate) fn open(
        dir: &Path,
        key: Arc<SigningKey>,
        keep: Keep,
    ) -> Result<(Self, Tip, Option<String>), OpenError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| OpenError::Io { path, source }
        };
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed(dir))?;
        let lock_path = dir.join("LOCK");
        let lock = writable(&lock_path).map_err(failed(&lock_path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(OpenError::InUse { path: dir.to_owned() }),
            Err(TryLockError::Error(source)) => return Err(failed(&lock_path)(source)),
        }
        make_all_private(dir).map_err(failed(dir))?;
        let (end, damage) = match end::find(dir, &key.public()) {
            Ok(end) => (end, None),
            Err(unsound) => (End::default(), Some(damage_text(dir, &unsound))),
        };
        let mut sink = Self {
            dir: dir.to_owned(),
            key,
            keep,
            file_bytes_max: FILE_BYTES_MAX,
            number: end.number,
            file: None,
            len: end.len,
            unsynced: Vec::new(),
            unsynced_tip: None,
            started: end.started,
            old_format: end.old_format,
            head: None,
            unclean: false,
            counters: Arc::default(),
            probe: None,
            _lock: lock,
        };
        // An empty file is begun anew, so that its name is durable too.
        if damage.is_none() && end.len > 0 {
            let path = dir.join(segment::name(end.number));
            let file = writable(&path).map_err(failed(&path))?;
            let torn = file.metadata().map_err(failed(&path))?.len().saturating_sub(end.len);
            if torn > 0 {
                // It was never allowed to take effect.
                file.set_len(end.len).map_err(failed(&path))?;
                tracing::warn!(
                    file = %path.display(),
                    bytes = torn,
                    "audit record: a line that a crash left unfinished is cut off"
                );
            }
            sink.file = Some(file);
        }
        if let Some(head) = end.stale_head {
            // Not the end that was found: its lines may not be durable yet.
            sink.note_head(&head);
        }
        Ok((sink, end.tip, damage))
    }

    fn step(&mut self, step: Step) -> io::Result<()> {
        if matches!(step, Step::Sync | Step::SyncDir) {
            self.counters.syncs.fetch_add(1, Relaxed);
        }
        self.probe.as_mut().map_or(Ok(()), |probe| probe(step))
    }

    fn is_full(&self, now: Timestamp) -> bool {
        let size = Size { bytes: self.len, started: self.started };
        self.file.is_none() || self.old_format || is_full(size, self.file_bytes_max, self.keep, now)
    }

    /// Whether the file that lines go to is still the one that readers find. Removed or replaced, as
    /// by a log rotation, it would take lines that nobody sees.
    fn check_place(&self) -> io::Result<()> {
        let Some(file) = &self.file else { return Ok(()) };
        let path = self.dir.join(segment::name(self.number));
        let (ours, there) = (file.metadata()?, fs::symlink_metadata(&path));
        let place = |of: &fs::Metadata| (of.dev(), of.ino());
        match there {
            Ok(there) if place(&there) == place(&ours) => {
                // What a failed write left is put right before the next one.
                let whole = there.len() >= self.len || self.unclean;
                if whole { Ok(()) } else { Err(displaced(&path)) }
            }
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Err(displaced(&path)),
        }
    }

    fn write(&mut self, text: &str, durable: bool) -> io::Result<()> {
        self.step(Step::Write)?;
        let file = self.file.as_ref().ok_or_else(no_file)?;
        file.write_all_at(text.as_bytes(), self.len)?;
        if durable { self.sync_file() } else { Ok(()) }
    }

    fn sync_file(&mut self) -> io::Result<()> {
        self.step(Step::Sync)?;
        self.file.as_ref().ok_or_else(no_file)?.sync_data()
    }

    fn sync_dir(&mut self) -> io::Result<()> {
        self.step(Step::SyncDir)?;
        File::open(&self.dir)?.sync_all()
    }

    /// Makes the file end with our lines again. Those that are not durable are written anew: after
    /// a failed sync the system takes them for clean although they may never have reached the disk.
    fn clean(&mut self) -> io::Result<()> {
        self.step(Step::Truncate)?;
        let file = self.file.as_ref().ok_or_else(no_file)?;
        let unsynced = u64::try_from(self.unsynced.len()).unwrap_or_default();
        let durable = self.len - unsynced;
        file.set_len(durable)?;
        file.write_all_at(&self.unsynced, durable)?;
        self.unclean = false;
        Ok(())
    }

    fn write_head(&mut self, tip: &Tip) -> io::Result<()> {
        self.step(Step::Head)?;
        let path = self.dir.join("HEAD");
        let file = match self.head.take() {
            Some(file) => file,
            None => writable(&path)?,
        };
        let written = Head::sign(tip.clone(), &self.key).write(&file);
        self.head = Some(file);
        written
    }

    /// HEAD comes after the lines that it names are durable; without it they are good all the same.
    fn note_head(&mut self, tip: &Tip) {
        if let Err(error) = self.write_head(tip) {
            tracing::warn!(%error, "audit HEAD not written; it stays behind until the next batch");
        }
    }

    fn begin(&mut self, tip: &Tip) -> io::Result<()> {
        if tip.seq == 0 && self.head.is_none() {
            // Before the first line: from now on a record without HEAD is not whole.
            self.step(Step::Create)?;
            self.write_head(tip)?;
            self.step(Step::Sync)?;
            self.head.as_ref().ok_or_else(no_file)?.sync_data()?;
        }
        // An empty last file is one that a crash left before its first line.
        let number = if self.len == 0 { self.number.max(1) } else { self.number + 1 };
        self.step(Step::Create)?;
        let file = writable(&self.dir.join(segment::name(number)))?;
        file.set_len(0)?;
        self.sync_dir()?;
        self.file = Some(file);
        self.number = number;
        self.len = 0;
        self.started = None;
        self.old_format = false;
        Ok(())
    }
}

impl Sink for FileSink {
    fn key(&self) -> Option<&SigningKey> {
        Some(&self.key)
    }

    fn counters(&self) -> Arc<Counters> {
        self.counters.clone()
    }

    fn begin_file(&mut self, tip: &Tip, now: Timestamp) -> io::Result<Option<u32>> {
        if self.is_full(now) {
            self.sync()?;
            self.begin(tip)?;
        }
        Ok((self.len == 0).then_some(self.number))
    }

    fn append(
        &mut self,
        text: &str,
        tip: &Tip,
        now: Timestamp,
        durable: bool,
    ) -> Result<(), AppendError> {
        self.check_place()?;
        if self.unclean {
            self.clean()?;
        }
        if let Err(error) = self.write(text, durable) {
            // Nothing of these lines may stay, or the next ones would not follow.
            self.unclean = true;
            if let Err(undo) = self.clean() {
                tracing::warn!(error = %undo, "audit record: a failed write is not undone yet");
            }
            return Err(error.into());
        }
        self.len += u64::try_from(text.len()).unwrap_or_default();
        self.started.get_or_insert(now);
        self.counters.batches.fetch_add(1, Relaxed);
        if durable {
            self.unsynced.clear();
            self.unsynced_tip = None;
            self.note_head(tip);
        } else {
            self.unsynced.extend_from_slice(text.as_bytes());
            self.unsynced_tip = Some(tip.clone());
        }
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        if self.unclean {
            self.clean()?;
        }
        let Some(tip) = self.unsynced_tip.clone() else { return Ok(()) };
        if let Err(error) = self.sync_file() {
            self.unclean = true;
            return Err(error);
        }
        self.unsynced.clear();
        self.unsynced_tip = None;
        self.note_head(&tip);
        Ok(())
    }

    fn is_dirty(&self) -> bool {
        self.unsynced_tip.is_some()
    }

    fn overdue(&mut self, now: Timestamp) -> io::Result<Option<(Dropped, Vec<u32>)>> {
        let mut files = Vec::new();
        for number in segment::numbers(&self.dir)? {
            let path = self.dir.join(segment::name(number));
            let first = segment::first_line(&path)?.ok_or_else(|| {
                io::Error::other(format!("{} does not begin with a line", path.display()))
            })?;
            files.push((number, fs::metadata(&path)?.len(), first));
        }
        Ok(overdue(&files, self.number, self.keep, now))
    }

    fn remove(&mut self, files: &[u32]) -> io::Result<()> {
        // Oldest first: what a crash leaves is one piece.
        for number in files {
            self.step(Step::Remove)?;
            fs::remove_file(self.dir.join(segment::name(*number)))?;
        }
        Ok(())
    }
}

fn damage_text(dir: &Path, unsound: &Unsound) -> String {
    match unsound {
        Unsound::Tampered(tampering) => format!(
            "the audit record is damaged ({tampering}): run `evenkeel audit verify`, then move {} \
             away to start a new one",
            dir.display()
        ),
        Unsound::Unreadable { path, source } => format!(
            "the audit record cannot be read ({}: {source}): see that it can be, then restart this \
             process",
            path.display()
        ),
    }
}

/// Files that an older version left readable for everybody.
fn make_all_private(dir: &Path) -> io::Result<()> {
    make_private(dir, 0o700)?;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            make_private(&entry.path(), 0o600)?;
        }
    }
    Ok(())
}

fn displaced(path: &Path) -> io::Error {
    io::Error::other(format!(
        "{} was removed, replaced or cut while this process writes it: stop the process, put the \
         file back (or move the folder away to begin a new record), and start again",
        path.display()
    ))
}

fn no_file() -> io::Error {
    io::Error::other("no file of the record is open")
}

#[cfg(test)]
mod tests;
