//! Any bytes against `jumbo_switch::fuzz_bodies::guest_port`.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    jumbo_switch::fuzz_bodies::guest_port(data);
});
