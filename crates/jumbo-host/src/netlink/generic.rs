//! Generic netlink: a family by its name, and questions to it.
//!
//! Source: include/uapi/linux/genetlink.h, net/netlink/genetlink.c.

use std::io;

use super::{Answers, Builder, Bus, Socket, attributes};

const GENL_ID_CTRL: u16 = 0x10;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;
const CTRL_ATTR_MCAST_GROUPS: u16 = 7;
/// `struct genlmsghdr`: command, version, two reserved bytes.
const GENL_HEADER_LEN: usize = 4;

/// A generic netlink family of the running kernel.
#[derive(Debug)]
pub(crate) struct Family {
    socket: Socket,
    id: u16,
    groups: Vec<(String, u32)>,
}

impl Family {
    /// Finds the family; `ENOENT` when the kernel does not have it.
    pub(crate) fn open(name: &str) -> io::Result<Self> {
        let socket = Socket::open(Bus::Generic)?;
        let question = question(CTRL_CMD_GETFAMILY).text(CTRL_ATTR_FAMILY_NAME, name);
        let answers = socket.ask(GENL_ID_CTRL, &question.0, Answers::One)?;
        let ids = answers.iter().flat_map(|answer| attributes(body(answer)));
        let mut ids = ids.filter(|attribute| attribute.kind == CTRL_ATTR_FAMILY_ID);
        let id = ids.next().and_then(|id| id.value.first_chunk().copied());
        let id = id.map(u16::from_ne_bytes).ok_or(io::ErrorKind::NotFound)?;
        let groups = answers
            .iter()
            .flat_map(|answer| groups(body(answer)))
            .collect();
        Ok(Self { socket, id, groups })
    }

    /// The number of one of its multicast groups.
    pub(crate) fn group(&self, name: &str) -> Option<u32> {
        let mut named = self.groups.iter().filter(|(other, _)| other == name);
        named.next().map(|(_, number)| *number)
    }

    /// The type of its messages.
    pub(crate) fn id(&self) -> u16 {
        self.id
    }

    /// Asks one command; the answers are attributes.
    pub(crate) fn ask(&self, question: &Builder, answers: Answers) -> io::Result<Vec<Vec<u8>>> {
        let mut payloads = self.socket.ask(self.id, &question.0, answers)?;
        for payload in &mut payloads {
            payload.drain(..GENL_HEADER_LEN.min(payload.len()));
        }
        Ok(payloads)
    }
}

/// A question to be filled with attributes. Every family we ask has version 1.
pub(crate) fn question(command: u8) -> Builder {
    Builder::after(&[command, 1, 0, 0])
}

fn body(payload: &[u8]) -> &[u8] {
    payload.get(GENL_HEADER_LEN..).unwrap_or_default()
}

/// A nest of nests: name 1, number 2.
fn groups(answer: &[u8]) -> Vec<(String, u32)> {
    let lists = attributes(answer).filter(|one| one.kind == CTRL_ATTR_MCAST_GROUPS);
    let group = |nest: super::Attribute<'_>| {
        let name = nest.nested().find(|one| one.kind == 1)?.text();
        let number = nest.nested().find(|one| one.kind == 2)?.u32()?;
        Some((name, number))
    };
    lists
        .flat_map(|list| list.nested().filter_map(group).collect::<Vec<_>>())
        .collect()
}
