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
use evenkeel_guard::RecordDoor;
use evenkeel_live::{HttpHooks, OtherNetwork, ProviderNotifier, RealTime};
use evenkeel_telemetry::{
    AlertEvents, RuleController, RuleRunner, ScrapeSettings, Scraper, Source, Telemetry,
    WindowController,
    shell::{Alertmanager, HttpFetch, Offloaded, Server},
};

use crate::{
    cli::{Safeguard, UpArgs},
    controllers,
    diagnostics::Diagnostics,
    door::Watching,
    up::{network::Own, part::Part, secrets},
};

/// File below the data directory that says where the metrics and rules are served.
pub(crate) const CONSOLE: &str = "console";

/// The default of Kubernetes' own controllers. `evenkeel run` may run beside `up`.
const LEASE_DURATION: Duration = Duration::from_secs(15);

/// What every part needs.
pub(super) struct Host<'a> {
    pub(super) args: &'a UpArgs,
    pub(super) data_dir: PathBuf,
    pub(super) store: Arc<dyn Store>,
    pub(super) time: Arc<RealTime>,
    pub(super) telemetry: Telemetry,
    pub(super) activity: Arc<Activity>,
    pub(super) network: Option<Own>,
}

impl Host<'_> {
    fn base(&self) -> control::Host {
        control::Host::new(&self.store, self.time.clone(), self.time.clone())
            .with_observer(self.activity.clone())
    }

    /// For parts that report about themselves.
    fn ports(&self) -> HostPorts {
        HostPorts::new(&self.store, self.time.clone(), self.time.clone())
    }

    /// The controllers of Kubernetes itself.
    pub(super) fn start_builtin(&self) -> Part {
        let run = evenkeel_builtin::install(RunLoop::new(self.base()));
        Part::task("kubernetes-controllers", run.run())
    }

    /// Builds the gateway's configuration from routes and Services.
    pub(super) fn start_routing(&self, gateway: &Arc<Gateway>) -> Part {
        let setup = controller::Setup {
            ports: self.ports(),
            plane: gateway.clone(),
            gateway_address: IpAddr::from([127, 0, 0, 1]),
        };
        let controller = controller::Controller::new(setup);
        let controller = match &self.network {
            Some(_) => controller.without(&Own::reserved()),
            None => controller,
        };
        Part::task("gateway-controller", controller.run())
    }

    /// Scraping, rules, and the Prometheus API; returns its address.
    ///
    /// Writers of series wait for the queries that read them, so scraping and rules have a thread
    /// to themselves. The API evaluates its queries on further threads.
    pub(super) async fn start_telemetry(
        &self,
        gateway: &Arc<Gateway>,
    ) -> anyhow::Result<(SocketAddr, [Part; 3])> {
        let (telemetry, time) = (self.telemetry.clone(), self.time.clone());
        let addr = SocketAddr::from(([127, 0, 0, 1], self.args.console_port));
        let server = Server::bind(addr, telemetry.clone(), time.clone())
            .await
            .context("serve the console (--console-port)")?;
        let addr = server.address()?;
        let console = format!("http://{addr}");
        secrets::write_private(&self.data_dir.join(CONSOLE), &console)?;
        let (events, recording) = AlertEvents::new(self.ports());
        let manager = self.args.alertmanager.as_deref();
        let manager = manager.map(|url| Alertmanager::new(url, &console)).transpose();
        let manager = manager.context("--alertmanager")?;
        let settings = ScrapeSettings::every(self.args.scrape_interval);
        let rules = RunLoop::new(self.base())
            .with(RuleController::new(telemetry.clone()))
            .with(WindowController::new(self.args.scrape_interval));
        let gateway = Arc::new(GatewayMetrics(gateway.clone()));
        let own =
            Arc::new(OwnMetrics { activity: self.activity.clone(), manager: manager.clone() });
        let (store, network) = (self.store.clone(), self.network.clone());
        let sending = manager.clone();
        let collecting = Part::thread("metrics", move || async move {
            // Targets are pods.
            if let Some(Err(error)) = network.map(|network| network.enter()) {
                tracing::error!(%error, "the cluster's network cannot be entered");
                return;
            }
            let fetch = Arc::new(HttpFetch::new(&settings));
            let scraper =
                Scraper::new(telemetry.clone(), settings, fetch, time.clone(), time.clone())
                    .with_pods(store)
                    .with_source("evenkeel-gateway", "gateway", gateway)
                    .with_source("evenkeel", "up", own);
            let mut runner =
                RuleRunner::new(telemetry, time.clone(), time).with_sink(Arc::new(events));
            if let Some(manager) = &manager {
                runner = runner.with_sink(Arc::new(manager.clone()));
            }
            tokio::select! {
                biased;
                () = scraper.run() => {}
                () = runner.run() => {}
                () = rules.run() => {}
                () = recording => {}
            }
        })?;
        // An Alertmanager is not in the cluster.
        let sending = Part::task("alerts", async {
            match sending {
                Some(manager) => manager.run().await,
                None => std::future::pending().await,
            }
        });
        Ok((addr, [collecting, sending, Part::task("metrics-api", server.run())]))
    }

    /// evenkeel's own controllers, and where they answer questions.
    ///
    /// They wait for the disk, where the record of actions is, so they have a thread to
    /// themselves.
    pub(super) async fn start_controllers(
        &self,
        door: (RecordDoor, Watching),
    ) -> anyhow::Result<[Part; 2]> {
        let there = self.network.clone().map(|network| Arc::new(network) as Arc<dyn OtherNetwork>);
        let hooks = HttpHooks::over(self.store.clone(), there.clone());
        let hooks = hooks.context("set up webhooks")?;
        let notifier = ProviderNotifier::over(self.store.clone(), self.time.clone(), there);
        let notifier = notifier.context("set up notifications")?;
        let host = self
            .base()
            .with_metrics(Arc::new(Offloaded::new(self.telemetry.clone())))
            .with_hooks(Arc::new(hooks))
            .with_notifier(Arc::new(notifier));
        let addr = SocketAddr::from(([127, 0, 0, 1], 0));
        let health = door.0.health();
        let record = health.clone();
        let diagnostics = Diagnostics::bind(addr, self.activity.clone(), move || record.metrics())
            .await?
            .unready_when(move || health.away());
        let options = controllers::Options {
            confirm: self.args.without != Some(Safeguard::Confirmation),
            metric_servers: None,
            look_every: self.args.scrape_interval,
            only: &[],
            namespace: "default",
            lease_duration: LEASE_DURATION,
            diagnostics: diagnostics.address()?,
            activity: self.activity.clone(),
        };
        let assembly = controllers::assemble(host, door, &options)?;
        let controllers = Part::thread("controllers", || assembly.run())?;
        Ok([controllers, Part::task("diagnostics", diagnostics.run())])
    }
}

struct OwnMetrics {
    activity: Arc<Activity>,
    manager: Option<Alertmanager>,
}

impl Source for OwnMetrics {
    fn expose(&self) -> String {
        let sent = self.manager.as_ref().map(Alertmanager::metrics).unwrap_or_default();
        format!("{}{sent}", self.activity.metrics())
    }
}

struct GatewayMetrics(Arc<Gateway>);

impl Source for GatewayMetrics {
    fn expose(&self) -> String {
        self.0.metrics().render()
    }
}
