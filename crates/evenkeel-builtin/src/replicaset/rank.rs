//! Which pods are deleted first when there are too many.

use std::{cmp::Ordering, collections::BTreeMap};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};

use crate::{pods, seen::Seen};

/// Annotation that lets an application say which of its pods matter less.
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// All pods, the first one to delete first.
///
/// **Source**: `ActivePodsWithRanks` in `pkg/controller/controller_utils.go`. Upstream's relation
/// is not transitive (equal times and times of one bucket are settled by different rules), so
/// this inserts one by one, which any relation allows and no library sort does.
pub(crate) fn first_to_go<'a>(
    mine: &[&'a Seen<Pod>],
    related: &[Seen<Pod>],
    now: Timestamp,
) -> Vec<&'a Seen<Pod>> {
    let mut colocated: BTreeMap<&str, usize> = BTreeMap::new();
    for node in related.iter().filter_map(|pod| pods::node(pod)) {
        *colocated.entry(node).or_default() += 1;
    }
    let neighbours = |pod: &Pod| pods::node(pod).and_then(|n| colocated.get(n)).copied();
    let mut ordered: Vec<&Seen<Pod>> = Vec::with_capacity(mine.len());
    for pod in mine {
        let before = |other: &&Seen<Pod>| {
            let crowd = neighbours(other).unwrap_or_default().cmp(&neighbours(pod).unwrap_or(0));
            compare(pod, other, crowd, now) != Ordering::Less
        };
        let at = ordered.iter().rposition(before).map_or(0, |at| at + 1);
        ordered.insert(at, pod);
    }
    ordered
}

/// `crowd` is less when `a` has more relatives on its node than `b`.
fn compare(a: &Seen<Pod>, b: &Seen<Pod>, crowd: Ordering, now: Timestamp) -> Ordering {
    let by_state = pods::node(a)
        .is_some()
        .cmp(&pods::node(b).is_some())
        .then_with(|| liveliness(a).cmp(&liveliness(b)))
        .then_with(|| pods::is_ready(a).cmp(&pods::is_ready(b)))
        .then_with(|| cost(a).cmp(&cost(b)))
        .then(crowd);
    by_state
        .then_with(|| match (pods::ready_since(a), pods::ready_since(b)) {
            (Some(a_since), Some(b_since)) => younger_first(a, b, (a_since, b_since), now),
            _ => Ordering::Equal,
        })
        .then_with(|| restarts(b).cmp(&restarts(a)))
        .then_with(|| younger_first(a, b, (a.created(), b.created()), now))
}

fn liveliness(pod: &Pod) -> u8 {
    match pods::phase(pod) {
        "Running" => 2,
        "Unknown" => 1,
        _ => 0,
    }
}

fn cost(pod: &Seen<Pod>) -> i32 {
    pod.obj.annotation(DELETION_COST).and_then(|cost| cost.parse().ok()).unwrap_or_default()
}

/// Most restarts of any container, init containers considered only among equals.
fn restarts(pod: &Pod) -> (i32, i32) {
    let most = |list: Option<&Vec<ContainerStatus>>| {
        list.into_iter().flatten().map(|status| status.restart_count).max().unwrap_or_default()
    };
    let status = pod.status.as_ref();
    (
        most(status.and_then(|status| status.container_statuses.as_ref())),
        most(status.and_then(|status| status.init_container_statuses.as_ref())),
    )
}

/// Later first, but ages of the same power of two count as one, so that a scale-down does not
/// always hit the newest node's pods.
fn younger_first(
    a: &Seen<Pod>,
    b: &Seen<Pod>,
    (a_since, b_since): (Timestamp, Timestamp),
    now: Timestamp,
) -> Ordering {
    if a_since == b_since {
        return Ordering::Equal;
    }
    bucket(a_since, now).cmp(&bucket(b_since, now)).then_with(|| a.uid().cmp(b.uid()))
}

fn bucket(since: Timestamp, now: Timestamp) -> Option<u32> {
    let age = u128::try_from(now.duration_since(since).as_nanos()).unwrap_or_default();
    age.checked_ilog2()
}
