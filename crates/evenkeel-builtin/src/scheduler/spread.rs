//! Topology spread constraints. **Source**: `plugins/podtopologyspread`.

use std::collections::{BTreeMap, BTreeSet};

use evenkeel_api::{LabelSelector, labels};
use k8s_openapi::api::core::v1::{Pod, PodSpec, TopologySpreadConstraint};

use super::{
    affinity,
    state::{Facts, NodeState, State, label_keys},
};
use crate::{pods, seen::Seen};

/// Label by which nodes are distinguished.
pub(crate) const HOSTNAME: &str = labels::HOSTNAME;
const ZONE: &str = labels::ZONE;

/// The hard constraints of one pod, with how its kind is spread now.
pub(crate) struct Spread {
    rules: Vec<Rule>,
}

struct Rule {
    key: String,
    skew_max: i64,
    /// 1 when the pod itself will count.
    itself: i64,
    counts: BTreeMap<String, i64>,
    least: i64,
}

/// Which pods a constraint counts.
pub(crate) enum Kin {
    /// Those that a selector matches.
    Matching(LabelSelector),
    /// Those of the same owner: what upstream's default constraints find by their Service or
    /// `ReplicaSet`.
    SameOwner(String),
}

/// A constraint, read.
pub(crate) struct Constraint {
    pub(crate) key: String,
    pub(crate) skew_max: i64,
    pub(crate) kin: Kin,
    domains_min: usize,
    honors_affinity: bool,
    honors_taints: bool,
    is_hard: bool,
}

impl Constraint {
    fn of(constraint: &TopologySpreadConstraint, pod: &Seen<Pod>) -> Self {
        let selector = constraint.label_selector.as_ref();
        let mut selector =
            selector.and_then(|s| LabelSelector::from_object(s).ok()).unwrap_or_default();
        selector.requirements.extend(label_keys(pod, constraint.match_label_keys.as_deref(), true));
        Self {
            key: constraint.topology_key.clone(),
            skew_max: i64::from(constraint.max_skew),
            kin: Kin::Matching(selector),
            domains_min: usize::try_from(constraint.min_domains.unwrap_or(1)).unwrap_or(1),
            honors_affinity: constraint.node_affinity_policy.as_deref() != Some("Ignore"),
            honors_taints: constraint.node_taints_policy.as_deref() == Some("Honor"),
            is_hard: constraint.when_unsatisfiable != "ScheduleAnyway",
        }
    }

    /// Whether a placed pod counts; one that is leaving does not.
    pub(crate) fn counts(&self, other: &Seen<Pod>, pod: &Seen<Pod>) -> bool {
        other.obj.namespace() == pod.obj.namespace()
            && pods::is_active(other)
            && match &self.kin {
                Kin::Matching(selector) => selector.matches(other.obj.labels()),
                Kin::SameOwner(uid) => pods::is_controlled_by(&other.obj, uid),
            }
    }

    /// Whether a node's pods and its domain matter to the pod.
    pub(crate) fn sees(&self, node: &NodeState<'_>, pod: &Seen<Pod>) -> bool {
        let allowed =
            |spec: &PodSpec| !self.honors_affinity || affinity::allows(spec, &node.node.obj);
        let repels = |effect: &str| matches!(effect, "NoSchedule" | "NoExecute");
        let tolerated = !self.honors_taints
            || node
                .taints
                .iter()
                .all(|taint| !repels(&taint.effect) || affinity::tolerates(pod, taint));
        pod.spec.as_ref().is_none_or(allowed) && tolerated
    }
}

/// The constraints that forbid (`hard`) or that only prefer. A pod of some owner without
/// constraints is spread over nodes and zones softly, as upstream's default constraints do.
pub(crate) fn constraints(pod: &Seen<Pod>, hard: bool) -> Vec<Constraint> {
    let own = pod.spec.as_ref().and_then(|spec| spec.topology_spread_constraints.as_ref());
    let own: Vec<Constraint> =
        own.into_iter().flatten().map(|constraint| Constraint::of(constraint, pod)).collect();
    if own.is_empty() && !hard {
        let Some(owner) = pod.obj.controller() else { return own };
        let soft = |(key, skew_max): (&str, i64)| Constraint {
            key: key.to_owned(),
            skew_max,
            kin: Kin::SameOwner(owner.uid.clone()),
            domains_min: 1,
            honors_affinity: true,
            honors_taints: false,
            is_hard: false,
        };
        return [(HOSTNAME, 3), (ZONE, 5)].map(soft).into();
    }
    own.into_iter().filter(|constraint| constraint.is_hard == hard).collect()
}

impl Spread {
    pub(crate) fn of(state: &State<'_>, facts: &Facts<'_>) -> Self {
        let all = constraints(facts.pod, true);
        let keys: BTreeSet<String> = all.iter().map(|constraint| constraint.key.clone()).collect();
        let rules = all.into_iter().map(|constraint| {
            let mut counts: BTreeMap<String, i64> = BTreeMap::new();
            // Only nodes that have every key of the pod's constraints make up domains.
            let complete = |node: &&NodeState<'_>| keys.iter().all(|key| node.label(key).is_some());
            for node in state.nodes.iter().filter(complete) {
                let Some(value) = node.label(&constraint.key) else { continue };
                if !constraint.sees(node, facts.pod) {
                    continue;
                }
                let kin = node.pods.iter().filter(|other| constraint.counts(other.pod, facts.pod));
                *counts.entry(value.to_owned()).or_default() +=
                    i64::try_from(kin.count()).unwrap_or(i64::MAX);
            }
            let enough = counts.len() >= constraint.domains_min;
            let least = counts.values().min().copied().filter(|_| enough).unwrap_or_default();
            let itself = i64::from(constraint.counts(facts.pod, facts.pod));
            Rule { key: constraint.key, skew_max: constraint.skew_max, itself, counts, least }
        });
        Self { rules: rules.collect() }
    }

    /// Why the node would make the spread too uneven.
    pub(crate) fn refusal(&self, node: &NodeState<'_>) -> Option<&'static str> {
        self.rules.iter().find_map(|rule| {
            let Some(value) = node.label(&rule.key) else {
                return Some(
                    "node(s) didn't match pod topology spread constraints (missing required label)",
                );
            };
            let there = rule.counts.get(value).copied().unwrap_or_default();
            (there + rule.itself - rule.least > rule.skew_max)
                .then_some("node(s) didn't match pod topology spread constraints")
        })
    }
}
