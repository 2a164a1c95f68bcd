//! What a virtio header may say of a packet that is not what it seems.

use jumbo_engine::arena::{Admitted, Arena};
use jumbo_engine::packet::{Frag, Link};
use jumbo_engine::pending::{Caps, Csum};
use jumbo_engine::vnet::{HeaderFault, Trust, VnetHeader};
use jumbo_testkit::PacketBuilder;

const TCPV4: u8 = 1;
const NEEDS_CSUM: u8 = 1;

fn admit(arena: &mut Arena, bytes: &[u8], header: VnetHeader) -> Result<Admitted, HeaderFault> {
    let body = [Frag::new(0, bytes.len() as u32)];
    arena.admit(Link::Ethernet, bytes, &body, Some((&header, Trust::Guest)))
}

fn tcp(payload_len: usize) -> PacketBuilder {
    PacketBuilder::ethernet()
        .ipv4([10, 0, 0, 1], [10, 0, 0, 2])
        .tcp(1, 2)
        .flags(0x10)
        .payload_len(payload_len)
}

#[test]
fn super_packet_of_one_segment_keeps_its_own_checksum() {
    let bytes = tcp(100).build();
    let header = VnetHeader {
        gso_type: TCPV4,
        gso_size: 1448,
        ..VnetHeader::default()
    };
    let mut arena = Arena::new(1, 2);
    let id = admit(&mut arena, &bytes, header).expect("admitted").id;
    let packet = arena.packet(id);
    assert_eq!(packet.pending().gso, None);
    assert_eq!(packet.pending().csum, Csum::Unverified);
    assert_eq!(packet.header(), &bytes[..54]);
}

#[test]
fn padding_of_a_small_super_packet_is_no_payload() {
    // 54 bytes of headers and 2 of payload, padded to Ethernet's 60.
    let bytes = tcp(2).partial_checksum().pad_to_minimum().build();
    assert_eq!(bytes.len(), 60);
    let header = VnetHeader {
        flags: NEEDS_CSUM,
        gso_type: TCPV4,
        gso_size: 8,
        csum_start: 34,
        csum_offset: 16,
        ..VnetHeader::default()
    };
    let mut arena = Arena::new(1, 2);
    let id = admit(&mut arena, &bytes, header).expect("admitted").id;
    assert_eq!(arena.packet(id).payload_len(), 2);
    assert_eq!(arena.packet(id).pending().gso, None);
}

#[test]
fn checksum_where_no_network_header_ends_is_refused() {
    let mut bytes = vec![0u8; 100];
    bytes[12..14].copy_from_slice(&[0x88, 0xb5]);
    let header = |csum_start| VnetHeader {
        flags: NEEDS_CSUM,
        csum_start,
        csum_offset: 6,
        ..VnetHeader::default()
    };
    let mut arena = Arena::new(2, 4);
    let refused = admit(&mut arena, &bytes, header(33)).map(|_| ());
    assert_eq!(refused, Err(HeaderFault::CsumBeforeTransport));
    assert!(admit(&mut arena, &bytes, header(34)).is_ok());
}

#[test]
fn tunnels_and_ufo_are_for_who_negotiated_them() {
    let all = Caps::ALL.with_udp_tunnels(true, true).with_ufo(true);
    for gso_type in 0..=255u8 {
        let header = VnetHeader {
            gso_type,
            ..VnetHeader::default()
        };
        assert_eq!(header.check_negotiated(all), Ok(()));
        let plain = header.check_negotiated(Caps::ALL);
        match (gso_type & 0x60, gso_type & 0x1f) {
            (0, 3) => assert_eq!(plain, Err(HeaderFault::GsoUfoRefused)),
            (0, _) => assert_eq!(plain, Ok(())),
            _ => assert_eq!(plain, Err(HeaderFault::GsoTunnelRefused)),
        }
    }
}
