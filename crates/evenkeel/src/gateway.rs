//! `evenkeel gateway`: the gateway alone, as one implementation of the Gateway API on any
//! Kubernetes.
//!
//! It is known by the name of a class and reports about no `GatewayClass`; its answers are not on
//! addresses of Services.

use std::{process::ExitCode, sync::Arc};

use anyhow::Context as _;
use evenkeel_control::{HostPorts, Store};
use evenkeel_gateway::{
    Controller,
    controller::Setup,
    shell::{Gateway, Settings},
};
use evenkeel_live::{RealTime, connect};

use crate::{cli::GatewayArgs, diagnostics::Diagnostics, io, signals::stop_signal};

/// Runs until a signal to stop.
pub(crate) async fn run(args: &GatewayArgs) -> anyhow::Result<ExitCode> {
    let stop = stop_signal().context("listen for signals")?;
    let store = connect(args.kubeconfig.as_deref()).await.context(
        "no cluster to connect to: name its kubeconfig with --kubeconfig, or set KUBECONFIG",
    )?;
    let (store, time): (Arc<dyn Store>, _) = (Arc::new(store), Arc::new(RealTime::start()));
    let gateway = Arc::new(Gateway::start(Settings::default()).context("start its workers")?);
    let counts = gateway.clone();
    let metrics = move || counts.metrics().render();
    let diagnostics = Diagnostics::bind(args.listen, Arc::default(), metrics).await?;
    let setup = Setup {
        ports: HostPorts::new(&store, time.clone(), time),
        plane: gateway,
        gateway_address: args.address,
    };
    io::print(&format!("diagnostics: http://{}/metrics\n", diagnostics.address()?));
    io::print(&format!("gateway: running for class {}\n", args.class));
    tokio::select! {
        biased;
        () = stop => {}
        () = Controller::new(setup).of_class(&args.class).run() => {}
        () = diagnostics.run() => {}
    }
    Ok(ExitCode::SUCCESS)
}
