//! The tools: each reads files, calls one crate, prints.

pub(crate) mod alerts;
pub(crate) mod audit;
pub(crate) mod audit_args;
mod audit_list;
mod audit_source;
mod audit_unsound;
pub(crate) mod crds;
pub(crate) mod install;
mod object_name;
pub(crate) mod promql;
mod rule_files;
pub(crate) mod slo;
mod slo_status;
pub(crate) mod snapshot;
pub(crate) mod why;
mod why_glass;
mod why_slo;
mod why_text;
mod why_time;
