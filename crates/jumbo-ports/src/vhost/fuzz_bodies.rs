//! Fuzz targets as plain functions, for the tests here and for a fuzzer.

use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::MemfdFlags;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use crate::queue::Workers;

use super::feature::{self, protocol};
use super::message::{CONFIG_HEAD_LEN, CONFIG_LEN_MAX, NO_FD};
use super::port::{Guest, VhostConfig, idle, offer};
use super::session::Handled;
use super::{
    Connection, DataPath, Device, Ended, Message, Offer, Position, Request, ResumeError, Session,
    Stop, VhostError,
};

/// Messages of one run; more say nothing new.
const MESSAGES_MAX: usize = 500;
/// Bytes a socket certainly buffers.
const STREAM_LEN_MAX: usize = 4096;
/// Requests that lead somewhere come more often.
const FREQUENT: [Request; 8] = [
    Request::SetVringEnable,
    Request::SetVringKick,
    Request::SetVringAddr,
    Request::SetVringNum,
    Request::SetVringBase,
    Request::AddMemReg,
    Request::SetFeatures,
    Request::GetVringBase,
];
/// Addresses, sizes and offsets that fit together now and then.
const WORDS: [u64; 12] = [
    0x1000,
    0x2000,
    0x3000,
    0x1_0000,
    0x2_0000,
    0,
    1,
    0x1008,
    0x10_0000,
    1 << 47,
    u64::MAX - 0xFFF,
    u64::MAX,
];
const SIZES: [u32; 10] = [256, 1, 2, 64, 100, 32768, 0, 32769, 0x8000_8000, u32::MAX];

/// How far one input got.
#[derive(Copy, Clone, Debug, Default)]
pub struct Reached {
    /// Messages that were accepted.
    pub accepted: usize,
    /// Connections that ended with an error.
    pub errors: usize,
    /// Times rings were handed to the data path.
    pub resumes: usize,
}

/// Takes `data` as messages of one front end after the other, most of them well-formed. Half of the front ends begin
/// with a ring that runs.
///
/// # Panics
/// A promise of the session is broken.
pub fn messages(data: &[u8]) -> Reached {
    let mut input = Input(data);
    let files = Files::new();
    let mut reached = Reached::default();
    while !input.0.is_empty() && reached.accepted < MESSAGES_MAX {
        front_end(&mut input, &files, &mut reached);
    }
    reached
}

fn front_end(input: &mut Input<'_>, files: &Files, reached: &mut Reached) {
    let offer = input.offer();
    let mut path = Checker {
        fails_at: usize::from(input.byte() % 64),
        ..Checker::default()
    };
    let mut session = Session::new(offer.clone());
    let mut prelude = match input.byte() & 1 {
        0 => Vec::new(),
        _ => prelude(&offer, files),
    }
    .into_iter();
    while reached.accepted < MESSAGES_MAX {
        let Some(message) = prelude.next().or_else(|| input.message(files)) else {
            break;
        };
        if handle(&mut session, &offer, message, &mut path).is_err() {
            reached.errors += 1;
            break;
        }
        reached.accepted += 1;
    }
    session.close(&mut path);
    assert_eq!(path.running, None, "closed, and still running");
    reached.resumes += path.resumes;
}

/// What makes ring 1 run.
fn prelude(offer: &Offer, files: &Files) -> Vec<Message> {
    let message = |request, payload: Vec<u8>, fds| Message {
        request,
        need_reply: false,
        payload,
        fds,
    };
    let u64s = |words: &[u64]| words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    let state = |num: u32| [1, num].map(u32::to_ne_bytes).concat();
    let features = offer.features & feature::RING_PACKED | feature::PROTOCOL_FEATURES;
    let table = [1, 0, 0x20_0000, 0, 0];
    vec![
        message(
            Request::SetProtocolFeatures,
            u64s(&[offer.protocol_features]),
            vec![],
        ),
        message(Request::SetFeatures, u64s(&[features]), vec![]),
        message(Request::SetMemTable, u64s(&table), vec![files.get(1)]),
        message(Request::SetVringNum, state(64), vec![]),
        message(
            Request::SetVringAddr,
            u64s(&[1, 0x1000, 0x3000, 0x2000, 0]),
            vec![],
        ),
        message(Request::SetVringKick, u64s(&[1]), vec![files.get(0)]),
        message(Request::SetVringEnable, state(1), vec![]),
    ]
}

/// Takes `data` as what comes out of a socket.
///
/// # Panics
/// A promise of the connection or the session is broken.
pub fn stream(data: &[u8]) {
    let data = &data[..data.len().min(STREAM_LEN_MAX)];
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let pair = socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None);
    let (Ok((ours, theirs)), Ok(stop)) = (pair, Stop::new()) else {
        return;
    };
    assert_eq!(rustix::io::write(&theirs, data), Ok(data.len()));
    drop(theirs);
    let connection = Connection::new(ours).expect("a socket");
    let offer = Input(data).offer();
    let mut path = Checker::default();
    let mut session = Session::new(offer.clone());
    let ended = loop {
        match connection.receive(stop.as_fd()) {
            Ok(message) => {
                if handle(&mut session, &offer, message, &mut path).is_err() {
                    break None;
                }
            }
            Err(ended) => break Some(ended),
        }
    };
    assert!(!matches!(ended, Some(Ended::Stopped)));
    session.close(&mut path);
    assert_eq!(path.running, None, "closed, and still running");
}

fn handle(
    session: &mut Session,
    offer: &Offer,
    message: Message,
    path: &mut Checker,
) -> Result<(), VhostError> {
    let (request, need_reply) = (message.request, message.need_reply);
    let result = session.handle(message, path);
    assert!(!path.is_between, "{request}: neither runs nor rests");
    match result {
        Ok(handled) => {
            check_reply(request, need_reply, &handled);
            check_session(session, offer, path);
            Ok(())
        }
        Err(error) => {
            assert!(!error.to_string().is_empty());
            Err(error)
        }
    }
}

fn check_reply(request: Request, need_reply: bool, handled: &Handled) {
    match &handled.reply {
        None => assert!(!request.has_own_reply(), "{request}: no reply"),
        Some(reply) => {
            assert_eq!(reply.request, request);
            assert!(request.has_own_reply() || need_reply);
            assert!(reply.payload.len() <= CONFIG_HEAD_LEN + CONFIG_LEN_MAX);
            assert_eq!(reply.fd.is_some(), request == Request::GetInflightFd);
        }
    }
}

fn check_session(session: &Session, offer: &Offer, path: &Checker) {
    let device = session.device();
    let live: Vec<usize> = device.live().map(|(index, _)| index).collect();
    let running = path.running.clone().unwrap_or_default();
    assert_eq!(live, running, "what may run, runs, and nothing else");
    if path.running.is_some() {
        let now = depended_on(device);
        assert_eq!(now, path.depends_on, "changed under running rings");
    }
    assert_eq!(session.is_running(), path.running.is_some());
    assert_eq!(device.rings.len(), offer.rings());
    let own = feature::PROTOCOL_FEATURES;
    assert_eq!(device.features & !(offer.features | own), 0);
    assert_eq!(device.protocol_features & !offer.protocol_features, 0);
    assert!(device.memory.len() <= 64);
    for (at, region) in device.memory.iter().enumerate() {
        let end = region.guest_addr + region.size;
        let mut others = device.memory[at + 1..].iter();
        assert!(others.all(|other| {
            other.guest_addr >= end || other.guest_addr + other.size <= region.guest_addr
        }));
    }
}

/// What running rings depend on, files by their number.
fn depended_on(device: &Device) -> String {
    let live: Vec<_> = device.live().collect();
    format!(
        "{:x} {:?} {live:?} {:?} {:?} {:?} {:?}",
        device.features, device.memory, device.log, device.log_event, device.inflight, device.mtu,
    )
}

/// A data path that believes nothing.
#[derive(Default)]
struct Checker {
    running: Option<Vec<usize>>,
    /// Taken away, and not known yet whether for long.
    is_between: bool,
    resumes: usize,
    /// The how manyth resume fails; 0: none.
    fails_at: usize,
    packed: bool,
    depends_on: String,
}

impl DataPath for Checker {
    fn quiesce(&mut self) -> Vec<(usize, Position)> {
        let running = self.running.take().expect("quiesced what does not run");
        self.is_between = true;
        let avail = if self.packed { 0x8000 } else { 7 };
        let position = Position {
            avail,
            used: Some(avail),
        };
        running.into_iter().map(|index| (index, position)).collect()
    }

    fn resume(&mut self, device: &Device) -> Result<(), ResumeError> {
        assert_eq!(self.running, None, "resumed what runs");
        assert!(device.is_negotiated && !device.memory.is_empty());
        let live: Vec<usize> = device.live().map(|(index, _)| index).collect();
        assert!(!live.is_empty(), "resumed with nothing to run");
        for (_, ring) in device.live() {
            assert!(ring.kick.is_some() && ring.started && ring.enabled);
            assert!((1..=32768).contains(&ring.size));
            assert!(device.is_packed() || ring.size.is_power_of_two());
            assert!(ring.desc_user_addr.is_multiple_of(16));
            if device.is_packed() {
                let used = ring.position.used.expect("packed rings say it");
                assert!(ring.position.avail & 0x7FFF < ring.size && used & 0x7FFF < ring.size);
            }
        }
        self.packed = device.is_packed();
        self.resumes += 1;
        if self.resumes == self.fails_at {
            return Err(ResumeError::Other("made to fail".to_owned()));
        }
        self.running = Some(live);
        self.is_between = false;
        self.depends_on = depended_on(device);
        Ok(())
    }

    fn rest(&mut self) {
        assert!(self.is_between && self.running.is_none(), "rests, and runs");
        self.is_between = false;
    }

    fn announce(&mut self, _mac: [u8; 6]) {}
}

/// A port without its socket and its thread: what it is told, it does at once. Packets go through whatever `workers` are.
#[derive(Debug)]
pub struct Bare {
    session: Session,
    guest: Guest,
}

impl Bare {
    /// A port of one worker that nobody has spoken to.
    pub fn new(config: &VhostConfig, workers: Box<dyn Workers>) -> Self {
        let offer = offer(config);
        let guest = Guest::new(workers, 1, idle(config, &offer), offer.features, None);
        Self {
            session: Session::new(offer),
            guest,
        }
    }

    /// What the front end was offered.
    pub fn features(&self) -> u64 {
        self.session.offered()
    }

    /// Does what a message says.
    ///
    /// # Errors
    /// The connection would end: [`close`](Self::close).
    pub fn handle(&mut self, message: Message) -> Result<Handled, VhostError> {
        self.session.handle(message, &mut self.guest)
    }

    /// Whether the workers have rings.
    pub fn is_running(&self) -> bool {
        self.session.is_running()
    }

    /// The front end goes.
    pub fn close(mut self) {
        self.session.close(&mut self.guest);
    }
}

/// Files to send along.
#[derive(Debug)]
pub struct Files {
    memory: [OwnedFd; 2],
    event: OwnedFd,
}

impl Files {
    /// With so many bytes of memory in each.
    pub fn with_memory(len: u64) -> Self {
        let files = Self::new();
        for memory in &files.memory {
            rustix::fs::ftruncate(memory, len).expect("room");
        }
        files
    }

    fn new() -> Self {
        let memory = || rustix::fs::memfd_create("fuzz", MemfdFlags::CLOEXEC).expect("memory");
        Self {
            memory: [memory(), memory()],
            event: eventfd(0, EventfdFlags::CLOEXEC).expect("a descriptor"),
        }
    }

    /// The event, or one of two memories.
    pub fn get(&self, kind: u8) -> OwnedFd {
        let file = match kind % 3 {
            0 => &self.event,
            1 => &self.memory[0],
            _ => &self.memory[1],
        };
        file.try_clone().expect("a descriptor")
    }
}

/// Reads `data` from the front; zeros follow its end.
#[derive(Debug)]
pub struct Input<'a>(pub &'a [u8]);

impl Input<'_> {
    /// The next one.
    pub fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else {
            return 0;
        };
        self.0 = rest;
        *first
    }

    /// One of these.
    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[usize::from(self.byte()) % from.len()]
    }

    fn offer(&mut self) -> Offer {
        let byte = self.byte();
        let packed = if byte & 1 == 0 {
            0
        } else {
            feature::RING_PACKED
        };
        Offer {
            features: feature::LOG_ALL | packed | 0xFFF,
            protocol_features: if byte & 2 == 0 { protocol::ALL } else { 0x8 },
            queue_pairs: u16::from(byte >> 2) % 3 + 1,
            mtu: 9000,
            mac: [2; 6],
        }
    }

    /// A message, most of them well-formed; `None` at the end.
    pub fn message(&mut self, files: &Files) -> Option<Message> {
        if self.0.is_empty() {
            return None;
        }
        let byte = self.byte();
        let request = match byte {
            0..64 => Request::ALL[usize::from(byte) % Request::ALL.len()],
            _ => FREQUENT[usize::from(byte) % FREQUENT.len()],
        };
        let shape = self.byte();
        let payload = match shape & 0x1F {
            0 => self.raw(),
            _ => self.payload(request),
        };
        let count = match shape >> 6 {
            3 => usize::from(self.byte() % 9),
            _ => usual_fds(request, &payload),
        };
        let kind = if is_event(request) { 0 } else { 1 };
        let fds = (0..count).map(|_| files.get(kind + (shape >> 5 & 1)));
        Some(Message {
            request,
            need_reply: shape & 0x20 != 0,
            fds: fds.collect(),
            payload,
        })
    }

    /// Some bytes as they are.
    pub fn raw(&mut self) -> Vec<u8> {
        let len = usize::from(self.byte()).min(self.0.len());
        let (raw, rest) = self.0.split_at(len);
        self.0 = rest;
        raw.to_vec()
    }

    fn payload(&mut self, request: Request) -> Vec<u8> {
        match request {
            Request::SetFeatures => self.features().to_ne_bytes().to_vec(),
            Request::SetProtocolFeatures => {
                let few = 1 << (self.byte() % 20);
                let bits = if self.byte() < 128 {
                    protocol::ALL
                } else {
                    few
                };
                bits.to_ne_bytes().to_vec()
            }
            Request::SendRarp | Request::NetSetMtu => self.word().to_ne_bytes().to_vec(),
            Request::SetStatus => u64::from(self.byte()).to_ne_bytes().to_vec(),
            Request::SetLogBase => self.words(2),
            Request::SetVringNum | Request::SetVringBase | Request::GetVringBase => {
                let index = u32::from(self.byte() % 7);
                [index, self.pick(&SIZES)].map(u32::to_ne_bytes).concat()
            }
            Request::SetVringEnable => {
                let byte = self.byte();
                let state = [u32::from(byte % 7), u32::from(byte >> 3) % 3];
                state.map(u32::to_ne_bytes).concat()
            }
            Request::SetVringAddr => {
                let byte = self.byte();
                let head = [u32::from(byte % 7), u32::from(byte >> 3 & 1)];
                [head.map(u32::to_ne_bytes).concat(), self.words(4)].concat()
            }
            Request::SetVringKick | Request::SetVringCall | Request::SetVringErr => {
                let byte = self.byte();
                let flag = if byte >= 240 { NO_FD } else { 0 };
                (u64::from(byte % 7) | flag).to_ne_bytes().to_vec()
            }
            Request::SetMemTable => {
                let count = u32::from(self.byte() % 10);
                let head = [count, 0].map(u32::to_ne_bytes).concat();
                [head, self.words(4 * count as usize)].concat()
            }
            Request::AddMemReg | Request::RemMemReg => self.words(5),
            Request::GetInflightFd | Request::SetInflightFd => self.words(3),
            Request::GetConfig | Request::SetConfig => {
                let (offset, size) = (u32::from(self.byte()), u32::from(self.byte()));
                let head = [offset, size, size & 1].map(u32::to_ne_bytes).concat();
                [head, vec![7; size as usize]].concat()
            }
            _ => Vec::new(),
        }
    }

    fn features(&mut self) -> u64 {
        let byte = self.byte();
        let bit = |mask: u8, feature: u64| if byte & mask == 0 { 0 } else { feature };
        bit(1, feature::PROTOCOL_FEATURES)
            | bit(2, feature::RING_PACKED)
            | bit(4, feature::LOG_ALL)
            | bit(8, 1)
            | bit(0x80, self.word())
    }

    /// An address, size or offset.
    pub fn word(&mut self) -> u64 {
        self.pick(&WORDS)
    }

    fn words(&mut self, count: usize) -> Vec<u8> {
        (0..count).flat_map(|_| self.word().to_ne_bytes()).collect()
    }
}

fn is_event(request: Request) -> bool {
    matches!(
        request,
        Request::SetVringKick | Request::SetVringCall | Request::SetVringErr | Request::SetLogFd
    )
}

fn usual_fds(request: Request, payload: &[u8]) -> usize {
    let first = payload.first_chunk().copied().unwrap_or_default();
    let first = u64::from_ne_bytes(first);
    match request {
        Request::SetVringKick | Request::SetVringCall | Request::SetVringErr => {
            usize::from(first & NO_FD == 0)
        }
        Request::SetMemTable => (first as u32).min(8) as usize,
        Request::AddMemReg
        | Request::SetLogBase
        | Request::SetLogFd
        | Request::SetBackendReqFd
        | Request::SetInflightFd => 1,
        _ => 0,
    }
}
