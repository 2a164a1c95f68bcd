//! What the tests of the whole switch share.
#![allow(dead_code, reason = "each test binary uses its part")]

use std::time::{Duration, Instant};

use jumbo_ports::queue::TxFault;
use jumbo_switch::counters::Books;
use jumbo_switch::switch::{State, Switch};

/// Longest wait for a switch to come to rest.
const PATIENCE: Duration = Duration::from_secs(10);

/// Drops by reason, over all ports: (stage and reason, packets), zeros left out.
pub(crate) fn drops(state: &State) -> Vec<(String, u64)> {
    let mut list = Vec::new();
    let removed = ("removed", &state.removed.counters);
    let ports = state.ports.iter();
    let ports = ports.map(|port| (port.info.device.as_str(), &port.counters));
    for (device, counters) in ports.chain([removed]) {
        let mut note = |stage: &str, name: &dyn std::fmt::Display, count: u64| {
            if count != 0 {
                list.push((format!("{device} {stage} {name}"), count));
            }
        };
        counters
            .rx
            .faults
            .iter()
            .for_each(|(r, n)| note("rx", &r, n));
        counters
            .rx
            .losses
            .iter()
            .for_each(|(r, n)| note("device", &r, n));
        counters
            .forward
            .iter()
            .for_each(|(r, n)| note("forward", &r, n));
        counters
            .complete
            .iter()
            .for_each(|(r, n)| note("complete", &r, n));
        counters
            .tx_faults
            .iter()
            // Segmented here and sent after all: no drop.
            .filter(|(r, _)| *r != TxFault::GsoRefused)
            .for_each(|(r, n)| note("tx", &r, n));
    }
    list
}

/// The books balance, nothing rests, and every drop has a reason.
#[track_caller]
pub(crate) fn assert_accounted(state: &State) {
    assert_books(&state.books);
    let explained: u64 = drops(state).iter().map(|(_, count)| count).sum();
    assert_eq!(
        explained,
        state.books.dropped,
        "{:?} {:?}",
        drops(state),
        state.books
    );
}

/// The books balance and nothing rests.
#[track_caller]
pub(crate) fn assert_books(books: &Books) {
    assert!(books.balanced(), "{books:?}");
    assert_eq!(books.resting, 0, "{books:?}");
}

/// Waits until the switch has received `packets` in all, and accounts for them.
#[track_caller]
pub(crate) fn settled(switch: &Switch, packets: u64) -> State {
    let start = Instant::now();
    loop {
        let state = switch.state().expect("the workers answer");
        if state.books.received >= packets {
            assert_eq!(state.books.received, packets);
            assert_accounted(&state);
            return state;
        }
        assert!(
            start.elapsed() < PATIENCE,
            "{packets} packets: {:?}",
            state.books
        );
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Waits until the books stand still, and accounts for them.
#[track_caller]
pub(crate) fn quiet(switch: &Switch) -> State {
    let start = Instant::now();
    let mut before = switch.state().expect("the workers answer");
    loop {
        std::thread::sleep(Duration::from_millis(5));
        let state = switch.state().expect("the workers answer");
        if state.books == before.books && state.books.resting == 0 {
            assert_accounted(&state);
            return state;
        }
        assert!(start.elapsed() < PATIENCE, "never quiet: {:?}", state.books);
        before = state;
    }
}
