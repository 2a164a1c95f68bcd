//! Streams between the host and a guest that go on until they are told to end, whatever happens below them. Every byte is
//! compared.

use std::io::{self, Error, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

use jumbo_lab::Host;
use jumbo_lab::vm::Qemu;
use jumbo_testkit::pattern;

use super::{Tested, listen_into};

/// What the guest sends again and again.
const BLOCK_LEN: usize = 1 << 20;
const CHUNK_LEN: usize = 64 << 10;
/// After each chunk: a guest that is being copied must not write its memory faster than it is copied.
const PAUSE: Duration = Duration::from_millis(5);
/// A connection that stands still for so long is lost.
const PATIENCE: Duration = Duration::from_secs(120);

/// The guest reads more slowly than the host sends. So there are always packets in its memory that only the switch has
/// written to, and nobody has read: a copy of the guest without them is damaged.
const SLOW_READER: &str = "| (while dd bs=64k count=4 of=/tmp/part 2> /dev/null && test -s /tmp/part; \
    do cat /tmp/part; sleep 0.02; done) | sha256sum > /tmp/came";

/// What both ends of the streams share.
#[derive(Default)]
struct Common {
    stop: AtomicBool,
    /// Bytes the guest has taken from the host, as far as the host's socket buffer tells.
    to_guest: AtomicU64,
    from_guest: AtomicU64,
}

/// One or two streams.
pub(super) struct Streams {
    common: Arc<Common>,
    /// It ends with the digest of all that was sent.
    sender: JoinHandle<io::Result<String>>,
    receiver: Option<JoinHandle<io::Result<()>>>,
}

impl Streams {
    /// Begins to send to `vm`, whose address is 10.0.0.11; and lets it send to the host, if it is to.
    pub(super) fn start(host: &Host, vm: &mut Qemu, guest_sends: bool) -> Tested<Self> {
        let common = Arc::new(Common::default());
        vm.ok(&listen_into(7001, SLOW_READER))?;
        let to = host.ns.run(|| connect("10.0.0.11:7001"))??;
        let shared = common.clone();
        let sender = std::thread::spawn(move || send(to, &shared));
        let receiver = match guest_sends {
            true => Some(receiver(host, vm, &common)?),
            false => None,
        };
        let streams = Self {
            common,
            sender,
            receiver,
        };
        streams.go_on(1 << 20);
        Ok(streams)
    }

    /// Waits until `len` more bytes have gone each way.
    #[track_caller]
    pub(super) fn go_on(&self, len: u64) {
        let read = || {
            let Common {
                to_guest,
                from_guest,
                ..
            } = &*self.common;
            [to_guest, from_guest].map(|count| count.load(Ordering::Relaxed))
        };
        let (begin, end) = (read(), Instant::now() + PATIENCE);
        let wanted = [true, self.receiver.is_some()];
        loop {
            let now = read();
            let far = |way: usize| !wanted[way] || now[way] >= begin[way] + len;
            if far(0) && far(1) {
                return;
            }
            assert!(
                Instant::now() < end,
                "the streams stand still: {begin:?}, now {now:?}"
            );
            sleep(Duration::from_millis(10));
        }
    }

    /// Ends them, and compares what came on both sides.
    #[track_caller]
    pub(super) fn end(self, vm: &mut Qemu) -> Tested {
        self.common.stop.store(true, Ordering::Relaxed);
        let sent = self.sender.join().expect("no panic")?;
        if let Some(receiver) = self.receiver {
            receiver.join().expect("no panic")?;
        }
        vm.ok("for i in $(seq 50); do test -e /tmp/sum && break; sleep 1; done; test -e /tmp/sum")?;
        let came = vm.ok("cat /tmp/came")?;
        assert_eq!(came.trim(), sent, "what the guest received");
        Ok(())
    }
}

/// The guest sends one block of random bytes without end, and the host knows the block.
fn receiver(
    host: &Host,
    vm: &mut Qemu,
    common: &Arc<Common>,
) -> Tested<JoinHandle<io::Result<()>>> {
    let listener = host.ns.run(|| TcpListener::bind("0.0.0.0:7002"))??;
    vm.ok("dd if=/dev/urandom of=/tmp/block bs=1M count=1 2> /dev/null")?;
    let digest = vm.ok("sha256sum < /tmp/block")?.trim().to_owned();
    vm.ok("(while cat /tmp/block; do :; done | nc 10.0.0.1 7002) > /dev/null 2>&1 &")?;
    let (mut stream, _) = listener.accept()?;
    let common = common.clone();
    Ok(std::thread::spawn(move || {
        receive(&mut stream, &digest, &common)
    }))
}

fn connect(address: &str) -> io::Result<TcpStream> {
    let end = Instant::now() + Duration::from_secs(30);
    loop {
        match TcpStream::connect(address) {
            Err(_) if Instant::now() < end => sleep(Duration::from_millis(200)),
            other => return other,
        }
    }
}

fn send(mut to: TcpStream, common: &Common) -> io::Result<String> {
    let mut digest = Digest::new()?;
    let mut offset = 0;
    to.set_write_timeout(Some(PATIENCE))?;
    while !common.stop.load(Ordering::Relaxed) {
        let bytes = pattern(offset, CHUNK_LEN);
        to.write_all(&bytes)?;
        digest.add(&bytes)?;
        offset += CHUNK_LEN;
        common.to_guest.store(offset as u64, Ordering::Relaxed);
        sleep(PAUSE);
    }
    to.shutdown(Shutdown::Write)?;
    digest.end()
}

fn receive(from: &mut TcpStream, digest: &str, common: &Common) -> io::Result<()> {
    from.set_read_timeout(Some(PATIENCE))?;
    let mut block = vec![0; BLOCK_LEN];
    from.read_exact(&mut block)?;
    let mut first = Digest::new()?;
    first.add(&block)?;
    if first.end()? != digest {
        return Err(Error::other("the first block from the guest is damaged"));
    }
    let (mut at, mut bytes) = (0, vec![0; CHUNK_LEN]);
    while !common.stop.load(Ordering::Relaxed) {
        from.read_exact(&mut bytes)?;
        if bytes != block[at..at + CHUNK_LEN] {
            return Err(Error::other("damage in the stream from the guest"));
        }
        at = (at + CHUNK_LEN) % BLOCK_LEN;
        common
            .from_guest
            .fetch_add(CHUNK_LEN as u64, Ordering::Relaxed);
        sleep(PAUSE);
    }
    Ok(())
}

/// `sha256sum` of what is added.
pub(super) struct Digest(Child);

impl Digest {
    pub(super) fn new() -> io::Result<Self> {
        let mut command = Command::new("sha256sum");
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        command.spawn().map(Self)
    }

    pub(super) fn add(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.stdin.as_mut().expect("piped").write_all(bytes)
    }

    /// As `sha256sum` and the guest's print it.
    pub(super) fn end(self) -> io::Result<String> {
        let output = self.0.wait_with_output()?;
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }
}
