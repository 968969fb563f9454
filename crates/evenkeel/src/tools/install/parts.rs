//! What the manifest and the chart say in the same words.

use evenkeel_assembly::{COMMON, LEASES, Right, domains};
use serde_json::{Value, json};

use super::place::{PART_OF, Place};

/// The labels of every object.
pub(super) fn labels(name: &str) -> String {
    let (key, value) = PART_OF;
    format!("{{app.kubernetes.io/name: \"{name}\", {key}: {value}}}")
}

/// What a process asks of its node and may use of it.
pub(super) fn resources() -> Value {
    json!({"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"memory": "512Mi"}})
}

/// A right, and the groups that it is granted for.
pub(super) struct Grant {
    pub(super) right: Right,
    /// None means that all of them need it.
    pub(super) groups: Vec<&'static str>,
}

impl Grant {
    /// Whether a Role can grant it. One that cannot is of no use there, and who may not grant it
    /// himself could not make that Role.
    pub(super) fn is_of_a_namespace(&self) -> bool {
        self.right.group != "apiextensions.k8s.io"
    }

    pub(super) fn is_for(&self, place: &Place) -> bool {
        self.groups.is_empty() || self.groups.iter().any(|group| place.runs(group))
    }
}

/// Every right once, in an order that does not depend on the groups.
pub(super) fn grants() -> Vec<Grant> {
    let common = COMMON.iter().map(|right| Grant { right: *right, groups: Vec::new() });
    let mut grants: Vec<Grant> = common.collect();
    for domain in domains() {
        for right in domain.rights {
            match grants.iter_mut().find(|grant| grant.right == *right) {
                Some(grant) if grant.groups.is_empty() => {}
                Some(grant) => grant.groups.push(domain.name),
                None => grants.push(Grant { right: *right, groups: vec![domain.name] }),
            }
        }
    }
    grants
}

pub(super) fn lease_rules() -> String {
    LEASES.iter().map(rule).collect::<Vec<_>>().join("\n")
}

pub(super) fn rule(right: &Right) -> String {
    let group = if right.group.is_empty() { "\"\"" } else { right.group };
    let (resources, verbs) = (right.resources.join(", "), right.verbs.join(", "));
    format!("- {{apiGroups: [{group}], resources: [{resources}], verbs: [{verbs}]}}")
}
