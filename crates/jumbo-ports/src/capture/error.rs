//! What can be wrong with a capture, one sentence each.

use std::io;

use super::{MAX_CAPTURED_LEN, MAX_INTERFACES};

/// Why a capture cannot be read (further) or written.
///
/// `path` is the name as the user gave it, `-` for the standard streams; `record` is the
/// 1-based number of the packet being read; `byte` is where its record or block begins,
/// counted after decompression. Records already returned stay valid.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CaptureError {
    /// {path}: no such file; check the name, or pass - to use the standard streams
    #[error("{path}: no such file; check the name, or pass - to use the standard streams")]
    Missing {
        /// As given.
        path: String,
    },
    /// {path}: permission denied; make it accessible to this user, or pipe it through -
    #[error("{path}: permission denied; make it accessible to this user, or pipe it through -")]
    Permission {
        /// As given.
        path: String,
    },
    /// {path} is a directory; name a capture file in it
    #[error("{path} is a directory; name a capture file in it")]
    Directory {
        /// As given.
        path: String,
    },
    /// {path} is a terminal, captures are binary; redirect it to a file or a pipe
    #[error("{path} is a terminal, captures are binary; redirect it to a file or a pipe")]
    Terminal {
        /// As given.
        path: String,
    },
    /// {path} is also the input; name another file to write to
    #[error("{path} is also the input; name another file to write to")]
    SameFile {
        /// As given.
        path: String,
    },
    /// {path} is empty; record packets with `tcpdump -w FILE`
    #[error("{path} is empty; record packets with `tcpdump -w FILE`")]
    Empty {
        /// As given.
        path: String,
    },
    /// {path} is not a pcap or pcapng capture but {found}; {way_out}
    #[error("{path} is not a pcap or pcapng capture but {found}; {way_out}")]
    NotCapture {
        /// As given.
        path: String,
        /// What it looks like instead.
        found: &'static str,
        /// What to do about it.
        way_out: &'static str,
    },
    /// {path}: version {major}.{minor} of the format is unknown; convert it with `editcap -F pcapng IN OUT`
    #[error(
        "{path}: version {major}.{minor} of the format is unknown; \
         convert it with `editcap -F pcapng IN OUT`"
    )]
    Version {
        /// As given.
        path: String,
        /// Major version found.
        major: u16,
        /// Minor version found.
        minor: u16,
    },
    /// {path} ends inside its file header; copy or record the file again
    #[error("{path} ends inside its file header; copy or record the file again")]
    CutHeader {
        /// As given.
        path: String,
    },
    /// {path} ends too early, inside the record or block at byte {byte}; complete packets before it: {record - 1}
    #[error(
        "{path} ends too early, inside the record or block at byte {byte}; \
         complete packets before it: {}; for more, copy or record the file again",
        .record - 1
    )]
    Truncated {
        /// As given.
        path: String,
        /// The packet that is cut, or would have come next.
        record: u64,
        /// Where the cut record or block begins.
        byte: u64,
    },
    /// {path} is damaged at byte {byte}, before or in packet {record}: {what}
    #[error(
        "{path} is damaged at byte {byte}, before or in packet {record}: {what}; \
         copy or record the file again, the packets before it are usable"
    )]
    Damaged {
        /// As given.
        path: String,
        /// The packet being read.
        record: u64,
        /// Where the damaged record or block begins.
        byte: u64,
        /// What does not fit.
        what: &'static str,
    },
    /// {path}: packet {record} at byte {byte} claims {len} captured bytes, more than a packet can have
    #[error(
        "{path}: packet {record} at byte {byte} claims {len} captured bytes, the limit is {}; \
         the file is damaged there, or has to be cut with `editcap -s 262144 IN OUT`",
        MAX_CAPTURED_LEN
    )]
    TooLong {
        /// As given.
        path: String,
        /// The packet being read or written.
        record: u64,
        /// Where its record or block begins; bytes written so far in a writer.
        byte: u64,
        /// The claim.
        len: u64,
    },
    /// {path}: packet {record} at byte {byte} belongs to interface {interface}, which the file does not describe
    #[error(
        "{path}: packet {record} at byte {byte} belongs to interface {interface}, but the file \
         describes {known}; copy or record the file again, the packets before it are usable"
    )]
    UnknownInterface {
        /// As given.
        path: String,
        /// The packet being read.
        record: u64,
        /// Where its block begins.
        byte: u64,
        /// The number the packet names.
        interface: u32,
        /// How many the section has described so far.
        known: usize,
    },
    /// {path} describes too many interfaces; split it with `editcap -c`
    #[error(
        "{path} describes more than {} interfaces at byte {byte}; split it with `editcap -c`",
        MAX_INTERFACES
    )]
    TooManyInterfaces {
        /// As given.
        path: String,
        /// Where the first one too many is described.
        byte: u64,
    },
    /// {path}: the gzip data is broken in packet {record}, after byte {byte}: {source}
    #[error(
        "{path}: the gzip data is broken in packet {record}, after byte {byte} of its contents \
         ({source}); copy the file again, the packets before it are usable"
    )]
    Gzip {
        /// As given.
        path: String,
        /// The packet being read.
        record: u64,
        /// Uncompressed bytes before the record or block being read.
        byte: u64,
        /// What the decompressor said.
        source: io::Error,
    },
    /// {path} cannot be read at byte {byte}: {source}
    #[error("{path} cannot be read at byte {byte} ({source}); check the medium or copy it first")]
    Read {
        /// As given.
        path: String,
        /// Where the record or block being read begins.
        byte: u64,
        /// What the system said.
        source: io::Error,
    },
    /// {path} cannot be written: {source}
    #[error("{path} cannot be written ({source}); check the folder, its free space, or the pipe")]
    Write {
        /// As given.
        path: String,
        /// What the system said; `BrokenPipe` when the reader of a pipe has gone.
        source: io::Error,
    },
}

/// The error for a path that could not be opened or created.
pub(super) fn open_error(path: String, source: io::Error, writing: bool) -> CaptureError {
    match source.kind() {
        io::ErrorKind::NotFound if !writing => CaptureError::Missing { path },
        io::ErrorKind::PermissionDenied => CaptureError::Permission { path },
        io::ErrorKind::IsADirectory => CaptureError::Directory { path },
        _ if writing => CaptureError::Write { path, source },
        _ => CaptureError::Read {
            path,
            byte: 0,
            source,
        },
    }
}

/// What went wrong inside a format, before the reader adds path and place.
#[derive(Debug)]
pub(super) enum Fault {
    Empty,
    NotCapture {
        found: &'static str,
        way_out: &'static str,
    },
    Truncated,
    Damaged(&'static str),
    TooLong(u64),
    UnknownInterface {
        interface: u32,
        known: usize,
    },
    TooManyInterfaces,
    Version {
        major: u16,
        minor: u16,
    },
    Io(io::Error),
}

/// Where a fault happened.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) path: String,
    pub(super) record: u64,
    pub(super) byte: u64,
    pub(super) gzipped: bool,
}

impl Fault {
    pub(super) fn at(self, place: Place) -> CaptureError {
        let Place {
            path,
            record,
            byte,
            gzipped,
        } = place;
        match self {
            Fault::Empty => CaptureError::Empty { path },
            Fault::NotCapture { found, way_out } => CaptureError::NotCapture {
                path,
                found,
                way_out,
            },
            Fault::Truncated => CaptureError::Truncated { path, record, byte },
            Fault::Damaged(what) => CaptureError::Damaged {
                path,
                record,
                byte,
                what,
            },
            Fault::TooLong(len) => CaptureError::TooLong {
                path,
                record,
                byte,
                len,
            },
            Fault::UnknownInterface { interface, known } => CaptureError::UnknownInterface {
                path,
                record,
                byte,
                interface,
                known,
            },
            Fault::TooManyInterfaces => CaptureError::TooManyInterfaces { path, byte },
            Fault::Version { major, minor } => CaptureError::Version { path, major, minor },
            Fault::Io(source) => io_error(path, record, byte, gzipped, source),
        }
    }
}

/// The decompressor reports through `io::Error`: an early end is a cut file, invalid data
/// a broken one, and anything else came from the system below it.
fn io_error(
    path: String,
    record: u64,
    byte: u64,
    gzipped: bool,
    source: io::Error,
) -> CaptureError {
    use io::ErrorKind::{InvalidData, InvalidInput, IsADirectory, UnexpectedEof};
    match source.kind() {
        UnexpectedEof => CaptureError::Truncated { path, record, byte },
        InvalidData | InvalidInput if gzipped => CaptureError::Gzip {
            path,
            record,
            byte,
            source,
        },
        IsADirectory => CaptureError::Directory { path },
        _ => CaptureError::Read { path, byte, source },
    }
}
