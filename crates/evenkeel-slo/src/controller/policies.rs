//! The controller of `ErrorBudgetPolicy`s: says whether one is valid and which SLOs it concerns.

use std::{collections::BTreeMap, sync::Arc};

use evenkeel_api::{
    ConditionUpdate, GroupKind, Key, Obj, set_condition,
    slo::{ErrorBudgetPolicy as Kind, PrometheusServiceLevel},
};
use evenkeel_control::{Controller, Interest, ListQuery, ObserveError, Plan, Ports, Wakes};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use serde_json::{Value, json};

use super::observe::{policies, spec};
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
    /// The valid policies of the namespace, by name.
    policies: BTreeMap<String, ErrorBudgetPolicy>,
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
        let neighbours = |obj: &Obj| Wakes::Namespace(obj.namespace().to_owned());
        let of = |obj: &Obj| spec(obj).to_string();
        vec![
            // What an SLO is, not how it stands.
            Interest::mapped::<PrometheusServiceLevel>(neighbours).minding(of),
            // Another policy may select the same SLOs.
            Interest::mapped::<Kind>(neighbours).minding(of),
        ]
    }

    async fn observe(&self, key: &Key, ports: &Ports) -> Result<Option<PolicyView>, ObserveError> {
        let Some(obj) = ports.read.get(key).await? else { return Ok(None) };
        let within = |kind| ListQuery::all(kind).within(&key.namespace);
        let slos = within(GroupKind::of::<PrometheusServiceLevel>());
        let all = ports.read.list(&ListQuery::of::<Kind>().within(&key.namespace)).await?.items;
        Ok(Some(PolicyView {
            now: ports.clock.now(),
            obj,
            slos: ports.read.list(&slos).await?.items,
            policies: policies(&all).0,
        }))
    }

    fn decide(&self, view: &PolicyView) -> Plan {
        super::made_for(decide(view), &view.obj)
    }
}

fn decide(view: &PolicyView) -> Plan {
    let (selected, verdict) = match ErrorBudgetPolicy::from_value(view.obj.json()) {
        Ok(policy) => {
            let (count, shared) = selected(&policy, view);
            let reason = if count == 0 { "SelectsNothing" } else { "Valid" };
            let slos = if count == 1 { "1 SLO".to_owned() } else { format!("{count} SLOs") };
            let message = format!("it is for {slos} of this namespace{}", also(&shared));
            (count, ("True", reason, message))
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

/// How many SLOs of the namespace a policy selects, and how many of these each other policy does.
fn selected<'a>(
    policy: &ErrorBudgetPolicy,
    view: &'a PolicyView,
) -> (usize, BTreeMap<&'a str, usize>) {
    let others = view.policies.values().filter(|other| other.name() != policy.name());
    let others: Vec<_> = others.collect();
    let (mut count, mut shared) = (0, BTreeMap::new());
    for obj in &view.slos {
        let input = Input { name: obj.key().to_string(), text: obj.json().to_string() };
        let loaded = load(&[input], &Options::default(), &mut Vec::new());
        let slos = loaded.groups.iter().flat_map(|group| &group.slos);
        for slo in slos.filter(|slo| policy.selects(slo)) {
            count += 1;
            for other in others.iter().filter(|other| other.selects(slo)) {
                *shared.entry(other.name()).or_default() += 1;
            }
        }
    }
    (count, shared)
}

/// What is said about policies that select some of the same SLOs.
fn also(shared: &BTreeMap<&str, usize>) -> String {
    if shared.is_empty() {
        return String::new();
    }
    let more = shared.len().saturating_sub(POLICIES_MAX);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let one = |(name, count): (&&str, &usize)| format!("{count} by ErrorBudgetPolicy/{name}");
    let names = shared.iter().take(POLICIES_MAX).map(one).collect::<Vec<_>>().join(", ");
    format!(
        ", of which other policies select some, too ({names}{more}): the strictest answer counts"
    )
}

/// Other policies that are named in the condition of one.
const POLICIES_MAX: usize = 5;
