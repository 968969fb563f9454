//! The status of routes and Gateways, from verdicts.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use evenkeel_api::httproute::{RouteParentStatus, RouteStatus};
use evenkeel_api::{ConditionUpdate, set_condition};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use serde_json::{Value, json};

use crate::decide::{Finding, GatewayVerdict, ListenerVerdict, RouteVerdict};
use crate::reasons::{
    ACCEPTED, ADDRESS_NOT_USABLE, CONFLICTED, CONTROLLER, INVALID, NO_CONFLICTS, PROGRAMMED,
    RESOLVED_REFS,
};

/// The generation that a condition is about, and its time.
type Observed = (i64, Timestamp);

/// The parents in the status of a route: ours rebuilt, those of others as they were.
pub(crate) fn parents(
    before: &RouteStatus,
    verdict: &RouteVerdict,
    now: Timestamp,
) -> Vec<RouteParentStatus> {
    let others = before.parents.iter().filter(|one| one.controller_name != CONTROLLER).cloned();
    let mut parents: Vec<RouteParentStatus> = others.collect();
    for parent in &verdict.parents {
        let ours = |one: &&RouteParentStatus| {
            one.controller_name == CONTROLLER && one.parent_ref == parent.parent
        };
        let old = before.parents.iter().find(ours);
        let mut conditions = old.map(|old| old.conditions.clone()).unwrap_or_default();
        let programmed = if parent.accepted.good {
            Finding::good(PROGRAMMED)
        } else {
            Finding { good: false, ..parent.accepted.clone() }
        };
        let findings = [
            (ACCEPTED, &parent.accepted),
            (RESOLVED_REFS, &parent.resolved),
            (PROGRAMMED, &programmed),
        ];
        for (kind, finding) in findings {
            condition(&mut conditions, kind, finding, (verdict.generation, now));
        }
        parents.push(RouteParentStatus {
            parent_ref: parent.parent.clone(),
            controller_name: CONTROLLER.to_owned(),
            conditions,
        });
    }
    parents
}

/// The status of a Gateway. `errors` are the addresses that cannot be listened on.
pub(crate) fn gateway(
    before: &Value,
    verdict: &GatewayVerdict,
    errors: &BTreeMap<SocketAddr, String>,
    now: Timestamp,
) -> Value {
    let observed = (verdict.generation, now);
    let mut conditions = conditions_of(before);
    let served = verdict.listeners.iter().any(|one| !one.addresses.is_empty());
    let mut addresses = verdict.listeners.iter().flat_map(|one| &one.addresses);
    let error = addresses.find_map(|address| errors.get(address));
    let programmed = match error {
        Some(error) => Finding::bad(ADDRESS_NOT_USABLE, error.clone()),
        None if served => Finding::good(PROGRAMMED),
        None => Finding::bad(INVALID, verdict.accepted.message.clone()),
    };
    for (kind, finding) in [(ACCEPTED, &verdict.accepted), (PROGRAMMED, &programmed)] {
        condition(&mut conditions, kind, finding, observed);
    }
    let listeners = verdict.listeners.iter().map(|one| {
        let old = before.get("listeners").and_then(Value::as_array).into_iter().flatten();
        let old = old.clone().find(|old| old.get("name").is_some_and(|name| *name == *one.name));
        listener(old.unwrap_or(&Value::Null), one, errors, observed)
    });
    let addresses = verdict.addresses.iter().filter(|_| served);
    let addresses = addresses.map(|ip| json!({"type": "IPAddress", "value": ip}));
    json!({
        "addresses": addresses.collect::<Vec<_>>(),
        "conditions": conditions,
        "listeners": listeners.collect::<Vec<_>>(),
    })
}

fn listener(
    before: &Value,
    verdict: &ListenerVerdict,
    errors: &BTreeMap<SocketAddr, String>,
    observed: Observed,
) -> Value {
    let error = verdict.addresses.iter().find_map(|address| errors.get(address));
    let programmed = match error {
        Some(error) => Finding::bad(ADDRESS_NOT_USABLE, error.clone()),
        None if verdict.accepted.good => Finding::good(PROGRAMMED),
        None => Finding::bad(INVALID, verdict.accepted.message.clone()),
    };
    let conflict = match &verdict.conflict {
        Some(conflict) => Finding { good: true, ..conflict.clone() },
        None => Finding::bad(NO_CONFLICTS, String::new()),
    };
    let mut conditions = conditions_of(before);
    let findings = [
        (ACCEPTED, &verdict.accepted),
        (PROGRAMMED, &programmed),
        (RESOLVED_REFS, &verdict.resolved),
        (CONFLICTED, &conflict),
    ];
    for (kind, finding) in findings {
        condition(&mut conditions, kind, finding, observed);
    }
    let kind = json!({"group": "gateway.networking.k8s.io", "kind": "HTTPRoute"});
    json!({
        "name": verdict.name,
        "attachedRoutes": verdict.routes,
        "supportedKinds": if verdict.takes_routes { vec![kind] } else { vec![] },
        "conditions": conditions,
    })
}

fn conditions_of(before: &Value) -> Vec<Condition> {
    let list = before.get("conditions").cloned().unwrap_or_else(|| json!([]));
    // What cannot be read is replaced.
    serde_json::from_value(list).unwrap_or_default()
}

fn condition(
    conditions: &mut Vec<Condition>,
    kind: &str,
    finding: &Finding,
    (observed_generation, now): Observed,
) {
    let update = ConditionUpdate {
        kind,
        status: if finding.good { "True" } else { "False" },
        reason: finding.reason,
        message: &finding.message,
        observed_generation,
    };
    set_condition(conditions, &update, now);
}
