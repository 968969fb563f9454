//! What happens when nobody answers, or answers badly: everything ends by itself, and goes on.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use evenkeel_api::Key;
use evenkeel_control::{ListQuery, Read as _, StoreError, WatchEvent};
use evenkeel_live::LiveSettings;
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::ConfigMap;

use crate::support::{
    End, Reply, Request, Server, config_map, event, kinds, list, quick, soon, status,
};

fn key(name: &str) -> Key {
    Key::of::<ConfigMap>("x", name)
}

fn all() -> ListQuery {
    ListQuery::all(key("a").kind)
}

const UNKNOWN: Reply = Reply::Text(404, "404 page not found\n");

#[tokio::test]
async fn a_request_without_an_answer_ends_and_the_next_one_takes_a_fresh_connection() {
    let asked = AtomicUsize::new(0);
    let server = Server::start(move |request| match request.path() {
        "/api/v1/namespaces/x/configmaps/a" => match asked.fetch_add(1, Ordering::Relaxed) {
            1 => Reply::Silence,
            _ => Reply::Json(200, config_map("a", 5, "v")),
        },
        _ => UNKNOWN,
    })
    .await;
    let store = server.store(quick());
    assert!(store.get(&key("a")).await.unwrap().is_some());
    // Three connections at once, so that two are unused when the third is found dead.
    let a = key("a");
    let (one, two, three) =
        soon(async { tokio::join!(store.get(&a), store.get(&a), store.is_ready()) }).await;
    let error = one.and(two).unwrap_err();
    assert!(matches!(error, StoreError::Unreachable { .. }), "{error:?}");
    assert_eq!(
        error.to_string(),
        "ConfigMap/x/a: no answer from the API server: nothing within 300ms"
    );
    assert!(!three, "this server has no /readyz");
    let before = server.requests(|_| true).iter().map(|request| request.connection).max();
    assert!(soon(store.get(&key("a"))).await.unwrap().is_some());
    let last = server.requests(|_| true).pop().unwrap();
    assert_eq!(Some(last.connection), before.map(|before| before + 1));
    let counts = store.counts();
    assert_eq!((counts.silent, counts.pools, counts.of("get")), (1, 1, 5));
}

#[tokio::test]
async fn a_caller_who_gives_up_early_does_not_meet_one_dead_connection_after_the_other() {
    let dead = Arc::new(AtomicUsize::new(0));
    let up_to = dead.clone();
    let server = Server::start(move |request| match request.path() {
        // A firewall has forgotten the old connections; new ones are fine.
        _ if request.connection <= up_to.load(Ordering::Relaxed) => Reply::Silence,
        "/api/v1/namespaces/x/configmaps/a" => Reply::Json(200, config_map("a", 5, "v")),
        _ => UNKNOWN,
    })
    .await;
    let store = server.store(LiveSettings { request: Duration::from_mins(1), ..quick() });
    let a = key("a");
    let all = futures::future::join_all((0..4).map(|_| store.get(&a)));
    assert!(soon(all).await.iter().all(Result::is_ok));
    let opened = server.requests(|_| true).iter().map(|request| request.connection).max().unwrap();
    assert!(opened > 1, "several connections are unused now");
    dead.store(opened, Ordering::Relaxed);
    let given_up = tokio::time::timeout(Duration::from_millis(100), store.get(&a)).await;
    assert!(given_up.is_err());
    assert!(soon(store.get(&a)).await.unwrap().is_some());
    let counts = store.counts();
    assert_eq!((counts.failed, counts.silent, counts.pools), (1, 1, 1));
}

#[tokio::test]
async fn a_server_that_takes_connections_and_says_nothing_in_tls_is_given_up() {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    let mut config = kube::Config::new(url.parse().unwrap());
    config.accept_invalid_certs = true;
    let settings = LiveSettings { request: Duration::from_mins(10), ..quick() };
    let store = evenkeel_live::KubeStore::new(config, settings).unwrap();
    let error = soon(store.get(&key("a"))).await.unwrap_err();
    assert!(error.to_string().contains("no connection within 300ms"), "{error}");
}

#[tokio::test]
async fn a_watch_that_falls_silent_is_opened_again_where_it_was() {
    let opened = AtomicUsize::new(0);
    let server = Server::start(move |request| match request.path() {
        "/api/v1/configmaps" if request.is_watch() => {
            match opened.fetch_add(1, Ordering::Relaxed) {
                0 => Reply::Watch(vec![event("MODIFIED", &config_map("a", 7, "two"))], End::Silent),
                _ => {
                    Reply::Watch(vec![event("MODIFIED", &config_map("a", 9, "three"))], End::Silent)
                }
            }
        }
        "/api/v1/configmaps" => Reply::Json(200, list(5, &[config_map("a", 5, "one")])),
        _ => UNKNOWN,
    })
    .await;
    let store = server.store(quick());
    let mut watch = store.watch(all());
    let mut seen = Vec::new();
    let started = Instant::now();
    soon(async {
        while seen.len() < 5 {
            seen.push(match watch.next().await.unwrap() {
                Ok(WatchEvent::Applied(obj)) => format!("{obj:?}"),
                Ok(other) => format!("{other:?}"),
                Err(error) => error.to_string(),
            });
        }
    })
    .await;
    assert_eq!(
        seen,
        [
            "ConfigMap/x/a@5",
            "Synced",
            "ConfigMap/x/a@7",
            "ConfigMap: no answer from the API server: nothing within 350ms",
            "ConfigMap/x/a@9"
        ]
    );
    assert!(started.elapsed() >= Duration::from_millis(350));
    let watches = server.requests(Request::is_watch);
    assert!(watches[0].target.contains("resourceVersion=5"), "{watches:?}");
    assert!(watches[1].target.contains("resourceVersion=7"), "{watches:?}");
    assert!(watches[0].connection != watches[1].connection);
}

#[tokio::test]
async fn a_server_that_does_not_open_a_watch_is_given_up_too() {
    let server = Server::start(|request| match request.path() {
        "/api/v1/configmaps" if request.is_watch() => Reply::Silence,
        "/api/v1/configmaps" => Reply::Json(200, list(5, &[])),
        _ => UNKNOWN,
    })
    .await;
    let store = server.store(quick());
    let watch = store.watch(all());
    let reading = tokio::spawn(watch.for_each(|_| async {}));
    server.reached(2, Request::is_watch).await;
    reading.abort();
}

#[tokio::test]
async fn watches_that_end_at_once_are_opened_with_growing_pauses() {
    let server = Server::start(|request| match request.path() {
        // An event each time: that alone does not prove that the server is well.
        "/api/v1/configmaps" if request.is_watch() => {
            let bookmark = event("BOOKMARK", &config_map("a", 6, ""));
            Reply::Watch(vec![bookmark], End::Clean)
        }
        "/api/v1/configmaps" => Reply::Json(200, list(5, &[])),
        _ => UNKNOWN,
    })
    .await;
    let settings = LiveSettings { pause_max: Duration::from_mins(1), ..quick() };
    let store = server.store(settings);
    let started = Instant::now();
    let reading = tokio::spawn(store.watch(all()).for_each(|_| async {}));
    server.reached(6, Request::is_watch).await;
    // 10 + 20 + 40 + 80 + 160 ms.
    assert!(started.elapsed() >= Duration::from_millis(310), "{:?}", started.elapsed());
    reading.abort();
}

#[tokio::test]
async fn what_watches_do_not_tell_because_they_end_at_once_is_listed() {
    let lists = AtomicUsize::new(0);
    let server = Server::start(move |request| match request.path() {
        "/api/v1/configmaps" if request.is_watch() => Reply::Watch(Vec::new(), End::Clean),
        "/api/v1/configmaps" => match lists.fetch_add(1, Ordering::Relaxed) {
            0 => Reply::Json(200, list(5, &[config_map("a", 5, "one")])),
            _ => Reply::Json(200, list(6, &[config_map("a", 6, "two")])),
        },
        _ => UNKNOWN,
    })
    .await;
    let store = server.store(quick());
    let mut watch = store.watch(all());
    let mut seen = Vec::new();
    soon(async {
        while seen.len() < 4 {
            seen.push(match watch.next().await.unwrap() {
                Ok(WatchEvent::Applied(obj)) => format!("{obj:?}"),
                Ok(event) => format!("{event:?}"),
                Err(error) => error.to_string(),
            });
        }
    })
    .await;
    let ended = "ConfigMap: no answer from the API server: the watch ended at once and told \
        nothing; listing again";
    assert_eq!(seen, ["ConfigMap/x/a@5", "Synced", ended, "ConfigMap/x/a@6"]);
}

#[tokio::test]
async fn when_every_watch_ends_at_once_all_of_them_list_in_turn() {
    let server = Server::start(|request| match request.path().ends_with("/configmaps") {
        true if request.is_watch() => Reply::Watch(Vec::new(), End::Clean),
        true => Reply::Json(200, list(5, &[])),
        false => UNKNOWN,
    })
    .await;
    let settings = LiveSettings {
        pause_max: Duration::from_millis(10),
        relist_interval: Duration::from_millis(100),
        ..quick()
    };
    let store = server.store(settings);
    let names: Vec<_> = (0..5).map(|number| format!("n{number}")).collect();
    let reading = names.iter().map(|name| store.watch(all().within(name)).for_each(|_| async {}));
    let reading = tokio::spawn(futures::future::join_all(reading));
    let started = Instant::now();
    // Each lists twice on its own account: at the start, and after one short watch.
    let is_list =
        |request: &Request| request.path().ends_with("/configmaps") && !request.is_watch();
    server.reached(2 * 5 + 6, is_list).await;
    assert!(started.elapsed() >= Duration::from_millis(500), "{:?}", started.elapsed());
    // Nobody is passed over.
    for name in &names {
        let of_name = |request: &Request| request.path().contains(&format!("/{name}/"));
        server.reached(2 * 4, of_name).await;
    }
    reading.abort();
}

#[tokio::test]
async fn a_broken_connection_and_a_server_that_forgets_lose_nothing() {
    let (lists, watches) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let server = Server::start(move |request| match request.path() {
        "/api/v1/configmaps" if request.is_watch() => {
            match watches.fetch_add(1, Ordering::Relaxed) {
                0 => Reply::Watch(vec![event("ADDED", &config_map("b", 6, "one"))], End::Broken),
                1 => Reply::Close,
                2 => {
                    let gone =
                        serde_json::json!({"kind": "Status", "code": 410, "reason": "Expired"});
                    Reply::Watch(vec![event("ERROR", &gone)], End::Clean)
                }
                3 => status(410, "Expired", ""),
                _ => Reply::Watch(Vec::new(), End::Silent),
            }
        }
        "/api/v1/configmaps" => match lists.fetch_add(1, Ordering::Relaxed) {
            0 => Reply::Json(200, list(5, &[config_map("a", 5, "one")])),
            1 => status(410, "Expired", ""),
            2 => Reply::Json(200, list(8, &[config_map("b", 8, "two")])),
            _ => Reply::Json(200, list(9, &[config_map("b", 9, "three")])),
        },
        _ => UNKNOWN,
    })
    .await;
    let store = server.store(quick());
    let mut watch = store.watch(all());
    let mut seen = Vec::new();
    soon(async {
        while seen.len() < 6 {
            match watch.next().await.unwrap() {
                Ok(WatchEvent::Applied(obj)) => seen.push(format!("{obj:?}")),
                Ok(WatchEvent::Deleted(obj)) => seen.push(format!("-{obj:?}")),
                Ok(WatchEvent::Synced) => seen.push("Synced".to_owned()),
                Err(error) => assert!(matches!(error, StoreError::Unreachable { .. }), "{error}"),
            }
        }
    })
    .await;
    assert_eq!(
        seen,
        [
            "ConfigMap/x/a@5",
            "Synced",
            "ConfigMap/x/b@6",
            "-ConfigMap/x/a@5",
            "ConfigMap/x/b@8",
            "ConfigMap/x/b@9"
        ]
    );
    assert_eq!(store.counts().watches_relisted, 3);
}

#[tokio::test]
async fn a_refusal_is_told_and_asked_about_again() {
    let server = Server::start(|request| match request.path() {
        "/api/v1/configmaps" => status(403, "Forbidden", "x"),
        _ => UNKNOWN,
    })
    .await;
    let mut watch = server.store(quick()).watch(all());
    for _ in 0..3 {
        let error = soon(watch.next()).await.unwrap().unwrap_err();
        assert!(matches!(error, StoreError::Refused { .. }), "{error:?}");
    }
}

#[tokio::test]
async fn a_busy_server_is_not_asked_again_by_itself() {
    let server = Server::start(|request| match request.path() {
        "/api/v1/namespaces/x/configmaps/a" => status(429, "TooManyRequests", "a"),
        "/api/v1/namespaces/x/configmaps/b" => status(504, "Timeout", "b"),
        _ => UNKNOWN,
    })
    .await;
    let store = server.store(quick());
    let busy = soon(store.get(&key("a"))).await.unwrap_err();
    assert!(matches!(busy, StoreError::Busy { .. }), "{busy:?}");
    let late = soon(store.get(&key("b"))).await.unwrap_err();
    assert!(matches!(late, StoreError::Unreachable { .. }), "{late:?}");
    assert_eq!(store.counts().of("get"), 2);
}

#[tokio::test]
async fn a_missing_object_is_none_and_an_unknown_kind_is_an_error() {
    let server = Server::start(|request| match request.path() {
        "/api/v1/namespaces/x/configmaps/a" => status(404, "NotFound", "a"),
        _ => UNKNOWN,
    })
    .await;
    let store = server.store(quick());
    assert!(store.get(&key("a")).await.unwrap().is_none());
    // The list of kinds has it, the server does not: an aggregated server is away, say.
    let lease = Key::new(evenkeel_api::GroupKind::new("coordination.k8s.io", "Lease"), "x", "a");
    let error = store.get(&lease).await.unwrap_err();
    assert!(matches!(error, StoreError::Refused { .. }), "{error:?}");
    assert!(!error.is_without_kind());
    let unknown = Key::new(evenkeel_api::GroupKind::new("evenkeel.dev", "Nothing"), "x", "a");
    let error = store.get(&unknown).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "Nothing/x/a: the server has no kind Nothing.evenkeel.dev: install its CRD first \
         (evenkeel crds --all prints it)"
    );
    assert!(error.is_without_kind());
}

#[tokio::test]
async fn a_stray_404_does_not_make_a_known_kind_unknown() {
    // How many answers of the server a proxy replaces by its own.
    let stray = Arc::new(AtomicUsize::new(0));
    let (left, away) = (stray.clone(), Arc::new(AtomicUsize::new(0)));
    let down = away.clone();
    let server = Server::start(move |request| match request.path() {
        "/api" if down.load(Ordering::Relaxed) > 0 => Reply::Text(503, "starting"),
        "/api/v1/namespaces/x/configmaps/a" => {
            let is_stray =
                left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
            match is_stray {
                Ok(_) => Reply::Text(404, "<html>default backend - 404</html>"),
                Err(_) => Reply::Json(200, config_map("a", 5, "")),
            }
        }
        _ => UNKNOWN,
    })
    .await;
    let pause = Duration::from_mins(10);
    let settings = LiveSettings { discovery_min: pause, discovery_max: pause, ..quick() };
    let store = server.store(settings);
    // Something is missing, so the list of kinds has just been looked at.
    let missing = Key::new(evenkeel_api::GroupKind::new("evenkeel.dev", "Nothing"), "x", "a");
    assert!(store.get(&missing).await.unwrap_err().is_without_kind());
    assert!(store.get(&key("a")).await.unwrap().is_some());
    stray.store(1, Ordering::Relaxed);
    assert!(store.get(&key("a")).await.unwrap().is_some(), "it is asked once more");
    // The doubt leads to a look at once, not after the pause; one that fails takes nothing away.
    away.store(1, Ordering::Relaxed);
    stray.store(usize::MAX, Ordering::Relaxed);
    let looks = || server.requests(|request| request.path() == "/api").len();
    let before = looks();
    soon(async {
        while looks() == before {
            let error = store.get(&key("a")).await.unwrap_err();
            assert!(!error.is_without_kind(), "{error}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    let error = store.get(&key("a")).await.unwrap_err();
    assert!(matches!(error, StoreError::Refused { .. }), "{error:?}");
    stray.store(0, Ordering::Relaxed);
    assert!(store.get(&key("a")).await.unwrap().is_some());
}

#[tokio::test]
async fn a_version_that_is_no_longer_served_is_found_anew() {
    let looks = AtomicUsize::new(0);
    let server = Server::start(move |request| {
        let version = |old: &str, new: &str, looked: usize| {
            let text = kinds("/apis").to_string().replace(old, new);
            let lists = if looked < 1 { kinds("/apis").to_string() } else { text };
            Reply::Json(200, serde_json::from_str(&lists).unwrap())
        };
        match request.path() {
            "/apis" => version("\"v1\"", "\"v2\"", looks.fetch_add(1, Ordering::Relaxed)),
            "/apis/coordination.k8s.io/v2/namespaces/x/leases/a" => {
                let mut lease = config_map("a", 5, "");
                lease["apiVersion"] = "coordination.k8s.io/v2".into();
                lease["kind"] = "Lease".into();
                Reply::Json(200, lease)
            }
            _ => UNKNOWN,
        }
    })
    .await;
    let settings = LiveSettings { discovery_min: Duration::ZERO, ..quick() };
    let store = server.store(settings);
    let lease = Key::new(evenkeel_api::GroupKind::new("coordination.k8s.io", "Lease"), "x", "a");
    // The list of kinds is not read twice within a second.
    let found = soon(async {
        loop {
            match store.get(&lease).await {
                Ok(found) => break found,
                Err(error) => assert!(matches!(error, StoreError::Refused { .. }), "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    assert!(found.await.is_some());
    assert_eq!(server.requests(|request| request.path() == "/apis").len(), 2);
}

#[tokio::test]
async fn unknown_kinds_share_few_looks_at_the_list() {
    let server = Server::start(|_| UNKNOWN).await;
    let settings = LiveSettings { discovery_min: Duration::from_mins(1), ..quick() };
    let store = server.store(LiveSettings { discovery_max: Duration::from_mins(1), ..settings });
    let watches: Vec<_> = (0..12)
        .map(|n| evenkeel_api::GroupKind::new("evenkeel.dev", &format!("Kind{n}")))
        .map(|kind| store.watch(ListQuery::all(kind)))
        .collect();
    let mut errors = futures::stream::select_all(watches);
    for _ in 0..100 {
        assert!(soon(errors.next()).await.unwrap().is_err());
    }
    assert_eq!(store.counts().of("discovery"), 2, "one look is two requests");
}

#[tokio::test]
async fn a_failed_look_at_the_list_is_shared_by_all_who_wait_for_it() {
    let server = Server::start(|request| match request.path() {
        "/api" => Reply::Silence,
        _ => UNKNOWN,
    })
    .await;
    let store = server.store(quick());
    let keys = [key("a"), key("b"), key("c"), key("d"), key("e"), key("f")];
    let all = futures::future::join_all(keys.iter().map(|key| store.get(key)));
    for answer in soon(all).await {
        assert!(matches!(answer.unwrap_err(), StoreError::Unreachable { .. }));
    }
    // Six looks, one after the other, would be six requests.
    assert_eq!(store.counts().of("discovery"), 1);
}

#[tokio::test]
async fn requests_say_who_we_are() {
    let server = Server::start(|_| UNKNOWN).await;
    assert!(!server.store(quick()).is_ready().await);
    let agent = &server.requests(|_| true)[0].headers["user-agent"];
    assert_eq!(agent, concat!("evenkeel/", env!("CARGO_PKG_VERSION")));
}

#[tokio::test]
async fn a_proxy_of_the_environment_is_not_asked_for_this_machine() {
    let server = Server::start(|request| match request.path() {
        "/readyz" => Reply::Text(200, "ok"),
        _ => UNKNOWN,
    })
    .await;
    let mut config = server.config();
    config.proxy_url = Some("http://proxy.test:3128".parse().unwrap());
    let store = evenkeel_live::KubeStore::new(config.clone(), quick()).unwrap();
    assert!(store.is_ready().await);
    config.cluster_url = "https://cluster.test".parse().unwrap();
    let refused = evenkeel_live::KubeStore::new(config, quick()).err().unwrap().to_string();
    assert!(refused.contains("http://proxy.test:3128"), "{refused}");
}

#[tokio::test]
async fn an_object_that_cannot_be_read_does_not_hold_up_the_others() {
    let server = Server::start(|request| {
        let mut broken = config_map("broken", 6, "");
        broken["metadata"]["labels"] = 3.into();
        match request.path() {
            "/api/v1/configmaps" if request.is_watch() => {
                let fine = event("ADDED", &config_map("b", 7, ""));
                Reply::Watch(vec![event("ADDED", &broken), fine], End::Silent)
            }
            "/api/v1/configmaps" => Reply::Json(200, list(5, &[broken, config_map("a", 5, "")])),
            _ => UNKNOWN,
        }
    })
    .await;
    let mut watch = server.store(quick()).watch(all());
    let mut seen = Vec::new();
    while seen.len() < 3 {
        seen.push(match soon(watch.next()).await.unwrap().unwrap() {
            WatchEvent::Applied(obj) => obj.name().to_owned(),
            other => format!("{other:?}"),
        });
    }
    assert_eq!(seen, ["a", "Synced", "b"]);
}
