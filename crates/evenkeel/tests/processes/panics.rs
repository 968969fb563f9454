//! A controller with a defect, over the live client and sockets.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use evenkeel_api::{Key, canary::Canary};
use evenkeel_assembly::{Assembly, Domain, Leases, Settings};
use evenkeel_control::{
    Activity, Controller, Host, ListQuery, ObserveError, Plan, Ports, Store, redact,
};
use evenkeel_live::{CachedStore, HttpHooks, ProviderNotifier, RealTime, connect};
use evenkeel_telemetry::shell::PrometheusClient;

use crate::cluster::{Cluster, PLANTED, soon};

/// Decides about Canaries, and panics at one of them. No controller of the program does, so this
/// one runs beside them as a domain of its own.
struct Panicky;

impl Controller for Panicky {
    type View = String;

    fn name(&self) -> &'static str {
        "panicky"
    }
    fn owns(&self) -> ListQuery {
        ListQuery::of::<Canary>()
    }
    async fn observe(&self, key: &Key, _: &Ports) -> Result<Option<String>, ObserveError> {
        Ok(Some(key.name.to_string()))
    }
    fn decide(&self, view: &String) -> Plan {
        assert_ne!(view, "shop", "a defect of this controller: token={PLANTED}");
        Plan::idle("Fine")
    }
}

const PANICKY: Domain = Domain {
    name: "panicky",
    about: "Has a defect",
    install: |run, _| run.with(Panicky),
    rights: &[],
};

/// Runs all domains and the one with the defect, as `evenkeel run` does.
async fn run(kubeconfig: std::path::PathBuf, prometheus: String, activity: Arc<Activity>) {
    let store = connect(Some(&kubeconfig)).await.unwrap();
    let store: Arc<dyn Store> = Arc::new(CachedStore::new(store));
    let time = Arc::new(RealTime::start());
    let door = Arc::new(evenkeel_guard::MemoryDoor::new(time.clone()));
    let host = Host::new(&store, time.clone(), time)
        .with_metrics(Arc::new(PrometheusClient::new(&prometheus).unwrap()))
        .with_notifier(Arc::new(ProviderNotifier::new(store.clone()).unwrap()))
        .with_hooks(Arc::new(HttpHooks::new(store.clone()).unwrap()))
        .with_door(door)
        .with_observer(activity);
    let settings =
        Settings { confirm: true, metric_servers: None, look_every: Duration::from_secs(15) };
    let leases = Leases {
        namespace: "default".to_owned(),
        identity: "test".to_owned(),
        duration: Duration::from_secs(15),
        annotations: BTreeMap::new(),
    };
    Assembly::new(host, settings).with_domain(PANICKY).with_leases(leases).run().await;
}

#[test]
#[ignore = "one of `all_at_once`"]
pub(crate) fn a_panic_in_one_controller_stops_that_object_there_and_nothing_else() {
    // As the program does; the controller's panic is told here.
    redact::panics();
    let cluster = Cluster::start("panics");
    cluster.install("default", "shop", 10);
    cluster.install("default", "other", 10);
    let activity = Arc::<Activity>::default();
    let prometheus = format!("http://{}", cluster.prometheus.addr);
    let began = Instant::now();
    cluster.beside(run(cluster.home.join("kubeconfig"), prometheus, activity.clone()));
    for name in ["shop", "other"] {
        cluster.reach("default", name, "Initialized");
        cluster.release("default", name, 2);
    }
    let released = Instant::now();
    for name in ["shop", "other"] {
        cluster.reach("default", name, "Succeeded");
        assert_eq!(cluster.weights("default", name), [0, 10, 0]);
    }
    soon(|| !cluster.flags("default", "shop").is_empty());
    let [kind, reason, message] = cluster.flags("default", "shop").pop().unwrap();
    assert_eq!((&*kind, &*reason), ("Stalled", "Panicked"));
    assert!(message.contains("a defect of this controller"), "{message}");
    assert_eq!(cluster.flags("default", "other"), [] as [[String; 3]; 0]);
    let metrics = activity.metrics();
    std::fs::write(cluster.home.join("metrics"), &metrics).unwrap();
    let panics = metrics
        .lines()
        .find(|line| line.contains("panicky") && line.contains("panicked"))
        .unwrap_or_else(|| panic!("{metrics}"));
    let panics: f64 = panics.rsplit(' ').next().unwrap().parse().unwrap();
    let seconds = began.elapsed().as_secs_f64();
    // The first pause after a panic is half a minute long, and the next ones are longer.
    assert!((1.0..1.0 + seconds / 15.0).contains(&panics), "{panics} in {seconds} s");
    cluster.line.asked_at_leisure(released);
    cluster.has_kept_its_secret();
}
