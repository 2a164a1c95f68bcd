//! A packet: private headers, payload by reference, and what is not yet true of it.
//!
//! The headers are a private copy, so that whoever owns the memory they came
//! from (a guest, a ring shared with the kernel) cannot change them after they
//! were checked. The payload is never copied here: it is a chain of [`Frag`]s,
//! plain indices that only the caller's memory can resolve. **A frag is valid
//! until the end of the burst in which it was received and never longer.**
//!
//! Inside [`Packet`] the network header always stands at [`L3_AT`], whether or
//! not there is an Ethernet header before it, and VLAN tags are kept beside the
//! bytes. So every comparison of two packets is a comparison of fixed places.

use crate::pending::Pending;
use crate::tunnel::Tunnel;

/// Private header bytes of a packet: Ethernet (14) and the longest TCP header
/// behind IPv6 (40 + 60) with room for 14 bytes of extension headers.
pub const HEADER_ROOM: usize = 128;

/// Private header bytes before the inner network header of a packet in a tunnel:
/// Ethernet (14), IPv6 (40), UDP (8), VXLAN (8) and an inner Ethernet header with
/// two tags (22) leave 36 bytes for Geneve's options.
pub const OUTER_ROOM: usize = HEADER_ROOM;

/// Where the network header starts in the private header bytes.
pub const L3_AT: usize = 14;

/// Most bytes that [`Packet::write_header`] writes: both parts and two VLAN tags.
pub const HEADERS_MAX: usize = HEADER_ROOM + OUTER_ROOM + 4 * TAGS_MAX;

/// Most VLAN tags kept beside the bytes (802.1ad: a service and a customer tag).
pub const TAGS_MAX: usize = 2;

/// What a frag chain ends with.
pub(crate) const NIL: u32 = u32::MAX;

/// `len` bytes of payload at `at`. Only the owner of the memory knows what `at` means;
/// the engine relies on one thing: `at + n` is the n-th byte after `at`.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Frag {
    /// Where the bytes are, in the caller's terms.
    pub at: u64,
    /// How many bytes.
    pub len: u32,
    pub(crate) next: u32,
}

impl Frag {
    /// A frag that stands alone.
    pub const fn new(at: u64, len: u32) -> Self {
        Self { at, len, next: NIL }
    }
}

/// A chain of frags in an [`crate::arena::Arena`].
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) struct Chain {
    pub(crate) head: u32,
    pub(crate) tail: u32,
}

impl Chain {
    pub(crate) const EMPTY: Self = Self {
        head: NIL,
        tail: NIL,
    };
}

/// How a packet's bytes begin.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Link {
    /// Destination, source and type: 14 bytes, then perhaps VLAN tags.
    Ethernet,
    /// The first byte belongs to an IPv4 or IPv6 header (TUN).
    RawIp,
}

/// The network layer that was recognised.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum Net {
    /// None: ARP, an unknown type, or a header that is not one.
    #[default]
    None,
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// The transport layer that was recognised.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum Transport {
    /// None: a fragment, another protocol, or a header that lies.
    #[default]
    None,
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// What parsing found. Lengths are bytes. Of a packet in a tunnel that was followed
/// they are the inner packet's, whose link header counts as the tunnel's.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Default)]
pub struct Layers {
    /// Link header: 14, or 0 for raw IP. VLAN tags are not part of it.
    pub l2_len: u8,
    /// Network header with IPv4 options or IPv6 extension headers; 0 if `net` is none.
    pub l3_len: u8,
    /// Transport header with TCP options; for [`Transport::None`] what was kept
    /// private beyond the network header.
    pub l4_len: u8,
    /// The network layer.
    pub net: Net,
    /// The transport layer.
    pub transport: Transport,
    /// IP protocol number behind the network header (and its extension headers).
    pub protocol: u8,
    /// A fragment: more follow, or it does not start at offset zero.
    pub fragment: bool,
    /// IPv4 options or IPv6 extension headers are present.
    pub extended: bool,
}

/// One VLAN tag, as on the wire: the EtherType that announces it and the tag control word.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Default)]
pub struct Tag {
    /// 0x8100 (802.1Q) or 0x88a8 (802.1ad).
    pub tpid: u16,
    /// Priority (3 bits), drop eligible (1), VLAN id (12).
    pub tci: u16,
}

/// The VLAN tags of a packet, outermost first. Places beyond the count are zero.
#[derive(Copy, Clone, Debug, Default)]
pub struct Tags {
    tags: [Tag; TAGS_MAX],
    count: u8,
}

impl PartialEq for Tags {
    #[inline(always)]
    fn eq(&self, other: &Self) -> bool {
        self.count == other.count && (self.count == 0 || self.tags == other.tags)
    }
}

impl Eq for Tags {}

impl Tags {
    /// Bytes the tags take on the wire.
    #[inline]
    pub fn len_bytes(&self) -> usize {
        usize::from(self.count) * 4
    }

    /// Whether the packet is untagged.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The tags, outermost first.
    pub fn as_slice(&self) -> &[Tag] {
        &self.tags[..usize::from(self.count).min(TAGS_MAX)]
    }

    /// Adds a tag inside the present ones; `false` if there is no room.
    pub fn push_inner(&mut self, tag: Tag) -> bool {
        let at = usize::from(self.count);
        if at >= TAGS_MAX {
            return false;
        }
        self.tags[at] = tag;
        self.count += 1;
        true
    }

    /// Adds a tag outside the present ones; `false` if there is no room.
    pub fn push_outer(&mut self, tag: Tag) -> bool {
        if usize::from(self.count) >= TAGS_MAX {
            return false;
        }
        self.tags.rotate_right(1);
        self.tags[0] = tag;
        self.count += 1;
        true
    }

    /// Removes the outermost tag.
    pub fn pop_outer(&mut self) -> Option<Tag> {
        if self.count == 0 {
            return None;
        }
        let outer = self.tags[0];
        self.tags.rotate_left(1);
        self.tags[TAGS_MAX - 1] = Tag::default();
        self.count -= 1;
        Some(outer)
    }

    /// VLAN id of the outermost tag, 0 without one.
    #[inline]
    pub fn outer_vid(&self) -> u16 {
        if self.count == 0 {
            0
        } else {
            self.tags[0].tci & 0x0fff
        }
    }
}

/// A packet inside the engine.
#[derive(Clone, Debug)]
#[repr(C, align(64))]
pub struct Packet {
    pub(crate) bytes: [u8; HEADER_ROOM],
    pub(crate) layers: Layers,
    pub(crate) pending: Pending,
    pub(crate) tags: Tags,
    pub(crate) chain: Chain,
    pub(crate) payload_len: u32,
    /// Its virtio header came from somebody trusted ([`crate::vnet::Trust::Kernel`]).
    pub(crate) trusted: bool,
    /// Free for the caller, who may note the port it came from.
    pub origin: u32,
    /// Where the outer headers are, if it is in a tunnel.
    pub(crate) tunnel: Tunnel,
    /// The outer headers, with the network header at [`L3_AT`]. Not touched without a tunnel, but
    /// for the number that fragments of an IPv6 datagram will have ([`crate::fragment`]).
    pub(crate) outer: [u8; OUTER_ROOM],
}

impl Packet {
    pub(crate) const BLANK: Self = Self {
        bytes: [0; HEADER_ROOM],
        layers: Layers {
            l2_len: 0,
            l3_len: 0,
            l4_len: 0,
            net: Net::None,
            transport: Transport::None,
            protocol: 0,
            fragment: false,
            extended: false,
        },
        pending: Pending::NOTHING,
        tags: Tags {
            tags: [Tag { tpid: 0, tci: 0 }; TAGS_MAX],
            count: 0,
        },
        chain: Chain::EMPTY,
        payload_len: 0,
        trusted: false,
        origin: 0,
        tunnel: Tunnel::NONE,
        outer: [0; OUTER_ROOM],
    };

    /// What parsing found.
    #[inline]
    pub fn layers(&self) -> &Layers {
        &self.layers
    }

    /// What is not yet true of the bytes.
    #[inline]
    pub fn pending(&self) -> &Pending {
        &self.pending
    }

    /// The VLAN tags, which are not in the bytes.
    #[inline]
    pub fn tags(&self) -> &Tags {
        &self.tags
    }

    /// Changes the VLAN tags.
    #[inline]
    pub fn tags_mut(&mut self) -> &mut Tags {
        &mut self.tags
    }

    /// Where the private header starts in `bytes`: 0, or [`L3_AT`] for raw IP.
    #[inline]
    pub(crate) fn start(&self) -> usize {
        L3_AT - usize::from(self.layers.l2_len)
    }

    /// The tunnel around what [`Packet::layers`] describes.
    #[inline]
    pub fn tunnel(&self) -> &Tunnel {
        &self.tunnel
    }

    /// Whether [`Packet::layers`] describes what is inside a tunnel.
    #[inline]
    pub fn is_in_tunnel(&self) -> bool {
        self.tunnel.is_some()
    }

    /// Whether the outer headers are what they should be, given that the inner checksum is right or
    /// still to be made: the IPv4 header's checksum, and UDP's if it is in use. `true` without a tunnel.
    pub fn outer_is_sound(&self) -> bool {
        !self.tunnel.is_some()
            || (crate::tunnel::outer_is_plain(self) && crate::tunnel::outer_csum_is_good(self))
    }

    /// Whether [`Packet::header`] is all there is before the payload: no tunnel that
    /// was followed, no VLAN tag kept beside it.
    #[inline(always)]
    pub fn header_is_whole(&self) -> bool {
        !self.tunnel.is_some() && self.tags.is_empty()
    }

    /// Link, network and transport header together, without VLAN tags, in bytes;
    /// those of a tunnel included.
    #[inline]
    pub fn header_len(&self) -> usize {
        usize::from(self.tunnel.len) + self.inner_header_len()
    }

    /// The part of the header that is in `bytes`.
    #[inline]
    pub(crate) fn inner_header_len(&self) -> usize {
        usize::from(self.layers.l2_len)
            + usize::from(self.layers.l3_len)
            + usize::from(self.layers.l4_len)
    }

    /// Where the transport header starts, counted from the packet's first byte, VLAN tags left out.
    #[inline(always)]
    pub(crate) fn l4_offset(&self) -> usize {
        usize::from(self.tunnel.len)
            + usize::from(self.layers.l2_len)
            + usize::from(self.layers.l3_len)
    }

    /// The private header bytes, without VLAN tags. Of a packet in a tunnel those
    /// from the inner network header on: [`Packet::outer_header`] comes before them.
    #[inline]
    pub fn header(&self) -> &[u8] {
        let start = self.start();
        let end = (start + self.inner_header_len()).min(HEADER_ROOM);
        &self.bytes[start..end]
    }

    /// The headers of the tunnel, inner Ethernet header included; empty without one.
    #[inline]
    pub fn outer_header(&self) -> &[u8] {
        let start = L3_AT - usize::from(self.tunnel.l2_len);
        match self.tunnel.is_some() {
            true => &self.outer[start.min(L3_AT)..self.tunnel.end()],
            false => &[],
        }
    }

    /// Bytes behind the header.
    #[inline]
    pub fn payload_len(&self) -> u32 {
        self.payload_len
    }

    /// Length of the whole packet as it would leave now, VLAN tags included, in bytes.
    #[inline]
    pub fn wire_len(&self) -> usize {
        self.header_len() + self.tags.len_bytes() + self.payload_len as usize
    }

    /// Network header and everything behind it, in bytes: what an MTU limits.
    /// The outermost one's.
    #[inline]
    pub fn l3_total_len(&self) -> usize {
        usize::from(self.tunnel.len) - usize::from(self.tunnel.l2_len) + self.inner_l3_total_len()
    }

    /// The same from the network header in `bytes` on.
    #[inline]
    pub(crate) fn inner_l3_total_len(&self) -> usize {
        usize::from(self.layers.l3_len)
            + usize::from(self.layers.l4_len)
            + self.payload_len as usize
    }

    /// Destination MAC, or `None` for raw IP. Of a packet in a tunnel, the outer one.
    #[inline]
    pub fn dst_mac(&self) -> Option<[u8; 6]> {
        self.mac(0)
    }

    /// Source MAC, or `None` for raw IP. Of a packet in a tunnel, the outer one.
    #[inline]
    pub fn src_mac(&self) -> Option<[u8; 6]> {
        self.mac(6)
    }

    #[inline(always)]
    fn mac(&self, at: usize) -> Option<[u8; 6]> {
        if self.tunnel.is_some() {
            return (self.tunnel.l2_len != 0).then(|| self.outer_array(at));
        }
        (self.layers.l2_len != 0).then(|| self.array(at))
    }

    /// Writes the header as it goes on the wire, VLAN tags back in their place.
    /// Returns its length, or `None` if `out` is too short
    /// ([`HEADERS_MAX`] bytes always suffice; without tunnels, [`HEADER_ROOM`] + 8).
    #[inline]
    pub fn write_header(&self, out: &mut [u8]) -> Option<usize> {
        if self.tunnel.is_some() || !self.tags.is_empty() {
            return self.write_header_in_parts(out);
        }
        let header = self.header();
        copy_short(out.get_mut(..header.len())?, header);
        Some(header.len())
    }

    /// The same with tags or the headers of a tunnel.
    #[inline(never)]
    fn write_header_in_parts(&self, out: &mut [u8]) -> Option<usize> {
        if !self.tunnel.is_some() {
            return self.write_tagged(self.header(), self.layers.l2_len, out);
        }
        let inner = self.header();
        let outer_len = self.write_tagged(self.outer_header(), self.tunnel.l2_len, out)?;
        out.get_mut(outer_len..outer_len + inner.len())?
            .copy_from_slice(inner);
        Some(outer_len + inner.len())
    }

    /// Writes a header that begins with the link header, and the tags into that.
    #[inline(always)]
    fn write_tagged(&self, header: &[u8], l2_len: u8, out: &mut [u8]) -> Option<usize> {
        let len = header.len() + self.tags.len_bytes();
        let out = out.get_mut(..len)?;
        if self.tags.is_empty() || l2_len == 0 {
            out.get_mut(..header.len())?.copy_from_slice(header);
            return Some(header.len());
        }
        out[..12].copy_from_slice(&header[..12]);
        let mut at = 12;
        for tag in self.tags.as_slice() {
            out[at..at + 2].copy_from_slice(&tag.tpid.to_be_bytes());
            out[at + 2..at + 4].copy_from_slice(&tag.tci.to_be_bytes());
            at += 4;
        }
        out[at..].copy_from_slice(&header[12..]);
        Some(len)
    }

    /// A number that tells flows apart, the same for both directions of one; 0 for
    /// what has no network layer. The inner one's, in a tunnel. Not keyed: not for a table a sender could attack.
    #[inline]
    pub fn flow_hash(&self) -> u32 {
        let words =
            |from: usize, count: usize| (0..count).fold(0, |sum, n| sum ^ self.be32(from + 4 * n));
        let addresses = match self.layers.net {
            Net::None => return 0,
            Net::V4 => words(L3_AT + 12, 2),
            Net::V6 => words(L3_AT + 8, 8),
        };
        let ports = match self.layers.transport {
            Transport::None => 0,
            Transport::Tcp | Transport::Udp => self.be32(self.l4_at()),
        };
        let ports = (ports >> 16) ^ (ports & 0xffff);
        (addresses ^ ports).wrapping_mul(0x9e37_79b1) >> 7
    }

    /// `N` bytes at a fixed place of `bytes`. Out of range cannot happen for the
    /// constant places it is used with; it reads zeros rather than panic.
    #[inline(always)]
    pub(crate) fn array<const N: usize>(&self, at: usize) -> [u8; N] {
        array(&self.bytes, at)
    }

    /// `N` bytes of the outer headers; zeros beyond their end.
    #[inline(always)]
    pub(crate) fn outer_array<const N: usize>(&self, at: usize) -> [u8; N] {
        match self.outer.get(at..at + N) {
            Some(bytes) => bytes.try_into().unwrap_or([0; N]),
            None => [0; N],
        }
    }

    /// Big-endian 16-bit word at `at` of the outer headers.
    #[inline(always)]
    pub(crate) fn outer_be16(&self, at: usize) -> u16 {
        u16::from_be_bytes(self.outer_array(at))
    }

    /// Writes a big-endian 16-bit word of the outer headers.
    #[inline(always)]
    pub(crate) fn set_outer_be16(&mut self, at: usize, value: u16) {
        if let Some(bytes) = self.outer.get_mut(at..at + 2) {
            bytes.copy_from_slice(&value.to_be_bytes());
        }
    }

    /// Big-endian 16-bit word at `at` of `bytes`.
    #[inline(always)]
    pub(crate) fn be16(&self, at: usize) -> u16 {
        u16::from_be_bytes(self.array(at))
    }

    /// Big-endian 32-bit word at `at` of `bytes`.
    #[inline(always)]
    pub(crate) fn be32(&self, at: usize) -> u32 {
        u32::from_be_bytes(self.array(at))
    }

    /// Writes a big-endian 16-bit word; a place outside the private bytes is left alone.
    #[inline(always)]
    pub(crate) fn set_be16(&mut self, at: usize, value: u16) {
        if let Some(bytes) = self.bytes.get_mut(at..at + 2) {
            bytes.copy_from_slice(&value.to_be_bytes());
        }
    }

    /// Writes a big-endian 32-bit word; a place outside the private bytes is left alone.
    #[inline(always)]
    pub(crate) fn set_be32(&mut self, at: usize, value: u32) {
        if let Some(bytes) = self.bytes.get_mut(at..at + 4) {
            bytes.copy_from_slice(&value.to_be_bytes());
        }
    }

    /// Packets it stands for: its segments, or one.
    #[inline(always)]
    pub(crate) fn segments(&self) -> u16 {
        match self.pending.gso {
            None => 1,
            Some(gso) => gso.segments(self.payload_len) as u16,
        }
    }

    /// TCP sequence number. Only meaningful for [`Transport::Tcp`], like the next two.
    #[inline(always)]
    pub(crate) fn tcp_seq(&self) -> u32 {
        self.be32(self.l4_at() + 4)
    }

    /// TCP acknowledgement number.
    #[inline(always)]
    pub(crate) fn tcp_ack(&self) -> u32 {
        self.be32(self.l4_at() + 8)
    }

    /// TCP window.
    #[inline(always)]
    pub(crate) fn tcp_window(&self) -> u16 {
        self.be16(self.l4_at() + 14)
    }

    /// Where the transport header starts in `bytes`.
    #[inline(always)]
    pub(crate) fn l4_at(&self) -> usize {
        L3_AT + usize::from(self.layers.l3_len)
    }
}

/// `N` bytes at `at` of private header bytes; zeros where there are none.
#[inline(always)]
pub(crate) fn array<const N: usize>(bytes: &[u8; HEADER_ROOM], at: usize) -> [u8; N] {
    match bytes.get(at..at + N) {
        Some(bytes) => bytes.try_into().unwrap_or([0; N]),
        None => [0; N],
    }
}

/// Copies a header, in two blocks that overlap, if there are enough bytes for them: a
/// call of `memcpy` costs as much as all other work on the header.
#[inline(always)]
fn copy_short(out: &mut [u8], header: &[u8]) {
    match header.len() {
        64..=128 => copy_ends::<64>(out, header),
        32..64 => copy_ends::<32>(out, header),
        _ => out.copy_from_slice(header),
    }
}

#[inline(always)]
fn copy_ends<const LEN: usize>(out: &mut [u8], header: &[u8]) {
    if let (Some(to), Some(from)) = (out.first_chunk_mut::<LEN>(), header.first_chunk::<LEN>()) {
        *to = *from;
    }
    if let (Some(to), Some(from)) = (out.last_chunk_mut::<LEN>(), header.last_chunk::<LEN>()) {
        *to = *from;
    }
}
