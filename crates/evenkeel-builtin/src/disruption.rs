//! `PodDisruptionBudget`: how many pods may be missing. Only the status is kept here; that an
//! eviction is refused is the API server's business.
//! **Source**: `pkg/controller/disruption/disruption.go`.

use std::collections::{BTreeMap, BTreeSet};

use evenkeel_api::{
    ConditionUpdate, GroupKind, Key, LabelSelector, Obj,
    disruption::{self, Disruption},
    json::difference,
    set_condition,
};
use evenkeel_control::{Controller, Interest, ListQuery, ObserveError, Plan, Ports, Wakes};
use jiff::Timestamp;
use k8s_openapi::api::{
    core::v1::Pod,
    policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus},
};
use serde_json::json;

use crate::{
    reasons,
    seen::{Seen, get_as, json, list_as, whole_second},
};

/// The controller.
pub(crate) struct Disruptions;

/// What one budget's decision looks at.
#[derive(Debug)]
pub(crate) struct View {
    pub(crate) now: Timestamp,
    pub(crate) budget: Seen<PodDisruptionBudget>,
    /// The pods it selects.
    pub(crate) pods: Vec<Seen<Pod>>,
    /// How many pods their owners want together; pods without an owner count for themselves.
    pub(crate) wanted: i64,
}

impl Controller for Disruptions {
    type View = View;

    fn name(&self) -> &'static str {
        "disruption-controller"
    }

    fn owns(&self) -> ListQuery {
        ListQuery::of::<PodDisruptionBudget>()
    }

    fn also(&self) -> Vec<Interest> {
        let pod = Interest::mapped::<Pod>(|pod| Wakes::Namespace(pod.namespace().to_owned()));
        vec![pod]
    }

    async fn observe(&self, key: &Key, ports: &Ports) -> Result<Option<View>, ObserveError> {
        let Some(budget) = get_as::<PodDisruptionBudget>(ports, key).await? else {
            return Ok(None);
        };
        let query = ListQuery::all(GroupKind::of::<Pod>()).within(&key.namespace);
        let pods = match selector(&budget) {
            Some(selector) => list_as::<Pod>(ports, &query.with_labels(selector)).await?,
            None => Vec::new(),
        };
        let wanted = wanted(ports, &pods).await?;
        Ok(Some(View { now: ports.clock.now(), budget, pods, wanted }))
    }

    fn decide(&self, view: &View) -> Plan {
        decide(view)
    }
}

/// `None` selects nothing; the empty selector selects every pod of the namespace.
fn selector(budget: &PodDisruptionBudget) -> Option<LabelSelector> {
    LabelSelector::from_object(budget.spec.as_ref()?.selector.as_ref()?).ok()
}

/// How many pods their owners want together.
async fn wanted(ports: &Ports, pods: &[Seen<Pod>]) -> Result<i64, ObserveError> {
    let mut owners = BTreeMap::new();
    let keys: BTreeSet<Key> = pods.iter().filter_map(|pod| disruption::owner(&pod.obj)).collect();
    for key in keys {
        let Some(owner) = ports.read.get(&key).await? else { continue };
        if let Some(above) = disruption::deployment_above(&owner)
            && let Some(deployment) = ports.read.get(&above).await?
        {
            owners.insert(above, deployment);
        }
        owners.insert(key, owner);
    }
    let pods = pods.iter().map(|pod| &*pod.obj);
    Ok(disruption::wanted_pods(pods, |key| owners.get(key).cloned()))
}

/// Counts what is healthy and what has to be.
pub(crate) fn decide(view: &View) -> Plan {
    let Some(spec) = view.budget.spec.as_ref() else { return Plan::idle(reasons::NOT_MANAGED) };
    let pods: Vec<&Obj> = view.pods.iter().map(|pod| &*pod.obj).collect();
    let counted = Disruption::of(spec, &pods, view.wanted);
    let allowed = counted.allowed();
    let old = view.budget.status.clone().unwrap_or_default();
    let mut conditions = old.conditions.clone().unwrap_or_default();
    let update = ConditionUpdate {
        kind: "DisruptionAllowed",
        status: if allowed > 0 { "True" } else { "False" },
        reason: if allowed > 0 { reasons::SUFFICIENT_PODS } else { reasons::INSUFFICIENT_PODS },
        message: "",
        observed_generation: view.budget.obj.generation(),
    };
    set_condition(&mut conditions, &update, whole_second(view.now).0);
    let status = PodDisruptionBudgetStatus {
        conditions: Some(conditions),
        current_healthy: narrow(counted.healthy),
        desired_healthy: narrow(counted.needed),
        disruptions_allowed: narrow(allowed),
        expected_pods: narrow(counted.expected),
        observed_generation: Some(view.budget.obj.generation()),
        ..old
    };
    let before = view.budget.status.as_ref().map_or_else(|| json!({}), json);
    match difference(&before, &json(&status)) {
        Some(patch) => {
            Plan::idle(reasons::STATUS_CHANGED).with_status(view.budget.key().clone(), patch)
        }
        None => Plan::idle(reasons::SETTLED),
    }
}

/// A count as the API has it.
fn narrow(count: i64) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::testing::{Cluster, deployment, node};

    /// `allowed healthy/needed/expected` of a budget over three replicas, one of them not ready.
    fn budget(spec: Value) -> String {
        let mut cluster = Cluster::new(1);
        cluster.world.apply(node("n1", "a", ("8", "8Gi")));
        cluster.world.apply(deployment("web", "web:1", &json!({"replicas": 3})));
        cluster.settle();
        for pod in cluster.world.unsettled_pods().iter().skip(1) {
            cluster.world.run_pod(pod, true);
        }
        let mut body = json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget",
            "metadata": {"name": "web", "namespace": "shop"}});
        body["spec"] = spec;
        body["spec"]["selector"] = json!({"matchLabels": {"app": "web"}});
        cluster.world.apply(body);
        cluster.settle();
        let budget = cluster.world.find(&Key::of::<PodDisruptionBudget>("shop", "web")).unwrap();
        let status = budget.get::<PodDisruptionBudget>().unwrap().status.clone().unwrap();
        format!(
            "{} {}/{}/{}",
            status.disruptions_allowed,
            status.current_healthy,
            status.desired_healthy,
            status.expected_pods
        )
    }

    #[test]
    fn budgets_count_against_what_owners_want_and_percentages_round_up() {
        assert_eq!(budget(json!({"minAvailable": 1})), "1 2/1/3");
        assert_eq!(budget(json!({"minAvailable": 3})), "0 2/3/3");
        assert_eq!(budget(json!({"minAvailable": "50%"})), "0 2/2/3");
        assert_eq!(budget(json!({"maxUnavailable": 2})), "1 2/1/3");
        assert_eq!(budget(json!({"maxUnavailable": "34%"})), "1 2/1/3");
        assert_eq!(budget(json!({"maxUnavailable": 0})), "0 2/3/3");
    }
}
