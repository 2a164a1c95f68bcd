//! Questions to the kernel over netlink, synchronously: rtnetlink and the generic families `ethtool` and `netdev`.
//!
//! Every answer is bounded in time. What changes a setting is built in [`crate::change`] only.

mod attributes;
mod generic;
mod monitor;

pub(crate) use attributes::{Attribute, Builder, attributes};
pub(crate) use generic::{Family, question};
pub(crate) use monitor::Monitor;

use std::cell::Cell;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

/// The kernel answers from within our own send; this only ends a broken one.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// Twice the largest datagram the kernel builds for a dump (netlink_dump in net/netlink/af_netlink.c, 32 KiB).
const DATAGRAM_MAX: usize = 64 << 10;
/// A dump that was interrupted by a change is asked again, so often.
const RETRIES: u32 = 4;

const HEADER_LEN: usize = 16;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;
const NLM_F_DUMP_INTR: u16 = 0x10;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;

/// Which kernel subsystem a socket talks to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bus {
    /// Links, addresses: NETLINK_ROUTE.
    Route,
    /// Named families: NETLINK_GENERIC.
    Generic,
}

/// A netlink socket of the calling thread's namespace.
#[derive(Debug)]
pub(crate) struct Socket {
    fd: OwnedFd,
    sequence: Cell<u32>,
}

/// How many answers a question has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answers {
    /// One, followed by an acknowledgement.
    One,
    /// A list.
    List,
}

impl Socket {
    pub(crate) fn open(bus: Bus) -> io::Result<Self> {
        let protocol = match bus {
            Bus::Route => None, // NETLINK_ROUTE is 0
            Bus::Generic => Some(rustix::net::netlink::GENERIC),
        };
        let fd = rustix::net::socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            protocol,
        )?;
        set_socket_timeout(&fd, Timeout::Recv, Some(ANSWER_WITHIN))?;
        Ok(Self {
            fd,
            sequence: Cell::new(1),
        })
    }

    /// Asks, and returns the payload of every answer; the kernel's error code as an error.
    pub(crate) fn ask(&self, kind: u16, body: &[u8], answers: Answers) -> io::Result<Vec<Vec<u8>>> {
        for _ in 0..RETRIES {
            if let Some(payloads) = self.ask_once(kind, body, answers)? {
                return Ok(payloads);
            }
        }
        Err(io::Error::new(
            io::ErrorKind::Interrupted,
            "the list changed while it was read",
        ))
    }

    /// None when a change made the list inconsistent.
    fn ask_once(
        &self,
        kind: u16,
        body: &[u8],
        answers: Answers,
    ) -> io::Result<Option<Vec<Vec<u8>>>> {
        let sequence = self.sequence.get().wrapping_add(1);
        self.sequence.set(sequence);
        let flags = match answers {
            Answers::One => NLM_F_REQUEST | NLM_F_ACK,
            Answers::List => NLM_F_REQUEST | NLM_F_DUMP,
        };
        rustix::net::send(
            &self.fd,
            &message(kind, flags, sequence, body)?,
            SendFlags::empty(),
        )?;
        let mut reader = Reader {
            sequence,
            payloads: Vec::new(),
            interrupted: false,
        };
        let mut buffer = vec![0u8; DATAGRAM_MAX];
        loop {
            let (len, _) = rustix::net::recv(&self.fd, &mut buffer[..], RecvFlags::empty())?;
            if reader.take(buffer.get(..len).unwrap_or_default())? {
                return Ok((!reader.interrupted).then_some(reader.payloads));
            }
        }
    }
}

fn message(kind: u16, flags: u16, sequence: u32, body: &[u8]) -> io::Result<Vec<u8>> {
    let len = u32::try_from(HEADER_LEN + body.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut bytes = Vec::with_capacity(HEADER_LEN + body.len());
    bytes.extend(len.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    bytes.extend(0u32.to_ne_bytes()); // the kernel knows our port
    bytes.extend(body);
    Ok(bytes)
}

/// Collects the answers to one question.
struct Reader {
    sequence: u32,
    payloads: Vec<Vec<u8>>,
    interrupted: bool,
}

impl Reader {
    /// Reads the messages of one datagram; true when the answer is complete.
    fn take(&mut self, mut bytes: &[u8]) -> io::Result<bool> {
        while let Some(head) = bytes.first_chunk::<HEADER_LEN>() {
            let word = |at: usize| {
                u32::from_ne_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]])
            };
            let half = |at: usize| u16::from_ne_bytes([head[at], head[at + 1]]);
            let len = word(0) as usize;
            let payload = bytes.get(HEADER_LEN..len).ok_or_else(truncated)?;
            if word(8) == self.sequence && self.message(half(4), half(6), payload)? {
                return Ok(true);
            }
            bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        }
        Ok(false)
    }

    /// One message; true when it is the last.
    fn message(&mut self, kind: u16, flags: u16, payload: &[u8]) -> io::Result<bool> {
        self.interrupted |= flags & NLM_F_DUMP_INTR != 0;
        match kind {
            NLMSG_DONE | NLMSG_ERROR => {
                let code = payload
                    .first_chunk()
                    .map_or(0, |code| i32::from_ne_bytes(*code));
                match code {
                    0.. => Ok(true),
                    _ => Err(io::Error::from_raw_os_error(code.saturating_neg())),
                }
            }
            _ => {
                self.payloads.push(payload.to_vec());
                Ok(false)
            }
        }
    }
}

fn truncated() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "a netlink message is cut short")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reader() -> Reader {
        Reader {
            sequence: 7,
            payloads: Vec::new(),
            interrupted: false,
        }
    }

    #[test]
    fn answers_are_collected_until_done() {
        let mut datagram = message(20, 2, 7, &[1, 2, 3, 4, 5]).expect("made");
        datagram.resize(datagram.len().next_multiple_of(4), 0);
        datagram.extend(message(20, 2, 6, &[9]).expect("made"));
        datagram.resize(datagram.len().next_multiple_of(4), 0);
        datagram.extend(message(NLMSG_DONE, 2, 7, &0i32.to_ne_bytes()).expect("made"));
        let mut reader = reader();
        assert!(reader.take(&datagram).expect("whole"));
        assert_eq!(reader.payloads, [[1, 2, 3, 4, 5]]);
    }

    #[test]
    fn the_kernels_error_is_an_error() {
        let datagram = message(NLMSG_ERROR, 0, 7, &(-95i32).to_ne_bytes()).expect("made");
        let error = reader().take(&datagram).expect_err("refused");
        assert_eq!(error.raw_os_error(), Some(95));
    }

    #[test]
    fn damaged_messages_are_refused() {
        let mut datagram = message(20, 2, 7, &[0; 8]).expect("made");
        datagram[0] = 200;
        assert!(reader().take(&datagram).is_err());
        datagram[0] = 3;
        assert!(reader().take(&datagram).is_err());
    }
}
