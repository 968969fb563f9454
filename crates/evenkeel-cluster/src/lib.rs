//! An embedded Kubernetes API server: an in-memory store, and HTTPS for `kubectl`.
mod addresses;
mod allocate;
mod apply;
mod base64;
mod conform;
mod crd;
mod defaults;
mod delete;
mod error;
mod patch;
mod protobuf;
mod resource;
mod schema;
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
pub use http::logs::{LogError, LogOptions, LogRequest, LogSource, NoLogs};
pub use resource::Service;
pub use server::ApiServer;
