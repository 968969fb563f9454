//! The controller of `ErrorBudgetPolicy`s: says whether one is valid and which SLOs it concerns.

use std::sync::Arc;

use evenkeel_api::{
    ConditionUpdate, GroupKind, Key, Obj, set_condition,
    slo::{ErrorBudgetPolicy as Kind, PrometheusServiceLevel},
};
use evenkeel_control::{Controller, Interest, ListQuery, ObserveError, Plan, Ports, Wakes};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use serde_json::{Value, json};

use super::observe::spec;
use crate::{
    generate::{Options, load},
    policy::ErrorBudgetPolicy,
    reasons,
    spec::Input,
};

/// The controller of [`ErrorBudgetPolicy`](evenkeel_api::slo::ErrorBudgetPolicy) objects.
#[derive(Debug, Clone, Copy, Default)]
pub struct PolicyController;

/// What deciding about one policy may look at.
#[derive(Debug, Clone)]
pub struct PolicyView {
    now: Timestamp,
    obj: Arc<Obj>,
    slos: Vec<Arc<Obj>>,
}

impl Controller for PolicyController {
    type View = PolicyView;

    fn name(&self) -> &'static str {
        "slo-policy"
    }

    fn owns(&self) -> ListQuery {
        ListQuery::of::<Kind>()
    }

    fn also(&self) -> Vec<Interest> {
        // What an SLO is, not how it stands.
        let neighbours = |obj: &Obj| Wakes::Namespace(obj.namespace().to_owned());
        let slos = Interest::mapped::<PrometheusServiceLevel>(neighbours);
        vec![slos.minding(|obj| spec(obj).to_string())]
    }

    async fn observe(&self, key: &Key, ports: &Ports) -> Result<Option<PolicyView>, ObserveError> {
        let Some(obj) = ports.read.get(key).await? else { return Ok(None) };
        let within = |kind| ListQuery::all(kind).within(&key.namespace);
        let slos = within(GroupKind::of::<PrometheusServiceLevel>());
        Ok(Some(PolicyView {
            now: ports.clock.now(),
            obj,
            slos: ports.read.list(&slos).await?.items,
        }))
    }

    fn decide(&self, view: &PolicyView) -> Plan {
        super::made_for(decide(view), &view.obj)
    }
}

fn decide(view: &PolicyView) -> Plan {
    let (selected, verdict) = match ErrorBudgetPolicy::from_value(view.obj.json()) {
        Ok(policy) => {
            let count = view.slos.iter().map(|obj| selected(&policy, obj)).sum::<usize>();
            let message = format!("it is for {count} SLOs of this namespace");
            (count, ("True", if count == 0 { "SelectsNothing" } else { "Valid" }, message))
        }
        Err(error) => (0, ("False", "Invalid", error.to_string())),
    };
    let (status, reason, message) = verdict;
    let mut plan = Plan::idle(reasons::POLICY_CHECKED);
    let have = view.obj.json().get("status");
    let conditions = have.and_then(|status| status.get("conditions")).cloned();
    let mut list: Vec<Condition> =
        serde_json::from_value(conditions.unwrap_or(Value::Null)).unwrap_or_default();
    let update = ConditionUpdate {
        kind: "Accepted",
        status,
        reason,
        message: &message,
        observed_generation: view.obj.generation(),
    };
    let changed = set_condition(&mut list, &update, view.now);
    let before = have.and_then(|status| status.get("slos")).and_then(Value::as_u64);
    if changed || before != u64::try_from(selected).ok() {
        plan =
            plan.with_status(view.obj.key().clone(), json!({"conditions": list, "slos": selected}));
    }
    plan
}

/// How many SLOs of an object a policy selects.
fn selected(policy: &ErrorBudgetPolicy, obj: &Obj) -> usize {
    let input = Input { name: obj.key().to_string(), text: obj.json().to_string() };
    let loaded = load(&[input], &Options::default(), &mut Vec::new());
    let slos = loaded.groups.iter().flat_map(|group| &group.slos);
    slos.filter(|slo| policy.selects(slo)).count()
}
