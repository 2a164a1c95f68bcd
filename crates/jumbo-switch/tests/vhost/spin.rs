//! Workers that look for packets before they sleep: whatever they do when a packet comes, it is seen.

use std::time::{Duration, Instant};

use jumbo_switch::switch::SwitchConfig;
use jumbo_testkit::virtio::Options;

use crate::rig::{Rig, acquaint, mac, raw};

/// Long enough for a busy machine to be looking when some packets come, and asleep when others do.
const SPIN: Duration = Duration::from_millis(2);

fn rig(workers: usize) -> Rig {
    let mut rig = Rig::started(&SwitchConfig {
        workers,
        spin: SPIN,
        ..SwitchConfig::default()
    });
    for _ in 0..2 {
        rig.port(|_| {});
    }
    rig
}

/// A pause of up to a few microseconds, now and then of milliseconds.
fn pause(number: u64) {
    if number % 16 == 15 {
        return std::thread::sleep(2 * SPIN);
    }
    let until = Instant::now() + Duration::from_nanos(number * 997 % 20_000);
    while Instant::now() < until {
        std::hint::spin_loop();
    }
}

#[test]
fn no_packet_is_left_whether_the_worker_looks_or_sleeps() {
    for (workers, packed, event_idx) in [(1, false, true), (2, true, true), (1, true, false)] {
        let rig = rig(workers);
        let options = || Options {
            packed,
            event_idx,
            ..Options::default()
        };
        let mut guests = [0, 1].map(|port| rig.guest(port, options()));
        acquaint(&rig, &mut guests);
        for number in 0..400 {
            let from = (number % 3 == 0) as usize;
            let packet = raw(mac(1 - from), from, number, 60);
            guests[from].send(0, &packet);
            assert_eq!(guests[1 - from].recv().packet, packet);
            pause(number);
        }
        rig.quiet();
    }
}

#[test]
fn worker_that_looks_hears_what_it_is_told() {
    let rig = rig(1);
    let mut guests = [0, 1].map(|port| rig.guest(port, Options::default()));
    acquaint(&rig, &mut guests);
    for number in 0..200 {
        let packet = raw(mac(1), 0, number, 60);
        guests[0].send(0, &packet);
        let state = rig.state();
        assert!(state.books.received >= number);
        assert_eq!(guests[1].recv().packet, packet);
    }
}
