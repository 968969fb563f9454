//! What a `DaemonSet`'s status says. **Source**: `updateDaemonSetStatus`.

use std::time::Duration;

use evenkeel_api::json::difference;
use evenkeel_control::Plan;
use k8s_openapi::api::apps::v1::DaemonSetStatus;
use serde_json::json;

use super::{Draft, View, is_updated};
use crate::{pods, reasons, seen::json};

pub(crate) fn of(draft: &Draft<'_>, collisions: i32) -> DaemonSetStatus {
    let view = draft.view;
    let old = view.set.status.clone().unwrap_or_default();
    let mut status = DaemonSetStatus {
        conditions: old.conditions,
        collision_count: Some(collisions).filter(|count| *count > 0),
        observed_generation: Some(view.set.obj.generation()),
        ..DaemonSetStatus::default()
    };
    let (mut updated, mut available) = (0, 0);
    let seconds = draft.spec.min_ready_seconds.unwrap_or_default();
    for node in &view.nodes {
        let first = draft.by_node.get(node.name()).and_then(|here| here.first());
        if !draft.fit(node).runs {
            status.number_misscheduled += i32::from(first.is_some());
            continue;
        }
        status.desired_number_scheduled += 1;
        let Some(pod) = first else { continue };
        status.current_number_scheduled += 1;
        let wait = pods::available_in(pod, seconds, view.now);
        status.number_ready += i32::from(wait.is_some());
        available += i32::from(wait.is_some_and(|wait| wait.is_zero()));
        updated += i32::from(is_updated(draft, pod));
    }
    let some = |count: i32| Some(count).filter(|count| *count > 0);
    status.number_available = some(available);
    status.number_unavailable = some(status.desired_number_scheduled - available);
    status.updated_number_scheduled = some(updated);
    status
}

pub(crate) fn write(view: &View, status: &DaemonSetStatus, mut plan: Plan) -> Plan {
    let old = view.set.status.as_ref().map_or_else(|| json!({}), json);
    if let Some(patch) = difference(&old, &json(status)) {
        plan.reason = if plan.actions.is_empty() { reasons::STATUS_CHANGED } else { plan.reason };
        plan = plan.with_status(view.set.key().clone(), patch);
    }
    let seconds = view.set.spec.as_ref().and_then(|spec| spec.min_ready_seconds);
    let waits = view
        .pods
        .iter()
        .filter_map(|pod| pods::available_in(pod, seconds.unwrap_or_default(), view.now));
    match waits.filter(|wait: &Duration| !wait.is_zero()).min() {
        Some(wait) => plan.waking(wait),
        None => plan,
    }
}
