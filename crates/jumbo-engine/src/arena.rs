//! Where the packets of a burst live: a fixed set of slots, nothing allocated on the path.
//!
//! Slots are handed out newest-freed first, so that a stream whose packets all
//! merge keeps using the same few cache lines. Frags are only reclaimed all at
//! once: a burst ends by emptying the arena, or by saying where the payload of the
//! few that stay is from then on ([`Arena::keep_only`]).

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;

use crate::fragment;
use crate::packet::{Chain, Frag, HEADER_ROOM, HEADERS_MAX, L3_AT, Link, NIL, Packet, TAGS_MAX};
use crate::parse::{self, Opaque};
use crate::tunnel;
use crate::vnet::{self, HeaderFault, Trust, VnetHeader};

/// Bytes of a packet that [`Arena::admit`] wants to see: the private header and its VLAN tags.
pub const HEAD_WANTED: usize = HEADER_ROOM + 4 * TAGS_MAX;

/// Longest packet, bytes: 65535 of network packet, an Ethernet header and its VLAN tags.
pub const PACKET_LEN_MAX: usize = crate::superpacket::L3_TOTAL_MAX + L3_AT + 4 * TAGS_MAX;

/// The same for an arena that follows tunnels. With fewer bytes a tunnel is
/// followed as far as they go.
pub const HEAD_WANTED_TUNNELS: usize = HEADERS_MAX;

/// Names a packet in its [`Arena`].
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub struct PacketId(pub(crate) u32);

/// The packets of a burst and the frags they refer to.
#[derive(Debug)]
pub struct Arena {
    packets: Box<[Packet]>,
    free: Vec<u32>,
    frags: Box<[Frag]>,
    /// So many of them are in use.
    frags_used: usize,
    follows_tunnels: bool,
    /// What the numbers of the next fragments are made of, and a secret.
    fragments: u32,
    fragments_key: u32,
}

/// The end of a packet's payload, while pieces are put behind it.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Growth {
    tail: u32,
    used: usize,
    /// Where the payload ends, in the caller's terms.
    pub(crate) end: u64,
}

impl Growth {
    /// No packet's.
    pub(crate) const NONE: Self = Self {
        tail: NIL,
        used: 0,
        end: 0,
    };
}

/// A packet was admitted.
#[derive(Copy, Clone, Debug)]
pub struct Admitted {
    /// Its name.
    pub id: PacketId,
    /// Why its headers could not be followed down to TCP or UDP, if so.
    pub opaque: Option<Opaque>,
}

impl Arena {
    /// Room for so many packets and pieces of payload at a time. Allocates once.
    pub fn new(packets: usize, frags: usize) -> Self {
        let packets = packets.min(NIL as usize);
        Self {
            packets: vec![Packet::BLANK; packets].into_boxed_slice(),
            free: (0..packets as u32).rev().collect(),
            frags: vec![Frag::new(0, 0); frags].into_boxed_slice(),
            frags_used: 0,
            follows_tunnels: false,
            fragments: 0,
            fragments_key: 0,
        }
    }

    /// Chooses the identification of the fragments that IPv6 datagrams of UFO become. `seed` should be
    /// unknown to others: who can guess the next number can spoil a datagram (RFC 7739 section 3).
    pub fn number_fragments_from(&mut self, seed: u64) {
        (self.fragments, self.fragments_key) = (seed as u32, (seed >> 32) as u32);
    }

    /// Follows one level of tunnels ([`crate::tunnel`]) from now on, and takes virtio
    /// headers that describe one. Hand over [`HEAD_WANTED_TUNNELS`] bytes then.
    pub fn follow_tunnels(&mut self, follow: bool) {
        self.follows_tunnels = follow;
    }

    /// Whether tunnels are followed.
    #[inline]
    pub fn follows_tunnels(&self) -> bool {
        self.follows_tunnels
    }

    /// Packets that could still be admitted.
    #[inline]
    pub fn free_packets(&self) -> usize {
        self.free.len()
    }

    /// Pieces of payload that could still be noted.
    #[inline]
    pub fn free_frags(&self) -> usize {
        self.frags.len() - self.frags_used
    }

    /// Packets inside.
    #[inline]
    pub fn live(&self) -> usize {
        self.packets.len() - self.free.len()
    }

    /// Takes a packet in: copies its headers, parses them, and translates the
    /// virtio header, believing nothing it says before it was checked.
    ///
    /// `head` are the first bytes, at least `min(packet length, HEAD_WANTED)` of
    /// them; `body` is the whole packet from its first byte on, headers
    /// included, in the caller's terms. `vnet` is the header that came with it,
    /// if the port has one. Bytes behind the IP length (Ethernet padding) are cut off.
    ///
    /// # Errors
    /// The [`HeaderFault`] for which the packet is to be dropped.
    #[inline]
    pub fn admit(
        &mut self,
        link: Link,
        head: &[u8],
        body: &[Frag],
        vnet: Option<(&VnetHeader, Trust)>,
    ) -> Result<Admitted, HeaderFault> {
        let total_len = match body {
            [whole] => whole.len as usize,
            pieces => pieces.iter().map(|frag| frag.len as usize).sum(),
        };
        if total_len > PACKET_LEN_MAX {
            return Err(HeaderFault::PacketTooLong);
        }
        if head.len() < total_len.min(HEAD_WANTED) {
            return Err(HeaderFault::HeadMissing);
        }
        let (Some(&slot), true) = (self.free.last(), body.len() <= self.free_frags()) else {
            return Err(HeaderFault::NoRoom);
        };
        let packet = &mut self.packets[slot as usize];
        let mut opaque = parse::load(
            packet,
            link,
            head,
            total_len,
            vnet.is_some_and(|(h, _)| h.is_gso()),
        )?;
        let mut tunnel_len = 0;
        if self.follows_tunnels {
            let vnet = vnet.map(|(header, _)| header);
            let described = vnet.is_some_and(VnetHeader::is_tunnel);
            if described || tunnel::suspected(packet) {
                if follow_tunnel(packet, head, vnet, opaque)? {
                    opaque = None;
                }
                tunnel_len = usize::from(packet.tunnel.len);
            }
        }
        if let Some((header, trust)) = vnet {
            vnet::translate(packet, header, trust, total_len)?;
            packet.trusted = trust == Trust::Kernel;
            if header.is_ufo() {
                self.fragments = self.fragments.wrapping_add(1);
                fragment::set_id(packet, mixed(self.fragments, self.fragments_key));
            }
        }
        let skip = tunnel_len + packet.inner_header_len() + packet.tags.len_bytes();
        let keep = packet.payload_len;
        let chain = self.note(body, skip, keep);
        self.packets[slot as usize].chain = chain;
        self.free.pop();
        Ok(Admitted {
            id: PacketId(slot),
            opaque,
        })
    }

    /// Takes in a packet that lies in one piece, if it is like nearly all: Ethernet without
    /// tags, IP without options, TCP or UDP, no super-packet. Otherwise `None`, and nothing has happened:
    /// [`Arena::admit`] says what it is.
    ///
    /// `fill` writes the packet's first bytes, as many as it has, right where they stay, with
    /// zeros behind them. A second call of it may write others; those count then.
    #[inline]
    pub fn admit_plain(
        &mut self,
        whole: Frag,
        vnet: Option<(&VnetHeader, Trust)>,
        fill: impl FnOnce(&mut [u8; HEADER_ROOM]),
    ) -> Option<PacketId> {
        let total_len = whole.len as usize;
        let gso = vnet.is_some_and(|(header, _)| header.is_gso());
        if gso || total_len > PACKET_LEN_MAX || self.free_frags() == 0 {
            return None;
        }
        let slot = *self.free.last()?;
        let packet = &mut self.packets[slot as usize];
        fill(&mut packet.bytes);
        if !parse::load_plain(packet, total_len)
            || self.follows_tunnels && tunnel::suspected(packet)
        {
            return None;
        }
        if let Some((header, trust)) = vnet {
            vnet::translate(packet, header, trust, total_len).ok()?;
            packet.trusted = trust == Trust::Kernel;
        }
        let (skip, keep) = (packet.inner_header_len(), packet.payload_len);
        let chain = self.note_one(&whole, skip, keep);
        self.packets[slot as usize].chain = chain;
        self.free.pop();
        Some(PacketId(slot))
    }

    /// Notes `keep` bytes of `body` from byte `skip` on as a chain.
    #[inline]
    fn note(&mut self, body: &[Frag], mut skip: usize, keep: u32) -> Chain {
        if let [whole] = body {
            return self.note_one(whole, skip, keep);
        }
        let mut chain = Chain::EMPTY;
        let mut left = keep;
        for frag in body {
            if skip >= frag.len as usize {
                skip -= frag.len as usize;
                continue;
            }
            if left == 0 {
                break;
            }
            let len = (frag.len - skip as u32).min(left);
            let at = frag.at.wrapping_add(skip as u64);
            skip = 0;
            left -= len;
            let index = self.push(Frag::new(at, len));
            if chain.tail == NIL {
                chain.head = index;
            } else if let Some(tail) = self.frags.get_mut(chain.tail as usize) {
                tail.next = index;
            }
            chain.tail = index;
        }
        chain
    }

    /// The same for a packet that lies in one piece, as nearly all do.
    #[inline(always)]
    fn note_one(&mut self, whole: &Frag, skip: usize, keep: u32) -> Chain {
        if keep == 0 {
            return Chain::EMPTY;
        }
        let at = whole.at.wrapping_add(skip as u64);
        let index = self.push(Frag::new(at, keep));
        Chain {
            head: index,
            tail: index,
        }
    }

    /// The packet. Panics if the id was not given out by this arena.
    #[inline]
    pub fn packet(&self, id: PacketId) -> &Packet {
        &self.packets[id.0 as usize]
    }

    /// The packet, to be changed.
    #[inline]
    pub fn packet_mut(&mut self, id: PacketId) -> &mut Packet {
        &mut self.packets[id.0 as usize]
    }

    /// Gives the packet's slot back. When the last packet goes, all frags go.
    #[inline]
    pub fn release(&mut self, id: PacketId) {
        debug_assert!(!self.free.contains(&id.0), "released twice");
        self.free.push(id.0);
        if self.free.len() == self.packets.len() {
            self.frags_used = 0;
        }
    }

    /// The packet's payload, piece by piece.
    #[inline]
    pub fn payload(&self, id: PacketId) -> Pieces<'_> {
        let packet = self.packet(id);
        Pieces {
            frags: self.frags.get(..self.frags_used).unwrap_or(&[]),
            next: packet.chain.head,
            skip: 0,
            left: packet.payload_len,
        }
    }

    /// Forgets every piece of payload but one for each packet named: all its payload is at
    /// that place from now on. For packets that outlive their burst; they must be all there are.
    pub fn keep_only(&mut self, kept: &[(PacketId, u64)]) {
        debug_assert_eq!(kept.len(), self.live(), "others still refer to theirs");
        self.frags_used = 0;
        for (id, at) in kept {
            let packet = &mut self.packets[id.0 as usize];
            packet.chain = Chain::EMPTY;
            let place = self.frags.get_mut(self.frags_used);
            if let Some(place) = place.filter(|_| packet.payload_len != 0) {
                *place = Frag::new(*at, packet.payload_len);
                let index = self.frags_used as u32;
                packet.chain = Chain {
                    head: index,
                    tail: index,
                };
                self.frags_used += 1;
            }
        }
    }

    /// How many packets in one piece could be admitted and absorbed, after what has grown.
    #[inline(always)]
    pub(crate) fn room(&self, growth: &Growth) -> u32 {
        match self.free.is_empty() {
            true => 0,
            false => (self.frags.len() - growth.used) as u32,
        }
    }

    /// The packet's payload, if it lies in one piece.
    #[inline(always)]
    pub(crate) fn only_piece(&self, id: PacketId) -> Option<Frag> {
        let chain = self.packet(id).chain;
        let one = chain.head == chain.tail;
        one.then(|| self.frags.get(chain.head as usize).copied())?
    }

    /// Its one piece of payload is elsewhere from now on.
    #[inline(always)]
    pub(crate) fn move_payload(&mut self, id: PacketId, at: u64) {
        let head = self.packet(id).chain.head as usize;
        if let Some(frag) = self.frags.get_mut(head) {
            frag.at = at;
        }
    }

    /// Where the payload of a packet ends, in the caller's terms; of one without, anywhere.
    #[inline(always)]
    pub(crate) fn payload_end(&self, id: PacketId) -> u64 {
        let last = self.frags.get(self.packet(id).chain.tail as usize);
        last.map_or(0, |last| last.at.wrapping_add(u64::from(last.len)))
    }

    /// Where more payload of a packet would go.
    #[inline(always)]
    pub(crate) fn growth(&self, id: PacketId) -> Growth {
        Growth {
            tail: self.packet(id).chain.tail,
            used: self.frags_used,
            end: self.payload_end(id),
        }
    }

    /// Puts a piece there, and moves on; there must be [`Arena::room`].
    #[inline(always)]
    pub(crate) fn append(&mut self, growth: &mut Growth, frag: Frag) {
        let Some(last) = self.frags.get_mut(growth.tail as usize) else {
            debug_assert!(false, "onto a packet without payload");
            return;
        };
        if growth.end == frag.at {
            last.len += frag.len;
        } else {
            last.next = growth.used as u32;
            let Some(place) = self.frags.get_mut(growth.used) else {
                debug_assert!(false, "no room");
                return;
            };
            *place = frag;
            growth.tail = growth.used as u32;
            growth.used += 1;
        }
        growth.end = frag.at.wrapping_add(u64::from(frag.len));
    }

    /// The packet has grown so far, by `payload_len` bytes.
    #[inline(always)]
    pub(crate) fn grown(&mut self, id: PacketId, growth: &Growth, payload_len: u32) {
        self.frags_used = growth.used;
        let packet = self.packet_mut(id);
        packet.payload_len += payload_len;
        packet.chain.tail = growth.tail;
    }

    /// Notes a frag; there must be room. Returns its index.
    #[inline(always)]
    fn push(&mut self, frag: Frag) -> u32 {
        let index = self.frags_used;
        if let Some(place) = self.frags.get_mut(index) {
            *place = frag;
            self.frags_used = index + 1;
        }
        index as u32
    }

    /// Moves the payload of `from` behind that of `onto` and gives its slot
    /// back; bytes that happen to be neighbours become one piece.
    #[inline(always)]
    pub(crate) fn absorb(&mut self, onto: PacketId, from: PacketId) {
        let moved = self.packet(from);
        let (chain, payload_len) = (moved.chain, moved.payload_len);
        let head = &mut self.packets[onto.0 as usize];
        head.payload_len += payload_len;
        // Both have payload: a packet without is no candidate.
        let old_tail = core::mem::replace(&mut head.chain.tail, chain.tail);
        if let Some(&first) = self.frags.get(chain.head as usize)
            && let Some(last) = self.frags.get_mut(old_tail as usize)
        {
            if last.at.wrapping_add(u64::from(last.len)) != first.at {
                last.next = chain.head;
            } else {
                last.len += first.len;
                last.next = first.next;
                if first.next == NIL {
                    head.chain.tail = old_tail;
                }
            }
        }
        // Another packet is left, so the frags stay.
        self.free.push(from.0);
    }
}

/// Follows the tunnel that a virtio header describes, or that the packet's own headers suggest.
#[cold]
#[inline(never)]
fn follow_tunnel(
    packet: &mut Packet,
    head: &[u8],
    vnet: Option<&VnetHeader>,
    opaque: Option<Opaque>,
) -> Result<bool, HeaderFault> {
    if let Some(header) = vnet.filter(|header| header.is_tunnel()) {
        tunnel::enter_described(packet, head, header)?;
        return Ok(true);
    }
    Ok(tunnel::follow(packet, head, vnet, opaque))
}

/// A number that is met once in 2^32 (the finalizer of MurmurHash3 is a permutation).
fn mixed(count: u32, key: u32) -> u32 {
    let round = |x: u32| {
        let x = (x ^ x >> 16).wrapping_mul(0x85eb_ca6b);
        let x = (x ^ x >> 13).wrapping_mul(0xc2b2_ae35);
        x ^ x >> 16
    };
    round(round(count) ^ key)
}

/// A packet's payload or a part of it: an iterator over the caller's bytes.
#[derive(Copy, Clone, Debug)]
pub struct Pieces<'a> {
    frags: &'a [Frag],
    next: u32,
    skip: u32,
    left: u32,
}

impl<'a> Pieces<'a> {
    /// No bytes.
    pub const EMPTY: Self = Self {
        frags: &[],
        next: NIL,
        skip: 0,
        left: 0,
    };

    /// One piece.
    #[inline]
    pub const fn one(frag: &'a Frag) -> Self {
        Self {
            frags: core::slice::from_ref(frag),
            next: 0,
            skip: 0,
            left: frag.len,
        }
    }

    /// The bytes as one piece, if they lie so.
    #[inline]
    pub fn only(&self) -> Option<Frag> {
        let mut rest = *self;
        let frag = rest.next()?;
        (rest.left == 0).then_some(frag)
    }

    /// Bytes still to come.
    #[inline]
    pub fn len_bytes(&self) -> usize {
        self.left as usize
    }

    /// The next `len` bytes as pieces of their own; `self` goes on behind them.
    #[inline]
    pub fn split_off(&mut self, len: u32) -> Pieces<'a> {
        let len = len.min(self.left);
        let part = Pieces { left: len, ..*self };
        self.advance(len);
        part
    }

    #[inline]
    fn advance(&mut self, mut len: u32) {
        self.left -= len;
        while let Some(frag) = self.frags.get(self.next as usize) {
            let here = frag.len - self.skip;
            if len < here {
                self.skip += len;
                return;
            }
            len -= here;
            self.next = frag.next;
            self.skip = 0;
        }
    }
}

impl Iterator for Pieces<'_> {
    type Item = Frag;

    #[inline]
    fn next(&mut self) -> Option<Frag> {
        if self.left == 0 {
            return None;
        }
        let frag = self.frags.get(self.next as usize)?;
        let len = (frag.len - self.skip).min(self.left);
        let piece = Frag::new(frag.at.wrapping_add(u64::from(self.skip)), len);
        self.left -= len;
        self.next = frag.next;
        self.skip = 0;
        Some(piece)
    }
}

/// The caller's memory, as far as the engine must look at payload: to verify or
/// complete a checksum.
pub trait Memory {
    /// One's-complement sum of the bytes of `frag`, as if they began at an even
    /// offset; `None` if the memory does not have them.
    fn sum(&self, frag: Frag) -> Option<crate::checksum::Sum>;

    /// The same, and a chance to copy the bytes while they are looked at
    /// ([`crate::stage`] does): returns their sum and where they are from now on, as a
    /// [`Frag::at`]. `behind` is where the payload ends that they are to follow, so that
    /// a copy can be its neighbour; `None` if they come first. If the sum is not what it
    /// should be, the copy is not used, and the same place may be asked for again.
    #[inline]
    fn sum_and_place(
        &self,
        frag: Frag,
        behind: Option<u64>,
    ) -> Option<(crate::checksum::Sum, u64)> {
        let _ = behind;
        Some((self.sum(frag)?, frag.at))
    }

    /// The copy at `at`, made last by [`Memory::sum_and_place`] with nothing before it, is not used.
    #[inline]
    fn forget(&self, at: u64) {
        let _ = at;
    }
}

/// The sum over all pieces, in their order; `None` if the memory lacks one of them.
#[inline]
pub fn sum_pieces(memory: &impl Memory, pieces: Pieces<'_>) -> Option<crate::checksum::Sum> {
    let mut total = crate::checksum::Sum::default();
    let mut odd = false;
    for frag in pieces {
        let sum = memory.sum(frag)?;
        total = total.add(if odd { sum.swapped() } else { sum });
        odd ^= frag.len & 1 == 1;
    }
    Some(total)
}

/// Memory that is one slice; `at` is an index into it. For callers whose packets
/// lie in a buffer of their own; lives for one call.
#[derive(Copy, Clone, Debug)]
pub struct SliceMemory<'a> {
    bytes: &'a [u8],
    kernels: crate::checksum::Kernels,
}

impl<'a> SliceMemory<'a> {
    /// Looks at `bytes` with the given checksum kernels.
    pub fn new(bytes: &'a [u8], kernels: crate::checksum::Kernels) -> Self {
        Self { bytes, kernels }
    }

    /// The kernels it was made with.
    #[inline]
    pub(crate) fn kernels(&self) -> crate::checksum::Kernels {
        self.kernels
    }

    /// The bytes of `frag`, or `None` if they are not inside.
    #[inline]
    pub fn bytes(&self, frag: Frag) -> Option<&'a [u8]> {
        let start = usize::try_from(frag.at).ok()?;
        self.bytes.get(start..start.checked_add(frag.len as usize)?)
    }
}

impl crate::stage::Bytes for SliceMemory<'_> {
    #[inline]
    fn bytes(&self, frag: Frag) -> Option<&[u8]> {
        SliceMemory::bytes(self, frag)
    }
}

impl Memory for SliceMemory<'_> {
    #[inline]
    fn sum(&self, frag: Frag) -> Option<crate::checksum::Sum> {
        Some(self.kernels.sum(self.bytes(frag)?))
    }
}

const _: () = assert!(L3_AT == 14);
