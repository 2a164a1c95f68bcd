//! The reverse: super-packets of a capture cut into packets.

use jumbo_engine::arena::{Arena, SliceMemory};
use jumbo_engine::checksum::{Kernels, Sum};
use jumbo_engine::coalesce::Alone;
use jumbo_engine::packet::{Net, Packet, Transport};
use jumbo_engine::pending::{Csum, Cwr, Gso, GsoKind};
use jumbo_engine::segment::{SegmentCsum, segment, segments};
use jumbo_engine::vnet::UDP_SEGMENTS_MAX;
use jumbo_ports::capture::{CaptureError, Record};

use super::admit::{Checksum, Input, Loaded, admit, checksum};
use super::books::{Books, Left, ORDINARY_L3_LEN, Own, Why};
use super::output::{Envelope, Output};
use super::{came, input_of};
use crate::args::ChecksumMode;

/// TCP flags of packets that are never cut: SYN, RST, URG (RFC 9293 section 3.1).
const CONTROL: u8 = 0x02 | 0x04 | 0x20;

/// A replay that segments.
#[derive(Debug)]
pub(crate) struct Segmenting {
    arena: Arena,
    kernels: Kernels,
    mode: ChecksumMode,
    size: u16,
    books: Books,
    output: Option<Output>,
}

impl Segmenting {
    pub(crate) fn new(
        size: u16,
        mode: ChecksumMode,
        (follow_tunnels, books): (bool, Books),
        output: Option<Output>,
    ) -> Self {
        let mut arena = Arena::new(2, 8);
        arena.follow_tunnels(follow_tunnels);
        Self {
            arena,
            kernels: Kernels::detect(),
            mode,
            size,
            books,
            output,
        }
    }

    /// Takes the next packet of the capture.
    pub(crate) fn feed(&mut self, record: &Record<'_>) -> Result<(), CaptureError> {
        self.books.cut_packets += u64::from(record.is_cut());
        let input = match input_of(record) {
            Ok(input) => input,
            Err(own) => return self.pass(record, Why::Own(own)),
        };
        let cooked_len = record.data.len() - input.bytes.len();
        let memory = SliceMemory::new(record.data, self.kernels);
        let input = Input {
            at: cooked_len as u64,
            ..input
        };
        match admit(&mut self.arena, input, self.mode, &memory) {
            Ok(loaded) => self.admitted(record, cooked_len, loaded),
            Err(why) => self.pass(record, why),
        }
    }

    fn admitted(
        &mut self,
        record: &Record<'_>,
        cooked_len: usize,
        loaded: Loaded,
    ) -> Result<(), CaptureError> {
        let memory = SliceMemory::new(record.data, self.kernels);
        let packet = self.arena.packet(loaded.id);
        let flow = self.books.flow_of(packet);
        let came = came(packet);
        self.books.came(flow, came);
        self.books.checksum_pending += u64::from(loaded.pending);
        self.books.already_large += u64::from(super::is_large(packet));
        self.books.in_tunnels += u64::from(packet.is_in_tunnel());
        let payload = self.arena.payload(loaded.id);
        let sum = || match packet.pending().csum {
            Csum::Unverified => checksum(packet, payload, &memory),
            Csum::Verified | Csum::Partial { .. } => Checksum::Right,
        };
        let plan = match loaded.opaque {
            Some(opaque) => Err(Why::Opaque(opaque)),
            None => gso_of(packet, self.size, sum),
        };
        let (why, count) = match plan {
            Ok(_) => (
                Why::Own(Own::Segmented),
                segments(packet.payload_len(), self.size),
            ),
            Err(why) => (why, 1),
        };
        let left = Left {
            left: u64::from(count),
            came: 1,
            payload_bytes: came.payload_bytes,
            tcp_data: came.tcp_data,
        };
        self.books.left(flow, why, left);
        let envelope = Envelope {
            link: record.link,
            cooked: &record.data[..cooked_len],
            ts_ns: record.ts_ns.unwrap_or(0),
        };
        let written = match (&mut self.output, plan) {
            (None, _) => Ok(()),
            (Some(output), Err(_)) => output.packet(envelope, packet, payload, &memory, None),
            (Some(output), Ok(gso)) => {
                let mut result = Ok(());
                // Partial: the output finishes each checksum whose bytes are there.
                let cut = segment(
                    packet,
                    gso,
                    payload,
                    SegmentCsum::Partial,
                    &memory,
                    |part, payload| {
                        if result.is_ok() {
                            result = output.packet(envelope, part, payload, &memory, None);
                        }
                    },
                );
                debug_assert!(cut.is_ok(), "a partial checksum needs no payload");
                result
            }
        };
        self.arena.release(loaded.id);
        written
    }

    fn pass(&mut self, record: &Record<'_>, why: Why) -> Result<(), CaptureError> {
        super::pass(&mut self.books, self.output.as_mut(), record, why)
    }

    pub(crate) fn finish(self) -> (Books, Option<Output>) {
        (self.books, self.output)
    }
}

/// How the packet is to be segmented, or why not.
fn gso_of(packet: &Packet, size: u16, sum: impl FnOnce() -> Checksum) -> Result<Gso, Why> {
    let layers = packet.layers();
    let kind = match (layers.transport, layers.net) {
        (Transport::None, _) => return Err(Why::Alone(Alone::NotTcp)),
        (Transport::Udp, _) => GsoKind::Udp,
        (Transport::Tcp, Net::V6) => GsoKind::Tcp6,
        (Transport::Tcp, _) => GsoKind::Tcp4,
    };
    if packet.payload_len() <= u32::from(size) {
        return Err(Why::Own(Own::Fits));
    }
    if kind == GsoKind::Udp && packet.l3_total_len() <= ORDINARY_L3_LEN {
        return Err(Why::Own(Own::Datagram));
    }
    if kind == GsoKind::Udp && packet.payload_len() as usize > usize::from(size) * UDP_SEGMENTS_MAX
    {
        return Err(Why::Own(Own::TooManyDatagrams));
    }
    let flags_at = usize::from(layers.l2_len) + usize::from(layers.l3_len) + 13;
    let flags = packet.header().get(flags_at).copied().unwrap_or(0);
    if kind != GsoKind::Udp && flags & CONTROL != 0 {
        return Err(Why::Alone(Alone::Control));
    }
    // Segments get checksums of their own, which would make good what is wrong.
    if !ip_checksum_is_right(packet) {
        return Err(Why::Alone(Alone::IpChecksum));
    }
    match (sum(), kind) {
        (Checksum::Right, _) => {}
        (Checksum::Unknown, _) => return Err(Why::Own(Own::PayloadCut)),
        (Checksum::Wrong, GsoKind::Udp) => return Err(Why::Alone(Alone::UdpChecksum)),
        (Checksum::Wrong, _) => return Err(Why::Alone(Alone::TcpChecksum)),
    }
    if !packet.outer_is_sound() {
        return Err(Why::Alone(Alone::TunnelChecksum));
    }
    Ok(Gso {
        kind,
        size,
        cwr: Cwr::FirstOnly,
        fixed_id: false,
    })
}

/// RFC 791 section 3.1; IPv6 has none.
fn ip_checksum_is_right(packet: &Packet) -> bool {
    let layers = packet.layers();
    let start = usize::from(layers.l2_len);
    let header = packet
        .header()
        .get(start..start + usize::from(layers.l3_len));
    layers.net != Net::V4 || Sum::ZERO.add_bytes(header.unwrap_or(&[])).fold() == 0xffff
}
