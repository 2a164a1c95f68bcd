//! The fuzz bodies over random bytes.

use std::cell::Cell;

use jumbo_ports::vhost::{Request, fuzz_bodies};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(cases)
    }
}

#[test]
fn messages_break_nothing() {
    let (accepted, errors, resumes) = (Cell::new(0), Cell::new(0), Cell::new(0));
    let bytes = prop::collection::vec(any::<u8>(), 0..600);
    let mut runner = TestRunner::new(config(2000));
    let result = runner.run(&bytes, |data| {
        let reached = fuzz_bodies::messages(&data);
        accepted.set(accepted.get() + reached.accepted);
        errors.set(errors.get() + reached.errors);
        resumes.set(resumes.get() + reached.resumes);
        Ok(())
    });
    result.expect("a promise is broken");
    // Else the bytes do not get anywhere and this test says nothing.
    let (accepted, errors, resumes) = (accepted.get(), errors.get(), resumes.get());
    println!("accepted {accepted}, errors {errors}, resumes {resumes}");
    assert!(accepted > 2 * errors && errors > 1000 && resumes > 2000);
}

/// Messages with true headers, for otherwise next to none gets past its first twelve bytes.
fn framed() -> impl Strategy<Value = Vec<u8>> {
    let message = (
        0..Request::ALL.len(),
        0_u8..16,
        prop::collection::vec(any::<u8>(), 0..48),
    );
    let message = message.prop_map(|(index, salt, payload)| {
        let request = Request::ALL[index];
        let payload = if request.has_own_reply() && salt > 2 {
            vec![]
        } else {
            payload
        };
        let flags = if salt == 0 {
            4
        } else {
            1 | u32::from(salt & 8)
        };
        let head = [request as u32, flags, payload.len() as u32];
        [head.map(u32::to_ne_bytes).concat(), payload].concat()
    });
    prop::collection::vec(message, 0..12).prop_map(|messages| messages.concat())
}

proptest! {
    #![proptest_config(config(1000))]

    #[test]
    fn streams_break_nothing(data in prop::collection::vec(any::<u8>(), 0..100)) {
        fuzz_bodies::stream(&data);
    }

    #[test]
    fn framed_streams_break_nothing(data in framed(), cut in 0_usize..600) {
        fuzz_bodies::stream(&data[..cut.min(data.len())]);
    }
}
