//! One question to rtnetlink and all its answers, with a time limit.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Mutex;
use std::time::Duration;

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

/// The kernel answers from within our own send; this only ends a broken one.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(super) struct Socket {
    /// The lock keeps one question and its answers together.
    fd: Mutex<OwnedFd>,
}

impl Socket {
    pub(super) fn open() -> io::Result<Self> {
        let fd = rustix::net::socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            None, // NETLINK_ROUTE is protocol 0
        )?;
        set_socket_timeout(&fd, Timeout::Recv, Some(ANSWER_WITHIN))?;
        Ok(Self { fd: Mutex::new(fd) })
    }

    /// Sends `message` and returns the answers, or the kernel's error code.
    /// `flags` holds `NLM_F_DUMP` for a list, `NLM_F_ACK` where there is no
    /// answer of its own, neither where there is exactly one.
    pub(super) fn ask(
        &self,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> io::Result<Vec<RouteNetlinkMessage>> {
        let fd = self
            .fd
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        let mut message = NetlinkMessage::from(message);
        message.header.flags = NLM_F_REQUEST | flags;
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        rustix::net::send(&*fd, &bytes, SendFlags::empty())?;
        receive(&fd, flags & NLM_F_DUMP == NLM_F_DUMP)
    }
}

fn receive(fd: &OwnedFd, dump: bool) -> io::Result<Vec<RouteNetlinkMessage>> {
    let mut answers = Vec::new();
    // As large as any datagram the kernel builds for a dump (32 KiB, rtnl_dumpit).
    let mut buffer = vec![0u8; 64 << 10];
    loop {
        let (len, _) = rustix::net::recv(fd, &mut buffer[..], RecvFlags::empty())?;
        if take(&buffer[..len], &mut answers)? || (!dump && !answers.is_empty()) {
            return Ok(answers);
        }
    }
}

/// Reads the messages of one datagram; true when the answer is complete.
fn take(mut bytes: &[u8], answers: &mut Vec<RouteNetlinkMessage>) -> io::Result<bool> {
    while !bytes.is_empty() {
        let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(bytes)
            .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
        // Messages are aligned to 4 bytes within a datagram (NLMSG_ALIGN).
        let len = (message.header.length as usize).next_multiple_of(4).max(16);
        bytes = bytes.get(len..).unwrap_or_default();
        match message.payload {
            NetlinkPayload::Done(_) => return Ok(true),
            NetlinkPayload::Error(e) if e.code.is_none() => return Ok(true),
            NetlinkPayload::Error(e) => return Err(e.to_io()),
            NetlinkPayload::InnerMessage(inner) => answers.push(inner),
            _ => {}
        }
    }
    Ok(false)
}
