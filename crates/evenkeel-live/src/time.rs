use std::time::{Duration, Instant};

use evenkeel_base::Clock;
use evenkeel_control::{BoxFuture, Timer};
use jiff::{SignedDuration, Timestamp};

/// Real time: the wall clock at the start, carried on by the monotonic clock, so that a person
/// who sets the clock does not stretch or cut an analysis.
#[derive(Debug, Clone, Copy)]
pub struct RealTime {
    started: Timestamp,
    since: Instant,
}

impl RealTime {
    /// Reads the wall clock once.
    pub fn start() -> Self {
        Self { started: Timestamp::now(), since: Instant::now() }
    }
}

impl Clock for RealTime {
    fn now(&self) -> Timestamp {
        let passed = SignedDuration::try_from(self.since.elapsed()).unwrap_or(SignedDuration::MAX);
        self.started.checked_add(passed).unwrap_or(Timestamp::MAX)
    }
}

impl Timer for RealTime {
    fn sleep(&self, wait: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(wait))
    }
}
