//! The bytes of a capture: counted where they come in, gunzipped if need be.

use std::fmt;
use std::io::{self, BufReader, Chain, Cursor, Read};

use flate2::bufread::MultiGzDecoder;

use super::error::Fault;

const BUFFER_BYTES: usize = 64 * 1024;
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// Counts the bytes that pass, for progress.
struct Counted {
    inner: Box<dyn Read + Send>,
    count: u64,
}

impl Read for Counted {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.count += n as u64;
        Ok(n)
    }
}

/// The bytes looked at to tell gzip from plain, then the rest.
type Raw = BufReader<Chain<Cursor<Vec<u8>>, Counted>>;

enum Input {
    Plain(Raw),
    Gzip(BufReader<MultiGzDecoder<Raw>>),
}

/// Sequential bytes with a position.
pub(super) struct Source {
    input: Input,
    /// Uncompressed bytes handed out.
    pos: u64,
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source")
            .field("pos", &self.pos)
            .field("gzipped", &self.gzipped())
            .finish()
    }
}

impl Source {
    pub(super) fn new(inner: Box<dyn Read + Send>) -> io::Result<Self> {
        let mut counted = Counted { inner, count: 0 };
        let mut start = vec![0; GZIP_MAGIC.len()];
        let have = read_full(&mut counted, &mut start)?;
        start.truncate(have);
        let gzipped = start == GZIP_MAGIC;
        let raw = BufReader::with_capacity(BUFFER_BYTES, Cursor::new(start).chain(counted));
        let input = if gzipped {
            Input::Gzip(BufReader::with_capacity(
                BUFFER_BYTES,
                MultiGzDecoder::new(raw),
            ))
        } else {
            Input::Plain(raw)
        };
        Ok(Self { input, pos: 0 })
    }

    pub(super) fn gzipped(&self) -> bool {
        matches!(self.input, Input::Gzip(_))
    }

    /// Bytes taken from the file, compressed ones if it is compressed.
    pub(super) fn bytes_read(&self) -> u64 {
        let raw = match &self.input {
            Input::Plain(raw) => raw,
            Input::Gzip(gzip) => gzip.get_ref().get_ref(),
        };
        raw.get_ref().get_ref().1.count
    }

    /// Uncompressed bytes handed out.
    pub(super) fn pos(&self) -> u64 {
        self.pos
    }

    /// Fills `buf` unless the input ends first; returns how much there was.
    pub(super) fn fill(&mut self, buf: &mut [u8]) -> Result<usize, Fault> {
        let result = match &mut self.input {
            Input::Plain(raw) => read_full(raw, buf),
            Input::Gzip(gzip) => read_full(gzip, buf),
        };
        let n = result.map_err(Fault::Io)?;
        self.pos += n as u64;
        Ok(n)
    }

    /// Fills `buf`; the input ending first is a fault.
    pub(super) fn exact(&mut self, buf: &mut [u8]) -> Result<(), Fault> {
        if self.fill(buf)? < buf.len() {
            Err(Fault::Truncated)
        } else {
            Ok(())
        }
    }

    /// Reads a fixed number of bytes.
    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        let mut bytes = [0; N];
        self.exact(&mut bytes)?;
        Ok(bytes)
    }

    /// Like [`Source::array`], but `None` when the input ends exactly here.
    pub(super) fn array_or_end<const N: usize>(&mut self) -> Result<Option<[u8; N]>, Fault> {
        let mut bytes = [0; N];
        match self.fill(&mut bytes)? {
            0 => Ok(None),
            n if n < N => Err(Fault::Truncated),
            _ => Ok(Some(bytes)),
        }
    }

    /// Passes over `len` bytes without keeping them.
    pub(super) fn skip(&mut self, len: u64) -> Result<(), Fault> {
        let mut scratch = [0; 4096];
        let mut left = len;
        while left > 0 {
            let step = left.min(scratch.len() as u64) as usize;
            self.exact(&mut scratch[..step])?;
            left -= step as u64;
        }
        Ok(())
    }
}

/// `read_exact` that says how far it came instead of failing at the end of the input.
fn read_full(reader: &mut impl Read, buf: &mut [u8]) -> io::Result<usize> {
    let mut done = 0;
    while done < buf.len() {
        match reader.read(&mut buf[done..]) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(done)
}

/// The byte order a file or section was written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    Little,
    Big,
}

impl Order {
    /// The 16-bit number at `at`; the caller's array is long enough by construction.
    pub(super) fn u16(self, bytes: &[u8], at: usize) -> u16 {
        let b = [bytes[at], bytes[at + 1]];
        match self {
            Order::Little => u16::from_le_bytes(b),
            Order::Big => u16::from_be_bytes(b),
        }
    }

    /// The 32-bit number at `at`; the caller's array is long enough by construction.
    pub(super) fn u32(self, bytes: &[u8], at: usize) -> u32 {
        let b = [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]];
        match self {
            Order::Little => u32::from_le_bytes(b),
            Order::Big => u32::from_be_bytes(b),
        }
    }
}
