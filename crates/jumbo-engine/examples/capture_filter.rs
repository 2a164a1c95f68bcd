//! Which flows are in a capture, and what would coalesce of each?
//!
//! `cargo run -p jumbo-engine --example capture_filter -- FILE.pcap [PORT]`
//!
//! Reads pcap and pcapng of Ethernet or raw IP. With a port, only TCP and UDP flows from or to it. A burst
//! ends where the capture pauses for longer than a millisecond; nothing is written.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs::File;
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use jumbo_engine::packet::{Net, Transport};
use jumbo_engine::prelude::*;
use pcap_parser::{Block, Linktype, PcapBlockOwned, PcapError, create_reader};

/// Longest pause inside a burst.
const PAUSE_NS: u64 = 1_000_000;
/// Packets of a burst, at most.
const BURST: usize = 512;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (file, port) = match &args[..] {
        [file] => (file, None),
        [file, port] => (file, Some(port.parse()?)),
        _ => return Err("usage: capture_filter FILE.pcap [PORT]".into()),
    };
    let mut filter = Filter::new(port);
    read(file, |link, time_ns, bytes| {
        filter.take(link, time_ns, bytes)
    })?;
    filter.end_burst();
    match filter.print() {
        // Whoever reads has seen enough.
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}

/// A flow's direction: addresses and ports, and whether it is TCP.
type Key = (SocketAddr, SocketAddr, bool);

#[derive(Default)]
struct Flow {
    packets: u64,
    bytes: u64,
    /// What would leave: super-packets, and packets that found no company.
    leaving: u64,
}

struct Filter {
    port: Option<u16>,
    numbers: BTreeMap<Key, u32>,
    flows: Vec<Flow>,
    /// The burst: its packets one behind the other, and where each begins.
    bytes: Vec<u8>,
    packets: Vec<(Link, usize)>,
    last_ns: u64,
    arena: Arena,
    gro: Coalescer,
    ignored: u64,
}

impl Filter {
    fn new(port: Option<u16>) -> Self {
        Self {
            port,
            numbers: BTreeMap::new(),
            flows: Vec::new(),
            bytes: Vec::new(),
            packets: Vec::new(),
            last_ns: 0,
            arena: Arena::new(BURST, BURST),
            gro: Coalescer::new(&GRO, BURST, 0x5eed),
            ignored: 0,
        }
    }

    fn take(&mut self, link: Link, time_ns: u64, bytes: &[u8]) {
        if time_ns.saturating_sub(self.last_ns) > PAUSE_NS || self.packets.len() == BURST {
            self.end_burst();
        }
        self.last_ns = time_ns;
        self.packets.push((link, self.bytes.len()));
        self.bytes.extend_from_slice(bytes);
    }

    /// Coalesces what was collected and counts what leaves.
    fn end_burst(&mut self) {
        let (bytes, packets) = (
            std::mem::take(&mut self.bytes),
            std::mem::take(&mut self.packets),
        );
        let memory = SliceMemory::new(&bytes, Kernels::detect());
        let ends = packets
            .iter()
            .skip(1)
            .map(|(_, at)| *at)
            .chain([bytes.len()]);
        for (&(link, at), end) in packets.iter().zip(ends) {
            self.offer(link, at, &bytes[at..end], &memory);
        }
        self.gro.flush(&mut self.arena, End::BurstEnd);
        for ready in self.gro.ready().drain(..) {
            if let Some(flow) = self.flows.get_mut(ready.out as usize) {
                flow.leaving += 1;
            }
            self.arena.release(ready.id);
        }
    }

    fn offer(&mut self, link: Link, at: usize, packet: &[u8], memory: &SliceMemory<'_>) {
        let body = [Frag::new(at as u64, packet.len() as u32)];
        let Ok(admitted) = self.arena.admit(link, packet, &body, None) else {
            self.ignored += 1;
            return;
        };
        let id = admitted.id;
        let key = key(self.arena.packet(id)).filter(|(from, to, _)| {
            let asked = |port| from.port() == port || to.port() == port;
            self.port.is_none_or(asked)
        });
        let Some(key) = key else {
            self.ignored += 1;
            self.arena.release(id);
            return;
        };
        let number = *self.numbers.entry(key).or_insert(self.flows.len() as u32);
        if number as usize == self.flows.len() {
            self.flows.push(Flow::default());
        }
        let flow = &mut self.flows[number as usize];
        flow.packets += 1;
        flow.bytes += packet.len() as u64;
        match self.gro.offer(&mut self.arena, id, memory) {
            Offer::Merged => {}
            Offer::Hold(slot)
                if self
                    .gro
                    .hold(&mut self.arena, id, slot, number, memory)
                    .is_ok() => {}
            _ => self.gro.ready().push(Ready::alone(id, number)),
        }
    }

    fn print(&self) -> io::Result<()> {
        let mut out = io::stdout().lock();
        writeln!(
            out,
            "{:>9} {:>12} {:>9} {:>7}",
            "packets", "bytes", "leave as", "merged"
        )?;
        let mut flows: Vec<_> = self.numbers.iter().collect();
        flows.sort_by_key(|(_, number)| std::cmp::Reverse(self.flows[**number as usize].bytes));
        for ((from, to, tcp), number) in flows {
            let flow = &self.flows[*number as usize];
            let kind = if *tcp { "tcp" } else { "udp" };
            let merged = flow.packets as f64 / flow.leaving.max(1) as f64;
            writeln!(
                out,
                "{:9} {:12} {:9} {merged:6.1}x  {kind} {from} > {to}",
                flow.packets, flow.bytes, flow.leaving,
            )?;
        }
        writeln!(out, "{} others", self.ignored)?;
        writeln!(
            out,
            "aggregates ended: {:?}",
            self.gro.stats().aggregate_ends
        )?;
        writeln!(out, "never candidates: {:?}", self.gro.stats().alone)
    }
}

/// The flow a packet belongs to, if it is TCP or UDP.
fn key(packet: &Packet) -> Option<Key> {
    let layers = packet.layers();
    let header = packet.header();
    let l3 = header.get(usize::from(layers.l2_len)..)?;
    let l4 = l3.get(usize::from(layers.l3_len)..)?;
    let (from, to): (IpAddr, IpAddr) = match layers.net {
        Net::V4 => (addr4(l3, 12)?.into(), addr4(l3, 16)?.into()),
        Net::V6 => (addr6(l3, 8)?.into(), addr6(l3, 24)?.into()),
        Net::None => return None,
    };
    let port = |at: usize| Some(u16::from_be_bytes(*l4.get(at..)?.first_chunk()?));
    match layers.transport {
        Transport::None => None,
        transport => Some((
            SocketAddr::new(from, port(0)?),
            SocketAddr::new(to, port(2)?),
            transport == Transport::Tcp,
        )),
    }
}

fn addr4(header: &[u8], at: usize) -> Option<Ipv4Addr> {
    Some(Ipv4Addr::from(*header.get(at..)?.first_chunk::<4>()?))
}

fn addr6(header: &[u8], at: usize) -> Option<Ipv6Addr> {
    Some(Ipv6Addr::from(*header.get(at..)?.first_chunk::<16>()?))
}

/// Every packet of a capture, whole, with its time in nanoseconds.
fn read(file: &str, mut each: impl FnMut(Link, u64, &[u8])) -> Result<(), Box<dyn Error>> {
    let mut reader = create_reader(1 << 20, File::open(file)?)?;
    let mut links = Vec::new();
    loop {
        match reader.next() {
            Ok((used, block)) => {
                block_packet(&block, &mut links, &mut each);
                reader.consume(used);
            }
            Err(PcapError::Eof) => return Ok(()),
            Err(PcapError::Incomplete(_)) => reader.refill().map_err(|e| e.to_string())?,
            Err(e) => return Err(e.to_string().into()),
        }
    }
}

fn block_packet(
    block: &PcapBlockOwned<'_>,
    links: &mut Vec<Option<Link>>,
    each: &mut impl FnMut(Link, u64, &[u8]),
) {
    match block {
        PcapBlockOwned::LegacyHeader(header) => links.push(link(header.network)),
        PcapBlockOwned::Legacy(packet) => {
            let time_ns =
                u64::from(packet.ts_sec) * 1_000_000_000 + u64::from(packet.ts_usec) * 1000;
            if let Some(Some(link)) = links.first() {
                each(*link, time_ns, packet.data);
            }
        }
        PcapBlockOwned::NG(Block::InterfaceDescription(interface)) => {
            links.push(link(interface.linktype))
        }
        PcapBlockOwned::NG(Block::EnhancedPacket(packet)) => {
            // Microseconds unless the interface says otherwise, which nothing here depends on much.
            let time = u64::from(packet.ts_high) << 32 | u64::from(packet.ts_low);
            let bytes = packet.data.get(..packet.caplen as usize);
            if let (Some(Some(link)), Some(bytes)) = (links.get(packet.if_id as usize), bytes) {
                each(*link, time.saturating_mul(1000), bytes);
            }
        }
        PcapBlockOwned::NG(_) => {}
    }
}

fn link(kind: Linktype) -> Option<Link> {
    match kind {
        Linktype::ETHERNET => Some(Link::Ethernet),
        Linktype::RAW | Linktype::IPV4 | Linktype::IPV6 => Some(Link::RawIp),
        _ => None,
    }
}
