//! The classic format: one header, then records (draft-ietf-opsawg-pcap).

use super::MAX_CAPTURED_LEN;
use super::error::Fault;
use super::link::LinkType;
use super::reader::Head;
use super::source::{Order, Source};

const MICROSECONDS: u32 = 0xa1b2_c3d4;
const NANOSECONDS: u32 = 0xa1b2_3c4d;
/// Kuznetzov's variant: 8 more bytes in each record's header (libpcap `sf-pcap.c`).
const PATCHED: u32 = 0xa1b2_cd34;

/// Where the length fields of a record stand; early versions had them the other way round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lengths {
    CapturedFirst,
    OriginalFirst,
    SmallerIsCaptured,
}

/// What the file's header says.
#[derive(Debug)]
pub(super) struct Pcap {
    order: Order,
    ns_per_tick: u64,
    extra_len: u64,
    lengths: Lengths,
    link: LinkType,
}

impl Pcap {
    /// Whether `magic` begins a file of this format, and in which order.
    pub(super) fn order_of(magic: [u8; 4]) -> Option<Order> {
        let known = |m| matches!(m, MICROSECONDS | NANOSECONDS | PATCHED);
        if known(u32::from_le_bytes(magic)) {
            Some(Order::Little)
        } else if known(u32::from_be_bytes(magic)) {
            Some(Order::Big)
        } else {
            None
        }
    }

    /// Reads the rest of the header; `magic` has been read.
    pub(super) fn open(order: Order, magic: [u8; 4], source: &mut Source) -> Result<Self, Fault> {
        let rest: [u8; 20] = source.array()?;
        let magic = order.u32(&magic, 0);
        let (major, minor) = (order.u16(&rest, 0), order.u16(&rest, 2));
        if major != 2 {
            return Err(Fault::Version { major, minor });
        }
        // The upper bits tell of a frame check sequence, which then trails the packet and
        // is trimmed like padding.
        let link = LinkType::from(order.u32(&rest, 16) & 0xffff);
        Ok(Self {
            order,
            ns_per_tick: if magic == NANOSECONDS { 1 } else { 1000 },
            extra_len: if magic == PATCHED { 8 } else { 0 },
            lengths: lengths_of(minor),
            link,
        })
    }

    /// Reads one record, its bytes into `data`; `None` at the end of the file.
    pub(super) fn next(
        &self,
        source: &mut Source,
        data: &mut Vec<u8>,
    ) -> Result<Option<Head>, Fault> {
        let Some(header) = source.array_or_end::<16>()? else {
            return Ok(None);
        };
        let [seconds, fraction, first, second] =
            [0, 4, 8, 12].map(|at| self.order.u32(&header, at));
        let (captured, orig_len) = self.lengths.split(first, second);
        source.skip(self.extra_len)?;
        read_packet(source, data, captured)?;
        let ts_ns = u64::from(seconds) * 1_000_000_000 + u64::from(fraction) * self.ns_per_tick;
        Ok(Some(Head {
            ts_ns: Some(ts_ns),
            link: self.link,
            orig_len,
        }))
    }
}

/// libpcap `sf-pcap.c`, `pcap_check_header`: swapped before 2.3, either way in 2.3.
fn lengths_of(minor: u16) -> Lengths {
    match minor {
        0..3 => Lengths::OriginalFirst,
        3 => Lengths::SmallerIsCaptured,
        _ => Lengths::CapturedFirst,
    }
}

impl Lengths {
    /// (captured, original)
    fn split(self, first: u32, second: u32) -> (u32, u32) {
        match self {
            Lengths::CapturedFirst => (first, second),
            Lengths::OriginalFirst => (second, first),
            Lengths::SmallerIsCaptured => (first.min(second), first.max(second)),
        }
    }
}

/// Reads a packet's bytes; refuses before it allocates.
pub(super) fn read_packet(source: &mut Source, data: &mut Vec<u8>, len: u32) -> Result<(), Fault> {
    if len > MAX_CAPTURED_LEN {
        return Err(Fault::TooLong(u64::from(len)));
    }
    data.resize(len as usize, 0);
    source.exact(data)
}
