//! One pod per node: which are missing, which are too many. **Source**: `podsShouldBeOnNode`,
//! `syncNodes`.

use evenkeel_api::Obj;
use evenkeel_control::{Action, EventType, Propagation};
use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::json;

use super::{
    Draft, HASH, generation, is_available, is_updated,
    nodes::{self, Fit},
    pair::Pair,
    roll,
};
use crate::{
    pods, reasons,
    seen::{Seen, json},
};

/// Label with the number of the template.
pub(crate) const GENERATION: &str = "pod-template-generation";
/// Most pods made or deleted in one pass. **Source**: `BurstReplicas`.
const BURST: usize = 250;

impl<'a> Draft<'a> {
    /// What a node is to this set.
    pub(crate) fn fit(&self, node: &Seen<Node>) -> Fit {
        static NONE: std::sync::LazyLock<k8s_openapi::api::core::v1::PodSpec> =
            std::sync::LazyLock::new(Default::default);
        nodes::fit(self.spec.template.spec.as_ref().unwrap_or(&NONE), node)
    }

    pub(crate) fn keep(&mut self) {
        for node in &self.view.nodes {
            self.keep_on(node);
        }
        // Nobody else deletes a pod that waits for a node that is gone.
        let is_known = |name: &String| self.view.nodes.iter().any(|node| node.name() == name);
        let lost = self.by_node.iter().filter(|(node, _)| !is_known(node));
        let lost = lost.flat_map(|(_, list)| list).filter(|pod| pods::node(pod).is_none());
        let lost: Vec<String> = lost.map(|pod| pod.name().to_owned()).collect();
        self.doomed.extend(lost);
    }

    fn keep_on(&mut self, node: &Seen<Node>) {
        let fit = self.fit(node);
        let here = self.by_node.get(node.name()).cloned().unwrap_or_default();
        if here.is_empty() {
            if fit.runs {
                self.wanting.push(node.name().to_owned());
            }
            return;
        }
        if !fit.keeps {
            let staying = here.iter().filter(|pod| !pod.obj.is_deleting());
            self.doomed.extend(staying.map(|pod| pod.name().to_owned()));
            return;
        }
        let running = self.without_ended(&here, node.name());
        if roll::surges(self.spec) {
            self.keep_surging(&running, node, fit);
        } else {
            let surplus = running.iter().skip(1);
            self.doomed.extend(surplus.map(|pod| pod.name().to_owned()));
        }
    }

    /// The pods that run or will; those that have ended go.
    fn without_ended(&mut self, here: &[&'a Seen<Pod>], node: &str) -> Vec<&'a Seen<Pod>> {
        let mut running = Vec::new();
        for pod in here.iter().copied().filter(|pod| !pod.obj.is_deleting()) {
            let name = format!("{}/{}", pod.obj.namespace(), pod.name());
            match pods::phase(pod) {
                "Failed" => {
                    if let Some(left) = self.view.paused.get(node) {
                        self.plan = std::mem::take(&mut self.plan).waking(*left);
                        continue;
                    }
                    self.doomed.insert(pod.name().to_owned());
                    let message = format!(
                        "Found failed daemon pod {name} on node {node}, will try to kill it"
                    );
                    self.note(EventType::Warning, reasons::FAILED_DAEMON_POD, message);
                }
                "Succeeded" => {
                    self.doomed.insert(pod.name().to_owned());
                    let message = format!(
                        "Found succeeded daemon pod {name} on node {node}, will try to delete it"
                    );
                    self.note(EventType::Normal, reasons::SUCCEEDED_DAEMON_POD, message);
                }
                _ => running.push(pod),
            }
        }
        running
    }

    /// With a surge, an old pod stays until the new one is available.
    fn keep_surging(&mut self, running: &[&'a Seen<Pod>], node: &Seen<Node>, fit: Fit) {
        // A failed pod that has to stay for now holds its place, or there would be more and more.
        let is_paused = self.view.paused.contains_key(node.name());
        if running.is_empty() && fit.runs && !is_paused {
            self.wanting.push(node.name().to_owned());
        }
        if running.len() < 2 {
            return;
        }
        let (new, old): (Vec<_>, Vec<_>) =
            running.iter().copied().partition(|pod| pod.obj.label(HASH) == Some(&self.hash));
        let surplus = new.iter().skip(1).chain(old.iter().skip(1));
        let mut doomed: Vec<String> = surplus.map(|pod| pod.name().to_owned()).collect();
        if let (Some(new), Some(old)) = (new.first(), old.first())
            && (!pods::is_ready(old) || is_available(self, new))
        {
            doomed.push(old.name().to_owned());
        }
        self.doomed.extend(doomed);
    }

    /// Turns what is wanted into actions.
    pub(crate) fn perform(&mut self) {
        let mut names = pods::FreshNames::new(&self.view.set.obj, &self.view.pods);
        let prefix = format!("{}-", self.view.set.name());
        for node in std::mem::take(&mut self.wanting).into_iter().take(BURST) {
            let name = names.next(&prefix);
            let Some(pod) = self.new_pod(&name, &node) else { return };
            self.plan.reason = reasons::SUCCESSFUL_CREATE;
            self.plan.actions.push(Action::Create(Box::new(pod)));
            let reason = reasons::SUCCESSFUL_CREATE;
            self.note(EventType::Normal, reason, format!("Created pod: {name}"));
        }
        let doomed = std::mem::take(&mut self.doomed);
        let doomed = self.view.pods.iter().filter(|pod| doomed.contains(pod.name()));
        for pod in doomed.filter(|pod| !pod.obj.is_deleting()).take(BURST) {
            self.plan.reason = reasons::SUCCESSFUL_DELETE;
            self.plan.actions.push(Action::Delete {
                key: pod.key().clone(),
                uid: pod.uid().to_owned(),
                propagation: Propagation::Background,
            });
            let message = format!("Deleted pod: {}", pod.name());
            self.note(EventType::Normal, reasons::SUCCESSFUL_DELETE, message);
        }
    }

    /// **Source**: `CreatePodTemplate`, `ReplaceDaemonSetPodNodeNameNodeAffinity`.
    fn new_pod(&self, name: &str, node: &str) -> Option<Obj> {
        let set = &self.view.set;
        let mut body = pods::from_template(&set.obj, self.template, name);
        let labels = &mut body["metadata"]["labels"];
        if let Some(number) = generation(set) {
            labels[GENERATION] = json!(number.to_string());
        }
        labels[HASH] = json!(self.hash);
        let spec = &mut body["spec"];
        if let Some(template) = self.spec.template.spec.as_ref() {
            spec["tolerations"] = json(&nodes::tolerations(template));
        }
        let field = json!({"key": "metadata.name", "operator": "In", "values": [node]});
        let terms = json!([{"matchFields": [field]}]);
        let required = "requiredDuringSchedulingIgnoredDuringExecution";
        spec["affinity"]["nodeAffinity"][required]["nodeSelectorTerms"] = terms;
        Obj::from_json(body).ok()
    }

    /// The old and the new pod of a node; `None` when there are more than one of either.
    pub(crate) fn pair(&self, here: &[&'a Seen<Pod>]) -> Option<Pair<'a>> {
        let mut pair = Pair::default();
        for pod in here.iter().copied().filter(|pod| !pod.obj.is_deleting()) {
            let place = if is_updated(self, pod) { &mut pair.new } else { &mut pair.old };
            if place.replace(pod).is_some() {
                return None;
            }
        }
        Some(pair)
    }
}
