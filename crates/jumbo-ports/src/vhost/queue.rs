//! A guest's rings as one worker uses them.
//!
//! The guest numbers rings from its side: what it transmits we receive (rx). A
//! worker receives from the pairs that are its own and sends into any of them; a
//! worker without a pair of its own sends into another's, under a lock.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use jumbo_engine::arena::{HEAD_WANTED, Pieces};
use jumbo_engine::packet::{Frag, HEADERS_MAX, Link, Packet};
use jumbo_engine::pending::Caps;
use jumbo_engine::steer::{HashInput, HashTypes, Toeplitz, Transform};
use jumbo_engine::vnet::{Form, HeaderFault, Trust, VnetHeader};
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::device::Position;
use super::guest::GuestMemory;
use super::kick;
use super::returns::Returns;
use super::sys::buf::{Buf, Prefix};
use super::sys::vring::{CHAIN_MAX, Chain, RingFault, Vring};
use crate::pool::{Lender, Pool};
use crate::queue::{Burst, PACKET_ROOM, Queue, RxEnd, RxStats, TxFault};

/// Chains taken before the first is looked at, so that its bytes have time to come
/// into the cache.
const AHEAD: usize = 32;

/// The longest virtio header of any form, bytes.
const VNET_MAX: usize = 20;

/// That of nearly every guest ([`Form::Modern12`]).
const MODERN_LEN: usize = 12;

/// Why a port has stopped, once it has.
pub(super) type Health = Arc<OnceLock<String>>;

/// What is common to the rings of a port.
#[derive(Clone, Debug)]
pub(super) struct Terms {
    pub(super) memory: Arc<GuestMemory>,
    pub(super) form: Form,
    /// A packet may be spread over several chains (VIRTIO_NET_F_MRG_RXBUF).
    pub(super) mergeable: bool,
    /// What the guest takes.
    pub(super) takes: Caps,
    /// What it may hand over.
    pub(super) hands: Caps,
    /// The guest wants each packet's hash (VIRTIO_NET_F_HASH_REPORT).
    pub(super) hash: Option<Arc<Toeplitz>>,
    pub(super) health: Health,
}

/// A ring and how its two sides wake each other.
#[derive(Debug)]
pub(super) struct Ring {
    pub(super) index: usize,
    pub(super) vring: Vring,
    pub(super) kick: Arc<OwnedFd>,
    pub(super) call: Option<Arc<OwnedFd>>,
    pub(super) err: Option<Arc<OwnedFd>>,
}

impl Ring {
    /// Shows the guest what was given back and calls it, if it wants to be.
    #[inline]
    fn publish(&mut self) {
        if self.vring.publish()
            && let Some(call) = &self.call
        {
            signal(call);
        }
    }

    /// Wakes both sides once: whoever served the ring before may have ended between
    /// the work and the call, or with a kick in its hands.
    fn rouse(&self) {
        signal(&self.kick);
        if let Some(call) = &self.call {
            signal(call);
        }
    }

    /// The guest broke the rules: says so, and to the front end. What is read where
    /// memory was truncated breaks them too.
    #[cold]
    fn broken(&self, terms: &Terms, fault: RingFault) {
        let fault = match terms.memory.is_dead() {
            true => RingFault::MemoryTruncated,
            false => fault,
        };
        // The first reason stays.
        let _ = terms.health.set(format!("ring {}: {fault}", self.index));
        if let Some(err) = &self.err {
            signal(err);
        }
    }
}

/// Adds one to an eventfd. One that is full has woken its reader already; one that
/// is something else harms only who sent it.
fn signal(event: &OwnedFd) {
    let _ = rustix::io::write(event, &1u64.to_ne_bytes());
}

/// A ring we receive from.
#[derive(Debug)]
pub(super) struct FromGuest {
    ring: Ring,
    /// Chains whose bytes the burst refers to, in order.
    taken: Vec<Chain>,
    /// The guest was asked for a kick.
    armed: bool,
}

impl FromGuest {
    pub(super) fn new(ring: Ring) -> Self {
        ring.rouse();
        Self {
            ring,
            taken: Vec::with_capacity(512),
            // So that the first look clears what was kicked before.
            armed: true,
        }
    }

    /// Clears the kick and asks for no more while we look by ourselves.
    #[inline]
    fn wake(&mut self) -> Result<(), RingFault> {
        if std::mem::replace(&mut self.armed, false) {
            kick::clear(&self.ring.kick)?;
            self.ring.vring.silence();
        }
        Ok(())
    }

    /// Asks for a kick. Whether there is something already.
    fn sleep(&mut self) -> Result<bool, RingFault> {
        self.armed = true;
        let more = self.ring.vring.listen()?;
        if more {
            self.armed = false;
            self.ring.vring.silence();
        }
        Ok(more)
    }

    fn release(&mut self) {
        self.ring.vring.give_back_unwritten(&mut self.taken);
        self.ring.publish();
    }
}

/// A ring we send into.
#[derive(Debug)]
pub(super) struct ToGuest {
    ring: Ring,
    chains: Vec<(Chain, u32)>,
    bufs: Vec<Buf>,
}

impl ToGuest {
    pub(super) fn new(mut ring: Ring) -> Self {
        ring.rouse();
        // Whether it has buffers is seen when one is needed.
        ring.vring.silence();
        Self {
            ring,
            chains: Vec::with_capacity(CHAIN_MAX),
            bufs: Vec::with_capacity(CHAIN_MAX),
        }
    }

    /// Sends a packet. Its payload is used where it lies: a copy would be read wider
    /// than its fields were written, and such a read waits until all that was stored
    /// before, the packets before this one, has reached the cache.
    #[inline]
    fn send(
        &mut self,
        packet: &Packet,
        payload: &mut Pieces<'_>,
        pool: &Pool,
        terms: &Terms,
    ) -> Result<(), TxFault> {
        if packet.header_is_whole() {
            return self.send_behind(packet.header(), packet, payload, pool, terms);
        }
        self.send_joined(packet, payload, pool, terms)
    }

    /// The same where the header is in parts: a tunnel's before the packet's own, or VLAN tags.
    #[cold]
    #[inline(never)]
    fn send_joined(
        &mut self,
        packet: &Packet,
        payload: &mut Pieces<'_>,
        pool: &Pool,
        terms: &Terms,
    ) -> Result<(), TxFault> {
        let mut header = [0; HEADERS_MAX];
        let len = packet.write_header(&mut header).unwrap_or(0);
        self.send_behind(&header[..len], packet, payload, pool, terms)
    }

    /// Sends `payload` behind a header as it is on the wire.
    #[inline]
    fn send_behind(
        &mut self,
        header: &[u8],
        packet: &Packet,
        payload: &mut Pieces<'_>,
        pool: &Pool,
        terms: &Terms,
    ) -> Result<(), TxFault> {
        let form_len = terms.form.len_bytes();
        let total_len = form_len + header.len() + payload.len_bytes();
        self.reserve(total_len, terms)?;
        let (hash_value, hash_report) = match &terms.hash {
            Some(toeplitz) => hash_of(packet, toeplitz),
            None => (0, 0),
        };
        let vnet = VnetHeader::for_port(packet, terms.takes);
        let vnet = VnetHeader {
            num_buffers: self.chains.len() as u16,
            flags: if terms.takes.csum() { vnet.flags } else { 0 },
            hash_value,
            hash_report,
            ..vnet
        };
        let prefix = prefix_of(vnet, form_len);
        let mut missing = false;
        let pieces = payload.by_ref().map_while(|frag| {
            let piece = pool.piece(frag);
            missing |= piece.is_none();
            piece
        });
        let written = self.ring.vring.fill(&self.bufs, prefix, header, pieces);
        self.hand_over(written);
        if missing {
            // A part is out; the guest drops what is shorter than its headers say.
            return Err(TxFault::PayloadMissing);
        }
        Ok(())
    }

    /// Takes chains with room for `len` bytes, or none.
    #[inline]
    fn reserve(&mut self, len: usize, terms: &Terms) -> Result<(), TxFault> {
        self.bufs.clear();
        self.chains.clear();
        let mark = self.ring.vring.mark();
        let mut room = 0;
        while room < len {
            let before = self.bufs.len();
            let fault = match self.ring.vring.pop(&mut self.bufs) {
                Ok(Some(_)) if !self.chains.is_empty() && !terms.mergeable => TxFault::TooLong,
                Ok(Some(chain)) if self.chains.len() < CHAIN_MAX => {
                    let here: usize = self.bufs[before..].iter().map(|b| b.len as usize).sum();
                    // Never more than a packet is worth of.
                    self.chains.push((chain, here.min(PACKET_ROOM) as u32));
                    room += here;
                    continue;
                }
                Ok(Some(_)) => TxFault::TooLong,
                Ok(None) if !self.chains.is_empty() && !terms.mergeable => TxFault::TooLong,
                // The whole ring would not do: nothing to wait for.
                Ok(None) if self.ring.vring.is_all(self.chains.iter().map(|c| &c.0)) => {
                    TxFault::TooLong
                }
                Ok(None) => TxFault::QueueFull,
                Err(fault) => {
                    self.ring.broken(terms, fault);
                    TxFault::Stopped
                }
            };
            self.ring.vring.rewind(mark);
            return Err(fault);
        }
        Ok(())
    }

    /// Gives the reserved chains back with what was written into each.
    #[inline]
    fn hand_over(&mut self, written: usize) {
        let mut left = written as u32;
        for (chain, room) in self.chains.drain(..) {
            let here = left.min(room);
            left -= here;
            self.ring.vring.give_back(chain, here);
        }
    }

    /// Waits until the guest adds a buffer, at most that long.
    fn wait(&mut self, timeout: Duration, terms: &Terms) {
        self.ring.publish();
        if self.ring.vring.listen() == Ok(false) {
            let kick = self.ring.kick.clone();
            let mut fds = [PollFd::new(&*kick, PollFlags::IN)];
            let timeout = Timespec {
                tv_sec: timeout.as_secs() as i64,
                tv_nsec: timeout.subsec_nanos().into(),
            };
            // Woken early or not at all: who asked looks again.
            let _ = poll(&mut fds, Some(&timeout));
            if let Err(fault) = kick::clear(&kick) {
                self.ring.broken(terms, fault);
            }
        }
        self.ring.vring.silence();
    }
}

/// A virtio header as it is on the wire; fields that a form does not have are beyond
/// its length.
#[inline]
fn prefix_of(vnet: VnetHeader, len: usize) -> Prefix {
    let words = |low: [u16; 4]| {
        let [a, b, c, d] = low.map(u64::from);
        a | b << 16 | c << 32 | d << 48
    };
    let kind = u16::from(vnet.flags) | u16::from(vnet.gso_type) << 8;
    let hash = u64::from(vnet.hash_value) << 32;
    Prefix {
        words: [
            words([kind, vnet.hdr_len, vnet.gso_size, vnet.csum_start]),
            words([vnet.csum_offset, vnet.num_buffers, 0, 0]) | hash,
            vnet.hash_report.into(),
        ],
        len,
    }
}

/// A way into the guest: a worker's own, or one it shares with others.
#[derive(Clone, Debug)]
pub(super) struct Shared(Arc<Mutex<ToGuest>>);

impl Shared {
    pub(super) fn new(ring: ToGuest) -> Self {
        Self(Arc::new(Mutex::new(ring)))
    }

    fn lock(&self) -> MutexGuard<'_, ToGuest> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
pub(super) enum Way {
    Own(Box<ToGuest>),
    Shared(Shared),
}

impl Way {
    #[inline]
    fn with<T>(&mut self, act: impl FnOnce(&mut ToGuest) -> T) -> T {
        match self {
            Self::Own(ring) => act(ring),
            Self::Shared(shared) => act(&mut shared.lock()),
        }
    }
}

/// What one worker has of a guest.
#[derive(Debug)]
pub(super) struct VhostQueue {
    terms: Terms,
    from: Vec<FromGuest>,
    ways: Vec<Way>,
    /// Ways that were sent into since the last `publish`, a bit each.
    sent: u64,
    /// The ring to look at first.
    turn: usize,
    /// Kicks of all rings, where there are several.
    kicks: Option<OwnedFd>,
    bufs: Vec<Buf>,
    chains: Vec<(Chain, usize)>,
    frags: Vec<Frag>,
    /// The first bytes of a packet, copied out once.
    head: Box<[u8; VNET_MAX + HEAD_WANTED]>,
    full_way: usize,
    /// Where flows are to go, if the guest has several pairs here.
    returns: Option<Returns>,
}

/// Most ways of a worker: the bits of a word.
pub(super) const WAYS_MAX: usize = 64;

impl VhostQueue {
    /// # Errors
    /// When the kernel gives no epoll set.
    pub(super) fn new(
        terms: Terms,
        from: Vec<FromGuest>,
        mut ways: Vec<Way>,
    ) -> Result<Self, Errno> {
        debug_assert!(ways.len() <= WAYS_MAX);
        let come: Vec<_> = from.iter().map(|from| from.ring.index).collect();
        let go: Vec<_> = (ways.iter_mut())
            .map(|way| way.with(|to| to.ring.index))
            .collect();
        let kicks = match from.as_slice() {
            [] | [_] => None,
            several => Some(epoll_of(several)?),
        };
        Ok(Self {
            terms,
            from,
            ways,
            sent: 0,
            turn: 0,
            kicks,
            bufs: Vec::with_capacity(AHEAD + CHAIN_MAX),
            chains: Vec::with_capacity(AHEAD),
            frags: Vec::with_capacity(CHAIN_MAX),
            head: Box::new([0; VNET_MAX + HEAD_WANTED]),
            full_way: 0,
            returns: Returns::new(&come, &go),
        })
    }

    /// Where each ring stands.
    pub(super) fn positions(&mut self) -> Vec<(usize, Position)> {
        let from = self.from.iter().map(|from| &from.ring);
        let mut all: Vec<_> = from
            .map(|ring| (ring.index, ring.vring.position()))
            .collect();
        for way in &mut self.ways {
            all.push(way.with(|to| (to.ring.index, to.ring.vring.position())));
        }
        all
    }

    /// Receives from ring `index` until it is empty or the batch is full: `true`.
    fn receive(
        &mut self,
        index: usize,
        burst: &mut Burst,
        stats: &mut RxStats,
        taken_bytes: &mut usize,
    ) -> Result<bool, RingFault> {
        self.from[index].wake()?;
        loop {
            let room = burst.bounds.batch_packets.saturating_sub(burst.batch.len());
            if room == 0 || *taken_bytes >= burst.bounds.batch_bytes || !burst.has_room() {
                return Ok(true);
            }
            let Some(lender) = burst.pool.borrow(self.terms.memory.regions()) else {
                return Ok(true);
            };
            *taken_bytes += self.take_ahead(index, room, burst)?;
            if self.chains.is_empty() {
                return Ok(false);
            }
            self.admit_taken(index, lender, burst, stats);
        }
    }

    /// Takes some chains and asks for their first bytes. Returns how many bytes.
    #[inline]
    fn take_ahead(&mut self, index: usize, room: usize, burst: &Burst) -> Result<usize, RingFault> {
        self.bufs.clear();
        self.chains.clear();
        let limit = AHEAD.min(room).min(burst.arena.free_packets());
        let vring = &mut self.from[index].ring.vring;
        let mut bytes = 0;
        while self.chains.len() < limit
            && bytes < burst.bounds.batch_bytes
            && self.bufs.len() + CHAIN_MAX <= burst.arena.free_frags()
        {
            let first = self.bufs.len();
            let Some(chain) = vring.pop(&mut self.bufs)? else {
                break;
            };
            for buf in &self.bufs[first..] {
                bytes += buf.len as usize;
            }
            // The header may stand alone: the packet's own is in the next then.
            self.bufs[first..].iter().take(2).for_each(Buf::prefetch);
            self.chains.push((chain, first));
        }
        Ok(bytes)
    }

    #[inline]
    fn admit_taken(
        &mut self,
        index: usize,
        lender: Lender,
        burst: &mut Burst,
        stats: &mut RxStats,
    ) {
        let before = burst.batch.len();
        for at in 0..self.chains.len() {
            let (chain, first) = self.chains[at];
            let end = self
                .chains
                .get(at + 1)
                .map_or(self.bufs.len(), |next| next.1);
            self.from[index].taken.push(chain);
            let bufs = &self.bufs[first..end];
            let scratch = (&mut *self.head, &mut self.frags);
            admit(bufs, &self.terms, lender, scratch, burst, stats);
        }
        if let Some(returns) = &mut self.returns {
            // Those of other rings in this batch were noted before.
            for id in burst.batch.iter().skip(before) {
                returns.note(index, burst.arena.packet(*id));
            }
        }
    }

    /// The way for a packet: that of its flow.
    #[inline]
    fn way_of(&self, packet: &Packet) -> usize {
        match self.ways.len() {
            0 | 1 => 0,
            count => {
                let returns = self.returns.as_ref();
                let seen = returns.and_then(|returns| returns.way(packet));
                seen.unwrap_or_else(|| packet.flow_hash() as usize % count)
            }
        }
    }
}

/// Admits the packet that a chain holds. `head` and `frags` are scratch.
#[inline]
fn admit(
    bufs: &[Buf],
    terms: &Terms,
    lender: Lender,
    (head, frags): (&mut [u8; VNET_MAX + HEAD_WANTED], &mut Vec<Frag>),
    burst: &mut Burst,
    stats: &mut RxStats,
) {
    let form = terms.form;
    if let [buf] = bufs
        && admit_plain(buf, form, lender, burst, stats)
    {
        return;
    }
    let form_len = form.len_bytes();
    let wanted = form_len + HEAD_WANTED;
    let mut head_len = 0;
    let mut total_len = 0;
    let mut skip = form_len as u32;
    frags.clear();
    for buf in bufs {
        if head_len < wanted {
            head_len += buf.copy_to(&mut head[head_len..wanted]);
        }
        total_len += buf.len as usize;
        if buf.len > skip {
            frags.push(Frag::new(buf.frag_at(lender, skip), buf.len - skip));
            skip = 0;
        } else {
            skip -= buf.len;
        }
    }
    let Some(vnet) = VnetHeader::decode(form, &head[..head_len]) else {
        return stats.faults.count(HeaderFault::ShortVnetHeader);
    };
    if total_len > PACKET_ROOM {
        return stats.faults.count(HeaderFault::PacketTooLong);
    }
    if let Err(fault) = vnet.check_negotiated(terms.hands) {
        return stats.faults.count(fault);
    }
    let head = &head[form_len..head_len];
    let vnet = Some((&vnet, Trust::Guest));
    burst.admit_lent(Link::Ethernet, head, frags, vnet, stats);
}

/// The same of a packet that lies in one buffer, if it is like nearly all: its headers go
/// right where they stay. `false`: it was looked at in vain, and nothing of that counts.
#[inline]
fn admit_plain(
    buf: &Buf,
    form: Form,
    lender: Lender,
    burst: &mut Burst,
    stats: &mut RxStats,
) -> bool {
    let Some(bytes) = buf.first::<MODERN_LEN>() else {
        return false;
    };
    let (true, Some(vnet)) = (
        form == Form::Modern12,
        VnetHeader::decode(Form::Modern12, &bytes),
    ) else {
        return false;
    };
    let skip = MODERN_LEN as u32;
    let Some(len @ 1..) = buf.len.checked_sub(skip) else {
        return false;
    };
    let whole = Frag::new(buf.frag_at(lender, skip), len);
    let vnet = Some((&vnet, Trust::Guest));
    burst.admit_plain(whole, vnet, |head| buf.copy_padded(MODERN_LEN, head), stats)
}

/// The packet's hash and what it was made of, as its header says it. With which key and for which types is
/// the guest's to say, on a control queue that stays with its monitor: so it is the
/// default key of Microsoft's drivers and the usual types.
fn hash_of(packet: &Packet, toeplitz: &Toeplitz) -> (u32, u16) {
    match HashInput::of(packet, HashTypes::USUAL, Transform::None) {
        Some(input) => (toeplitz.hash(input.as_bytes()), input.report().number()),
        None => (0, 0),
    }
}

fn epoll_of(rings: &[FromGuest]) -> Result<OwnedFd, Errno> {
    let set = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    for from in rings {
        let added = epoll::add(
            &set,
            &*from.ring.kick,
            EventData::new_u64(0),
            EventFlags::IN,
        );
        match added {
            // The same event for two rings wakes for both.
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(set)
}

impl Queue for VhostQueue {
    fn rx(&mut self, burst: &mut Burst, stats: &mut RxStats) -> RxEnd {
        if self.terms.health.get().is_some() {
            return RxEnd::Stopped;
        }
        let mut taken_bytes = 0;
        let mut end = RxEnd::Drained;
        for n in 0..self.from.len() {
            let index = (self.turn + n) % self.from.len();
            match self.receive(index, burst, stats, &mut taken_bytes) {
                Ok(false) => {}
                Ok(true) => {
                    end = RxEnd::More;
                    break;
                }
                Err(fault) => {
                    self.from[index].ring.broken(&self.terms, fault);
                    return RxEnd::Stopped;
                }
            }
        }
        self.turn = self.turn.wrapping_add(1);
        // What reads as zeros may look like an empty ring.
        if let (true, Some(from)) = (self.terms.memory.is_dead(), self.from.first()) {
            from.ring.broken(&self.terms, RingFault::MemoryTruncated);
            return RxEnd::Stopped;
        }
        end
    }

    #[inline]
    fn tx(&mut self, packet: &Packet, mut payload: Pieces<'_>, pool: &Pool) -> Result<(), TxFault> {
        let index = self.way_of(packet);
        let Self { terms, ways, .. } = self;
        let Some(way) = ways.get_mut(index) else {
            return Err(TxFault::LinkDown);
        };
        if terms.health.get().is_some() {
            return Err(TxFault::Stopped);
        }
        self.sent |= 1 << index;
        let sent = way.with(|to| to.send(packet, &mut payload, pool, terms));
        if sent == Err(TxFault::QueueFull) {
            self.full_way = index;
        }
        sent
    }

    fn publish(&mut self) {
        if self.terms.memory.is_dead() {
            let gone = RingFault::MemoryTruncated.to_string();
            // The first reason stays.
            let _ = self.terms.health.set(gone);
        }
        while self.sent != 0 {
            let index = self.sent.trailing_zeros() as usize;
            self.sent &= self.sent - 1;
            if let Some(way) = self.ways.get_mut(index) {
                way.with(|to| to.ring.publish());
            }
        }
    }

    fn release(&mut self) {
        self.from.iter_mut().for_each(FromGuest::release);
    }

    fn wait_for_room(&mut self, timeout: Duration) {
        let Self { terms, ways, .. } = self;
        if let Some(way) = ways.get_mut(self.full_way) {
            way.with(|to| to.wait(timeout, terms));
        }
    }

    fn can_wait(&self) -> bool {
        self.terms.health.get().is_none()
    }

    fn stopped_by(&self) -> Option<String> {
        self.terms.health.get().cloned()
    }

    fn arm(&mut self) -> bool {
        // What reads as zeros looks like an empty ring: `rx` says what it is.
        let mut more = self.terms.memory.is_dead();
        for from in &mut self.from {
            match from.sleep() {
                Ok(here) => more |= here,
                Err(fault) => {
                    from.ring.broken(&self.terms, fault);
                    more = true;
                }
            }
        }
        more
    }

    fn has_packets(&self) -> Option<bool> {
        Some(self.from.iter().any(|from| from.ring.vring.has_more()))
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        match (&self.kicks, self.from.as_slice()) {
            (Some(kicks), _) => Some(kicks.as_fd()),
            (None, [one]) => Some(one.ring.kick.as_fd()),
            (None, _) => None,
        }
    }
}

/// What a worker has of a guest that is not there.
#[derive(Debug)]
pub(super) struct NoGuest;

impl Queue for NoGuest {
    fn rx(&mut self, _: &mut Burst, _: &mut RxStats) -> RxEnd {
        RxEnd::Drained
    }

    fn tx(&mut self, _: &Packet, _: Pieces<'_>, _: &Pool) -> Result<(), TxFault> {
        Err(TxFault::LinkDown)
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}
