//! Messages as they stand on the wire (vhost-user, "Message Specification"): a header of 12 bytes, a payload, and files
//! beside them. Numbers are in the machine's byte order.

use std::fmt;
use std::os::fd::OwnedFd;

use super::VhostError;

/// Bytes of request, flags and size.
pub const HEADER_LEN: usize = 12;
/// Bytes of the longest payload that is read: the memory table of eight regions has 264, the configuration space at
/// most 268. Anything longer is no request this back end knows.
pub const PAYLOAD_LEN_MAX: usize = 1024;
/// Files beside one message: one per region of SET_MEM_TABLE (vhost-user, "Memory regions description").
pub const FDS_MAX: usize = 8;
/// Bytes of one region in a memory table.
pub const REGION_LEN: usize = 32;
/// Bytes before the contents of a configuration space message.
pub const CONFIG_HEAD_LEN: usize = 12;
/// Bytes of configuration space a message may speak of: QEMU's VHOST_USER_MAX_CONFIG_SIZE.
pub const CONFIG_LEN_MAX: usize = 256;
/// VHOST_VRING_F_LOG of SET_VRING_ADDR.
pub const RING_FLAG_LOG: u32 = 1;
/// The flag of SET_VRING_KICK, CALL and ERR that no file comes along.
pub const NO_FD: u64 = 1 << 8;
/// The flag of SET_CONFIG that says live migration, not the guest, writes.
pub const CONFIG_FLAG_MIGRATION: u32 = 1;

const VERSION: u32 = 1;
const VERSION_MASK: u32 = 3;
const FLAG_REPLY: u32 = 1 << 2;
const FLAG_NEED_REPLY: u32 = 1 << 3;

macro_rules! requests {
    ($($variant:ident = $id:literal $name:literal,)*) => {
        /// Front-end message types, by number. Those from another device type or for a feature that is never offered
        /// are here to be refused by name.
        #[derive(Copy, Clone, Debug, PartialEq, Eq)]
        #[allow(missing_docs, reason = "the specification's names")]
        pub enum Request {
            $($variant = $id,)*
        }

        impl Request {
            /// Every one of them.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// By its number on the wire.
            pub fn from_id(id: u32) -> Option<Self> {
                match id {
                    $($id => Some(Self::$variant),)*
                    _ => None,
                }
            }

            /// The specification's name, without `VHOST_USER_`.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }
        }
    };
}

requests! {
    GetFeatures = 1 "GET_FEATURES",
    SetFeatures = 2 "SET_FEATURES",
    SetOwner = 3 "SET_OWNER",
    ResetOwner = 4 "RESET_OWNER",
    SetMemTable = 5 "SET_MEM_TABLE",
    SetLogBase = 6 "SET_LOG_BASE",
    SetLogFd = 7 "SET_LOG_FD",
    SetVringNum = 8 "SET_VRING_NUM",
    SetVringAddr = 9 "SET_VRING_ADDR",
    SetVringBase = 10 "SET_VRING_BASE",
    GetVringBase = 11 "GET_VRING_BASE",
    SetVringKick = 12 "SET_VRING_KICK",
    SetVringCall = 13 "SET_VRING_CALL",
    SetVringErr = 14 "SET_VRING_ERR",
    GetProtocolFeatures = 15 "GET_PROTOCOL_FEATURES",
    SetProtocolFeatures = 16 "SET_PROTOCOL_FEATURES",
    GetQueueNum = 17 "GET_QUEUE_NUM",
    SetVringEnable = 18 "SET_VRING_ENABLE",
    SendRarp = 19 "SEND_RARP",
    NetSetMtu = 20 "NET_SET_MTU",
    SetBackendReqFd = 21 "SET_BACKEND_REQ_FD",
    IotlbMsg = 22 "IOTLB_MSG",
    SetVringEndian = 23 "SET_VRING_ENDIAN",
    GetConfig = 24 "GET_CONFIG",
    SetConfig = 25 "SET_CONFIG",
    CreateCryptoSession = 26 "CREATE_CRYPTO_SESSION",
    CloseCryptoSession = 27 "CLOSE_CRYPTO_SESSION",
    PostcopyAdvise = 28 "POSTCOPY_ADVISE",
    PostcopyListen = 29 "POSTCOPY_LISTEN",
    PostcopyEnd = 30 "POSTCOPY_END",
    GetInflightFd = 31 "GET_INFLIGHT_FD",
    SetInflightFd = 32 "SET_INFLIGHT_FD",
    GpuSetSocket = 33 "GPU_SET_SOCKET",
    ResetDevice = 34 "RESET_DEVICE",
    VringKick = 35 "VRING_KICK",
    GetMaxMemSlots = 36 "GET_MAX_MEM_SLOTS",
    AddMemReg = 37 "ADD_MEM_REG",
    RemMemReg = 38 "REM_MEM_REG",
    SetStatus = 39 "SET_STATUS",
    GetStatus = 40 "GET_STATUS",
    GetSharedObject = 41 "GET_SHARED_OBJECT",
    SetDeviceStateFd = 42 "SET_DEVICE_STATE_FD",
    CheckDeviceState = 43 "CHECK_DEVICE_STATE",
    GetShmemConfig = 44 "GET_SHMEM_CONFIG",
}

impl Request {
    /// Whether the specification gives it a reply of its own, so that an acknowledgement would be one too many.
    pub fn has_own_reply(self) -> bool {
        matches!(
            self,
            Self::GetFeatures
                | Self::GetProtocolFeatures
                | Self::GetQueueNum
                | Self::GetVringBase
                | Self::SetLogBase
                | Self::GetConfig
                | Self::GetInflightFd
                | Self::GetMaxMemSlots
                | Self::GetStatus
        )
    }
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A message of the front end, its payload not looked into.
#[derive(Debug)]
pub struct Message {
    /// What is asked.
    pub request: Request,
    /// Whether an acknowledgement is wanted; counts only once REPLY_ACK is negotiated.
    pub need_reply: bool,
    /// At most [`PAYLOAD_LEN_MAX`] bytes.
    pub payload: Vec<u8>,
    /// At most [`FDS_MAX`].
    pub fds: Vec<OwnedFd>,
}

/// A header that may be believed as far as it goes.
#[derive(Copy, Clone, Debug)]
pub(super) struct Header {
    pub(super) request: Request,
    pub(super) need_reply: bool,
    pub(super) payload_len: usize,
}

impl Header {
    /// # Errors
    /// Another version, a reply, an unknown request, a payload that is too long.
    pub(super) fn parse(bytes: &[u8; HEADER_LEN]) -> Result<Self, VhostError> {
        let mut fields = Fields(bytes);
        let (id, flags, len) = (fields.u32(), fields.u32(), fields.u32());
        if flags & VERSION_MASK != VERSION {
            return Err(VhostError::Version(flags & VERSION_MASK));
        }
        let request = Request::from_id(id).ok_or(VhostError::UnknownRequest(id))?;
        if flags & FLAG_REPLY != 0 {
            return Err(VhostError::UnexpectedReply(request));
        }
        if len as usize > PAYLOAD_LEN_MAX {
            return Err(VhostError::Oversized { request, len });
        }
        Ok(Self {
            request,
            need_reply: flags & FLAG_NEED_REPLY != 0,
            payload_len: len as usize,
        })
    }
}

/// An answer to the front end.
#[derive(Debug)]
pub struct Reply {
    /// What it answers.
    pub request: Request,
    /// Its payload.
    pub payload: Vec<u8>,
    /// The inflight memory.
    pub fd: Option<OwnedFd>,
}

impl Reply {
    /// Header and payload.
    pub fn bytes(&self) -> Vec<u8> {
        let len = self.payload.len() as u32;
        let head = [self.request as u32, VERSION | FLAG_REPLY, len];
        let head = head.iter().flat_map(|word| word.to_ne_bytes());
        head.chain(self.payload.iter().copied()).collect()
    }
}

/// Reads fields one after the other. The caller has checked the length; what lies beyond the end reads as zero.
#[derive(Debug)]
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        debug_assert!(self.0.len() >= N, "the length was checked");
        let Some((head, rest)) = self.0.split_first_chunk::<N>() else {
            return [0; N];
        };
        self.0 = rest;
        *head
    }

    pub(super) fn u16(&mut self) -> u16 {
        u16::from_ne_bytes(self.take())
    }

    pub(super) fn u32(&mut self) -> u32 {
        u32::from_ne_bytes(self.take())
    }

    pub(super) fn u64(&mut self) -> u64 {
        u64::from_ne_bytes(self.take())
    }
}

/// "A vring state description".
#[derive(Copy, Clone, Debug)]
pub(super) struct VringState {
    pub(super) index: u32,
    pub(super) num: u32,
}

impl VringState {
    pub(super) const LEN: usize = 8;

    pub(super) fn parse(payload: &[u8]) -> Self {
        let mut fields = Fields(payload);
        Self {
            index: fields.u32(),
            num: fields.u32(),
        }
    }

    pub(super) fn bytes(self) -> Vec<u8> {
        [self.index.to_ne_bytes(), self.num.to_ne_bytes()].concat()
    }
}

/// "A vring address description".
#[derive(Copy, Clone, Debug)]
pub(super) struct VringAddr {
    pub(super) index: u32,
    pub(super) flags: u32,
    pub(super) desc: u64,
    pub(super) used: u64,
    pub(super) avail: u64,
    pub(super) log: u64,
}

impl VringAddr {
    pub(super) const LEN: usize = 40;

    pub(super) fn parse(payload: &[u8]) -> Self {
        let mut fields = Fields(payload);
        Self {
            index: fields.u32(),
            flags: fields.u32(),
            desc: fields.u64(),
            used: fields.u64(),
            avail: fields.u64(),
            log: fields.u64(),
        }
    }
}

/// A region of "Memory regions description".
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) struct Region {
    pub(super) guest_addr: u64,
    pub(super) size: u64,
    pub(super) user_addr: u64,
    pub(super) mmap_offset: u64,
}

impl Region {
    /// Bytes of "Single memory region description": eight of padding before the region.
    pub(super) const SINGLE_LEN: usize = 8 + REGION_LEN;

    pub(super) fn parse(bytes: &[u8]) -> Self {
        let mut fields = Fields(bytes);
        Self {
            guest_addr: fields.u64(),
            size: fields.u64(),
            user_addr: fields.u64(),
            mmap_offset: fields.u64(),
        }
    }

    pub(super) fn parse_single(payload: &[u8]) -> Self {
        Self::parse(payload.get(8..).unwrap_or_default())
    }
}

/// "Inflight description".
#[derive(Copy, Clone, Debug)]
pub(super) struct InflightArea {
    pub(super) size: u64,
    pub(super) offset: u64,
    pub(super) queues: u16,
    pub(super) queue_size: u16,
}

impl InflightArea {
    /// Bytes as specified, and with the padding QEMU's structure has at its end.
    pub(super) const LENS: [usize; 2] = [20, 24];

    pub(super) fn parse(payload: &[u8]) -> Self {
        let mut fields = Fields(payload);
        Self {
            size: fields.u64(),
            offset: fields.u64(),
            queues: fields.u16(),
            queue_size: fields.u16(),
        }
    }

    /// In as many bytes as the request had.
    pub(super) fn bytes(self, len: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(len);
        bytes.extend(self.size.to_ne_bytes());
        bytes.extend(self.offset.to_ne_bytes());
        bytes.extend(self.queues.to_ne_bytes());
        bytes.extend(self.queue_size.to_ne_bytes());
        bytes.resize(len, 0);
        bytes
    }
}

/// The head of "Virtio device config space".
#[derive(Copy, Clone, Debug)]
pub(super) struct ConfigHead {
    pub(super) offset: u32,
    pub(super) size: u32,
    pub(super) flags: u32,
}

impl ConfigHead {
    pub(super) fn parse(payload: &[u8]) -> Self {
        let mut fields = Fields(payload);
        Self {
            offset: fields.u32(),
            size: fields.u32(),
            flags: fields.u32(),
        }
    }

    /// The bytes it speaks of, unless they lie beyond what any message may speak of.
    pub(super) fn range(self) -> Option<std::ops::Range<usize>> {
        let end = self.offset.checked_add(self.size)? as usize;
        (end <= CONFIG_LEN_MAX).then_some(self.offset as usize..end)
    }

    pub(super) fn bytes(self) -> Vec<u8> {
        let words = [self.offset, self.size, self.flags];
        words.iter().flat_map(|word| word.to_ne_bytes()).collect()
    }
}
