//! What the offloads of a TAP do to packets: a super-packet is sent towards it, and what its reader gets is counted.
//!
//! The rules about TAPs stand on this: without GUEST_CSUM and GUEST_TSO every super-packet is cut before the guest.

use std::io;
use std::time::{Duration, Instant};

use jumbo_lab::ns::{NetNs, check_tun};
use jumbo_lab::packet_socket::PacketSocket;
use jumbo_lab::skip;
use jumbo_lab::tap::{Tap, TapOffloads, TapSpec};

use super::Result;

/// The virtio header before each packet a TAP's reader gets.
const VNET_LEN: usize = jumbo_lab::tap::VNET_HEADER_LEN;
const NEEDS_CSUM: u8 = 1;
const GSO_TCPV4: u8 = 1;
const GSO_ECN: u8 = 0x80;
/// Ethernet, IPv4 and TCP without options.
const HEADERS_LEN: usize = 14 + 20 + 20;
const PAYLOAD_LEN: usize = 40_000;
const MSS: u16 = 1460;
/// TUN_F_CSUM, TUN_F_TSO4, TUN_F_TSO6, TUN_F_TSO_ECN (include/uapi/linux/if_tun.h).
const TSO_AND_ECN: u32 = 0x0f;
const CWR: u8 = 0x80;
const ACK: u8 = 0x10;
const SOURCE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x77];

/// A TCP super-packet with a pending checksum, preceded by its virtio header.
fn super_packet(flags: u8) -> Vec<u8> {
    let ecn = if flags & CWR != 0 { GSO_ECN } else { 0 };
    let mut packet = vec![NEEDS_CSUM, GSO_TCPV4 | ecn];
    for half in [HEADERS_LEN as u16, MSS, 34, 16] {
        packet.extend(half.to_ne_bytes());
    }
    packet.extend([2, 0, 0, 0, 0, 0x99]);
    packet.extend(SOURCE_MAC);
    packet.extend([0x08, 0x00]);
    let total_len = u16::try_from(40 + PAYLOAD_LEN).expect("an IPv4 packet");
    let mut ip = [
        0x45, 0, 0, 0, 0, 1, 0x40, 0, 64, 6, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2,
    ];
    ip[2..4].copy_from_slice(&total_len.to_be_bytes());
    let sum = !ones_sum(&ip);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend(ip);
    let mut tcp = [
        0x12, 0x34, 0, 80, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0,
    ];
    let tcp_len = u16::try_from(20 + PAYLOAD_LEN).expect("fits");
    let mut pseudo = ip[12..20].to_vec();
    pseudo.extend([0, 6]);
    pseudo.extend(tcp_len.to_be_bytes());
    tcp[16..18].copy_from_slice(&ones_sum(&pseudo).to_be_bytes());
    packet.extend(tcp);
    packet.extend((0..PAYLOAD_LEN).map(|at| at as u8));
    packet
}

fn ones_sum(bytes: &[u8]) -> u16 {
    let words = bytes
        .chunks(2)
        .map(|two| u32::from(two[0]) << 8 | two.get(1).map_or(0, |low| u32::from(*low)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// A packet as the reader got it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Got {
    needs_csum: bool,
    gso_type: u8,
    len: usize,
}

/// Reads until all payload has come; ours only, since the kernel says things of its own.
fn read_all(tap: &Tap) -> Result<Vec<Got>> {
    let mut got = Vec::new();
    let (mut payload_len, began) = (0, Instant::now());
    let mut buffer = vec![0u8; 70_000];
    while payload_len < PAYLOAD_LEN {
        assert!(
            began.elapsed() < Duration::from_secs(10),
            "only {payload_len} bytes came: {got:?}"
        );
        match tap.read(&mut buffer) {
            Ok(len)
                if len > VNET_LEN + HEADERS_LEN
                    && buffer[VNET_LEN + 6..VNET_LEN + 12] == SOURCE_MAC =>
            {
                payload_len += len - VNET_LEN - HEADERS_LEN;
                got.push(Got {
                    needs_csum: buffer[0] & NEEDS_CSUM != 0,
                    gso_type: buffer[1],
                    len: len - VNET_LEN,
                });
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                std::thread::sleep(Duration::from_millis(1))
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(got)
}

pub(super) fn offloads_of_a_tap_decide_what_its_reader_gets() -> Result {
    check_tun().map_err(skip)?;
    let ns = NetNs::new()?;
    let links = ns.links()?;
    let tap = Tap::create(&ns, &TapSpec::new("t0", TapOffloads::NONE))?;
    links.add_veth("v0", "v1", &ns)?;
    links.add_bridge("br0")?;
    links.enslave("v1", "br0")?;
    links.enslave("t0", "br0")?;
    for name in ["br0", "v0", "v1", "t0"] {
        links.up(name)?;
    }
    let socket = PacketSocket::open(&ns, "v0", true)?;
    let cut = PAYLOAD_LEN.div_ceil(MSS.into());
    let whole = |gso_type| {
        vec![Got {
            needs_csum: true,
            gso_type,
            len: HEADERS_LEN + PAYLOAD_LEN,
        }]
    };
    let through = |offloads: TapOffloads, flags: u8| -> Result<Vec<Got>> {
        tap.set_offloads(offloads)?;
        socket.send(&super_packet(flags))?;
        read_all(&tap)
    };
    // GuestDeclined (TAP001): cut, and every checksum computed here.
    let none = through(TapOffloads::NONE, ACK)?;
    assert_eq!(none.len(), cut, "{none:?}");
    assert!(
        none.iter()
            .all(|got| got.gso_type == 0 && !got.needs_csum && got.len <= 1514)
    );
    // PartialNegotiation (TAP002): still cut.
    let checksum = through(TapOffloads::CHECKSUM, ACK)?;
    assert_eq!(checksum.len(), cut);
    assert!(
        checksum
            .iter()
            .all(|got| got.gso_type == 0 && got.needs_csum)
    );
    // NoFailure: one, whole.
    assert_eq!(through(TapOffloads::TSO, ACK)?, whole(GSO_TCPV4));
    // TAP004: a packet that carries CWR is cut until ECN is asked for too.
    assert_eq!(through(TapOffloads::TSO, ACK | CWR)?.len(), cut);
    let ecn = TapOffloads::from_bits(TSO_AND_ECN);
    assert_eq!(through(ecn, ACK | CWR)?, whole(GSO_TCPV4 | GSO_ECN));
    Ok(())
}
