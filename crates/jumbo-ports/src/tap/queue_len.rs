//! The length of a device's queue, set by rtnetlink: the ioctl for it asks for
//! rights over the whole machine, which a user namespace does not have (Linux
//! 6.18 `net/core/dev_ioctl.c` `dev_ioctl`, SIOCSIFTXQLEN).

use netlink_packet_core::{NLM_F_ACK, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkMessage};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

/// Sets how many packets wait in the device `name` of this network namespace.
pub(super) fn set(name: &str, packets: u32) -> Result<(), Errno> {
    let socket = rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        None, // NETLINK_ROUTE is protocol 0
    )?;
    let mut link = LinkMessage::default();
    link.attributes.push(LinkAttribute::IfName(name.to_owned()));
    link.attributes.push(LinkAttribute::TxQueueLen(packets));
    let mut message = NetlinkMessage::from(RouteNetlinkMessage::SetLink(link));
    message.header.flags = NLM_F_REQUEST | NLM_F_ACK;
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    rustix::net::send(&socket, &bytes, SendFlags::empty())?;
    let mut answer = [0; 4096];
    // The kernel has answered by the time `send` returns.
    let (len, _) = rustix::net::recv(&socket, &mut answer[..], RecvFlags::DONTWAIT)?;
    verdict(&answer[..len])
}

fn verdict(answer: &[u8]) -> Result<(), Errno> {
    let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(answer);
    match message.map_err(|_| Errno::PROTO)?.payload {
        NetlinkPayload::Error(error) => match error.code {
            None => Ok(()),
            Some(code) => Err(Errno::from_raw_os_error(code.get().saturating_abs())),
        },
        _ => Err(Errno::PROTO),
    }
}
