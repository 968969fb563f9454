//! A network that an embedded cluster has to itself, without root.
//!
//! ```text
//! host's network            |  the cluster's network namespace          |  one per pod
//! evenkeel up: API, console |  bridge 10.244.0.1/16 ------ veth --------+-- eth0 10.244.n.x
//! published gateways        |  Service addresses 10.96.0.0/16 (all of   |   any port, also 0.0.0.0:80
//!                           |  them local): gateway, DNS at 10.96.0.10  |
//! ```
//! A socket stays in the network of the thread that made it, whoever uses it later. So the process
//! of `up` stays in the host's network, and what the cluster's network needs of it (listeners on
//! Service addresses, connections to pods) is made by threads that [`Network::enter`] has moved
//! there. Nothing has to be forwarded, and the host's network is not changed.
//!
//! [`isolate`] gives the process a mount namespace and, when it is not root, a user namespace in
//! which it is root. Call it before any thread is started: Linux refuses it afterwards.
//!
//! Not here: what a container sees of all this (its mounts, host name and user: `evenkeel-node`).

mod dns;
mod isolate;
mod links;
mod network;
mod pod;

use std::net::Ipv4Addr;

pub use dns::{Answers, Record, Server, Target, Zone};
pub use isolate::{Forbidden, isolate};
pub use network::Network;
pub use pod::{connect, disconnect, is_connected};

/// Addresses of pods: node `n` has `10.244.n.0/24` of it.
pub const PODS: (Ipv4Addr, u8) = (Ipv4Addr::new(10, 244, 0, 0), 16);
/// Addresses of Services.
pub const SERVICES: (Ipv4Addr, u8) = (Ipv4Addr::new(10, 96, 0, 0), 16);
/// Where pods send what is not for a pod: the bridge, which is the first node's address.
pub const ROUTER: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 1);
/// The Service `default/kubernetes`, where pods and node agents find the API server.
pub const API: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);
/// The Service `kube-system/kube-dns`.
pub const DNS: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
/// Name of the bridge in the cluster's network.
const BRIDGE: &str = "evenkeel0";
/// Its hardware address: locally administered, and made of [`ROUTER`] as the kubelet's were.
const BRIDGE_MAC: [u8; 6] = [0x0a, 0x58, 10, 244, 0, 1];
