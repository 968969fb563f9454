//! libFuzzer's entry to [`evenkeel_fuzz::exposition`].
#![no_main]
use evenkeel_fuzz::{exposition, seeds};

libfuzzer_sys::fuzz_target!(init: seeds::write("exposition"), |data: &[u8]| exposition::run(data));
