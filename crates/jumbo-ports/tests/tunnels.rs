//! Super-packets in tunnels beside the kernel: what a TAP negotiates, and what the kernel makes of
//! one that it has to segment.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use jumbo_engine::arena::{Arena, SliceMemory};
use jumbo_engine::checksum::Kernels;
use jumbo_engine::complete::{complete, plan};
use jumbo_engine::packet::{Frag, HEADERS_MAX, Link};
use jumbo_engine::pending::Caps;
use jumbo_engine::vnet::{Form, Trust, VnetHeader};
use jumbo_lab::ns::{Needs, NetNs};
use jumbo_lab::tap::{Tap, TapOffloads, TapSpec};
use jumbo_lab::{LabTest, TestError, skip, test_main};
use jumbo_ports::tap::{self, TapConfig};
use jumbo_testkit::PacketBuilder;

type Outcome = Result<(), TestError>;

fn main() -> ExitCode {
    test_main(
        Needs::Taps,
        vec![
            LabTest::new("tap_takes_tunnels_if_asked", tap_takes_tunnels_if_asked),
            LabTest::new(
                "kernel_segments_tunnels_as_we_do",
                kernel_segments_tunnels_as_we_do,
            ),
        ],
    )
}

/// CSUM, TSO4, TSO6, UDP_TUNNEL_GSO and _CSUM (Linux 6.17 `include/uapi/linux/if_tun.h`).
const TUNNELS: TapOffloads = TapOffloads::from_bits(0x01 | 0x02 | 0x04 | 0x80 | 0x100);

/// A TAP whose header describes tunnels, or none on an older kernel.
fn tunnel_tap(ns: &NetNs) -> Option<Tap> {
    let spec = TapSpec {
        vnet_header_len: Form::Tunnel24.len_bytes(),
        ..TapSpec::new("t0", TUNNELS)
    };
    Tap::create(ns, &spec).ok()
}

fn tap_takes_tunnels_if_asked() -> Outcome {
    let ns = NetNs::new()?;
    let known = tunnel_tap(&ns).is_some();
    for wanted in [false, true] {
        let caps = Caps::ALL.with_udp_tunnels(wanted, wanted);
        let config = TapConfig {
            device: "t1".into(),
            queues: 1,
            hands: caps,
            takes: caps,
            mtu: None,
        };
        let port = ns.run(|| tap::open(&config))?.expect("a TAP");
        for got in [port.info.hands, port.info.takes] {
            assert_eq!(got.udp_tunnel(), wanted && known);
            assert_eq!(got.udp_tunnel_csum(), wanted && known);
        }
    }
    Ok(())
}

struct Case {
    name: String,
    header: VnetHeader,
    bytes: Vec<u8>,
}

/// VXLAN and Geneve around TCP, both families inside and out.
fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for outer_v6 in [false, true] {
        for csum in [false, true] {
            for inner_v6 in [false, true] {
                for (port, udp) in [(4789, false), (6081, false), (4789, true)] {
                    cases.push(case(outer_v6, csum, inner_v6, port, udp));
                }
            }
        }
    }
    cases
}

fn case(outer_v6: bool, csum: bool, inner_v6: bool, port: u16, udp: bool) -> Case {
    let inner = PacketBuilder::ethernet().macs([6; 6], [4; 6]).id(0xfffe);
    let inner = match inner_v6 {
        true => inner.ipv6([1; 16], [2; 16]),
        false => inner,
    };
    let inner = match udp {
        true => inner.udp(7, 8),
        false => inner.timestamps(1, 2).flags(0x18),
    };
    let inner = inner.payload_len(3333).partial_checksum().build();
    let shim = match port {
        4789 => [8, 0, 0, 0, 0, 0, 42, 0],
        _ => [0, 0, 0x65, 0x58, 0, 0, 42, 0],
    };
    let base = PacketBuilder::ethernet().macs([2, 0, 0, 0, 0, 9], [2, 0, 0, 0, 0, 1]);
    let base = match outer_v6 {
        true => base.ipv6([0xfd; 16], [0xfe; 16]),
        false => base.ipv4([10, 0, 0, 1], [10, 0, 0, 2]).id(7),
    };
    let outer = base.udp(51234, port).payload(&[&shim[..], &inner].concat());
    let outer = match csum {
        true => outer.partial_checksum(),
        false => outer.no_checksum(),
    };
    let bytes = outer.build();
    let outer_th = if outer_v6 { 54 } else { 34 };
    let inner_nh = outer_th + 8 + 8 + 14;
    let csum_start = inner_nh + if inner_v6 { 40 } else { 20 };
    let kind = match (udp, inner_v6) {
        (true, _) => 5,
        (false, true) => 4,
        (false, false) => 1,
    };
    let header = VnetHeader {
        flags: if csum { 1 | 8 } else { 1 },
        gso_type: kind | if outer_v6 { 0x40 } else { 0x20 },
        hdr_len: csum_start + if udp { 8 } else { 32 },
        gso_size: 1000,
        csum_start,
        csum_offset: if udp { 6 } else { 16 },
        outer_th_offset: outer_th,
        inner_nh_offset: inner_nh,
        ..VnetHeader::default()
    };
    Case {
        name: format!("outer v6 {outer_v6}, sum {csum}, inner v6 {inner_v6}, {port}, udp {udp}"),
        header,
        bytes,
    }
}

impl Case {
    fn ours(&self) -> Vec<Vec<u8>> {
        let mut arena = Arena::new(1, 1);
        arena.follow_tunnels(true);
        let memory = SliceMemory::new(&self.bytes, Kernels::detect());
        let body = [Frag::new(0, self.bytes.len() as u32)];
        let vnet = Some((&self.header, Trust::Guest));
        let admitted = arena.admit(Link::Ethernet, &self.bytes, &body, vnet);
        let id = admitted.expect(&self.name).id;
        let packet = arena.packet(id);
        let (plan, payload) = (plan(packet, Caps::NONE, 1500), arena.payload(id));
        let mut segments = Vec::new();
        complete(packet, payload, plan, &memory, |packet, payload| {
            let mut segment = vec![0; HEADERS_MAX];
            let len = packet.write_header(&mut segment).expect("room");
            segment.truncate(len);
            for frag in payload {
                segment.extend_from_slice(memory.bytes(frag).expect("inside"));
            }
            segments.push(segment);
        })
        .expect(&self.name);
        segments
    }
}

/// What a TAP that takes nothing is given, if it is from us.
fn read_segments(tap: &Tap, count: usize) -> Vec<Vec<u8>> {
    let (mut segments, start) = (Vec::new(), Instant::now());
    let mut buffer = vec![0; 70_000];
    while segments.len() < count && start.elapsed() < Duration::from_secs(2) {
        match tap.read(&mut buffer) {
            Ok(len) if len > 26 && buffer[18..24] == [2, 0, 0, 0, 0, 1] => {
                assert_eq!(buffer[..2], [0, 0], "nothing pending");
                segments.push(buffer[12..len].to_vec());
            }
            Ok(_) => {}
            Err(_) => std::thread::sleep(Duration::from_micros(200)),
        }
    }
    segments
}

/// A bridge hands the super-packet from a TAP of ours to one that takes nothing.
fn kernel_segments_tunnels_as_we_do() -> Outcome {
    let ns = NetNs::new()?;
    let Some(from) = tunnel_tap(&ns) else {
        return Err(skip(
            "this kernel knows no tunnels on a TAP (Linux 6.17 does)",
        ));
    };
    let to = Tap::create(&ns, &TapSpec::new("t1", TapOffloads::NONE))?;
    let links = ns.links()?;
    links.add_bridge("br0")?;
    for name in ["t0", "t1"] {
        links.enslave(name, "br0")?;
    }
    for name in ["t0", "t1", "br0"] {
        links.up(name)?;
    }
    let mut different = Vec::new();
    for case in cases() {
        let mut whole = vec![0; Form::Tunnel24.len_bytes()];
        case.header
            .encode(Form::Tunnel24, &mut whole)
            .expect("room");
        whole.extend(&case.bytes);
        let ours = case.ours();
        let mut kernel = Vec::new();
        // A bridge port takes a moment before it forwards.
        let start = Instant::now();
        while kernel.is_empty() && start.elapsed() < Duration::from_secs(10) {
            from.write(&whole)?;
            kernel = read_segments(&to, ours.len());
        }
        if kernel != ours {
            let at = kernel.iter().zip(&ours).position(|(a, b)| a != b);
            different.push(format!(
                "{}: {} and {} segments, first different {at:?}\n kernel {:02x?}\n ours   {:02x?}",
                case.name,
                kernel.len(),
                ours.len(),
                at.map(|at| &kernel[at][..kernel[at].len().min(140)]),
                at.map(|at| &ours[at][..ours[at].len().min(140)]),
            ));
        }
    }
    assert!(different.is_empty(), "{}", different.join("\n"));
    Ok(())
}
