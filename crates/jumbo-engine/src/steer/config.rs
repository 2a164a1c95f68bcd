//! A guest's wishes about hashing, as they come over virtio's control queue, checked.
//!
//! Layouts: virtio 1.3 sections 5.1.6.5.6.4 (`virtio_net_hash_config`) and 5.1.6.5.7
//! (`virtio_net_rss_config`). Nothing here is believed: no number of the guest's bounds a loop
//! before it was compared with a limit of ours.

use alloc::boxed::Box;
use core::fmt;

use super::indirection::Indirection;
use super::toeplitz::Toeplitz;
use super::types::HashTypes;
use super::{INDIRECTION_DEFAULT, Rss};

/// What a device offered and has: the bounds of what its driver may ask for.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct RssLimits {
    /// `supported_hash_types` of the device's configuration.
    pub hash_types: HashTypes,
    /// `rss_max_indirection_table_length`: entries, 128 or more.
    pub entries_max: usize,
    /// `rss_max_key_size`: bytes, 40 or more.
    pub key_len_max: u8,
    /// Receive queues there are: receiveq1 to receiveqN.
    pub rx_queues: u16,
    /// Transmit queues there are: transmitq1 to transmitqN.
    pub tx_queues: u16,
}

impl RssLimits {
    /// The least that virtio lets a device offer, every hash type, and `queues` of either kind.
    #[must_use]
    pub const fn least(queues: u16) -> Self {
        Self {
            hash_types: HashTypes::ALL,
            entries_max: INDIRECTION_DEFAULT,
            key_len_max: 40,
            rx_queues: queues,
            tx_queues: queues,
        }
    }
}

/// Why a command is answered with VIRTIO_NET_ERR.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RssFault {
    /// The command ends before its last field.
    Truncated,
    /// A hash type that was not offered; the bits that were not.
    HashTypes(u32),
    /// The indirection table's length, which the mask says, is not a power of two.
    TableLength(usize),
    /// The indirection table is longer than offered.
    TableTooLong(usize),
    /// Bit 15 of a queue's number, which is reserved, is set.
    ReservedBit(u16),
    /// An entry of the indirection table names a queue that does not exist.
    TableQueue(u16),
    /// The queue for packets without a hash does not exist.
    UnclassifiedQueue(u16),
    /// No transmit queue, or more than there are.
    TxQueues(u16),
    /// The key is longer than offered.
    KeyTooLong(u8),
    /// There are hash types and no key.
    NoKey,
}

impl fmt::Display for RssFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated => f.write_str("the command is cut off"),
            Self::HashTypes(bits) => write!(f, "hash types {bits:#x} were not offered"),
            Self::TableLength(n) => {
                write!(f, "an indirection table of {n} entries is no power of two")
            }
            Self::TableTooLong(n) => {
                write!(
                    f,
                    "an indirection table of {n} entries exceeds what was offered"
                )
            }
            Self::ReservedBit(id) => write!(f, "queue {id:#06x} has the reserved bit set"),
            Self::TableQueue(q) => {
                write!(f, "the table names receive queue {q}, which is not there")
            }
            Self::UnclassifiedQueue(q) => {
                write!(
                    f,
                    "unclassified packets would go to receive queue {q}, which is not there"
                )
            }
            Self::TxQueues(n) => write!(f, "{n} transmit queues cannot be used"),
            Self::KeyTooLong(len) => write!(f, "a key of {len} bytes exceeds what was offered"),
            Self::NoKey => f.write_str("hash types without a key"),
        }
    }
}

impl core::error::Error for RssFault {}

/// VIRTIO_NET_CTRL_MQ_RSS_CONFIG: how packets are to be spread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RssConfig {
    /// What is hashed. With none, every packet is unclassified.
    pub hash_types: HashTypes,
    /// Receive queues, counted from 0 (receiveq1).
    pub table: Indirection,
    /// Where packets without a hash go: a receive queue, counted from 0.
    pub unclassified_queue: u16,
    /// Transmit queues that the driver uses: the first so many.
    pub tx_queues: u16,
    /// The key; empty only if there are no hash types.
    pub key: Box<[u8]>,
}

impl RssConfig {
    /// Reads the command's data, without the class and command bytes. Bytes behind the key are not
    /// looked at.
    ///
    /// # Errors
    /// The first [`RssFault`], in the order of the fields.
    pub fn decode(bytes: &[u8], limits: &RssLimits) -> Result<Self, RssFault> {
        let mut from = Reader(bytes);
        let hash_types = from.hash_types(limits)?;
        let entries = usize::from(from.u16()?) + 1;
        let unclassified_queue = from.queue(limits, RssFault::UnclassifiedQueue)?;
        let table = from.table(entries, limits)?;
        let tx_queues = from.u16()?;
        if !(1..=limits.tx_queues).contains(&tx_queues) {
            return Err(RssFault::TxQueues(tx_queues));
        }
        let key = from.key(hash_types, limits)?;
        Ok(Self {
            hash_types,
            table,
            unclassified_queue,
            tx_queues,
            key,
        })
    }

    /// What does it.
    #[must_use]
    pub fn into_rss(self) -> Rss {
        Rss::new(Toeplitz::new(&self.key), self.hash_types, self.table)
            .with_unclassified(self.unclassified_queue)
    }
}

/// VIRTIO_NET_CTRL_MQ_HASH_CONFIG: what hash is to be reported, by a device that does not spread by
/// it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HashConfig {
    /// What is hashed.
    pub hash_types: HashTypes,
    /// The key; empty only if there are no hash types.
    pub key: Box<[u8]>,
}

impl HashConfig {
    /// Reads the command's data, without the class and command bytes; as [`RssConfig::decode`].
    ///
    /// # Errors
    /// The first [`RssFault`], in the order of the fields.
    pub fn decode(bytes: &[u8], limits: &RssLimits) -> Result<Self, RssFault> {
        let mut from = Reader(bytes);
        let hash_types = from.hash_types(limits)?;
        from.take(8)?; // reserved
        let key = from.key(hash_types, limits)?;
        Ok(Self { hash_types, key })
    }
}

/// What is left of a command.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], RssFault> {
        let (first, rest) = self.0.split_at_checked(len).ok_or(RssFault::Truncated)?;
        self.0 = rest;
        Ok(first)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], RssFault> {
        self.take(N)?.try_into().map_err(|_| RssFault::Truncated)
    }

    fn u16(&mut self) -> Result<u16, RssFault> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    fn hash_types(&mut self, limits: &RssLimits) -> Result<HashTypes, RssFault> {
        let bits = u32::from_le_bytes(self.array()?);
        let foreign = bits & !limits.hash_types.bits();
        HashTypes::from_bits(bits)
            .filter(|_| foreign == 0)
            .ok_or(RssFault::HashTypes(foreign))
    }

    /// `struct rss_rq_id`: bits 1 to 16 of the virtqueue's index, which for receiveq(n+1) is 2n.
    fn queue(&mut self, limits: &RssLimits, missing: fn(u16) -> RssFault) -> Result<u16, RssFault> {
        match self.u16()? {
            id if id & 0x8000 != 0 => Err(RssFault::ReservedBit(id)),
            queue if queue >= limits.rx_queues => Err(missing(queue)),
            queue => Ok(queue),
        }
    }

    fn table(&mut self, entries: usize, limits: &RssLimits) -> Result<Indirection, RssFault> {
        if entries > limits.entries_max {
            return Err(RssFault::TableTooLong(entries));
        }
        let mut ids = Reader(self.take(2 * entries)?);
        let queues: Result<Box<[u16]>, _> = (0..entries)
            .map(|_| ids.queue(limits, RssFault::TableQueue))
            .collect();
        Indirection::new(queues?).map_err(|_| RssFault::TableLength(entries))
    }

    fn key(&mut self, types: HashTypes, limits: &RssLimits) -> Result<Box<[u8]>, RssFault> {
        let [len] = self.array()?;
        if len > limits.key_len_max {
            return Err(RssFault::KeyTooLong(len));
        }
        if len == 0 && !types.is_empty() {
            return Err(RssFault::NoKey);
        }
        Ok(self.take(usize::from(len))?.into())
    }
}
