//! Any bytes against `fuzz_bodies::tunnels`.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| jumbo_engine::fuzz_bodies::tunnels(data));
