//! What runs inside the process of `up`, over the one store.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use evenkeel_control::{self as control, Activity, HostPorts, RunLoop, Store};
use evenkeel_gateway::{controller, shell::Gateway};
use evenkeel_live::{HttpHooks, ProviderNotifier, RealTime};
use evenkeel_telemetry::{
    RuleController, RuleRunner, ScrapeSettings, Scraper, Source, Telemetry,
    shell::{HttpFetch, Server},
};
use tokio::task::JoinHandle;

use crate::{
    cli::{Safeguard, UpArgs},
    controllers,
    diagnostics::Diagnostics,
};

/// As Kubernetes' own controllers have it. Somebody may run `evenkeel run` beside `up`.
const LEASE_DURATION: Duration = Duration::from_secs(15);

/// What every part needs.
pub(super) struct Host<'a> {
    pub(super) args: &'a UpArgs,
    pub(super) data_dir: PathBuf,
    /// Time between two scrapes.
    pub(super) scrape: Duration,
    pub(super) store: Arc<dyn Store>,
    pub(super) time: Arc<RealTime>,
    pub(super) telemetry: Telemetry,
    pub(super) activity: Arc<Activity>,
}

/// A part that runs until its owner goes.
pub(super) struct Part(JoinHandle<()>);

impl Drop for Part {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Host<'_> {
    fn base(&self) -> control::Host {
        control::Host::new(&self.store, self.time.clone(), self.time.clone())
            .with_observer(self.activity.clone())
    }

    /// The controllers of Kubernetes itself, and the rules of the metrics.
    pub(super) fn start_builtin(&self) -> Part {
        let run = evenkeel_builtin::install(RunLoop::new(self.base()));
        let run = run.with(RuleController::new(self.telemetry.clone()));
        Part(tokio::spawn(run.run()))
    }

    /// What makes routes and Services the gateway's configuration.
    pub(super) fn start_routing(&self, gateway: &Arc<Gateway>) -> Part {
        let setup = controller::Setup {
            ports: HostPorts::new(&self.store, self.time.clone(), self.time.clone()),
            plane: gateway.clone(),
            gateway_address: IpAddr::from([127, 0, 0, 1]),
        };
        Part(tokio::spawn(controller::Controller::new(setup).run()))
    }

    /// Scraping, rules, and the Prometheus API; says where that is.
    pub(super) async fn start_telemetry(
        &self,
        gateway: &Arc<Gateway>,
    ) -> anyhow::Result<SocketAddr> {
        let (telemetry, time) = (&self.telemetry, &self.time);
        let settings = ScrapeSettings::every(self.scrape);
        let fetch = Arc::new(HttpFetch::new(&settings));
        let scraper = Scraper::new(telemetry.clone(), settings, fetch, time.clone(), time.clone())
            .with_pods(self.store.clone())
            .with_source("evenkeel-gateway", "gateway", Arc::new(GatewayMetrics(gateway.clone())))
            .with_source("evenkeel", "up", Arc::new(OwnMetrics(self.activity.clone())));
        tokio::spawn(scraper.run());
        tokio::spawn(RuleRunner::new(telemetry.clone(), time.clone(), time.clone()).run());
        let addr = SocketAddr::from(([127, 0, 0, 1], self.args.console_port));
        let server = Server::bind(addr, telemetry.clone(), time.clone())
            .await
            .context("serve the console (--console-port)")?;
        let addr = server.address()?;
        tokio::spawn(server.run());
        Ok(addr)
    }

    /// evenkeel's own controllers, and where they answer questions.
    pub(super) async fn start_controllers(&self) -> anyhow::Result<[Part; 2]> {
        let hooks = HttpHooks::new(self.store.clone()).context("set up webhooks")?;
        let notifier = ProviderNotifier::new(self.store.clone()).context("set up notifications")?;
        let host = self
            .base()
            .with_metrics(Arc::new(self.telemetry.clone()))
            .with_hooks(Arc::new(hooks))
            .with_notifier(Arc::new(notifier));
        let addr = SocketAddr::from(([127, 0, 0, 1], 0));
        let diagnostics = Diagnostics::bind(addr, self.activity.clone(), String::new).await?;
        let options = controllers::Options {
            data_dir: &self.data_dir,
            record: &self.args.record,
            timer: self.time.clone(),
            confirm: self.args.without != Some(Safeguard::Confirmation),
            metric_servers: None,
            look_every: self.scrape,
            only: &[],
            namespace: "default",
            lease_duration: LEASE_DURATION,
            diagnostics: diagnostics.address()?,
            activity: self.activity.clone(),
        };
        let assembly = controllers::assemble(host, &options)?;
        Ok([Part(tokio::spawn(assembly.run())), Part(tokio::spawn(diagnostics.run()))])
    }
}

struct OwnMetrics(Arc<Activity>);

impl Source for OwnMetrics {
    fn expose(&self) -> String {
        self.0.metrics()
    }
}

struct GatewayMetrics(Arc<Gateway>);

impl Source for GatewayMetrics {
    fn expose(&self) -> String {
        self.0.metrics().render()
    }
}
