//! The node agent: pods as processes, probes, restarts, logs.
//!
//! ```text
//! Store --watch pods of this node--> agent --events--> PodMachine --effects--> agent --> Runtime
//!                                      |  <--status--  (pure)                            |
//!                                      +--> Store: status, Events, Lease, delete grace 0 |
//!                       Runtime = ProcessRuntime (shims, /proc, sockets) or the simulator's
//! volumes: pods, ConfigMaps, Secrets, claims --> folders --> the mounts of a start order
//! ```
//! [`pod::PodMachine`] holds every rule of the kubelet's pod life cycle and uses no clock and no
//! process; [`agent::run`] carries effects out and writes what changed, nothing else. Time comes
//! through `Clock` and `Timer` alone, so the same agent runs under virtual time.
//!
//! A container is an ordinary process that sees the files of the host. In a cluster with a network
//! of its own ([`sandbox`]) its pod has an address, a host name, and names that it can resolve, and
//! it may run as another user.
//!
//! Not here: resource limits (cgroups).

pub mod agent;
pub mod images;
pub mod pod;
pub mod probe;
pub mod reasons;
pub mod runtime;
pub mod sandbox;
pub mod shell;
pub mod volumes;

mod container_env;
mod expansion;
