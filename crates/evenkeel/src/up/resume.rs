//! What is done about nodes between two runs of a cluster.

use std::{collections::BTreeSet, path::Path, sync::Arc};

use anyhow::Context as _;
use evenkeel_api::{GroupKind, Key, Obj, clusterconfig::NodeSpec};
use evenkeel_control::{
    DeleteOptions, ListQuery, Patch, Store, StoreError, Subresource, WriteOptions,
};
use futures::future::try_join_all;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::{Value, json};

use super::agents;

/// As the controller that usually says so.
const STATUS: WriteOptions = WriteOptions {
    subresource: Some(Subresource::Status),
    expect: None,
    manager: "node-lifecycle-controller",
};

async fn list<T: evenkeel_api::ApiObject>(store: &dyn Store) -> anyhow::Result<Vec<Arc<Obj>>> {
    let listed = store.list(&ListQuery::all(GroupKind::of::<T>())).await;
    Ok(listed.context("read what the cluster has kept")?.items)
}

/// Prepares what was kept for the nodes that start now: nothing runs yet, whatever it says.
pub(super) async fn prepare(
    store: &dyn Store,
    data_dir: &Path,
    nodes: &mut [NodeSpec],
    now: Timestamp,
) -> anyhow::Result<()> {
    remove_others(store, data_dir, nodes).await?;
    let kept = list::<Node>(store).await?;
    place(nodes, &kept);
    let pods = list::<Pod>(store).await?;
    let silent = kept.iter().filter_map(|node| Some((node, unknown(node, now)?)));
    let unready = pods.iter().filter_map(|pod| Some((pod, not_ready(pod, now)?)));
    let writes = silent.chain(unready).map(|(obj, patch)| async move {
        match store.patch(obj.key(), &Patch::Strategic(patch), &STATUS).await {
            Ok(_) | Err(StoreError::NotFound { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    });
    try_join_all(writes).await.context("mark the nodes as not heard of yet")?;
    Ok(())
}

/// Removes nodes that are no longer in the folder, with their pods, processes and files.
///
/// **Source**: `gcOrphaned` in `pkg/controller/podgc/gc_controller.go`.
async fn remove_others(
    store: &dyn Store,
    data_dir: &Path,
    nodes: &[NodeSpec],
) -> anyhow::Result<()> {
    let wanted: BTreeSet<&str> = nodes.iter().map(|node| &*node.name).collect();
    let mut had = agents::present(data_dir);
    // Those of a restored snapshot have no folder here.
    had.extend(list::<Node>(store).await?.iter().map(|node| node.name().to_owned()));
    had.sort();
    had.dedup();
    let gone: Vec<&String> = had.iter().filter(|name| !wanted.contains(name.as_str())).collect();
    if gone.is_empty() {
        return Ok(());
    }
    let pods = list::<Pod>(store).await?;
    for name in gone {
        let at_once = DeleteOptions { grace_seconds: Some(0), ..DeleteOptions::default() };
        let on_it = |pod: &&Arc<Obj>| {
            pod.json().pointer("/spec/nodeName").and_then(Value::as_str) == Some(name)
        };
        let pods = pods.iter().filter(on_it).map(|pod| pod.key().clone());
        for key in pods.chain([Key::of::<Node>("", name)]) {
            match store.delete(&key, &at_once).await {
                Ok(()) | Err(StoreError::NotFound { .. }) => {}
                Err(error) => return Err(error).with_context(|| format!("remove {key}")),
            }
        }
        agents::remove(data_dir, name).await?;
    }
    Ok(())
}

/// Known nodes keep the addresses of their pods, and new ones get others.
fn place(nodes: &mut [NodeSpec], kept: &[Arc<Obj>]) {
    let count = nodes.len() + kept.len();
    let mut taken = BTreeSet::new();
    let mut fresh = Vec::new();
    for (position, node) in nodes.iter_mut().enumerate() {
        let known = kept.iter().find(|known| known.name() == node.name);
        let known = known.and_then(|known| known.json().pointer("/spec/podCIDR")?.as_str());
        let index = known.and_then(index_of);
        node.index = index.unwrap_or(node.index);
        if index.is_some() {
            taken.insert(node.index);
        } else {
            fresh.push(position);
        }
    }
    for position in fresh {
        let Some(node) = nodes.get_mut(position) else { continue };
        if !taken.insert(node.index)
            && let Some(free) = (0..=count).find(|index| !taken.contains(index))
        {
            node.index = free;
            taken.insert(free);
        }
    }
}

/// The number of the node whose pods have these addresses, in either network.
fn index_of(cidr: &str) -> Option<usize> {
    let octets: Vec<usize> = cidr.split(['.', '/']).map_while(|octet| octet.parse().ok()).collect();
    match octets.as_slice() {
        [127, second, ..] => second.checked_sub(64),
        [10, 244, third, ..] => Some(*third),
        _ => None,
    }
}

/// That nothing has been heard of a node yet, as when it went silent.
///
/// **Source**: `processNode` in `pkg/controller/nodelifecycle/node_lifecycle_controller.go`.
fn unknown(node: &Obj, now: Timestamp) -> Option<Value> {
    let ready = condition(node, "Ready").filter(|ready| *ready != "Unknown")?;
    tracing::debug!(object = node.name(), was = ready, "not heard of yet");
    Some(json!({"status": {"conditions": [{"type": "Ready", "status": "Unknown",
        "reason": "NodeStatusUnknown", "message": "Kubelet stopped posting node status.",
        "lastTransitionTime": now}]}}))
}

/// That a pod is not ready while its node is not.
///
/// **Source**: `MarkPodsNotReady` in `pkg/controller/util/node/controller_utils.go`.
fn not_ready(pod: &Obj, now: Timestamp) -> Option<Value> {
    condition(pod, "Ready").filter(|ready| *ready == "True")?;
    Some(json!({"status": {"conditions": [{"type": "Ready", "status": "False",
        "lastTransitionTime": now}]}}))
}

fn condition<'a>(obj: &'a Obj, kind: &str) -> Option<&'a str> {
    let conditions = obj.json().pointer("/status/conditions")?.as_array()?;
    let found = conditions.iter().find(|one| one.get("type").is_some_and(|is| is == kind))?;
    found.get("status")?.as_str()
}

#[cfg(test)]
mod tests {
    use evenkeel_api::clusterconfig::ClusterConfig;

    use super::*;

    /// The nodes of two groups of these sizes.
    fn nodes(sizes: [u32; 2]) -> Vec<NodeSpec> {
        let [a, b] = sizes;
        let text = format!(
            "apiVersion: eksctl.io/v1alpha5\nkind: ClusterConfig\n\
             metadata: {{name: local, region: local}}\navailabilityZones: [local-a]\n\
             managedNodeGroups:\n\
             - {{name: a, instanceType: m5.2xlarge, desiredCapacity: {a}}}\n\
             - {{name: b, instanceType: m5.2xlarge, desiredCapacity: {b}}}\n"
        );
        ClusterConfig::parse(&text).unwrap().nodes
    }

    fn placed(kept: [u32; 2], wanted: [u32; 2]) -> String {
        let of = |node: &NodeSpec| {
            let body = serde_json::to_value(node.to_node()).unwrap();
            Arc::new(Obj::from_json(body).unwrap())
        };
        let kept: Vec<Arc<Obj>> = nodes(kept).iter().map(of).collect();
        let mut nodes = nodes(wanted);
        place(&mut nodes, &kept);
        let words: Vec<_> =
            nodes.iter().map(|node| format!("{}={}", node.name, node.index)).collect();
        words.join(" ")
    }

    #[test]
    fn a_node_keeps_its_addresses_when_others_come_or_go() {
        insta::assert_snapshot!(placed([2, 2], [2, 2]), @"a-0=0 a-1=1 b-0=2 b-1=3");
        insta::assert_snapshot!(placed([2, 2], [1, 2]), @"a-0=0 b-0=2 b-1=3");
        insta::assert_snapshot!(placed([2, 2], [3, 2]), @"a-0=0 a-1=1 a-2=4 b-0=2 b-1=3");
        insta::assert_snapshot!(placed([1, 2], [2, 2]), @"a-0=0 a-1=3 b-0=1 b-1=2");
    }
}
