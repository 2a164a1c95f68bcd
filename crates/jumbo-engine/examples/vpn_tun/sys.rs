//! The system calls that no safe crate wraps: opening a TUN, datagrams by the batch.

#![expect(unsafe_code, reason = "system calls; each block says why it is sound")]

use std::fs::{File, OpenOptions};
use std::io;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;

fn check(ret: libc::c_int) -> io::Result<libc::c_int> {
    if ret < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(ret)
}

/// Opens or makes the TUN `name` in the namespace of the calling thread: IP packets, each behind a virtio
/// header of 10 bytes. With `super_packets` it hands over TCP packets that are still to be segmented.
/// Source: Linux Documentation/networking/tuntap.rst, drivers/net/tun.c.
pub(crate) fn open_tun(name: &str, super_packets: bool) -> io::Result<File> {
    let bytes = name.as_bytes();
    if bytes.is_empty() || bytes.len() >= libc::IFNAMSIZ || bytes.contains(&0) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "a name has 1 to 15 bytes",
        ));
    }
    let mut options = OpenOptions::new();
    options
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK);
    let file = options.open("/dev/net/tun")?;
    // SAFETY: plain old data, for which all zeros is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(bytes) {
        *to = *from as libc::c_char;
    }
    let flags = libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    let fd = file.as_raw_fd();
    // SAFETY: a valid ifreq, which the kernel reads and writes back.
    check(unsafe { libc::ioctl(fd, libc::TUNSETIFF as _, &mut request) })?;
    let little_endian: libc::c_int = 1;
    // SAFETY: the kernel reads one int.
    check(unsafe { libc::ioctl(fd, libc::TUNSETVNETLE as _, &little_endian) })?;
    let offloads = match super_packets {
        true => libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6,
        false => 0,
    };
    // SAFETY: the argument is a number, not a pointer.
    check(unsafe { libc::ioctl(fd, libc::TUNSETOFFLOAD as _, libc::c_ulong::from(offloads)) })?;
    Ok(file)
}

/// Datagrams of a batch.
pub(crate) const BATCH: usize = 64;
/// Bytes of a datagram's place.
pub(crate) const SLOT: usize = 2048;

/// Places for a batch of datagrams, one behind the other in one buffer.
pub(crate) struct Batch {
    pub(crate) bytes: Vec<u8>,
    pub(crate) lens: [usize; BATCH],
}

impl Batch {
    pub(crate) fn new() -> Self {
        Self {
            bytes: vec![0; BATCH * SLOT],
            lens: [0; BATCH],
        }
    }

    /// A message for each of the first places, so long as `len` says. They refer to `iovs` and to `self.bytes`.
    fn messages(
        &mut self,
        iovs: &mut [libc::iovec; BATCH],
        len: impl Fn(usize) -> usize,
    ) -> [libc::mmsghdr; BATCH] {
        // SAFETY: plain old data, for which all zeros is a value.
        let mut messages: [libc::mmsghdr; BATCH] = unsafe { std::mem::zeroed() };
        let places = self
            .bytes
            .chunks_exact_mut(SLOT)
            .zip(iovs)
            .zip(&mut messages);
        for (index, ((place, iov), message)) in places.enumerate() {
            iov.iov_base = place.as_mut_ptr().cast();
            iov.iov_len = len(index).min(SLOT);
            message.msg_hdr.msg_iov = iov;
            message.msg_hdr.msg_iovlen = 1;
        }
        messages
    }

    /// Receives what is there, without waiting; how many.
    pub(crate) fn receive(&mut self, socket: &UdpSocket) -> io::Result<usize> {
        let mut iovs = [EMPTY; BATCH];
        let mut messages = self.messages(&mut iovs, |_| SLOT);
        let fd = socket.as_raw_fd();
        let none = std::ptr::null_mut();
        // SAFETY: BATCH messages, each with one vector over a place of its own; all outlive the call.
        let count = unsafe {
            libc::recvmmsg(
                fd,
                messages.as_mut_ptr(),
                BATCH as _,
                libc::MSG_DONTWAIT as _,
                none,
            )
        };
        let count = check(count)? as usize;
        for (len, message) in self.lens.iter_mut().zip(&messages[..count]) {
            *len = (message.msg_len as usize).min(SLOT);
        }
        Ok(count)
    }

    /// Sends the first `count`, waiting for room; all or an error.
    pub(crate) fn send(&mut self, socket: &UdpSocket, count: usize) -> io::Result<()> {
        let lens = self.lens;
        let mut iovs = [EMPTY; BATCH];
        let mut messages = self.messages(&mut iovs, |index| lens[index]);
        let mut left = &mut messages[..count.min(BATCH)];
        while !left.is_empty() {
            // SAFETY: as above; `left` is what has not been sent.
            let sent = unsafe {
                libc::sendmmsg(socket.as_raw_fd(), left.as_mut_ptr(), left.len() as _, 0)
            };
            left = &mut left[check(sent)? as usize..];
        }
        Ok(())
    }
}

const EMPTY: libc::iovec = libc::iovec {
    iov_base: std::ptr::null_mut(),
    iov_len: 0,
};
