//! `evenkeel agent`: one node, as a process of its own.

use std::{collections::BTreeMap, process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context as _;
use evenkeel_control::{Ports, Store};
use evenkeel_live::{RealTime, connect};
use evenkeel_node::{
    agent::{self, AgentConfig},
    shell::{ProcessRuntime, ProcessSettings, stop_all},
};
use k8s_openapi::{api::core::v1::Node, apimachinery::pkg::api::resource::Quantity};

use crate::{cli::AgentArgs, run};

/// Runs until it is told to stop; then its containers are stopped, too.
pub(crate) async fn run(args: &AgentArgs) -> anyhow::Result<ExitCode> {
    let text = std::fs::read_to_string(&args.node).context("read the node's description")?;
    let node: Node = serde_json::from_str(&text).context("the node's description")?;
    let store: Arc<dyn Store> = Arc::new(connect(Some(&args.kubeconfig)).await?);
    let time = Arc::new(RealTime::start());
    let ports = Ports::plain(store, time.clone(), time);
    let program = std::env::current_exe().context("find this program")?;
    let settings = ProcessSettings::new(args.root.clone(), program, args.images.clone());
    let runtime = Arc::new(ProcessRuntime::new(settings));
    tokio::select! {
        biased;
        () = run::stopped() => {}
        ended = agent::run(config(node), ports, runtime) => { ended?; }
    }
    stop_all(&args.root).await;
    Ok(ExitCode::SUCCESS)
}

fn config(node: Node) -> AgentConfig {
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
        ..AgentConfig::named(&node.metadata.name.unwrap_or_default())
    }
}
