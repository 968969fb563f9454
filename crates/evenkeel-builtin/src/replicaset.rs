//! `ReplicaSet`: keeps a number of pods alive.

mod rank;

pub(crate) use rank::first_to_go;

use std::{cmp::Ordering, collections::BTreeSet, time::Duration};

use evenkeel_api::{GroupKind, Key, LabelSelector, Obj, SelectorError, json::difference};
use evenkeel_control::{
    Action, Controller, EventNote, EventType, Interest, ListQuery, ObserveError, Plan, Ports,
    Propagation, Wakes,
};
use jiff::Timestamp;
use k8s_openapi::api::{
    apps::v1::{ReplicaSet, ReplicaSetStatus},
    core::v1::Pod,
};
use serde_json::json;

use crate::{
    claim::claim,
    pods, reasons,
    seen::{Seen, get_as, json, list_as},
};

/// Most pods created or deleted in one pass: a wrong number must not flood the cluster.
/// **Source**: `BurstReplicas`.
const BURST: usize = 500;

/// The controller.
pub(crate) struct ReplicaSets;

/// What one `ReplicaSet`'s decision looks at.
#[derive(Debug)]
pub(crate) struct View {
    pub(crate) now: Timestamp,
    pub(crate) set: Seen<ReplicaSet>,
    /// Pods of its namespace that it owns or that its selector matches.
    pub(crate) pods: Vec<Seen<Pod>>,
    /// Active pods of all `ReplicaSets` of the same Deployment, its own included.
    pub(crate) related: Vec<Seen<Pod>>,
}

impl Controller for ReplicaSets {
    type View = View;

    fn name(&self) -> &'static str {
        "replicaset-controller"
    }

    fn owns(&self) -> ListQuery {
        ListQuery::of::<ReplicaSet>()
    }

    fn also(&self) -> Vec<Interest> {
        let pod = Interest::mapped::<Pod>(|pod| match pod.controller() {
            Some(owner) if owner.kind == "ReplicaSet" => {
                Wakes::These(vec![Key::of::<ReplicaSet>(pod.namespace(), &owner.name)])
            }
            Some(_) => Wakes::These(Vec::new()),
            // An orphan may match any of them.
            None => Wakes::Namespace(pod.namespace().to_owned()),
        });
        vec![pod]
    }

    async fn observe(&self, key: &Key, ports: &Ports) -> Result<Option<View>, ObserveError> {
        let Some(set) = get_as::<ReplicaSet>(ports, key).await? else { return Ok(None) };
        let query = ListQuery::all(GroupKind::of::<Pod>()).within(&key.namespace);
        let mut pods = list_as::<Pod>(ports, &query).await?;
        let family = family(ports, &set).await?;
        let is_related = |pod: &&Seen<Pod>| {
            pods::is_active(pod)
                && pod.obj.controller().is_some_and(|owner| family.contains(&owner.uid))
        };
        let related = pods.iter().filter(is_related).cloned().collect();
        let selector = selector(&set);
        pods.retain(|pod| {
            pods::is_controlled_by(&pod.obj, set.uid())
                || selector.as_ref().is_ok_and(|s| s.matches(pod.obj.labels()))
        });
        Ok(Some(View { now: ports.clock.now(), set, pods, related }))
    }

    fn decide(&self, view: &View) -> Plan {
        decide(view)
    }
}

/// Uids of all `ReplicaSets` with the same owner, its own included.
async fn family(ports: &Ports, set: &Seen<ReplicaSet>) -> Result<BTreeSet<String>, ObserveError> {
    let mut uids = BTreeSet::from([set.uid().to_owned()]);
    if let Some(owner) = set.obj.controller() {
        let query = ListQuery::all(GroupKind::of::<ReplicaSet>()).within(set.obj.namespace());
        let sets = ports.read.list(&query).await?.items;
        let relatives = sets.iter().filter(|other| pods::is_controlled_by(other, &owner.uid));
        uids.extend(relatives.map(|other| other.uid().to_owned()));
    }
    Ok(uids)
}

fn selector(set: &Seen<ReplicaSet>) -> Result<LabelSelector, SelectorError> {
    set.spec.as_ref().map_or_else(
        || Ok(LabelSelector::default()),
        |spec| LabelSelector::from_object(&spec.selector),
    )
}

/// Adopts and releases; else creates or deletes pods; always writes the status of what was seen.
pub(crate) fn decide(view: &View) -> Plan {
    let selector = match selector(&view.set) {
        Ok(selector) if !selector.is_empty() => selector,
        _ => return Plan::idle(reasons::SELECTOR_INVALID),
    };
    if let Some(plan) = claim(&view.set.obj, &selector, &view.pods) {
        return plan;
    }
    let is_mine =
        |pod: &&Seen<Pod>| pods::is_active(pod) && pods::is_controlled_by(&pod.obj, view.set.uid());
    let mine: Vec<&Seen<Pod>> = view.pods.iter().filter(is_mine).collect();
    let plan = if view.set.obj.is_deleting() {
        Plan::idle(reasons::BEING_DELETED)
    } else {
        resize(view, &mine)
    };
    write_status(view, &mine, plan)
}

fn resize(view: &View, mine: &[&Seen<Pod>]) -> Plan {
    let wanted = view.set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    let wanted = usize::try_from(wanted).unwrap_or_default();
    match mine.len().cmp(&wanted) {
        Ordering::Less => create(view, (wanted - mine.len()).min(BURST)),
        Ordering::Greater => delete(view, mine, (mine.len() - wanted).min(BURST)),
        Ordering::Equal => Plan::idle(reasons::SETTLED),
    }
}

/// Creates pods one after the other. The loop stops at the first one that is refused, which is
/// what upstream's slow start (1, 2, 4 ...) is for.
fn create(view: &View, missing: usize) -> Plan {
    let Some(template) = view.set.obj.json().pointer("/spec/template") else {
        return Plan::idle(reasons::SELECTOR_INVALID);
    };
    let mut plan = Plan::idle(reasons::SUCCESSFUL_CREATE);
    let prefix = format!("{}-", view.set.name());
    let mut names = pods::FreshNames::new(&view.set.obj, &view.pods);
    for name in (0..missing).map(|_| names.next(&prefix)) {
        let body = pods::from_template(&view.set.obj, template, &name);
        let Ok(pod) = Obj::from_json(body) else {
            return Plan::idle(reasons::SELECTOR_INVALID);
        };
        plan.actions.push(Action::Create(Box::new(pod)));
        plan.events.push(EventNote {
            about: view.set.key().clone(),
            kind: EventType::Normal,
            reason: reasons::SUCCESSFUL_CREATE,
            message: format!("Created pod: {name}"),
        });
    }
    plan
}

fn delete(view: &View, mine: &[&Seen<Pod>], surplus: usize) -> Plan {
    let mut plan = Plan::idle(reasons::SUCCESSFUL_DELETE);
    for pod in rank::first_to_go(mine, &view.related, view.now).into_iter().take(surplus) {
        plan.actions.push(Action::Delete {
            key: pod.key().clone(),
            uid: pod.uid().to_owned(),
            propagation: Propagation::Background,
        });
        plan.events.push(EventNote {
            about: view.set.key().clone(),
            kind: EventType::Normal,
            reason: reasons::SUCCESSFUL_DELETE,
            message: format!("Deleted pod: {}", pod.name()),
        });
    }
    plan
}

/// **Source**: `calculateStatus` in `pkg/controller/replicaset/replica_set_utils.go`.
fn write_status(view: &View, mine: &[&Seen<Pod>], mut plan: Plan) -> Plan {
    let spec = view.set.spec.as_ref();
    let ready_s_min = spec.and_then(|spec| spec.min_ready_seconds).unwrap_or_default();
    let template_labels = spec
        .and_then(|spec| spec.template.as_ref()?.metadata.as_ref()?.labels.clone())
        .unwrap_or_default();
    let fully_labeled = |pod: &Seen<Pod>| {
        template_labels.iter().all(|(key, value)| pod.obj.label(key) == Some(value))
    };
    let waits: Vec<Duration> =
        mine.iter().filter_map(|pod| pods::available_in(pod, ready_s_min, view.now)).collect();
    let status = ReplicaSetStatus {
        replicas: count(mine.len()).unwrap_or_default(),
        fully_labeled_replicas: count(mine.iter().filter(|pod| fully_labeled(pod)).count()),
        ready_replicas: count(waits.len()),
        available_replicas: count(waits.iter().filter(|wait| wait.is_zero()).count()),
        observed_generation: Some(view.set.obj.generation()),
        ..ReplicaSetStatus::default()
    };
    let old = view.set.status.as_ref().map_or_else(|| json!({}), json);
    if let Some(patch) = difference(&old, &json(&status)) {
        plan.reason = if plan.actions.is_empty() { reasons::STATUS_CHANGED } else { plan.reason };
        plan = plan.with_status(view.set.key().clone(), patch);
    }
    match waits.into_iter().filter(|wait| !wait.is_zero()).min() {
        Some(wait) => plan.waking(wait),
        None => plan,
    }
}

/// As upstream writes numbers: zero is left out.
fn count(number: usize) -> Option<i32> {
    i32::try_from(number).ok().filter(|number| *number > 0)
}

#[cfg(test)]
mod tests;
