//! Who writes the lines: the caller itself, or a thread of its own that takes many at once.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
        mpsc::{self, RecvTimeoutError},
    },
    thread::JoinHandle,
    time::Duration,
};

use crate::{
    book::{Ask, Book, LATE_MAX, Request, Sink, What},
    counters::Counters,
};

/// Lines written together at most: keeps one write, and what a crash can tear, small.
const BATCH_MAX: usize = 256;
/// Lines on their way to the thread at most, while the disk does not answer.
const QUEUE_MAX: usize = LATE_MAX;
/// Refusals and outcomes need not be durable before anything else happens; this long they may wait
/// for the sync of a later action.
const SYNC_LINGER: Duration = Duration::from_secs(1);
/// How often lines that could not be written are tried again without a new one.
const RETRY: Duration = Duration::from_secs(5);

/// Takes lines and writes them, now or soon.
pub trait Record: Send + Sync {
    /// Hands a line over. Does not wait.
    #[doc(hidden)]
    fn submit(&self, request: Request);
}

/// Writes at once, in the caller's thread: for records in memory.
pub struct Inline<S> {
    book: Mutex<Book<S>>,
}

impl<S> Inline<S> {
    pub(crate) fn new(book: Book<S>) -> Self {
        Self { book: Mutex::new(book) }
    }

    pub(crate) fn book(&self) -> MutexGuard<'_, Book<S>> {
        // A panic elsewhere leaves at worst a line unwritten, which the next one notices.
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: Sink> Record for Inline<S> {
    fn submit(&self, request: Request) {
        let mut book = self.book();
        book.commit(vec![request]);
        while book.has_more() && !book.is_late() && !book.is_troubled() {
            book.commit(Vec::new());
        }
    }
}

/// A thread that writes, so that no runtime waits for a disk or a database. What comes in while it
/// writes becomes one batch with one sync.
pub struct Writer {
    queue: Option<mpsc::Sender<Request>>,
    waiting: Arc<AtomicUsize>,
    lost: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
    pub(crate) counters: Arc<Counters>,
    /// Where the lines go, for messages.
    pub(crate) name: String,
    /// Whether others write there too.
    pub(crate) is_shared: bool,
}

impl Writer {
    /// Starts the thread.
    ///
    /// **Errors**: the system has no more threads.
    pub(crate) fn start(book: Book<impl Sink + 'static>) -> std::io::Result<Self> {
        let (queue, requests) = mpsc::channel();
        let (waiting, lost) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicU64::new(0)));
        let counters = book.counters.clone();
        let worker = Worker { book, requests, waiting: waiting.clone(), lost: lost.clone() };
        let thread =
            std::thread::Builder::new().name("audit".to_owned()).spawn(move || worker.run())?;
        Ok(Self {
            queue: Some(queue),
            waiting,
            lost,
            thread: Some(thread),
            counters,
            name: String::new(),
            is_shared: false,
        })
    }
}

impl Record for Writer {
    fn submit(&self, request: Request) {
        if self.waiting.load(Relaxed) >= QUEUE_MAX {
            return refuse(request, &self.lost, "too many lines wait to be written");
        }
        self.waiting.fetch_add(1, Relaxed);
        let sent = match &self.queue {
            Some(queue) => queue.send(request).map_err(|unsent| unsent.0),
            None => Err(request),
        };
        if let Err(request) = sent {
            refuse(request, &self.lost, "its thread has ended");
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // The thread writes what is in the queue, syncs, and ends.
        self.queue = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread of the audit record panicked");
        }
    }
}

/// Answers a request that cannot be taken any more.
fn refuse(request: Request, lost: &AtomicU64, why: &str) {
    let What::Ask(Ask { safer, ticket, reply, .. }) = request.what else {
        lost.fetch_add(1, Relaxed);
        return;
    };
    let answer = if safer {
        lost.fetch_add(1, Relaxed);
        Ok(ticket)
    } else {
        Err(why.to_owned())
    };
    reply.send(answer).unwrap_or_default();
}

struct Worker<S> {
    book: Book<S>,
    requests: mpsc::Receiver<Request>,
    waiting: Arc<AtomicUsize>,
    lost: Arc<AtomicU64>,
}

impl<S: Sink> Worker<S> {
    fn run(mut self) {
        loop {
            let batch = match self.next() {
                Ok(first) => self.with_others(first),
                Err(RecvTimeoutError::Timeout) => Vec::new(),
                Err(RecvTimeoutError::Disconnected) => break,
            };
            self.book.lose(self.lost.swap(0, Relaxed));
            if batch.is_empty() && !self.book.is_late() && !self.book.has_more() {
                self.book.sync();
                self.book.look();
            } else {
                self.book.commit(batch);
            }
        }
        if self.book.is_late() || self.book.has_more() {
            self.book.commit(Vec::new());
        }
        if self.book.is_late() {
            // What was done was logged when it was done.
            tracing::error!(
                lines = self.book.late_len(),
                "the audit record is still away: lines that wait for it are lost with this process"
            );
        }
        self.book.sync();
    }

    /// The next request, or a timeout when there is something to do without one.
    fn next(&self) -> Result<Request, RecvTimeoutError> {
        // While it fails, not again and again at once.
        let wait = if self.book.has_more() && !self.book.is_troubled() {
            Duration::ZERO
        } else if self.book.is_late() || self.book.is_troubled() {
            RETRY
        } else if self.book.sink.is_dirty() {
            SYNC_LINGER
        } else {
            return self.requests.recv().map_err(|_| RecvTimeoutError::Disconnected);
        };
        self.requests.recv_timeout(wait)
    }

    fn with_others(&self, first: Request) -> Vec<Request> {
        let mut batch = vec![first];
        while batch.len() < BATCH_MAX
            && let Ok(request) = self.requests.try_recv()
        {
            batch.push(request);
        }
        self.waiting.fetch_sub(batch.len(), Relaxed);
        batch
    }
}
