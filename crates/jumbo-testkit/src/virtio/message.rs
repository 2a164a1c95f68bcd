//! vhost-user messages on the wire: a header of three words, a payload, files beside it.
//!
//! Source: vhost-user specification, "Message Specification".

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

/// Requests of the front end, by number (vhost-user specification, "Front-end message types").
pub mod request {
    macro_rules! requests {
        ($($name:ident = $number:literal,)*) => {
            $(#[doc = concat!("`VHOST_USER_", stringify!($name), "`.")] pub const $name: u32 = $number;)*

            /// The request's name, for messages.
            #[must_use]
            pub fn name(request: u32) -> &'static str {
                match request {
                    $($number => stringify!($name),)*
                    _ => "unknown request",
                }
            }
        };
    }
    requests! {
        GET_FEATURES = 1,
        SET_FEATURES = 2,
        SET_OWNER = 3,
        RESET_OWNER = 4,
        SET_MEM_TABLE = 5,
        SET_LOG_BASE = 6,
        SET_LOG_FD = 7,
        SET_VRING_NUM = 8,
        SET_VRING_ADDR = 9,
        SET_VRING_BASE = 10,
        GET_VRING_BASE = 11,
        SET_VRING_KICK = 12,
        SET_VRING_CALL = 13,
        SET_VRING_ERR = 14,
        GET_PROTOCOL_FEATURES = 15,
        SET_PROTOCOL_FEATURES = 16,
        GET_QUEUE_NUM = 17,
        SET_VRING_ENABLE = 18,
        SEND_RARP = 19,
        NET_SET_MTU = 20,
        SET_BACKEND_REQ_FD = 21,
        IOTLB_MSG = 22,
        SET_VRING_ENDIAN = 23,
        GET_CONFIG = 24,
        SET_CONFIG = 25,
        POSTCOPY_ADVISE = 28,
        POSTCOPY_LISTEN = 29,
        POSTCOPY_END = 30,
        GET_INFLIGHT_FD = 31,
        SET_INFLIGHT_FD = 32,
        RESET_DEVICE = 34,
        VRING_KICK = 35,
        GET_MAX_MEM_SLOTS = 36,
        ADD_MEM_REG = 37,
        REM_MEM_REG = 38,
        SET_STATUS = 39,
        GET_STATUS = 40,
    }
}

/// Header flags: protocol version 1.
pub const VERSION: u32 = 1;
/// Header flags: this is a reply.
pub const REPLY: u32 = 1 << 2;
/// Header flags: the sender wants a reply.
pub const NEED_REPLY: u32 = 1 << 3;
/// In the word of SET_VRING_KICK, CALL and ERR: no file comes with it.
pub const NO_FD: u64 = 1 << 8;

const HEADER_LEN: usize = 12;
/// More than any message of this protocol has; what claims more is refused.
const PAYLOAD_MAX: usize = 4096;
/// Files a message may bring.
const FDS_MAX: usize = 16;

/// One message.
#[derive(Debug, Default)]
pub struct Message {
    /// See [`request`].
    pub request: u32,
    /// [`VERSION`] with [`REPLY`] or [`NEED_REPLY`].
    pub flags: u32,
    /// What follows the header.
    pub payload: Vec<u8>,
    /// Files that came beside it.
    pub fds: Vec<OwnedFd>,
}

impl Message {
    /// The 64-bit word at `offset` of the payload.
    #[must_use]
    pub fn u64(&self, offset: usize) -> Option<u64> {
        let bytes = self.payload.get(offset..offset + 8)?;
        Some(u64::from_ne_bytes(bytes.try_into().ok()?))
    }

    /// The 32-bit word at `offset` of the payload.
    #[must_use]
    pub fn u32(&self, offset: usize) -> Option<u32> {
        let bytes = self.payload.get(offset..offset + 4)?;
        Some(u32::from_ne_bytes(bytes.try_into().ok()?))
    }

    /// The 16-bit word at `offset` of the payload.
    #[must_use]
    pub fn u16(&self, offset: usize) -> Option<u16> {
        let bytes = self.payload.get(offset..offset + 2)?;
        Some(u16::from_ne_bytes(bytes.try_into().ok()?))
    }
}

/// Sends one message. `size` is what the header says of the payload, which a hostile test may choose.
pub fn send(
    mut socket: &UnixStream,
    [request, flags, size]: [u32; 3],
    payload: &[u8],
    fds: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let mut bytes = Vec::with_capacity(HEADER_LEN + payload.len());
    for word in [request, flags, size] {
        bytes.extend_from_slice(&word.to_ne_bytes());
    }
    bytes.extend_from_slice(payload);
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let slices = [IoSlice::new(&bytes)];
    let sent = sendmsg(socket, &slices, &mut ancillary, SendFlags::NOSIGNAL)?;
    socket.write_all(&bytes[sent..])
}

/// Receives one message; the socket's own time limit holds.
pub fn receive(mut socket: &UnixStream) -> io::Result<Message> {
    let mut header = [0; HEADER_LEN];
    let mut message = Message::default();
    let got = receive_with_fds(socket, &mut header, &mut message.fds)?;
    if got == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    socket.read_exact(&mut header[got..])?;
    let word = |at: usize| u32::from_ne_bytes(header[at..at + 4].try_into().expect("four bytes"));
    message.request = word(0);
    message.flags = word(4);
    let size = word(8) as usize;
    if size > PAYLOAD_MAX {
        return Err(io::Error::other(format!("a message claims {size} bytes")));
    }
    message.payload.resize(size, 0);
    socket.read_exact(&mut message.payload)?;
    Ok(message)
}

fn receive_with_fds(
    socket: &UnixStream,
    bytes: &mut [u8],
    fds: &mut Vec<OwnedFd>,
) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut slices = [IoSliceMut::new(bytes)];
    let flags = RecvFlags::CMSG_CLOEXEC;
    let received =
        rustix::io::retry_on_intr(|| recvmsg(socket, &mut slices, &mut ancillary, flags))?;
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(files) = message {
            fds.extend(files);
        }
    }
    Ok(received.bytes)
}
