//! Which nodes are to have a pod. **Source**: `NodeShouldRunDaemonPod`.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, Pod, PodSpec, Toleration};

use super::View;
use crate::{
    pods,
    scheduler::{allows, covers},
    seen::Seen,
};

/// What a node is to a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fit {
    /// It is to have a pod.
    pub(crate) runs: bool,
    /// A pod that is there may stay.
    pub(crate) keeps: bool,
}

pub(crate) fn fit(spec: &PodSpec, node: &Seen<Node>) -> Fit {
    let named = spec.node_name.as_deref().unwrap_or_default();
    if !(named.is_empty() || named == node.name()) || !allows(spec, &node.obj) {
        return Fit { runs: false, keeps: false };
    }
    let tolerations = tolerations(spec);
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    let repels = |effects: &[&str]| {
        taints.iter().any(|taint| {
            effects.contains(&taint.effect.as_str())
                && !tolerations.iter().any(|toleration| covers(toleration, taint))
        })
    };
    Fit { runs: !repels(&["NoSchedule", "NoExecute"]), keeps: !repels(&["NoExecute"]) }
}

/// The tolerations of a pod of the set: its own, and those that every such pod has.
///
/// **Source**: `AddOrUpdateDaemonPodTolerations`.
pub(crate) fn tolerations(spec: &PodSpec) -> Vec<Toleration> {
    let mut all = spec.tolerations.clone().unwrap_or_default();
    let mut wanted = vec![
        ("not-ready", "NoExecute"),
        ("unreachable", "NoExecute"),
        ("disk-pressure", "NoSchedule"),
        ("memory-pressure", "NoSchedule"),
        ("pid-pressure", "NoSchedule"),
        ("unschedulable", "NoSchedule"),
    ];
    if spec.host_network == Some(true) {
        wanted.push(("network-unavailable", "NoSchedule"));
    }
    for (what, effect) in wanted {
        let toleration = Toleration {
            key: Some(format!("node.kubernetes.io/{what}")),
            operator: Some("Exists".to_owned()),
            effect: Some(effect.to_owned()),
            ..Toleration::default()
        };
        let is_same = |have: &&mut Toleration| {
            have.key == toleration.key
                && have.effect == toleration.effect
                && have.operator == toleration.operator
                && have.value.as_deref().unwrap_or_default().is_empty()
        };
        match all.iter_mut().find(is_same) {
            Some(have) => *have = toleration,
            None => all.push(toleration),
        }
    }
    all
}

/// The node that a pod is on, or that it waits for. **Source**: `GetTargetNodeName`.
fn target(pod: &Pod) -> Option<&str> {
    if let Some(node) = pods::node(pod) {
        return Some(node);
    }
    let affinity = pod.spec.as_ref()?.affinity.as_ref()?.node_affinity.as_ref()?;
    let required = affinity.required_during_scheduling_ignored_during_execution.as_ref()?;
    let fields = required.node_selector_terms.iter().flat_map(|term| &term.match_fields).flatten();
    let mut named = fields.filter(|field| field.key == "metadata.name" && field.operator == "In");
    match named.next()?.values.as_deref()? {
        [name] => Some(name),
        _ => None,
    }
}

/// Its pods by node. One that has ended and is being deleted is nobody's any more.
pub(crate) fn by_node(view: &View) -> BTreeMap<String, Vec<&Seen<Pod>>> {
    let mut all: BTreeMap<String, Vec<&Seen<Pod>>> = BTreeMap::new();
    for pod in &view.pods {
        let is_own = pods::is_controlled_by(&pod.obj, view.set.uid());
        let is_over = pods::is_terminal(pod) && pod.obj.is_deleting();
        if let Some(node) = target(pod).filter(|_| is_own && !is_over) {
            all.entry(node.to_owned()).or_default().push(pod);
        }
    }
    for list in all.values_mut() {
        // Placed ones first, then the oldest.
        list.sort_by_key(|pod| (pods::node(pod).is_none(), pod.created(), pod.name().to_owned()));
    }
    all
}
