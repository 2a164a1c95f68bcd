//! Where packed rings stand, kept outside this process.
//!
//! A split ring says in guest memory how far the device came (`used.idx`). A packed
//! ring does not, and the front end only learns it when a ring is stopped in order.
//! So that a guest survives the death of this process, the position is also kept
//! in a mapped file: the front end's own, where it asked for one (vhost-user,
//! "Inflight I/O tracking"), else one of ours in the runtime directory.
//!
//! Buffers are given back in the order in which they were taken. What was in flight
//! is therefore just what lies behind the position, and is taken again.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use super::device::{InflightSpec, Position, RingState};
use super::inflight;
use crate::pool::Region;

/// Where a packed ring stands. Entries are named by their index, with the wrap
/// counter they were met with in bit 15.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Default)]
pub(super) struct Standing {
    /// What is given back next.
    pub(super) used: u16,
    /// First entry of the first chain that the guest was not yet shown: it sees the
    /// others once it sees this one.
    pub(super) first: u16,
    /// First entry of the chain given back last.
    pub(super) last: u16,
    /// First entry of the chain that was shown last while the wrap counter was set,
    /// until it is set again: by it a ring is told from one that its driver has
    /// begun anew. A word of its own.
    pub(super) witness: Option<u16>,
}

impl Standing {
    /// One word, so that a sudden end leaves the old or the new.
    fn to_word(self) -> u64 {
        let [used, first, last] = [self.used, self.first, self.last].map(u64::from);
        used | first << 16 | last << 32 | LIVE
    }

    /// The same as the front end's region has it: used_idx; old_used_idx, which is
    /// where the chains begin that the guest was not yet shown; both wrap counters
    /// in a byte each; and, in padding, our `last`.
    fn to_front_end_word(self) -> u64 {
        let [used, first, last] = [self.used, self.first, self.last].map(u64::from);
        let (index, wrap) = (|at: u64| at & 0x7fff, |at: u64| at >> 15);
        index(used) | index(first) << 16 | wrap(used) << 32 | wrap(first) << 40 | last << 48
    }

    fn of_front_end_word(word: u64) -> Self {
        let half = |at: u32| (word >> at) as u16;
        let place = |index: u16, wrap: u8| index & 0x7fff | u16::from(wrap & 1) << 15;
        Self {
            used: place(half(0), half(32) as u8),
            first: place(half(16), half(40) as u8),
            last: half(48),
            witness: None,
        }
    }

    /// The same as a position: everything taken was given back.
    pub(super) fn position(self) -> Position {
        Position {
            avail: self.used,
            used: Some(self.used),
        }
    }

    fn of_words(word: u64, witness: u64) -> Self {
        Self {
            used: word as u16,
            first: (word >> 16) as u16,
            last: (word >> 32) as u16,
            witness: (witness & LIVE != 0).then_some(witness as u16),
        }
    }
}

/// Set while the ring runs.
const LIVE: u64 = 1 << 63;

/// Keeps one ring's standing.
#[derive(Clone, Debug)]
pub(super) struct Keeper {
    region: Arc<Region>,
    at: u64,
    front_end: bool,
}

impl Keeper {
    /// Writes it down.
    #[inline]
    pub(super) fn keep(&self, standing: Standing) {
        let word = if self.front_end {
            standing.to_front_end_word()
        } else {
            standing.to_word()
        };
        // Its place was checked when the keeper was made.
        let _ = self.region.write(self.at, &word.to_le_bytes());
    }

    /// Writes down the witness alone.
    #[inline]
    pub(super) fn keep_witness(&self, witness: Option<u16>) {
        if !self.front_end {
            let word = witness.map_or(0, |index| LIVE | u64::from(index));
            let _ = self.region.write(self.at + WITNESS_AT, &word.to_le_bytes());
        }
    }
}

/// The front end's file.
#[derive(Debug)]
pub(super) struct Inflight {
    region: Arc<Region>,
    skip: u64,
    queue_size: u16,
    queues: u16,
}

impl Inflight {
    /// # Errors
    /// Why it cannot be mapped, in words.
    pub(super) fn open(spec: &InflightSpec) -> Result<Self, String> {
        let skip = spec.offset % 4096;
        let has = rustix::fs::fstat(&spec.file)
            .map_err(|e| e.to_string())?
            .st_size as u64;
        let needed = inflight::total_len(spec.queues, spec.queue_size, true);
        let end = spec.offset.checked_add(spec.size.max(needed));
        if end.is_none_or(|end| end > has) {
            return Err("the inflight region is longer than its file".to_owned());
        }
        let len = (needed + skip) as usize;
        let region = Region::map(spec.file.as_fd(), spec.offset - skip, len);
        Ok(Self {
            region: Arc::new(region.map_err(|e| format!("mapping the inflight region: {e}"))?),
            skip,
            queue_size: spec.queue_size,
            queues: spec.queues,
        })
    }

    /// The keeper of a ring, and where the ring stood when another process kept it.
    pub(super) fn ring(&self, index: usize, size: u16) -> Option<(Keeper, Option<Standing>)> {
        if index >= usize::from(self.queues) || size > self.queue_size {
            return None;
        }
        let start = self.skip + index as u64 * inflight::region_len(self.queue_size, true);
        let mut header = [0; inflight::packed::HEADER_LEN as usize];
        self.region
            .piece(start, header.len() as u32)?
            .copy_to(&mut header);
        let word = |at: u64| u16::from_le_bytes([header[at as usize], header[at as usize + 1]]);
        let version = word(inflight::packed::VERSION_AT);
        let known = version == inflight::VERSION && word(inflight::packed::DESC_NUM_AT) == size;
        if !known {
            let mut head = inflight::VERSION.to_le_bytes().to_vec();
            head.extend(size.to_le_bytes());
            self.region
                .write(start + inflight::packed::VERSION_AT, &head)?;
        }
        let keeper = Keeper {
            region: self.region.clone(),
            at: start + inflight::packed::USED_IDX_AT,
            front_end: true,
        };
        let word = header[inflight::packed::USED_IDX_AT as usize..].first_chunk()?;
        let standing = Standing::of_front_end_word(u64::from_le_bytes(*word));
        Some((keeper, known.then_some(standing)))
    }
}

/// Bytes of an entry of our file: the standing, then what the ring is known by.
const ENTRY_LEN: u64 = 64;
const WITNESS_AT: u64 = 8;
const KNOWN_BY_AT: u64 = 16;
const MAGIC: [u8; 8] = *b"jumbor2\n";

/// Our own file: an entry for each ring of a port.
#[derive(Debug)]
pub(super) struct Kept {
    region: Arc<Region>,
    rings: usize,
}

/// What a ring is known by: the same ring of the same guest has the same.
fn known_by(ring: &RingState) -> [u8; 32] {
    let words = [
        u64::from(ring.size),
        ring.desc_user_addr,
        ring.avail_user_addr,
        ring.used_user_addr,
    ];
    let mut bytes = [0; 32];
    for (to, word) in bytes.chunks_exact_mut(8).zip(words) {
        to.copy_from_slice(&word.to_le_bytes());
    }
    bytes
}

impl Kept {
    /// Opens the file at `path`, or makes it, for so many rings.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn open(path: &Path, rings: usize) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600);
        let file: OwnedFd = options.open(path)?.into();
        let len = ENTRY_LEN * (1 + rings as u64);
        if rustix::fs::fstat(&file)?.st_size as u64 != len {
            // Of another configuration: what it says is of no use.
            rustix::fs::ftruncate(&file, 0)?;
            rustix::fs::ftruncate(&file, len)?;
        }
        let region = Arc::new(Region::map(file.as_fd(), 0, len as usize)?);
        let kept = Self { region, rings };
        if kept.read::<8>(0) != Some(MAGIC) {
            for ring in 0..rings {
                kept.forget(ring);
            }
            let _ = kept.region.write(0, &MAGIC);
        }
        Ok(kept)
    }

    fn read<const N: usize>(&self, at: u64) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        (self.region.piece(at, N as u32)?.copy_to(&mut bytes) == N).then_some(bytes)
    }

    fn entry(&self, index: usize) -> u64 {
        ENTRY_LEN * (1 + index.min(self.rings) as u64)
    }

    /// Where ring `index` stood when this process was not there, if it still ran
    /// when the last one ended and is the same ring.
    pub(super) fn standing(&self, index: usize, ring: &RingState) -> Option<Standing> {
        let at = self.entry(index);
        let word = u64::from_le_bytes(self.read(at)?);
        let same = self.read(at + KNOWN_BY_AT)? == known_by(ring);
        let witness = u64::from_le_bytes(self.read(at + WITNESS_AT)?);
        (word & LIVE != 0 && same).then(|| Standing::of_words(word, witness))
    }

    /// The keeper of ring `index`, which begins to run.
    pub(super) fn begin(&self, index: usize, ring: &RingState) -> Option<Keeper> {
        if index >= self.rings {
            return None;
        }
        let at = self.entry(index);
        self.region.write(at + KNOWN_BY_AT, &known_by(ring))?;
        Some(Keeper {
            region: self.region.clone(),
            at,
            front_end: false,
        })
    }

    /// Ring `index` was stopped in order: the front end knows where it stands.
    pub(super) fn forget(&self, index: usize) {
        let _ = self.region.write(self.entry(index), &[0; 16]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring(size: u16) -> RingState {
        RingState {
            size,
            desc_user_addr: 0x1000,
            ..RingState::default()
        }
    }

    #[test]
    fn standing_outlives_the_process_and_is_only_for_the_same_ring() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("rings");
        let standing = Standing {
            used: 0x8007,
            first: 0x8003,
            last: 0x8006,
            witness: Some(250),
        };
        let kept = Kept::open(&path, 2).expect("opens");
        assert_eq!(kept.standing(1, &ring(256)), None, "nothing yet");
        let keeper = kept.begin(1, &ring(256)).expect("a keeper");
        keeper.keep(standing);
        keeper.keep_witness(standing.witness);
        drop((kept, keeper));
        let kept = Kept::open(&path, 2).expect("opens again");
        assert_eq!(kept.standing(1, &ring(256)), Some(standing));
        assert_eq!(kept.standing(1, &ring(128)), None, "another ring");
        assert_eq!(kept.standing(0, &ring(256)), None, "one that never ran");
        kept.forget(1);
        assert_eq!(kept.standing(1, &ring(256)), None, "stopped in order");
    }

    #[test]
    fn file_of_another_kind_is_begun_anew() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("rings");
        std::fs::write(&path, vec![0xff; ENTRY_LEN as usize * 3]).expect("written");
        let kept = Kept::open(&path, 2).expect("opens");
        assert_eq!(kept.standing(0, &ring(256)), None);
        assert!(kept.begin(2, &ring(256)).is_none(), "there are two");
    }
}
