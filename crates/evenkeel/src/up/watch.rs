//! When the cluster is up.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use evenkeel_api::{GroupKind, Key, Obj};
use evenkeel_control::{ListQuery, Store, WatchEvent};
use futures::StreamExt as _;
use k8s_openapi::api::{apps::v1::Deployment, core::v1::Node};
use serde_json::Value;

use crate::io;

/// After this long it is said what is missing.
const PATIENCE: Duration = Duration::from_secs(30);

/// Ready when all nodes are Ready and every Deployment has the replicas it wants.
pub(crate) async fn ready(store: Arc<dyn Store>, nodes: usize) {
    let kinds = [GroupKind::of::<Node>(), GroupKind::of::<Deployment>()];
    let watches = kinds.map(|kind| store.watch(ListQuery::all(kind)));
    let mut events = futures::stream::select_all(watches);
    let mut seen: BTreeMap<Key, Arc<Obj>> = BTreeMap::new();
    let mut synced = 0;
    let mut reminder = Box::pin(tokio::time::sleep(PATIENCE));
    loop {
        tokio::select! {
            biased;
            event = events.next() => match event {
                None => return,
                Some(Ok(WatchEvent::Applied(obj))) => {
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
        if synced >= 2 && missing(&seen, nodes).is_empty() {
            return;
        }
    }
}

/// Waits until this many nodes are Ready, or for as long as is worth it.
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
        tracing::debug!(nodes, "not all nodes are ready yet, going on");
    }
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
            texts.push(format!("{} has {have} of {want} replicas available", obj.key()));
        }
    }
    texts
}

fn is_ready(node: &Obj) -> bool {
    let conditions = node.json().pointer("/status/conditions").and_then(Value::as_array);
    conditions.into_iter().flatten().any(|condition| {
        condition.get("type").and_then(Value::as_str) == Some("Ready")
            && condition.get("status").and_then(Value::as_str) == Some("True")
    })
}
