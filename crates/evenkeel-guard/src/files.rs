use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
};

use crate::{
    Sink,
    record::Tip,
    verify::{self, Tail},
};

/// A segment is closed once it is larger: small enough to copy and to read at the start.
const SEGMENT_BYTES_MAX: u64 = 16 << 20;

/// Why a record could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The file system refuses.
    #[error("audit record {path}")]
    Io {
        /// Which file or folder.
        path: PathBuf,
        /// Its words.
        #[source]
        source: io::Error,
    },
    /// Somebody else writes it.
    #[error(
        "audit record {path} is open in another evenkeel process; stop that one or give this one its own --data-dir"
    )]
    InUse {
        /// The folder.
        path: PathBuf,
    },
}

/// Appends lines to numbered files in a folder and keeps HEAD.
///
/// **Order on disk**: line, sync, HEAD, sync. So HEAD is at most one line behind, never ahead.
/// HEAD is overwritten in place; its 87 bytes lie in one sector.
#[derive(Debug)]
pub struct FileSink {
    dir: PathBuf,
    number: u32,
    segment: File,
    len: u64,
    head: File,
    broken: Option<String>,
    _lock: File,
}

impl FileSink {
    /// Opens the folder, mends what a crash left (a torn last line, HEAD one line behind) and
    /// returns the end of the record; the third value is what is wrong with it, if anything.
    pub(crate) fn open(dir: &Path) -> Result<(Self, Tip, Option<String>), OpenError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| OpenError::Io { path, source }
        };
        fs::create_dir_all(dir).map_err(failed(dir))?;
        let lock_path = dir.join("LOCK");
        let lock = writable(&lock_path).map_err(failed(&lock_path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(OpenError::InUse { path: dir.to_owned() }),
            Err(TryLockError::Error(source)) => return Err(failed(&lock_path)(source)),
        }
        let (tail, damage) = match verify::tail(dir) {
            Ok(tail) => (tail, None),
            Err(tampering) => (Tail::default(), Some(damage_text(dir, &tampering.to_string()))),
        };
        let number = tail.number.max(1);
        let segment_path = dir.join(segment_name(number));
        let mut segment = writable(&segment_path).map_err(failed(&segment_path))?;
        if damage.is_none() {
            // A line that a crash tore was never allowed to take effect.
            segment.set_len(tail.len).map_err(failed(&segment_path))?;
        }
        let len = segment.seek(SeekFrom::End(0)).map_err(failed(&segment_path))?;
        let head_path = dir.join("HEAD");
        let head = writable(&head_path).map_err(failed(&head_path))?;
        let mut sink =
            Self { dir: dir.to_owned(), number, segment, len, head, broken: None, _lock: lock };
        if damage.is_none() {
            sink.write_head(tail.tip.seq, &tail.tip.hash).map_err(failed(&head_path))?;
            sync_dir(dir).map_err(failed(dir))?;
        }
        Ok((sink, tail.tip, damage))
    }

    fn write_line(&mut self, line: &str) -> io::Result<()> {
        self.segment.write_all(line.as_bytes())?;
        self.segment.sync_data()
    }

    fn write_head(&mut self, seq: u64, hash: &str) -> io::Result<()> {
        self.head.seek(SeekFrom::Start(0))?;
        self.head.write_all(head_text(seq, hash).as_bytes())?;
        self.head.sync_data()
    }

    fn next_segment(&mut self) -> io::Result<()> {
        let mut segment = writable(&self.dir.join(segment_name(self.number + 1)))?;
        sync_dir(&self.dir)?;
        self.len = segment.seek(SeekFrom::End(0))?;
        self.number += 1;
        self.segment = segment;
        Ok(())
    }
}

impl Sink for FileSink {
    fn append(&mut self, line: &str, seq: u64, hash: &str) -> io::Result<()> {
        if let Some(broken) = &self.broken {
            return Err(io::Error::other(broken.clone()));
        }
        if self.len > SEGMENT_BYTES_MAX {
            self.next_segment()?;
        }
        let written = self.write_line(line).and_then(|()| self.write_head(seq, hash));
        if let Err(error) = written {
            // Nothing of the line may stay, or the next one would not follow.
            let undone = self
                .segment
                .set_len(self.len)
                .and_then(|()| self.segment.seek(SeekFrom::Start(self.len)).map(drop));
            if let Err(undo) = undone {
                self.broken = Some(format!("{error}; then it could not be undone: {undo}"));
            }
            return Err(error);
        }
        self.len += u64::try_from(line.len()).unwrap_or_default();
        Ok(())
    }
}

fn damage_text(dir: &Path, tampering: &str) -> String {
    format!(
        "the audit record is damaged ({tampering}): run `evenkeel audit verify`, then move {} \
         away to start a new one",
        dir.display()
    )
}

fn writable(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

pub(crate) fn segment_name(number: u32) -> String {
    format!("{number:06}.jsonl")
}

/// HEAD's one line: always of the same length, so that it can be overwritten in place.
fn head_text(seq: u64, hash: &str) -> String {
    format!("1 {seq:020} {hash}\n")
}

/// Reads HEAD; `Ok(None)` when there is none (or none yet).
pub(crate) fn read_head(dir: &Path) -> io::Result<Option<Tip>> {
    let mut file = match File::open(dir.join("HEAD")) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    let mut words = text.split_whitespace();
    let (version, seq, hash) = (words.next(), words.next(), words.next());
    let tip = match (version, seq.and_then(|seq| seq.parse().ok()), hash) {
        (Some("1"), Some(seq), Some(hash)) => Tip { seq, hash: hash.to_owned() },
        _ if text.is_empty() => return Ok(None),
        _ => return Err(io::Error::other("it is not readable")),
    };
    Ok(Some(tip))
}
