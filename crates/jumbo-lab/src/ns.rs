//! Private networks: entering one with the whole process, and making more.
//!
//! Source: namespaces(7), user_namespaces(7), network_namespaces(7).

mod refused;

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use rustix::mount::{MountFlags, MountPropagationFlags};
use rustix::thread::{CapabilitySet, LinkNameSpaceType};

use crate::error::{Doing, Result};
use crate::link::Links;
use crate::sys;

pub use refused::Refused;

/// What the process intends to do in its private network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// Links only: veth, bridge, packet sockets.
    Links,
    /// Also TAP devices, so `/dev/net/tun` must open.
    Taps,
}

/// With whose rights the private network was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rights {
    /// The process already held CAP_SYS_ADMIN.
    Root,
    /// An ordinary user, root only inside a user namespace made by [`enter`].
    UserNamespace,
}

/// Proof that the process lives in a network namespace of its own.
#[derive(Debug, Clone, Copy)]
pub struct Entered {
    /// With whose rights.
    pub rights: Rights,
}

/// Moves this process, which must still have one thread, into a fresh network
/// namespace with `lo` up; as an ordinary user through a user namespace in
/// which it is root. When refused, nothing has been changed, except that a
/// refusal after the user namespace was made leaves the process inside it.
pub fn enter(needs: Needs) -> Result<Entered, Refused> {
    if thread_count() > 1 {
        return Err(Refused::Threads);
    }
    if needs == Needs::Taps {
        check_tun()?;
    }
    let rights = if is_admin() {
        Rights::Root
    } else {
        become_root_of_user_namespace()?;
        Rights::UserNamespace
    };
    sys::ns::unshare_net().map_err(|e| refused::net(rights, &e))?;
    settle().map_err(|e| Refused::Other(e.to_string()))?;
    Ok(Entered { rights })
}

/// Whether the calling thread holds CAP_SYS_ADMIN in its user namespace.
pub fn is_admin() -> bool {
    rustix::thread::capabilities(None)
        .is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_ADMIN))
}

/// Whether `/dev/net/tun` can be used by this process, and if not, why.
pub fn check_tun() -> Result<(), Refused> {
    let path = Path::new("/dev/net/tun");
    match OpenOptions::new().read(true).write(true).open(path) {
        Ok(_) => Ok(()),
        Err(e) => Err(refused::tun(path, &e, || {
            fs::metadata(path).map(|m| m.mode() & 0o7777)
        })),
    }
}

fn thread_count() -> usize {
    fs::read_dir("/proc/self/task").map_or(1, |dir| dir.count())
}

fn become_root_of_user_namespace() -> Result<(), Refused> {
    let (uid, gid) = (rustix::process::getuid(), rustix::process::getgid());
    refused::sysctl_says_no(read_sysctl)?;
    sys::ns::unshare_user().map_err(|e| refused::user(&e, read_sysctl))?;
    // An unprivileged writer of gid_map must first give up setgroups(2).
    let write = |file: &str, text: String| fs::write(format!("/proc/self/{file}"), text);
    write("setgroups", "deny".into())
        .and_then(|()| write("uid_map", format!("0 {} 1", uid.as_raw())))
        .and_then(|()| write("gid_map", format!("0 {} 1", gid.as_raw())))
        .map_err(|e| refused::user(&e, read_sysctl))
}

fn read_sysctl(name: &str) -> Option<i64> {
    let path = format!("/proc/sys/{}", name.replace('.', "/"));
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// Prepares the namespace the calling thread has just unshared.
fn settle() -> Result<()> {
    // No duplicate address detection, router solicitation or link-local
    // address: a quiet network whose addresses work at once. Best effort, as
    // containers mount /proc/sys read-only; addresses carry NODAD anyway.
    for (key, value) in [
        ("accept_dad", "0"),
        ("accept_ra", "0"),
        ("router_solicitations", "0"),
        ("addr_gen_mode", "1"),
    ] {
        let _ = fs::write(format!("/proc/sys/net/ipv6/conf/default/{key}"), value);
    }
    Links::here()?.up("lo")
}

/// A network namespace of ours. Clones share it; with the last handle, and
/// the last socket or thread inside, the kernel removes it and its links.
#[derive(Debug, Clone)]
pub struct NetNs {
    fd: Arc<OwnedFd>,
}

impl NetNs {
    /// A fresh namespace with `lo` up. Needs CAP_SYS_ADMIN, see [`enter`].
    pub fn new() -> Result<Self> {
        on_fresh_thread(|| {
            sys::ns::unshare_net().doing(|| "make a network namespace")?;
            settle()?;
            Self::here()
        })
    }

    /// The namespace the calling thread is in.
    pub fn here() -> Result<Self> {
        let file = File::open("/proc/thread-self/ns/net").doing(|| "open ns/net")?;
        Ok(Self {
            fd: Arc::new(file.into()),
        })
    }

    /// Runs `work` on a fresh thread inside this namespace and returns its
    /// value. A panic of `work` continues in the caller.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        on_fresh_thread(|| {
            self.join()?;
            Ok(work())
        })
    }

    /// Starts `work` on a thread inside this namespace.
    pub fn spawn<T, F>(&self, name: &str, work: F) -> Result<JoinHandle<T>>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        // A thread inherits its maker's namespaces, so the maker enters.
        self.run(|| thread::Builder::new().name(name.into()).spawn(work))?
            .doing(|| "start a thread")
    }

    /// Like [`NetNs::run`], with a private `/sys` that shows this namespace's
    /// links. Refused where the container forbids mounting sysfs.
    pub fn run_with_sysfs<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        on_fresh_thread(|| {
            self.join()?;
            mount_sysfs().doing(|| "mount a private /sys")?;
            Ok(work())
        })
    }

    /// Link messages into this namespace, usable from any thread.
    pub fn links(&self) -> Result<Links> {
        self.run(Links::here)?
    }

    fn join(&self) -> Result<()> {
        rustix::thread::move_into_link_name_space(self.as_fd(), Some(LinkNameSpaceType::Network))
            .doing(|| "enter a network namespace")
    }
}

impl AsFd for NetNs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn on_fresh_thread<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| {
        let thread = thread::Builder::new().spawn_scoped(scope, work);
        match thread.doing(|| "start a thread")?.join() {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

fn mount_sysfs() -> io::Result<()> {
    sys::ns::unshare_mounts()?;
    // Not shared with the host: our /sys must not show up there.
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", private)?;
    rustix::mount::mount("lab", "/sys", "sysfs", MountFlags::empty(), None)?;
    Ok(())
}
