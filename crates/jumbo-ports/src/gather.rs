//! A packet to a file of the kernel: virtio header, private header and payload in one call.

use std::os::fd::BorrowedFd;

use arrayvec::ArrayVec;
use jumbo_engine::arena::Pieces;
use jumbo_engine::packet::{HEADER_ROOM, Packet};
use jumbo_engine::vnet::{Form, VnetHeader};
use rustix::io::Errno;

use crate::pool::{Piece, Pool};
use crate::queue::{PACKET_ROOM, TxFault};
use crate::sys::io::writev;

/// The form of the virtio header: neither a TAP nor an AF_PACKET socket has a use
/// for the buffer count of the longer ones.
pub(crate) const FORM: Form = Form::Legacy10;

/// Its length, bytes.
pub(crate) const VNET_LEN: usize = FORM.len_bytes();

/// Most pieces of payload in one call. An aggregate of MTU-sized packets has
/// fewer; one with more is copied together first.
const PIECES_MAX: usize = 64;

/// Writes packets, one a call.
#[derive(Debug)]
pub(crate) struct Gather {
    /// Where a packet of too many pieces is copied together.
    together: Vec<u8>,
}

impl Gather {
    /// Allocates all it will ever need.
    pub(crate) fn new() -> Self {
        Self {
            together: Vec::with_capacity(PACKET_ROOM + HEADER_ROOM),
        }
    }

    /// Writes the packet to `file`. What the kernel says is the inner result.
    #[inline]
    pub(crate) fn write(
        &mut self,
        file: BorrowedFd<'_>,
        packet: &Packet,
        payload: Pieces<'_>,
        pool: &Pool,
    ) -> Result<Result<usize, Errno>, TxFault> {
        let mut head = [0; VNET_LEN + HEADER_ROOM + 8];
        VnetHeader::of(packet).encode(FORM, &mut head);
        let header_len = packet.write_header(&mut head[VNET_LEN..]).unwrap_or(0);
        let head = &head[..VNET_LEN + header_len];
        let mut pieces: ArrayVec<Piece<'_>, { PIECES_MAX + 1 }> = ArrayVec::new();
        pieces.push(Piece::of(head));
        for frag in payload {
            let piece = pool.piece(frag).ok_or(TxFault::PayloadMissing)?;
            if pieces.try_push(piece).is_err() {
                return self.write_together(file, head, payload, pool);
            }
        }
        Ok(writev(file, &pieces))
    }

    /// Writes a packet of many pieces as one.
    #[cold]
    fn write_together(
        &mut self,
        file: BorrowedFd<'_>,
        head: &[u8],
        payload: Pieces<'_>,
        pool: &Pool,
    ) -> Result<Result<usize, Errno>, TxFault> {
        self.together.clear();
        self.together.extend_from_slice(head);
        pool.append_to(payload, &mut self.together)
            .ok_or(TxFault::PayloadMissing)?;
        Ok(rustix::io::write(file, &self.together))
    }
}
