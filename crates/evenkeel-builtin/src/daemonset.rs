//! `DaemonSet`: one pod on every node that fits.
//!
//! ```text
//! decide: claim -> revision of the present template
//!               -> nodes without their pod get one, others lose theirs
//!               -> RollingUpdate: old pods go within maxUnavailable, or stay till the new is ready
//!         always -> status, old revisions
//! ```
//! A pod is bound to its node by the scheduler, by an affinity to the node's name.
//! **Source**: `pkg/controller/daemon`.

mod backoff;
mod keep;
mod nodes;
mod pair;
mod roll;
mod status;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use evenkeel_api::{GroupKind, Key, LabelSelector};
use evenkeel_control::{
    Controller, EventNote, EventType, Interest, ListQuery, ObserveError, Plan, Ports, Wakes,
};
use jiff::Timestamp;
use k8s_openapi::api::{
    apps::v1::{ControllerRevision, DaemonSet, DaemonSetSpec},
    core::v1::{Node, Pod},
};
use serde_json::Value;

use crate::{
    claim::claim,
    history::{self, History},
    pods, reasons,
    seen::{Seen, get_as, list_as},
};
use backoff::Failures;

/// Label with the hash of the template that a pod was made of.
pub(crate) const HASH: &str = "controller-revision-hash";

/// The controller. It remembers how often it has replaced failed pods, to be slower each time.
#[derive(Default)]
pub(crate) struct DaemonSets {
    failures: Arc<Mutex<BTreeMap<Key, Failures>>>,
}

/// What one `DaemonSet`'s decision looks at.
#[derive(Debug)]
pub(crate) struct View {
    pub(crate) now: Timestamp,
    pub(crate) set: Seen<DaemonSet>,
    /// Pods of its namespace that it owns or that its selector matches.
    pub(crate) pods: Vec<Seen<Pod>>,
    pub(crate) nodes: Vec<Seen<Node>>,
    /// All revisions of its namespace.
    pub(crate) revisions: Vec<Seen<ControllerRevision>>,
    /// Nodes whose failed pod is not replaced yet, and for how long.
    pub(crate) paused: BTreeMap<String, Duration>,
}

impl Controller for DaemonSets {
    type View = View;

    fn name(&self) -> &'static str {
        "daemonset-controller"
    }

    fn owns(&self) -> ListQuery {
        ListQuery::of::<DaemonSet>()
    }

    fn also(&self) -> Vec<Interest> {
        let pod = Interest::mapped::<Pod>(|pod| match pod.controller() {
            Some(owner) if owner.kind == "DaemonSet" => {
                Wakes::These(vec![Key::of::<DaemonSet>(pod.namespace(), &owner.name)])
            }
            Some(_) => Wakes::These(Vec::new()),
            None => Wakes::Namespace(pod.namespace().to_owned()),
        });
        // Nodes report often; what matters for their pods changes seldom.
        let node = Interest::mapped::<Node>(|_| Wakes::All).minding(|node| {
            let spec = node.json().get("spec").map(ToString::to_string).unwrap_or_default();
            format!("{:?} {spec}", node.labels())
        });
        vec![pod, node]
    }

    async fn observe(&self, key: &Key, ports: &Ports) -> Result<Option<View>, ObserveError> {
        let Some(set) = get_as::<DaemonSet>(ports, key).await? else {
            self.failures.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
            return Ok(None);
        };
        let within = |kind: GroupKind| ListQuery::all(kind).within(&key.namespace);
        let mut pods = list_as::<Pod>(ports, &within(GroupKind::of::<Pod>())).await?;
        let selector = selector(&set);
        pods.retain(|pod| {
            pods::is_controlled_by(&pod.obj, set.uid())
                || selector.as_ref().is_some_and(|s| s.matches(pod.obj.labels()))
        });
        let nodes = list_as::<Node>(ports, &ListQuery::all(GroupKind::of::<Node>())).await?;
        let revisions = within(GroupKind::of::<ControllerRevision>());
        let revisions = list_as::<ControllerRevision>(ports, &revisions).await?;
        let now = ports.clock.now();
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let paused = failures.entry(key.clone()).or_default().look(&pods, set.uid(), now);
        Ok(Some(View { now, set, pods, nodes, revisions, paused }))
    }

    fn decide(&self, view: &View) -> Plan {
        decide(view)
    }
}

/// The selector; `None` when it is malformed or matches everything.
fn selector(set: &Seen<DaemonSet>) -> Option<LabelSelector> {
    let spec = set.spec.as_ref()?;
    LabelSelector::from_object(&spec.selector).ok().filter(|selector| !selector.is_empty())
}

/// The plan in the making.
pub(crate) struct Draft<'a> {
    pub(crate) view: &'a View,
    pub(crate) spec: &'a DaemonSetSpec,
    pub(crate) template: &'a Value,
    /// The hash of the present template.
    pub(crate) hash: String,
    /// Its pods by the node that they are for, those included that are leaving.
    pub(crate) by_node: BTreeMap<String, Vec<&'a Seen<Pod>>>,
    /// Pods that go; names.
    pub(crate) doomed: BTreeSet<String>,
    /// Nodes that get a pod.
    pub(crate) wanting: Vec<String>,
    pub(crate) plan: Plan,
}

impl Draft<'_> {
    pub(crate) fn note(&mut self, kind: EventType, reason: &'static str, message: String) {
        let about = self.view.set.key().clone();
        self.plan.events.push(EventNote { about, kind, reason, message });
    }
}

/// One step towards one pod per node, and the status of what was seen.
pub(crate) fn decide(view: &View) -> Plan {
    let set = &view.set;
    let (Some(selector), Some(spec)) = (selector(set), set.spec.as_ref()) else {
        return Plan::idle(reasons::SELECTOR_INVALID);
    };
    if let Some(plan) = claim(&set.obj, &selector, &view.pods) {
        return plan;
    }
    let orphans = view
        .revisions
        .iter()
        .filter(|one| one.obj.controller().is_none() && selector.matches(one.obj.labels()));
    let orphans: Vec<_> = orphans.cloned().collect();
    if let Some(plan) = claim(&set.obj, &selector, &orphans) {
        return plan;
    }
    if set.obj.is_deleting() {
        // Its revisions may be gone before its pods: no status could be right.
        return Plan::idle(reasons::BEING_DELETED);
    }
    let Some(template) = set.obj.json().pointer("/spec/template") else {
        return Plan::idle(reasons::SELECTOR_INVALID);
    };
    let history = History::of(&set.obj, &view.revisions);
    let update = update(view, spec, template, &history);
    let prefix = format!("{}-", set.name());
    let hash = update.name.strip_prefix(&prefix).unwrap_or_default().to_owned();
    let mut draft = Draft {
        view,
        spec,
        template,
        hash,
        by_node: nodes::by_node(view),
        doomed: BTreeSet::new(),
        wanting: Vec::new(),
        plan: Plan::idle(reasons::SETTLED),
    };
    update.add_to(&mut draft.plan);
    draft.keep();
    if draft.doomed.is_empty() && draft.wanting.is_empty() {
        draft.roll();
    }
    draft.perform();
    let status = status::of(&draft, update.collisions);
    let mut plan = status::write(view, &status, draft.plan);
    let limit = spec.revision_history_limit.unwrap_or(10);
    let live = |name: &str| {
        name == update.name
            || view.pods.iter().any(|pod| {
                pod.obj.label(HASH).is_some_and(|hash| name.strip_prefix(&prefix) == Some(hash))
            })
    };
    plan.then.extend(history.truncate(limit, live));
    plan
}

fn update(
    view: &View,
    spec: &DaemonSetSpec,
    template: &Value,
    history: &History<'_>,
) -> history::Update {
    let patch = history::patch_of(template);
    let labels = template.pointer("/metadata/labels").and_then(Value::as_object);
    let collisions = view.set.status.as_ref().and_then(|status| status.collision_count);
    let draft = history::Draft {
        patch: &patch,
        labels: labels.cloned().unwrap_or_default(),
        hash_label: HASH,
        hash: &|collisions| crate::deployment::template_hash(&spec.template, collisions),
    };
    history.update(&draft, collisions.unwrap_or_default())
}

/// Number of the template, which pods carry besides its hash.
pub(crate) fn generation(set: &Seen<DaemonSet>) -> Option<i64> {
    set.obj.annotation("deprecated.daemonset.template.generation")?.parse().ok()
}

/// Whether a pod is made of the present template. **Source**: `IsPodUpdated`.
pub(crate) fn is_updated(draft: &Draft<'_>, pod: &Seen<Pod>) -> bool {
    let number = generation(&draft.view.set).map(|number| number.to_string());
    pod.obj.label(HASH) == Some(&draft.hash)
        || number.is_some_and(|number| pod.obj.label(keep::GENERATION) == Some(&number))
}

pub(crate) fn is_available(draft: &Draft<'_>, pod: &Seen<Pod>) -> bool {
    let seconds = draft.spec.min_ready_seconds.unwrap_or_default();
    let wait = pods::available_in(pod, seconds, draft.view.now);
    wait.is_some_and(|wait| wait.is_zero())
}

#[cfg(test)]
mod tests;
