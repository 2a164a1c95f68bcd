//! Packets and virtio headers that are nearly right, the same each time.

use jumbo_lab::link::Mac;
use jumbo_testkit::oracle::{VnetForm, VnetHeader};
use jumbo_testkit::{PacketBuilder, tcp_flags};

/// SplitMix64: the same nonsense each time.
#[derive(Debug)]
pub(crate) struct Noise(pub(crate) u64);

impl Noise {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    pub(crate) fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next() as u8).collect()
    }

    /// A small number, an arbitrary one, or one that is right.
    pub(crate) fn field(&mut self, right: u16) -> u16 {
        match self.below(4) {
            0 => self.below(100) as u16,
            1 => self.next() as u16,
            _ => right,
        }
    }

    /// A station that never was.
    pub(crate) fn nobody(&mut self) -> Mac {
        let mut mac = [0x5e; 6];
        mac[0] = if self.below(20) == 0 { 0x03 } else { 0x06 };
        mac[5] = self.below(50) as u8;
        mac
    }

    pub(crate) fn somebody(&mut self, macs: &[Mac]) -> Mac {
        match self.below(10) {
            0 => [0xff; 6],
            1 => [1, 0x80, 0xc2, 0, 0, self.below(20) as u8],
            2 => self.nobody(),
            _ => macs[self.below(macs.len())],
        }
    }

    /// A packet that is nearly right.
    pub(crate) fn packet(&mut self, macs: &[Mac]) -> Vec<u8> {
        let packet = PacketBuilder::ethernet().macs(self.somebody(macs), self.nobody());
        let packet = match self.below(4) {
            0 => packet.ipv6([0xfd; 16], [0xfe; 16]),
            1 => packet.vlan(0x8100, self.below(4) as u16),
            2 => packet.df(false).id(self.next() as u16),
            _ => packet.ipv4([10, 0, 0, 77], [10, 0, 0, 1]),
        };
        let packet = match self.below(4) {
            0 => packet.udp(7, 9),
            1 => packet.flags(self.next() as u16 & 0xfff),
            _ => packet.flags(tcp_flags::ACK),
        };
        let len = [0, 1, 100, 1400, 1460, 9000, 60_000][self.below(7)];
        let mut bytes = packet.partial_checksum().payload_len(len).build();
        for _ in 0..self.below(3) {
            let at = self.below(bytes.len().min(80) - 12) + 12;
            bytes[at] = self.next() as u8;
        }
        if self.below(8) == 0 {
            bytes.truncate(self.below(bytes.len()));
        }
        bytes
    }

    pub(crate) fn header(&mut self, packet: &[u8], form: VnetForm) -> Vec<u8> {
        let tagged = packet.get(12..14) == Some(&[0x81, 0]);
        let l3 = if tagged { 18 } else { 14 };
        let six = packet.get(l3).is_some_and(|byte| byte >> 4 == 6);
        let tcp = packet.get(if six { l3 + 6 } else { l3 + 9 }) == Some(&6);
        let start = l3 as u16 + if six { 40 } else { 20 };
        let kind = match (tcp, six) {
            (true, false) => 1,
            (true, true) => 4,
            (false, _) => 5,
        };
        let header = VnetHeader {
            flags: self.field(1) as u8,
            gso_type: self.field(if packet.len() > 1514 { kind } else { 0 }) as u8,
            hdr_len: self.field(start + 20),
            gso_size: self.field(1400),
            csum_start: self.field(start),
            csum_offset: self.field(if tcp { 16 } else { 6 }),
            ..VnetHeader::default()
        };
        header.encode(form)
    }

    pub(crate) fn lie(&mut self, macs: &[Mac], form: VnetForm) -> Vec<u8> {
        if self.below(20) == 0 {
            let len = self.below(300);
            return self.bytes(len);
        }
        let packet = self.packet(macs);
        [self.header(&packet, form), packet].concat()
    }
}
