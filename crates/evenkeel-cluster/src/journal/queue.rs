//! Changes on their way to the journal, and who waits for them.

use std::collections::VecDeque;

use futures::channel::oneshot;

use super::{Entry, JournalError};

/// A change that is not known to be kept.
pub(super) struct Pending {
    pub(super) revision: u64,
    pub(super) entry: Entry,
    /// May be seen as soon as everything before it may be.
    pub(super) is_lazy: bool,
}

/// The answer that a writer gets.
pub(super) type Told = Result<(), JournalError>;

/// Changes on their way to the journal, oldest first.
#[derive(Default)]
pub(crate) struct Queue {
    pub(super) entries: VecDeque<Pending>,
    /// Writers that wait until a revision is safe, in this order.
    pub(super) waiting: VecDeque<(u64, oneshot::Sender<Told>)>,
    /// Waiting writers whose answer is known; it is sent after the lock is released.
    pub(crate) told: Vec<(oneshot::Sender<Told>, Told)>,
    /// Whether the keeper should look.
    pub(crate) is_fresh: bool,
    pub(super) is_stopped: bool,
}
