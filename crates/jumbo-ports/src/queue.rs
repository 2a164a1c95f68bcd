//! What every port is to the switch: queues that receive into a burst and send
//! one packet at a time.
//!
//! A queue belongs to one worker at a time: it is `Send`, and needs no lock.
//! Contract of a queue, checked by [`crate::conformance`]:
//! * `rx` never blocks; it appends to `burst.batch` what it admitted, counts what
//!   it refused, and takes at most `batch_packets` packets or about `batch_bytes` bytes.
//! * What `rx` admitted may lie in memory that the port lends ([`crate::pool`]); it stays
//!   as it is until `release`.
//! * `tx` consumes: when it returns, the packet's bytes have been copied out. The
//!   receiver need not see them before `publish`. What cannot be sent then is told by `lost`.
//! * A device that went away is [`RxEnd::Gone`] or [`TxFault::Gone`], once and for all.

use std::any::Any;
use std::fmt::Debug;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use jumbo_engine::arena::{Admitted, Arena, HEAD_WANTED_TUNNELS, PacketId, Pieces};
use jumbo_engine::checksum::Kernels;
use jumbo_engine::packet::{Frag, HEADER_ROOM, Link, Packet};
use jumbo_engine::parse::Opaque;
use jumbo_engine::pending::Caps;
use jumbo_engine::reason::Counts;
use jumbo_engine::reasons;
use jumbo_engine::tunnel::TunnelKind;
use jumbo_engine::vnet::{HeaderFault, Trust, VnetHeader};

use crate::pool::Pool;

/// Largest packet a port may hand over: 65535 bytes of network packet, an
/// Ethernet header, two VLAN tags and the longest virtio header.
pub const PACKET_ROOM: usize = 65535 + 14 + 8 + 24;

reasons! {
    /// Why could a packet not be handed to a port's device?
    pub enum TxFault in "tx" {
        /// The device's queue is full.
        QueueFull = "queue_full",
        /// The device is down: bring it up with `ip link set DEVICE up`.
        LinkDown = "link_down",
        /// The device is gone.
        Gone = "gone",
        /// The kernel refused a super-packet; it was segmented here instead. Not a drop.
        GsoRefused = "gso_refused",
        /// The device refused an ordinary packet.
        Refused = "refused",
        /// Lost on purpose: a fault was asked for.
        Injected = "injected",
        /// The packet's payload is no longer there.
        PayloadMissing = "payload_missing",
        /// The receiver's buffers are too small for it; or, with its VLAN tags, the interface's MTU.
        TooLong = "too_long",
        /// The port has stopped: its other end broke the rules.
        Stopped = "stopped",
    }
}

reasons! {
    /// Why did a device not hand over a packet whole?
    pub enum RxLoss in "device" {
        /// The packet was longer than the device could hand over; all of it is lost.
        Truncated = "truncated",
        /// The receive ring was full: packets came faster than they were taken out.
        RingFull = "ring_full",
    }
}

/// Room for pieces of payload: a super-packet in a guest's memory has one for each
/// page, and a burst is only in part super-packets.
const FRAGS_PER_PACKET: usize = 8;

/// Most pieces of payload that one packet may come in.
pub const PACKET_FRAGS_MAX: usize = 1024;

/// How a call of `rx` ended.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum RxEnd {
    /// Nothing more is ready.
    Drained,
    /// The batch is full; there may be more.
    More,
    /// The device went away.
    Gone,
    /// Nothing more comes from this queue until it is replaced; it may still send.
    Stopped,
}

/// What one port received, by one worker.
#[derive(Clone, Debug, Default)]
pub struct RxStats {
    /// What was admitted.
    pub traffic: Traffic,
    /// What was refused: dropped.
    pub faults: Counts<HeaderFault>,
    /// What the device lost: dropped.
    pub losses: Counts<RxLoss>,
    /// What was admitted without being followed to TCP or UDP.
    pub opaque: Counts<Opaque>,
}

/// What went one way through a port.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Packets, a super-packet being one.
    pub packets: u64,
    /// Their bytes, without virtio headers.
    pub bytes: u64,
    /// Super-packets among them.
    pub super_packets: u64,
    /// Packets on a wire that they stand for.
    pub segments: u64,
    /// Packets with TCP or UDP payload.
    pub data_packets: u64,
    /// Packets on a wire that those stand for.
    pub data_segments: u64,
}

impl Traffic {
    /// Counts one packet with its payload length.
    #[inline]
    pub fn count(&mut self, packet: &Packet, payload_len: u32) {
        let gso = packet.pending().gso;
        let wire = gso.map_or(1, |gso| u64::from(gso.segments(payload_len)));
        self.packets += 1;
        self.bytes += packet.wire_len() as u64;
        self.super_packets += u64::from(gso.is_some());
        self.segments += wire;
        if payload_len != 0 {
            self.data_packets += 1;
            self.data_segments += wire;
        }
    }

    /// Adds another's figures.
    pub fn add(&mut self, other: &Self) {
        self.packets += other.packets;
        self.bytes += other.bytes;
        self.super_packets += other.super_packets;
        self.segments += other.segments;
        self.data_packets += other.data_packets;
        self.data_segments += other.data_segments;
    }
}

impl RxStats {
    /// Packets that came and were dropped.
    pub fn refused(&self) -> u64 {
        self.faults.total() + self.losses.total()
    }

    /// Adds another worker's figures.
    pub fn add(&mut self, other: &Self) {
        self.traffic.add(&other.traffic);
        self.faults.add(&other.faults);
        self.losses.add(&other.losses);
        self.opaque.add(&other.opaque);
    }
}

/// Bounds of a burst: everything a queue has ready, taken in batches.
#[derive(Copy, Clone, Debug)]
pub struct Bounds {
    /// Most packets of a burst.
    pub burst_packets: usize,
    /// Most packets of a batch: what is worked on while it is in the cache.
    pub batch_packets: usize,
    /// Bytes after which a batch takes no further packet.
    pub batch_bytes: usize,
    /// Memory of a burst, bytes.
    pub pool_bytes: usize,
    /// Most packets that may rest beyond a burst, where a hold time is asked for.
    pub rest_packets: usize,
    /// Most bytes of their payload.
    pub rest_bytes: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            burst_packets: 512,
            batch_packets: 64,
            // Two super-packets: read and written again before they leave the L2 cache.
            batch_bytes: 128 << 10,
            pool_bytes: (1 << 20) + PACKET_ROOM,
            // More than a worker's NAPI would hold in Linux (64), less than a burst.
            rest_packets: 256,
            rest_bytes: 4 << 20,
        }
    }
}

/// The packets a worker has in hand, and the memory they are in.
#[derive(Debug)]
pub struct Burst {
    /// The packets.
    pub arena: Arena,
    /// Their payload.
    pub pool: Pool,
    /// Packets received and not yet looked at, in order.
    pub batch: Vec<PacketId>,
    /// Its bounds.
    pub bounds: Bounds,
}

impl Burst {
    /// An empty burst. Allocates all it will ever need.
    pub fn new(bounds: Bounds, kernels: Kernels) -> Self {
        Self {
            arena: Arena::new(
                bounds.burst_packets + bounds.rest_packets,
                FRAGS_PER_PACKET * bounds.burst_packets + bounds.rest_packets,
            ),
            pool: Pool::with_rooms(bounds.pool_bytes, bounds.rest_packets, kernels),
            batch: Vec::with_capacity(bounds.batch_packets),
            bounds,
        }
    }

    /// Whether another packet of any size could be received.
    #[inline]
    pub fn has_room(&self) -> bool {
        self.arena.free_packets() > 0
            && self.arena.free_frags() >= PACKET_FRAGS_MAX
            && self.pool.space_len() >= PACKET_ROOM
    }

    /// Admits the packet that lies in one piece at the start of the pool's
    /// space: `prefix` bytes of virtio header, then `len` bytes of packet.
    #[inline]
    pub fn admit(
        &mut self,
        link: Link,
        prefix: usize,
        len: usize,
        vnet: Option<(&VnetHeader, Trust)>,
        stats: &mut RxStats,
    ) {
        let at = self.pool.take(prefix + len) + prefix as u64;
        let result = match (self.admit_at(link, at, len, vnet), vnet) {
            (Err(HeaderFault::CsumFieldTooDeep), Some((header, trust))) if !header.is_gso() => {
                self.admit_finished(link, at, len, header, trust)
            }
            (result, _) => result,
        };
        match result {
            Ok(admitted) => self.note(admitted, stats),
            Err(fault) => stats.faults.count(fault),
        }
    }

    /// Admits a packet that lies in lent memory: `head` is a private copy of its
    /// first bytes, `body` where all of it is.
    ///
    /// A packet whose checksum field lies too deep to be kept private is copied
    /// into the pool and its checksum finished there.
    #[inline]
    pub fn admit_lent(
        &mut self,
        link: Link,
        head: &[u8],
        body: &[Frag],
        vnet: Option<(&VnetHeader, Trust)>,
        stats: &mut RxStats,
    ) {
        let result = match (self.admit_from(link, head, body, vnet), vnet) {
            (Err(HeaderFault::CsumFieldTooDeep), Some((header, trust))) if !header.is_gso() => {
                match self.pool.promote(body) {
                    Some((at, len)) => self.admit_finished(link, at, len, header, trust),
                    None => Err(HeaderFault::NoRoom),
                }
            }
            (result, _) => result,
        };
        match result {
            Ok(admitted) => self.note(admitted, stats),
            Err(fault) => stats.faults.count(fault),
        }
    }

    /// Admits a packet that lies in one piece of lent memory, if it is like nearly all
    /// ([`Arena::admit_plain`]); `false`: by [`Burst::admit_lent`] then.
    #[inline]
    pub fn admit_plain(
        &mut self,
        whole: Frag,
        vnet: Option<(&VnetHeader, Trust)>,
        fill: impl FnOnce(&mut [u8; HEADER_ROOM]),
        stats: &mut RxStats,
    ) -> bool {
        let Some(id) = self.arena.admit_plain(whole, vnet, fill) else {
            return false;
        };
        let packet = self.arena.packet(id);
        stats.traffic.count(packet, packet.payload_len());
        self.batch.push(id);
        true
    }

    /// Admits a packet by its first bytes, and by more of them if it is in a tunnel
    /// that goes on behind those.
    #[inline]
    fn admit_from(
        &mut self,
        link: Link,
        head: &[u8],
        body: &[Frag],
        vnet: Option<(&VnetHeader, Trust)>,
    ) -> Result<Admitted, HeaderFault> {
        let result = self.arena.admit(link, head, body, vnet);
        let cut = match &result {
            Ok(admitted) => {
                self.arena.packet(admitted.id).tunnel().kind() == TunnelKind::Unfollowed
            }
            Err(_) => vnet.is_some_and(|(header, _)| header.is_tunnel()),
        };
        match cut && self.arena.follows_tunnels() && head.len() < HEAD_WANTED_TUNNELS {
            true => self.admit_by_more(link, head, body, vnet, result),
            false => result,
        }
    }

    /// The same with as many bytes as a tunnel's headers may take. Only this second copy
    /// is looked at then, so it does not matter if the sender changed the first meanwhile.
    #[cold]
    #[inline(never)]
    fn admit_by_more(
        &mut self,
        link: Link,
        head: &[u8],
        body: &[Frag],
        vnet: Option<(&VnetHeader, Trust)>,
        first: Result<Admitted, HeaderFault>,
    ) -> Result<Admitted, HeaderFault> {
        let mut more = [0; HEAD_WANTED_TUNNELS];
        let mut len = 0;
        for piece in body.iter().map_while(|frag| self.pool.piece(*frag)) {
            len += piece.copy_to(&mut more[len..]);
            if len == more.len() {
                break;
            }
        }
        if len <= head.len() {
            return first;
        }
        if let Ok(admitted) = first {
            self.arena.release(admitted.id);
        }
        self.arena.admit(link, &more[..len], body, vnet)
    }

    #[inline]
    fn admit_at(
        &mut self,
        link: Link,
        at: u64,
        len: usize,
        vnet: Option<(&VnetHeader, Trust)>,
    ) -> Result<Admitted, HeaderFault> {
        let body = [Frag::new(at, len as u32)];
        let head = self.pool.peek(at, len.min(HEAD_WANTED_TUNNELS));
        self.arena.admit(link, head, &body, vnet)
    }

    /// Finishes a checksum whose field lies behind the private header, as that
    /// of a packet in a tunnel may: here, where the bytes are still ours to
    /// write. Its place was checked by then.
    #[cold]
    fn admit_finished(
        &mut self,
        link: Link,
        at: u64,
        len: usize,
        header: &VnetHeader,
        trust: Trust,
    ) -> Result<Admitted, HeaderFault> {
        let VnetHeader {
            csum_start,
            csum_offset,
            ..
        } = *header;
        self.pool
            .finish_checksum(at, len as u32, csum_start, csum_offset)
            .ok_or(HeaderFault::CsumBeyondPacket)?;
        let finished = VnetHeader {
            hdr_len: header.hdr_len,
            ..VnetHeader::default()
        };
        self.admit_at(link, at, len, Some((&finished, trust)))
    }

    #[inline]
    fn note(&mut self, admitted: Admitted, stats: &mut RxStats) {
        let packet = self.arena.packet(admitted.id);
        stats.traffic.count(packet, data_len(packet));
        if let Some(opaque) = admitted.opaque {
            stats.opaque.count(opaque);
        }
        self.batch.push(admitted.id);
    }

    /// Ends the burst; all packets must have been released.
    #[inline]
    pub fn reset_if_empty(&mut self) {
        if self.arena.live() == 0 {
            self.pool.reset();
        }
    }
}

/// Payload behind TCP or UDP, 0 for anything else.
#[inline]
pub fn data_len(packet: &Packet) -> u32 {
    match packet.layers().transport {
        jumbo_engine::packet::Transport::None => 0,
        _ => packet.payload_len(),
    }
}

/// One queue of a port.
pub trait Queue: Send + Debug + Any {
    /// Receives a batch.
    fn rx(&mut self, burst: &mut Burst, stats: &mut RxStats) -> RxEnd;

    /// Sends one packet: the private header of `packet` and `payload`.
    ///
    /// # Errors
    /// The [`TxFault`] for which it did not leave.
    fn tx(&mut self, packet: &Packet, payload: Pieces<'_>, pool: &Pool) -> Result<(), TxFault>;

    /// Shows the receiver what was sent since the last call, and wakes it if it
    /// wants to be: once for each batch in which something was sent.
    fn publish(&mut self) {}

    /// What `tx` took and the device would then not send, since the last call: why,
    /// and how many packets. Asked after each `publish`.
    fn lost(&mut self) -> Option<(TxFault, u32)> {
        None
    }

    /// Nobody refers to what was received any more: its memory goes back to its
    /// owner. Called once for each burst in which something was received.
    fn release(&mut self) {}

    /// Whether a queue that was full may soon have room again: the receiver makes
    /// it, and we can wait for that. A device of the kernel's drops by itself.
    fn can_wait(&self) -> bool {
        false
    }

    /// Whether it is full because its rings are being exchanged for others, which comes to an end.
    fn is_exchanged(&self) -> bool {
        false
    }

    /// What is to be used in its place, if it only stands for another queue. Asked once, when a worker is handed the
    /// queue, between two bursts.
    fn successor(&mut self) -> Option<Box<dyn Queue>> {
        None
    }

    /// Waits until the receiver made room, at most that long. The caller tries again.
    fn wait_for_room(&mut self, _timeout: Duration) {}

    /// Why the queue has stopped, once it has.
    fn stopped_by(&self) -> Option<String> {
        None
    }

    /// Asks for [`Queue::fd`] to become readable when packets come. Whether some are there
    /// already. To be called when `rx` has found nothing and before the caller waits: until
    /// then a guest need not wake us. A device of the kernel's always does.
    fn arm(&mut self) -> bool {
        false
    }

    /// Whether `rx` would find packets, for who looks by itself instead of waiting; `None`
    /// if only the kernel knows.
    fn has_packets(&self) -> Option<bool> {
        None
    }

    /// What becomes readable when packets are ready; `None` if only asking tells.
    fn fd(&self) -> Option<BorrowedFd<'_>>;

    /// What its packets begin with, both ways.
    fn link(&self) -> Link {
        Link::Ethernet
    }
}

/// Whether a port's other end is there.
#[derive(Clone, Debug, Default)]
pub enum Presence {
    /// It is.
    #[default]
    Up,
    /// Not yet, or not any more; what it waits for.
    Waiting(String),
    /// It is, until it breaks the rules: then why the port has stopped.
    Live(Arc<OnceLock<String>>),
}

/// What a port is, apart from its queues.
#[derive(Clone, Debug)]
pub struct PortInfo {
    /// `tap`, `packet`, `mem`, ...
    pub kind: &'static str,
    /// The device, as the operator knows it.
    pub device: String,
    /// Pending work the port may hand us.
    pub hands: Caps,
    /// Pending work the port can take.
    pub takes: Caps,
    /// Largest network packet the port can take, bytes.
    pub mtu: usize,
    /// Each capability and, where it is not in use, why.
    pub capabilities: Vec<Capability>,
    /// Whether its other end is there.
    pub presence: Presence,
}

/// One capability of a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capability {
    /// Its name: `csum`, `tso4`, `tso6`, `tso_ecn`, `uso`, each in one direction.
    pub name: &'static str,
    /// The device has it.
    pub offered: bool,
    /// It is used.
    pub in_use: bool,
    /// Why not.
    pub why: Option<String>,
}

/// A port as it is handed to the switch: a queue for each worker.
#[derive(Debug)]
pub struct Port {
    /// What it is.
    pub info: PortInfo,
    /// One queue per worker, in their order.
    pub queues: Vec<Box<dyn Queue>>,
    /// Who exchanges the queues while the switch runs, if somebody does.
    pub control: Option<Box<dyn Control>>,
}

/// The side of a port that is not on the packet's path: it exchanges queues as the
/// port's other end comes, changes its mind, and goes.
pub trait Control: Send + Debug {
    /// Starts. Returns what stops it when dropped.
    ///
    /// # Errors
    /// What the machine refuses, in words.
    fn start(self: Box<Self>, workers: Box<dyn Workers>) -> Result<Box<dyn Send>, String>;
}

/// The workers, as a port's control side reaches them. Calls wait until every
/// worker is between two bursts, so that on return nobody refers to memory that
/// the old queues had lent.
pub trait Workers: Send + Debug {
    /// Exchanges the port's queues, one per worker, and what the port is. Returns
    /// the old ones in the same order; none if the switch has stopped or the port
    /// was removed.
    fn exchange(&mut self, queues: Vec<Box<dyn Queue>>, info: PortInfo) -> Vec<Box<dyn Queue>>;

    /// Changes what is shown of the port, and its MTU; its queues stay.
    fn tell(&mut self, info: PortInfo);

    /// The device is gone: the port is taken out.
    fn gone(&mut self) {}

    /// A station has moved to this port: it is learned, and everybody behind the other ports is told.
    fn announce(&mut self, station: [u8; 6]);
}
