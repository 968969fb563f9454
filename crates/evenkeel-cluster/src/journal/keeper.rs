//! Carries what is queued to the journal.

use std::{
    sync::{Arc, PoisonError},
    thread::JoinHandle,
    time::Duration,
};

use super::{Journal, JournalError};
use crate::state::{Shared, State};

/// How long a change that everybody may see already waits for company. It is what a crash may cost
/// of Events and Leases.
const LAZY: Duration = Duration::from_secs(1);

/// Writes to the journal on request. For tests, and for hosts with threads of their own.
pub struct Flusher {
    shared: Arc<Shared>,
    journal: Box<dyn Journal>,
    is_failing: bool,
}

impl Flusher {
    pub(crate) fn new(shared: Arc<Shared>, journal: Box<dyn Journal>) -> Self {
        Self { shared, journal, is_failing: false }
    }

    /// Writes everything that is queued as one batch, then shows it. All that comes meanwhile is
    /// the next batch.
    ///
    /// **Errors**: the journal's. What nobody had seen has been undone, and its writers know.
    pub fn flush(&mut self) -> Result<(), JournalError> {
        let batch = self.shared.with(|state| state.batch());
        let written = self.journal.write(&batch);
        self.shared.with(|state| match &written {
            Ok(()) => state.settle(batch.revision),
            Err(error) => state.undo(error),
        });
        match &written {
            Ok(()) if self.is_failing => tracing::info!("the journal is written again"),
            // Once: each writer gets the error as well.
            Err(error) if !self.is_failing => tracing::error!(%error, "changes are refused"),
            _ => {}
        }
        self.is_failing = written.is_err();
        written
    }

    /// Writes from now on whenever something is to be written, on a thread of its own.
    ///
    /// **Errors**: no thread can be had.
    pub fn start(mut self) -> std::io::Result<Keeper> {
        let shared = self.shared.clone();
        let end = End(shared.clone());
        let thread = std::thread::Builder::new().name("journal".to_owned()).spawn(move || {
            let _end = end;
            while self.wait() {
                // Reported already.
                self.flush().unwrap_or_default();
            }
            // What is left.
            self.flush().unwrap_or_default();
        })?;
        Ok(Keeper { shared, thread: Some(thread) })
    }

    /// Waits for something to write; false when it is time to end.
    fn wait(&self) -> bool {
        let shared = &self.shared;
        let state = shared.lock();
        let idle = shared.work.wait_while(state, |state| !state.is_stopped() && !state.is_unkept());
        let state = idle.unwrap_or_else(PoisonError::into_inner);
        let calm = |state: &mut State| !state.is_stopped() && !state.is_urgent();
        let calm = shared.work.wait_timeout_while(state, LAZY, calm);
        let (state, _) = calm.unwrap_or_else(PoisonError::into_inner);
        !state.is_stopped()
    }
}

/// However the thread ends, nobody waits for it afterwards.
struct End(Arc<Shared>);

impl Drop for End {
    fn drop(&mut self) {
        self.0.with(|state| {
            state.stop_writing();
            state.undo(&JournalError::Stopped);
        });
    }
}

/// A journal that is being written; dropping it writes the rest and ends all writing.
pub struct Keeper {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.shared.with(State::stop_writing);
        self.shared.work.notify_one();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the journal's thread broke");
        }
    }
}
