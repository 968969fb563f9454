//! Virtual time, and what happened in it.

use std::{
    fmt::Write as _,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use evenkeel_base::Clock;
use evenkeel_control::{BoxFuture, Timer};
use jiff::{SignedDuration, Timestamp};

/// When every run begins, in seconds of the Unix epoch: 2025-01-01, so that runs can be compared.
const START_S: i64 = 1_735_689_600;

/// Time that jumps to the next thing to happen, as tokio's paused clock does.
///
/// The wall clock may be set, as a person or NTP does; waits and the even clock do not notice.
pub struct VirtualTime {
    began: tokio::time::Instant,
    start: Timestamp,
    /// By how much the wall clock was set, in milliseconds.
    off_ms: AtomicI64,
}

impl VirtualTime {
    /// Begins now. Needs a tokio runtime whose clock is paused.
    pub fn begin() -> Self {
        let start = Timestamp::from_second(START_S).unwrap_or(Timestamp::UNIX_EPOCH);
        Self { began: tokio::time::Instant::now(), start, off_ms: AtomicI64::new(0) }
    }

    /// Sets the wall clock forward by this, or back.
    pub fn step(&self, by: SignedDuration) {
        let by = i64::try_from(by.as_millis()).unwrap_or(i64::MAX);
        self.off_ms.fetch_add(by, Ordering::Relaxed);
    }

    /// Time since the beginning.
    pub fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// Waits until this long after the beginning.
    pub async fn until(&self, elapsed: Duration) {
        tokio::time::sleep_until(self.began + elapsed).await;
    }
}

impl Clock for VirtualTime {
    fn now(&self) -> Timestamp {
        let off = SignedDuration::from_millis(self.off_ms.load(Ordering::Relaxed));
        self.steady().saturating_add(off).unwrap_or(Timestamp::MAX)
    }

    fn steady(&self) -> Timestamp {
        self.start + self.elapsed()
    }
}

impl Timer for VirtualTime {
    fn sleep(&self, wait: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(wait))
    }
}

/// Whole milliseconds.
pub(crate) fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

/// What happened, line by line. Cheap to clone; clones write the same lines.
#[derive(Clone)]
pub(crate) struct Trace {
    time: Arc<VirtualTime>,
    lines: Arc<Mutex<String>>,
}

impl Trace {
    /// An empty one.
    pub(crate) fn new(time: Arc<VirtualTime>) -> Self {
        Self { time, lines: Arc::default() }
    }

    /// Something happened now.
    pub(crate) fn say(&self, what: &str) {
        let ms = self.time.elapsed().as_millis();
        let (minutes, seconds, rest) = (ms / 60_000, ms / 1_000 % 60, ms % 1_000);
        let mut lines = locked(&self.lines);
        // Writing to a String cannot fail.
        writeln!(lines, "{minutes:>3}:{seconds:02}.{rest:03} {what}").unwrap_or_default();
    }

    /// All lines so far.
    pub(crate) fn text(&self) -> String {
        locked(&self.lines).clone()
    }
}

/// A lock that outlives panics of other holders.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
