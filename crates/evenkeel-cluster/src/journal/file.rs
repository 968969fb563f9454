//! A journal in one redb file.
//!
//! **Shape**: table `objects`: group, kind, namespace and name to the object's JSON; table `meta`:
//! `format`, `revision`, `objects` (their number) and the counters. It is the present state, not a
//! log: a server reads it whole when it starts, and never again.

use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    io::ErrorKind,
    os::unix::fs::OpenOptionsExt as _,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::Arc,
};

use evenkeel_api::{Key, Obj};
use redb::{
    Builder, Database, DatabaseError, ReadableDatabase as _, ReadableTable as _,
    ReadableTableMetadata as _, TableDefinition, WriteTransaction,
};

use super::{Batch, Counters, Entry, Journal, JournalError, Kept};

const OBJECTS: TableDefinition<'_, (&str, &str, &str, &str), &[u8]> =
    TableDefinition::new("objects");
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");

/// Brings a file from one format to the next.
pub(super) type Step = fn(&WriteTransaction) -> Result<(), redb::Error>;
/// From format 1 to 2, from 2 to 3 and so on.
const STEPS: &[Step] = &[];

/// Memory for pages. The objects are in memory already, and pages are read once.
const CACHE_BYTES: usize = 8 << 20;

/// Opens the database: a production one is a file, a test may give any backend.
pub(super) type Opener =
    Box<dyn FnMut(&Builder, Why) -> Result<Database, DatabaseError> + Send + 'static>;

/// Why a database is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    /// To be read.
    Start,
    /// To go on after an error.
    Again,
}

/// A journal in one file of redb; one process has it at a time.
pub struct RedbJournal {
    place: String,
    open: Opener,
    db: Option<Database>,
    /// What was there before changes that were undone, but may have been written.
    doubtful: BTreeMap<Key, Option<Arc<Obj>>>,
}

impl RedbJournal {
    /// The journal in this file, which is made, for its owner alone, when it is not there.
    ///
    /// **Errors**: it cannot be opened, or another process has it.
    pub fn open(file: &Path) -> Result<Self, JournalError> {
        let place = file.display().to_string();
        if !file.try_exists().map_err(|error| refused(&place, error.into()))? {
            make(file).map_err(|error| refused(&place, error))?;
        }
        let path = file.to_owned();
        let open = move |builder: &Builder, _| {
            // redb would take an empty file for a new one, and not notice that all is lost.
            if path.metadata().map_err(redb::StorageError::Io)?.len() == 0 {
                return Err(redb::StorageError::Corrupted("the file is empty".to_owned()).into());
            }
            builder.open(&path)
        };
        Self::over(place, Box::new(open))
    }

    /// A journal in what `open` opens.
    pub(super) fn over(place: String, open: Opener) -> Result<Self, JournalError> {
        let mut journal = Self { place, open, db: None, doubtful: BTreeMap::new() };
        journal.db = Some(journal.opened(Why::Start)?);
        Ok(journal)
    }

    fn opened(&mut self, why: Why) -> Result<Database, JournalError> {
        let mut builder = Builder::new();
        // After an error redb looks at what it has to by itself.
        builder.set_cache_size(CACHE_BYTES).set_check_integrity_on_open(why == Why::Start);
        let open = &mut self.open;
        let opened = guarded(|| Ok(open(&builder, why)?));
        opened.map_err(|error| refused(&self.place, error))
    }

    fn write_now(&mut self, batch: &Batch) -> Result<(), redb::Error> {
        let mut latest: BTreeMap<&Key, Option<&Arc<Obj>>> =
            self.doubtful.iter().map(|(key, before)| (key, before.as_ref())).collect();
        latest.extend(batch.changes.iter().map(|entry| (&entry.key, entry.after.as_ref())));
        let db = self.db.as_ref().ok_or(redb::Error::DatabaseClosed)?;
        let transaction = db.begin_write()?;
        {
            let mut objects = transaction.open_table(OBJECTS)?;
            for (key, obj) in latest {
                let place = (&*key.kind.group, &*key.kind.kind, &*key.namespace, &*key.name);
                match obj {
                    Some(obj) => {
                        let body = serde_json::to_vec(obj.json()).map_err(std::io::Error::from)?;
                        objects.insert(place, &*body)?;
                    }
                    None => {
                        objects.remove(place)?;
                    }
                }
            }
            let mut meta = transaction.open_table(META)?;
            for (name, number) in [
                ("revision", batch.revision),
                ("address", batch.counters.address.into()),
                ("port", batch.counters.port.into()),
                ("objects", objects.len()?),
            ] {
                meta.insert(name, number)?;
            }
        }
        transaction.commit()?;
        Ok(())
    }
}

impl Journal for RedbJournal {
    fn read(&mut self) -> Result<Kept, JournalError> {
        let place = &self.place;
        let db = self.db.as_ref().ok_or(redb::Error::DatabaseClosed);
        let db = db.map_err(|error| refused(place, error))?;
        let found = guarded(|| format_of(db)).map_err(|error| refused(place, error))?;
        let known = format(STEPS);
        if found > known {
            return Err(JournalError::Newer { place: place.clone(), found, known });
        }
        guarded(|| {
            migrate(db, found, STEPS)?;
            load(db)
        })
        .map_err(|error| refused(place, error))
    }

    fn write(&mut self, batch: &Batch) -> Result<(), JournalError> {
        if self.db.is_none() {
            let opened = self.opened(Why::Again).map_err(|error| match error {
                // Every refused write says so; the disk must be mended.
                JournalError::Open { place, problem } => JournalError::Write { place, problem },
                error => error,
            });
            self.db = Some(self.put_in_doubt(batch, opened)?);
        }
        let written = guarded(|| self.write_now(batch));
        let written = written.map_err(|error| unwritten(&self.place, error));
        if written.is_err() {
            // After an error it writes no more: it is opened again.
            self.db = None;
        }
        self.put_in_doubt(batch, written)?;
        self.doubtful.clear();
        Ok(())
    }
}

impl RedbJournal {
    /// Remembers what a batch that failed may have overwritten.
    fn put_in_doubt<T>(
        &mut self,
        batch: &Batch,
        result: Result<T, JournalError>,
    ) -> Result<T, JournalError> {
        if result.is_err() {
            for Entry { key, before, .. } in &batch.changes {
                self.doubtful.entry(key.clone()).or_insert_with(|| before.clone());
            }
        }
        result
    }
}

/// The format that so many steps lead to.
fn format(steps: &[Step]) -> u64 {
    1 + u64::try_from(steps.len()).unwrap_or_default()
}

/// Makes a file with an empty database, as a whole or not at all.
fn make(file: &Path) -> Result<(), redb::Error> {
    let fresh: PathBuf = file.with_extension("new");
    match std::fs::remove_file(&fresh) {
        // Of a process that ended while it made it.
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error.into()),
    }
    let mut options = OpenOptions::new();
    let made = options.read(true).write(true).create_new(true).mode(0o600).open(&fresh)?;
    begin(&Builder::new().create_with_backend(redb::backends::FileBackend::new(made)?)?)?;
    std::fs::rename(&fresh, file)?;
    if let Some(folder) = file.parent() {
        File::open(folder)?.sync_all()?;
    }
    Ok(())
}

/// Writes into a new database which format it has.
pub(super) fn begin(db: &Database) -> Result<(), redb::Error> {
    let transaction = db.begin_write()?;
    transaction.open_table(OBJECTS)?;
    transaction.open_table(META)?.insert("format", format(STEPS))?;
    Ok(transaction.commit()?)
}

pub(super) fn format_of(db: &Database) -> Result<u64, redb::Error> {
    let meta = db.begin_read()?.open_table(META)?;
    let found = meta.get("format")?.map(|number| number.value());
    found.filter(|found| *found > 0).ok_or_else(|| damaged("it does not say its format"))
}

/// Takes the steps from this format to the present one, together or not at all.
pub(super) fn migrate(db: &Database, found: u64, steps: &[Step]) -> Result<(), redb::Error> {
    let taken = usize::try_from(found).unwrap_or(usize::MAX) - 1;
    let steps_left = steps.get(taken..).unwrap_or_default();
    if steps_left.is_empty() {
        return Ok(());
    }
    let transaction = db.begin_write()?;
    for step in steps_left {
        step(&transaction)?;
    }
    transaction.open_table(META)?.insert("format", format(steps))?;
    Ok(transaction.commit()?)
}

fn load(db: &Database) -> Result<Kept, redb::Error> {
    let transaction = db.begin_read()?;
    let meta = transaction.open_table(META)?;
    let number = |name: &str| -> Result<u64, redb::Error> {
        Ok(meta.get(name)?.map(|number| number.value()).unwrap_or_default())
    };
    let small = |name: &str| {
        u16::try_from(number(name)?).map_err(|_| damaged(&format!("{name} is too large")))
    };
    let mut objects = Vec::new();
    for row in transaction.open_table(OBJECTS)?.iter()? {
        let (place, body) = row?;
        let (group, kind, namespace, name) = place.value();
        let odd = |problem: &str| damaged(&format!("{kind} {namespace}/{name}: {problem}"));
        let body = serde_json::from_slice(body.value()).map_err(|error| odd(&error.to_string()))?;
        let obj = Obj::from_json(body).map_err(|error| odd(&error.to_string()))?;
        let key = obj.key();
        if (&*key.kind.group, &*key.kind.kind) != (group, kind)
            || (&*key.namespace, &*key.name) != (namespace, name)
        {
            return Err(odd("another object is in its place"));
        }
        objects.push(Arc::new(obj));
    }
    let (wanted, found) = (number("objects")?, u64::try_from(objects.len()).unwrap_or_default());
    if wanted != found {
        return Err(damaged(&format!("{found} of {wanted} objects are there")));
    }
    let counters = Counters { address: small("address")?, port: small("port")? };
    Ok(Kept { revision: number("revision")?, counters, objects })
}

fn damaged(problem: &str) -> redb::Error {
    redb::Error::Corrupted(problem.to_owned())
}

/// What redb does with a file that it did not write is not worth the process.
fn guarded<T>(work: impl FnOnce() -> Result<T, redb::Error>) -> Result<T, redb::Error> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|_| Err(damaged("reading it leads to a contradiction")))
}

fn refused(place: &str, error: redb::Error) -> JournalError {
    let (place, problem) = (place.to_owned(), error.to_string());
    match error {
        redb::Error::DatabaseAlreadyOpen => JournalError::InUse { place },
        redb::Error::Io(error)
            if !matches!(error.kind(), ErrorKind::InvalidData | ErrorKind::UnexpectedEof) =>
        {
            if is_full(&error) {
                return JournalError::Full { place, problem };
            }
            JournalError::Open { place, problem }
        }
        redb::Error::Corrupted(problem) => JournalError::Damaged { place, problem },
        _ => JournalError::Damaged { place, problem },
    }
}

fn unwritten(place: &str, error: redb::Error) -> JournalError {
    let (place, problem) = (place.to_owned(), error.to_string());
    match error {
        redb::Error::Io(error) if is_full(&error) => JournalError::Full { place, problem },
        _ => JournalError::Write { place, problem },
    }
}

fn is_full(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge
    )
}
