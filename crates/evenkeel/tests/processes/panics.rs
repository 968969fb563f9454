//! A controller with a defect, in a process of its own: this executable, started again.

use std::{
    collections::BTreeMap,
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
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

/// Folder of the process with the defect; set for it only.
const FOLDER: &str = "EVENKEEL_TEST_PANICS_FOLDER";
/// Where it finds metrics.
const PROMETHEUS: &str = "EVENKEEL_TEST_PANICS_PROMETHEUS";

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

/// Runs all domains and the one with the defect, as `evenkeel run` does, and writes what `/metrics`
/// and `/why` would say into files of its folder. It ends with the process that started it.
#[test]
#[ignore = "a process of its own, which the test below starts"]
fn the_process_with_a_defect() {
    let Some(folder) = std::env::var_os(FOLDER).map(PathBuf::from) else { return };
    redact::panics();
    tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_ansi(false)
        .with_writer(std::io::stderr)
        .init();
    let (end, ended) = tokio::sync::oneshot::channel::<()>();
    std::thread::spawn(|| {
        // Nothing comes; it ends with the other process, however that ends.
        std::io::copy(&mut std::io::stdin(), &mut std::io::sink()).unwrap();
        drop(end);
    });
    let activity = Arc::<Activity>::default();
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    runtime.worker_threads(2).enable_all().build().unwrap().block_on(async {
        tokio::spawn(tell(folder.clone(), activity.clone()));
        tokio::select! {
            () = run(&folder, activity) => {}
            _ = ended => {}
        }
    });
}

/// Writes what the process would answer, again and again.
async fn tell(folder: PathBuf, activity: Arc<Activity>) {
    loop {
        let (new, whole) = (folder.join("metrics.new"), folder.join("metrics"));
        std::fs::write(&new, activity.metrics()).unwrap();
        std::fs::rename(new, whole).unwrap();
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

async fn run(folder: &Path, activity: Arc<Activity>) {
    let prometheus = std::env::var(PROMETHEUS).unwrap();
    let store = connect(Some(&folder.join("../kubeconfig"))).await.unwrap();
    let store: Arc<dyn Store> = Arc::new(CachedStore::new(store));
    let time = Arc::new(RealTime::start());
    let door = Arc::new(evenkeel_guard::MemoryDoor::new(time.clone()));
    let notifier = ProviderNotifier::new(store.clone(), time.clone()).unwrap();
    let host = Host::new(&store, time.clone(), time)
        .with_metrics(Arc::new(PrometheusClient::new(&prometheus).unwrap()))
        .with_notifier(Arc::new(notifier))
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

/// The other process, which is killed when dropped.
struct Other {
    child: Child,
    folder: PathBuf,
}

impl Other {
    /// Starts this executable again.
    fn start(cluster: &Cluster) -> Self {
        let folder = cluster.home.join("panicky");
        std::fs::create_dir_all(&folder).unwrap();
        let output = |file: &str| File::create(folder.join(file)).unwrap();
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "panics::the_process_with_a_defect", "--ignored", "--nocapture"])
            .env("HOME", &cluster.home)
            .env(FOLDER, &folder)
            .env(PROMETHEUS, format!("http://{}", cluster.prometheus.addr))
            .stdin(Stdio::piped())
            .stdout(output("stdout"))
            .stderr(output("stderr"))
            .spawn()
            .unwrap();
        Self { child, folder }
    }

    fn read(&self, file: &str) -> String {
        std::fs::read_to_string(self.folder.join(file)).unwrap_or_default()
    }

    fn lives(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        // It may have ended before.
        self.child.kill().unwrap_or_default();
        self.child.wait().unwrap();
    }
}

#[test]
#[ignore = "one of `all_at_once`"]
pub(crate) fn a_panic_in_one_controller_stops_that_object_there_and_nothing_else() {
    let cluster = Cluster::start("panics");
    cluster.install("default", "shop", 10);
    cluster.install("default", "other", 10);
    let began = Instant::now();
    let mut other = Other::start(&cluster);
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
    let panicked = |metrics: &str| {
        let mut lines = metrics.lines();
        lines.find(|line| line.contains("panicky") && line.contains("panicked")).map(str::to_owned)
    };
    soon(|| panicked(&other.read("metrics")).is_some());
    let panics = panicked(&other.read("metrics")).unwrap();
    let panics: f64 = panics.rsplit(' ').next().unwrap().parse().unwrap();
    let seconds = began.elapsed().as_secs_f64();
    // The first pause after a panic is half a minute long, and the next ones are longer.
    assert!((1.0..1.0 + seconds / 15.0).contains(&panics), "{panics} in {seconds} s");
    // It is a line of the log, and the process lives.
    let log = other.read("stderr");
    assert!(log.contains("a defect of this controller"), "the panic is not in the log");
    assert!(other.lives(), "{log}");
    cluster.line.asked_at_leisure(released);
    cluster.has_kept_its_secret();
}
