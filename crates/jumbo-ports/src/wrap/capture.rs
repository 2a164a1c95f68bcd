//! What passes a port, as pcapng (draft-ietf-opsawg-pcapng), while the switch runs.
//!
//! A [`Probe`] belongs to a worker and appends packets to a [`Tape`], a bounded buffer;
//! what finds it full is dropped from the capture and counted, never waited for. A
//! thread of its own takes the bytes off the tape and writes them out.
//!
//! Packets are as the port sees them, super-packets whole. What is not yet true of
//! their bytes stands in the comment of each.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use jumbo_engine::arena::Pieces;
use jumbo_engine::packet::{HEADERS_MAX, Link, Packet};
use jumbo_engine::pending::{Csum, GsoKind};
use jumbo_engine::tunnel::TunnelKind;

use crate::pool::Pool;

/// Bytes that may wait to be written out.
const TAPE_LEN_MAX: usize = 16 << 20;

/// How long the writer sleeps at most before it looks whether all probes are gone.
const LOOK: Duration = Duration::from_millis(500);

const SECTION: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const STATISTICS: u32 = 5;
const PACKET: u32 = 6;
const OPTION_COMMENT: u16 = 1;
const OPTION_IF_NAME: u16 = 2;
const OPTION_EPB_FLAGS: u16 = 2;
const OPTION_USER_APPLICATION: u16 = 4;
const OPTION_ISB_IFDROP: u16 = 5;
const OPTION_IF_TSRESOL: u16 = 9;
const LINKTYPE_ETHERNET: u32 = 1;
const LINKTYPE_RAW: u32 = 101;

/// Which way a packet went, seen from the switch.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Direction {
    /// It was received.
    Rx = 1,
    /// It was sent.
    Tx = 2,
}

/// What a capture holds until it is written out.
#[derive(Debug, Default)]
struct Tape {
    state: Mutex<State>,
    wake: Condvar,
    /// Nobody reads any more.
    closed: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    bytes: Vec<u8>,
    packets: u64,
    dropped: u64,
    /// Probes still there; the tape ends with the last.
    probes: usize,
}

impl Tape {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes packets of one port down. Each worker has its own.
#[derive(Debug)]
pub struct Probe {
    tape: Arc<Tape>,
    header: Vec<u8>,
    comment: String,
}

impl Clone for Probe {
    fn clone(&self) -> Self {
        self.tape.state().probes += 1;
        Self {
            tape: self.tape.clone(),
            header: self.header.clone(),
            comment: String::new(),
        }
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.tape.state().probes -= 1;
        self.tape.wake.notify_all();
    }
}

/// The other end of the tape.
#[derive(Debug)]
pub struct Recorder {
    tape: Arc<Tape>,
    name: String,
    link: Link,
}

/// What a capture came to.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct Recorded {
    /// Packets written.
    pub packets: u64,
    /// Packets that found the buffer full.
    pub dropped: u64,
}

/// A capture of the port `name`: a probe, to be cloned for each worker, and what writes it out.
pub fn capture(name: &str, link: Link) -> (Probe, Recorder) {
    let tape = Arc::new(Tape::default());
    tape.state().probes = 1;
    let probe = Probe {
        tape: tape.clone(),
        header: vec![0; HEADERS_MAX],
        comment: String::new(),
    };
    let recorder = Recorder {
        tape,
        name: name.to_owned(),
        link,
    };
    (probe, recorder)
}

impl Probe {
    /// Whether anybody still reads; if not, the probe may go.
    pub fn is_read(&self) -> bool {
        !self.tape.closed.load(Ordering::Relaxed)
    }

    /// Writes one packet down.
    pub fn note(
        &mut self,
        direction: Direction,
        packet: &Packet,
        payload: Pieces<'_>,
        pool: &Pool,
    ) {
        let header_len = packet.write_header(&mut self.header).unwrap_or(0);
        let len = header_len + payload.len_bytes();
        self.comment.clear();
        describe(packet, &mut self.comment);
        let mut state = self.tape.state();
        if state.bytes.len() + len + 256 > TAPE_LEN_MAX {
            state.dropped += 1;
            return;
        }
        let start = begin(&mut state.bytes, PACKET);
        let now_ns = since_epoch_ns();
        for word in [
            0,
            (now_ns >> 32) as u32,
            now_ns as u32,
            len as u32,
            len as u32,
        ] {
            state.bytes.extend(word.to_ne_bytes());
        }
        state.bytes.extend(&self.header[..header_len]);
        if pool.append_to(payload, &mut state.bytes).is_none() {
            // Its memory is gone: it was not sent either.
            state.bytes.truncate(start);
            return;
        }
        pad(&mut state.bytes);
        option(
            &mut state.bytes,
            OPTION_EPB_FLAGS,
            &(direction as u32).to_ne_bytes(),
        );
        if !self.comment.is_empty() {
            option(&mut state.bytes, OPTION_COMMENT, self.comment.as_bytes());
        }
        end(&mut state.bytes, start);
        state.packets += 1;
        drop(state);
        self.tape.wake.notify_one();
    }
}

/// What is not yet true of the packet's bytes, in words.
fn describe(packet: &Packet, out: &mut String) {
    let pending = packet.pending();
    // Writing to a String cannot fail.
    let _ = match pending.csum {
        Csum::Unverified => Ok(()),
        Csum::Verified => write!(out, "checksum verified"),
        Csum::Partial { start, offset } => {
            write!(out, "checksum partial: from {start}, field at +{offset}")
        }
    };
    if let Some(gso) = pending.gso {
        let kind = match gso.kind {
            GsoKind::Tcp4 => "tcp4",
            GsoKind::Tcp6 => "tcp6",
            GsoKind::Udp => "udp",
            GsoKind::Ufo => "ufo",
        };
        let segments = gso.segments(packet.payload_len());
        let comma = if out.is_empty() { "" } else { "; " };
        let _ = write!(
            out,
            "{comma}super-packet {kind}: {segments} segments of {}",
            gso.size
        );
        let tunnel = match packet.tunnel().kind() {
            TunnelKind::None | TunnelKind::Unfollowed => return,
            TunnelKind::Udp => "UDP",
            TunnelKind::Gre => "GRE",
            TunnelKind::Ip => "IP",
        };
        let _ = write!(out, ", in a tunnel over {tunnel}");
    }
}

impl Recorder {
    /// Writes out what comes, until all probes are gone. Wants a thread of its own.
    ///
    /// # Errors
    /// What the system says to a write; the probes then stop.
    pub fn run(self, mut to: impl Write) -> io::Result<Recorded> {
        let result = self.write_all(&mut to);
        self.tape.closed.store(true, Ordering::Relaxed);
        result
    }

    fn write_all(&self, to: &mut impl Write) -> io::Result<Recorded> {
        let mut bytes = Vec::new();
        self.preamble(&mut bytes);
        loop {
            to.write_all(&bytes)?;
            bytes.clear();
            to.flush()?;
            let mut state = self.tape.state();
            while state.bytes.is_empty() && state.probes > 0 {
                let waited = self.tape.wake.wait_timeout(state, LOOK);
                state = waited.unwrap_or_else(PoisonError::into_inner).0;
            }
            std::mem::swap(&mut bytes, &mut state.bytes);
            if bytes.is_empty() {
                let recorded = Recorded {
                    packets: state.packets,
                    dropped: state.dropped,
                };
                drop(state);
                statistics(&mut bytes, recorded.dropped);
                to.write_all(&bytes)?;
                to.flush()?;
                return Ok(recorded);
            }
        }
    }

    fn preamble(&self, out: &mut Vec<u8>) {
        let start = begin(out, SECTION);
        out.extend(0x1a2b_3c4d_u32.to_ne_bytes());
        out.extend(1u32.to_ne_bytes());
        // The section's length is not known beforehand.
        out.extend(u64::MAX.to_ne_bytes());
        let application = concat!("Jumbo ", env!("CARGO_PKG_VERSION"));
        option(out, OPTION_USER_APPLICATION, application.as_bytes());
        end(out, start);
        let start = begin(out, INTERFACE);
        let link = match self.link {
            Link::Ethernet => LINKTYPE_ETHERNET,
            Link::RawIp => LINKTYPE_RAW,
        };
        out.extend(link.to_ne_bytes());
        // Packets are whole, whatever their length.
        out.extend(0u32.to_ne_bytes());
        option(out, OPTION_IF_NAME, self.name.as_bytes());
        option(out, OPTION_IF_TSRESOL, &[9]);
        end(out, start);
    }
}

fn statistics(out: &mut Vec<u8>, dropped: u64) {
    let start = begin(out, STATISTICS);
    let now_ns = since_epoch_ns();
    for word in [0, (now_ns >> 32) as u32, now_ns as u32] {
        out.extend(word.to_ne_bytes());
    }
    option(out, OPTION_ISB_IFDROP, &dropped.to_ne_bytes());
    end(out, start);
}

fn since_epoch_ns() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |time| time.as_nanos() as u64)
}

/// Begins a block; returns where.
fn begin(out: &mut Vec<u8>, kind: u32) -> usize {
    let start = out.len();
    out.extend(kind.to_ne_bytes());
    out.extend([0; 4]);
    start
}

fn pad(out: &mut Vec<u8>) {
    out.resize(out.len().next_multiple_of(4), 0);
}

fn option(out: &mut Vec<u8>, code: u16, value: &[u8]) {
    let len = value.len().min(usize::from(u16::MAX));
    out.extend(code.to_ne_bytes());
    out.extend((len as u16).to_ne_bytes());
    out.extend(&value[..len]);
    pad(out);
}

/// Ends the options and the block that began at `start`. All parts are multiples of
/// four bytes, as everything before is.
fn end(out: &mut Vec<u8>, start: usize) {
    out.extend([0; 4]);
    let len = (out.len() - start + 4) as u32;
    out.extend(len.to_ne_bytes());
    if let Some(field) = out.get_mut(start + 4..start + 8) {
        field.copy_from_slice(&len.to_ne_bytes());
    }
}
