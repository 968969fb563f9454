//! The demo: one script, run in the real world by the binary and under virtual time here.

pub mod manifests;
pub mod report;
pub mod script;
