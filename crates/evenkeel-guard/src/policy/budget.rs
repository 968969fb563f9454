use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock},
};

use evenkeel_api::{GroupKind, Obj, canary::Canary, slo::ErrorBudget};
use evenkeel_control::{Action, Direction, ListQuery, Petition, Read, WatchEvent};
use futures::StreamExt as _;
use jiff::{SignedDuration, Timestamp};

use crate::{Opinion, Policy};

/// When to ask again while the Canaries are being read: that takes a moment.
const ASK_AGAIN: SignedDuration = SignedDuration::from_secs(2);

/// Holds the next step of a release that its error budget no longer allows.
///
/// It reads `status.errorBudget` of the Canaries, which the SLO controller keeps up to date in
/// whatever process it runs. Only more traffic for a new version is held: less is always allowed,
/// and a promotion copies what has been judged already, which is safer than half a release. A
/// release that has not begun is held by its Canary itself.
///
/// What is not known is no go-ahead: nothing passes before the Canaries were read once, on an
/// answer that cannot be read, or on one that is too old (which it becomes when the watch breaks).
/// A Canary without an answer has no SLO, and passes.
#[derive(Clone, Default)]
pub struct BudgetGate {
    known: Arc<RwLock<Known>>,
}

#[derive(Default)]
struct Known {
    /// Everything that was there at the start was seen.
    synced: bool,
    budgets: BTreeMap<String, Answer>,
}

enum Answer {
    Budget(Box<ErrorBudget>),
    Unreadable,
}

impl BudgetGate {
    /// Follows the Canaries of a cluster until dropped.
    pub async fn follow(self, read: Arc<dyn Read>) {
        let mut events = read.watch(ListQuery::all(GroupKind::of::<Canary>()));
        while let Some(event) = events.next().await {
            match event {
                Ok(WatchEvent::Applied(obj)) => self.note(&obj, false),
                Ok(WatchEvent::Deleted(obj)) => self.note(&obj, true),
                Ok(WatchEvent::Synced) => {
                    self.known.write().unwrap_or_else(PoisonError::into_inner).synced = true;
                }
                Err(error) => tracing::warn!(%error, "budgets: watch interrupted, resuming"),
            }
        }
    }

    fn note(&self, obj: &Obj, gone: bool) {
        let budget = obj.json().pointer("/status/errorBudget").filter(|it| !gone && !it.is_null());
        let answer = budget.map(|budget| {
            serde_json::from_value(budget.clone())
                .map_or(Answer::Unreadable, |budget| Answer::Budget(Box::new(budget)))
        });
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        match answer {
            Some(answer) => drop(known.budgets.insert(obj.key().to_string(), answer)),
            None => drop(known.budgets.remove(&obj.key().to_string())),
        }
    }
}

impl Policy for BudgetGate {
    fn name(&self) -> &'static str {
        "budget"
    }

    fn judge(&self, petition: &Petition<'_>) -> Opinion {
        let more_traffic = matches!(petition.action, Action::SetWeights { .. })
            && petition.direction == Direction::Riskier;
        if !more_traffic {
            return Opinion::Allow;
        }
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        if !known.synced {
            let reason = "the error budgets are not known: the Canaries are still being read, or \
                          the API server does not answer";
            let until = petition.now.checked_add(ASK_AGAIN).ok();
            return Opinion::Hold { until, reason: reason.to_owned() };
        }
        match known.budgets.get(&petition.object.to_string()) {
            None => Opinion::Allow,
            Some(Answer::Budget(budget)) => judge(budget, petition.now),
            Some(Answer::Unreadable) => hold(
                "status.errorBudget is not readable: remove it, and see that all evenkeel \
                 processes have the same version"
                    .to_owned(),
            ),
        }
    }
}

fn judge(budget: &ErrorBudget, now: Timestamp) -> Opinion {
    // Reasons without numbers, which would make every answer a new one in the record.
    if budget.goes_ahead(now.as_second()) {
        Opinion::Allow
    } else if budget.permission.goes_ahead() {
        hold(format!(
            "{}: its error budget was last computed more than {} minutes ago; check that the SLO \
             controller runs and reaches its metrics",
            budget.slo,
            ErrorBudget::FRESH_SECONDS / 60
        ))
    } else {
        hold(format!(
            "{}: {} ({}); it goes on when the budget recovers, or with a BreakGlass",
            budget.slo, budget.reason, budget.state
        ))
    }
}

fn hold(reason: String) -> Opinion {
    Opinion::Hold { until: None, reason }
}

#[cfg(test)]
mod tests {
    use evenkeel_api::{Key, httproute::HttpRoute};
    use evenkeel_control::{BoxFuture, Listed, StoreError, Watch};
    use futures::{FutureExt as _, channel::mpsc};
    use serde_json::{Value, json};

    use super::*;

    /// A cluster whose watch says what it is told to.
    struct Cluster(std::sync::Mutex<Option<Watch>>);

    impl Read for Cluster {
        fn get<'a>(&'a self, _: &'a Key) -> BoxFuture<'a, Result<Option<Arc<Obj>>, StoreError>> {
            unreachable!("the gate only watches")
        }
        fn list<'a>(&'a self, _: &'a ListQuery) -> BoxFuture<'a, Result<Listed, StoreError>> {
            unreachable!("the gate only watches")
        }
        fn watch(&self, _: ListQuery) -> Watch {
            self.0.lock().unwrap().take().unwrap()
        }
    }

    struct Case {
        gate: BudgetGate,
        events: mpsc::UnboundedSender<Result<WatchEvent, StoreError>>,
        follow: BoxFuture<'static, ()>,
    }

    impl Case {
        fn new() -> Self {
            let (events, watch) = mpsc::unbounded();
            let gate = BudgetGate::default();
            let cluster = Cluster(std::sync::Mutex::new(Some(watch.boxed())));
            let follow = gate.clone().follow(Arc::new(cluster)).boxed();
            Self { gate, events, follow }
        }

        fn tell(&mut self, event: Result<WatchEvent, StoreError>) {
            self.events.unbounded_send(event).unwrap();
            assert!((&mut self.follow).now_or_never().is_none());
        }

        fn canary(&mut self, budget: &Value) {
            let obj = Obj::from_json(json!({"apiVersion": "flagger.app/v1beta1", "kind": "Canary",
                "metadata": {"name": "api", "namespace": "shop"},
                "status": {"errorBudget": budget}}));
            self.tell(Ok(WatchEvent::Applied(Arc::new(obj.unwrap()))));
        }

        /// What the gate says about a weight, or about a patch, in one word.
        fn judged(&self, direction: Direction, weight: bool, second: i64) -> String {
            let action = if weight {
                Action::SetWeights { route: Key::of::<HttpRoute>("shop", "api"), weights: vec![] }
            } else {
                Action::Patch { key: Key::of::<Canary>("shop", "api"), patch: json!({}) }
            };
            let opinion = self.gate.judge(&Petition {
                controller: "delivery",
                object: &Key::of::<Canary>("shop", "api"),
                action: &action,
                text: "",
                after: None,
                reason: "StepDue",
                before: None,
                direction,
                now: Timestamp::from_second(second).unwrap(),
            });
            match opinion {
                Opinion::Hold { reason, .. } => reason,
                other => format!("{other:?}"),
            }
        }

        fn step(&self, second: i64) -> String {
            self.judged(Direction::Riskier, true, second)
        }
    }

    fn budget(permission: &str, reason: &str) -> Value {
        json!({"slo": "shop/api/x", "state": "burning", "permission": permission,
            "reason": reason, "message": "m", "observedAt": 1000})
    }

    #[test]
    fn more_traffic_waits_for_budget_and_nothing_else_does() {
        let mut case = Case::new();
        case.tell(Ok(WatchEvent::Synced));
        assert_eq!(case.step(1000), "Allow", "no SLO names it");
        case.canary(&budget("deny", "BudgetBurning"));
        assert!(case.step(1000).starts_with("shop/api/x: BudgetBurning (burning)"));
        assert_eq!(case.judged(Direction::Riskier, false, 1000), "Allow");
        assert_eq!(case.judged(Direction::Safer, true, 1000), "Allow");
        case.canary(&budget("slower", "BudgetBurning"));
        assert_eq!(case.step(1000), "Allow");
        case.canary(&budget("approve", "BudgetBurning"));
        assert!(case.step(1000).contains("BudgetBurning"));
        case.canary(&Value::Null);
        assert_eq!(case.step(1000), "Allow");
    }

    #[test]
    fn what_is_not_known_is_no_go_ahead() {
        let mut case = Case::new();
        assert!(case.step(1000).contains("are not known"), "before the first event");
        case.canary(&budget("allow", "BudgetHealthy"));
        assert!(case.step(1000).contains("are not known"), "before all were seen");
        assert_eq!(case.judged(Direction::Safer, true, 1000), "Allow");
        case.tell(Ok(WatchEvent::Synced));
        assert_eq!(case.step(1000), "Allow");
        assert_eq!(case.step(1600), "Allow");
        assert!(case.step(1601).contains("more than 10 minutes ago"));
        case.canary(&json!({"permission": "perhaps"}));
        assert!(case.step(1000).contains("status.errorBudget is not readable"));
        case.canary(&budget("allow", "NoPolicy"));
        assert_eq!(case.step(99_999), "Allow", "nobody minds the budget");
    }
}
