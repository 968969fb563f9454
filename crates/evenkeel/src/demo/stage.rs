//! The stage of the demo: a cluster, the controllers, and the load.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
};

use anyhow::{Context as _, bail};
use evenkeel_api::Key;
use evenkeel_control::Store;
use evenkeel_live::connect;
use evenkeel_sim::demo::{manifests, script, timeline::Timeline};
use k8s_openapi::api::core::v1::Service;
use tokio::{io::AsyncWriteExt as _, process::ChildStdin, task::JoinHandle};

use super::{
    clients,
    host::Stalls,
    now_ms,
    processes::{PATIENCE, Processes, Said, spawn},
};
use crate::{cli::Safeguard, io};

/// The demo's settings.
#[derive(Debug, Clone, Copy)]
pub(super) struct Settings {
    /// How fast.
    pub(super) pace: script::Pace,
    /// The safeguard that is switched off.
    pub(super) without: Option<Safeguard>,
}

/// Everything that runs.
pub(super) struct Stage<'a> {
    dir: PathBuf,
    settings: Settings,
    processes: &'a mut Processes,
    load_stdin: ChildStdin,
    reading: JoinHandle<()>,
    kubeconfig: String,
    console: String,
    /// The cluster's API.
    pub(super) store: Arc<dyn Store>,
    /// What clients see.
    pub(super) clients: clients::Shared,
    /// The history of the Canary's status.
    pub(super) canary: Timeline,
    /// The stalls of this machine meanwhile.
    pub(super) stalls: Stalls,
}

impl<'a> Stage<'a> {
    /// Starts the cluster, the controllers and the load; ready when the first requests flow.
    pub(super) async fn set(
        dir: &Path,
        settings: Settings,
        processes: &'a mut Processes,
    ) -> anyhow::Result<Self> {
        let Settings { pace, without } = settings;
        write_manifests(dir, &settings)?;
        io::complain("starting a cluster of 9 nodes in 3 zones ...");
        let cluster =
            processes.cluster.insert(spawn(&cluster_words(dir, &settings), Stdio::null())?);
        let mut said = Said::of(cluster)?;
        let kubeconfig = said.after("kubeconfig: ").await?;
        let console = said.after("console: ").await?;
        said.after("ready").await?;
        said.keep_reading();
        start_controllers(processes, dir, (&kubeconfig, &console), &settings).await?;
        let store: Arc<dyn Store> = Arc::new(connect(Some(Path::new(&kubeconfig))).await?);
        let clients = clients::Shared::default();
        let seen = clients.clone();
        let canary = Timeline::follow(&store, now_ms, move |moment| seen.lock().report(moment));
        io::complain("the Canary takes over api-service ...");
        let ready = canary.wait_since(0, PATIENCE, |now| now.phase == "Initialized").await;
        ready.with_context(|| format!("the Canary still is {:?}", canary.since(0).last()))?;
        if without == Some(Safeguard::Confirmation) {
            // Without confirmation it is unknown when the gateway serves the first configuration;
            // the run is not about that.
            tokio::time::sleep(pace.gateway_lag).await;
        }
        let target = service_address(store.as_ref()).await?;
        let load = processes.load.insert(spawn(&load_words(&target), Stdio::piped())?);
        let load_stdin = load.stdin.take().context("the load client's stdin")?;
        let stdout = load.stdout.take().context("the load client's stdout")?;
        let reading = clients.read_from(stdout);
        Ok(Self {
            dir: dir.to_owned(),
            settings,
            processes,
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

    /// How fast it goes.
    pub(super) fn pace(&self) -> script::Pace {
        self.settings.pace
    }

    /// The file in which the workload records executed POSTs.
    pub(super) fn ledger(&self) -> PathBuf {
        ledger(&self.dir)
    }

    /// The Deployment's manifest with this release in it.
    pub(super) fn deployment(&self, release: Option<&script::Release>) -> String {
        deployment(&self.dir, &self.settings, release)
    }

    /// Announces the next phase to the load client.
    pub(super) async fn mark(&mut self, phase: &str) -> anyhow::Result<()> {
        let line = format!("mark {phase}\n");
        self.load_stdin.write_all(line.as_bytes()).await.context("the load client has ended")
    }

    /// Kills the controllers with SIGKILL; returns their process id.
    pub(super) async fn kill_controllers(&mut self) -> anyhow::Result<u32> {
        const ENDED: &str = "the controllers have ended by themselves";
        let mut controllers = self.processes.controllers.take().context(ENDED)?;
        let pid = controllers.id().context(ENDED)?;
        controllers.kill().await.context("kill the controllers")?;
        Ok(pid)
    }

    /// Starts the controllers again.
    pub(super) async fn restart_controllers(&mut self) -> anyhow::Result<Option<u32>> {
        let at = (&*self.kubeconfig, &*self.console);
        start_controllers(self.processes, &self.dir, at, &self.settings).await
    }

    /// Ends the load; ready when its last request is settled.
    pub(super) async fn stop_load(&mut self) -> anyhow::Result<()> {
        self.load_stdin.write_all(b"stop\n").await.context("the load client has ended")?;
        if let Some(load) = &mut self.processes.load {
            let waited = tokio::time::timeout(PATIENCE, load.wait()).await;
            waited.context("the load client does not end")?.context("wait for the load client")?;
        }
        // Its last lines may still be in the pipe.
        (&mut self.reading).await.context("read what the load client said")
    }
}

fn write_manifests(dir: &Path, settings: &Settings) -> anyhow::Result<()> {
    let pace = &settings.pace;
    let manifests = dir.join("manifests");
    std::fs::create_dir_all(&manifests)?;
    std::fs::write(manifests.join("cluster.yaml"), manifests::CLUSTER)?;
    std::fs::write(manifests.join("canary.yaml"), manifests::canary(pace))?;
    std::fs::write(manifests.join("slo.yaml"), manifests::SLO)?;
    std::fs::write(manifests.join("policy.yaml"), manifests::POLICY)?;
    std::fs::write(manifests.join("series.yaml"), manifests::client_series(pace))?;
    std::fs::write(manifests.join("api-service.yaml"), deployment(dir, settings, None))?;
    Ok(())
}

fn load_words(target: &str) -> Vec<String> {
    let words = [
        ("--target", target.to_owned()),
        ("--host", "api.elseblock.io".to_owned()),
        ("--phase", script::PHASES[0].name.to_owned()),
        ("--gets", script::GETS_PER_S.to_string()),
        ("--posts", script::POSTS_PER_S.to_string()),
        ("--post-bytes", script::POST_BYTES.to_string()),
    ];
    let flags = words.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]);
    std::iter::once("load".to_owned()).chain(flags).collect()
}

fn ledger(dir: &Path) -> PathBuf {
    dir.join("executed-posts")
}

fn deployment(dir: &Path, settings: &Settings, release: Option<&script::Release>) -> String {
    let ledger = ledger(dir).display().to_string();
    let drain = settings.without != Some(Safeguard::Drain);
    let options = manifests::Options { pace: settings.pace, ledger: &ledger, drain };
    manifests::deployment(&options, release)
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

fn cluster_words(dir: &Path, settings: &Settings) -> Vec<String> {
    let Settings { pace, without } = *settings;
    let path = |name: &str| dir.join(name).display().to_string();
    let scrape = evenkeel_base::format_duration(pace.scrape);
    let lag = evenkeel_base::format_duration(pace.gateway_lag);
    let mut words: Vec<String> = vec!["up".to_owned(), path("manifests")];
    // The clients ask the address of the Service, from outside of the cluster.
    words.extend(["--network", "host"].map(str::to_owned));
    words.extend(["--fresh", "--no-controllers", "--data-dir"].map(str::to_owned));
    words.push(path("cluster"));
    words.extend(["--scrape-interval".to_owned(), scrape, "--gateway-lag".to_owned(), lag]);
    words.extend(without_flag(without));
    words
}

async fn start_controllers(
    processes: &mut Processes,
    dir: &Path,
    (kubeconfig, console): (&str, &str),
    settings: &Settings,
) -> anyhow::Result<Option<u32>> {
    let Settings { pace, without } = *settings;
    let data_dir = dir.join("controllers").display().to_string();
    let look = evenkeel_base::format_duration(pace.scrape);
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
        // A killed process cannot release its Lease; the next one waits no longer than this.
        "--lease-duration",
        "4s",
    ];
    let mut words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
    words.extend(without_flag(without));
    let child = processes.controllers.insert(spawn(&words, Stdio::null())?);
    let pid = child.id();
    let mut said = Said::of(child)?;
    said.after("controllers: running").await?;
    said.keep_reading();
    Ok(pid)
}

async fn service_address(store: &dyn Store) -> anyhow::Result<String> {
    let key = Key::of::<Service>("default", "api-service");
    let found = store.get(&key).await?.with_context(|| format!("{key} does not exist"))?;
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
    bail!("{key}: nothing listens on {ip}, port 80 or 8080")
}
