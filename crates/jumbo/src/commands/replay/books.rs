//! What became of every packet: totals, reasons, flows. No I/O, no text.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use jumbo_engine::coalesce::{Alone, End};
use jumbo_engine::packet::{Net, Packet, Transport};
use jumbo_engine::parse::Opaque;
use jumbo_engine::reason::Reason;
use jumbo_engine::reasons;
use jumbo_engine::vnet::HeaderFault;

reasons! {
    /// Why was a packet of a capture passed on as it was?
    pub(crate) enum Own in "replay" {
        /// It was captured on a kind of link that is not read here.
        UnsupportedLink = "unsupported_link",
        /// Not even its link header was captured.
        LinkHeaderCut = "link_header_cut",
        /// A VLAN tag in a cooked capture, whose Ethernet header is gone.
        CookedVlan = "cooked_vlan",
        /// Neither IPv4 nor IPv6 in a cooked or loopback capture.
        CookedNotIp = "cooked_not_ip",
        /// The capture kept so little of it that its headers are incomplete.
        HeadersCut = "headers_cut",
        /// The capture kept only its beginning, so its checksum cannot be verified.
        PayloadCut = "payload_cut",
        /// Its payload fits into one segment.
        Fits = "fits",
        /// A UDP datagram that fits an MTU of 1500 bytes: its length is data and is not changed.
        Datagram = "datagram",
        /// More pieces than a UDP super-packet may have (128, UDP_MAX_SEGMENTS of Linux).
        TooManyDatagrams = "too_many_datagrams",
        /// It was a super-packet and was segmented.
        Segmented = "segmented",
    }
}

/// Why a packet left as it did, from whichever stage decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    /// It was held, and this ended it.
    End(End),
    /// It was no candidate.
    Alone(Alone),
    /// Parsing did not reach TCP or UDP.
    Opaque(Opaque),
    /// It was not admitted.
    Header(HeaderFault),
    /// The capture, or segmentation.
    Own(Own),
}

const ALONE_AT: usize = End::ALL.len();
const OPAQUE_AT: usize = ALONE_AT + Alone::ALL.len();
const HEADER_AT: usize = OPAQUE_AT + Opaque::ALL.len();
const OWN_AT: usize = HEADER_AT + HeaderFault::ALL.len();
const WHYS: usize = OWN_AT + Own::ALL.len();

impl Why {
    /// Position among all reasons of all stages, below [`WHYS`].
    fn index(self) -> usize {
        match self {
            Self::End(end) => end.index(),
            Self::Alone(alone) => ALONE_AT + alone.index(),
            Self::Opaque(opaque) => OPAQUE_AT + opaque.index(),
            Self::Header(fault) => HEADER_AT + fault.index(),
            Self::Own(own) => OWN_AT + own.index(),
        }
    }

    fn at(index: usize) -> Option<Self> {
        let from = |base: usize| index.checked_sub(base);
        let end = End::ALL.get(index).copied().map(Self::End);
        let alone = from(ALONE_AT).and_then(|i| Alone::ALL.get(i).copied().map(Self::Alone));
        let opaque = from(OPAQUE_AT).and_then(|i| Opaque::ALL.get(i).copied().map(Self::Opaque));
        let header = from(HEADER_AT).and_then(|i| HeaderFault::ALL.get(i).copied());
        let own = from(OWN_AT).and_then(|i| Own::ALL.get(i).copied().map(Self::Own));
        end.or(alone)
            .or(opaque)
            .or(header.map(Self::Header))
            .or(own)
    }

    /// Stable and different for each reason: what ended an aggregate and is also the name of a packet that was no
    /// candidate gets a prefix.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::End(End::PureAck) => "ended_by_pure_ack",
            Self::End(End::Control) => "ended_by_control",
            Self::End(End::EmptyDatagram) => "ended_by_empty_datagram",
            Self::End(end) => end.name(),
            Self::Alone(alone) => alone.name(),
            Self::Opaque(opaque) => opaque.name(),
            Self::Header(fault) => fault.name(),
            Self::Own(own) => own.name(),
        }
    }

    /// One sentence.
    pub(crate) fn doc(self) -> &'static str {
        let doc = match self {
            Self::End(end) => end.doc(),
            Self::Alone(alone) => alone.doc(),
            Self::Opaque(opaque) => opaque.doc(),
            Self::Header(fault) => fault.doc(),
            Self::Own(own) => own.doc(),
        };
        doc.trim()
    }
}

/// Packets out for one reason, and the packets in they stand for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Packets that left.
    pub(crate) left: u64,
    /// Packets that came in them.
    pub(crate) came: u64,
    /// Of `left`: with TCP payload.
    pub(crate) left_tcp_data: u64,
}

/// A tally per reason.
#[derive(Debug, Clone)]
pub(crate) struct Tallies(Vec<Tally>);

impl Tallies {
    fn new() -> Self {
        Self(vec![Tally::default(); WHYS])
    }

    fn add(&mut self, why: Why, left: &Left) {
        if let Some(tally) = self.0.get_mut(why.index()) {
            tally.left += left.left;
            tally.came += left.came;
            tally.left_tcp_data += if left.tcp_data { left.left } else { 0 };
        }
    }

    /// Reasons that were seen, the most frequent first.
    pub(crate) fn seen(&self) -> Vec<(Why, Tally)> {
        let all = self.0.iter().enumerate();
        let mut seen: Vec<_> = all
            .filter(|(_, tally)| **tally != Tally::default())
            .filter_map(|(index, tally)| Some((Why::at(index)?, *tally)))
            .collect();
        // Stable: ties stay in the order of the reasons.
        seen.sort_by_key(|(_, tally)| std::cmp::Reverse(tally.left));
        seen
    }
}

/// Which flow a packet belongs to, in one word for [`jumbo_engine::coalesce::Coalescer::hold`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FlowId(pub(crate) u32);

impl FlowId {
    /// Not IP, or not admitted.
    pub(crate) const NONE: Self = Self(u32::MAX);
    /// Beyond [`FLOWS_LISTED`].
    const REST: Self = Self(u32::MAX - 1);
}

/// Flows with books of their own; the packets of any further ones are counted together.
pub(crate) const FLOWS_LISTED: usize = 100_000;

/// What tells flows apart for the reader. The engine's own key is finer: MAC addresses, flow label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct FlowKey {
    src: [u8; 16],
    dst: [u8; 16],
    /// Source and destination; zero without.
    ports: (u16, u16),
    /// VLAN id of the outermost tag, 0 without one.
    vlan: u16,
    /// IP protocol number.
    protocol: u8,
    v4: bool,
    has_ports: bool,
}

impl FlowKey {
    fn of(packet: &Packet) -> Option<Self> {
        let layers = packet.layers();
        let l3 = usize::from(layers.l2_len);
        let header = packet.header();
        let v4 = layers.net == Net::V4;
        let (src_at, address_len) = match layers.net {
            Net::None => return None,
            Net::V4 => (l3 + 12, 4),
            Net::V6 => (l3 + 8, 16),
        };
        let (mut src, mut dst) = ([0; 16], [0; 16]);
        src[..address_len].copy_from_slice(header.get(src_at..src_at + address_len)?);
        let dst_at = src_at + address_len;
        dst[..address_len].copy_from_slice(header.get(dst_at..dst_at + address_len)?);
        let l4 = l3 + usize::from(layers.l3_len);
        let has_ports = layers.transport != Transport::None;
        let port = |at: usize| match header.get(at..at + 2) {
            Some(bytes) if has_ports => u16::from_be_bytes([bytes[0], bytes[1]]),
            _ => 0,
        };
        Some(Self {
            src,
            dst,
            ports: (port(l4), port(l4 + 2)),
            vlan: packet.tags().outer_vid(),
            protocol: layers.protocol,
            v4,
            has_ports,
        })
    }

    fn address(self, bytes: [u8; 16]) -> IpAddr {
        match bytes {
            [a, b, c, d, ..] if self.v4 => Ipv4Addr::new(a, b, c, d).into(),
            all => Ipv6Addr::from(all).into(),
        }
    }

    /// Source address.
    pub(crate) fn src(self) -> IpAddr {
        self.address(self.src)
    }

    /// Destination address.
    pub(crate) fn dst(self) -> IpAddr {
        self.address(self.dst)
    }

    /// Source and destination port, for TCP and UDP.
    pub(crate) fn ports(self) -> Option<(u16, u16)> {
        self.has_ports.then_some(self.ports)
    }

    /// IP protocol number.
    pub(crate) fn protocol(self) -> u8 {
        self.protocol
    }

    /// VLAN id, if tagged.
    pub(crate) fn vlan(self) -> Option<u16> {
        (self.vlan != 0).then_some(self.vlan)
    }
}

/// The books of one flow.
#[derive(Debug, Clone)]
pub(crate) struct Flow {
    pub(crate) key: FlowKey,
    pub(crate) packets_in: u64,
    pub(crate) packets_out: u64,
    pub(crate) payload_bytes: u64,
    /// Packets out by reason, in order of appearance. Few per flow, and bounded by the reasons there are.
    pub(crate) reasons: Vec<(Why, u64)>,
}

impl Flow {
    fn new(key: FlowKey) -> Self {
        Self {
            key,
            packets_in: 0,
            packets_out: 0,
            payload_bytes: 0,
            reasons: Vec::new(),
        }
    }

    fn count(&mut self, why: Why, packets: u64) {
        match self.reasons.iter_mut().find(|(known, _)| *known == why) {
            Some((_, count)) => *count += packets,
            None => self.reasons.push((why, packets)),
        }
    }
}

/// The packets of the flows beyond [`FLOWS_LISTED`], or of none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Unlisted {
    pub(crate) packets_in: u64,
    pub(crate) packets_out: u64,
    pub(crate) payload_bytes: u64,
}

/// A packet that arrives.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Came {
    pub(crate) payload_bytes: u64,
    pub(crate) tcp_data: bool,
}

/// What one event let leave.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Left {
    /// Packets out.
    pub(crate) left: u64,
    /// Packets in they stand for.
    pub(crate) came: u64,
    pub(crate) payload_bytes: u64,
    pub(crate) tcp_data: bool,
}

/// Packets with TCP payload: the only ones that can be merged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct TcpData {
    pub(crate) packets_in: u64,
    pub(crate) packets_out: u64,
}

/// All of it.
#[derive(Debug)]
pub(crate) struct Books {
    pub(crate) packets_in: u64,
    pub(crate) packets_out: u64,
    /// Payload of TCP and UDP packets, bytes.
    pub(crate) payload_bytes_in: u64,
    /// The same, of what left.
    pub(crate) payload_bytes_out: u64,
    pub(crate) tcp_data: TcpData,
    /// Super-packets made by coalescing, or cut by segmentation.
    pub(crate) super_packets: u64,
    /// Packets whose IP packet is longer than [`ORDINARY_L3_LEN`] as captured.
    pub(crate) already_large: u64,
    /// Packets of which the capture has only the beginning.
    pub(crate) cut_packets: u64,
    /// Packets whose checksum was a bare pseudo-header sum.
    pub(crate) checksum_pending: u64,
    pub(crate) in_tunnels: u64,
    pub(crate) bursts: u64,
    /// Bursts that were ended because the buffer was full.
    pub(crate) buffer_full: u64,
    /// Why super-packets ended.
    pub(crate) merged: Tallies,
    /// Why the others left as they came.
    pub(crate) single: Tallies,
    flows: Vec<Flow>,
    index: HashMap<FlowKey, u32>,
    flows_max: usize,
    pub(crate) rest: Unlisted,
    pub(crate) without_flow: Unlisted,
}

/// What an Ethernet without jumbo frames carries, bytes: the network packet, header included.
pub(crate) const ORDINARY_L3_LEN: usize = 1500;

impl Books {
    /// Empty books for so many flows, the rest counted together.
    pub(crate) fn new(flows_max: usize) -> Self {
        Self {
            packets_in: 0,
            packets_out: 0,
            payload_bytes_in: 0,
            payload_bytes_out: 0,
            tcp_data: TcpData::default(),
            super_packets: 0,
            already_large: 0,
            cut_packets: 0,
            checksum_pending: 0,
            in_tunnels: 0,
            bursts: 0,
            buffer_full: 0,
            merged: Tallies::new(),
            single: Tallies::new(),
            flows: Vec::new(),
            index: HashMap::new(),
            flows_max,
            rest: Unlisted::default(),
            without_flow: Unlisted::default(),
        }
    }

    /// The flow of an admitted packet.
    pub(crate) fn flow_of(&mut self, packet: &Packet) -> FlowId {
        let Some(key) = FlowKey::of(packet) else {
            return FlowId::NONE;
        };
        let known = self.flows.len();
        match self.index.entry(key) {
            Entry::Occupied(entry) => FlowId(*entry.get()),
            Entry::Vacant(_) if known >= self.flows_max => FlowId::REST,
            Entry::Vacant(entry) => {
                self.flows.push(Flow::new(key));
                FlowId(*entry.insert(known as u32))
            }
        }
    }

    /// Flows with books of their own, in order of appearance.
    pub(crate) fn flows(&self) -> &[Flow] {
        &self.flows
    }

    fn unlisted(&mut self, id: FlowId) -> &mut Unlisted {
        match id {
            FlowId::NONE => &mut self.without_flow,
            _ => &mut self.rest,
        }
    }

    /// A packet arrived.
    pub(crate) fn came(&mut self, id: FlowId, came: Came) {
        self.packets_in += 1;
        self.payload_bytes_in += came.payload_bytes;
        self.tcp_data.packets_in += u64::from(came.tcp_data);
        match self.flows.get_mut(id.0 as usize) {
            Some(flow) => {
                flow.packets_in += 1;
                flow.payload_bytes += came.payload_bytes;
            }
            None => {
                let unlisted = self.unlisted(id);
                unlisted.packets_in += 1;
                unlisted.payload_bytes += came.payload_bytes;
            }
        }
    }

    /// Packets left, for this reason.
    pub(crate) fn left(&mut self, id: FlowId, why: Why, left: Left) {
        self.packets_out += left.left;
        self.payload_bytes_out += left.payload_bytes;
        self.tcp_data.packets_out += if left.tcp_data { left.left } else { 0 };
        if left.came != left.left {
            self.super_packets += 1;
            self.merged.add(why, &left);
        } else {
            self.single.add(why, &left);
        }
        // Merging counts what left, segmentation what came: one decision each.
        let decisions = left.left.min(left.came);
        match self.flows.get_mut(id.0 as usize) {
            Some(flow) => {
                flow.packets_out += left.left;
                flow.count(why, decisions);
            }
            None => self.unlisted(id).packets_out += left.left,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_a_name_of_its_own_and_its_place() {
        let all: Vec<_> = (0..WHYS).map(|i| Why::at(i).expect("a reason")).collect();
        let mut names: Vec<_> = all.iter().map(|why| why.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), WHYS);
        assert!(all.iter().enumerate().all(|(i, why)| why.index() == i));
        assert!(all.iter().all(|why| why.doc().ends_with('.')));
        assert_eq!(Why::at(WHYS), None);
    }
}
