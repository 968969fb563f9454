//! The demo workload: what it answers as a pure function, a server around it, and the load on it.
//!
//! ```text
//! Settings (from env) + Request --respond--> Answer      pure; the simulator calls it directly
//! serve: HTTP on POD_IP:8080 around respond, Ledger (executed POSTs), /metrics
//! load:  open-loop client; says what clients saw, second by second and phase by phase
//! ```
//! Not here: retries (the client has none on purpose) and any knowledge of Kubernetes.

mod access;
mod ledger;
mod metrics;
mod respond;
mod serve;
mod settings;

pub mod load;

pub use ledger::{Execution, Ledger, LedgerError, executions};
pub use respond::{Answer, Request, respond};
pub use serve::{ServeError, Stopped, main, serve};
pub use settings::{Settings, SettingsError};
