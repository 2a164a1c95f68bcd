//! The canonical test of every reason why a packet is dropped on its way to a port.

mod support;

use jumbo_engine::arena::SliceMemory;
use jumbo_engine::checksum::Kernels;
use jumbo_engine::complete::{Fault, Plan, complete, leaving, plan};
use jumbo_engine::packet::Link;
use jumbo_engine::pending::Caps;
use jumbo_engine::vnet::Trust;
use jumbo_testkit::PacketBuilder;
use jumbo_testkit::oracle::vnet_gso;
use support::{Input, Rig, assert_each_has_one_canonical_test, needs_csum};

#[test]
fn every_reason_has_its_test() {
    let source = include_str!("reasons_complete.rs");
    assert_each_has_one_canonical_test::<Fault>("Fault", source);
}

fn super_packet() -> Input {
    let builder = PacketBuilder::ethernet().payload_len(5000);
    let bytes = builder.partial_checksum().build();
    let header = needs_csum(Link::Ethernet, &bytes, vnet_gso::TCPV4, 1460);
    Input::ethernet(bytes).vnet(header, Trust::Guest)
}

/// What is done with the packet, given so much of its memory.
fn outcome(input: &Input, caps: Caps, mtu: usize, memory_len: usize) -> (Plan, Result<u32, Fault>) {
    let mut rig = Rig::new();
    let admitted = rig.admit(input).expect("sound");
    let packet = rig.arena.packet(admitted.id);
    let memory = SliceMemory::new(&rig.memory[..memory_len], Kernels::portable());
    let plan = plan(packet, caps, mtu);
    let payload = rig.arena.payload(admitted.id);
    let done = complete(packet, payload, plan, &memory, |_, _| {});
    if let Ok(count) = done {
        assert_eq!(count, leaving(packet, plan));
    }
    (plan, done)
}

#[test]
fn a_packet_longer_than_the_mtu_is_dropped() {
    let bytes = PacketBuilder::ethernet().vlan(0x8100, 7).payload_len(1461);
    let input = Input::ethernet(bytes.build());
    let fault = canonical!(Fault::OverMtu);
    let dropped = (Plan::Drop(fault), Err(fault));
    assert_eq!(outcome(&input, Caps::ALL, 1500, 1500), dropped);
    assert_eq!(outcome(&input, Caps::ALL, 1501, 1500), (Plan::AsIs, Ok(1)));
}

/// Never cut differently from what the sender asked for, though it could be.
#[test]
fn a_super_packet_with_segments_longer_than_the_mtu_is_dropped() {
    let fault = canonical!(Fault::SegmentOverMtu);
    let dropped = (Plan::Drop(fault), Err(fault));
    for caps in [Caps::NONE, Caps::ALL] {
        assert_eq!(outcome(&super_packet(), caps, 1499, 5054), dropped);
    }
    assert_eq!(outcome(&super_packet(), Caps::ALL, 1500, 5054).1, Ok(1));
    assert_eq!(outcome(&super_packet(), Caps::NONE, 1500, 5054).1, Ok(4));
}

#[test]
fn payload_whose_memory_is_gone_is_dropped() {
    let fault = canonical!(Fault::PayloadMissing);
    let (plan, done) = outcome(&super_packet(), Caps::NONE, 1500, 5053);
    assert!(matches!(plan, Plan::Segment(..)));
    assert_eq!(done, Err(fault));
    let partial = PacketBuilder::ethernet()
        .payload_len(100)
        .partial_checksum();
    let bytes = partial.build();
    let header = needs_csum(Link::Ethernet, &bytes, vnet_gso::NONE, 0);
    let input = Input::ethernet(bytes).vnet(header, Trust::Guest);
    let gone = (Plan::Checksum, Err(fault));
    assert_eq!(outcome(&input, Caps::NONE, 1500, 100), gone);
    // Who need not look at the payload need not have it.
    assert_eq!(outcome(&input, Caps::ALL, 1500, 0), (Plan::AsIs, Ok(1)));
}
