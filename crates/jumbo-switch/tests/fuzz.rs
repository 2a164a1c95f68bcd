//! The fuzz bodies over random bytes.

use std::cell::RefCell;

use jumbo_switch::fuzz_bodies::{Reached, guest_port};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

#[test]
fn a_guest_that_does_anything_harms_nobody() {
    let config = ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(400)
    };
    let bytes = prop::collection::vec(any::<u8>(), 0..600);
    let sum = RefCell::new(Reached::default());
    let result = TestRunner::new(config).run(&bytes, |data| {
        let reached = guest_port(&data);
        let mut sum = sum.borrow_mut();
        sum.received += reached.received;
        sum.sent += reached.sent;
        sum.stopped += reached.stopped;
        sum.accepted += reached.accepted;
        sum.errors += reached.errors;
        Ok(())
    });
    result.expect("a promise is broken");
    // Else the bytes do not get anywhere and this test says nothing.
    let sum = sum.into_inner();
    println!("{sum:?}");
    assert!(sum.received > 1000 && sum.sent > 2000, "{sum:?}");
    assert!(
        sum.stopped > 100 && sum.errors > 50 && sum.accepted > sum.errors,
        "{sum:?}"
    );
}
