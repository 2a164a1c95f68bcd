//! Connections between two hosts, made within a time limit.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::error::{Doing, Error, Result};
use crate::host::{Family, Host};

/// Longest wait for a connection, or for anything else to move.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// How long a socket call blocks before its thread looks at the stop flag.
pub(super) const TICK: Duration = Duration::from_millis(200);

/// `count` connections from `from` to `to`: (client end, server end) each.
/// Source: a listener on a port the kernel chose, inside `to`.
pub fn connections(
    from: &Host,
    to: &Host,
    family: Family,
    count: usize,
) -> Result<Vec<(TcpStream, TcpStream)>> {
    let addr = to.socket_addr(family, 0);
    let listener = to
        .ns
        .run(|| TcpListener::bind(addr))?
        .doing(|| format!("listen on {addr}"))?;
    let addr = listener.local_addr().doing(|| "read the port")?;
    (0..count)
        .map(|_| {
            let client = from.ns.run(|| connect_retry(addr, PATIENCE))??;
            Ok((client, accept(&listener, PATIENCE)?))
        })
        .collect()
}

/// Connects from the calling thread's namespace, trying again until `within`
/// has passed: a link that was just set up may drop the first packets.
pub fn connect_retry(addr: SocketAddr, within: Duration) -> Result<TcpStream> {
    let until = Instant::now() + within;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let attempt = left.clamp(Duration::from_millis(1), Duration::from_secs(2));
        match TcpStream::connect_timeout(&addr, attempt) {
            Ok(stream) => return Ok(stream),
            Err(e) if Instant::now() >= until => {
                return Err(e).doing(|| format!("connect to {addr}"));
            }
            Err(_) => thread::sleep(Duration::from_millis(10)),
        }
    }
}

/// Accepts one connection within a time limit.
pub fn accept(listener: &TcpListener, within: Duration) -> Result<TcpStream> {
    let limit = Timespec {
        tv_sec: within.as_secs() as i64,
        tv_nsec: within.subsec_nanos().into(),
    };
    let mut fds = [PollFd::new(listener, PollFlags::IN)];
    if poll(&mut fds, Some(&limit)).doing(|| "wait for a connection")? == 0 {
        return Err(Error::Stalled(format!(
            "no connection arrived within {within:?}"
        )));
    }
    Ok(listener.accept().doing(|| "accept a connection")?.0)
}

/// Whether a socket call only ran into its time limit or a signal.
pub(super) fn is_tick(e: &io::Error) -> bool {
    use io::ErrorKind::{Interrupted, TimedOut, WouldBlock};
    matches!(e.kind(), WouldBlock | TimedOut | Interrupted)
}
