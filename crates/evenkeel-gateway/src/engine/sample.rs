//! What a series is about, and its value.

use std::sync::Arc;

/// What a series belongs to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// Attempts on the endpoints of a workload through a Service.
    Attempts {
        /// Namespace of Service and workload.
        namespace: Arc<str>,
        /// Service name.
        service: Arc<str>,
        /// Workload name.
        workload: Arc<str>,
    },
    /// Requests to a Service's or Gateway's address.
    Requests {
        /// Its namespace.
        namespace: Arc<str>,
        /// Its name.
        service: Arc<str>,
    },
}

impl Subject {
    pub(super) fn attempts(&self) -> bool {
        matches!(self, Self::Attempts { .. })
    }

    pub(super) fn labels(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::Attempts { namespace, service, workload } => vec![
                ("reporter", "destination".to_owned()),
                ("destination_workload", workload.to_string()),
                ("destination_workload_namespace", namespace.to_string()),
                ("destination_service_name", service.to_string()),
                ("destination_service_namespace", namespace.to_string()),
            ],
            Self::Requests { namespace, service } => {
                vec![("namespace", namespace.to_string()), ("service", service.to_string())]
            }
        }
    }
}

/// One series' value at one time; what a scrape would read.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Metric name.
    pub name: &'static str,
    /// Label pairs in the order of the exposition.
    pub labels: Vec<(&'static str, String)>,
    /// Value.
    pub value: f64,
}

#[expect(clippy::cast_precision_loss, reason = "counters beyond 2^53 are not reached")]
pub(super) fn float(count: u64) -> f64 {
    count as f64
}
