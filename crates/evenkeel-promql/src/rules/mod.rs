//! Recording and alerting rules: groups that are evaluated at a time against a store, into which
//! results go back.
//!
//! **Source** of the behaviour: rules/{group,recording,alerting}.go of Prometheus. A group is plain
//! state; its host decides when to call [`Group::evaluate`] (see [`Group::slot_ms`]) and sends the
//! alerts that come out.

mod alert;
mod file;
mod group;
mod span;

pub use alert::{ActiveAlert, AlertState, AlertingRule, Notice};
pub use file::{GroupSpec, RuleFile, RuleFileError, RuleSpec};
pub use group::{
    Context, Evaluation, Group, Health, RecordingRule, Rule, RuleKind, RuleOutcome, RuleStore,
};

pub use span::Span;

/// Interval of groups that name none.
pub const INTERVAL_MS: i64 = 60_000;

#[cfg(test)]
mod tests;
