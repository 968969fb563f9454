//! Node lifecycle: a node that stops reporting gets no more pods and traffic, and its pods are
//! moved after a while.
//!
//! ```text
//! Lease not renewed 50 s --> Ready=Unknown --> taints --> pods unready --> evicted when their
//!                                                                          toleration ends
//! ```
//! Silence is measured by this controller's own looks: a restart, a suspended laptop or a host too
//! busy to look starts the measurement again. While nodes are well, it looks once per Lease span
//! and node. A node without Lease (a simulated one) is never judged.
//!
//! **Source**: `pkg/controller/nodelifecycle` and `tainteviction`. Not here: slower eviction while
//! many nodes of a zone are gone; with all nodes gone nothing is evicted, as upstream.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use evenkeel_api::{GroupKind, Key};
use evenkeel_control::{
    Action, Controller, EventNote, EventType, Interest, ListQuery, ObserveError, Plan, Ports,
    Propagation, Wakes,
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::{
    coordination::v1::Lease,
    core::v1::{Node, NodeCondition, Pod, PodCondition, Taint},
};
use serde_json::json;

use crate::{
    pods, reasons,
    scheduler::covers,
    seen::{Seen, get_as, json, list_as, whole_second},
};

const LEASES: &str = "kube-node-lease";
/// **Source**: `--node-monitor-grace-period`, 50 s since 1.32.
const GRACE: Duration = Duration::from_secs(50);
/// A look that comes later than planned by more than this decides nothing: a process that could not
/// look could not receive renewals either.
const LATE: SignedDuration = SignedDuration::from_secs(5);
/// How long pods stay that set no toleration for it. **Source**: the `DefaultTolerationSeconds`
/// admission plugin, which the server may or may not have.
const TOLERATED_S: i64 = 300;

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

/// The controller.
#[derive(Default)]
pub(crate) struct Lifecycle {
    heard: Arc<Mutex<BTreeMap<String, Heard>>>,
}

/// When a node was last heard.
#[derive(Debug, Clone, Copy)]
struct Heard {
    renewed: Timestamp,
    since: Timestamp,
    /// When to look next; `None` once it was judged silent.
    look_at: Option<Timestamp>,
}

impl Heard {
    /// Takes note of a Lease, as it is now.
    fn update(old: Option<Self>, renewed: Timestamp, now: Timestamp) -> Self {
        let grace = SignedDuration::try_from(GRACE).unwrap_or(SignedDuration::MAX);
        let since = match old.filter(|old| old.renewed == renewed) {
            Some(old) if old.look_at.is_some_and(|due| now.duration_since(due) > LATE) => now,
            Some(old) => old.since,
            // A change that is just heard of is dated by its author, if that is plausible.
            None if old.is_some() && renewed <= now && now.duration_since(renewed) < grace => {
                renewed
            }
            None => now,
        };
        let look_at = since.checked_add(grace).ok().filter(|due| *due > now);
        Self { renewed, since, look_at }
    }
}

/// What one node's decision looks at.
#[derive(Debug)]
pub(crate) struct View {
    pub(crate) now: Timestamp,
    pub(crate) node: Seen<Node>,
    /// For how long it has not been heard; `None` when it has no Lease.
    pub(crate) silent: Option<Duration>,
    /// Its pods. Only read when it is not well.
    pub(crate) pods: Vec<Seen<Pod>>,
    /// Whether any other node is ready. Only read when it is not well.
    pub(crate) others_ready: bool,
}

impl Controller for Lifecycle {
    type View = View;

    fn name(&self) -> &'static str {
        "node-lifecycle-controller"
    }

    fn owns(&self) -> ListQuery {
        ListQuery::of::<Node>()
    }

    fn also(&self) -> Vec<Interest> {
        // A Lease is looked at by time; only its first appearance starts that.
        let heard = self.heard.clone();
        let lease = Interest::mapped::<Lease>(move |lease| {
            let is_new = lease.namespace() == LEASES && !lock(&heard).contains_key(lease.name());
            let key = is_new.then(|| Key::of::<Node>("", lease.name()));
            Wakes::These(key.into_iter().collect())
        });
        vec![lease]
    }

    async fn observe(&self, key: &Key, ports: &Ports) -> Result<Option<View>, ObserveError> {
        let Some(node) = get_as::<Node>(ports, key).await? else {
            lock(&self.heard).remove(&*key.name);
            return Ok(None);
        };
        let lease = get_as::<Lease>(ports, &Key::of::<Lease>(LEASES, &key.name)).await?;
        let renewed = lease.and_then(|lease| Some(lease.spec.as_ref()?.renew_time.as_ref()?.0));
        let now = ports.clock.now();
        let silent = renewed.map(|renewed| self.hear(&key.name, renewed, now));
        let (mut pods, mut others_ready) = (Vec::new(), true);
        if silent.is_some_and(|silent| silent >= GRACE) || repels(&node).next().is_some() {
            pods = list_as::<Pod>(ports, &ListQuery::all(GroupKind::of::<Pod>())).await?;
            pods.retain(|pod| pods::node(pod) == Some(&*key.name));
            let nodes = ListQuery::all(GroupKind::of::<Node>());
            let nodes = list_as::<Node>(ports, &nodes).await?;
            let ready = |other: &Seen<Node>| ready_status(other) == Some("True");
            others_ready = nodes.iter().any(|other| other.name() != &*key.name && ready(other));
        }
        Ok(Some(View { now, node, silent, pods, others_ready }))
    }

    fn decide(&self, view: &View) -> Plan {
        decide(view)
    }
}

impl Lifecycle {
    fn hear(&self, name: &str, renewed: Timestamp, now: Timestamp) -> Duration {
        let mut all = lock(&self.heard);
        let heard = Heard::update(all.get(name).copied(), renewed, now);
        all.insert(name.to_owned(), heard);
        Duration::try_from(now.duration_since(heard.since)).unwrap_or_default()
    }
}

fn lock(heard: &Mutex<BTreeMap<String, Heard>>) -> MutexGuard<'_, BTreeMap<String, Heard>> {
    heard.lock().unwrap_or_else(PoisonError::into_inner)
}

fn ready_status(node: &Node) -> Option<&str> {
    let conditions = node.status.as_ref()?.conditions.as_ref()?;
    let ready = conditions.iter().find(|condition| condition.type_ == "Ready")?;
    Some(ready.status.as_str())
}

/// The taints that drive pods away.
fn repels(node: &Node) -> impl Iterator<Item = &Taint> {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_ref());
    taints.into_iter().flatten().filter(|taint| taint.effect == "NoExecute")
}

/// One step: condition, then taints, then pods.
pub(crate) fn decide(view: &View) -> Plan {
    if view.node.obj.is_deleting() {
        return Plan::idle(reasons::BEING_DELETED);
    }
    let is_silent = view.silent.is_some_and(|silent| silent >= GRACE);
    if is_silent && ready_status(&view.node) != Some("Unknown") {
        return declare_unknown(view);
    }
    if let Some(plan) = retaint(view) {
        return plan;
    }
    let mut plan = Plan::idle(if is_silent { reasons::NODE_SILENT } else { reasons::NODE_HEARD });
    if is_silent {
        silence_pods(view, &mut plan);
    } else if let Some(silent) = view.silent {
        plan = plan.waking(GRACE.saturating_sub(silent));
    }
    evict(view, plan)
}

fn declare_unknown(view: &View) -> Plan {
    let status = view.node.status.as_ref();
    let mut conditions = status.and_then(|s| s.conditions.clone()).unwrap_or_default();
    if !conditions.iter().any(|condition| condition.type_ == "Ready") {
        let type_ = "Ready".to_owned();
        conditions.push(NodeCondition { type_, ..NodeCondition::default() });
    }
    for condition in &mut conditions {
        "Unknown".clone_into(&mut condition.status);
        condition.reason = Some(reasons::NODE_STATUS_UNKNOWN.to_owned());
        condition.message = Some("Kubelet stopped posting node status.".to_owned());
        condition.last_transition_time = Some(whole_second(view.now));
    }
    let key = view.node.key();
    Plan::idle(reasons::NODE_STATUS_UNKNOWN)
        .with_status(key.clone(), json!({"conditions": json(&conditions)}))
        .with_event(EventNote {
            about: key.clone(),
            kind: EventType::Normal,
            reason: reasons::NODE_NOT_READY,
            message: format!("Node {} status is now: NodeNotReady", view.node.name()),
        })
}

/// Brings the taints that stand for the node's state in line with it.
fn retaint(view: &View) -> Option<Plan> {
    let spec = view.node.spec.as_ref();
    let closed = spec.and_then(|spec| spec.unschedulable).unwrap_or_default();
    let mut wanted = Vec::new();
    match ready_status(&view.node) {
        Some("Unknown") => wanted.extend([(UNREACHABLE, "NoSchedule"), (UNREACHABLE, "NoExecute")]),
        Some("False") => wanted.extend([(NOT_READY, "NoSchedule"), (NOT_READY, "NoExecute")]),
        _ => {}
    }
    if closed {
        wanted.push((UNSCHEDULABLE, "NoSchedule"));
    }
    let mut taints = spec.and_then(|spec| spec.taints.clone()).unwrap_or_default();
    let before = taints.clone();
    let managed = [NOT_READY, UNREACHABLE, UNSCHEDULABLE];
    taints.retain(|taint| {
        !managed.contains(&taint.key.as_str())
            || wanted.contains(&(taint.key.as_str(), taint.effect.as_str()))
    });
    for (key, effect) in wanted {
        if !taints.iter().any(|taint| taint.key == key && taint.effect == effect) {
            taints.push(Taint {
                key: key.to_owned(),
                effect: effect.to_owned(),
                value: None,
                time_added: Some(whole_second(view.now)),
            });
        }
    }
    (taints != before).then(|| {
        let (key, revision) = view.node.assumed();
        let patch = json!({"spec": {"taints": json(&taints)}});
        Plan::act(reasons::NODE_TAINTED, vec![Action::Patch { key: key.clone(), patch }])
            .assuming(key, revision)
    })
}

/// Takes the pods of a silent node out of their Services.
fn silence_pods(view: &View, plan: &mut Plan) {
    for pod in view.pods.iter().filter(|pod| pods::is_ready(pod)) {
        let all = pod.status.as_ref().and_then(|status| status.conditions.clone());
        let mut conditions: Vec<PodCondition> = all.unwrap_or_default();
        for condition in conditions.iter_mut().filter(|c| c.type_ == "Ready") {
            "False".clone_into(&mut condition.status);
            condition.last_transition_time = Some(whole_second(view.now));
        }
        let status = json!({"conditions": json(&conditions)});
        *plan = std::mem::take(plan).with_status(pod.key().clone(), status);
    }
}

/// Deletes pods whose toleration of the node's taints has ended; says when the next one ends.
fn evict(view: &View, mut plan: Plan) -> Plan {
    let staying = view.pods.iter().filter(|pod| pods::is_active(pod));
    for pod in staying {
        let mut left = None;
        for taint in repels(&view.node) {
            let Some(ends) = time_left(pod, taint, view.now) else { continue };
            left = Some(left.map_or(ends, |left: Duration| left.min(ends)));
        }
        match left {
            Some(left) if left.is_zero() && view.others_ready => {
                plan.reason = reasons::TAINT_EVICTION;
                plan.actions.push(Action::Delete {
                    key: pod.key().clone(),
                    uid: pod.uid().to_owned(),
                    propagation: Propagation::Background,
                });
                plan.events.push(EventNote {
                    about: pod.key().clone(),
                    kind: EventType::Normal,
                    reason: reasons::TAINT_EVICTION,
                    message: format!(
                        "Marking for deletion Pod {}/{}",
                        pod.obj.namespace(),
                        pod.name()
                    ),
                });
            }
            Some(left) if !left.is_zero() => plan = plan.waking(left),
            // With every node gone there is nowhere to go to; a node that returns is an event.
            _ => {}
        }
    }
    plan
}

/// How much longer the pod bears the taint; `None` forever.
fn time_left(pod: &Pod, taint: &Taint, now: Timestamp) -> Option<Duration> {
    let tolerations = pod.spec.as_ref().and_then(|spec| spec.tolerations.as_ref());
    let covering = tolerations.into_iter().flatten().filter(|one| covers(one, taint));
    let mut seconds: Vec<Option<i64>> = covering.map(|one| one.toleration_seconds).collect();
    if seconds.is_empty() {
        let is_own = matches!(taint.key.as_str(), NOT_READY | UNREACHABLE);
        seconds.push(Some(if is_own { TOLERATED_S } else { 0 }));
    }
    let shortest = seconds.into_iter().flatten().min()?;
    let added = taint.time_added.as_ref().map_or(now, |time| time.0);
    let end = added.checked_add(SignedDuration::from_secs(shortest.max(0))).ok()?;
    Some(Duration::try_from(end.duration_since(now)).unwrap_or_default())
}

#[cfg(test)]
mod tests;
