//! A Deployment's `ReplicaSets` as numbers, and the limits it sets on them.

use evenkeel_api::{Rounding, scaled_int_or_percent};
use jiff::Timestamp;
use k8s_openapi::{
    api::{
        apps::v1::{Deployment, ReplicaSet},
        core::v1::PodTemplateSpec,
    },
    apimachinery::pkg::util::intstr::IntOrString,
};

use super::{View, template};
use crate::seen::Seen;

/// Which template a `ReplicaSet` or Deployment is at, counted from 1.
pub(crate) const REVISION: &str = "deployment.kubernetes.io/revision";
/// Earlier revisions of the same template.
pub(crate) const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
/// `spec.replicas` of the Deployment when the `ReplicaSet` was last sized.
pub(crate) const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
/// The same plus the surge.
pub(crate) const MAX: &str = "deployment.kubernetes.io/max-replicas";

/// What the Deployment's spec allows, resolved to numbers.
///
/// Counts of pods are 64 bits wide here: sums and surges of 32-bit fields fit without a thought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(crate) replicas: i64,
    pub(crate) surge_max: i64,
    pub(crate) unavailable_max: i64,
    pub(crate) recreate: bool,
    pub(crate) paused: bool,
    pub(crate) ready_s_min: i32,
    /// `None` when progress is not judged.
    pub(crate) deadline_s: Option<i32>,
    /// `None` when all old `ReplicaSets` are kept.
    pub(crate) history_max: Option<usize>,
}

impl Limits {
    pub(crate) fn of(deployment: &Deployment) -> Self {
        let spec = deployment.spec.as_ref();
        let strategy = spec.and_then(|spec| spec.strategy.as_ref());
        let recreate = strategy.and_then(|s| s.type_.as_deref()) == Some("Recreate");
        let replicas = spec.and_then(|spec| spec.replicas).unwrap_or(1);
        let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
        let (surge_max, unavailable_max) = if recreate {
            (0, 0)
        } else {
            fence_posts(
                rolling.and_then(|rolling| rolling.max_surge.as_ref()),
                rolling.and_then(|rolling| rolling.max_unavailable.as_ref()),
                replicas,
            )
        };
        // Upstream reads the greatest number as "none"; the server's defaults are 600 and 10.
        let set =
            |value: Option<i32>, default| Some(value.unwrap_or(default)).filter(|v| *v < i32::MAX);
        let replicas = i64::from(replicas);
        Self {
            replicas,
            surge_max,
            // None at all of none: a Deployment of 0 cannot be short of pods.
            unavailable_max: unavailable_max.min(replicas),
            recreate,
            paused: spec.and_then(|spec| spec.paused).unwrap_or_default(),
            ready_s_min: spec.and_then(|spec| spec.min_ready_seconds).unwrap_or_default(),
            deadline_s: set(spec.and_then(|spec| spec.progress_deadline_seconds), 600),
            history_max: set(spec.and_then(|spec| spec.revision_history_limit), 10)
                .map(|limit| usize::try_from(limit).unwrap_or_default()),
        }
    }

    /// Most pods at any time.
    pub(crate) fn total_max(self) -> i64 {
        self.replicas + self.surge_max
    }

    /// Fewest available pods while rolling.
    pub(crate) fn available_min(self) -> i64 {
        self.replicas - self.unavailable_max
    }
}

/// Surge rounds up, unavailable rounds down; when both come to nothing, one may be unavailable, or
/// no rollout could ever move. **Source**: `ResolveFenceposts`.
fn fence_posts(
    surge: Option<&IntOrString>,
    unavailable: Option<&IntOrString>,
    replicas: i32,
) -> (i64, i64) {
    let quarter = IntOrString::String("25%".to_owned());
    let resolve = |value: Option<&IntOrString>, rounding| {
        let value = value.unwrap_or(&quarter);
        i64::from(scaled_int_or_percent(value, replicas, rounding).unwrap_or_default().max(0))
    };
    match (resolve(surge, Rounding::Up), resolve(unavailable, Rounding::Down)) {
        (0, 0) => (0, 1),
        other => other,
    }
}

/// One `ReplicaSet` in numbers. `replicas` is what the plan wants so far.
#[derive(Debug, Clone)]
pub(crate) struct Set<'a> {
    pub(crate) seen: &'a Seen<ReplicaSet>,
    pub(crate) replicas: i64,
    pub(crate) actual: i64,
    pub(crate) ready: i64,
    pub(crate) available: i64,
}

impl<'a> Set<'a> {
    fn of(seen: &'a Seen<ReplicaSet>) -> Self {
        let status = seen.status.as_ref();
        let count = |number: Option<i32>| number.map_or(0, i64::from);
        Self {
            seen,
            replicas: seen.spec.as_ref().and_then(|spec| spec.replicas).map_or(1, i64::from),
            actual: status.map_or(0, |status| i64::from(status.replicas)),
            ready: count(status.and_then(|status| status.ready_replicas)),
            available: count(status.and_then(|status| status.available_replicas)),
        }
    }

    /// Available pods that stay: what the status still counts beyond the size is on its way out.
    /// Upstream counts those too and can take one pod too many when statuses lag.
    pub(crate) fn serving(&self) -> i64 {
        self.available.min(self.replicas)
    }

    fn number(&self, annotation: &str) -> Option<i64> {
        self.seen.obj.annotation(annotation)?.parse().ok()
    }

    /// 0 when it carries none.
    pub(crate) fn revision(&self) -> i64 {
        self.number(REVISION).unwrap_or_default()
    }
    pub(crate) fn desired(&self) -> Option<i64> {
        self.number(DESIRED)
    }
    pub(crate) fn max(&self) -> Option<i64> {
        self.number(MAX)
    }
    /// Order of age: creation, then name.
    pub(crate) fn age(&self) -> (Timestamp, &'a str) {
        (self.seen.created(), self.seen.name())
    }
}

/// The `ReplicaSet` of the present template, and all others, oldest first.
#[derive(Debug)]
pub(crate) struct Sets<'a> {
    pub(crate) new: Option<Set<'a>>,
    pub(crate) old: Vec<Set<'a>>,
}

impl<'a> Sets<'a> {
    /// The oldest `ReplicaSet` with the present template is the new one: if there are two by
    /// accident, all passes agree which.
    pub(crate) fn of(view: &'a View) -> Self {
        let deployment_uid = view.deployment.uid();
        let owned =
            view.sets.iter().filter(|set| crate::pods::is_controlled_by(&set.obj, deployment_uid));
        let mut old: Vec<Set<'a>> = owned.map(Set::of).collect();
        old.sort_by(|a, b| a.age().cmp(&b.age()));
        let present = view.deployment.spec.as_ref().map(|spec| &spec.template);
        let is_new = |set: &Set<'_>| present.is_some_and(|t| template::equal(t, template_of(set)));
        let new = old.iter().position(is_new).map(|at| old.remove(at));
        Self { new, old }
    }

    /// All, the new one last.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Set<'a>> {
        self.old.iter().chain(&self.new)
    }

    /// Those that should have pods, the new one last.
    pub(crate) fn active(&mut self) -> Vec<&mut Set<'a>> {
        self.old.iter_mut().chain(&mut self.new).filter(|set| set.replicas > 0).collect()
    }

    /// Pods wanted of all together.
    pub(crate) fn wanted(&self) -> i64 {
        self.all().map(|set| set.replicas).sum()
    }

    /// Pods wanted, and those not yet removed: what counts against the surge. Upstream counts
    /// the wanted ones alone and exceeds the surge while a `ReplicaSet` is still deleting.
    pub(crate) fn held(&self) -> i64 {
        self.all().map(|set| set.replicas.max(set.actual)).sum()
    }

    /// Whether the Deployment's `replicas` was changed since the sets were sized.
    pub(crate) fn was_scaled(&self, limits: Limits) -> bool {
        let resized = |set: &Set<'_>| set.desired().is_some_and(|size| size != limits.replicas);
        self.all().filter(|set| set.replicas > 0).any(resized)
    }
}

fn template_of<'s>(set: &Set<'s>) -> &'s PodTemplateSpec {
    static EMPTY: PodTemplateSpec = PodTemplateSpec { metadata: None, spec: None };
    set.seen.spec.as_ref().and_then(|spec| spec.template.as_ref()).unwrap_or(&EMPTY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn surge_and_unavailable_resolve_as_upstream_resolves_them() {
        let posts = |surge: &str, unavailable: &str, replicas| {
            let value = |text: &str| {
                text.parse().map_or_else(|_| IntOrString::String(text.to_owned()), IntOrString::Int)
            };
            fence_posts(Some(&value(surge)), Some(&value(unavailable)), replicas)
        };
        assert_eq!(posts("25%", "25%", 1), (1, 0));
        assert_eq!(posts("25%", "25%", 3), (1, 0));
        assert_eq!(posts("25%", "25%", 4), (1, 1));
        assert_eq!(posts("25%", "25%", 10), (3, 2));
        assert_eq!(posts("0", "10%", 5), (0, 1));
        assert_eq!(posts("0%", "0%", 5), (0, 1));
        assert_eq!(posts("100%", "0", 5), (5, 0));
        assert_eq!(posts("2", "1", 5), (2, 1));
    }
}
