//! By which pair a flow goes to a guest: the one by which the guest last sent it, as the processor that runs its program is
//! known to the guest alone (virtio 1.3 section 5.1.6.5.6 "automatic receive steering"; Linux drivers/net/tun.c
//! `tun_flow_update`, `tun_automq_select_queue`).
//!
//! It is one worker's, and knows the pairs that this worker receives from. A flow that comes by another worker goes by its
//! hash, over the pairs of that worker: see `ARCHITECTURE.md`.

use jumbo_engine::packet::Packet;

/// Flows that are told apart, by the low bits of their hash. Two that share an entry take one way, for a while.
const FLOWS: usize = 1024;

/// Nobody was seen.
const NOBODY: u8 = u8::MAX;

#[derive(Debug)]
pub(super) struct Returns {
    /// The way of each ring that is received from, where this worker has it.
    homes: Box<[u8]>,
    /// The way of each flow.
    ways: Box<[u8; FLOWS]>,
}

impl Returns {
    /// For rings that are received from and rings that are sent into, by their index in the guest's card. `None` where there
    /// is nothing to choose, or nothing to learn from.
    pub(super) fn new(from: &[usize], to: &[usize]) -> Option<Self> {
        if to.len() < 2 {
            return None;
        }
        // Ring 2n goes to the guest, 2n + 1 comes from it.
        let home = |from: &usize| to.iter().position(|to| to ^ 1 == *from);
        let homes = from
            .iter()
            .map(|from| home(from).map_or(NOBODY, |way| way as u8));
        let homes: Box<[u8]> = homes.collect();
        homes.iter().any(|home| *home != NOBODY).then(|| Self {
            homes,
            ways: Box::new([NOBODY; FLOWS]),
        })
    }

    fn entry(packet: &Packet) -> Option<usize> {
        // Zero: no flow.
        Some(packet.flow_hash() as usize % FLOWS).filter(|entry| *entry != 0)
    }

    /// The guest sent a packet by the ring with this index among those received from.
    #[inline]
    pub(super) fn note(&mut self, from: usize, packet: &Packet) {
        let home = self.homes.get(from).copied().unwrap_or(NOBODY);
        if let Some(entry) = Self::entry(packet).filter(|_| home != NOBODY) {
            self.ways[entry] = home;
        }
    }

    /// The way of a packet to the guest, if its flow was seen.
    #[inline]
    pub(super) fn way(&self, packet: &Packet) -> Option<usize> {
        let way = self.ways[Self::entry(packet)?];
        (way != NOBODY).then_some(way.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_table_where_there_is_a_choice() {
        let homes = |from: &[usize], to: &[usize]| Returns::new(from, to).map(|r| r.homes.to_vec());
        assert_eq!(homes(&[1], &[0]), None, "one way");
        assert_eq!(homes(&[], &[0, 2]), None, "a worker that receives nothing");
        assert_eq!(homes(&[5], &[0, 2]), None, "nor from these pairs");
        assert_eq!(homes(&[1, 5], &[0, 4]), Some(vec![0, 1]));
        assert_eq!(homes(&[3], &[0, 2]), Some(vec![1]), "shared ways");
        assert_eq!(homes(&[3, 7], &[0, 2]), Some(vec![1, NOBODY]));
    }
}
