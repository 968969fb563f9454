//! `evenkeel agent`: one node, as a process of its own.

use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    net::IpAddr,
    os::{fd::AsFd as _, unix::fs::OpenOptionsExt as _},
    path::Path,
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use evenkeel_control::{HostPorts, Store};
use evenkeel_live::{RealTime, connect};
use evenkeel_node::{
    agent::{self, AgentConfig},
    sandbox::NameServer,
    shell::{ProcessRuntime, ProcessSettings, stop_all},
    volumes::VolumeSettings,
};
use k8s_openapi::{api::core::v1::Node, apimachinery::pkg::api::resource::Quantity};
use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};
use tokio::{io::AsyncReadExt as _, net::unix::pipe::Receiver};

use crate::{cli::AgentArgs, signals, up::DOMAIN};

/// Our own executable, also when its file has been replaced since we were started.
const OWN: &str = "/proc/self/exe";

/// Time between two looks whether an earlier agent has ended.
const LOOK: Duration = Duration::from_millis(20);

/// Runs until a signal to stop, and then stops its containers; or until `up` is gone, and then
/// leaves them to the agent of the next one.
pub(crate) async fn run(args: &AgentArgs) -> anyhow::Result<ExitCode> {
    let text = std::fs::read_to_string(&args.node).context("read the node's description")?;
    let node: Node = serde_json::from_str(&text).context("the node's description")?;
    let store: Arc<dyn Store> = Arc::new(connect(Some(&args.kubeconfig)).await?);
    let time = Arc::new(RealTime::start());
    let ports = HostPorts::new(&store, time.clone(), time);
    let settings = ProcessSettings::new(args.root.clone(), OWN.into(), args.images.clone());
    let runtime = Arc::new(ProcessRuntime::new(settings));
    let mut config = config(node, args.names);
    config.volumes = Some(VolumeSettings {
        root: args.root.clone(),
        claims: args.claims.clone(),
        host_paths: args.host_path.clone(),
    });
    let working = async {
        let _alone = alone(&args.root).await?;
        agent::run(config, ports, runtime).await?;
        anyhow::Ok(())
    };
    tokio::select! {
        biased;
        () = signals::stopped() => {}
        // With the network of the cluster, which is gone, they are of no use.
        () = abandoned(), if args.names.is_some() => {}
        () = abandoned(), if args.names.is_none() => return Ok(ExitCode::SUCCESS),
        ended = working => ended?,
    }
    stop_all(&args.root).await;
    Ok(ExitCode::SUCCESS)
}

/// Waits until no other agent works on this node: that of an `up` that was killed may still be on
/// its way out. Good as long as the file is held.
async fn alone(root: &Path) -> anyhow::Result<File> {
    let path = root.join("agent.lock");
    let open = || {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o600).open(&path)
    };
    let file = open().with_context(|| path.display().to_string())?;
    while let Err(error) = flock(&file, FlockOperation::NonBlockingLockExclusive) {
        if error != Errno::WOULDBLOCK {
            return Err(error).with_context(|| path.display().to_string());
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(file)
}

/// Ready when the process at the other end of our standard input has ended. Never, when that is not
/// a pipe.
async fn abandoned() {
    let input = std::io::stdin().as_fd().try_clone_to_owned().and_then(Receiver::from_owned_fd);
    match input {
        Ok(mut input) => {
            // Nothing is ever written: it ends.
            let mut nothing = [0];
            while input.read(&mut nothing).await.is_ok_and(|count| count > 0) {}
        }
        Err(_) => std::future::pending().await,
    }
}

fn config(node: Node, names: Option<IpAddr>) -> AgentConfig {
    let spec = node.spec.unwrap_or_default();
    let status = node.status.unwrap_or_default();
    let text = |amounts: Option<BTreeMap<String, Quantity>>| {
        let amounts = amounts.into_iter().flatten();
        amounts.map(|(name, amount)| (name, amount.0)).collect::<BTreeMap<_, _>>()
    };
    AgentConfig {
        labels: node.metadata.labels.unwrap_or_default(),
        taints: spec.taints.unwrap_or_default(),
        capacity: text(status.capacity),
        allocatable: text(status.allocatable),
        pod_cidr: spec.pod_cidr,
        lease_period: Some(Duration::from_secs(10)),
        events: true,
        names: names.map(|address| NameServer { address, domain: DOMAIN.to_owned() }),
        ..AgentConfig::named(&node.metadata.name.unwrap_or_default())
    }
}
