//! Guests of old leave datagrams to be fragmented by IP (UFO): they leave as fragments, whoever
//! receives them, and only a guest that asked for it may do so.

use jumbo_engine::vnet::HeaderFault;
use jumbo_testkit::oracle::{
    self, Gso, GsoKind, VnetForm, VnetHeader, complete_checksum, vnet_flags, vnet_gso,
};
use jumbo_testkit::virtio::{Options, feature};
use jumbo_testkit::{Link, PacketBuilder};

use crate::rig::{Guest, Rig, acquaint, mac};

const LINK: Link = Link::Ethernet;

/// What a guest of Linux before 4.14 asks for.
fn of_old(more: u64) -> Options {
    Options {
        features: feature::ANY_LAYOUT | feature::CSUM | feature::GUEST_CSUM | more,
        legacy: true,
        tx_len: 65_549,
        ..Options::default()
    }
}

fn datagram(v6: bool, payload_len: usize, id: u16) -> PacketBuilder {
    let base = PacketBuilder::ethernet().macs(mac(1), mac(0)).id(id);
    let base = if v6 {
        base.ipv6([0xfd; 16], [0xfe; 16])
    } else {
        base
    };
    base.udp(4000, 53).payload_len(payload_len)
}

/// Sends a datagram to be cut to `size`; returns its bytes, checksum unfinished.
fn send(guest: &mut Guest, packet: &PacketBuilder, size: u16) -> Vec<u8> {
    let bytes = packet.clone().partial_checksum().build();
    let header = VnetHeader::needs_csum(LINK, &bytes, vnet_gso::UDP, size).expect("UDP");
    let form = match guest.net.header_len() {
        10 => VnetForm::Plain,
        _ => VnetForm::Merged,
    };
    guest
        .net
        .send(0, &header.encode(form), &bytes)
        .expect("it is taken");
    bytes
}

#[test]
fn guests_of_old_are_given_and_give_fragments() {
    for workers in [1, 2] {
        let rig = Rig::of(workers, 2, 1);
        let mut guests = [
            rig.guest(0, of_old(feature::HOST_UFO)),
            rig.guest(1, of_old(0)),
        ];
        assert_ne!(guests[0].net.features() & feature::HOST_UFO, 0, "offered");
        acquaint(&rig, &mut guests);
        let [from, to] = &mut guests;
        for (id, (v6, payload_len)) in (0..).zip([(false, 9000), (true, 9000), (false, 60_000)]) {
            let size = if v6 { 1448 } else { 1480 };
            let bytes = send(from, &datagram(v6, payload_len, id), size);
            let count = (8 + payload_len).div_ceil(usize::from(size));
            let left: Vec<_> = (0..count).map(|_| to.recv()).collect();
            let finished: Vec<_> = left.iter().map(|got| got.packet.clone()).collect();
            assert!(left.iter().all(|got| got.header[..2] == [0, 0]), "finished");
            let ipv6_id = match v6 {
                true => u32::from_be_bytes(finished[0][58..62].try_into().expect("four")),
                false => 0,
            };
            let gso = Gso {
                kind: GsoKind::Ufo { ipv6_id },
                size: size.into(),
            };
            assert_eq!(finished, oracle::segment(LINK, &bytes, gso).expect("UFO"));
        }
        let state = rig.quiet();
        assert_eq!(state.books.dropped, 0);
        let port = rig.port_state(1);
        assert_eq!(port.counters.software_segmented, 3);
    }
}

#[test]
fn what_fits_one_fragment_is_an_ordinary_packet() {
    let rig = Rig::of(1, 2, 1);
    let mut guests = [
        rig.guest(0, of_old(feature::HOST_UFO)),
        rig.guest(1, of_old(0)),
    ];
    acquaint(&rig, &mut guests);
    let [from, to] = &mut guests;
    let bytes = send(from, &datagram(false, 1000, 7), 1480);
    let got = to.recv();
    let header = VnetHeader::decode(VnetForm::Merged, &got.header)
        .or_else(|| VnetHeader::decode(VnetForm::Plain, &got.header));
    let header = header.expect("a header");
    assert_eq!((header.flags, header.gso_type), (vnet_flags::NEEDS_CSUM, 0));
    let mut finished = got.packet;
    assert_eq!(finished, bytes);
    complete_checksum(&mut finished, header.csum_start.into(), 6, true);
    assert_eq!(finished, datagram(false, 1000, 7).build());
}

#[test]
fn fragmentation_must_be_asked_for_and_come_out_even() {
    for (asked, size, fault) in [
        (0, 1480, HeaderFault::GsoUfoRefused),
        (feature::HOST_UFO, 1001, HeaderFault::GsoUfoSize),
    ] {
        let rig = Rig::of(1, 2, 1);
        let mut guests = [rig.guest(0, of_old(asked)), rig.guest(1, of_old(0))];
        acquaint(&rig, &mut guests);
        let [from, to] = &mut guests;
        send(from, &datagram(false, 3000, 7), size);
        rig.quiet();
        assert_eq!(to.drain(), []);
        let faults = rig.port_state(0).counters.rx.faults;
        assert_eq!((faults.get(fault), faults.total()), (1, 1), "{fault}");
        assert_eq!(rig.stopped(0), None, "one packet, not the port");
    }
}
