//! Messages over a socket, with their files. Every wait ends when the stop descriptor becomes readable.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags};
use rustix::io::{Errno, IoSlice, IoSliceMut};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};

use super::VhostError;
use super::message::{FDS_MAX, HEADER_LEN, Header, Message, Reply};

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub enum Ended {
    /// the front end closed it
    #[error("the front end closed it")]
    Closed,
    /// the port was stopped
    #[error("the port was stopped")]
    Stopped,
    /// {0}
    #[error(transparent)]
    Failed(#[from] VhostError),
}

impl From<io::Error> for Ended {
    fn from(error: io::Error) -> Self {
        Self::Failed(error.into())
    }
}

/// A connected socket.
#[derive(Debug)]
pub struct Connection {
    socket: OwnedFd,
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Connection {
    /// Takes a connected stream socket.
    ///
    /// # Errors
    /// It cannot be made non-blocking.
    pub fn new(socket: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&socket, true)?;
        Ok(Self { socket })
    }

    /// The next message.
    ///
    /// # Errors
    /// There is none, and why; the connection is of no more use. Files that came are closed.
    pub fn receive(&self, stop: BorrowedFd<'_>) -> Result<Message, Ended> {
        let mut fds = Vec::new();
        let mut bytes = [0; HEADER_LEN];
        self.fill(&mut bytes, &mut fds, stop, true)?;
        let header = Header::parse(&bytes)?;
        let mut payload = vec![0; header.payload_len];
        self.fill(&mut payload, &mut fds, stop, false)?;
        Ok(Message {
            request: header.request,
            need_reply: header.need_reply,
            payload,
            fds,
        })
    }

    /// Reads until `bytes` is full; files come with whichever byte they were sent with.
    fn fill(
        &self,
        bytes: &mut [u8],
        fds: &mut Vec<OwnedFd>,
        stop: BorrowedFd<'_>,
        may_end: bool,
    ) -> Result<(), Ended> {
        let mut filled = 0;
        while filled < bytes.len() {
            match self.read(&mut bytes[filled..], fds)? {
                Some(0) if may_end && filled == 0 => return Err(Ended::Closed),
                Some(0) => return Err(VhostError::Cut.into()),
                Some(len) => filled += len,
                None => self.wait(PollFlags::IN, stop)?,
            }
        }
        Ok(())
    }

    /// One read; `None`: nothing there yet.
    fn read(&self, bytes: &mut [u8], fds: &mut Vec<OwnedFd>) -> Result<Option<usize>, Ended> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut pieces = [IoSliceMut::new(bytes)];
        let flags = RecvFlags::CMSG_CLOEXEC;
        let received = match rustix::net::recvmsg(&self.socket, &mut pieces, &mut control, flags) {
            Ok(received) => received,
            Err(Errno::AGAIN | Errno::INTR) => return Ok(None),
            Err(Errno::CONNRESET) => return Err(Ended::Closed),
            Err(error) => return Err(io::Error::from(error).into()),
        };
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(files) = message {
                fds.extend(files);
            }
        }
        // Cut short: the kernel has closed those without room in the buffer, or in this process.
        if fds.len() > FDS_MAX || received.flags.contains(ReturnFlags::CTRUNC) {
            return Err(VhostError::TooManyFds.into());
        }
        Ok(Some(received.bytes))
    }

    /// Sends a reply whole.
    ///
    /// # Errors
    /// As [`receive`](Self::receive).
    pub fn send(&self, reply: &Reply, stop: BorrowedFd<'_>) -> Result<(), Ended> {
        let bytes = reply.bytes();
        let mut fd = reply.fd.as_ref().map(AsFd::as_fd);
        let mut sent = 0;
        while sent < bytes.len() {
            match self.write(&bytes[sent..], fd) {
                Ok(len) => {
                    sent += len;
                    fd = None;
                }
                Err(Errno::AGAIN | Errno::INTR) => self.wait(PollFlags::OUT, stop)?,
                Err(Errno::PIPE | Errno::CONNRESET) => return Err(Ended::Closed),
                Err(error) => return Err(io::Error::from(error).into()),
            }
        }
        Ok(())
    }

    fn write(&self, bytes: &[u8], fd: Option<BorrowedFd<'_>>) -> Result<usize, Errno> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let fds = fd.map(|fd| [fd]);
        if let Some(fds) = &fds {
            control.push(SendAncillaryMessage::ScmRights(fds));
        }
        let pieces = [IoSlice::new(bytes)];
        rustix::net::sendmsg(&self.socket, &pieces, &mut control, SendFlags::NOSIGNAL)
    }

    fn wait(&self, flags: PollFlags, stop: BorrowedFd<'_>) -> Result<(), Ended> {
        let mut polled = [
            PollFd::new(&self.socket, flags),
            PollFd::from_borrowed_fd(stop, PollFlags::IN),
        ];
        poll(&mut polled, None)?;
        match polled[1].revents().is_empty() {
            true => Ok(()),
            false => Err(Ended::Stopped),
        }
    }
}

/// poll(2); a signal counts as waking up.
pub(super) fn poll(fds: &mut [PollFd<'_>], timeout_ms: Option<u32>) -> io::Result<()> {
    let timeout = timeout_ms.map(|ms| rustix::event::Timespec {
        tv_sec: i64::from(ms / 1000),
        tv_nsec: i64::from(ms % 1000) * 1_000_000,
    });
    match rustix::event::poll(fds, timeout.as_ref()) {
        Ok(_) => Ok(()),
        Err(Errno::INTR) => {
            for fd in fds {
                fd.clear_revents();
            }
            Ok(())
        }
        Err(error) => Err(error.into()),
    }
}
