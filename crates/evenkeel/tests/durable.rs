//! A cluster that is killed and started again: what it had acknowledged is there, what ran still
//! runs, and what a folder holds can be saved and brought back. Real processes, one cluster after
//! another, because a machine has addresses for one at a time.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a step that fails fails the test")]

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use evenkeel_api::{FieldSelector, GroupKind, Key, Obj};
use evenkeel_control::{ListQuery, Read as _, WatchEvent, Write as _, WriteOptions};
use evenkeel_live::KubeStore;
use futures::StreamExt as _;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};

/// How long to wait for the addresses of this machine when another cluster has them.
const BUSY: Duration = Duration::from_mins(10);
/// Longest wait for something that must happen.
const PATIENCE: Duration = Duration::from_mins(2);
/// Times that the cluster is killed while it is written to.
const ROUNDS: usize = 3;
/// Clients that write at the same time.
const CLIENTS: usize = 16;
/// Acknowledged writes before the next kill.
const WRITES: usize = 200;

/// A folder with manifests and data, which goes away with its owner.
struct Place(PathBuf);

impl Place {
    fn new() -> Self {
        let dir = std::env::temp_dir().join(format!("evenkeel-durable-{}", std::process::id()));
        fs::create_dir_all(dir.join("manifests")).unwrap();
        let images = "images:\n  example/sleeper:1:\n    program: /bin/sh\n    args: [-c, \"exec \
                      sleep 600\"]\n";
        fs::write(dir.join("manifests/images.yaml"), images).unwrap();
        let sleeper = "apiVersion: v1\nkind: Pod\nmetadata: {name: sleeper}\nspec:\n  containers: \
                       [{name: sleeper, image: 'example/sleeper:1'}]\n";
        fs::write(dir.join("manifests/sleeper.yaml"), sleeper).unwrap();
        Self(dir)
    }

    fn command(&self, words: &[&str], data: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_evenkeel"));
        command.args(words).arg("--data-dir").arg(self.0.join(data)).current_dir(&self.0);
        command.env("HOME", &self.0).env_remove("KUBECONFIG").env("NO_COLOR", "1");
        command
    }

    fn ends(&self, words: &[&str], data: &str) -> Output {
        self.command(words, data).output().unwrap()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap_or_default();
    }
}

/// A running `evenkeel up`, stopped when dropped.
struct Up {
    child: Child,
    kubeconfig: PathBuf,
}

impl Up {
    fn start(place: &Place, flags: &[&str]) -> Self {
        let deadline = Instant::now() + BUSY;
        loop {
            let errors = place.0.join("stderr");
            let mut command = place
                .command(&["up", "manifests", "--no-controllers", "--network", "host"], "data");
            command.args(flags).stdout(Stdio::piped()).stderr(File::create(&errors).unwrap());
            let mut child = command.spawn().unwrap();
            let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
            let named = |line: String| line.strip_prefix("kubeconfig: ").map(PathBuf::from);
            let kubeconfig = lines.by_ref().map_while(Result::ok).find_map(named);
            if let Some(kubeconfig) = kubeconfig {
                std::thread::spawn(move || lines.count());
                return Self { child, kubeconfig };
            }
            child.wait().unwrap();
            let said = fs::read_to_string(&errors).unwrap();
            let is_busy = said.contains("another embedded cluster runs");
            assert!(is_busy && Instant::now() < deadline, "{said}");
            std::thread::sleep(Duration::from_secs(1));
        }
    }

    async fn store(&self) -> KubeStore {
        evenkeel_live::connect(Some(&self.kubeconfig)).await.unwrap()
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn stop(mut self) {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            kill(Pid::from_raw(self.child.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
            self.child.wait().unwrap();
        }
    }
}

fn config(name: &str) -> Obj {
    let meta = json!({"name": name, "namespace": "default"});
    let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta});
    Obj::from_json(body).unwrap()
}

/// Name to uid and revision.
type Written = BTreeMap<String, (String, String)>;

fn row(obj: &Obj) -> (String, (String, String)) {
    (obj.name().to_owned(), (obj.uid().to_owned(), obj.revision().to_string()))
}

/// Clients that create one object after another until nobody answers; what was acknowledged.
async fn write_until_killed(up: Up, round: usize) -> Written {
    let store = Arc::new(up.store().await);
    let (acknowledged, mut acknowledgements) = tokio::sync::mpsc::unbounded_channel();
    for client in 0..CLIENTS {
        let (store, acknowledged) = (store.clone(), acknowledged.clone());
        tokio::spawn(async move {
            for n in 0.. {
                let obj = config(&format!("r{round}-c{client}-{n}"));
                let Ok(made) = store.create(&obj, &WriteOptions::default()).await else { return };
                if acknowledged.send(row(&made)).is_err() {
                    return;
                }
            }
        });
    }
    drop(acknowledged);
    let mut written = Written::new();
    let mut up = Some(up);
    while let Some((name, found)) = acknowledgements.recv().await {
        written.insert(name, found);
        if written.len() >= WRITES
            && let Some(up) = up.take()
        {
            up.kill();
        }
    }
    assert!(up.is_none(), "only {} writes were acknowledged", written.len());
    written
}

async fn listed(store: &KubeStore) -> Written {
    let query = ListQuery::all(GroupKind::new("", "ConfigMap"));
    store.list(&query).await.unwrap().items.iter().map(|obj| row(obj)).collect()
}

/// The pod `sleeper` when it is Ready and its container is as wanted: uid, container and restarts.
async fn sleeper(store: &KubeStore, is_wanted: impl Fn(&Value) -> bool) -> (String, String, i64) {
    let query = ListQuery::all(GroupKind::new("", "Pod"));
    let query = query.with_fields(FieldSelector::equal("metadata.name", "sleeper"));
    let mut watch = store.watch(query);
    let waiting = async {
        while let Some(event) = watch.next().await {
            let Ok(WatchEvent::Applied(pod)) = event else { continue };
            let status = pod.json().get("status").cloned().unwrap_or_default();
            let conditions = status.get("conditions").and_then(Value::as_array);
            let is_ready = conditions
                .into_iter()
                .flatten()
                .any(|one| one["type"] == "Ready" && one["status"] == "True");
            let container = &status["containerStatuses"][0];
            if is_ready && container["state"].get("running").is_some() && is_wanted(container) {
                let id = container["containerID"].as_str().unwrap().to_owned();
                return (pod.uid().to_owned(), id, container["restartCount"].as_i64().unwrap());
            }
        }
        panic!("the watch has ended");
    };
    tokio::time::timeout(PATIENCE, waiting).await.unwrap()
}

fn said(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    format!("{}{}", text(&output.stdout), text(&output.stderr))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_outlives_every_kill() {
    let place = Place::new();
    let up = Up::start(&place, &[]);
    let first_kubeconfig = fs::read_to_string(&up.kubeconfig).unwrap();
    let before = sleeper(&up.store().await, |_| true).await;
    let mut all = write_until_killed(up, 0).await;
    for round in 1..=ROUNDS {
        let up = Up::start(&place, &[]);
        let found = listed(&up.store().await).await;
        for (name, written) in &all {
            assert_eq!(found.get(name), Some(written), "round {round}: {name}");
        }
        let unknown = found.len() - all.len();
        assert!(unknown <= CLIENTS, "{unknown} that nobody was told of");
        // The same process goes on in the same pod.
        let now =
            sleeper(&up.store().await, |container| container["containerID"] == before.1).await;
        assert_eq!(now, before);
        all = found;
        if round < ROUNDS {
            all.extend(write_until_killed(up, round).await);
        } else {
            is_alone_and_saved(&place, &up);
            assert_eq!(fs::read_to_string(&up.kubeconfig).unwrap(), first_kubeconfig);
            up.stop();
        }
    }
    // As after a boot of the machine: another process, in the same pod.
    let up = Up::start(&place, &[]);
    let again = sleeper(&up.store().await, |container| container["containerID"] != before.1).await;
    assert_eq!((&again.0, again.2), (&before.0, before.2 + 1));
    assert_eq!(listed(&up.store().await).await, all);
    up.stop();
    is_brought_back(&place, all.len());
    let up = Up::start(&place, &["--fresh"]);
    assert_eq!(listed(&up.store().await).await, Written::new());
    let pod = Key::new(GroupKind::new("", "Pod"), "default", "sleeper");
    let now = up.store().await.get(&pod).await.unwrap();
    assert!(now.is_none_or(|pod| pod.uid() != before.0));
    up.stop();
}

/// A second process is told who has the folder; a copy can be made meanwhile.
fn is_alone_and_saved(place: &Place, up: &Up) {
    let second = place.ends(&["up", "manifests"], "data");
    let wanted = format!("data is run by another evenkeel (process {})", up.child.id());
    assert!(!second.status.success() && said(&second).contains(&wanted), "{}", said(&second));
    let saved = place.ends(&["snapshot", "save", "running.snapshot"], "data");
    assert!(saved.status.success(), "{}", said(&saved));
    let refused = place.ends(&["snapshot", "restore", "running.snapshot"], "data");
    assert!(said(&refused).contains("run by another evenkeel"), "{}", said(&refused));
}

/// What a running and a stopped cluster have saved comes back, but not over anything.
fn is_brought_back(place: &Place, configs: usize) {
    let saved = place.ends(&["snapshot", "save", "stopped.snapshot"], "data");
    assert!(saved.status.success(), "{}", said(&saved));
    let names = |file: &str| {
        let text = fs::read_to_string(place.0.join(file)).unwrap();
        text.lines().filter(|line| line.contains("\"kind\":\"ConfigMap\"")).count()
    };
    assert_eq!((names("running.snapshot"), names("stopped.snapshot")), (configs, configs));
    let over = place.ends(&["snapshot", "restore", "running.snapshot"], "data");
    assert!(said(&over).contains("has objects already: --replace"), "{}", said(&over));
    for (words, data) in [
        (&["snapshot", "restore", "running.snapshot"][..], "other"),
        (&["snapshot", "restore", "running.snapshot", "--replace"], "data"),
    ] {
        let restored = place.ends(words, data);
        assert!(restored.status.success(), "{}", said(&restored));
        let again = place.ends(&["snapshot", "save", "again.snapshot"], data);
        assert!(again.status.success(), "{}", said(&again));
        assert_eq!(names("again.snapshot"), configs);
    }
    is_refused_when_damaged(place, &place.0.join("other/cluster/state.redb"));
}

fn is_refused_when_damaged(place: &Place, file: &Path) {
    let length = file.metadata().unwrap().len();
    File::options().write(true).open(file).unwrap().set_len(length / 2).unwrap();
    let damaged = place.ends(&["up", "manifests"], "other");
    let wanted = "evenkeel snapshot restore FILE --replace";
    assert!(!damaged.status.success() && said(&damaged).contains(wanted), "{}", said(&damaged));
}
