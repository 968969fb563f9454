//! Fuzz targets: hostile input is answered or refused, never with a panic, in bounded time and
//! memory.
//!
//! One module per target with `run(data)`, which panics when something is wrong. The binaries under
//! `targets/` hand it to libFuzzer (`fuzz/run`); `tests/replay.rs` plays seeds, regressions and
//! simple mutations of them on any toolchain. Every target takes any bytes; bytes that are not UTF-8
//! are read as far as they go.

pub mod budget;
mod bytes;
pub mod exposition;
pub mod manifests;
pub mod promql;
pub mod rules;
pub mod seeds;
pub mod slo;
mod world;

/// A target by its name.
pub struct Target {
    /// Its name, also of its folders.
    pub name: &'static str,
    /// Feeds it one input.
    pub run: fn(&[u8]),
}

/// All targets.
pub const TARGETS: [Target; 6] = [
    Target { name: "promql", run: promql::run },
    Target { name: "exposition", run: exposition::run },
    Target { name: "rules", run: rules::run },
    Target { name: "slo", run: slo::run },
    Target { name: "manifests", run: manifests::run },
    Target { name: "budget", run: budget::run },
];

/// The input as text, cut into its parts at NUL bytes.
fn parts(data: &[u8]) -> Vec<String> {
    data.split(|b| *b == 0).map(|part| String::from_utf8_lossy(part).into_owned()).collect()
}
