//! The forwarding table: which port an address was last seen behind.
//!
//! Every worker has its own and reads it without a lock; what one worker learns
//! it teaches the others by message (`Message::Learn` in `worker.rs`). Fixed in
//! size: four entries to a set, and in a full set the longest unseen gives way,
//! so a flood of invented addresses costs flooding, not memory. Entries age
//! where they are looked up; nothing wakes an idle switch.

use crate::topology::PortId;

const WAYS: usize = 4;
/// Addresses a table holds.
pub const ENTRIES: usize = 8192;

/// An address within its VLAN (IEEE 802.1Q independent learning).
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub struct Station {
    /// VLAN id of the outermost tag, 0 without one.
    pub vid: u16,
    /// The MAC address.
    pub mac: [u8; 6],
}

impl Station {
    /// An address outside any VLAN.
    pub fn untagged(mac: [u8; 6]) -> Self {
        Self { vid: 0, mac }
    }

    fn key(self) -> u64 {
        let [a, b, c, d, e, f] = self.mac;
        // Bit 63 marks a used entry.
        u64::from_be_bytes([
            0x80 | (self.vid >> 8) as u8,
            self.vid as u8,
            a,
            b,
            c,
            d,
            e,
            f,
        ])
    }

    fn of_key(key: u64) -> Self {
        let [vid_high, vid_low, mac @ ..] = key.to_be_bytes();
        Self {
            vid: u16::from_be_bytes([vid_high & 0x7f, vid_low]),
            mac,
        }
    }
}

#[derive(Copy, Clone, Debug, Default)]
struct Entry {
    key: u64,
    port: PortId,
    seen_s: u32,
    /// When the other workers were told; `None` if one of them missed it.
    taught_s: Option<u32>,
}

/// A station as a table knows it.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The station.
    pub station: Station,
    /// The port it is behind.
    pub port: PortId,
    /// Seconds since it was last seen.
    pub age_s: u32,
}

/// What learning did.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Learned {
    /// Nothing the others need to know.
    Known,
    /// New here, or not taught for long: tell the other workers.
    Teach,
    /// It was behind another port: tell the others, and packets held for it must go.
    Moved,
}

/// The way the last packet went. As long as the table has not changed, and it is the same
/// second, the next one like it goes there too, and there is nothing to learn from it.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
struct Way {
    from: (Station, PortId),
    to: Station,
    now_s: u32,
}

/// The table of one worker.
#[derive(Debug)]
pub struct Fdb {
    last: Option<(Way, PortId)>,
    sets: Box<[[Entry; WAYS]]>,
    age_s: u32,
    seed: u64,
    entries: usize,
}

impl Fdb {
    /// An empty table whose entries are forgotten `age_s` seconds after they were last seen.
    pub fn new(age_s: u32, seed: u64) -> Self {
        Self {
            last: None,
            sets: vec![[Entry::default(); WAYS]; ENTRIES / WAYS].into_boxed_slice(),
            age_s,
            seed,
            entries: 0,
        }
    }

    /// Entries in use, aged ones included until their place is needed.
    pub fn len(&self) -> usize {
        self.entries
    }

    /// Whether nothing was learned yet.
    pub fn is_empty(&self) -> bool {
        self.entries == 0
    }

    fn set(&self, key: u64) -> usize {
        let product = u128::from(key ^ self.seed) * 0x9e37_79b9_7f4a_7c15_u128;
        ((product >> 64) as u64 ^ product as u64) as usize & (self.sets.len() - 1)
    }

    /// The port a station is behind, unless that is unknown or too long ago.
    #[inline]
    pub fn find(&self, station: Station, now_s: u32) -> Option<PortId> {
        let key = station.key();
        self.sets[self.set(key)]
            .iter()
            .find(|entry| entry.key == key)
            .filter(|entry| now_s.wrapping_sub(entry.seen_s) <= self.age_s)
            .map(|entry| entry.port)
    }

    /// Where a packet of `from`, which came in by the port beside it, goes, if the packet
    /// before was such a one too.
    #[inline]
    pub fn same_way(&self, from: (Station, PortId), to: Station, now_s: u32) -> Option<PortId> {
        let (way, port) = self.last?;
        (way == Way { from, to, now_s }).then_some(port)
    }

    /// Notes that such a packet was learned from and goes to `port`.
    #[inline]
    pub fn note_way(&mut self, from: (Station, PortId), to: Station, now_s: u32, port: PortId) {
        self.last = Some((Way { from, to, now_s }, port));
    }

    /// Notes that a packet of `station` came in by `port`.
    #[inline]
    pub fn learn(&mut self, station: Station, port: PortId, now_s: u32) -> Learned {
        self.last = None;
        let key = station.key();
        let set = self.set(key);
        let age_s = self.age_s;
        if let Some(entry) = self.sets[set].iter_mut().find(|entry| entry.key == key) {
            let moved = entry.port != port;
            let stale = entry
                .taught_s
                .is_none_or(|taught_s| now_s.wrapping_sub(taught_s) > age_s / 4);
            entry.port = port;
            entry.seen_s = now_s;
            if moved || stale {
                entry.taught_s = Some(now_s);
            }
            return match (moved, stale) {
                (true, _) => Learned::Moved,
                (false, true) => Learned::Teach,
                (false, false) => Learned::Known,
            };
        }
        let unseen = |entry: &Entry| match entry.key {
            0 => u32::MAX,
            _ => now_s.wrapping_sub(entry.seen_s).min(u32::MAX - 1),
        };
        if let Some(entry) = self.sets[set].iter_mut().max_by_key(|entry| unseen(entry)) {
            self.entries += usize::from(entry.key == 0);
            *entry = Entry {
                key,
                port,
                seen_s: now_s,
                taught_s: Some(now_s),
            };
        }
        Learned::Teach
    }

    /// Every station that has not aged.
    pub fn stations(&self, now_s: u32) -> impl Iterator<Item = Seen> {
        let seen = move |entry: &Entry| Seen {
            station: Station::of_key(entry.key),
            port: entry.port,
            age_s: now_s.wrapping_sub(entry.seen_s),
        };
        let used = self.sets.iter().flatten().filter(|entry| entry.key != 0);
        used.map(seen).filter(|seen| seen.age_s <= self.age_s)
    }

    /// A worker missed the news of this station: its next packet teaches again.
    pub fn tell_again(&mut self, station: Station) {
        self.last = None;
        let key = station.key();
        let set = self.set(key);
        if let Some(entry) = self.sets[set].iter_mut().find(|entry| entry.key == key) {
            entry.taught_s = None;
        }
    }

    /// Forgets everything behind a port that went away.
    pub fn forget(&mut self, port: PortId) {
        self.last = None;
        for entry in self.sets.iter_mut().flatten() {
            if entry.key != 0 && entry.port == port {
                *entry = Entry::default();
                self.entries -= 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn station(n: u32) -> Station {
        let [a, b, c, d] = n.to_be_bytes();
        Station {
            vid: 0,
            mac: [2, 0, a, b, c, d],
        }
    }

    #[test]
    fn station_is_found_behind_its_port_until_it_ages() {
        let mut fdb = Fdb::new(300, 1);
        assert_eq!(fdb.learn(station(1), PortId(7), 1000), Learned::Teach);
        assert_eq!(fdb.find(station(1), 1300), Some(PortId(7)));
        assert_eq!(fdb.find(station(1), 1301), None);
        assert_eq!(fdb.find(station(2), 1000), None);
    }

    #[test]
    fn same_address_in_another_vlan_is_another_station() {
        let mut fdb = Fdb::new(300, 1);
        fdb.learn(station(1), PortId(1), 0);
        let tagged = Station {
            vid: 5,
            ..station(1)
        };
        assert_eq!(fdb.find(tagged, 0), None);
        fdb.learn(tagged, PortId(2), 0);
        assert_eq!(fdb.find(station(1), 0), Some(PortId(1)));
        assert_eq!(fdb.find(tagged, 0), Some(PortId(2)));
    }

    #[test]
    fn same_way_lasts_until_anything_is_learned_or_a_second_passes() {
        let (from, to) = ((station(1), PortId(1)), station(2));
        let changes: [fn(&mut Fdb); 4] = [
            |fdb| _ = fdb.learn(station(2), PortId(3), 0),
            |fdb| _ = fdb.learn(station(1), PortId(1), 0),
            |fdb| fdb.tell_again(station(1)),
            |fdb| fdb.forget(PortId(7)),
        ];
        for change in changes {
            let mut fdb = Fdb::new(300, 1);
            assert_eq!(fdb.same_way(from, to, 0), None);
            fdb.note_way(from, to, 0, PortId(2));
            assert_eq!(fdb.same_way(from, to, 0), Some(PortId(2)));
            assert_eq!(fdb.same_way(from, to, 1), None, "ageing must be seen");
            let elsewhere = (station(1), PortId(9));
            assert_eq!(fdb.same_way(elsewhere, to, 0), None, "it has moved");
            assert_eq!(fdb.same_way(from, station(3), 0), None);
            change(&mut fdb);
            assert_eq!(fdb.same_way(from, to, 0), None);
        }
    }

    #[test]
    fn station_that_moves_is_reported_once() {
        let mut fdb = Fdb::new(300, 1);
        fdb.learn(station(1), PortId(1), 0);
        assert_eq!(fdb.learn(station(1), PortId(2), 1), Learned::Moved);
        assert_eq!(fdb.learn(station(1), PortId(2), 2), Learned::Known);
        assert_eq!(fdb.learn(station(1), PortId(2), 100), Learned::Teach);
    }

    #[test]
    fn news_that_was_lost_is_told_again_once() {
        let mut fdb = Fdb::new(300, 1);
        fdb.learn(station(1), PortId(1), 0);
        fdb.learn(station(1), PortId(2), 1);
        fdb.tell_again(station(1));
        assert_eq!(fdb.learn(station(1), PortId(2), 1), Learned::Teach);
        assert_eq!(fdb.learn(station(1), PortId(2), 1), Learned::Known);
    }

    #[test]
    fn flood_of_addresses_stays_within_the_table() {
        let mut fdb = Fdb::new(300, 1);
        for n in 0..100_000 {
            fdb.learn(station(n), PortId(1), n / 1000);
        }
        assert!(fdb.len() <= ENTRIES);
        assert_eq!(fdb.find(station(99_999), 100), Some(PortId(1)));
    }

    #[test]
    fn stations_are_listed_until_they_age() {
        let mut fdb = Fdb::new(300, 1);
        let tagged = Station {
            vid: 4095,
            mac: [0xfe, 1, 2, 3, 4, 0xff],
        };
        fdb.learn(tagged, PortId(3), 100);
        fdb.learn(station(1), PortId(1), 0);
        let list = |now_s| {
            let mut list: Vec<_> = fdb.stations(now_s).collect();
            list.sort_by_key(|seen| seen.age_s);
            list
        };
        let seen = |station, port, age_s| Seen {
            station,
            port: PortId(port),
            age_s,
        };
        assert_eq!(list(150), [seen(tagged, 3, 50), seen(station(1), 1, 150)]);
        assert_eq!(list(301), [seen(tagged, 3, 201)]);
    }

    #[test]
    fn port_that_went_away_is_forgotten() {
        let mut fdb = Fdb::new(300, 1);
        fdb.learn(station(1), PortId(1), 0);
        fdb.learn(station(2), PortId(2), 0);
        fdb.forget(PortId(1));
        assert_eq!(fdb.find(station(1), 0), None);
        assert_eq!(fdb.find(station(2), 0), Some(PortId(2)));
        assert_eq!(fdb.len(), 1);
    }
}
