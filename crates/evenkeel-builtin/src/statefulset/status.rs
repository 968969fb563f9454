//! What a `StatefulSet`'s status says. **Source**: `computeReplicaStatus`,
//! `completeRollingUpdate`.

use evenkeel_api::json::difference;
use evenkeel_control::Plan;
use k8s_openapi::api::apps::v1::StatefulSetStatus;
use serde_json::json;

use super::{
    View, identity,
    revisions::{Revisions, strategy},
    steps::{available_in, health},
};
use crate::{pods, reasons, seen::json};

/// What is counted.
pub(crate) struct Counted<'a> {
    pub(crate) view: &'a View,
    pub(crate) revisions: &'a Revisions,
    /// Pods of the current revision that this pass deletes for an update.
    pub(crate) deleted_for_update: i32,
}

/// Adds the status of what was seen to the plan.
pub(crate) fn write(counted: &Counted<'_>, mut plan: Plan) -> Plan {
    let view = counted.view;
    let status = counted.status();
    let old = view.set.status.as_ref().map_or_else(|| json!({}), json);
    if let Some(patch) = difference(&old, &json(&status)) {
        plan.reason = if plan.actions.is_empty() { reasons::STATUS_CHANGED } else { plan.reason };
        plan = plan.with_status(view.set.key().clone(), patch);
    }
    let waits = view.pods.iter().filter_map(|pod| available_in(view, pod));
    match waits.filter(|wait| !wait.is_zero()).min() {
        Some(wait) => plan.waking(wait),
        None => plan,
    }
}

impl Counted<'_> {
    fn status(&self) -> StatefulSetStatus {
        let Self { view, revisions, .. } = self;
        let own = view.pods.iter().filter(|pod| {
            pods::is_controlled_by(&pod.obj, view.set.uid())
                && identity::ordinal(view.set.name(), pod.name()).is_some()
                && !pods::phase(pod).is_empty()
        });
        let mut counts = [0_i32; 5];
        let [replicas, ready, available, current, updated] = &mut counts;
        for pod in own {
            let health = health(view, pod);
            *replicas += 1;
            *ready += i32::from(health.is_ready);
            *available += i32::from(health.is_available);
            if !pod.obj.is_deleting() {
                let revision = pod.obj.label(identity::REVISION);
                *current += i32::from(revision == Some(&revisions.current));
                *updated += i32::from(revision == Some(&revisions.update.name));
            }
        }
        let [replicas, ready, available, current, updated] = counts;
        let mut status = StatefulSetStatus {
            replicas,
            ready_replicas: Some(ready).filter(|count| *count > 0),
            available_replicas: Some(available),
            current_replicas: Some(current - self.deleted_for_update).filter(|count| *count > 0),
            updated_replicas: Some(updated).filter(|count| *count > 0),
            current_revision: Some(revisions.current.clone()),
            update_revision: Some(revisions.update.name.clone()),
            collision_count: Some(revisions.update.collisions),
            observed_generation: Some(view.set.obj.generation()),
            conditions: view.set.status.as_ref().and_then(|status| status.conditions.clone()),
        };
        let wanted = identity::replicas(&view.set);
        let all = [replicas, ready, updated].iter().all(|count| i64::from(*count) == wanted);
        if strategy(&view.set).is_rolling && all {
            status.current_replicas = status.updated_replicas;
            status.current_revision.clone_from(&status.update_revision);
        }
        status
    }
}
