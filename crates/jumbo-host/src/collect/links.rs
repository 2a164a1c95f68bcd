//! Links by rtnetlink.
//!
//! Source: include/uapi/linux/if_link.h, if_tun.h; net/core/rtnetlink.c, rtnl_fill_ifinfo.

use std::io;

use crate::netlink::{Answers, Attribute, Bus, Socket, attributes};
use crate::snapshot::{Device, Stats, Tun, XdpMode};

const RTM_GETLINK: u16 = 18;
/// `struct ifinfomsg`: family, padding, type, index, flags, change.
const IFINFO_LEN: usize = 16;
const IFF_UP: u32 = 1;
const IFF_LOOPBACK: u32 = 8;

const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_QDISC: u16 = 6;
const IFLA_MASTER: u16 = 10;
const IFLA_TXQLEN: u16 = 13;
const IFLA_LINKINFO: u16 = 18;
const IFLA_STATS64: u16 = 23;
const IFLA_NUM_TX_QUEUES: u16 = 31;
const IFLA_NUM_RX_QUEUES: u16 = 32;
const IFLA_CARRIER: u16 = 33;
const IFLA_LINK_NETNSID: u16 = 37;
const IFLA_GSO_MAX_SIZE: u16 = 41;
const IFLA_XDP: u16 = 43;
const IFLA_GRO_MAX_SIZE: u16 = 58;
const IFLA_TSO_MAX_SIZE: u16 = 59;

const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_VXLAN_LINK: u16 = 3;
const IFLA_XDP_ATTACHED: u16 = 2;

const IFLA_TUN_TYPE: u16 = 3;
const IFLA_TUN_VNET_HDR: u16 = 5;
const IFLA_TUN_PERSIST: u16 = 6;
const IFLA_TUN_MULTI_QUEUE: u16 = 7;
const IFLA_TUN_NUM_QUEUES: u16 = 8;
/// IFF_TAP; IFF_TUN is 1.
const TUN_TYPE_TAP: u8 = 2;

/// All links of the calling thread's namespace, by index.
pub(super) fn list() -> io::Result<Vec<Device>> {
    let socket = Socket::open(Bus::Route)?;
    let answers = socket.ask(RTM_GETLINK, &[0; IFINFO_LEN], Answers::List)?;
    let mut devices: Vec<_> = answers.iter().filter_map(|answer| device(answer)).collect();
    devices.sort_by_key(|device| device.index);
    Ok(devices)
}

fn device(answer: &[u8]) -> Option<Device> {
    let word = |at: usize| {
        answer
            .get(at..)
            .and_then(<[u8]>::first_chunk)
            .copied()
            .map(u32::from_ne_bytes)
    };
    let (index, flags) = (word(4)?, word(8)?);
    let mut device = Device {
        index,
        up: flags & IFF_UP != 0,
        kind: if flags & IFF_LOOPBACK != 0 {
            "loopback"
        } else {
            "nic"
        }
        .into(),
        ..Device::default()
    };
    for attribute in attributes(answer.get(IFINFO_LEN..)?) {
        apply(&mut device, &attribute);
    }
    (!device.name.is_empty()).then_some(device)
}

fn apply(device: &mut Device, attribute: &Attribute<'_>) {
    let number = attribute.u32().unwrap_or(0);
    match attribute.kind {
        IFLA_IFNAME => device.name = attribute.text(),
        IFLA_MTU => device.mtu = number,
        // A link that names itself has none below it.
        IFLA_LINK => device.lower = (number != 0 && number != device.index).then_some(number),
        IFLA_QDISC => device.qdisc = attribute.text(),
        IFLA_MASTER => device.controller = (number != 0).then_some(number),
        IFLA_TXQLEN => device.tx_queue_len = number,
        IFLA_LINKINFO => link_info(device, attribute),
        IFLA_STATS64 => device.stats = stats(attribute.value),
        IFLA_NUM_TX_QUEUES => device.queues.1 = number,
        IFLA_NUM_RX_QUEUES => device.queues.0 = number,
        IFLA_CARRIER => device.carrier = attribute.u8() == Some(1),
        IFLA_LINK_NETNSID => device.lower_elsewhere = true,
        IFLA_GSO_MAX_SIZE => device.gso_max_size = number,
        IFLA_GRO_MAX_SIZE => device.gro_max_size = number,
        IFLA_TSO_MAX_SIZE => device.tso_max_size = number,
        IFLA_XDP => device.xdp = xdp(attribute),
        _ => {}
    }
}

fn link_info(device: &mut Device, attribute: &Attribute<'_>) {
    let find = |kind| attribute.nested().find(|inside| inside.kind == kind);
    if let Some(kind) = find(IFLA_INFO_KIND) {
        device.kind = kind.text();
    }
    let data = find(IFLA_INFO_DATA);
    match (device.kind.as_str(), data) {
        ("tun", Some(data)) => device.tun = Some(tun(&data)),
        ("vxlan" | "geneve", Some(data)) => {
            let lower = data.nested().find(|inside| inside.kind == IFLA_VXLAN_LINK);
            if device.kind == "vxlan" {
                device.lower = lower
                    .and_then(|index| index.u32())
                    .filter(|index| *index != 0);
            }
        }
        _ => {}
    }
}

fn tun(data: &Attribute<'_>) -> Tun {
    let mut tun = Tun::default();
    for attribute in data.nested() {
        let yes = attribute.u8() == Some(1);
        match attribute.kind {
            IFLA_TUN_TYPE => tun.tap = attribute.u8() == Some(TUN_TYPE_TAP),
            IFLA_TUN_VNET_HDR => tun.vnet_header = yes,
            IFLA_TUN_PERSIST => tun.persist = yes,
            IFLA_TUN_MULTI_QUEUE => tun.multi_queue = yes,
            IFLA_TUN_NUM_QUEUES => tun.attached_queues = attribute.u32(),
            _ => {}
        }
    }
    tun
}

fn xdp(attribute: &Attribute<'_>) -> XdpMode {
    let attached = attribute
        .nested()
        .find(|inside| inside.kind == IFLA_XDP_ATTACHED);
    match attached.and_then(|attached| attached.u8()) {
        Some(1) => XdpMode::Native,
        Some(2) => XdpMode::Generic,
        Some(3) => XdpMode::Hardware,
        Some(4) => XdpMode::Multiple,
        _ => XdpMode::None,
    }
}

/// `struct rtnl_link_stats64`: 64-bit counters in this order.
fn stats(bytes: &[u8]) -> Stats {
    let counter = |index: usize| {
        let at = bytes.get(index * 8..).and_then(<[u8]>::first_chunk);
        at.map_or(0, |bytes| u64::from_ne_bytes(*bytes))
    };
    Stats {
        rx_packets: counter(0),
        tx_packets: counter(1),
        rx_bytes: counter(2),
        tx_bytes: counter(3),
        rx_dropped: counter(6),
        tx_dropped: counter(7),
        rx_fifo_errors: counter(14),
        rx_missed_errors: counter(15),
    }
}
