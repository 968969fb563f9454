//! Labels that several parts must spell alike.

/// On an `EndpointSlice`: the Service that it belongs to.
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// On a Node: its name.
pub const HOSTNAME: &str = "kubernetes.io/hostname";
/// On a Node: its zone.
pub const ZONE: &str = "topology.kubernetes.io/zone";
/// On a `ReplicaSet` of a Deployment and its pods: which template they are of.
pub const POD_TEMPLATE_HASH: &str = "pod-template-hash";
/// On pods that share the requests of a plain Service between two versions: the Service's name.
pub const SHARED_SERVICE: &str = "evenkeel.dev/service";
/// Annotation of that Service: the share of the new version that was asked for, in percent.
pub const CANARY_WEIGHT: &str = "evenkeel.dev/canary-weight";
