//! A port of packets in memory, for tests: what is put in is received, what is
//! sent can be looked at.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use jumbo_engine::arena::Pieces;
use jumbo_engine::packet::{HEADERS_MAX, Link, Packet};
use jumbo_engine::pending::Caps;
use jumbo_engine::vnet::{Form, HeaderFault, Trust, VnetHeader};
use rustix::event::{EventfdFlags, eventfd};

use crate::pool::Pool;
use crate::queue::{Burst, PACKET_ROOM, Port, PortInfo, Presence, Queue, RxEnd, RxStats, TxFault};

/// The header of a port that hands over super-packets in tunnels is the one that can say so.
fn form_of(hands: Caps) -> Form {
    match hands.udp_tunnel() {
        true => Form::Tunnel24,
        false => Form::Modern12,
    }
}

/// A packet with its virtio header, both as bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemPacket {
    /// The virtio header.
    pub vnet: VnetHeader,
    /// The packet.
    pub bytes: Vec<u8>,
}

/// What the test sees of the port.
#[derive(Clone, Debug)]
pub struct MemHandle {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    form: Form,
    hands: Caps,
    inbox: Mutex<VecDeque<Vec<u8>>>,
    outbox: Mutex<Vec<MemPacket>>,
    /// Super-packets are refused, as some kernels do.
    refuse_gso: Mutex<bool>,
    gone: Mutex<bool>,
    wake: OwnedFd,
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl MemHandle {
    /// Puts a packet in, to be received by the port's first queue.
    pub fn put(&self, vnet: &VnetHeader, bytes: &[u8]) {
        let form = self.shared.form;
        let mut whole = vec![0; form.len_bytes()];
        vnet.encode(form, &mut whole);
        whole.extend_from_slice(bytes);
        self.put_raw(whole);
    }

    /// Puts packets in all at once: who receives sees none of them or all.
    pub fn put_all<'a>(&self, vnet: &VnetHeader, packets: impl IntoIterator<Item = &'a [u8]>) {
        let form = self.shared.form;
        let mut header = vec![0; form.len_bytes()];
        vnet.encode(form, &mut header);
        let whole = |bytes: &[u8]| [&header, bytes].concat();
        locked(&self.shared.inbox).extend(packets.into_iter().map(whole));
        self.wake();
    }

    /// Puts raw bytes in, virtio header included, however wrong.
    pub fn put_raw(&self, bytes: Vec<u8>) {
        locked(&self.shared.inbox).push_back(bytes);
        self.wake();
    }

    /// Takes everything that was sent.
    pub fn taken(&self) -> Vec<MemPacket> {
        std::mem::take(&mut *locked(&self.shared.outbox))
    }

    /// From now on super-packets are refused, or no longer.
    pub fn refuse_gso(&self, refuse: bool) {
        *locked(&self.shared.refuse_gso) = refuse;
    }

    /// The device goes away.
    pub fn vanish(&self) {
        *locked(&self.shared.gone) = true;
        self.wake();
    }

    fn wake(&self) {
        // A full counter wakes just as well.
        let _ = rustix::io::write(&self.shared.wake, &1u64.to_ne_bytes());
    }
}

/// A port of `queues` queues and the handle to it.
///
/// # Errors
/// When the kernel gives no eventfd.
pub fn port(
    name: &str,
    queues: usize,
    hands: Caps,
    takes: Caps,
    mtu: usize,
) -> Result<(Port, MemHandle), rustix::io::Errno> {
    let shared = Arc::new(Shared {
        form: form_of(hands),
        hands,
        inbox: Mutex::default(),
        outbox: Mutex::default(),
        refuse_gso: Mutex::default(),
        gone: Mutex::default(),
        wake: eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?,
    });
    let queue = |index: usize| -> Box<dyn Queue> {
        Box::new(MemQueue {
            shared: shared.clone(),
            reads: index == 0,
        })
    };
    let port = Port {
        info: PortInfo {
            kind: "mem",
            device: name.to_owned(),
            hands,
            takes,
            mtu,
            capabilities: Vec::new(),
            presence: Presence::Up,
        },
        queues: (0..queues).map(queue).collect(),
        control: None,
    };
    Ok((port, MemHandle { shared }))
}

#[derive(Debug)]
struct MemQueue {
    shared: Arc<Shared>,
    reads: bool,
}

impl Queue for MemQueue {
    fn rx(&mut self, burst: &mut Burst, stats: &mut RxStats) -> RxEnd {
        if *locked(&self.shared.gone) {
            return RxEnd::Gone;
        }
        if !self.reads {
            return RxEnd::Drained;
        }
        let mut taken = 0;
        for _ in 0..burst.bounds.batch_packets {
            if taken >= burst.bounds.batch_bytes || !burst.has_room() {
                return RxEnd::More;
            }
            let Some(bytes) = locked(&self.shared.inbox).pop_front() else {
                // First the wake-up, then the look: what is put in between is seen.
                let _ = rustix::io::read(&self.shared.wake, &mut [0; 8]);
                let empty = locked(&self.shared.inbox).is_empty();
                return if empty { RxEnd::Drained } else { RxEnd::More };
            };
            let len = bytes.len().min(PACKET_ROOM);
            burst.pool.space()[..len].copy_from_slice(&bytes[..len]);
            let Some(header) = VnetHeader::decode(self.shared.form, &bytes) else {
                stats.faults.count(HeaderFault::ShortVnetHeader);
                continue;
            };
            let prefix = self.shared.form.len_bytes();
            if let Err(fault) = header.check_negotiated(self.shared.hands) {
                stats.faults.count(fault);
                continue;
            }
            let vnet = Some((&header, Trust::Guest));
            burst.admit(Link::Ethernet, prefix, len - prefix, vnet, stats);
            taken += len;
        }
        RxEnd::More
    }

    fn tx(&mut self, packet: &Packet, payload: Pieces<'_>, pool: &Pool) -> Result<(), TxFault> {
        if *locked(&self.shared.gone) {
            return Err(TxFault::Gone);
        }
        if packet.pending().gso.is_some() && *locked(&self.shared.refuse_gso) {
            return Err(TxFault::GsoRefused);
        }
        let mut head = [0; HEADERS_MAX];
        let len = packet.write_header(&mut head).unwrap_or(0);
        let mut bytes = head[..len].to_vec();
        pool.append_to(payload, &mut bytes)
            .ok_or(TxFault::PayloadMissing)?;
        let vnet = VnetHeader::of(packet);
        locked(&self.shared.outbox).push(MemPacket { vnet, bytes });
        Ok(())
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.reads.then(|| self.shared.wake.as_fd())
    }
}
