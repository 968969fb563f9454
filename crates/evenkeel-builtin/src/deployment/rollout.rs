//! The two strategies. **Source**: `rolling.go` and `recreate.go`.

use evenkeel_control::{Action, Propagation};

use super::{
    draft::Draft,
    sets::{Set, Sets},
    status,
};

/// One step of a rolling update: the new `ReplicaSet` up, else old ones down, else cleaning up.
pub(crate) fn roll(draft: &mut Draft<'_>, sets: &mut Sets<'_>) {
    if sets.new.is_none() {
        return draft.create(sets);
    }
    draft.keep_revision(sets);
    if !new_up(draft, sets) && !old_down(draft, sets) && status::was_complete(draft) {
        clean_up(draft, sets);
    }
}

/// Brings the new `ReplicaSet` as far up as the surge allows. Returns whether it did.
fn new_up(draft: &mut Draft<'_>, sets: &mut Sets<'_>) -> bool {
    let limits = draft.limits;
    let held = sets.held();
    let Some(new) = &mut sets.new else { return false };
    let goal = if new.replicas > limits.replicas {
        limits.replicas
    } else {
        let room = (limits.total_max() - held).max(0);
        new.replicas + room.min(limits.replicas - new.replicas)
    };
    let moves = goal != new.replicas;
    if moves {
        draft.scale(new, goal);
    }
    moves
}

/// Takes old pods away: first those that do not serve anyway, then as many as may be missing.
/// Returns whether it did.
fn old_down(draft: &mut Draft<'_>, sets: &mut Sets<'_>) -> bool {
    let limits = draft.limits;
    let total = sets.wanted();
    let new_unavailable = sets.new.as_ref().map_or(0, |new| new.replicas - new.serving());
    let budget = total - limits.available_min() - new_unavailable;
    if budget <= 0 || sets.old.iter().all(|set| set.replicas == 0) {
        return false;
    }
    let before = sets.wanted();
    let mut goals: Vec<i64> = sets.old.iter().map(|set| set.replicas).collect();
    let mut left = budget;
    for (goal, set) in goals.iter_mut().zip(&sets.old) {
        let unhealthy = (*goal - set.serving()).clamp(0, left);
        *goal -= unhealthy;
        left -= unhealthy;
    }
    let available: i64 = sets.all().map(Set::serving).sum();
    let mut left = (available - limits.available_min()).max(0);
    for goal in &mut goals {
        let healthy = (*goal).clamp(0, left);
        *goal -= healthy;
        left -= healthy;
    }
    for (set, goal) in sets.old.iter_mut().zip(goals) {
        if goal != set.replicas {
            draft.scale(set, goal);
        }
    }
    sets.wanted() != before
}

/// Old pods away, until gone; only then new ones.
pub(crate) fn recreate(draft: &mut Draft<'_>, sets: &mut Sets<'_>) {
    draft.keep_revision(sets);
    let mut moves = false;
    for set in sets.old.iter_mut().filter(|set| set.replicas > 0) {
        draft.scale(set, 0);
        moves = true;
    }
    if moves || old_pods_run(draft, sets) {
        return;
    }
    match &mut sets.new {
        None => draft.create(sets),
        Some(new) if new.replicas != draft.limits.replicas => {
            draft.scale(new, draft.limits.replicas);
        }
        Some(_) if status::was_complete(draft) => clean_up(draft, sets),
        Some(_) => {}
    }
}

fn old_pods_run(draft: &Draft<'_>, sets: &Sets<'_>) -> bool {
    let owners = &draft.view.pod_owners;
    sets.old.iter().any(|set| set.actual > 0 || owners.iter().any(|uid| uid == set.seen.uid()))
}

/// Deletes old, empty `ReplicaSets` beyond the history limit, lowest revision first.
pub(crate) fn clean_up(draft: &mut Draft<'_>, sets: &Sets<'_>) {
    let Some(history_max) = draft.limits.history_max else { return };
    let mut old: Vec<_> = sets.old.iter().filter(|set| !set.seen.obj.is_deleting()).collect();
    let surplus = old.len().saturating_sub(history_max);
    old.sort_by_key(|set| (set.revision(), set.age()));
    for set in old.into_iter().take(surplus) {
        let observed = set.seen.status.as_ref().and_then(|status| status.observed_generation);
        let settled = observed.unwrap_or_default() >= set.seen.obj.generation();
        if set.actual == 0 && set.replicas == 0 && settled {
            draft.doomed.push(Action::Delete {
                key: set.seen.key().clone(),
                uid: set.seen.uid().to_owned(),
                propagation: Propagation::Background,
            });
        }
    }
}
