//! The Internet checksum: a one's complement sum of 16-bit words (RFC 1071).
//!
//! # A sum is not a number
//!
//! Three things that all fit a `u16` are easily confused, so only two of them are a `u16` here:
//!
//! * the **field**, as it stands in a header: the complement of a folded sum. [`Sum::checksum`]
//!   makes it; write it with `to_be_bytes`.
//! * the **folded sum**, as `NEEDS_CSUM` wants it left in that field for whoever finishes the job:
//!   not complemented. [`Sum::fold`] makes it; write it with `to_be_bytes`.
//! * the **running sum**, [`Sum`]: wide, unfolded and in the byte order of the machine. It has no
//!   meaning as a number, and no way to get at one.
//!
//! # Byte order does not matter, until it does
//!
//! One's complement addition is addition modulo 65535, because the carry out of the top comes back
//! in at the bottom. Modulo 65535 a multiplication by 256 swaps the two bytes of a word, so adding
//! words that were all read with their bytes swapped gives the right sum with its bytes swapped
//! (RFC 1071, section 2 B). Hence payload is read in the machine's own order, however wide the
//! register, and the *one* swap happens in [`Sum::fold`]. The same fact says what to do with a
//! piece that begins at an odd offset: its sum is the right one with swapped bytes, so
//! [`Sum::swapped`] repairs it.
//!
//! The modulus is also why the width is free: 2^16, 2^32 and 2^64 all leave the remainder 1, so
//! whole 64-bit words may be added and folded at the end (RFC 1071, section 2 C).
//!
//! # There are two zeros
//!
//! Zero has two names, `0x0000` and `0xFFFF`. A sum is `0x0000` only if every word was zero; a sum
//! of anything else that is a multiple of 65535 is `0xFFFF`. All kernels keep this apart, since the
//! field must come out the same whoever computed it. UDP gives one of the two names a meaning of
//! its own ("no checksum", RFC 768); that rule is UDP's, and lives in [`udp_nonzero`] alone: TCP,
//! ICMP and the IPv4 header have nothing of the kind.

mod portable;
mod simd;
#[doc(hidden)]
pub mod textbook;
#[cfg(target_arch = "x86_64")]
mod x86;

/// A running one's complement sum: unfolded, in the machine's byte order.
///
/// The default is the sum of nothing. Sums of pieces are added in any order, as long as each piece
/// but the last is of even length, or the pieces after it are [`swapped`](Sum::swapped).
#[derive(Copy, Clone, Debug, Default)]
#[must_use = "a running sum does nothing until it is folded"]
pub struct Sum(u64);

impl Sum {
    /// The sum of nothing.
    pub const ZERO: Self = Self(0);

    /// The sum of both.
    // Not `core::ops::Add`: a `+` would suggest a number.
    #[inline]
    pub const fn add(self, other: Self) -> Self {
        // The end-around carry cannot carry again: a sum that overflowed is at most 2^64 - 2.
        let (sum, carry) = self.0.overflowing_add(other.0);
        Self(sum + carry as u64)
    }

    /// Adds one 16-bit field, given as the number it stands for.
    #[inline]
    pub const fn add_u16(self, value: u16) -> Self {
        self.add(Self(value.to_be() as u64))
    }

    /// Adds one 32-bit field (an address, a sequence number), given as the number it stands for.
    #[inline]
    pub const fn add_u32(self, value: u32) -> Self {
        self.add(Self(value.to_be() as u64))
    }

    /// Adds a few bytes that begin at an even offset: a header, or a piece of one. For payload use
    /// [`Kernels::sum`]. An odd last byte is padded with zero, so only the last piece may have one.
    #[inline]
    pub fn add_bytes(self, bytes: &[u8]) -> Self {
        self.add(portable::sum(bytes))
    }

    /// The sum of the same bytes had they begun at an odd offset instead of an even one.
    #[inline]
    pub const fn swapped(self) -> Self {
        // A rotation by 8 is a multiplication by 256 modulo 2^64 - 1, which 65535 divides.
        Self(self.0.rotate_left(8))
    }

    /// The folded sum, not complemented, as the number to write in network order.
    #[inline]
    #[must_use]
    pub const fn fold(self) -> u16 {
        let sum = (self.0 >> 32) + (self.0 & 0xFFFF_FFFF); // at most 33 bits
        let sum = (sum >> 32) + (sum & 0xFFFF_FFFF); // at most 32
        let sum = (sum >> 16) + (sum & 0xFFFF); // at most 17
        let sum = (sum >> 16) + (sum & 0xFFFF); // at most 16
        u16::from_be(sum as u16)
    }

    /// The field for a header: the complement of the folded sum, as the number to write in network
    /// order. For UDP see also [`udp_nonzero`].
    #[inline]
    #[must_use]
    pub const fn checksum(self) -> u16 {
        !self.fold()
    }
}

/// UDP's rule about zero: a computed 0 is sent as `0xFFFF`, because 0 in the field says "no
/// checksum" (RFC 768; over IPv6 that is not even allowed, RFC 8200 section 8.1).
#[inline]
#[must_use]
pub const fn udp_nonzero(check: u16) -> u16 {
    if check == 0 { 0xFFFF } else { check }
}

/// The field after one 16-bit word under it changed from `old` to `new` (RFC 1624, equation 3).
///
/// Equals a computation from scratch, with one exception: if every word under the sum is now zero
/// it gives 0 where that gives `0xFFFF`. No packet is all zero, its pseudo header included.
#[inline]
#[must_use]
pub const fn update(old_check: u16, old: u16, new: u16) -> u16 {
    Sum::ZERO
        .add_u16(!old_check)
        .add_u16(!old)
        .add_u16(new)
        .checksum()
}

/// The field after a 32-bit field under it changed from `old` to `new`; see [`update`].
#[inline]
#[must_use]
pub const fn update_u32(old_check: u16, old: u32, new: u32) -> u16 {
    Sum::ZERO
        .add_u16(!old_check)
        .add_u32(!old)
        .add_u32(new)
        .checksum()
}

/// The pseudo header of TCP and UDP over IPv4 (RFC 9293 section 3.1, RFC 768).
///
/// `l4_len` is the transport header and payload in bytes. IPv4 gives it 16 bits; the sum of a
/// longer super-packet takes all 32, as Linux does (`csum_tcpudp_nofold`).
#[inline]
pub fn pseudo_v4(src: [u8; 4], dst: [u8; 4], proto: u8, l4_len: u32) -> Sum {
    Sum::ZERO
        .add_u32(u32::from_be_bytes(src))
        .add_u32(u32::from_be_bytes(dst))
        .add_u16(u16::from(proto))
        .add_u32(l4_len)
}

/// The pseudo header of a transport over IPv6 (RFC 8200 section 8.1).
///
/// `next` is the transport's own protocol number, not the first extension header's; `dst` is the
/// final destination. `l4_len` is the transport header and payload in bytes, without extension
/// headers.
#[inline]
pub fn pseudo_v6(src: [u8; 16], dst: [u8; 16], next: u8, l4_len: u32) -> Sum {
    Sum::ZERO
        .add_bytes(&src)
        .add_bytes(&dst)
        .add_u16(u16::from(next))
        .add_u32(l4_len)
}

/// Sums `len` bytes at `src`, for memory that no slice may cover because others write to it: a
/// guest's, a ring's.
///
/// # Safety
///
/// `src` is readable for `len` bytes; no alignment is asked for. Each byte is read once. If it
/// changes meanwhile, the sum is of some value it had.
pub type RawSum = unsafe fn(src: *const u8, len: usize) -> Sum;

/// Copies `len` bytes from `src` to `dst` and returns their sum; see [`RawSum`].
///
/// # Safety
///
/// `src` is readable and `dst` writable for `len` bytes, and they do not overlap; no alignment is
/// asked for.
pub type RawCopySum = unsafe fn(dst: *mut u8, src: *const u8, len: usize) -> Sum;

/// The functions that sum payload, chosen once for the processor at hand.
///
/// Every set computes the same thing. A value is small and `Copy`; make one with
/// [`detect`](Kernels::detect) at construction and keep it.
#[derive(Copy, Clone, Debug)]
pub struct Kernels {
    name: &'static str,
    sum: fn(&[u8]) -> Sum,
    copy_sum: fn(&mut [u8], &[u8]) -> Sum,
    raw_sum: RawSum,
    raw_copy_sum: RawCopySum,
}

impl Kernels {
    /// Runs anywhere.
    #[must_use]
    pub const fn portable() -> Self {
        Self {
            name: "portable",
            sum: portable::sum,
            copy_sum: portable::copy_sum,
            raw_sum: simd::raw_sum_portable,
            raw_copy_sum: simd::raw_copy_sum_portable,
        }
    }

    /// 32 bytes at a time, if the processor and the operating system have AVX2.
    #[must_use]
    pub fn avx2() -> Option<Self> {
        #[cfg(target_arch = "x86_64")]
        return x86::avx2();
        #[cfg(not(target_arch = "x86_64"))]
        None
    }

    /// 64 bytes at a time, if the processor and the operating system have AVX-512 F, BW and VL.
    #[must_use]
    pub fn avx512() -> Option<Self> {
        #[cfg(target_arch = "x86_64")]
        return x86::avx512();
        #[cfg(not(target_arch = "x86_64"))]
        None
    }

    /// The fastest set that runs here.
    #[must_use]
    pub fn detect() -> Self {
        Self::avx512()
            .or_else(Self::avx2)
            .unwrap_or(Self::portable())
    }

    /// `portable`, `avx2` or `avx512`: what to show an operator.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// The sum of `bytes`, which begin at an even offset of what is summed. An odd last byte is
    /// padded with zero.
    #[inline]
    pub fn sum(&self, bytes: &[u8]) -> Sum {
        (self.sum)(bytes)
    }

    /// Copies `src` to `dst` and returns its sum, touching each byte once.
    ///
    /// The lengths should be equal. If they are not, only as many bytes as the shorter one has are
    /// copied and summed.
    #[inline]
    pub fn copy_sum(&self, dst: &mut [u8], src: &[u8]) -> Sum {
        (self.copy_sum)(dst, src)
    }

    /// [`sum`](Self::sum) for memory that no slice may cover. The processor's side of the contract
    /// is kept: this set was made for it.
    #[inline]
    #[must_use]
    pub const fn raw_sum(&self) -> RawSum {
        self.raw_sum
    }

    /// [`copy_sum`](Self::copy_sum) for memory that no slice may cover; see
    /// [`raw_sum`](Self::raw_sum).
    #[inline]
    #[must_use]
    pub const fn raw_copy_sum(&self) -> RawCopySum {
        self.raw_copy_sum
    }
}
