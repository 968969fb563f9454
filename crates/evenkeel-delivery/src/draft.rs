use std::time::Duration;

use evenkeel_api::{
    ConditionUpdate, Obj,
    beside::is_handed_over,
    canary::{CanaryStatus, PendingEvent, Phase, RollbackStatus, RunStatus},
    json, set_condition,
};
use evenkeel_control::{
    Action, EventNote, EventType, HeldWords, Notification, Plan, Withheld, redact,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::Value;

use crate::{
    CanaryView, diff,
    reasons::{
        ACCEPTED, ALERTS, BUDGET, GATEWAY_MISSING, GATEWAYS, IN_SYNC, METRICS, PRIMARY_AS_PROMOTED,
        PRIMARY_AVAILABLE, PROMOTED, READ_FAILED, READABLE, REPAIR_NOT_KEPT, SUSPEND_HEEDED,
        SYNCED, WEIGHTS_CONFIRMED,
    },
    view::{AlertProblem, Alerts, Metering},
};

/// Events kept for event webhooks that do not keep up.
const PENDING_EVENTS_MAX: usize = 16;

/// What `Promoted` says first while the door holds what would come next.
const HELD_WORDS: &str = "The next step is held, see the condition Held.";
/// What `Promoted` says while the budget holds a version.
const BUDGET_WORDS: &str = "Waiting for the error budget, see the condition BudgetAllows.";

/// How loud an alert is, from least to most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Severity {
    Info,
    Warn,
    Error,
}

impl Severity {
    fn parse(text: Option<&str>) -> Self {
        match text {
            Some("error") => Self::Error,
            Some("warn") => Self::Warn,
            _ => Self::Info,
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
        }
    }
}

/// What a plan makes of a condition that is only there while something is wrong. A plan that did
/// not look at the matter keeps it: or the condition would come and go with every webhook call.
#[derive(Default)]
pub(crate) enum Trouble {
    #[default]
    Unknown,
    None,
    Some {
        reason: String,
        message: String,
    },
}

impl Trouble {
    pub(crate) fn some(reason: &str, message: String) -> Self {
        Self::Some { reason: reason.to_owned(), message }
    }
}

/// A plan in the making, with the status as it will be.
pub(crate) struct Draft<'a> {
    view: &'a CanaryView,
    plan: Plan,
    pub(crate) status: CanaryStatus,
    pub(crate) run: RunStatus,
    spec: Trouble,
    budget: Trouble,
    objects: Trouble,
    gateways: Trouble,
    weights: Trouble,
    alerts: Trouble,
    metrics: Trouble,
    primary: Trouble,
    version: Trouble,
    reading: Trouble,
    /// Sent after everything else: an alert must not delay what it is about.
    notices: Vec<Notification>,
}

impl<'a> Draft<'a> {
    /// A plan that changes nothing so far.
    pub(crate) fn new(view: &'a CanaryView) -> Self {
        let (status, mut run) = (view.status.clone(), view.run.clone());
        run.route_seen = view.route_seen();
        run.handed_over |= is_handed_over(view.obj.json());
        Self {
            view,
            plan: Plan::default(),
            status,
            run,
            spec: Trouble::Unknown,
            budget: Trouble::Unknown,
            objects: Trouble::Unknown,
            gateways: Trouble::Unknown,
            weights: Trouble::Unknown,
            alerts: Trouble::Unknown,
            metrics: Trouble::Unknown,
            primary: Trouble::Unknown,
            version: Trouble::Unknown,
            reading: Trouble::Unknown,
            notices: Vec::new(),
        }
    }

    /// The spec and everything it names can be acted on.
    pub(crate) fn accepted(mut self) -> Self {
        self.spec = Trouble::None;
        self
    }

    /// Gateways that the spec names and that do not exist: no outside client reaches the service by
    /// them. Normal where a manifest is tried out on another cluster, so it is not a warning.
    pub(crate) fn without_gateways(mut self, missing: &[String]) -> Self {
        self.gateways = if !self.view.unread.gateways.is_empty() {
            Trouble::Unknown
        } else if missing.is_empty() {
            Trouble::None
        } else {
            let message = format!(
                "{} not found: the route is attached to it as soon as it exists",
                missing.join(", ")
            );
            Trouble::Some { reason: GATEWAY_MISSING.to_owned(), message }
        };
        self
    }

    /// A Gateway that exists and does not serve the route: a reason, and who says so. `None` when all
    /// serve it, as far as is known.
    pub(crate) fn refused_by(mut self, problem: Option<(&'static str, String)>) -> Self {
        if let (Trouble::None, Some((reason, message))) = (&self.gateways, problem) {
            self.gateways = Trouble::Some { reason: reason.to_owned(), message };
        }
        self
    }

    /// Why nobody says that traffic goes by a weight; `None` where somebody does.
    pub(crate) fn confirming(mut self, problem: Option<(&'static str, String)>) -> Self {
        self.weights = problem.map_or(Trouble::None, |(reason, message)| Trouble::Some {
            reason: reason.to_owned(),
            message,
        });
        self
    }

    /// What could not be read in this look; `None` when all was read.
    pub(crate) fn reading(mut self, problem: Option<String>) -> Self {
        self.reading = match problem {
            Some(message) => {
                if !self.status.conditions.iter().any(|c| c.type_ == READABLE) {
                    self.warning(message.clone());
                }
                Trouble::Some { reason: READ_FAILED.to_owned(), message }
            }
            None => Trouble::None,
        };
        self
    }

    /// Whether people can be alerted.
    pub(crate) fn alerting(mut self, alerts: &Alerts) -> Self {
        self.alerts = match alerts {
            Alerts::Fail(AlertProblem { reason, message }) => {
                Trouble::Some { reason: (*reason).to_owned(), message: message.clone() }
            }
            Alerts::Fine => Trouble::None,
            Alerts::Unknown => Trouble::Unknown,
        };
        self
    }

    /// Whether the metrics can be asked for.
    pub(crate) fn measuring(mut self, metering: Metering) -> Self {
        self.metrics = match metering {
            Metering::Fail(reason, message) => Trouble::Some { reason: reason.to_owned(), message },
            Metering::Fine => Trouble::None,
            Metering::Unknown => Trouble::Unknown,
        };
        self
    }

    /// Whether the primary can answer the requests that go to it.
    pub(crate) fn serving(mut self, trouble: Trouble) -> Self {
        self.report(PRIMARY_AVAILABLE, &trouble);
        self.primary = trouble;
        self
    }

    /// Whether the primary runs the version that was promoted.
    pub(crate) fn running_promoted(mut self, trouble: Trouble) -> Self {
        self.report(PRIMARY_AS_PROMOTED, &trouble);
        self.version = trouble;
        self
    }

    /// Warns of what a condition is about to say for the first time.
    fn report(&mut self, condition: &str, trouble: &Trouble) {
        let Trouble::Some { message, .. } = trouble else { return };
        if !self.status.conditions.iter().any(|c| c.type_ == condition) {
            self.warning(message.clone());
        }
    }

    /// The error budget lets a new version go ahead, or there is none that asks.
    pub(crate) fn budget_allows(&mut self) -> &mut Self {
        self.budget = Trouble::None;
        self
    }

    /// Does this, whatever revision its target is at.
    pub(crate) fn act(&mut self, action: Action) -> &mut Self {
        self.plan.actions.push(action);
        self
    }

    /// Does all of these in order, whatever revision their targets are at.
    pub(crate) fn act_all(&mut self, actions: impl IntoIterator<Item = Action>) -> &mut Self {
        self.plan.actions.extend(actions);
        self
    }

    /// Does this only if the object is still as it was seen.
    pub(crate) fn act_if_unchanged(&mut self, action: Action, seen: &Obj) -> &mut Self {
        self.plan.assumed.push((seen.key().clone(), seen.revision()));
        self.act(action)
    }

    pub(crate) fn phase(&mut self, phase: Phase) -> &mut Self {
        self.status.phase = phase;
        self
    }

    /// One tick of the run is over.
    pub(crate) fn tick(&mut self) -> &mut Self {
        self.run.tick += 1;
        self.run.ticked_at = Some(self.view.now);
        self.run.note = None;
        self.run.data_missing_since = None;
        self
    }

    /// The route has this share for the canary from now on; its window starts when the gateway has
    /// confirmed it.
    pub(crate) fn weight(&mut self, pct: i32) -> &mut Self {
        self.status.canary_weight = pct;
        self.run.step_failed_checks = 0;
        self.run.confirmed_generation = None;
        self.run.confirmed_at = (!self.view.settings.confirm).then_some(self.view.now);
        self
    }

    /// The canary gets no requests: what comes later is of the next version.
    pub(crate) fn quiet(&mut self) -> &mut Self {
        self.run.clean_since = Some(self.view.now);
        self
    }

    /// Something happened as it should.
    pub(crate) fn event(&mut self, message: String) -> &mut Self {
        self.publish(EventType::Normal, message)
    }

    /// Something happened that a person should know of.
    pub(crate) fn warning(&mut self, message: String) -> &mut Self {
        self.publish(EventType::Warning, message)
    }

    /// An event, for event webhooks too.
    fn publish(&mut self, kind: EventType, message: String) -> &mut Self {
        let message = shown(message);
        let spec = &self.view.canary.spec;
        if spec.analysis.webhooks.iter().any(|hook| hook.kind.as_deref() == Some("event")) {
            if self.run.pending_events.len() == PENDING_EVENTS_MAX {
                self.run.pending_events.remove(0);
            }
            let (kind, at) = (kind.as_str().to_owned(), self.view.now);
            self.run.pending_events.push(PendingEvent { kind, message: message.clone(), at });
        }
        self.record(kind, message)
    }

    fn record(&mut self, kind: EventType, message: String) -> &mut Self {
        let about = self.view.obj.key().clone();
        self.plan.events.push(EventNote { about, kind, reason: SYNCED, message });
        self
    }

    /// An ordinary wait, reported once for as long as it stays the same. It needs no action, so it
    /// is a Normal event and is not sent to event webhooks.
    pub(crate) fn waiting(&mut self, message: String) -> &mut Self {
        let message = shown(message);
        if self.run.note.as_ref() != Some(&message) {
            self.record(EventType::Normal, message.clone());
            self.run.note = Some(message);
        }
        self
    }

    /// A wait that a person should look into, reported once for as long as it stays the same.
    pub(crate) fn stalled(&mut self, message: String) -> &mut Self {
        let message = shown(message);
        if self.run.note.as_ref() != Some(&message) {
            self.warning(message.clone());
            self.run.note = Some(message);
        }
        self
    }

    /// Alerts the people that the Canary's alerts name.
    pub(crate) fn alert(&mut self, severity: Severity, message: &str) -> &mut Self {
        let message = shown(message);
        let message = message.as_str();
        for alert in &self.view.canary.spec.analysis.alerts {
            if Severity::parse(alert.severity.as_deref()) <= severity {
                self.run.alerted_at = Some(self.view.now);
                let provider = &alert.provider_ref;
                let mark = diff::hash(&Value::from(message));
                let obj = &self.view.obj;
                let namespace = provider.namespace.as_deref().unwrap_or(obj.namespace());
                self.notices.push(Notification {
                    // The same for a plan that is made again after a conflict or a crash.
                    id: format!("{}/{}/{}/{mark}", obj.uid(), self.run.tick, provider.name),
                    owner: obj.key().to_string(),
                    namespace: namespace.to_owned(),
                    provider: provider.name.clone(),
                    severity: severity.as_str().to_owned(),
                    message: message.to_owned(),
                    fields: Vec::new(),
                });
            }
        }
        self
    }

    /// The spec or its surroundings forbid to act; shown as a condition until it is fixed.
    pub(crate) fn problem(&mut self, reason: &'static str, message: String) -> &mut Self {
        self.stalled(message.clone());
        self.spec = Trouble::Some { reason: reason.to_owned(), message };
        self
    }

    /// What of the objects around the target does not stay as it should be; `None` when all is well.
    pub(crate) fn in_sync(&mut self, problem: Option<String>) -> &mut Self {
        let reported = self.status.conditions.iter().any(|c| c.type_ == IN_SYNC);
        self.objects = match problem {
            Some(message) => {
                if !reported {
                    self.warning(message.clone());
                }
                Trouble::Some { reason: REPAIR_NOT_KEPT.to_owned(), message }
            }
            None => Trouble::None,
        };
        self
    }

    /// The error budget does not let a new version go ahead; shown as a condition until it does.
    pub(crate) fn held(&mut self, reason: &str, message: String) -> &mut Self {
        // The numbers in the message move all the time; the reason is what is news.
        let reported =
            self.status.conditions.iter().any(|c| c.type_ == BUDGET && c.reason == reason);
        if !reported {
            self.alert(Severity::Warn, &message).warning(message.clone());
        }
        self.budget = Trouble::Some { reason: reason.to_owned(), message };
        self
    }

    /// Says in the record what is not begun yet.
    pub(crate) fn withhold(&mut self, withheld: Withheld) -> &mut Self {
        self.plan.withheld = Some(Box::new(withheld));
        self
    }

    /// Takes the new version out of traffic from the next plan on. The decision is written down
    /// first, so that a crash cannot forget it.
    pub(crate) fn roll_back(&mut self, cause: String) -> &mut Self {
        let cause = shown(cause);
        self.warning(format!("Rolling back {} {cause}", self.view.names.full()));
        self.run.rollback = Some(RollbackStatus { cause, since: self.view.now });
        self.wake(Duration::ZERO)
    }

    pub(crate) fn wake(&mut self, after: Duration) -> &mut Self {
        let old = self.plan.wake_after;
        self.plan.wake_after = Some(old.map_or(after, |old| old.min(after)));
        self
    }

    /// The plan, with the difference between the old and the new status.
    pub(crate) fn done(mut self, reason: &'static str) -> Plan {
        if let Some(left) = self.view.settling(&self.run) {
            self.wake(left);
        }
        let old = &self.view.status;
        let shown = |s: &CanaryStatus| (s.phase, s.canary_weight, s.failed_checks, s.iterations);
        if shown(old) != shown(&self.status) {
            self.status.last_transition_time = Some(Time(self.view.now));
        }
        self.conditions();
        // Anything else that is held is not a step of a release.
        let phase = self.view.status.phase;
        let steps = phase.is_busy() || phase == Phase::Waiting;
        let promoted = self.status.conditions.iter().find(|c| c.type_ == PROMOTED);
        if let Some(promoted) = promoted.filter(|_| steps && !self.plan.actions.is_empty()) {
            // What would be waited for after that step is not waited for.
            let note = self.run.note.as_deref().unwrap_or_default();
            let now = promoted.message.strip_suffix(note).unwrap_or(&promoted.message);
            let message = format!("{HELD_WORDS} {}", now.trim_end());
            self.plan.when_held = Some(HeldWords { condition: PROMOTED, message });
        }
        let run = (self.run != RunStatus::default()).then_some(self.run);
        self.status.evenkeel = run;
        // A status is plain data; that it serialises is checked by the tests of its kind.
        let mut want = serde_json::to_value(&self.status).unwrap_or_default();
        let mut have = self.view.obj.json().get("status").cloned().unwrap_or(Value::Null);
        for status in [&mut want, &mut have] {
            // The SLO controller alone writes it.
            status.as_object_mut().and_then(|fields| fields.shift_remove("errorBudget"));
        }
        let patch = if have.is_null() { Some(want) } else { json::difference(&have, &want) };
        let mut plan = self.plan;
        plan.actions.extend(self.notices.into_iter().map(Action::from));
        plan.reason = reason;
        let Some(patch) = patch else { return plan };
        // A status that was made from an old one must not land on a newer one. Nor may it be taken
        // for written when the newer one happens to be the same: no event of it would come.
        let canary = &self.view.obj;
        plan.assumed.push((canary.key().clone(), canary.revision()));
        plan.with_status(canary.key().clone(), patch)
    }

    fn conditions(&mut self) {
        let (observed_generation, now) = (self.view.obj.generation(), self.view.now);
        let suspend = self.view.unheeded_suspend();
        let suspend = suspend.map_or(Trouble::None, |(reason, message)| Trouble::Some {
            reason: reason.to_owned(),
            message,
        });
        for (kind, trouble) in [
            (ACCEPTED, &self.spec),
            (BUDGET, &self.budget),
            (SUSPEND_HEEDED, &suspend),
            (IN_SYNC, &self.objects),
            (GATEWAYS, &self.gateways),
            (WEIGHTS_CONFIRMED, &self.weights),
            (ALERTS, &self.alerts),
            (METRICS, &self.metrics),
            (PRIMARY_AVAILABLE, &self.primary),
            (PRIMARY_AS_PROMOTED, &self.version),
            (READABLE, &self.reading),
        ] {
            let conditions = &mut self.status.conditions;
            match trouble {
                Trouble::Unknown => {}
                Trouble::None => conditions.retain(|condition| condition.type_ != kind),
                Trouble::Some { reason, message } => {
                    let (status, message) = ("False", &redact::text(message));
                    let update =
                        ConditionUpdate { kind, status, reason, message, observed_generation };
                    set_condition(conditions, &update, now);
                }
            }
        }
        let Some((status, message)) = self.meaning() else { return };
        let message = shown(message);
        let update = ConditionUpdate {
            kind: PROMOTED,
            status,
            reason: self.status.phase.as_str(),
            message: &message,
            observed_generation,
        };
        set_condition(&mut self.status.conditions, &update, now);
    }

    /// Status and message of the condition `Promoted`: Flagger's words for the phase, then what is
    /// particular about this run.
    fn meaning(&self) -> Option<(&'static str, String)> {
        let phase = self.status.phase;
        let (status, words) = meaning(phase)?;
        if let (Phase::Failed, Some(outcome)) = (phase, &self.run.outcome) {
            return Some((status, outcome.clone()));
        }
        let has = |kind: &str| self.status.conditions.iter().any(|c| c.type_ == kind);
        let words = if phase == Phase::Waiting && has(BUDGET) { BUDGET_WORDS } else { words };
        let mut said = vec![words.to_owned()];
        if let Some(check) = self.run.failed_check.as_ref().filter(|_| phase.is_judged()) {
            let threshold = self.view.canary.spec.analysis.threshold.max(1);
            let failed = self.status.failed_checks;
            said.push(format!("{failed} of {threshold} failed checks, the last one: {check}."));
        }
        if let Some(rollback) = &self.run.rollback {
            said.push(format!("Rolling back: {}.", rollback.cause));
        }
        let trouble = matches!(self.spec, Trouble::Some { .. });
        said.extend(self.run.note.clone().filter(|_| !trouble && phase.is_busy()));
        Some((status, said.join(" ")))
    }
}

/// Status and message of the condition `Promoted` in a phase.
fn meaning(phase: Phase) -> Option<(&'static str, &'static str)> {
    Some(match phase {
        Phase::New | Phase::Terminating | Phase::Terminated => return None,
        Phase::Initializing => ("Unknown", "New Deployment detected, starting initialization."),
        Phase::Initialized => ("True", "Deployment initialization completed."),
        Phase::Waiting | Phase::WaitingPromotion => ("Unknown", "Waiting for approval."),
        Phase::Progressing => ("Unknown", "New revision detected, progressing canary analysis."),
        Phase::Promoting => {
            ("Unknown", "Canary analysis completed, starting primary rolling update.")
        }
        Phase::Finalising => {
            ("Unknown", "Canary analysis completed, routing all traffic to primary.")
        }
        Phase::Succeeded => ("True", "Canary analysis completed successfully, promotion finished."),
        Phase::Failed => ("False", "Canary analysis failed, Deployment scaled to zero."),
    })
}

/// A text as people may see it; it may quote what others said.
fn shown(text: impl Into<String>) -> String {
    redact::text(&text.into())
}
