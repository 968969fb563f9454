//! `evenkeel run`: the controllers alone, against any Kubernetes.

use std::{process::ExitCode, sync::Arc};

use anyhow::{Context as _, bail};
use evenkeel_control::{Ports, Store};
use evenkeel_live::{HttpHooks, RealTime, connect};
use evenkeel_telemetry::shell::PrometheusClient;

use crate::{
    cli::{RunArgs, Safeguard},
    controllers, io, paths,
};

/// Runs until it is told to stop.
pub(crate) async fn run(args: &RunArgs) -> anyhow::Result<ExitCode> {
    let data_dir = paths::data_dir(args.data_dir.as_deref())?;
    let store = connect(args.kubeconfig.as_deref()).await?;
    if !store.is_ready().await {
        bail!("the API server does not answer: check --kubeconfig, and that the cluster is up");
    }
    let store: Arc<dyn Store> = Arc::new(store);
    let time = Arc::new(RealTime::start());
    let metrics = PrometheusClient::new(&args.prometheus)
        .with_context(|| format!("--prometheus {}", args.prometheus))?;
    let ports = Ports {
        store: store.clone(),
        metrics: Arc::new(metrics),
        hooks: Arc::new(HttpHooks::new(store).context("set up webhooks")?),
        clock: time.clone(),
        timer: time.clone(),
    };
    let confirm = args.without != Some(Safeguard::Confirmation);
    let options = controllers::Options { data_dir: &data_dir, confirm };
    let controllers = controllers::all(ports, time, &options)?;
    io::print("controllers: running\n");
    tokio::select! {
        biased;
        () = stopped() => {}
        () = controllers.run() => {}
    }
    Ok(ExitCode::SUCCESS)
}

/// Ready when the process is asked to end, by SIGINT or SIGTERM.
pub(crate) async fn stopped() {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut term) = signal(SignalKind::terminate()) else { return };
    tokio::select! {
        biased;
        _ = term.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
}
