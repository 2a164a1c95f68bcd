//! The front end of vhost-user: a method for each request.
//!
//! Source: vhost-user specification, "Front-end message types".

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

use super::event::wait_any;
use super::features::protocol;
use super::memory::{GuestMemory, Region, SharedFile};
use super::message::{self, Message, NEED_REPLY, NO_FD, REPLY, VERSION, request};
use super::queue::RingAddresses;

/// How long the back end may take for a reply.
const PATIENCE: Duration = Duration::from_secs(10);
/// A region in SET_MEM_TABLE and ADD_MEM_REG.
const REGION_LEN: usize = 32;
/// `VHOST_VRING_F_LOG`: log what is written to the used ring.
const LOG_USED: u32 = 1;

/// What came of a request.
#[derive(Debug, thiserror::Error)]
pub enum FrontEndError {
    /// The socket failed; `UnexpectedEof` when the back end hung up.
    #[error("{}: {source}", request::name(*.request))]
    Io {
        /// The request.
        request: u32,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The back end said no.
    #[error("{}: refused with code {code}", request::name(*.request))]
    Refused {
        /// The request.
        request: u32,
        /// Not zero.
        code: u64,
    },
    /// The reply is not one.
    #[error("{}: the reply is {what}", request::name(*.request))]
    Malformed {
        /// The request.
        request: u32,
        /// Request, flags and payload of the reply.
        what: String,
    },
    /// The back end does not offer what the test demands.
    #[error("the back end does not offer {0}")]
    Missing(&'static str),
}

impl FrontEndError {
    /// Whether the back end closed the connection.
    #[must_use]
    pub fn hung_up(&self) -> bool {
        use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
        matches!(self, Self::Io { source, .. }
            if matches!(source.kind(), BrokenPipe | ConnectionReset | UnexpectedEof))
    }
}

type Result<T> = std::result::Result<T, FrontEndError>;

/// The area in which a back end keeps what it holds, for the one that comes after it.
#[derive(Debug)]
pub struct Inflight {
    /// The memory.
    pub file: SharedFile,
    /// Bytes.
    pub mmap_size: u64,
    /// Where it begins in the file.
    pub mmap_offset: u64,
    /// Queues it has room for.
    pub queues: u16,
    /// Entries of each.
    pub queue_size: u16,
}

/// A connection to a back end.
#[derive(Debug)]
pub struct FrontEnd {
    socket: UnixStream,
    /// Negotiated protocol features.
    protocol: u64,
    /// Ask for a reply to every request, where REPLY_ACK was negotiated.
    pub ask_replies: bool,
}

/// Waits for a back end that connects to us (front end as server).
#[derive(Debug)]
pub struct FrontEndListener(UnixListener);

impl FrontEndListener {
    /// Listens at `path`.
    pub fn bind(path: impl AsRef<Path>) -> io::Result<Self> {
        UnixListener::bind(path).map(Self)
    }

    /// Takes the next connection; `TimedOut` if none comes.
    pub fn accept(&self, timeout: Duration) -> io::Result<FrontEnd> {
        if !wait_any(&[self.0.as_fd()], timeout)? {
            return Err(io::ErrorKind::TimedOut.into());
        }
        FrontEnd::new(self.0.accept()?.0)
    }
}

fn words(values: &[u64]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_ne_bytes())
        .collect()
}

fn vring_state(index: u32, num: u32) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&index.to_ne_bytes());
    bytes[4..].copy_from_slice(&num.to_ne_bytes());
    bytes
}

fn region_words(region: &Region) -> Vec<u8> {
    let bytes = words(&[
        region.guest_addr(),
        region.len(),
        region.user_addr(),
        region.file_offset(),
    ]);
    debug_assert_eq!(bytes.len(), REGION_LEN);
    bytes
}

impl FrontEnd {
    /// Over a connected socket.
    pub fn new(socket: UnixStream) -> io::Result<Self> {
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        Ok(Self {
            socket,
            protocol: 0,
            ask_replies: true,
        })
    }

    /// Connects to a back end that listens at `path`, trying again until `timeout` is over.
    pub fn connect(path: impl AsRef<Path>, timeout: Duration) -> io::Result<Self> {
        let end = Instant::now() + timeout;
        loop {
            match UnixStream::connect(path.as_ref()) {
                Ok(socket) => return Self::new(socket),
                Err(error) if Instant::now() >= end => return Err(error),
                Err(_) => std::thread::sleep(Duration::from_millis(5)),
            }
        }
    }

    /// The socket, for what no method says.
    #[must_use]
    pub fn socket(&self) -> &UnixStream {
        &self.socket
    }

    /// Whether a protocol feature was negotiated.
    #[must_use]
    pub fn has(&self, feature: u64) -> bool {
        self.protocol & feature != 0
    }

    /// Whether the back end has closed the connection, or does so within `timeout`.
    pub fn is_closed(&self, timeout: Duration) -> io::Result<bool> {
        use rustix::net::{RecvFlags, recv};
        if !wait_any(&[self.socket.as_fd()], timeout)? {
            return Ok(false);
        }
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        match recv(&self.socket, &mut [0; 1], flags) {
            Ok((0, _)) | Err(rustix::io::Errno::CONNRESET) => Ok(true),
            Ok(_) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Sends any message, right or wrong.
    pub fn raw_send(&self, head: [u32; 3], payload: &[u8], fds: &[BorrowedFd<'_>]) -> Result<()> {
        message::send(&self.socket, head, payload, fds).map_err(|source| FrontEndError::Io {
            request: head[0],
            source,
        })
    }

    /// Waits for the reply to `request`.
    pub fn reply(&self, request: u32) -> Result<Message> {
        let reply = message::receive(&self.socket)
            .map_err(|source| FrontEndError::Io { request, source })?;
        let right = reply.request == request && reply.flags & (REPLY | 3) == REPLY | VERSION;
        if right {
            Ok(reply)
        } else {
            Err(malformed(request, &reply))
        }
    }

    /// Sends a request that has a reply of its own.
    pub fn ask(&self, request: u32, payload: &[u8], fds: &[BorrowedFd<'_>]) -> Result<Message> {
        self.raw_send([request, VERSION, payload.len() as u32], payload, fds)?;
        self.reply(request)
    }

    fn ask_u64(&self, request: u32) -> Result<u64> {
        let reply = self.ask(request, &[], &[])?;
        match (reply.payload.len(), reply.u64(0)) {
            (8, Some(value)) => Ok(value),
            _ => Err(malformed(request, &reply)),
        }
    }

    /// Sends a request that has none, asking for an acknowledgement where there can be one.
    pub fn tell(&self, request: u32, payload: &[u8], fds: &[BorrowedFd<'_>]) -> Result<()> {
        let acknowledged = self.ask_replies && self.has(protocol::REPLY_ACK);
        let flags = VERSION | if acknowledged { NEED_REPLY } else { 0 };
        self.raw_send([request, flags, payload.len() as u32], payload, fds)?;
        if !acknowledged {
            return Ok(());
        }
        let reply = self.reply(request)?;
        match reply.u64(0) {
            Some(0) => Ok(()),
            Some(code) => Err(FrontEndError::Refused { request, code }),
            None => Err(malformed(request, &reply)),
        }
    }

    /// What the back end offers: virtio features, and whether there are protocol features.
    pub fn features(&self) -> Result<u64> {
        self.ask_u64(request::GET_FEATURES)
    }

    /// What was chosen.
    pub fn set_features(&self, features: u64) -> Result<()> {
        self.tell(request::SET_FEATURES, &words(&[features]), &[])
    }

    /// What the back end offers of the protocol.
    pub fn protocol_features(&self) -> Result<u64> {
        self.ask_u64(request::GET_PROTOCOL_FEATURES)
    }

    /// What was chosen of it. Holds from the next request on.
    pub fn set_protocol_features(&mut self, features: u64) -> Result<()> {
        self.tell(request::SET_PROTOCOL_FEATURES, &words(&[features]), &[])?;
        self.protocol = features;
        Ok(())
    }

    /// Queue pairs the back end has.
    pub fn queue_num(&self) -> Result<u64> {
        self.ask_u64(request::GET_QUEUE_NUM)
    }

    /// The session starts.
    pub fn set_owner(&self) -> Result<()> {
        self.tell(request::SET_OWNER, &[], &[])
    }

    /// The session ends (deprecated).
    pub fn reset_owner(&self) -> Result<()> {
        self.tell(request::RESET_OWNER, &[], &[])
    }

    /// All of the guest's memory at once.
    pub fn set_mem_table(&self, memory: &GuestMemory) -> Result<()> {
        let regions = memory.regions();
        let mut payload = vring_state(regions.len() as u32, 0).to_vec();
        payload.extend(regions.iter().flat_map(region_words));
        let fds: Vec<_> = regions.iter().map(Region::file).collect();
        self.tell(request::SET_MEM_TABLE, &payload, &fds)
    }

    /// How many regions the back end can have.
    pub fn max_mem_slots(&self) -> Result<u64> {
        self.ask_u64(request::GET_MAX_MEM_SLOTS)
    }

    /// One more region.
    pub fn add_region(&self, region: &Region) -> Result<()> {
        let payload = [words(&[0]), region_words(region)].concat();
        self.tell(request::ADD_MEM_REG, &payload, &[region.file()])
    }

    /// One region less.
    pub fn remove_region(&self, region: &Region) -> Result<()> {
        let payload = [words(&[0]), region_words(region)].concat();
        self.tell(request::REM_MEM_REG, &payload, &[])
    }

    /// Entries of a ring.
    pub fn set_vring_num(&self, index: u32, size: u32) -> Result<()> {
        self.tell(request::SET_VRING_NUM, &vring_state(index, size), &[])
    }

    /// Where a ring lies. With `log` what the device writes to its part is logged as written there (a guest address).
    ///
    /// # Panics
    ///
    /// When it lies outside the memory.
    pub fn set_vring_addr(
        &self,
        index: u32,
        memory: &GuestMemory,
        ring: &RingAddresses,
        log: Option<u64>,
    ) -> Result<()> {
        let user = |addr| {
            memory
                .user_addr(addr)
                .expect("the ring lies in guest memory")
        };
        let flags = if log.is_some() { LOG_USED } else { 0 };
        let mut payload = vring_state(index, flags).to_vec();
        payload.extend(words(&[
            user(ring.descriptors),
            user(ring.device),
            user(ring.driver),
            log.unwrap_or(0),
        ]));
        self.tell(request::SET_VRING_ADDR, &payload, &[])
    }

    /// Where the device begins: an available index, or the two positions of a packed ring.
    pub fn set_vring_base(&self, index: u32, base: u32) -> Result<()> {
        self.tell(request::SET_VRING_BASE, &vring_state(index, base), &[])
    }

    /// Stops a ring. Returns where it stopped.
    pub fn get_vring_base(&self, index: u32) -> Result<u32> {
        let request = request::GET_VRING_BASE;
        let reply = self.ask(request, &vring_state(index, 0), &[])?;
        match (reply.u32(0), reply.u32(4)) {
            (Some(which), Some(base)) if which == index => Ok(base),
            _ => Err(malformed(request, &reply)),
        }
    }

    fn vring_fd(&self, request: u32, index: u32, fd: Option<BorrowedFd<'_>>) -> Result<()> {
        let none = if fd.is_none() { NO_FD } else { 0 };
        let word = u64::from(index) | none;
        self.tell(request, &words(&[word]), fd.as_slice())
    }

    /// The doorbell for the device; without one it polls.
    pub fn set_vring_kick(&self, index: u32, fd: Option<BorrowedFd<'_>>) -> Result<()> {
        self.vring_fd(request::SET_VRING_KICK, index, fd)
    }

    /// The doorbell for the driver; without one it polls.
    pub fn set_vring_call(&self, index: u32, fd: Option<BorrowedFd<'_>>) -> Result<()> {
        self.vring_fd(request::SET_VRING_CALL, index, fd)
    }

    /// The doorbell for errors.
    pub fn set_vring_err(&self, index: u32, fd: Option<BorrowedFd<'_>>) -> Result<()> {
        self.vring_fd(request::SET_VRING_ERR, index, fd)
    }

    /// Whether a started ring does something.
    pub fn set_vring_enable(&self, index: u32, on: bool) -> Result<()> {
        let state = vring_state(index, on.into());
        self.tell(request::SET_VRING_ENABLE, &state, &[])
    }

    /// The guest has moved here: announce it.
    pub fn send_rarp(&self, mac: [u8; 6]) -> Result<()> {
        let mut bytes = [0; 8];
        bytes[..6].copy_from_slice(&mac);
        self.tell(request::SEND_RARP, &bytes, &[])
    }

    /// The MTU the guest was told.
    pub fn set_mtu(&self, mtu: u16) -> Result<()> {
        self.tell(request::NET_SET_MTU, &words(&[mtu.into()]), &[])
    }

    /// The device status as the driver wrote it (virtio 1.3 section 2.1).
    pub fn set_status(&self, status: u8) -> Result<()> {
        self.tell(request::SET_STATUS, &words(&[status.into()]), &[])
    }

    /// The device status as the back end has it.
    pub fn status(&self) -> Result<u64> {
        self.ask_u64(request::GET_STATUS)
    }

    /// Everything back to the beginning.
    pub fn reset_device(&self) -> Result<()> {
        self.tell(request::RESET_DEVICE, &[], &[])
    }

    /// A channel for requests of the back end; the returned end is ours.
    pub fn set_backend_channel(&self) -> Result<UnixStream> {
        let request = request::SET_BACKEND_REQ_FD;
        let (ours, theirs) =
            UnixStream::pair().map_err(|source| FrontEndError::Io { request, source })?;
        self.tell(request, &[], &[theirs.as_fd()])?;
        Ok(ours)
    }

    /// Asks for the area of what is in flight.
    pub fn get_inflight(&self, queues: u16, queue_size: u16) -> Result<Inflight> {
        let request = request::GET_INFLIGHT_FD;
        let mut reply = self.ask(request, &inflight_bytes(0, 0, queues, queue_size), &[])?;
        let (Some(mmap_size), Some(mmap_offset), Some(fd)) =
            (reply.u64(0), reply.u64(8), reply.fds.pop())
        else {
            return Err(malformed(request, &reply));
        };
        let file = SharedFile::map(fd, mmap_offset, mmap_size as usize)
            .map_err(|source| FrontEndError::Io { request, source })?;
        Ok(Inflight {
            file,
            mmap_size,
            mmap_offset,
            queues,
            queue_size,
        })
    }

    /// Gives the area to the back end.
    pub fn set_inflight(&self, area: &Inflight) -> Result<()> {
        let payload = inflight_bytes(
            area.mmap_size,
            area.mmap_offset,
            area.queues,
            area.queue_size,
        );
        let fds = [area.file.as_fd()];
        self.tell(request::SET_INFLIGHT_FD, &payload, &fds)
    }

    /// Where dirty pages are to be marked, one bit for each 4096 bytes. This request has a reply of its own.
    pub fn set_log_base(&self, log: &SharedFile) -> Result<()> {
        let payload = words(&[log.window().len() as u64, 0]);
        self.ask(request::SET_LOG_BASE, &payload, &[log.as_fd()])
            .map(drop)
    }

    /// A doorbell for "the log has changed".
    pub fn set_log_fd(&self, fd: BorrowedFd<'_>) -> Result<()> {
        self.tell(request::SET_LOG_FD, &[], &[fd])
    }

    /// Reads `len` bytes of the configuration space; an empty answer means no.
    pub fn config(&self, offset: u32, len: u32) -> Result<Vec<u8>> {
        let payload = config_bytes(offset, 0, &vec![0; len as usize]);
        let mut reply = self.ask(request::GET_CONFIG, &payload, &[])?;
        if reply.payload.len() < CONFIG_HEAD_LEN {
            return Ok(Vec::new());
        }
        Ok(reply.payload.split_off(CONFIG_HEAD_LEN))
    }

    /// Writes to the configuration space. `flags`: 0 for the guest, 1 for migration.
    pub fn set_config(&self, offset: u32, flags: u32, bytes: &[u8]) -> Result<()> {
        let payload = config_bytes(offset, flags, bytes);
        self.tell(request::SET_CONFIG, &payload, &[])
    }
}

/// Offset, size and flags.
const CONFIG_HEAD_LEN: usize = 12;

fn config_bytes(offset: u32, flags: u32, bytes: &[u8]) -> Vec<u8> {
    let head = [offset, bytes.len() as u32, flags];
    let mut payload: Vec<u8> = head.iter().flat_map(|word| word.to_ne_bytes()).collect();
    payload.extend_from_slice(bytes);
    payload
}

fn inflight_bytes(mmap_size: u64, mmap_offset: u64, queues: u16, queue_size: u16) -> Vec<u8> {
    let mut payload = words(&[mmap_size, mmap_offset]);
    payload.extend(queues.to_ne_bytes());
    payload.extend(queue_size.to_ne_bytes());
    // `VhostUserInflight` is not packed in the other implementations: its size is a multiple of eight.
    payload.extend([0; 4]);
    payload
}

fn malformed(request: u32, reply: &Message) -> FrontEndError {
    let what = format!(
        "request {} flags {:#x} payload {:02x?}",
        reply.request, reply.flags, reply.payload
    );
    FrontEndError::Malformed { request, what }
}
