//! The scheduler: a node for every pod, or the reason why there is none.
//!
//! ```text
//! pending pods, by priority and age --> filters --> scores --> Bind   (and on to the next pod,
//!                                          |                            with this one in place)
//!                                          +--> PodScheduled=False, FailedScheduling
//! ```
//! One object stands for all pending pods, so that one look at the cluster places a whole rollout.
//! Nothing is retried by time: whatever may help (a pod that goes, a node that changes) is an
//! event, and events wake it only while a pod waits.
//!
//! **Source**: `pkg/scheduler/framework/plugins`, default profile. Not here: preemption, dynamic
//! resources, image locality, limits on the number of volumes per node.

mod affinity;
mod filter;
mod requests;
mod score;
mod spread;
mod state;
mod volumes;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use evenkeel_api::{GroupKind, Key, Obj};
use evenkeel_control::{
    Action, Controller, EventNote, EventType, Interest, ListQuery, ObserveError, Plan, Ports,
    Trigger, Wakes,
};
use jiff::Timestamp;
use k8s_openapi::api::{
    core::v1::{Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod, PodCondition},
    storage::v1::StorageClass,
};
use serde_json::json;

use crate::{
    pods, reasons,
    seen::{Seen, json, list_as, whole_second},
};
pub(crate) use affinity::{allows, covers};
use state::{Facts, State};
use volumes::{Needs, Storage};

/// Pods that name another scheduler are left to it.
const OWN_NAME: &str = "default-scheduler";

/// The scheduler.
#[derive(Default)]
pub(crate) struct Scheduler {
    /// Whether a pod was waiting at the last look. Only saves looks: a waiting pod's own events
    /// always wake the scheduler.
    waiting: Arc<AtomicBool>,
}

/// What a pass looks at.
#[derive(Debug)]
pub(crate) struct View {
    pub(crate) now: Timestamp,
    pub(crate) nodes: Vec<Seen<Node>>,
    /// All pods that have not ended, waiting ones included.
    pub(crate) pods: Vec<Seen<Pod>>,
    /// Labels of each namespace.
    pub(crate) namespaces: BTreeMap<String, BTreeMap<String, String>>,
    pub(crate) storage: Storage,
}

impl Controller for Scheduler {
    type View = View;

    fn name(&self) -> &'static str {
        OWN_NAME
    }

    fn owns(&self) -> ListQuery {
        ListQuery::of::<Pod>()
    }

    fn trigger(&self) -> Trigger {
        let waiting = self.waiting.clone();
        Trigger::Mapped(Arc::new(move |pod| {
            let is_placed = pod.json().pointer("/spec/nodeName").is_some_and(|n| !n.is_null());
            wake_if(!is_placed || waiting.load(Ordering::Relaxed))
        }))
    }

    fn also(&self) -> Vec<Interest> {
        let wake = || {
            let waiting = self.waiting.clone();
            move |_: &Obj| wake_if(waiting.load(Ordering::Relaxed))
        };
        vec![
            Interest::mapped::<Node>(wake()),
            Interest::mapped::<PersistentVolumeClaim>(wake()),
            Interest::mapped::<PersistentVolume>(wake()),
            Interest::mapped::<StorageClass>(wake()),
        ]
    }

    async fn observe(&self, _key: &Key, ports: &Ports) -> Result<Option<View>, ObserveError> {
        let mut pods = list_as::<Pod>(ports, &ListQuery::all(GroupKind::of::<Pod>())).await?;
        let waits = pods.iter().any(is_pending);
        self.waiting.store(waits, Ordering::Relaxed);
        if !waits {
            return Ok(None);
        }
        pods.retain(|pod| !pods::is_terminal(pod));
        let nodes = list_as::<Node>(ports, &ListQuery::all(GroupKind::of::<Node>())).await?;
        let query = ListQuery::all(GroupKind::of::<Namespace>());
        let namespaces = ports.read.list(&query).await?.items;
        let namespaces = namespaces
            .iter()
            .map(|namespace| (namespace.name().to_owned(), namespace.labels().clone()))
            .collect();
        let storage = Storage::observe(ports, pods.iter().filter(|pod| is_pending(pod))).await?;
        Ok(Some(View { now: ports.clock.now(), nodes, pods, namespaces, storage }))
    }

    fn decide(&self, view: &View) -> Plan {
        decide(view)
    }
}

fn wake_if(wanted: bool) -> Wakes {
    if wanted { Wakes::Singleton } else { Wakes::These(Vec::new()) }
}

fn is_pending(pod: &Seen<Pod>) -> bool {
    let Some(spec) = pod.spec.as_ref() else { return false };
    let scheduler = spec.scheduler_name.as_deref().filter(|name| !name.is_empty());
    pods::node(pod).is_none()
        && pods::is_active(pod)
        && scheduler.is_none_or(|name| name == OWN_NAME)
        && spec.scheduling_gates.as_ref().is_none_or(Vec::is_empty)
}

/// Places every pending pod that fits, one after the other.
pub(crate) fn decide(view: &View) -> Plan {
    let mut pending: Vec<&Seen<Pod>> = view.pods.iter().filter(|pod| is_pending(pod)).collect();
    let priority = |pod: &Seen<Pod>| pod.spec.as_ref().and_then(|s| s.priority).unwrap_or_default();
    pending.sort_by_key(|pod| (-i64::from(priority(pod)), pod.created(), pod.key().clone()));
    let mut state = State::of(view);
    let mut plan = Plan::idle(reasons::NOTHING_PENDING);
    let mut taken = BTreeSet::new();
    for pod in pending {
        let facts = Facts::of(pod);
        let needs = Needs::of(&view.storage, pod, &view.pods, &taken);
        let (needs, freed) = match needs {
            Ok(needs) => {
                needs.without_gone(|name| view.nodes.iter().find(|node| node.name() == name))
            }
            Err(problem) => {
                let all = state.nodes.len();
                let message = format!("0/{all} nodes are available: {problem}.");
                if plan.actions.is_empty() {
                    plan.reason = reasons::UNSCHEDULABLE;
                }
                explain(view.now, pod, message, &mut plan);
                continue;
            }
        };
        if !freed.is_empty() {
            // The next look chooses anew.
            plan.actions.extend(freed);
            continue;
        }
        match place(&state, &facts, &needs) {
            Ok(node) => {
                plan.reason = reasons::SCHEDULED;
                let name = state.nodes[node].name().to_owned();
                taken.extend(needs.chosen(state.nodes[node].node).into_iter().flatten());
                state.put(node, facts);
                if let Some(told) = needs.tell(&name) {
                    // Its claims are bound for this node first.
                    plan.reason = reasons::WAITING_FOR_VOLUME;
                    plan.actions.extend(told);
                    continue;
                }
                plan.events.push(EventNote {
                    about: pod.key().clone(),
                    kind: EventType::Normal,
                    reason: reasons::SCHEDULED,
                    message: format!(
                        "Successfully assigned {}/{} to {name}",
                        pod.obj.namespace(),
                        pod.name()
                    ),
                });
                plan.actions.push(Action::Bind { pod: pod.key().clone(), node: name });
            }
            Err(message) => {
                if plan.actions.is_empty() {
                    plan.reason = reasons::UNSCHEDULABLE;
                }
                explain(view.now, pod, message, &mut plan);
            }
        }
    }
    plan
}

/// The best node that takes the pod, or why none does.
fn place<'a>(state: &State<'a>, facts: &Facts<'a>, needs: &Needs<'a>) -> Result<usize, String> {
    if state.nodes.is_empty() {
        return Err("no nodes available to schedule pods".to_owned());
    }
    let checks = filter::Checks::of(state, facts, needs);
    let mut fitting = Vec::new();
    let mut refusals: BTreeMap<String, usize> = BTreeMap::new();
    for (index, node) in state.nodes.iter().enumerate() {
        let reasons = checks.refusals(node);
        if reasons.is_empty() {
            fitting.push(index);
        }
        for reason in reasons {
            *refusals.entry(reason).or_default() += 1;
        }
    }
    if fitting.is_empty() {
        let mut parts: Vec<String> =
            refusals.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
        parts.sort();
        let all = state.nodes.len();
        return Err(format!("0/{all} nodes are available: {}.", parts.join(", ")));
    }
    Ok(score::best(state, facts, &fitting))
}

/// Says on the pod why it waits; silent when that has been said already.
fn explain(now: Timestamp, pod: &Seen<Pod>, message: String, plan: &mut Plan) {
    let old = pods::condition(pod, "PodScheduled");
    if old.is_some_and(|old| old.status == "False" && old.message.as_ref() == Some(&message)) {
        return;
    }
    let since = old
        .filter(|old| old.status == "False")
        .and_then(|old| old.last_transition_time.clone())
        .unwrap_or_else(|| whole_second(now));
    let all = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    let mut conditions: Vec<PodCondition> = all.cloned().unwrap_or_default();
    conditions.retain(|condition| condition.type_ != "PodScheduled");
    conditions.push(PodCondition {
        type_: "PodScheduled".to_owned(),
        status: "False".to_owned(),
        reason: Some(reasons::UNSCHEDULABLE.to_owned()),
        message: Some(message.clone()),
        last_transition_time: Some(since),
        ..PodCondition::default()
    });
    let status = json!({"conditions": json(&conditions)});
    *plan = std::mem::take(plan).with_status(pod.key().clone(), status).with_event(EventNote {
        about: pod.key().clone(),
        kind: EventType::Warning,
        reason: reasons::FAILED_SCHEDULING,
        message,
    });
}

#[cfg(test)]
mod tests;
