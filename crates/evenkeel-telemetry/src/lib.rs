//! Scraping, the series store and the Prometheus HTTP API.
//!
//! ```text
//!  pods, sources --discover--> Target --Fetch--> text --Intake--> SeriesStore <--- rules
//!                                                                   |     |
//!                                     control::Metrics <------------+     +-----> /api/v1/...
//! ```
//! [`Telemetry`] is the shared handle: it owns the store, answers `PromQL` in process and
//! forgets what is too old. [`Scraper`] fills it over the ports of `control` (any executor, any kind of
//! time), [`api::handle`] answers HTTP requests as Prometheus does. Only [`shell`] knows sockets.
//!
//! Not here: `PromQL` itself (`evenkeel-promql`), what the numbers mean (`evenkeel-slo`), disk.
#![warn(clippy::disallowed_methods, reason = "all but the shell must run under virtual time")]

mod alert_events;
pub mod api;
mod intake;
mod limits;
mod lines;
mod queries;
mod rule_objects;
mod rules;
mod scrape;
pub mod shell;
mod target;
mod telemetry;
mod windows;

pub use alert_events::AlertEvents;
pub use intake::ScrapeError;
pub use limits::{Limits, ScrapeSettings};
pub use rule_objects::{RuleController, RulesView};
pub use rules::{AlertSink, AlertUpdate, GroupView, Round, RuleRunner};
pub use scrape::{Fetch, FetchError, Fetched, Scraper, Source};
pub use target::{Health, POD_JOB, Target, TargetStatus};
pub use telemetry::Telemetry;
pub use windows::{WindowController, WindowsView};
