//! [`Arena::admit_plain`] is [`Arena::admit`], or it is not: never something else.

use jumbo_engine::arena::{Arena, HEAD_WANTED_TUNNELS, PacketId};
use jumbo_engine::packet::{Frag, HEADER_ROOM, Link};
use jumbo_engine::vnet::{Form, Trust, VnetHeader};
use jumbo_testkit::PacketBuilder;
use proptest::prelude::*;

/// Packets of every kind, most of them plain.
fn packets() -> Vec<Vec<u8>> {
    let v4 = || PacketBuilder::ethernet().ipv4([192, 0, 2, 1], [192, 0, 2, 2]);
    let v6 = || PacketBuilder::ethernet().ipv6([1; 16], [2; 16]);
    let mut all = Vec::new();
    for len in [0, 1, 22, 64, 300] {
        for ip in [v4(), v6()] {
            let ip = ip.payload_len(len);
            all.push(ip.clone().udp(40_000, 9).build());
            all.push(ip.clone().udp(40_000, 4789).build());
            all.push(ip.clone().tcp(40_000, 9).partial_checksum().build());
            all.push(ip.clone().tcp(40_000, 9).timestamps(1, 2).build());
            all.push(ip.tcp(40_000, 9).vlan(0x8100, 5).build());
        }
        all.push(v4().payload_len(len).udp(1, 2).mf(true).build());
        all.push(v4().payload_len(len).udp(1, 2).ip_options(&[1; 4]).build());
        all.push(v4().payload_len(len).udp(1, 2).pad_to_minimum().build());
    }
    all
}

/// Everything that the arena knows of a packet.
fn all_of(arena: &Arena, id: PacketId) -> String {
    let payload: Vec<Frag> = arena.payload(id).collect();
    format!("{:?} {payload:?}", arena.packet(id))
}

/// Whether the plain way took it. What it says must be what the general way says.
fn check(bytes: &[u8], vnet: Option<&VnetHeader>, tunnels: bool) -> Result<bool, TestCaseError> {
    let arena = || {
        let mut arena = Arena::new(2, 4);
        arena.follow_tunnels(tunnels);
        arena
    };
    let (mut one, mut other) = (arena(), arena());
    let whole = Frag::new(1000, bytes.len() as u32);
    let vnet = vnet.map(|header| (header, Trust::Guest));
    let fill = |head: &mut [u8; HEADER_ROOM]| {
        let len = bytes.len().min(HEADER_ROOM);
        head[..len].copy_from_slice(&bytes[..len]);
        head[len..].fill(0);
    };
    let Some(plain) = one.admit_plain(whole, vnet, fill) else {
        prop_assert_eq!(one.live(), 0, "nothing has happened");
        return Ok(false);
    };
    let head = &bytes[..bytes.len().min(HEAD_WANTED_TUNNELS)];
    let admitted = other.admit(Link::Ethernet, head, &[whole], vnet);
    prop_assert!(admitted.is_ok(), "{admitted:?}");
    let Ok(admitted) = admitted else {
        return Ok(true);
    };
    prop_assert_eq!(admitted.opaque, None);
    prop_assert_eq!(all_of(&one, plain), all_of(&other, admitted.id));
    Ok(true)
}

#[test]
fn usual_packets_are_plain() {
    let header = VnetHeader::default();
    let is_plain = |bytes: &&Vec<u8>| check(bytes, Some(&header), false).expect("they agree");
    let taken = packets().iter().filter(is_plain).count();
    // Not ten with tags, five fragments, five with options, two that were padded.
    assert_eq!(taken, packets().len() - 22);
}

proptest! {
    #[test]
    fn plain_way_says_what_the_general_way_says(
        which in any::<prop::sample::Index>(),
        changes in prop::collection::vec((0..80_usize, any::<u8>()), 0..3),
        cut in prop::option::of(0..200_usize),
        header in prop::option::of(any::<[u8; 12]>()),
        tunnels in any::<bool>(),
    ) {
        let all = packets();
        let mut bytes = which.get(&all).clone();
        for (at, value) in changes {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
        }
        bytes.truncate(cut.unwrap_or(usize::MAX));
        let header = header.and_then(|mut bytes| {
            // A valid combination more often than chance would have it.
            bytes[0] &= 3;
            bytes[1] &= 1;
            bytes[2..6].fill(0);
            let field = [16, 6][usize::from(bytes[10] & 1)];
            bytes[6..10].copy_from_slice(&[34, 0, field, 0]);
            VnetHeader::decode(Form::Modern12, &bytes)
        });
        check(&bytes, header.as_ref(), tunnels)?;
    }
}
