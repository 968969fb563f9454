//! Whether another controller looks after a kind.

use std::sync::{Arc, Mutex};

use evenkeel_api::GroupKind;
use evenkeel_control::{Steward, Stewards as _, StoreError};
use evenkeel_live::{CachedStore, Manage, Neighbours};
use serde_json::{Value, json};

use crate::support::{End, Reply, Request, Server, list, quick, soon, status};

const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

/// A Deployment of Flagger that wants so many pods and has so many.
fn flagger(wants: u32, has: u32) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "flagger", "namespace": "x", "uid": "f", "resourceVersion": "3",
            "labels": {"app": "flagger"}},
        "spec": {"replicas": wants}, "status": {"replicas": has, "availableReplicas": has}})
}

fn answer(request: &Request, deployments: Option<&[Value]>) -> Reply {
    let resource = |group: &str, plural: &str, kind: &str, version: &str, scope: &str| {
        json!({"metadata": {"name": group}, "versions": [{"version": version, "resources": [
            {"resource": plural, "scope": scope, "responseKind": {"kind": kind}}]}]})
    };
    // One of ours, by its label.
    let definition = json!({"metadata": {"name": "canaries.flagger.app", "resourceVersion": "3",
            "labels": {"evenkeel.dev/definition": "true"}},
        "spec": {"versions": [{"name": "v1beta1", "schema": {"openAPIV3Schema": {}}}]}});
    match (request.path(), deployments) {
        ("/apis", _) => Reply::Json(
            200,
            json!({"kind": "APIGroupDiscoveryList", "items": [
                resource("flagger.app", "canaries", "Canary", "v1beta1", "Namespaced"),
                resource("apps", "deployments", "Deployment", "v1", "Namespaced"),
                resource("apiextensions.k8s.io", "customresourcedefinitions",
                    "CustomResourceDefinition", "v1", "Cluster")]}),
        ),
        _ if request.is_watch() => Reply::Watch(Vec::new(), End::Silent),
        (CRDS, _) => Reply::Json(200, list(3, &[definition])),
        (path, Some(found)) if path.ends_with("/deployments") => {
            let fits = request.target.contains("Selector=app%20in");
            Reply::Json(200, list(3, if fits { found } else { &[] }))
        }
        (path, None) if path.ends_with("/deployments") => status(403, "Forbidden", "deployments"),
        _ => Reply::Text(404, "404 page not found\n"),
    }
}

type Found = Arc<Mutex<Option<Vec<Value>>>>;

/// Who looks after Canaries where these Deployments are; `None`: they may not be listed.
async fn steward(
    manage: Manage,
    namespace: Option<&str>,
    deployments: Option<&[Value]>,
) -> Result<Steward, StoreError> {
    let found: Found = Arc::new(Mutex::new(deployments.map(<[Value]>::to_vec)));
    let server =
        Server::start(move |request| answer(request, found.lock().unwrap().as_deref())).await;
    let store = CachedStore::within(server.store(quick()), namespace);
    let neighbours = Neighbours::new(store, manage);
    soon(neighbours.of(&GroupKind::new("flagger.app", "Canary"))).await
}

fn is_other(steward: &Result<Steward, StoreError>) -> bool {
    matches!(steward, Ok(Steward::Other { name: "Flagger", .. }))
}

#[tokio::test]
async fn who_asks_for_annotations_does_not_overlook_a_controller_that_runs() {
    let with =
        async |deployments: Option<&[Value]>| steward(Manage::Annotated, None, deployments).await;
    assert!(is_other(&with(Some(&[flagger(1, 1)])).await));
    assert!(matches!(with(Some(&[])).await, Ok(Steward::Consent { .. })));
    // It cannot be ruled out.
    assert!(is_other(&with(None).await));
    assert!(is_other(&steward(Manage::Annotated, Some("x"), Some(&[])).await));
}

#[tokio::test]
async fn a_controller_that_cannot_be_looked_for_may_be_there() {
    let unknown = steward(Manage::Auto, None, None).await.unwrap_err();
    assert!(matches!(unknown, StoreError::Refused { .. }), "{unknown}");
    assert!(unknown.to_string().contains("list and watch deployments"), "{unknown}");
    // Unless a person has decided.
    assert_eq!(steward(Manage::All, None, None).await.unwrap(), Steward::Evenkeel);
}

#[tokio::test]
async fn a_deployment_without_replicas_is_no_controller() {
    let with = async |wants, has| steward(Manage::Auto, None, Some(&[flagger(wants, has)])).await;
    assert_eq!(with(0, 0).await.unwrap(), Steward::Evenkeel);
    assert!(is_other(&with(1, 1).await));
    // One that ends, and one that begins.
    assert!(is_other(&with(0, 1).await));
    assert!(is_other(&with(1, 0).await));
    let two = [flagger(0, 0), flagger(1, 1)];
    assert!(is_other(&steward(Manage::Auto, None, Some(&two)).await));
}
