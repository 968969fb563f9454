//! Nodes with the pods that are on them, or will be once the plan is carried out.

use std::collections::{BTreeMap, BTreeSet};

use evenkeel_api::{LabelSelector, Requirement};
use k8s_openapi::{
    api::core::v1::{Node, Pod, PodAffinityTerm, PodSpec, Taint, WeightedPodAffinityTerm},
    apimachinery::pkg::apis::meta::v1 as meta,
};

use super::{
    View,
    requests::{self, Amounts},
};
use crate::{pods, seen::Seen};

/// A pod with everything about it that is asked more than once.
#[derive(Debug)]
pub(crate) struct Facts<'a> {
    pub(crate) pod: &'a Seen<Pod>,
    pub(crate) requests: Amounts,
    pub(crate) assumed: Amounts,
    pub(crate) affinity: Vec<Term>,
    pub(crate) anti_affinity: Vec<Term>,
    /// Weight, negative for anti-affinity.
    pub(crate) preferences: Vec<(i64, Term)>,
    pub(crate) host_ports: BTreeSet<(String, i32)>,
}

/// One pod (anti-)affinity term.
#[derive(Debug)]
pub(crate) struct Term {
    pub(crate) topology_key: String,
    /// `None` matches no pod.
    selector: Option<LabelSelector>,
    namespaces: Vec<String>,
    namespace_selector: Option<LabelSelector>,
}

impl Term {
    fn of(term: &PodAffinityTerm, pod: &Seen<Pod>) -> Self {
        let read = |selector: &Option<meta::LabelSelector>| {
            selector.as_ref().and_then(|s| LabelSelector::from_object(s).ok())
        };
        let mut selector = read(&term.label_selector);
        if let Some(selector) = &mut selector {
            selector.requirements.extend(label_keys(pod, term.match_label_keys.as_deref(), true));
            let mismatch = term.mismatch_label_keys.as_deref();
            selector.requirements.extend(label_keys(pod, mismatch, false));
        }
        let mut namespaces = term.namespaces.clone().unwrap_or_default();
        let namespace_selector = read(&term.namespace_selector);
        if namespaces.is_empty() && namespace_selector.is_none() {
            namespaces.push(pod.obj.namespace().to_owned());
        }
        Self { topology_key: term.topology_key.clone(), selector, namespaces, namespace_selector }
    }

    /// Whether the term speaks of this pod.
    pub(crate) fn matches(&self, pod: &Seen<Pod>, state: &State<'_>) -> bool {
        let namespace = pod.obj.namespace();
        let in_namespace = self.namespaces.iter().any(|name| name == namespace)
            || self.namespace_selector.as_ref().is_some_and(|selector| {
                state.namespaces.get(namespace).is_some_and(|labels| selector.matches(labels))
            });
        in_namespace && self.selector.as_ref().is_some_and(|s| s.matches(pod.obj.labels()))
    }
}

/// Requirements that a pod's own label values put on others.
pub(crate) fn label_keys(
    pod: &Seen<Pod>,
    keys: Option<&[String]>,
    equal: bool,
) -> impl Iterator<Item = Requirement> {
    keys.unwrap_or_default().iter().filter_map(move |key| {
        let values = vec![pod.obj.label(key)?.to_owned()];
        let key = key.clone();
        Some(if equal { Requirement::In(key, values) } else { Requirement::NotIn(key, values) })
    })
}

impl<'a> Facts<'a> {
    pub(crate) fn of(pod: &'a Seen<Pod>) -> Self {
        static NONE: std::sync::LazyLock<PodSpec> = std::sync::LazyLock::new(PodSpec::default);
        let spec = pod.spec.as_ref().unwrap_or(&NONE);
        let affinity = spec.affinity.as_ref();
        let with = affinity.and_then(|affinity| affinity.pod_affinity.as_ref());
        let without = affinity.and_then(|affinity| affinity.pod_anti_affinity.as_ref());
        let terms = |list: Option<&Vec<PodAffinityTerm>>| {
            list.into_iter().flatten().map(|term| Term::of(term, pod)).collect()
        };
        let weighted = |list: Option<&Vec<WeightedPodAffinityTerm>>, sign: i64| -> Vec<_> {
            let each = |term: &WeightedPodAffinityTerm| {
                (sign * i64::from(term.weight), Term::of(&term.pod_affinity_term, pod))
            };
            list.into_iter().flatten().map(each).collect()
        };
        let prefer =
            with.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref());
        let avoid =
            without.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref());
        let mut preferences = weighted(prefer, 1);
        preferences.extend(weighted(avoid, -1));
        let need =
            with.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
        let anti_affinity =
            without.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
        Self {
            pod,
            requests: requests::of_pod(spec),
            assumed: requests::assumed_of_pod(spec),
            affinity: terms(need),
            anti_affinity: terms(anti_affinity),
            preferences,
            host_ports: host_ports(spec),
        }
    }
}

fn host_ports(spec: &PodSpec) -> BTreeSet<(String, i32)> {
    let sidecars = spec
        .init_containers
        .iter()
        .flatten()
        .filter(|container| container.restart_policy.as_deref() == Some("Always"));
    let containers = spec.containers.iter().chain(sidecars);
    containers
        .flat_map(|container| container.ports.iter().flatten())
        .filter_map(|port| {
            let number = port.host_port.filter(|number| *number > 0)?;
            Some((port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()), number))
        })
        .collect()
}

/// A node with its pods.
#[derive(Debug)]
pub(crate) struct NodeState<'a> {
    pub(crate) node: &'a Seen<Node>,
    pub(crate) pods: Vec<Facts<'a>>,
    pub(crate) allocatable: Amounts,
    pub(crate) used: Amounts,
    pub(crate) used_assumed: Amounts,
    pub(crate) taints: Vec<Taint>,
}

impl<'a> NodeState<'a> {
    fn of(node: &'a Seen<Node>) -> Self {
        let status = node.status.as_ref();
        let allocatable = status.and_then(|s| s.allocatable.as_ref().or(s.capacity.as_ref()));
        Self {
            node,
            pods: Vec::new(),
            allocatable: requests::amounts(allocatable),
            used: Amounts::new(),
            used_assumed: Amounts::new(),
            taints: taints(node),
        }
    }

    fn put(&mut self, facts: Facts<'a>) {
        requests::add(&mut self.used, &facts.requests);
        requests::add(&mut self.used_assumed, &facts.assumed);
        self.pods.push(facts);
    }

    pub(crate) fn name(&self) -> &'a str {
        self.node.name()
    }
    pub(crate) fn label(&self, key: &str) -> Option<&'a str> {
        self.node.obj.label(key)
    }
}

/// The node's taints, and those that its state implies until they are written.
fn taints(node: &Seen<Node>) -> Vec<Taint> {
    let spec = node.spec.as_ref();
    let mut all = spec.and_then(|spec| spec.taints.clone()).unwrap_or_default();
    let mut imply = |key: &str| {
        if !all.iter().any(|taint| taint.key == key && taint.effect == "NoSchedule") {
            let (key, effect) = (key.to_owned(), "NoSchedule".to_owned());
            all.push(Taint { key, effect, ..Taint::default() });
        }
    };
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    let ready = conditions.into_iter().flatten().find(|condition| condition.type_ == "Ready");
    match ready.map(|ready| ready.status.as_str()) {
        Some("False") => imply("node.kubernetes.io/not-ready"),
        Some("Unknown") => imply("node.kubernetes.io/unreachable"),
        _ => {}
    }
    all
}

/// The cluster as far as placing a pod is concerned.
#[derive(Debug)]
pub(crate) struct State<'a> {
    /// In order of names.
    pub(crate) nodes: Vec<NodeState<'a>>,
    pub(crate) namespaces: &'a BTreeMap<String, BTreeMap<String, String>>,
}

impl<'a> State<'a> {
    pub(crate) fn of(view: &'a View) -> Self {
        let mut nodes: Vec<NodeState<'a>> = view.nodes.iter().map(NodeState::of).collect();
        nodes.sort_by(|a, b| a.name().cmp(b.name()));
        let index: BTreeMap<&str, usize> =
            nodes.iter().enumerate().map(|(at, node)| (node.name(), at)).collect();
        for pod in &view.pods {
            if let Some(at) = pods::node(pod).and_then(|name| index.get(name)) {
                nodes[*at].put(Facts::of(pod));
            }
        }
        Self { nodes, namespaces: &view.namespaces }
    }

    /// Assumes the pod on the node.
    pub(crate) fn put(&mut self, node: usize, facts: Facts<'a>) {
        self.nodes[node].put(facts);
    }

    /// All placed pods with their nodes.
    pub(crate) fn placed(&self) -> impl Iterator<Item = (&NodeState<'a>, &Facts<'a>)> {
        self.nodes.iter().flat_map(|node| node.pods.iter().map(move |facts| (node, facts)))
    }
}
