//! The tools: each reads files, calls one crate, prints.

pub(crate) mod audit;
pub(crate) mod promql;
pub(crate) mod slo;
mod slo_status;
