//! How many pods run: makes what is missing, removes what is too many. **Source**: `manageJob`.

use std::{collections::BTreeMap, time::Duration};

use evenkeel_api::Obj;
use evenkeel_control::{Action, EventNote, EventType, Propagation};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::{
    TRACKING, backoff, index,
    indexes::{INDEX, Indexes},
    policy::{self, Failure},
    release,
    sync::Sync,
};
use crate::{pods, reasons, replicaset::first_to_go, seen::Seen};

/// Most pods made or removed in one pass. **Source**: `MaxPodCreateDeletePerSync`.
const BATCH_MAX: usize = 500;
/// Annotation with the failures of an index so far, those not included that a rule ignores.
const FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";
/// Annotation with the failures that a rule ignores.
const IGNORED: &str = "batch.kubernetes.io/job-index-ignored-failure-count";
const INDEX_VARIABLE: &str = "JOB_COMPLETION_INDEX";

/// A number in one of these annotations; 0 for anything else.
fn number(pod: &Obj, annotation: &str) -> i32 {
    let text = pod.annotation(annotation).unwrap_or_default();
    text.parse().ok().filter(|count| *count >= 0).unwrap_or_default()
}

/// Failures of a pod's index before it that count.
pub(crate) fn failures(pod: &Obj) -> i32 {
    number(pod, FAILURES)
}

/// All failures of a pod's index before it.
pub(crate) fn all_failures(pod: &Obj) -> i32 {
    failures(pod).saturating_add(number(pod, IGNORED))
}

impl Sync<'_> {
    pub(crate) fn manage(&mut self) {
        let active = self.count_active();
        if self.is_suspended() {
            self.remove(active);
            return;
        }
        let parallelism = i64::from(self.spec.parallelism.unwrap_or(1));
        let wanted = match self.spec.completions {
            None if self.succeeded > 0 => active,
            None => parallelism,
            Some(all) => (i64::from(all) - self.succeeded).clamp(0, parallelism),
        };
        if self.remove((active - wanted).max(0)) {
            return;
        }
        let waited_for = if policy::replaces_only_failed(self.spec) { self.terminating } else { 0 };
        let missing = usize::try_from(wanted - active - waited_for).unwrap_or_default();
        if missing > 0 {
            self.create(missing.min(BATCH_MAX));
        }
    }

    /// Deletes the active pods of a Job that ends. They keep their finalizers until they are
    /// counted.
    pub(crate) fn delete_active(&mut self) {
        for pod in std::mem::take(&mut self.active) {
            self.delete(pod);
        }
    }

    fn delete(&mut self, pod: &Seen<Pod>) {
        self.plan.actions.push(Action::Delete {
            key: pod.key().clone(),
            uid: pod.uid().to_owned(),
            propagation: Propagation::Background,
        });
        self.plan.reason = reasons::SUCCESSFUL_DELETE;
        self.terminating += 1;
        self.ready -= i64::from(pods::is_ready(pod));
        self.record(reasons::SUCCESSFUL_DELETE, format!("Deleted pod: {}", pod.name()));
    }

    /// Removes at least this many, and those that should not be at all; whether any was removed.
    /// What is removed so does not count as failed.
    fn remove(&mut self, least: i64) -> bool {
        let doomed = self.to_remove(usize::try_from(least).unwrap_or_default());
        for pod in doomed.iter().take(BATCH_MAX) {
            if super::is_tracked(pod) {
                self.plan.actions.push(release(pod));
                self.plan.assumed.push(pod.assumed());
            }
            self.delete(pod);
            self.active.retain(|other| other.uid() != pod.uid());
        }
        !doomed.is_empty()
    }

    fn create(&mut self, missing: usize) {
        if !self.is_indexed() {
            let wait = self.pause();
            if wait.is_zero() {
                self.create_pods(vec![None; missing]);
            } else {
                self.wait(wait);
            }
            return;
        }
        let wanted = self.pending_indexes(missing);
        if self.spec.backoff_limit_per_index.is_none() {
            let wait = self.pause();
            if wait.is_zero() {
                self.create_pods(wanted.into_iter().map(Some).collect());
            } else {
                self.wait(wait);
            }
            return;
        }
        let pauses = wanted.iter().map(|index| (*index, self.pause_of(*index)));
        let (now, later): (Vec<_>, Vec<_>) = pauses.partition(|(_, pause)| pause.is_zero());
        self.create_pods(now.into_iter().map(|(index, _)| Some(index)).collect());
        if let Some(wait) = later.into_iter().map(|(_, pause)| pause).min() {
            self.wait(wait);
        }
    }

    fn wait(&mut self, wait: Duration) {
        self.plan = std::mem::take(&mut self.plan).waking(wait);
        if self.plan.actions.is_empty() {
            self.plan.reason = reasons::BACKING_OFF;
        }
    }

    fn pause(&self) -> Duration {
        backoff::remaining(&self.view.ended, self.view.now)
    }

    /// The pause of an index that is retried by itself.
    fn pause_of(&self, index: i64) -> Duration {
        let Some(last) = self.replaced.get(&index) else { return Duration::ZERO };
        let failures = usize::try_from(all_failures(&last.obj)).unwrap_or_default();
        backoff::after(failures + 1, backoff::finished_at(last), self.view.now)
    }

    /// **Source**: `firstPendingIndexes`.
    fn pending_indexes(&self, count: usize) -> Vec<i64> {
        let of = |pods: &mut dyn Iterator<Item = &&Seen<Pod>>| -> Indexes {
            pods.filter_map(|pod| index(&pod.obj)).collect()
        };
        let mut taken = self.succeeded_indexes.union(&of(&mut self.active.iter()));
        if policy::replaces_only_failed(self.spec) {
            let leaving = self.pods.iter().filter(|pod| pods::is_terminating(pod));
            taken = taken.union(&of(&mut leaving.into_iter()));
        }
        if let Some(failed) = &self.failed_indexes {
            taken = taken.union(failed);
        }
        taken.missing(count, self.completions())
    }

    fn create_pods(&mut self, indexes: Vec<Option<i64>>) {
        let Some(template) = self.job.obj.json().pointer("/spec/template") else { return };
        let mut names = pods::FreshNames::new(&self.job.obj, &self.view.pods);
        for index in indexes {
            let prefix = match index {
                Some(index) => format!("{}-{index}-", self.job.name()),
                None => format!("{}-", self.job.name()),
            };
            let name = names.next(&prefix);
            let mut body = pods::from_template(&self.job.obj, template, &name);
            body["metadata"]["generateName"] = json!(prefix);
            track(&mut body);
            if let Some(index) = index {
                self.mark(&mut body, index);
            }
            let Ok(pod) = Obj::from_json(body) else { return };
            self.plan.actions.push(Action::Create(Box::new(pod)));
            self.plan.reason = reasons::SUCCESSFUL_CREATE;
            self.created += 1;
            self.record(reasons::SUCCESSFUL_CREATE, format!("Created pod: {name}"));
        }
    }

    /// Tells a pod which index it is.
    fn mark(&self, body: &mut Value, index: i64) {
        let metadata = &mut body["metadata"];
        metadata["labels"][INDEX] = json!(index.to_string());
        metadata["annotations"][INDEX] = json!(index.to_string());
        if self.spec.backoff_limit_per_index.is_some() {
            let (counted, ignored) = match self.replaced.get(&index) {
                None => (0, 0),
                Some(last) => {
                    let ignored = all_failures(&last.obj) - failures(&last.obj);
                    match policy::judge(self.spec, last) {
                        Failure::Ignored => (failures(&last.obj), ignored + 1),
                        _ => (failures(&last.obj) + 1, ignored),
                    }
                }
            };
            metadata["annotations"][FAILURES] = json!(counted.to_string());
            if ignored > 0 {
                metadata["annotations"][IGNORED] = json!(ignored.to_string());
            }
        }
        let spec = &mut body["spec"];
        spec["hostname"] = json!(format!("{}-{index}", self.job.name()));
        for list in ["initContainers", "containers"] {
            let containers = spec.get_mut(list).and_then(Value::as_array_mut);
            for container in containers.into_iter().flatten() {
                tell_index(container);
            }
        }
    }

    pub(crate) fn record(&mut self, reason: &'static str, message: String) {
        self.note(EventType::Normal, reason, message);
    }

    pub(crate) fn note(&mut self, kind: EventType, reason: &'static str, message: String) {
        let about = self.job.key().clone();
        self.plan.events.push(EventNote { about, kind, reason, message });
    }
}

impl<'a> Sync<'a> {
    /// **Source**: `activePodsForRemoval`.
    fn to_remove(&self, least: usize) -> Vec<&'a Seen<Pod>> {
        let mut doomed = Vec::new();
        let mut kept = self.active.clone();
        if self.is_indexed() {
            (doomed, kept) = self.duplicates();
        }
        let more = least.saturating_sub(doomed.len());
        doomed.extend(first_to_go(&kept, &[], self.view.now).into_iter().take(more));
        doomed
    }

    /// Pods that no index needs, and one pod of each index. **Source**:
    /// `appendDuplicatedIndexPodsForRemoval`.
    fn duplicates(&self) -> (Vec<&'a Seen<Pod>>, Vec<&'a Seen<Pod>>) {
        let mut by_index: BTreeMap<i64, Vec<&'a Seen<Pod>>> = BTreeMap::new();
        let mut doomed = Vec::new();
        for pod in &self.active {
            match index(&pod.obj).filter(|at| *at < self.completions()) {
                Some(at) => by_index.entry(at).or_default().push(pod),
                None => doomed.push(*pod),
            }
        }
        let mut kept = Vec::new();
        for pods in by_index.into_values() {
            let mut ordered = first_to_go(&pods, &[], self.view.now);
            kept.extend(ordered.pop());
            doomed.extend(ordered);
        }
        (doomed, kept)
    }
}

/// Gives a pod the finalizer with which it is counted.
fn track(body: &mut Value) {
    let metadata = &mut body["metadata"];
    let mut finalizers = metadata["finalizers"].as_array().cloned().unwrap_or_default();
    if !finalizers.iter().any(|name| name == TRACKING) {
        finalizers.push(json!(TRACKING));
    }
    metadata["finalizers"] = Value::Array(finalizers);
}

/// Adds the variable with the index, unless the container has one of that name.
fn tell_index(container: &mut Value) {
    let Some(container) = container.as_object_mut() else { return };
    let variables = container.entry("env").or_insert_with(|| json!([]));
    let Some(variables) = variables.as_array_mut() else { return };
    if !variables.iter().any(|variable| variable["name"] == INDEX_VARIABLE) {
        let path = format!("metadata.labels['{INDEX}']");
        variables.push(json!({"name": INDEX_VARIABLE,
            "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": path}}}));
    }
}
