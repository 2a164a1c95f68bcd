//! The life of a port: a front end comes, is served until it goes, and the next one comes.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::event::{PollFd, PollFlags};

use super::connection::{Connection, Ended, poll};
use super::socket::{Listener, connect};
use super::{DataPath, Message, Offer, Refusal, Session};

/// How long is waited before the next try where a try failed or a connection ended.
const RETRY_MS: u32 = 500;

/// Where front ends come from.
#[derive(Debug)]
pub enum Endpoint {
    /// They connect.
    Listen(Listener),
    /// They listen; tried again and again. A restart of this process then costs the guest nothing but a pause.
    Connect(PathBuf),
}

/// What happened.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// There is nobody to connect to yet, or the socket cannot be used. Said once per cause.
    Waiting(io::Error),
    /// A front end is there; its process, where the kernel tells.
    Connected(Option<u32>),
    /// It acknowledged features; may happen again.
    Negotiated {
        /// Virtio's and vhost-user's own.
        features: u64,
        /// Of the protocol.
        protocol_features: u64,
    },
    /// It asked for something it cannot have.
    Refused(Refusal),
    /// Another one came while it was there, and was sent away.
    SecondRefused,
    /// It is gone.
    Disconnected(Ended),
}

/// Serves one front end after the other until `stop` becomes readable. Never more than one at a time: a second one
/// finds its connection closed.
///
/// # Errors
/// Waiting itself fails: the process is out of memory or `stop` is no descriptor.
pub fn serve(
    endpoint: &Endpoint,
    offer: &Offer,
    data_path: &mut impl DataPath,
    stop: BorrowedFd<'_>,
    events: &mut dyn FnMut(Event),
) -> io::Result<()> {
    let mut cause = None;
    loop {
        let socket = match next(endpoint, stop)? {
            Next::Stopped => return Ok(()),
            Next::Socket(socket) => socket,
            Next::Failed(error) => {
                let now = (error.kind(), error.raw_os_error());
                if cause.replace(now) != Some(now) {
                    events(Event::Waiting(error));
                }
                if rest(stop)? {
                    return Ok(());
                }
                continue;
            }
        };
        cause = None;
        events(Event::Connected(peer(&socket)));
        let ended = one(endpoint, socket, offer, data_path, stop, events);
        let is_stopped = matches!(ended, Ended::Stopped);
        events(Event::Disconnected(ended));
        // One that closes at once must not make this spin.
        let spins = matches!(endpoint, Endpoint::Connect(_));
        if is_stopped || (spins && rest(stop)?) {
            return Ok(());
        }
    }
}

enum Next {
    Socket(OwnedFd),
    Failed(io::Error),
    Stopped,
}

fn next(endpoint: &Endpoint, stop: BorrowedFd<'_>) -> io::Result<Next> {
    match endpoint {
        Endpoint::Listen(listener) => accepted(listener, stop),
        Endpoint::Connect(path) => Ok(match connect(path) {
            Ok(socket) => Next::Socket(socket),
            Err(error) => Next::Failed(error),
        }),
    }
}

fn accepted(listener: &Listener, stop: BorrowedFd<'_>) -> io::Result<Next> {
    loop {
        let mut polled = [
            PollFd::new(listener, PollFlags::IN),
            PollFd::from_borrowed_fd(stop, PollFlags::IN),
        ];
        poll(&mut polled, None)?;
        if !polled[1].revents().is_empty() {
            return Ok(Next::Stopped);
        }
        match listener.accept() {
            Ok(None) => {}
            Ok(Some(socket)) => return Ok(Next::Socket(socket)),
            Err(error) => return Ok(Next::Failed(error)),
        }
    }
}

/// Rests; true when stopped meanwhile.
fn rest(stop: BorrowedFd<'_>) -> io::Result<bool> {
    let mut polled = [PollFd::from_borrowed_fd(stop, PollFlags::IN)];
    poll(&mut polled, Some(RETRY_MS))?;
    Ok(!polled[0].revents().is_empty())
}

fn peer(socket: &OwnedFd) -> Option<u32> {
    let peer = rustix::net::sockopt::socket_peercred(socket).ok()?;
    u32::try_from(peer.pid.as_raw_nonzero().get()).ok()
}

/// One connection from beginning to end. Afterwards the data path has nothing of it.
fn one(
    endpoint: &Endpoint,
    socket: OwnedFd,
    offer: &Offer,
    data_path: &mut impl DataPath,
    stop: BorrowedFd<'_>,
    events: &mut dyn FnMut(Event),
) -> Ended {
    let mut session = Session::new(offer.clone());
    let ended = match Connection::new(socket) {
        Err(error) => error.into(),
        Ok(connection) => loop {
            if let Err(ended) = idle(endpoint, &connection, stop, events) {
                break ended;
            }
            if let Err(ended) = step(&connection, &mut session, data_path, stop, events) {
                break ended;
            }
        },
    };
    session.close(data_path);
    ended
}

/// Waits for the next message, and sends away who else comes meanwhile.
fn idle(
    endpoint: &Endpoint,
    connection: &Connection,
    stop: BorrowedFd<'_>,
    events: &mut dyn FnMut(Event),
) -> Result<(), Ended> {
    loop {
        let third = match endpoint {
            Endpoint::Listen(listener) => listener.as_fd(),
            Endpoint::Connect(_) => stop,
        };
        let mut polled = [
            PollFd::new(connection, PollFlags::IN),
            PollFd::from_borrowed_fd(stop, PollFlags::IN),
            PollFd::from_borrowed_fd(third, PollFlags::IN),
        ];
        poll(&mut polled, None)?;
        let [ours, stopped, _] = polled.map(|fd| !fd.revents().is_empty());
        if stopped {
            return Err(Ended::Stopped);
        }
        // First: it may say that it is gone, and then the other one is its successor.
        if ours {
            return Ok(());
        }
        if let Endpoint::Listen(listener) = endpoint {
            send_away(listener, stop, events)?;
        }
    }
}

fn send_away(
    listener: &Listener,
    stop: BorrowedFd<'_>,
    events: &mut dyn FnMut(Event),
) -> Result<(), Ended> {
    match listener.accept() {
        Ok(None) => Ok(()),
        Ok(Some(_closed)) => {
            events(Event::SecondRefused);
            Ok(())
        }
        // It stays readable: no file descriptor is left, and without a rest this would spin.
        Err(_) if rest(stop)? => Err(Ended::Stopped),
        Err(_) => Ok(()),
    }
}

fn step(
    connection: &Connection,
    session: &mut Session,
    data_path: &mut impl DataPath,
    stop: BorrowedFd<'_>,
    events: &mut dyn FnMut(Event),
) -> Result<(), Ended> {
    let message = connection.receive(stop)?;
    let before = negotiated(session);
    let result = handle(connection, session, message, data_path, stop);
    let after = negotiated(session);
    if let Some((features, protocol_features)) = after.filter(|_| before != after) {
        events(Event::Negotiated {
            features,
            protocol_features,
        });
    }
    if let Some(refusal) = result? {
        events(Event::Refused(refusal));
    }
    Ok(())
}

fn handle(
    connection: &Connection,
    session: &mut Session,
    message: Message,
    data_path: &mut impl DataPath,
    stop: BorrowedFd<'_>,
) -> Result<Option<Refusal>, Ended> {
    let (request, need_reply) = (message.request, message.need_reply);
    match session.handle(message, data_path) {
        Ok(handled) => {
            if let Some(reply) = handled.reply {
                connection.send(&reply, stop)?;
            }
            Ok(handled.refusal)
        }
        Err(error) => {
            if let Some(reply) = session.failure_reply(request, need_reply) {
                // The error says more than whether anybody was there to hear of it.
                let _ = connection.send(&reply, stop);
            }
            Err(error.into())
        }
    }
}

fn negotiated(session: &Session) -> Option<(u64, u64)> {
    let device = session.device();
    let both = (device.features, device.protocol_features);
    device.is_negotiated.then_some(both)
}
