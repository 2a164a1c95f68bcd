//! After its start a data plane allocates nothing, whatever comes in.

#[path = "counting/sys.rs"]
mod sys;

use std::os::fd::BorrowedFd;

use jumbo_engine::arena::Pieces;
use jumbo_engine::packet::{Link as EngineLink, Packet};
use jumbo_engine::pending::Caps;
use jumbo_engine::vnet::{Form, Trust, VnetHeader};
use jumbo_ports::pool::Pool;
use jumbo_ports::queue::{Bounds, Burst, Queue, RxEnd, RxStats, TxFault};
use jumbo_switch::path::Plane;
use jumbo_switch::topology::{Coalesce, Coalescing, Policy, PortId, Slot};
use jumbo_testkit::oracle::{self, VnetForm, vnet_gso};
use jumbo_testkit::script::{TcpStream, interleave};
use jumbo_testkit::{Link, PacketBuilder};

#[global_allocator]
static COUNTING: sys::Counting = sys::Counting;

/// A device that gives the same packets again and again, and looks at what it is given.
#[derive(Debug)]
struct Loop {
    packets: Vec<Vec<u8>>,
    next: usize,
    refuses_gso: bool,
    sent_bytes: u64,
}

impl Loop {
    fn queue(packets: Vec<Vec<u8>>, refuses_gso: bool) -> Box<dyn Queue> {
        Box::new(Self {
            packets,
            next: 0,
            refuses_gso,
            sent_bytes: 0,
        })
    }
}

impl Queue for Loop {
    fn rx(&mut self, burst: &mut Burst, stats: &mut RxStats) -> RxEnd {
        for _ in 0..burst.bounds.batch_packets {
            if !burst.has_room() {
                break;
            }
            let Some(bytes) = self.packets.get(self.next) else {
                self.next = 0;
                return RxEnd::Drained;
            };
            self.next += 1;
            burst.pool.space()[..bytes.len()].copy_from_slice(bytes);
            let form = Form::Modern12;
            let header = VnetHeader::decode(form, bytes).expect("longer than a header");
            let vnet = Some((&header, Trust::Guest));
            let len = bytes.len() - form.len_bytes();
            burst.admit(EngineLink::Ethernet, form.len_bytes(), len, vnet, stats);
        }
        RxEnd::More
    }

    fn tx(&mut self, packet: &Packet, payload: Pieces<'_>, pool: &Pool) -> Result<(), TxFault> {
        if self.refuses_gso && packet.pending().gso.is_some() {
            return Err(TxFault::GsoRefused);
        }
        for frag in payload {
            self.sent_bytes += pool.piece(frag).ok_or(TxFault::PayloadMissing)?.len() as u64;
        }
        Ok(())
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

fn mac(n: u8) -> [u8; 6] {
    [2, 0, 0, 0, 0, n]
}

fn with_header(packet: &PacketBuilder, kind: u8) -> Vec<u8> {
    let bytes = packet.clone().partial_checksum().build();
    let header = oracle::VnetHeader::needs_csum(Link::Ethernet, &bytes, kind, 1448);
    let mut whole = header.expect("TCP").encode(VnetForm::Merged);
    whole.extend(bytes);
    whole
}

/// Streams to merge, super-packets to cut, floods, new and moving stations, garbage.
fn mixture() -> Vec<Vec<u8>> {
    let streams = (0..100u16).map(|flow| {
        let to = mac(1 + (flow % 4) as u8);
        let base = PacketBuilder::ethernet().macs(to, mac(0)).tcp(flow, 80);
        TcpStream::new(base).segments(12).packets()
    });
    let plain = |bytes: Vec<u8>| [vec![0; 12], bytes].concat();
    let mut packets: Vec<_> = interleave(streams.collect())
        .into_iter()
        .map(plain)
        .collect();
    for n in 0..40 {
        let to = if n % 2 == 0 { [0xff; 6] } else { mac(n % 4) };
        let base = PacketBuilder::ethernet().macs(to, mac(10 + n));
        let stream = TcpStream::new(base).segments(9);
        packets.push(with_header(&stream.super_packet(), vnet_gso::TCPV4));
        packets.push(vec![n; 12 + usize::from(n)]);
    }
    // The station of port 1 is seen here: it moves back and forth.
    packets.push(plain(
        PacketBuilder::ethernet().macs(mac(9), mac(1)).build(),
    ));
    packets
}

#[test]
fn batches_allocate_nothing() {
    let mut plane = Plane::new(Bounds::default(), 300, 1);
    let csum = Caps::new(true, false, false, false, false);
    let takes = [Caps::ALL, Caps::ALL, csum, Caps::NONE, Caps::ALL];
    for (n, takes) in takes.into_iter().enumerate() {
        let hello = PacketBuilder::ethernet()
            .macs([0xff; 6], mac(n as u8))
            .build();
        let packets = match n {
            0 => mixture(),
            _ => vec![[vec![0; 12], hello].concat()],
        };
        let policy = Policy {
            coalesce: Coalescing {
                // Towards one, packets rest from round to round.
                hold_ns: if n == 4 { 1000 } else { 0 },
                ..Coalesce::Gro.into()
            },
            takes,
            mtu: 1500,
        };
        let queue = Loop::queue(packets, n == 1);
        plane
            .topology
            .insert(Slot::new(PortId(n as u16), queue, policy));
    }
    let round = |plane: &mut Plane, now_s: u32| {
        for port in [4, 3, 2, 1, 0] {
            while plane.batch(PortId(port), u64::from(now_s) * 1_000_000_000) == RxEnd::More {}
        }
        let mut news = 0;
        plane.share_news(|_, _| {
            news += 1;
            true
        });
        news
    };
    round(&mut plane, 0);
    let (books, before) = (plane.books(), sys::allocations());
    let mut news = 0;
    for now_s in 1..100 {
        news += round(&mut plane, now_s);
    }
    plane.end_burst(u64::MAX);
    let allocated = sys::allocations() - before;
    let after = plane.books();
    assert_eq!(allocated, 0);
    // All of it happened while nothing was allocated.
    assert!(after.balanced() && after.resting == 0 && news > 0);
    let slot = plane.topology.get(PortId(4)).expect("it is there");
    assert!(slot.counters.promoted.packets > 0);
    assert!(after.absorbed_by_merging > books.absorbed_by_merging);
    assert!(after.made_by_segmentation > books.made_by_segmentation);
    assert!(after.flood_copies > books.flood_copies && after.dropped > books.dropped);
}
