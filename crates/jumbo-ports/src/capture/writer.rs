//! Writes pcapng: one section, an interface per link type, enhanced packet blocks with
//! nanosecond times and optional comments (draft-ietf-opsawg-pcapng, little endian).

use std::fmt;
use std::fs::{self, File, Permissions};
use std::io::{self, BufWriter, IsTerminal, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use super::MAX_CAPTURED_LEN;
use super::error::{CaptureError, open_error};
use super::link::LinkType;

const SECTION: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const PACKET_ENHANCED: u32 = 6;
const OPTION_COMMENT: u16 = 1;
const OPTION_IF_TSRESOL: u16 = 9;
const OPTION_USER_APPLICATION: u16 = 4;
/// An option's length is 16 bits; what is longer is cut at a character.
const OPTION_MAX_LEN: usize = 65_535;

/// One packet to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutPacket<'a> {
    /// What `data` begins with.
    pub link: LinkType,
    /// Nanoseconds since 1970-01-01 UTC.
    pub ts_ns: u64,
    /// Bytes the packet had on its link; a value below `data.len()` counts as that.
    pub orig_len: u32,
    /// The bytes, at most [`MAX_CAPTURED_LEN`].
    pub data: &'a [u8],
    /// Shown by Wireshark as "Packet comments".
    pub comment: Option<&'a str>,
}

enum Sink {
    /// Beside the target until [`CaptureWriter::finish`]; removed when dropped before.
    Temporary(NamedTempFile, PathBuf),
    /// A pipe or a device, which nothing may be renamed over.
    Direct(File),
    Stdout(io::Stdout),
}

impl Write for Sink {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Sink::Temporary(file, _) => file.write(buf),
            Sink::Direct(file) => file.write(buf),
            Sink::Stdout(stdout) => stdout.write(buf),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Sink::Temporary(file, _) => file.flush(),
            Sink::Direct(file) => file.flush(),
            Sink::Stdout(stdout) => stdout.flush(),
        }
    }
}

/// Writes a pcapng capture, which appears under its name only when it is whole.
///
/// Dropped without [`CaptureWriter::finish`], it leaves nothing behind. A process killed by a
/// signal leaves `.NAME.*.part` beside the target, and the target as it was.
pub struct CaptureWriter {
    path: String,
    sink: BufWriter<Sink>,
    /// Link types by interface number.
    links: Vec<LinkType>,
    block: Vec<u8>,
    count: u64,
    bytes: u64,
}

impl fmt::Debug for CaptureWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CaptureWriter")
            .field("path", &self.path)
            .field("links", &self.links)
            .field("count", &self.count)
            .finish_non_exhaustive()
    }
}

impl CaptureWriter {
    /// Begins a capture at `path`, or on standard output for `-`. `input` is the file being
    /// read, if any: it is not overwritten, under whichever name.
    ///
    /// # Errors
    /// `path` is the input, a directory or a terminal, or cannot be created.
    pub fn create(path: impl AsRef<Path>, input: Option<&Path>) -> Result<Self, CaptureError> {
        let path = path.as_ref();
        let name = path.display().to_string();
        let sink = if name == "-" {
            stdout_sink(&name)
        } else {
            file_sink(path, &name, input)
        }?;
        let mut writer = Self {
            path: name,
            sink: BufWriter::new(sink),
            links: Vec::new(),
            block: Vec::new(),
            count: 0,
            bytes: 0,
        };
        writer.section()?;
        Ok(writer)
    }

    /// Writes one packet; its link type's interface is described when first needed. Read by
    /// tools of libpcap, a file can have one link type only, by Wireshark any number.
    ///
    /// # Errors
    /// The packet is longer than [`MAX_CAPTURED_LEN`], or the system refuses the bytes.
    pub fn write_packet(&mut self, packet: &OutPacket<'_>) -> Result<(), CaptureError> {
        let interface = self.interface_of(packet.link)?;
        let captured = self.checked_len(packet.data)?;
        self.begin(PACKET_ENHANCED);
        for word in [
            interface,
            (packet.ts_ns >> 32) as u32,
            packet.ts_ns as u32,
            captured,
            packet.orig_len.max(captured),
        ] {
            self.word(word);
        }
        self.padded(packet.data);
        if let Some(comment) = packet.comment {
            self.option(OPTION_COMMENT, cut(comment).as_bytes());
            self.word(0);
        }
        self.end()?;
        self.count += 1;
        Ok(())
    }

    /// Packets written so far.
    #[must_use]
    pub fn packets(&self) -> u64 {
        self.count
    }

    /// Writes out what is buffered and gives the file its name; returns its length in bytes.
    ///
    /// # Errors
    /// The system refuses the bytes or the renaming; then the target is as it was.
    pub fn finish(mut self) -> Result<u64, CaptureError> {
        if self.links.is_empty() {
            // libpcap refuses a file without any interface.
            self.interface_of(LinkType::Ethernet)?;
        }
        let Self {
            path, sink, bytes, ..
        } = self;
        let write_error = |source| CaptureError::Write {
            path: path.clone(),
            source,
        };
        let mut sink = sink.into_inner().map_err(|e| write_error(e.into_error()))?;
        sink.flush().map_err(write_error)?;
        if let Sink::Temporary(file, target) = sink {
            file.persist(&target).map_err(|e| write_error(e.error))?;
        }
        Ok(bytes)
    }

    fn section(&mut self) -> Result<(), CaptureError> {
        self.begin(SECTION);
        self.word(0x1a2b_3c4d);
        self.word(1);
        // The section's length is not known beforehand.
        self.word(u32::MAX);
        self.word(u32::MAX);
        self.option(
            OPTION_USER_APPLICATION,
            concat!("Jumbo ", env!("CARGO_PKG_VERSION")).as_bytes(),
        );
        self.word(0);
        self.end()
    }

    /// The number of the interface for `link`, described now if it is new.
    fn interface_of(&mut self, link: LinkType) -> Result<u32, CaptureError> {
        if let Some(known) = self.links.iter().position(|&l| l == link) {
            // Link types are 16 bits, so are their positions.
            return Ok(known as u32);
        }
        self.begin(INTERFACE);
        self.word(link.number() & 0xffff);
        self.word(MAX_CAPTURED_LEN);
        self.option(OPTION_IF_TSRESOL, &[9]);
        self.word(0);
        self.end()?;
        self.links.push(link);
        Ok(self.links.len() as u32 - 1)
    }

    fn checked_len(&self, data: &[u8]) -> Result<u32, CaptureError> {
        match u32::try_from(data.len()) {
            Ok(len) if len <= MAX_CAPTURED_LEN => Ok(len),
            _ => Err(CaptureError::TooLong {
                path: self.path.clone(),
                record: self.count + 1,
                byte: self.bytes,
                len: data.len() as u64,
            }),
        }
    }

    /// Begins a block; its length is filled in at the end.
    fn begin(&mut self, kind: u32) {
        self.block.clear();
        self.word(kind);
        self.word(0);
    }

    fn end(&mut self) -> Result<(), CaptureError> {
        // A packet and a comment at their largest are far below 32 bits.
        let total_len = self.block.len() as u32 + 4;
        self.block[4..8].copy_from_slice(&total_len.to_le_bytes());
        self.word(total_len);
        self.bytes += self.block.len() as u64;
        let written = self.sink.write_all(&self.block);
        written.map_err(|source| CaptureError::Write {
            path: self.path.clone(),
            source,
        })
    }

    fn word(&mut self, word: u32) {
        self.block.extend_from_slice(&word.to_le_bytes());
    }

    fn padded(&mut self, bytes: &[u8]) {
        self.block.extend_from_slice(bytes);
        self.block.resize(self.block.len().next_multiple_of(4), 0);
    }

    /// `value` has at most [`OPTION_MAX_LEN`] bytes.
    fn option(&mut self, code: u16, value: &[u8]) {
        self.word(u32::from(code) | (value.len() as u32) << 16);
        self.padded(value);
    }
}

fn cut(text: &str) -> &str {
    let end = (0..=text.len().min(OPTION_MAX_LEN))
        .rev()
        .find(|&at| text.is_char_boundary(at));
    &text[..end.unwrap_or(0)]
}

fn stdout_sink(name: &str) -> Result<Sink, CaptureError> {
    let stdout = io::stdout();
    if stdout.is_terminal() {
        return Err(CaptureError::Terminal {
            path: name.to_owned(),
        });
    }
    Ok(Sink::Stdout(stdout))
}

fn file_sink(path: &Path, name: &str, input: Option<&Path>) -> Result<Sink, CaptureError> {
    let path_of = || name.to_owned();
    let existing = fs::metadata(path).ok();
    let Some(target) = existing else {
        return temporary(path, name);
    };
    if target.is_dir() {
        return Err(CaptureError::Directory { path: path_of() });
    }
    if input.is_some_and(|input| same_file(&target, input)) {
        return Err(CaptureError::SameFile { path: path_of() });
    }
    let kind = target.file_type();
    if kind.is_fifo() || kind.is_char_device() || kind.is_block_device() || kind.is_socket() {
        let opened = File::options().write(true).open(path);
        return opened
            .map(Sink::Direct)
            .map_err(|e| open_error(path_of(), e, true));
    }
    // Renaming over a symbolic link would replace the link, not what it points to.
    let resolved = fs::canonicalize(path).map_err(|e| open_error(path_of(), e, true))?;
    temporary(&resolved, name)
}

/// The same inode, whatever the names; devices such as /dev/null may be both.
fn same_file(target: &fs::Metadata, input: &Path) -> bool {
    fs::metadata(input).is_ok_and(|input| {
        input.is_file() && (input.dev(), input.ino()) == (target.dev(), target.ino())
    })
}

/// A file beside `target`, with the permissions a new file gets.
fn temporary(target: &Path, name: &str) -> Result<Sink, CaptureError> {
    let parent = target.parent().filter(|p| !p.as_os_str().is_empty());
    let folder = parent.unwrap_or(Path::new("."));
    let base = target.file_name().unwrap_or_default().to_string_lossy();
    let created = tempfile::Builder::new()
        .prefix(&format!(".{base}."))
        .suffix(".part")
        .permissions(Permissions::from_mode(0o666))
        .tempfile_in(folder);
    let file = created.map_err(|e| open_error(name.to_owned(), e, true))?;
    Ok(Sink::Temporary(file, target.to_owned()))
}
