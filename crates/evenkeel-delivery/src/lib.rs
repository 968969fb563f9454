//! Canary releases as Flagger defines them, decided by a pure function.
//!
//! ```text
//! Canary --names--> Deployment X ("canary", at zero replicas between releases)
//!    makes: Deployment X-primary (serves), Services X, X-primary, X-canary, and a route X
//!    route X: X-primary 100-w %, X-canary w %      status of the route: the gateway's word
//! ```
//! A new pod template in X starts a run: scale X up, then step by step more weight, a check after
//! each interval, and either X-primary gets the template (promotion) or the weight goes back to 0
//! (rollback). Two things are ours: the interval of a weight starts only when the gateway has
//! confirmed that every worker routes by it, and nothing is scaled down before the gateway has
//! confirmed that it gets no traffic. **The weight in the route is the truth**; whatever else is
//! needed to go on after a crash stands in the Canary's status.
//!
//! A check asks for the window that its metric names. The window may be longer than a step and then
//! reaches back over earlier weights: requests to the canary are answered by one version from
//! `status.evenkeel.cleanSince` on, which is when the version before got its last request. A check
//! whose window begins earlier waits. So does one whose metric has no data yet, for as long as the
//! window (and at least 30 s); without data after that it counts as failed. It passes only with
//! samples that were taken after the last step, which it waits for at least five minutes; a value out
//! of bounds counts at once. Before the first step every metric is asked for once: while one cannot
//! be, the version waits at weight 0 (`MetricsAvailable`).
//!
//! The route is an `HTTPRoute`, an Istio `VirtualService`, or nothing but the apex Service
//! (`router`), which then shares requests by pods (`plain`).
//!
//! Not here: sending requests (the host runs the load tester's [`loadtester::LoadPlan`]), the
//! evaluation of `PromQL`, routers of other meshes and Ingress controllers, `DaemonSet` and Service
//! targets, autoscalers, A/B matching, mirroring, session affinity: those are refused by name.
#![warn(clippy::disallowed_methods, reason = "this crate must run under virtual time")]

mod view;

mod decide;

mod context;
mod draft;
mod finish;
mod hold;
mod hooks;
mod init;
mod istio;
mod judge;
mod objects;
mod plain;
mod pod_shares;
mod ramp;
mod repair;
mod revert;
mod rollback;
mod route;
mod router;
mod routing;
mod run;
mod safety;
mod start;

mod alerts;
mod beside;
mod builtin;
mod checks;
mod configs;
mod diff;
mod endpoints;
mod fill;
mod freshness;
mod pods;
mod primary;
mod rules;
mod services;
mod spec_error;
mod stamps;
mod supported;
mod taken;
mod time;
mod unread;
mod workload;

mod observe;

pub mod loadtester;
pub mod reasons;

use std::{fmt, sync::Arc};

use evenkeel_api::{GroupKind, Key, canary::Canary, httproute::HttpRoute, weighted};
use evenkeel_control::{
    Controller, Interest, Judged, ListQuery, Metrics, ObserveError, Plan, Ports, RunLoop, Wakes,
    bookkeeping, redact,
};
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{ConfigMap, Pod, Secret, Service},
    discovery::v1::EndpointSlice,
};

pub use beside::is_kept_on;
pub use pods::cause as pod_trouble;
pub use revert::FINALIZER;
pub use view::CanaryView;

/// Canaries worked on at once: webhooks make one wait, and the others must not wait with it.
const CONCURRENCY: usize = 32;

/// What a host may switch.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Waits for the gateway's confirmation before a check window starts and before anything is
    /// scaled down. Off only to show what it is good for.
    pub confirm: bool,
    /// Servers that `spec.metricsServer` and a `MetricTemplate`'s `provider.address` name. Without,
    /// only the host's own server is asked, and those fields are refused.
    pub metric_servers: Option<Arc<dyn MetricServers>>,
}

impl Default for Settings {
    fn default() -> Self {
        Self { confirm: true, metric_servers: None }
    }
}

impl Settings {
    /// Address of the host's own metrics server.
    fn own_server(&self) -> Option<&str> {
        self.metric_servers.as_ref()?.own()
    }

    /// The metrics server at this URL.
    fn server(&self, address: &str) -> Result<Arc<dyn Metrics>, String> {
        let Some(servers) = &self.metric_servers else {
            return Err(
                "is not supported here: only the metrics server of this process is asked; \
                        remove it"
                    .to_owned(),
            );
        };
        servers.at(address).map_err(|problem| {
            let (address, problem) = (redact::url(address), redact::text(&problem));
            format!("{address:?} cannot be asked: {problem}")
        })
    }
}

/// Metrics servers by their address.
pub trait MetricServers: fmt::Debug + Send + Sync {
    /// The server at this URL.
    ///
    /// **Errors**: why no such server can be asked, in words.
    fn at(&self, address: &str) -> Result<Arc<dyn Metrics>, String>;

    /// Address of the server that is asked where none is named, for messages; `None` when it has
    /// none, as the one of this process.
    fn own(&self) -> Option<&str> {
        None
    }
}

/// The controller of [`Canary`] objects.
#[derive(Debug, Clone, Default)]
pub struct CanaryController {
    /// What the host switched.
    pub settings: Settings,
    memory: Arc<Memory>,
}

/// What the controller remembers of objects between two looks. Nothing is decided by it alone: a
/// process that starts anew knows none of it.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    clocks: stamps::Clocks,
    listings: pods::Listings,
}

/// Adds the Canary controller to a loop, with judges of everything it changes.
#[must_use]
pub fn install(run: RunLoop, settings: Settings) -> RunLoop {
    run.with(CanaryController { settings, memory: Arc::default() }).map_host(|host| {
        host.with_judge(GroupKind::of::<HttpRoute>(), judge::RouteJudge)
            .with_judge(weighted::virtual_service(), judge::RouteJudge)
            .with_judge(weighted::destination_rule(), Judged(judge::destination_rule))
            .with_judge(GroupKind::of::<Deployment>(), judge::DeploymentJudge)
            .with_judge(GroupKind::of::<Service>(), judge::ServiceJudge)
            .with_judge(GroupKind::of::<Pod>(), Judged(judge::pod))
            .with_judge(GroupKind::of::<ConfigMap>(), Judged(judge::config))
            .with_judge(GroupKind::of::<Secret>(), Judged(judge::config))
            .with_judge(GroupKind::of::<Canary>(), Judged(bookkeeping))
    })
}

impl Controller for CanaryController {
    type View = CanaryView;

    fn name(&self) -> &'static str {
        "delivery"
    }

    fn owns(&self) -> ListQuery {
        ListQuery::of::<Canary>()
    }

    fn also(&self) -> Vec<Interest> {
        // A target does not know its Canary; there are few Canaries per namespace.
        let neighbours = |obj: &evenkeel_api::Obj| Wakes::Namespace(obj.namespace().to_owned());
        vec![
            Interest::mapped::<Deployment>(neighbours),
            Interest::mapped::<Service>(neighbours),
            Interest::mapped::<EndpointSlice>(neighbours),
            Interest::mapped::<ConfigMap>(neighbours),
            Interest::mapped::<Secret>(neighbours),
            Interest::owned_by::<HttpRoute, Canary>(),
            // One that was there before belongs to no Canary.
            Interest::optional(weighted::virtual_service(), neighbours),
            Interest::optional(weighted::destination_rule(), neighbours),
        ]
    }

    async fn observe(&self, key: &Key, ports: &Ports) -> Result<Option<CanaryView>, ObserveError> {
        let view = observe::observe(key, ports, &self.settings, &self.memory).await?;
        if view.is_none() {
            self.memory.clocks.forget(key);
        }
        Ok(view)
    }

    fn decide(&self, view: &CanaryView) -> Plan {
        decide::decide(view)
    }

    async fn hand_back(&self, key: &Key, ports: &Ports) -> Result<Option<Plan>, ObserveError> {
        match ports.read.get(key).await? {
            Some(obj) => beside::hand_back(&obj, ports).await,
            None => Ok(None),
        }
    }

    fn resigned(&self) {
        self.memory.clocks.forget_all();
    }

    fn concurrency(&self) -> usize {
        CONCURRENCY
    }
}
