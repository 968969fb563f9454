//! Labels that several parts must spell alike.

/// On an `EndpointSlice`: the Service that it belongs to.
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// On a Node: its name.
pub const HOSTNAME: &str = "kubernetes.io/hostname";
/// On a Node: its zone.
pub const ZONE: &str = "topology.kubernetes.io/zone";
/// On a `ReplicaSet` of a Deployment and its pods: which template they are of.
pub const POD_TEMPLATE_HASH: &str = "pod-template-hash";
