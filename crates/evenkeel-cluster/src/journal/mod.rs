//! Where changes are kept, before anybody sees them.
//!
//! ```text
//! writers -> State: tables, and a queue of changes that nobody sees yet
//!                 |                                   ^ settle (watchers wake, writers are told)
//!                 +--batch--> Keeper's thread --> Journal::write (one transaction, one fsync)
//!                                                     v undo (writers get the error)
//! ```
//! State stays the authority: it is read once, when the server starts. All that is queued while a
//! batch is being written is the next batch. What readers see is always a prefix of all changes in
//! the order of their revisions, so a failed batch is undone by going back to the end of that
//! prefix: nobody can have seen what is beyond.

mod file;
mod keeper;
mod pending;
mod queue;
mod snapshot;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use evenkeel_api::{Key, Obj};

use crate::error::ApiError;

pub use file::RedbJournal;
pub use keeper::{Flusher, Keeper};
pub(crate) use pending::Receipt;
pub(crate) use queue::Queue;
pub use snapshot::{restore, to_snapshot};

/// Where an [`crate::ApiServer`] keeps its changes.
pub trait Journal: Send + 'static {
    /// What earlier processes have kept. Called once, before anything is written.
    ///
    /// **Errors**: it cannot be read whole. Nothing is ever left out silently.
    fn read(&mut self) -> Result<Kept, JournalError>;

    /// Keeps all changes of a batch or none of them, and returns when they are safe.
    ///
    /// After an error the caller has undone those changes of the batch that nobody had seen: the
    /// next call must also put in place what was there before them, in case they were kept after
    /// all.
    fn write(&mut self, batch: &Batch) -> Result<(), JournalError>;
}

/// Changes that are kept together.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    /// Revision of the last change, or of the store when there is none.
    pub revision: u64,
    /// Where allocation continues.
    pub counters: Counters,
    /// In the order of their revisions.
    pub changes: Vec<Entry>,
}

/// One change of one object.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Of the object.
    pub key: Key,
    /// The object before; `None` when it was not there.
    pub before: Option<Arc<Obj>>,
    /// The object from now on; `None` when it has been removed.
    pub after: Option<Arc<Obj>>,
}

/// The last numbers that were handed out, so that a number is not used again soon.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Of the addresses of Services.
    pub address: u16,
    /// Of node ports.
    pub port: u16,
}

/// A whole store, as an earlier process left it.
#[derive(Debug, Clone, Default)]
pub struct Kept {
    /// Its revision; 0 when nothing has ever been written.
    pub revision: u64,
    /// Where allocation continues.
    pub counters: Counters,
    /// Its objects, in any order.
    pub objects: Vec<Arc<Obj>>,
}

/// Why something is not kept, or cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JournalError {
    /// No room is left where the journal is.
    #[error("{place} cannot grow: {problem}; make room there, then it goes on by itself")]
    Full {
        /// The file.
        place: String,
        /// What the system says.
        problem: String,
    },
    /// It cannot be written for another reason.
    #[error("{place} cannot be written: {problem}; it is tried again with the next change")]
    Write {
        /// The file.
        place: String,
        /// What the system says.
        problem: String,
    },
    /// It cannot be opened.
    #[error("{place} cannot be opened: {problem}")]
    Open {
        /// The file.
        place: String,
        /// What the system says.
        problem: String,
    },
    /// Another process has it.
    #[error("{place} is in use by another process: stop that one first")]
    InUse {
        /// The file.
        place: String,
    },
    /// Its content is not what was written.
    #[error(
        "{place} is damaged: {problem}; restore a snapshot (evenkeel snapshot restore FILE \
         --replace), or begin again without it (evenkeel up --fresh)"
    )]
    Damaged {
        /// The file.
        place: String,
        /// What does not fit.
        problem: String,
    },
    /// A later version has written it.
    #[error(
        "{place} has format {found}, and this version of evenkeel reads formats up to {known}: \
         use the version that wrote it, or begin again without it (evenkeel up --fresh)"
    )]
    Newer {
        /// The file.
        place: String,
        /// The format that it has.
        found: u64,
        /// The latest that this version knows.
        known: u64,
    },
    /// The server has stopped.
    #[error("the server is stopping: nothing is written any more")]
    Stopped,
}

impl From<&JournalError> for ApiError {
    fn from(error: &JournalError) -> Self {
        let message = format!("nothing was changed: {error}");
        match error {
            JournalError::Full { .. } => Self::new(507, "InsufficientStorage", message),
            _ => Self::new(503, "ServiceUnavailable", message),
        }
    }
}
