//! The ports as one worker sees them: its own queue of each, and how it is to be treated.

use std::time::Duration;

use jumbo_engine::arena::Pieces;
use jumbo_engine::coalesce::{CwrRule, End, GRO, LRO, RSC, RSC_QEMU, Rules, Towards};
use jumbo_engine::packet::{Layers, Link, Net, Packet, Transport};
use jumbo_engine::pending::{Caps, GsoKind};
use jumbo_engine::superpacket::{L3_TOTAL_BIG_MAX, L3_TOTAL_MAX};
use jumbo_engine::tunnel::Tunnels;
use jumbo_ports::pool::Pool;
use jumbo_ports::queue::{Queue, TxFault};
use jumbo_ports::tap::Refusals;
use jumbo_ports::wrap::capture::{Direction, Probe};
use rustix::time::{ClockId, clock_gettime};

use crate::counters::PortCounters;
use crate::patience::{Patience, Waits};

/// Stations announced for a port in a second: QEMU announces each of a guest's cards five times in half a second
/// (migration/options.c, announce-initial, -rounds, -step).
const ANNOUNCED_MAX: u8 = 32;

/// Most ports of a switch: a bound on flooding and on the control plane.
pub const PORTS_MAX: usize = 1024;

/// Most captures of a port at a time: each is a copy of every packet.
const CAPTURES_MAX: usize = 4;

/// Names a port as long as it is there; long after it was removed, another may have its id.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash, Default, PartialOrd, Ord)]
pub struct PortId(pub u16);

/// What is done to packets that leave by a port.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Default)]
pub enum Coalesce {
    /// Nothing.
    Off,
    /// Lossless coalescing.
    #[default]
    Gro,
    /// The classic large receive offload; only where the peer ends its connections.
    Lro,
    /// What Windows expects; only where the peer ends its connections.
    Rsc,
    /// The same as QEMU does it, for comparison.
    RscQemu,
}

impl Coalesce {
    /// Every kind.
    pub const ALL: [Self; 5] = [Self::Off, Self::Gro, Self::Lro, Self::Rsc, Self::RscQemu];

    /// What the configuration calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Gro => GRO.name,
            Self::Lro => LRO.name,
            Self::Rsc => RSC.name,
            Self::RscQemu => RSC_QEMU.name,
        }
    }

    /// Whether packets can be taken apart again into what came.
    pub fn is_lossless(self) -> bool {
        matches!(self, Self::Off | Self::Gro)
    }

    /// Whether it merges datagrams at all.
    pub const fn merges_udp(self) -> bool {
        match self {
            Self::Off => false,
            Self::Gro => GRO.udp.is_some(),
            Self::Lro => LRO.udp.is_some(),
            Self::Rsc => RSC.udp.is_some(),
            Self::RscQemu => RSC_QEMU.udp.is_some(),
        }
    }
}

/// How packets that leave by a port are coalesced, as the operator chose.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Coalescing {
    /// By which rules.
    pub kind: Coalesce,
    /// What CWR does under [`Coalesce::Gro`]; the others have a rule of their own.
    pub cwr: CwrRule,
    /// Longest network packet made, header included, in bytes.
    pub l3_total_max: u32,
    /// How long an aggregate may rest beyond its burst, in nanoseconds; 0: not at all.
    pub hold_ns: u32,
}

impl Default for Coalescing {
    fn default() -> Self {
        Coalesce::default().into()
    }
}

impl From<Coalesce> for Coalescing {
    fn from(kind: Coalesce) -> Self {
        Self {
            kind,
            cwr: GRO.cwr,
            l3_total_max: L3_TOTAL_MAX as u32,
            hold_ns: 0,
        }
    }
}

impl Coalescing {
    /// Each kind that holds packets, with each rule for CWR that it may have.
    const HOLDING: [(Coalesce, CwrRule); 6] = [
        (Coalesce::Gro, CwrRule::Equal),
        (Coalesce::Gro, CwrRule::FirstOnly),
        (Coalesce::Gro, CwrRule::Never),
        (Coalesce::Lro, LRO.cwr),
        (Coalesce::Rsc, RSC.cwr),
        (Coalesce::RscQemu, RSC_QEMU.cwr),
    ];

    /// The engine's table of each.
    pub fn tables() -> [Rules; 6] {
        let gro = |cwr| Rules { cwr, ..GRO };
        [
            gro(CwrRule::Equal),
            gro(CwrRule::FirstOnly),
            gro(CwrRule::Never),
            LRO,
            RSC,
            RSC_QEMU,
        ]
    }

    /// Whether packets may be made that are longer than an IP length can say: those that may
    /// rest, and those of a bounded length, are not.
    fn may_be_big(&self) -> bool {
        self.hold_ns == 0 && self.l3_total_max >= L3_TOTAL_MAX as u32
    }

    /// Place of its table; `None` if nothing is held.
    #[inline]
    fn personality(&self) -> Option<u8> {
        let gro = self.kind == Coalesce::Gro;
        let mut places = Self::HOLDING.iter();
        let place = places.position(|(kind, cwr)| *kind == self.kind && (!gro || *cwr == self.cwr));
        place.map(|place| place as u8)
    }
}

/// What is done to packets in tunnels: VXLAN and Geneve, and where nothing is merged GRE and IP in IP.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Default)]
pub enum TunnelMode {
    /// Nobody looks inside: their outer protocol is all there is.
    Off,
    /// Super-packets in them pass whole, or are segmented here, like any other. As a bridge
    /// of Linux does.
    #[default]
    Whole,
    /// Packets in them are merged as well. For tunnels that end in a kernel: a program that
    /// takes them off a socket would be given one datagram in place of many.
    Merge,
}

impl TunnelMode {
    /// Every mode.
    pub const ALL: [Self; 3] = [Self::Off, Self::Whole, Self::Merge];

    /// What the configuration calls it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Whole => "whole",
            Self::Merge => "merge",
        }
    }

    /// Tunnels in which packets are merged towards a port that takes `takes`.
    #[inline]
    pub fn merged(self, takes: Caps) -> Tunnels {
        match self {
            Self::Merge => takes.tunnels(),
            Self::Off | Self::Whole => Tunnels::None,
        }
    }
}

/// A port's treatment, the same for all workers.
#[derive(Copy, Clone, Debug)]
pub struct Policy {
    /// Of packets leaving by it.
    pub coalesce: Coalescing,
    /// Pending work it can take.
    pub takes: Caps,
    /// Largest network packet it can take, bytes.
    pub mtu: usize,
}

impl Policy {
    /// By which table packets like this one are merged for the port, if they are: it must
    /// be able to take the aggregate, or that would be cut again at once.
    #[inline]
    pub fn coalesces(&self, packet: &Packet) -> Option<u8> {
        let merged = self.merged().0 & Kinds::of(packet.layers()).0 != 0;
        self.coalesce.personality().filter(|_| merged)
    }

    /// What is merged for the port at all.
    #[inline]
    fn merged(&self) -> Kinds {
        let udp = self.takes.uso() && self.coalesce.kind.merges_udp();
        let kinds = [
            (self.takes.tso4(), Kinds::TCP4),
            (self.takes.tso6(), Kinds::TCP6),
            (udp, Kinds::UDP),
        ];
        let some = kinds.into_iter().filter(|(takes, _)| *takes);
        Kinds(some.fold(0, |all, (_, kind)| all | kind.0))
    }
}

/// Kinds of packets that can be merged, a bit each.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
struct Kinds(u8);

impl Kinds {
    /// Cannot be merged, but may be of a flow that is.
    const OTHER: Self = Self(0);
    const TCP4: Self = Self(1);
    const TCP6: Self = Self(2);
    const UDP: Self = Self(4);

    #[inline]
    fn of(layers: &Layers) -> Self {
        match (layers.transport, layers.net) {
            (Transport::Tcp, Net::V4) => Self::TCP4,
            (Transport::Tcp, Net::V6) => Self::TCP6,
            (Transport::Udp, _) => Self::UDP,
            _ => Self::OTHER,
        }
    }
}

/// One worker's part of a port.
#[derive(Debug)]
pub struct Slot {
    /// The port.
    pub id: PortId,
    /// This worker's queue.
    pub queue: Box<dyn Queue>,
    /// How it is treated; `takes` shrinks when a kernel keeps refusing.
    pub policy: Policy,
    /// What happened to it here.
    pub counters: PortCounters,
    refusals: [Refusals; 3],
    /// The same for super-packets in tunnels, of whatever kind.
    tunnel_refusals: Refusals,
    /// How long packets may still wait for it.
    patience: Patience,
    /// Stations announced in this second.
    announced: (u32, u8),
    /// Something was sent to it and not yet published.
    pub sent: bool,
    /// Something was received from it and not yet released.
    pub received: bool,
    /// Who writes down what passes it; none, unless somebody asked.
    pub probes: Vec<Probe>,
}

impl Slot {
    /// A fresh one.
    pub fn new(id: PortId, queue: Box<dyn Queue>, policy: Policy) -> Self {
        Self {
            id,
            queue,
            policy,
            counters: PortCounters::default(),
            refusals: Default::default(),
            tunnel_refusals: Default::default(),
            patience: Patience::default(),
            announced: (0, 0),
            sent: false,
            received: false,
            probes: Vec::new(),
        }
    }

    /// With other waits than usual for one that is full.
    #[must_use]
    pub fn waiting(mut self, waits: Waits) -> Self {
        self.patience = Patience::new(waits);
        self
    }

    /// Puts another queue in, whose other end takes `takes`. Returns the old one.
    pub fn exchange(&mut self, queue: Box<dyn Queue>, takes: Caps, mtu: usize) -> Box<dyn Queue> {
        self.policy.takes = takes;
        self.policy.mtu = mtu;
        self.refusals = Default::default();
        self.tunnel_refusals = Default::default();
        // What was waited stays: a front end can have its rings exchanged as often as it likes.
        self.patience.moved();
        std::mem::replace(&mut self.queue, queue)
    }

    fn holds(&self) -> bool {
        self.policy.coalesce.hold_ns != 0
    }

    /// How packets like this one are held for it, if they are.
    #[inline]
    pub fn coalesces(&self, packet: &Packet, tunnels: TunnelMode) -> Option<Towards> {
        let personality = self.policy.coalesces(packet)?;
        Some(Towards {
            personality,
            tunnels: tunnels.merged(self.policy.takes),
            l3_total_max: self.policy.coalesce.l3_total_max,
            hold_ns: self.policy.coalesce.hold_ns,
            big_l3_total_max: match self.policy.coalesce.may_be_big()
                && big_tcp(self.policy.takes, packet)
            {
                true => L3_TOTAL_BIG_MAX as u32,
                false => 0,
            },
            ..Towards::from(u32::from(self.id.0))
        })
    }

    /// Counts a packet that was held for it, and why that ended.
    pub fn note_ended(&mut self, packet: &Packet, end: End) {
        if packet.pending().gso.is_some() {
            self.counters.ends.count(end);
        }
        if !self.policy.coalesce.kind.is_lossless() {
            self.counters.rsc.ended(packet, end);
        }
    }

    /// Whether another station may be announced for it, and counts that.
    pub(crate) fn may_announce(&mut self, now_s: u32) -> bool {
        if self.announced.0 != now_s {
            self.announced = (now_s, 0);
        }
        let may = self.announced.1 < ANNOUNCED_MAX;
        self.announced.1 += u8::from(may);
        self.counters.announced += u64::from(may);
        self.counters.unannounced += u64::from(!may);
        may
    }

    /// Writes down what passes from now on; one capture too many ends at once.
    pub(crate) fn watch(&mut self, probe: Probe) {
        self.probes.retain(Probe::is_read);
        if self.probes.len() < CAPTURES_MAX {
            self.probes.push(probe);
        }
    }

    /// Writes a packet down for whoever asked, and forgets who no longer reads.
    #[cold]
    pub fn capture(&mut self, way: Direction, packet: &Packet, payload: Pieces<'_>, pool: &Pool) {
        self.probes.retain(Probe::is_read);
        for probe in &mut self.probes {
            probe.note(way, packet, payload, pool);
        }
    }

    /// Sends a packet; for one that goes to nobody else, waits a little for room.
    ///
    /// The payload is made where it is used: a copy of it would be read wider than it
    /// was written, and wait for every byte of the packet before to be stored.
    #[inline]
    pub fn send<'a>(
        &mut self,
        packet: &Packet,
        payload: impl Fn() -> Pieces<'a>,
        pool: &Pool,
        may_wait: bool,
    ) -> Result<(), TxFault> {
        match self.queue.tx(packet, payload(), pool) {
            Err(TxFault::QueueFull) if may_wait && self.queue.can_wait() => {
                self.send_patiently(packet, payload(), pool)
            }
            Ok(()) => {
                self.patience.moved();
                Ok(())
            }
            answer => answer,
        }
    }

    /// The clock is asked here and nowhere else: only when a queue is full.
    #[cold]
    fn send_patiently(
        &mut self,
        packet: &Packet,
        payload: Pieces<'_>,
        pool: &Pool,
    ) -> Result<(), TxFault> {
        let mut begin_ns = now_ns();
        let mut now = begin_ns;
        let mut is_exchanged = self.queue.is_exchanged();
        while let Some(wait) = self.patience.wait(now, is_exchanged) {
            let wait = wait.saturating_sub(Duration::from_nanos(now - begin_ns));
            if wait.is_zero() {
                break;
            }
            self.counters.waits += 1;
            self.queue.wait_for_room(wait);
            let answer = self.queue.tx(packet, payload, pool);
            let before = std::mem::replace(&mut now, now_ns());
            let room = answer != Err(TxFault::QueueFull);
            self.patience.waited(now - before, true);
            if room {
                return answer;
            }
            if is_exchanged && !self.queue.is_exchanged() {
                // The new rings are full: another wait, as short as any.
                (is_exchanged, begin_ns) = (false, now);
            }
        }
        self.patience.waited(0, false);
        Err(TxFault::QueueFull)
    }

    /// Whether its packets are dropped at once, because it does not make room.
    pub fn is_stuck(&self) -> bool {
        self.patience.is_stuck()
    }

    /// Notes that the device took a super-packet, or refused it. After enough
    /// refusals in a row the kind is no longer offered to it.
    pub fn gso_answer(&mut self, packet: &Packet, kind: GsoKind, answer: Result<(), TxFault>) {
        let refusals = match packet.is_in_tunnel() {
            true => &mut self.tunnel_refusals,
            false => &mut self.refusals[kind as usize],
        };
        match answer {
            Ok(()) => refusals.taken(),
            Err(TxFault::GsoRefused) => {
                if refusals.refused() {
                    self.policy.takes = less(self.policy.takes, packet, kind);
                }
            }
            Err(_) => {}
        }
    }
}

/// Whether packets like this one may be merged beyond 65535 bytes.
#[inline]
fn big_tcp(takes: Caps, packet: &Packet) -> bool {
    match packet.layers().net {
        Net::V4 => takes.big_tcp4(),
        _ => takes.big_tcp6(),
    }
}

/// What is left of `takes` once super-packets like this one are refused: of one in a
/// tunnel, it may be the tunnel; of one of more than 65535 bytes, its length.
pub(crate) fn less(takes: Caps, packet: &Packet, kind: GsoKind) -> Caps {
    if packet.is_in_tunnel() && takes.udp_tunnel() {
        return takes.with_udp_tunnels(false, false);
    }
    if packet.l3_total_len() > L3_TOTAL_MAX {
        return takes.with_big_tcp(false, false);
    }
    takes.without(kind)
}

/// Nanoseconds of a steady clock.
fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// The ports of one worker, found by their id.
#[derive(Debug, Default)]
pub struct Topology {
    slots: Vec<Option<Slot>>,
    /// How many have a hold time.
    holding: usize,
    /// What is held for some port. May say more: what a port takes may shrink.
    held: Kinds,
    /// What ports that went away have counted.
    gone: Vec<(PortId, PortCounters)>,
}

impl Topology {
    /// Whether a packet like this one may be held for some port, or end what is. One that may
    /// not need not be offered to the coalescer.
    #[inline]
    pub fn may_hold(&self, packet: &Packet) -> bool {
        let kind = Kinds::of(packet.layers());
        kind == Kinds::OTHER || self.held.0 & kind.0 != 0
    }

    /// To be called when what a port takes has changed.
    pub fn note_held(&mut self) {
        let holds = |slot: &&Slot| slot.policy.coalesce.personality().is_some();
        let kinds = self.iter().filter(holds).map(|slot| slot.policy.merged().0);
        self.held = Kinds(kinds.fold(0, |all, kinds| all | kinds));
    }

    /// Adds a port; replaces one of the same id.
    pub fn insert(&mut self, slot: Slot) {
        let index = usize::from(slot.id.0);
        if self.slots.len() <= index {
            self.slots.resize_with(index + 1, || None);
        }
        self.holding += usize::from(slot.holds());
        let old = self.slots[index].replace(slot);
        self.holding -= usize::from(old.is_some_and(|old| old.holds()));
        self.note_held();
    }

    /// Whether packets may rest towards one of them.
    #[inline]
    pub fn holds(&self) -> bool {
        self.holding != 0
    }

    /// Removes a port and keeps its counters.
    pub fn remove(&mut self, id: PortId) -> Option<Box<dyn Queue>> {
        let slot = self.slots.get_mut(usize::from(id.0))?.take()?;
        self.holding -= usize::from(slot.holds());
        self.gone.push((id, slot.counters));
        Some(slot.queue)
    }

    /// Removes a port, if it is still there, with everything that is known of it.
    /// Returns what it had counted.
    pub fn take(&mut self, id: PortId) -> PortCounters {
        self.remove(id);
        let mut counters = PortCounters::default();
        self.gone.retain(|(gone, counted)| {
            if *gone == id {
                counters.add(counted);
            }
            *gone != id
        });
        counters
    }

    /// The port, while it is there.
    #[inline]
    pub fn get_mut(&mut self, id: PortId) -> Option<&mut Slot> {
        self.slots.get_mut(usize::from(id.0))?.as_mut()
    }

    /// The port, while it is there.
    #[inline]
    pub fn get(&self, id: PortId) -> Option<&Slot> {
        self.slots.get(usize::from(id.0))?.as_ref()
    }

    /// All ports that are there.
    pub fn iter(&self) -> impl Iterator<Item = &Slot> {
        self.slots.iter().flatten()
    }

    /// The port at the other end, if there are just two, of raw IP.
    pub fn opposite(&self, id: PortId) -> Option<PortId> {
        let mut others = self.iter().filter(|slot| slot.id != id);
        let other = others.next().filter(|_| others.next().is_none())?;
        (other.queue.link() == Link::RawIp).then_some(other.id)
    }

    /// What ports that went away have counted.
    pub fn gone(&self) -> &[(PortId, PortCounters)] {
        &self.gone
    }
}
