//! What kube-controller-manager and kube-scheduler do, as decide functions.
//!
//! ```text
//! Deployment --> ReplicaSet --> Pod --scheduler--> Node
//!                                |
//! StatefulSet, DaemonSet, Job --+
//! CronJob --> Job                |
//! Service  --> EndpointSlice <---+          owners gone: garbage collector
//! PodDisruptionBudget <-- Pods, Deployments
//! PersistentVolumeClaim <-- bound both ways --> PersistentVolume (a folder of one node)
//! ```
//! Every controller here is a pure `decide(&View) -> Plan` with an `observe` in front, driven by
//! [`evenkeel_control::RunLoop`]. None wakes up by itself unless a clock has to be waited for
//! (`minReadySeconds`, `progressDeadlineSeconds`): a settled cluster costs nothing. What they know
//! is in the objects, with two exceptions: the node life cycle remembers when it last heard of each
//! node by its own clock, as upstream does, so a restart gives every node its grace period again;
//! and Jobs and `DaemonSets` remember failed pods that are gone, which makes the next ones wait.
//! Each works on one object at a time and reads it again before it decides, so none needs the
//! "expectations" that informer caches force on upstream.
//!
//! Not here: the API server (`cluster`), what runs on a node (`node`).
#![warn(clippy::disallowed_methods, reason = "this crate must run under virtual time")]

mod claim;
mod cronjob;
mod daemonset;
mod deployment;
mod disruption;
mod endpointslice;
mod garbage;
mod history;
mod job;
mod lifecycle;
mod node_terms;
mod pods;
mod reasons;
mod replicaset;
mod scheduler;
mod seen;
mod statefulset;
mod storage;

#[cfg(test)]
mod testing;

use evenkeel_control::RunLoop;

pub use storage::default_class;

/// Adds every built-in controller and the scheduler to the loop.
#[must_use]
pub fn install(run: RunLoop) -> RunLoop {
    run.with(deployment::Deployments)
        .with(replicaset::ReplicaSets)
        .with(statefulset::StatefulSets)
        .with(daemonset::DaemonSets::default())
        .with(job::Jobs::default())
        .with(cronjob::CronJobs)
        .with(endpointslice::EndpointSlices)
        .with(disruption::Disruptions)
        .with(lifecycle::Lifecycle::default())
        .with(scheduler::Scheduler::default())
        .with(storage::Ephemerals)
        .with(storage::Claims)
        .with(storage::Volumes)
        .with(garbage::GarbageCollector::new())
}
