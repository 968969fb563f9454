use evenkeel_api::canary::Phase;
use evenkeel_control::Plan;

use crate::{
    decide::Context,
    draft::{Draft, Severity},
    finish::CONFIRMATION_SLOW,
    reasons,
    services::Role,
    workload::{REVISION_ANNOTATION, Readiness, Workload, elapsed},
};

impl Context<'_> {
    /// Puts the primary copy in front of users and the target out of the way, without a moment
    /// in which nothing ready stands behind the apex:
    ///
    /// 1. Services for primary and canary, and the primary copy;
    /// 2. when that is ready and its endpoints are known: the route (all to the primary), and the
    ///    apex Service points to the primary;
    /// 3. when the gateway has confirmed the route and the apex has the primary's endpoints only:
    ///    the target goes to zero.
    pub(crate) fn initialize(&self) -> Plan {
        let names = &self.view.names;
        let mut draft = self.draft();
        // Watches tell when to look again; the interval is for what they might miss.
        draft.phase(Phase::Initializing).wake(self.rules.interval);
        let mut actions = self.hold_deletion();
        actions.extend(self.missing_services(&[Role::Canary, Role::Primary]));
        actions.extend(self.missing_copies());
        if self.view.primary.is_none() {
            actions.push(self.make_primary());
        }
        let Some(primary) = self.view.primary.as_ref().filter(|_| actions.is_empty()) else {
            draft.act_all(actions);
            return draft.done(reasons::MAKING_OBJECTS);
        };
        match self.primary_readiness(primary) {
            Readiness::Ready => {}
            Readiness::Pending(text) | Readiness::Stuck(text) => {
                draft.waiting(format!(
                    "{}-primary.{} not ready: waiting for {text}",
                    names.target, names.namespace
                ));
                return draft.done(reasons::PRIMARY_UNREADY);
            }
        }
        if !self.reachable(&names.primary, primary.needed(self.rules.primary_ready_pct)) {
            return draft.done(reasons::ENDPOINTS_PENDING);
        }
        let mut actions: Vec<_> = self.missing_route().into_iter().collect();
        actions.extend(self.missing_services(&[Role::Apex]));
        if !actions.is_empty() {
            draft.act_all(actions);
            return draft.done(reasons::MAKING_OBJECTS);
        }
        if self.pct() != 0 {
            // Left over from an earlier Canary of this name.
            draft.act(self.set_weight(0));
            return draft.done(reasons::ROUTING_TO_PRIMARY);
        }
        if !self.confirmed() {
            let since = self.status.last_transition_time.as_ref().map(|time| time.0);
            if since.is_some_and(|since| elapsed(since, self.view.now) >= CONFIRMATION_SLOW) {
                draft.stalled(format!(
                    "Waiting for the gateway to confirm the route {}",
                    names.apex
                ));
            }
            return draft.done(reasons::CONFIRMATION_PENDING);
        }
        if self.view.settings.confirm && !self.apex_on_primary() {
            return draft.done(reasons::ENDPOINTS_PENDING);
        }
        self.initialized(draft, primary)
    }

    /// Everything stands: the target goes to zero, and what the primary runs is what counts.
    fn initialized(&self, mut draft: Draft<'_>, primary: &Workload) -> Plan {
        let names = &self.view.names;
        if self.target.replicas() != 0 {
            draft.act_if_unchanged(self.scale_target(0), &self.target.obj);
        }
        let copied = primary
            .template()
            .pointer(&format!(
                "/metadata/annotations/{}",
                REVISION_ANNOTATION.replace('~', "~0").replace('/', "~1")
            ))
            .and_then(serde_json::Value::as_str);
        // A primary that was there before may run another version; that one was never judged.
        let runs = if self.rewrite().same_version(self.target, primary) {
            self.revision.clone()
        } else {
            copied.unwrap_or_default().to_owned()
        };
        draft.status.last_applied_spec.clone_from(&runs);
        draft.status.last_promoted_spec = runs;
        draft.status.tracked_configs = (!self.marks.is_empty()).then(|| self.marks.clone());
        draft.phase(Phase::Initialized).weight(0).quiet();
        draft.run.note = None;
        let message = format!("Initialization done! {}.{}", self.view.obj.name(), names.namespace);
        draft.alert(Severity::Info, &message);
        draft.event(message);
        draft.done(reasons::INITIALIZATION_DONE)
    }

    /// Whether the apex has ready endpoints, and all of them are the primary's.
    fn apex_on_primary(&self) -> bool {
        let names = &self.view.names;
        let ours = format!("{}-", names.target_primary);
        let pods = self.view.endpoints.get(&names.apex);
        pods.is_some_and(|pods| !pods.is_empty() && pods.iter().all(|pod| pod.starts_with(&ours)))
    }
}
