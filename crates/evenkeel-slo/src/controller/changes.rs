//! Releases as the budget sees them: what they can cost, and when they can.

use std::time::Duration;

use evenkeel_api::{
    Obj,
    canary::{Canary, CanaryAnalysis, Phase},
};
use evenkeel_base::parse_duration;
use jiff::Timestamp;

use super::{
    status::Change,
    view::{CanarySeen, SloView},
};
use crate::{
    budget::{Cause, CauseKind, Events, History},
    duration::PromDuration,
    policy::CanaryPlan,
};

/// Changes that are remembered.
const CHANGES_MAX: usize = 50;
/// Looks after the end of a change in which what it did still shows up: a scrape, a recording
/// rule and a look may come after each other.
const LATE_LOOKS: u32 = 4;
/// The traffic of a service is what it was in the last hour.
const TRAFFIC_SPAN: PromDuration = PromDuration::from_ms(3_600_000);

/// Name of a release in the ledger and the account: `Canary/NAMESPACE/NAME@REVISION`, with the
/// last eight characters of the Canary's `status.lastAppliedSpec`.
pub fn change_id(namespace: &str, canary: &str, revision: &str) -> String {
    let from = revision.char_indices().rev().nth(7).map_or(0, |(at, _)| at);
    let short = revision.split_at(from).1;
    format!("Canary/{namespace}/{canary}@{short}")
}

/// The release that a Canary is at.
pub(super) fn change_of(obj: &Obj, canary: &Canary) -> String {
    let revision = canary.status.as_ref().map_or("", |s| s.last_applied_spec.as_str());
    change_id(obj.namespace(), obj.name(), revision)
}

/// Whether users can meet the new version from now on.
fn meets_users(canary: &Canary) -> bool {
    canary.status.as_ref().is_some_and(|status| {
        status.canary_weight > 0 || matches!(status.phase, Phase::Promoting | Phase::Finalising)
    })
}

/// Whether a run is under way: also at weight 0 some gateway may still send to the new version.
pub(super) fn is_running(canary: &Canary) -> bool {
    canary.status.as_ref().is_some_and(|status| status.phase.is_release())
}

/// What of a Canary begins or ends a change.
pub(super) fn stage(obj: &Obj) -> String {
    let Ok(canary) = obj.get::<Canary>() else { return "unreadable".to_owned() };
    if !is_running(&canary) {
        return "at rest".to_owned();
    }
    format!("{} {}", change_of(obj, &canary), meets_users(&canary))
}

/// The changes with what is under way now.
pub(super) fn changes(view: &SloView) -> Vec<Change> {
    let mut changes = view.status.changes.clone();
    let active: Vec<String> =
        view.running.iter().map(|seen| change_of(&seen.obj, &seen.canary)).collect();
    let is_open = |change: &Change| change.to.is_none();
    let mut begun = Vec::new();
    for (seen, id) in view.running.iter().zip(&active) {
        let open = changes.iter().any(|change| change.id == *id && is_open(change));
        if !open && meets_users(&seen.canary) {
            let from = began(view, seen, id, &changes);
            begun.push(Change { id: id.clone(), from, to: None });
        }
    }
    for change in changes.iter_mut().filter(|change| is_open(change)) {
        if !active.contains(&change.id) {
            // A Canary is at one release at a time: where the next one is seen, this one was over.
            let next = begun.iter().find(|next| canary_of(&next.id) == canary_of(&change.id));
            let seen = counted_until(view).map_or(view.now, |counted| counted.max(view.now));
            change.to = Some(next.map_or(seen, |next| next.from.max(change.from)));
        }
    }
    changes.append(&mut begun);
    // An object that cannot be read says nothing about how long its changes matter.
    if let Some(window) = view.slos.iter().map(|seen| seen.slo.window).max() {
        let edge = view.now.checked_sub(Duration::from_millis(window.as_ms()));
        let edge = edge.unwrap_or(Timestamp::MIN);
        changes.retain(|change| change.to.is_none_or(|to| to > edge));
    }
    let surplus = changes.len().saturating_sub(CHANGES_MAX);
    changes.drain(..surplus);
    changes
}

/// Until when events are counted. After a clock was set back that is later than now, and whatever
/// is under way was so until then.
fn counted_until(view: &SloView) -> Option<Timestamp> {
    let histories = view.slos.iter().flat_map(|seen| seen.histories.values());
    histories.filter_map(|history| history.slices().next_back()).map(|slice| slice.to).max()
}

/// When a release that is new to us can first have met users.
fn began(view: &SloView, seen: &CanarySeen, id: &str, changes: &[Change]) -> Timestamp {
    let run = seen.canary.status.as_ref().and_then(|s| s.evenkeel.as_ref()?.started_at);
    // One look back: the weight was set since then, and not before the run began. After a restart
    // nobody knows since when: the whole run.
    let look = view.now.checked_sub(view.every).unwrap_or(view.now);
    let from = match run {
        Some(run) if view.recounted || view.is_counting() => run,
        Some(run) => run.max(look),
        None => look,
    };
    let before = changes.iter().filter(|change| canary_of(&change.id) == canary_of(id));
    let over = before.filter_map(|change| change.to).max();
    over.map_or(from, |over| from.max(over)).min(view.now)
}

/// The Canary that a change is a release of.
fn canary_of(id: &str) -> &str {
    id.rsplit_once('@').map_or(id, |(canary, _)| canary)
}

/// The changes as causes of failures.
pub(super) fn causes(view: &SloView, changes: &[Change]) -> Vec<Cause> {
    let late = view.every * LATE_LOOKS;
    let cause = |change: &Change| Cause {
        kind: CauseKind::Change,
        id: change.id.clone(),
        from: change.from,
        to: change.to,
        shows_until: change.to.and_then(|to| to.checked_add(late).ok()),
        measured: Vec::new(),
    };
    changes.iter().map(cause).collect()
}

/// The times at which it matters to know exactly when something failed: where a change began, and
/// from its end until all that it did has shown up. In order.
pub(super) fn edges(changes: &[Change], every: Duration) -> Vec<(Timestamp, Timestamp)> {
    let around = |at: Timestamp| {
        // Metrics servers know milliseconds.
        let at = Timestamp::from_millisecond(at.as_millisecond()).unwrap_or(at);
        let from = at.checked_sub(every).unwrap_or(at);
        (from, at.checked_add(every * LATE_LOOKS).unwrap_or(at))
    };
    let all = changes.iter().flat_map(|change| [Some(change.from), change.to]);
    let mut edges: Vec<_> = all.flatten().map(around).collect();
    edges.sort_unstable();
    edges
}

/// Whether everything that a change did has shown up.
pub(super) fn is_settled(view: &SloView, change: &Change) -> bool {
    let late = view.every * LATE_LOOKS;
    change.to.and_then(|to| to.checked_add(late).ok()).is_some_and(|end| end < view.now)
}

/// What a release of this Canary still has before it. `None` when its analysis cannot be read, or
/// the traffic is not known.
pub(super) fn plan(canary: &Canary, requests_per_second: Option<f64>) -> Option<CanaryPlan> {
    let analysis = &canary.spec.analysis;
    let weight = canary.status.as_ref().map_or(0, |status| status.canary_weight);
    let weight = u32::try_from(weight).unwrap_or(0);
    let interval = parse_duration(analysis.interval.as_deref().unwrap_or("1m")).ok()?;
    let mut weights_pct = weights(analysis);
    weights_pct.retain(|step| *step >= weight);
    Some(CanaryPlan {
        weights_pct,
        interval: PromDuration::from_ms(u64::try_from(interval.as_millis()).ok()?),
        threshold: u32::try_from(analysis.threshold.max(1)).unwrap_or(1),
        requests_per_second: requests_per_second?,
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

/// The traffic of the last hour; `None` when nothing was counted in it.
pub(super) fn requests_per_second(history: &History, now: Timestamp) -> Option<f64> {
    let span_ms = i64::try_from(TRAFFIC_SPAN.as_ms()).unwrap_or(i64::MAX);
    let edge = now.as_millisecond().saturating_sub(span_ms);
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
