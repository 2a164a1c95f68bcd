//! Whole conversations, in the order real front ends have them.

use jumbo_ports::vhost::Request::*;
use jumbo_ports::vhost::feature::{PROTOCOL_FEATURES, RING_PACKED, protocol};
use jumbo_ports::vhost::{Position, Request};

use crate::build::*;

/// What QEMU 7.2 sends when its device is made.
fn qemu_realize(bench: &mut Bench, pairs: u32) {
    let offered = bench.ask_u64(GetFeatures);
    assert_ne!(offered & PROTOCOL_FEATURES, 0);
    let protocol = bench.ask_u64(GetProtocolFeatures);
    // It rejects CONFIG for network devices.
    bench.set(SetProtocolFeatures, protocol & !protocol::CONFIG);
    assert!(bench.ask_u64(GetQueueNum) >= u64::from(pairs));
    assert_eq!(bench.ask_u64(GetMaxMemSlots), 64);
    bench.acknowledged(SetBackendReqFd, vec![], vec![event()]);
    bench.tell(SetOwner, vec![], vec![]);
    for ring in 0..2 * pairs {
        bench.event(SetVringCall, ring);
        bench.event(SetVringErr, ring);
    }
    bench.acknowledged(NetSetMtu, words(&[1500]), vec![]);
    // Before any feature is acknowledged; again when the guest resets.
    for _ in 0..2 {
        for ring in 0..2 * pairs {
            bench.state(SetVringEnable, ring, u32::from(ring < 2));
        }
    }
}

/// What it sends when the driver is there: the whole for each pair.
fn qemu_start(bench: &mut Bench, features: u64, pairs: u32, base: u32) {
    for pair in 0..pairs {
        bench.set(SetFeatures, features | PROTOCOL_FEATURES);
        let status = bench.ask_u64(GetStatus);
        bench.set(SetStatus, status | 8);
        let memory = bench.memory();
        bench.acknowledged(AddMemReg, single(REGION), vec![memory]);
        for ring in [2 * pair, 2 * pair + 1] {
            bench.set_up(ring, base);
        }
        for ring in [2 * pair, 2 * pair + 1] {
            bench.state(SetVringEnable, ring, 1);
        }
    }
    bench.set(SetStatus, 15);
}

#[test]
fn qemu_with_two_pairs_runs_four_rings() {
    let mut bench = Bench::new(2);
    qemu_realize(&mut bench, 2);
    assert_eq!(bench.calls(), []);
    assert_eq!(bench.session.device().mtu, Some(1500));
    qemu_start(&mut bench, NET, 2, 0);
    assert_eq!(bench.path.running, [0, 1, 2, 3]);
    let resumes = bench.calls();
    // A ring that comes in is one stop; repeated features, memory and enables are none. Rings 0 and 1 were enabled
    // before they started, 2 and 3 afterwards; the call descriptor comes after the kick.
    let expected = [
        Call::Resume(vec![0]),
        Call::Quiesce,
        Call::Resume(vec![0]),
        Call::Quiesce,
        Call::Resume(vec![0, 1]),
        Call::Quiesce,
        Call::Resume(vec![0, 1]),
        Call::Quiesce,
        Call::Resume(vec![0, 1, 2]),
        Call::Quiesce,
        Call::Resume(vec![0, 1, 2, 3]),
    ];
    assert_eq!(resumes, expected);
    assert_eq!(bench.session.device().status, 15);
    assert_eq!(bench.session.device().memory.len(), 1);
}

#[test]
fn qemu_stops_and_starts_again_with_memory_told_once() {
    let mut bench = Bench::new(1);
    qemu_realize(&mut bench, 1);
    qemu_start(&mut bench, NET, 1, 0);
    for ring in 0..2 {
        bench.state(SetVringEnable, ring, 0);
    }
    assert!(bench.path.running.is_empty());
    for ring in 0..2 {
        assert_eq!(bench.base(ring), 0);
    }
    bench.set(SetStatus, 0);
    assert!(!bench.session.device().is_negotiated);
    // Its table of what it told is as we have it, so it does not tell it again.
    bench.calls();
    bench.set(SetFeatures, NET | PROTOCOL_FEATURES);
    for ring in 0..2 {
        bench.set_up(ring, 77);
        bench.state(SetVringEnable, ring, 1);
    }
    assert_eq!(bench.path.running, [0, 1]);
    let position = Position {
        avail: 77,
        used: None,
    };
    assert_eq!(bench.path.started_at[&1], position);
}

#[test]
fn qemu_resets_a_device_that_runs_and_asks_for_positions_afterwards() {
    let mut bench = Bench::new(1);
    bench.run(NET, &[0, 1]);
    let at = Position {
        avail: 300,
        used: Some(300),
    };
    bench.path.positions.insert(0, at);
    bench.tell(ResetDevice, vec![], vec![]);
    assert_eq!(bench.calls(), [Call::Quiesce]);
    assert_eq!(bench.base(0), 300);
}

#[test]
fn qemu_with_packed_rings_tells_and_hears_both_halves() {
    let mut bench = Bench::new(1);
    qemu_realize(&mut bench, 1);
    qemu_start(&mut bench, NET | RING_PACKED, 1, 0x8000_8000);
    let fresh = Position {
        avail: 0x8000,
        used: Some(0x8000),
    };
    assert_eq!(bench.path.started_at[&0], fresh);
    let stopped = Position {
        avail: 0x0005,
        used: Some(0x8003),
    };
    bench.path.positions.insert(1, stopped);
    assert_eq!(bench.base(1), 0x8003_0005);
    assert_eq!(bench.path.running, [0]);
    bench.set_up(1, 0x8003_0005);
    assert_eq!(bench.path.started_at[&1], stopped);
}

/// QEMU 7.2 `vhost_dev_stop`: status 0 comes first.
#[test]
fn qemu_asks_for_packed_positions_after_it_reset_the_device() {
    let mut bench = Bench::new(1);
    bench.run(NET | RING_PACKED, &[0, 1]);
    let stopped = Position {
        avail: 0x0005,
        used: Some(0x8003),
    };
    bench.path.positions.insert(1, stopped);
    bench.set(SetStatus, 0);
    for ring in 0..2 {
        bench.state(SetVringEnable, ring, 0);
    }
    assert_eq!(bench.base(0), 0x8000_8000);
    assert_eq!(bench.base(1), 0x8003_0005);
}

/// DPDK 22.11 `virtio_user_dev.c`: all rings to the guest, then all from it; CALL first, KICK last.
#[test]
fn dpdk_virtio_user_runs_and_moves_its_memory() {
    let mut bench = Bench::new(2);
    bench.tell(SetOwner, vec![], vec![]);
    let features = bench.ask_u64(GetFeatures);
    let protocol = bench.ask_u64(GetProtocolFeatures);
    let known = protocol::MQ | protocol::REPLY_ACK | protocol::STATUS;
    bench.set(SetProtocolFeatures, protocol & known);
    let order = [0, 2, 1, 3];
    for ring in order {
        bench.event(SetVringCall, ring);
    }
    bench.set(
        SetFeatures,
        features & (NET | RING_PACKED | PROTOCOL_FEATURES),
    );
    let memory = bench.memory();
    bench.acknowledged(SetMemTable, table(&[REGION]), vec![memory]);
    for ring in order {
        bench.state(SetVringNum, ring, RING_SIZE);
        // The used half is left out.
        bench.state(SetVringBase, ring, 0x8000);
        bench.tell(SetVringAddr, addresses(ring, 0), vec![]);
        bench.event(SetVringKick, ring);
    }
    assert_eq!(bench.calls(), []);
    for ring in 0..2 {
        bench.state(SetVringEnable, ring, 1);
    }
    assert_eq!(bench.path.running, [0, 1]);
    assert_eq!(bench.path.started_at[&0].used, Some(0x8000));
    bench.acknowledged(SetStatus, words(&[15]), vec![]);
    dpdk_moves_memory(&mut bench);
    for ring in [0, 1] {
        bench.state(SetVringEnable, ring, 0);
    }
    for ring in order {
        bench.base(ring);
    }
    assert!(bench.path.running.is_empty());
}

/// `virtio_user_mem_event_cb`: disables, tells, enables.
fn dpdk_moves_memory(bench: &mut Bench) {
    for ring in [0, 1] {
        bench.state(SetVringEnable, ring, 0);
    }
    let more = [GUEST + MEMORY_LEN, 0x1000, USER + MEMORY_LEN, 0];
    let files = vec![bench.memory(), memory()];
    bench.acknowledged(SetMemTable, table(&[REGION, more]), files);
    for ring in [0, 1] {
        bench.state(SetVringEnable, ring, 1);
    }
    assert_eq!(bench.path.running, [0, 1]);
    assert_eq!(bench.session.device().memory.len(), 2);
}

/// DPDK before 21.02 stops with RESET_OWNER and never asks where rings stood.
#[test]
fn old_dpdk_stops_with_reset_owner() {
    let mut bench = Bench::new(1);
    bench.run(NET, &[0, 1]);
    bench.tell(ResetOwner, vec![], vec![]);
    assert_eq!(bench.calls(), [Call::Quiesce]);
    bench.set(SetFeatures, NET | PROTOCOL_FEATURES);
    let memory = bench.memory();
    bench.tell(SetMemTable, table(&[REGION]), vec![memory]);
    for ring in 0..2 {
        bench.set_up(ring, 0);
        bench.state(SetVringEnable, ring, 1);
    }
    assert_eq!(bench.path.running, [0, 1]);
}

/// Cloud Hypervisor compares GET_QUEUE_NUM with rings, and keeps buffers in flight in shared memory.
#[test]
fn cloud_hypervisor_gets_what_it_asks_for() {
    let mut bench = Bench::new(1);
    bench.tell(SetOwner, vec![], vec![]);
    bench.set(SetProtocolFeatures, protocol::ALL);
    assert_eq!(bench.ask_u64(GetQueueNum), 2);
    bench.set(SetFeatures, NET | PROTOCOL_FEATURES);
    let memory = bench.memory();
    bench.tell(SetMemTable, table(&[REGION]), vec![memory]);
    let asked = [words(&[0, 0]), vec![2, 0, 0, 1]].concat();
    let reply = bench.send(GetInflightFd, asked, vec![]).reply;
    let reply = reply.expect("a reply");
    let file = reply.fd.expect("memory");
    bench.tell(SetInflightFd, reply.payload, vec![file]);
    for ring in 0..2 {
        bench.state(SetVringNum, ring, RING_SIZE);
        bench.tell(SetVringAddr, addresses(ring, 0), vec![]);
        bench.state(SetVringBase, ring, 0);
        bench.event(SetVringCall, ring);
        bench.event(SetVringKick, ring);
    }
    for ring in 0..2 {
        bench.state(SetVringEnable, ring, 1);
    }
    assert_eq!(bench.path.running, [0, 1]);
    let inflight = bench.session.device().inflight.as_ref().expect("told");
    assert_eq!((inflight.queues, inflight.queue_size), (2, 256));
}

#[test]
fn without_protocol_features_rings_run_from_their_kick_on() {
    let mut bench = Bench::new(1);
    let order: [(Request, Vec<u8>); 2] = [(SetOwner, vec![]), (SetFeatures, words(&[NET]))];
    for (request, payload) in order {
        bench.tell(request, payload, vec![]);
    }
    let memory = bench.memory();
    bench.tell(SetMemTable, table(&[REGION]), vec![memory]);
    bench.set_up(0, 5);
    assert_eq!(bench.path.running, [0]);
    bench.set_up(1, 5);
    assert_eq!(bench.path.running, [0, 1]);
}
