use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock},
};

use evenkeel_api::{
    GroupKind, Obj,
    canary::Canary,
    slo::{ErrorBudget, Permission},
};
use evenkeel_control::{Action, ListQuery, Petition, Read, WatchEvent};
use futures::StreamExt as _;

use crate::{Opinion, Policy};

/// Holds the next step of a release that its error budget no longer allows.
///
/// It reads `status.errorBudget` of the Canaries, which the SLO controller keeps up to date in
/// whatever process it runs. Only more traffic for a new version is held: less is always allowed,
/// and a promotion copies what has been judged already, which is safer than half a release. A
/// release that has not begun is held by its Canary itself.
#[derive(Clone, Default)]
pub struct BudgetGate {
    told: Arc<RwLock<BTreeMap<String, ErrorBudget>>>,
}

impl BudgetGate {
    /// Follows the Canaries of a cluster until dropped.
    pub async fn follow(self, read: Arc<dyn Read>) {
        let mut events = read.watch(ListQuery::all(GroupKind::of::<Canary>()));
        while let Some(event) = events.next().await {
            match event {
                Ok(WatchEvent::Applied(obj)) => self.note(&obj, false),
                Ok(WatchEvent::Deleted(obj)) => self.note(&obj, true),
                Ok(WatchEvent::Synced) => {}
                Err(error) => tracing::warn!(%error, "budgets: watch interrupted, resuming"),
            }
        }
    }

    fn note(&self, obj: &Obj, gone: bool) {
        let budget = obj.json().pointer("/status/errorBudget").cloned();
        let budget = budget.filter(|_| !gone).and_then(|b| serde_json::from_value(b).ok());
        let mut told = self.told.write().unwrap_or_else(PoisonError::into_inner);
        match budget {
            Some(budget) => drop(told.insert(obj.key().to_string(), budget)),
            None => drop(told.remove(&obj.key().to_string())),
        }
    }
}

impl Policy for BudgetGate {
    fn judge(&self, petition: &Petition<'_>) -> Opinion {
        if !matches!(petition.action, Action::SetWeights { .. }) {
            return Opinion::Allow;
        }
        let told = self.told.read().unwrap_or_else(PoisonError::into_inner);
        match told.get(&petition.object.to_string()) {
            Some(budget) if budget.permission < Permission::Slower => Opinion::Hold {
                until: None,
                // Without the numbers, which would make every answer a new one in the record.
                reason: format!(
                    "{}: {} ({}); it goes on when the budget recovers, or with a BreakGlass",
                    budget.slo, budget.reason, budget.state
                ),
            },
            _ => Opinion::Allow,
        }
    }
}

#[cfg(test)]
mod tests {
    use evenkeel_api::{Key, httproute::HttpRoute};
    use evenkeel_control::Direction;
    use jiff::Timestamp;
    use serde_json::json;

    use super::*;

    fn canary(permission: &str) -> Obj {
        Obj::from_json(json!({"apiVersion": "flagger.app/v1beta1", "kind": "Canary",
            "metadata": {"name": "api", "namespace": "shop"},
            "status": {"errorBudget": {"slo": "shop/api/x", "state": "burning",
                "permission": permission, "reason": "BudgetBurning", "message": "m",
                "observedAt": 1}}}))
        .unwrap()
    }

    fn judged(gate: &BudgetGate, action: &Action) -> Opinion {
        gate.judge(&Petition {
            controller: "delivery",
            object: &Key::of::<Canary>("shop", "api"),
            action,
            text: "",
            after: None,
            reason: "StepDue",
            before: None,
            direction: Direction::Riskier,
            now: Timestamp::UNIX_EPOCH,
        })
    }

    #[test]
    fn more_traffic_waits_for_budget_and_nothing_else_does() {
        let gate = BudgetGate::default();
        let step =
            Action::SetWeights { route: Key::of::<HttpRoute>("shop", "api"), weights: Vec::new() };
        let patch = Action::Patch { key: Key::of::<Canary>("shop", "api"), patch: json!({}) };
        assert_eq!(judged(&gate, &step), Opinion::Allow);
        gate.note(&canary("deny"), false);
        assert!(matches!(judged(&gate, &step), Opinion::Hold { until: None, .. }));
        assert_eq!(judged(&gate, &patch), Opinion::Allow);
        gate.note(&canary("slower"), false);
        assert_eq!(judged(&gate, &step), Opinion::Allow);
        gate.note(&canary("approve"), false);
        assert!(matches!(judged(&gate, &step), Opinion::Hold { .. }));
        gate.note(&canary("approve"), true);
        assert_eq!(judged(&gate, &step), Opinion::Allow);
    }
}
