//! What happened, port by port, and the books that must balance.

use jumbo_engine::coalesce::{Alone, End, RscStats};
use jumbo_engine::complete::Fault;
use jumbo_engine::reason::Counts;
use jumbo_ports::queue::{RxStats, Traffic, TxFault};

use crate::forward::Stay;

/// One port's counters. rx and tx are seen from the switch.
#[derive(Clone, Debug, Default)]
pub struct PortCounters {
    /// What came in by it, and what of that was refused.
    pub rx: RxStats,
    /// What came in by it and went nowhere.
    pub forward: Counts<Stay>,
    /// What came in by it and was no candidate for coalescing.
    pub alone: Counts<Alone>,
    /// What came in by it and went to every port.
    pub flooded: u64,
    /// What left by it.
    pub tx: Traffic,
    /// Aggregates that left by it, by the reason why they ended.
    pub ends: Counts<End>,
    /// Dropped on the way to it.
    pub complete: Counts<Fault>,
    /// Refused by its device.
    pub tx_faults: Counts<TxFault>,
    /// Packets whose checksum was finished in software on the way to it.
    pub software_checksums: u64,
    /// Super-packets segmented in software on the way to it.
    pub software_segmented: u64,
    /// Of these, lossy aggregates: what left is not what came.
    pub lossy_segmented: u64,
    /// What was merged towards it under `lro` or `rsc`, as Windows counts it.
    pub rsc: RscStats,
    /// Times a packet waited for it to make room.
    pub waits: u64,
    /// What was copied because it rested beyond a burst on the way to it: packets, one that
    /// grew in several bursts once for each, and bytes of payload.
    pub promoted: Gauge,
    /// Stations that its other end announced here, each told to everybody behind the other ports.
    pub announced: u64,
    /// Announcements that came too fast and were kept to ourselves.
    pub unannounced: u64,
}

/// A number of packets, and of bytes of their payload.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct Gauge {
    /// Packets, a super-packet being one.
    pub packets: u64,
    /// Bytes of payload.
    pub bytes: u64,
}

impl Gauge {
    /// Adds another's.
    pub fn add(&mut self, other: Self) {
        self.packets += other.packets;
        self.bytes += other.bytes;
    }
}

impl PortCounters {
    /// Packets dropped because of this port, as source or as destination.
    pub fn dropped(&self) -> u64 {
        // A refused super-packet was segmented and sent after all.
        let refused = self.tx_faults.total() - self.tx_faults.get(TxFault::GsoRefused);
        self.rx.refused() + self.forward.total() + self.complete.total() + refused
    }

    /// Adds another worker's.
    pub fn add(&mut self, other: &Self) {
        self.rx.add(&other.rx);
        self.forward.add(&other.forward);
        self.alone.add(&other.alone);
        self.flooded += other.flooded;
        self.tx.add(&other.tx);
        self.ends.add(&other.ends);
        self.complete.add(&other.complete);
        self.tx_faults.add(&other.tx_faults);
        self.software_checksums += other.software_checksums;
        self.software_segmented += other.software_segmented;
        self.lossy_segmented += other.lossy_segmented;
        self.rsc.add(&other.rsc);
        self.waits += other.waits;
        self.promoted.add(other.promoted);
        self.announced += other.announced;
        self.unannounced += other.unannounced;
    }
}

/// Law L6: no packet is lost without a reason, none appears from nowhere.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct Books {
    /// Taken from ports, refused ones included, and made here to announce a station.
    pub received: u64,
    /// Segments beyond the first of each super-packet that was segmented.
    pub made_by_segmentation: u64,
    /// Copies beyond the first of each flooded packet.
    pub flood_copies: u64,
    /// Handed to devices.
    pub sent: u64,
    /// Merged onto another packet.
    pub absorbed_by_merging: u64,
    /// Dropped, each with a reason.
    pub dropped: u64,
    /// Still in hand.
    pub resting: u64,
}

impl Books {
    /// Whether every packet is accounted for.
    pub fn balanced(&self) -> bool {
        self.received + self.made_by_segmentation + self.flood_copies
            == self.sent + self.absorbed_by_merging + self.dropped + self.resting
    }

    /// Adds another worker's.
    pub fn add(&mut self, other: &Self) {
        self.received += other.received;
        self.made_by_segmentation += other.made_by_segmentation;
        self.flood_copies += other.flood_copies;
        self.sent += other.sent;
        self.absorbed_by_merging += other.absorbed_by_merging;
        self.dropped += other.dropped;
        self.resting += other.resting;
    }
}
