//! What the rest of a cluster does, at once: Deployments roll, endpoints follow, the gateway
//! confirms; or they do not, as the test says. Enough for a controller of releases, and cheap
//! enough for ten thousand runs.

use std::{collections::BTreeSet, sync::Arc};

use evenkeel_api::{GroupKind, Key, Obj, httproute::HttpRoute, labels::SERVICE_NAME};
use evenkeel_control::{
    DeleteOptions, ListQuery, Patch, Store, StoreError, Subresource, WatchEvent, WriteOptions,
};
use futures::StreamExt as _;
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Pod, Service},
    discovery::v1::EndpointSlice,
};
use serde_json::{Value, json};
use tokio::sync::watch;

/// On a pod template: its pods are objects, too. Few worlds look at them, and none needs them for its
/// endpoints.
pub const WITH_PODS: &str = "plant.evenkeel.dev/pods";

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
        store.watch(ListQuery::of::<Pod>()),
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
    } else if obj.key().kind.is::<Pod>() {
        select_all(store, obj.namespace()).await
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

fn endpoint(namespace: &str, pod: &str) -> Value {
    json!({"addresses": ["127.64.0.1"], "conditions": {"ready": true},
        "targetRef": {"kind": "Pod", "namespace": namespace, "name": pod}})
}

/// Endpoints of the ready pods of a Deployment that a Service selects by their own labels.
async fn ready_pods(
    store: &dyn Store,
    deployment: &Obj,
    selector: &serde_json::Map<String, Value>,
) -> Result<Vec<Value>, StoreError> {
    let ready = deployment.json().pointer("/status/readyReplicas").and_then(Value::as_u64);
    let ready = usize::try_from(ready.unwrap_or_default()).unwrap_or_default();
    let fits =
        |pod: &Arc<Obj>| selector.iter().all(|(name, value)| pod.label(name) == value.as_str());
    let pods = pods_of(store, deployment).await?.into_iter().take(ready).filter(fits);
    Ok(pods.map(|pod| endpoint(pod.namespace(), pod.name())).collect())
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
    place(store, deployment).await?;
    select_all(store, deployment.namespace()).await
}

async fn select_all(store: &dyn Store, namespace: &str) -> Result<(), StoreError> {
    let services = store.list(&ListQuery::of::<Service>().within(namespace)).await?;
    for service in services.items {
        select(store, &service).await?;
    }
    Ok(())
}

fn has_pods(deployment: &Obj) -> bool {
    let annotations = deployment.json().pointer("/spec/template/metadata/annotations");
    annotations.and_then(|all| all.get(WITH_PODS)).is_some()
}

/// Pods of a Deployment, as many as it wants; labels that others put on them stay.
async fn place(store: &dyn Store, deployment: &Obj) -> Result<(), StoreError> {
    if !has_pods(deployment) {
        return Ok(());
    }
    let (name, namespace) = (deployment.name(), deployment.namespace());
    let labels = deployment.json().pointer("/spec/template/metadata/labels").cloned();
    let labels = labels.unwrap_or_default();
    let wanted = deployment.json().pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or(1);
    let names: BTreeSet<_> = (0..wanted).map(|number| format!("{name}-{number}")).collect();
    let fits = |pod: &Obj| {
        let mut labels = labels.as_object().into_iter().flatten();
        labels.all(|(name, value)| pod.label(name) == value.as_str())
    };
    let mut kept = BTreeSet::new();
    for pod in pods_of(store, deployment).await? {
        if names.contains(pod.name()) && fits(&pod) {
            kept.insert(pod.name().to_owned());
        } else {
            store.delete(pod.key(), &DeleteOptions::default()).await?;
        }
    }
    for name in names.difference(&kept) {
        let pod = json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": namespace, "labels": labels},
            "spec": {"containers": [{"name": "main", "image": "x"}]}});
        store.create(&Obj::from_json(pod)?, &OPTIONS).await?;
    }
    Ok(())
}

async fn pods_of(store: &dyn Store, deployment: &Obj) -> Result<Vec<Arc<Obj>>, StoreError> {
    let selector = deployment.json().pointer("/spec/selector/matchLabels").cloned();
    let selector = selector.unwrap_or_default();
    let fits = |pod: &Arc<Obj>| {
        let mut labels = selector.as_object().into_iter().flatten();
        labels.all(|(name, value)| pod.label(name) == value.as_str())
    };
    let pods = store.list(&ListQuery::of::<Pod>().within(deployment.namespace())).await?.items;
    Ok(pods.into_iter().filter(fits).collect())
}

async fn select(store: &dyn Store, service: &Obj) -> Result<(), StoreError> {
    let selector = service.json().pointer("/spec/selector").and_then(Value::as_object);
    let Some(selector) = selector else { return Ok(()) };
    let deployments = ListQuery::of::<Deployment>().within(service.namespace());
    let mut endpoints = Vec::new();
    for deployment in store.list(&deployments).await?.items {
        if has_pods(&deployment) {
            endpoints.extend(ready_pods(store, &deployment, selector).await?);
            continue;
        }
        let labels = deployment.json().pointer("/spec/template/metadata/labels");
        let fits =
            |(name, value): (&String, &Value)| labels.and_then(|l| l.get(name)) == Some(value);
        if !selector.iter().all(fits) {
            continue;
        }
        let ready = deployment.json().pointer("/status/readyReplicas").and_then(Value::as_i64);
        for number in 0..ready.unwrap_or_default() {
            let pod = format!("{}-{number}", deployment.name());
            endpoints.push(endpoint(service.namespace(), &pod));
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
