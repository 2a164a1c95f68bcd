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
const TAG_LEN: usize = 4;
const TCP: u8 = 6;
const UDP: u8 = 17;

/// The virtio header of a packet whose first bytes are `head`, if its transport
/// checksum is partial. IPv6 extension headers are not looked through: such a packet
/// keeps its wrong checksum, as with any other AF_XDP program.
pub(super) fn find(head: &[u8]) -> Option<VnetHeader> {
    let l2_len = l2_len(head)?;
    let l3 = head.get(l2_len..)?;
    let be16 = |at: usize| Some(u16::from_be_bytes([*l3.get(at)?, *l3.get(at + 1)?]));
    let (protocol, l3_len, sum): (u8, usize, Sum) = match head.get(l2_len - 2..l2_len)? {
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
        csum_start: (l2_len + l3_len) as u16,
        csum_offset: csum_offset as u16,
        ..VnetHeader::default()
    })
}

/// Bytes before the network header: Ethernet and up to two VLAN tags.
fn l2_len(head: &[u8]) -> Option<usize> {
    let is_tag = |len: &usize| {
        let ethertype = head.get(len - 2..*len);
        matches!(ethertype, Some([0x81, 0x00] | [0x88, 0xa8]))
    };
    (0..=2)
        .map(|tags| ETHERNET_LEN + tags * TAG_LEN)
        .find(|len| !is_tag(len))
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}
