//! The kubelet's loop: watches the pods of one node, carries out what their machines say, writes
//! what changed. One task without spawned ones: on a single-threaded executor the order of
//! everything is a function of the order of events.

mod addresses;
mod node;
mod pods;
mod volumes;
mod work;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use evenkeel_control::HostPorts;
use k8s_openapi::api::core::v1::Taint;

use self::{addresses::Addresses, pods::Agent, work::PodIo};
use crate::{
    runtime::Runtime,
    sandbox::NameServer,
    volumes::{Disk, NoTokens, Tokens, VolumeSettings},
};

/// The manager's name, for `managedFields` and Events.
pub(crate) const MANAGER: &str = "kubelet";
/// Wait before something the API refused is tried again; doubles.
const RETRY_FIRST: Duration = Duration::from_millis(200);
/// Longest wait.
const RETRY_MAX: Duration = Duration::from_secs(10);

/// What a node is.
#[derive(Debug, Clone, PartialEq)]
pub struct AgentConfig {
    /// Name of the Node.
    pub name: String,
    /// Labels besides the well-known ones.
    pub labels: BTreeMap<String, String>,
    /// Taints of a Node that is not there yet.
    pub taints: Vec<Taint>,
    /// `cpu`, `memory`, `pods` ... as quantities.
    pub capacity: BTreeMap<String, String>,
    /// What of it pods may request; what is not named here is allocatable whole.
    pub allocatable: BTreeMap<String, String>,
    /// Addresses of its pods, when the Node does not name them (`127.64.0.0/16`).
    pub pod_cidr: Option<String>,
    /// `topology.kubernetes.io/zone`.
    pub zone: Option<String>,
    /// `topology.kubernetes.io/region`.
    pub region: Option<String>,
    /// `node.kubernetes.io/instance-type`.
    pub instance_type: Option<String>,
    /// How often the Lease is renewed; `None` never, for a simulated node whose failures are
    /// reported in another way.
    pub lease_period: Option<Duration>,
    /// Whether Events are written.
    pub events: bool,
    /// Where pods ask for names, in a cluster with a network of its own.
    pub names: Option<NameServer>,
    /// Where volumes lie; `None` for containers that see no files, as the simulator's.
    pub volumes: Option<VolumeSettings>,
}

impl AgentConfig {
    /// A node with nothing but a name: 4 cores, 16 GiB, 110 pods, a Lease every 10 s.
    pub fn named(name: &str) -> Self {
        let capacity = [("cpu", "4"), ("memory", "16Gi"), ("pods", "110")];
        let text = |(name, amount): (&str, &str)| (name.to_owned(), amount.to_owned());
        Self {
            name: name.to_owned(),
            labels: BTreeMap::new(),
            taints: Vec::new(),
            capacity: capacity.into_iter().map(text).collect(),
            allocatable: BTreeMap::new(),
            pod_cidr: None,
            zone: None,
            region: None,
            instance_type: None,
            lease_period: Some(Duration::from_secs(10)),
            events: true,
            names: None,
            volumes: None,
        }
    }
}

/// Why an agent cannot work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AgentError {
    /// The Node and the configuration do not say which addresses pods get.
    #[error("node {node} has no spec.podCIDR: set one, like 127.64.0.0/16")]
    NoPodCidr {
        /// Its name.
        node: String,
    },
    /// It is not a range of addresses.
    #[error("pod CIDR {cidr:?} is not an IPv4 range of 8 to 28 bits, like 127.64.0.0/16")]
    PodCidr {
        /// As given.
        cidr: String,
    },
}

/// Runs the agent of one node. Ends only when it cannot work at all; what it started keeps running,
/// and the next agent takes it over.
pub async fn run(
    config: AgentConfig,
    ports: HostPorts,
    runtime: Arc<dyn Runtime>,
) -> Result<(), AgentError> {
    run_with_tokens(config, ports, runtime, Arc::new(NoTokens)).await
}

/// The same where tokens of `ServiceAccount`s can be had.
pub async fn run_with_tokens(
    config: AgentConfig,
    ports: HostPorts,
    runtime: Arc<dyn Runtime>,
    tokens: Arc<dyn Tokens>,
) -> Result<(), AgentError> {
    let mut wait = RETRY_FIRST;
    let cidr = loop {
        match node::register(&config, &ports).await {
            Ok(Some(cidr)) => break cidr,
            Ok(None) => return Err(AgentError::NoPodCidr { node: config.name }),
            Err(error) => {
                tracing::warn!(object = config.name, %error, "node not registered, will retry");
                ports.timer.sleep(wait).await;
                wait = (wait * 2).min(RETRY_MAX);
            }
        }
    };
    let addresses = Addresses::parse(&cidr)?;
    let adopted = runtime.adopt().await;
    let disk = config.volumes.clone().map(|settings| Arc::new(Disk::new(settings)));
    let mut allocatable = config.capacity.clone();
    allocatable.extend(config.allocatable.clone());
    let host_ip = addresses.node();
    let names = config.names.clone();
    let io = PodIo { ports, runtime, host_ip, names, disk, tokens, allocatable };
    Agent::new(config, io, addresses, adopted).run().await;
    Ok(())
}
