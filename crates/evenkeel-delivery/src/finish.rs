use std::time::Duration;

use evenkeel_api::canary::Phase;
use evenkeel_base::format_duration;
use evenkeel_control::Plan;

use crate::{
    decide::{Context, Need},
    draft::{Draft, Severity},
    hooks::Leave,
    reasons,
    rules::HookKind,
    workload::{Readiness, Workload, elapsed},
};

/// After this long without the gateway's confirmation a person is told.
pub(crate) const CONFIRMATION_SLOW: Duration = Duration::from_secs(30);

impl Context<'_> {
    /// The primary rolls; when it is ready, it takes its traffic back.
    pub(crate) fn promoting(&self, primary: &Workload) -> Plan {
        let names = &self.view.names;
        let mut draft = self.draft();
        let pct = self.pct();
        // A newer version is already on its way into the canary: it must not meet users unjudged.
        let moved_on = self.revision != self.status.last_applied_spec && primary.available() > 0;
        match self.primary_readiness(primary) {
            Readiness::Ready => {}
            _ if moved_on => {}
            Readiness::Pending(text) => {
                draft.waiting(format!(
                    "{}-primary.{} not ready: waiting for {text}",
                    names.target, names.namespace
                ));
                draft.wake(self.rules.interval);
                return draft.done(reasons::PRIMARY_UNREADY);
            }
            Readiness::Stuck(text) => return self.promotion_failed(&text, pct),
        }
        let quick = self.view.canary.spec.skip_analysis || moved_on;
        if let Some(wait) = self.time_left().filter(|_| !quick) {
            return self.wait(reasons::INTERVAL_RUNNING, wait);
        }
        let step = if moved_on { 0 } else { self.rules.promotion_step };
        let next = if step == 0 { 0 } else { (pct - step).max(0) };
        if pct != 0 {
            draft.act(self.set_weight(next));
        }
        draft.tick().weight(next).wake(self.rules.interval);
        if next > 0 {
            draft.event(format!("Advance {} primary weight {}", names.full(), 100 - next));
            return draft.done(reasons::ROUTING_TO_PRIMARY);
        }
        draft.phase(Phase::Finalising).event(format!(
            "Routing all traffic to primary {}.{}",
            names.target_primary, names.namespace
        ));
        draft.done(reasons::ROUTING_TO_PRIMARY)
    }

    /// The primary cannot run what the canary runs well: the canary keeps serving, all of it.
    fn promotion_failed(&self, text: &str, pct: i32) -> Plan {
        let mut draft = self.draft();
        let full = self.view.names.full();
        if self.canary_readiness() == Readiness::Ready && pct > 0 {
            draft.act(self.set_weight(100)).weight(100);
            let message = format!(
                "Promotion of {full} failed, the primary is not ready: {text}. All traffic goes to \
                 the canary; mend the primary or release another version"
            );
            draft.run.outcome = Some(format!(
                "Promotion failed, the primary is not ready: {text}. All traffic stays on the \
                 canary, which keeps running."
            ));
            draft.alert(Severity::Error, &message).warning(message);
        } else {
            let message = format!(
                "Promotion of {full} failed, neither primary nor canary is ready: {text}. Weights \
                 stay as they are; release another version"
            );
            draft.run.outcome = Some(format!(
                "Promotion failed, neither primary nor canary is ready: {text}. The weights stay \
                 as they are."
            ));
            draft.alert(Severity::Error, &message).warning(message);
        }
        draft.phase(Phase::Failed).tick();
        draft.run.after_hooks_due = self.has_after_hooks();
        draft.done(reasons::PROMOTION_FAILED)
    }

    /// The primary has all traffic; when the gateway has confirmed that, the canary goes.
    pub(crate) fn finalising(&self) -> Plan {
        let mut draft = self.draft();
        if self.pct() != 0 {
            if self.view.primary.as_ref().is_none_or(|primary| primary.available() == 0) {
                return self.nowhere_to_go();
            }
            // Somebody else has written the route.
            draft.act(self.set_weight(0)).weight(0).wake(self.rules.interval);
            return draft.done(reasons::ROUTING_TO_PRIMARY);
        }
        if !self.confirmed() {
            return self.await_zero(draft);
        }
        let quick = self.view.canary.spec.skip_analysis;
        if let Some(wait) = self.time_left().filter(|_| !quick) {
            return self.wait(reasons::INTERVAL_RUNNING, wait);
        }
        if self.target.replicas() != 0 {
            draft.act_if_unchanged(self.scale_target(0), &self.target.obj);
        }
        draft.status.last_promoted_spec.clone_from(&self.status.last_applied_spec);
        draft.status.iterations = 0;
        draft.phase(Phase::Succeeded).tick().weight(0).quiet();
        draft.run.after_hooks_due = self.has_after_hooks();
        let full = self.view.names.full();
        let message = if quick {
            format!("Promotion completed! Canary analysis was skipped for {full}")
        } else {
            format!("Promotion completed! Scaling down {full}")
        };
        draft.alert(Severity::Info, &message).event(message);
        draft.done(reasons::PROMOTED_FULLY)
    }

    /// The version goes: out of traffic, confirmed by the gateway, then down to zero.
    pub(crate) fn roll_back(&self) -> Plan {
        let mut draft = self.draft();
        let Some(rollback) = &self.run.rollback else { return draft.done(reasons::ROLLED_BACK) };
        let full = self.view.names.full();
        let pct = self.pct();
        if pct != 0 {
            let primary = self.view.primary.as_ref();
            if primary.is_none_or(|primary| primary.available() == 0) {
                return self.nowhere_to_go();
            }
            draft.act(self.set_weight(0));
            if self.view.settings.confirm {
                draft.weight(0).wake(self.rules.interval);
                return draft.done(reasons::ROLLING_BACK);
            }
        } else if !self.confirmed() {
            return self.await_zero(draft);
        }
        if self.target.replicas() != 0 {
            draft.act(self.scale_target(0));
        }
        let took = elapsed(rollback.since, self.view.now);
        draft.phase(Phase::Failed).tick().weight(0).quiet();
        draft.status.iterations = 0;
        draft.run.outcome = Some(format!(
            "Canary analysis failed, Deployment scaled to zero. {}.",
            sentence(&rollback.cause)
        ));
        draft.run.rollback = None;
        draft.run.rollback_seconds = Some(took.as_secs_f64());
        draft.run.after_hooks_due = self.has_after_hooks();
        draft.warning(format!("Canary failed! Scaling down {full}"));
        let message = format!(
            "Rolled back {full} in {} from the decision until no request reached it: {}",
            format_duration(took),
            rollback.cause
        );
        draft.alert(Severity::Error, &message).warning(message);
        draft.done(reasons::ROLLED_BACK)
    }

    /// Nobody is there to take the canary's traffic back.
    pub(crate) fn nowhere_to_go(&self) -> Plan {
        let mut draft = self.draft();
        draft.stalled(format!(
            "{} cannot be taken out of traffic: no replica of {} is available; the weights stay as \
             they are until one is",
            self.view.names.full(),
            self.view.names.target_primary
        ));
        draft.wake(self.rules.interval);
        draft.done(reasons::PRIMARY_UNREADY)
    }

    /// The canary still runs while the gateway may still send it requests.
    fn await_zero(&self, mut draft: Draft<'_>) -> Plan {
        let since = self.run.rollback.as_ref().map(|rollback| rollback.since);
        let since = since.or(self.run.ticked_at).unwrap_or(self.view.now);
        if elapsed(since, self.view.now) >= CONFIRMATION_SLOW {
            draft.stalled(format!(
                "Waiting for the gateway to confirm that {} gets no traffic; it keeps running \
                 until then. Look at the status of HTTPRoute {}",
                self.view.names.full(),
                self.view.names.apex
            ));
        }
        draft.wake(CONFIRMATION_SLOW);
        draft.done(reasons::CONFIRMATION_PENDING)
    }

    pub(crate) fn has_after_hooks(&self) -> bool {
        self.rules.hooks(HookKind::PostRollout).next().is_some()
    }

    /// Tells webhooks of type `post-rollout` how it ended; the first that fails ends it.
    pub(crate) fn tell_end(&self) -> Result<Plan, Need> {
        let mut draft = self.draft();
        match self.leave(HookKind::PostRollout, self.status.phase)? {
            Leave::Ask(call) => return Ok(self.ask(call)),
            Leave::Granted => {
                for hook in self.rules.hooks(HookKind::PostRollout) {
                    draft.event(format!("Post-rollout hook {} passed", hook.name));
                }
            }
            Leave::Refused(name, why) => {
                draft.warning(format!("Post-rollout hook {name} failed {why}"));
            }
        }
        draft.run.after_hooks_due = false;
        draft.wake(Duration::ZERO);
        Ok(draft.done(reasons::TELLING_END))
    }
}

/// A cause as the beginning of a sentence.
fn sentence(cause: &str) -> String {
    let mut chars = cause.chars();
    chars
        .next()
        .map_or(String::new(), |first| format!("{}{}", first.to_uppercase(), chars.as_str()))
}
