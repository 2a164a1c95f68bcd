//! What the kernel says unasked: changes of links and of their settings.

use std::io;
use std::os::fd::OwnedFd;

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType};

use super::{Bus, DATAGRAM_MAX, HEADER_LEN};

/// Most datagrams read at once; what is left is read the next time.
const DATAGRAMS_MAX: usize = 512;

/// A socket that hears a group.
#[derive(Debug)]
pub(crate) struct Monitor {
    fd: OwnedFd,
}

/// What was heard.
#[derive(Debug, Default)]
pub(crate) struct News {
    /// Messages without their header, with their type.
    pub(crate) messages: Vec<(u16, Vec<u8>)>,
    /// There were more than the socket could hold.
    pub(crate) lost: bool,
}

impl Monitor {
    /// Hears one group. Only the first 32 can be named when a socket is bound.
    pub(crate) fn open(bus: Bus, group: u32) -> io::Result<Self> {
        let protocol = match bus {
            Bus::Route => None,
            Bus::Generic => Some(rustix::net::netlink::GENERIC),
        };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let fd =
            rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, protocol)?;
        let bit = group.checked_sub(1).and_then(|bit| 1u32.checked_shl(bit));
        let groups = bit.ok_or_else(|| io::Error::other("the group has too high a number"))?;
        rustix::net::bind(&fd, &SocketAddrNetlink::new(0, groups))?;
        Ok(Self { fd })
    }

    /// Everything said since the last time, without waiting.
    pub(crate) fn news(&self) -> News {
        let mut news = News::default();
        let mut buffer = vec![0u8; DATAGRAM_MAX];
        for _ in 0..DATAGRAMS_MAX {
            match rustix::net::recv(&self.fd, &mut buffer[..], RecvFlags::DONTWAIT) {
                Ok((len, _)) => split(buffer.get(..len).unwrap_or_default(), &mut news),
                Err(rustix::io::Errno::NOBUFS) => news.lost = true,
                Err(_) => break,
            }
        }
        news
    }
}

/// The messages of a datagram, up to the first that is damaged.
fn split(mut bytes: &[u8], news: &mut News) {
    while let Some(head) = bytes.first_chunk::<HEADER_LEN>() {
        let len = u32::from_ne_bytes([head[0], head[1], head[2], head[3]]) as usize;
        let Some(payload) = bytes.get(HEADER_LEN..len) else {
            return;
        };
        let kind = u16::from_ne_bytes([head[4], head[5]]);
        news.messages.push((kind, payload.to_vec()));
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
}
