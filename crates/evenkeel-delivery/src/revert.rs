use std::time::Duration;

use evenkeel_api::canary::Phase;
use evenkeel_control::{Action, Plan, Propagation};
use serde_json::json;

use crate::{CanaryView, decide::Context, draft::Draft, reasons, workload::Readiness};

/// Holds a Canary back until its target serves again. Flagger's name, so that both agree.
pub(crate) const FINALIZER: &str = "finalizer.flagger.app";
/// Time for the gateway to forget a deleted route: a deletion has no status to confirm it.
const ROUTE_GONE: Duration = Duration::from_secs(2);

impl Context<'_> {
    /// The Canary goes: the target takes over again, without a gap, before anything is deleted.
    pub(crate) fn revert(&self) -> Plan {
        let names = &self.view.names;
        let mut draft = self.draft();
        draft.phase(Phase::Terminating).wake(self.rules.interval);
        if !self.view.obj.meta().finalizers.iter().flatten().any(|name| name == FINALIZER) {
            return Plan::idle(reasons::REVERTING);
        }
        if self.target.replicas() == 0 {
            let replicas = self.view.primary.as_ref().map_or(1, |p| p.replicas().max(1));
            draft.act_if_unchanged(self.scale_target(replicas), &self.target.obj);
            return draft.done(reasons::REVERTING);
        }
        let ready = self.canary_readiness() == Readiness::Ready;
        if !ready || !self.reachable(&names.canary, self.target.needed(100)) {
            draft.waiting(format!("Waiting for {} to be ready before it takes over", names.full()));
            return draft.done(reasons::CANARY_UNREADY);
        }
        if self.view.route.is_some() && self.pct() != 100 {
            draft.act(self.set_weight(100)).weight(100);
            return draft.done(reasons::REVERTING);
        }
        if let Some(action) = self.release_apex() {
            draft.act(action);
            return draft.done(reasons::REVERTING);
        }
        if let Some(seen) = &self.view.route {
            if !self.confirmed() || !self.apex_on_target() {
                return draft.done(reasons::CONFIRMATION_PENDING);
            }
            draft.act(Action::Delete {
                key: seen.obj.key().clone(),
                uid: seen.obj.uid().to_owned(),
                propagation: Propagation::Background,
            });
            draft.tick().wake(ROUTE_GONE);
            return draft.done(reasons::REVERTING);
        }
        let since = self.run.ticked_at.unwrap_or(self.view.now);
        let waited = crate::workload::elapsed(since, self.view.now);
        if let Some(left) = ROUTE_GONE.checked_sub(waited).filter(|left| !left.is_zero()) {
            return Plan::wait(reasons::REVERTING, left);
        }
        draft.phase(Phase::Terminated);
        let_go(&mut draft, self.view);
        draft.done(reasons::REVERTING)
    }

    /// Puts our finalizer on. Only `revertOnDeletion: false` lets a deletion take everything down:
    /// that is what the field says, and by Flagger's default it would be an outage.
    pub(crate) fn hold_deletion(&self) -> Vec<Action> {
        let mut all = self.view.obj.meta().finalizers.clone().unwrap_or_default();
        let wanted = self.view.canary.spec.revert_on_deletion != Some(false);
        if !wanted || all.iter().any(|name| name == FINALIZER) {
            return Vec::new();
        }
        all.push(FINALIZER.to_owned());
        let key = self.view.obj.key().clone();
        vec![Action::Patch { key, patch: json!({"metadata": {"finalizers": all}}) }]
    }

    /// Points the apex to the target again and frees it from the Canary, so that it stays.
    fn release_apex(&self) -> Option<Action> {
        let apex = self.view.services.get(&self.view.names.apex)?;
        let selects = apex.json().pointer("/spec/selector")?.get(self.label)?;
        let owned = apex.controller().is_some_and(|owner| owner.uid == self.view.obj.uid());
        if *selects == self.value && !owned {
            return None;
        }
        let mut patch = json!({"spec": {"selector": {self.label: self.value}}});
        if owned {
            patch["metadata"]["ownerReferences"] = json!([]);
        }
        Some(Action::Patch { key: apex.key().clone(), patch })
    }

    fn apex_on_target(&self) -> bool {
        let names = &self.view.names;
        let (target, primary) =
            (format!("{}-", names.target), format!("{}-", names.target_primary));
        let pods = self.view.endpoints.get(&names.apex);
        !self.view.settings.confirm
            || pods.is_some_and(|pods| {
                let ours = |pod: &String| pod.starts_with(&target) && !pod.starts_with(&primary);
                !pods.is_empty() && pods.iter().all(ours)
            })
    }
}

/// Takes our finalizer off.
pub(crate) fn let_go(draft: &mut Draft<'_>, view: &CanaryView) {
    let all = view.obj.meta().finalizers.clone().unwrap_or_default();
    if !all.iter().any(|name| name == FINALIZER) {
        return;
    }
    let rest: Vec<_> = all.into_iter().filter(|name| name != FINALIZER).collect();
    let key = view.obj.key().clone();
    draft.act(Action::Patch { key, patch: json!({"metadata": {"finalizers": rest}}) });
}
