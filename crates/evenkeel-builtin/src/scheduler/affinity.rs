//! Node selectors and tolerations.

use evenkeel_api::Obj;
use k8s_openapi::api::core::v1::{Pod, PodSpec, Taint, Toleration};

use super::state::NodeState;
use crate::node_terms::matches;

/// Whether the pod's node selector and required node affinity allow the node.
pub(crate) fn allows(spec: &PodSpec, node: &Obj) -> bool {
    let selected = spec
        .node_selector
        .iter()
        .flatten()
        .all(|(key, value)| node.label(key) == Some(value.as_str()));
    let affinity = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    let required =
        affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
    // Terms are alternatives; a list without any allows nothing.
    selected
        && required.is_none_or(|r| r.node_selector_terms.iter().any(|term| matches(term, node)))
}

/// Sum of the weights of the preferred terms that the node satisfies.
pub(crate) fn preference(spec: &PodSpec, node: &NodeState<'_>) -> i64 {
    let affinity = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    let preferred =
        affinity.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref());
    let fitting =
        preferred.into_iter().flatten().filter(|term| matches(&term.preference, &node.node.obj));
    fitting.map(|term| i64::from(term.weight)).sum()
}

/// Whether the pod tolerates the taint.
pub(crate) fn tolerates(pod: &Pod, taint: &Taint) -> bool {
    let tolerations = pod.spec.as_ref().and_then(|spec| spec.tolerations.as_ref());
    tolerations.into_iter().flatten().any(|toleration| covers(toleration, taint))
}

/// Whether a toleration covers a taint.
pub(crate) fn covers(toleration: &Toleration, taint: &Taint) -> bool {
    let set = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let exists = toleration.operator.as_deref() == Some("Exists");
    let key = set(&toleration.key);
    set(&toleration.effect).is_none_or(|effect| effect == taint.effect)
        && key.as_ref().map_or(exists, |key| *key == taint.key)
        && (exists
            || toleration.value.as_deref().unwrap_or_default()
                == taint.value.as_deref().unwrap_or_default())
}
