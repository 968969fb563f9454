//! `evenkeel up DIR`: a whole cluster on this machine.
//!
//! One process holds the API server, the built-in controllers, the gateway, the metrics and (by
//! default) the domain controllers; each node is a child process.

mod agents;
pub(crate) mod durable;
mod exec;
mod host;
mod images;
mod load;
mod logs;
mod names;
mod network;
mod part;
mod resume;
pub(crate) mod secrets;
mod served;
mod watch;

use std::{net::SocketAddr, path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context as _;
use evenkeel_api::clusterconfig::{ClusterConfig, NodeSpec};
use evenkeel_base::Clock as _;
use evenkeel_gateway::{
    engine::Switches,
    shell::{Gateway, Lag, Network as GatewayNetwork, Settings as GatewaySettings},
};
use evenkeel_guard::RecordDoor;
use evenkeel_live::RealTime;
use evenkeel_telemetry::{Limits, Telemetry};

use crate::{
    cli::{Safeguard, UpArgs},
    door::{self, Watching},
    input::{self, Input},
    io, paths,
    signals::stop_signal,
};
use durable::ClusterFolder;
pub(crate) use host::CONSOLE;
use host::Host;
pub(crate) use names::DOMAIN;
use network::Own;
pub(crate) use network::{TRY, prepare, try_main};
use served::serve_api;

/// What an empty folder of nodes gets: one node with room for a laptop's experiments.
const DEFAULT_CLUSTER: &str = "apiVersion: eksctl.io/v1alpha5\nkind: ClusterConfig\n\
    metadata: {name: local, region: local}\navailabilityZones: [local-a]\n\
    managedNodeGroups: [{name: nodes, instanceType: m5.2xlarge, desiredCapacity: 1}]\n";

/// How long workloads wait for all nodes: pods that find none, or only some, are not spread well.
const NODES_WAIT: Duration = Duration::from_secs(10);

/// Runs until a signal to stop.
pub(crate) async fn up(args: &UpArgs, network: Option<Own>) -> anyhow::Result<ExitCode> {
    // From here on a signal to stop leads to an orderly stop.
    let stop = stop_signal().context("listen for signals")?;
    let input = input::read(&args.dir)?;
    let mut nodes = nodes(&input)?;
    let images = match &input.images {
        Some(file) => {
            images::check(file)?;
            file.canonicalize()?
        }
        None => args.dir.canonicalize()?.join("images.yaml"),
    };
    let host_paths = host_paths(&args.host_path)?;
    let data_dir = paths::data_dir(args.data_dir.as_deref())?;
    let folder = ClusterFolder::lock(&data_dir)?;
    // Loopback addresses belong to one cluster at a time.
    let _lock = network.is_none().then(secrets::lock).transpose()?;
    let time = Arc::new(RealTime::start());
    // Before anything is started: without a record there is nothing to do.
    let open = || door::open(&data_dir, &args.record, time.clone(), time.clone());
    let door = (!args.no_controllers).then(open).transpose()?;
    if args.fresh {
        folder.forget()?;
        agents::clear(&data_dir).await?;
    }
    // Ends last: until then everything is kept.
    let (api, _keeper) = folder.open(time.clone())?;
    let store = api.store();
    network::check_kept(store.as_ref(), network.is_some()).await?;
    if network.is_some() {
        api.use_service_network(Own::services());
        agents::stop_left(&data_dir).await;
    }
    resume::prepare(store.as_ref(), &data_dir, &mut nodes, time.now()).await?;
    let own = network.as_ref();
    let served = serve_api(args, &folder, (&data_dir, &nodes), (api, own)).await?;
    io::print(&format!("kubeconfig: {}\n", served.kubeconfig.display()));
    if !paths::is_usual(&data_dir) {
        io::print(&format!("other commands: --data-dir {}\n", data_dir.display()));
    }

    for text in &input.skipped {
        io::complain(&format!("warning: {text}"));
    }
    load::install(store.as_ref()).await?;
    let telemetry = Telemetry::new(Limits::default());
    let activity = Arc::default();
    let host = Host { args, data_dir, store, time, telemetry, activity, network };
    let gateway = Arc::new(start_gateway(args, host.network.as_ref())?);
    let mut parts = vec![host.start_builtin(), host.start_routing(&gateway)];
    if let Some(network) = &host.network {
        parts.extend(network.start_names(host.store.clone()).await?);
    }
    let (console, metrics) = host.start_telemetry(&gateway).await?;
    parts.extend(metrics);
    let options = agents::Options {
        data_dir: &host.data_dir,
        kubeconfigs: &served.agents,
        images: &images,
        network: host.network.as_ref(),
        host_paths: &host_paths,
    };
    let mut agents = agents::start(&nodes, &options)?;
    let ended = tokio::select! {
        biased;
        () = stop => Ok(()),
        error = work(&host, &input, (nodes.len(), console), door) => Err(error),
        error = part::first_to_end(&mut parts) => Err(error),
        () = agents.keep() => Ok(()),
    };
    agents.stop().await;
    ended.map(|()| ExitCode::SUCCESS)
}

/// The folders that pods may use, as they are found on this machine.
fn host_paths(given: &[PathBuf]) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for dir in given {
        let real = dir.canonicalize().with_context(|| format!("--host-path {}", dir.display()))?;
        anyhow::ensure!(real.is_dir(), "--host-path {}: not a folder", dir.display());
        // A manifest may name it either way.
        let named = std::path::absolute(dir).context("--host-path")?;
        if named != real {
            found.push(named);
        }
        found.push(real);
    }
    Ok(found)
}

/// Applies the folder, starts the domain controllers, and says when everything is ready. Ends when
/// one of these does, with its error.
async fn work(
    host: &Host<'_>,
    input: &Input,
    (nodes, console): (usize, SocketAddr),
    door: Option<(RecordDoor, Watching)>,
) -> anyhow::Error {
    watch::nodes_ready(host.store.clone(), nodes, NODES_WAIT).await;
    load::apply(host.store.as_ref(), &input.objects).await;
    let mut own = Vec::new();
    if let Some(door) = door {
        match host.start_controllers(door).await {
            Ok(parts) => own.extend(parts),
            Err(error) => return error,
        }
    }
    io::print(&format!("console: http://{console}/\n"));
    let ready = async {
        watch::ready(host.store.clone(), nodes).await;
        io::print("ready\n");
        std::future::pending::<anyhow::Error>().await
    };
    tokio::select! {
        error = part::first_to_end(&mut own) => error,
        error = ready => error,
    }
}

/// The nodes of all `ClusterConfig`s; what eksctl would refuse in them is logged as a warning.
fn nodes(input: &Input) -> anyhow::Result<Vec<NodeSpec>> {
    let mut nodes = Vec::new();
    for (origin, node) in &input.clusters {
        let parsed =
            ClusterConfig::from_yaml(node).map_err(|e| anyhow::anyhow!("{}, {e}", origin.file))?;
        for warning in &parsed.warnings {
            io::complain(&format!("warning: {}, {warning}", origin.file));
        }
        nodes.extend(parsed.nodes);
    }
    if input.clusters.is_empty() {
        io::complain("no ClusterConfig in the folder: using one node of 8 cores and 32 GiB");
        nodes.extend(ClusterConfig::parse(DEFAULT_CLUSTER)?.nodes);
    }
    Ok(nodes)
}

fn start_gateway(args: &UpArgs, network: Option<&Own>) -> anyhow::Result<Gateway> {
    let switches = Switches {
        retries: args.without != Some(Safeguard::Retries),
        drain: args.without != Some(Safeguard::Drain),
        confirmation: args.without != Some(Safeguard::Confirmation),
    };
    let lag = args.gateway_lag.map(|delay| Lag { worker: 0, delay });
    let network = network.cloned().map(|network| Arc::new(network) as Arc<dyn GatewayNetwork>);
    let settings =
        GatewaySettings { workers: 2, switches, lag, network, ..GatewaySettings::default() };
    Gateway::start(settings).context("start the gateway's workers")
}
