//! Many packets: one direction of a flow, and flows interleaved.

use crate::builder::{Link, PacketBuilder, tcp_flags};
use crate::pattern;

/// How IPv4's identification goes on from packet to packet.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum IpId {
    /// From this one up, modulo 2^16.
    Increment(u16),
    /// Always this one.
    Fixed(u16),
    /// Another one each time, from this seed.
    Random(u64),
}

impl IpId {
    fn at(self, index: usize) -> u16 {
        match self {
            Self::Increment(first) => first.wrapping_add(index as u16),
            Self::Fixed(id) => id,
            Self::Random(seed) => scramble(seed.wrapping_add(index as u64)) as u16,
        }
    }
}

/// A step of SplitMix64: the same numbers on every machine.
fn scramble(seed: u64) -> u64 {
    let z = seed
        .wrapping_mul(0x9E37_79B9_7F4A_7C15)
        .wrapping_add(0x9E37_79B9_7F4A_7C15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// One direction of a TCP connection, as a sender with a full window would cut it.
///
/// ```
/// use jumbo_testkit::{PacketBuilder, script::{IpId, TcpStream}};
///
/// let packets = TcpStream::new(PacketBuilder::ethernet())
///     .segments(10)
///     .mss(1448)
///     .timestamps(100, 200)
///     .ids(IpId::Increment(0xFFFE))
///     .push_last()
///     .packets();
/// assert_eq!(packets.len(), 10);
/// assert_eq!(packets[9].len(), 14 + 20 + 32 + 1448);
/// ```
#[derive(Clone, Debug)]
#[must_use = "a script is not packets"]
pub struct TcpStream {
    base: PacketBuilder,
    segments: usize,
    mss: usize,
    last_len: Option<usize>,
    seq: u32,
    ids: IpId,
    timestamps: Option<(u32, u32)>,
    timestamp_step: u32,
    first_flags: u16,
    all_flags: u16,
    last_flags: u16,
    payload_at: usize,
}

impl TcpStream {
    /// Every packet is `base` but for its sequence number, ID, flags, timestamps and payload.
    pub fn new(base: PacketBuilder) -> Self {
        Self {
            base,
            segments: 2,
            mss: 1448,
            last_len: None,
            seq: 1,
            ids: IpId::Increment(1),
            timestamps: None,
            timestamp_step: 0,
            first_flags: 0,
            all_flags: tcp_flags::ACK,
            last_flags: 0,
            payload_at: 0,
        }
    }

    /// How many packets.
    pub fn segments(self, segments: usize) -> Self {
        Self { segments, ..self }
    }

    /// The payload of each packet, in bytes.
    pub fn mss(self, mss: usize) -> Self {
        Self { mss, ..self }
    }

    /// The payload of the last packet, if it is another.
    pub fn last_len(self, len: usize) -> Self {
        Self {
            last_len: Some(len),
            ..self
        }
    }

    /// The first sequence number.
    pub fn seq(self, seq: u32) -> Self {
        Self { seq, ..self }
    }

    pub fn ids(self, ids: IpId) -> Self {
        Self { ids, ..self }
    }

    /// The timestamps of the first packet, in the options NOP, NOP, Timestamps.
    pub fn timestamps(self, value: u32, echo: u32) -> Self {
        Self {
            timestamps: Some((value, echo)),
            ..self
        }
    }

    /// What the timestamp's value grows by from packet to packet.
    pub fn timestamp_step(self, step: u32) -> Self {
        Self {
            timestamp_step: step,
            ..self
        }
    }

    /// The flags of every packet, instead of ACK.
    pub fn flags(self, flags: u16) -> Self {
        Self {
            all_flags: flags,
            ..self
        }
    }

    /// Further flags of the first packet, such as CWR.
    pub fn first_flags(self, flags: u16) -> Self {
        Self {
            first_flags: flags,
            ..self
        }
    }

    /// PSH on the last packet.
    pub fn push_last(self) -> Self {
        Self {
            last_flags: self.last_flags | tcp_flags::PSH,
            ..self
        }
    }

    /// FIN on the last packet.
    pub fn fin_last(self) -> Self {
        Self {
            last_flags: self.last_flags | tcp_flags::FIN,
            ..self
        }
    }

    /// Where in [`pattern`] the payload begins, so that two flows do not carry the same.
    pub fn payload_at(self, offset: usize) -> Self {
        Self {
            payload_at: offset,
            ..self
        }
    }

    /// What the packets begin with.
    #[must_use]
    pub fn link(&self) -> Link {
        self.base.link()
    }

    /// Everything the stream carries.
    #[must_use]
    pub fn payload(&self) -> Vec<u8> {
        pattern(self.payload_at, self.payload_len())
    }

    /// The packets, in order.
    #[must_use]
    pub fn packets(&self) -> Vec<Vec<u8>> {
        (0..self.segments)
            .map(|index| self.packet(index).build())
            .collect()
    }

    /// The super-packet that these packets are the segments of, if the timestamps do not step.
    pub fn super_packet(&self) -> PacketBuilder {
        self.packet(0)
            .flags(self.first_flags | self.all_flags | self.last_flags)
            .payload(&self.payload())
    }

    /// One of the packets, for a change in the middle of the stream.
    pub fn packet(&self, index: usize) -> PacketBuilder {
        assert!(
            index < self.segments,
            "the stream has {} packets",
            self.segments
        );
        let (first, last) = (index == 0, index + 1 == self.segments);
        let offset = index * self.mss;
        let len = if last {
            self.last_len.unwrap_or(self.mss)
        } else {
            self.mss
        };
        let packet = self
            .base
            .clone()
            .seq(self.seq.wrapping_add(offset as u32))
            .id(self.ids.at(index))
            .flags(
                self.all_flags
                    | if first { self.first_flags } else { 0 }
                    | if last { self.last_flags } else { 0 },
            )
            .payload(&pattern(self.payload_at + offset, len));
        match self.timestamps {
            Some((value, echo)) => {
                let steps = self.timestamp_step.wrapping_mul(index as u32);
                packet.timestamps(value.wrapping_add(steps), echo)
            }
            None => packet,
        }
    }

    fn payload_len(&self) -> usize {
        match self.segments {
            0 => 0,
            n => (n - 1) * self.mss + self.last_len.unwrap_or(self.mss),
        }
    }
}

/// UDP datagrams of one size, the last perhaps smaller, as `UDP_SEGMENT` sends them.
#[derive(Clone, Debug)]
#[must_use = "a script is not packets"]
pub struct UdpStream {
    base: PacketBuilder,
    sizes: Vec<usize>,
    ids: IpId,
}

impl UdpStream {
    /// Every packet is `base`, which is UDP, but for its ID and payload.
    pub fn new(base: PacketBuilder) -> Self {
        Self {
            base,
            sizes: vec![1200; 2],
            ids: IpId::Increment(1),
        }
    }

    /// `count` datagrams of `size` bytes of payload, of which the last has `last` bytes.
    pub fn datagrams(self, count: usize, size: usize, last: usize) -> Self {
        let mut sizes = vec![size; count];
        if let Some(len) = sizes.last_mut() {
            *len = last;
        }
        Self { sizes, ..self }
    }

    pub fn ids(self, ids: IpId) -> Self {
        Self { ids, ..self }
    }

    /// The packets, in order.
    #[must_use]
    pub fn packets(&self) -> Vec<Vec<u8>> {
        let mut offset = 0;
        let mut packets = Vec::new();
        for (index, size) in self.sizes.iter().enumerate() {
            let packet = self
                .base
                .clone()
                .id(self.ids.at(index))
                .payload(&pattern(offset, *size));
            packets.push(packet.build());
            offset += size;
        }
        packets
    }

    /// The super-packet that these packets are the segments of.
    pub fn super_packet(&self) -> PacketBuilder {
        let len = self.sizes.iter().sum();
        self.base
            .clone()
            .id(self.ids.at(0))
            .payload(&pattern(0, len))
    }
}

/// One packet of each flow in turn, until all have ended: what a busy receiver sees.
#[must_use]
pub fn interleave(flows: Vec<Vec<Vec<u8>>>) -> Vec<Vec<u8>> {
    let longest = flows.iter().map(Vec::len).max().unwrap_or(0);
    let mut packets = Vec::new();
    for round in 0..longest {
        packets.extend(flows.iter().filter_map(|flow| flow.get(round).cloned()));
    }
    packets
}
