//! Which of the nodes that fit is best. **Source**: the score plugins of the default profile, with
//! their weights; ties go to the node with fewer pods, then by name, where upstream draws lots.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use evenkeel_api::Quantity;
use k8s_openapi::api::core::v1::PodSpec;

use super::{
    affinity,
    filter::{Domain, domain},
    requests::Amounts,
    spread::{self, Constraint, HOSTNAME},
    state::{Facts, NodeState, State},
};

/// Every score lies between 0 and this.
const SCORE_MAX: i64 = 100;

/// The best of the fitting nodes, by index. `fitting` is not empty.
pub(crate) fn best(state: &State<'_>, facts: &Facts<'_>, fitting: &[usize]) -> usize {
    let nodes: Vec<&NodeState<'_>> = fitting.iter().map(|index| &state.nodes[*index]).collect();
    let mut totals = vec![0_i64; nodes.len()];
    let weighted = [
        (3, taints(facts, &nodes)),
        (2, node_affinity(facts, &nodes)),
        (2, spreading(state, facts, &nodes)),
        (2, pod_affinity(state, facts, &nodes)),
        (1, nodes.iter().map(|node| least_allocated(facts, node)).collect()),
        (1, nodes.iter().map(|node| balanced(facts, node)).collect()),
    ];
    for (weight, scores) in weighted {
        totals.iter_mut().zip(scores).for_each(|(total, score)| *total += weight * score);
    }
    let ranked = fitting.iter().zip(&nodes).zip(&totals);
    let best = ranked
        .max_by_key(|((_, node), total)| (**total, Reverse(node.pods.len()), Reverse(node.name())));
    best.map_or(0, |((index, _), _)| *index)
}

/// Scales to 0..100 by the largest; reversed, the largest becomes 0.
fn normalized(scores: Vec<i64>, reversed: bool) -> Vec<i64> {
    let most = scores.iter().copied().max().unwrap_or_default();
    if most == 0 {
        return scores.iter().map(|_| if reversed { SCORE_MAX } else { 0 }).collect();
    }
    let scale = |score: i64| {
        let share = score * SCORE_MAX / most;
        if reversed { SCORE_MAX - share } else { share }
    };
    scores.into_iter().map(scale).collect()
}

fn taints(facts: &Facts<'_>, nodes: &[&NodeState<'_>]) -> Vec<i64> {
    let unwelcome = |node: &&NodeState<'_>| {
        let soft = node.taints.iter().filter(|taint| taint.effect == "PreferNoSchedule");
        let count = soft.filter(|taint| !affinity::tolerates(facts.pod, taint)).count();
        i64::try_from(count).unwrap_or(i64::MAX)
    };
    normalized(nodes.iter().map(unwelcome).collect(), true)
}

fn node_affinity(facts: &Facts<'_>, nodes: &[&NodeState<'_>]) -> Vec<i64> {
    let wish = |spec: Option<&PodSpec>, node: &NodeState<'_>| {
        spec.map_or(0, |spec| affinity::preference(spec, node))
    };
    let spec = facts.pod.spec.as_ref();
    normalized(nodes.iter().map(|node| wish(spec, node)).collect(), false)
}

fn amount(amounts: &Amounts, name: &str) -> Quantity {
    amounts.get(name).copied().unwrap_or_default()
}

/// The emptier, the better.
fn least_allocated(facts: &Facts<'_>, node: &NodeState<'_>) -> i64 {
    let free = |name: &str| {
        let capacity = amount(&node.allocatable, name).millis;
        let used = (amount(&node.used_assumed, name) + amount(&facts.assumed, name)).millis;
        let share = (capacity - used).max(0) * i128::from(SCORE_MAX);
        (capacity > 0).then(|| i64::try_from(share / capacity).unwrap_or_default())
    };
    let shares: Vec<i64> = ["cpu", "memory"].into_iter().filter_map(free).collect();
    let count = i64::try_from(shares.len()).unwrap_or(1).max(1);
    shares.iter().sum::<i64>() / count
}

/// The more alike cpu and memory are used, the better. Not asked for pods that request nothing.
#[expect(clippy::cast_precision_loss, reason = "shares of a node's capacity, rounded to percent")]
#[expect(clippy::cast_possible_truncation, reason = "between 0 and 100")]
fn balanced(facts: &Facts<'_>, node: &NodeState<'_>) -> i64 {
    if facts.requests.is_empty() {
        return 0;
    }
    let share = |name: &str| {
        let capacity = amount(&node.allocatable, name).millis;
        let used = (amount(&node.used, name) + amount(&facts.requests, name)).millis;
        (capacity > 0).then(|| (used as f64 / capacity as f64).min(1.0))
    };
    let deviation = match (share("cpu"), share("memory")) {
        (Some(cpu), Some(memory)) => (cpu - memory).abs() / 2.0,
        _ => 0.0,
    };
    ((1.0 - deviation) * SCORE_MAX as f64) as i64
}

/// Soft topology spread: the fewer relatives in the node's domains, the better.
#[expect(clippy::cast_precision_loss, reason = "numbers of pods")]
#[expect(clippy::cast_possible_truncation, reason = "rounded numbers of pods")]
fn spreading(state: &State<'_>, facts: &Facts<'_>, nodes: &[&NodeState<'_>]) -> Vec<i64> {
    let constraints = spread::constraints(facts.pod, false);
    if constraints.is_empty() {
        return vec![0; nodes.len()];
    }
    // Own constraints ignore nodes that lack a key; the default ones do with what there is.
    let are_own = facts
        .pod
        .spec
        .as_ref()
        .and_then(|spec| spec.topology_spread_constraints.as_ref())
        .is_some_and(|own| !own.is_empty());
    let knows = |node: &NodeState<'_>| {
        !are_own || constraints.iter().all(|constraint| node.label(&constraint.key).is_some())
    };
    let mut sums = vec![0.0_f64; nodes.len()];
    for constraint in &constraints {
        let counts = relatives(state, facts, constraint);
        let domains: BTreeSet<&str> = nodes
            .iter()
            .filter(|node| knows(node))
            .filter_map(|n| n.label(&constraint.key))
            .collect();
        let weight = (domains.len() as f64 + 2.0).ln();
        for (sum, node) in sums.iter_mut().zip(nodes) {
            if let Some(value) = node.label(&constraint.key) {
                let count = counts.get(value).copied().unwrap_or_default();
                *sum += count as f64 * weight + (constraint.skew_max - 1) as f64;
            }
        }
    }
    let rounded: Vec<Option<i64>> = nodes
        .iter()
        .zip(&sums)
        .map(|(node, sum)| knows(node).then(|| sum.round() as i64))
        .collect();
    let most = rounded.iter().flatten().max().copied().unwrap_or_default();
    let least = rounded.iter().flatten().min().copied().unwrap_or_default();
    let scale = |sum: Option<i64>| match sum {
        None => 0,
        Some(_) if most == 0 => SCORE_MAX,
        Some(sum) => SCORE_MAX * (most + least - sum) / most,
    };
    rounded.into_iter().map(scale).collect()
}

fn relatives<'n>(
    state: &'n State<'_>,
    facts: &Facts<'_>,
    constraint: &Constraint,
) -> BTreeMap<&'n str, i64> {
    let mut counts: BTreeMap<&str, i64> = BTreeMap::new();
    for node in &state.nodes {
        // Upstream counts relatives per host on that host alone, whatever its affinity.
        if constraint.key != HOSTNAME && !constraint.sees(node, facts.pod) {
            continue;
        }
        if let Some(value) = node.label(&constraint.key) {
            let kin = node.pods.iter().filter(|other| constraint.counts(other.pod, facts.pod));
            *counts.entry(value).or_default() += i64::try_from(kin.count()).unwrap_or(i64::MAX);
        }
    }
    counts
}

/// Preferred pod (anti-)affinity, of this pod towards others and of others towards it.
fn pod_affinity(state: &State<'_>, facts: &Facts<'_>, nodes: &[&NodeState<'_>]) -> Vec<i64> {
    let mut sums: BTreeMap<Domain, i64> = BTreeMap::new();
    for (node, other) in state.placed() {
        let mut add = |weight: i64, found: Option<Domain>| {
            if let Some(found) = found {
                *sums.entry(found).or_default() += weight;
            }
        };
        for (weight, term) in facts.preferences.iter().filter(|(_, t)| t.matches(other.pod, state))
        {
            add(*weight, domain(term, node));
        }
        for (weight, term) in other.preferences.iter().filter(|(_, t)| t.matches(facts.pod, state))
        {
            add(*weight, domain(term, node));
        }
        // A pod with required affinity also prefers more such pods: upstream's
        // hardPodAffinityWeight of 1.
        for term in other.affinity.iter().filter(|term| term.matches(facts.pod, state)) {
            add(1, domain(term, node));
        }
    }
    let score = |node: &&NodeState<'_>| {
        let here = |((key, value), _): &(&Domain, &i64)| node.label(key) == Some(value.as_str());
        sums.iter().filter(here).map(|(_, weight)| weight).sum::<i64>()
    };
    let scores: Vec<i64> = nodes.iter().map(score).collect();
    let most = scores.iter().copied().max().unwrap_or_default();
    let least = scores.iter().copied().min().unwrap_or_default();
    let scale = |score: i64| match most - least {
        0 => 0,
        range => SCORE_MAX * (score - least) / range,
    };
    scores.into_iter().map(scale).collect()
}
