//! The reader: opens, tells the formats apart, hands out records.

use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::path::Path;

use super::error::{CaptureError, Fault, Place, open_error};
use super::link::LinkType;
use super::pcap::Pcap;
use super::pcapng::{Pcapng, SECTION};
use super::source::Source;

/// One captured packet, lent from the reader until the next is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    /// 1 for the first packet of the file, whatever its interface.
    pub number: u64,
    /// Nanoseconds since 1970-01-01 UTC; `None` where the file does not say (simple
    /// packet blocks, times outside 1970 to 2554).
    pub ts_ns: Option<u64>,
    /// What `data` begins with.
    pub link: LinkType,
    /// Bytes the packet had on its link, link header included; at least `data.len()`.
    pub orig_len: u32,
    /// The captured bytes.
    pub data: &'a [u8],
}

impl Record<'_> {
    /// Whether the capture kept only the packet's beginning.
    #[must_use]
    pub fn is_cut(&self) -> bool {
        (self.data.len() as u64) < u64::from(self.orig_len)
    }
}

/// A record without its bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Head {
    pub(super) ts_ns: Option<u64>,
    pub(super) link: LinkType,
    pub(super) orig_len: u32,
}

#[derive(Debug)]
enum Format {
    Pcap(Pcap),
    Pcapng(Pcapng),
}

/// Reads a capture record by record.
#[derive(Debug)]
pub struct CaptureReader {
    path: String,
    source: Source,
    format: Format,
    data: Vec<u8>,
    /// Records returned.
    count: u64,
    /// Where the record or block being read begins.
    start: u64,
    total_bytes: Option<u64>,
    ended: bool,
}

impl CaptureReader {
    /// Opens a capture file, or standard input for `-`, and reads its header.
    ///
    /// # Errors
    /// The file cannot be opened or read, or is not a capture.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, CaptureError> {
        let path = path.as_ref();
        let name = path.display().to_string();
        if name == "-" {
            return Self::open_stdin(name);
        }
        let opened = File::open(path).and_then(|file| Ok((file.metadata()?, file)));
        let (metadata, file) = opened.map_err(|e| open_error(name.clone(), e, false))?;
        if metadata.is_dir() {
            return Err(CaptureError::Directory { path: name });
        }
        let total_bytes = metadata.is_file().then_some(metadata.len());
        Self::from_read(name, file, total_bytes)
    }

    fn open_stdin(path: String) -> Result<Self, CaptureError> {
        let stdin = io::stdin();
        if stdin.is_terminal() {
            return Err(CaptureError::Terminal { path });
        }
        Self::from_read(path, stdin, None)
    }

    /// Reads a capture from anything that has bytes; `path` is its name in errors and
    /// `total_bytes` its length, if known.
    ///
    /// # Errors
    /// It cannot be read, or is not a capture.
    pub fn from_read(
        path: impl Into<String>,
        input: impl Read + Send + 'static,
        total_bytes: Option<u64>,
    ) -> Result<Self, CaptureError> {
        let path = path.into();
        let place = |gzipped| Place {
            path: path.clone(),
            record: 1,
            byte: 0,
            gzipped,
        };
        let mut source = Source::new(Box::new(input)).map_err(|e| Fault::Io(e).at(place(false)))?;
        let format = open_format(&mut source)
            .map_err(|fault| in_header(fault.at(place(source.gzipped()))))?;
        Ok(Self {
            path,
            source,
            format,
            data: Vec::new(),
            count: 0,
            start: 0,
            total_bytes,
            ended: false,
        })
    }

    /// The next packet; `None` at the end of the file. An error is the last thing
    /// returned before `None`: what lies behind it is not looked for.
    pub fn next_record(&mut self) -> Option<Result<Record<'_>, CaptureError>> {
        if self.ended {
            return None;
        }
        match self.advance() {
            Ok(Some(head)) => Some(Ok(self.lend(head))),
            Ok(None) => {
                self.ended = true;
                None
            }
            Err(fault) => {
                self.ended = true;
                Some(Err(fault.at(self.place())))
            }
        }
    }

    /// Bytes taken from the file so far (compressed ones, if it is compressed), read
    /// ahead included.
    #[must_use]
    pub fn bytes_read(&self) -> u64 {
        self.source.bytes_read()
    }

    /// The length of the file; `None` for pipes and the like.
    #[must_use]
    pub fn total_bytes(&self) -> Option<u64> {
        self.total_bytes
    }

    fn advance(&mut self) -> Result<Option<Head>, Fault> {
        self.start = self.source.pos();
        match &mut self.format {
            Format::Pcap(pcap) => pcap.next(&mut self.source, &mut self.data),
            Format::Pcapng(ng) => ng.next(&mut self.source, &mut self.data, &mut self.start),
        }
    }

    fn lend(&mut self, head: Head) -> Record<'_> {
        self.count += 1;
        // Some writers leave the original length 0 or smaller than what they kept.
        let orig_len = head.orig_len.max(self.data.len() as u32);
        Record {
            number: self.count,
            ts_ns: head.ts_ns,
            link: head.link,
            orig_len,
            data: &self.data,
        }
    }

    fn place(&self) -> Place {
        Place {
            path: self.path.clone(),
            record: self.count + 1,
            byte: self.start,
            gzipped: self.source.gzipped(),
        }
    }
}

/// Tells the format by its first four bytes and reads its header.
fn open_format(source: &mut Source) -> Result<Format, Fault> {
    let mut magic = [0; 4];
    let have = source.fill(&mut magic)?;
    if have == 0 {
        return Err(Fault::Empty);
    }
    if let Some(order) = Pcap::order_of(magic) {
        return Pcap::open(order, magic, source).map(Format::Pcap);
    }
    if magic == SECTION {
        return Pcapng::open(source).map(Format::Pcapng);
    }
    Err(not_a_capture(&magic[..have]))
}

/// No packets to speak of yet.
fn in_header(error: CaptureError) -> CaptureError {
    match error {
        CaptureError::Truncated { path, .. } => CaptureError::CutHeader { path },
        other => other,
    }
}

fn not_a_capture(start: &[u8]) -> Fault {
    const CONVERT: &str = "convert it with `editcap -F pcapng IN OUT`";
    let (found, way_out) = match start {
        [0x28, 0xb5, 0x2f, 0xfd] => ("zstd data", "decompress it: `zstdcat FILE | ... -`"),
        [0xfd, b'7', b'z', b'X'] => ("xz data", "decompress it: `xzcat FILE | ... -`"),
        [0x04, 0x22, 0x4d, 0x18] => ("lz4 data", "decompress it: `lz4cat FILE | ... -`"),
        [b'B', b'Z', b'h', _] => ("bzip2 data", "decompress it: `bzcat FILE | ... -`"),
        [b'P', b'K', 3, 4] => ("a zip archive", "unpack it first"),
        [0x1f, 0x8b, ..] => ("doubly gzipped data", "decompress it: `zcat FILE | ... -`"),
        b"snoo" => ("a snoop capture", CONVERT),
        b"GMBU" | b"RTSS" => ("a Network Monitor capture", CONVERT),
        [_, _, _, _] => ("something else", "record one with `tcpdump -w FILE`"),
        _ => (
            "shorter than any header",
            "record one with `tcpdump -w FILE`",
        ),
    };
    Fault::NotCapture { found, way_out }
}
