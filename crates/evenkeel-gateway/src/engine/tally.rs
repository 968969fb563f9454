//! What is counted of connections that are carried as bytes.
//!
//! Shared by all engines: connections are few beside requests, so the counters are plain atomics.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::sample::{Sample, Subject, float};

/// Connections of clients, by how they began.
pub const TCP_CONNECTIONS: &str = "evenkeel_gateway_tcp_connections_total";
/// Those that are open.
pub const TCP_CONNECTIONS_OPEN: &str = "evenkeel_gateway_tcp_connections_open";
/// Bytes that were passed on.
pub const TCP_BYTES: &str = "evenkeel_gateway_tcp_bytes_total";
/// Connections made to endpoints.
pub const TCP_CONNECTS: &str = "evenkeel_gateway_tcp_connects_total";
/// Connections that endpoints did not take.
pub const TCP_CONNECT_FAILURES: &str = "evenkeel_gateway_tcp_connect_failures_total";

/// Name and type of each metric, in the order of the samples.
pub(super) const TCP_METRICS: [(&str, &str); 5] = [
    (TCP_CONNECTIONS, "counter"),
    (TCP_CONNECTIONS_OPEN, "gauge"),
    (TCP_BYTES, "counter"),
    (TCP_CONNECTS, "counter"),
    (TCP_CONNECT_FAILURES, "counter"),
];

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the client to the endpoint.
    In,
    /// From the endpoint to the client.
    Out,
}

/// Counters of one subject: a Service that clients asked, or a workload that was connected to.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Reached an endpoint.
    pub(super) made: AtomicU64,
    /// Of a Service: no endpoint took them. Of a workload: it did not.
    pub(super) refused: AtomicU64,
    /// There was no endpoint.
    pub(super) nowhere: AtomicU64,
    pub(super) open: AtomicU64,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
}

/// All tallies.
#[derive(Debug, Default)]
pub(super) struct Tallies(Mutex<BTreeMap<Subject, Arc<Tally>>>);

impl Tally {
    pub(super) fn passed(&self, direction: Direction, bytes: u64) {
        let counter = match direction {
            Direction::In => &self.bytes_in,
            Direction::Out => &self.bytes_out,
        };
        counter.fetch_add(bytes, Ordering::Relaxed);
    }

    fn values(&self, name: &str) -> Vec<(Option<(&'static str, &'static str)>, &AtomicU64)> {
        match name {
            TCP_CONNECTIONS => vec![
                (Some(("flag", "-")), &self.made),
                (Some(("flag", "UF")), &self.refused),
                (Some(("flag", "UH")), &self.nowhere),
            ],
            TCP_CONNECTIONS_OPEN => vec![(None, &self.open)],
            TCP_BYTES => vec![
                (Some(("direction", "in")), &self.bytes_in),
                (Some(("direction", "out")), &self.bytes_out),
            ],
            TCP_CONNECTS => vec![(None, &self.made)],
            _ => vec![(None, &self.refused)],
        }
    }
}

impl Tallies {
    pub(super) fn of(&self, subject: &Subject) -> Arc<Tally> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.entry(subject.clone()).or_default().clone()
    }

    /// Calls `each` with every sample, grouped by metric name.
    pub(super) fn samples(&self, each: &mut impl FnMut(Sample)) {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (name, _) in TCP_METRICS {
            let of_workloads = matches!(name, TCP_CONNECTS | TCP_CONNECT_FAILURES);
            let own = all.iter().filter(|(subject, _)| subject.attempts() == of_workloads);
            for (subject, tally) in own {
                for (label, counter) in tally.values(name) {
                    let mut labels = subject.labels();
                    labels.extend(label.map(|(name, value)| (name, value.to_owned())));
                    each(Sample { name, labels, value: float(counter.load(Ordering::Relaxed)) });
                }
            }
        }
    }
}
