//! One AF_XDP socket: its memory area, in chunks, and its four rings.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use jumbo_engine::arena::{HEAD_WANTED, Pieces};
use jumbo_engine::packet::{Frag, HEADERS_MAX, Link, Packet};
use jumbo_engine::pending::Csum;
use jumbo_engine::vnet::{HeaderFault, Trust, VnetHeader};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::io::Errno;
use rustix::net::xdp::{
    SocketAddrXdp, SocketAddrXdpFlags, SocketAddrXdpWithSharedUmem, XDP_PGOFF_RX_RING,
    XDP_PGOFF_TX_RING, XDP_UMEM_PGOFF_COMPLETION_RING, XDP_UMEM_PGOFF_FILL_RING, XdpOptionsFlags,
    XdpUmemReg, XdpUmemRegFlags,
};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, sockopt};

use super::partial;
use super::ring::{Consumer, Desc, Producer};
use crate::pool::{Lender, Pool, Region, Regions};
use crate::queue::{Burst, RxEnd, RxLoss, RxStats, TxFault};

/// Bytes of a chunk: a page, the most there is.
const CHUNK_LEN: usize = 4096;
/// What the kernel keeps of a chunk before a received packet (XDP_PACKET_HEADROOM).
const HEADROOM_LEN: usize = 256;
/// The longest MTU whose packets, with two VLAN tags, fit into one chunk.
pub(super) const MTU_IN_ONE_CHUNK: usize = CHUNK_LEN - HEADROOM_LEN - 14 - 8;
/// Chunks to receive into, and as many entries of the receive and fill rings: four bursts.
const RX_CHUNKS: u32 = 2048;
/// Chunks to send from, and as many entries of the transmit and completion rings.
const TX_CHUNKS: u32 = 1024;
/// Packets that one system call sends at most in copy mode (Linux `net/xdp/xsk.c` TX_BATCH_SIZE).
const KICK_PACKETS: u32 = 32;
/// XDP_PKT_CONTD: the packet goes on in the next entry.
const CONTINUED: u32 = 1;
/// Pieces of a packet: what Linux makes of 64 KB (MAX_SKB_FRAGS and the head).
const PIECES_MAX: usize = 18;
/// How often a queue that is taken is tried again, and after how long: a second in all.
const QUEUE_TRIES: u32 = 50;
const QUEUE_TRY_EVERY: Duration = Duration::from_millis(20);

/// XDP_TX_METADATA: `struct xsk_tx_metadata` stands before the packet.
const WITH_METADATA: u32 = 1 << 1;
/// Flags of the memory area (Linux `include/uapi/linux/if_xdp.h`): metadata before
/// packets that are sent, since 6.11; the kernel finishes their checksums itself.
const XDP_UMEM_TX_SW_CSUM: u32 = 1 << 1;
const XDP_UMEM_TX_METADATA_LEN: u32 = 1 << 2;
/// Bytes of `struct xsk_tx_metadata`: flags, where the checksum starts, where it
/// goes counted from there, and what we have no use for.
const METADATA_LEN: usize = 24;
/// XDP_TXMD_FLAGS_CHECKSUM.
const METADATA_CHECKSUM: u64 = 1 << 1;

/// What becomes of checksums that are left to finish when a packet is sent.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Default)]
pub enum TxChecksum {
    /// Left to the kernel where that is known to work, else finished before.
    #[default]
    Auto,
    /// As `Auto`, but the kernel finishes them before the device has the packet
    /// (XDP_UMEM_TX_SW_CSUM): shows what it made of our metadata. For tests.
    InKernel,
    /// Always finished before.
    Off,
}

/// How the kernel and the socket share packets.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) struct Sharing {
    /// The device writes into our memory, and reads from it.
    pub(super) zero_copy: bool,
    /// Packets may come in several pieces.
    pub(super) pieces: bool,
    /// Packets may be sent with a checksum that is left to finish.
    pub(super) tx_csum: bool,
}

#[derive(Debug)]
pub(super) struct XdpSocket {
    fd: OwnedFd,
    /// Sends, from the same memory. `fd` is waited for: each packet that has left wakes
    /// whoever waits for its socket, be it only to receive (`sock_def_write_space`).
    sender: OwnedFd,
    regions: Regions,
    fill: Producer<u64>,
    completion: Consumer<u64>,
    rx: Consumer<Desc>,
    tx: Producer<Desc>,
    /// Chunks to send from that are free.
    free: Vec<u64>,
    /// Chunks received into that the burst still refers to.
    lent: Vec<u64>,
    /// Where a packet is put together before it is sent.
    scratch: Vec<u8>,
    sharing: Sharing,
    /// Checksums may be partial though nothing says so.
    partial: bool,
    gone: bool,
    down: bool,
    /// Packets that found no chunk, as far as counted.
    full: u64,
}

impl XdpSocket {
    /// A socket on receive queue `queue` of interface `index`. Whether received
    /// checksums may be `partial`, and what becomes of those that are sent so.
    pub(super) fn open(
        index: u32,
        queue: u32,
        partial: bool,
        checksum: TxChecksum,
    ) -> Result<Self, Errno> {
        let [fd, sender] = [socket()?, socket()?];
        let (regions, tx_csum) = memory(fd.as_fd(), checksum)?;
        sockopt::set_xdp_umem_fill_ring_size(&fd, RX_CHUNKS)?;
        sockopt::set_xdp_umem_completion_ring_size(&fd, TX_CHUNKS)?;
        sockopt::set_xdp_rx_ring_size(&fd, RX_CHUNKS)?;
        sockopt::set_xdp_tx_ring_size(&sender, TX_CHUNKS)?;
        let offsets = sockopt::xdp_mmap_offsets(&fd)?;
        let at = fd.as_fd();
        let tx = sockopt::xdp_mmap_offsets(&sender)?.tx;
        let mut socket = Self {
            fill: Producer::map(at, XDP_UMEM_PGOFF_FILL_RING, offsets.fr, RX_CHUNKS)?,
            completion: Consumer::map(at, XDP_UMEM_PGOFF_COMPLETION_RING, offsets.cr, TX_CHUNKS)?,
            rx: Consumer::map(at, XDP_PGOFF_RX_RING, offsets.rx, RX_CHUNKS)?,
            tx: Producer::map(sender.as_fd(), XDP_PGOFF_TX_RING, tx, TX_CHUNKS)?,
            fd,
            sender,
            regions,
            free: (RX_CHUNKS..RX_CHUNKS + TX_CHUNKS).map(chunk).collect(),
            lent: Vec::with_capacity(RX_CHUNKS as usize),
            scratch: Vec::with_capacity(PIECES_MAX * CHUNK_LEN),
            sharing: Sharing {
                zero_copy: false,
                pieces: false,
                tx_csum,
            },
            partial,
            gone: false,
            down: false,
            full: 0,
        };
        (0..RX_CHUNKS)
            .map(chunk)
            .for_each(|at| socket.fill.push(at));
        socket.fill.publish();
        socket.sharing = Sharing {
            tx_csum,
            ..bind_when_free(socket.fd.as_fd(), index, queue)?
        };
        let flags = SocketAddrXdpFlags::XDP_SHARED_UMEM;
        let address = SocketAddrXdpWithSharedUmem {
            addr: SocketAddrXdp::new(flags, index, queue),
            shared_umem_fd: socket.fd.as_fd(),
        };
        rustix::net::bind(&socket.sender, &address)?;
        Ok(socket)
    }

    pub(super) fn sharing(&self) -> Sharing {
        self.sharing
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Receives until `bytes` is more than a batch may have, or nothing is left.
    pub(super) fn rx(&mut self, burst: &mut Burst, stats: &mut RxStats, left: usize) -> RxEnd {
        if self.gone {
            return RxEnd::Gone;
        }
        let Some(lender) = burst.pool.borrow(&self.regions) else {
            return RxEnd::More;
        };
        let end = self.rx_with(lender, burst, stats, left);
        self.rx.give_back();
        end
    }

    fn rx_with(
        &mut self,
        lender: Lender,
        burst: &mut Burst,
        stats: &mut RxStats,
        left: usize,
    ) -> RxEnd {
        let mut bytes = 0;
        for count in 0..left {
            let full = bytes >= burst.bounds.batch_bytes || !burst.has_room();
            if full || burst.arena.free_frags() < PIECES_MAX {
                return RxEnd::More;
            }
            let Some((pieces, len)) = self.next_packet(lender) else {
                return match count {
                    0 => self.nothing_came(stats),
                    _ => RxEnd::Drained,
                };
            };
            match pieces {
                Ok(body) => self.admit(&body, burst, stats),
                Err(loss) => stats.losses.count(loss),
            }
            bytes += len;
        }
        RxEnd::More
    }

    /// The pieces of the next packet and its length; its chunks are lent from now on.
    fn next_packet(
        &mut self,
        lender: Lender,
    ) -> Option<(Result<arrayvec::ArrayVec<Frag, PIECES_MAX>, RxLoss>, usize)> {
        let mut body = arrayvec::ArrayVec::new();
        let (mut len, mut count, mut cut) = (0, 0, false);
        loop {
            let desc = self.rx.peek(count)?;
            count += 1;
            len += desc.len as usize;
            let frag = Frag::new(lender.at(0, desc.addr), desc.len);
            cut |= body.try_push(frag).is_err();
            if desc.options & CONTINUED == 0 {
                break;
            }
        }
        for index in 0..count {
            let desc = self.rx.peek(index)?;
            self.lent
                .push(desc.addr / CHUNK_LEN as u64 * CHUNK_LEN as u64);
        }
        self.rx.pass(count);
        self.prefetch();
        let body = if cut {
            Err(RxLoss::Truncated)
        } else {
            Ok(body)
        };
        Some((body, len))
    }

    /// Has the processor fetch the beginning of the packet after the next.
    #[inline]
    fn prefetch(&mut self) {
        if let (Some(desc), Some(region)) = (self.rx.peek_seen(1), self.regions.first())
            && let Some(piece) = region.piece(desc.addr, 0)
        {
            piece.prefetch();
        }
    }

    fn admit(&self, body: &[Frag], burst: &mut Burst, stats: &mut RxStats) {
        let mut head = [0; HEAD_WANTED];
        let mut len = 0;
        for frag in body {
            let Some(piece) = burst.pool.piece(*frag) else {
                return stats.faults.count(HeaderFault::HeadMissing);
            };
            len += piece.copy_to(&mut head[len..]);
            if len == HEAD_WANTED {
                break;
            }
        }
        let head = &head[..len];
        let vnet = self.partial.then(|| partial::find(head)).flatten();
        let vnet = vnet.as_ref().map(|vnet| (vnet, Trust::Kernel));
        burst.admit_lent(Link::Ethernet, head, body, vnet, stats);
    }

    /// Nothing is there: look why, and what was lost.
    #[cold]
    fn nothing_came(&mut self, stats: &mut RxStats) -> RxEnd {
        if sockopt::socket_error(&self.fd).is_ok_and(|error| error.is_err()) {
            // Said only when the device goes (`xsk_notifier`).
            self.gone = true;
            return RxEnd::Gone;
        }
        if let Ok(counts) = sockopt::xdp_statistics(&self.fd) {
            let full = counts.rx_dropped + counts.rx_ring_full.unwrap_or(0);
            let more = full.saturating_sub(self.full);
            stats.losses.count_many(RxLoss::RingFull, more);
            self.full = full;
        }
        RxEnd::Drained
    }

    /// Puts a finished packet into the transmit ring.
    pub(super) fn tx(
        &mut self,
        packet: &Packet,
        payload: Pieces<'_>,
        pool: &Pool,
    ) -> Result<(), TxFault> {
        if self.gone {
            return Err(TxFault::Gone);
        }
        if self.down {
            // Nobody else asks again where nothing is sent.
            self.kick();
        }
        if self.down {
            return Err(TxFault::LinkDown);
        }
        if let Some(answer) = self.tx_one(packet, payload, pool) {
            return answer;
        }
        self.scratch.clear();
        self.scratch.resize(HEADERS_MAX, 0);
        let header_len = packet.write_header(&mut self.scratch).unwrap_or(0);
        self.scratch.truncate(header_len);
        pool.append_to(payload, &mut self.scratch)
            .ok_or(TxFault::PayloadMissing)?;
        let count = self.scratch.len().div_ceil(self.chunk_room()).max(1);
        if count > 1 && !self.sharing.pieces || count > PIECES_MAX - 1 {
            return Err(TxFault::Refused);
        }
        self.reclaim();
        if self.free.len() < count || (self.tx.room() as usize) < count {
            self.kick();
            self.reclaim();
            if self.free.len() < count || (self.tx.room() as usize) < count {
                return Err(TxFault::QueueFull);
            }
        }
        let csum = self.unfinished(packet)?;
        self.push(count, csum);
        Ok(())
    }

    /// Copies a finished packet straight into a free chunk; `None` if it does not fit
    /// into one, or there is none.
    #[inline]
    fn tx_one(
        &mut self,
        packet: &Packet,
        payload: Pieces<'_>,
        pool: &Pool,
    ) -> Option<Result<(), TxFault>> {
        let finished = !matches!(packet.pending().csum, Csum::Partial { .. });
        let room = self.chunk_room();
        if !finished || packet.wire_len() > room || self.tx.room() == 0 {
            return None;
        }
        self.reclaim();
        let (region, chunk) = (self.regions.first()?, self.free.last()?);
        let addr = chunk + self.metadata_len() as u64;
        let mut head = [0; HEADERS_MAX];
        let mut len = packet.write_header(&mut head)?;
        region.write(addr, &head[..len])?;
        for frag in payload {
            let Some(piece) = pool.piece(frag) else {
                return Some(Err(TxFault::PayloadMissing));
            };
            if len + piece.len() > room {
                return None;
            }
            region.write_piece(addr + len as u64, piece)?;
            len += piece.len();
        }
        self.free.pop();
        self.tx.push(Desc {
            addr,
            len: len as u32,
            options: 0,
        });
        Some(Ok(()))
    }

    /// What a chunk takes of a packet.
    fn chunk_room(&self) -> usize {
        CHUNK_LEN - self.metadata_len()
    }

    /// What stands before each packet, used or not.
    fn metadata_len(&self) -> usize {
        if self.sharing.tx_csum {
            METADATA_LEN
        } else {
            0
        }
    }

    /// The metadata of a packet whose checksum is left to finish. The kernel stops
    /// at metadata it does not like, so none is made that points behind the first chunk.
    fn unfinished(&self, packet: &Packet) -> Result<Option<[u8; METADATA_LEN]>, TxFault> {
        let Csum::Partial { .. } = packet.pending().csum else {
            return Ok(None);
        };
        let vnet = VnetHeader::of(packet);
        let end = usize::from(vnet.csum_start) + usize::from(vnet.csum_offset) + 2;
        if !self.sharing.tx_csum || end > self.scratch.len().min(self.chunk_room()) {
            return Err(TxFault::Refused);
        }
        let mut metadata = [0; METADATA_LEN];
        metadata[..8].copy_from_slice(&METADATA_CHECKSUM.to_ne_bytes());
        metadata[8..10].copy_from_slice(&vnet.csum_start.to_ne_bytes());
        metadata[10..12].copy_from_slice(&vnet.csum_offset.to_ne_bytes());
        Ok(Some(metadata))
    }

    fn push(&mut self, count: usize, mut csum: Option<[u8; METADATA_LEN]>) {
        let (room, before) = (self.chunk_room(), self.metadata_len() as u64);
        let Some(region) = self.regions.first() else {
            return;
        };
        for (index, bytes) in self.scratch.chunks(room).enumerate() {
            let Some(chunk) = self.free.pop() else { return };
            let mut options = if index + 1 < count { CONTINUED } else { 0 };
            // A chunk of ours has room for both.
            if let Some(metadata) = csum.take() {
                let _ = region.write(chunk, &metadata);
                options |= WITH_METADATA;
            }
            let _ = region.write(chunk + before, bytes);
            self.tx.push(Desc {
                addr: chunk + before,
                len: bytes.len() as u32,
                options,
            });
        }
    }

    /// Takes back the chunks of packets that have left.
    fn reclaim(&mut self) {
        if self.free.len() < TX_CHUNKS as usize / 2 {
            self.take_completed();
        }
    }

    fn take_completed(&mut self) {
        let mut count = 0;
        while let Some(addr) = self.completion.peek(count) {
            count += 1;
            if self.free.len() < TX_CHUNKS as usize {
                self.free.push(addr / CHUNK_LEN as u64 * CHUNK_LEN as u64);
            }
        }
        if count > 0 {
            self.completion.take(count);
        }
    }

    pub(super) fn publish(&mut self) {
        if !self.gone {
            self.kick();
            // Copied chunks are back at once, and the next batch finds them in the cache.
            self.take_completed();
        }
    }

    /// Shows the kernel what is in the transmit ring, and has it sent.
    fn kick(&mut self) {
        self.tx.publish();
        for _ in 0..=TX_CHUNKS / KICK_PACKETS {
            if self.tx.waiting() == 0 {
                // Another call may have sent it.
                self.down = false;
                return;
            }
            if !self.tx.needs_wakeup() {
                return;
            }
            match rustix::net::send(&self.sender, &[], SendFlags::DONTWAIT) {
                // More is left than one call sends.
                Ok(_) | Err(Errno::AGAIN | Errno::BUSY | Errno::INTR) => self.down = false,
                Err(Errno::NETDOWN) => {
                    self.down = true;
                    return;
                }
                Err(Errno::NXIO | Errno::NODEV) => {
                    self.gone = true;
                    return;
                }
                Err(_) => return,
            }
        }
    }

    /// Gives back the chunks that were received into.
    pub(super) fn release(&mut self) {
        if self.lent.is_empty() {
            return;
        }
        for addr in self.lent.drain(..) {
            self.fill.push(addr);
        }
        self.fill.publish();
        if self.fill.needs_wakeup() && self.sharing.zero_copy {
            // What it says does not matter: the next packet or the next call tells.
            let _ = rustix::net::recv(&self.fd, &mut [0u8; 0][..], RecvFlags::DONTWAIT);
        }
    }
}

fn socket() -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::CLOEXEC;
    rustix::net::socket_with(AddressFamily::XDP, SocketType::RAW, flags, None)
}

fn chunk(index: u32) -> u64 {
    u64::from(index) * CHUNK_LEN as u64
}

/// Makes the memory area; tells whether there is metadata in it.
fn memory(fd: BorrowedFd<'_>, checksum: TxChecksum) -> Result<(Regions, bool), Errno> {
    let len = (RX_CHUNKS + TX_CHUNKS) as usize * CHUNK_LEN;
    let file = memfd_create("jumbo-xdp", MemfdFlags::CLOEXEC)?;
    ftruncate(&file, len as u64)?;
    let region = Region::map(file.as_fd(), 0, len)?;
    let at = region.ptr(0, len).ok_or(Errno::INVAL)?;
    let area = |flags, tx_metadata_len| XdpUmemReg {
        addr: at.as_ptr() as u64,
        len: len as u64,
        chunk_size: CHUNK_LEN as u32,
        headroom: 0,
        flags: XdpUmemRegFlags::from_bits_retain(flags),
        tx_metadata_len,
    };
    let flags = match checksum {
        TxChecksum::Auto => Some(XDP_UMEM_TX_METADATA_LEN),
        TxChecksum::InKernel => Some(XDP_UMEM_TX_METADATA_LEN | XDP_UMEM_TX_SW_CSUM),
        TxChecksum::Off => None,
    };
    // A kernel that does not know the flags says so.
    let with = flags.map(|flags| area(flags, METADATA_LEN as u32));
    let metadata = with.is_some_and(|area| sockopt::set_xdp_umem_reg(fd, area).is_ok());
    if !metadata {
        sockopt::set_xdp_umem_reg(fd, area(0, 0))?;
    }
    Ok((Arc::new([Arc::new(region)]), metadata))
}

/// Binds; a queue whose last socket was closed a moment ago is free only when the
/// kernel has cleared it away (Linux `net/xdp/xsk_buff_pool.c` `xp_release_deferred`).
fn bind_when_free(fd: BorrowedFd<'_>, index: u32, queue: u32) -> Result<Sharing, Errno> {
    for _ in 0..QUEUE_TRIES {
        match bind(fd, index, queue) {
            Err(Errno::BUSY) => std::thread::sleep(QUEUE_TRY_EVERY),
            answer => return answer,
        }
    }
    bind(fd, index, queue)
}

/// Binds in the best way the driver has.
fn bind(fd: BorrowedFd<'_>, index: u32, queue: u32) -> Result<Sharing, Errno> {
    use SocketAddrXdpFlags as Flags;
    let mut refused = Errno::OPNOTSUPP;
    for (zero_copy, pieces) in [(true, true), (true, false), (false, true), (false, false)] {
        let mut flags = Flags::XDP_USE_NEED_WAKEUP;
        flags |= match zero_copy {
            true => Flags::XDP_ZEROCOPY,
            false => Flags::XDP_COPY,
        };
        if pieces {
            flags |= Flags::XDP_USE_SG;
        }
        match rustix::net::bind(fd, &SocketAddrXdp::new(flags, index, queue)) {
            Ok(()) => {
                let options = sockopt::xdp_options(fd)?;
                let zero_copy = options.contains(XdpOptionsFlags::XDP_OPTIONS_ZEROCOPY);
                return Ok(Sharing {
                    zero_copy,
                    pieces,
                    tx_csum: false,
                });
            }
            Err(Errno::OPNOTSUPP | Errno::INVAL) => {}
            Err(errno) => refused = errno,
        }
        if refused == Errno::BUSY {
            break;
        }
    }
    Err(refused)
}
