//! Where the control socket is, whose it is, and what to do with those of dead switches.
//!
//! A switch takes `--socket PATH`, or the first free `N.sock` in its directory: `/run/jumbo` for root,
//! `$XDG_RUNTIME_DIR/jumbo` for others, `/tmp/jumbo-UID` where that is not set. Taking a name and removing a stale one
//! happen under a lock on the directory, so that two switches that start at once cannot remove each other's socket.
//! A socket is stale when nobody accepts on it: `connect` is refused.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, Mode, flock};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::error::CliError;

/// Switches per directory.
const SWITCHES_MAX: usize = 64;
/// Entries of a directory that are looked at; a bound, not an expectation.
const ENTRIES_MAX: usize = 4096;
/// Connections that may wait to be accepted.
const BACKLOG: i32 = 16;
/// How often, and how far apart, the lock is tried: two seconds together, where a switch holds it for less than one.
const LOCK_TRIES: usize = 200;
const LOCK_REST: Duration = Duration::from_millis(10);
/// Owner only: whoever can ask can see addresses of the network.
const SOCKET_MODE: Mode = Mode::RUSR.union(Mode::WUSR);

/// The directories sockets can be in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Dirs {
    /// Where a switch of this user goes.
    pub(crate) own: PathBuf,
    /// Where a client looks.
    pub(crate) all: Vec<PathBuf>,
}

impl Dirs {
    /// Those of the user who runs this process.
    pub(crate) fn of_this_user() -> Self {
        Self::of(
            rustix::process::geteuid().as_raw(),
            std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from),
        )
    }

    fn of(uid: u32, runtime_dir: Option<PathBuf>) -> Self {
        let system = PathBuf::from("/run/jumbo");
        let user = match runtime_dir.filter(|dir| dir.is_absolute()) {
            Some(dir) => dir.join("jumbo"),
            None => PathBuf::from(format!("/tmp/jumbo-{uid}")),
        };
        let own = if uid == 0 {
            system.clone()
        } else {
            user.clone()
        };
        Self {
            own,
            all: vec![system, user],
        }
    }
}

/// Where a port keeps what must outlive this process: a file in the directory of this user's switches, named after the
/// port's socket. `None` where there can be no such directory.
pub(crate) fn state_file(socket: &Path) -> Option<PathBuf> {
    let dir = Dirs::of_this_user().own;
    prepare(&dir).ok()?;
    let whole = std::path::absolute(socket).ok()?;
    // `-` for `/`, and itself doubled: no two paths have one name.
    let name = whole.to_str()?.replace('-', "--").replace('/', "-");
    Some(dir.join(format!("{name}.rings")))
}

/// A listening socket whose file goes away with it.
#[derive(Debug)]
pub(crate) struct Claimed {
    pub(crate) listener: UnixListener,
    pub(crate) path: PathBuf,
    /// Device and inode: by the time this is dropped the path may be somebody else's.
    identity: (u64, u64),
}

impl Claimed {
    fn new(listener: UnixListener, path: &Path) -> io::Result<Self> {
        let identity = identity(path)?;
        Ok(Self {
            listener,
            path: path.to_owned(),
            identity,
        })
    }
}

impl Drop for Claimed {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|now| now == self.identity) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|meta| (meta.dev(), meta.ino()))
}

/// Takes `explicit`, or the first free number of `dirs.own`.
///
/// # Errors
/// 2 when the path is in use or cannot be one, 3 when the machine refuses.
pub(crate) fn claim(explicit: Option<&Path>, dirs: &Dirs) -> Result<Claimed, CliError> {
    match explicit {
        Some(path) => claim_path(path),
        None => claim_number(&dirs.own),
    }
}

fn claim_path(path: &Path) -> Result<Claimed, CliError> {
    address(path)?;
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let _lock = lock(parent)?;
    take(path)?.ok_or_else(|| match probe(path) {
        Probe::Live(stream) => CliError::usage(format!(
            "the socket is in use by a running switch{}",
            pid_note(&stream)
        ))
        .at(path.display())
        .way_out("choose another --socket"),
        _ => CliError::usage("the path exists and is not a socket of a switch")
            .at(path.display())
            .way_out("choose another --socket"),
    })
}

fn claim_number(dir: &Path) -> Result<Claimed, CliError> {
    prepare(dir)?;
    let _lock = lock(dir)?;
    remove_stale(dir);
    for number in 0..SWITCHES_MAX {
        if let Some(claimed) = take(&dir.join(format!("{number}.sock")))? {
            return Ok(claimed);
        }
    }
    Err(CliError::machine(format!("{SWITCHES_MAX} switches are running already")).at(dir.display()))
}

/// The directory, made if need be; it must be ours, or another user could put sockets there.
fn prepare(dir: &Path) -> Result<(), CliError> {
    let uid = rustix::process::geteuid().as_raw();
    // Root's may be listed by all, so that `jumbo status` can say that there is a switch; the sockets are closed.
    let mode = if uid == 0 { 0o755 } else { 0o700 };
    let made = fs::DirBuilder::new().mode(mode).create(dir);
    if let Err(error) = made.or_else(|error| {
        if error.kind() == ErrorKind::AlreadyExists {
            Ok(())
        } else {
            Err(error)
        }
    }) {
        return Err(CliError::machine(format!(
            "cannot make the directory of the control socket: {error}"
        ))
        .at(dir.display())
        .way_out("give --socket PATH"));
    }
    let ours = fs::symlink_metadata(dir)
        .is_ok_and(|meta| meta.is_dir() && meta.uid() == uid && meta.mode() & 0o022 == 0);
    if ours {
        return Ok(());
    }
    Err(
        CliError::machine("the directory of the control socket is not ours alone")
            .at(dir.display())
            .way_out("remove it or give --socket PATH"),
    )
}

/// Locks a directory until the file is dropped. Bounded: anybody who may read a directory may lock it.
fn lock(dir: &Path) -> Result<File, CliError> {
    let refuse = |error: io::Error| {
        let code = if error.kind() == ErrorKind::NotFound {
            CliError::usage
        } else {
            CliError::machine
        };
        code(format!(
            "cannot use the directory of the control socket: {error}"
        ))
        .at(dir.display())
        .way_out("choose another --socket")
    };
    let file = File::open(dir).map_err(refuse)?;
    for _ in 0..LOCK_TRIES {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(rustix::io::Errno::WOULDBLOCK) => std::thread::sleep(LOCK_REST),
            Err(error) => return Err(refuse(error.into())),
        }
    }
    Err(refuse(io::Error::new(
        ErrorKind::WouldBlock,
        "another program holds its lock",
    )))
}

/// Removes the sockets nobody accepts on. Whatever cannot be removed is in nobody's way.
fn remove_stale(dir: &Path) {
    for path in sockets_in(dir) {
        if matches!(probe(&path), Probe::Stale) {
            let _ = fs::remove_file(path);
        }
    }
}

/// Binds `path`, replacing a stale socket; None when something else is there. The caller holds the directory's lock.
fn take(path: &Path) -> Result<Option<Claimed>, CliError> {
    let refuse = |error: io::Error| {
        CliError::machine(format!("cannot listen on the control socket: {error}"))
            .at(path.display())
    };
    match listen(path) {
        Err(error) if error.kind() == ErrorKind::AddrInUse => {}
        result => {
            return result
                .and_then(|listener| Claimed::new(listener, path))
                .map(Some)
                .map_err(refuse);
        }
    }
    if !matches!(probe(path), Probe::Stale) {
        return Ok(None);
    }
    fs::remove_file(path)
        .and_then(|()| listen(path))
        .and_then(|listener| Claimed::new(listener, path))
        .map(Some)
        .map_err(refuse)
}

/// A listening socket with mode 0600 from its first moment: Linux gives the file the mode of the socket's own inode
/// (net/unix/af_unix.c `unix_bind_bsd`, Linux 6.12), so there is no umask to change and nothing to change afterwards.
fn listen(path: &Path) -> io::Result<UnixListener> {
    let address = SocketAddrUnix::new(path)?;
    let socket = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    rustix::fs::fchmod(&socket, SOCKET_MODE)?;
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket.into())
}

fn address(path: &Path) -> Result<SocketAddrUnix, CliError> {
    SocketAddrUnix::new(path).map_err(|_| {
        CliError::usage("the path is too long for a socket")
            .at(path.display())
            .way_out("give at most 107 bytes")
    })
}

/// What is behind a path.
#[derive(Debug)]
pub(crate) enum Probe {
    /// Somebody accepts.
    Live(UnixStream),
    /// Somebody is there, but not for us: permission, or a full backlog.
    Closed(io::Error),
    /// A socket nobody accepts on.
    Stale,
    /// No socket.
    Other,
}

/// Connects, without waiting.
pub(crate) fn probe(path: &Path) -> Probe {
    if !fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket()) {
        return Probe::Other;
    }
    match connect(path) {
        Ok(stream) => Probe::Live(stream),
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => Probe::Stale,
        Err(error) => Probe::Closed(error),
    }
}

fn connect(path: &Path) -> io::Result<UnixStream> {
    let address = SocketAddrUnix::new(path)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&socket, &address)?;
    let stream = UnixStream::from(socket);
    stream.set_nonblocking(false)?;
    Ok(stream)
}

/// Whether a client may look into a directory: root's or our own. In /tmp anybody could make one of that name.
pub(crate) fn is_trusted(dir: &Path) -> bool {
    let uid = rustix::process::geteuid().as_raw();
    fs::symlink_metadata(dir)
        .is_ok_and(|meta| meta.is_dir() && (meta.uid() == 0 || meta.uid() == uid))
}

/// The control sockets of a directory, by name. Ports' own sockets may stand beside them: a vhost-user one takes whoever
/// connects for its guest's monitor.
pub(crate) fn sockets_in(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else {
        return Vec::new();
    };
    let paths = entries
        .take(ENTRIES_MAX)
        .flatten()
        .map(|entry| entry.path());
    let mut sockets: Vec<_> = paths.filter(|path| is_numbered(path)).collect();
    sockets.sort();
    sockets
}

/// `N.sock`, as [`claim`] names them.
fn is_numbered(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    let number = name.and_then(|name| name.strip_suffix(".sock"));
    number.is_some_and(|n| !n.is_empty() && n.bytes().all(|digit| digit.is_ascii_digit()))
}

/// ` (pid N)`, or nothing when the kernel does not tell (the process is outside our pid namespace).
pub(crate) fn pid_note(stream: impl AsFd) -> String {
    match rustix::net::sockopt::socket_peercred(stream) {
        Ok(peer) if peer.pid.as_raw_nonzero().get() > 0 => {
            format!(" (pid {})", peer.pid.as_raw_nonzero())
        }
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests;
