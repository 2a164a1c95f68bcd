//! The built-in capture of `--sample`: a few scenes, each a burst or several, made of code and always the same.
//!
//! Between two packets of a burst passes 1 us, between two bursts 1 ms. `docs/replay.md` walks through the result.

use jumbo_engine::checksum::{Sum, pseudo_v4, pseudo_v6};

const SYN: u8 = 0x02;
const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const ACK: u8 = 0x10;

/// Payload of a full segment with timestamps over IPv4: 1500 - 20 - 32.
const FULL: usize = 1448;
/// Payload of a full segment over IPv6: 1500 - 40 - 20.
const FULL_V6: usize = 1440;

/// The capture, as a pcap file with nanosecond times.
pub(crate) fn capture() -> Vec<u8> {
    let mut tape = Tape::new();
    bulk_v4(&mut tape);
    bulk_v6(&mut tape);
    two_flows_interleaved(&mut tape);
    congestion_mark(&mut tape);
    loss_and_retransmission(&mut tape);
    interruptions(&mut tape);
    vlan(&mut tape);
    questions(&mut tape);
    sending_host(&mut tape);
    not_tcp(&mut tape);
    tape.file
}

/// A connection, and 4 writes of 48 full segments each; every write is acknowledged.
fn bulk_v4(tape: &mut Tape) {
    let mut flow = Flow::v4(1, 40_001, 5001).timestamps();
    let mut back = flow.reverse();
    tape.burst([flow.control(SYN)]);
    tape.burst([back.control(SYN | ACK)]);
    tape.burst([flow.control(ACK)]);
    for write in 0..4 {
        flow.clock = Some(1000 + write);
        tape.burst((0..48).map(|i| flow.data(FULL, if i == 47 { PSH } else { 0 })));
        tape.burst([back.control(ACK)]);
    }
}

/// 5 bursts of 40 full segments without PSH; the last ends the stream.
fn bulk_v6(tape: &mut Tape) {
    let mut flow = Flow::v6(2, 40_002, 5001);
    for burst in 0..5 {
        let last = |i| burst == 4 && i == 39;
        tape.burst((0..40).map(|i| flow.data(FULL_V6, if last(i) { FIN | PSH } else { 0 })));
    }
}

/// Two flows take turns, 16 segments each; one changes its window half-way, the other its timestamp after 10.
fn two_flows_interleaved(tape: &mut Tape) {
    let mut window = Flow::v4(3, 40_003, 5001).timestamps();
    let mut clock = Flow::v6(4, 40_004, 5001).timestamps();
    let mut packets = Vec::new();
    for i in 0..16 {
        window.window = if i < 8 { 512 } else { 600 };
        packets.push(window.data(FULL, 0));
        clock.clock = Some(if i < 10 { 1 } else { 2 });
        packets.push(clock.data(FULL_V6 - 12, 0));
    }
    tape.burst(packets);
}

/// 9 segments, of which a router marked the fifth.
fn congestion_mark(tape: &mut Tape) {
    let mut flow = Flow::v4(5, 40_005, 5001);
    tape.burst((0..9).map(|i| {
        flow.ecn = if i == 4 { 3 } else { 2 };
        flow.data(FULL, 0)
    }));
}

/// 16 segments; the seventh is lost, and comes again behind the twelfth.
fn loss_and_retransmission(tape: &mut Tape) {
    let mut flow = Flow::v4(6, 40_006, 5001);
    let mut packets: Vec<_> = (0..16).map(|_| flow.data(FULL, 0)).collect();
    let lost = packets.remove(6);
    packets.insert(11, lost);
    tape.burst(packets);
}

/// 3 times 4 segments; between them a pure acknowledgement, and a segment with a wrong TCP checksum.
fn interruptions(tape: &mut Tape) {
    let mut flow = Flow::v4(7, 40_007, 5001);
    let mut packets: Vec<_> = (0..4).map(|_| flow.data(FULL, 0)).collect();
    packets.push(flow.control(ACK));
    packets.extend((0..4).map(|_| flow.data(FULL, 0)));
    let mut wrong = flow.data(FULL, 0);
    if let Some(last) = wrong.last_mut() {
        *last ^= 0xff;
    }
    packets.push(wrong);
    packets.extend((0..4).map(|_| flow.data(FULL, 0)));
    tape.burst(packets);
}

/// A write of 12 segments on VLAN 100.
fn vlan(tape: &mut Tape) {
    let mut flow = Flow::v4(8, 40_008, 5001);
    flow.vlan = Some(100);
    tape.burst((0..12).map(|i| flow.data(FULL, if i == 11 { PSH } else { 0 })));
}

/// 10 questions of 100 bytes and their answers, each alone.
fn questions(tape: &mut Tape) {
    let mut client = Flow::v4(9, 40_009, 443);
    let mut server = client.reverse();
    for _ in 0..10 {
        tape.burst([client.data(100, PSH)]);
        tape.burst([server.data(300, PSH)]);
    }
}

/// As captured on the host that sends: 20 segments whose checksums are left to the card, then a super-packet of 20
/// that the card would segment.
fn sending_host(tape: &mut Tape) {
    let mut flow = Flow::v4(10, 40_010, 5001);
    flow.pending = true;
    tape.burst((0..20).map(|i| flow.data(FULL, if i == 19 { PSH } else { 0 })));
    tape.burst([flow.data(20 * FULL, 0)]);
}

/// 10 UDP datagrams over each of IPv4 and IPv6, one with a wrong checksum; a datagram in 2 fragments; ARP twice; a
/// ping and its answer; a TCP segment with a wrong IPv4 header checksum.
fn not_tcp(tape: &mut Tape) {
    let (v4, v6) = (Flow::v4(11, 50_000, 53), Flow::v6(12, 50_001, 443));
    tape.burst((0..10).map(|_| v4.udp(60)));
    let mut datagrams: Vec<_> = (0..10).map(|_| v6.udp(1200)).collect();
    if let Some(last) = datagrams[9].last_mut() {
        *last ^= 0xff;
    }
    tape.burst(datagrams);
    let pieces = Flow::v4(13, 0, 0);
    tape.burst([
        pieces.ip(17, 0x2000, &bytes(0, 1480)),
        pieces.ip(17, 185, &bytes(1480, 520)),
    ]);
    tape.burst([arp(1), arp(2)]);
    let ping = Flow::v4(14, 0, 0);
    tape.burst([
        ping.ip(1, 0, &icmp_echo(8)),
        ping.reverse().ip(1, 0, &icmp_echo(0)),
    ]);
    let mut broken = Flow::v4(15, 40_015, 5001).data(FULL, 0);
    // The first byte of the IPv4 header checksum.
    broken[14 + 10] ^= 0xff;
    tape.burst([broken]);
}

/// A pcap file being written, and its clock.
struct Tape {
    file: Vec<u8>,
    now_ns: u64,
}

impl Tape {
    fn new() -> Self {
        let mut file = Vec::new();
        // Nanosecond pcap 2.4, no snap length to speak of, Ethernet.
        for word in [0xa1b2_3c4d_u32, 0x0004_0002, 0, 0, 262_144, 1] {
            file.extend_from_slice(&word.to_le_bytes());
        }
        Self {
            file,
            // 2026-01-01 00:00:00 UTC.
            now_ns: 1_767_225_600_000_000_000,
        }
    }

    fn burst(&mut self, packets: impl IntoIterator<Item = Vec<u8>>) {
        self.now_ns += 1_000_000;
        for packet in packets {
            self.now_ns += 1000;
            let len = packet.len() as u32;
            let seconds = (self.now_ns / 1_000_000_000) as u32;
            let rest = (self.now_ns % 1_000_000_000) as u32;
            for word in [seconds, rest, len, len] {
                self.file.extend_from_slice(&word.to_le_bytes());
            }
            self.file.extend_from_slice(&packet);
        }
    }
}

/// One direction of a connection, as its sender sees it.
#[derive(Clone)]
struct Flow {
    src: Vec<u8>,
    dst: Vec<u8>,
    ports: [u16; 2],
    /// Next sequence number, and IPv4 ID.
    seq: u32,
    id: u16,
    window: u16,
    ecn: u8,
    clock: Option<u32>,
    vlan: Option<u16>,
    /// Checksums are left to the card.
    pending: bool,
    v6: bool,
}

impl Flow {
    fn v4(host: u8, src_port: u16, dst_port: u16) -> Self {
        // Documentation addresses: RFC 5737.
        Self::new(
            vec![192, 0, 2, host],
            vec![198, 51, 100, 1],
            [src_port, dst_port],
        )
    }

    fn v6(host: u8, src_port: u16, dst_port: u16) -> Self {
        // Documentation addresses: RFC 3849.
        let address = |host| {
            let mut bytes = vec![0x20, 0x01, 0x0d, 0xb8];
            bytes.resize(15, 0);
            bytes.push(host);
            bytes
        };
        Self {
            v6: true,
            ..Self::new(address(host), address(0xff), [src_port, dst_port])
        }
    }

    fn new(src: Vec<u8>, dst: Vec<u8>, ports: [u16; 2]) -> Self {
        Self {
            src,
            dst,
            ports,
            seq: 1,
            id: 1,
            window: 512,
            ecn: 0,
            clock: None,
            vlan: None,
            pending: false,
            v6: false,
        }
    }

    fn timestamps(self) -> Self {
        Self {
            clock: Some(1),
            ..self
        }
    }

    fn reverse(&self) -> Self {
        Self {
            src: self.dst.clone(),
            dst: self.src.clone(),
            ports: [self.ports[1], self.ports[0]],
            ..self.clone()
        }
    }

    /// A segment with payload.
    fn data(&mut self, payload_len: usize, flags: u8) -> Vec<u8> {
        let packet = self.tcp(ACK | flags, &bytes(self.seq as usize, payload_len));
        self.seq = self.seq.wrapping_add(payload_len as u32);
        self.id = self.id.wrapping_add(1);
        packet
    }

    /// A segment without payload. Its ID is 0, as Linux gives those that may not be fragmented.
    fn control(&mut self, flags: u8) -> Vec<u8> {
        let id = std::mem::take(&mut self.id);
        let packet = self.tcp(flags, &[]);
        self.id = id;
        packet
    }

    fn tcp(&self, flags: u8, payload: &[u8]) -> Vec<u8> {
        let options = self.clock.map_or(Vec::new(), |clock| {
            // NOP, NOP, Timestamps (RFC 7323 appendix A).
            let mut options = vec![1, 1, 8, 10];
            options.extend(clock.to_be_bytes());
            options.extend(1_u32.to_be_bytes());
            options
        });
        let mut l4 = self.port_bytes();
        l4.extend(self.seq.to_be_bytes());
        l4.extend(1_u32.to_be_bytes());
        l4.extend([((20 + options.len()) << 2) as u8, flags]);
        l4.extend(self.window.to_be_bytes());
        l4.extend([0; 4]);
        l4.extend(options);
        l4.extend(payload);
        self.sealed(6, l4, 16)
    }

    fn udp(&self, payload_len: usize) -> Vec<u8> {
        let mut l4 = self.port_bytes();
        l4.extend(((8 + payload_len) as u16).to_be_bytes());
        l4.extend([0; 2]);
        l4.extend(bytes(0, payload_len));
        self.sealed(17, l4, 6)
    }

    fn port_bytes(&self) -> Vec<u8> {
        self.ports
            .iter()
            .flat_map(|port| port.to_be_bytes())
            .collect()
    }

    /// Fills in the checksum at `at`, or the pseudo-header sum alone.
    fn sealed(&self, protocol: u8, mut l4: Vec<u8>, at: usize) -> Vec<u8> {
        let len = l4.len() as u32;
        let pseudo = if self.v6 {
            pseudo_v6(array(&self.src), array(&self.dst), protocol, len)
        } else {
            pseudo_v4(array(&self.src), array(&self.dst), protocol, len)
        };
        let check = if self.pending {
            pseudo.fold()
        } else {
            pseudo.add_bytes(&l4).checksum()
        };
        l4[at..at + 2].copy_from_slice(&check.to_be_bytes());
        self.ip(protocol, 0x4000, &l4)
    }

    /// `fragment`: flags and offset of IPv4.
    fn ip(&self, protocol: u8, fragment: u16, l4: &[u8]) -> Vec<u8> {
        let mut packet = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
        if let Some(vlan) = self.vlan {
            packet.extend(0x8100_u16.to_be_bytes());
            packet.extend(vlan.to_be_bytes());
        }
        if self.v6 {
            packet.extend(0x86dd_u16.to_be_bytes());
            packet.extend([0x60, self.ecn << 4, 0, 0]);
            packet.extend((l4.len() as u16).to_be_bytes());
            packet.extend([protocol, 64]);
        } else {
            packet.extend(0x0800_u16.to_be_bytes());
            packet.extend(self.ipv4_start(protocol, fragment, l4.len()));
        }
        packet.extend(&self.src);
        packet.extend(&self.dst);
        packet.extend(l4);
        packet
    }

    /// The IPv4 header up to its addresses.
    fn ipv4_start(&self, protocol: u8, fragment: u16, l4_len: usize) -> Vec<u8> {
        let mut header = vec![0x45, self.ecn];
        header.extend((20 + l4_len as u16).to_be_bytes());
        header.extend(self.id.to_be_bytes());
        header.extend(fragment.to_be_bytes());
        header.extend([64, protocol, 0, 0]);
        let sum = Sum::ZERO.add_bytes(&header);
        let check = sum.add_bytes(&self.src).add_bytes(&self.dst).checksum();
        header[10..12].copy_from_slice(&check.to_be_bytes());
        header
    }
}

/// RFC 826: 1 asks, 2 answers. Padded to Ethernet's minimum.
fn arp(operation: u8) -> Vec<u8> {
    let mut packet = vec![0xff; 6];
    packet.extend([2, 0, 0, 0, 0, 1, 8, 6, 0, 1, 8, 0, 6, 4, 0, operation]);
    packet.extend([2, 0, 0, 0, 0, 1, 192, 0, 2, 1]);
    packet.extend([0, 0, 0, 0, 0, 0, 198, 51, 100, 1]);
    packet.resize(60, 0);
    packet
}

/// RFC 792, with 56 bytes of data.
fn icmp_echo(kind: u8) -> Vec<u8> {
    let mut echo = vec![kind, 0, 0, 0, 0, 1, 0, 1];
    echo.extend(bytes(0, 56));
    let check = Sum::ZERO.add_bytes(&echo).checksum();
    echo[2..4].copy_from_slice(&check.to_be_bytes());
    echo
}

/// Payload of a stream from `offset` on.
fn bytes(offset: usize, len: usize) -> Vec<u8> {
    let byte = |at: usize| ((at as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8;
    (offset..offset + len).map(byte).collect()
}

fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    bytes.try_into().unwrap_or([0; N])
}
