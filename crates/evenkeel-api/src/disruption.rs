//! What a `PodDisruptionBudget` allows: one count for its status and for evictions.
//!
//! **Source**: `pkg/controller/disruption/disruption.go`.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::{
    api::{
        apps::v1::{Deployment, ReplicaSet, StatefulSet},
        policy::v1::PodDisruptionBudgetSpec,
    },
    apimachinery::pkg::util::intstr::IntOrString,
};
use serde_json::Value;

use crate::{Key, Obj, Rounding, scaled_int_or_percent};

/// How many of a budget's pods are healthy, and how many have to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Disruption {
    /// Pods that are ready and stay.
    pub healthy: i64,
    /// Pods that have to be healthy.
    pub needed: i64,
    /// Pods that there should be.
    pub expected: i64,
}

impl Disruption {
    /// Counts a budget's pods against its spec.
    ///
    /// `selected`: all pods that it selects. `wanted`: see [`wanted_pods`].
    pub fn of(spec: &PodDisruptionBudgetSpec, selected: &[&Obj], wanted: i64) -> Self {
        let total = i32::try_from(wanted).unwrap_or(i32::MAX);
        let share = |value| scaled_int_or_percent(value, total, Rounding::Up).map_or(0, i64::from);
        let found = i64::try_from(selected.len()).unwrap_or(i64::MAX);
        let (expected, needed) = match (&spec.max_unavailable, &spec.min_available) {
            (Some(most), _) => (wanted, (wanted - share(most)).max(0)),
            (None, Some(IntOrString::Int(least))) => (found, i64::from(*least)),
            (None, Some(percent)) => (wanted, share(percent)),
            (None, None) => (found, 0),
        };
        let healthy = selected.iter().filter(|pod| is_healthy(pod)).count();
        Self { healthy: i64::try_from(healthy).unwrap_or(i64::MAX), needed, expected }
    }

    /// Healthy pods that may go now. None while there should be no pods at all, so that the first
    /// ones are safe.
    pub fn allowed(self) -> i64 {
        if self.expected > 0 { (self.healthy - self.needed).max(0) } else { 0 }
    }
}

/// Whether a pod is ready, has not ended and is not about to go.
pub fn is_healthy(pod: &Obj) -> bool {
    let field = |value: &Value, name: &str, wanted: &str| value[name].as_str() == Some(wanted);
    let status = &pod.json()["status"];
    let over = field(status, "phase", "Succeeded") || field(status, "phase", "Failed");
    let mut conditions = status["conditions"].as_array().into_iter().flatten();
    let ready = conditions.any(|one| field(one, "type", "Ready") && field(one, "status", "True"));
    ready && !over && !pod.is_deleting()
}

/// The object whose `replicas` count for a pod, seen from the pod.
pub fn owner(pod: &Obj) -> Option<Key> {
    let owner = pod.controller()?;
    match &*owner.kind {
        "ReplicaSet" => Some(Key::of::<ReplicaSet>(pod.namespace(), &owner.name)),
        "StatefulSet" => Some(Key::of::<StatefulSet>(pod.namespace(), &owner.name)),
        _ => None,
    }
}

/// The Deployment above an owner, whose number counts instead: the `replicas` of a `ReplicaSet`
/// that is scaled down do not say how many pods there should be.
pub fn deployment_above(owner: &Obj) -> Option<Key> {
    let above = owner.controller().filter(|above| &*above.kind == "Deployment")?;
    Some(Key::of::<Deployment>(owner.namespace(), &above.name))
}

/// How many pods their owners want together.
///
/// A pod counts for itself when it has no owner that can be asked. `find` looks an owner up.
pub fn wanted_pods<'a>(
    selected: impl IntoIterator<Item = &'a Obj>,
    find: impl Fn(&Key) -> Option<Arc<Obj>>,
) -> i64 {
    let mut owners = BTreeMap::new();
    let mut alone = 0;
    for pod in selected {
        let found = owner(pod).and_then(|key| find(&key));
        let Some(owner) = found else {
            alone += 1;
            continue;
        };
        let owner = deployment_above(&owner).and_then(|key| find(&key)).unwrap_or(owner);
        let replicas = owner.json().pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or(1);
        owners.insert(owner.uid().to_owned(), replicas);
    }
    owners.values().fold(alone, |sum: i64, replicas| sum.saturating_add(*replicas))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(name: &str, set: &str, ready: bool) -> Obj {
        let status = if ready { "True" } else { "False" };
        Obj::from_json(json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": "shop", "ownerReferences": [{
                "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": set, "uid": set,
                "controller": true}]},
            "status": {"conditions": [{"type": "Ready", "status": status}]}}))
        .unwrap()
    }

    fn owner_of(kind: &str, name: &str, replicas: i64, above: &str) -> Arc<Obj> {
        let mut body = json!({"apiVersion": "apps/v1", "kind": kind,
            "metadata": {"name": name, "namespace": "shop", "uid": name},
            "spec": {"replicas": replicas}});
        if !above.is_empty() {
            body["metadata"]["ownerReferences"] = json!([{"apiVersion": "apps/v1",
                "kind": "Deployment", "name": above, "uid": above, "controller": true}]);
        }
        Arc::new(Obj::from_json(body).unwrap())
    }

    #[test]
    fn in_the_middle_of_a_rollout_the_deployment_s_number_counts() {
        let pods = [pod("a", "old", true), pod("b", "old", true), pod("c", "new", true)];
        let owners = [
            owner_of("ReplicaSet", "old", 2, "web"),
            owner_of("ReplicaSet", "new", 2, "web"),
            owner_of("Deployment", "web", 3, ""),
        ];
        let find = |key: &Key| owners.iter().find(|owner| owner.key() == key).cloned();
        assert_eq!(wanted_pods(&pods, find), 3, "not 2 + 2");
        assert_eq!(wanted_pods(&pods, |_| None), 3, "each for itself");
        let spec = PodDisruptionBudgetSpec {
            max_unavailable: Some(IntOrString::Int(1)),
            ..PodDisruptionBudgetSpec::default()
        };
        let all: Vec<&Obj> = pods.iter().collect();
        let counted = Disruption::of(&spec, &all, wanted_pods(&pods, find));
        assert_eq!(counted, Disruption { healthy: 3, needed: 2, expected: 3 });
        assert_eq!(counted.allowed(), 1);
    }

    #[test]
    fn the_largest_numbers_do_not_overflow() {
        let pods = [pod("a", "one", true), pod("b", "two", true)];
        let owners = ["one", "two"].map(|name| owner_of("ReplicaSet", name, i64::MAX, ""));
        let find = |key: &Key| owners.iter().find(|owner| owner.key() == key).cloned();
        assert_eq!(wanted_pods(&pods, find), i64::MAX);
    }
}
