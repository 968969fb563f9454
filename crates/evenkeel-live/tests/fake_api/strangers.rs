//! Good answers that are not the API server's: a load balancer's page for maintenance, or what a
//! proxy says that signs users in.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use evenkeel_api::{Key, Obj};
use evenkeel_control::{
    DeleteOptions, ListQuery, Patch, Read as _, StoreError, Subresource, WatchEvent, Write as _,
    WriteOptions,
};
use evenkeel_live::{CachedStore, KubeStore, LiveSettings};
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use serde_json::{Value, json};

use crate::support::{End, Reply, Request, Server, config_map, event, list, quick, soon};

const ALL: &str = "/api/v1/configmaps";
const ONE: &str = "/api/v1/namespaces/x/configmaps/a";
const UNKNOWN: Reply = Reply::Text(404, "404 page not found\n");

fn key() -> Key {
    Key::of::<ConfigMap>("x", "a")
}

fn maintenance() -> Value {
    json!({"status": "maintenance"})
}

fn page(request: &Request) -> bool {
    !request.is_watch() && request.path() == ALL
}

#[tokio::test]
async fn a_strangers_answer_to_a_list_makes_nothing_vanish() {
    for answer in [
        maintenance(),
        json!({}),
        json!({"kind": "ConfigMapList", "metadata": {"resourceVersion": "9"}}),
        json!({"kind": "ConfigMapList", "metadata": {}, "items": []}),
        json!({"kind": "Status", "metadata": {"resourceVersion": "9"}, "items": []}),
    ] {
        let (away, told) = (Arc::new(AtomicBool::new(false)), answer.clone());
        let is_away = away.clone();
        let server = Server::start(move |request| match request.path() {
            // The watches are no use, so everything is listed again.
            ALL if request.is_watch() => Reply::Watch(Vec::new(), End::Clean),
            ALL if is_away.load(Ordering::SeqCst) => Reply::Json(200, told.clone()),
            ALL => Reply::Json(200, list(5, &[config_map("a", 5, "one")])),
            _ => UNKNOWN,
        })
        .await;
        let store = CachedStore::new(server.store(quick()));
        let mut watch = store.watch(ListQuery::of::<ConfigMap>());
        assert!(matches!(soon(watch.next()).await, Some(Ok(WatchEvent::Applied(_)))));
        away.store(true, Ordering::SeqCst);
        let before = server.requests(page).len();
        server.reached(before + 3, page).await;
        assert!(soon(store.get(&key())).await.unwrap().is_some(), "{answer}");
        let error = soon(store.live().list(&ListQuery::of::<ConfigMap>())).await.unwrap_err();
        assert!(matches!(error, StoreError::Unreachable { .. }), "{answer}: {error}");
        while let Ok(Some(heard)) =
            tokio::time::timeout(Duration::from_millis(20), watch.next()).await
        {
            assert!(!matches!(heard, Ok(WatchEvent::Deleted(_))), "{answer}: {heard:?}");
            if heard.is_err_and(|error| error.to_string().contains("the answer is not")) {
                break;
            }
        }
    }
}

#[tokio::test]
async fn every_page_of_a_list_is_looked_at() {
    let server = Server::start(|request| match request.path() {
        ALL if request.target.contains("continue=") => Reply::Json(200, maintenance()),
        ALL => {
            let mut first = list(5, &[config_map("a", 5, "one")]);
            first["metadata"]["continue"] = "more".into();
            Reply::Json(200, first)
        }
        _ => UNKNOWN,
    })
    .await;
    let error = soon(server.store(quick()).list(&ListQuery::of::<ConfigMap>())).await.unwrap_err();
    assert!(matches!(error, StoreError::Unreachable { .. }), "{error}");
}

/// All that can be asked about one object.
async fn everything(store: &KubeStore) -> Vec<(&'static str, Result<(), StoreError>)> {
    let (key, options) = (key(), WriteOptions::default());
    let (patch, body) = (Patch::Merge(json!({"data": {"k": "v"}})), json!({}));
    let new = Obj::from_json(config_map("a", 5, "v")).unwrap();
    let status = WriteOptions { subresource: Some(Subresource::Status), ..options.clone() };
    let scale = WriteOptions { subresource: Some(Subresource::Scale), ..options.clone() };
    vec![
        ("get", store.get(&key).await.map(drop)),
        ("raw", store.raw(&key).await.map(drop)),
        ("create", store.create(&new, &options).await.map(drop)),
        ("patch", store.patch(&key, &patch, &options).await.map(drop)),
        ("status", store.patch(&key, &patch, &status).await.map(drop)),
        ("scale", store.patch(&key, &patch, &scale).await.map(drop)),
        ("delete", store.delete(&key, &DeleteOptions::default()).await),
        ("evict", store.post(&key, Subresource::Eviction, &body).await),
    ]
}

#[tokio::test]
async fn a_strangers_answer_is_no_object_and_no_success() {
    let mut nameless = config_map("a", 5, "v");
    nameless["metadata"] = json!({});
    let mut other_kind = config_map("a", 5, "v");
    other_kind["kind"] = "Secret".into();
    let mut old = config_map("a", 5, "v");
    old["metadata"].as_object_mut().unwrap().remove("resourceVersion");
    let failure = json!({"kind": "Status", "status": "Failure"});
    for answer in
        [maintenance(), nameless, other_kind, config_map("b", 5, "v"), old, failure, json!([])]
    {
        let told = answer.clone();
        let server = Server::start(move |request| match request.path() {
            "/api" | "/apis" => UNKNOWN,
            _ => Reply::Json(200, told.clone()),
        })
        .await;
        for (what, ended) in soon(everything(&server.store(quick()))).await {
            let error = ended.expect_err(&format!("{what}: {answer}"));
            assert!(matches!(error, StoreError::Unreachable { .. }), "{what} {answer}: {error}");
        }
    }
}

#[tokio::test]
async fn what_a_write_is_answered_is_not_kept_under_another_name() {
    let server = Server::start(|request| match (&*request.method, request.path()) {
        ("GET", ALL) if request.is_watch() => Reply::Watch(Vec::new(), End::Silent),
        ("GET", ALL) => Reply::Json(200, list(5, &[config_map("a", 5, "v")])),
        ("PATCH", ONE) => Reply::Json(200, config_map("b", 9, "v")),
        _ => UNKNOWN,
    })
    .await;
    let settings = LiveSettings { watch: Duration::from_mins(1), ..quick() };
    let store = CachedStore::new(server.store(settings));
    let mut watch = store.watch(ListQuery::of::<ConfigMap>());
    assert!(matches!(soon(watch.next()).await, Some(Ok(WatchEvent::Applied(_)))));
    let patch = Patch::Merge(json!({"data": {}}));
    assert!(soon(store.patch(&key(), &patch, &WriteOptions::default())).await.is_err());
    assert!(soon(store.get(&Key::of::<ConfigMap>("x", "b"))).await.unwrap().is_none());
}

#[tokio::test]
async fn a_strangers_event_interrupts_a_watch_and_changes_nothing() {
    let mut other_kind = config_map("a", 7, "v");
    other_kind["kind"] = "Secret".into();
    let mut no_revision = config_map("a", 7, "v");
    no_revision["metadata"].as_object_mut().unwrap().remove("resourceVersion");
    for odd in [event("DELETED", &other_kind), event("MODIFIED", &no_revision), maintenance()] {
        let server = Server::start(move |request| match request.path() {
            ALL if request.is_watch() => Reply::Watch(vec![odd.clone()], End::Silent),
            ALL => Reply::Json(200, list(5, &[config_map("a", 5, "v")])),
            _ => UNKNOWN,
        })
        .await;
        let mut watch = server.store(quick()).watch(ListQuery::of::<ConfigMap>());
        assert!(matches!(soon(watch.next()).await, Some(Ok(WatchEvent::Applied(_)))));
        assert!(matches!(soon(watch.next()).await, Some(Ok(WatchEvent::Synced))));
        let error = soon(watch.next()).await.unwrap().unwrap_err();
        assert!(matches!(error, StoreError::Unreachable { .. }), "{error}");
        // The next watch begins where the list was, and not at no place at all.
        let watches = tokio::select! {
            watches = server.reached(2, Request::is_watch) => watches,
            () = async { while watch.next().await.is_some() {} } => unreachable!(),
        };
        assert!(watches[1].target.contains("resourceVersion=5"), "{}", watches[1].target);
    }
}

#[tokio::test]
async fn a_list_of_kinds_without_kinds_is_no_list_of_kinds() {
    let server = Server::start(|request| match request.path() {
        "/api" | "/apis" => Reply::Json(200, json!({"kind": "APIGroupDiscoveryList"})),
        _ => UNKNOWN,
    })
    .await;
    let error = soon(server.store(quick()).get(&Key::of::<Secret>("x", "a"))).await.unwrap_err();
    assert!(matches!(error, StoreError::Unreachable { .. }), "{error}");
}
