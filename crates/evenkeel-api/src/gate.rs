//! The termination gate: how a pod is emptied by the gateway before its node stops it.
//!
//! ```text
//! pod carries TERMINATION_GATE: gateway ─> deleted ─> gateway empties it, writes DRAINED: <its uid> ─> node stops it
//! ```
//! The gateway and the nodes read it with the same functions, so that they cannot disagree.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// Annotation of a pod: which component empties it before it is stopped. Only [`GATE_GATEWAY`] has
/// a meaning; no component opens another gate, so a pod with another value is stopped as if it had
/// none.
pub const TERMINATION_GATE: &str = "evenkeel.dev/termination-gate";
/// The value of [`TERMINATION_GATE`] that asks the gateway.
pub const GATE_GATEWAY: &str = "gateway";
/// Annotation of a pod: it has been emptied. The value is the pod's uid, because a successor may
/// have the same name.
pub const DRAINED: &str = "evenkeel.dev/drained";

/// Whether the gateway empties this pod before it is stopped.
pub fn gated(meta: &ObjectMeta) -> bool {
    value(meta, TERMINATION_GATE) == Some(GATE_GATEWAY)
}

/// The value of a gate that no component opens, if the pod has one.
pub fn unknown(meta: &ObjectMeta) -> Option<&str> {
    value(meta, TERMINATION_GATE).filter(|value| *value != GATE_GATEWAY)
}

/// Whether this very pod has been emptied.
pub fn drained(meta: &ObjectMeta) -> bool {
    value(meta, DRAINED).is_some_and(|uid| Some(uid) == meta.uid.as_deref())
}

fn value<'a>(meta: &'a ObjectMeta, name: &str) -> Option<&'a str> {
    let all: &BTreeMap<String, String> = meta.annotations.as_ref()?;
    all.get(name).map(String::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta(annotation: Option<(&str, &str)>) -> ObjectMeta {
        let annotations = annotation.map(|(name, value)| (name.to_owned(), value.to_owned()));
        ObjectMeta {
            uid: Some("u-1".to_owned()),
            annotations: annotations.map(|one| BTreeMap::from([one])),
            ..ObjectMeta::default()
        }
    }

    #[test]
    fn only_the_gateways_gate_counts_and_only_for_the_pod_that_was_emptied() {
        assert!(gated(&meta(Some((TERMINATION_GATE, "gateway")))));
        assert!(!gated(&meta(Some((TERMINATION_GATE, "backup")))));
        assert!(!gated(&meta(None)));
        assert_eq!(unknown(&meta(Some((TERMINATION_GATE, "backup")))), Some("backup"));
        assert_eq!(unknown(&meta(Some((TERMINATION_GATE, "gateway")))), None);
        assert!(drained(&meta(Some((DRAINED, "u-1")))));
        assert!(
            !drained(&meta(Some((DRAINED, "u-0")))),
            "another pod of the same name was emptied"
        );
        assert!(!drained(&meta(Some((DRAINED, "")))));
        assert!(!drained(&ObjectMeta::default()), "no uid, no annotation");
    }
}
