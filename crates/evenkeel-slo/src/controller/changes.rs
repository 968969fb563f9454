//! Releases as the budget sees them: what they can cost, when they can, and what they may do.

use std::time::Duration;

use evenkeel_api::{
    canary::{CanaryAnalysis, Phase},
    slo::{ErrorBudget, Permission},
};
use evenkeel_base::parse_duration;

use super::{
    status::{Change, SloState},
    view::{CanarySeen, SloView},
};
use crate::{
    budget::{Cause, CauseKind, Events, Forecast, History, Standing},
    duration::PromDuration,
    policy::{
        ActionClass, Ask, CanaryPlan, Decision, ErrorBudgetPolicy, Memory, Situation, WorstCase,
        decide,
    },
};

/// Changes that are remembered.
const CHANGES_MAX: usize = 50;
/// Looks after the end of a change in which what it did still shows up: a scrape, a recording
/// rule and a look may come after each other.
const LATE_LOOKS: u32 = 4;
/// The traffic of a service is what it was in the last hour.
const TRAFFIC_SPAN: PromDuration = PromDuration::from_ms(3_600_000);
/// An answer is repeated at least so often, so that its readers know that somebody still looks.
pub(super) const REPEAT_SECONDS: i64 = 60;

/// Name of a release in the ledger and the account: `Canary/NAMESPACE/NAME@REVISION`, with the
/// last eight characters of the Canary's `status.lastAppliedSpec`.
pub fn change_id(namespace: &str, canary: &str, revision: &str) -> String {
    let from = revision.char_indices().rev().nth(7).map_or(0, |(at, _)| at);
    let short = revision.split_at(from).1;
    format!("Canary/{namespace}/{canary}@{short}")
}

/// The release that a Canary is at.
pub(super) fn change_of(seen: &CanarySeen) -> String {
    let revision = seen.canary.status.as_ref().map_or("", |s| s.last_applied_spec.as_str());
    change_id(seen.obj.namespace(), seen.obj.name(), revision)
}

/// Whether users can meet the new version from now on.
fn meets_users(seen: &CanarySeen) -> bool {
    seen.canary.status.as_ref().is_some_and(|status| {
        status.canary_weight > 0 || matches!(status.phase, Phase::Promoting | Phase::Finalising)
    })
}

/// Whether a run is under way: also at weight 0 some gateway may still send to the new version.
fn is_running(seen: &CanarySeen) -> bool {
    seen.canary.status.as_ref().is_some_and(|status| {
        matches!(
            status.phase,
            Phase::Progressing | Phase::WaitingPromotion | Phase::Promoting | Phase::Finalising
        )
    })
}

/// The changes with what is under way now.
pub(super) fn changes(view: &SloView) -> Vec<Change> {
    let mut changes = view.status.changes.clone();
    let mut active = Vec::new();
    for seen in view.canaries.iter().filter(|seen| is_running(seen)) {
        let id = change_of(seen);
        let open = changes.iter().any(|change| change.id == id && change.to.is_none());
        if !open && meets_users(seen) {
            let run = seen.canary.status.as_ref().and_then(|s| s.evenkeel.as_ref()?.started_at);
            // One look back: the weight was set since then. After a restart, the whole run.
            let from = view.now.checked_sub(view.every).unwrap_or(view.now);
            let from = if view.recounted { run.unwrap_or(from) } else { from };
            changes.push(Change { id: id.clone(), from, to: None });
        }
        active.push(id);
    }
    for change in &mut changes {
        if change.to.is_none() && !active.contains(&change.id) {
            change.to = Some(view.now);
        }
    }
    let window = view.slos.iter().map(|seen| seen.slo.window).max();
    let reach = Duration::from_millis(window.map_or(0, PromDuration::as_ms));
    let edge = view.now.checked_sub(reach).unwrap_or(view.now);
    changes.retain(|change| change.to.is_none_or(|to| to > edge));
    let surplus = changes.len().saturating_sub(CHANGES_MAX);
    changes.drain(..surplus);
    changes
}

/// The changes as causes of failures.
pub(super) fn causes(view: &SloView, changes: &[Change]) -> Vec<Cause> {
    let late = view.every * LATE_LOOKS;
    let cause = |change: &Change| Cause {
        kind: CauseKind::Change,
        id: change.id.clone(),
        from: change.from,
        to: change.to.and_then(|to| to.checked_add(late).ok()),
        measured: Vec::new(),
    };
    changes.iter().map(cause).collect()
}

/// Whether everything that a change did has shown up.
pub(super) fn is_settled(view: &SloView, change: &Change) -> bool {
    let late = view.every * LATE_LOOKS;
    change.to.and_then(|to| to.checked_add(late).ok()).is_some_and(|end| end < view.now)
}

/// What a release of this Canary still has before it. `None` when its analysis cannot be read, or
/// the traffic is not known.
pub(super) fn plan(seen: &CanarySeen, history: &History, view: &SloView) -> Option<CanaryPlan> {
    let analysis = &seen.canary.spec.analysis;
    let weight = seen.canary.status.as_ref().map_or(0, |status| status.canary_weight);
    let weight = u32::try_from(weight).unwrap_or(0);
    let interval = parse_duration(analysis.interval.as_deref().unwrap_or("1m")).ok()?;
    let mut weights_pct = weights(analysis);
    weights_pct.retain(|step| *step >= weight);
    Some(CanaryPlan {
        weights_pct,
        interval: PromDuration::from_ms(u64::try_from(interval.as_millis()).ok()?),
        threshold: u32::try_from(analysis.threshold.max(1)).unwrap_or(1),
        requests_per_second: requests_per_second(history, view)?,
    })
}

/// Weight at each check, as the spec describes the steps.
fn weights(analysis: &CanaryAnalysis) -> Vec<u32> {
    let pct = |weight: i32| u32::try_from(weight.clamp(0, 100)).unwrap_or(0);
    if analysis.iterations.is_some_and(|checks| checks > 0) {
        // Blue/green: users meet it all at once, after the last check.
        return vec![100];
    }
    if !analysis.step_weights.is_empty() {
        return analysis.step_weights.iter().map(|weight| pct(*weight)).collect();
    }
    let step = analysis.step_weight.map_or(100, pct);
    CanaryPlan::linear_weights(step, analysis.max_weight.map_or(100, pct))
}

fn requests_per_second(history: &History, view: &SloView) -> Option<f64> {
    let span_ms = i64::try_from(TRAFFIC_SPAN.as_ms()).unwrap_or(i64::MAX);
    let edge = view.now.as_millisecond().saturating_sub(span_ms);
    let recent = history.slices().rev().take_while(|slice| slice.from.as_millisecond() >= edge);
    let (mut events, mut covered_ms) = (Events::ZERO, 0);
    for slice in recent {
        if let Some(tally) = slice.tally {
            events = events.plus(tally.total());
            covered_ms += slice.to.as_millisecond() - slice.from.as_millisecond();
        }
    }
    let seconds = Duration::from_millis(u64::try_from(covered_ms).ok()?).as_secs_f64();
    (seconds > 0.0).then(|| events.as_f64() / seconds)
}

/// One budget, looked at from one release.
pub(super) struct Question<'a> {
    pub(super) view: &'a SloView,
    pub(super) state: &'a SloState,
    pub(super) policy: Option<&'a ErrorBudgetPolicy>,
    pub(super) history: &'a History,
    pub(super) standing: &'a Standing,
    pub(super) forecast: Forecast,
}

impl Question<'_> {
    /// What a release of this Canary may do, and what it costs at worst.
    pub(super) fn answer(&self, seen: &CanarySeen) -> ErrorBudget {
        let plan = plan(seen, self.history, self.view);
        let worst = plan.as_ref().and_then(CanaryPlan::worst_case);
        let cost = plan.as_ref().and_then(|plan| plan.budget_share(self.standing));
        let decision = self.policy.map(|policy| self.ask(policy, seen, plan.as_ref(), cost));
        let object = self.view.obj.key();
        let invalid = &self.view.invalid_policies;
        // A policy that cannot be read may have been for this one: it must not open the gate.
        let without = if invalid.is_empty() {
            (Permission::Allow, "NoPolicy")
        } else {
            (Permission::Approve, "PolicyInvalid")
        };
        let (permission, reason) = decision.as_ref().map_or(without, |d| (d.permission, d.reason));
        let said = decision.map_or_else(
            || {
                let mend =
                    |name: &String| format!("ErrorBudgetPolicy/{name} is not valid: mend it");
                invalid.iter().map(mend).collect()
            },
            |decision| decision.messages,
        );
        let told = |worst: WorstCase| {
            let share = cost.map_or(String::new(), |c| format!(", {:.2} % of the budget", c * 1e2));
            format!("a release costs at worst {} requests{share}", whole(worst.bound))
        };
        let cost_said = worst.map_or("its worst case is not known".to_owned(), told);
        ErrorBudget {
            slo: format!("{}/{}/{}", object.namespace, object.name, self.state.id),
            state: self.state.state.to_string().to_lowercase(),
            permission,
            reason: reason.to_owned(),
            message: said.into_iter().chain([cost_said]).collect::<Vec<_>>().join("; "),
            remaining_percent: self.standing.remaining().map(percent),
            worst_case_percent: cost.map(percent),
            worst_case_requests: worst.map(|worst| whole(worst.bound)),
            slos: Vec::new(),
            observed_at: self.view.now.as_second(),
        }
    }

    fn ask(
        &self,
        policy: &ErrorBudgetPolicy,
        seen: &CanarySeen,
        plan: Option<&CanaryPlan>,
        cost: Option<f64>,
    ) -> Decision {
        let (glasses, problems) = self.view.glasses(policy);
        let situation = Situation {
            now: self.view.now,
            memory: Memory { state: self.state.state, since: self.state.since },
            remaining: self.standing.remaining(),
            forecast: self.forecast,
            account: &self.state.account,
            chaos_spent: 0.0,
            break_glass: &glasses,
        };
        let ask = Ask {
            id: change_of(seen),
            class: ActionClass::Deploy,
            cost,
            duration: plan.map_or(PromDuration::from_ms(0), CanaryPlan::duration),
        };
        let mut decision = decide(policy, &situation, &ask);
        if decision.permission < Permission::Allow {
            decision.messages.extend(problems);
        }
        decision
    }
}

/// A share as a percentage with four decimals: what people and thresholds can tell apart.
pub(super) fn percent(share: f64) -> f64 {
    (share * 1e6).round() / 1e4
}

fn whole(events: Events) -> u64 {
    u64::try_from(events.micros().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}
