//! Plain Services: who gets requests is decided by the selector of the apex Service, and by a label
//! on pods.
//!
//! ```text
//! selector of the apex                         canary's share
//! the primary's labels                         0 %
//! the label SHARED_SERVICE                     of as many of its pods as carry the label
//! anything else                                100 %   the last step, a rescue, a deletion
//! ```
//! The primary's pods have the label from their template, which is ours. The canary's get it one by
//! one: the target's template is never changed, a pod that is new has no users, and whoever scales the
//! target does not change the share. What was asked for stands in an annotation of the apex, which
//! is written together with the selector: it is the truth of the weight, and the labels follow it.
//!
//! All pods of the primary keep serving, so that there is never less room than without a release,
//! and a rollback is one write. Hence no share between 50 and 100 %.

use std::collections::BTreeSet;

use evenkeel_api::{
    Key, Obj,
    canary::Phase,
    labels::{CANARY_WEIGHT, SHARED_SERVICE},
};
use evenkeel_control::Action;
use k8s_openapi::api::core::v1::{Pod, Service};
use serde_json::{Value, json};

use crate::{CanaryView, router::Router, workload::Workload};

/// Whether the spec asks for shares of requests, not for checks without users.
pub(crate) fn shares(view: &CanaryView) -> bool {
    let rules = &view.rules;
    view.router == Router::Service && rules.iterations == 0 && rules.ramp.next(0).is_some()
}

/// Whether the primary's pods must carry the label: also while the apex still selects by it.
pub(crate) fn marks_primary(view: &CanaryView) -> bool {
    view.router == Router::Service && (shares(view) || apex(view).is_some_and(is_shared))
}

fn apex(view: &CanaryView) -> Option<&Obj> {
    view.services.get(&view.names.apex).map(AsRef::as_ref)
}

fn selector(apex: &Obj) -> &Value {
    apex.json().pointer("/spec/selector").unwrap_or(&Value::Null)
}

/// Whether a Service selects pods of both versions by the label.
fn is_shared(apex: &Obj) -> bool {
    selector(apex).get(SHARED_SERVICE).and_then(Value::as_str) == Some(apex.name())
}

/// The share that was asked for, as the apex has it.
pub(crate) fn asked(service: &Value) -> Option<i32> {
    let all = service.pointer("/metadata/annotations")?;
    all.get(CANARY_WEIGHT)?.as_str()?.parse().ok().filter(|pct| (1..100).contains(pct))
}

/// The canary's share. Without an apex Service nobody gets anything.
pub(crate) fn canary_pct(view: &CanaryView) -> i32 {
    let Some(apex) = apex(view) else {
        // What could not be read may be anything; before a primary is there, it is not ours.
        return 0;
    };
    if is_shared(apex) {
        return asked(apex.json()).unwrap_or_else(|| measured(view));
    }
    if selects_primary(view, apex).unwrap_or(true) { 0 } else { 100 }
}

/// Whether a Service selects the primary's pods; `None` when their labels are not known.
fn selects_primary(view: &CanaryView, apex: &Obj) -> Option<bool> {
    let selector = selector(apex);
    let primary = view.target.as_ref().map(Workload::selector_of_primary);
    // Without the target its labels are not known; those of a primary are.
    let primary = primary.or_else(|| Some(json!(view.primary.as_ref()?.match_labels()?)))?;
    let mut labels = primary.as_object().into_iter().flatten();
    Some(labels.all(|(name, value)| selector.get(name) == Some(value)))
}

/// Whether the apex sends requests to the primary, alone or beside the canary.
pub(crate) fn has_primary(view: &CanaryView) -> bool {
    let primary = |apex| is_shared(apex) || selects_primary(view, apex).unwrap_or_default();
    apex(view).is_some_and(primary)
}

/// The share by ready pods, rounded up: never taken for nothing.
fn measured(view: &CanaryView) -> i32 {
    let (canary, all) = behind_apex(view);
    let pct = (canary * 100).div_ceil(all.max(1));
    i32::try_from(pct).unwrap_or(100).clamp(1, 100)
}

/// Ready pods of the canary behind the apex, and all of them.
fn behind_apex(view: &CanaryView) -> (usize, usize) {
    let none = BTreeSet::new();
    let apex = view.endpoints.get(&view.names.apex).unwrap_or(&none);
    let (target, primary) = pods(view);
    let of_canary = |pod: &&String| pod.starts_with(&target) && !pod.starts_with(&primary);
    (apex.iter().filter(of_canary).count(), apex.len())
}

/// How the names of the target's pods and of its primary's begin.
fn pods(view: &CanaryView) -> (String, String) {
    (format!("{}-", view.names.target), format!("{}-", view.names.target_primary))
}

/// Whether the endpoints of the apex are those that its selector and the labels mean.
pub(crate) fn is_confirmed(view: &CanaryView) -> bool {
    if view.unread.has_traffic() || apex(view).is_none() {
        return false;
    }
    let (canary, all) = behind_apex(view);
    match canary_pct(view) {
        0 => canary == 0,
        100 => canary > 0 && canary == all,
        pct => canary == wanted(view, pct) && canary < all,
    }
}

/// How many pods of the canary are a share of this size or a little less: rounded down, because
/// nothing may go beyond what was asked for, and one at least, because none would judge nothing.
pub(crate) fn pods_for(pct: i32, of_primary: i32) -> i32 {
    match pct {
        ..=0 => 0,
        100.. => of_primary.max(1),
        _ => (of_primary.max(0).saturating_mul(pct) / (100 - pct)).max(1),
    }
}

/// The pods that the primary should have: those that are not ready just now are on their way, and
/// fewer of the canary would be no help to anybody meanwhile.
fn of_primary(view: &CanaryView) -> i32 {
    view.primary.as_ref().map_or(0, Workload::replicas)
}

fn wanted(view: &CanaryView, pct: i32) -> usize {
    usize::try_from(pods_for(pct, of_primary(view))).unwrap_or_default()
}

/// The share that pods can express, as `1 of 4 pods, 25.0 %`.
fn in_pods(view: &CanaryView, pct: i32) -> (String, bool) {
    let (canary, primary) = (pods_for(pct, of_primary(view)), of_primary(view));
    let all = canary.saturating_add(primary).max(1);
    let real = f64::from(canary) * 100.0 / f64::from(all);
    let exact = (real - f64::from(pct)).abs() < 0.05;
    (format!("{canary} of {all} pods, {real:.1} %"), exact)
}

/// What goes into an event about a step, if the share is one of pods.
pub(crate) fn words(view: &CanaryView, pct: i32) -> String {
    if !shares(view) || pct >= 100 {
        return String::new();
    }
    format!(" ({})", in_pods(view, pct).0)
}

/// What differs between the share in force and what was asked for; `None` when nothing does.
pub(crate) fn rounded(view: &CanaryView) -> Option<String> {
    let pct = apex(view).filter(|apex| is_shared(apex)).map(|_| canary_pct(view))?;
    let (words, exact) = in_pods(view, pct);
    if exact {
        return None;
    }
    let enough = (100 - pct).div_euclid(pct) + i32::from((100 - pct) % pct != 0);
    let more = if of_primary(view) < enough {
        format!(
            ". One pod is the least there is, and more than what was asked for: run at least \
             {enough} replicas of {}",
            view.names.target_primary
        )
    } else {
        String::new()
    };
    Some(format!("asked for {pct} %, in force are {words}: a plain Service shares by pods{more}"))
}

/// Why this Service cannot share requests by pods as asked; `None` when it can.
pub(crate) fn obstacle(view: &CanaryView) -> Option<String> {
    if !shares(view) {
        return None;
    }
    let target = view.target.as_ref()?;
    if target.template().pointer("/metadata/labels").is_some_and(has_label) {
        return Some(format!(
            "Deployment/{}/{} has the label {SHARED_SERVICE} in its pod template, by which evenkeel \
             shares requests: remove it",
            view.names.namespace, view.names.target
        ));
    }
    let sticky = apex(view)?.json().pointer("/spec/sessionAffinity");
    (sticky == Some(&json!("ClientIP"))).then(|| {
        format!(
            "Service/{}/{} has sessionAffinity ClientIP: each client stays with one pod, so shares \
             by pods would not be shares of requests. Set it to None, or write iterations",
            view.names.namespace, view.names.apex
        )
    })
}

fn has_label(labels: &Value) -> bool {
    labels.get(SHARED_SERVICE).is_some()
}

/// Points the apex to the primary, to both, or to the target.
pub(crate) fn set_weight(view: &CanaryView, canary_pct: i32) -> Action {
    let target = view.target.as_ref();
    let shared = (1..100).contains(&canary_pct);
    let mut selector = if shared {
        Some(json!({SHARED_SERVICE: view.names.apex}))
    } else if canary_pct <= 0 {
        let primary = || Some(json!(view.primary.as_ref()?.match_labels()?));
        target.map(Workload::selector_of_primary).or_else(primary)
    } else {
        target.map(Workload::selector_of_canary)
    }
    .unwrap_or_else(|| json!({}));
    let have = apex(view);
    let names = have.and_then(|apex| self::selector(apex).as_object());
    // An apex that was there before keeps what else it selects by.
    let adopted = have.is_some_and(|apex| apex.controller().is_none_or(|it| it.kind != "Canary"));
    let labels = target.or(view.primary.as_ref()).and_then(Workload::match_labels);
    let ours = |name: &str| {
        name == SHARED_SERVICE || labels.is_some_and(|labels| labels.contains_key(name))
    };
    for name in names.into_iter().flat_map(|have| have.keys()) {
        if selector.get(name).is_none() && (!adopted || ours(name)) {
            selector[name] = Value::Null;
        }
    }
    let mut patch = json!({"spec": {"selector": selector}});
    if shared {
        patch["metadata"]["annotations"][CANARY_WEIGHT] = canary_pct.to_string().into();
    } else if have
        .is_some_and(|apex| apex.json()["metadata"]["annotations"].get(CANARY_WEIGHT).is_some())
    {
        patch["metadata"]["annotations"][CANARY_WEIGHT] = Value::Null;
    }
    Action::Patch { key: Key::of::<Service>(view.obj.namespace(), &view.names.apex), patch }
}

/// A share, with the labels of pods: at no moment more of them than are asked for.
pub(crate) fn weigh(view: &CanaryView, pct: i32) -> Vec<Action> {
    let mut actions = vec![set_weight(view, pct)];
    if (1..100).contains(&pct) {
        actions.splice(0..0, surplus(view, pct));
        actions.extend(missing(view, pct));
    }
    actions
}

fn mark(view: &CanaryView, pod: &str, value: Option<&str>) -> Action {
    let key = Key::of::<Pod>(view.obj.namespace(), pod);
    Action::Patch { key, patch: json!({"metadata": {"labels": {SHARED_SERVICE: value}}}) }
}

/// Takes the label off pods of which a share of this size has no use.
pub(crate) fn surplus(view: &CanaryView, pct: i32) -> Vec<Action> {
    let kept = wanted(view, pct);
    view.marked.iter().skip(kept).map(|pod| mark(view, pod, None)).collect()
}

/// Labels as many ready pods as a share of this size still needs.
fn missing(view: &CanaryView, pct: i32) -> Vec<Action> {
    let count = wanted(view, pct).saturating_sub(view.marked.len());
    let ready = view.endpoints.get(&view.names.canary).into_iter().flatten();
    let bare = ready.filter(|pod| !view.marked.contains(*pod));
    bare.take(count).map(|pod| mark(view, pod, Some(&view.names.apex))).collect()
}

/// What labels the pods that should carry the label and do not: of a step that was interrupted, or
/// because one that did is gone.
pub(crate) fn unlabelled(view: &CanaryView) -> Vec<Action> {
    let pct = view.pct();
    let settled = pct == view.status.canary_weight && (1..100).contains(&pct);
    if !settled || !shares(view) || view.unread.has_traffic() {
        return Vec::new();
    }
    missing(view, pct)
}

/// Whether the apex sends requests to the canary because that was asked for.
pub(crate) fn is_in_use(view: &CanaryView) -> bool {
    let shared = apex(view).is_some_and(is_shared);
    let (pct, phase) = (canary_pct(view), view.status.phase);
    view.router == Router::Service
        && (shares(view) || shared)
        && !matches!(phase, Phase::New | Phase::Initializing)
        && pct != 0
        && (pct == view.status.canary_weight || (shared && phase.is_release()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::PCT_MAX;

    #[test]
    fn shares_are_rounded_down_to_pods_but_never_to_none() {
        let row = |primary: i32| {
            let pods = [0, 1, 10, 20, 25, 33, 40, 50, 100].map(|pct| pods_for(pct, primary));
            format!("{pods:?}")
        };
        insta::assert_snapshot!(row(1), @"[0, 1, 1, 1, 1, 1, 1, 1, 1]");
        insta::assert_snapshot!(row(3), @"[0, 1, 1, 1, 1, 1, 2, 3, 3]");
        insta::assert_snapshot!(row(10), @"[0, 1, 1, 2, 3, 4, 6, 10, 10]");
        insta::assert_snapshot!(row(100), @"[0, 1, 11, 25, 33, 49, 66, 100, 100]");
    }

    #[test]
    fn a_share_of_pods_is_never_above_what_was_asked_but_for_the_first_pod() {
        for primary in 1..200 {
            for pct in 1..=PCT_MAX {
                let canary = pods_for(pct, primary);
                let most = f64::from(canary) * 100.0 / f64::from(canary + primary);
                assert!(canary == 1 || most <= f64::from(pct) + 1e-9, "{pct} of {primary}");
                assert!(canary <= primary, "{pct} of {primary}");
            }
        }
    }
}
