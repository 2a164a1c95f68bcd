//! One burst through the engine, with every packet traced from its input to what left.
#![allow(dead_code, reason = "every test binary uses a part of it")]

pub(crate) mod lossy;
pub(crate) mod reference;
pub(crate) mod tunnel;

use jumbo_engine::arena::{Admitted, Arena, HEAD_WANTED, PacketId, SliceMemory};
use jumbo_engine::checksum::Kernels;
use jumbo_engine::coalesce::{
    Alone, CoalesceStats, Coalescer, End, GRO, Offer, Ready, Received, RestBounds, Resting, Rules,
    Taken, Towards,
};
use jumbo_engine::complete::{Fault, Plan, complete, plan};
use jumbo_engine::packet::{Frag, Link, Packet};
use jumbo_engine::pending::{Caps, Csum, Gso, GsoKind, Lossy};
use jumbo_engine::reason::Reason;
use jumbo_engine::vnet::{HeaderFault, Trust, VnetHeader};
use jumbo_testkit::oracle;

/// More than any packet here: an MTU that refuses nothing.
pub(crate) const NO_MTU: usize = 100_000;

/// A packet as it is received.
#[derive(Clone, Debug)]
pub(crate) struct Input {
    pub(crate) link: Link,
    pub(crate) bytes: Vec<u8>,
    pub(crate) vnet: Option<(VnetHeader, Trust)>,
    /// Lengths of the pieces it lies in; what they do not cover is one more piece.
    pub(crate) splits: Vec<usize>,
}

impl Input {
    pub(crate) fn new(link: Link, bytes: Vec<u8>) -> Self {
        Self {
            link,
            bytes,
            vnet: None,
            splits: Vec::new(),
        }
    }

    pub(crate) fn ethernet(bytes: Vec<u8>) -> Self {
        Self::new(Link::Ethernet, bytes)
    }

    pub(crate) fn vnet(self, header: VnetHeader, trust: Trust) -> Self {
        Self {
            vnet: Some((header, trust)),
            ..self
        }
    }
}

/// What an ended flow or a single packet became.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Delivered {
    /// Which inputs it carries, by their order of arrival.
    pub(crate) members: Vec<usize>,
    /// Why it ended; the other way round, why it never was a candidate.
    pub(crate) why: Why,
    /// As it would leave to a port that takes everything: header and payload.
    pub(crate) whole: Vec<u8>,
    pub(crate) csum: Csum,
    pub(crate) gso: Option<Gso>,
    pub(crate) lossy: Option<Lossy>,
    /// As it leaves to a port that takes nothing.
    pub(crate) finished: Vec<Vec<u8>>,
}

#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    Ended(End),
    Alone(Alone),
}

/// What became of a packet that was not simply merged.
type Taking = Result<(Admitted, Offer), HeaderFault>;

/// The engine with memory of its own.
pub(crate) struct Rig {
    pub(crate) memory: Vec<u8>,
    pub(crate) arena: Arena,
    pub(crate) gro: Coalescer,
    /// Where each input begins and ends in `memory`.
    pub(crate) places: Vec<(usize, usize)>,
    /// Payload that was moved to where it may rest: from, to, of which input; in order.
    moved: Vec<(usize, usize, usize)>,
    /// Hold times, taken in turn by the packets that are held. Nanoseconds.
    pub(crate) holds_ns: Vec<u32>,
    whys: Vec<Why>,
    pub(crate) done: Vec<Delivered>,
}

impl Rig {
    pub(crate) fn new() -> Self {
        Self::with_flows(64)
    }

    pub(crate) fn with_flows(flows: usize) -> Self {
        Self::with_rules(&GRO, flows)
    }

    /// Under another table.
    pub(crate) fn with_rules(rules: &Rules, flows: usize) -> Self {
        Self {
            memory: Vec::new(),
            arena: Arena::new(256, 2048),
            gro: Coalescer::new(rules, flows, 0x5eed),
            places: Vec::new(),
            moved: Vec::new(),
            holds_ns: vec![0],
            whys: Vec::new(),
            done: Vec::new(),
        }
    }

    /// Puts the packet into memory, its pieces apart, and admits it.
    pub(crate) fn admit(&mut self, input: &Input) -> Result<Admitted, HeaderFault> {
        let body = self.lay(input);
        let vnet = input.vnet.as_ref().map(|(header, trust)| (header, *trust));
        self.arena.admit(input.link, &input.bytes, &body, vnet)
    }

    fn lay(&mut self, input: &Input) -> Vec<Frag> {
        let start = self.memory.len();
        let mut rest = &input.bytes[..];
        let mut body = Vec::new();
        for split in input.splits.iter().copied().chain([usize::MAX]) {
            let (piece, after) = rest.split_at(split.min(rest.len()));
            body.push(Frag::new(self.memory.len() as u64, piece.len() as u32));
            self.memory.extend(piece);
            // A hole, so that pieces are not neighbours and reading on is seen.
            self.memory.extend([0xEE; 3]);
            rest = after;
        }
        self.places.push((start, self.memory.len()));
        body
    }

    /// Admits and offers in one step. `None`: merged.
    fn take(&mut self, input: &Input) -> Result<Option<(Admitted, Offer)>, HeaderFault> {
        let body = self.lay(input);
        // A short packet lies in a buffer with room; what is behind it must not matter.
        let mut head = input.bytes.clone();
        head.resize(head.len().max(HEAD_WANTED), 0xEE);
        let received = Received {
            link: input.link,
            head: &head,
            body: &body,
            vnet: input.vnet.as_ref().map(|(header, trust)| (header, *trust)),
            origin: 0,
        };
        let before = self.gro.stats().clone();
        let memory = SliceMemory::new(&self.memory, Kernels::portable());
        let taken = self.gro.take(&mut self.arena, &received, &memory)?;
        self.note_ended(&before);
        Ok(match taken {
            Taken::Merged => None,
            Taken::Admitted(admitted, offer) => Some((admitted, offer)),
        })
    }

    /// Takes one packet by the fast door.
    pub(crate) fn offer_by_door(&mut self, input: &Input) -> Result<(), HeaderFault> {
        if let Some((admitted, offer)) = self.take(input)? {
            self.settle(admitted, offer);
        }
        Ok(())
    }

    /// Takes a burst at once.
    pub(crate) fn offer_burst(&mut self, inputs: &[Input]) {
        let first = self.places.len() as u32;
        let bodies: Vec<_> = inputs.iter().map(|input| self.lay(input)).collect();
        let heads: Vec<_> = inputs
            .iter()
            .map(|input| {
                let mut head = input.bytes.clone();
                head.resize(head.len().max(HEAD_WANTED), 0xEE);
                head
            })
            .collect();
        let index = std::cell::Cell::new(first.wrapping_sub(1));
        let burst = inputs.iter().zip(&bodies).zip(&heads);
        let burst = burst.map(|((input, body), head)| {
            index.set(index.get().wrapping_add(1));
            Received {
                link: input.link,
                head,
                body,
                vnet: input.vnet.as_ref().map(|(header, trust)| (header, *trust)),
                origin: 0,
            }
        });
        let memory = SliceMemory::new(&self.memory, Kernels::portable());
        let mut alone = Vec::new();
        let rest = |gro: &mut Coalescer, arena: &mut Arena, _: Received<'_>, taken: Taking| {
            let Ok((admitted, offer)) = taken else {
                return;
            };
            let (id, index) = (admitted.id, index.get());
            let why = match offer {
                Offer::Merged => return,
                Offer::Hold(slot) => match gro.hold(arena, id, slot, index, &memory) {
                    Ok(()) => return,
                    Err(why) => why,
                },
                Offer::Alone(why) => why,
            };
            gro.ready().push(Ready::alone(id, index));
            alone.push(why);
        };
        self.gro.take_all(&mut self.arena, burst, &memory, rest);
        let (known, mut alone) = (self.whys.len(), alone.into_iter());
        let whys = self.gro.ready()[known..]
            .iter()
            .map(|ready| match ready.ended {
                Some(end) => Why::Ended(end),
                None => Why::Alone(alone.next().expect("a reason for each")),
            });
        self.whys.extend(whys);
    }

    /// Admits and coalesces one packet.
    pub(crate) fn offer(&mut self, input: &Input) -> Result<Admitted, HeaderFault> {
        let admitted = self.admit(input)?;
        let before = self.gro.stats().clone();
        let memory = SliceMemory::new(&self.memory, Kernels::portable());
        let offer = self.gro.offer(&mut self.arena, admitted.id, &memory);
        self.note_ended(&before);
        self.settle(admitted, offer);
        Ok(admitted)
    }

    /// Holds it, or lets it pass.
    fn settle(&mut self, admitted: Admitted, offer: Offer) {
        let index = self.places.len() as u32 - 1;
        match offer {
            Offer::Merged => {}
            Offer::Hold(slot) => {
                let before = self.gro.stats().clone();
                let memory = SliceMemory::new(&self.memory, Kernels::portable());
                let arena = &mut self.arena;
                let towards = Towards {
                    hold_ns: self.holds_ns[index as usize % self.holds_ns.len()],
                    ..Towards::from(index)
                };
                let held = self.gro.hold(arena, admitted.id, slot, towards, &memory);
                self.note_ended(&before);
                if let Err(alone) = held {
                    self.gro.ready().push(Ready::alone(admitted.id, index));
                    self.whys.push(Why::Alone(alone));
                }
            }
            Offer::Alone(alone) => {
                self.gro.ready().push(Ready::alone(admitted.id, index));
                self.whys.push(Why::Alone(alone));
            }
        }
    }

    /// All that one call ended, it ended for one reason.
    fn note_ended(&mut self, before: &CoalesceStats) {
        let ready = self.gro.ready().len();
        while self.whys.len() < ready {
            let after = self.gro.stats();
            let mut risen = End::ALL
                .iter()
                .filter(|end| after.ends.get(**end) > before.ends.get(**end));
            let end = *risen.next().expect("an end is counted");
            assert_eq!(risen.next(), None, "two reasons in one call");
            self.whys.push(Why::Ended(end));
        }
    }

    /// Ends the burst and takes everything out, completing it both ways.
    pub(crate) fn flush(&mut self, reason: End) {
        let before = self.gro.stats().clone();
        self.gro.flush(&mut self.arena, reason);
        self.note_ended(&before);
        assert_eq!(self.gro.held(), 0);
        self.leave();
        assert_eq!(self.arena.live(), 0, "every packet left");
    }

    /// Ends the burst but for what may rest, which is moved: the burst's memory is worth nothing afterwards.
    pub(crate) fn end_burst(&mut self, now_ns: u64, bounds: RestBounds) {
        self.gro.end_burst(&mut self.arena, None, now_ns, bounds);
        for ready in &self.gro.ready()[self.whys.len()..] {
            self.whys
                .push(Why::Ended(ready.ended.expect("it was held")));
        }
        self.leave();
        assert_eq!(
            self.arena.live(),
            self.gro.resting_flows(),
            "the rest rests"
        );
        let resting: Vec<Resting> = self.gro.resting().collect();
        let kept: Vec<_> = resting
            .into_iter()
            .map(|resting| self.promote(resting.id))
            .collect();
        self.arena.keep_only(&kept);
        for (start, end) in &self.places {
            self.memory[*start..*end].fill(0xDD);
        }
    }

    fn promote(&mut self, id: PacketId) -> (PacketId, u64) {
        let start = self.memory.len();
        for frag in self.arena.payload(id).collect::<Vec<_>>() {
            for (at, end, member) in self.owners(frag) {
                let to = self.memory.len();
                self.memory.extend_from_within(at..end);
                self.moved.push((to, to + end - at, member));
            }
        }
        // A hole, as between packets.
        self.memory.extend([0xEE; 3]);
        (id, start as u64)
    }

    /// Takes out what is ready.
    fn leave(&mut self) {
        let ready: Vec<Ready> = self.gro.ready().drain(..).collect();
        assert_eq!(ready.len(), self.whys.len());
        for (ready, why) in ready.into_iter().zip(std::mem::take(&mut self.whys)) {
            let delivered = self.deliver(ready, why);
            self.done.push(delivered);
            self.arena.release(ready.id);
        }
    }

    fn deliver(&self, ready: Ready, why: Why) -> Delivered {
        let ended = match why {
            Why::Ended(end) => Some(end),
            Why::Alone(_) => None,
        };
        assert_eq!(ready.ended, ended, "the reason given is the one counted");
        let packet = self.arena.packet(ready.id);
        let whole = self.complete(ready, Caps::ALL).expect("no fault");
        // A fixed ID or CWR on all makes even the best port a list.
        let whole = match &whole[..] {
            [(_, whole)] => whole.clone(),
            _ => self.bytes_of(packet, self.arena.payload(ready.id)),
        };
        let finished = self.complete(ready, Caps::NONE).expect("no fault");
        Delivered {
            members: self.members(ready),
            why,
            whole,
            csum: packet.pending().csum,
            gso: packet.pending().gso,
            lossy: packet.pending().lossy,
            finished: finished.into_iter().map(|(_, bytes)| bytes).collect(),
        }
    }

    /// The packets that leave towards `caps`, each with its bytes.
    pub(crate) fn complete(
        &self,
        ready: Ready,
        caps: Caps,
    ) -> Result<Vec<(Packet, Vec<u8>)>, Fault> {
        let packet = self.arena.packet(ready.id);
        let memory = SliceMemory::new(&self.memory, Kernels::detect());
        let plan = plan(packet, caps, NO_MTU);
        let mut out = Vec::new();
        let payload = self.arena.payload(ready.id);
        let count = complete(packet, payload, plan, &memory, |packet, payload| {
            assert_eq!(packet.payload_len() as usize, payload.len_bytes());
            out.push((packet.clone(), self.bytes_of(packet, payload)));
        })?;
        assert_eq!(count as usize, out.len());
        Ok(out)
    }

    pub(crate) fn bytes_of(
        &self,
        packet: &Packet,
        payload: jumbo_engine::arena::Pieces<'_>,
    ) -> Vec<u8> {
        bytes_of(&self.memory, packet, payload)
    }

    /// The inputs that a ready packet is made of: its head's, and whose payload it carries.
    fn members(&self, ready: Ready) -> Vec<usize> {
        let mut members = vec![ready.out as usize];
        for frag in self.arena.payload(ready.id) {
            for (_, _, index) in self.owners(frag) {
                if members.last() != Some(&index) {
                    members.push(index);
                }
            }
        }
        members
    }

    /// Whose payload a piece is: from, to, which input.
    fn owners(&self, frag: Frag) -> Vec<(usize, usize, usize)> {
        let (start, end) = (frag.at as usize, frag.at as usize + frag.len as usize);
        let first = self.moved.partition_point(|(_, to, _)| *to <= start);
        let moved = self.moved[first..]
            .iter()
            .take_while(|(from, _, _)| *from < end);
        let moved: Vec<_> = moved.copied().collect();
        if let (Some((from, ..)), Some((_, to, _))) = (moved.first(), moved.last()) {
            assert!(
                (*from, *to) == (start, end),
                "a packet's own payload and no more"
            );
            return moved;
        }
        let index = self.places.partition_point(|(_, to)| *to <= start);
        let (from, to) = self.places[index];
        assert!(from <= start && end <= to);
        vec![(start, end, index)]
    }
}

/// A packet's bytes as they go on the wire.
pub(crate) fn bytes_of(
    memory: &[u8],
    packet: &Packet,
    payload: jumbo_engine::arena::Pieces<'_>,
) -> Vec<u8> {
    let mut header = [0; jumbo_engine::packet::HEADERS_MAX];
    let len = packet.write_header(&mut header).expect("room enough");
    let mut bytes = header[..len].to_vec();
    for frag in payload {
        let at = frag.at as usize;
        bytes.extend(&memory[at..at + frag.len as usize]);
    }
    assert_eq!(bytes.len(), packet.wire_len());
    bytes
}

/// Everything in one burst.
pub(crate) fn burst(inputs: &[Input]) -> Vec<Delivered> {
    burst_of(64, inputs)
}

pub(crate) fn burst_of(flows: usize, inputs: &[Input]) -> Vec<Delivered> {
    burst_under(&GRO, flows, inputs)
}

pub(crate) fn burst_under(rules: &Rules, flows: usize, inputs: &[Input]) -> Vec<Delivered> {
    let mut rig = Rig::with_rules(rules, flows);
    for input in inputs {
        rig.offer(input).expect("a sound packet");
    }
    rig.flush(End::BurstEnd);
    rig.done
}

/// Why things ended or stayed alone, in the order in which they leave.
pub(crate) fn whys(inputs: &[Input]) -> Vec<Why> {
    burst(inputs).into_iter().map(|done| done.why).collect()
}

/// The testkit's word for a link.
pub(crate) fn oracle_link(link: Link) -> jumbo_testkit::Link {
    match link {
        Link::Ethernet => jumbo_testkit::Link::Ethernet,
        Link::RawIp => jumbo_testkit::Link::RawIp,
    }
}

/// The testkit's word for how to segment.
pub(crate) fn oracle_gso(gso: Gso) -> oracle::Gso {
    let kind = match gso.kind {
        GsoKind::Tcp4 | GsoKind::Tcp6 => oracle::GsoKind::Tcp {
            fixed_id: gso.fixed_id,
            accecn: gso.cwr == jumbo_engine::pending::Cwr::All,
        },
        GsoKind::Udp => oracle::GsoKind::UdpL4,
        GsoKind::Ufo => oracle::GsoKind::Ufo { ipv6_id: 0 },
    };
    oracle::Gso {
        kind,
        size: usize::from(gso.size),
    }
}

/// The virtio header of a packet built with a partial checksum.
pub(crate) fn needs_csum(link: Link, bytes: &[u8], gso_type: u8, gso_size: u16) -> VnetHeader {
    let header = oracle::VnetHeader::needs_csum(oracle_link(link), bytes, gso_type, gso_size)
        .expect("TCP or UDP");
    VnetHeader {
        flags: header.flags,
        gso_type: header.gso_type,
        hdr_len: header.hdr_len,
        gso_size: header.gso_size,
        csum_start: header.csum_start,
        csum_offset: header.csum_offset,
        ..VnetHeader::default()
    }
}

/// What would be done with an admitted packet; for tests that only look at the decision.
pub(crate) fn plan_of(rig: &Rig, admitted: Admitted, caps: Caps, mtu: usize) -> Plan {
    plan(rig.arena.packet(admitted.id), caps, mtu)
}

/// Marks the one test that shows what a reason is for; its value is the reason.
#[macro_export]
macro_rules! canonical {
    ($reason:expr) => {
        $reason
    };
}

/// Checks that every reason of an enum has one canonical test in this source text.
pub(crate) fn assert_each_has_one_canonical_test<R: Reason>(enum_name: &str, source: &str) {
    for reason in R::ALL {
        let mark = format!("canonical!({enum_name}::{reason:?})");
        let count = source.matches(&mark).count();
        assert_eq!(count, 1, "{mark} occurs {count} times");
    }
    let marks = source.matches(&format!("canonical!({enum_name}::")).count();
    assert_eq!(marks, R::ALL.len(), "a mark for a reason that is not there");
}
