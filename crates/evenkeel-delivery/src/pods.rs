//! Why the pods of a workload do not start: what a person would look up next.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use evenkeel_api::{Key, LabelSelector, Obj};
use evenkeel_control::{ListQuery, Ports, StoreError, redact};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use serde_json::Value;

use crate::{time::elapsed, workload::Workload};

/// Reasons for which a container waits that do not end by themselves.
const STUCK: [&str; 9] = [
    "ErrImagePull",
    "ImagePullBackOff",
    "InvalidImageName",
    "ErrImageNeverPull",
    "CrashLoopBackOff",
    "CreateContainerConfigError",
    "CreateContainerError",
    "RunContainerError",
    "StartError",
];

/// A list of pods that was refused is asked for again after this long: only a person can change
/// that, and nothing depends on it.
const REFUSED_PAUSE: Duration = Duration::from_mins(5);
/// The same for one that had no answer: no look waits for the same silence twice in a row.
const FAILED_PAUSE: Duration = Duration::from_secs(30);
/// Namespaces whose failures are remembered; beyond it they are forgotten, and asked for again.
const NAMESPACES_MAX: usize = 1024;

/// Lists of pods, and which of them failed lately: they are a help to people, so a server that does
/// not let us look at pods holds nothing up, and is not asked at every look.
#[derive(Debug, Default)]
pub(crate) struct Listings {
    /// By namespace.
    failed: Mutex<BTreeMap<String, Failed>>,
}

#[derive(Debug, Clone)]
struct Failed {
    /// In even time.
    at: Timestamp,
    pause: Duration,
    /// The message for people.
    words: Option<String>,
}

impl Listings {
    /// Why the youngest pod of a workload that cannot start does not, or why that is not known;
    /// `None` when all can, as far as is known.
    pub(crate) async fn trouble(&self, workload: &Workload, ports: &Ports) -> Option<String> {
        if let Some(refused) = refused(&workload.obj) {
            return Some(refused);
        }
        let labels = workload.match_labels().filter(|labels| !labels.is_empty())?;
        let namespace = workload.obj.namespace();
        if let Some(failed) = self.failed_lately(namespace, ports.clock.steady()) {
            return failed.words;
        }
        let query = ListQuery::of::<Pod>()
            .within(namespace)
            .with_labels(LabelSelector::from_labels(labels));
        let pods = match ports.read.list(&query).await {
            Ok(pods) => pods.items,
            Err(error) => return self.note(namespace, &error, ports.clock.steady()),
        };
        let stuck = pods.iter().filter(|pod| !pod.is_deleting());
        let stuck = stuck.filter_map(|pod| Some((pod, cause(pod)?)));
        let youngest = stuck.max_by_key(|(pod, _)| {
            let created = pod.meta().creation_timestamp.as_ref().map(|time| time.0);
            (created, pod.name().to_owned())
        });
        youngest.map(|(pod, cause)| words(pod.key(), &cause))
    }

    fn failed(&self) -> MutexGuard<'_, BTreeMap<String, Failed>> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failed_lately(&self, namespace: &str, now: Timestamp) -> Option<Failed> {
        let failed = self.failed().get(namespace).cloned()?;
        (elapsed(failed.at, now) < failed.pause).then_some(failed)
    }

    fn note(&self, namespace: &str, error: &StoreError, at: Timestamp) -> Option<String> {
        let refused = matches!(error, StoreError::Refused { .. });
        let pause = if refused { REFUSED_PAUSE } else { FAILED_PAUSE };
        let words = refused.then(|| redact::text(&format!("pods cannot be listed: {error}")));
        let mut all = self.failed();
        if all.len() >= NAMESPACES_MAX {
            all.clear();
        }
        all.insert(namespace.to_owned(), Failed { at, pause, words: words.clone() });
        words
    }
}

fn words(pod: &Key, cause: &str) -> String {
    format!("{pod}: {}", redact::text(cause))
}

/// Why the pods of a Deployment cannot even be made: a quota, or another rule of the cluster.
fn refused(deployment: &Obj) -> Option<String> {
    let conditions = deployment.json().pointer("/status/conditions").and_then(Value::as_array);
    let failure = conditions.into_iter().flatten().find(|condition| {
        is(condition, "type", "ReplicaFailure") && is(condition, "status", "True")
    })?;
    let cause = said(text(failure, "reason"), text(failure, "message"));
    Some(words(deployment.key(), &cause))
}

/// Why one pod does not start: which of its containers, and the kubelet's or scheduler's words;
/// `None` when nothing speaks against it.
pub fn cause(pod: &Obj) -> Option<String> {
    let conditions = pod.json().pointer("/status/conditions").and_then(Value::as_array);
    let unplaced = conditions.into_iter().flatten().find(|condition| {
        is(condition, "type", "PodScheduled")
            && is(condition, "status", "False")
            && is(condition, "reason", "Unschedulable")
    });
    if let Some(condition) = unplaced {
        return Some(said("Unschedulable", text(condition, "message")));
    }
    ["initContainerStatuses", "containerStatuses"].into_iter().find_map(|field| {
        let containers = pod.json().get("status")?.get(field)?.as_array()?;
        containers.iter().find_map(|container| {
            let waiting = container.pointer("/state/waiting")?;
            let reason = text(waiting, "reason");
            let known = STUCK.contains(&reason);
            let cause = said(reason, text(waiting, "message"));
            let last = container.pointer("/lastState/terminated").map(ending);
            let last = last.filter(|_| reason == "CrashLoopBackOff").unwrap_or_default();
            known.then(|| format!("container {}: {cause}{last}", text(container, "name")))
        })
    })
}

/// How a container ended that is started again and again.
fn ending(terminated: &Value) -> String {
    let code = terminated.get("exitCode").and_then(Value::as_i64);
    let code = code.map_or("?".to_owned(), |code| code.to_string());
    format!(", last exit code {code} ({})", text(terminated, "reason"))
}

fn said(reason: &str, message: &str) -> String {
    if message.is_empty() { reason.to_owned() } else { format!("{reason}: {message}") }
}

fn text<'a>(of: &'a Value, field: &str) -> &'a str {
    of.get(field).and_then(Value::as_str).unwrap_or_default()
}

fn is(of: &Value, field: &str, wanted: &str) -> bool {
    text(of, field) == wanted
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;
    use serde_json::json;

    use super::*;

    fn describe(status: &Value) -> String {
        let pod = Obj::from_json(json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "api-1", "namespace": "shop"}, "status": status}))
        .unwrap();
        cause(&pod).map_or("none".to_owned(), |cause| words(pod.key(), &cause))
    }

    #[test]
    fn what_keeps_a_pod_from_being_made_is_named() {
        let describe = |status: &str| {
            let deployment = Obj::from_json(json!({"apiVersion": "apps/v1", "kind": "Deployment",
                "metadata": {"name": "api", "namespace": "shop"},
                "status": {"conditions": [{"type": "Available", "status": "True"},
                    {"type": "ReplicaFailure", "status": status, "reason": "FailedCreate",
                        "message": "exceeded quota: tight"}]}}));
            refused(&deployment.unwrap()).unwrap_or_default()
        };
        assert_snapshot!(describe("True"), @"Deployment/shop/api: FailedCreate: exceeded quota: tight");
        assert_eq!(describe("False"), "");
    }

    #[test]
    fn what_keeps_a_pod_from_starting_is_named() {
        let waiting = |reason: &str, message: &str| {
            describe(&json!({"containerStatuses": [{"name": "app",
                "state": {"waiting": {"reason": reason, "message": message}},
                "lastState": {"terminated": {"exitCode": 3, "reason": "Error"}}}]}))
        };
        assert_snapshot!(waiting("ImagePullBackOff", "Back-off pulling image \"x:2\""), @r#"Pod/shop/api-1: container app: ImagePullBackOff: Back-off pulling image "x:2""#);
        assert_snapshot!(waiting("CrashLoopBackOff", "back-off 40s"), @"Pod/shop/api-1: container app: CrashLoopBackOff: back-off 40s, last exit code 3 (Error)");
        assert_snapshot!(waiting("CreateContainerConfigError", "secret \"db\" not found"), @r#"Pod/shop/api-1: container app: CreateContainerConfigError: secret "db" not found"#);
        assert_snapshot!(waiting("ContainerCreating", ""), @"none");
        let init = json!({"initContainerStatuses": [{"name": "migrate",
            "state": {"waiting": {"reason": "ErrImagePull"}}}]});
        assert_snapshot!(describe(&init), @"Pod/shop/api-1: container migrate: ErrImagePull");
        let unplaced = json!({"conditions": [{"type": "PodScheduled", "status": "False",
            "reason": "Unschedulable", "message": "0/3 nodes are available: Insufficient cpu."}]});
        assert_snapshot!(describe(&unplaced), @"Pod/shop/api-1: Unschedulable: 0/3 nodes are available: Insufficient cpu.");
        assert_snapshot!(describe(&json!({"containerStatuses": [{"name": 7, "state": "odd"}]})), @"none");
    }
}
