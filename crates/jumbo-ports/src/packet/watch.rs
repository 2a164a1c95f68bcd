//! Tells the switch when the interface's name, MTU or state changes.
//!
//! A thread sleeps on rtnetlink's link group (rtnetlink(7)) and, whatever the
//! message says, asks for the facts again: so nothing is lost if messages are.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::thread::JoinHandle;

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType};

use crate::queue::{Control, PortInfo, Presence, Workers};
use crate::sys::netdev::{self, control_socket};

/// RTMGRP_LINK of Linux `include/uapi/linux/rtnetlink.h`.
const LINK_GROUP: u32 = 1;

/// Looks after one interface.
#[derive(Debug)]
pub(crate) struct Watch {
    index: u32,
    info: PortInfo,
    /// Both belong to the network namespace in which they were made.
    events: OwnedFd,
    control: OwnedFd,
}

impl Watch {
    /// Prepares to watch interface `index` of the calling thread's network namespace.
    pub(crate) fn new(index: u32, info: PortInfo) -> Result<Self, Errno> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let events =
            rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
        rustix::net::bind(&events, &SocketAddrNetlink::new(0, LINK_GROUP))?;
        Ok(Self {
            index,
            info,
            events,
            control: control_socket()?,
        })
    }

    fn run(mut self, stop: &OwnedFd, workers: &mut dyn Workers) {
        loop {
            let mut fds = [
                PollFd::new(&self.events, PollFlags::IN),
                PollFd::new(stop, PollFlags::IN),
            ];
            match poll(&mut fds, None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(_) => return,
            }
            if !fds[1].revents().is_empty() {
                return;
            }
            self.forget_messages();
            let Some(seen) = self.look() else {
                return workers.gone();
            };
            if facts(&seen) != facts(&self.info) {
                workers.tell(seen.clone());
                self.info = seen;
            }
        }
    }

    /// Reads what waits, which says that something happened and no more.
    fn forget_messages(&self) {
        let mut buffer = [0; 4096];
        for _ in 0..1024 {
            match rustix::net::recv(&self.events, &mut buffer[..], RecvFlags::DONTWAIT) {
                // Messages were lost: the facts are asked for all the same.
                Ok(_) | Err(Errno::INTR | Errno::NOBUFS) => {}
                Err(_) => return,
            }
        }
    }

    /// What is true now; `None` once the interface is gone.
    fn look(&self) -> Option<PortInfo> {
        let mut info = self.info.clone();
        let socket = self.control.as_fd();
        let name = match netdev::name(socket, self.index) {
            Ok(name) => name,
            Err(Errno::NODEV | Errno::NXIO) => return None,
            Err(_) => return Some(info),
        };
        if let Ok(mtu) = netdev::mtu(socket, &name) {
            info.mtu = mtu;
        }
        info.presence = match netdev::flags(socket, &name) {
            Ok(flags) if flags & libc::IFF_UP as u16 == 0 => {
                Presence::Waiting(format!("down: bring it up with `ip link set {name} up`"))
            }
            _ => Presence::Up,
        };
        info.device = name;
        Some(info)
    }
}

/// What may change: name, MTU, and whether it is up.
fn facts(info: &PortInfo) -> (&str, usize, bool) {
    let up = matches!(info.presence, Presence::Up);
    (&info.device, info.mtu, up)
}

impl Control for Watch {
    fn start(self: Box<Self>, mut workers: Box<dyn Workers>) -> Result<Box<dyn Send>, String> {
        let stop = eventfd(0, EventfdFlags::CLOEXEC).map_err(|error| error.to_string())?;
        let stop = Arc::new(stop);
        let theirs = stop.clone();
        let thread = std::thread::Builder::new()
            .name("link-watch".into())
            .spawn(move || self.run(&theirs, &mut *workers))
            .map_err(|error| error.to_string())?;
        Ok(Box::new(Watching {
            stop,
            thread: Some(thread),
        }))
    }
}

/// Ends the watch when dropped.
#[derive(Debug)]
struct Watching {
    stop: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Watching {
    fn drop(&mut self) {
        // A full eventfd wakes just as well.
        let _ = rustix::io::write(&*self.stop, &1u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
