//! When a pod's volumes are set up, and what comes of it.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodCondition};

use super::{Effect, PodMachine};
use crate::reasons;

/// Wait before volumes that could not be made are tried again; doubles.
/// **Source**: `initialDurationBeforeRetry` in `pkg/util/goroutinemap/exponentialbackoff`.
const RETRY_FIRST: Duration = Duration::from_millis(500);
/// Longest wait. **Source**: `maxDurationBeforeRetry` there.
const RETRY_MAX: Duration = Duration::from_secs(122);
/// How often volumes whose sources may change are looked at: a change reaches a pod in this time.
/// **Source**: `evictionMonitoringPeriod`; upstream looks at sources every minute.
const REFRESH: Duration = Duration::from_secs(10);
/// What containers of an evicted pod get to end.
/// **Source**: `immediateEvictionGracePeriodSeconds` in `pkg/kubelet/eviction`.
const EVICTION_GRACE: Duration = Duration::from_secs(1);

/// What is known of a pod's volumes.
#[derive(Debug, Clone)]
pub(super) struct Mounting {
    /// They have all been made once, or there are none.
    is_ready: bool,
    is_busy: bool,
    /// When to set them up again; `None` when nothing of them changes.
    due: Option<Timestamp>,
    /// Failures in a row.
    failures: u32,
}

/// What setting up volumes has found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VolumesSetUp {
    /// Something of it has to be looked at again after a while.
    pub changes: bool,
    /// What is not as the manifest asks for.
    pub caveats: Vec<String>,
    /// Why the pod has to go: a volume holds more than it may.
    pub exceeded: Option<String>,
}

impl Mounting {
    pub(super) fn new(pod: &Pod, now: Timestamp) -> Self {
        let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.as_ref());
        let has = volumes.is_some_and(|volumes| !volumes.is_empty());
        Self { is_ready: !has, is_busy: false, due: has.then_some(now), failures: 0 }
    }

    /// Labels and annotations may stand in a volume.
    pub(super) fn observe(&mut self, old: &Pod, new: &Pod, now: Timestamp) {
        let (old, new) = (&old.metadata, &new.metadata);
        let is_same = old.labels == new.labels && old.annotations == new.annotations;
        if !is_same && self.is_ready {
            self.due = self.due.map(|due| due.min(now));
        }
    }

    /// Whether containers may start.
    pub(super) fn poll(&mut self, now: Timestamp, out: &mut Vec<Effect>) -> bool {
        if !self.is_busy && self.due.is_some_and(|due| due <= now) {
            self.is_busy = true;
            out.push(Effect::SetUpVolumes);
        }
        self.is_ready
    }

    pub(super) fn is_busy(&self) -> bool {
        self.is_busy
    }

    pub(super) fn wake(&self) -> Option<Timestamp> {
        self.due.filter(|_| !self.is_busy)
    }
}

impl PodMachine {
    /// The volumes have been set up, or why not.
    pub fn on_volumes(&mut self, result: Result<VolumesSetUp, String>, now: Timestamp) {
        let mounting = &mut self.mounting;
        mounting.is_busy = false;
        match result {
            Ok(found) => {
                let is_first = !std::mem::replace(&mut mounting.is_ready, true);
                mounting.failures = 0;
                mounting.due = now.checked_add(REFRESH).ok().filter(|_| found.changes);
                for caveat in found.caveats.iter().filter(|_| is_first) {
                    self.note(true, reasons::VOLUME_CAVEAT, caveat, None);
                }
                if let Some(message) = found.exceeded {
                    self.evict(message, now);
                }
            }
            Err(problem) => {
                let factor = 1_u32.checked_shl(mounting.failures.min(16)).unwrap_or(u32::MAX);
                mounting.failures = mounting.failures.saturating_add(1);
                let wait = RETRY_FIRST.saturating_mul(factor).min(RETRY_MAX);
                mounting.due = now.checked_add(wait).ok();
                self.note(true, reasons::FAILED_MOUNT, &problem, None);
            }
        }
    }

    /// Ends the pod for good, its object stays.
    ///
    /// **Source**: `evictPod` in `pkg/kubelet/eviction/eviction_manager.go`.
    fn evict(&mut self, message: String, now: Timestamp) {
        if self.evicted.is_some() || self.stop.is_some() {
            return;
        }
        let condition = PodCondition {
            type_: "DisruptionTarget".to_owned(),
            status: "True".to_owned(),
            reason: Some(reasons::TERMINATION_BY_KUBELET.to_owned()),
            message: Some(message.clone()),
            last_transition_time: Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(now)),
            ..PodCondition::default()
        };
        self.conditions.retain(|have| have.type_ != condition.type_);
        self.conditions.push(condition);
        self.note(true, reasons::EVICTED, &message, None);
        self.evicted = Some(message);
    }

    pub(super) fn stop_evicted(&mut self, now: Timestamp) {
        let deadline = now.checked_add(EVICTION_GRACE).unwrap_or(now);
        let mut killed = Vec::new();
        for slot in &mut self.slots {
            if slot.kill(deadline, now) {
                killed.push(slot.name.clone());
            }
        }
        for container in killed {
            self.note_killing(&container);
        }
    }
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;

    use crate::pod::tests::script;

    const SPEC: &str = "{containers: [{name: a, image: i}], volumes: [{name: v}]}";

    #[test]
    fn containers_wait_for_volumes_which_are_tried_again_more_and_more_slowly() {
        let lines = "0.1 no-volumes
            0.7 no-volumes
            1.8 no-volumes
            3.9 volumes
            4 up a";
        assert_snapshot!(script(SPEC, lines), @r"
          0 new                    -> volumes                      | Pending a=ContainerCreating
        0.1 no-volumes             -> !FailedMount                 | Pending a=ContainerCreating
        0.6                        -> volumes                      | Pending a=ContainerCreating
        0.7 no-volumes             -> !FailedMount                 | Pending a=ContainerCreating
        1.7                        -> volumes                      | Pending a=ContainerCreating
        1.8 no-volumes             -> !FailedMount                 | Pending a=ContainerCreating
        3.8                        -> volumes                      | Pending a=ContainerCreating
        3.9 volumes                -> start(a#0)                   | Pending a=ContainerCreating
          4 up a                   -> !Pulled !Created !Started    | Running a=Running+ READY
        ");
    }

    #[test]
    fn volumes_that_change_are_looked_at_again_and_at_once_when_labels_change() {
        let lines = "0 volumes change
            0 up a
            10 look
            10.1 no-volumes
            10.7 volumes change
            12 label x
            12.1 volumes";
        assert_snapshot!(script(SPEC, lines), @r"
           0 new                    -> volumes                      | Pending a=ContainerCreating
           0 volumes change         -> start(a#0)                   | Pending a=ContainerCreating
           0 up a                   -> !Pulled !Created !Started    | Running a=Running+ READY
          10 look                   -> volumes                      | Running a=Running+ READY
        10.1 no-volumes             -> !FailedMount                 | Running a=Running+ READY
        10.6                        -> volumes                      | Running a=Running+ READY
        10.7 volumes change         ->                              | Running a=Running+ READY
          12 label x                -> volumes                      | Running a=Running+ READY
        12.1 volumes                ->                              | Running a=Running+ READY
        ");
    }

    #[test]
    fn a_pod_with_a_volume_that_is_too_full_is_ended_for_good() {
        let lines = "0 volumes change
            0 up a
            10.1 volumes full
            12 exit a 137
            20 delete 30";
        assert_snapshot!(script(SPEC, lines), @r"
           0 new                    -> volumes                      | Pending a=ContainerCreating
           0 volumes change         -> start(a#0)                   | Pending a=ContainerCreating
           0 up a                   -> !Pulled !Created !Started    | Running a=Running+ READY
          10                        -> volumes                      | Running a=Running+ READY
        10.1 volumes full           -> Term(a) !Evicted !Killing    | Failed a=Running+
        11.1                        -> Kill(a)                      | Failed a=Running+
          12 exit a 137             ->                              | Failed a=Error:137
          20 delete 30              -> finish                       | Failed a=Error:137
        ");
    }

    #[test]
    fn a_pod_that_goes_before_its_volumes_are_made_waits_for_that_only() {
        assert_snapshot!(script(SPEC, "1 delete 30\n1.5 volumes"), @r"
          0 new                    -> volumes                      | Pending a=ContainerCreating
          1 delete 30              ->                              | Pending a=ContainerCreating
        1.5 volumes                -> finish                       | Pending a=ContainerCreating
        ");
    }
}
