use jiff::Timestamp;

/// The only source of "now". Hosts implement it; tests and the simulator steer it.
pub trait Clock: Send + Sync {
    /// Present time. May step back (a person set the clock): callers saturate differences.
    fn now(&self) -> Timestamp;

    /// Monotonic time: it cannot be set, and it counts suspend. For alarms and waits within one
    /// process; only differences mean something, so it never goes into an object.
    fn steady(&self) -> Timestamp {
        self.now()
    }
}

/// A clock that stands still, for tests.
#[derive(Debug, Clone, Copy)]
pub struct FixedClock(pub Timestamp);

impl Clock for FixedClock {
    fn now(&self) -> Timestamp {
        self.0
    }
}
