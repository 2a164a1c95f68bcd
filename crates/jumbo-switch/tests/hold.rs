//! Hold time: what rests beyond its burst, over ports in memory and a clock of the test's own.

mod support;

use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use jumbo_engine::arena::{HEAD_WANTED, Pieces};
use jumbo_engine::coalesce::End;
use jumbo_engine::packet::{Frag, Link as EngineLink, Packet};
use jumbo_engine::pending::Caps;
use jumbo_engine::vnet::VnetHeader;
use jumbo_ports::mem::{self, MemHandle, MemPacket};
use jumbo_ports::pool::{Pool, Region, Regions};
use jumbo_ports::queue::{Bounds, Burst, Queue, RxEnd, RxStats, TxFault};
use jumbo_switch::counters::Gauge;
use jumbo_switch::fdb::Station;
use jumbo_switch::forward::Stay;
use jumbo_switch::path::Plane;
use jumbo_switch::switch::{State, Switch, SwitchConfig};
use jumbo_switch::topology::{Coalesce, Coalescing, Policy, PortId, Slot};
use jumbo_testkit::oracle;
use jumbo_testkit::script::{IpId, TcpStream};
use jumbo_testkit::{Link, PacketBuilder};
use proptest::prelude::*;
use support::assert_accounted;

const HOLD_NS: u32 = 50_000;

/// The MAC address of station `n`, which is behind port `n`.
fn mac(n: u8) -> [u8; 6] {
    [2, 0, 0, 0, 0, n]
}

/// `count` segments of 500 bytes from station to station, `sent` bytes into the stream of `flow`.
fn part(from: u8, to: u8, flow: u16, sent: usize, count: usize) -> Vec<Vec<u8>> {
    let base = PacketBuilder::ethernet()
        .macs(mac(to), mac(from))
        .tcp(flow, 80);
    TcpStream::new(base)
        .segments(count)
        .mss(500)
        .seq(sent as u32)
        .payload_at(sent)
        .ids(IpId::Increment((sent / 500) as u16))
        .packets()
}

fn holding(hold_ns: u32) -> Coalescing {
    Coalescing {
        hold_ns,
        ..Coalesce::Gro.into()
    }
}

/// A data plane, and the time.
struct Rig {
    plane: Plane,
    handles: Vec<MemHandle>,
    now_ns: u64,
}

impl Rig {
    /// A port for each hold time; all stations are known.
    fn new(bounds: Bounds, holds_ns: &[u32]) -> Self {
        let mut rig = Self {
            plane: Plane::new(bounds, 300, 0x5eed),
            handles: Vec::new(),
            now_ns: 1 << 40,
        };
        for (index, hold_ns) in holds_ns.iter().enumerate() {
            let (port, handle) = mem::port("m", 1, Caps::ALL, Caps::ALL, 1500).expect("an eventfd");
            let queue = port.queues.into_iter().next().expect("one queue");
            rig.insert(index, queue, *hold_ns);
            rig.handles.push(handle);
        }
        rig
    }

    fn insert(&mut self, index: usize, queue: Box<dyn Queue>, hold_ns: u32) {
        let policy = Policy {
            coalesce: holding(hold_ns),
            takes: Caps::ALL,
            mtu: 1500,
        };
        let port = PortId(index as u16);
        self.plane.topology.insert(Slot::new(port, queue, policy));
        self.plane
            .hear(Station::untagged(mac(index as u8)), port, self.now_ns);
    }

    /// A burst of one port.
    fn burst(&mut self, port: usize, packets: &[Vec<u8>]) {
        for packet in packets {
            self.handles[port].put(&VnetHeader::default(), packet);
        }
        self.run(port);
    }

    fn run(&mut self, port: usize) {
        let more =
            (0..10_000).all(|_| self.plane.batch(PortId(port as u16), self.now_ns) == RxEnd::More);
        assert!(!more, "port {port} never ends");
        self.check();
    }

    /// What must be true at every quiet point.
    fn check(&self) {
        let books = self.plane.books();
        let resting = self.plane.resting();
        let packets: u64 = resting.values().map(|gauge| gauge.packets).sum();
        assert!(books.balanced() && books.resting == packets, "{books:?}");
        assert_eq!(self.plane.next_deadline_ns().is_some(), packets != 0);
    }

    /// So much later, as a worker does it: it wakes up at each deadline.
    fn later(&mut self, by_ns: u64) {
        let then_ns = self.now_ns + by_ns;
        while let Some(wake_ns) = self
            .plane
            .next_deadline_ns()
            .filter(|at_ns| *at_ns <= then_ns)
        {
            self.now_ns = self.now_ns.max(wake_ns);
            self.plane.end_burst(self.now_ns);
            self.check();
        }
        self.now_ns = then_ns;
    }

    /// Lengths of what left by a port, and the sizes of their segments.
    fn taken(&self, port: usize) -> Vec<(usize, u16)> {
        let taken = self.handles[port].taken().into_iter();
        taken
            .map(|packet| (packet.bytes.len() - 54, packet.vnet.gso_size))
            .collect()
    }

    fn ended(&self, port: u16, end: End) -> u64 {
        self.plane
            .topology
            .get(PortId(port))
            .map_or(0, |slot| slot.counters.ends.get(end))
    }

    fn promoted(&self, port: u16) -> Gauge {
        self.plane
            .topology
            .get(PortId(port))
            .expect("it is there")
            .counters
            .promoted
    }
}

#[test]
fn bursts_are_merged_until_the_hold_time_is_over() {
    let mut rig = Rig::new(Bounds::default(), &[0, HOLD_NS, 0]);
    for burst in 0..4 {
        rig.burst(0, &part(0, 1, 9, burst * 1000, 2));
        rig.later(10_000);
    }
    assert_eq!(rig.taken(1), []);
    let resting = Gauge {
        packets: 1,
        bytes: 4000,
    };
    assert_eq!(rig.plane.resting()[&PortId(1)], resting);
    rig.later(9_999);
    assert_eq!(rig.taken(1), []);
    rig.later(1);
    assert_eq!(rig.taken(1), [(4000, 500)]);
    assert_eq!(rig.ended(1, End::HoldTime), 1);
    // Each byte was copied once, in four bursts.
    assert_eq!(
        rig.promoted(1),
        Gauge {
            packets: 4,
            bytes: 4000
        }
    );
    assert_eq!(rig.plane.next_deadline_ns(), None, "nothing to wake up for");
}

#[test]
fn ports_without_a_hold_time_do_not_wait_for_those_with_one() {
    let mut rig = Rig::new(Bounds::default(), &[0, HOLD_NS, 0]);
    let packets = [part(0, 1, 9, 0, 2), part(0, 2, 9, 0, 2)].concat();
    rig.burst(0, &packets);
    assert_eq!((rig.taken(1), rig.taken(2)), (vec![], vec![(1000, 500)]));
    assert_eq!(rig.ended(2, End::BurstEnd), 1);
    rig.burst(2, &part(2, 0, 9, 0, 2));
    assert_eq!(rig.taken(0), [(1000, 500)], "others go on over what rests");
    rig.later(HOLD_NS.into());
    assert_eq!(rig.taken(1), [(1000, 500)]);
    assert_eq!(rig.promoted(2), Gauge::default());
}

#[test]
fn what_ends_an_aggregate_does_so_while_it_rests() {
    let mut rig = Rig::new(Bounds::default(), &[0, HOLD_NS]);
    rig.burst(0, &part(0, 1, 9, 0, 2));
    let ack = PacketBuilder::ethernet()
        .macs(mac(1), mac(0))
        .tcp(9, 80)
        .seq(1000);
    rig.burst(0, &[ack.build()]);
    assert_eq!(rig.taken(1), [(1000, 500), (0, 0)], "in order, at once");
    assert_eq!(rig.plane.next_deadline_ns(), None);
}

#[test]
fn what_rests_is_bounded_and_the_oldest_leaves() {
    let bounds = Bounds {
        rest_packets: 3,
        rest_bytes: 4000,
        ..Bounds::default()
    };
    let mut rig = Rig::new(bounds, &[0, HOLD_NS]);
    for flow in 1..=5 {
        rig.burst(0, &part(0, 1, flow, 0, 2));
        rig.later(1);
    }
    assert_eq!(rig.ended(1, End::HoldLimit), 2);
    assert_eq!(rig.taken(1), [(1000, 500); 2]);
    rig.burst(0, &part(0, 1, 5, 1000, 3));
    assert_eq!(
        rig.plane.resting()[&PortId(1)],
        Gauge {
            packets: 2,
            bytes: 3500
        }
    );
    assert_eq!(rig.ended(1, End::HoldLimit), 3);
    rig.later(HOLD_NS.into());
    assert_eq!(
        rig.taken(1).len(),
        3,
        "the third that was too much, and two at their time"
    );
}

#[test]
fn the_largest_aggregate_rests() {
    let mut rig = Rig::new(Bounds::default(), &[0, HOLD_NS]);
    for burst in 0..14 {
        rig.burst(0, &part(0, 1, 9, burst * 5000, 10));
    }
    rig.later(HOLD_NS.into());
    assert_eq!(rig.taken(1), [(65_000, 500), (5000, 500)]);
    assert_eq!(rig.ended(1, End::SizeLimit), 1);
}

#[test]
fn a_change_of_the_table_or_the_ports_sends_what_rests() {
    let rests = |port_count: usize| {
        let mut rig = Rig::new(Bounds::default(), &vec![HOLD_NS; port_count]);
        rig.burst(0, &part(0, 1, 9, 0, 2));
        assert_eq!(rig.taken(1), []);
        rig
    };
    // What another worker says of a station that is known there already changes nothing.
    let mut rig = rests(3);
    rig.plane
        .hear(Station::untagged(mac(1)), PortId(1), rig.now_ns);
    assert_eq!(rig.taken(1), []);
    rig.plane
        .hear(Station::untagged(mac(1)), PortId(2), rig.now_ns);
    assert_eq!((rig.taken(1), rig.taken(2)), (vec![(1000, 500)], vec![]));
    // A station that speaks elsewhere.
    let mut rig = rests(3);
    rig.burst(2, &[PacketBuilder::ethernet().macs(mac(9), mac(1)).build()]);
    assert_eq!(rig.handles[1].taken()[0].vnet.gso_size, 500);
    // Ports that are taken out, be it where it came from or where it goes to.
    for port in [0, 1, 2] {
        let mut rig = rests(3);
        rig.plane.take(PortId(port));
        rig.check();
        assert_eq!(rig.taken(1), [(1000, 500)]);
    }
    // A queue that is exchanged.
    let mut rig = rests(2);
    let (port, _new) = mem::port("n", 1, Caps::ALL, Caps::ALL, 1500).expect("an eventfd");
    let queue = port.queues.into_iter().next().expect("one");
    assert!(
        rig.plane
            .exchange(PortId(1), queue, Caps::ALL, 1500)
            .is_some()
    );
    assert_eq!(rig.taken(1), [(1000, 500)], "by the old one");
    // A device that is gone takes no more.
    let mut rig = rests(2);
    rig.plane.remove(PortId(1));
    rig.check();
    let slot = rig.plane.topology.get(PortId(0)).expect("it is there");
    assert_eq!(slot.counters.forward.get(Stay::PortGone), 1);
    // The end.
    let mut rig = rests(2);
    rig.plane.rest_no_more(End::BurstEnd);
    assert_eq!(
        (rig.taken(1), rig.ended(1, End::BurstEnd)),
        (vec![(1000, 500)], 1)
    );
}

/// A device whose packets lie in one memory, which is overwritten when it is given back.
#[derive(Debug)]
struct Lending {
    memory: Regions,
    inbox: Arc<Mutex<Vec<Vec<u8>>>>,
    released: Arc<Mutex<usize>>,
}

const SLOT: usize = 2048;

impl Lending {
    fn new() -> Self {
        use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
        use std::os::fd::AsFd;
        let file = memfd_create("lent", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&file, 64 * SLOT as u64).unwrap();
        let region = Region::map(file.as_fd(), 0, 64 * SLOT).unwrap();
        Self {
            memory: [Arc::new(region)].into(),
            inbox: Arc::default(),
            released: Arc::default(),
        }
    }
}

impl Queue for Lending {
    fn rx(&mut self, burst: &mut Burst, stats: &mut RxStats) -> RxEnd {
        let lender = burst.pool.borrow(&self.memory).expect("few lend");
        for (slot, packet) in self.inbox.lock().unwrap().drain(..).enumerate() {
            let at = (slot * SLOT) as u64;
            self.memory[0].write(at, &packet).expect("inside");
            let head = &packet[..packet.len().min(HEAD_WANTED)];
            // In two pieces, as guests have it.
            let body = [
                Frag::new(lender.at(0, at), 99),
                Frag::new(lender.at(0, at + 99), packet.len() as u32 - 99),
            ];
            burst.admit_lent(EngineLink::Ethernet, head, &body, None, stats);
        }
        RxEnd::Drained
    }

    fn tx(&mut self, _: &Packet, _: Pieces<'_>, _: &Pool) -> Result<(), TxFault> {
        Ok(())
    }

    fn release(&mut self) {
        self.memory[0]
            .write(0, &vec![0xDD; 64 * SLOT])
            .expect("inside");
        *self.released.lock().unwrap() += 1;
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

#[test]
fn lent_memory_goes_back_while_its_packets_rest() {
    let mut rig = Rig::new(Bounds::default(), &[0, HOLD_NS]);
    let lending = Lending::new();
    let (inbox, released, memory) = (
        lending.inbox.clone(),
        lending.released.clone(),
        lending.memory.clone(),
    );
    rig.insert(2, Box::new(lending), 0);
    for burst in 0..3 {
        *inbox.lock().unwrap() = part(2, 1, 9, burst * 1500, 3);
        rig.run(2);
        assert_eq!(*released.lock().unwrap(), burst + 1);
        assert_eq!(Arc::strong_count(&memory), 2, "nobody else has it");
    }
    rig.later(HOLD_NS.into());
    let taken = rig.handles[1].taken();
    let [whole] = &taken[..] else {
        panic!("one packet: {taken:?}");
    };
    assert!(whole.bytes[54..] == jumbo_testkit::pattern(0, 4500)[..]);
}

/// What a worker with threads does: it wakes up by itself, and leaves nothing behind.
fn two_ports(hold_ns: u32) -> (Switch, [MemHandle; 2]) {
    let mut switch = Switch::start(&SwitchConfig::default()).expect("a switch starts");
    let handles = [0, hold_ns].map(|hold_ns| {
        let (port, handle) = mem::port("m", 1, Caps::ALL, Caps::ALL, 1500).expect("an eventfd");
        switch.add(port, holding(hold_ns)).expect("room for it");
        handle
    });
    handles[1].put(
        &VnetHeader::default(),
        &PacketBuilder::ethernet().macs([0xff; 6], mac(1)).build(),
    );
    (switch, handles)
}

fn when(switch: &Switch, wanted: impl Fn(&State) -> bool) -> State {
    let start = Instant::now();
    loop {
        let state = switch.state().expect("the worker answers");
        assert!(state.books.balanced(), "{:?}", state.books);
        if wanted(&state) {
            return state;
        }
        assert!(
            start.elapsed() < Duration::from_secs(10),
            "{:?}",
            state.books
        );
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_sleeping_worker_wakes_up_for_what_rests() {
    let (switch, [from, to]) = two_ports(2_000_000);
    when(&switch, |state| state.books.received == 1);
    for sent in 1..=20 {
        let packets = part(0, 1, 9, 1000 * (sent - 1), 2);
        from.put_all(
            &VnetHeader::default(),
            packets.iter().map(|packet| &packet[..]),
        );
        when(&switch, |state| state.books.received == 1 + 2 * sent as u64);
    }
    // Nothing more comes, and nothing is left all the same.
    let state = when(&switch, |state| state.books.resting == 0);
    assert_accounted(&state);
    let bytes: usize = to
        .taken()
        .iter()
        .map(|packet| packet.bytes.len() - 54)
        .sum();
    assert_eq!(bytes, 20_000);
    assert!(state.ports[1].counters.ends.get(End::HoldTime) > 0);
    assert_eq!(state.ports[1].resting, Gauge::default());
}

#[test]
fn a_switch_that_stops_leaves_nothing_behind() {
    let (switch, [from, to]) = two_ports(u32::MAX);
    when(&switch, |state| state.books.received == 1);
    let packets = part(0, 1, 9, 0, 3);
    from.put_all(
        &VnetHeader::default(),
        packets.iter().map(|packet| &packet[..]),
    );
    let state = when(&switch, |state| state.books.received == 4);
    assert_eq!(state.books.resting, 1);
    assert_eq!(
        state.ports[1].resting,
        Gauge {
            packets: 1,
            bytes: 1500
        }
    );
    assert_eq!(state.ports[1].counters.promoted, state.ports[1].resting);
    assert_accounted(&switch.stop().expect("it stops"));
    assert_eq!(to.taken().len(), 1);
}

/// What happens next.
#[derive(Clone, Debug)]
enum Act {
    /// So many segments of a flow, as a burst of its port.
    Burst(usize, usize),
    /// Of two flows that take turns, in one burst.
    Both(usize, usize),
    Later(u64),
    /// A packet of flow `n` that is never merged.
    Ack(usize),
    /// News of a station that nobody speaks to.
    Moved(u8),
    /// An empty look at a port.
    Look(usize),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => (0usize..6, 1usize..9).prop_map(|(flow, count)| Act::Burst(flow, count)),
        2 => (0usize..6, 1usize..9).prop_map(|(flow, count)| Act::Both(flow, count)),
        3 => prop_oneof![0u64..20_000, 0u64..200_000].prop_map(Act::Later),
        1 => (0usize..6).prop_map(Act::Ack),
        1 => (0u8..3).prop_map(Act::Moved),
        1 => (0usize..3).prop_map(Act::Look),
    ]
}

/// From and to which port each flow goes.
const FLOWS: [(u8, u8); 6] = [(0, 1), (0, 1), (0, 2), (1, 0), (1, 2), (2, 1)];

/// Payload of a flow that left by its port, in order.
fn stream(taken: &[MemPacket], flow: usize) -> Vec<u8> {
    let mut stream = Vec::new();
    for packet in taken {
        let parsed = oracle::parse(Link::Ethernet, &packet.bytes).expect("well formed");
        let tcp = parsed.tcp().expect("TCP");
        if usize::from(tcp.src_port) == flow {
            assert_eq!(tcp.seq as usize, stream.len(), "in order");
            stream.extend(parsed.payload(&packet.bytes));
        }
    }
    stream
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn books_order_and_payload_are_kept_over_time(
        acts in prop::collection::vec(act(), 1..80),
        holds_ns in prop::array::uniform3(prop::sample::select(vec![0, 1, 20_000, 150_000])),
        rest_packets in 0usize..7,
        rest_bytes in prop::sample::select(vec![0, 5000, 1 << 20]),
        batch_packets in prop::sample::select(vec![1, 3, 64]),
    ) {
        let bounds = Bounds { rest_packets, rest_bytes, batch_packets, burst_packets: 150, ..Bounds::default() };
        let mut rig = Rig::new(bounds, &holds_ns);
        let mut sent = [0; 6];
        let mut next = |flow: usize, count: usize| {
            let (from, to) = FLOWS[flow];
            let packets = part(from, to, flow as u16, sent[flow], count);
            sent[flow] += 500 * count;
            packets
        };
        for act in acts {
            match act {
                Act::Burst(flow, count) => {
                    let packets = next(flow, count);
                    rig.burst(FLOWS[flow].0.into(), &packets);
                }
                Act::Both(flow, count) => {
                    let other = (flow + 1) % 6;
                    let (one, two) = (next(flow, count), next(other, count));
                    for (one, two) in one.iter().zip(&two) {
                        rig.handles[usize::from(FLOWS[flow].0)].put(&VnetHeader::default(), one);
                        rig.handles[usize::from(FLOWS[other].0)].put(&VnetHeader::default(), two);
                    }
                    // In turns, as a worker serves them.
                    let ports = [FLOWS[flow].0, FLOWS[other].0];
                    for _ in 0..2 * count + 2 {
                        for port in ports {
                            rig.plane.batch(PortId(port.into()), rig.now_ns);
                        }
                    }
                    rig.check();
                }
                Act::Later(by_ns) => rig.later(by_ns),
                Act::Ack(flow) => {
                    let (from, to) = FLOWS[flow];
                    let base = PacketBuilder::ethernet().macs(mac(to), mac(from)).tcp(flow as u16, 80);
                    rig.burst(from.into(), &[base.seq(u32::MAX).build()]);
                }
                Act::Moved(port) => rig.plane.hear(Station::untagged(mac(99)), PortId(port.into()), rig.now_ns),
                Act::Look(port) => rig.run(port),
            }
            let resting = rig.plane.resting();
            let bytes: u64 = resting.values().map(|gauge| gauge.bytes).sum();
            let packets: u64 = resting.values().map(|gauge| gauge.packets).sum();
            prop_assert!(packets as usize <= rest_packets && bytes as usize <= rest_bytes);
            for (port, hold_ns) in holds_ns.iter().enumerate() {
                prop_assert!(*hold_ns != 0 || !resting.contains_key(&PortId(port as u16)));
            }
        }
        rig.later(1_000_000);
        prop_assert_eq!(rig.plane.books().resting, 0);
        let taken: Vec<_> = rig.handles.iter().map(MemHandle::taken).collect();
        for (flow, (_, to)) in FLOWS.into_iter().enumerate() {
            let data = taken[usize::from(to)].iter().filter(|packet| packet.bytes.len() > 60);
            let data: Vec<_> = data.cloned().collect();
            let arrived = stream(&data, flow);
            prop_assert!(arrived == jumbo_testkit::pattern(0, sent[flow]), "flow {}", flow);
        }
    }
}
