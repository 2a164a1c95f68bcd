//! The block format: sections, interfaces, packets (draft-ietf-opsawg-pcapng).
//!
//! Only the packet's bytes and an interface's options are ever held; options of packets,
//! other blocks and padding are passed over. Both lengths of each block must agree.

use super::error::Fault;
use super::link::LinkType;
use super::pcap::read_packet;
use super::reader::Head;
use super::source::{Order, Source};
use super::{MAX_CAPTURED_LEN, MAX_INTERFACES};

/// The type of a section header; the same in either byte order.
pub(super) const SECTION: [u8; 4] = [0x0a, 0x0d, 0x0d, 0x0a];
const INTERFACE: u32 = 1;
const PACKET_OBSOLETE: u32 = 2;
const PACKET_SIMPLE: u32 = 3;
const PACKET_ENHANCED: u32 = 6;

const BYTE_ORDER: u32 = 0x1a2b_3c4d;
/// Type and length before the body, length behind it.
const AROUND_LEN: u32 = 12;
/// How much of an interface's options is looked at.
const OPTIONS_MAX_LEN: u32 = 64 * 1024;
const OPTION_TSRESOL: u16 = 9;
const OPTION_TSOFFSET: u16 = 14;

/// One interface of a section.
#[derive(Debug, Clone, Copy)]
struct Interface {
    link: LinkType,
    /// 0 is no limit.
    snap_len: u32,
    resolution: Resolution,
    offset_s: i64,
}

/// Ticks per second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Resolution {
    PowerOfTen(u8),
    PowerOfTwo(u8),
}

/// The state of the current section.
#[derive(Debug)]
pub(super) struct Pcapng {
    order: Order,
    interfaces: Vec<Interface>,
}

/// The body of a block, as far as it has not been read.
struct Body<'a> {
    source: &'a mut Source,
    left: u32,
}

impl Body<'_> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        self.take(N as u32)?;
        self.source.array()
    }

    fn packet(&mut self, data: &mut Vec<u8>, len: u32) -> Result<(), Fault> {
        // The larger complaint first: an absurd length never fits its block either.
        if len > MAX_CAPTURED_LEN {
            return Err(Fault::TooLong(u64::from(len)));
        }
        self.take(len)?;
        read_packet(self.source, data, len)
    }

    fn take(&mut self, len: u32) -> Result<(), Fault> {
        let left = self.left.checked_sub(len);
        self.left = left.ok_or(Fault::Damaged("a block is shorter than what it holds"))?;
        Ok(())
    }
}

impl Pcapng {
    /// Reads the first section header; its type has been read.
    pub(super) fn open(source: &mut Source) -> Result<Self, Fault> {
        let mut section = Self {
            order: Order::Little,
            interfaces: Vec::new(),
        };
        section.begin_section(source)?;
        Ok(section)
    }

    /// Reads blocks up to and including the next packet; `None` at the end of the file.
    /// `start` is kept at the first byte of the block being read.
    pub(super) fn next(
        &mut self,
        source: &mut Source,
        data: &mut Vec<u8>,
        start: &mut u64,
    ) -> Result<Option<Head>, Fault> {
        loop {
            *start = source.pos();
            let Some(kind) = source.array_or_end::<4>()? else {
                return Ok(None);
            };
            if kind == SECTION {
                self.begin_section(source)?;
            } else if let Some(head) = self.block(kind, source, data)? {
                return Ok(Some(head));
            }
        }
    }

    /// A new section has its own byte order and no interfaces yet.
    fn begin_section(&mut self, source: &mut Source) -> Result<(), Fault> {
        let head: [u8; 8] = source.array()?;
        self.order = order_of_section(&head)?;
        self.interfaces.clear();
        let total_len = self.order.u32(&head, 0);
        let mut body = Body {
            left: body_len(total_len)?,
            source,
        };
        body.take(4)?;
        let version: [u8; 4] = body.array()?;
        let (major, minor) = (self.order.u16(&version, 0), self.order.u16(&version, 2));
        if major != 1 {
            return Err(Fault::Version { major, minor });
        }
        body.take(8)?;
        body.source.skip(8)?;
        self.end_block(body, total_len)
    }

    fn block(
        &mut self,
        kind: [u8; 4],
        source: &mut Source,
        data: &mut Vec<u8>,
    ) -> Result<Option<Head>, Fault> {
        let total_len = self.order.u32(&source.array::<4>()?, 0);
        let mut body = Body {
            left: body_len(total_len)?,
            source,
        };
        let head = match self.order.u32(&kind, 0) {
            INTERFACE => self.interface(&mut body).map(|()| None),
            PACKET_ENHANCED => self.enhanced(&mut body, data).map(Some),
            PACKET_SIMPLE => self.simple(&mut body, data).map(Some),
            PACKET_OBSOLETE => self.obsolete(&mut body, data).map(Some),
            _ => Ok(None),
        }?;
        self.end_block(body, total_len)?;
        Ok(head)
    }

    /// Passes over what is left of the body and holds the block to its word.
    fn end_block(&self, body: Body<'_>, total_len: u32) -> Result<(), Fault> {
        body.source.skip(u64::from(body.left))?;
        let again = self.order.u32(&body.source.array::<4>()?, 0);
        if again == total_len {
            Ok(())
        } else {
            Err(Fault::Damaged("the two lengths of a block differ"))
        }
    }

    fn interface(&mut self, body: &mut Body<'_>) -> Result<(), Fault> {
        if self.interfaces.len() >= MAX_INTERFACES {
            return Err(Fault::TooManyInterfaces);
        }
        let fixed: [u8; 8] = body.array()?;
        let mut options = vec![0; body.left.min(OPTIONS_MAX_LEN) as usize];
        body.take(options.len() as u32)?;
        body.source.exact(&mut options)?;
        let mut interface = Interface {
            link: LinkType::from(u32::from(self.order.u16(&fixed, 0))),
            snap_len: self.order.u32(&fixed, 4),
            resolution: Resolution::PowerOfTen(6),
            offset_s: 0,
        };
        interface.apply_options(self.order, &options);
        self.interfaces.push(interface);
        Ok(())
    }

    fn enhanced(&self, body: &mut Body<'_>, data: &mut Vec<u8>) -> Result<Head, Fault> {
        let fixed: [u8; 20] = body.array()?;
        let interface = self.find(self.order.u32(&fixed, 0))?;
        self.timed(&interface, &fixed, body, data)
    }

    /// As an enhanced packet, but with a 16-bit interface and a drop count.
    fn obsolete(&self, body: &mut Body<'_>, data: &mut Vec<u8>) -> Result<Head, Fault> {
        let fixed: [u8; 20] = body.array()?;
        let interface = self.find(u32::from(self.order.u16(&fixed, 0)))?;
        self.timed(&interface, &fixed, body, data)
    }

    /// What enhanced and obsolete packets share from their second word on.
    fn timed(
        &self,
        interface: &Interface,
        fixed: &[u8; 20],
        body: &mut Body<'_>,
        data: &mut Vec<u8>,
    ) -> Result<Head, Fault> {
        let [high, low, captured, orig_len] = [4, 8, 12, 16].map(|at| self.order.u32(fixed, at));
        body.packet(data, captured)?;
        let ticks = u64::from(high) << 32 | u64::from(low);
        Ok(Head {
            ts_ns: interface.ts_ns(ticks),
            link: interface.link,
            orig_len,
        })
    }

    /// A simple packet says no captured length: it is what the packet had, or what the
    /// interface kept of it.
    fn simple(&self, body: &mut Body<'_>, data: &mut Vec<u8>) -> Result<Head, Fault> {
        let interface = self.find(0)?;
        let orig_len = self.order.u32(&body.array::<4>()?, 0);
        let kept = if interface.snap_len == 0 {
            u32::MAX
        } else {
            interface.snap_len
        };
        body.packet(data, orig_len.min(kept))?;
        Ok(Head {
            ts_ns: None,
            link: interface.link,
            orig_len,
        })
    }

    fn find(&self, interface: u32) -> Result<Interface, Fault> {
        let known = self.interfaces.len();
        let found = self.interfaces.get(interface as usize).copied();
        found.ok_or(Fault::UnknownInterface { interface, known })
    }
}

/// `head` is a section's length and byte-order mark, in the order the mark then tells.
fn order_of_section(head: &[u8; 8]) -> Result<Order, Fault> {
    if Order::Little.u32(head, 4) == BYTE_ORDER {
        Ok(Order::Little)
    } else if Order::Big.u32(head, 4) == BYTE_ORDER {
        Ok(Order::Big)
    } else {
        Err(Fault::Damaged("a section has no byte-order mark"))
    }
}

fn body_len(total_len: u32) -> Result<u32, Fault> {
    if !total_len.is_multiple_of(4) {
        return Err(Fault::Damaged(
            "the length of a block is not a multiple of 4",
        ));
    }
    let body_len = total_len.checked_sub(AROUND_LEN);
    body_len.ok_or(Fault::Damaged("a block is shorter than its own header"))
}

impl Interface {
    /// Options that are cut or too short are ignored: the packets are still good.
    fn apply_options(&mut self, order: Order, mut options: &[u8]) {
        while let [_, _, _, _, rest @ ..] = options {
            let (code, len) = (order.u16(options, 0), usize::from(order.u16(options, 2)));
            let Some(value) = rest.get(..len) else { return };
            match (code, value) {
                (0, _) => return,
                (OPTION_TSRESOL, [resolution, ..]) => {
                    self.resolution = Resolution::from(*resolution)
                }
                (OPTION_TSOFFSET, [_, _, _, _, _, _, _, _, ..]) => {
                    self.offset_s = offset_s(order, value);
                }
                _ => {}
            }
            options = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
        }
    }

    /// Nanoseconds since 1970; `None` when that is before 1970 or after 2554.
    fn ts_ns(&self, ticks: u64) -> Option<u64> {
        let offset_ns = i128::from(self.offset_s) * 1_000_000_000;
        let ns = i128::try_from(self.resolution.to_ns(ticks)).ok()?;
        u64::try_from(ns.checked_add(offset_ns)?).ok()
    }
}

/// A signed 64-bit number of seconds; `value` has at least 8 bytes.
fn offset_s(order: Order, value: &[u8]) -> i64 {
    let (first, second) = (
        u64::from(order.u32(value, 0)),
        u64::from(order.u32(value, 4)),
    );
    let bits = match order {
        Order::Little => second << 32 | first,
        Order::Big => first << 32 | second,
    };
    bits as i64
}

impl From<u8> for Resolution {
    /// if_tsresol: the top bit chooses between 2 and 10, the rest is the negated exponent.
    fn from(byte: u8) -> Self {
        if byte & 0x80 == 0 {
            Resolution::PowerOfTen(byte)
        } else {
            Resolution::PowerOfTwo(byte & 0x7f)
        }
    }
}

impl Resolution {
    /// Rounds down; ticks finer than what 64 bits can count are 0.
    fn to_ns(self, ticks: u64) -> u128 {
        let ticks = u128::from(ticks);
        match self {
            Resolution::PowerOfTen(n @ 0..=9) => ticks * 10_u128.pow(9 - u32::from(n)),
            Resolution::PowerOfTen(n) => 10_u128
                .checked_pow(u32::from(n) - 9)
                .map_or(0, |divisor| ticks / divisor),
            Resolution::PowerOfTwo(n) => (ticks * 1_000_000_000) >> n.min(127),
        }
    }
}
