//! Raw packets into and out of a link, with or without a virtio-net header:
//! how tests hand the kernel a packet and see what it made of it.
//!
//! Source: packet(7), net/packet/af_packet.c. The header is the 10-byte form
//! (`struct virtio_net_hdr`). Injecting a super-packet towards a link without
//! TSO makes the kernel segment it; receiving shows super-packets as they are.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::RecvFlags;

use crate::error::{Doing, Result};
use crate::ns::NetNs;
use crate::sys::packet as sys;

/// Bytes of the header in front of each packet when it was asked for.
pub const VNET_HEADER_LEN: usize = 10;

/// A raw socket on one link. Sees what the link receives, not what it sends.
#[derive(Debug)]
pub struct PacketSocket {
    fd: OwnedFd,
}

impl PacketSocket {
    /// On link `name` of `ns`; with `vnet_header` each packet, both ways, is
    /// preceded by [`VNET_HEADER_LEN`] bytes.
    pub fn open(ns: &NetNs, name: &str, vnet_header: bool) -> Result<Self> {
        let index = ns.links()?.index(name)?;
        let fd = ns.run(|| sys::open(index, vnet_header))?;
        let fd = fd.doing(|| format!("open a packet socket on {name}"))?;
        Ok(Self { fd })
    }

    /// Sends past the queueing discipline (PACKET_QDISC_BYPASS). Then nothing
    /// segments a super-packet: the link must take it as it is.
    pub fn bypass_qdisc(&self) -> Result<()> {
        sys::bypass_qdisc(&self.fd).doing(|| "bypass the queueing discipline")
    }

    /// Sends one packet, from the MAC header on, preceded by its virtio-net
    /// header when the socket has them.
    pub fn send(&self, packet: &[u8]) -> Result<()> {
        rustix::io::write(&self.fd, packet)
            .map(drop)
            .doing(|| format!("send {} raw bytes", packet.len()))
    }

    /// The next packet, with its header; `None` when none came in time. At
    /// most 68 KiB of it.
    pub fn recv(&self, within: Duration) -> Result<Option<Vec<u8>>> {
        let mut buffer = vec![0u8; 68 << 10];
        let len = self.recv_into(&mut buffer, within)?;
        Ok(len.map(|len| {
            buffer.truncate(len);
            buffer
        }))
    }

    /// The same into `buffer`; the length received.
    pub fn recv_into(&self, buffer: &mut [u8], within: Duration) -> Result<Option<usize>> {
        if !self.readable(within).doing(|| "wait for a raw packet")? {
            return Ok(None);
        }
        match rustix::net::recv(&self.fd, buffer, RecvFlags::DONTWAIT) {
            Err(Errno::AGAIN | Errno::INTR) => Ok(None),
            other => Ok(Some(other.doing(|| "receive a raw packet")?.0)),
        }
    }

    fn readable(&self, within: Duration) -> io::Result<bool> {
        let limit = Timespec {
            tv_sec: within.as_secs() as i64,
            tv_nsec: within.subsec_nanos().into(),
        };
        match poll(&mut [PollFd::new(&self.fd, PollFlags::IN)], Some(&limit)) {
            Err(Errno::INTR) => Ok(false),
            other => Ok(other? > 0),
        }
    }
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
