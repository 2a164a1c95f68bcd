//! Every mixture of offloads at the far side, at two MTUs, with and without a VLAN
//! tag, IPv4 and IPv6, TCP and UDP, every byte compared; the kernel's own bridge in
//! the switch's place is the judge of what must pass.

use jumbo_lab::bpf::{self, Attached};
use jumbo_lab::ethtool::Offload;
use jumbo_lab::ns::NetNs;
use jumbo_lab::traffic::connect::connections;
use jumbo_lab::traffic::{UdpSpec, udp};
use jumbo_lab::{Family, Host, TestError, skip};

use crate::rig::{Kind, Net, Outcome, Setup, cable, plug, rest, transfer};

/// What a host leaves to its interface, and lets it do.
#[derive(Copy, Clone, Debug)]
struct FarSide {
    rx_csum: bool,
    tx_csum: bool,
    tso: bool,
    gso: bool,
    gro: bool,
}

/// All there are: without a checksum left to finish there is no TSO.
fn far_sides() -> Vec<FarSide> {
    let bit = |bits: u32, at: u32| bits & (1 << at) != 0;
    let all = (0..32).map(|bits| FarSide {
        rx_csum: bit(bits, 0),
        gro: bit(bits, 1),
        gso: bit(bits, 2),
        tso: bit(bits, 3),
        tx_csum: bit(bits, 4),
    });
    all.filter(|side| side.tx_csum || !side.tso).collect()
}

impl FarSide {
    /// `strict` where the interface can do all of it; XDP in a veth's driver takes
    /// TSO from its other end.
    fn set(self, host: &Host, strict: bool) -> Outcome {
        let links = host.links()?;
        // What needs something else comes after it, and goes before it.
        let mut settings = vec![
            (Offload::TxChecksum, self.tx_csum),
            (Offload::Tso, self.tso),
            (Offload::Gso, self.gso),
            (Offload::RxChecksum, self.rx_csum),
            (Offload::Gro, self.gro),
        ];
        if !self.tx_csum {
            settings.swap(0, 1);
        }
        for (offload, on) in settings {
            match links.set_offload("t0", offload, on) {
                Err(error) if strict => return Err(error.into()),
                _ => {}
            }
        }
        Ok(())
    }
}

/// The kernel's bridge between two hosts. The namespace keeps it.
fn bridged(mtu: u32) -> Result<(NetNs, Vec<Host>), TestError> {
    let middle = NetNs::new()?;
    let links = middle.links()?;
    links.add_bridge("b0")?;
    let mut hosts = Vec::new();
    for number in [1, 2] {
        let (host, near) = (Host::new(number)?, format!("w{number}"));
        cable(&middle, &near, &host, mtu)?;
        links.enslave(&near, "b0")?;
        hosts.push(host);
    }
    links.up("b0")?;
    plug(&hosts)?;
    Ok((middle, hosts))
}

/// Both hosts are in VLAN 7, if at all.
fn tagged(hosts: &[Host], tpid: Option<u16>) -> Result<Vec<Attached>, TestError> {
    let tags = |tpid| {
        let one = |host: &Host| bpf::tag_all(&host.ns, "t0", tpid, 7);
        hosts.iter().map(one).collect::<Result<Vec<_>, _>>()
    };
    let tags = tpid.map(tags).transpose();
    Ok(tags
        .map_err(|error| skip(format!("{error} (root, Linux 6.6)")))?
        .unwrap_or_default())
}

/// Every far side at both ends, each beside another one.
fn try_all(hosts: &[Host], strict: bool, what: &str) -> Outcome {
    let sides = far_sides();
    for (i, one) in sides.iter().enumerate() {
        let two = sides[(7 * i + 3) % sides.len()];
        one.set(&hosts[0], strict)?;
        two.set(&hosts[1], strict)?;
        pass(hosts, i).map_err(|error| {
            TestError::Failed(format!("{what}, {one:?} and {two:?}: {error:?}"))
        })?;
    }
    Ok(())
}

fn pass(hosts: &[Host], round: usize) -> Outcome {
    for family in [Family::V4, Family::V6] {
        transfer(&hosts[0], &hosts[1], family, 1, 200_000)?;
        let (from, to) = (&hosts[round % 2], &hosts[1 - round % 2]);
        let spec = UdpSpec {
            family,
            count: 120,
            segments_per_send: [1, 20][round / 2 % 2],
            rate_pps: Some(20_000),
            gro: round / 4 % 2 == 1,
            ..UdpSpec::default()
        };
        let report = udp(from, to, &spec)?;
        let (intact, reordered) = (report.intact, report.reordered);
        if (intact, reordered) != (Some(true), 0) || report.received == 0 {
            return Err(TestError::Failed(format!("{spec:?}: {report:?}")));
        }
    }
    Ok(())
}

fn judged(tpid: Option<u16>) -> Outcome {
    for mtu in [1500, 9000] {
        let (_middle, hosts) = bridged(mtu)?;
        let _tags = tagged(&hosts, tpid)?;
        try_all(&hosts, true, &format!("the kernel's bridge, MTU {mtu}"))?;
        for (kind, workers) in [
            (Kind::Packet, 1),
            (Kind::Packet, 2),
            (Kind::PacketBypass, 1),
        ] {
            let setup = Setup { kind, workers, mtu };
            let net = Net::pair(setup)?;
            if tpid.is_some_and(|tpid| tpid != 0x8100) {
                // AF_PACKET leaves room for one tag, and only for one of this kind.
                net.links()?.set_mtu("w1", mtu + 4)?;
                net.links()?.set_mtu("w2", mtu + 4)?;
            }
            let _tags = tagged(&net.hosts, tpid)?;
            try_all(&net.hosts, true, &format!("{setup:?}"))?;
            rest(&net.switch, &[]);
        }
    }
    Ok(())
}

pub(crate) fn every_mixture_of_offloads_passes() -> Outcome {
    judged(None)
}

pub(crate) fn every_mixture_of_offloads_passes_tagged() -> Outcome {
    judged(Some(0x8100))
}

pub(crate) fn every_mixture_of_offloads_passes_tagged_by_a_provider() -> Outcome {
    judged(Some(0x88a8))
}

pub(crate) fn every_mixture_of_offloads_passes_xdp_in_the_driver() -> Outcome {
    for mtu in [1500, 9000] {
        let kind = Kind::XdpNative;
        let net = Net::pair(Setup {
            kind,
            workers: 1,
            mtu,
        })?;
        try_all(&net.hosts, false, &format!("XDP, MTU {mtu}"))?;
        rest(&net.switch, &["ring_full", "queue_full"]);
    }
    Ok(())
}

/// A host in a VLAN cannot be heard by one that is in none, unless the tag is lost.
fn is_tag_kept(kind: Kind, left_to_interface: bool) -> Result<bool, TestError> {
    let net = Net::pair(Setup {
        kind,
        workers: 1,
        mtu: 1500,
    })?;
    let _tags = tagged(&net.hosts[..1], Some(0x8100))?;
    let links = net.hosts[0].links()?;
    links.set_feature("t0", "tx-vlan-hw-insert", left_to_interface)?;
    crate::rig::no_super_packets(&net)?;
    Ok(connections(&net.hosts[0], &net.hosts[1], Family::V4, 1).is_err())
}

/// A tag that the sender leaves to its interface is nowhere in the bytes that XDP
/// sees, and is lost: `jumbo run` says so. One in the bytes passes.
pub(crate) fn tags_are_kept_but_what_xdp_cannot_see() -> Outcome {
    for kind in [Kind::Packet, Kind::XdpNative, Kind::XdpGeneric] {
        assert!(is_tag_kept(kind, false)?, "{kind:?}: in the bytes");
        let kept = is_tag_kept(kind, true)?;
        assert_eq!(kept, kind == Kind::Packet, "{kind:?}: beside the bytes");
    }
    Ok(())
}

pub(crate) fn tags_in_the_bytes_pass_xdp() -> Outcome {
    for kind in [Kind::XdpNative, Kind::XdpGeneric] {
        let net = Net::pair(Setup {
            kind,
            workers: 1,
            mtu: 1500,
        })?;
        let _tags = tagged(&net.hosts, Some(0x8100))?;
        for host in &net.hosts {
            host.links()?
                .set_feature("t0", "tx-vlan-hw-insert", false)?;
        }
        crate::rig::no_super_packets(&net)?;
        pass(&net.hosts, 0)?;
        rest(&net.switch, &["ring_full", "queue_full"]);
    }
    Ok(())
}
