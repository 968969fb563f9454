//! The domains of this process, and the door in front of them.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use evenkeel_assembly::{Assembly, Leases, Settings};
use evenkeel_control::{Activity, Host};
use evenkeel_delivery::MetricServers;
use evenkeel_guard::RecordDoor;

use crate::{door::Watching, up::secrets};

/// Annotation of our Leases: where the leader answers `evenkeel why` and `/metrics`.
pub(crate) const DIAGNOSTICS: &str = "evenkeel.dev/diagnostics";

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
    let leases = Leases {
        namespace: options.namespace.to_owned(),
        identity: identity()?,
        duration: options.lease_duration,
        annotations: BTreeMap::from([(
            DIAGNOSTICS.to_owned(),
            format!("http://{}", options.diagnostics),
        )]),
    };
    let assembly = Assembly::new(host, settings).only(options.only).with_leases(leases);
    Ok(assembly.beside(watching.run(read)))
}

/// The identity of this process: as client-go names it, the host and something random.
fn identity() -> anyhow::Result<String> {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    Ok(format!("{}_{:016x}", host.trim(), secrets::random_u64()?))
}
