//! An embedded Kubernetes API server: an in-memory store, a journal behind it, and HTTPS for
//! `kubectl`.
//!
//! ```text
//! controllers, simulator --Store--> ApiServer --one lock--> State (objects, history, kinds)
//! kubectl, node agents --HTTPS--> http::serve --^                |
//! every watcher <-------------- a number into the history -------+--batches--> Journal (or none)
//! ```
//! Objects are shared as `Arc<Obj>` between the store, its history, lists and in-process watchers;
//! only HTTP clients pay for JSON. A write runs through: identity, what the writer may touch
//! (status or the rest), unknown fields and types, defaults, validation, addresses, and writes
//! nothing when nothing is different. With a [`Journal`] ([`ApiServer::open`]) an answer waits until
//! what it is based on is safe, and nobody sees a change before. Without one ([`ApiServer::new`])
//! nothing here waits or spawns except [`http`], so the store runs on any executor and under virtual
//! time; uids and generated names come from one seeded
//! generator. Custom kinds have rules in CEL (`rules`), pods the standards that their namespace asks
//! for (`security`). `tests/contract` holds all of it beside a real API server.
//!
//! What it does with which kinds ([`ApiServer::kinds`] returns the same at run time):
//!
//! | | kinds |
//! |---|---|
//! | served | Namespace, Node, Pod, Service, `ConfigMap`, Secret, Event, Deployment, `ReplicaSet`, `StatefulSet`, `DaemonSet`, `ControllerRevision`, Job, `CronJob`, Lease, `EndpointSlice`, `PodDisruptionBudget` (asked by evictions), `PersistentVolume`, `PersistentVolumeClaim`, `StorageClass`, `CustomResourceDefinition` and the kinds they define |
//! | passive: stored, no controller acts on it, a warning says so | Endpoints, `ServiceAccount`, `HorizontalPodAutoscaler`, Ingress, `IngressClass`, `PriorityClass` |
//! | refused with the reason | `NetworkPolicy`, Role, `RoleBinding`, `ClusterRole`, `ClusterRoleBinding`, `ResourceQuota`, `LimitRange`, admission webhook configurations |
//! | answered, never stored | `SelfSubjectReview`, `SelfSubjectAccessReview`, `SelfSubjectRulesReview`, `SubjectAccessReview`, `TokenReview` |
//!
//! Not here: controllers, scheduler, node agents (they use the [`evenkeel_control::Store`] port
//! like all other clients); authorisation (a token may do everything); conversion webhooks of custom
//! kinds; attach, port-forward.

#![warn(clippy::disallowed_methods, reason = "the store must run under virtual time")]

mod addresses;
mod allocate;
mod apply;
mod base64;
mod conform;
mod crd;
mod custom;
mod defaults;
mod delete;
mod error;
mod field_set;
mod journal;
mod patch;
mod protobuf;
mod request;
mod resource;
mod rules;
mod schema;
mod security;
mod server;
mod state;
mod subresource;
mod table;
mod validate;
mod value;
mod watch;
mod write;

pub mod http;

pub use error::{About, ApiError, Cause};
pub use http::commands::{ExecRequest, ExecSession, ExecSource, NoExec, Resize, TerminalSize};
pub use http::logs::{LogError, LogOptions, LogRequest, LogSource, NoLogs};
pub use journal::{
    Batch, Counters, Entry, Flusher, Journal, JournalError, Keeper, Kept, RedbJournal, restore,
    to_snapshot,
};
pub use resource::Service;
pub use server::ApiServer;
