//! Capture files byte by byte, in either order, and readers of them.

use std::io::{Cursor, Write};

use jumbo_ports::capture::{CaptureError, CaptureReader, LinkType};

/// A byte order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    Little,
    Big,
}

pub(crate) const ORDERS: [Order; 2] = [Order::Little, Order::Big];

impl Order {
    pub(crate) fn b2(self, n: u16) -> Vec<u8> {
        match self {
            Order::Little => n.to_le_bytes().to_vec(),
            Order::Big => n.to_be_bytes().to_vec(),
        }
    }

    pub(crate) fn b4(self, n: u32) -> Vec<u8> {
        match self {
            Order::Little => n.to_le_bytes().to_vec(),
            Order::Big => n.to_be_bytes().to_vec(),
        }
    }

    pub(crate) fn words(self, words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|&w| self.b4(w)).collect()
    }

    pub(crate) fn pcap_header(self, magic: u32, minor: u16, link: u32) -> Vec<u8> {
        [
            self.b4(magic),
            self.b2(2),
            self.b2(minor),
            self.words(&[0, 0, 65_535, link]),
        ]
        .concat()
    }

    /// A block of any type around `body`, padded.
    pub(crate) fn block(self, kind: u32, body: &[u8]) -> Vec<u8> {
        let len = body.len().next_multiple_of(4);
        let padding = vec![0; len - body.len()];
        let total = self.b4(len as u32 + 12);
        [&self.b4(kind), &total, body, &padding, &total].concat()
    }

    pub(crate) fn section(self) -> Vec<u8> {
        let body = [self.b4(0x1a2b_3c4d), self.b2(1), self.b2(0), vec![0xff; 8]].concat();
        self.block(0x0a0d_0d0a, &body)
    }

    pub(crate) fn option(self, code: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = [self.b2(code), self.b2(value.len() as u16), value.to_vec()].concat();
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    pub(crate) fn interface(self, link: u16, snap_len: u32, options: &[u8]) -> Vec<u8> {
        let body = [
            self.b2(link),
            self.b2(0),
            self.b4(snap_len),
            options.to_vec(),
        ]
        .concat();
        self.block(1, &body)
    }

    pub(crate) fn enhanced(
        self,
        interface: u32,
        ticks: u64,
        orig_len: u32,
        data: &[u8],
    ) -> Vec<u8> {
        let (high, low) = ((ticks >> 32) as u32, ticks as u32);
        let head = self.words(&[interface, high, low, data.len() as u32, orig_len]);
        self.block(6, &[head, data.to_vec()].concat())
    }

    pub(crate) fn simple(self, orig_len: u32, data: &[u8]) -> Vec<u8> {
        self.block(3, &[self.b4(orig_len), data.to_vec()].concat())
    }

    pub(crate) fn obsolete(self, interface: u16, ticks: u64, data: &[u8]) -> Vec<u8> {
        let (high, low, len) = ((ticks >> 32) as u32, ticks as u32, data.len() as u32);
        let head = [
            self.b2(interface),
            self.b2(7),
            self.words(&[high, low, len, len]),
        ]
        .concat();
        self.block(2, &[head, data.to_vec()].concat())
    }
}

/// A record that owns its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Owned {
    pub(crate) ts_ns: Option<u64>,
    pub(crate) link: LinkType,
    pub(crate) orig_len: u32,
    pub(crate) data: Vec<u8>,
}

pub(crate) fn owned(ts_ns: Option<u64>, link: LinkType, orig_len: u32, data: &[u8]) -> Owned {
    Owned {
        ts_ns,
        link,
        orig_len,
        data: data.to_vec(),
    }
}

/// Everything readable, and the error it ended with.
pub(crate) fn drain(reader: &mut CaptureReader) -> (Vec<Owned>, Option<CaptureError>) {
    let mut records = Vec::new();
    while let Some(next) = reader.next_record() {
        match next {
            Ok(r) => {
                assert_eq!(r.number, records.len() as u64 + 1);
                records.push(owned(r.ts_ns, r.link, r.orig_len, r.data));
            }
            Err(error) => return (records, Some(error)),
        }
    }
    (records, None)
}

pub(crate) fn read(bytes: &[u8]) -> (Vec<Owned>, Option<CaptureError>) {
    match CaptureReader::from_read("x.pcap", Cursor::new(bytes.to_vec()), None) {
        Ok(mut reader) => drain(&mut reader),
        Err(error) => (Vec::new(), Some(error)),
    }
}

/// Reads a file that must be whole.
pub(crate) fn read_all(bytes: &[u8]) -> Vec<Owned> {
    match read(bytes) {
        (records, None) => records,
        (_, Some(error)) => panic!("{error}"),
    }
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Every block type this reader knows and one it does not, in two sections of both orders.
pub(crate) fn motley_pcapng() -> Vec<u8> {
    let (le, be) = (Order::Little, Order::Big);
    [
        le.section(),
        le.interface(1, 8, &le.option(9, &[9])),
        le.interface(101, 0, &[]),
        le.block(0x0bad, b"somebody else's"),
        le.enhanced(0, 1_700_000_000_123_456_789, 5, b"hello"),
        le.enhanced(1, 1_700_000_000_123_456, 900, b"raw"),
        le.simple(100, b"8 bytes!"),
        le.obsolete(1, 3, b"old"),
        be.section(),
        be.interface(276, 0, &be.option(9, &[0x80 | 10])),
        be.enhanced(0, 5 * 1024 + 512, 0, b"cooked"),
    ]
    .concat()
}

pub(crate) fn motley_records() -> Vec<Owned> {
    vec![
        owned(
            Some(1_700_000_000_123_456_789),
            LinkType::Ethernet,
            5,
            b"hello",
        ),
        owned(
            Some(1_700_000_000_123_456_000),
            LinkType::RawIp,
            900,
            b"raw",
        ),
        owned(None, LinkType::Ethernet, 100, b"8 bytes!"),
        owned(Some(3_000), LinkType::RawIp, 3, b"old"),
        owned(Some(5_500_000_000), LinkType::LinuxSll2, 6, b"cooked"),
    ]
}

/// Two records in the classic format.
pub(crate) fn small_pcap(order: Order, magic: u32) -> Vec<u8> {
    [
        order.pcap_header(magic, 4, 1),
        order.words(&[10, 7, 5, 60]),
        b"hello".to_vec(),
        order.words(&[11, 999, 3, 3]),
        b"abc".to_vec(),
    ]
    .concat()
}
