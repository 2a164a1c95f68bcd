//! What a fuzzer calls, and a test with mutated packets: any bytes at all, held against what is
//! always true. Not for users; it panics where the engine is wrong.

use alloc::vec;
use alloc::vec::Vec;

use crate::arena::{Admitted, Arena, PacketId, Pieces, SliceMemory};
use crate::checksum::{Kernels, textbook};
use crate::coalesce::{Coalescer, End, GRO, LRO, Offer, RSC, RSC_QEMU, Ready, Towards};
use crate::complete::{Plan, complete, leaving, plan};
use crate::packet::{Frag, HEADER_ROOM, HEADERS_MAX, Link, Net, Packet, Transport};
use crate::pending::{Caps, Csum};
use crate::superpacket::L3_TOTAL_MAX;
use crate::vnet::{Form, HeaderFault, Trust, VnetHeader};

/// Packets of one run; more would only repeat.
const PACKETS_MAX: usize = 64;

/// One packet, as Ethernet and as raw IP.
pub fn parse(data: &[u8]) {
    for link in [Link::Ethernet, Link::RawIp] {
        let mut arena = Arena::new(1, 1);
        let body = [Frag::new(0, data.len() as u32)];
        match arena.admit(link, data, &body, None) {
            Ok(admitted) => {
                let packet = arena.packet(admitted.id);
                assert_sound(packet);
                assert_eq!(
                    admitted.opaque.is_none(),
                    packet.layers().transport != Transport::None
                );
                let wire = wire_bytes(data, packet, arena.payload(admitted.id));
                assert_eq!(wire, data[..wire.len()], "what is admitted is what came");
                arena.release(admitted.id);
            }
            Err(fault) => assert_eq!(fault, HeaderFault::ShortPacket),
        }
        assert_eq!(arena.live(), 0);
    }
}

/// A virtio header of each form, and the packet behind it.
pub fn vnet_header(data: &[u8]) {
    for form in [Form::Legacy10, Form::Modern12, Form::Hash20, Form::Tunnel24] {
        let Some(header) = VnetHeader::decode(form, data) else {
            assert!(data.len() < form.len_bytes());
            continue;
        };
        let mut wire = [0; 24];
        let len = header.encode(form, &mut wire);
        assert_eq!(len, Some(form.len_bytes()));
        assert_eq!(VnetHeader::decode(form, &wire), Some(header));
        let packet = &data[form.len_bytes()..];
        for link in [Link::Ethernet, Link::RawIp] {
            for trust in [Trust::Kernel, Trust::Guest] {
                for follow in [false, true] {
                    admit_twice(link, packet, &header, trust, follow);
                }
            }
        }
    }
}

/// What was admitted can be sent on, and what is sent on is admitted as the same.
fn admit_twice(link: Link, data: &[u8], header: &VnetHeader, trust: Trust, follow: bool) {
    let mut arena = Arena::new(2, 2);
    arena.follow_tunnels(follow);
    let body = [Frag::new(0, data.len() as u32)];
    let Ok(first) = arena.admit(link, data, &body, Some((header, trust))) else {
        assert_eq!(arena.live(), 0, "a refused packet takes no slot");
        return;
    };
    let packet = arena.packet(first.id).clone();
    assert_sound(&packet);
    let wire = wire_bytes(data, &packet, arena.payload(first.id));
    let body = [Frag::new(0, wire.len() as u32)];
    let sent = VnetHeader::of(&packet);
    let again = arena.admit(link, &wire, &body, Some((&sent, trust)));
    if packet.tunnel.is_some() && again.as_ref().err() == Some(&HeaderFault::CsumFieldTooDeep) {
        // No longer a super-packet, and its tunnel has none of the usual ports.
        return;
    }
    let again = again.expect("what is sent on can be received");
    assert_eq!(arena.packet(again.id).pending(), packet.pending());
    let payload = arena.payload(again.id);
    assert_eq!(wire_bytes(&wire, arena.packet(again.id), payload), wire);
}

/// Packets through the whole path: admit, offer, hold, flush, complete for several ports.
///
/// `data` is a list of records: a byte of flags (`Record`), two bytes of length (little-endian),
/// 12 bytes of virtio header if the flags say so, the packet. The two highest flags choose the
/// personality under which it is held.
pub fn coalesce_and_segment(data: &[u8]) {
    whole_path(data, Form::Modern12, false);
}

/// The same with tunnels followed and virtio headers of 24 bytes.
pub fn tunnels(data: &[u8]) {
    whole_path(data, Form::Tunnel24, true);
}

fn whole_path(data: &[u8], form: Form, follow: bool) {
    let mut memory = Vec::new();
    let records = records(data, form, &mut memory);
    let mut arena = Arena::new(PACKETS_MAX, 4 * PACKETS_MAX);
    arena.follow_tunnels(follow);
    let mut path = Path {
        arena,
        gro: Coalescer::with_personalities(&[GRO, LRO, RSC, RSC_QEMU], 8, 7),
        memory: &memory,
        payload_len: 0,
        arrived: Vec::new(),
        left: Vec::new(),
    };
    let lossless = |record: &Record| record.vnet.is_none() && record.towards.personality == 0;
    let plain = records.iter().all(lossless);
    for record in &records {
        path.receive(record);
        if record.flushes {
            path.flush();
        }
    }
    path.flush();
    if plain {
        // Order between flows is not kept; every packet is there, byte for byte.
        path.arrived.sort_unstable();
        path.left.sort_unstable();
        assert_eq!(path.arrived, path.left);
    }
}

/// One packet of [`coalesce_and_segment`].
struct Record {
    link: Link,
    vnet: Option<(VnetHeader, Trust)>,
    /// The end of a burst comes after it.
    flushes: bool,
    at: usize,
    len: usize,
    body: Vec<Frag>,
    towards: Towards,
}

/// Flags of a record.
const HAS_VNET: u8 = 1;
const FROM_KERNEL: u8 = 2;
const RAW_IP: u8 = 4;
const FLUSHES: u8 = 8;
/// In three pieces, the first of odd length.
const SPLIT: u8 = 16;
/// With 20000 bytes more payload, towards a port that takes more than 65535.
const STRETCHED: u8 = 32;
/// From this bit on: the personality.
const PERSONALITY_SHIFT: u8 = 6;

fn records(mut data: &[u8], form: Form, memory: &mut Vec<u8>) -> Vec<Record> {
    let mut records = Vec::new();
    while let ([flags, low, high, rest @ ..], true) = (data, records.len() < PACKETS_MAX) {
        let mut rest = rest;
        let mut vnet = None;
        if flags & HAS_VNET != 0 {
            let Some(header) = VnetHeader::decode(form, rest) else {
                break;
            };
            let trust = match flags & FROM_KERNEL {
                0 => Trust::Guest,
                _ => Trust::Kernel,
            };
            vnet = Some((header, trust));
            rest = &rest[form.len_bytes()..];
        }
        let len = usize::from(u16::from_le_bytes([*low, *high])).min(rest.len());
        let (packet, after) = rest.split_at(len);
        data = after;
        let at = memory.len();
        memory.extend(packet);
        if flags & STRETCHED != 0 {
            memory.extend((0..20_000u32).map(|i| (i * 7 / 8) as u8));
        }
        let len = memory.len() - at;
        records.push(Record {
            link: if flags & RAW_IP != 0 {
                Link::RawIp
            } else {
                Link::Ethernet
            },
            vnet,
            flushes: flags & FLUSHES != 0,
            at,
            len,
            body: body(at, len, flags & SPLIT != 0),
            towards: Towards {
                personality: flags >> PERSONALITY_SHIFT,
                big_l3_total_max: match flags & STRETCHED {
                    0 => 0,
                    _ => u32::MAX,
                },
                ..Towards::from(0)
            },
        });
        // Between packets there is something else.
        memory.push(0xEE);
    }
    records
}

fn body(at: usize, len: usize, split: bool) -> Vec<Frag> {
    let cuts = match split {
        true => vec![(len / 3) | 1, 0, 2 * len / 3],
        false => Vec::new(),
    };
    let mut from = 0;
    let mut body = Vec::new();
    for cut in cuts.into_iter().chain([len]) {
        let to = cut.clamp(from, len);
        body.push(Frag::new((at + from) as u64, (to - from) as u32));
        from = to;
    }
    body
}

struct Path<'a> {
    arena: Arena,
    gro: Coalescer,
    memory: &'a [u8],
    /// Payload that is inside.
    payload_len: usize,
    arrived: Vec<Vec<u8>>,
    left: Vec<Vec<u8>>,
}

impl Path<'_> {
    fn memory(&self) -> SliceMemory<'_> {
        SliceMemory::new(self.memory, Kernels::portable())
    }

    fn receive(&mut self, record: &Record) {
        let head = &self.memory[record.at..record.at + record.len];
        let vnet = record.vnet.as_ref().map(|(header, trust)| (header, *trust));
        let admitted = self.arena.admit(record.link, head, &record.body, vnet);
        let id = match admitted {
            Ok(Admitted { id, .. }) => id,
            Err(HeaderFault::NoRoom) => panic!("there is room for every record"),
            Err(_) => return,
        };
        let packet = self.arena.packet(id);
        assert_sound(packet);
        self.payload_len += packet.payload_len() as usize;
        let bytes = wire_bytes(self.memory, packet, self.arena.payload(id));
        self.arrived.push(bytes);
        self.coalesce(id, record.towards);
    }

    fn coalesce(&mut self, id: PacketId, towards: Towards) {
        let memory = SliceMemory::new(self.memory, Kernels::portable());
        match self.gro.offer(&mut self.arena, id, &memory) {
            Offer::Merged => {}
            Offer::Hold(slot) => {
                if self
                    .gro
                    .hold(&mut self.arena, id, slot, towards, &memory)
                    .is_err()
                {
                    self.gro.ready().push(Ready::alone(id, 0));
                }
            }
            Offer::Alone(_) => self.gro.ready().push(Ready::alone(id, 0)),
        }
        assert!(self.gro.held() <= 8);
    }

    fn flush(&mut self) {
        self.gro.flush(&mut self.arena, End::BurstEnd);
        assert_eq!(self.gro.held(), 0);
        for ready in core::mem::take(self.gro.ready()) {
            self.payload_len -= self.arena.packet(ready.id).payload_len() as usize;
            for caps in ports() {
                for mtu in [68, 1500, 65535] {
                    self.leave(ready.id, caps, mtu);
                }
            }
            let left = self.leave(ready.id, Caps::NONE, usize::MAX);
            self.left.extend(left);
            self.arena.release(ready.id);
        }
        assert_eq!(self.payload_len, 0, "no payload is lost or made");
        assert_eq!(self.arena.live(), 0, "every packet left");
    }

    /// What leaves towards such a port.
    fn leave(&self, id: PacketId, caps: Caps, mtu: usize) -> Vec<Vec<u8>> {
        let packet = self.arena.packet(id);
        assert_sound(packet);
        let plan = plan(packet, caps, mtu);
        let payload = self.arena.payload(id);
        let mut left = Vec::new();
        let mut carried = Vec::new();
        let done = complete(packet, payload, plan, &self.memory(), |packet, payload| {
            assert_sound(packet);
            assert_taken(packet, caps, mtu);
            carried.extend(payload_bytes(self.memory, payload));
            let bytes = wire_bytes(self.memory, packet, payload);
            if let Plan::Segment(..) = plan {
                assert_checksums(packet, &bytes);
            }
            left.push(bytes);
        });
        match (plan, done) {
            (Plan::Drop(fault), Err(said)) => assert_eq!(fault, said),
            (Plan::Drop(_), Ok(_)) => panic!("a dropped packet left"),
            (_, Err(fault)) => panic!("{fault}: the memory has it all"),
            (_, Ok(count)) => {
                assert_eq!(count, leaving(packet, plan));
                assert_eq!(count as usize, left.len());
                assert_eq!(carried, payload_bytes(self.memory, payload));
            }
        }
        left
    }
}

fn ports() -> [Caps; 8] {
    [
        Caps::NONE,
        Caps::new(true, false, false, false, false),
        Caps::new(true, true, true, false, false),
        Caps::ALL,
        Caps::ALL.with_udp_tunnels(true, false),
        Caps::ALL.with_udp_tunnels(true, true),
        Caps::ALL.with_ufo(true),
        Caps::ALL.with_big_tcp(true, true),
    ]
}

/// Lengths agree, and what is pending lies inside.
fn assert_sound(packet: &Packet) {
    let header_len = packet.header_len() + packet.tags().len_bytes();
    assert_eq!(
        packet.wire_len(),
        header_len + packet.payload_len() as usize
    );
    assert!(packet.header().len() <= HEADER_ROOM);
    let both_len = packet.outer_header().len() + packet.header().len();
    assert_eq!(both_len, packet.header_len());
    if let Csum::Partial { start, offset } = packet.pending().csum {
        let end = usize::from(start) + usize::from(offset) + 2;
        assert!(end <= packet.header_len(), "a place in the private header");
    }
    if let Some(gso) = packet.pending().gso {
        assert!(gso.size > 0 && gso.segments(packet.payload_len()) > 1);
        assert!(matches!(packet.pending().csum, Csum::Partial { .. }));
        let most = Caps::ALL.with_big_tcp(true, true).l3_total_max(gso.kind);
        assert!(packet.l3_total_len() <= most);
        assert!(packet.l3_total_len() <= L3_TOTAL_MAX || !packet.is_in_tunnel());
    }
}

/// The port takes what leaves, and completing it once more changes nothing.
fn assert_taken(packet: &Packet, caps: Caps, mtu: usize) {
    assert_eq!(plan(packet, caps, mtu), Plan::AsIs);
    match packet.pending().gso {
        Some(gso) => {
            assert!(caps.takes(gso.kind));
            assert!(packet.l3_total_len() <= caps.l3_total_max(gso.kind));
            assert!(caps.tunnels().take(&packet.tunnel));
        }
        None => assert!(packet.l3_total_len() <= mtu),
    }
    if !caps.csum() {
        assert!(!matches!(packet.pending().csum, Csum::Partial { .. }));
    }
}

/// A segment's checksums are right, by the textbook.
fn assert_checksums(packet: &Packet, wire: &[u8]) {
    let l2_len = usize::from(packet.tunnel.len)
        + usize::from(packet.layers().l2_len)
        + packet.tags().len_bytes();
    let l3_len = usize::from(packet.layers().l3_len);
    let (network, transport) = wire[l2_len..].split_at(l3_len);
    let addresses = match packet.layers().net {
        Net::V4 => {
            assert_eq!(textbook::fold(network), 0xffff, "the IPv4 header");
            assert_eq!(
                network[2..4],
                (wire.len() as u16 - l2_len as u16).to_be_bytes()
            );
            &network[12..20]
        }
        _ => &network[8..40],
    };
    if matches!(packet.pending().csum, Csum::Partial { .. }) || packet.layers().fragment {
        return;
    }
    let mut summed = addresses.to_vec();
    summed.extend([0, packet.layers().protocol]);
    summed.extend((transport.len() as u32).to_be_bytes());
    summed.extend(transport);
    assert_eq!(textbook::fold(&summed), 0xffff, "the transport checksum");
}

fn payload_bytes(memory: &[u8], payload: Pieces<'_>) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(payload.len_bytes());
    for frag in payload {
        let at = frag.at as usize;
        bytes.extend(&memory[at..at + frag.len as usize]);
    }
    bytes
}

fn wire_bytes(memory: &[u8], packet: &Packet, payload: Pieces<'_>) -> Vec<u8> {
    let mut bytes = vec![0; HEADERS_MAX];
    let len = packet.write_header(&mut bytes);
    bytes.truncate(len.expect("room enough"));
    bytes.extend(payload_bytes(memory, payload));
    assert_eq!(bytes.len(), packet.wire_len());
    bytes
}
