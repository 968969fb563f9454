//! One child process per node.

use std::{
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
use tokio::process::{Child, Command};

use super::{network::Own, secrets::write_private};

/// How long an agent may take to stop its containers.
const STOP: Duration = Duration::from_secs(15);

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
}

/// The running agents. One that ends by itself is a failed node: it is not started again.
pub(crate) struct Agents {
    children: Vec<Child>,
    nodes: PathBuf,
}

/// Our own executable, also when its file has been replaced since we were started.
const OWN: &str = "/proc/self/exe";

/// Ends what is left of an earlier cluster in this folder, whose agents did not stop, and forgets
/// its files: a new cluster knows nothing of those pods.
pub(crate) async fn clear(data_dir: &Path) -> anyhow::Result<()> {
    let nodes = data_dir.join("nodes");
    stop_containers(&nodes).await;
    match std::fs::remove_dir_all(&nodes) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove old files in {}", nodes.display()))
        }
        _ => Ok(()),
    }
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

/// Starts an agent per node.
pub(crate) fn start(nodes: &[NodeSpec], options: &Options<'_>) -> anyhow::Result<Agents> {
    let mut children = Vec::new();
    for (index, (spec, kubeconfig)) in nodes.iter().zip(options.kubeconfigs).enumerate() {
        let root = node_dir(options.data_dir, &spec.name);
        let mut node = spec.to_node();
        if options.network.is_some() {
            Own::place(&mut node, index);
        }
        let file = root.join("node.json");
        write_private(&file, &serde_json::to_string(&node)?)?;
        let mut command = Command::new(OWN);
        command
            .arg0("evenkeel")
            .arg("agent")
            .arg("--kubeconfig")
            .arg(kubeconfig)
            .arg("--node")
            .arg(&file);
        command.arg("--root").arg(&root).arg("--images").arg(options.images);
        // However we end, the pipe closes: the signal for the agent to end, too.
        command.stdin(Stdio::piped()).stdout(Stdio::null());
        let child = match options.network {
            None => command.spawn(),
            Some(network) => {
                command.arg("--names").arg(evenkeel_network::DNS.to_string());
                let runtime = tokio::runtime::Handle::current();
                network
                    .inside(|| {
                        let _runtime = runtime.enter();
                        command.spawn()
                    })
                    .and_then(|child| child)
            }
        };
        let child = child.with_context(|| format!("start the agent of node {}", spec.name))?;
        children.push(child);
    }
    Ok(Agents { children, nodes: options.data_dir.join("nodes") })
}

impl Agents {
    /// Ends all agents with their containers.
    pub(crate) async fn stop(mut self) {
        for pid in self.children.iter().filter_map(|child| i32::try_from(child.id()?).ok()) {
            if let Err(error) = kill(Pid::from_raw(pid), Signal::SIGTERM) {
                tracing::warn!(pid, %error, "signal to stop not sent to an agent");
            }
        }
        for child in &mut self.children {
            if tokio::time::timeout(STOP, child.wait()).await.is_err() {
                tracing::warn!("an agent does not stop, killing it");
                child.kill().await.unwrap_or_default();
            }
        }
        // Those of an agent that had failed still run.
        stop_containers(&self.nodes).await;
    }
}
