//! Virtual time, and the clocks of several processes in it.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use evenkeel_base::Clock;
use evenkeel_control::{BoxFuture, Timer};
use futures::{FutureExt as _, channel::oneshot};
use jiff::{SignedDuration, Timestamp};

/// Time that advances only on request.
pub(crate) struct Time {
    now: Mutex<Timestamp>,
    alarms: Mutex<Vec<(Timestamp, oneshot::Sender<()>)>>,
}

impl Default for Time {
    fn default() -> Self {
        Self { now: Mutex::new(start()), alarms: Mutex::default() }
    }
}

/// When every world begins.
pub(crate) fn start() -> Timestamp {
    Timestamp::from_second(1_700_000_000).unwrap()
}

impl Time {
    pub(crate) fn steady(&self) -> Timestamp {
        *self.now.lock().unwrap()
    }

    /// Milliseconds since the world began.
    pub(crate) fn elapsed_ms(&self) -> i64 {
        self.steady().as_millisecond() - start().as_millisecond()
    }

    pub(crate) fn set(&self, at: Timestamp) {
        let mut now = self.now.lock().unwrap();
        *now = at.max(*now);
    }

    /// Advances to the next alarm, if there is one up to `end`; whether there was.
    pub(crate) fn leap(&self, end: Timestamp) -> bool {
        let next = {
            let mut alarms = self.alarms.lock().unwrap();
            alarms.retain(|(_, to)| !to.is_canceled());
            // The first of several at one instant: alarms ring in the order in which they were set.
            let first = alarms.iter().enumerate().min_by_key(|(_, (at, _))| *at);
            match first {
                Some((index, (at, _))) if *at <= end => Some(alarms.remove(index)),
                _ => None,
            }
        };
        let Some((at, to)) = next else { return false };
        self.set(at);
        to.send(()).unwrap_or_default();
        true
    }
}

impl Timer for Time {
    fn sleep(&self, wait: Duration) -> BoxFuture<'static, ()> {
        let (to, from) = oneshot::channel();
        let wait = SignedDuration::try_from(wait).unwrap();
        let at = self.steady().checked_add(wait).unwrap_or(Timestamp::MAX);
        self.alarms.lock().unwrap().push((at, to));
        from.map(drop).boxed()
    }
}

/// The clock of one process: its wall clock may be wrong, and may be set.
#[derive(Clone)]
pub(crate) struct Watch {
    pub(crate) time: Arc<Time>,
    pub(crate) ahead_ms: Arc<AtomicI64>,
}

impl Watch {
    pub(crate) fn new(time: &Arc<Time>) -> Self {
        Self { time: time.clone(), ahead_ms: Arc::default() }
    }

    pub(crate) fn set_ahead(&self, seconds: i64) {
        self.ahead_ms.store(seconds * 1_000, Ordering::Relaxed);
    }
}

impl Clock for Watch {
    fn now(&self) -> Timestamp {
        let ahead = SignedDuration::from_millis(self.ahead_ms.load(Ordering::Relaxed));
        self.time.steady().checked_add(ahead).unwrap()
    }

    fn steady(&self) -> Timestamp {
        self.time.steady()
    }
}
