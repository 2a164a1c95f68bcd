//! A packet's path: `rx -> parse -> forward -> coalesce -> complete -> tx`.
//!
//! [`Plane::batch`] is that path, a line per stage. One [`Plane`] is one
//! worker's data plane: nothing in it is shared, locked, or allocated after the
//! start, and time is an argument. What rests beyond a burst is in `rest`.

mod rest;

use jumbo_engine::arena::{PacketId, Pieces};
use jumbo_engine::checksum::Kernels;
use jumbo_engine::coalesce::{Alone, Coalescer, End, Offer, Ready, RestBounds};
use jumbo_engine::complete::{Plan, complete, plan};
use jumbo_engine::packet::{Link, Packet};
use jumbo_engine::pending::Caps;
use jumbo_ports::pool::Pool;
use jumbo_ports::queue::{Bounds, Burst, Queue, RxEnd, RxStats, TxFault, data_len};
use jumbo_ports::wrap::capture::Direction;

use crate::counters::{Books, PortCounters};
use crate::fdb::{Fdb, Learned, Station};
use crate::forward::{self, Destination, Stay};
use crate::topology::{Coalescing, Policy, PortId, Slot, Topology, TunnelMode, less};

/// [`Ready::out`] of a packet that goes to every other port.
const FLOOD: u32 = u32::MAX;

/// One worker's data plane.
#[derive(Debug)]
pub struct Plane {
    /// Its ports.
    pub topology: Topology,
    /// What it knows about stations.
    pub fdb: Fdb,
    burst: Burst,
    tunnels: TunnelMode,
    coalescer: Coalescer,
    books: Books,
    /// Packets of the present burst so far.
    taken: usize,
    /// Stations the other workers should hear of.
    news: Vec<(Station, PortId)>,
    /// Scratch: the ports of a flood, and those that refused a super-packet.
    targets: Vec<PortId>,
    group: Vec<PortId>,
    refused: Vec<PortId>,
    /// Ports that sent in this batch, and that received in this burst.
    sent: Vec<PortId>,
    received: Vec<PortId>,
    /// Scratch: what rests, and where its payload is.
    kept: Vec<(PacketId, u64)>,
}

impl Plane {
    /// An empty plane. `seed` must be unknown to senders. Allocates all it will ever need.
    pub fn new(bounds: Bounds, fdb_age_s: u32, seed: u64) -> Self {
        let mut burst = Burst::new(bounds, Kernels::detect());
        burst.arena.number_fragments_from(seed);
        Self {
            topology: Topology::default(),
            fdb: Fdb::new(fdb_age_s, seed),
            burst,
            tunnels: TunnelMode::Off,
            coalescer: Coalescer::with_personalities(
                &Coalescing::tables(),
                bounds.burst_packets,
                seed,
            ),
            books: Books::default(),
            taken: 0,
            news: Vec::with_capacity(bounds.burst_packets),
            targets: Vec::with_capacity(crate::topology::PORTS_MAX),
            group: Vec::with_capacity(crate::topology::PORTS_MAX),
            refused: Vec::with_capacity(crate::topology::PORTS_MAX),
            sent: Vec::with_capacity(crate::topology::PORTS_MAX),
            received: Vec::with_capacity(crate::topology::PORTS_MAX),
            kept: Vec::with_capacity(bounds.rest_packets),
        }
    }

    /// What is done to packets in tunnels from now on; nothing, unless this is called.
    pub fn set_tunnels(&mut self, tunnels: TunnelMode) {
        debug_assert_eq!(self.burst.arena.live(), 0, "in the middle of a burst");
        self.tunnels = tunnels;
        self.burst.arena.follow_tunnels(tunnels != TunnelMode::Off);
    }

    /// The path: one batch of one port, from its rx ring to other ports' tx. The
    /// clock is any steady one; it need be fine only where a port has a hold time.
    pub fn batch(&mut self, from: PortId, now_ns: u64) -> RxEnd {
        let now_s = seconds(now_ns);
        let end = self.receive(from); // rx, parse
        for index in 0..self.burst.batch.len() {
            let id = self.burst.batch[index];
            self.coalesce_or_forward(id, from, now_s); // forward, coalesce
        }
        self.burst.batch.clear();
        let full = self.burst_is_full();
        let ended = full || end != RxEnd::More;
        if ended {
            self.settle((!full).then_some(from), now_ns);
        }
        self.deliver(ended); // complete, tx
        end
    }

    /// Takes up to a batch of packets off a port, parsed.
    fn receive(&mut self, from: PortId) -> RxEnd {
        let Some(slot) = self.topology.get_mut(from) else {
            return RxEnd::Gone;
        };
        let refused_before = slot.counters.rx.refused();
        let end = slot.queue.rx(&mut self.burst, &mut slot.counters.rx);
        let refused = slot.counters.rx.refused() - refused_before;
        if !std::mem::replace(&mut slot.received, true) {
            self.received.push(from);
        }
        if !slot.probes.is_empty() {
            let Burst {
                arena, pool, batch, ..
            } = &self.burst;
            for id in batch {
                slot.capture(Direction::Rx, arena.packet(*id), arena.payload(*id), pool);
            }
        }
        self.books.received += self.burst.batch.len() as u64 + refused;
        self.books.dropped += refused;
        self.taken += self.burst.batch.len();
        end
    }

    fn burst_is_full(&self) -> bool {
        self.taken >= self.burst.bounds.burst_packets || !self.burst.has_room()
    }

    /// A packet that matches a held flow joins it; only others are looked up.
    fn coalesce_or_forward(&mut self, id: PacketId, from: PortId, now_s: u32) {
        self.burst.arena.packet_mut(id).origin = u32::from(from.0);
        let Burst { arena, pool, .. } = &mut self.burst;
        let hold = if self.topology.may_hold(arena.packet(id)) {
            match self.coalescer.offer(arena, id, pool) {
                Offer::Merged => {
                    self.books.absorbed_by_merging += 1;
                    return;
                }
                Offer::Hold(place) => Some(place),
                Offer::Alone(reason) => {
                    self.note_alone(from, reason);
                    None
                }
            }
        } else {
            None
        };
        let out = match self.forward(id, from, now_s) {
            Destination::Stay(reason) => return self.stay(id, reason),
            Destination::Flood => FLOOD,
            Destination::Port(port) => {
                let Burst { arena, pool, .. } = &mut self.burst;
                let slot = self.topology.get(port);
                let towards = slot.and_then(|slot| slot.coalesces(arena.packet(id), self.tunnels));
                if let (Some(place), Some(towards)) = (hold, towards) {
                    match self.coalescer.hold(arena, id, place, towards, pool) {
                        Ok(()) => return,
                        Err(reason) => self.note_alone(from, reason),
                    }
                }
                port.0.into()
            }
        };
        self.coalescer.ready().push(Ready::alone(id, out));
    }

    fn note_alone(&mut self, from: PortId, reason: Alone) {
        if let Some(slot) = self.topology.get_mut(from) {
            slot.counters.alone.count(reason);
        }
    }

    /// Learns where the packet came from and finds where it goes: mostly where the one
    /// before it went.
    fn forward(&mut self, id: PacketId, from: PortId, now_s: u32) -> Destination {
        let ends = forward::ends(self.burst.arena.packet(id));
        let last = ends.and_then(|(source, to)| self.fdb.same_way((source, from), to, now_s));
        if let Some(port) = last {
            return Destination::Port(port);
        }
        let destination = self.learn_and_find(id, from, now_s);
        if let (Some((source, to)), Destination::Port(port)) = (ends, destination) {
            self.fdb.note_way((source, from), to, now_s, port);
        }
        destination
    }

    #[inline(never)]
    fn learn_and_find(&mut self, id: PacketId, from: PortId, now_s: u32) -> Destination {
        let source = match forward::source(self.burst.arena.packet(id)) {
            Ok(source) => source,
            Err(Stay::NoEthernet) => return self.point_to_point(from),
            Err(reason) => return Destination::Stay(reason),
        };
        match self.fdb.learn(source, from, now_s) {
            Learned::Known => {}
            Learned::Teach => self.note_news(source, from),
            Learned::Moved => {
                self.note_news(source, from);
                self.flush(End::ForwardingChanged);
            }
        }
        let packet = self.burst.arena.packet(id);
        match forward::forward(packet, from, &self.fdb, now_s) {
            // Another worker's news of a port that went away here in between.
            Destination::Port(port) if self.topology.get(port).is_none() => Destination::Flood,
            destination => destination,
        }
    }

    fn note_news(&mut self, station: Station, port: PortId) {
        if self.news.len() < self.news.capacity() {
            self.news.push((station, port));
        }
    }

    /// A packet without addresses of its own link goes to the other end.
    fn point_to_point(&self, from: PortId) -> Destination {
        match self.topology.opposite(from) {
            Some(other) => Destination::Port(other),
            None => Destination::Stay(Stay::NoEthernet),
        }
    }

    /// Ends the burst: what is held leaves, but for what may rest.
    pub fn end_burst(&mut self, now_ns: u64) {
        self.settle(None, now_ns);
        self.deliver(true);
    }

    /// Ends what one port's queue has brought, or all queues, but for what may rest.
    fn settle(&mut self, from: Option<PortId>, now_ns: u64) {
        let Bounds {
            rest_packets: flows,
            rest_bytes: bytes,
            ..
        } = self.burst.bounds;
        let (arena, origin) = (&mut self.burst.arena, from.map(|port| port.0.into()));
        let bounds = RestBounds { flows, bytes };
        self.coalescer.end_burst(arena, origin, now_ns, bounds);
    }

    /// Ends everything held. It leaves with the next [`Plane::deliver`].
    fn flush(&mut self, reason: End) {
        self.coalescer.flush(&mut self.burst.arena, reason);
    }

    /// Drops a packet that goes nowhere.
    fn stay(&mut self, id: PacketId, reason: Stay) {
        let from = PortId(self.burst.arena.packet(id).origin as u16);
        if let Some(slot) = self.topology.get_mut(from) {
            slot.counters.forward.count(reason);
        }
        self.books.dropped += 1;
        self.burst.arena.release(id);
    }

    /// Sends what is ready, in order, and ends the burst if nothing is left, or, where
    /// a queue's burst `ended`, nothing but what rests.
    fn deliver(&mut self, ended: bool) {
        let mut ready = std::mem::take(self.coalescer.ready());
        for Ready { id, out, ended } in ready.drain(..) {
            let from = PortId(self.burst.arena.packet(id).origin as u16);
            if out == FLOOD {
                self.flood(id, from);
                continue;
            }
            let to = PortId(out as u16);
            let Some(slot) = self.topology.get_mut(to) else {
                self.stay(id, Stay::PortGone);
                continue;
            };
            if let Some(end) = ended {
                slot.note_ended(self.burst.arena.packet(id), end);
            }
            self.send(id, to);
            self.burst.arena.release(id);
        }
        *self.coalescer.ready() = ready;
        self.publish();
        match self.burst.arena.live() {
            0 => self.release(),
            live if ended && live == self.coalescer.resting_flows() => self.rest(),
            _ => {}
        }
    }

    /// Shows receivers what was sent to them.
    fn publish(&mut self) {
        for port in self.sent.drain(..) {
            if let Some(slot) = self.topology.get_mut(port) {
                slot.sent = false;
                slot.queue.publish();
                if let Some((fault, packets)) = slot.queue.lost() {
                    slot.counters.tx_faults.count_many(fault, packets.into());
                    self.books.sent -= u64::from(packets);
                    self.books.dropped += u64::from(packets);
                }
            }
        }
    }

    /// Nothing refers to the burst's memory: what senders had lent goes back to them.
    fn release(&mut self) {
        self.burst.pool.reset();
        self.taken = 0;
        for port in self.received.drain(..) {
            if let Some(slot) = self.topology.get_mut(port) {
                slot.received = false;
                slot.queue.release();
            }
        }
    }

    /// Sends one packet to every port but its own, completing it once for all
    /// ports that take the same.
    fn flood(&mut self, id: PacketId, from: PortId) {
        let mut targets = std::mem::take(&mut self.targets);
        targets.clear();
        targets.extend(
            self.topology
                .iter()
                .map(|slot| slot.id)
                .filter(|port| *port != from),
        );
        if targets.is_empty() {
            self.targets = targets;
            return self.stay(id, Stay::NoOtherPort);
        }
        if let Some(slot) = self.topology.get_mut(from) {
            slot.counters.flooded += 1;
        }
        self.books.flood_copies += targets.len() as u64 - 1;
        let mut group = std::mem::take(&mut self.group);
        while let Some(first) = targets.pop() {
            group.clear();
            group.push(first);
            let same = |topology: &Topology, port: PortId| {
                let policy = |port| {
                    topology
                        .get(port)
                        .map(|s: &Slot| (s.policy.takes, s.policy.mtu))
                };
                policy(port) == policy(first)
            };
            let topology = &self.topology;
            targets.retain(|port| {
                let joins = same(topology, *port);
                if joins {
                    group.push(*port);
                }
                !joins
            });
            self.send_group(id, &group, false);
        }
        self.group = group;
        self.targets = targets;
        self.burst.arena.release(id);
    }

    fn send(&mut self, id: PacketId, to: PortId) {
        self.send_group(id, &[to], true);
    }

    /// Completes a packet for ports of equal capabilities and hands it to each.
    fn send_group(&mut self, id: PacketId, group: &[PortId], may_wait: bool) {
        let Some(policy) = group
            .first()
            .and_then(|first| Some(self.topology.get(*first)?.policy))
        else {
            return;
        };
        let Policy { takes, mtu, .. } = policy;
        self.hand_over(id, group, takes, mtu, may_wait);
        self.send_again(id);
    }

    /// Completes a packet for what `takes` says and hands the result to each port of
    /// the group. A packet for one port may wait there for room, one for many never.
    fn hand_over(
        &mut self,
        id: PacketId,
        group: &[PortId],
        takes: Caps,
        mtu: usize,
        may_wait: bool,
    ) {
        let Burst { arena, pool, .. } = &self.burst;
        let packet = arena.packet(id);
        let plan = plan(packet, takes, mtu);
        let lossy = packet.pending().lossy.is_some();
        let (topology, books, refused) = (&mut self.topology, &mut self.books, &mut self.refused);
        let sent = &mut self.sent;
        let mut deliver = |slot: &mut Slot, packet: &Packet, answer| {
            if !std::mem::replace(&mut slot.sent, true) {
                sent.push(slot.id);
            }
            note_answer(slot, packet, answer, books, refused);
        };
        // The most common case on its own, so that little is carried around.
        if plan == Plan::AsIs {
            for port in group {
                if let Some(slot) = topology.get_mut(*port) {
                    let answer = slot.send(packet, || arena.payload(id), pool, may_wait);
                    capture_sent(slot, packet, answer, || arena.payload(id), pool);
                    deliver(slot, packet, answer);
                }
            }
            return;
        }
        let mut made = 0;
        let result = complete(packet, arena.payload(id), plan, pool, |packet, payload| {
            made += 1;
            for port in group {
                if let Some(slot) = topology.get_mut(*port) {
                    let answer = slot.send(packet, || payload, pool, may_wait);
                    capture_sent(slot, packet, answer, || payload, pool);
                    deliver(slot, packet, answer);
                }
            }
        });
        for port in group {
            let Some(slot) = topology.get_mut(*port) else {
                continue;
            };
            match (result, plan) {
                (Err(fault), _) => {
                    slot.counters.complete.count(fault);
                    books.dropped += 1;
                    books.made_by_segmentation += made;
                }
                (Ok(_), Plan::Segment(..)) => {
                    slot.counters.software_segmented += 1;
                    slot.counters.lossy_segmented += u64::from(lossy);
                    books.made_by_segmentation += made - 1;
                }
                (Ok(_), Plan::Checksum) => slot.counters.software_checksums += 1,
                (Ok(_), Plan::AsIs | Plan::Drop(_)) => {}
            }
        }
    }

    /// Segments here what a device would not take whole. A port that refused is
    /// asked once more at most: the second time it gets no super-packet.
    fn send_again(&mut self, id: PacketId) {
        while let Some(port) = self.refused.pop() {
            let packet = self.burst.arena.packet(id);
            let (Some(slot), Some(gso)) = (self.topology.get(port), packet.pending().gso) else {
                continue;
            };
            let Policy { takes, mtu, .. } = slot.policy;
            self.hand_over(id, &[port], less(takes, packet, gso.kind), mtu, false);
        }
    }

    /// What happened so far. At a quiet point the books balance.
    pub fn books(&self) -> Books {
        Books {
            resting: self.burst.arena.live() as u64,
            ..self.books
        }
    }

    /// Tells each station learned since the last call to `tell`. One that it
    /// could not pass on (`false`) is told again with the station's next packet.
    pub fn share_news(&mut self, mut tell: impl FnMut(Station, PortId) -> bool) {
        for (station, port) in self.news.drain(..) {
            if !tell(station, port) {
                self.fdb.tell_again(station);
            }
        }
    }

    /// Takes in what another worker learned, between two bursts.
    pub fn hear(&mut self, station: Station, port: PortId, now_ns: u64) {
        if self.fdb.learn(station, port, seconds(now_ns)) == Learned::Moved {
            self.rest_no_more(End::ForwardingChanged);
        }
    }

    /// A station has moved to `port`, whose other end says so: tells everybody behind the other ports, so that their
    /// bridges learn it too. What is said too often is only learned here. Asked for between two bursts.
    pub fn announce(&mut self, mac: [u8; 6], port: PortId, now_ns: u64) {
        let now_s = seconds(now_ns);
        self.rest_no_more(End::ForwardingChanged);
        debug_assert_eq!(self.burst.arena.live(), 0, "in the middle of a burst");
        let may = |slot: &mut Slot| slot.may_announce(now_s);
        if !self.topology.get_mut(port).is_some_and(may) {
            return;
        }
        let packet = announcement(mac);
        let mut stats = RxStats::default();
        let Burst { pool, .. } = &mut self.burst;
        pool.space()[..packet.len()].copy_from_slice(&packet);
        (self.burst).admit(Link::Ethernet, 0, packet.len(), None, &mut stats);
        self.books.received += self.burst.batch.len() as u64;
        while let Some(id) = self.burst.batch.pop() {
            self.coalesce_or_forward(id, port, now_s);
        }
        self.end_burst(now_ns);
    }

    /// Takes out a port whose device went away; what it had counted is kept.
    pub fn remove(&mut self, port: PortId) {
        self.fdb.forget(port);
        self.topology.remove(port);
        self.rest_no_more(End::ForwardingChanged);
    }

    /// Takes a port out for good, between two bursts, and returns what it had counted.
    pub fn take(&mut self, port: PortId) -> PortCounters {
        self.rest_no_more(End::ForwardingChanged);
        debug_assert_eq!(self.burst.arena.live(), 0, "in the middle of a burst");
        self.fdb.forget(port);
        self.topology.take(port)
    }

    /// Exchanges a port's queue. Between bursts nothing refers to what the old one
    /// had lent. `None` if the port is not there.
    pub fn exchange(
        &mut self,
        port: PortId,
        mut queue: Box<dyn Queue>,
        takes: Caps,
        mtu: usize,
    ) -> Option<Box<dyn Queue>> {
        self.rest_no_more(End::ForwardingChanged);
        debug_assert_eq!(self.burst.arena.live(), 0, "in the middle of a burst");
        let slot = self.topology.get_mut(port)?;
        let queue = queue.successor().unwrap_or(queue);
        let old = slot.exchange(queue, takes, mtu);
        self.topology.note_held();
        Some(old)
    }
}

/// Whole seconds, as the forwarding table counts them.
pub(crate) fn seconds(now_ns: u64) -> u32 {
    (now_ns / 1_000_000_000) as u32
}

/// Bytes of an announcement: the shortest Ethernet packet, less its checksum.
const ANNOUNCEMENT_LEN: usize = 60;

/// What tells bridges where a station is and its neighbours nothing: a question of reverse ARP (RFC 903) about itself, as
/// QEMU sends it (net/announce.c `announce_self_create`).
fn announcement(mac: [u8; 6]) -> [u8; ANNOUNCEMENT_LEN] {
    /// Ethertype; Ethernet, IPv4, lengths of their addresses; "request reverse".
    const KIND: [u8; 10] = [0x80, 0x35, 0, 1, 8, 0, 6, 4, 0, 3];
    let parts: [&[u8]; 6] = [&[0xFF; 6], &mac, &KIND, &mac, &[0; 4], &mac];
    let mut packet = [0; ANNOUNCEMENT_LEN];
    for (at, byte) in packet.iter_mut().zip(parts.into_iter().flatten()) {
        *at = *byte;
    }
    packet
}

/// Shows what was sent to whoever captures it.
#[inline]
fn capture_sent<'a>(
    slot: &mut Slot,
    packet: &Packet,
    answer: Result<(), TxFault>,
    payload: impl Fn() -> Pieces<'a>,
    pool: &Pool,
) {
    if answer.is_ok() && !slot.probes.is_empty() {
        slot.capture(Direction::Tx, packet, payload(), pool);
    }
}

/// Writes down what a device said to one packet.
fn note_answer(
    slot: &mut Slot,
    packet: &Packet,
    answer: Result<(), TxFault>,
    books: &mut Books,
    refused: &mut Vec<PortId>,
) {
    if let Some(gso) = packet.pending().gso {
        slot.gso_answer(packet, gso.kind, answer);
    }
    match answer {
        Ok(()) => {
            slot.counters.tx.count(packet, data_len(packet));
            books.sent += 1;
        }
        Err(fault) => {
            slot.counters.tx_faults.count(fault);
            if fault == TxFault::GsoRefused && packet.pending().gso.is_some() {
                refused.push(slot.id);
            } else {
                books.dropped += 1;
            }
        }
    }
}
