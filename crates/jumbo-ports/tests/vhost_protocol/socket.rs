//! The same over sockets: framing, files, and the life of a port.

use std::fs;
use std::io::{Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use jumbo_ports::vhost::feature::{PROTOCOL_FEATURES, protocol};
use jumbo_ports::vhost::{
    Connection, DataPath, Device, Ended, Endpoint, Event, ListenError, Offer, Position, Refusal,
    Request, ResumeError, Stop, VhostError, listen, serve,
};
use rustix::fs::Mode;
use rustix::io::{IoSlice, IoSliceMut};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};

use crate::build::*;

/// Nobody waits longer; a test that does has failed.
const PATIENCE: Duration = Duration::from_secs(60);
const NEED_REPLY: u32 = 8;

fn mode() -> Mode {
    Mode::RUSR | Mode::WUSR
}

/// A front end's end of the wire.
struct Front(UnixStream);

impl Front {
    fn connect(path: &Path) -> Self {
        let stream = UnixStream::connect(path).expect("somebody listens");
        Self::new(stream)
    }

    fn new(stream: UnixStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        Self(stream)
    }

    fn raw(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(16))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(fds.is_empty() || control.push(SendAncillaryMessage::ScmRights(fds)));
        let pieces = [IoSlice::new(bytes)];
        let sent = rustix::net::sendmsg(&self.0, &pieces, &mut control, SendFlags::NOSIGNAL);
        assert_eq!(sent, Ok(bytes.len()));
    }

    fn send(&self, request: Request, flags: u32, payload: &[u8], fds: &[BorrowedFd<'_>]) {
        self.raw(&framed(request as u32, 1 | flags, payload), fds);
    }

    /// Request, flags and payload.
    fn receive(&mut self) -> (u32, u32, Vec<u8>) {
        let mut head = [0; 12];
        self.0.read_exact(&mut head).expect("a reply");
        let word = |at: usize| u32::from_ne_bytes(head[at..at + 4].try_into().expect("four"));
        let mut payload = vec![0; word(8) as usize];
        self.0.read_exact(&mut payload).expect("its payload");
        (word(0), word(4), payload)
    }

    /// What one read brings.
    fn receive_with_files(&self) -> (Vec<u8>, Vec<OwnedFd>) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut bytes = vec![0; 4096];
        let mut pieces = [IoSliceMut::new(&mut bytes)];
        let flags = RecvFlags::CMSG_CLOEXEC;
        let got = rustix::net::recvmsg(&self.0, &mut pieces, &mut control, flags);
        let len = got.expect("a reply").bytes;
        bytes.truncate(len);
        let mut files = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                files.extend(fds);
            }
        }
        (bytes, files)
    }

    fn ask_u64(&mut self, request: Request) -> u64 {
        self.send(request, 0, &[], &[]);
        let (answered, flags, payload) = self.receive();
        assert_eq!((answered, flags), (request as u32, 5));
        u64::from_ne_bytes(payload.try_into().expect("an u64"))
    }

    /// Everything up to a ring that runs; returns once it does.
    fn run(&mut self) {
        assert_ne!(self.ask_u64(Request::GetFeatures) & PROTOCOL_FEATURES, 0);
        self.send(
            Request::SetProtocolFeatures,
            0,
            &words(&[protocol::ALL]),
            &[],
        );
        self.send(
            Request::SetFeatures,
            0,
            &words(&[NET | PROTOCOL_FEATURES]),
            &[],
        );
        let (memory, kick) = (memory(), event());
        self.send(
            Request::SetMemTable,
            0,
            &table(&[REGION]),
            &[memory.as_fd()],
        );
        self.send(Request::SetVringNum, 0, &pair(0, RING_SIZE), &[]);
        self.send(Request::SetVringAddr, 0, &addresses(0, 0), &[]);
        self.send(Request::SetVringKick, 0, &words(&[0]), &[kick.as_fd()]);
        self.send(Request::SetVringEnable, NEED_REPLY, &pair(0, 1), &[]);
        assert_eq!(self.receive().2, words(&[0]));
    }

    fn is_closed(&mut self) -> bool {
        matches!(self.0.read(&mut [0]), Ok(0))
    }
}

fn framed(request: u32, flags: u32, payload: &[u8]) -> Vec<u8> {
    let head = [request, flags, payload.len() as u32];
    [head.map(u32::to_ne_bytes).concat(), payload.to_vec()].concat()
}

fn wire() -> (Front, Connection, Stop) {
    let (theirs, ours) = UnixStream::pair().expect("a pair");
    let connection = Connection::new(ours.into()).expect("a socket");
    (
        Front::new(theirs),
        connection,
        Stop::new().expect("an eventfd"),
    )
}

fn failed(connection: &Connection, stop: &Stop) -> VhostError {
    match connection.receive(stop.as_fd()) {
        Err(Ended::Failed(error)) => error,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_message_in_pieces_is_put_together() {
    let (front, connection, stop) = wire();
    let (read, write) = std::io::pipe().expect("a pipe");
    let bytes = framed(Request::SetVringKick as u32, 1 | NEED_REPLY, &words(&[0]));
    let sender = std::thread::spawn(move || {
        front.raw(&bytes[..5], &[write.as_fd()]);
        for byte in &bytes[5..] {
            front.raw(&[*byte], &[]);
        }
        front
    });
    let message = connection.receive(stop.as_fd()).expect("a message");
    assert_eq!(message.request, Request::SetVringKick);
    assert!(message.need_reply);
    assert_eq!(message.payload, words(&[0]));
    let front = sender.join().expect("sent");
    // The descriptor is the one that was sent, and closed on exec.
    assert_eq!(message.fds.len(), 1);
    let flags = rustix::io::fcntl_getfd(&message.fds[0]).expect("a descriptor");
    assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
    std::fs::File::from(message.fds.into_iter().next().expect("one"))
        .write_all(b"x")
        .expect("a pipe");
    let mut text = String::new();
    { read }.read_to_string(&mut text).expect("a pipe");
    assert_eq!(text, "x");
    drop(front);
    let ended = connection.receive(stop.as_fd());
    assert!(matches!(ended, Err(Ended::Closed)));
}

#[test]
fn headers_that_are_none() {
    let cases = [
        (
            framed(1, 2, &[]),
            "a message of protocol version 2; this is version 1",
        ),
        (framed(0, 1, &[]), "request 0 is unknown"),
        (framed(99, 1, &[]), "request 99 is unknown"),
        (
            framed(1, 5, &[]),
            "GET_FEATURES: the front end sent a reply nobody asked for",
        ),
        (
            framed(5, 1, &[0; 1025]),
            "SET_MEM_TABLE: a payload of 1025 bytes; no request has that many",
        ),
    ];
    for (bytes, expected) in cases {
        let (front, connection, stop) = wire();
        front.raw(&bytes, &[]);
        assert_eq!(failed(&connection, &stop).to_string(), expected);
    }
}

#[test]
fn a_message_that_ends_early_is_cut() {
    let whole = framed(Request::SetFeatures as u32, 1, &words(&[0]));
    for len in 1..whole.len() {
        let (front, connection, stop) = wire();
        front.raw(&whole[..len], &[]);
        drop(front);
        let error = failed(&connection, &stop);
        assert!(matches!(error, VhostError::Cut), "{len}: {error}");
    }
}

#[test]
fn too_many_files_are_all_closed() {
    for count in [9, 12] {
        let (front, connection, stop) = wire();
        let (mut read, write) = std::io::pipe().expect("a pipe");
        let bytes = framed(Request::SetMemTable as u32, 1, &table(&[]));
        front.raw(&bytes, &vec![write.as_fd(); count]);
        drop(write);
        assert!(matches!(failed(&connection, &stop), VhostError::TooManyFds));
        let mut rest = Vec::new();
        let len = read.read_to_end(&mut rest).expect("a pipe");
        assert_eq!(len, 0, "a descriptor is still open, this would not return");
    }
    // Spread over the pieces of one message as well.
    let (front, connection, stop) = wire();
    let file = event();
    let bytes = framed(Request::SetMemTable as u32, 1, &table(&[]));
    front.raw(&bytes[..12], &[file.as_fd(); 5]);
    front.raw(&bytes[12..], &[file.as_fd(); 5]);
    assert!(matches!(failed(&connection, &stop), VhostError::TooManyFds));
}

#[test]
fn half_a_message_can_be_waited_for_no_longer() {
    let (front, connection, stop) = wire();
    front.raw(&framed(2, 1, &words(&[0]))[..14], &[]);
    stop.request();
    let ended = connection.receive(stop.as_fd());
    assert!(matches!(ended, Err(Ended::Stopped)), "{ended:?}");
}

#[test]
fn sockets_are_made_closed_and_go_away() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("port.sock");
    let listener = listen(&path, mode()).expect("free");
    let meta = fs::metadata(&path).expect("a file");
    assert_eq!(meta.permissions().mode() & 0o777, 0o600);
    assert!(matches!(
        listen(&path, mode()),
        Err(ListenError::InUse { .. })
    ));
    assert_eq!(listener.path(), path);
    drop(listener);
    assert!(!path.exists());
}

#[test]
fn a_stale_socket_is_replaced_and_nothing_else() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("port.sock");
    drop(UnixListener::bind(&path).expect("free"));
    assert!(path.exists());
    let ours = listen(&path, mode()).expect("stale");
    // Somebody else's by now: dropping ours must not remove it.
    fs::remove_file(&path).expect("ours");
    let _theirs = UnixListener::bind(&path).expect("free");
    drop(ours);
    assert!(path.exists());

    let file = dir.path().join("file");
    fs::write(&file, "precious").expect("a directory");
    let refused = listen(&file, mode());
    assert!(matches!(refused, Err(ListenError::NotASocket { .. })));
    assert_eq!(fs::read(&file).expect("still there"), b"precious");
    let long = dir.path().join("x".repeat(120));
    let refused = listen(&long, mode());
    assert!(matches!(refused, Err(ListenError::PathTooLong { .. })));
    let nowhere = dir.path().join("none/port.sock");
    let refused = listen(&nowhere, mode());
    assert!(matches!(refused, Err(ListenError::System { .. })));
}

/// Sends what it is asked to the test.
struct Reporter(Recorder, Sender<Call>);

impl Reporter {
    fn report(&mut self) {
        for call in self.0.calls.drain(..) {
            self.1.send(call).expect("the test listens");
        }
    }
}

impl DataPath for Reporter {
    fn quiesce(&mut self) -> Vec<(usize, Position)> {
        let positions = self.0.quiesce();
        self.report();
        positions
    }

    fn resume(&mut self, device: &Device) -> Result<(), ResumeError> {
        let result = self.0.resume(device);
        self.report();
        result
    }

    fn announce(&mut self, mac: [u8; 6]) {
        self.0.announce(mac);
        self.report();
    }
}

/// A port in a thread of its own.
pub(crate) struct Port {
    stop: std::sync::Arc<Stop>,
    events: Receiver<Event>,
    calls: Receiver<Call>,
    thread: Option<JoinHandle<()>>,
}

impl Port {
    pub(crate) fn start(endpoint: Endpoint) -> Self {
        Self::serving(endpoint, offer(1))
    }

    pub(crate) fn with_offer(path: &Path, offer: Offer) -> Self {
        Self::serving(Endpoint::Listen(listen(path, mode()).expect("free")), offer)
    }

    fn serving(endpoint: Endpoint, offer: Offer) -> Self {
        let stop = std::sync::Arc::new(Stop::new().expect("an eventfd"));
        let (event_sender, events) = channel();
        let (call_sender, calls) = channel();
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut path = Reporter(Recorder::default(), call_sender);
            let mut report = |event| event_sender.send(event).expect("the test listens");
            serve(&endpoint, &offer, &mut path, stopped.as_fd(), &mut report).expect("polls");
        });
        Self {
            stop,
            events,
            calls,
            thread: Some(thread),
        }
    }

    fn listening(path: &Path) -> Self {
        Self::start(Endpoint::Listen(listen(path, mode()).expect("free")))
    }

    pub(crate) fn event(&self) -> Event {
        self.events.recv_timeout(PATIENCE).expect("an event")
    }

    pub(crate) fn call(&self) -> Call {
        self.calls.recv_timeout(PATIENCE).expect("a call")
    }

    fn expect_run(&self) {
        let pid = std::process::id();
        assert!(matches!(self.event(), Event::Connected(Some(peer)) if peer == pid));
        let features = NET | PROTOCOL_FEATURES;
        let event = self.event();
        let Event::Negotiated {
            features: got,
            protocol_features,
        } = event
        else {
            panic!("{event:?}");
        };
        assert_eq!((got, protocol_features), (features, protocol::ALL));
        assert_eq!(self.call(), Call::Resume(vec![0]));
    }

    /// Ends it, and lets a panic of its thread be one of the test.
    pub(crate) fn finish(mut self) -> Vec<Event> {
        self.stop.request();
        let thread = self.thread.take().expect("once");
        thread.join().expect("no panic");
        self.events.try_iter().collect()
    }
}

pub(crate) fn place() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("port.sock");
    (dir, path)
}

#[test]
fn front_ends_come_one_after_the_other() {
    let (_dir, path) = place();
    let port = Port::listening(&path);
    for _ in 0..3 {
        let mut front = Front::connect(&path);
        front.run();
        port.expect_run();
        drop(front);
        assert_eq!(port.call(), Call::Quiesce);
        assert!(matches!(port.event(), Event::Disconnected(Ended::Closed)));
    }
    assert!(port.finish().is_empty());
    assert!(!path.exists());
}

#[test]
fn a_second_front_end_is_sent_away() {
    let (_dir, path) = place();
    let port = Port::listening(&path);
    let mut first = Front::connect(&path);
    first.run();
    port.expect_run();
    let mut second = Front::connect(&path);
    assert!(second.is_closed());
    assert!(matches!(port.event(), Event::SecondRefused));
    // The first one does not notice.
    first.send(Request::NetSetMtu, NEED_REPLY, &words(&[20]), &[]);
    assert_eq!(first.receive().2, words(&[1]));
    let refusal = Refusal::Mtu {
        asked: 20,
        max: 9000,
    };
    assert!(matches!(port.event(), Event::Refused(found) if found == refusal));
    let rest = port.finish();
    assert!(matches!(rest[..], [Event::Disconnected(Ended::Stopped)]));
    assert!(first.is_closed());
}

#[test]
fn a_mistake_ends_its_connection_and_no_other() {
    let (_dir, path) = place();
    let port = Port::listening(&path);
    let mut front = Front::connect(&path);
    front.run();
    port.expect_run();
    front.send(Request::SetVringNum, NEED_REPLY, &pair(0, 3), &[]);
    // It is told, and then it is over.
    assert_eq!(front.receive().2, words(&[1]));
    assert!(front.is_closed());
    assert_eq!(port.call(), Call::Quiesce);
    let event = port.event();
    let Event::Disconnected(Ended::Failed(error)) = event else {
        panic!("{event:?}");
    };
    assert_eq!(
        error.to_string(),
        "SET_VRING_NUM: ring 0 cannot have 3 entries"
    );
    let mut next = Front::connect(&path);
    next.run();
    port.expect_run();
    port.finish();
}

#[test]
fn inflight_memory_comes_along_with_its_reply() {
    let (_dir, path) = place();
    let port = Port::listening(&path);
    let mut front = Front::connect(&path);
    front.run();
    let asked = [words(&[0, 0]), vec![1, 0, 0, 1, 0, 0, 0, 0]].concat();
    front.send(Request::GetInflightFd, 0, &asked, &[]);
    let (bytes, files) = front.receive_with_files();
    let size: u64 = 16 + 16 * 256;
    let expected = [words(&[size.next_multiple_of(64), 0]), asked[16..].to_vec()].concat();
    assert_eq!(bytes, framed(Request::GetInflightFd as u32, 5, &expected));
    let [file] = &files[..] else {
        panic!("{} files", files.len());
    };
    let len = rustix::fs::fstat(file).expect("a file").st_size as u64;
    assert_eq!(len, size.next_multiple_of(64));
    port.finish();
}

#[test]
fn a_port_that_connects_waits_until_somebody_is_there() {
    let (_dir, path) = place();
    let port = Port::start(Endpoint::Connect(path.clone()));
    let event = port.event();
    let Event::Waiting(error) = event else {
        panic!("{event:?}");
    };
    assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
    // Long enough for more tries, which are not reported: the next event is a connection.
    std::thread::sleep(Duration::from_millis(1200));
    let listener = UnixListener::bind(&path).expect("free");
    for _ in 0..2 {
        let (stream, _) = listener.accept().expect("it tries again");
        let mut front = Front::new(stream);
        front.run();
        port.expect_run();
        drop(front);
        assert_eq!(port.call(), Call::Quiesce);
        assert!(matches!(port.event(), Event::Disconnected(Ended::Closed)));
    }
    port.finish();
}

#[test]
fn a_port_that_waits_can_be_stopped() {
    let (_dir, path) = place();
    assert!(Port::listening(&path).finish().is_empty());
    let port = Port::start(Endpoint::Connect(path));
    assert!(matches!(port.event(), Event::Waiting(_)));
    assert!(port.finish().is_empty());
}
