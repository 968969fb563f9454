//! `evenkeel run`: the controllers alone, against any Kubernetes.

use std::{net::SocketAddr, process::ExitCode, sync::Arc};

use anyhow::{Context as _, bail};
use evenkeel_assembly::Assembly;
use evenkeel_control::{Activity, Host, Metrics, Store};
use evenkeel_live::{
    CachedStore, HttpHooks, LiveSettings, Neighbours, OneNamespace, ProviderNotifier, RealTime,
    connect_with,
};
use evenkeel_telemetry::shell::PrometheusClient;

use crate::{
    cli::{RunArgs, Safeguard},
    controllers,
    diagnostics::Diagnostics,
    door, io,
    metric_servers::PrometheusServers,
    metrics_probe, paths,
    signals::stop_signal,
};

/// Runs until a signal to stop; then the Leases are released.
pub(crate) async fn run(args: &RunArgs) -> anyhow::Result<ExitCode> {
    let mut stop = Box::pin(stop_signal().context("listen for signals")?);
    let (assembly, diagnostics) = tokio::select! {
        biased;
        () = &mut stop => return Ok(ExitCode::SUCCESS),
        ready = prepare(args) => ready?,
    };
    io::print(&format!("diagnostics: http://{}/metrics\n", diagnostics.address()?));
    io::print("controllers: running\n");
    tokio::select! {
        biased;
        () = assembly.run_until(stop) => {}
        () = diagnostics.run() => {}
    }
    Ok(ExitCode::SUCCESS)
}

async fn prepare(args: &RunArgs) -> anyhow::Result<(Assembly, Diagnostics)> {
    if let Some(file) = args.kubeconfig.as_deref().filter(|file| !file.exists()) {
        bail!(
            "kubeconfig {} does not exist: name the one that `evenkeel up` printed, or your own \
             (--kubeconfig)",
            file.display()
        );
    }
    let data_dir = paths::data_dir(args.data_dir.as_deref())?;
    let time = Arc::new(RealTime::start());
    // Before anybody is asked anything: what is done is recorded.
    let door = door::open(&data_dir, &args.record, time.clone(), time.clone())?;
    let settings = LiveSettings { groups: controllers::groups(&args.only), ..Default::default() };
    let store = connect_with(args.kubeconfig.as_deref(), settings).await.context(
        "no cluster to connect to: name its kubeconfig with --kubeconfig, or set KUBECONFIG",
    )?;
    if !store.is_ready().await {
        let named = args.kubeconfig.as_ref().map(|file| format!(" of {}", file.display()));
        bail!(
            "the API server{} does not answer: check --kubeconfig, and that the cluster is up \
             (kubectl get nodes)",
            named.unwrap_or_default()
        );
    }
    let cached = CachedStore::within(store, args.watch_namespace.as_deref());
    let leases = args.lease_namespace.as_ref().or(args.watch_namespace.as_ref());
    let leases = leases.map_or("default", String::as_str);
    let store: Arc<dyn Store> = match &args.watch_namespace {
        Some(watched) => Arc::new(OneNamespace::new(cached.clone(), watched, leases)),
        None => Arc::new(cached.clone()),
    };
    // The error names the address, without a password.
    let metrics = PrometheusClient::new(&args.prometheus).context("--prometheus")?;
    let metrics: Arc<dyn Metrics> = Arc::new(metrics);
    let url = args.prometheus.clone();
    let probe = metrics_probe::run(url, metrics.clone(), time.clone(), time.clone());
    let notifier =
        ProviderNotifier::new(store.clone(), time.clone()).context("set up notifications")?;
    let host = Host::new(&store, time.clone(), time)
        .with_metrics(metrics)
        .with_notifier(Arc::new(notifier))
        .with_stewards(Arc::new(Neighbours::new(cached.clone(), args.manage.into())))
        .with_hooks(Arc::new(HttpHooks::new(store).context("set up webhooks")?));
    let activity = Arc::<Activity>::default();
    let health = door.0.health();
    let record = health.clone();
    let metrics = move || format!("{}{}", cached.metrics(), record.metrics());
    let diagnostics = Diagnostics::bind(args.listen, activity.clone(), metrics)
        .await?
        .unready_when(move || health.away());
    let options = controllers::Options {
        confirm: args.without != Some(Safeguard::Confirmation),
        metric_servers: Some(Arc::new(PrometheusServers::beside(&args.prometheus))),
        look_every: args.slo_interval,
        only: &args.only,
        namespace: leases,
        lease_duration: args.lease_duration,
        diagnostics: match args.advertise {
            Some(ip) => SocketAddr::new(ip, diagnostics.address()?.port()),
            None => diagnostics.address()?,
        },
        activity,
    };
    let assembly = controllers::assemble(host, door, &options)?;
    Ok((assembly.beside(probe), diagnostics))
}
