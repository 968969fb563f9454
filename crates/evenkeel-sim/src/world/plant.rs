//! What the rest of a cluster does, at once: Deployments roll, endpoints follow, the gateway
//! confirms. Enough for a controller of releases, and cheap enough for ten thousand runs.

use std::sync::Arc;

use evenkeel_api::{Key, Obj, httproute::HttpRoute, labels::SERVICE_NAME};
use evenkeel_control::{
    ListQuery, Patch, Store, StoreError, Subresource, WatchEvent, WriteOptions,
};
use futures::StreamExt as _;
use k8s_openapi::api::{apps::v1::Deployment, core::v1::Service, discovery::v1::EndpointSlice};
use serde_json::{Value, json};

const OPTIONS: WriteOptions = WriteOptions { subresource: None, expect: None, manager: "plant" };

/// Plays the cluster around the controllers until dropped. It sees the true store.
pub(super) async fn play(store: Arc<dyn Store>) {
    let watches = [
        store.watch(ListQuery::of::<Deployment>()),
        store.watch(ListQuery::of::<Service>()),
        store.watch(ListQuery::of::<HttpRoute>()),
    ];
    let mut events = futures::stream::select_all(watches);
    while let Some(event) = events.next().await {
        let Ok(WatchEvent::Applied(obj)) = event else { continue };
        let played = if obj.key().kind.is::<HttpRoute>() {
            confirm(&*store, &obj).await
        } else if obj.key().kind.is::<Service>() {
            select(&*store, &obj).await
        } else {
            roll(&*store, &obj).await
        };
        if let Err(error) = played {
            // Somebody else was faster; the event of that write comes next.
            tracing::debug!(%error, object = %obj.key(), "plant");
        }
    }
}

async fn status(store: &dyn Store, obj: &Obj, status: Value) -> Result<(), StoreError> {
    if obj.json().get("status") == Some(&status) {
        return Ok(());
    }
    let options = WriteOptions { subresource: Some(Subresource::Status), ..OPTIONS };
    store.patch(obj.key(), &Patch::Merge(json!({"status": status})), &options).await.map(drop)
}

async fn confirm(store: &dyn Store, route: &Obj) -> Result<(), StoreError> {
    let condition = json!({"type": "Programmed", "status": "True", "reason": "Programmed",
        "message": "", "lastTransitionTime": "2024-01-01T00:00:00Z",
        "observedGeneration": route.generation()});
    let parents = json!({"parents": [{
        "parentRef": {"name": route.name(), "kind": "Service", "group": ""},
        "controllerName": "evenkeel.dev/gateway", "conditions": [condition]}]});
    status(store, route, parents).await
}

async fn roll(store: &dyn Store, deployment: &Obj) -> Result<(), StoreError> {
    let wanted = deployment.json().pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or(1);
    let now = json!({"observedGeneration": deployment.generation(), "replicas": wanted,
        "updatedReplicas": wanted, "readyReplicas": wanted, "availableReplicas": wanted});
    status(store, deployment, now).await?;
    let services = store.list(&ListQuery::of::<Service>().within(deployment.namespace())).await?;
    for service in services.items {
        select(store, &service).await?;
    }
    Ok(())
}

async fn select(store: &dyn Store, service: &Obj) -> Result<(), StoreError> {
    let selector = service.json().pointer("/spec/selector").and_then(Value::as_object);
    let Some(selector) = selector else { return Ok(()) };
    let deployments = ListQuery::of::<Deployment>().within(service.namespace());
    let mut endpoints = Vec::new();
    for deployment in store.list(&deployments).await?.items {
        let labels = deployment.json().pointer("/spec/template/metadata/labels");
        let fits =
            |(name, value): (&String, &Value)| labels.and_then(|l| l.get(name)) == Some(value);
        if !selector.iter().all(fits) {
            continue;
        }
        let ready = deployment.json().pointer("/status/readyReplicas").and_then(Value::as_i64);
        for number in 0..ready.unwrap_or_default() {
            endpoints.push(json!({"addresses": ["127.64.0.1"], "conditions": {"ready": true},
                "targetRef": {"kind": "Pod", "namespace": service.namespace(),
                    "name": format!("{}-{number}", deployment.name())}}));
        }
    }
    let key = Key::of::<EndpointSlice>(service.namespace(), service.name());
    match store.get(&key).await? {
        None => {
            let slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
                "addressType": "IPv4", "endpoints": endpoints,
                "metadata": {"name": service.name(), "namespace": service.namespace(),
                    "labels": {SERVICE_NAME: service.name()}}});
            store.create(&Obj::from_json(slice)?, &OPTIONS).await.map(drop)
        }
        Some(old) if old.json().get("endpoints") == Some(&json!(endpoints)) => Ok(()),
        Some(_) => {
            let patch = Patch::Merge(json!({"endpoints": endpoints}));
            store.patch(&key, &patch, &OPTIONS).await.map(drop)
        }
    }
}
