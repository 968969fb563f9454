//! The zero-loss HTTP gateway: a sans-IO engine, a hyper shell, and the controller that feeds them.
//!
//! ```text
//! Services, EndpointSlices, Pods, HTTPRoutes, Gateways
//!        │ controller: view ──decide──> Snapshot
//!        v
//! DataPlane::apply ──> worker 1..N (an Engine each) ──> endpoints
//!        │
//!        └─ every worker runs it ──> HTTPRoute status (Programmed), drained pods annotated
//! ```
//! - [`engine`]: routing, balancing, retries, ejection, drain bookkeeping and metrics; pure.
//! - [`decide`](fn@decide): objects to configuration; pure. [`Controller`] is the loop around it.
//! - [`shell`]: sockets and threads. [`simulated`]: the same engines without them. [`standalone`]: a gateway without a cluster.
//!
//! HTTP/1.1 is balanced by request. Other connections to a Service's address are carried as bytes,
//! one endpoint each: [`engine::Protocol`] tells them apart. Not here: TLS, HTTP/2, mirroring, UDP.

pub mod controller;
mod decide;
pub mod engine;
mod plane;
pub mod reasons;
pub mod shell;
pub mod simulated;
pub mod standalone;
mod status;
mod view;

pub use controller::{Controller, Setup};
pub use decide::{
    Desired, Finding, GatewayVerdict, Leaving, ListenerVerdict, ParentVerdict, RouteVerdict, decide,
};
pub use plane::{DataPlane, Lag, Progress};
pub use view::{Name, PodFacts, View};
