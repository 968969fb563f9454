//! libFuzzer's entry to [`evenkeel_fuzz::slo`].
#![no_main]
use evenkeel_fuzz::{seeds, slo};

libfuzzer_sys::fuzz_target!(init: seeds::write("slo"), |data: &[u8]| slo::run(data));
