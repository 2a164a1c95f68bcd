//! What a front end can do wrong. Each of these ends its connection, and nothing else.

use std::io;

use super::{Request, ResumeError};

/// Why a connection was ended from this side.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VhostError {
    /// a message of protocol version {0}; this is version 1
    #[error("a message of protocol version {0}; this is version 1")]
    Version(u32),
    /// request {0} is unknown
    #[error("request {0} is unknown")]
    UnknownRequest(u32),
    /// {0}: the front end sent a reply nobody asked for
    #[error("{0}: the front end sent a reply nobody asked for")]
    UnexpectedReply(Request),
    /// {request}: a payload of {len} bytes
    #[error("{request}: a payload of {len} bytes; no request has that many")]
    Oversized {
        /// What was asked.
        request: Request,
        /// Announced bytes.
        len: u32,
    },
    /// {request}: a payload of {len} bytes does not fit the request
    #[error("{request}: a payload of {len} bytes does not fit the request")]
    PayloadLen {
        /// What was asked.
        request: Request,
        /// Its bytes.
        len: usize,
    },
    /// {request}: {got} files came with it instead of {expected}
    #[error("{request}: {got} files came with it instead of {expected}")]
    FdCount {
        /// What was asked.
        request: Request,
        /// Files that came.
        got: usize,
        /// Files that belong to it.
        expected: usize,
    },
    /// more files with one message than any has, or than this process may open
    #[error("more files with one message than any has, or than this process may open")]
    TooManyFds,
    /// the connection ended within a message
    #[error("the connection ended within a message")]
    Cut,
    /// {0}: its feature is not offered here
    #[error("{0}: its feature is not offered here")]
    NotOffered(Request),
    /// {request}: protocol feature {feature} was not negotiated
    #[error("{request}: protocol feature {feature} was not negotiated")]
    NotNegotiated {
        /// What was asked.
        request: Request,
        /// The specification's name.
        feature: &'static str,
    },
    /// {request}: bits {bits:#x} were not offered
    #[error("{request}: bits {bits:#x} were not offered")]
    UnofferedBits {
        /// What was asked.
        request: Request,
        /// Those bits.
        bits: u64,
    },
    /// {request}: flags {flags:#x} are unknown
    #[error("{request}: flags {flags:#x} are unknown")]
    UnknownFlags {
        /// What was asked.
        request: Request,
        /// Those flags.
        flags: u32,
    },
    /// {request}: {value} is no value for it
    #[error("{request}: {value} is no value for it")]
    Value {
        /// What was asked.
        request: Request,
        /// What came.
        value: u64,
    },
    /// {request}: ring {index}, but the port has fewer; the front end has more queue pairs than the port
    #[error(
        "{request}: ring {index}, but the port has rings 0 to {}; the front end has more queue pairs than the port",
        rings - 1
    )]
    RingIndex {
        /// What was asked.
        request: Request,
        /// What came.
        index: u32,
        /// Rings of the port.
        rings: usize,
    },
    /// {request}: ring {index} cannot have {size} entries
    #[error("{request}: ring {index} cannot have {size} entries")]
    RingSize {
        /// What was asked.
        request: Request,
        /// The ring.
        index: usize,
        /// What came.
        size: u32,
    },
    /// {request}: ring {index} cannot stand at {base:#x}
    #[error("{request}: ring {index} cannot stand at {base:#x}")]
    RingPosition {
        /// What was asked.
        request: Request,
        /// The ring.
        index: usize,
        /// As in SET_VRING_BASE.
        base: u32,
    },
    /// {request}: the {part} of ring {index} at {addr:#x} is misaligned
    #[error("{request}: the {part} of ring {index} at {addr:#x} is misaligned")]
    RingMisaligned {
        /// What was asked.
        request: Request,
        /// The ring.
        index: usize,
        /// Which of its areas.
        part: &'static str,
        /// A user address.
        addr: u64,
    },
    /// {request}: ring {index} does not lie in the memory described
    #[error("{request}: ring {index} does not lie in the memory described")]
    RingUnmapped {
        /// What was asked.
        request: Request,
        /// The ring.
        index: usize,
    },
    /// {request}: ring {index} without a kick descriptor asks for polling, which is not supported
    #[error(
        "{request}: ring {index} without a kick descriptor asks for polling, which is not supported"
    )]
    PollingWanted {
        /// What was asked.
        request: Request,
        /// The ring.
        index: usize,
    },
    /// {0}: the file is neither an eventfd nor a pipe
    #[error("{0}: the file is neither an eventfd nor a pipe")]
    NotAnEvent(Request),
    /// {0}: the file is no eventfd that counts: a semaphore or a timer would wake us without end
    #[error(
        "{0}: the file is no eventfd that counts: a semaphore or a timer would wake us without end"
    )]
    NotACounter(Request),
    /// {request}: {count} regions; at most {max} are possible
    #[error("{request}: {count} regions; at most {max} are possible")]
    RegionCount {
        /// What was asked.
        request: Request,
        /// What came, or would be.
        count: usize,
        /// What is possible.
        max: usize,
    },
    /// {request}: the region at guest address {guest_addr:#x} is empty or wraps around
    #[error("{request}: the region at guest address {guest_addr:#x} is empty or wraps around")]
    RegionRange {
        /// What was asked.
        request: Request,
        /// Where it begins.
        guest_addr: u64,
    },
    /// {request}: the region at guest address {guest_addr:#x} overlaps another one
    #[error("{request}: the region at guest address {guest_addr:#x} overlaps another one")]
    RegionOverlap {
        /// What was asked.
        request: Request,
        /// Where it begins.
        guest_addr: u64,
    },
    /// {0}: the log does not come as a file
    #[error("{0}: the log does not come as a file; LOG_SHMFD was not negotiated")]
    LogWithoutFile(Request),
    /// {request}: an area of {size} bytes at {offset} is empty, too small or wraps around
    #[error("{request}: an area of {size} bytes at {offset} is empty, too small or wraps around")]
    Area {
        /// What was asked.
        request: Request,
        /// Bytes.
        size: u64,
        /// Bytes of the file before it.
        offset: u64,
    },
    /// {request}: {queues} regions of {queue_size} entries are not possible
    #[error("{request}: {queues} regions of {queue_size} entries are not possible")]
    InflightShape {
        /// What was asked.
        request: Request,
        /// Regions.
        queues: u16,
        /// Entries of each.
        queue_size: u16,
    },
    /// {request}: {source}
    #[error("{request}: {source}")]
    System {
        /// What was asked.
        request: Request,
        /// What the kernel said.
        source: io::Error,
    },
    /// {request}: the rings cannot run: {source}
    #[error("{request}: the rings cannot run: {source}")]
    Resume {
        /// What was asked.
        request: Request,
        /// What the data path said.
        source: ResumeError,
    },
    /// the connection failed: {0}
    #[error("the connection failed: {0}")]
    Socket(#[from] io::Error),
}

/// What a front end was denied; it was told so if it asked to be, and the connection goes on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// an MTU of {asked} is not between 68 and the port's {max}
    #[error("an MTU of {asked} is not between 68 and the port's {max}")]
    Mtu {
        /// What came.
        asked: u64,
        /// The port's.
        max: u16,
    },
    /// the guest may not write the configuration space
    #[error("the guest may not write the configuration space")]
    ConfigReadOnly,
}
