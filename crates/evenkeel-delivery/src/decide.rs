use std::{collections::BTreeMap, time::Duration};

use evenkeel_api::{
    Key, Obj,
    canary::{CanaryStatus, Phase, RunStatus},
    httproute::HttpRoute,
    slo::Permission,
};
use evenkeel_control::{Action, HookCall, Plan, RouteWeight};
use serde_json::{Value, json};

use crate::{
    CanaryView, configs, diff,
    draft::Draft,
    reasons,
    rules::Rules,
    services::{self, Role},
    workload::{Readiness, Rewrite, Workload, is_ours},
};

/// Pause before a webhook's reply is looked for: it is there as soon as the call has returned.
const REPLY_WAIT: Duration = Duration::from_millis(100);
/// Pause before something that no watch tells is looked for again (a Gateway, an older Canary).
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// Something the view does not hold, without which nothing can be decided.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Need {
    /// The answer to this query.
    Answer(String),
    /// The reply to the webhook call of this identity.
    Reply(String),
}

/// A Canary that can be acted on: everything that deciding takes for granted.
pub(crate) struct Context<'a> {
    pub(crate) view: &'a CanaryView,
    pub(crate) rules: Rules,
    pub(crate) target: &'a Workload,
    pub(crate) label: &'static str,
    pub(crate) value: String,
    /// The target as it is now.
    pub(crate) revision: String,
    /// Its configs as they are now.
    pub(crate) marks: BTreeMap<String, String>,
    pub(crate) owner: Value,
    pub(crate) status: CanaryStatus,
    pub(crate) run: RunStatus,
}

/// Decides what is next for one Canary. Pure: same view, same plan.
pub(crate) fn decide(view: &CanaryView) -> Plan {
    advance(view).unwrap_or_else(|_| Plan::wait(reasons::VIEW_INCOMPLETE, LOOK_AGAIN))
}

/// As [`decide`], or what must be looked up first.
pub(crate) fn advance(view: &CanaryView) -> Result<Plan, Need> {
    if view.canary.spec.suspend && !view.obj.is_deleting() {
        return Ok(Plan::idle(reasons::SUSPENDED));
    }
    let ctx = match Context::of(view) {
        Ok(ctx) => ctx,
        Err((reason, message)) if view.obj.is_deleting() => {
            // Nothing can be reverted; the deletion must not hang on it.
            let mut draft = Draft::new(view);
            draft.stalled(format!("deleted without reverting: {message}"));
            crate::revert::let_go(&mut draft, view);
            return Ok(draft.done(reason));
        }
        Err((reason, message)) => {
            let mut draft = Draft::new(view);
            draft.problem(reason, message).wake(LOOK_AGAIN);
            return Ok(draft.done(reason));
        }
    };
    let plan = ctx.next()?;
    let quiet = plan.actions.is_empty() && plan.status.is_empty();
    if !quiet {
        return Ok(plan);
    }
    // Only when nothing else is to be done: event webhooks must not hold a release up.
    ctx.tell_event(plan)
}

impl<'a> Context<'a> {
    fn of(view: &'a CanaryView) -> Result<Self, (&'static str, String)> {
        let names = &view.names;
        if let Some(elder) = &view.elder {
            let message = format!(
                "{elder} has the same spec.targetRef (Deployment/{}) and is older: delete one of \
                 the two",
                names.target
            );
            return Err((reasons::DUPLICATE_TARGET, message));
        }
        let mut rules =
            Rules::of(&view.canary).map_err(|e| (reasons::INVALID_SPEC, e.to_string()))?;
        let status = view.status();
        if status.error_budget.as_ref().is_some_and(|b| b.permission == Permission::Slower) {
            rules.interval = rules.interval.saturating_mul(2);
        }
        let Some(target) = &view.target else {
            let message = format!(
                "Deployment/{}/{} is not there: create it, or correct spec.targetRef.name",
                names.namespace, names.target
            );
            return Err((reasons::TARGET_MISSING, message));
        };
        let Some((label, value)) = target.selector() else {
            let message = format!(
                "Deployment/{}/{} has none of the labels app, name, app.kubernetes.io/name in \
                 spec.selector.matchLabels: add one",
                names.namespace, names.target
            );
            return Err((reasons::INVALID_SPEC, message));
        };
        let run = status.evenkeel.clone().unwrap_or_default();
        Ok(Self {
            view,
            rules,
            target,
            label,
            value,
            revision: target.revision(),
            marks: configs::marks(&view.configs),
            owner: json!(view.obj.owner_reference()),
            status,
            run,
        })
    }

    fn next(&self) -> Result<Plan, Need> {
        let phase = self.status.phase;
        if self.view.obj.is_deleting() {
            return Ok(self.revert());
        }
        if matches!(phase, Phase::New | Phase::Initializing) {
            return Ok(self.initialize());
        }
        // Before anything that a policy might hold: a rollback is never held up.
        if self.run.rollback.is_some() {
            return Ok(self.roll_back());
        }
        if let Some(plan) = self.adopt_revisions() {
            return Ok(plan);
        }
        let Some(primary) = &self.view.primary else { return Ok(self.replace_primary()) };
        let repairs = self.repairs();
        if !repairs.is_empty() {
            let mut draft = self.draft();
            draft.act_all(repairs).wake(Duration::ZERO);
            return Ok(draft.done(reasons::MAKING_OBJECTS));
        }
        match phase {
            Phase::Progressing | Phase::WaitingPromotion => self.progress(primary),
            Phase::Promoting => Ok(self.promoting(primary)),
            Phase::Finalising => Ok(self.finalising()),
            _ => self.rest(primary),
        }
    }

    /// No run under way: is there a new version?
    fn rest(&self, primary: &Workload) -> Result<Plan, Need> {
        if self.run.after_hooks_due {
            return self.tell_end();
        }
        let reverted = self.revision == self.status.last_promoted_spec
            && self.revision != self.status.last_applied_spec
            && self.status.phase != Phase::Waiting;
        if reverted {
            // So that the version that failed, tried once more, is new again.
            let mut draft = self.draft();
            draft.status.last_applied_spec.clone_from(&self.revision);
            return Ok(draft.done(reasons::NOTHING_NEW));
        }
        if self.changed() {
            return self.start(primary);
        }
        let mut draft = self.draft();
        if self.status.phase == Phase::Waiting {
            // The version that waited for leave was taken back.
            draft.phase(Phase::Initialized);
            draft.run.waiting_since = None;
        }
        draft.budget_allows().run.note = None;
        if !self.view.gateways_missing.is_empty() {
            draft.wake(LOOK_AGAIN);
        }
        Ok(draft.done(reasons::NOTHING_NEW))
    }

    /// Whether the target is something that neither runs nor failed.
    pub(crate) fn changed(&self) -> bool {
        let status = &self.status;
        status.last_applied_spec.is_empty()
            || (self.revision != status.last_applied_spec
                && self.revision != status.last_promoted_spec)
            || self.configs_changed()
    }

    pub(crate) fn configs_changed(&self) -> bool {
        self.status.tracked_configs.clone().unwrap_or_default() != self.marks
    }

    /// Revisions that another tool wrote say nothing to us: compare the Deployments instead, or
    /// taking over would start a release of everything.
    fn adopt_revisions(&self) -> Option<Plan> {
        let status = &self.status;
        let foreign = |revision: &String| !revision.is_empty() && !is_ours(revision);
        if !foreign(&status.last_promoted_spec) && !foreign(&status.last_applied_spec) {
            return None;
        }
        let primary = self.view.primary.as_ref()?;
        let same = self.rewrite().same_version(self.target, primary);
        let mut draft = self.draft();
        draft.status.last_applied_spec = if same { self.revision.clone() } else { String::new() };
        draft.status.last_promoted_spec.clone_from(&draft.status.last_applied_spec);
        draft.status.tracked_configs = (!self.marks.is_empty()).then(|| self.marks.clone());
        Some(draft.done(reasons::REVISION_ADOPTED))
    }

    /// The primary is gone: it may be made again only from a version that was promoted.
    fn replace_primary(&self) -> Plan {
        let mut draft = self.draft();
        if self.revision == self.status.last_promoted_spec {
            draft.act(self.make_primary()).wake(Duration::ZERO);
            return draft.done(reasons::MAKING_OBJECTS);
        }
        let message = format!(
            "Deployment/{}/{} is gone, and the target is not the version it ran: put the target \
             back to it, or delete and create the Canary",
            self.view.names.namespace, self.view.names.target_primary
        );
        draft.problem(reasons::PRIMARY_MISSING, message);
        draft.done(reasons::PRIMARY_MISSING)
    }

    pub(crate) fn rewrite(&self) -> Rewrite<'_> {
        Rewrite {
            primary: &self.view.names.target_primary,
            label: self.label,
            value: &self.value,
            configs: &self.marks,
        }
    }

    pub(crate) fn make_primary(&self) -> Action {
        let namespace = &self.view.names.namespace;
        let primary = self.rewrite().deployment(self.target, namespace, &self.owner);
        Action::Create(Box::new(object(primary)))
    }

    /// Copies of configs that are not there or not as they should be.
    pub(crate) fn missing_copies(&self) -> Vec<Action> {
        let tracked = self.view.configs.values().filter(|config| configs::is_tracked(config));
        tracked
            .filter_map(|config| {
                let want = configs::copy(config, &self.owner);
                let key = configs::copy_of(config.key());
                let Some(have) = self.view.config_copies.get(&key) else {
                    return Some(Action::Apply(Box::new(object(want))));
                };
                let mut patch = json!({});
                for field in ["data", "binaryData"] {
                    let none = &Value::Null;
                    let (have, want) = (have.json().get(field), want.get(field));
                    if let Some(change) = diff::between(have.unwrap_or(none), want.unwrap_or(none))
                    {
                        patch[field] = change;
                    }
                }
                (patch != json!({})).then_some(Action::Patch { key, patch })
            })
            .collect()
    }

    /// The Services of these roles that are not there or not as they should be.
    pub(crate) fn missing_services(&self, roles: &[Role]) -> Vec<Action> {
        let spec = &self.view.canary.spec;
        roles
            .iter()
            .filter_map(|role| {
                let service =
                    |owner| services::service(spec, &self.view.names, *role, self.target, owner);
                let want = service(Some(&self.owner));
                let name = want.pointer("/metadata/name").and_then(Value::as_str)?;
                let have = self.view.services.get(name);
                // An apex that was there before is only pointed elsewhere, never taken over.
                let foreign =
                    |have: &Obj| have.controller().is_none_or(|owner| owner.kind != "Canary");
                let want = match have {
                    Some(have) if *role == Role::Apex && foreign(have) => service(None),
                    _ => want,
                };
                missing(have.map(|have| have.json()), want)
            })
            .collect()
    }

    /// The route, if it is not there or not as it should be; its weights are never touched here.
    pub(crate) fn missing_route(&self) -> Option<Action> {
        let have = self.view.route.as_ref().map(|route| route.obj.json());
        let spec = &self.view.canary.spec;
        let (names, gateways) = (&self.view.names, &self.view.gateways);
        let mut want = services::route(spec, names, gateways, self.pct(), &self.owner);
        if let Some(have) = have {
            // What the spec no longer says must go, too.
            if have.pointer("/spec/hostnames").is_some() && want["spec"]["hostnames"].is_null() {
                want["spec"]["hostnames"] = Value::Null;
            }
            let stale = ["filters", "timeouts"].iter().any(|field| {
                let of = |route: &Value| {
                    let value = route.pointer(&format!("/spec/rules/0/{field}")).cloned();
                    value.filter(|value| *value != json!([]) && !value.is_null())
                };
                of(have).is_some() && of(&want).is_none()
            });
            if stale {
                let patch = json!({"spec": want["spec"]});
                return Some(Action::Patch { key: self.route_key(), patch });
            }
        }
        missing(have, want)
    }

    /// Everything that should stand while a Canary is initialized, and does not.
    fn repairs(&self) -> Vec<Action> {
        let mut actions = self.missing_services(&[Role::Canary, Role::Primary, Role::Apex]);
        actions.extend(self.missing_route());
        actions
    }

    pub(crate) fn route_key(&self) -> Key {
        self.view.obj.key().sibling::<HttpRoute>(&self.view.names.apex)
    }

    /// The canary's share as the route has it.
    pub(crate) fn pct(&self) -> i32 {
        let route = self.view.route.as_ref();
        route.map_or(0, |seen| services::canary_pct(&seen.route, &self.view.names))
    }

    /// Whether the gateway routes by the route as it stands, as far as that matters.
    pub(crate) fn confirmed(&self) -> bool {
        let route = self.view.route.as_ref();
        !self.view.settings.confirm
            || route.is_some_and(|seen| services::is_confirmed(&seen.obj, &seen.route))
    }

    pub(crate) fn set_weight(&self, canary_pct: i32) -> Action {
        let share = |backend: &str, weight| RouteWeight { backend: backend.to_owned(), weight };
        let names = &self.view.names;
        Action::SetWeights {
            route: self.route_key(),
            weights: vec![
                share(&names.primary, 100 - canary_pct),
                share(&names.canary, canary_pct),
            ],
        }
    }

    pub(crate) fn scale_target(&self, replicas: i32) -> Action {
        Action::Scale { key: self.target.obj.key().clone(), replicas }
    }

    pub(crate) fn primary_readiness(&self, primary: &Workload) -> Readiness {
        if primary.replicas() == 0 {
            return Readiness::Pending(
                "somebody to scale it up: it is at zero replicas".to_owned(),
            );
        }
        let rules = &self.rules;
        primary.readiness(rules.primary_ready_pct, rules.deadline, self.view.now)
    }

    pub(crate) fn canary_readiness(&self) -> Readiness {
        if self.target.replicas() == 0 {
            return Readiness::Pending(
                "somebody to scale it up: it is at zero replicas".to_owned(),
            );
        }
        let rules = &self.rules;
        self.target.readiness(rules.canary_ready_pct, rules.deadline, self.view.now)
    }

    /// Whether as many ready pods as needed stand behind a Service, as the gateway sees it.
    pub(crate) fn reachable(&self, service: &str, needed: i32) -> bool {
        let needed = usize::try_from(needed.max(1)).unwrap_or_default();
        !self.view.settings.confirm || self.view.ready_behind(service) >= needed
    }

    /// A plan that says nothing yet but that the spec can be acted on.
    pub(crate) fn draft(&self) -> Draft<'_> {
        Draft::new(self.view).accepted()
    }

    /// Nothing to do but to let time pass; what was waited for until now has come.
    pub(crate) fn wait(&self, reason: &'static str, left: Duration) -> Plan {
        let mut draft = self.draft();
        if self.run.waiting_since.is_none() {
            draft.run.note = None;
        }
        draft.wake(left);
        draft.done(reason)
    }

    pub(crate) fn ask(&self, call: HookCall) -> Plan {
        let mut draft = Draft::new(self.view);
        draft.act(Action::RunHook(call)).wake(REPLY_WAIT);
        draft.done(reasons::ASKING_HOOK)
    }

    fn tell_event(&self, plan: Plan) -> Result<Plan, Need> {
        let Some(event) = self.run.untold.first() else { return Ok(plan) };
        if let Some(call) = self.untold(event)? {
            return Ok(self.ask(call));
        }
        let mut draft = Draft::new(self.view);
        draft.run.untold.remove(0);
        draft.wake(plan.wake_after.unwrap_or(LOOK_AGAIN));
        Ok(draft.done(plan.reason))
    }
}

/// What makes or mends an object; `None` when it is as it should be.
fn missing(have: Option<&Value>, want: Value) -> Option<Action> {
    let fine = have.is_some_and(|have| diff::covers(have, &want));
    (!fine).then(|| Action::Apply(Box::new(object(want))))
}

/// An object of our own making.
pub(crate) fn object(body: Value) -> Obj {
    Obj::from_json(body).expect("it is built with apiVersion, kind and metadata")
}
