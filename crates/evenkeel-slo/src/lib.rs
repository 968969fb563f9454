//! SLOs as Sloth reads them, the error budget, its ledger and its policy.
//!
//! ```text
//! manifests -> spec -> SloGroup -> generate -> RuleSet (YAML)      what Prometheus evaluates
//!                          |
//! counters -> budget -> Standing -> policy -> State, Verdict      what automation may do
//!                |
//!              ledger: which change, incident or fault spent it
//! ```
//!
//! Everything but `controller` is pure: text and values in, text and values out; no clock, no
//! files, no network. Queries are evaluated elsewhere, behind the `Metrics` port; this crate counts
//! what they return.

#![warn(clippy::disallowed_methods)]

pub mod budget;
pub mod controller;
mod duration;
mod finding;
mod generate;
mod lint;
mod model;
mod number;
mod plugin;
pub mod policy;
mod query;
pub mod reasons;
mod render;
mod rules;
mod spec;
pub mod status;
mod template;
mod validate;
mod windows;
mod yaml;

pub use duration::{DurationError, PromDuration};
pub use finding::{Condition, Finding, Severity, conditions, has_errors};
pub use generate::{Loaded, Mode, Options, Output, Skip, generate, generate_group, load};
pub use lint::{LintReport, LintedObject, SlothVerdict, export_sloth, lint};
pub use model::{
    Alert, Events, Labels, Metadata, PluginChain, PluginRef, Sli, Slo, SloGroup, SpecKind,
};
pub use plugin::{SLI_PLUGIN_IDS, SLO_PLUGIN_IDS};
pub use render::RuleSet;
pub use rules::{Rule, RuleGroup, RuleOutput, budget_series, sli_metric};
pub use spec::{Input, RESERVED_LABELS, Reading};
pub use windows::{AlertWindows, BurnPair, BurnWindow, Catalogue};
