//! libFuzzer's entry to [`evenkeel_fuzz::rules`].
#![no_main]
use evenkeel_fuzz::{rules, seeds};

libfuzzer_sys::fuzz_target!(init: seeds::write("rules"), |data: &[u8]| rules::run(data));
