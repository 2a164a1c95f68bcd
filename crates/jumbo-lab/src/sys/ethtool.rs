//! The ethtool ioctl: old per-offload commands and the feature bits.
//!
//! Source: include/uapi/linux/ethtool.h, net/ethtool/ioctl.c.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::{check, ifreq};

const ETHTOOL_GSTRINGS: u32 = 0x1b;
const ETHTOOL_GSSET_INFO: u32 = 0x37;
const ETHTOOL_GFEATURES: u32 = 0x3a;
const ETHTOOL_SFEATURES: u32 = 0x3b;
const ETH_SS_FEATURES: u32 = 4;
const GSTRING_LEN: usize = 32;
/// More than any kernel has (64 in 6.18, 128 planned), so replies stay bounded.
const FEATURES_MAX: usize = 1024;

/// One feature block of 32 bits: available, requested, active, never changed.
type GetBlock = [u32; 4];

/// Reads one value with an `ETHTOOL_G*` command that takes `ethtool_value`.
pub(crate) fn get_value(fd: BorrowedFd<'_>, name: &str, cmd: u32) -> io::Result<u32> {
    let mut words = [cmd, 0];
    call(fd, name, &mut words)?;
    Ok(words[1])
}

/// Sets one value with an `ETHTOOL_S*` command that takes `ethtool_value`.
pub(crate) fn set_value(fd: BorrowedFd<'_>, name: &str, cmd: u32, value: u32) -> io::Result<()> {
    call(fd, name, &mut [cmd, value])
}

/// The names of all features, by bit number.
pub(crate) fn feature_names(fd: BorrowedFd<'_>, name: &str) -> io::Result<Vec<String>> {
    let count = feature_count(fd, name)?;
    // struct ethtool_gstrings: cmd, string_set, len, then len * 32 bytes.
    let mut words = vec![0u32; 3 + count * GSTRING_LEN / 4];
    words[..3].copy_from_slice(&[ETHTOOL_GSTRINGS, ETH_SS_FEATURES, count as u32]);
    call(fd, name, &mut words)?;
    let bytes: Vec<u8> = words[3..].iter().flat_map(|w| w.to_ne_bytes()).collect();
    Ok(bytes.chunks(GSTRING_LEN).map(until_nul).collect())
}

/// Whether feature `bit` is active now.
pub(crate) fn feature_active(fd: BorrowedFd<'_>, name: &str, bit: usize) -> io::Result<bool> {
    let blocks = feature_blocks(fd, name)?;
    let block = blocks.get(bit / 32).ok_or(io::ErrorKind::NotFound)?;
    Ok(block[2] & (1 << (bit % 32)) != 0)
}

/// Asks for feature `bit` to be on or off.
pub(crate) fn set_feature(fd: BorrowedFd<'_>, name: &str, bit: usize, on: bool) -> io::Result<()> {
    let blocks = feature_count(fd, name)?.div_ceil(32);
    // struct ethtool_sfeatures: cmd, size, then (valid, requested) per block.
    let mut words = vec![0u32; 2 + 2 * blocks];
    words[..2].copy_from_slice(&[ETHTOOL_SFEATURES, blocks as u32]);
    let at = 2 + 2 * (bit / 32);
    let mask = 1u32 << (bit % 32);
    let pair = words.get_mut(at..at + 2).ok_or(io::ErrorKind::NotFound)?;
    pair.copy_from_slice(&[mask, if on { mask } else { 0 }]);
    call(fd, name, &mut words)
}

fn feature_blocks(fd: BorrowedFd<'_>, name: &str) -> io::Result<Vec<GetBlock>> {
    let blocks = feature_count(fd, name)?.div_ceil(32);
    let mut words = vec![0u32; 2 + 4 * blocks];
    words[..2].copy_from_slice(&[ETHTOOL_GFEATURES, blocks as u32]);
    call(fd, name, &mut words)?;
    Ok(words[2..].as_chunks::<4>().0.to_vec())
}

fn feature_count(fd: BorrowedFd<'_>, name: &str) -> io::Result<usize> {
    // struct ethtool_sset_info: cmd, reserved, u64 mask, u32 data[1].
    let mask = (1u64 << ETH_SS_FEATURES).to_ne_bytes();
    let half = |i: usize| u32::from_ne_bytes([mask[i], mask[i + 1], mask[i + 2], mask[i + 3]]);
    let mut words = [ETHTOOL_GSSET_INFO, 0, half(0), half(4), 0];
    call(fd, name, &mut words)?;
    match words[4] as usize {
        count if count <= FEATURES_MAX => Ok(count),
        // The kernel would write more names than we are willing to hold.
        _ => Err(io::ErrorKind::OutOfMemory.into()),
    }
}

fn until_nul(bytes: &[u8]) -> String {
    let len = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..len]).into_owned()
}

/// Runs one ethtool command over `words`, which the kernel reads and fills.
fn call(fd: BorrowedFd<'_>, name: &str, words: &mut [u32]) -> io::Result<()> {
    let mut req = ifreq(name)?;
    req.ifr_ifru.ifru_data = words.as_mut_ptr().cast();
    // SAFETY: `req` names a device and points at `words`, which lives through
    // the call and is as long as its own count field says (each caller sized
    // it from the count the kernel copies at most).
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::SIOCETHTOOL as _, &mut req) }).map(drop)
}
