use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, PoisonError, RwLock, RwLockWriteGuard},
    time::Duration,
};

use evenkeel_api::{
    GroupKind, Obj,
    canary::Canary,
    labels::{CANARY_WEIGHT, SHARED_SERVICE},
    slo::ErrorBudget,
};
use evenkeel_control::{
    Action, BoxFuture, Direction, ListQuery, Petition, Read, Timer, WatchEvent, redact,
};
use futures::{
    FutureExt as _, StreamExt as _,
    future::{Fuse, FusedFuture as _},
};
use jiff::{SignedDuration, Timestamp};

use crate::{Opinion, Policy};

/// When to ask again while the Canaries are being read: that takes a moment.
const ASK_AGAIN: SignedDuration = SignedDuration::from_secs(2);

/// Pause before a watch that ended is opened again.
const REOPEN_AFTER: Duration = Duration::from_secs(1);
/// For so long after the end of a watch what it said is as good as what a slow watch says. A
/// server, or a proxy, that ends watches as soon as they have said everything stops no release.
const GOOD_FOR: Duration = Duration::from_secs(10);

/// Holds the next step of a release that its error budget no longer allows.
///
/// It reads `status.errorBudget` of the Canaries, which the SLO controller keeps up to date in
/// whatever process it runs. Only more traffic for a new version is held: less is always allowed,
/// and a promotion copies what has been judged already, which is safer than half a release. A
/// release that has not begun is held by its Canary itself.
///
/// What is not known is no go-ahead: nothing passes before the Canaries were read once, and again
/// soon after a watch has ended; on an answer that cannot be read, or on one that is too old (which
/// it becomes when the watch breaks).
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
    pub async fn follow(self, read: Arc<dyn Read>, timer: Arc<dyn Timer>) {
        let mut good: Fuse<BoxFuture<'static, ()>> = Fuse::terminated();
        // What keeps the watch from getting on, as it was last said.
        let mut trouble: Option<String> = None;
        loop {
            let mut events = read.watch(ListQuery::all(GroupKind::of::<Canary>())).fuse();
            // What was there when it was opened, until all of that has been sent.
            let mut there = Some(BTreeSet::new());
            loop {
                let event = futures::select_biased! {
                    event = events.next() => event,
                    () = good => {
                        self.known().synced = false;
                        continue;
                    }
                };
                // What was synced once and resumes is not synced again.
                if matches!(event, Some(Ok(_))) && trouble.take().is_some() {
                    tracing::info!("budgets: the watch goes on");
                }
                match event {
                    Some(Ok(WatchEvent::Applied(obj))) => {
                        there.as_mut().map(|there| there.insert(obj.key().to_string()));
                        self.note(&obj, false);
                    }
                    Some(Ok(WatchEvent::Deleted(obj))) => self.note(&obj, true),
                    Some(Ok(WatchEvent::Synced)) => {
                        good = Fuse::terminated();
                        self.note_all(there.take());
                    }
                    Some(Err(error)) => {
                        let error = error.to_string();
                        if trouble.as_ref() != Some(&error) {
                            tracing::warn!(error, "budgets: watch interrupted, resuming");
                            trouble = Some(error);
                        }
                    }
                    None => break,
                }
            }
            if good.is_terminated() {
                tracing::debug!("budgets: the watch ended, resuming");
                good = timer.sleep(GOOD_FOR).fuse();
            }
            timer.sleep(REOPEN_AFTER).await;
        }
    }

    /// All existing Canaries have been sent.
    fn note_all(&self, there: Option<BTreeSet<String>>) {
        let mut known = self.known();
        known.synced = true;
        if let Some(there) = there {
            known.budgets.retain(|key, _| there.contains(key));
        }
    }

    fn known(&self) -> RwLockWriteGuard<'_, Known> {
        self.known.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, obj: &Obj, gone: bool) {
        let budget = obj.json().pointer("/status/errorBudget").filter(|it| !gone && !it.is_null());
        let answer = budget.map(|budget| {
            serde_json::from_value(budget.clone())
                .map_or(Answer::Unreadable, |budget| Answer::Budget(Box::new(budget)))
        });
        let mut known = self.known();
        match answer {
            Some(answer) => drop(known.budgets.insert(obj.key().to_string(), answer)),
            None => drop(known.budgets.remove(&obj.key().to_string())),
        }
    }
}

/// Whether an action sets a share of requests: of a route, or of a plain Service and its pods.
fn moves_traffic(action: &Action) -> bool {
    let Action::Patch { key, patch } = action else {
        return matches!(action, Action::SetWeights { .. });
    };
    let sets = |field: &str, name: &str| {
        let all = patch.pointer(&format!("/metadata/{field}"));
        all.and_then(|all| all.get(name)).is_some()
    };
    let kind = |name: &str| key.kind.group.is_empty() && &*key.kind.kind == name;
    (kind("Service") && sets("annotations", CANARY_WEIGHT))
        || (kind("Pod") && sets("labels", SHARED_SERVICE))
}

impl Policy for BudgetGate {
    fn name(&self) -> &'static str {
        "budget"
    }

    fn judge(&self, petition: &Petition<'_>) -> Opinion {
        if petition.direction == Direction::Safer {
            return Opinion::Allow;
        }
        let more_traffic =
            moves_traffic(petition.action) && petition.direction == Direction::Riskier;
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        if !more_traffic {
            // Such as the first pods of a release, whose start the Canary itself would have held.
            let answer = known.budgets.get(&petition.object.to_string());
            return match answer {
                Some(Answer::Budget(budget)) if budget.goes_ahead(petition.now.as_second()) => {
                    allowed(budget)
                }
                _ => Opinion::Allow,
            };
        }
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

fn allowed(budget: &ErrorBudget) -> Opinion {
    match &budget.break_glass {
        Some(glass) => Opinion::AllowBecause { reason: redact::text(&glass.to_string()) },
        None => Opinion::Allow,
    }
}

fn judge(budget: &ErrorBudget, now: Timestamp) -> Opinion {
    // Reasons without numbers, which would make every answer a new one in the record.
    if budget.goes_ahead(now.as_second()) {
        allowed(budget)
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
    use std::{
        collections::VecDeque,
        fmt::Write as _,
        sync::{
            Mutex,
            atomic::{AtomicU64, Ordering},
        },
        task::Poll,
    };

    use evenkeel_api::{Key, httproute::HttpRoute};
    use evenkeel_control::{Listed, StoreError, Watch};
    use futures::channel::mpsc;
    use serde_json::{Value, json};

    use super::*;

    /// A cluster whose watches, one after the other, say what they are told to.
    #[derive(Default)]
    struct Cluster(Mutex<VecDeque<Watch>>);

    impl Cluster {
        fn next_watch(&self) -> mpsc::UnboundedSender<Result<WatchEvent, StoreError>> {
            let (events, watch) = mpsc::unbounded();
            self.0.lock().unwrap().push_back(watch.boxed());
            events
        }
    }

    impl Read for Cluster {
        fn get<'a>(&'a self, _: &'a Key) -> BoxFuture<'a, Result<Option<Arc<Obj>>, StoreError>> {
            unreachable!("the gate only watches")
        }
        fn list<'a>(&'a self, _: &'a ListQuery) -> BoxFuture<'a, Result<Listed, StoreError>> {
            unreachable!("the gate only watches")
        }
        fn watch(&self, _: ListQuery) -> Watch {
            self.0.lock().unwrap().pop_front().unwrap()
        }
    }

    /// Seconds that have gone by.
    #[derive(Default)]
    struct Seconds(Arc<AtomicU64>);

    impl Timer for Seconds {
        fn sleep(&self, wait: Duration) -> BoxFuture<'static, ()> {
            let now = self.0.clone();
            let due = now.load(Ordering::Relaxed) + wait.as_secs();
            let is_over = move || now.load(Ordering::Relaxed) >= due;
            let poll = move || if is_over() { Poll::Ready(()) } else { Poll::Pending };
            futures::future::poll_fn(move |_| poll()).boxed()
        }
    }

    struct Case {
        gate: BudgetGate,
        cluster: Arc<Cluster>,
        time: Arc<Seconds>,
        events: mpsc::UnboundedSender<Result<WatchEvent, StoreError>>,
        follow: BoxFuture<'static, ()>,
    }

    impl Case {
        fn new() -> Self {
            let (gate, cluster) = (BudgetGate::default(), Arc::<Cluster>::default());
            let (events, time) = (cluster.next_watch(), Arc::<Seconds>::default());
            let follow = gate.clone().follow(cluster.clone(), time.clone()).boxed();
            Self { gate, cluster, time, events, follow }
        }

        /// The watch ends as if all were well; there will be another one.
        fn end(&mut self) {
            self.events = self.cluster.next_watch();
            self.go_on();
        }

        fn pass(&mut self, seconds: u64) {
            self.time.0.fetch_add(seconds, Ordering::Relaxed);
            self.go_on();
        }

        fn go_on(&mut self) {
            assert!((&mut self.follow).now_or_never().is_none(), "it follows until dropped");
        }

        fn tell(&mut self, event: Result<WatchEvent, StoreError>) {
            self.events.unbounded_send(event).unwrap();
            self.go_on();
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
    fn what_a_break_glass_lets_through_says_so() {
        let mut case = Case::new();
        case.tell(Ok(WatchEvent::Synced));
        let mut opened = budget("allow", "BreakGlass");
        opened["breakGlass"] = json!({"name": "fix", "author": "kim", "reason": "payments fail",
            "expires": "1970-01-01T02:00:00Z", "slo": "shop/api/x"});
        case.canary(&opened);
        let because = "AllowBecause { reason: \"shop/api/x: BreakGlass/fix by kim until \
                       1970-01-01T02:00:00Z: payments fail\" }";
        assert_eq!(case.step(1000), because);
        assert_eq!(case.judged(Direction::Riskier, false, 1000), because, "such as its first pods");
        assert_eq!(case.judged(Direction::Safer, true, 1000), "Allow");
        assert!(case.step(1601).contains("more than 10 minutes ago"), "it does not last longer");
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

    #[test]
    fn a_watch_that_ends_is_opened_again_and_nothing_passes_long_before_all_was_read_anew() {
        let mut case = Case::new();
        case.tell(Ok(WatchEvent::Synced));
        assert_eq!(case.step(1000), "Allow", "no SLO names it");
        // The API server ends the watch as if all were well, and an SLO burns meanwhile.
        case.end();
        assert_eq!(case.step(1000), "Allow", "a watch is never quite up to date");
        case.pass(11);
        assert!(case.step(1000).contains("are not known"), "before all were seen again");
        assert_eq!(case.judged(Direction::Safer, true, 1000), "Allow");
        case.canary(&budget("deny", "BudgetBurning"));
        case.tell(Ok(WatchEvent::Synced));
        assert!(case.step(1000).contains("BudgetBurning"), "{}", case.step(1000));
        // What was deleted while no watch was open is not remembered.
        case.end();
        case.pass(1);
        case.tell(Ok(WatchEvent::Synced));
        assert_eq!(case.step(1000), "Allow", "another Canary of this name has no SLO");
    }

    /// Levels and messages of what is logged.
    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<String>>>);

    impl tracing::Subscriber for Lines {
        fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
            true
        }
        fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
            tracing::span::Id::from_u64(1)
        }
        fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
        fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
        fn event(&self, event: &tracing::Event<'_>) {
            struct Fields<'a>(&'a mut String);
            impl tracing::field::Visit for Fields<'_> {
                fn record_debug(
                    &mut self,
                    field: &tracing::field::Field,
                    value: &dyn std::fmt::Debug,
                ) {
                    write!(self.0, " {field}={value:?}").unwrap();
                }
            }
            let mut line = event.metadata().level().to_string();
            event.record(&mut Fields(&mut line));
            self.0.lock().unwrap().push(line);
        }
        fn enter(&self, _: &tracing::span::Id) {}
        fn exit(&self, _: &tracing::span::Id) {}
    }

    #[test]
    fn what_interrupts_the_watch_is_said_once_and_again_when_it_is_something_else() {
        let lines = Lines::default();
        let guard = tracing::subscriber::set_default(lines.clone());
        let mut case = Case::new();
        let refused = |problem: &str| StoreError::Refused {
            object: "Canary".to_owned(),
            problem: problem.to_owned(),
        };
        for problem in ["no", "no", "no", "still no", "still no"] {
            case.tell(Err(refused(problem)));
            // Each attempt may be a watch of its own.
            case.end();
            case.pass(1);
        }
        // A store says once that it is synced, and then only what changes.
        for round in ["no", "no"] {
            for _ in 0..3 {
                case.canary(&budget("allow", "BudgetHealthy"));
            }
            case.tell(Err(refused(round)));
        }
        drop(guard);
        let lines = lines.0.lock().unwrap().clone();
        let said = lines.iter().filter(|line| !line.starts_with("DEBUG"));
        let said: Vec<_> = said.map(|line| line.split(' ').next().unwrap_or_default()).collect();
        assert_eq!(said, ["WARN", "WARN", "INFO", "WARN", "INFO", "WARN"], "{lines:?}");
    }

    #[test]
    fn watches_that_end_as_soon_as_they_have_told_all_hold_nothing_up() {
        let mut case = Case::new();
        for round in 0..50 {
            case.canary(&budget("allow", "BudgetHealthy"));
            case.tell(Ok(WatchEvent::Synced));
            case.end();
            case.pass(1);
            assert_eq!(case.step(1000), "Allow", "round {round}");
        }
    }
}
