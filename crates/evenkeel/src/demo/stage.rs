//! The processes of the demo: each one is real, started here, and ended by its own id.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, bail};
use evenkeel_api::Key;
use evenkeel_control::Store;
use evenkeel_live::connect;
use evenkeel_sim::demo::{manifests, script, timeline::Timeline};
use k8s_openapi::api::core::v1::Service;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    process::{Child, ChildStdin, Command},
    task::JoinHandle,
};

use super::{clients, host::Stalls, now_ms};
use crate::{cli::Safeguard, io};

/// The demo's pace.
pub(super) const PACE: script::Pace = script::Pace::REAL;
/// Longest wait for a process to say what it should.
const PATIENCE: Duration = Duration::from_secs(90);

/// Everything that runs.
pub(super) struct Stage {
    dir: PathBuf,
    without: Option<Safeguard>,
    cluster: Child,
    controllers: Child,
    load: Child,
    load_stdin: ChildStdin,
    reading: JoinHandle<()>,
    kubeconfig: String,
    console: String,
    /// The cluster's API.
    pub(super) store: Arc<dyn Store>,
    /// What clients see.
    pub(super) clients: clients::Shared,
    /// What the Canary says.
    pub(super) canary: Timeline,
    /// What the machine did to all of them.
    pub(super) stalls: Stalls,
}

impl Stage {
    /// Starts the cluster, the controllers and the load; ready when the first requests flow.
    pub(super) async fn set(dir: &Path, without: Option<Safeguard>) -> anyhow::Result<Self> {
        let manifests = dir.join("manifests");
        std::fs::create_dir_all(&manifests)?;
        std::fs::write(manifests.join("cluster.yaml"), manifests::CLUSTER)?;
        std::fs::write(manifests.join("canary.yaml"), manifests::canary(&PACE))?;
        std::fs::write(manifests.join("slo.yaml"), manifests::SLO)?;
        std::fs::write(manifests.join("policy.yaml"), manifests::POLICY)?;
        std::fs::write(manifests.join("series.yaml"), manifests::client_series(&PACE))?;
        std::fs::write(manifests.join("api-service.yaml"), deployment(dir, without, None))?;
        io::complain("starting a cluster of 9 nodes in 3 zones ...");
        let mut cluster = spawn(&cluster_words(dir, without), Stdio::null())?;
        let mut said = Said::of(&mut cluster)?;
        let kubeconfig = said.after("kubeconfig: ").await?;
        let console = said.after("console: ").await?;
        said.after("ready").await?;
        said.keep_reading();
        let controllers = start_controllers(dir, &kubeconfig, &console, without).await?;
        let store: Arc<dyn Store> = Arc::new(connect(Some(Path::new(&kubeconfig))).await?);
        let clients = clients::Shared::default();
        let seen = clients.clone();
        let canary = Timeline::follow(&store, now_ms, move |moment| seen.lock().tell(moment));
        io::complain("the Canary takes over api-service ...");
        let ready = canary.wait_since(0, PATIENCE, |now| now.phase == "Initialized").await;
        ready.with_context(|| format!("the Canary still is {:?}", canary.since(0).last()))?;
        if without == Some(Safeguard::Confirmation) {
            // Nobody says when the gateway serves at all; that is not what the run is about.
            tokio::time::sleep(PACE.gateway_lag).await;
        }
        let target = service_address(store.as_ref()).await?;
        let post_bytes = script::POST_BYTES.to_string();
        let (gets, posts) = (script::GETS_PER_S.to_string(), script::POSTS_PER_S.to_string());
        let words = [
            "load",
            "--target",
            &target,
            "--host",
            "api.elseblock.io",
            "--phase",
            script::PHASES[0].name,
            "--gets",
            &gets,
            "--posts",
            &posts,
            "--post-bytes",
            &post_bytes,
        ];
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        let mut load = spawn(&words, Stdio::piped())?;
        let load_stdin = load.stdin.take().context("the load client's stdin")?;
        let stdout = load.stdout.take().context("the load client's stdout")?;
        let reading = clients.read_from(stdout);
        Ok(Self {
            dir: dir.to_owned(),
            without,
            cluster,
            controllers,
            load,
            load_stdin,
            reading,
            kubeconfig,
            console,
            store,
            clients,
            canary,
            stalls: Stalls::watch(),
        })
    }

    /// The file in which the workload records executed POSTs.
    pub(super) fn ledger(&self) -> PathBuf {
        ledger(&self.dir)
    }

    /// The Deployment's manifest with this release in it.
    pub(super) fn deployment(&self, release: Option<&script::Release>) -> String {
        deployment(&self.dir, self.without, release)
    }

    /// Tells the load client that the next phase begins.
    pub(super) async fn mark(&mut self, phase: &str) -> anyhow::Result<()> {
        let line = format!("mark {phase}\n");
        self.load_stdin.write_all(line.as_bytes()).await.context("the load client has ended")
    }

    /// Kills the controllers with SIGKILL; says which process that was.
    pub(super) async fn kill_controllers(&mut self) -> anyhow::Result<u32> {
        let pid = self.controllers.id().context("the controllers have ended by themselves")?;
        self.controllers.kill().await.context("kill the controllers")?;
        Ok(pid)
    }

    /// Starts the controllers again.
    pub(super) async fn restart_controllers(&mut self) -> anyhow::Result<Option<u32>> {
        self.controllers =
            start_controllers(&self.dir, &self.kubeconfig, &self.console, self.without).await?;
        Ok(self.controllers.id())
    }

    /// Ends the load; ready when its last request is settled.
    pub(super) async fn stop_load(&mut self) -> anyhow::Result<()> {
        self.load_stdin.write_all(b"stop\n").await.context("the load client has ended")?;
        let waited = tokio::time::timeout(PATIENCE, self.load.wait()).await;
        waited.context("the load client does not end")?.context("wait for the load client")?;
        // Its last lines may still be in the pipe.
        (&mut self.reading).await.context("read what the load client said")
    }

    /// Ends all processes.
    pub(super) async fn clear(mut self) -> anyhow::Result<()> {
        for child in [&mut self.load, &mut self.controllers, &mut self.cluster] {
            let Some(pid) = child.id() else { continue };
            let Ok(number) = i32::try_from(pid) else { continue };
            kill(Pid::from_raw(number), Signal::SIGTERM).context("end a process")?;
            if tokio::time::timeout(PATIENCE, child.wait()).await.is_err() {
                child.kill().await.context("kill a process")?;
            }
        }
        Ok(())
    }
}

fn ledger(dir: &Path) -> PathBuf {
    dir.join("executed-posts")
}

fn deployment(dir: &Path, without: Option<Safeguard>, release: Option<&script::Release>) -> String {
    let ledger = ledger(dir).display().to_string();
    let drain = without != Some(Safeguard::Drain);
    manifests::deployment(&manifests::Options { pace: PACE, ledger: &ledger, drain }, release)
}

fn without_flag(without: Option<Safeguard>) -> Vec<String> {
    let name = match without {
        None => return Vec::new(),
        Some(Safeguard::Retries) => "retries",
        Some(Safeguard::Drain) => "drain",
        Some(Safeguard::Confirmation) => "confirmation",
    };
    vec!["--without".to_owned(), name.to_owned()]
}

fn cluster_words(dir: &Path, without: Option<Safeguard>) -> Vec<String> {
    let path = |name: &str| dir.join(name).display().to_string();
    let scrape = evenkeel_base::format_duration(PACE.scrape);
    let lag = evenkeel_base::format_duration(PACE.gateway_lag);
    let mut words: Vec<String> = vec!["up".to_owned(), path("manifests")];
    words.extend(["--no-controllers", "--data-dir"].map(str::to_owned));
    words.push(path("cluster"));
    words.extend(["--scrape-interval".to_owned(), scrape, "--gateway-lag".to_owned(), lag]);
    words.extend(without_flag(without));
    words
}

async fn start_controllers(
    dir: &Path,
    kubeconfig: &str,
    console: &str,
    without: Option<Safeguard>,
) -> anyhow::Result<Child> {
    let data_dir = dir.join("controllers").display().to_string();
    let look = evenkeel_base::format_duration(PACE.scrape);
    let words = [
        "run",
        "--kubeconfig",
        kubeconfig,
        "--prometheus",
        console,
        "--slo-interval",
        &look,
        "--data-dir",
        &data_dir,
    ];
    let mut words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
    words.extend(without_flag(without));
    let mut child = spawn(&words, Stdio::null())?;
    let mut said = Said::of(&mut child)?;
    said.after("controllers: running").await?;
    said.keep_reading();
    Ok(child)
}

fn spawn(words: &[String], stdin: Stdio) -> anyhow::Result<Child> {
    let program = std::env::current_exe().context("find this program")?;
    Command::new(program)
        .args(words)
        .stdin(stdin)
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("start evenkeel {}", words.join(" ")))
}

/// What a child prints, line by line.
struct Said {
    lines: tokio::io::Lines<BufReader<tokio::process::ChildStdout>>,
}

impl Said {
    fn of(child: &mut Child) -> anyhow::Result<Self> {
        let stdout = child.stdout.take().context("a child's stdout")?;
        Ok(Self { lines: BufReader::new(stdout).lines() })
    }

    /// What follows `prefix` on the first line that begins with it.
    async fn after(&mut self, prefix: &str) -> anyhow::Result<String> {
        let search = async {
            while let Some(line) = self.lines.next_line().await? {
                if let Some(rest) = line.strip_prefix(prefix) {
                    return Ok(rest.trim().to_owned());
                }
            }
            bail!("a process ended before it said {prefix:?}")
        };
        tokio::time::timeout(PATIENCE, search)
            .await
            .with_context(|| format!("nothing said {prefix:?} within {PATIENCE:?}"))?
    }

    /// Keeps the pipe from filling up.
    fn keep_reading(mut self) {
        tokio::spawn(async move { while let Ok(Some(_)) = self.lines.next_line().await {} });
    }
}

async fn service_address(store: &dyn Store) -> anyhow::Result<String> {
    let key = Key::of::<Service>("default", "api-service");
    let found = store.get(&key).await?.with_context(|| format!("{key} is not there"))?;
    let service = found.get::<Service>()?;
    let ip = service.spec.as_ref().and_then(|spec| spec.cluster_ip.clone());
    let ip = ip.with_context(|| format!("{key} has no cluster IP"))?;
    // Without the right to open ports below 1024 the gateway listens 8000 higher.
    for port in [80, 8080] {
        let address = format!("{ip}:{port}");
        if tokio::net::TcpStream::connect(&address).await.is_ok() {
            return Ok(address);
        }
    }
    bail!("{key}: nobody listens on {ip}, port 80 or 8080")
}
