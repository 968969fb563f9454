//! `PromQL`: parser, evaluation engine, in-memory series, rule evaluation. Pure.
//!
//! ```text
//!  exposition text --parse--> samples --append--> SeriesStore --select--> engine --> QueryResult --> JSON
//!                                                      ^                    ^
//!                                          rules (recording, alerting)   parser (text -> Query)
//! ```
//!
//! Semantics are those of Prometheus 3 (left-open ranges, UTF-8 names, native histograms), with a
//! switch for the closed ranges of version 2. Upstream's test scripts run in
//! `tests/conformance.rs`. There is no clock, no thread and no I/O here: time comes in as
//! milliseconds since the epoch, data comes in through [`storage::Storage`]. Not here either:
//! scraping, the HTTP API, disks, remote write and the sending of alerts.
//!
//! Where to begin: [`engine::instant`] and [`engine::range`] over a [`series::SeriesStore`],
//! [`rules::Group`] for rules, [`exposition::parse`] for what programs expose, [`testscript::run`]
//! and [`test_rules::run`] for tests.
#![expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    clippy::float_cmp,
    reason = "PromQL is float arithmetic over counts and milliseconds; exact comparison is its semantics"
)]

mod hash;
pub mod labels;
pub mod matcher;
pub mod number;
mod re2;

pub mod histogram;
pub mod sample;
pub mod storage;

pub mod blocks;
mod columns;
mod packed;
pub mod series;

pub mod exposition;

pub mod ast;
pub mod functions;
pub mod parser;

pub mod annotation;
pub mod result;

pub mod engine;

pub mod rules;
pub mod template;

pub mod testscript;

pub mod test_rules;
