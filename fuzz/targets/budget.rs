//! libFuzzer's entry to [`evenkeel_fuzz::budget`].
#![no_main]
use evenkeel_fuzz::{budget, seeds};

libfuzzer_sys::fuzz_target!(init: seeds::write("budget"), |data: &[u8]| budget::run(data));
