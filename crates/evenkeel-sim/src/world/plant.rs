//! What the rest of a cluster does, at once: Deployments roll, endpoints follow, the gateway
//! confirms; or they do not, as the test says. Enough for a controller of releases, and cheap
//! enough for ten thousand runs.

use std::{collections::BTreeSet, sync::Arc};

use evenkeel_api::{GroupKind, Key, Obj, httproute::HttpRoute, labels::SERVICE_NAME};
use evenkeel_control::{
    ListQuery, Patch, Store, StoreError, Subresource, WatchEvent, WriteOptions,
};
use futures::StreamExt as _;
use k8s_openapi::api::{apps::v1::Deployment, core::v1::Service, discovery::v1::EndpointSlice};
use serde_json::{Value, json};
use tokio::sync::watch;

const OPTIONS: WriteOptions = WriteOptions { subresource: None, expect: None, manager: "plant" };

/// What goes wrong in the cluster around the controllers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Troubles {
    /// The gateway does not say that it routes by a new weight.
    pub unconfirmed: bool,
    /// Deployments whose pods do not become ready, and those that were are no longer.
    pub broken: BTreeSet<String>,
}

/// Plays the cluster around the controllers until dropped: Deployments are ready at once, Services
/// have endpoints, routes are confirmed, except for the troubles received. It sees the true store.
pub async fn play(store: Arc<dyn Store>, mut told: watch::Receiver<Troubles>) {
    let watches = [
        store.watch(ListQuery::of::<Deployment>()),
        store.watch(ListQuery::of::<Service>()),
        store.watch(ListQuery::of::<HttpRoute>()),
    ];
    let mut events = futures::stream::select_all(watches);
    loop {
        // Never at random: the same seed must give the same run.
        tokio::select! { biased;
            changed = told.changed() => {
                if changed.is_err() {
                    return;
                }
                let troubles = told.borrow_and_update().clone();
                for kind in [GroupKind::of::<Deployment>(), GroupKind::of::<HttpRoute>()] {
                    let listed = store.list(&ListQuery::all(kind)).await;
                    for obj in listed.map(|listed| listed.items).unwrap_or_default() {
                        follow(&*store, &obj, &troubles).await;
                    }
                }
            }
            event = events.next() => {
                let Some(event) = event else { return };
                if let Ok(WatchEvent::Applied(obj)) = event {
                    let troubles = told.borrow().clone();
                    follow(&*store, &obj, &troubles).await;
                }
            }
        }
    }
}

async fn follow(store: &dyn Store, obj: &Obj, troubles: &Troubles) {
    let played = if obj.key().kind.is::<HttpRoute>() {
        if troubles.unconfirmed { Ok(()) } else { confirm(store, obj).await }
    } else if obj.key().kind.is::<Service>() {
        select(store, obj).await
    } else {
        roll(store, obj, troubles.broken.contains(obj.name())).await
    };
    if let Err(error) = played {
        // Another writer was faster; the event of that write comes next.
        tracing::debug!(%error, object = %obj.key(), "plant");
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

async fn roll(store: &dyn Store, deployment: &Obj, broken: bool) -> Result<(), StoreError> {
    let wanted = deployment.json().pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or(1);
    let ready = if broken { 0 } else { wanted };
    let now = json!({"observedGeneration": deployment.generation(), "replicas": wanted,
        "updatedReplicas": wanted, "readyReplicas": ready, "availableReplicas": ready});
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
