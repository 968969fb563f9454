//! The binary: flags and wiring.
fn main() {}
