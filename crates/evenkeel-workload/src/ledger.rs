use std::{
    collections::HashSet,
    fs::{File, OpenOptions},
    io::{BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
};

use evenkeel_base::stable_hash;

/// Keys remembered in memory (8 bytes each). Beyond it the file is read for every request: slower,
/// still right.
const KEYS_MAX: usize = 1 << 20;

/// The file of executed POSTs, one line each, shared by all instances of all versions.
///
/// **Shape**: `MILLIS VERSION POD KEY\n`. An instance holds the file's lock while it looks a key
/// up and appends, so two of them never execute the same key. Lines are whole: a process that is
/// killed has either written its line or not.
pub struct Ledger {
    path: PathBuf,
    file: File,
    read_to: u64,
    seen: HashSet<u64>,
}

/// Why the ledger could not be used.
#[derive(Debug, thiserror::Error)]
#[error("ledger {path}")]
pub struct LedgerError {
    /// The file.
    pub path: String,
    /// What the system said.
    #[source]
    pub source: std::io::Error,
}

/// One line of the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Execution {
    /// When, in milliseconds of the Unix epoch.
    pub millis: i64,
    /// By which version.
    pub version: String,
    /// By which pod.
    pub pod: String,
    /// Under which Idempotency-Key.
    pub key: String,
}

impl Ledger {
    /// Opens the file, and makes it when it is not there.
    pub fn open(path: &Path) -> Result<Self, LedgerError> {
        let file = OpenOptions::new()
            .create(true)
            .read(true)
            .append(true)
            .open(path)
            .map_err(|source| LedgerError { path: path.display().to_string(), source })?;
        Ok(Self { path: path.to_owned(), file, read_to: 0, seen: HashSet::new() })
    }

    /// Whether a key has been executed by any instance.
    pub fn contains(&mut self, key: &str) -> Result<bool, LedgerError> {
        self.locked(|ledger| ledger.look_up(key))
    }

    /// Records an execution unless its key is there already; says whether it was recorded.
    pub fn execute(&mut self, execution: &Execution) -> Result<bool, LedgerError> {
        let Execution { millis, version, pod, key } = execution;
        self.locked(|ledger| {
            if ledger.look_up(key)? {
                return Ok(false);
            }
            let line = format!("{millis} {version} {pod} {key}\n");
            (&ledger.file).write_all(line.as_bytes())?;
            Ok(true)
        })
    }

    fn locked<T>(
        &mut self,
        work: impl FnOnce(&mut Self) -> std::io::Result<T>,
    ) -> Result<T, LedgerError> {
        let result = self.file.lock().and_then(|()| {
            let result = work(self);
            self.file.unlock()?;
            result
        });
        result.map_err(|source| LedgerError { path: self.path.display().to_string(), source })
    }

    /// Reads what others appended since the last look, then answers for `key`.
    fn look_up(&mut self, key: &str) -> std::io::Result<bool> {
        let mut fresh = String::new();
        (&self.file).seek(SeekFrom::Start(self.read_to))?;
        (&self.file).read_to_string(&mut fresh)?;
        self.read_to += u64::try_from(fresh.len()).unwrap_or_default();
        let hashes = fresh.lines().filter_map(key_of).map(|key| stable_hash(key.as_bytes()));
        for hash in hashes {
            if self.seen.len() < KEYS_MAX {
                self.seen.insert(hash);
            }
        }
        let certain =
            self.seen.len() < KEYS_MAX && !self.seen.contains(&stable_hash(key.as_bytes()));
        if certain {
            return Ok(false);
        }
        // Two keys may share a hash: only the file itself can say yes.
        (&self.file).seek(SeekFrom::Start(0))?;
        for line in BufReader::new(&self.file).lines() {
            if key_of(&line?) == Some(key) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Every execution in the file at `path`, in order; a file that is not there has none.
pub fn executions(path: &Path) -> Result<Vec<Execution>, LedgerError> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(source) => return Err(LedgerError { path: path.display().to_string(), source }),
    };
    let parse = |line: &str| {
        let mut words = line.splitn(4, ' ').map(str::to_owned);
        let millis = words.next()?.parse().ok()?;
        Some(Execution { millis, version: words.next()?, pod: words.next()?, key: words.next()? })
    };
    Ok(text.lines().filter_map(parse).collect())
}

fn key_of(line: &str) -> Option<&str> {
    line.splitn(4, ' ').nth(3)
}
