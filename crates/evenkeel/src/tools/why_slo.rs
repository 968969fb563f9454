//! What `evenkeel why` says about an SLO first: how its budgets stand, and what they allow.

use std::{collections::BTreeMap, sync::Arc};

use evenkeel_api::{
    Obj,
    canary::Canary,
    misfit,
    slo::{Permission, SloAnswer},
};
use evenkeel_slo::{
    budget::Coverage,
    controller::{SloState, SloStatusObject},
};

/// Budgets shown, the worst first.
const BUDGETS_MAX: usize = 5;
/// Canaries named beside an answer.
const CANARIES_MAX: usize = 3;

/// A line for each budget of an SLO object; the answers are in the Canaries of its namespace.
pub(super) fn lines(slo: &Obj, canaries: &[Arc<Obj>]) -> Vec<String> {
    let status = slo.json().get("status").map(misfit::readable::<SloStatusObject>);
    let status = status.unwrap_or_default().0;
    let answers = answers(canaries);
    let line = |state: &SloState| {
        let group: Vec<_> = state.group.iter().map(|(k, v)| format!("{k}={v}")).collect();
        let group = if group.is_empty() { String::new() } else { format!("[{}]", group.join(",")) };
        let name = format!("{}{group}", state.id);
        let of = format!("{}/{}/{name}", slo.namespace(), slo.name());
        let releases = answers.get(&of).map_or_else(
            || "no Canary answers to it".to_owned(),
            |by| format!("releases: {}", by.iter().map(words).collect::<Vec<_>>().join(", ")),
        );
        format!("  state: {name} {}; {releases}", standing(state))
    };
    let mut lines: Vec<String> = status.slos.iter().take(BUDGETS_MAX).map(line).collect();
    if let Some(more) = status.slos.len().checked_sub(BUDGETS_MAX).filter(|more| *more > 0) {
        lines.push(format!("  and {more} more in status.slos"));
    }
    lines
}

fn standing(state: &SloState) -> String {
    // What is Healthy because nothing was ever counted may be a wrong query.
    if state.coverage == Coverage::Quiet && state.last_traffic.is_none() {
        return "no events were ever counted".to_owned();
    }
    let by = state.policy.as_ref().map(|name| format!(" by ErrorBudgetPolicy/{name}"));
    let left = state.remaining_percent.map_or_else(
        || "what is left of the budget is not known".to_owned(),
        |left| format!("{left:.2} % of the budget is left"),
    );
    format!("{}{}, {left}", state.state, by.unwrap_or_default())
}

/// Answers by permission and reason, the strictest first, with the Canaries that have them.
type Answers = BTreeMap<(Permission, String), Vec<String>>;

/// What each SLO answers to the Canaries, by `NAMESPACE/NAME/SLO`.
fn answers(canaries: &[Arc<Obj>]) -> BTreeMap<String, Answers> {
    let mut all: BTreeMap<String, Answers> = BTreeMap::new();
    for obj in canaries {
        let Ok(canary) = obj.get::<Canary>() else { continue };
        let budget = canary.status.as_ref().and_then(|status| status.error_budget.as_ref());
        for answer in budget.map(|budget| &budget.slos).into_iter().flatten() {
            let SloAnswer { slo, permission, reason, .. } = answer.clone();
            let by = all.entry(slo).or_default().entry((permission, reason)).or_default();
            by.push(format!("Canary/{}", obj.name()));
        }
    }
    all
}

fn words(((permission, reason), canaries): (&(Permission, String), &Vec<String>)) -> String {
    let more = canaries.len().saturating_sub(CANARIES_MAX);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let names = canaries.iter().take(CANARIES_MAX).cloned().collect::<Vec<_>>().join(", ");
    let permission = format!("{permission:?}").to_lowercase();
    format!("{permission} {reason} ({names}{more})")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn slo(states: &Value) -> Obj {
        Obj::from_json(json!({"apiVersion": "sloth.slok.dev/v1", "kind": "PrometheusServiceLevel",
            "metadata": {"name": "api-slo", "namespace": "shop"}, "spec": {},
            "status": {"slos": states}}))
        .unwrap()
    }

    fn state(id: &str, coverage: &str, more: &Value) -> Value {
        let mut state = json!({"id": id, "objective": 99.9, "state": "slow",
            "since": "2026-03-01T00:00:00Z", "coverage": coverage, "bad": 1, "total": 10,
            "burn": {}, "ledger": [], "account": {"reservations": {}, "settled": []}});
        for (name, value) in more.as_object().unwrap() {
            state[name] = value.clone();
        }
        state
    }

    fn canary(name: &str, answer: &Value) -> Arc<Obj> {
        let budget = json!({"slo": "x", "state": "slow", "permission": "slower", "reason": "r",
            "message": "m", "slos": [answer]});
        let canary = json!({"apiVersion": "flagger.app/v1beta1", "kind": "Canary",
            "metadata": {"name": name, "namespace": "shop"},
            "spec": {"targetRef": {"kind": "Deployment", "name": name}, "service": {"port": 80}},
            "status": {"errorBudget": budget}});
        Arc::new(Obj::from_json(canary).unwrap())
    }

    #[test]
    fn state_what_is_left_and_what_a_release_may_do_are_in_one_line() {
        let answer = |permission: &str, reason: &str| {
            json!({"slo": "shop/api-slo/api-availability", "state": "slow",
                "permission": permission, "reason": reason})
        };
        let canaries = [
            canary("api", &answer("slower", "BudgetLow")),
            canary("web", &answer("deny", "CostExceedsBudget")),
        ];
        let known = state(
            "api-availability",
            "measured",
            &json!({"remainingPercent": 12.345, "policy": "strict"}),
        );
        let quiet = state("api-latency", "quiet", &json!({"remainingPercent": 100.0}));
        let lost = state("api-errors", "stale", &json!({"state": "unknown"}));
        let text = lines(&slo(&json!([known, quiet, lost])), &canaries).join("\n");
        insta::assert_snapshot!(text, @r"
        state: api-availability Slow by ErrorBudgetPolicy/strict, 12.35 % of the budget is left; releases: deny CostExceedsBudget (Canary/web), slower BudgetLow (Canary/api)
        state: api-latency no events were ever counted; no Canary answers to it
        state: api-errors Unknown, what is left of the budget is not known; no Canary answers to it
        ");
        assert!(lines(&slo(&json!([])), &canaries).is_empty());
    }
}
