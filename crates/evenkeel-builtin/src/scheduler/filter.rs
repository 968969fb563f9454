//! Which nodes can take a pod, and why the others cannot.

use std::collections::{BTreeMap, BTreeSet};

use evenkeel_api::Quantity;
use k8s_openapi::api::core::v1::{PodSpec, Taint};

use super::{
    affinity,
    spread::Spread,
    state::{Facts, NodeState, State, Term},
    volumes::Needs,
};

/// A topology domain: key and value of a node label.
pub(crate) type Domain = (String, String);

/// Everything about the cluster that one pod's filters need, computed once.
pub(crate) struct Checks<'s, 'a> {
    facts: &'s Facts<'a>,
    spec: &'s PodSpec,
    needs: &'s Needs<'a>,
    spread: Spread,
    /// Domains with a pod that all required affinity terms speak of.
    wanted_company: BTreeSet<Domain>,
    /// Whether the pod may be the first of its group.
    may_be_first: bool,
    /// Domains with a pod that this one's anti-affinity excludes.
    excluded: BTreeSet<Domain>,
    /// Domains with a pod whose anti-affinity excludes this one.
    excluding: BTreeSet<Domain>,
}

impl<'s, 'a> Checks<'s, 'a> {
    pub(crate) fn of(state: &State<'a>, facts: &'s Facts<'a>, needs: &'s Needs<'a>) -> Self {
        static NONE: std::sync::LazyLock<PodSpec> = std::sync::LazyLock::new(PodSpec::default);
        let spec = facts.pod.spec.as_ref().unwrap_or(&NONE);
        let (mut wanted_company, mut excluded, mut excluding) =
            (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        for (node, other) in state.placed() {
            let all = |terms: &[Term]| {
                !terms.is_empty() && terms.iter().all(|term| term.matches(other.pod, state))
            };
            if all(&facts.affinity) {
                wanted_company.extend(facts.affinity.iter().filter_map(|term| domain(term, node)));
            }
            let excludes = facts.anti_affinity.iter().filter(|term| term.matches(other.pod, state));
            excluded.extend(excludes.filter_map(|term| domain(term, node)));
            let mutual = other.anti_affinity.iter().filter(|term| term.matches(facts.pod, state));
            excluding.extend(mutual.filter_map(|term| domain(term, node)));
        }
        let may_be_first = wanted_company.is_empty()
            && facts.affinity.iter().all(|term| term.matches(facts.pod, state));
        Self {
            facts,
            spec,
            needs,
            spread: Spread::of(state, facts),
            wanted_company,
            may_be_first,
            excluded,
            excluding,
        }
    }

    /// Why the node cannot take the pod, in upstream's words; nothing when it can. As upstream,
    /// only the first filter that refuses speaks.
    pub(crate) fn refusals(&self, node: &NodeState<'_>) -> Vec<String> {
        let one = |reason: &str| vec![reason.to_owned()];
        if is_closed(node) && !affinity::tolerates(self.facts.pod, &closed()) {
            return one("node(s) were unschedulable");
        }
        if let Some(taint) = self.untolerated(node) {
            let value = taint.value.as_deref().unwrap_or_default();
            return vec![format!("node(s) had untolerated taint {{{}: {value}}}", taint.key)];
        }
        if !affinity::allows(self.spec, &node.node.obj) {
            return one("node(s) didn't match Pod's node affinity/selector");
        }
        if node.pods.iter().any(|other| !other.host_ports.is_disjoint(&self.facts.host_ports)) {
            return one("node(s) didn't have free ports for the requested pod ports");
        }
        let short = self.shortages(node);
        if !short.is_empty() {
            return short;
        }
        if let Some(reason) = self.needs.refusal(node.node) {
            return one(reason);
        }
        if let Some(reason) = self.spread.refusal(node) {
            return one(reason);
        }
        self.pod_affinity(node).map(one).unwrap_or_default()
    }

    fn untolerated<'n>(&self, node: &'n NodeState<'_>) -> Option<&'n Taint> {
        let repels = |taint: &&Taint| matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute");
        let mut repelling = node.taints.iter().filter(repels);
        repelling.find(|taint| !affinity::tolerates(self.facts.pod, taint))
    }

    fn shortages(&self, node: &NodeState<'_>) -> Vec<String> {
        let mut short = Vec::new();
        let amount = |amounts: &BTreeMap<String, Quantity>, name: &str| {
            amounts.get(name).copied().unwrap_or_default()
        };
        // A node that does not say how many pods it takes is not limited by their number.
        let room = node.allocatable.get("pods");
        if room.is_some_and(|room| i128::from(count(node.pods.len() + 1)) * 1_000 > room.millis) {
            short.push("Too many pods".to_owned());
        }
        for (name, asked) in self.facts.requests.iter().filter(|(_, asked)| asked.millis > 0) {
            if amount(&node.used, name) + *asked > amount(&node.allocatable, name) {
                short.push(format!("Insufficient {name}"));
            }
        }
        short
    }

    fn pod_affinity(&self, node: &NodeState<'_>) -> Option<&'static str> {
        let here = |term: &Term| domain(term, node);
        let keys_known = self.facts.affinity.iter().all(|term| here(term).is_some());
        let has_company = self
            .facts
            .affinity
            .iter()
            .all(|term| here(term).is_some_and(|domain| self.wanted_company.contains(&domain)));
        if !(has_company || keys_known && self.may_be_first) {
            return Some("node(s) didn't match pod affinity rules");
        }
        let mut domains = self.facts.anti_affinity.iter().filter_map(here);
        if domains.any(|domain| self.excluded.contains(&domain)) {
            return Some("node(s) didn't match pod anti-affinity rules");
        }
        let excludes = |(key, value): &Domain| node.label(key) == Some(value.as_str());
        self.excluding
            .iter()
            .any(excludes)
            .then_some("node(s) didn't satisfy existing pods anti-affinity rules")
    }
}

/// The domain of a node that a term speaks of; `None` when the node lacks the label.
pub(crate) fn domain(term: &Term, node: &NodeState<'_>) -> Option<Domain> {
    Some((term.topology_key.clone(), node.label(&term.topology_key)?.to_owned()))
}

fn is_closed(node: &NodeState<'_>) -> bool {
    node.node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or_default()
}

/// The taint that a cordoned node carries, written or not.
fn closed() -> Taint {
    Taint {
        key: "node.kubernetes.io/unschedulable".to_owned(),
        effect: "NoSchedule".to_owned(),
        ..Taint::default()
    }
}

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
