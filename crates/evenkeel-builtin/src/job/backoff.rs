//! How long to wait after failures. **Source**: `backoff_utils.go`.

use std::{collections::BTreeMap, time::Duration};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;

use super::is_tracked;
use crate::{
    pods,
    seen::{Seen, created},
};

/// **Source**: `DefaultJobPodFailureBackOff`.
const FIRST: Duration = Duration::from_secs(10);
/// **Source**: `MaxJobPodFailureBackOff`. The documentation still says six minutes.
const LONGEST: Duration = Duration::from_mins(10);
/// Pods remembered of one Job: by then the pause is the longest for long.
const REMEMBERED_MAX: usize = 1_000;

/// How and when a pod ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ended {
    pub(crate) at: Timestamp,
    pub(crate) has_failed: bool,
}

/// Takes note of pods that have ended or are made to. One that the Job itself removes has lost its
/// finalizer before, and does not count.
pub(crate) fn remember<'a>(
    ended: &mut BTreeMap<String, Ended>,
    pods: impl IntoIterator<Item = &'a Seen<Pod>>,
) {
    for pod in pods {
        let is_terminal = pods::is_terminal(pod);
        let counts = is_tracked(pod) && (is_terminal || pod.obj.is_deleting());
        if ended.len() < REMEMBERED_MAX && (counts || (is_terminal && !pod.obj.is_deleting())) {
            let has_failed = pods::phase(pod) != "Succeeded";
            let at = finished_at(pod);
            ended.entry(pod.uid().to_owned()).or_insert(Ended { at, has_failed });
        }
    }
}

/// How long until the next pod may be made, given the pods that have ended.
pub(crate) fn remaining(ended: &[Ended], now: Timestamp) -> Duration {
    let succeeded = ended.iter().filter(|one| !one.has_failed).map(|one| one.at).max();
    let failed = ended.iter().filter(|one| one.has_failed && Some(one.at) > succeeded);
    let failed: Vec<Timestamp> = failed.map(|one| one.at).collect();
    let Some(last) = failed.iter().max() else { return Duration::ZERO };
    after(failed.len(), *last, now)
}

/// How long until the next pod may be made after this many failures.
pub(crate) fn after(failures: usize, last: Timestamp, now: Timestamp) -> Duration {
    let Some(doublings) = failures.checked_sub(1) else { return Duration::ZERO };
    let doublings = u32::try_from(doublings.min(16)).unwrap_or_default();
    let pause = FIRST.saturating_mul(2_u32.pow(doublings)).min(LONGEST);
    let passed = Duration::try_from(now.duration_since(last)).unwrap_or_default();
    pause.saturating_sub(passed)
}

/// When a pod ended, as well as can be known. **Source**: `getFinishedTime`.
pub(crate) fn finished_at(pod: &Seen<Pod>) -> Timestamp {
    let status = pod.status.as_ref();
    let containers = status.and_then(|status| status.container_statuses.as_deref());
    let ends: Option<Vec<Timestamp>> = containers
        .unwrap_or_default()
        .iter()
        .map(|container| {
            let ended = container.state.as_ref()?.terminated.as_ref()?;
            Some(ended.finished_at.as_ref()?.0)
        })
        .collect();
    if let Some(last) = ends.and_then(|ends| ends.into_iter().max()) {
        return last;
    }
    let unready = pods::condition(pod, "Ready").filter(|ready| ready.status == "False");
    if let Some(since) = unready.and_then(|ready| ready.last_transition_time.as_ref()) {
        return since.0;
    }
    if let Some(deleted) = &pod.metadata.deletion_timestamp {
        let grace = pod.metadata.deletion_grace_period_seconds.unwrap_or_default();
        return deleted.0.checked_sub(SignedDuration::from_secs(grace)).unwrap_or(deleted.0);
    }
    created(&pod.obj)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::at;

    /// Seconds left at second 1000. `+3` is a success at second 3, `-3` a failure.
    fn left(ends: &[i64]) -> u64 {
        let ended = |second: &i64| Ended { at: at(second.abs()), has_failed: *second < 0 };
        remaining(&ends.iter().map(ended).collect::<Vec<_>>(), at(1_000)).as_secs()
    }

    #[test]
    fn the_pause_doubles_with_every_failure_since_the_last_success() {
        assert_eq!(left(&[]), 0);
        assert_eq!(left(&[-1_000]), 10);
        assert_eq!(left(&[-995]), 5);
        assert_eq!(left(&[-900]), 0);
        assert_eq!(left(&[-500, -999]), 19);
        assert_eq!(left(&[-500, -600, -700, -1_000]), 80);
        assert_eq!(left(&[-500, 800, -1_000]), 10);
        assert_eq!(left(&[-500, -700, 800]), 0);
        assert_eq!(left(&[-1_000; 12]), 600);
    }
}
