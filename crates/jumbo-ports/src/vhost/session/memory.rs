//! Guest memory: "Memory access", SET_MEM_TABLE, ADD_MEM_REG, REM_MEM_REG.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use super::super::message::{FDS_MAX, Fields, Message, REGION_LEN, Region, Request};
use super::super::{DataPath, RegionSpec, VhostError};
use super::{Session, Touches, only_fd};

/// Regions that may be there at once. QEMU needs a handful and one per memory device.
pub(super) const SLOTS_MAX: usize = 64;

impl Session {
    /// The whole table at once. Regions that are there already stay, with their mapping.
    pub(super) fn set_mem_table(
        &mut self,
        message: Message,
        data_path: &mut impl DataPath,
    ) -> Result<(), VhostError> {
        let request = message.request;
        let regions = table(&message)?;
        check_fds(&message, regions.len())?;
        let mut memory = Vec::with_capacity(regions.len());
        for (region, file) in regions.into_iter().zip(message.fds) {
            check(request, region, &memory)?;
            memory.push(self.known_or_new(region, file));
        }
        if is_same(&memory, &self.device.memory) {
            return Ok(());
        }
        self.set_memory(request, memory, data_path)
    }

    /// A region that is there already is no error: QEMU adds each once per queue pair.
    pub(super) fn add_mem_reg(
        &mut self,
        message: Message,
        data_path: &mut impl DataPath,
    ) -> Result<(), VhostError> {
        let request = message.request;
        let region = Region::parse_single(&message.payload);
        let file = only_fd(message)?;
        if self.known(region, &file).is_some() {
            return Ok(());
        }
        let mut memory = self.device.memory.clone();
        check(request, region, &memory)?;
        if memory.len() == SLOTS_MAX {
            return Err(VhostError::RegionCount {
                request,
                count: SLOTS_MAX + 1,
                max: SLOTS_MAX,
            });
        }
        memory.push(Arc::new(spec(region, file)));
        self.set_memory(request, memory, data_path)
    }

    /// "identified by its guest address, user address and size". One that is not there is no error: QEMU removes each
    /// once per queue pair.
    pub(super) fn rem_mem_reg(
        &mut self,
        message: &Message,
        data_path: &mut impl DataPath,
    ) -> Result<(), VhostError> {
        let region = Region::parse_single(&message.payload);
        let mut memory = self.device.memory.clone();
        memory.retain(|spec| {
            let same = (spec.guest_addr, spec.user_addr, spec.size)
                == (region.guest_addr, region.user_addr, region.size);
            !same
        });
        if memory.len() == self.device.memory.len() {
            return Ok(());
        }
        self.set_memory(message.request, memory, data_path)
    }

    /// Rings whose memory went away stop until it is back.
    fn set_memory(
        &mut self,
        request: Request,
        memory: Vec<Arc<RegionSpec>>,
        data_path: &mut impl DataPath,
    ) -> Result<(), VhostError> {
        self.change(request, Touches::All, data_path, |device| {
            device.memory = memory;
        })
    }

    fn known(&self, region: Region, file: &OwnedFd) -> Option<&Arc<RegionSpec>> {
        let mut specs = self.device.memory.iter();
        specs.find(|spec| described(spec) == region && is_same_file(&spec.file, file))
    }

    fn known_or_new(&self, region: Region, file: OwnedFd) -> Arc<RegionSpec> {
        match self.known(region, &file) {
            Some(known) => Arc::clone(known),
            None => Arc::new(spec(region, file)),
        }
    }
}

fn table(message: &Message) -> Result<Vec<Region>, VhostError> {
    let request = message.request;
    let count = Fields(&message.payload).u32() as usize;
    if count > FDS_MAX {
        return Err(VhostError::RegionCount {
            request,
            count,
            max: FDS_MAX,
        });
    }
    let bytes = message.payload.get(8..).unwrap_or_default();
    if bytes.len() != count * REGION_LEN {
        let len = message.payload.len();
        return Err(VhostError::PayloadLen { request, len });
    }
    Ok(bytes.chunks_exact(REGION_LEN).map(Region::parse).collect())
}

fn check_fds(message: &Message, expected: usize) -> Result<(), VhostError> {
    let (request, got) = (message.request, message.fds.len());
    if got == expected {
        return Ok(());
    }
    Err(VhostError::FdCount {
        request,
        got,
        expected,
    })
}

/// Guest addresses must be unique. User addresses need not be: a ring's address means the first region that holds it.
fn check(request: Request, region: Region, others: &[Arc<RegionSpec>]) -> Result<(), VhostError> {
    let guest_addr = region.guest_addr;
    let starts = [guest_addr, region.user_addr, region.mmap_offset];
    let wraps = |start: u64| start.checked_add(region.size).is_none();
    if region.size == 0 || starts.into_iter().any(wraps) {
        return Err(VhostError::RegionRange {
            request,
            guest_addr,
        });
    }
    let overlaps = |other: &Arc<RegionSpec>| {
        guest_addr < other.guest_addr + other.size && other.guest_addr < guest_addr + region.size
    };
    if others.iter().any(overlaps) {
        return Err(VhostError::RegionOverlap {
            request,
            guest_addr,
        });
    }
    Ok(())
}

fn spec(region: Region, file: OwnedFd) -> RegionSpec {
    RegionSpec {
        guest_addr: region.guest_addr,
        size: region.size,
        user_addr: region.user_addr,
        mmap_offset: region.mmap_offset,
        file,
    }
}

fn described(spec: &RegionSpec) -> Region {
    Region {
        guest_addr: spec.guest_addr,
        size: spec.size,
        user_addr: spec.user_addr,
        mmap_offset: spec.mmap_offset,
    }
}

/// Each message brings a descriptor of its own; the file behind it is what counts.
fn is_same_file(one: impl AsFd, other: impl AsFd) -> bool {
    match (rustix::fs::fstat(one), rustix::fs::fstat(other)) {
        (Ok(one), Ok(other)) => (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino),
        _ => false,
    }
}

fn is_same(one: &[Arc<RegionSpec>], other: &[Arc<RegionSpec>]) -> bool {
    let mut pairs = one.iter().zip(other);
    one.len() == other.len() && pairs.all(|(one, other)| Arc::ptr_eq(one, other))
}
