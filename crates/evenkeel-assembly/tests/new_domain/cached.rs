//! The domain over a real connection, with the cache of `evenkeel run`.

use std::{collections::BTreeMap, fs, path::Path, sync::Arc, time::Duration};

use evenkeel_assembly::Assembly;
use evenkeel_base::Rng;
use evenkeel_cluster::{
    ApiServer, NoExec, NoLogs,
    http::{self, HttpOptions},
};
use evenkeel_control::{Host, ListQuery, Store, Watch, WatchEvent, WriteOptions};
use evenkeel_live::{CachedStore, LiveSettings, RealTime, connect_with};
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::ConfigMap;

use crate::{asks, greeter::GREETER, settings};

/// Generous, for busy machines.
const PATIENCE: Duration = Duration::from_mins(1);

/// Reads of objects that the server was asked for.
fn reads(store: &CachedStore) -> u64 {
    let requests = store.counts().requests;
    requests.iter().filter(|(verb, _)| ["get", "list"].contains(verb)).map(|(_, n)| n).sum()
}

/// Asks for a greeting, and waits for it.
async fn greeted(store: &Arc<dyn Store>, events: &mut Watch, name: &str) {
    store.create(&asks(name), &WriteOptions::default()).await.unwrap();
    let greeting = format!("{name}-greeting");
    let greeting = async {
        while let Some(event) = events.next().await {
            if matches!(event, Ok(WatchEvent::Applied(obj)) if obj.name() == greeting) {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, greeting).await.unwrap();
}

#[tokio::test]
async fn a_new_domain_reads_from_the_cache_and_not_from_the_server() {
    let time = Arc::new(RealTime::start());
    let server = ApiServer::new(time.clone(), Rng::new(1));
    let truth = server.store();
    let options = HttpOptions {
        addr: ([127, 0, 0, 1], 0).into(),
        tokens: BTreeMap::from([("token".to_owned(), "admin".to_owned())]),
        logs: Arc::new(NoLogs),
        exec: Arc::new(NoExec),
        tls_dir: None,
    };
    let serving = http::serve(server, options).await.unwrap();
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join("new-domain.kubeconfig");
    fs::write(&file, http::kubeconfig(&serving, "token")).unwrap();
    let live = connect_with(Some(&file), LiveSettings::default()).await.unwrap();
    let cached = CachedStore::new(live);
    let store: Arc<dyn Store> = Arc::new(cached.clone());
    let host = Host::new(&store, time.clone(), time);
    let assembly =
        Assembly::new(host, settings()).with_domain(GREETER).only(&["greeter".to_owned()]);
    let running = tokio::spawn(assembly.run());
    let mut events = truth.watch(ListQuery::of::<ConfigMap>());
    greeted(&truth, &mut events, "ann").await;
    let (before, hits) = (reads(&cached), cached.counts().cache_hits);
    for number in 0..20 {
        greeted(&truth, &mut events, &format!("guest-{number}")).await;
    }
    // Each was looked at, and its greeting too, without a request to the server.
    assert_eq!(reads(&cached), before, "{:?}", cached.counts());
    assert!(cached.counts().cache_hits >= hits + 40, "{:?}", cached.counts());
    assert_eq!(cached.kept().len(), 1, "one cache for the kind: {:?}", cached.kept());
    running.abort();
}
