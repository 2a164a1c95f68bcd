//! Rings: "Ring states", SET_VRING_* and GET_VRING_BASE.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{FileType, OFlags};

use super::super::kick;
use super::super::message::{Message, NO_FD, RING_FLAG_LOG, Request, VringAddr, VringState};
use super::super::{
    DataPath, Device, Position, RING_SIZE_MAX, RingState, VhostError, device::ring_parts,
};
use super::{Answer, Session, Touches, u64_of};

/// The wrap counter of a packed ring's position.
const WRAP: u16 = 1 << 15;
/// Where the used half of a packed ring's base begins.
const USED_SHIFT: u32 = 16;
/// Bits of SET_VRING_KICK, CALL and ERR that are the ring's index.
const INDEX_MASK: u64 = 0xFF;

impl Session {
    pub(super) fn set_vring_num(
        &mut self,
        message: &Message,
        data_path: &mut impl DataPath,
    ) -> Result<(), VhostError> {
        let (index, size) = self.state_of(message)?;
        let small = u16::try_from(size).ok();
        let fits = small.filter(|small| {
            let split = self.device.is_negotiated && !self.device.is_packed();
            (1..=RING_SIZE_MAX).contains(small) && (!split || small.is_power_of_two())
        });
        let request = message.request;
        let size = fits.ok_or(VhostError::RingSize {
            request,
            index,
            size,
        })?;
        self.describe_ring(
            request,
            index,
            data_path,
            |ring| ring.size == size,
            |ring| {
                ring.size = size;
            },
        )
    }

    pub(super) fn set_vring_addr(
        &mut self,
        message: &Message,
        data_path: &mut impl DataPath,
    ) -> Result<(), VhostError> {
        let request = message.request;
        let addr = VringAddr::parse(&message.payload);
        let index = self.ring_index(request, addr.index)?;
        let flags = addr.flags & !RING_FLAG_LOG;
        if flags != 0 {
            return Err(VhostError::UnknownFlags { request, flags });
        }
        let log = (addr.flags & RING_FLAG_LOG != 0).then_some(addr.log);
        let told = (addr.desc, addr.avail, addr.used, log);
        let apply = |ring: &mut RingState| {
            ring.is_addressed = true;
            ring.desc_user_addr = addr.desc;
            ring.avail_user_addr = addr.avail;
            ring.used_user_addr = addr.used;
            ring.log_guest_addr = log;
        };
        self.check_alignment(request, index, apply)?;
        let is_told = |ring: &RingState| ring.is_addressed && addresses(ring) == told;
        self.describe_ring(request, index, data_path, is_told, apply)
    }

    fn check_alignment(
        &self,
        request: Request,
        index: usize,
        apply: impl Fn(&mut RingState),
    ) -> Result<(), VhostError> {
        let mut ring = RingState::default();
        apply(&mut ring);
        aligned(&ring, self.device.is_packed(), request, index)
    }

    pub(super) fn set_vring_base(
        &mut self,
        message: &Message,
        data_path: &mut impl DataPath,
    ) -> Result<(), VhostError> {
        let (index, base) = self.state_of(message)?;
        let request = message.request;
        let is_packed = self.device.is_packed();
        if self.device.is_negotiated && !is_packed && base > u32::from(u16::MAX) {
            return Err(VhostError::RingPosition {
                request,
                index,
                base,
            });
        }
        if let Some(told) = self.bases.get_mut(index) {
            *told = Some(base);
        }
        let position = position(Some(base), is_packed);
        self.change_ring(
            request,
            index,
            data_path,
            |_| false,
            |ring| {
                ring.position = position;
            },
        )
    }

    /// "stop ring upon receiving GET_VRING_BASE". Answers also where nothing ran.
    pub(super) fn get_vring_base(
        &mut self,
        message: &Message,
        data_path: &mut impl DataPath,
    ) -> Result<Answer, VhostError> {
        let (index, _) = self.state_of(message)?;
        self.change_ring(
            message.request,
            index,
            data_path,
            |_| false,
            |ring| {
                ring.started = false;
                ring.kick = None;
            },
        )?;
        let position = self.device.rings.get(index).map(|ring| ring.position);
        data_path.told_position(index);
        let state = VringState {
            index: index as u32,
            num: base(position.unwrap_or_default(), self.has_packed_positions),
        };
        Ok(Answer::Reply(state.bytes(), None))
    }

    /// "The back-end must start ring upon receiving a kick": from its descriptor on, so that a kick from before is seen.
    pub(super) fn set_vring_kick(
        &mut self,
        message: Message,
        data_path: &mut impl DataPath,
    ) -> Result<(), VhostError> {
        let request = message.request;
        let (index, kick) = self.event_of(message)?;
        let Some(event) = &kick else {
            return Err(VhostError::PollingWanted { request, index });
        };
        check_kick(request, event)?;
        self.describe_ring(
            request,
            index,
            data_path,
            |_| false,
            |ring| {
                ring.kick = kick;
                ring.started = true;
            },
        )
    }

    pub(super) fn set_vring_call(
        &mut self,
        message: Message,
        data_path: &mut impl DataPath,
    ) -> Result<(), VhostError> {
        let request = message.request;
        let (index, call) = self.event_of(message)?;
        self.change_ring(
            request,
            index,
            data_path,
            |_| false,
            |ring| ring.call = call,
        )
    }

    pub(super) fn set_vring_err(
        &mut self,
        message: Message,
        data_path: &mut impl DataPath,
    ) -> Result<(), VhostError> {
        let request = message.request;
        let (index, err) = self.event_of(message)?;
        self.change_ring(request, index, data_path, |_| false, |ring| ring.err = err)
    }

    pub(super) fn set_vring_enable(
        &mut self,
        message: &Message,
        data_path: &mut impl DataPath,
    ) -> Result<(), VhostError> {
        let (index, num) = self.state_of(message)?;
        let request = message.request;
        let enabled = match num {
            0 => false,
            1 => true,
            value => {
                let value = value.into();
                return Err(VhostError::Value { request, value });
            }
        };
        let is_told = |ring: &RingState| ring.enabled == enabled;
        self.describe_ring(request, index, data_path, is_told, |ring| {
            ring.enabled = enabled
        })
    }

    /// Changes what a ring needs to run. One that would run now but for its addresses is a mistake, unless memory is
    /// still to come.
    fn describe_ring(
        &mut self,
        request: Request,
        index: usize,
        data_path: &mut impl DataPath,
        is_so: impl FnOnce(&RingState) -> bool,
        apply: impl FnOnce(&mut RingState),
    ) -> Result<(), VhostError> {
        self.change_ring(request, index, data_path, is_so, apply)?;
        let device = &self.device;
        if !device.memory.is_empty() && device.is_set_up(index) && !device.is_mapped(index) {
            return Err(VhostError::RingUnmapped { request, index });
        }
        Ok(())
    }

    /// Changes one ring unless it is so already.
    fn change_ring(
        &mut self,
        request: Request,
        index: usize,
        data_path: &mut impl DataPath,
        is_so: impl FnOnce(&RingState) -> bool,
        apply: impl FnOnce(&mut RingState),
    ) -> Result<(), VhostError> {
        if self.device.rings.get(index).is_some_and(is_so) {
            return Ok(());
        }
        self.change(request, Touches::Ring(index), data_path, |device| {
            if let Some(ring) = device.rings.get_mut(index) {
                apply(ring);
            }
        })
    }

    fn ring_index(&self, request: Request, index: u32) -> Result<usize, VhostError> {
        let rings = self.device.rings.len();
        if (index as usize) < rings {
            return Ok(index as usize);
        }
        Err(VhostError::RingIndex {
            request,
            index,
            rings,
        })
    }

    fn state_of(&self, message: &Message) -> Result<(usize, u32), VhostError> {
        let state = VringState::parse(&message.payload);
        let index = self.ring_index(message.request, state.index)?;
        Ok((index, state.num))
    }

    /// The ring and the event descriptor of SET_VRING_KICK, CALL or ERR.
    fn event_of(&self, message: Message) -> Result<(usize, Option<Arc<OwnedFd>>), VhostError> {
        let (request, got) = (message.request, message.fds.len());
        let word = u64_of(&message);
        let index = self.ring_index(request, (word & INDEX_MASK) as u32)?;
        let expected = usize::from(word & NO_FD == 0);
        if got != expected {
            return Err(VhostError::FdCount {
                request,
                got,
                expected,
            });
        }
        let Some(fd) = message.fds.into_iter().next() else {
            return Ok((index, None));
        };
        make_event(request, &fd)?;
        Ok((index, Some(Arc::new(fd))))
    }
}

/// # Errors
/// It is no event.
pub(super) fn make_event(request: Request, fd: &OwnedFd) -> Result<(), VhostError> {
    match set_event(fd) {
        Ok(true) => Ok(()),
        Ok(false) => Err(VhostError::NotAnEvent(request)),
        Err(source) => Err(VhostError::System { request, source }),
    }
}

/// What can be readable for ever would keep a worker busy. Of a pipe that shows when it is read.
fn check_kick(request: Request, fd: &OwnedFd) -> Result<(), VhostError> {
    let system = |source| VhostError::System { request, source };
    let stat = rustix::fs::fstat(fd).map_err(|errno| system(errno.into()))?;
    if stat.st_mode & TYPE_MASK != 0 || kick::counts(fd).map_err(system)? {
        return Ok(());
    }
    Err(VhostError::NotACounter(request))
}

/// Makes reading and writing not block; false for what is no event. A worker reads and writes it, so anything whose
/// reads and writes can wait or fill a disk is out: what is left are pipes and what has no file type, as an eventfd.
fn set_event(fd: &OwnedFd) -> io::Result<bool> {
    let stat = rustix::fs::fstat(fd)?;
    // Zero: an anonymous inode (Linux `fs/anon_inodes.c`).
    let kind = stat.st_mode & TYPE_MASK;
    if kind != 0 && FileType::from_raw_mode(stat.st_mode) != FileType::Fifo {
        return Ok(false);
    }
    let flags = rustix::fs::fcntl_getfl(fd)?;
    rustix::fs::fcntl_setfl(fd, flags | OFlags::NONBLOCK)?;
    Ok(true)
}

/// S_IFMT.
const TYPE_MASK: u32 = 0o170_000;

fn addresses(ring: &RingState) -> (u64, u64, u64, Option<u64>) {
    let RingState {
        desc_user_addr,
        avail_user_addr,
        used_user_addr,
        log_guest_addr,
        ..
    } = *ring;
    (
        desc_user_addr,
        avail_user_addr,
        used_user_addr,
        log_guest_addr,
    )
}

/// Where SET_VRING_BASE says the ring stands; without it, at the beginning.
///
/// DPDK tells and gives the available half of a packed ring only (`virtio_user_kick_queue`,
/// `vhost_user_get_vring_base`); nothing is in flight when it does. So a used half of zero means "the same". Taken
/// literally it would say that the device has just begun its second lap while buffers are in flight, and no back end
/// that completes everything before it stops says that.
pub(super) fn position(base: Option<u32>, is_packed: bool) -> Position {
    if !is_packed {
        let avail = base.unwrap_or(0) as u16;
        return Position { avail, used: None };
    }
    let base = base.unwrap_or_else(|| u32::from(WRAP));
    let (avail, used) = (base as u16, (base >> USED_SHIFT) as u16);
    let used = if used == 0 { avail } else { used };
    Position {
        avail,
        used: Some(used),
    }
}

/// The inverse.
fn base(position: Position, is_packed: bool) -> u32 {
    let avail = u32::from(position.avail);
    match position.used {
        Some(used) if is_packed => avail | u32::from(used) << USED_SHIFT,
        _ => avail,
    }
}

/// What must hold before a ring runs. Most was checked when it was told, but features can change afterwards.
pub(super) fn check(device: &Device, request: Request, index: usize) -> Result<(), VhostError> {
    let Some(ring) = device.rings.get(index) else {
        return Ok(());
    };
    let is_packed = device.is_packed();
    if !is_packed && !ring.size.is_power_of_two() {
        let size = ring.size.into();
        return Err(VhostError::RingSize {
            request,
            index,
            size,
        });
    }
    aligned(ring, is_packed, request, index)?;
    let halves = [ring.position.avail, ring.position.used.unwrap_or(0)];
    let inside = |half: u16| half & !WRAP < ring.size;
    if is_packed && !halves.into_iter().all(inside) {
        let base = base(ring.position, is_packed);
        return Err(VhostError::RingPosition {
            request,
            index,
            base,
        });
    }
    Ok(())
}

fn aligned(
    ring: &RingState,
    is_packed: bool,
    request: Request,
    index: usize,
) -> Result<(), VhostError> {
    let parts = ring_parts(ring, is_packed);
    match parts
        .iter()
        .find(|part| !part.user_addr.is_multiple_of(part.align))
    {
        None => Ok(()),
        Some(part) => Err(VhostError::RingMisaligned {
            request,
            index,
            part: part.name,
            addr: part.user_addr,
        }),
    }
}
