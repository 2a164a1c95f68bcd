//! A packet to a file of the kernel: virtio header, private header and payload in one call.

use std::os::fd::BorrowedFd;

use arrayvec::ArrayVec;
use jumbo_engine::arena::Pieces;
use jumbo_engine::packet::{HEADERS_MAX, Packet};
use jumbo_engine::vnet::{Form, VnetHeader};
use rustix::io::Errno;

use crate::pool::{Piece, Pool};
use crate::queue::{PACKET_ROOM, TxFault};
use crate::sys::io::writev;

/// The longest virtio header: one that describes tunnels. Without them it is
/// [`Form::Legacy10`]: neither a TAP nor an AF_PACKET socket has a use for a
/// buffer count.
const VNET_MAX: usize = Form::Tunnel24.len_bytes();

/// Most pieces of payload in one call. An aggregate of MTU-sized packets has
/// fewer, even one of 512 KB; one with more is copied together first.
const PIECES_MAX: usize = 384;

/// Writes packets, one a call.
#[derive(Debug)]
pub(crate) struct Gather {
    form: Form,
    /// Where a packet of too many pieces is copied together.
    together: Vec<u8>,
}

impl Gather {
    /// With that form of the virtio header. Allocates all it will ever need.
    pub(crate) fn new(form: Form) -> Self {
        Self {
            form,
            together: Vec::with_capacity(PACKET_ROOM + HEADERS_MAX),
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
        let mut head = [0; VNET_MAX + HEADERS_MAX];
        let vnet_len = self.form.len_bytes();
        VnetHeader::of(packet).encode(self.form, &mut head);
        let header_len = packet.write_header(&mut head[vnet_len..]).unwrap_or(0);
        let head = &head[..vnet_len + header_len];
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
