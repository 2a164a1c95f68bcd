//! The packets: rings in the pool that all engines read.

use std::cell::RefCell;
use std::hint::black_box;
use std::rc::Rc;
use std::time::Instant;

use jumbo_engine::vnet::VnetHeader;
use jumbo_testkit::PacketBuilder;
use jumbo_testkit::script::{IpId, TcpStream};

use crate::bench::Spent;
use crate::sys::{Pool, Span};

pub(crate) type Shared = Rc<RefCell<Pool>>;

/// Packets that are looked at ahead where they are cold, the same for all who can.
const AHEAD: usize = 6;
/// More than the caches of one core hold.
const SWEEP: usize = 128 << 20;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
    Udp4,
}

impl Family {
    pub(crate) const TCP: [Self; 2] = [Self::V4, Self::V6];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::V4 => "tcp4",
            Self::V6 => "tcp6",
            Self::Udp4 => "udp4",
        }
    }

    pub(crate) fn is_v6(self) -> bool {
        self == Self::V6
    }

    pub(crate) fn is_udp(self) -> bool {
        self == Self::Udp4
    }

    /// Payload of a full segment at an MTU of 1500 bytes, with timestamps; of a datagram as much.
    pub(crate) fn mss(self) -> usize {
        match self {
            Self::V4 | Self::Udp4 => 1448,
            Self::V6 => 1428,
        }
    }

    pub(crate) fn l3_len(self) -> usize {
        match self {
            Self::V4 | Self::Udp4 => 20,
            Self::V6 => 40,
        }
    }

    /// A bulk flow with timestamps.
    pub(crate) fn flow(self, flow: u16, base: PacketBuilder) -> TcpStream {
        let port = 1000 + flow;
        let base = match self {
            Self::V4 | Self::Udp4 => base.tcp(port, 80),
            Self::V6 => base.ipv6([0xfd; 16], [0xfe; 16]).tcp(port, 80),
        };
        let stream = TcpStream::new(base).mss(self.mss()).timestamps(1, 2);
        stream.ids(IpId::Increment(port))
    }

    /// The datagrams of a flow.
    fn datagram(self, flow: u16, index: usize, base: &PacketBuilder) -> PacketBuilder {
        let port = 1000 + flow;
        let packet = base.clone().udp(port, 80);
        let id = port.wrapping_add(index as u16);
        packet.id(id).payload_len(self.mss())
    }

    /// What comes before a packet whose checksum is pending.
    pub(crate) fn pending(self) -> VnetHeader {
        VnetHeader {
            flags: 1,
            csum_start: 14 + self.l3_len() as u16,
            csum_offset: if self.is_udp() { 6 } else { 16 },
            ..VnetHeader::default()
        }
    }
}

/// A number of flows in turn, each with so many packets between two flushes.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) family: Family,
    pub(crate) flows: usize,
    pub(crate) per_flow: usize,
    pub(crate) flushes: usize,
    pub(crate) cold: bool,
    /// Checksums are in the packets, to be verified; else they are pending.
    pub(crate) checksums: bool,
}

impl Shape {
    pub(crate) fn packets(&self) -> usize {
        self.flows * self.per_flow * self.flushes
    }

    /// The packets in the order they are received.
    fn build(&self, mut each: impl FnMut(&[u8]) -> Result<(), String>) -> Result<(), String> {
        let base = if self.checksums {
            PacketBuilder::ethernet()
        } else {
            PacketBuilder::ethernet().partial_checksum()
        };
        let streams: Vec<_> = (0..self.flows)
            .map(|flow| {
                let stream = self.family.flow(flow as u16, base.clone());
                stream.segments(self.per_flow * self.flushes)
            })
            .collect();
        for index in 0..self.packets() {
            let (flow, turn) = (index % self.flows, index / self.flows);
            let packet = match self.family.is_udp() {
                true => self.family.datagram(flow as u16, turn, &base),
                false => streams[flow].packet(turn),
            };
            each(&packet.build())?;
        }
        Ok(())
    }
}

/// A ring of packets of one shape.
#[derive(Clone, Copy)]
pub(crate) struct Ring {
    pub(crate) shape: Shape,
    pub(crate) span: Span,
}

impl Ring {
    pub(crate) fn fill(shape: Shape, pool: &mut Pool) -> Result<Self, String> {
        let first = pool.len();
        shape.build(|packet| pool.put(packet))?;
        let span = Span {
            first,
            count: shape.packets(),
            flush: shape.flows * shape.per_flow,
            ahead: if shape.cold { AHEAD } else { 0 },
        };
        Ok(Self { shape, span })
    }

    /// The aggregates there are if everything merges.
    pub(crate) fn aggregates(&self) -> usize {
        self.shape.flows * self.shape.flushes
    }

    /// Packets per aggregate, as a note.
    pub(crate) fn note(&self, left: usize) -> String {
        format!(
            "{:.1} packets/aggregate",
            self.span.count as f64 / left as f64
        )
    }
}

/// Throws everything else out of the caches.
pub(crate) struct Sweeper(Vec<u8>);

impl Sweeper {
    pub(crate) fn new() -> Self {
        Self(vec![1; SWEEP])
    }

    pub(crate) fn sweep(&mut self) {
        for line in self.0.chunks_mut(64) {
            line[0] = line[0].wrapping_add(1);
        }
        black_box(&mut self.0);
    }
}

/// One measured pass over a ring of the pool, from the same state for every engine: packets as they
/// were received, their first lines just written, or nothing in the caches.
pub(crate) fn measure(
    pool: &Shared,
    sweeper: &RefCell<Sweeper>,
    ring: &Ring,
    pass: impl FnOnce(&mut Pool) -> usize,
) -> (Spent, usize) {
    let mut pool = pool.borrow_mut();
    pool.reset(ring.span.first, ring.span.count);
    if ring.shape.cold {
        sweeper.borrow_mut().sweep();
    }
    let start = Instant::now();
    let left = black_box(pass(&mut pool));
    let time = start.elapsed();
    let units = ring.span.count;
    (Spent { time, units }, left)
}
