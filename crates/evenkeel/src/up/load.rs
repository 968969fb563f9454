//! Brings the folder's objects into the cluster.

use anyhow::Context as _;
use evenkeel_api::Obj;
use evenkeel_control::{Patch, Store, StoreError, WriteOptions};
use serde_json::json;

use crate::{
    input::{Origin, rank},
    io,
};

const MANAGER: &str = "evenkeel-up";

/// Most bytes Kubernetes takes as annotations of one object.
const ANNOTATION_BYTES_MAX: usize = 256 << 10;

/// Makes the kinds that evenkeel reads but Kubernetes does not have.
pub(crate) async fn install_crds(store: &dyn Store) -> anyhow::Result<()> {
    for crd in evenkeel_api::crds() {
        let obj = Obj::from_json(crd).context("a built-in CRD")?;
        put(store, &obj).await.with_context(|| obj.key().to_string())?;
    }
    Ok(())
}

/// Creates or updates every object; what the server refuses is said with its place in the files,
/// and the others go on.
pub(crate) async fn apply(store: &dyn Store, objects: &[(Origin, Obj)]) {
    let mut ordered: Vec<_> = objects.iter().collect();
    ordered.sort_by_key(|(_, obj)| rank(obj));
    for (origin, obj) in ordered {
        let placed = placed(obj);
        let obj = placed.as_ref().unwrap_or(obj);
        let applied = remembered(obj);
        if let Err(error) = put(store, applied.as_ref().unwrap_or(obj)).await {
            io::complain(&format!("not applied: {origin}: {error}"));
        }
    }
}

/// The object in namespace `default` when it names none; `None` when it stays as it is.
///
/// Whether a kind is namespaced is the server's business: it refuses a wrong one.
fn placed(obj: &Obj) -> Option<Obj> {
    const CLUSTER_WIDE: [&str; 9] = [
        "Namespace",
        "Node",
        "CustomResourceDefinition",
        "ClusterRole",
        "ClusterRoleBinding",
        "PersistentVolume",
        "StorageClass",
        "PriorityClass",
        "GatewayClass",
    ];
    if !obj.namespace().is_empty() || CLUSTER_WIDE.contains(&&*obj.key().kind.kind) {
        return None;
    }
    let mut body = obj.json().clone();
    body["metadata"]["namespace"] = "default".into();
    Obj::from_json(body).ok()
}

/// The object with the annotation in which `kubectl apply` keeps what it applied, so that applying
/// the same file again finds nothing to change. `None` when it would be too long.
fn remembered(obj: &Obj) -> Option<Obj> {
    const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
    let mut body = obj.json().clone();
    let annotations = body.get_mut("metadata")?.as_object_mut()?.entry("annotations");
    annotations.or_insert_with(|| json!({})).as_object_mut()?;
    // Byte for byte as kubectl writes it: keys in order, and what HTML would read is escaped.
    let mut sorted = body.clone();
    sorted.sort_all_objects();
    let text = format!("{sorted}\n");
    let text = text.replace('&', "\\u0026").replace('<', "\\u003c").replace('>', "\\u003e");
    if text.len() + LAST_APPLIED.len() > ANNOTATION_BYTES_MAX {
        return None;
    }
    body["metadata"]["annotations"][LAST_APPLIED] = text.into();
    Obj::from_json(body).ok()
}

async fn put(store: &dyn Store, obj: &Obj) -> Result<(), StoreError> {
    let options = WriteOptions { manager: MANAGER, ..WriteOptions::default() };
    match store.create(obj, &options).await {
        Err(StoreError::Exists { .. }) => {
            let patch = Patch::Merge(obj.json().clone());
            store.patch(obj.key(), &patch, &options).await.map(drop)
        }
        other => other.map(drop),
    }
}
