//! The shim, and memory that lies in DPDK's pool.

#![expect(unsafe_code, reason = "a foreign library, and packets in its memory")]

use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};

use jumbo_engine::arena::Memory;
use jumbo_engine::checksum::{Kernels, Sum};
use jumbo_engine::packet::Frag;
use jumbo_engine::stage::Bytes;

unsafe extern "C" {
    fn shim_version() -> *const c_char;
    fn shim_error() -> *const c_char;
    fn shim_init(cpu: *const c_char, packets: c_uint) -> c_int;
    fn shim_put(index: c_uint, bytes: *const u8, len: c_uint) -> *mut u8;
    fn shim_reset(first: c_uint, count: c_uint);
    fn shim_gro_new(flows: c_uint, items: c_uint, v6: c_int) -> *mut c_void;
    fn shim_gro_ctx(
        ctx: *mut c_void,
        first: c_uint,
        count: c_uint,
        flush: c_uint,
        ahead: c_uint,
        out: *mut u8,
        out_len: c_uint,
    ) -> c_uint;
    fn shim_gro_burst(
        flows: c_uint,
        items: c_uint,
        v6: c_int,
        first: c_uint,
        count: c_uint,
        flush: c_uint,
        ahead: c_uint,
    ) -> c_uint;
    fn shim_gso_set(
        bytes: *const u8,
        len: c_uint,
        l2_len: c_uint,
        l3_len: c_uint,
        l4_len: c_uint,
        mss: c_uint,
    ) -> c_int;
    fn shim_gso(checksum: c_int) -> c_int;
    fn shim_gso_checksums(checks: *mut u16, max: c_int) -> c_int;
    fn shim_raw_cksum(bytes: *const u8, len: usize, times: c_uint) -> u16;
    fn shim_softrss(tuples: *mut u32, count: c_uint, key: *const u8, hashes: *mut u32);
    fn shim_softrss_be(tuples: *mut u32, count: c_uint, key: *const u8, hashes: *mut u32);
    fn shim_convert_key(key: *const u32, converted: *mut u32, len: c_int);
    fn shim_gfni(key: *const u8, len: c_uint, matrices: *mut u64) -> c_int;
    fn shim_thash_gfni(matrices: *const u64, tuples: *mut u8, count: c_uint, hashes: *mut u32);
    fn shim_thash_gfni_bulk(
        matrices: *const u64,
        tuples: *mut *mut u8,
        count: c_uint,
        hashes: *mut u32,
    );
}

/// DPDK's version, such as `22.11`.
pub(crate) fn dpdk_version() -> String {
    // SAFETY: a constant string of the shim.
    let text = unsafe { CStr::from_ptr(shim_version()) }.to_string_lossy();
    let (year, month) = text.split_once('.').unwrap_or((&text, "0"));
    format!("{year}.{month:0>2}")
}

/// All packets there are: mbufs, and what engine looks at them is the engine's affair.
pub(crate) struct Pool {
    places: Vec<*mut u8>,
    lens: Vec<usize>,
    /// The same as the engine names it.
    frags: Vec<Frag>,
}

impl Pool {
    /// Starts DPDK on this CPU, with room for so many packets. Once in a process.
    pub(crate) fn start(cpu: usize, packets: usize) -> Result<Self, String> {
        let cpu = CString::new(cpu.to_string()).map_err(|e| e.to_string())?;
        // SAFETY: the shim copies the string before it returns.
        let done = unsafe { shim_init(cpu.as_ptr(), packets as c_uint) };
        if done != 0 {
            // SAFETY: a string that stays until the next error.
            let why = unsafe { CStr::from_ptr(shim_error()) }.to_string_lossy();
            return Err(format!("DPDK does not start: {why}"));
        }
        Ok(Self {
            places: Vec::with_capacity(packets),
            lens: Vec::with_capacity(packets),
            frags: Vec::with_capacity(packets),
        })
    }

    /// Puts another packet into the pool.
    pub(crate) fn put(&mut self, bytes: &[u8]) -> Result<(), String> {
        let index = self.places.len() as c_uint;
        // SAFETY: the bytes are readable for their length; the shim checks both numbers.
        let place = unsafe { shim_put(index, bytes.as_ptr(), bytes.len() as c_uint) };
        if place.is_null() {
            return Err(format!(
                "no room for packet {index} of {} bytes",
                bytes.len()
            ));
        }
        self.places.push(place);
        self.lens.push(bytes.len());
        self.frags.push(Frag::new(place as u64, bytes.len() as u32));
        Ok(())
    }

    pub(crate) fn len(&self) -> usize {
        self.places.len()
    }

    /// The packet as it lies there.
    #[inline(always)]
    pub(crate) fn packet(&self, index: usize) -> &[u8] {
        // SAFETY: a packet of the pool, of that length; nothing writes to it while `self` is borrowed: what
        // does takes `&mut self`.
        unsafe { std::slice::from_raw_parts(self.places[index], self.lens[index]) }
    }

    /// Where the packet lies; [`PoolMemory`] understands it.
    #[inline(always)]
    pub(crate) fn body(&self, index: usize) -> &[Frag] {
        std::slice::from_ref(&self.frags[index])
    }

    /// Makes packets what they were before an engine merged them.
    pub(crate) fn reset(&mut self, first: usize, count: usize) {
        assert!(first + count <= self.len());
        // SAFETY: these packets are in the pool.
        unsafe { shim_reset(first as c_uint, count as c_uint) }
    }

    /// The pages below the first packet, as the kernel describes them.
    pub(crate) fn pages(&self) -> String {
        let at = self.places.first().map_or(0, |place| *place as u64);
        pages_at(at)
    }
}

/// Size of the pages that an address lies in.
fn pages_at(address: u64) -> String {
    let maps = std::fs::read_to_string("/proc/self/smaps").unwrap_or_default();
    let mut inside = false;
    let mut found = Vec::new();
    for line in maps.lines() {
        let range = line
            .split(' ')
            .next()
            .and_then(|range| range.split_once('-'));
        let ends = range.and_then(|(from, to)| {
            Some((
                u64::from_str_radix(from, 16).ok()?,
                u64::from_str_radix(to, 16).ok()?,
            ))
        });
        if let Some((from, to)) = ends {
            inside = (from..to).contains(&address);
        } else if inside
            && ["KernelPageSize:", "AnonHugePages:", "ShmemPmdMapped:"]
                .iter()
                .any(|key| line.starts_with(key))
        {
            found.push(line.split_whitespace().collect::<Vec<_>>().join(" "));
        }
    }
    found.join(", ")
}

/// Asks for the first lines of a packet.
#[inline(always)]
pub(crate) fn prefetch(bytes: &[u8]) {
    use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    for at in [0, 64] {
        // SAFETY: a prefetch of whatever address reads nothing and faults on nothing.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(bytes.as_ptr().wrapping_add(at).cast()) }
    }
}

/// The pool's packets as the engine's memory: a frag's `at` is an address.
#[derive(Clone, Copy)]
pub(crate) struct PoolMemory<'a> {
    _pool: &'a Pool,
    kernels: Kernels,
}

impl<'a> PoolMemory<'a> {
    pub(crate) fn new(pool: &'a Pool, kernels: Kernels) -> Self {
        Self {
            _pool: pool,
            kernels,
        }
    }

    #[inline(always)]
    pub(crate) fn bytes(&self, frag: Frag) -> &'a [u8] {
        // SAFETY: all frags of this bench come from `Pool::body`, so the range is in a packet; the pool is
        // borrowed as long as the slice.
        unsafe { std::slice::from_raw_parts(frag.at as *const u8, frag.len as usize) }
    }
}

impl Bytes for PoolMemory<'_> {
    #[inline(always)]
    fn bytes(&self, frag: Frag) -> Option<&[u8]> {
        Some(PoolMemory::bytes(self, frag))
    }
}

impl Memory for PoolMemory<'_> {
    #[inline]
    fn sum(&self, frag: Frag) -> Option<Sum> {
        Some(self.kernels.sum(self.bytes(frag)))
    }
}

/// What a pass is to go over.
#[derive(Clone, Copy)]
pub(crate) struct Span {
    pub(crate) first: usize,
    pub(crate) count: usize,
    /// Packets between two flushes.
    pub(crate) flush: usize,
    /// Packets to prefetch ahead; 0 for none.
    pub(crate) ahead: usize,
}

/// DPDK's coalescing in context mode.
pub(crate) struct GroContext(*mut c_void);

impl GroContext {
    /// `None` where this DPDK does not know the protocol.
    pub(crate) fn new(flows: usize, items: usize, v6: bool) -> Option<Self> {
        // SAFETY: plain numbers.
        let ctx = unsafe { shim_gro_new(flows as c_uint, items as c_uint, c_int::from(v6)) };
        (!ctx.is_null()).then_some(Self(ctx))
    }

    /// One pass; with a buffer, checksums are verified and aggregates gathered into it. Packets that left.
    pub(crate) fn pass(&mut self, pool: &mut Pool, span: Span, out: &mut [u8]) -> usize {
        assert!(span.first + span.count <= pool.len());
        let place = if out.is_empty() {
            std::ptr::null_mut()
        } else {
            out.as_mut_ptr()
        };
        // SAFETY: the packets are in the pool, which nobody else looks at; the buffer is as long as said.
        let left = unsafe {
            shim_gro_ctx(
                self.0,
                span.first as c_uint,
                span.count as c_uint,
                span.flush as c_uint,
                span.ahead as c_uint,
                place,
                out.len() as c_uint,
            )
        };
        left as usize
    }
}

/// One pass of DPDK's coalescing in burst mode. Packets that left.
pub(crate) fn gro_burst(
    pool: &mut Pool,
    span: Span,
    flows: usize,
    items: usize,
    v6: bool,
) -> usize {
    assert!(span.first + span.count <= pool.len());
    // SAFETY: the packets are in the pool, which nobody else looks at.
    let left = unsafe {
        shim_gro_burst(
            flows as c_uint,
            items as c_uint,
            c_int::from(v6),
            span.first as c_uint,
            span.count as c_uint,
            span.flush as c_uint,
            span.ahead as c_uint,
        )
    };
    left as usize
}

/// Gives DPDK the super-packet that [`gso`] segments.
pub(crate) fn gso_set(bytes: &[u8], lens: [usize; 3], mss: usize) -> bool {
    let [l2, l3, l4] = lens.map(|len| len as c_uint);
    // SAFETY: the bytes are readable for their length.
    unsafe {
        shim_gso_set(
            bytes.as_ptr(),
            bytes.len() as c_uint,
            l2,
            l3,
            l4,
            mss as c_uint,
        ) == 0
    }
}

/// Segments it once and frees the segments. Returns how many there were.
pub(crate) fn gso(checksum: bool) -> i32 {
    // SAFETY: without a packet from `gso_set` nobody calls this.
    unsafe { shim_gso(c_int::from(checksum)) }
}

/// The checksums of its segments as DPDK computes them, as they stand in memory.
pub(crate) fn gso_checksums(count: usize) -> Vec<u16> {
    let mut checks = vec![0; count];
    // SAFETY: room for so many.
    let made = unsafe { shim_gso_checksums(checks.as_mut_ptr(), count as c_int) };
    checks.truncate(made.max(0) as usize);
    checks
}

/// `rte_raw_cksum` so many times over.
pub(crate) fn raw_cksum(bytes: &[u8], times: usize) -> u16 {
    // SAFETY: readable for their length.
    unsafe { shim_raw_cksum(bytes.as_ptr(), bytes.len(), times as c_uint) }
}

/// DPDK's Toeplitz functions over tuples of 12 bytes, in the forms each of them wants.
pub(crate) struct Softrss {
    key: Vec<u8>,
    converted: Vec<u32>,
    host: Vec<u32>,
    network: Vec<u8>,
    pointers: Vec<*mut u8>,
    matrices: Vec<u64>,
    /// Whether the processor has GFNI.
    pub(crate) gfni: bool,
}

impl Softrss {
    pub(crate) fn new(key: &[u8; 40], tuples: &[[u8; 12]]) -> Self {
        let words: Vec<u32> = key
            .chunks_exact(4)
            .map(|word| u32::from_ne_bytes([word[0], word[1], word[2], word[3]]))
            .collect();
        let mut converted = vec![0; words.len()];
        // SAFETY: both have as many bytes as said.
        unsafe { shim_convert_key(words.as_ptr(), converted.as_mut_ptr(), key.len() as c_int) };
        let mut matrices = vec![0u64; key.len()];
        // SAFETY: a matrix of 8 bytes for each byte of the key.
        let gfni = unsafe { shim_gfni(key.as_ptr(), key.len() as c_uint, matrices.as_mut_ptr()) };
        let mut network = tuples.as_flattened().to_vec();
        let pointers = network.chunks_mut(12).map(<[u8]>::as_mut_ptr).collect();
        let host = tuples.as_flattened().chunks_exact(4);
        Self {
            key: key.to_vec(),
            converted,
            host: host
                .map(|word| u32::from_be_bytes([word[0], word[1], word[2], word[3]]))
                .collect(),
            network,
            pointers,
            matrices,
            gfni: gfni == 1,
        }
    }

    fn count(&self, hashes: &[u32]) -> c_uint {
        self.pointers.len().min(hashes.len()) as c_uint
    }

    pub(crate) fn softrss(&mut self, hashes: &mut [u32]) {
        let count = self.count(hashes);
        // SAFETY: so many tuples and hashes, and a key longer than a tuple and a word.
        unsafe {
            shim_softrss(
                self.host.as_mut_ptr(),
                count,
                self.key.as_ptr(),
                hashes.as_mut_ptr(),
            )
        }
    }

    pub(crate) fn softrss_be(&mut self, hashes: &mut [u32]) {
        let count = self.count(hashes);
        let key = self.converted.as_ptr().cast();
        // SAFETY: as above.
        unsafe { shim_softrss_be(self.host.as_mut_ptr(), count, key, hashes.as_mut_ptr()) }
    }

    /// Only where [`Softrss::gfni`] is true.
    pub(crate) fn gfni_one(&mut self, hashes: &mut [u32]) {
        assert!(self.gfni);
        let count = self.count(hashes);
        // SAFETY: so many tuples and hashes; the processor can do it.
        unsafe {
            shim_thash_gfni(
                self.matrices.as_ptr(),
                self.network.as_mut_ptr(),
                count,
                hashes.as_mut_ptr(),
            );
        }
    }

    /// Only where [`Softrss::gfni`] is true.
    pub(crate) fn gfni_bulk(&mut self, hashes: &mut [u32]) {
        assert!(self.gfni);
        let count = self.count(hashes);
        // SAFETY: so many pointers to tuples of 12 bytes, and hashes; the processor can do it.
        unsafe {
            shim_thash_gfni_bulk(
                self.matrices.as_ptr(),
                self.pointers.as_mut_ptr(),
                count,
                hashes.as_mut_ptr(),
            );
        }
    }
}
