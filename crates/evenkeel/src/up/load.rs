//! Brings the folder's objects into the cluster.

use anyhow::Context as _;
use evenkeel_api::Obj;
use evenkeel_control::{NO_KIND, Patch, Store, StoreError, WriteOptions};
use serde_json::{Value, json};

use crate::{
    input::{Origin, rank},
    io,
};

const MANAGER: &str = "evenkeel-up";

/// Where `kubectl apply` keeps what it applied.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Most bytes Kubernetes takes as annotations of one object.
const ANNOTATION_BYTES_MAX: usize = 256 << 10;

/// Makes the kinds that evenkeel reads but Kubernetes does not have, and the default
/// `StorageClass`, unless a class of the name is there already: it may be a changed one.
pub(crate) async fn install(store: &dyn Store) -> anyhow::Result<()> {
    for crd in evenkeel_api::crds() {
        let obj = Obj::from_json(crd).context("a built-in CRD")?;
        put(store, &obj).await.with_context(|| obj.key().to_string())?;
    }
    let class = evenkeel_builtin::default_class();
    if store.get(class.key()).await?.is_none() {
        put(store, &class).await.with_context(|| class.key().to_string())?;
    }
    Ok(())
}

/// Creates or updates every object; what the server refuses is reported with its place in the
/// files, and the others continue.
pub(crate) async fn apply(store: &dyn Store, objects: &[(Origin, Obj)]) {
    let mut ordered: Vec<_> = objects.iter().collect();
    ordered.sort_by_key(|(_, obj)| rank(obj));
    for (origin, obj) in ordered {
        let placed = placed(obj);
        let obj = placed.as_ref().unwrap_or(obj);
        let applied = remembered(obj);
        if let Err(error) = put(store, applied.as_ref().unwrap_or(obj)).await {
            let message = words(&error);
            let line = origin.line_of(&message).map(|line| format!(", line {line}"));
            let line = line.unwrap_or_default();
            let advice = advice(&error, obj);
            io::complain(&format!("not applied: {origin}{line}: {message}{advice}"));
        }
    }
}

/// What the server says. Where the kind is not known, [`advice`] says what to do.
fn words(error: &StoreError) -> String {
    match error {
        StoreError::NoKind { object, kind } => format!("{object}: {NO_KIND} {kind}"),
        error => error.to_string(),
    }
}

/// What to do next, where the server's message does not contain it.
fn advice(error: &StoreError, obj: &Obj) -> String {
    match error {
        StoreError::NoKind { .. } => {
            "; add its CustomResourceDefinition to the folder, or leave the file out".to_owned()
        }
        StoreError::Refused { problem, .. }
            if problem.starts_with("namespaces ") && problem.ends_with(" not found") =>
        {
            let namespace = obj.namespace();
            format!("; add a Namespace {namespace} to the folder")
        }
        _ => String::new(),
    }
}

/// The object in namespace `default` when it names none; `None` when it stays as it is.
///
/// The server decides whether a kind is namespaced: it refuses a wrong one.
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

pub(super) async fn put(store: &dyn Store, obj: &Obj) -> Result<(), StoreError> {
    let options = WriteOptions { manager: MANAGER, ..WriteOptions::default() };
    match store.create(obj, &options).await {
        Err(StoreError::Exists { .. }) => {
            let found = store.get(obj.key()).await?;
            let mut patch = obj.json().clone();
            let before = found.as_deref().and_then(last_applied).unwrap_or_default();
            drop_fields(&before, &mut patch);
            store.patch(obj.key(), &Patch::Merge(patch), &options).await.map(drop)
        }
        other => other.map(drop),
    }
}

/// What was applied before, by us or by kubectl.
fn last_applied(obj: &Obj) -> Option<Value> {
    serde_json::from_str(obj.annotation(LAST_APPLIED)?).ok()
}

/// Makes a merge patch also take away what was applied before and is no longer wanted.
fn drop_fields(before: &Value, patch: &mut Value) {
    let (Some(before), Some(patch)) = (before.as_object(), patch.as_object_mut()) else { return };
    for (name, before) in before {
        match patch.get_mut(name) {
            Some(wanted) => drop_fields(before, wanted),
            None => {
                patch.insert(name.clone(), Value::Null);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use evenkeel_base::{FixedClock, Rng};
    use evenkeel_cluster::ApiServer;

    use super::*;

    #[test]
    fn refusals_name_the_line_of_the_field() {
        let now = "2026-01-01T00:00:00Z".parse().unwrap();
        let store = ApiServer::new(Arc::new(FixedClock(now)), Rng::new(1)).store();
        let text = "apiVersion: apps/v1
kind: Deployment
metadata: {name: a, namespace: default}
spec:
  replicas: y
  selector: {matchLabels: {a: b}}
  template:
    metadata: {labels: {a: b}}
    spec:
      containers:
      - name: c
        image: x
        ports:
        - containerPort: none
";
        let refused = |text: &str| {
            let mut input = crate::input::Input::default();
            crate::input::read_text("a.yaml", text, &mut input).unwrap();
            let (origin, obj) = input.objects.remove(0);
            let error = futures::executor::block_on(put(store.as_ref(), &obj)).unwrap_err();
            let message = error.to_string();
            format!("{:?} {message}", origin.line_of(&message))
        };
        insta::assert_snapshot!(refused(text), @r#"Some(5) Deployment/default/a is invalid: Deployment in version "v1" cannot be handled as a Deployment: spec.replicas: must be a whole number, not the boolean true"#);
        insta::assert_snapshot!(refused(&text.replace("replicas: y", "replicas: 2")), @r#"Some(14) Deployment/default/a is invalid: Deployment in version "v1" cannot be handled as a Deployment: spec.template.spec.containers[0].ports[0].containerPort: must be a whole number, not the text "none""#);
        let selector = text.replace("replicas: y", "replicas: 2").replace("none", "80");
        insta::assert_snapshot!(refused(&selector.replace("{a: b}}\n  t", "{a: c}}\n  t")), @r#"Some(8) Deployment/default/a is invalid: Deployment.apps "a" is invalid: spec.template.metadata.labels: Invalid value: {"a":"b"}: `selector` does not match template `labels`"#);
    }

    #[test]
    fn what_is_not_applied_says_what_to_do() {
        let now = "2026-01-01T00:00:00Z".parse().unwrap();
        let store = ApiServer::new(Arc::new(FixedClock(now)), Rng::new(1)).store();
        let said = |api_version: &str, kind: &str, namespace: &str| {
            let meta = json!({"name": "a", "namespace": namespace});
            let body = json!({"apiVersion": api_version, "kind": kind, "metadata": meta});
            let obj = Obj::from_json(body).unwrap();
            let error = futures::executor::block_on(put(store.as_ref(), &obj)).unwrap_err();
            format!("{}{}", words(&error), advice(&error, &obj))
        };
        let text = said("argoproj.io/v1alpha1", "Application", "default");
        assert!(
            text.ends_with(
                "the server has no kind Application.argoproj.io; add its \
                 CustomResourceDefinition to the folder, or leave the file out"
            ),
            "{text}"
        );
        let text = said("v1", "ConfigMap", "shop");
        assert!(
            text.ends_with("namespaces \"shop\" not found; add a Namespace shop to the folder"),
            "{text}"
        );
    }
}
