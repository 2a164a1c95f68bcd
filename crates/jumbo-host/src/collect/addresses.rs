//! Which device holds an address, by rtnetlink.

use std::io;
use std::net::IpAddr;

use crate::change::address;
use crate::netlink::{Answers, Bus, Socket, attributes};

const RTM_GETADDR: u16 = 22;
/// `struct ifaddrmsg`: family, prefix length, flags, scope, index.
const IFADDR_LEN: usize = 8;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;

/// Indexes of the devices with this address.
pub(crate) fn holders(wanted: IpAddr) -> io::Result<Vec<u32>> {
    let answers = Socket::open(Bus::Route)?.ask(RTM_GETADDR, &[0; IFADDR_LEN], Answers::List)?;
    let holder = |answer: &Vec<u8>| {
        let index = answer.get(4..).and_then(<[u8]>::first_chunk).copied()?;
        let mut all = attributes(answer.get(IFADDR_LEN..)?)
            .filter(|one| matches!(one.kind, IFA_ADDRESS | IFA_LOCAL));
        all.any(|one| address(one.value) == Some(wanted))
            .then(|| u32::from_ne_bytes(index))
    };
    Ok(answers.iter().filter_map(holder).collect())
}
