//! Which nodes the terms of a node affinity speak of.

use std::collections::BTreeMap;

use evenkeel_api::Obj;
use k8s_openapi::api::core::v1::{
    Node, NodeSelectorRequirement, NodeSelectorTerm, PersistentVolume,
};

use crate::seen::Seen;

/// Whether a volume can be used on the node.
///
/// **Source**: `CheckNodeAffinity` in `component-helpers/storage/volume`.
pub(crate) fn volume_allows(volume: &PersistentVolume, node: &Seen<Node>) -> bool {
    let affinity = volume.spec.as_ref().and_then(|spec| spec.node_affinity.as_ref());
    let required = affinity.and_then(|affinity| affinity.required.as_ref());
    required.is_none_or(|r| r.node_selector_terms.iter().any(|term| matches(term, &node.obj)))
}

/// All requirements of a term; an empty term matches nothing.
pub(crate) fn matches(term: &NodeSelectorTerm, node: &Obj) -> bool {
    let labels = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    let name = BTreeMap::from([("metadata.name".to_owned(), node.name().to_owned())]);
    (!labels.is_empty() || !fields.is_empty())
        && labels.iter().all(|requirement| holds(requirement, node.labels()))
        && fields.iter().all(|requirement| holds(requirement, &name))
}

fn holds(requirement: &NodeSelectorRequirement, labels: &BTreeMap<String, String>) -> bool {
    let have = labels.get(&requirement.key);
    let values = requirement.values.as_deref().unwrap_or_default();
    let compare = |bigger: bool| {
        let number = |text: &str| text.parse::<i64>().ok();
        let have = have.and_then(|have| number(have));
        let limit = values.first().and_then(|value| number(value));
        have.zip(limit)
            .is_some_and(|(have, limit)| if bigger { have > limit } else { have < limit })
    };
    match requirement.operator.as_str() {
        "In" => have.is_some_and(|have| values.contains(have)),
        "NotIn" => !have.is_some_and(|have| values.contains(have)),
        "Exists" => have.is_some(),
        "DoesNotExist" => have.is_none(),
        "Gt" => compare(true),
        "Lt" => compare(false),
        _ => false,
    }
}
