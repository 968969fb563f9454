//! libFuzzer's entry to [`evenkeel_fuzz::manifests`].
#![no_main]
use evenkeel_fuzz::{manifests, seeds};

libfuzzer_sys::fuzz_target!(init: seeds::write("manifests"), |data: &[u8]| manifests::run(data));
