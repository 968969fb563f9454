//! What each Canary may do: the one writer of `status.errorBudget`.
//!
//! ```text
//! PrometheusServiceLevel.status (state, budget, traffic of each SLO) --+
//! ErrorBudgetPolicy, BreakGlass, Canary --------------------------------+--> status.errorBudget
//! ```
//!
//! The law: a Canary answers to the `PrometheusServiceLevel`s that its annotation
//! [`SLOS_ANNOTATION`] names, or to all of its namespace. Each of their SLOs gives an answer, and
//! the strictest one counts; between equal permissions one with a policy before one without, then
//! the worse state, then the name. Of several policies that select an SLO the strictest answers,
//! too. The numbers have no part in that order, so that the answer does not go back and forth with
//! the traffic. All answers are listed.
//!
//! It is written when something changes that a reader decides by, and otherwise every
//! [`REFRESH_SECONDS`]. A Canary that answers to no SLO has no `errorBudget`. What cannot be read is
//! not absent: the answer of before stands until it is too old to be believed, and a Canary without
//! one gets one that holds.

use std::{cmp::Reverse, collections::BTreeMap, sync::Arc, time::Duration};

use evenkeel_api::{
    Key, Obj,
    beside::Marks,
    canary::Canary,
    misfit,
    slo::{
        BreakGlass, ErrorBudget, ErrorBudgetPolicy, NO_POLICY, OpenGlass, Permission,
        PrometheusServiceLevel, SloAnswer,
    },
};
use evenkeel_control::{
    Controller, Interest, ListQuery, Memo, ObserveError, Plan, Ports, StatusWrite, StoreError,
    Wakes,
};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{
    SLOS_ANNOTATION,
    changes::{change_of, plan},
    decide::percent,
    hand_back,
    observe::{list, named, none_without_kind, policies, spec},
    status::{SloState, SloStatusObject, moved, moved_points},
};
use crate::{
    budget::{Coverage, Events, Forecast},
    duration::PromDuration,
    policy::{self, ActionClass, Ask, CanaryPlan, Memory, Situation, State, Traffic, WorstCase},
    reasons,
};

/// An answer that stays the same is written this often: two fifths of its life.
const REFRESH_SECONDS: i64 = 240;
/// And looked at again this often, should a change not have woken it.
const LOOK_EVERY: Duration = Duration::from_mins(1);
/// Rounding must not make it look again and again.
const LOOK_LEAST: Duration = Duration::from_secs(1);
/// Answers that are listed, the strictest first.
const ANSWERS_MAX: usize = 20;

/// The controller of `status.errorBudget` of [`Canary`] objects.
#[derive(Default)]
pub struct AnswerController {
    read: Memo<SloRead>,
}

/// What answers need of an SLO object.
#[derive(Debug)]
struct SloRead {
    is_deleting: bool,
    marks: Marks,
    status: Arc<SloStatusObject>,
}

impl SloRead {
    fn of(slo: &Obj) -> Self {
        let status = Arc::new(status_of(slo));
        Self { is_deleting: slo.is_deleting(), marks: Marks::of(slo), status }
    }
}

/// What deciding about one Canary may look at.
#[derive(Debug, Clone)]
pub struct AnswerView {
    now: Timestamp,
    obj: Arc<Obj>,
    canary: Arc<Canary>,
    /// The objects it answers to, by name; `None`: named, and not there.
    asked: BTreeMap<String, Option<Arc<SloStatusObject>>>,
    policies: BTreeMap<String, policy::ErrorBudgetPolicy>,
    invalid_policies: Vec<String>,
    glasses: BTreeMap<String, Value>,
    /// Why none of these is known, while nothing was answered before.
    refused: Option<String>,
}

/// All objects of a namespace that an answer depends on.
#[derive(Default)]
struct Listed {
    slos: Vec<(Key, Arc<SloRead>)>,
    policies: Vec<Arc<Obj>>,
    glasses: Vec<Arc<Obj>>,
}

impl Listed {
    async fn read(
        ports: &Ports,
        namespace: &str,
        memo: &Memo<SloRead>,
    ) -> Result<Self, StoreError> {
        let slos = ListQuery::of::<PrometheusServiceLevel>().within(namespace);
        Ok(Self {
            slos: none_without_kind(memo.list(&*ports.read, &slos, SloRead::of).await)?,
            policies: list::<ErrorBudgetPolicy>(ports, namespace).await?,
            glasses: list::<BreakGlass>(ports, namespace).await?,
        })
    }
}

impl Controller for AnswerController {
    type View = AnswerView;

    fn name(&self) -> &'static str {
        "slo-answer"
    }

    fn owns(&self) -> ListQuery {
        ListQuery::of::<Canary>()
    }

    fn also(&self) -> Vec<Interest> {
        let neighbours = |obj: &Obj| Wakes::Namespace(obj.namespace().to_owned());
        vec![
            Interest::mapped::<PrometheusServiceLevel>(neighbours)
                .minding(|obj| status_of(obj).digest()),
            Interest::mapped::<ErrorBudgetPolicy>(neighbours),
            Interest::mapped::<BreakGlass>(neighbours),
        ]
    }

    async fn observe(&self, key: &Key, ports: &Ports) -> Result<Option<AnswerView>, ObserveError> {
        let Some(obj) = ports.read.get(key).await?.filter(|obj| !obj.is_deleting()) else {
            // It may have been the last of its namespace.
            self.read.forget_all_in(&key.namespace);
            return Ok(None);
        };
        let namespace = &key.namespace;
        let (listed, refused) = match Listed::read(ports, namespace, &self.read).await {
            Ok(listed) => (listed, None),
            // Without any answer the gate would be open.
            Err(error @ StoreError::Refused { .. }) if !has_answer(&obj) => {
                (Listed::default(), Some(error.to_string()))
            }
            Err(error) => return Err(error.into()),
        };
        let Listed { slos, policies: rules, glasses } = listed;
        let names = named(&obj).map(|names| names.map(str::to_owned).collect::<Vec<_>>());
        let mut asked = BTreeMap::new();
        for (key, slo) in slos.iter().filter(|(_, slo)| !slo.is_deleting) {
            let wanted = match &names {
                Some(names) => names.iter().any(|name| **name == *key.name),
                // Of those that are only observed no budget is kept.
                None => !ports.standing_by(&key.kind, &slo.marks).await?.is_observed(),
            };
            if wanted {
                asked.insert(key.name.to_string(), Some(slo.status.clone()));
            }
        }
        for name in names.iter().flatten() {
            asked.entry(name.clone()).or_insert(None);
        }
        let (policies, invalid_policies) = policies(&rules);
        Ok(Some(AnswerView {
            now: ports.clock.now(),
            canary: obj.get()?,
            asked,
            policies,
            invalid_policies,
            glasses: glasses.iter().map(|g| (g.name().to_owned(), spec(g))).collect(),
            refused,
            obj,
        }))
    }

    fn decide(&self, view: &AnswerView) -> Plan {
        super::made_for(decide(view), &view.obj)
    }

    async fn hand_back(&self, key: &Key, ports: &Ports) -> Result<Option<Plan>, ObserveError> {
        let Some(obj) = ports.read.get(key).await? else { return Ok(None) };
        Ok(hand_back::canary(&obj))
    }

    fn resigned(&self) {
        self.read.clear();
    }
}

fn status_of(slo: &Obj) -> SloStatusObject {
    slo.json().get("status").map(|status| misfit::readable(status).0).unwrap_or_default()
}

fn has_answer(canary: &Obj) -> bool {
    canary.json().pointer("/status/errorBudget").is_some_and(|budget| !budget.is_null())
}

fn decide(view: &AnswerView) -> Plan {
    let old = view.canary.status.as_ref().and_then(|status| status.error_budget.as_ref());
    let written = has_answer(&view.obj);
    let write = |budget: Value| StatusWrite {
        key: view.obj.key().clone(),
        status: json!({ "errorBudget": budget }),
    };
    let Some(new) = answer(view) else {
        let mut plan = Plan::idle(reasons::ANSWERED);
        if written {
            // Nobody keeps this answer up to date any more.
            plan.status.push(write(Value::Null));
        }
        return plan;
    };
    let mut plan = Plan::wait(reasons::ANSWERED, LOOK_EVERY);
    if let Some(glass) = &new.break_glass {
        // What it opened closes at that moment.
        let left = glass.expires.duration_since(view.now);
        plan = plan.waking(Duration::try_from(left).unwrap_or_default().max(LOOK_LEAST));
    }
    let news = old.is_none_or(|old| {
        without_noise(old.clone()) != without_noise(new.clone()) || has_moved(old, &new)
    });
    let age = old.map_or(0, |old| view.now.as_second() - old.observed_at);
    // Said again only if the counters were looked at again.
    let again = age >= REFRESH_SECONDS && old.is_some_and(|old| new.observed_at > old.observed_at);
    if news || again {
        plan.reason = reasons::ANSWER_CHANGED;
        plan.status.push(write(body(&new)));
    }
    plan
}

/// Whether a number has moved by so much that a person would want to see it.
fn has_moved(old: &ErrorBudget, new: &ErrorBudget) -> bool {
    moved(old.worst_case_percent, new.worst_case_percent)
        || moved_points(old.remaining_percent, new.remaining_percent)
}

/// As a merge patch: what is not known any more has to be taken out by name.
fn body(budget: &ErrorBudget) -> Value {
    let mut body = json!({"remainingPercent": null, "worstCasePercent": null,
        "worstCaseRequests": null, "slos": null, "breakGlass": null, "observedAt": null});
    let values = serde_json::to_value(budget).unwrap_or(Value::Null);
    if let (Some(all), Value::Object(values)) = (body.as_object_mut(), values) {
        all.extend(values);
    }
    body
}

/// Takes out of an answer what changes all the time.
fn without_noise(mut budget: ErrorBudget) -> ErrorBudget {
    budget.message.clear();
    budget.observed_at = 0;
    // Known or not known matters; how much moves with the traffic.
    budget.remaining_percent = budget.remaining_percent.map(|_| 0.0);
    budget.worst_case_percent = budget.worst_case_percent.map(|_| 0.0);
    budget.worst_case_requests = budget.worst_case_requests.map(|_| 0);
    for slo in &mut budget.slos {
        slo.remaining_percent = slo.remaining_percent.map(|_| 0.0);
    }
    budget
}

/// One SLO's answer, with what its rank is decided by.
struct Answer {
    said: SloAnswer,
    state: State,
    message: String,
    cost: Option<f64>,
    worst: Option<WorstCase>,
    glass: Option<OpenGlass>,
    observed_at: i64,
}

/// The answer while it is not known whether there is an SLO to ask.
fn blind(view: &AnswerView, problem: &str) -> ErrorBudget {
    ErrorBudget {
        slo: format!("{}/*", view.obj.namespace()),
        state: "unknown".to_owned(),
        permission: Permission::Approve,
        reason: reasons::SLO_UNREADABLE.to_owned(),
        policy: None,
        message: format!(
            "{problem}: allow to get, list and watch prometheusservicelevels, errorbudgetpolicies \
             and breakglasses, or run without the controllers of SLOs"
        ),
        remaining_percent: None,
        worst_case_percent: None,
        worst_case_requests: None,
        break_glass: None,
        slos: Vec::new(),
        observed_at: view.now.as_second(),
    }
}

/// The strictest answer, with all of them; `None` when there is no SLO to ask.
fn answer(view: &AnswerView) -> Option<ErrorBudget> {
    if let Some(problem) = &view.refused {
        return Some(blind(view, problem));
    }
    let mut all = Vec::new();
    for (name, status) in &view.asked {
        match status {
            Some(status) if !status.slos.is_empty() => {
                all.extend(status.slos.iter().map(|state| Question { view, name, state }.answer()));
            }
            // Also where it is not named: a typo in the manifest must not open the gate.
            Some(_) => all.push(without_budget(view, name, true)),
            None => all.push(without_budget(view, name, false)),
        }
    }
    all.sort_by(|a, b| {
        let rank = |answer: &Answer| {
            let said = &answer.said;
            (said.permission, said.reason == NO_POLICY, Reverse(answer.state))
        };
        rank(a).cmp(&rank(b)).then_with(|| a.said.slo.cmp(&b.said.slo))
    });
    let observed_at = all.iter().map(|answer| answer.observed_at).min()?;
    let listed = all.iter().take(ANSWERS_MAX).map(|answer| answer.said.clone()).collect();
    let break_glass = all.iter().find_map(|answer| answer.glass.clone());
    let first = all.into_iter().next()?;
    Some(ErrorBudget {
        slo: first.said.slo,
        state: first.said.state,
        permission: first.said.permission,
        reason: first.said.reason,
        policy: first.said.policy,
        message: first.message,
        remaining_percent: first.said.remaining_percent,
        worst_case_percent: first.cost.map(percent),
        worst_case_requests: first.worst.map(|worst| whole(worst.bound)),
        slos: listed,
        break_glass,
        observed_at,
    })
}

/// What may happen where no policy selects an SLO.
fn no_policy(view: &AnswerView) -> (Permission, &'static str, Vec<String>) {
    let invalid = &view.invalid_policies;
    if invalid.is_empty() {
        return (Permission::Allow, NO_POLICY, Vec::new());
    }
    // A policy that cannot be read may have been for this one: it must not open the gate.
    let correct = |name: &String| format!("ErrorBudgetPolicy/{name} is not valid: correct it");
    (Permission::Approve, reasons::POLICY_INVALID, invalid.iter().map(correct).collect())
}

/// The answer of an object that has no budget, or that a Canary names and that does not exist. What
/// is not known never lets a release begin, where there is a policy at all.
fn without_budget(view: &AnswerView, name: &str, there: bool) -> Answer {
    let namespace = view.obj.namespace();
    let (reason, message) = if there {
        let message = format!(
            "PrometheusServiceLevel/{name} was not counted yet, is only observed, or cannot be read: \
             see its conditions, and `evenkeel why slo/{name}`"
        );
        (reasons::SLO_UNREADABLE, message)
    } else {
        let message = format!(
            "annotation {SLOS_ANNOTATION} names {name}, which is not in namespace {namespace}: \
             create it, or correct the annotation"
        );
        (reasons::SLO_MISSING, message)
    };
    let (mut permission, mut said, mut messages) = no_policy(view);
    if !view.policies.is_empty() {
        (permission, said) = (Permission::Approve, reason);
    }
    messages.insert(0, message);
    let mut glasses = view.policies.values().flat_map(|policy| accepted(view, policy).0);
    let open = |glass: &policy::BreakGlass| glass.covers(ActionClass::Deploy, view.now);
    let slo = format!("{namespace}/{name}");
    let mut glass = None;
    if permission < Permission::Allow
        && let Some(found) = glasses.find(open)
    {
        (permission, said) = (Permission::Allow, policy::BREAK_GLASS);
        messages.insert(0, format!("break-glass by {}: {}", found.author, found.reason));
        glass = open_glass(view, &found, &slo);
    }
    Answer {
        said: SloAnswer {
            slo,
            state: "unknown".to_owned(),
            permission,
            reason: said.to_owned(),
            policy: None,
            remaining_percent: None,
        },
        state: State::Unknown,
        message: messages.join("; "),
        cost: None,
        worst: None,
        glass,
        observed_at: view.now.as_second(),
    }
}

/// What is said about an exception that decided.
fn open_glass(view: &AnswerView, glass: &policy::BreakGlass, slo: &str) -> Option<OpenGlass> {
    let is_it = |spec: &Value| {
        let read: Result<policy::BreakGlass, _> = serde_json::from_value(spec.clone());
        read.is_ok_and(|read| read == *glass)
    };
    let (name, _) = view.glasses.iter().find(|(_, spec)| is_it(spec))?;
    let policy::BreakGlass { author, reason, expires, .. } = glass.clone();
    Some(OpenGlass { name: name.clone(), author, reason, expires, slo: slo.to_owned() })
}

/// The exceptions that a policy accepts, and what is wrong with the others.
fn accepted(
    view: &AnswerView,
    policy: &policy::ErrorBudgetPolicy,
) -> (Vec<policy::BreakGlass>, Vec<String>) {
    let (mut good, mut bad) = (Vec::new(), Vec::new());
    for (name, spec) in &view.glasses {
        match policy::BreakGlass::from_spec(spec, policy) {
            Ok(glass) => good.push(glass),
            Err(error) => bad.push(format!("BreakGlass/{name} has no effect: {error}")),
        }
    }
    (good, bad)
}

/// One budget, looked at from one release.
struct Question<'a> {
    view: &'a AnswerView,
    name: &'a str,
    state: &'a SloState,
}

impl Question<'_> {
    /// What a release of this Canary may do, and what it costs at worst.
    fn answer(&self) -> Answer {
        let (view, state) = (self.view, self.state);
        let plan = plan(&view.canary, state.requests_per_second);
        let worst = plan.as_ref().and_then(CanaryPlan::worst_case);
        let cost = worst.and_then(|worst| self.share(worst.bound));
        let said = self.strictest(plan.as_ref(), cost);
        let Said { policy, stands, permission, reason, mut messages, glass } = said;
        let glass = glass.and_then(|glass| open_glass(view, &glass, &self.slo()));
        messages.push(worst.map_or("its worst case is not known".to_owned(), |worst| {
            let share = cost.map_or(String::new(), |c| format!(", {:.2} % of the budget", c * 1e2));
            format!("a release costs at worst {} requests{share}", whole(worst.bound))
        }));
        Answer {
            said: SloAnswer {
                slo: self.slo(),
                state: stands.state.to_string().to_lowercase(),
                permission,
                reason: reason.to_owned(),
                policy,
                remaining_percent: state.remaining_percent,
            },
            state: stands.state,
            message: messages.join("; "),
            cost,
            worst,
            glass,
            observed_at: state.observed_at,
        }
    }

    /// `NAMESPACE/NAME/SLO`, with the group of a grouped SLO.
    fn slo(&self) -> String {
        let group: Vec<_> = self.state.group.iter().map(|(k, v)| format!("{k}={v}")).collect();
        let group = if group.is_empty() { String::new() } else { format!("[{}]", group.join(",")) };
        format!("{}/{}/{}{group}", self.view.obj.namespace(), self.name, self.state.id)
    }

    /// Which share of the budget so many failures are.
    fn share(&self, bad: Events) -> Option<f64> {
        let allowed = self.state.allowed?;
        if bad == Events::ZERO {
            return Some(0.0);
        }
        Some(if allowed > 0.0 { (bad.as_f64() / allowed).min(SHARE_MAX) } else { SHARE_MAX })
    }

    /// The strictest answer of its policies, which names the others if there are any.
    fn strictest(&self, plan: Option<&CanaryPlan>, cost: Option<f64>) -> Said {
        let (view, state) = (self.view, self.state);
        let policies: Vec<_> = state
            .by_policies()
            .filter_map(|(name, stands)| Some((view.policies.get(name)?, stands)))
            .collect();
        let mut all: Vec<Said> =
            policies.iter().map(|(policy, stands)| self.ask(policy, *stands, plan, cost)).collect();
        if all.is_empty() || !view.invalid_policies.is_empty() {
            let limits: Vec<_> = policies.iter().map(|(policy, _)| *policy).collect();
            all.push(self.without_policy(&limits));
        }
        all.sort_by(|a, b| a.rank().cmp(&b.rank()).then_with(|| a.policy.cmp(&b.policy)));
        let mut all = all.into_iter();
        // There is one at least: without a policy, what is said without one.
        let mut first = all.next().unwrap_or_else(|| self.without_policy(&[]));
        let others: Vec<Said> = all.collect();
        if first.glass.is_none() {
            first.glass = others.iter().find_map(|said| said.glass.clone());
        }
        if let (Some(name), false) = (&first.policy, others.is_empty()) {
            let say = |said: &Said| {
                let name = said.policy.as_deref().unwrap_or("one that is not valid");
                format!("{name}: {}", word(said.permission))
            };
            let others = others.iter().take(POLICIES_MAX).map(say).collect::<Vec<_>>().join(", ");
            first.messages.push(format!(
                "by ErrorBudgetPolicy/{name}, the strictest of those that select the SLO ({others})"
            ));
        }
        first
    }

    /// What may happen where no policy is known to select it.
    fn without_policy(&self, limits: &[&policy::ErrorBudgetPolicy]) -> Said {
        let (view, state) = (self.view, self.state);
        let stands = Memory { state: state.state, since: state.since };
        let (permission, reason, messages) = no_policy(view);
        let mut said = Said { policy: None, stands, permission, reason, messages, glass: None };
        let built_in = policy::ErrorBudgetPolicy::built_in();
        let limits = if limits.is_empty() { &[&built_in] } else { limits };
        let mut glasses = limits.iter().flat_map(|policy| accepted(view, policy).0);
        if permission < Permission::Allow
            && let Some(glass) = glasses.find(|g| g.covers(ActionClass::Deploy, view.now))
        {
            (said.permission, said.reason) = (Permission::Allow, policy::BREAK_GLASS);
            let word = format!("break-glass by {}: {}", glass.author, glass.reason);
            said.messages.insert(0, word);
            said.glass = Some(glass);
        }
        said
    }

    /// The answer of one policy.
    fn ask(
        &self,
        policy: &policy::ErrorBudgetPolicy,
        stands: Memory,
        plan: Option<&CanaryPlan>,
        cost: Option<f64>,
    ) -> Said {
        let (view, state) = (self.view, self.state);
        let (glasses, problems) = accepted(view, policy);
        let burns = state.burn.iter();
        let burns =
            burns.filter_map(|(window, rate)| Some((PromDuration::parse(window).ok()?, *rate)));
        let counting = state.counted_percent.filter(|_| stands.state == State::Unknown);
        let unknown = match counting {
            Some(percent) => Some(format!("{percent} % of the window is counted so far")),
            None => state.unknown.clone(),
        };
        let situation = Situation {
            now: view.now,
            memory: stands,
            remaining: state.remaining_percent.map(|percent| percent / 100.0),
            burns: &burns.collect(),
            traffic: match (state.coverage, state.last_traffic) {
                (Coverage::Quiet, None) => Traffic::NeverYet,
                (Coverage::Quiet, Some(_)) => Traffic::NotLately,
                _ => Traffic::Seen,
            },
            unknown: unknown.as_deref(),
            forecast: state.forecast.unwrap_or(Forecast::Unknown),
            account: &state.account,
            chaos_spent: 0.0,
            break_glass: &glasses,
        };
        let ask = Ask {
            id: change_of(&view.obj, &view.canary),
            class: ActionClass::Deploy,
            cost,
            duration: plan.map_or(PromDuration::from_ms(0), CanaryPlan::duration),
        };
        let decision = policy::decide(policy, &situation, &ask);
        let mut messages = decision.messages;
        if decision.permission < Permission::Allow {
            messages.extend(problems);
        }
        let counting = counting.is_some() && decision.reason == reasons::BUDGET_UNKNOWN;
        let reason = if counting { reasons::BUDGET_COUNTING } else { decision.reason };
        Said {
            policy: Some(policy.name().to_owned()),
            stands,
            permission: decision.permission,
            reason,
            messages,
            glass: decision.break_glass,
        }
    }
}

/// What one policy says about a release.
struct Said {
    policy: Option<String>,
    stands: Memory,
    permission: Permission,
    reason: &'static str,
    messages: Vec<String>,
    glass: Option<policy::BreakGlass>,
}

impl Said {
    /// The strictest first; what only an exception allows before what is allowed anyway.
    fn rank(&self) -> (Permission, bool, Reverse<State>) {
        (self.permission, self.reason != policy::BREAK_GLASS, Reverse(self.stands.state))
    }
}

/// A permission as it is written in objects.
fn word(permission: Permission) -> String {
    format!("{permission:?}").to_lowercase()
}

/// Policies that are named beside the one that decided.
const POLICIES_MAX: usize = 5;

/// Largest share that is reported.
const SHARE_MAX: f64 = 1e6;

fn whole(events: Events) -> u64 {
    u64::try_from(events.micros().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}
