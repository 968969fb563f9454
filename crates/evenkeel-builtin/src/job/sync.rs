use std::collections::BTreeMap;

use evenkeel_control::Plan;
use k8s_openapi::api::{
    batch::v1::{Job, JobSpec, JobStatus},
    core::v1::Pod,
};

use super::{View, indexes::Indexes};
use crate::seen::Seen;

/// One pass over a Job that has not finished.
pub(crate) struct Sync<'a> {
    pub(crate) view: &'a View,
    pub(crate) job: &'a Seen<Job>,
    pub(crate) spec: &'a JobSpec,
    /// Its pods; of an Indexed Job in the order of their indexes.
    pub(crate) pods: Vec<&'a Seen<Pod>>,
    pub(crate) active: Vec<&'a Seen<Pod>>,
    pub(crate) plan: Plan,
    /// The status as it is to be written.
    pub(crate) status: JobStatus,
    /// Pods that this pass makes.
    pub(crate) created: i64,
    pub(crate) ready: i64,
    pub(crate) terminating: i64,
    /// All successes, those not yet in the status included.
    pub(crate) succeeded: i64,
    /// All failures that count, likewise.
    pub(crate) failed: i64,
    pub(crate) succeeded_indexes: Indexes,
    /// `None` unless indexes are retried by themselves.
    pub(crate) failed_indexes: Option<Indexes>,
    /// The failed pod of each index that is still to be replaced.
    pub(crate) replaced: BTreeMap<i64, &'a Seen<Pod>>,
}
