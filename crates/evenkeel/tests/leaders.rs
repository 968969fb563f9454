//! Two real `evenkeel run` processes beside one API server: one acts, the other takes over.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a step that fails fails the test")]

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use evenkeel_api::{Key, Obj, canary::Canary};
use evenkeel_base::{Clock as _, Rng};
use evenkeel_cluster::{
    ApiServer, NoLogs,
    http::{self, HttpOptions},
};
use evenkeel_control::{Store, WriteOptions};
use evenkeel_live::RealTime;
use futures::executor::block_on;
use k8s_openapi::api::coordination::v1::Lease;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};

/// How long something may take that has to happen; generous, for machines that do much else.
const PATIENCE: Duration = Duration::from_mins(1);
const PAUSE: Duration = Duration::from_millis(50);
/// A leader may be silent for this long.
const LEASE: &str = "3s";

struct Cluster {
    store: Arc<dyn Store>,
    home: PathBuf,
    _serving: http::Serving,
    _runtime: tokio::runtime::Runtime,
}

impl Cluster {
    fn start() -> Self {
        let home = Path::new(env!("CARGO_TARGET_TMPDIR")).join("leaders");
        if home.exists() {
            fs::remove_dir_all(&home).unwrap();
        }
        fs::create_dir_all(&home).unwrap();
        let time = Arc::new(RealTime::start());
        let seed = u64::try_from(time.now().as_millisecond()).unwrap();
        let server = ApiServer::new(time, Rng::new(seed));
        let store = server.store();
        for crd in evenkeel_api::crds() {
            block_on(store.create(&Obj::from_json(crd).unwrap(), &WriteOptions::default()))
                .unwrap();
        }
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let options = HttpOptions {
            addr: ([127, 0, 0, 1], 0).into(),
            tokens: BTreeMap::from([("secret".to_owned(), "admin".to_owned())]),
            logs: Arc::new(NoLogs),
            tls_dir: None,
        };
        let serving = runtime.block_on(http::serve(server, options)).unwrap();
        fs::write(home.join("kubeconfig"), http::kubeconfig(&serving, "secret")).unwrap();
        Self { store, home, _serving: serving, _runtime: runtime }
    }

    fn evenkeel(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_evenkeel"));
        command.env("HOME", &self.home).env_remove("KUBECONFIG").env("NO_COLOR", "1");
        command
    }

    fn run(&self, name: &str) -> Run {
        let child = self
            .evenkeel()
            .args(["run", "--kubeconfig"])
            .arg(self.home.join("kubeconfig"))
            .args(["--prometheus", "http://127.0.0.1:1", "--lease-duration", LEASE, "--data-dir"])
            .arg(self.home.join(name))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut run = Run(child);
        let mut lines = BufReader::new(run.0.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap() == "controllers: running"), "{name} did not start");
        // Nobody reads on: it says no more.
        run
    }

    fn create(&self, name: &str) {
        let canary = json!({"apiVersion": "flagger.app/v1beta1", "kind": "Canary",
            "metadata": {"name": name, "namespace": "default"},
            "spec": {"targetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": name},
                "service": {"port": 80}, "analysis": {"interval": "30s", "threshold": 3,
                    "maxWeight": 50, "stepWeight": 10}}});
        block_on(self.store.create(&Obj::from_json(canary).unwrap(), &WriteOptions::default()))
            .unwrap();
    }

    fn field(&self, key: &Key, path: &str) -> Option<Value> {
        block_on(self.store.get(key)).unwrap()?.json().pointer(path).cloned()
    }

    fn leader(&self) -> String {
        let key = Key::of::<Lease>("default", "evenkeel-delivery");
        let holder = self.field(&key, "/spec/holderIdentity");
        holder.as_ref().and_then(Value::as_str).unwrap_or_default().to_owned()
    }

    /// Waits until a controller has said something about a Canary.
    fn looked_at(&self, name: &str) {
        let key = Key::of::<Canary>("default", name);
        soon(|| self.field(&key, "/status/conditions/0/reason").is_some());
    }
}

/// A process that is killed when dropped.
struct Run(Child);

impl Run {
    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.0.id()).unwrap()), signal).unwrap();
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        // It may have ended before.
        self.0.kill().unwrap_or_default();
        self.0.wait().unwrap();
    }
}

fn soon(check: impl Fn() -> bool) -> Duration {
    let began = Instant::now();
    while !check() {
        assert!(began.elapsed() < PATIENCE, "did not happen within {PATIENCE:?}");
        std::thread::sleep(PAUSE);
    }
    began.elapsed()
}

#[test]
fn one_of_two_processes_leads_and_the_other_takes_over() {
    let cluster = Cluster::start();
    let first = cluster.run("first");
    soon(|| !cluster.leader().is_empty());
    let one = cluster.leader();
    let second = cluster.run("second");
    cluster.create("a");
    cluster.looked_at("a");
    assert_eq!(cluster.leader(), one);
    why(&cluster, "a");

    // Killed: the other one waits for the Lease to expire, and no longer.
    first.signal(Signal::SIGKILL);
    soon(|| cluster.leader() != one);
    let two = cluster.leader();
    cluster.create("b");
    cluster.looked_at("b");

    // Told to stop: it gives the Lease back, and nobody waits.
    let third = cluster.run("third");
    second.signal(Signal::SIGTERM);
    soon(|| !["", two.as_str()].contains(&cluster.leader().as_str()));
    cluster.create("c");
    cluster.looked_at("c");
    drop(third);
}

/// The command finds the leader by its Lease and shows its last decision.
fn why(cluster: &Cluster, name: &str) {
    let ask = |output: &str| {
        cluster
            .evenkeel()
            .args(["why", &format!("canary/{name}"), "-o", output, "--kubeconfig"])
            .arg(cluster.home.join("kubeconfig"))
            .output()
            .unwrap()
    };
    let answer = ask("json");
    let report: Value = serde_json::from_slice(&answer.stdout)
        .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&answer.stderr)));
    assert_eq!(report["passes"][0]["controller"], "delivery", "{report}");
    assert_eq!(report["passes"][0]["reason"], "TargetMissing", "{report}");
    let text = String::from_utf8(ask("table").stdout).unwrap();
    assert!(text.contains("delivery: TargetMissing") && text.contains("next look"), "{text}");
}
