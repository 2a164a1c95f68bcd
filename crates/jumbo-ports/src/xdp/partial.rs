//! Checksums that a veth's other end left to us.
//!
//! Between two ends of a veth nobody finishes a checksum (CHECKSUM_PARTIAL), and XDP
//! has no word for that: the packet arrives with the folded pseudo-header sum where
//! the checksum belongs. Such a field is taken for what it is. A finished checksum is
//! equal to that sum once in 65536 packets; finishing it once more then gives the same
//! value again, so nothing is lost by the mistake.

use jumbo_engine::checksum::{Sum, pseudo_v4, pseudo_v6};
use jumbo_engine::vnet::VnetHeader;

const ETHERNET_LEN: usize = 14;
const TCP: u8 = 6;
const UDP: u8 = 17;

/// The virtio header of a packet whose first bytes are `head`, if its transport
/// checksum is partial. Options, extension headers and tags are not looked through:
/// such a packet keeps its wrong checksum, as with any other AF_XDP program.
pub(super) fn find(head: &[u8]) -> Option<VnetHeader> {
    let l3 = head.get(ETHERNET_LEN..)?;
    let be16 = |at: usize| Some(u16::from_be_bytes([*l3.get(at)?, *l3.get(at + 1)?]));
    let (protocol, l3_len, sum): (u8, usize, Sum) = match head.get(12..14)? {
        [0x08, 0x00] => {
            let l3_len = usize::from(l3.first()? & 0x0f) * 4;
            let l4_len = usize::from(be16(2)?).checked_sub(l3_len)?;
            // No fragment: it has no checksum of its own.
            if be16(6)? & 0x3fff != 0 || l3_len < 20 {
                return None;
            }
            let protocol = *l3.get(9)?;
            let addresses = (array(l3, 12)?, array(l3, 16)?);
            let sum = pseudo_v4(addresses.0, addresses.1, protocol, l4_len as u32);
            (protocol, l3_len, sum)
        }
        [0x86, 0xdd] => {
            let protocol = *l3.get(6)?;
            let addresses = (array(l3, 8)?, array(l3, 24)?);
            let sum = pseudo_v6(addresses.0, addresses.1, protocol, be16(4)?.into());
            (protocol, 40, sum)
        }
        _ => return None,
    };
    let csum_offset = match protocol {
        TCP => 16,
        UDP => 6,
        _ => return None,
    };
    let field = be16(l3_len + csum_offset)?;
    // The field holds the sum itself, a finished checksum its complement.
    (field == !sum.checksum()).then(|| VnetHeader {
        flags: 1,
        csum_start: (ETHERNET_LEN + l3_len) as u16,
        csum_offset: csum_offset as u16,
        ..VnetHeader::default()
    })
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}
