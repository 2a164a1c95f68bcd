//! The Toeplitz hash: prepared keys, the kernels that use them, and the choice between them.

use alloc::boxed::Box;
use alloc::vec;
use core::fmt;

use super::textbook;
#[cfg(target_arch = "x86_64")]
use super::x86;

/// The key of Microsoft's "Verifying the RSS hash calculation", which most drivers begin with.
///
/// Everybody knows it, so a sender can choose the queue its packets go to. Where that matters take
/// random bytes.
pub const MICROSOFT_KEY: [u8; 40] = [
    0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0,
    0xd0, 0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c,
    0x6a, 0x42, 0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa,
];

/// A key with a period of 16 bits: both directions of a connection hash alike.
///
/// Exchanging addresses and ports moves each by a multiple of 16 bits, where this key looks the
/// same. The price: the upper half of a hash equals the lower one, so there are 2^16 values. See
/// [`Transform::SymmetricXor`](super::Transform::SymmetricXor) for the other way.
pub const SYMMETRIC_KEY: [u8; 40] = {
    let mut key = [0x5a; 40];
    let mut at = 0;
    while at < key.len() {
        key[at] = 0x6d;
        at += 2;
    }
    key
};

/// Bytes of the longest input that RSS knows: IPv6 addresses and ports. Kernels are prepared for
/// this much; what is longer is finished by the textbook.
pub(super) const INPUT_MAX: usize = 36;

/// One input of at most [`INPUT_MAX`] bytes.
pub(super) type HashOne = fn(&Prepared, &[u8]) -> u32;

/// Inputs one behind the other, each of so many bytes (1..=[`INPUT_MAX`]); as many hashes.
pub(super) type HashAll = fn(&Prepared, &[u8], usize, &mut [u32]);

/// The functions that hash, chosen once for the processor at hand.
///
/// Every set computes the same thing. A value is small and `Copy`.
#[derive(Copy, Clone)]
pub struct HashKernels {
    pub(super) name: &'static str,
    pub(super) one: HashOne,
    pub(super) all: HashAll,
    /// Whether it reads [`Prepared::tables`], which are not made for the others.
    pub(super) tables: bool,
}

impl HashKernels {
    /// A table of 256 words for each byte of the input. Runs anywhere; takes 36 KB a key, of which
    /// an IPv4 input with ports touches 12.
    #[must_use]
    pub const fn table() -> Self {
        Self {
            name: "table",
            one: table_one,
            all: table_all,
            tables: true,
        }
    }

    /// A carry-less multiplication for each word of the input, if the processor has PCLMULQDQ and
    /// SSSE3. No tables.
    #[must_use]
    pub fn clmul() -> Option<Self> {
        #[cfg(target_arch = "x86_64")]
        return x86::clmul();
        #[cfg(not(target_arch = "x86_64"))]
        None
    }

    /// For batches of inputs of 8 and 12 bytes (IPv4) products of bytes with 8 x 8 bit matrices, 64
    /// an instruction; for all else as [`clmul`](Self::clmul). If the processor has GFNI, AVX-512 F,
    /// BW and VBMI, and PCLMULQDQ. No tables.
    #[must_use]
    pub fn gfni() -> Option<Self> {
        #[cfg(target_arch = "x86_64")]
        return x86::gfni();
        #[cfg(not(target_arch = "x86_64"))]
        None
    }

    /// The fastest set that runs here.
    #[must_use]
    pub fn detect() -> Self {
        Self::gfni().or_else(Self::clmul).unwrap_or(Self::table())
    }

    /// `table`, `clmul` or `gfni`: what to show an operator.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }
}

impl fmt::Debug for HashKernels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("HashKernels").field(&self.name).finish()
    }
}

/// A key, in the forms that the kernels want it in.
#[derive(Clone)]
pub(super) struct Prepared {
    /// `tables[at][byte]`: what `byte` at place `at` of the input adds. Empty if nobody reads it.
    tables: Box<[[u32; 256]]>,
    /// For each 32-bit word of the input, by fours: the 63 key bits that meet it, the first at bit 62.
    pub(super) windows: [[u64; 4]; INPUT_MAX.div_ceil(16)],
    /// For each of the first bytes of the key: the 8 x 8 bits whose row `r` is the key from bit `r` of that byte
    /// on, as `gf2p8affineqb` wants them.
    pub(super) matrices: Matrices,
}

/// Two vectors of them: what an input of up to 13 bytes meets. Longer ones do without.
const MATRICES: usize = 16;

/// On cache lines, so that no load of a vector takes two.
#[derive(Clone)]
#[repr(C, align(64))]
pub(super) struct Matrices(pub(super) [u64; MATRICES]);

impl Prepared {
    fn new(key: &[u8], kernels: &HashKernels) -> Self {
        let places = if kernels.tables { INPUT_MAX } else { 0 };
        let mut tables = vec![[0; 256]; places].into_boxed_slice();
        for (at, table) in tables.iter_mut().enumerate() {
            let rest = key.get(at..).unwrap_or(&[]);
            *table = core::array::from_fn(|byte| textbook::hash(rest, &[byte as u8]));
        }
        let byte = |at: usize| key.get(at).copied().unwrap_or(0);
        Self {
            tables,
            windows: core::array::from_fn(|four| {
                let word = |at: usize| u64::from_be_bytes(core::array::from_fn(|i| byte(at + i)));
                core::array::from_fn(|at| word(16 * four + 4 * at) >> 1)
            }),
            matrices: Matrices(core::array::from_fn(|at| {
                let bits = u16::from_be_bytes([byte(at), byte(at + 1)]);
                u64::from_le_bytes(core::array::from_fn(|row| (bits >> (8 - row)) as u8))
            })),
        }
    }
}

/// The Toeplitz hash under one key.
///
/// Each bit of the input that is set adds (exclusive or) the 32 bits of the key that begin at its
/// place. So an input of `n` bytes meets `n + 4` bytes of the key: 40 for the longest that RSS
/// knows. **A key may have any length.** What it lacks counts as zero, as if it were shifted out
/// (virtio's and Windows' devices do the same); it does not begin anew, as some NICs' keys do.
///
/// Making one takes a microsecond or, with tables, some dozens; keep it.
///
/// ```
/// use jumbo_engine::steer::{MICROSOFT_KEY, Toeplitz};
///
/// let toeplitz = Toeplitz::new(&MICROSOFT_KEY);
/// // From 66.9.149.187:2794 to 161.142.100.80:1766, Microsoft's first example.
/// let input = [66, 9, 149, 187, 161, 142, 100, 80, 0x0a, 0xea, 0x06, 0xe6];
/// assert_eq!(toeplitz.hash(&input), 0x51ccc178);
///
/// let mut hashes = [0; 2];
/// toeplitz.hash_all(&[input, [0; 12]], &mut hashes);
/// assert_eq!(hashes, [0x51ccc178, 0]);
/// ```
#[derive(Clone)]
pub struct Toeplitz {
    prepared: Prepared,
    kernels: HashKernels,
    key: Box<[u8]>,
}

impl Toeplitz {
    /// With the kernels that are fastest here.
    #[must_use]
    pub fn new(key: &[u8]) -> Self {
        Self::with_kernels(key, HashKernels::detect())
    }

    /// With kernels of the caller's choice.
    #[must_use]
    pub fn with_kernels(key: &[u8], kernels: HashKernels) -> Self {
        Self {
            prepared: Prepared::new(key, &kernels),
            kernels,
            key: key.into(),
        }
    }

    /// The key, as it was given.
    #[must_use]
    pub fn key(&self) -> &[u8] {
        &self.key
    }

    /// The kernels in use.
    #[must_use]
    pub fn kernels(&self) -> HashKernels {
        self.kernels
    }

    /// The hash of `input`: addresses and ports in network order, source before destination. Any
    /// length is right; the kernels take the first 36 bytes and a slow loop the rest.
    #[inline]
    #[must_use]
    pub fn hash(&self, input: &[u8]) -> u32 {
        match input.split_at_checked(INPUT_MAX) {
            None => (self.kernels.one)(&self.prepared, input),
            Some((first, rest)) => {
                let behind = self.key.get(INPUT_MAX..).unwrap_or(&[]);
                (self.kernels.one)(&self.prepared, first) ^ textbook::hash(behind, rest)
            }
        }
    }

    /// The hashes of many inputs of one length (12 bytes: IPv4 and ports), at less cost each.
    ///
    /// The slices should be equally long. If they are not, only as many as the shorter one has are
    /// computed.
    #[inline]
    pub fn hash_all<const N: usize>(&self, inputs: &[[u8; N]], hashes: &mut [u32]) {
        let count = inputs.len().min(hashes.len());
        let (inputs, hashes) = (&inputs[..count], &mut hashes[..count]);
        if N == 0 || N > INPUT_MAX {
            for (input, hash) in inputs.iter().zip(hashes) {
                *hash = self.hash(input);
            }
            return;
        }
        (self.kernels.all)(&self.prepared, inputs.as_flattened(), N, hashes);
    }
}

impl fmt::Debug for Toeplitz {
    // Not the key: who knows it chooses the queue.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Toeplitz")
            .field("key_len", &self.key.len())
            .field("kernels", &self.kernels.name)
            .finish()
    }
}

fn table_one(prepared: &Prepared, input: &[u8]) -> u32 {
    match input.len() {
        12 => table_fixed::<12>(prepared, input),
        36 => table_fixed::<36>(prepared, input),
        _ => table_any(&prepared.tables, input),
    }
}

/// The same with a length that the compiler knows, so that nothing is checked twice.
#[inline(always)]
fn table_fixed<const N: usize>(prepared: &Prepared, input: &[u8]) -> u32 {
    match (prepared.tables.first_chunk::<N>(), input.first_chunk::<N>()) {
        (Some(tables), Some(input)) => table_any(tables, input),
        _ => table_any(&prepared.tables, input),
    }
}

#[inline(always)]
fn table_any(tables: &[[u32; 256]], input: &[u8]) -> u32 {
    let pairs = tables.iter().zip(input);
    pairs.fold(0, |hash, (table, byte)| hash ^ table[usize::from(*byte)])
}

fn table_all(prepared: &Prepared, inputs: &[u8], len: usize, hashes: &mut [u32]) {
    let one = match len {
        12 => table_fixed::<12>,
        36 => table_fixed::<36>,
        _ => table_one,
    };
    for (input, hash) in inputs.chunks_exact(len).zip(hashes) {
        *hash = one(prepared, input);
    }
}
