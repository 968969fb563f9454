//! One list of domains, installed in the same way by `run`, `up` and the simulator.
//!
//! ```text
//! DOMAINS --install--> one RunLoop per domain, each with its Lease --> one Door, one Observer
//! ```
//! A new domain is one entry in [`domains`]. It gets watches, cache, door, record, Lease, metrics,
//! `why` and simulation from the loop; no other code has to know it.
//!
//! Not here: what a host brings (store, time, transports, the door).
#![warn(clippy::disallowed_methods, reason = "this crate must run under virtual time")]

mod rights;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use evenkeel_control::{BoxFuture, Host, LeaseSettings, RunLoop};
use evenkeel_delivery as delivery;
use evenkeel_slo::controller as slo;
use futures::{FutureExt as _, StreamExt as _, future::Shared, stream::FuturesUnordered};

pub use rights::{COMMON, LEASES, Right};

/// Prefix of the names of the Leases.
const LEASE_PREFIX: &str = "evenkeel-";

/// Controllers that are led, and can be run, as one.
#[derive(Clone, Copy)]
pub struct Domain {
    /// Its name: in `--only`, in the name of its Lease, in metrics.
    pub name: &'static str,
    /// What it does, for people.
    pub about: &'static str,
    /// Adds its controllers and judges to a loop.
    pub install: fn(RunLoop, &Settings) -> RunLoop,
    /// What it asks of the API server, besides [`COMMON`].
    pub rights: &'static [Right],
}

/// Every domain, in the order in which they are started.
pub fn domains() -> Vec<Domain> {
    vec![
        Domain {
            name: "delivery",
            about: "Canary releases",
            install: |run, settings| {
                let (confirm, metric_servers) = (settings.confirm, settings.metric_servers.clone());
                delivery::install(run, delivery::Settings { confirm, metric_servers })
            },
            rights: rights::DELIVERY,
        },
        Domain {
            name: "slo",
            about: "SLOs, their rules, error budgets and policies",
            install: |run, settings| {
                slo::install(run, slo::Settings { every: settings.look_every })
            },
            rights: rights::SLO,
        },
    ]
}

/// What a user may set.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Whether weights count as set only when the gateway has confirmed them.
    pub confirm: bool,
    /// Metrics servers that Canaries name themselves; without, such names are refused.
    pub metric_servers: Option<Arc<dyn delivery::MetricServers>>,
    /// Time between two looks at the counters of SLOs.
    pub look_every: Duration,
}

/// How leaders are elected: one Lease per domain.
#[derive(Debug, Clone)]
pub struct Leases {
    /// Namespace of the Leases.
    pub namespace: String,
    /// Our identity; unique per process.
    pub identity: String,
    /// A leader that has not renewed for this long may be replaced.
    pub duration: Duration,
    /// Written on the Leases that we hold: where to ask this process.
    pub annotations: BTreeMap<String, String>,
}

impl Leases {
    fn of(&self, domain: &Domain) -> LeaseSettings {
        let name = lease_name(domain.name);
        LeaseSettings::lasting(&self.namespace, &name, &self.identity, self.duration)
            .annotated(self.annotations.clone())
    }
}

/// The name of the Lease of a domain.
pub fn lease_name(domain: &str) -> String {
    format!("{LEASE_PREFIX}{domain}")
}

/// The domains that are to run, on a host.
pub struct Assembly {
    host: Host,
    settings: Settings,
    domains: Vec<Domain>,
    leases: Option<Leases>,
    background: Vec<BoxFuture<'static, ()>>,
}

impl Assembly {
    /// All domains.
    pub fn new(host: Host, settings: Settings) -> Self {
        Self { host, settings, domains: domains(), leases: None, background: Vec::new() }
    }

    /// Only the domains with these names; none named means all.
    #[must_use]
    pub fn only(mut self, names: &[String]) -> Self {
        self.domains.retain(|domain| names.is_empty() || names.iter().any(|n| n == domain.name));
        self
    }

    /// With one more domain.
    #[must_use]
    pub fn with_domain(mut self, domain: Domain) -> Self {
        self.domains.push(domain);
        self
    }

    /// Each domain acts only while it holds its Lease.
    #[must_use]
    pub fn with_leases(mut self, leases: Leases) -> Self {
        self.leases = Some(leases);
        self
    }

    /// With something that runs beside the domains, such as what a policy follows.
    #[must_use]
    pub fn beside(mut self, part: impl Future<Output = ()> + Send + 'static) -> Self {
        self.background.push(part.boxed());
        self
    }

    /// Runs until dropped.
    pub async fn run(self) {
        self.run_until(futures::future::pending()).await;
    }

    /// Runs until `stop` is ready; then passes under way may end and the Leases are released.
    pub async fn run_until(self, stop: impl Future<Output = ()> + Send + 'static) {
        let stop: Shared<BoxFuture<'static, ()>> = stop.boxed().shared();
        let mut beside: FuturesUnordered<_> = self.background.into_iter().collect();
        let mut loops: FuturesUnordered<_> = self
            .domains
            .iter()
            .map(|domain| {
                let run = (domain.install)(RunLoop::new(self.host.clone()), &self.settings);
                let run = match &self.leases {
                    Some(leases) => run.with_lease(leases.of(domain)),
                    None => run,
                };
                run.run_until(stop.clone())
            })
            .collect();
        loop {
            // In this order on purpose: what a policy follows is seen before it is asked.
            futures::select_biased! {
                () = beside.select_next_some() => {}
                ended = loops.next() => if ended.is_none() { return },
            }
        }
    }
}
