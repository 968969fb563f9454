//! The zero-loss HTTP gateway: a sans-IO engine and a hyper shell.
//!
//! ```text
//! Services, EndpointSlices, HTTPRoutes ──> Snapshot ──> Gateway::apply ──> worker 1..N (Engine each)
//!                                                             ^                │
//!              HTTPRoute status, drained pods <── acknowledged generation <────┘
//! ```
//!
//! - [`engine`]: routing, balancing, retries, ejection, drain bookkeeping and metrics; pure.
//! - [`shell`]: sockets and threads around it.

pub mod engine;
pub mod shell;
pub mod standalone;
