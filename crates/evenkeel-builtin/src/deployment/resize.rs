//! `replicas` was changed: keep the proportions of a rollout under way.
//! **Source**: `scale` in `sync.go` and `GetReplicaSetProportion`.

use std::cmp::Reverse;

use super::{
    draft::Draft,
    sets::{Limits, Set, Sets},
};

pub(crate) fn resize(draft: &mut Draft<'_>, sets: &mut Sets<'_>) {
    let limits = draft.limits;
    if let Some(only) = active_or_latest(sets) {
        return draft.scale(only, limits.replicas);
    }
    if is_saturated(sets, limits) {
        for set in sets.old.iter_mut().filter(|set| set.replicas > 0) {
            draft.scale(set, 0);
        }
        return;
    }
    if !limits.recreate {
        share_out(draft, sets);
    }
}

/// The only `ReplicaSet` with pods, or the newest when none has any.
fn active_or_latest<'s, 'a>(sets: &'s mut Sets<'a>) -> Option<&'s mut Set<'a>> {
    match sets.all().filter(|set| set.replicas > 0).count() {
        0 if sets.new.is_some() => sets.new.as_mut(),
        0 => sets.old.last_mut(),
        1 => sets.active().pop(),
        _ => None,
    }
}

/// Whether the new `ReplicaSet` alone carries everything.
fn is_saturated(sets: &Sets<'_>, limits: Limits) -> bool {
    sets.new.as_ref().is_some_and(|new| {
        new.replicas == limits.replicas
            && new.desired() == Some(limits.replicas)
            && new.available == limits.replicas
    })
}

fn share_out(draft: &mut Draft<'_>, sets: &mut Sets<'_>) {
    let limits = draft.limits;
    let before =
        draft.view.deployment.status.as_ref().and_then(|s| s.replicas).map_or(0, i64::from);
    let allowed = if limits.replicas > 0 { limits.total_max() } else { 0 };
    let to_add = allowed - sets.wanted();
    let mut active = sets.active();
    // The largest first; among equals the newest grows first and the oldest shrinks first.
    active.sort_by_key(|set| (Reverse(set.replicas), set.age()));
    if to_add > 0 {
        active.sort_by_key(|set| (Reverse(set.replicas), Reverse(set.age())));
    }
    let mut added = 0;
    let mut goals = Vec::with_capacity(active.len());
    for set in &active {
        let share = proportion(set, limits, before);
        let rest = to_add - added;
        let part = match to_add {
            0 => 0,
            _ if to_add > 0 => share.min(rest),
            _ => share.max(rest),
        };
        let part = if rest == 0 { 0 } else { part };
        added += part;
        goals.push(set.replicas + part);
    }
    // What rounding left over goes to the largest.
    if let Some(first) = goals.first_mut() {
        *first = (*first + to_add - added).max(0);
    }
    for (set, goal) in active.into_iter().zip(goals) {
        draft.scale(set, goal);
    }
}

/// How many pods a `ReplicaSet` gains or loses if all keep their share.
fn proportion(set: &Set<'_>, limits: Limits, status_replicas: i64) -> i64 {
    if limits.replicas == 0 {
        return -set.replicas;
    }
    let before = set.max().filter(|max| *max > 0).unwrap_or(status_replicas);
    if before == 0 {
        return 0;
    }
    // Rounded half up, as upstream's RoundToInt32 does for positive numbers. Wider still, because
    // the annotation is whatever was written into it.
    let product = i128::from(set.replicas) * i128::from(limits.total_max());
    let before = i128::from(before);
    let goal = (2 * product + before).div_euclid(2 * before);
    i64::try_from(goal).unwrap_or(limits.total_max()) - set.replicas
}
