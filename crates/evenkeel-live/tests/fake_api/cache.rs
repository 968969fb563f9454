//! One watch for all readers, and what a reader may rely on.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use evenkeel_api::{GroupKind, Key};
use evenkeel_control::{
    DeleteOptions, ListQuery, Patch, Read as _, Reread, StoreError, Watch, WatchEvent, Write as _,
    WriteOptions,
};
use evenkeel_live::{CachedStore, LiveSettings};
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::support::{End, Reply, Request, Server, config_map, event, list, quick, soon, status};

const ALL: &str = "/api/v1/configmaps";
const INSIDE: &str = "/api/v1/namespaces/x/configmaps";
const UNKNOWN: Reply = Reply::Text(404, "404 page not found\n");

fn key(name: &str) -> Key {
    Key::of::<ConfigMap>("x", name)
}

/// Limits under which a watch may be silent for as long as a test takes.
fn patient() -> LiveSettings {
    let minute = Duration::from_mins(1);
    LiveSettings { watch: minute, request: minute, ..quick() }
}

/// A server with ConfigMaps `a` and `b`, and the other end of its watch. Writes are answered with
/// revision 20.
async fn server() -> (Server, mpsc::UnboundedSender<Value>) {
    let (events, feed) = mpsc::unbounded_channel();
    let feed = Mutex::new(Some(feed));
    let server = Server::start(move |request| match (&*request.method, request.path()) {
        ("GET", ALL) if request.is_watch() => match feed.lock().unwrap().take() {
            Some(feed) => Reply::Watch(Vec::new(), End::Feed(feed)),
            None => Reply::Watch(Vec::new(), End::Silent),
        },
        ("GET", ALL) => {
            Reply::Json(200, list(10, &[config_map("a", 1, "one"), config_map("b", 2, "one")]))
        }
        ("PATCH", _) => Reply::Json(200, config_map("a", 20, "two")),
        ("POST", _) => Reply::Json(201, config_map("new", 20, "two")),
        ("DELETE", _) => Reply::Json(
            200,
            json!({"kind": "Status", "status": "Success",
                "details": {"name": "b", "kind": "configmaps", "uid": "uid-b"}}),
        ),
        _ => UNKNOWN,
    })
    .await;
    (server, events)
}

/// Reads events until everything that exists has been sent.
async fn synced(watch: &mut Watch) -> Vec<String> {
    let mut seen = Vec::new();
    loop {
        match soon(watch.next()).await.unwrap() {
            Ok(WatchEvent::Synced) => return seen,
            Ok(event) => seen.push(show(&event)),
            Err(error) => seen.push(error.to_string()),
        }
    }
}

async fn next(watch: &mut Watch) -> String {
    show(&soon(watch.next()).await.unwrap().unwrap())
}

fn show(event: &WatchEvent) -> String {
    match event {
        WatchEvent::Applied(obj) => format!("+{}@{}", obj.name(), obj.revision()),
        WatchEvent::Deleted(obj) => format!("-{}@{}", obj.name(), obj.revision()),
        WatchEvent::Synced => "synced".to_owned(),
    }
}

fn is_read(request: &Request) -> bool {
    request.method == "GET" && !matches!(request.path(), "/api" | "/apis")
}

#[tokio::test]
async fn all_watches_and_reads_of_a_kind_share_one_list_and_one_watch() {
    let (server, events) = server().await;
    let store = CachedStore::new(server.store(patient()));
    let all = ListQuery::of::<ConfigMap>();
    let mut first = store.watch(all.clone());
    assert_eq!(synced(&mut first).await, ["+a@1", "+b@2"]);
    let mut second = store.watch(all.clone().within("x"));
    assert_eq!(synced(&mut second).await, ["+a@1", "+b@2"]);
    let mut elsewhere = store.watch(all.clone().within("y"));
    assert_eq!(synced(&mut elsewhere).await, [""; 0]);
    events.send(event("MODIFIED", &config_map("a", 11, "two"))).unwrap();
    assert_eq!(next(&mut first).await, "+a@11");
    assert_eq!(next(&mut second).await, "+a@11");
    let found = store.get(&key("a")).await.unwrap().unwrap();
    assert_eq!(&*found.revision().0, "11");
    assert!(store.get(&key("c")).await.unwrap().is_none());
    let listed = store.list(&all.within("x")).await.unwrap();
    assert_eq!((listed.items.len(), &*listed.revision.0), (2, "11"));
    assert_eq!(server.requests(is_read).len(), 2, "{:?}", server.requests(is_read));
    let kept = store.kept();
    assert_eq!(kept.len(), 1);
    assert_eq!((&*kept[0].query, kept[0].objects, kept[0].readers), ("ConfigMap", 2, 3));
    assert!(kept[0].is_fresh);
    assert_eq!(store.counts().cache_hits, 3);
}

#[tokio::test]
async fn what_a_reader_has_kept_is_named_and_not_unpacked() {
    // Too large to stay open.
    let value = "x".repeat(10_000);
    let objects = [config_map("a", 1, &value), config_map("b", 2, &value)];
    let server = Server::start(move |request| match (&*request.method, request.path()) {
        ("GET", ALL) if request.is_watch() => Reply::Watch(Vec::new(), End::Silent),
        ("GET", ALL) => Reply::Json(200, list(10, &objects)),
        _ => UNKNOWN,
    })
    .await;
    let store = CachedStore::new(server.store(patient()));
    let query = ListQuery::of::<ConfigMap>();
    synced(&mut store.watch(query.clone())).await;
    let unpacked = || {
        let metrics = store.metrics();
        let line = metrics.lines().find(|line| line.starts_with("evenkeel_cache_unpacked_total"));
        line.and_then(|line| line.split(' ').nth(1)?.parse::<u64>().ok()).unwrap()
    };
    let before = unpacked();
    let is_kept = |key: &Key, revision: &str| (&*key.name, revision) == ("a", "1");
    let named = |found: &Reread| match found {
        Reread::Same(key) => key.name.to_string(),
        Reread::Changed(obj) => format!("{} in full", obj.name()),
    };
    let listed = store.list_changed(&query, &is_kept).await.unwrap();
    assert_eq!(listed.iter().map(named).collect::<Vec<_>>(), ["a", "b in full"]);
    assert_eq!(unpacked() - before, 1);
    let (a, b) = (key("a"), key("b"));
    let a = store.get_changed(&a, &is_kept).await.unwrap();
    assert_eq!((a.as_ref().map(named), unpacked() - before), (Some("a".to_owned()), 1));
    let b = store.get_changed(&b, &is_kept).await.unwrap();
    assert_eq!((b.as_ref().map(named), unpacked() - before), (Some("b in full".to_owned()), 2));
    assert!(store.get_changed(&key("c"), &is_kept).await.unwrap().is_none());
    assert_eq!(server.requests(|request| is_read(request) && !request.is_watch()).len(), 1);
}

#[tokio::test]
async fn a_write_is_read_at_once_and_older_events_do_not_undo_it() {
    let (server, events) = server().await;
    let store = CachedStore::new(server.store(patient()));
    let mut watch = store.watch(ListQuery::of::<ConfigMap>());
    synced(&mut watch).await;
    let options = WriteOptions::default();
    store.patch(&key("a"), &Patch::Merge(json!({})), &options).await.unwrap();
    assert_eq!(&*store.get(&key("a")).await.unwrap().unwrap().revision().0, "20");
    assert_eq!(next(&mut watch).await, "+a@20");
    let new = evenkeel_api::Obj::from_json(config_map("new", 0, "two")).unwrap();
    store.create(&new, &options).await.unwrap();
    assert!(store.get(&key("new")).await.unwrap().is_some());
    assert_eq!(next(&mut watch).await, "+new@20");
    store.delete(&key("b"), &DeleteOptions::default()).await.unwrap();
    assert!(store.get(&key("b")).await.unwrap().is_none());
    assert_eq!(next(&mut watch).await, "-b@2");
    // The events about all this come late, and in the order of the watch.
    events.send(event("MODIFIED", &config_map("a", 15, "half"))).unwrap();
    events.send(event("MODIFIED", &config_map("b", 16, "half"))).unwrap();
    events.send(event("MODIFIED", &config_map("a", 20, "two"))).unwrap();
    events.send(event("DELETED", &config_map("b", 21, "half"))).unwrap();
    events.send(event("MODIFIED", &config_map("a", 22, "three"))).unwrap();
    assert_eq!(next(&mut watch).await, "+a@22");
    let listed = store.list(&ListQuery::of::<ConfigMap>()).await.unwrap();
    assert_eq!(
        listed.items.iter().map(|obj| obj.name().to_owned()).collect::<Vec<_>>(),
        ["a", "new"]
    );
    assert_eq!(server.requests(is_read).len(), 2);
}

#[tokio::test]
async fn a_cache_whose_watch_is_dead_answers_nothing() {
    let dead = Arc::new(AtomicBool::new(false));
    let down = dead.clone();
    let server = Server::start(move |request| match request.path() {
        _ if down.load(Ordering::Relaxed) => Reply::Close,
        ALL if request.is_watch() => Reply::Watch(Vec::new(), End::Silent),
        ALL => Reply::Json(200, list(10, &[config_map("a", 1, "one")])),
        _ => UNKNOWN,
    })
    .await;
    let settings = LiveSettings { stale_after: Duration::from_millis(500), ..quick() };
    let store = CachedStore::new(server.store(settings));
    let mut watch = store.watch(ListQuery::of::<ConfigMap>());
    synced(&mut watch).await;
    assert!(store.get(&key("a")).await.unwrap().is_some());
    dead.store(true, Ordering::Relaxed);
    let error = soon(async {
        loop {
            // The watch reports that it is broken; some time later the cache is not read any more.
            assert!(watch.next().await.unwrap().is_err());
            if let Err(error) = store.get(&key("a")).await {
                return error;
            }
        }
    })
    .await;
    assert!(matches!(error, StoreError::Unreachable { .. }), "{error:?}");
}

#[tokio::test]
async fn secrets_are_watched_without_their_content() {
    let secret = |name: &str, revision: u64| {
        let mut secret = config_map(name, revision, "c2VjcmV0");
        secret["kind"] = "Secret".into();
        secret
    };
    let server = Server::start(move |request| match (&*request.method, request.path()) {
        (_, "/api/v1/secrets") if request.is_watch() => Reply::Watch(Vec::new(), End::Silent),
        // This server does not know how to leave the content out.
        (_, "/api/v1/secrets") => Reply::Json(200, list(10, &[secret("a", 1)])),
        ("GET", "/api/v1/namespaces/x/secrets/a") => Reply::Json(200, secret("a", 1)),
        ("PATCH", "/api/v1/namespaces/x/secrets/a") => Reply::Json(200, secret("a", 20)),
        _ => UNKNOWN,
    })
    .await;
    let store = CachedStore::new(server.store(patient()));
    let mut watch = store.watch(ListQuery::of::<Secret>());
    let WatchEvent::Applied(seen) = soon(watch.next()).await.unwrap().unwrap() else {
        panic!("the first event is an object")
    };
    assert!(!seen.json().to_string().contains("c2VjcmV0"));
    assert!(seen.key().kind.is::<Secret>());
    synced(&mut watch).await;
    let lists = server.requests(|request| request.path() == "/api/v1/secrets");
    assert!(lists[0].headers["accept"].contains("as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"));
    let a = Key::of::<Secret>("x", "a");
    let found = store.get(&a).await.unwrap().unwrap();
    assert!(found.json().to_string().contains("c2VjcmV0"));
    // What is not there is not asked for.
    assert!(store.get(&Key::of::<Secret>("x", "b")).await.unwrap().is_none());
    assert_eq!(store.counts().of("get"), 1);
    // The answer of a write does not bring it in either.
    store.patch(&a, &Patch::Merge(json!({})), &WriteOptions::default()).await.unwrap();
    let WatchEvent::Applied(seen) = soon(watch.next()).await.unwrap().unwrap() else {
        panic!("a write is sent as an object")
    };
    assert_eq!(&*seen.revision().0, "20");
    assert!(!seen.json().to_string().contains("c2VjcmV0"));
}

#[tokio::test]
async fn what_is_read_often_is_watched_in_its_namespace_until_it_is_not_read_any_more() {
    let server = Server::start(|request| match request.path() {
        INSIDE if request.is_watch() => Reply::Watch(Vec::new(), End::Clean),
        INSIDE => Reply::Json(200, list(10, &[config_map("a", 1, "one")])),
        "/api/v1/namespaces/x/configmaps/a" => Reply::Json(200, config_map("a", 1, "one")),
        _ => UNKNOWN,
    })
    .await;
    let settings = LiveSettings { cache_idle: Duration::from_millis(400), ..quick() };
    let store = CachedStore::new(server.store(settings));
    for _ in 0..2 {
        store.get(&key("a")).await.unwrap();
    }
    assert!(store.kept().is_empty(), "two reads are not worth a watch");
    store.get(&key("a")).await.unwrap();
    soon(async {
        while !store.kept().iter().any(|kept| kept.is_fresh) {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(store.kept()[0].query, "ConfigMap in x");
    let before = store.counts().of("get");
    assert!(store.get(&key("a")).await.unwrap().is_some());
    assert_eq!(store.counts().of("get"), before);
    soon(async {
        while !store.kept().is_empty() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_dropped_watch_closes_its_cache() {
    let server = Server::start(|request| match request.path() {
        ALL if request.is_watch() => Reply::Watch(Vec::new(), End::Clean),
        ALL => Reply::Json(200, list(10, &[])),
        _ => UNKNOWN,
    })
    .await;
    let settings = LiveSettings { cache_idle: Duration::from_millis(50), ..quick() };
    let store = CachedStore::new(server.store(settings));
    let mut watch = store.watch(ListQuery::of::<ConfigMap>());
    synced(&mut watch).await;
    server.reached(3, Request::is_watch).await;
    assert_eq!(store.kept().len(), 1, "it is still watched");
    drop(watch);
    soon(async {
        while !store.kept().is_empty() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn without_permission_to_watch_reads_go_to_the_server() {
    let server = Server::start(|request| match request.path() {
        ALL | INSIDE => status(403, "Forbidden", "x"),
        "/api/v1/namespaces/x/configmaps/a" => Reply::Json(200, config_map("a", 1, "one")),
        _ => UNKNOWN,
    })
    .await;
    let store = CachedStore::new(server.store(quick()));
    let mut watch = store.watch(ListQuery::of::<ConfigMap>());
    let error = soon(watch.next()).await.unwrap().unwrap_err();
    assert!(matches!(error, StoreError::Refused { .. }), "{error:?}");
    for _ in 0..5 {
        assert!(store.get(&key("a")).await.unwrap().is_some());
    }
    assert_eq!(store.counts().of("get"), 5);
}

#[tokio::test]
async fn no_list_is_answered_from_the_past() {
    // The watch is no use, so that everything is listed again; each list has two pages.
    let server = Server::start(|request| match request.path() {
        ALL if request.is_watch() => Reply::Watch(Vec::new(), End::Clean),
        ALL if request.target.contains("continue=") => Reply::Json(200, list(10, &[])),
        ALL => {
            let mut first = list(10, &[config_map("a", 1, "one")]);
            first["metadata"]["continue"] = "more".into();
            Reply::Json(200, first)
        }
        _ => UNKNOWN,
    })
    .await;
    let store = CachedStore::new(server.store(quick()));
    let mut watch = store.watch(ListQuery::of::<ConfigMap>());
    synced(&mut watch).await;
    store.live().list(&ListQuery::of::<ConfigMap>()).await.unwrap();
    let is_list = |request: &Request| request.path() == ALL && !request.is_watch();
    // A revision would let a server answer with what it had then, and a list that is older than what
    // is known is taken for a cluster that was put back to an older state.
    for list in server.reached(8, is_list).await {
        assert!(!list.target.contains("resourceVersion"), "{}", list.target);
    }
}

#[tokio::test]
async fn leases_are_always_read_from_the_server() {
    let revision = AtomicUsize::new(1);
    let server = Server::start(move |request| match request.path() {
        "/apis/coordination.k8s.io/v1/namespaces/x/leases/a" => {
            let mut lease = config_map("a", 0, "");
            lease["apiVersion"] = "coordination.k8s.io/v1".into();
            lease["kind"] = "Lease".into();
            lease["metadata"]["resourceVersion"] =
                revision.fetch_add(1, Ordering::Relaxed).to_string().into();
            Reply::Json(200, lease)
        }
        _ => UNKNOWN,
    })
    .await;
    let store = CachedStore::new(server.store(patient()));
    let lease = Key::new(GroupKind::new("coordination.k8s.io", "Lease"), "x", "a");
    for expected in ["1", "2", "3", "4", "5"] {
        let found = store.get(&lease).await.unwrap().unwrap();
        assert_eq!(&*found.revision().0, expected);
    }
    assert!(store.kept().is_empty());
}
