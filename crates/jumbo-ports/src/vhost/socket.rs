//! Where front ends come from: a socket that listens, or one that is connected to.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{FlockOperation, Mode, flock};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

/// Connections that may wait to be refused.
const BACKLOG: i32 = 4;
/// How often, and how far apart, the lock on a stale socket's directory is tried: two seconds together.
const LOCK_TRIES: usize = 200;
const LOCK_REST: Duration = Duration::from_millis(10);

/// Why nobody can connect.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// {path}: the path is too long for a socket; give at most 107 bytes
    #[error("{path}: the path is too long for a socket; give at most 107 bytes")]
    PathTooLong {
        /// As given.
        path: PathBuf,
    },
    /// {path}: somebody listens there already
    #[error("{path}: somebody listens there already")]
    InUse {
        /// As given.
        path: PathBuf,
    },
    /// {path}: exists and is not a socket
    #[error("{path}: exists and is not a socket")]
    NotASocket {
        /// As given.
        path: PathBuf,
    },
    /// {path}: cannot listen: {source}
    #[error("{path}: cannot listen: {source}")]
    System {
        /// As given.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

/// A listening socket whose file goes away with it.
#[derive(Debug)]
pub struct Listener {
    socket: OwnedFd,
    path: PathBuf,
    /// Device and inode: by the time this is dropped the path may be somebody else's.
    identity: (u64, u64),
}

impl Listener {
    /// Where it listens.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The next connection, if there is one.
    pub(super) fn accept(&self) -> io::Result<Option<OwnedFd>> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        match rustix::net::accept_with(&self.socket, flags) {
            Ok(socket) => Ok(Some(socket)),
            Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|now| now == self.identity) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|meta| (meta.dev(), meta.ino()))
}

/// Listens at `path`, replacing a socket nobody accepts on. Its file has `mode` less the umask: front ends need write
/// permission, and whoever has it sees the network.
///
/// # Errors
/// Something else is there, or the kernel refuses.
pub fn listen(path: &Path, mode: Mode) -> Result<Listener, ListenError> {
    let refuse = |source| ListenError::System {
        path: path.to_owned(),
        source,
    };
    let address = SocketAddrUnix::new(path).map_err(|_| ListenError::PathTooLong {
        path: path.to_owned(),
    })?;
    let socket = match bind(&address, mode) {
        Err(Errno::ADDRINUSE) => replace(path, &address, mode)?,
        result => result.map_err(|error| refuse(error.into()))?,
    };
    Ok(Listener {
        identity: identity(path).map_err(refuse)?,
        socket,
        path: path.to_owned(),
    })
}

/// Removes a stale socket and takes its place, under a lock on the directory: two processes that start at once cannot
/// remove each other's.
fn replace(path: &Path, address: &SocketAddrUnix, mode: Mode) -> Result<OwnedFd, ListenError> {
    let refuse = |source| ListenError::System {
        path: path.to_owned(),
        source,
    };
    let _lock = lock(path).map_err(refuse)?;
    match probe(path, address) {
        Probe::Stale => {}
        Probe::InUse => {
            return Err(ListenError::InUse {
                path: path.to_owned(),
            });
        }
        Probe::Other => {
            return Err(ListenError::NotASocket {
                path: path.to_owned(),
            });
        }
    }
    fs::remove_file(path).map_err(refuse)?;
    match bind(address, mode) {
        Err(Errno::ADDRINUSE) => Err(ListenError::InUse {
            path: path.to_owned(),
        }),
        result => result.map_err(|error| refuse(error.into())),
    }
}

/// The mode is there from the file's first moment: Linux gives it that of the socket's own inode less the umask
/// (net/unix/af_unix.c `unix_bind_bsd`, Linux 6.12).
fn bind(address: &SocketAddrUnix, mode: Mode) -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::fs::fchmod(&socket, mode)?;
    rustix::net::bind(&socket, address)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket)
}

/// Bounded: anybody who may read a directory may lock it.
fn lock(path: &Path) -> io::Result<File> {
    let parent = path.parent().filter(|parent| *parent != Path::new(""));
    let file = File::open(parent.unwrap_or(Path::new(".")))?;
    for _ in 0..LOCK_TRIES {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => std::thread::sleep(LOCK_REST),
            result => return result.map(|()| file).map_err(io::Error::from),
        }
    }
    let text = "another program holds the lock of its directory";
    Err(io::Error::new(ErrorKind::WouldBlock, text))
}

enum Probe {
    /// A socket nobody accepts on.
    Stale,
    /// Somebody is there, for us or not.
    InUse,
    /// No socket.
    Other,
}

fn probe(path: &Path, address: &SocketAddrUnix) -> Probe {
    if !fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket()) {
        return Probe::Other;
    }
    match connect_to(address) {
        Err(Errno::CONNREFUSED) => Probe::Stale,
        _ => Probe::InUse,
    }
}

/// Connects, without waiting.
///
/// # Errors
/// Nobody is there, or not for us.
pub(super) fn connect(path: &Path) -> io::Result<OwnedFd> {
    let address = SocketAddrUnix::new(path)?;
    connect_to(&address).map_err(io::Error::from)
}

fn connect_to(address: &SocketAddrUnix) -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&socket, address)?;
    Ok(socket)
}

/// Ends [`serve`](super::serve) from another thread.
#[derive(Debug)]
pub struct Stop {
    event: OwnedFd,
}

impl Stop {
    /// Not yet.
    ///
    /// # Errors
    /// The process has no file descriptors left.
    pub fn new() -> io::Result<Self> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { event })
    }

    /// Now, and for good.
    pub fn request(&self) {
        // Fails only when the counter is full, and then it is readable already.
        let _ = rustix::io::write(&self.event, &1_u64.to_ne_bytes());
    }
}

impl AsFd for Stop {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}
