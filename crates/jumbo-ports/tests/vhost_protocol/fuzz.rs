//! The fuzz bodies over random bytes.

use jumbo_ports::vhost::fuzz_bodies;
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(3000) })]

    #[test]
    fn messages_break_nothing(data in prop::collection::vec(any::<u8>(), 0..600)) {
        fuzz_bodies::messages(&data);
    }

    #[test]
    fn streams_break_nothing(data in prop::collection::vec(any::<u8>(), 0..200)) {
        fuzz_bodies::stream(&data);
    }
}
