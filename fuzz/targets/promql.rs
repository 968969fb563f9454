//! libFuzzer's entry to [`evenkeel_fuzz::promql`].
#![no_main]
use evenkeel_fuzz::{promql, seeds};

libfuzzer_sys::fuzz_target!(init: seeds::write("promql"), |data: &[u8]| promql::run(data));
