//! The port between the gateway's controller and whatever carries the traffic.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use evenkeel_control::BoxFuture;

use crate::engine::{Snapshot, Switches};

/// What changed last; code that waits for workers compares two of these.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// The generation that every worker runs.
    pub acknowledged: u64,
    /// Grows whenever an endpoint that gets no new requests has none left.
    pub emptied: u64,
}

/// An injected fault: workers apply each configuration this much later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lag {
    /// The first late worker; those after it are late, too. From 0, which is all of them.
    pub worker: usize,
    /// How much later.
    pub delay: Duration,
}

impl Lag {
    /// How late a worker is.
    pub fn of(lag: Option<Self>, worker: usize) -> Option<Duration> {
        lag.filter(|lag| worker >= lag.worker).map(|lag| lag.delay)
    }
}

/// Runs configurations: `shell::Gateway` on sockets, the simulator on engines.
pub trait DataPlane: Send + Sync {
    /// Hands over a configuration. Returns the addresses that cannot be served, and why.
    fn apply(&self, snapshot: &Arc<Snapshot>) -> BTreeMap<SocketAddr, String>;

    /// How far all workers are.
    fn progress(&self) -> Progress;

    /// Ready as soon as the progress is not `seen` any more.
    fn progressed(&self, seen: Progress) -> BoxFuture<'static, ()>;

    /// Requests on the endpoints of this pod address that are not finished, over all workers.
    fn in_flight_at(&self, address: IpAddr) -> u32;

    /// Safeguards it was started with.
    fn switches(&self) -> Switches;
}
