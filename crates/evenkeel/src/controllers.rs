//! The domains of this process, and the door in front of them.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use evenkeel_assembly::{Assembly, Leases, Settings, domains};
use evenkeel_control::{Activity, Host};
use evenkeel_delivery::MetricServers;
use evenkeel_guard::RecordDoor;

use crate::{door::Watching, up::secrets};

/// Annotation of our Leases: where the leader answers `evenkeel why` and `/metrics`.
pub(crate) const DIAGNOSTICS: &str = "evenkeel.dev/diagnostics";

/// Annotation of our Leases: the pod that the leader runs in, as NAMESPACE/NAME, if it does.
pub(crate) const POD: &str = "evenkeel.dev/pod";
/// Where a pod finds the name of its namespace.
const NAMESPACE_FILE: &str = "/var/run/secrets/kubernetes.io/serviceaccount/namespace";

/// How the controllers are set up.
pub(crate) struct Options<'a> {
    /// Whether weights count as set only when the gateway has confirmed them.
    pub(crate) confirm: bool,
    /// Metrics servers that Canaries may name themselves.
    pub(crate) metric_servers: Option<Arc<dyn MetricServers>>,
    /// Time between two looks at the counters of SLOs.
    pub(crate) look_every: Duration,
    /// Which domains run; none named means all.
    pub(crate) only: &'a [String],
    /// Namespace of the Leases.
    pub(crate) namespace: &'a str,
    /// How long a leader may fail to renew its Lease.
    pub(crate) lease_duration: Duration,
    /// Where others find the diagnostics of this process.
    pub(crate) diagnostics: SocketAddr,
    /// Counts what is done.
    pub(crate) activity: Arc<Activity>,
}

/// The domains behind the door that keeps the record and checks the error budget.
pub(crate) fn assemble(
    host: Host,
    (door, watching): (RecordDoor, Watching),
    options: &Options<'_>,
) -> anyhow::Result<Assembly> {
    let read = host.ports().read.clone();
    let host = host.with_door(Arc::new(door)).with_observer(options.activity.clone());
    let settings = Settings {
        confirm: options.confirm,
        metric_servers: options.metric_servers.clone(),
        look_every: options.look_every,
    };
    let (host_name, identity) = identity()?;
    let address = format!("http://{}", options.diagnostics);
    let mut annotations = BTreeMap::from([(DIAGNOSTICS.to_owned(), address)]);
    // A pod's host has its name.
    if let Ok(namespace) = std::fs::read_to_string(NAMESPACE_FILE) {
        annotations.insert(POD.to_owned(), format!("{}/{host_name}", namespace.trim()));
    }
    let leases = Leases {
        namespace: options.namespace.to_owned(),
        identity,
        duration: options.lease_duration,
        annotations,
    };
    let assembly = Assembly::new(host, settings).only(options.only).with_leases(leases);
    Ok(assembly.beside(watching.run(read)))
}

/// The groups that run when these are named; all of them when none is.
pub(crate) fn groups(only: &[String]) -> Vec<String> {
    let all = domains().into_iter().map(|domain| domain.name.to_owned());
    all.filter(|name| only.is_empty() || only.contains(name)).collect()
}

/// The host's name, and the identity of this process: as client-go names it, the host and something
/// random.
fn identity() -> anyhow::Result<(String, String)> {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = host.trim().to_owned();
    let identity = format!("{host}_{:016x}", secrets::random_u64()?);
    Ok((host, identity))
}
