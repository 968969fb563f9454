//! One child process per node.

use std::{
    ffi::OsString,
    io,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::Context as _;
use evenkeel_api::clusterconfig::NodeSpec;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{
    process::{Child, ChildStdin, Command},
    time::Instant,
};

use super::{network::Own, secrets::write_private};

/// How long an agent may take to stop its containers.
const STOP: Duration = Duration::from_secs(15);

/// How long an agent that has ended is not there, at first and at most: it doubles with every end.
const PAUSE: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// An agent that has run for this long ends for another reason than the one before.
const SETTLED: Duration = Duration::from_mins(1);

/// What the agents need.
pub(crate) struct Options<'a> {
    /// The cluster's folder.
    pub(crate) data_dir: &'a Path,
    /// One per node, in the order of the nodes.
    pub(crate) kubeconfigs: &'a [PathBuf],
    /// The image map, which may be written later.
    pub(crate) images: &'a Path,
    /// Where the nodes are, unless in the network of the host.
    pub(crate) network: Option<&'a Own>,
    /// Folders that pods may use as `hostPath`.
    pub(crate) host_paths: &'a [PathBuf],
}

/// The running agents.
pub(crate) struct Agents {
    all: Vec<Agent>,
    nodes: PathBuf,
}

/// One of them, and how it is started again.
struct Agent {
    node: String,
    child: Child,
    /// Held as long as we live: the agent ends when it is closed. Waiting for a child would close it.
    lifeline: Option<ChildStdin>,
    start: Start,
    pause: Duration,
}

/// How an agent is started.
struct Start {
    words: Vec<OsString>,
    network: Option<Own>,
}

/// Our own executable, also when its file has been replaced since we were started.
pub(super) const OWN: &str = "/proc/self/exe";

/// Nodes that have files in this folder, of earlier starts as well.
pub(crate) fn present(data_dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(data_dir.join("nodes")).into_iter().flatten().flatten();
    let mut names: Vec<String> =
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}

/// Ends what is left of a node, and forgets its files.
pub(crate) async fn remove(data_dir: &Path, node: &str) -> anyhow::Result<()> {
    let dir = node_dir(data_dir, node);
    evenkeel_node::shell::stop_all(&dir).await;
    evenkeel_node::volumes::remove_tree(&dir)
        .with_context(|| format!("remove old files in {}", dir.display()))
}

/// The same for all nodes: a new cluster knows nothing of their pods.
pub(crate) async fn clear(data_dir: &Path) -> anyhow::Result<()> {
    for node in present(data_dir) {
        remove(data_dir, &node).await?;
    }
    Ok(())
}

/// Ends the containers of an earlier cluster that had a network of its own, which went with it.
pub(crate) async fn stop_left(data_dir: &Path) {
    stop_containers(&data_dir.join("nodes")).await;
}

async fn stop_containers(nodes: &Path) {
    for node in std::fs::read_dir(nodes).into_iter().flatten().flatten() {
        evenkeel_node::shell::stop_all(&node.path()).await;
    }
}

/// Where a node keeps its files.
pub(crate) fn node_dir(data_dir: &Path, node: &str) -> PathBuf {
    data_dir.join("nodes").join(node)
}

/// The same for a name that came with a request: one that is no node's may lead anywhere.
pub(crate) fn known_node_dir(data_dir: &Path, node: &str) -> Option<PathBuf> {
    present(data_dir).iter().any(|known| known == node).then(|| node_dir(data_dir, node))
}

/// Starts an agent per node.
pub(crate) fn start(nodes: &[NodeSpec], options: &Options<'_>) -> anyhow::Result<Agents> {
    let mut all = Vec::new();
    for (spec, kubeconfig) in nodes.iter().zip(options.kubeconfigs) {
        let root = node_dir(options.data_dir, &spec.name);
        let mut node = spec.to_node();
        if let Some(network) = options.network {
            network.place(&mut node, spec.index)?;
        }
        let file = root.join("node.json");
        write_private(&file, &serde_json::to_string(&node)?)?;
        // Beside the nodes: a claim outlives its pods, and what runs on its node.
        let claims = options.data_dir.join("volumes");
        let flags: [(&str, &Path); 5] = [
            ("--kubeconfig", kubeconfig),
            ("--node", &file),
            ("--root", &root),
            ("--images", options.images),
            ("--claims", &claims),
        ];
        let mut words = vec![OsString::from("agent")];
        words.extend(flags.iter().flat_map(|(flag, value)| [flag.into(), value.into()]));
        for dir in options.host_paths {
            words.extend(["--host-path".into(), dir.into()]);
        }
        if options.network.is_some() {
            words.extend(["--names".into(), evenkeel_network::DNS.to_string().into()]);
        }
        let start = Start { words, network: options.network.cloned() };
        let child = start.now();
        let mut child = child.with_context(|| format!("start the agent of node {}", spec.name))?;
        let lifeline = child.stdin.take();
        all.push(Agent { node: spec.name.clone(), child, lifeline, start, pause: PAUSE });
    }
    Ok(Agents { all, nodes: options.data_dir.join("nodes") })
}

impl Start {
    fn now(&self) -> io::Result<Child> {
        let mut command = Command::new(OWN);
        // However we end, the pipe closes: the signal for the agent to end, too.
        command.arg0("evenkeel").args(&self.words).stdin(Stdio::piped()).stdout(Stdio::null());
        let Some(network) = &self.network else { return command.spawn() };
        // A process is where the thread is that has started it.
        let runtime = tokio::runtime::Handle::current();
        network.inside(|| {
            let _runtime = runtime.enter();
            command.spawn()
        })?
    }
}

impl Agent {
    /// Ready when it has ended and runs again. Its pods went on; the new one takes them over.
    async fn again(&mut self) {
        let started = Instant::now();
        let ended = self.child.wait().await;
        if started.elapsed() > SETTLED {
            self.pause = PAUSE;
        }
        let how = ended.map_or_else(|error| error.to_string(), |status| status.to_string());
        tracing::warn!(node = self.node, "the node agent has ended ({how}), starting it again");
        loop {
            tokio::time::sleep(self.pause).await;
            self.pause = (self.pause * 2).min(PAUSE_MAX);
            match self.start.now() {
                Ok(mut child) => {
                    self.lifeline = child.stdin.take();
                    self.child = child;
                    return;
                }
                Err(error) => tracing::error!(node = self.node, %error, "no agent started"),
            }
        }
    }
}

impl Agents {
    /// Starts those again that end by themselves, as systemd does with a kubelet.
    pub(crate) async fn keep(&mut self) {
        let agents = self.all.iter_mut().map(|agent| async {
            loop {
                agent.again().await;
            }
        });
        futures::future::join_all(agents).await;
        // There are no nodes.
        std::future::pending::<()>().await;
    }

    /// Ends all agents with their containers.
    pub(crate) async fn stop(mut self) {
        let pids = self.all.iter().filter_map(|agent| i32::try_from(agent.child.id()?).ok());
        for pid in pids {
            if let Err(error) = kill(Pid::from_raw(pid), Signal::SIGTERM) {
                tracing::warn!(pid, %error, "signal to stop not sent to an agent");
            }
        }
        for Agent { node, child, .. } in &mut self.all {
            if tokio::time::timeout(STOP, child.wait()).await.is_err() {
                tracing::warn!(node, "an agent does not stop, killing it");
                child.kill().await.unwrap_or_default();
            }
        }
        // Those of an agent that had failed still run.
        stop_containers(&self.nodes).await;
    }
}
