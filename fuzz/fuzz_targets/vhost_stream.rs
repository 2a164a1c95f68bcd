//! Any bytes against `vhost::fuzz_bodies::stream`.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| jumbo_ports::vhost::fuzz_bodies::stream(data));
