//! A Canary that can be acted on, and the questions that every phase asks of it.

use std::{collections::BTreeMap, time::Duration};

use evenkeel_api::canary::{CanaryStatus, Phase, RunStatus};
use evenkeel_control::{Action, Plan};
use jiff::Timestamp;
use serde_json::Value;

use crate::{
    CanaryView,
    checks::Query,
    draft::Draft,
    plain, primary, reasons,
    rules::Rules,
    time::{elapsed, later},
    workload::{Readiness, Rewrite, Workload, is_ours},
};

/// What a workload without replicas waits for.
const NO_REPLICAS: &str = "replicas: it has none; scale it up";

/// Something the view does not hold, without which nothing can be decided.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Need {
    /// The answer to this query.
    Answer(Query),
    /// The reply to the webhook call of this identity.
    Reply(String),
}

/// A plan, and what goes before it: repairs never hold up safety or judgement, and new risk is
/// taken only where everything stands as it should.
#[derive(Debug)]
pub(crate) enum Turn {
    /// Safety, or a judgement: at once.
    Now(Plan),
    /// Waiting, or work without risk: after repairs that are due.
    Calm(Plan),
    /// New risk: only when everything that traffic depends on stands.
    Ramp(Plan),
}

/// What keeps a Canary from being acted on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Obstacle {
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

/// A Canary that can be acted on: everything that deciding takes for granted.
pub(crate) struct Context<'a> {
    pub(crate) view: &'a CanaryView,
    pub(crate) rules: &'a Rules,
    pub(crate) target: &'a Workload,
    pub(crate) label: &'static str,
    pub(crate) value: &'a str,
    /// The target as it is now.
    pub(crate) revision: &'a str,
    /// Its configs as they are now.
    pub(crate) config_hashes: &'a BTreeMap<String, String>,
    pub(crate) owner: &'a Value,
    pub(crate) status: &'a CanaryStatus,
    pub(crate) run: &'a RunStatus,
}

impl<'a> Context<'a> {
    /// **Errors**: what must be fixed first.
    pub(crate) fn of(view: &'a CanaryView) -> Result<Self, Obstacle> {
        let names = &view.names;
        let obstacle = |reason, message| Err(Obstacle { reason, message });
        if let Some(rival) = &view.conflicting_canary {
            let message = format!(
                "{rival} has the same spec.targetRef (Deployment/{}) and is older: delete one of \
                 the two",
                names.target
            );
            return obstacle(reasons::DUPLICATE_TARGET, message);
        }
        let deleting = view.obj.is_deleting();
        // A target can be given back whatever the spec says of its releases.
        if let Some(error) = view.spec_error.as_ref().filter(|_| !deleting) {
            return obstacle(reasons::INVALID_SPEC, error.to_string());
        }
        if let Some(problem) = view.kind_missing.as_ref().filter(|_| !deleting) {
            return obstacle(reasons::KIND_MISSING, problem.clone());
        }
        if !view.unreadable.is_empty() {
            return obstacle(reasons::UNREADABLE, view.unreadable.join("; "));
        }
        // Nothing is measured any more when it goes.
        if !view.unread.templates.is_empty() && !deleting {
            return obstacle(reasons::UNREADABLE, view.unread.templates.join("; "));
        }
        // Written anew with what follows from it; a deletion does without.
        if !view.status_misfits.is_empty() && !deleting {
            return obstacle(reasons::UNREADABLE, view.status_misfits.join("; "));
        }
        let begun = !matches!(view.status.phase, Phase::New | Phase::Initializing);
        // What another tool began has no bookkeeping of ours yet.
        let ours = is_ours(&view.status.last_applied_spec);
        if begun && ours && !deleting && view.status.evenkeel.is_none() {
            let message = "status.evenkeel, without which a release cannot go on after a restart, \
                           is not there. If the Canary was written anew without its annotations, \
                           as by `kubectl replace`, it is made again. If it stays away, the API \
                           server does not keep it, and evenkeel cannot read the \
                           CustomResourceDefinition canaries.flagger.app to keep it elsewhere: \
                           allow it to get, list and watch customresourcedefinitions, or apply \
                           the definition that `evenkeel crds --all` prints";
            return obstacle(reasons::STATUS_PRUNED, message.to_owned());
        }
        let Some(target) = &view.target else {
            let message = format!(
                "Deployment/{}/{} does not exist: create it, or correct spec.targetRef.name",
                names.namespace, names.target
            );
            return obstacle(reasons::TARGET_MISSING, message);
        };
        if let Some(problem) = plain::obstacle(view).filter(|_| !deleting) {
            return obstacle(reasons::INVALID_SPEC, problem);
        }
        let Some((label, value)) = target.selector() else {
            let message = format!(
                "Deployment/{}/{} has none of the labels app, name, app.kubernetes.io/name in \
                 spec.selector.matchLabels: add one",
                names.namespace, names.target
            );
            return obstacle(reasons::INVALID_SPEC, message);
        };
        Ok(Self {
            view,
            rules: &view.rules,
            target,
            label,
            value,
            revision: &target.revision,
            config_hashes: &view.config_hashes,
            owner: &view.owner,
            status: &view.status,
            run: &view.run,
        })
    }

    /// Whether the target is something that neither runs nor failed.
    pub(crate) fn changed(&self) -> bool {
        let status = self.status;
        status.last_applied_spec.is_empty()
            || (self.revision != status.last_applied_spec
                && self.revision != status.last_promoted_spec)
            || self.configs_changed()
    }

    pub(crate) fn configs_changed(&self) -> bool {
        self.status.tracked_configs.clone().unwrap_or_default() != *self.config_hashes
    }

    /// Whether it could not be acted on when it was looked at last.
    pub(crate) fn was_obstructed(&self) -> bool {
        self.status.conditions.iter().any(|condition| condition.type_ == reasons::ACCEPTED)
    }

    /// Whether a version is being judged.
    pub(crate) fn is_running(&self) -> bool {
        self.status.phase.is_judged()
    }

    /// A plan that says nothing yet but that the spec can be acted on, and which of the Gateways it
    /// names do not exist, whether people can be alerted and metrics asked for, and what could not
    /// be read.
    pub(crate) fn draft(&self) -> Draft<'a> {
        Draft::new(self.view)
            .accepted()
            .without_gateways(&self.view.gateways_missing)
            .refused_by(self.view.gateway_trouble())
            .confirming(self.view.unconfirmable())
            .alerting(&self.view.alerts)
            .measuring(self.view.unmeasured())
            .serving(primary::unavailable(self.view))
            .running_promoted(primary::differing(self.view, self.target))
            .reading(self.view.unread.message())
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

    /// Since when the state is as it is now, where that was not noted: from this look on. What another
    /// controller has done was so before, and it is judged by what the metrics say now.
    pub(crate) fn seen_since(&self) -> Timestamp {
        if self.view.is_observed() { Timestamp::UNIX_EPOCH } else { self.view.now }
    }

    /// Time until the present tick is due; `None` when it is.
    pub(crate) fn time_left(&self) -> Option<Duration> {
        Some(elapsed(self.view.now, self.due_at())).filter(|left| !left.is_zero())
    }

    /// When the present tick is due.
    pub(crate) fn due_at(&self) -> Timestamp {
        let since = [self.run.ticked_at, self.run.confirmed_at].into_iter().flatten().max();
        since.map_or(self.view.now, |since| later(since, self.rules.interval))
    }

    pub(crate) fn scale_target(&self, replicas: i32) -> Action {
        Action::Scale { key: self.target.obj.key().clone(), replicas }
    }

    pub(crate) fn primary_readiness(&self, primary: &Workload) -> Readiness {
        if primary.replicas() == 0 {
            return Readiness::Pending(NO_REPLICAS.to_owned());
        }
        let rules = self.rules;
        let readiness = primary.readiness(rules.primary_ready_pct, rules.deadline, self.view.now);
        readiness.because(self.view.stuck_pods.get(&self.view.names.target_primary))
    }

    pub(crate) fn canary_readiness(&self) -> Readiness {
        if self.target.replicas() == 0 {
            return Readiness::Pending(NO_REPLICAS.to_owned());
        }
        let rules = self.rules;
        let readiness =
            self.target.readiness(rules.canary_ready_pct, rules.deadline, self.view.now);
        readiness.because(self.view.stuck_pods.get(&self.view.names.target))
    }

    /// Whether as many ready pods as needed stand behind a Service, as the gateway sees it.
    pub(crate) fn reachable(&self, service: &str, needed: i32) -> bool {
        let needed = usize::try_from(needed.max(1)).unwrap_or_default();
        !self.view.settings.confirm || self.view.ready_behind(service) >= needed
    }

    pub(crate) fn rewrite(&self) -> Rewrite<'_> {
        Rewrite {
            primary: &self.view.names.target_primary,
            label: self.label,
            value: self.value,
            target: &self.view.names.target,
            configs: self.config_hashes,
            copies: &self.view.copy_names,
            shared: plain::marks_primary(self.view).then_some(&self.view.names.apex),
        }
    }
}
