//! The ports over the real world: any Kubernetes through kube-rs, webhooks over HTTP, real time.
//!
//! ```text
//! CachedStore  one watch per kind and query for all controllers; reads come from memory
//! KubeStore  Read and Write over kube's Client: raw requests, one JSON layer
//!   identity   certificates and tokens in files, taken up when they are replaced
//!   client     connections: a limit on everything, dead ones are replaced
//!   answer     what an answer means; "no such object" is not "no such kind"
//!   words      messages of libraries, without the secrets that they quote
//!   kinds      which kinds there are, asked for as rarely as possible
//!   informer   list + watch that resumes, lists again after 410, and reports what it missed
//!   pace       turns, for informers whose watches end at once
//!   schema     which fields of a status the server keeps
//!   annex      where the others are kept
//!   shelf      what is known of one query: the newer of the watch and of our own writes
//!   packed     objects as they are kept: a fraction of what they take when they are used
//!   codec      values as bytes
//!   page       a page of a list, object by object
//!   fits       whether a good answer is what was asked for
//! OneNamespace  a store that asks for the objects of one namespace only
//! Neighbours  which kinds another controller looks after
//! HttpHooks  webhooks, with in-cluster Service names resolved through the Store, and the built-in
//!            load tester behind http://flagger-loadtester/
//! ProviderNotifier  notifications to Slack, Discord and others, in order, tried again
//! PostgresRecord    the audit record that several processes write, in a database
//! RealTime   Clock and Timer
//! ```
//! Not here: any decision. Nothing is generic over kinds: requests and answers are JSON values, so
//! this crate stays small to compile.

mod annex;
mod answer;
mod cache;
mod client;
mod codec;
mod config;
mod connector;
mod counts;
mod fits;
mod hooks;
mod identity;
mod informer;
mod kinds;
mod lines;
mod load;
mod metrics;
mod neighbours;
mod notify;
mod pace;
mod packed;
mod page;
mod postgres;
mod schema;
mod scope;
mod settings;
mod shelf;
mod store;
mod time;
mod url;
mod words;

pub use cache::{CachedStore, Definition, Kept};
pub use client::ClientError;
pub use config::{ConnectError, connect, connect_with};
pub use connector::OtherNetwork;
pub use counts::ApiCounts;
pub use evenkeel_control::Manage;
pub use hooks::HttpHooks;
pub use neighbours::Neighbours;
pub use notify::ProviderNotifier;
pub use postgres::{PostgresRecord, RecordStoreError};
pub use scope::OneNamespace;
pub use settings::LiveSettings;
pub use store::KubeStore;
pub use time::RealTime;
