//! A disk that loses and tears what was not synced, has an end, and fails on request.

use std::{
    io::{Error, ErrorKind},
    ops::Bound,
    sync::{Arc, Mutex, MutexGuard},
};

use evenkeel_base::Rng;
use redb::{BackendError, Builder, Database, DatabaseError, StorageBackend};

use super::super::file::{RedbJournal, Why, begin};

/// Shared by all who have it open.
#[derive(Debug, Clone, Default)]
pub(super) struct Disk(Arc<Mutex<Platters>>);

#[derive(Debug, Default)]
struct Platters {
    /// What is certain to be there after the power fails.
    safe: Vec<u8>,
    /// What is read until then.
    seen: Vec<u8>,
    unsynced: Vec<Change>,
    /// Operations until the next ones fail.
    good: Option<u64>,
    /// How many fail before it works again; without a number all do.
    bad: Option<u64>,
}

#[derive(Debug)]
enum Change {
    Write(usize, Vec<u8>),
    Length(usize),
}

fn apply(bytes: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Length(length) => bytes.resize(*length, 0),
        Change::Write(at, data) => {
            let end = at + data.len();
            if bytes.len() < end {
                bytes.resize(end, 0);
            }
            bytes[*at..end].copy_from_slice(data);
        }
    }
}

impl Disk {
    fn platters(&self) -> MutexGuard<'_, Platters> {
        self.0.lock().unwrap()
    }

    /// The bytes as a reader finds them.
    pub(super) fn bytes(&self) -> Vec<u8> {
        self.platters().seen.clone()
    }

    /// A disk with these bytes.
    pub(super) fn with(bytes: Vec<u8>) -> Self {
        let platters = Platters { safe: bytes.clone(), seen: bytes, ..Platters::default() };
        Self(Arc::new(Mutex::new(platters)))
    }

    /// After `good` more operations, so many fail; `None`: all that follow.
    pub(super) fn fail(&self, good: u64, bad: Option<u64>) {
        let mut platters = self.platters();
        (platters.good, platters.bad) = (Some(good), bad);
    }

    /// Works again.
    pub(super) fn mend(&self) {
        self.platters().good = None;
    }

    /// Power goes and comes back: of what was not synced some is there, some torn, some lost.
    pub(super) fn crash(&self, rng: &mut Rng) {
        let mut platters = self.platters();
        let mut safe = std::mem::take(&mut platters.safe);
        for change in std::mem::take(&mut platters.unsynced) {
            match (rng.below(3), change) {
                (0, _) => {}
                (1, Change::Write(at, mut data)) => {
                    let kept = rng.below(u64::try_from(data.len()).unwrap());
                    data.truncate(usize::try_from(kept).unwrap());
                    apply(&mut safe, &Change::Write(at, data));
                }
                (_, change) => apply(&mut safe, &change),
            }
        }
        platters.seen.clone_from(&safe);
        platters.safe = safe;
        platters.good = None;
    }

    /// A journal on this disk.
    pub(super) fn journal(&self) -> Result<RedbJournal, super::JournalError> {
        let disk = self.clone();
        let open = move |builder: &Builder, why| disk.database(builder, why);
        RedbJournal::over("disk".to_owned(), Box::new(open))
    }

    fn database(&self, builder: &Builder, _: Why) -> Result<Database, DatabaseError> {
        builder.create_with_backend(self.clone())
    }

    /// Makes an empty database.
    pub(super) fn formatted() -> Self {
        let disk = Self::default();
        let db = Builder::new().create_with_backend(disk.clone()).unwrap();
        begin(&db).unwrap();
        drop(db);
        disk
    }
}

impl Platters {
    /// Whether an operation succeeds.
    fn operate(&mut self) -> Result<(), Error> {
        match &mut self.good {
            None => return Ok(()),
            Some(0) => {}
            Some(good) => {
                *good -= 1;
                return Ok(());
            }
        }
        match &mut self.bad {
            None => Err(Error::other("the power is off")),
            Some(0) => {
                self.good = None;
                Ok(())
            }
            Some(bad) => {
                *bad -= 1;
                Err(Error::new(ErrorKind::StorageFull, "no space left on device"))
            }
        }
    }

    fn change(&mut self, change: Change) -> Result<(), Error> {
        self.operate()?;
        apply(&mut self.seen, &change);
        self.unsynced.push(change);
        Ok(())
    }
}

fn place(number: u64) -> usize {
    usize::try_from(number).unwrap()
}

impl StorageBackend for Disk {
    fn len(&self) -> Result<u64, Error> {
        Ok(u64::try_from(self.platters().seen.len()).unwrap())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), Error> {
        let platters = self.platters();
        let from = place(offset);
        let found = platters.seen.get(from..from + out.len());
        out.copy_from_slice(found.ok_or(ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> Result<(), Error> {
        self.platters().change(Change::Length(place(len)))
    }

    fn sync_data(&self) -> Result<(), Error> {
        let mut platters = self.platters();
        platters.operate()?;
        let safe = platters.seen.clone();
        platters.safe = safe;
        platters.unsynced.clear();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), Error> {
        self.platters().change(Change::Write(place(offset), data.to_vec()))
    }

    fn try_lock_range(&self, _: Bound<u64>, _: Bound<u64>) -> Result<bool, BackendError> {
        Ok(true)
    }

    fn unlock_range(&self, _: Bound<u64>, _: Bound<u64>) -> Result<(), BackendError> {
        Ok(())
    }
}
