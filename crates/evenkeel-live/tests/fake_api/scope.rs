//! A store of one namespace asks the server for nothing outside of it.

use std::time::Duration;

use evenkeel_api::Key;
use evenkeel_control::{
    DeleteOptions, ListQuery, Read as _, StoreError, WatchEvent, Write as _, WriteOptions,
};
use evenkeel_live::{CachedStore, OneNamespace};
use futures::StreamExt as _;
use k8s_openapi::api::{coordination::v1::Lease, core::v1::ConfigMap};
use serde_json::json;

use crate::support::{End, Reply, Request, Server, config_map, list, quick, soon};

/// Everything that is asked for objects is answered.
async fn server() -> Server {
    Server::start(|request| match request.path() {
        "/api" | "/apis" => Reply::Text(404, ""),
        _ if request.is_watch() => Reply::Watch(Vec::new(), End::Silent),
        "/api/v1/namespaces/x/configmaps" => Reply::Json(200, list(1, &[config_map("a", 1, "b")])),
        path if path.contains("/leases/") => Reply::Json(
            200,
            json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
                "metadata": {"name": "l", "namespace": "ops", "resourceVersion": "1"}}),
        ),
        _ => Reply::Json(200, config_map("a", 1, "b")),
    })
    .await
}

/// Whether a request is about objects, and not about which kinds there are.
fn is_about_objects(request: &Request) -> bool {
    request.path().contains("/v1/")
}

#[tokio::test]
async fn what_is_asked_of_all_namespaces_is_asked_of_one() {
    let server = server().await;
    let store = OneNamespace::new(CachedStore::new(server.store(quick())), "x", "ops");
    let all = ListQuery::of::<ConfigMap>();
    assert_eq!(soon(store.list(&all)).await.unwrap().items.len(), 1);
    let mut watch = store.watch(all);
    assert!(matches!(soon(watch.next()).await, Some(Ok(WatchEvent::Applied(_)))));
    assert!(soon(store.get(&Key::of::<ConfigMap>("x", "a"))).await.unwrap().is_some());
    // Leases have a place of their own.
    assert!(soon(store.get(&Key::of::<Lease>("ops", "l"))).await.unwrap().is_some());
    let asked = server.requests(is_about_objects);
    let inside = |request: &&Request| {
        let path = request.path();
        path.starts_with("/api/v1/namespaces/x/") || path.contains("/namespaces/ops/leases/")
    };
    assert!(asked.iter().all(|request| inside(&request)), "{asked:?}");
}

#[tokio::test]
async fn what_is_asked_of_another_namespace_is_refused_without_asking() {
    let server = server().await;
    let store = OneNamespace::new(server.store(quick()), "x", "ops");
    let other = Key::of::<ConfigMap>("y", "a");
    let refused = soon(store.get(&other)).await.unwrap_err();
    assert!(matches!(refused, StoreError::Refused { .. }), "{refused}");
    assert_eq!(refused.to_string(), "ConfigMap/y/a: is outside of namespace x (--watch-namespace)");
    assert!(soon(store.get_latest(&other)).await.is_err());
    // Nor is it enough that Leases may be there.
    assert!(soon(store.get(&Key::of::<ConfigMap>("ops", "a"))).await.is_err());
    assert!(soon(store.list(&ListQuery::of::<ConfigMap>().within("y"))).await.is_err());
    assert!(soon(store.delete(&other, &DeleteOptions::default())).await.is_err());
    let made = json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "a", "namespace": "y"}});
    let made = evenkeel_api::Obj::from_json(made).unwrap();
    assert!(soon(store.create(&made, &WriteOptions::default())).await.is_err());
    let mut watch = store.watch(ListQuery::of::<ConfigMap>().within("y"));
    assert!(matches!(soon(watch.next()).await, Some(Err(StoreError::Refused { .. }))));
    let more = tokio::time::timeout(Duration::from_millis(10), watch.next()).await;
    assert!(more.is_err(), "a watch does not end");
    assert!(server.requests(is_about_objects).is_empty());
}
