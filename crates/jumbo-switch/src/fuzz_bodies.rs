//! Fuzz targets as plain functions, for the tests here and for a fuzzer: a guest that does anything, in a plane with two
//! others that behave.
//!
//! The guest's memory, rings and messages come from the fuzzer's bytes; the port is a real one, less its socket and its
//! thread. What must hold: nothing panics; memory outside the guest's is not touched (it is mapped with fences); the
//! books balance after every step; what one neighbour sends to the other arrives; all work comes to an end; and whatever
//! the guest did, the next one on that port is served.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jumbo_engine::pending::Caps;
use jumbo_engine::vnet::VnetHeader;
use jumbo_ports::mem::{self, MemHandle};
use jumbo_ports::queue::{Bounds, PortInfo, Queue, RxEnd, Workers};
use jumbo_ports::vhost::fuzz_bodies::{Bare, Files, Input};
use jumbo_ports::vhost::{Message, Request, VhostConfig, feature};

use crate::path::Plane;
use crate::patience::Waits;
use crate::topology::{Coalesce, Policy, PortId, Slot};

/// Time stands still.
const NOW_NS: u64 = 1_000_000_000;

const GUEST: PortId = PortId(0);
const A: PortId = PortId(1);
const B: PortId = PortId(2);
/// Bytes of the guest's memory, from guest address zero.
const MEMORY_LEN: u64 = 0x4_0000;
/// Where its rings are unless a message says otherwise: descriptors, driver, device area.
const RINGS: [[u64; 3]; 2] = [[0x1000, 0x2000, 0x3000], [0x4000, 0x5000, 0x6000]];
/// Where its buffers and tables are.
const TABLES: u64 = 0x8000;
const BUFFERS: u64 = 0x1_0000;
const BUFFER_LEN: u64 = 0x1000;
/// Steps of one run; more say nothing new.
const STEPS_MAX: usize = 200;
/// Entries of the largest ring, and a few: batches that a burst may take.
const BATCHES_MAX: usize = 33_000;

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;
const AVAIL: u16 = 1 << 7;
const USED: u16 = 1 << 15;

/// How far one input got.
#[derive(Copy, Clone, Debug, Default)]
pub struct Reached {
    /// Packets that came from the guest.
    pub received: u64,
    /// Packets that went to it.
    pub sent: u64,
    /// Times its rings broke.
    pub stopped: u64,
    /// Messages it was answered, or not, and went on.
    pub accepted: u64,
    /// Connections that ended with an error.
    pub errors: u64,
}

fn mac(port: PortId) -> [u8; 6] {
    [2, 0, 0, 0, 0, port.0 as u8]
}

/// The neighbours and the data plane: what the port's own side reaches too.
#[derive(Debug)]
struct Street {
    plane: Plane,
    a: MemHandle,
    b: MemHandle,
    number: u64,
}

impl Street {
    fn new() -> Self {
        let mut plane = Plane::new(Bounds::default(), 300, 1);
        let mut neighbour = |id| {
            let made = mem::port("neighbour", 1, Caps::ALL, Caps::ALL, 65535);
            let (mut port, handle) = made.expect("a descriptor");
            let queue = port.queues.remove(0);
            plane
                .topology
                .insert(Slot::new(id, queue, policy(&port.info)));
            handle
        };
        let (a, b) = (neighbour(A), neighbour(B));
        Self {
            plane,
            a,
            b,
            number: 0,
        }
    }

    /// Takes everything that a port has ready. Comes to an end.
    fn serve(&mut self, port: PortId) {
        for _ in 0..BATCHES_MAX {
            match self.plane.batch(port, NOW_NS) {
                RxEnd::More => {}
                RxEnd::Drained | RxEnd::Gone | RxEnd::Stopped => break,
            }
            assert!(self.plane.books().balanced(), "{:?}", self.plane.books());
        }
        assert_ne!(self.plane.batch(port, NOW_NS), RxEnd::More, "without end");
        self.plane.end_burst(NOW_NS);
        let books = self.plane.books();
        assert!(books.balanced() && books.resting == 0, "{books:?}");
    }

    /// A neighbour sends a packet that is nobody's protocol.
    fn send(&mut self, from: PortId, to: [u8; 6], len: usize) -> Vec<u8> {
        self.number += 1;
        let kind = [0x88, 0xB5];
        let number = self.number.to_le_bytes();
        let mut packet = [&to[..], &mac(from), &kind, &number].concat();
        packet.resize(len.max(packet.len()), self.number as u8);
        let handle = if from == A { &self.a } else { &self.b };
        handle.put(&VnetHeader::default(), &packet);
        self.serve(from);
        packet
    }

    /// What one neighbour sends to the other arrives, whole and in order, between whatever else comes.
    fn neighbours_talk(&mut self) {
        // Whoever said to be it meanwhile: it is here.
        self.send(B, [0xFF; 6], 60);
        self.b.taken();
        let sent: Vec<_> = (0..3)
            .map(|nth| self.send(A, mac(B), 60 + 500 * nth))
            .collect();
        let came = self.b.taken();
        let came: Vec<_> = came.iter().map(|packet| &packet.bytes).collect();
        assert_eq!(came, sent.iter().collect::<Vec<_>>());
        self.a.taken();
    }

    fn talk_to_guest(&mut self, len: usize) {
        self.send(A, mac(GUEST), len);
    }

    /// A super-packet, as a neighbour with all offloads sends it.
    fn super_packet_to_guest(&mut self, payload_len: usize) {
        let (header, packet) = tcp(mac(GUEST), mac(A), payload_len, 1000);
        self.a.put(&header, &packet);
        self.serve(A);
    }
}

fn policy(info: &PortInfo) -> Policy {
    Policy {
        coalesce: Coalesce::Gro.into(),
        takes: info.takes,
        mtu: info.mtu,
    }
}

/// TCP over IPv4 with a checksum to be finished, and to be segmented if it is longer than `gso_size`.
fn tcp(to: [u8; 6], from: [u8; 6], payload_len: usize, gso_size: u16) -> (VnetHeader, Vec<u8>) {
    let total = (40 + payload_len) as u16;
    let [high, low] = total.to_be_bytes();
    let ip = [
        0x45, 0, high, low, 0, 1, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2,
    ];
    let tcp = [
        0x12, 0x34, 0, 80, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 0xFF, 0xFF, 0, 0, 0, 0,
    ];
    let mut packet = [&to[..], &from, &[8, 0], &ip, &tcp].concat();
    packet.resize(packet.len() + payload_len, 7);
    let is_long = payload_len > usize::from(gso_size);
    let header = VnetHeader {
        flags: 1,
        gso_type: u8::from(is_long),
        hdr_len: 54,
        gso_size: if is_long { gso_size } else { 0 },
        csum_start: 34,
        csum_offset: 16,
        ..VnetHeader::default()
    };
    (header, packet)
}

fn lock(street: &Mutex<Street>) -> MutexGuard<'_, Street> {
    street.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The one worker, as the port reaches it: with packets for the guest at the worst moments.
#[derive(Debug)]
struct Direct(Arc<Mutex<Street>>);

impl Workers for Direct {
    fn exchange(&mut self, queues: Vec<Box<dyn Queue>>, info: PortInfo) -> Vec<Box<dyn Queue>> {
        let mut street = lock(&self.0);
        let mut old = Vec::new();
        for queue in queues {
            street.talk_to_guest(200);
            street.super_packet_to_guest(5000);
            let plane = &mut street.plane;
            old.extend(plane.exchange(GUEST, queue, info.takes, info.mtu));
            street.talk_to_guest(300);
        }
        old
    }

    fn tell(&mut self, info: PortInfo) {
        if let Some(slot) = lock(&self.0).plane.topology.get_mut(GUEST) {
            slot.policy.mtu = info.mtu;
        }
    }

    fn announce(&mut self, station: [u8; 6]) {
        lock(&self.0).plane.announce(station, GUEST, 1);
    }
}

/// The guest and its monitor.
struct Evil {
    street: Arc<Mutex<Street>>,
    port: Option<Bare>,
    files: Files,
    memory: File,
    packed: bool,
    size: u16,
    /// Where it makes available next, with the wrap bit of a packed ring.
    next: [(u16, bool); 2],
    reached: Reached,
}

/// Takes `data` as what one guest after the other does.
///
/// # Panics
/// A promise is broken.
pub fn guest_port(data: &[u8]) -> Reached {
    let mut input = Input(data);
    let mut evil = Evil::new(&mut input);
    for step in 1..=STEPS_MAX {
        if input.0.is_empty() {
            break;
        }
        evil.step(&mut input);
        evil.serve();
        if step % 8 == 0 {
            lock(&evil.street).neighbours_talk();
        }
    }
    evil.end()
}

impl Evil {
    fn new(input: &mut Input<'_>) -> Self {
        let files = Files::with_memory(MEMORY_LEN);
        let memory = File::from(files.get(1));
        let mut evil = Self {
            street: Arc::new(Mutex::new(Street::new())),
            port: None,
            files,
            memory,
            packed: false,
            size: 0,
            next: [(0, true); 2],
            reached: Reached::default(),
        };
        evil.connect(input);
        evil
    }

    /// A fresh front end, that begins with rings that run.
    fn connect(&mut self, input: &mut Input<'_>) {
        let config = VhostConfig::new(PathBuf::new(), 1);
        let port = Bare::new(&config, Box::new(Direct(self.street.clone())));
        self.plug();
        let features = choose(port.features(), input.byte());
        self.packed = features & feature::RING_PACKED != 0;
        self.size = input.pick(&[16, 4, 64, 256]);
        self.next = [(0, true); 2];
        self.port = Some(port);
        for ring in RINGS {
            for (at, len) in ring.into_iter().zip([16 * 256, 0x800, 0xA00]) {
                self.write(at, &vec![0; len]);
            }
        }
        for message in prelude(features, self.size, &self.files) {
            self.tell(message);
        }
    }

    /// The port's slot, as the switch makes it. No packet waits: here nobody makes room meanwhile.
    fn plug(&self) {
        let mut street = lock(&self.street);
        street.plane.take(GUEST);
        let policy = Policy {
            coalesce: Coalesce::Gro.into(),
            takes: Caps::NONE,
            mtu: 65535,
        };
        let waits = Waits {
            budget_ns: 0,
            ..Waits::default()
        };
        let (mut port, _) =
            mem::port("nobody", 1, Caps::NONE, Caps::NONE, 65535).expect("a descriptor");
        let slot = Slot::new(GUEST, port.queues.remove(0), policy).waiting(waits);
        street.plane.topology.insert(slot);
    }

    /// Tells the port something, and starts anew when that ends the connection.
    fn tell(&mut self, message: Message) {
        let Some(port) = &mut self.port else { return };
        match port.handle(message) {
            Ok(_) => self.reached.accepted += 1,
            Err(error) => {
                assert!(!error.to_string().is_empty());
                self.reached.errors += 1;
                self.disconnect();
            }
        }
    }

    fn disconnect(&mut self) {
        if let Some(port) = self.port.take() {
            port.close();
        }
        let street = lock(&self.street);
        if let Some(slot) = street.plane.topology.get(GUEST) {
            self.reached.received += slot.counters.rx.traffic.packets;
            self.reached.sent += slot.counters.tx.packets;
        }
    }

    fn step(&mut self, input: &mut Input<'_>) {
        if self.port.is_none() {
            return self.connect(input);
        }
        match input.byte() % 16 {
            0..6 => self.chain(1, input),
            6..10 => self.chain(0, input),
            10 => self.scribble(input),
            11 => self.raw_descriptor(input),
            12 => self.truncate(input),
            13 | 14 => lock(&self.street).super_packet_to_guest(usize::from(input.byte()) * 200),
            _ => {
                if let Some(message) = input.message(&self.files) {
                    self.tell(message);
                }
            }
        }
    }

    fn serve(&mut self) {
        let mut street = lock(&self.street);
        street.serve(GUEST);
        street.talk_to_guest(100);
        let slot = street.plane.topology.get(GUEST);
        let has_stopped = slot.is_some_and(|slot| slot.queue.stopped_by().is_some());
        drop(street);
        if has_stopped {
            // It would be stopped for ever.
            self.reached.stopped += 1;
            self.disconnect();
        }
    }

    /// What is beyond the end of a file that was truncated comes back: the file's own, not the mapping's.
    fn write(&self, at: u64, bytes: &[u8]) {
        if at < MEMORY_LEN {
            let room = (MEMORY_LEN - at) as usize;
            let bytes = &bytes[..bytes.len().min(room)];
            self.memory.write_all_at(bytes, at).expect("a file of ours");
        }
    }

    /// A chain as a driver makes it; one byte in eight spoils something.
    fn chain(&mut self, ring: usize, input: &mut Input<'_>) {
        let shape = input.byte();
        let count = u16::from(shape & 3) + 1;
        let direction = if ring == 0 { WRITE } else { 0 };
        let mut descs: Vec<_> = (0..count)
            .map(|nth| {
                let slot = u64::from(self.next[ring].0 + nth) % 48;
                Desc {
                    addr: BUFFERS + BUFFER_LEN * slot,
                    len: [2048, 4096, 60, 1 << 14][usize::from(shape >> 2 & 3)],
                    flags: direction | if nth + 1 < count { NEXT } else { 0 },
                    next: nth + 1,
                }
            })
            .collect();
        if ring == 1 {
            self.fill(&mut descs, input);
        }
        if shape >> 5 == 7 {
            spoil(&mut descs, input);
        }
        let is_indirect = shape & 0x10 != 0;
        self.publish(ring, &descs, is_indirect);
    }

    /// Puts a packet into the buffers of a chain: one with true headers, or any bytes.
    fn fill(&self, descs: &mut [Desc], input: &mut Input<'_>) {
        let to = input.pick(&[mac(A), mac(B), [0xFF; 6], mac(GUEST), [2; 6]]);
        let (header, packet) = match input.byte() {
            n @ 0..200 => tcp(to, mac(GUEST), usize::from(n) * 40, 1000),
            n => {
                let raw = input.raw();
                let header = VnetHeader {
                    flags: n & 7,
                    gso_type: raw.first().copied().unwrap_or(0),
                    gso_size: raw.get(1).copied().unwrap_or(0).into(),
                    hdr_len: raw.get(2).copied().unwrap_or(0).into(),
                    csum_start: raw.get(3).copied().unwrap_or(0).into(),
                    csum_offset: raw.get(4).copied().unwrap_or(0).into(),
                    ..VnetHeader::default()
                };
                (header, [&to[..], &mac(GUEST), &raw].concat())
            }
        };
        let mut bytes = vec![0; 12];
        header.encode(jumbo_engine::vnet::Form::Modern12, &mut bytes);
        bytes.extend(packet);
        let mut rest = &bytes[..];
        for desc in descs {
            let len = rest.len().min(desc.len as usize);
            let (here, after) = rest.split_at(len);
            self.write(desc.addr, here);
            desc.len = (len as u32).max(1);
            rest = after;
        }
    }

    /// Makes a chain available, and does not look whether there is room.
    fn publish(&mut self, ring: usize, descs: &[Desc], is_indirect: bool) {
        let table = TABLES + 0x1000 * ring as u64;
        let outer = Desc {
            addr: table,
            len: 16 * descs.len() as u32,
            flags: INDIRECT,
            next: 0,
        };
        if is_indirect {
            for (nth, desc) in (0..).zip(descs) {
                let bytes = match self.packed {
                    true => desc.packed(0, desc.flags & !NEXT),
                    false => desc.split(desc.next),
                };
                self.write(table + 16 * nth, &bytes);
            }
            return self.publish_descs(ring, &[outer]);
        }
        self.publish_descs(ring, descs);
    }

    fn publish_descs(&mut self, ring: usize, descs: &[Desc]) {
        let [at, driver, _] = RINGS[ring];
        let (mut index, mut wrap) = self.next[ring];
        if self.packed {
            let mut entries = Vec::new();
            for desc in descs {
                let side = if wrap { AVAIL } else { USED };
                entries.push((index, desc.packed(index, desc.flags | side)));
                index += 1;
                if index >= self.size {
                    (index, wrap) = (0, !wrap);
                }
            }
            for (index, bytes) in entries.into_iter().rev() {
                self.write(at + 16 * u64::from(index), &bytes);
            }
            self.next[ring] = (index, wrap);
            return;
        }
        let first = index.wrapping_mul(4);
        for (nth, desc) in (0..).zip(descs) {
            let slot = first.wrapping_add(nth) % self.size;
            let next = first.wrapping_add(desc.next) % self.size;
            let next = if desc.next < 16 { next } else { desc.next };
            self.write(at + 16 * u64::from(slot), &desc.split(next));
        }
        let slot = u64::from(index % self.size);
        self.write(driver + 4 + 2 * slot, &(first % self.size).to_le_bytes());
        self.next[ring].0 = index.wrapping_add(1);
        self.write(driver + 2, &self.next[ring].0.to_le_bytes());
    }

    /// Any bytes, anywhere.
    fn scribble(&mut self, input: &mut Input<'_>) {
        let page = u64::from(input.byte() % 16) << 12;
        let at = page + u64::from(input.byte()) * 2;
        let bytes = input.raw();
        self.write(at, &bytes);
    }

    /// Any descriptor in a place where the next one is looked for, and an index that may jump.
    fn raw_descriptor(&mut self, input: &mut Input<'_>) {
        let byte = input.byte();
        let ring = usize::from(byte & 1);
        let desc = Desc {
            addr: input.word(),
            len: input.word() as u32,
            flags: u16::from(input.byte() & 7),
            next: input.byte().into(),
        };
        self.publish_descs(ring, &[desc]);
        if byte & 0xC0 == 0xC0 {
            let jump = u16::from(input.byte()) << 8 | 1;
            self.write(RINGS[ring][1] + 2, &jump.to_le_bytes());
        }
    }

    /// The file behind the memory gets shorter, and may be as long as before soon after.
    fn truncate(&mut self, input: &mut Input<'_>) {
        let byte = input.byte();
        if byte < 200 {
            return;
        }
        let len = u64::from(byte & 7) << 12;
        self.memory.set_len(len).expect("a file of ours");
        self.serve();
        self.memory.set_len(MEMORY_LEN).expect("a file of ours");
    }

    /// Whatever was done: the neighbours talk, and the next guest is served.
    fn end(mut self) -> Reached {
        lock(&self.street).neighbours_talk();
        self.disconnect();
        lock(&self.street).neighbours_talk();
        self.connect(&mut Input(&[]));
        let (_, packet) = tcp(mac(A), mac(GUEST), 100, 1000);
        let buffer = [&[0; 12][..], &packet].concat();
        self.write(BUFFERS, &buffer);
        let desc = Desc {
            addr: BUFFERS,
            len: buffer.len() as u32,
            flags: 0,
            next: 0,
        };
        lock(&self.street).a.taken();
        self.publish_descs(1, &[desc]);
        self.serve();
        let came = lock(&self.street).a.taken();
        assert!(came.iter().any(|got| got.bytes == packet), "{came:?}");
        self.disconnect();
        self.reached
    }
}

#[derive(Copy, Clone, Debug)]
struct Desc {
    addr: u64,
    len: u32,
    flags: u16,
    next: u16,
}

impl Desc {
    fn split(self, next: u16) -> [u8; 16] {
        self.bytes(self.flags, next)
    }

    fn packed(self, id: u16, flags: u16) -> [u8; 16] {
        self.bytes(id, flags)
    }

    fn bytes(self, low: u16, high: u16) -> [u8; 16] {
        let rest = u64::from(self.len) | u64::from(low) << 32 | u64::from(high) << 48;
        let words = [self.addr, rest].map(u64::to_le_bytes);
        std::array::from_fn(|at| words[at / 8][at % 8])
    }
}

/// One field of one descriptor becomes something else.
fn spoil(descs: &mut [Desc], input: &mut Input<'_>) {
    let byte = input.byte();
    let at = usize::from(byte >> 4) % descs.len();
    let desc = &mut descs[at];
    match byte & 7 {
        0 => desc.addr = input.word(),
        1 => desc.len = input.word() as u32,
        2 => desc.flags ^= WRITE,
        3 => desc.flags ^= NEXT,
        4 => desc.flags ^= INDIRECT,
        5 => desc.next = input.byte().into(),
        6 => desc.addr = MEMORY_LEN - u64::from(input.byte()),
        _ => desc.len = 0,
    }
}

/// What a guest takes of what it is offered.
fn choose(offered: u64, byte: u8) -> u64 {
    let without = |bit: u8, features: u64| if byte & bit == 0 { 0 } else { features };
    let all = offered | feature::PROTOCOL_FEATURES;
    let guest = feature::GUEST_TSO4 | feature::GUEST_TSO6 | feature::GUEST_ECN;
    let guest = guest | feature::GUEST_USO4 | feature::GUEST_USO6;
    all & !(without(1, feature::RING_PACKED)
        | without(2, feature::MRG_RXBUF)
        | without(4, feature::EVENT_IDX)
        | without(8, guest)
        | without(16, guest | feature::GUEST_CSUM)
        | without(32, feature::INDIRECT_DESC)
        | feature::LOG_ALL)
}

/// What makes both rings run.
fn prelude(features: u64, size: u16, files: &Files) -> Vec<Message> {
    let message = |request, payload: Vec<u8>, fds: Vec<OwnedFd>| Message {
        request,
        need_reply: false,
        payload,
        fds,
    };
    let words = |words: &[u64]| -> Vec<u8> { words.iter().flat_map(|w| w.to_ne_bytes()).collect() };
    let state = |ring: u32, num: u32| [ring, num].map(u32::to_ne_bytes).concat();
    let table = [1, 0, MEMORY_LEN, 0, 0];
    let mut all = vec![
        message(Request::SetFeatures, words(&[features]), vec![]),
        message(Request::SetMemTable, words(&table), vec![files.get(1)]),
    ];
    for (ring, [desc, driver, device]) in (0..).zip(RINGS) {
        let addr = words(&[u64::from(ring), desc, device, driver, 0]);
        all.push(message(
            Request::SetVringNum,
            state(ring, size.into()),
            vec![],
        ));
        all.push(message(Request::SetVringAddr, addr, vec![]));
        let kick = words(&[u64::from(ring)]);
        all.push(message(Request::SetVringKick, kick, vec![files.get(0)]));
        all.push(message(Request::SetVringEnable, state(ring, 1), vec![]));
    }
    all
}
