//! Any bytes against `fuzz_bodies::parse`.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| jumbo_engine::fuzz_bodies::parse(data));
