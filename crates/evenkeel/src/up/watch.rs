//! When the cluster is up.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use evenkeel_api::{GroupKind, Key, Obj};
use evenkeel_control::{ListQuery, Store, WatchEvent};
use futures::StreamExt as _;
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Node, Pod},
};
use serde_json::Value;

use crate::io;

/// After this long a log line says what is missing.
const PATIENCE: Duration = Duration::from_secs(30);

/// Messages about pods that do not start; beyond it no more are logged.
const SAID_MAX: usize = 200;

/// Ready when all nodes are Ready and every Deployment has the replicas it wants. Until then it
/// logs which pods do not start, and why, as soon as that is known.
pub(crate) async fn ready(store: Arc<dyn Store>, nodes: usize) {
    let kinds = [GroupKind::of::<Node>(), GroupKind::of::<Deployment>(), GroupKind::of::<Pod>()];
    let watches = kinds.each_ref().map(|kind| store.watch(ListQuery::all(kind.clone())));
    let mut events = futures::stream::select_all(watches);
    let mut seen: BTreeMap<Key, Arc<Obj>> = BTreeMap::new();
    let mut said = BTreeSet::new();
    let mut synced = 0;
    let mut reminder = Box::pin(tokio::time::sleep(PATIENCE));
    loop {
        tokio::select! {
            biased;
            event = events.next() => match event {
                None => return,
                Some(Ok(WatchEvent::Applied(obj))) => {
                    if let Some((about, text)) = trouble(&obj)
                        && said.len() < SAID_MAX
                        && said.insert(about)
                    {
                        io::complain(&format!("not ready: {text}"));
                    }
                    seen.insert(obj.key().clone(), obj);
                }
                Some(Ok(WatchEvent::Deleted(obj))) => {
                    seen.remove(obj.key());
                }
                Some(Ok(WatchEvent::Synced)) => synced += 1,
                Some(Err(error)) => tracing::debug!(%error, "watch"),
            },
            () = &mut reminder => {
                for text in missing(&seen, nodes) {
                    io::complain(&format!("still waiting: {text}"));
                }
                reminder = Box::pin(tokio::time::sleep(PATIENCE));
            }
        }
        if synced >= kinds.len() && missing(&seen, nodes).is_empty() {
            return;
        }
    }
}

/// Waits until this many nodes are Ready, but not longer than `wait`.
pub(crate) async fn nodes_ready(store: Arc<dyn Store>, nodes: usize, wait: Duration) {
    let mut events = store.watch(ListQuery::all(GroupKind::of::<Node>()));
    let mut ready = BTreeSet::new();
    let waiting = async {
        while ready.len() < nodes
            && let Some(event) = events.next().await
        {
            if let Ok(WatchEvent::Applied(node)) = event
                && is_ready(&node)
            {
                ready.insert(node.name().to_owned());
            }
        }
    };
    if tokio::time::timeout(wait, waiting).await.is_err() {
        tracing::debug!(nodes, "not all nodes are ready yet, continuing");
    }
}

/// Why a pod does not start, and a key for the cause: the same cause for several pods of one
/// workload is logged once.
fn trouble(pod: &Obj) -> Option<(String, String)> {
    if !pod.key().kind.is::<Pod>() || pod.is_deleting() {
        return None;
    }
    let cause = evenkeel_delivery::pod_trouble(pod)?;
    let owner = pod.controller().map_or(pod.name(), |owner| owner.name.as_str());
    // Without the message, which may contain numbers that change.
    let kind: Vec<&str> = cause.split(": ").take(2).collect();
    let about = format!("{}/{owner} {}", pod.namespace(), kind.join(": "));
    Some((about, format!("{}: {cause}", pod.key())))
}

fn missing(seen: &BTreeMap<Key, Arc<Obj>>, nodes: usize) -> Vec<String> {
    let mut texts = Vec::new();
    let ready = seen.values().filter(|obj| obj.key().kind.is::<Node>() && is_ready(obj)).count();
    if ready < nodes {
        texts.push(format!("{ready} of {nodes} nodes are ready"));
    }
    for obj in seen.values().filter(|obj| obj.key().kind.is::<Deployment>()) {
        let number = |path: &str| obj.json().pointer(path).and_then(Value::as_i64);
        let want = number("/spec/replicas").unwrap_or(1);
        let have = number("/status/availableReplicas").unwrap_or(0);
        let observed = number("/status/observedGeneration").unwrap_or(0) >= obj.generation();
        if have < want || !observed {
            let why = stuck(seen, obj).map(|why| format!(": {why}")).unwrap_or_default();
            texts.push(format!("{} has {have} of {want} replicas available{why}", obj.key()));
        }
    }
    texts
}

/// Why a pod of this Deployment does not start.
fn stuck(seen: &BTreeMap<Key, Arc<Obj>>, deployment: &Obj) -> Option<String> {
    // Pods are of a ReplicaSet, whose name is the Deployment's and a hash.
    let is_ours = |pod: &Obj| {
        let owner = pod.controller().map(|owner| owner.name.as_str()).unwrap_or_default();
        let name = owner.rsplit_once('-').map(|(name, _)| name);
        pod.namespace() == deployment.namespace() && name == Some(deployment.name())
    };
    seen.values().filter(|obj| is_ours(obj)).find_map(|pod| Some(trouble(pod)?.1))
}

fn is_ready(node: &Obj) -> bool {
    let conditions = node.json().pointer("/status/conditions").and_then(Value::as_array);
    conditions.into_iter().flatten().any(|condition| {
        condition.get("type").and_then(Value::as_str) == Some("Ready")
            && condition.get("status").and_then(Value::as_str) == Some("True")
    })
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_waited_for_is_logged_with_the_pod_that_does_not_start() {
        let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "api", "namespace": "shop"}, "spec": {"replicas": 2}});
        let pod = |n: u32| {
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": format!("api-5d9-{n}"),
                "namespace": "shop", "ownerReferences": [{"apiVersion": "apps/v1", "uid": "u",
                    "kind": "ReplicaSet", "name": "api-5d9", "controller": true}]},
                "status": {"containerStatuses": [{"name": "app", "state": {"waiting": {
                    "reason": "ErrImagePull", "message": "image \"x\" is not in the map"}}}]}})
        };
        let mut seen = BTreeMap::new();
        for body in [deployment, pod(1), pod(2)] {
            let obj = Arc::new(Obj::from_json(body).unwrap());
            seen.insert(obj.key().clone(), obj);
        }
        assert_snapshot!(missing(&seen, 0).join("\n"), @r#"Deployment/shop/api has 0 of 2 replicas available: Pod/shop/api-5d9-1: container app: ErrImagePull: image "x" is not in the map"#);
        let abouts: BTreeSet<_> = seen.values().filter_map(|obj| Some(trouble(obj)?.0)).collect();
        assert_eq!(abouts.len(), 1, "{abouts:?}");
    }
}
