//! One end of the tunnel: IP packets from a TUN into datagrams, datagrams into the TUN.
//!
//! Everything but I/O is the engine's. What the kernel hands over as one super-packet is segmented and its
//! checksums are computed; what arrives is verified and coalesced, and each super-packet is one write.

use std::fs::File;
use std::io::{self, IoSlice, Read, Write};
use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use jumbo_engine::arena::Pieces;
use jumbo_engine::prelude::*;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::sys::{BATCH, Batch, SLOT};

/// Largest inner packet: leaves room for outer headers and the counter in 1500 bytes.
pub(crate) const MTU: usize = 1420;
/// Bytes of the virtio header before each packet of the TUN.
const VNET: usize = 10;
/// Bytes of the counter before each scrambled packet.
const COUNTER: usize = 8;
/// Refusals in a row before super-packets are given up.
const REFUSALS: u32 = 8;
/// Reads of the TUN before the other direction has its turn.
const READS: usize = 16;

/// What is left out, for comparison.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mode {
    /// The TUN hands over super-packets.
    pub(crate) segment: bool,
    /// Received packets are coalesced.
    pub(crate) coalesce: bool,
    /// Pretend that the kernel refuses super-packets, as kernels 6.6.44 and some others refuse good ones.
    pub(crate) refuse: bool,
}

/// What was done.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Stats {
    pub(crate) reads: u64,
    pub(crate) datagrams_sent: u64,
    pub(crate) datagrams_received: u64,
    pub(crate) writes: u64,
    pub(crate) refused: u64,
    pub(crate) dropped: u64,
}

/// One end.
pub(crate) struct Tunnel {
    tun: File,
    socket: UdpSocket,
    mode: Mode,
    kernels: Kernels,
    stats: Stats,
    outgoing: Outgoing,
    arena: Arena,
    gro: Coalescer,
    takes: Caps,
    refusals: u32,
}

/// The direction from the TUN.
struct Outgoing {
    buffer: Vec<u8>,
    arena: Arena,
    batch: Batch,
    filled: usize,
    counter: u64,
}

impl Tunnel {
    /// `socket` is connected to the other end.
    pub(crate) fn new(tun: File, socket: UdpSocket, mode: Mode) -> Self {
        Self {
            tun,
            socket,
            mode,
            kernels: Kernels::detect(),
            stats: Stats::default(),
            outgoing: Outgoing {
                buffer: vec![0; VNET + 65536],
                arena: Arena::new(1, 1),
                batch: Batch::new(),
                filled: 0,
                counter: 0,
            },
            arena: Arena::new(BATCH, BATCH),
            gro: Coalescer::new(&GRO, BATCH, 0x5eed), // take a random seed for real
            takes: Caps::new(true, true, true, true, false),
            refusals: 0,
        }
    }

    /// Carries packets until told to stop.
    pub(crate) fn run(mut self, stop: &AtomicBool) -> io::Result<Stats> {
        let mut received = Batch::new();
        while !stop.load(Relaxed) {
            let tick = Timespec {
                tv_sec: 0,
                tv_nsec: 50_000_000,
            };
            let mut ready = [
                PollFd::new(&self.tun, PollFlags::IN),
                PollFd::new(&self.socket, PollFlags::IN),
            ];
            poll(&mut ready, Some(&tick))?;
            self.read_tun()?;
            self.read_socket(&mut received)?;
        }
        Ok(self.stats)
    }

    // --- out ---

    fn read_tun(&mut self) -> io::Result<()> {
        for _ in 0..READS {
            let len = match self.tun.read(&mut self.outgoing.buffer) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                other => other?,
            };
            self.stats.reads += 1;
            self.segment(len)?;
        }
        Ok(())
    }

    /// Makes datagrams of what was read and sends them.
    fn segment(&mut self, len: usize) -> io::Result<()> {
        let Self {
            outgoing,
            socket,
            stats,
            kernels,
            ..
        } = self;
        let Outgoing {
            buffer,
            arena,
            batch,
            filled,
            counter,
        } = outgoing;
        let packet = &buffer[VNET.min(len)..len];
        let memory = SliceMemory::new(buffer, *kernels);
        let Some(header) = VnetHeader::decode(Form::Legacy10, buffer) else {
            return Ok(());
        };
        let body = [Frag::new(VNET as u64, packet.len() as u32)];
        let Ok(admitted) = arena.admit(Link::RawIp, packet, &body, Some((&header, Trust::Kernel)))
        else {
            stats.dropped += 1;
            return Ok(());
        };
        let whole = arena.packet(admitted.id);
        let mut result = Ok(());
        let plan = plan(whole, Caps::NONE, MTU);
        let done = complete(
            whole,
            arena.payload(admitted.id),
            plan,
            &memory,
            |packet, payload| {
                batch.lens[*filled] = datagram(
                    &mut batch.bytes[*filled * SLOT..][..SLOT],
                    *counter,
                    packet,
                    payload,
                    &memory,
                );
                *counter += 1;
                *filled += 1;
                stats.datagrams_sent += 1;
                if *filled == BATCH {
                    result = send(batch, socket, filled);
                }
            },
        );
        stats.dropped += u64::from(done.is_err());
        arena.release(admitted.id);
        result.and_then(|()| send(batch, socket, filled))
    }

    // --- in ---

    fn read_socket(&mut self, batch: &mut Batch) -> io::Result<()> {
        let count = match batch.receive(&self.socket) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            // The other end was not there yet.
            Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => return Ok(()),
            other => other?,
        };
        self.stats.datagrams_received += count as u64;
        for (place, len) in batch
            .bytes
            .chunks_exact_mut(SLOT)
            .zip(batch.lens)
            .take(count)
        {
            unscramble(&mut place[..len]);
        }
        match self.mode.coalesce {
            true => self.coalesce(batch, count),
            false => self.write_each(batch, count),
        }
    }

    fn write_each(&mut self, batch: &Batch, count: usize) -> io::Result<()> {
        for (place, len) in batch.bytes.chunks_exact(SLOT).zip(batch.lens).take(count) {
            let packet = place.get(COUNTER..len).unwrap_or(&[]);
            self.stats.writes += 1;
            let written = self
                .tun
                .write_vectored(&[IoSlice::new(&[0; VNET]), IoSlice::new(packet)]);
            self.stats.dropped += u64::from(written.is_err());
        }
        Ok(())
    }

    /// The batch is one burst: nothing is held longer than it lasts.
    fn coalesce(&mut self, batch: &Batch, count: usize) -> io::Result<()> {
        let memory = SliceMemory::new(&batch.bytes, self.kernels);
        for (index, len) in batch.lens.into_iter().enumerate().take(count) {
            let at = index * SLOT + COUNTER;
            let packet = batch.bytes.get(at..index * SLOT + len).unwrap_or(&[]);
            let body = [Frag::new(at as u64, packet.len() as u32)];
            // No virtio header: nobody vouches for the checksum, so it is verified.
            let Ok(admitted) = self.arena.admit(Link::RawIp, packet, &body, None) else {
                self.stats.dropped += 1;
                continue;
            };
            offer(&mut self.gro, &mut self.arena, admitted.id, &memory);
        }
        self.gro.flush(&mut self.arena, End::BurstEnd);
        let mut ready = std::mem::take(self.gro.ready());
        for done in ready.drain(..) {
            self.deliver(done, &memory);
            self.arena.release(done.id);
        }
        // The vector goes back, so that none is allocated for the next burst.
        *self.gro.ready() = ready;
        Ok(())
    }

    /// Writes a packet, super-packet or not; one that the kernel refuses goes segment by segment.
    fn deliver(&mut self, done: Ready, memory: &SliceMemory<'_>) {
        let packet = self.arena.packet(done.id);
        let payload = self.arena.payload(done.id);
        let mut tun = Tun {
            file: &self.tun,
            mode: self.mode,
            stats: &mut self.stats,
        };
        let whole = plan(packet, self.takes, MTU);
        let refused = tun.write(packet, payload, whole, memory).is_err();
        if !refused || packet.pending().gso.is_none() || whole != Plan::AsIs {
            self.refusals = 0;
            return;
        }
        self.stats.refused += 1;
        self.refusals += 1;
        if self.refusals >= REFUSALS {
            self.takes = Caps::new(true, false, false, false, false);
        }
        let mut tun = Tun {
            file: &self.tun,
            mode: self.mode,
            stats: &mut self.stats,
        };
        let segments = plan(packet, Caps::NONE, MTU);
        let lost = tun.write(packet, payload, segments, memory).is_err();
        self.stats.dropped += u64::from(lost);
    }
}

fn offer(
    gro: &mut Coalescer,
    arena: &mut Arena,
    id: jumbo_engine::arena::PacketId,
    memory: &SliceMemory<'_>,
) {
    match gro.offer(arena, id, memory) {
        Offer::Merged => {}
        Offer::Hold(slot) if gro.hold(arena, id, slot, 0, memory).is_ok() => {}
        _ => gro.ready().push(Ready::alone(id, 0)),
    }
}

/// What a packet is written to.
struct Tun<'a> {
    file: &'a File,
    mode: Mode,
    stats: &'a mut Stats,
}

impl Tun<'_> {
    fn write(
        &mut self,
        packet: &Packet,
        payload: Pieces<'_>,
        plan: Plan,
        memory: &SliceMemory<'_>,
    ) -> io::Result<()> {
        let mut result = Ok(());
        let done = complete(packet, payload, plan, memory, |packet, payload| {
            result = self.write_one(packet, payload, memory);
        });
        done.map_err(|fault| io::Error::other(fault.to_string()))
            .and(result)
    }

    /// One system call: virtio header, headers, and the payload where it was received.
    fn write_one(
        &mut self,
        packet: &Packet,
        payload: Pieces<'_>,
        memory: &SliceMemory<'_>,
    ) -> io::Result<()> {
        if self.mode.refuse && packet.pending().gso.is_some() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut vnet = [0; VNET];
        VnetHeader::of(packet).encode(Form::Legacy10, &mut vnet);
        let mut slices = [IoSlice::new(&[]); BATCH + 2];
        slices[0] = IoSlice::new(&vnet);
        slices[1] = IoSlice::new(packet.header());
        let mut used = 2;
        for (slice, bytes) in slices[2..]
            .iter_mut()
            .zip(payload.filter_map(|frag| memory.bytes(frag)))
        {
            *slice = IoSlice::new(bytes);
            used += 1;
        }
        self.stats.writes += 1;
        (&mut &*self.file).write_vectored(&slices[..used]).map(drop)
    }
}

fn send(batch: &mut Batch, socket: &UdpSocket, filled: &mut usize) -> io::Result<()> {
    match batch.send(socket, std::mem::take(filled)) {
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        other => other,
    }
}

/// Counter, header, payload, scrambled; its length.
fn datagram(
    place: &mut [u8],
    counter: u64,
    packet: &Packet,
    payload: Pieces<'_>,
    memory: &SliceMemory<'_>,
) -> usize {
    place[..COUNTER].copy_from_slice(&counter.to_le_bytes());
    let mut at = COUNTER + packet.write_header(&mut place[COUNTER..]).unwrap_or(0);
    for bytes in payload.filter_map(|frag| memory.bytes(frag)) {
        // A segment is at most MTU bytes: there is room.
        if let Some(to) = place.get_mut(at..at + bytes.len()) {
            to.copy_from_slice(bytes);
            at += bytes.len();
        }
    }
    scramble(counter, &mut place[COUNTER..at]);
    at
}

fn unscramble(datagram: &mut [u8]) {
    if let Some((counter, packet)) = datagram.split_first_chunk_mut::<COUNTER>() {
        scramble(u64::from_le_bytes(*counter), packet);
    }
}

/// Stands where encryption would, and is none: an exclusive or with a word that everybody can compute.
fn scramble(counter: u64, bytes: &mut [u8]) {
    let key = (counter ^ 0x6a75_6d62_6f21)
        .wrapping_mul(0x9E37_79B9_7F4A_7C15)
        .to_le_bytes();
    let (words, rest) = bytes.as_chunks_mut::<8>();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ u64::from_ne_bytes(key)).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip(key) {
        *byte ^= key;
    }
}
