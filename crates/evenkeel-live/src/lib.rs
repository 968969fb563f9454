//! The ports over the real world: any Kubernetes through kube-rs, webhooks over HTTP, real time.
//!
//! ```text
//! KubeStore  Store over kube's Client: raw requests, one JSON layer, kinds from discovery
//! informer   list + watch that resumes, lists again after 410, and tells what it missed
//! HttpHooks  webhooks, with in-cluster Service names resolved through the Store, and the built-in
//!            load tester behind http://flagger-loadtester/
//! RealTime   Clock and Timer
//! ```
//! Not here: any decision. Nothing is generic over kinds: requests and answers are JSON values, so
//! this crate stays small to compile.

mod hooks;
mod informer;
mod kinds;
mod load;
mod store;
mod time;

pub use hooks::HttpHooks;
pub use store::{ConnectError, KubeStore, connect};
pub use time::RealTime;
