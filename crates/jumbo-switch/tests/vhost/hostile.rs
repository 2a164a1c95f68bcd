//! Guests that break the rules: each stops its own port, with the reason in its state, and harms nobody else.

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};

use jumbo_engine::reason::Reason;
use jumbo_engine::vnet::HeaderFault;
use jumbo_ports::queue::TxFault;
use jumbo_testkit::oracle::{VnetForm, VnetHeader, vnet_gso};
use jumbo_testkit::virtio::{
    AVAIL, DriverQueue, EventFd, INDIRECT, Indirect, MemoryLayout, NEXT, Options, PackedDescriptor,
    Piece, Position, SplitDescriptor, USED, VirtioNet, WRITE, feature,
};
use jumbo_testkit::{Link, PacketBuilder, tcp_flags};

use crate::rig::{Guest, Rig, acquaint, eventually, mac, raw};

/// Station and port of the guest that misbehaves; 1 and 2 are those that go on.
pub(crate) const EVIL: usize = 0;
pub(crate) const TX: usize = 1;
pub(crate) const RX: usize = 0;
const SIZE: u16 = 16;

pub(crate) fn evil_options(packed: bool) -> Options {
    Options {
        features: feature::ANY_LAYOUT,
        packed,
        queue_size: SIZE,
        indirect: Indirect::Chains,
        rx_buffer_len: 2048,
        tx_len: 2048,
        memory: MemoryLayout::Fenced,
        auto_refill: false,
        ..Options::default()
    }
}

/// Three ports, two good guests behind two of them.
struct Scene {
    rig: Rig,
    good: [Guest; 2],
    number: u64,
}

impl Scene {
    fn new(workers: usize) -> Self {
        Self::with_pairs(workers, 1)
    }

    fn with_pairs(workers: usize, pairs: u16) -> Self {
        let rig = Rig::of(workers, 3, pairs);
        let good = [1, 2].map(|port| rig.guest(port, Options::default()));
        Self {
            rig,
            good,
            number: 0,
        }
    }

    fn evil(&self, options: Options) -> Guest {
        self.rig.guest(EVIL, options)
    }

    /// The good guests talk to each other, and all packets arrive.
    #[track_caller]
    fn goes_on(&mut self) {
        let [a, b] = &mut self.good;
        for _ in 0..20 {
            for (from, to) in [(1, 2), (2, 1)] {
                self.number += 1;
                let packet = raw(mac(to), from, self.number, 300);
                let (from, to) = if from == 1 {
                    (&mut *a, &mut *b)
                } else {
                    (&mut *b, &mut *a)
                };
                from.send(0, &packet);
                loop {
                    let got = to.recv().packet;
                    // What the others were sent in vain is flooded.
                    if got == packet {
                        break;
                    }
                }
            }
        }
    }

    /// The port stops for this reason; everybody else goes on; another guest can come.
    #[track_caller]
    fn stops(&mut self, mut evil: Guest, why: &str, what: &str) {
        eventually(
            || self.rig.stopped(EVIL).is_some(),
            || {
                format!(
                    "{what}: the port stops, {:?}",
                    crate::support::drops(&self.rig.state())
                )
            },
        );
        let said = self.rig.stopped(EVIL).expect("just seen");
        assert!(said.contains(why), "{what}: {said:?}, should say {why:?}");
        self.goes_on();
        assert!(
            evil.net.memory().fences_intact(),
            "{what}: memory beside the guest's"
        );
        evil.net.disconnect();
        eventually(|| self.rig.waits(EVIL), || "the port waits".into());
    }
}

/// A descriptor, of either kind of ring.
#[derive(Copy, Clone, Debug, Default)]
pub(crate) struct Evil {
    addr: u64,
    len: u32,
    flags: u16,
    next: u16,
}

impl Evil {
    fn split(self) -> SplitDescriptor {
        let Self {
            addr,
            len,
            flags,
            next,
        } = self;
        SplitDescriptor {
            addr,
            len,
            flags,
            next,
        }
    }
}

/// Puts descriptors on a ring as they are, as one chain that begins with the first, and rings.
pub(crate) fn inject(net: &mut VirtioNet, ring: usize, descs: &[Evil]) {
    let lane = net.lane(ring);
    match &mut lane.ring {
        DriverQueue::Split(split) => {
            for (index, desc) in descs.iter().enumerate() {
                split.raw_descriptor(index as u16, &desc.split());
            }
            let at = split.avail_idx();
            split.raw_avail_entry(at % split.size(), 0);
            split.raw_avail_idx(at.wrapping_add(1));
        }
        DriverQueue::Packed(packed) => {
            let (start, size) = (packed.next_avail(), packed.size());
            let all: Vec<_> = descs.iter().enumerate().collect();
            for (index, desc) in all.into_iter().rev() {
                let place = start.forward(index as u16, size);
                let side = if place.wrap { AVAIL } else { USED };
                packed.raw_descriptor(
                    place.index,
                    &PackedDescriptor {
                        addr: desc.addr,
                        len: desc.len,
                        id: 0,
                        flags: desc.flags | side,
                    },
                );
            }
        }
    }
    lane.kick.signal().expect("a kick");
}

/// What is done, on which ring, and what the port says.
pub(crate) struct Case {
    pub(crate) what: &'static str,
    pub(crate) descs: fn(&mut VirtioNet) -> Vec<Evil>,
    says: &'static str,
    pub(crate) split: bool,
    pub(crate) packed: bool,
}

fn buffer(net: &mut VirtioNet, len: usize) -> u64 {
    net.memory().take(len, 64)
}

fn end(net: &mut VirtioNet) -> u64 {
    let region = &net.memory().regions()[0];
    region.guest_addr() + region.len()
}

/// A table of descriptors in guest memory, and the descriptor that leads to it.
fn table(net: &mut VirtioNet, entries: &[Evil]) -> Evil {
    let at = buffer(net, 16 * entries.len().max(1));
    let packed = matches!(net.lane(TX).ring, DriverQueue::Packed(_));
    for (index, entry) in entries.iter().enumerate() {
        let desc = entry.split();
        // In a packed ring's table id stands before flags.
        let desc = match packed {
            false => desc,
            true => SplitDescriptor {
                flags: 0,
                next: desc.flags,
                ..desc
            },
        };
        net.memory().write(at + 16 * index as u64, &desc.bytes());
    }
    Evil {
        addr: at,
        len: 16 * entries.len() as u32,
        flags: INDIRECT,
        next: 0,
    }
}

/// Descriptors of a transmit ring that no driver may make. With `WRITE` on all, the same holds for a receive ring.
pub(crate) fn cases() -> Vec<Case> {
    let case = |what, says, descs| Case {
        what,
        says,
        descs,
        split: true,
        packed: true,
    };
    let split = |what, says, descs| Case {
        packed: false,
        ..case(what, says, descs)
    };
    let outside = "is outside memory";
    let indirect_len = "an indirect table of";
    let nested = "an indirect descriptor stands where none may";
    vec![
        split(
            "a descriptor that leads to itself",
            "longer than the ring",
            |net| {
                let addr = buffer(net, 64);
                vec![Evil {
                    addr,
                    len: 64,
                    flags: NEXT,
                    next: 0,
                }]
            },
        ),
        split("a loop of three", "longer than the ring", |net| {
            let addr = buffer(net, 64);
            let one = |next| Evil {
                addr,
                len: 64,
                flags: NEXT,
                next,
            };
            vec![one(1), one(2), one(0)]
        }),
        Case {
            split: false,
            ..case(
                "a ring that is one chain without end",
                "longer than the ring",
                |net| {
                    let addr = buffer(net, 64);
                    vec![
                        Evil {
                            addr,
                            len: 64,
                            flags: NEXT,
                            next: 0
                        };
                        SIZE as usize
                    ]
                },
            )
        },
        split(
            "a next outside the table",
            "descriptor index 16 is outside",
            |net| {
                let addr = buffer(net, 64);
                vec![Evil {
                    addr,
                    len: 64,
                    flags: NEXT,
                    next: SIZE,
                }]
            },
        ),
        case("address zero", outside, |_| {
            vec![Evil {
                addr: 0,
                len: 64,
                ..Evil::default()
            }]
        }),
        case("the byte before memory", outside, |net| {
            let addr = net.memory().regions()[0].guest_addr() - 1;
            vec![Evil {
                addr,
                len: 64,
                ..Evil::default()
            }]
        }),
        case("the byte behind memory", outside, |net| {
            let addr = end(net);
            vec![Evil {
                addr,
                len: 1,
                ..Evil::default()
            }]
        }),
        case("a buffer across the end", outside, |net| {
            let addr = end(net) - 63;
            vec![Evil {
                addr,
                len: 64,
                ..Evil::default()
            }]
        }),
        case("a buffer of four gigabytes", outside, |net| {
            let addr = buffer(net, 64);
            vec![Evil {
                addr,
                len: u32::MAX,
                ..Evil::default()
            }]
        }),
        case("an address that overflows", outside, |_| {
            vec![Evil {
                addr: u64::MAX - 10,
                len: 100,
                ..Evil::default()
            }]
        }),
        case("the last address of all", outside, |_| {
            vec![Evil {
                addr: u64::MAX,
                len: 1,
                ..Evil::default()
            }]
        }),
        case("a good header, then an address outside", outside, |net| {
            let (addr, beyond) = (buffer(net, 64), end(net));
            vec![
                Evil {
                    addr,
                    len: 12,
                    flags: NEXT,
                    next: 1,
                },
                Evil {
                    addr: beyond,
                    len: 64,
                    ..Evil::default()
                },
            ]
        }),
        case("no bytes", "a buffer of no bytes", |net| {
            let addr = buffer(net, 64);
            vec![Evil {
                addr,
                len: 0,
                ..Evil::default()
            }]
        }),
        case("no bytes in the middle", "a buffer of no bytes", |net| {
            let addr = buffer(net, 64);
            let one = |len, flags, next| Evil {
                addr,
                len,
                flags,
                next,
            };
            vec![one(12, NEXT, 1), one(0, NEXT, 2), one(40, 0, 0)]
        }),
        case("an indirect table without entries", indirect_len, |net| {
            vec![Evil {
                len: 0,
                ..table(net, &[])
            }]
        }),
        case("an indirect table of half an entry", indirect_len, |net| {
            vec![Evil {
                len: 8,
                ..table(net, &[Evil::default()])
            }]
        }),
        case("an indirect table of one and a bit", indirect_len, |net| {
            vec![Evil {
                len: 17,
                ..table(net, &[Evil::default(); 2])
            }]
        }),
        case("an indirect table of a megabyte", indirect_len, |net| {
            let addr = buffer(net, 1 << 10);
            vec![Evil {
                addr,
                len: 1 << 20,
                flags: INDIRECT,
                next: 0,
            }]
        }),
        case("an indirect table outside memory", outside, |net| {
            let addr = end(net);
            vec![Evil {
                addr,
                len: 32,
                flags: INDIRECT,
                next: 0,
            }]
        }),
        case("an indirect table across the end", outside, |net| {
            let addr = end(net) - 16;
            vec![Evil {
                addr,
                len: 32,
                flags: INDIRECT,
                next: 0,
            }]
        }),
        case("an indirect table that overflows", outside, |_| {
            vec![Evil {
                addr: u64::MAX - 15,
                len: 32,
                flags: INDIRECT,
                next: 0,
            }]
        }),
        case("an indirect table in an indirect table", nested, |net| {
            let addr = buffer(net, 64);
            let inner = table(
                net,
                &[Evil {
                    addr,
                    len: 64,
                    ..Evil::default()
                }],
            );
            vec![table(net, &[inner])]
        }),
        case("an indirect table that is itself an entry", nested, |net| {
            let outer = table(net, &[Evil::default()]);
            let desc = outer.split();
            let packed = matches!(net.lane(TX).ring, DriverQueue::Packed(_));
            let desc = match packed {
                false => desc,
                true => SplitDescriptor {
                    flags: 0,
                    next: desc.flags,
                    ..desc
                },
            };
            net.memory().write(outer.addr, &desc.bytes());
            vec![outer]
        }),
        case("an indirect table that goes on", nested, |net| {
            let addr = buffer(net, 64);
            let one = table(
                net,
                &[Evil {
                    addr,
                    len: 64,
                    ..Evil::default()
                }],
            );
            vec![
                Evil {
                    flags: INDIRECT | NEXT,
                    next: 1,
                    ..one
                },
                Evil {
                    addr,
                    len: 64,
                    ..Evil::default()
                },
            ]
        }),
        // Of a split ring it is no mistake (virtio 1.3 section 2.7.5.3.2), of a packed ring it is (2.8.19).
        Case {
            split: false,
            ..case("an indirect table at the end of a chain", nested, |net| {
                let addr = buffer(net, 64);
                let one = table(
                    net,
                    &[Evil {
                        addr,
                        len: 64,
                        ..Evil::default()
                    }],
                );
                vec![
                    Evil {
                        addr,
                        len: 64,
                        flags: NEXT,
                        next: 1,
                    },
                    one,
                ]
            })
        },
        split(
            "a loop in an indirect table",
            "longer than the ring",
            |net| {
                let addr = buffer(net, 64);
                let one = |next| Evil {
                    addr,
                    len: 64,
                    flags: NEXT,
                    next,
                };
                vec![table(net, &[one(1), one(0)])]
            },
        ),
        split(
            "a next outside an indirect table",
            "descriptor index 2 is outside",
            |net| {
                let addr = buffer(net, 64);
                vec![table(
                    net,
                    &[Evil {
                        addr,
                        len: 64,
                        flags: NEXT,
                        next: 2,
                    }; 2],
                )]
            },
        ),
        case("an address outside in an indirect table", outside, |net| {
            let addr = end(net);
            vec![table(
                net,
                &[Evil {
                    addr,
                    len: 64,
                    ..Evil::default()
                }],
            )]
        }),
    ]
}

/// The same chain as a receive ring has them: buffers to be written.
pub(crate) fn to_be_written(net: &mut VirtioNet, descs: &mut [Evil]) {
    let packed = matches!(net.lane(TX).ring, DriverQueue::Packed(_));
    for desc in descs {
        if desc.flags & INDIRECT == 0 {
            desc.flags |= WRITE;
            continue;
        }
        let entries = (desc.len / 16).min(4);
        let Some(window) = net.memory().window(desc.addr, 16 * entries as usize) else {
            continue;
        };
        for entry in 0..entries as usize {
            let at = 16 * entry + if packed { 14 } else { 12 };
            let word = window.u16(at);
            let flags = u16::from_le(word.load(Ordering::Relaxed));
            word.store((flags | WRITE).to_le(), Ordering::Relaxed);
        }
    }
}

fn all_cases(ring: usize) {
    for workers in [1, 2] {
        let mut scene = Scene::new(workers);
        acquaint(&scene.rig, &mut []);
        for case in cases() {
            for packed in [false, true] {
                if !(if packed { case.packed } else { case.split }) {
                    continue;
                }
                let what = format!("{}, packed: {packed}, ring {ring}", case.what);
                let mut evil = scene.evil(evil_options(packed));
                evil.send(0, &raw(mac(1), EVIL, 0, 60));
                evil.net.wait_sent(0).expect("a good packet passes");
                scene.rig.quiet();
                scene.good.iter_mut().for_each(|good| drop(good.drain()));
                let mut descs = (case.descs)(&mut evil.net);
                if ring == RX {
                    to_be_written(&mut evil.net, &mut descs);
                }
                inject(&mut evil.net, ring, &descs);
                if ring == RX {
                    scene.good[0].send(0, &raw(mac(EVIL), 1, 0, 300));
                }
                scene.stops(evil, case.says, &what);
            }
        }
        // It was always only a port that stopped.
        let mut guests = scene.good.into_iter().collect::<Vec<_>>();
        guests.insert(0, scene.rig.guest(EVIL, Options::default()));
        for guest in &mut guests {
            guest.drain();
        }
        acquaint(&scene.rig, &mut guests);
    }
}

#[test]
fn broken_chains_from_a_guest_stop_its_port() {
    all_cases(TX);
}

#[test]
fn broken_chains_for_packets_stop_their_port() {
    all_cases(RX);
}

#[test]
fn buffers_for_the_wrong_direction_stop_their_port() {
    let mut scene = Scene::new(1);
    for packed in [false, true] {
        for ring in [RX, TX] {
            let mut evil = scene.evil(evil_options(packed));
            evil.send(0, &raw(mac(1), EVIL, 0, 60));
            let addr = buffer(&mut evil.net, 4096);
            let flags = if ring == TX { WRITE } else { 0 };
            let wrong = Evil {
                addr,
                len: 2048,
                flags,
                next: 0,
            };
            let right = Evil {
                flags: (flags ^ WRITE) | NEXT,
                next: 1,
                ..wrong
            };
            evil.net.wait_sent(0).expect("taken");
            inject(&mut evil.net, ring, &[right, wrong]);
            scene.good[0].send(0, &raw(mac(EVIL), 1, 0, 60));
            scene.stops(evil, "a buffer for the wrong direction", "mixed");
        }
    }
}

#[test]
fn indirect_tables_that_were_not_negotiated_stop_the_port() {
    let mut scene = Scene::new(1);
    for packed in [false, true] {
        let options = Options {
            indirect: Indirect::Never,
            ..evil_options(packed)
        };
        let mut evil = scene.evil(options);
        assert_eq!(evil.net.features() & feature::INDIRECT_DESC, 0);
        let addr = buffer(&mut evil.net, 64);
        let one = table(
            &mut evil.net,
            &[Evil {
                addr,
                len: 64,
                ..Evil::default()
            }],
        );
        inject(&mut evil.net, TX, &[one]);
        scene.stops(evil, "which was not negotiated", "indirect");
    }
}

#[test]
fn available_indices_that_jump_stop_the_port() {
    let mut scene = Scene::new(1);
    for ring in [RX, TX] {
        for jump in [SIZE + 1, 255, 0x8000, u16::MAX] {
            let mut evil = scene.evil(evil_options(false));
            evil.send(0, &raw(mac(1), EVIL, 0, 60));
            evil.net.wait_sent(0).expect("taken");
            let lane = evil.net.lane(ring);
            let split = lane.ring.split();
            let at = split.avail_idx();
            split.raw_avail_idx(at.wrapping_add(jump));
            lane.kick.signal().expect("a kick");
            scene.good[0].send(0, &raw(mac(EVIL), 1, 0, 60));
            scene.stops(evil, &format!("jumped by {jump}"), "an index");
        }
    }
}

#[test]
fn heads_outside_the_table_stop_the_port() {
    let mut scene = Scene::new(1);
    for head in [SIZE, 0x7FFF, u16::MAX] {
        let mut evil = scene.evil(evil_options(false));
        let lane = evil.net.lane(TX);
        lane.ring.split().raw_avail_entry(0, head);
        lane.ring.split().raw_avail_idx(1);
        lane.kick.signal().expect("a kick");
        scene.stops(
            evil,
            &format!("descriptor index {head} is outside"),
            "a head",
        );
    }
}

/// The used ring is the device's: whatever a guest writes there is not read.
#[test]
fn a_scribbled_used_ring_harms_only_its_owner() {
    for workers in [1, 2] {
        let mut scene = Scene::new(workers);
        let mut evil = scene.evil(evil_options(false));
        for round in 0..100_u16 {
            let lane = evil.net.lane(TX);
            lane.ring.split().raw_used_idx(round.wrapping_mul(0x1357));
            lane.ring.split().raw_used_event(round.wrapping_mul(0x2468));
            lane.kick.signal().expect("a kick");
            let lane = evil.net.lane(RX);
            lane.ring.split().raw_used_idx(round.wrapping_mul(0x7531));
        }
        scene.goes_on();
        assert_eq!(scene.rig.stopped(EVIL), None);
        let mut evil = Guest {
            net: evil.net,
            n: EVIL,
        };
        evil.net.disconnect();
    }
}

/// Packed rings have no indices, but flags: entries of the wrong lap are no entries, and any id is the guest's own affair.
#[test]
fn packed_flags_of_another_lap_are_not_looked_into() {
    let mut scene = Scene::new(1);
    let mut evil = scene.evil(evil_options(true));
    let Position { index, .. } = evil.net.lane(TX).ring.packed().next_avail();
    for flags in [0, USED, AVAIL | USED] {
        let desc = PackedDescriptor {
            addr: 0,
            len: 64,
            id: 0xFFFF,
            flags,
        };
        let lane = evil.net.lane(TX);
        lane.ring.packed().raw_descriptor(index, &desc);
        lane.kick.signal().expect("a kick");
        scene.goes_on();
        assert_eq!(scene.rig.stopped(EVIL), None);
    }
    // Given back as it came.
    let addr = buffer(&mut evil.net, 128);
    let packet = raw(mac(1), EVIL, 77, 60);
    evil.net
        .memory()
        .write(addr, &[&[0; 12][..], &packet].concat());
    let desc = PackedDescriptor {
        addr,
        len: 72,
        id: 0xFFFF,
        flags: AVAIL,
    };
    let lane = evil.net.lane(TX);
    lane.ring.packed().raw_descriptor(index, &desc);
    lane.kick.signal().expect("a kick");
    eventually(
        || evil.net.lane(TX).ring.packed().descriptor(index).flags & USED != 0,
        || "used".into(),
    );
    assert_eq!(evil.net.lane(TX).ring.packed().descriptor(index).id, 0xFFFF);
    scene.goes_on();
    assert_eq!(scene.rig.stopped(EVIL), None);
}

const LINK: Link = Link::Ethernet;

/// A header that lies, and the packet behind it.
pub(crate) fn lie(fault: HeaderFault) -> Option<Vec<u8>> {
    let tcp = PacketBuilder::ethernet()
        .macs(mac(1), mac(EVIL))
        .tcp(1, 2)
        .payload_len(3000);
    let udp = PacketBuilder::ethernet()
        .macs(mac(1), mac(EVIL))
        .udp(1, 2)
        .payload_len(3000);
    let v6 = tcp.clone().ipv6([1; 16], [2; 16]);
    let right = |packet: &PacketBuilder, gso: u8, size: u16| {
        let bytes = packet.clone().partial_checksum().build();
        let header = VnetHeader::needs_csum(LINK, &bytes, gso, size).expect("TCP or UDP");
        (header, bytes)
    };
    let (fine, bytes) = right(&tcp, vnet_gso::TCPV4, 1000);
    let gso = |gso_type: u8, gso_size: u16| {
        Some((
            VnetHeader {
                gso_type,
                gso_size,
                ..fine
            },
            bytes.clone(),
        ))
    };
    let plain = VnetHeader {
        gso_type: 0,
        gso_size: 0,
        ..fine
    };
    let lie = match fault {
        HeaderFault::ShortVnetHeader => return Some(vec![0; 11]),
        HeaderFault::ShortPacket => return Some(vec![0; 12 + 13]),
        HeaderFault::PacketTooLong => return Some(vec![0; 12 + 70_000]),
        HeaderFault::HdrLenBeyondPacket => Some((
            VnetHeader {
                hdr_len: 60_000,
                ..fine
            },
            bytes,
        )),
        HeaderFault::CsumBeyondPacket => Some((
            VnetHeader {
                csum_start: 0xFFF0,
                ..plain
            },
            bytes,
        )),
        HeaderFault::CsumBeforeTransport => Some((
            VnetHeader {
                csum_start: 20,
                ..plain
            },
            bytes,
        )),
        HeaderFault::CsumFieldWrong => Some((
            VnetHeader {
                csum_offset: 4,
                ..plain
            },
            bytes,
        )),
        HeaderFault::CsumOnFragment => {
            let bytes = tcp.clone().df(false).mf(true).no_checksum().build();
            Some((plain, bytes))
        }
        HeaderFault::GsoTypeUnknown => gso(2, 1000),
        HeaderFault::GsoTunnelRefused => gso(vnet_gso::TCPV4 | vnet_gso::UDP_TUNNEL_IPV4, 1000),
        HeaderFault::GsoUfoRefused | HeaderFault::GsoUfoSize => return None,
        HeaderFault::GsoEcnNotTcp => Some(right(&udp, vnet_gso::UDP_L4 | vnet_gso::ECN, 1000)),
        HeaderFault::GsoSizeZero => gso(vnet_gso::TCPV4, 0),
        HeaderFault::GsoSizeReserved => gso(vnet_gso::TCPV4, 0xFFFF),
        HeaderFault::GsoProtocolMismatch => Some(right(&v6, vnet_gso::TCPV4, 1000)),
        HeaderFault::GsoWithoutCsum => {
            let header = VnetHeader {
                flags: 0,
                gso_type: vnet_gso::UDP_L4,
                gso_size: 1000,
                ..fine
            };
            Some((header, udp.build()))
        }
        HeaderFault::GsoTooManySegments => Some(right(&udp, vnet_gso::UDP_L4, 8)),
        HeaderFault::GsoOnSynOrRst => Some(right(
            &tcp.clone().flags(tcp_flags::SYN),
            vnet_gso::TCPV4,
            1000,
        )),
        HeaderFault::GsoTooLong => {
            let bytes = [tcp.clone().partial_checksum().build(), vec![0; 62_498]].concat();
            Some((fine, bytes))
        }
        // A field behind the private header of a super-packet; no slot. Not a header's doing alone.
        HeaderFault::CsumFieldTooDeep | HeaderFault::HeadMissing | HeaderFault::NoRoom => None,
        // A header of 12 bytes cannot describe a tunnel, and the type alone is refused.
        HeaderFault::TunnelBothFamilies
        | HeaderFault::TunnelWithoutGso
        | HeaderFault::TunnelWithoutCsum
        | HeaderFault::TunnelDataValid
        | HeaderFault::TunnelOffsets
        | HeaderFault::TunnelOuterMismatch
        | HeaderFault::TunnelTooDeep
        | HeaderFault::TunnelCsumNotAsked
        | HeaderFault::TunnelCsumWithoutTunnel => None,
    };
    lie.map(|(header, bytes)| [header.encode(VnetForm::Merged), bytes].concat())
}

#[test]
fn headers_that_lie_cost_their_packet_and_no_more() {
    for workers in [1, 2] {
        let mut scene = Scene::new(workers);
        for packed in [false, true] {
            let options = Options {
                tx_len: 80_000,
                ..evil_options(packed)
            };
            let mut evil = scene.evil(options);
            for fault in HeaderFault::ALL.iter().copied() {
                let Some(lie) = lie(fault) else { continue };
                let before = scene.rig.port_state(EVIL).counters.rx.faults.get(fault);
                let addr = buffer(&mut evil.net, lie.len());
                evil.net.memory().write(addr, &lie);
                let lane = evil.net.lane(TX);
                // In two parts, so that headers are cut somewhere.
                let cut = 7.min(lie.len() - 1);
                let pieces = [
                    Piece::readable(addr, cut as u32),
                    Piece::readable(addr + cut as u64, (lie.len() - cut) as u32),
                ];
                assert!(lane.ring.add(&pieces, 0).is_some());
                lane.ring.publish();
                lane.kick.signal().expect("a kick");
                evil_taken(&mut evil);
                scene.rig.quiet();
                let after = scene.rig.port_state(EVIL).counters.rx.faults.get(fault);
                let drops = crate::support::drops(&scene.rig.state());
                assert_eq!(after - before, 1, "{fault:?}: {drops:?}");
            }
            assert_eq!(scene.rig.stopped(EVIL), None);
            scene.goes_on();
            evil.net.disconnect();
            eventually(|| scene.rig.waits(EVIL), || "the port waits".into());
        }
    }
}

/// Waits until the device has taken what the test itself had put on the ring.
#[track_caller]
fn evil_taken(evil: &mut Guest) {
    let lane = evil.net.lane(TX);
    eventually(
        || lane.ring.poll().expect("no fault").is_some() || lane.ring.held() == 0,
        || "the device takes it".into(),
    );
}

/// Headers change while they are looked at: only one private copy is believed, so that what leaves is whole.
#[test]
fn headers_that_change_after_the_kick_leave_in_one_piece() {
    for packed in [false, true] {
        let mut scene = Scene::new(1);
        let mut evil = scene.evil(Options {
            queue_size: 64,
            ..evil_options(packed)
        });
        let (addr, len) = (buffer(&mut evil.net, 8192), 12 + 3054);
        let tcp = PacketBuilder::ethernet()
            .macs(mac(1), mac(EVIL))
            .tcp(1, 2)
            .payload_len(3000);
        let bytes = tcp.partial_checksum().build();
        let header = VnetHeader::needs_csum(LINK, &bytes, vnet_gso::TCPV4, 1000).expect("TCP");
        let good = [header.encode(VnetForm::Merged), bytes].concat();
        let window = evil.net.memory().window(addr, 8192).expect("just taken");
        window.write(0, &good);
        let done = AtomicBool::new(false);
        let before = scene.rig.state().books.received;
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut seed = 0x1234_5678_9ABC_DEF1_u64;
                while !done.load(Ordering::Relaxed) {
                    seed ^= seed << 13;
                    seed ^= seed >> 7;
                    seed ^= seed << 17;
                    // The MAC addresses stay, so that it goes somewhere.
                    let at = (seed >> 8) as usize % 66;
                    if !(12..24).contains(&at) {
                        window.write(at, &[seed as u8]);
                    }
                    if seed.is_multiple_of(7) {
                        window.write(0, &good[..12]);
                        window.write(24, &good[24..66]);
                    }
                }
            });
            for _ in 0..3000 {
                let lane = evil.net.lane(TX);
                for _ in 0..8 {
                    let _ = lane.ring.add(&[Piece::readable(addr, len)], 0);
                }
                lane.ring.publish();
                lane.kick.signal().expect("a kick");
                while lane.ring.poll().expect("no fault").is_some() {}
                for good in &mut scene.good {
                    for got in good.drain() {
                        plausible(&got.header, &got.packet);
                    }
                }
            }
            done.store(true, Ordering::Relaxed);
        });
        scene.rig.quiet();
        assert_eq!(scene.rig.stopped(EVIL), None);
        assert!(scene.rig.state().books.received > before);
        scene.good.iter_mut().for_each(|good| drop(good.drain()));
        scene.goes_on();
        assert!(evil.net.memory().fences_intact());
    }
}

/// The good guests take no offloads: whatever reaches them is a plain packet of a length that can be.
#[track_caller]
fn plausible(header: &[u8], packet: &[u8]) {
    assert_eq!(header[..10], [0; 10]);
    assert!((14..=14 + 65_535).contains(&packet.len()));
    assert_eq!(packet[..6], mac(1));
}

/// Memory shrinks under the switch. Nobody here may touch it afterwards.
#[test]
fn truncated_memory_stops_its_port() {
    for workers in [1, 2] {
        for packed in [false, true] {
            for kicks in [false, true] {
                let mut scene = Scene::new(workers);
                let mut evil = scene.evil(evil_options(packed));
                evil.net.refill(0, 4).expect("buffers");
                evil.send(0, &raw(mac(1), EVIL, 0, 60));
                scene.good[0].recv();
                let file = evil.net.memory().regions()[0].file().try_clone_to_owned();
                rustix::fs::ftruncate(file.expect("a file"), 0).expect("no seal");
                if kicks {
                    evil.net.lane(TX).kick.signal().expect("a kick");
                } else {
                    scene.good[0].send(0, &raw(mac(EVIL), 1, 0, 60));
                }
                eventually(
                    || scene.rig.stopped(EVIL).is_some(),
                    || "the port stops".into(),
                );
                let why = scene.rig.stopped(EVIL).expect("just seen");
                assert!(why.contains("truncated"), "{why}");
                scene.goes_on();
                evil.net.disconnect();
                eventually(|| scene.rig.waits(EVIL), || "the port waits".into());
                let mut next = scene.evil(evil_options(packed));
                next.send(0, &raw(mac(1), EVIL, 5, 60));
                assert_eq!(scene.good[0].recv().packet, raw(mac(1), EVIL, 5, 60));
            }
        }
    }
}

#[test]
fn a_storm_of_kicks_costs_others_nothing_but_time() {
    for workers in [1, 2] {
        let mut scene = Scene::new(workers);
        let mut evil = scene.evil(evil_options(false));
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    evil.net.lane(TX).kick.signal().expect("a kick");
                    evil.net.lane(RX).kick.signal().expect("a kick");
                }
            });
            for _ in 0..20 {
                scene.goes_on();
            }
            done.store(true, Ordering::Relaxed);
        });
        assert_eq!(scene.rig.stopped(EVIL), None);
        evil.send(0, &raw(mac(1), EVIL, 3, 60));
        assert_eq!(scene.good[0].recv().packet, raw(mac(1), EVIL, 3, 60));
    }
}

/// How often workers woke while nothing came: they are asked so many times, and each question wakes each of them, twice
/// at most, because what wakes them may be read after the question.
#[track_caller]
fn assert_asleep(rig: &Rig, workers: usize, what: &str) {
    const ASKED: u64 = 10;
    let before = rig.state().wakes;
    // One that does not sleep has time to show it.
    std::thread::sleep(std::time::Duration::from_millis(30));
    let mut last = before;
    for _ in 0..ASKED {
        last = rig.state().wakes;
    }
    let woke = last - before;
    assert!(
        woke <= 2 * (ASKED + 1) * workers as u64,
        "{what}: {woke} wakes of {workers} workers"
    );
}

/// A kick that is readable for ever: the port stops and says so, and its worker sleeps again.
#[test]
fn a_kick_that_nobody_can_give_stops_its_port() {
    for workers in [1, 2] {
        for pairs in [1, 2] {
            for kind in 0..2 {
                let mut scene = Scene::with_pairs(workers, pairs);
                let mut evil = scene.evil(Options {
                    pairs,
                    ..evil_options(false)
                });
                evil.send(0, &raw(mac(1), EVIL, 0, 60));
                scene.good[0].recv();
                let (reader, writer) = std::io::pipe().expect("a pipe");
                // Without its other end one is always readable, the other always in error.
                let kick = if kind == 0 {
                    reader.as_fd()
                } else {
                    writer.as_fd()
                };
                let ring = 2 * u32::from(pairs) - 1;
                let front = evil.net.front();
                front.set_vring_kick(ring, Some(kick)).expect("taken");
                drop((reader, writer));
                let why = ["kick pipe is closed", "cannot be read"][kind];
                eventually(
                    || scene.rig.stopped(EVIL).is_some(),
                    || "the port stops".into(),
                );
                let said = scene.rig.stopped(EVIL).expect("just seen");
                let ring = format!("ring {ring}: ");
                assert!(said.starts_with(&ring) && said.contains(why), "{said}");
                scene.goes_on();
                scene.rig.quiet();
                assert_asleep(&scene.rig, workers, &said);
                evil.net.disconnect();
                eventually(|| scene.rig.waits(EVIL), || "the port waits".into());
            }
        }
    }
}

/// What a full ring is waited for with: a pipe that is closed.
#[test]
fn a_closed_kick_of_a_full_ring_stops_its_port() {
    for workers in [1, 2] {
        let mut scene = Scene::new(workers);
        let mut evil = scene.evil(evil_options(false));
        evil.send(0, &raw(mac(1), EVIL, 0, 60));
        scene.good[0].recv();
        let (reader, writer) = std::io::pipe().expect("a pipe");
        let front = evil.net.front();
        front
            .set_vring_kick(0, Some(reader.as_fd()))
            .expect("taken");
        drop((reader, writer));
        scene.goes_on();
        assert_eq!(scene.rig.stopped(EVIL), None, "nobody has waited for it");
        scene.good[0].send(0, &raw(mac(EVIL), 1, 0, 60));
        scene.stops(evil, "ring 0: its kick pipe is closed", "a closed pipe");
    }
}

/// Eight bytes through a pipe are as good a kick as any.
#[test]
fn a_pipe_kicks() {
    for pairs in [1, 2] {
        let mut scene = Scene::with_pairs(1, pairs);
        let mut evil = scene.evil(Options {
            pairs,
            ..evil_options(false)
        });
        let (reader, writer) = std::io::pipe().expect("a pipe");
        let front = evil.net.front();
        front
            .set_vring_kick(1, Some(reader.as_fd()))
            .expect("taken");
        evil.net.lane(TX).kick = EventFd::from_fd(writer.into());
        for number in 0..50 {
            let packet = raw(mac(1), EVIL, number, 60);
            evil.send(0, &packet);
            assert_eq!(scene.good[0].recv().packet, packet);
        }
        scene.goes_on();
        scene.rig.quiet();
        assert_asleep(&scene.rig, 1, "a pipe");
    }
}

/// Doorbells that are full, pipes, or pipes that nobody holds the other end of.
#[test]
fn strange_doorbells_harm_nobody() {
    for workers in [1, 2] {
        let mut scene = Scene::new(workers);
        for kind in 0..3 {
            let mut evil = scene.evil(Options {
                auto_refill: true,
                ..evil_options(false)
            });
            let (reader, writer) = std::io::pipe().expect("a pipe");
            let mut reader = Some(reader);
            match kind {
                0 => {
                    let _ = evil.net.lane(RX).call.drain();
                    // One less than the largest number: no room for another.
                    let full = evil
                        .net
                        .lane(RX)
                        .call
                        .as_fd()
                        .try_clone_to_owned()
                        .expect("a copy");
                    rustix::io::write(&full, &(u64::MAX - 1).to_ne_bytes()).expect("room");
                }
                1 => evil
                    .net
                    .front()
                    .set_vring_call(0, Some(writer.as_fd()))
                    .expect("taken"),
                _ => {
                    evil.net
                        .front()
                        .set_vring_call(0, Some(writer.as_fd()))
                        .expect("taken");
                    drop(reader.take());
                }
            }
            let _ = evil.net.lane(RX).ring.enable_interrupts();
            for number in 0..40 {
                scene.good[0].send(0, &raw(mac(EVIL), 1, number, 60));
                eventually(
                    || evil.net.try_recv().expect("no fault").is_some(),
                    || "it comes".into(),
                );
                let _ = evil.net.lane(RX).ring.enable_interrupts();
            }
            scene.goes_on();
            assert_eq!(scene.rig.stopped(EVIL), None, "kind {kind}");
            evil.net.disconnect();
            eventually(|| scene.rig.waits(EVIL), || "the port waits".into());
        }
    }
}

#[test]
fn a_guest_that_takes_nothing_costs_only_its_own_packets() {
    for workers in [1, 2] {
        for packed in [false, true] {
            let mut scene = Scene::new(workers);
            let mut evil = scene.evil(evil_options(packed));
            evil.send(0, &raw(mac(1), EVIL, 0, 60));
            assert_eq!(scene.good[0].recv().packet.len(), 60);
            scene.goes_on();
            let full = |scene: &Scene| {
                let counters = scene.rig.port_state(EVIL).counters;
                counters.tx_faults.get(TxFault::QueueFull)
            };
            // What was flooded while stations were unknown.
            let before = full(&scene);
            for round in 0..20 {
                for number in 0..50 {
                    scene.good[0].send(0, &raw(mac(EVIL), 1, round * 50 + number, 60));
                }
                scene.goes_on();
            }
            scene.good[0].net.wait_sent(0).expect("taken");
            scene.rig.quiet();
            let port = scene.rig.port_state(EVIL);
            assert_eq!(full(&scene) - before, 1000);
            // It was waited for at most once for each time it might have moved.
            assert!(port.counters.waits <= 50, "{} waits", port.counters.waits);
            // It moves again as soon as there is room.
            evil.net.refill(0, 10).expect("buffers");
            for number in 0..10 {
                let packet = raw(mac(EVIL), 1, number, 60);
                scene.good[0].send(0, &packet);
                assert_eq!(evil.recv().packet, packet);
            }
            scene.rig.quiet();
            assert_eq!(full(&scene) - before, 1000);
        }
    }
}

/// A receiver that is late but comes is waited for: nothing is lost.
#[test]
fn a_guest_that_takes_in_steps_gets_all() {
    let mut scene = Scene::new(1);
    let mut evil = scene.evil(Options {
        auto_refill: true,
        ..evil_options(false)
    });
    evil.send(0, &raw(mac(1), EVIL, 0, 60));
    scene.good[0].recv();
    let packets = 400;
    let [good, _] = &mut scene.good;
    let mut seen = 0;
    for number in 0..packets {
        good.send(0, &raw(mac(EVIL), 1, number, 60));
        if number % 8 == 7 {
            while seen <= number {
                assert_eq!(evil.recv().packet, raw(mac(EVIL), 1, seen, 60));
                seen += 1;
            }
        }
    }
    assert_eq!(seen, packets);
    assert_eq!(scene.rig.quiet().books.dropped, 0);
}

#[test]
fn packets_longer_than_a_guests_buffers_are_dropped_and_counted() {
    for packed in [false, true] {
        // One small buffer a packet; or too few of them on the whole ring.
        for (mergeable, queue_size, len) in [(false, 16, 500), (true, 4, 500)] {
            let mut scene = Scene::new(1);
            let mut evil = scene.evil(Options {
                mergeable,
                queue_size,
                rx_buffer_len: 100,
                auto_refill: true,
                ..evil_options(packed)
            });
            evil.send(0, &raw(mac(1), EVIL, 0, 60));
            scene.good[0].recv();
            for number in 0..50 {
                scene.good[0].send(0, &raw(mac(EVIL), 1, number, len));
                let packet = raw(mac(EVIL), 1, number, 60);
                scene.good[0].send(0, &packet);
                assert_eq!(evil.recv().packet, packet);
            }
            scene.rig.quiet();
            let faults = scene.rig.port_state(EVIL).counters.tx_faults;
            assert_eq!(
                faults.get(TxFault::TooLong),
                50,
                "{faults:?}, mergeable: {mergeable}"
            );
            assert_eq!(evil.drain(), []);
            scene.goes_on();
        }
    }
}
