//! Front ends that come, go, stop, change their minds and move; and a switch that is restarted under them.

use std::io::{BufRead, BufReader, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use jumbo_ports::queue::TxFault;
use jumbo_ports::vhost::RollCall;
use jumbo_switch::patience::Waits;
use jumbo_testkit::virtio::{
    AVAIL, DriverQueue, FrontEnd, FrontEndListener, GUEST_OFFLOADS, HOST_OFFLOADS, MemoryLayout,
    Options, SharedFile, USED, VirtioNet, WRITE, feature, protocol,
};

use crate::rig::{BROADCAST, Guest, Rig, SOON, acquaint, eventually, mac, raw};

const BOTH: [bool; 2] = [false, true];

fn format(packed: bool) -> Options {
    Options {
        packed,
        queue_size: 128,
        tx_len: 2048,
        ..Options::default()
    }
}

#[test]
fn guests_come_and_go() {
    for workers in [1, 2] {
        let rig = Rig::of(workers, 2, 1);
        assert!(rig.waits(0) && rig.waits(1));
        let mut a = rig.guest(0, format(false));
        for round in 0..6_u64 {
            // Each time another kind of guest.
            let options = Options {
                features: feature::ANY_LAYOUT | (GUEST_OFFLOADS & (round % 2).wrapping_neg()),
                mergeable: round % 3 != 0,
                ..format(round % 2 == 1)
            };
            let mut guests = [a, rig.guest(1, options)];
            acquaint(&rig, &mut guests);
            let [again, mut b] = guests;
            a = again;
            let takes = rig.port_state(1).takes;
            assert_eq!(takes.tso4() && takes.uso(), round % 2 == 1);
            for number in 0..10 {
                a.send(0, &raw(mac(1), 0, number, 60));
                assert_eq!(b.recv().packet, raw(mac(1), 0, number, 60));
            }
            b.net.disconnect();
            eventually(|| rig.waits(1), || "the port waits again".into());
        }
        // Nobody is there: dropped, and counted.
        let before = rig.port_state(1).counters.tx_faults.get(TxFault::LinkDown);
        a.send(0, &raw(mac(1), 0, 0, 60));
        a.net.wait_sent(0).expect("taken all the same");
        rig.quiet();
        let after = rig.port_state(1).counters.tx_faults.get(TxFault::LinkDown);
        assert_eq!(after - before, 1);
        rig.hears(1, "the front end has gone");
    }
}

#[test]
fn a_second_front_end_is_sent_away() {
    let rig = Rig::of(1, 2, 1);
    let mut guests = [0, 1].map(|port| rig.guest(port, format(false)));
    acquaint(&rig, &mut guests);
    let second = FrontEnd::connect(&rig.ports[0].path, SOON).expect("the socket is there");
    assert!(second.is_closed(SOON).expect("no fault"));
    rig.hears(0, "warning: a second front end");
    acquaint(&rig, &mut guests);
}

#[test]
fn a_reset_device_can_be_anything_again() {
    for bit in [protocol::RESET_DEVICE, protocol::STATUS] {
        let rig = Rig::of(1, 2, 1);
        let mut a = rig.guest(0, format(false));
        let mut b = rig.guest(1, format(false));
        for round in 0..4 {
            let mut guests = [a, b];
            acquaint(&rig, &mut guests);
            [a, b] = guests;
            b.net.stop().expect("stopped");
            let front = b.net.front();
            if bit == protocol::STATUS {
                front.set_status(0).expect("reset");
            } else {
                front.reset_device().expect("reset");
            }
            assert!(rig.waits(1));
            // Memory stays through a reset (it is the monitor's, not the guest's).
            let regions = b.net.memory().regions().to_vec();
            for region in &regions {
                b.net.front().remove_region(region).expect("it was there");
            }
            let options = Options {
                features: feature::ANY_LAYOUT | if round % 2 == 0 { GUEST_OFFLOADS } else { 0 },
                mergeable: round % 2 == 0,
                in_order: round == 1,
                ..format(round % 2 == 0)
            };
            let net = VirtioNet::start(b.net.into_front(), options).expect("a start");
            b = Guest { net, n: 1 };
            assert_eq!(rig.port_state(1).takes.csum(), round % 2 == 0);
        }
        let mut guests = [a, b];
        acquaint(&rig, &mut guests);
        assert_eq!(rig.quiet().books.dropped, 0);
    }
}

/// Numbered packets from one guest to another, checked to come in order, each once.
struct Numbers {
    sent: u64,
    seen: u64,
}

impl Numbers {
    fn new() -> Self {
        Self { sent: 0, seen: 0 }
    }

    fn send(&mut self, from: &mut Guest, to: usize, count: u64) {
        for _ in 0..count {
            from.send(0, &raw(mac(to), from.n, self.sent, 200));
            self.sent += 1;
        }
    }

    #[track_caller]
    fn recv(&mut self, from: usize, to: &mut Guest) {
        while self.seen < self.sent {
            assert_eq!(to.recv().packet, raw(mac(to.n), from, self.seen, 200));
            self.seen += 1;
        }
    }
}

#[test]
fn rings_stop_and_go_on_without_loss() {
    for packed in BOTH {
        let rig = Rig::of(2, 2, 1);
        let mut guests = [0, 1].map(|port| rig.guest(port, format(packed)));
        acquaint(&rig, &mut guests);
        let [a, b] = &mut guests;
        let mut numbers = Numbers::new();
        for _ in 0..50 {
            // Taken or not when the ring stops.
            numbers.send(a, 1, 20);
            let bases = a.net.stop().expect("stopped");
            assert!(
                a.net
                    .try_send(0, &[0; 12], &raw(mac(1), 0, numbers.sent, 200))
                    .expect("room")
            );
            numbers.sent += 1;
            a.net.start_rings(&bases).expect("started");
            numbers.recv(0, b);
        }
        a.net.wait_sent(0).expect("all given back");
        assert_eq!(rig.quiet().books.dropped, 0);
    }
}

/// The ring that packets go to stops too: those on their way are counted as dropped, the others come.
#[test]
fn what_meets_a_stopped_ring_is_counted() {
    for packed in BOTH {
        let rig = Rig::of(1, 2, 1);
        let mut guests = [0, 1].map(|port| rig.guest(port, format(packed)));
        acquaint(&rig, &mut guests);
        let [a, b] = &mut guests;
        let before = rig.state().books;
        let mut came = 0;
        for round in 0..30 {
            for number in 0..20 {
                a.send(0, &raw(mac(1), 0, round * 20 + number, 200));
            }
            let bases = b.net.stop().expect("stopped");
            b.net.start_rings(&bases).expect("started");
            a.net.wait_sent(0).expect("taken");
            rig.quiet();
            came += b.drain().len() as u64;
        }
        let books = rig.quiet().books;
        let down = rig.port_state(1).counters.tx_faults.get(TxFault::LinkDown);
        assert_eq!(books.received - before.received, 600);
        assert_eq!(books.dropped, down);
        assert_eq!(came + down, 600);
        let size = b.net.lane(0).ring.size();
        assert_eq!(b.net.lane(0).ring.held(), size, "no buffer is lost");
    }
}

/// A message that changes what running rings depend on, of several kinds in turn: all take the rings away from the
/// workers and hand them back.
fn exchange(b: &mut Guest, round: u64) {
    let (call, kick) = {
        let lane = b.net.lane(0);
        let copy = |fd: BorrowedFd<'_>| fd.try_clone_to_owned().expect("a copy");
        (copy(lane.call.as_fd()), copy(lane.kick.as_fd()))
    };
    let features = b.net.features();
    let at = (1 + round) << 40;
    let front = b.net.front();
    match round % 6 {
        0 => front.set_vring_call(0, Some(call.as_fd())),
        1 => front.set_vring_kick(0, Some(kick.as_fd())),
        2 => front.set_features(features & !GUEST_OFFLOADS),
        3 => front.set_features(features),
        4 => front.set_features(features | feature::LOG_ALL),
        _ => {
            let region = b.net.memory().add(at, 1 << 20).expect("memory").clone();
            b.net.front().add_region(&region).expect("taken");
            b.net.memory().remove(at);
            b.net.front().remove_region(&region)
        }
    }
    .expect("taken");
}

/// Sets a flag when it goes.
struct SetAtEnd<'a>(&'a AtomicBool);

impl Drop for SetAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Packets for a guest whose rings are exchanged all the while. Returns how many were dropped, and how often one waited.
fn exchanges(workers: usize, packed: bool, waits: Waits, rounds: u64) -> (u64, u64) {
    /// Fewer than the receiver has buffers for: while it waits for an answer it takes nothing.
    const AHEAD: u64 = 64;
    let mut rig = Rig::waiting(workers, waits);
    for _ in 0..2 {
        rig.port(|_| {});
    }
    let options = Options {
        features: feature::ANY_LAYOUT | GUEST_OFFLOADS,
        ..format(packed)
    };
    let mut guests = [0, 1].map(|port| rig.guest(port, options.clone()));
    acquaint(&rig, &mut guests);
    let [a, b] = &mut guests;
    let (seen, done) = (AtomicU64::new(0), AtomicBool::new(false));
    let sent = std::thread::scope(|scope| {
        let sender = scope.spawn(|| {
            let mut sent = 0;
            while !done.load(Ordering::Relaxed) {
                if sent >= seen.load(Ordering::Relaxed) + AHEAD {
                    std::thread::yield_now();
                    continue;
                }
                a.send(0, &raw(mac(1), 0, sent, 200));
                sent += 1;
            }
            a.net.wait_sent(0).expect("all given back");
            sent
        });
        // The sender ends when this does, whatever the reason.
        let end = SetAtEnd(&done);
        for round in 0..rounds {
            exchange(b, round);
            for got in b.drain() {
                let number = u64::from_le_bytes(got.packet[14..22].try_into().expect("eight"));
                assert_eq!(got.packet, raw(mac(1), 0, number, 200));
                assert!(number >= seen.load(Ordering::Relaxed), "{number} again");
                seen.store(number + 1, Ordering::Relaxed);
            }
        }
        drop(end);
        sender.join().expect("the sender ends")
    });
    let state = rig.quiet();
    let came = b.drain().len() as u64;
    println!("{workers} workers, packed {packed}: {sent} sent, the last {came} seen at the end");
    assert!(sent > rounds, "there was traffic");
    (state.books.dropped, rig.port_state(1).counters.waits)
}

/// The usual waits are short, and a busy machine may not let our threads run in time: what is tested is that the rings
/// are waited for, so here they are waited for as long as it takes.
#[test]
fn nothing_is_lost_while_rings_are_exchanged() {
    let waits = Waits {
        budget_ns: SOON.as_nanos() as u64,
        window_ns: 1,
        ..Waits::default()
    };
    for (workers, packed) in [(1, false), (1, true), (2, false), (2, true)] {
        let (dropped, waited) = exchanges(workers, packed, waits, 300);
        println!("{waited} waits");
        assert_eq!(dropped, 0);
    }
}

/// For people: how it is with the usual waits.
#[test]
#[ignore = "a measurement"]
fn what_is_lost_while_rings_are_exchanged() {
    for (workers, packed) in [(1, false), (1, true), (2, false), (2, true)] {
        let (dropped, waited) = exchanges(workers, packed, Waits::default(), 1000);
        println!("{dropped} dropped in 1000 exchanges, {waited} waits");
    }
}

#[test]
fn memory_comes_and_goes_under_traffic() {
    for packed in BOTH {
        for workers in [1, 2] {
            let rig = Rig::of(workers, 2, 1);
            let scattered = Options {
                memory: MemoryLayout::Scattered(3),
                ..format(packed)
            };
            let mut guests = [0, 1].map(|port| rig.guest(port, scattered.clone()));
            acquaint(&rig, &mut guests);
            let [a, b] = &mut guests;
            let mut numbers = Numbers::new();
            for round in 0..30_u64 {
                numbers.send(a, 1, 20);
                let at = (1 + round) << 40;
                a.net.memory().add(at, 2 << 20).expect("memory");
                let region = a.net.memory().regions().last().expect("just added").clone();
                a.net.front().add_region(&region).expect("taken");
                numbers.send(a, 1, 20);
                // Twice does no harm: QEMU says it for each queue pair.
                a.net.front().add_region(&region).expect("taken");
                if round % 3 != 0 {
                    a.net.front().remove_region(&region).expect("given back");
                    a.net.memory().remove(at);
                }
                numbers.recv(0, b);
            }
            assert_eq!(rig.quiet().books.dropped, 0);
        }
    }
}

/// A region that holds buffers goes: the ring breaks when one is used, and says so.
#[test]
fn a_buffer_in_a_region_that_has_gone_stops_its_port() {
    for packed in BOTH {
        let mut rig = Rig::of(1, 3, 1);
        let scattered = Options {
            memory: MemoryLayout::Scattered(8),
            ..format(packed)
        };
        let mut guests = [0, 1, 2].map(|port| rig.guest(port, scattered.clone()));
        acquaint(&rig, &mut guests);
        let [a, b, c] = &mut guests;
        // The rings lie in the first ones; sending buffers in all.
        let last = a.net.memory().regions().last().expect("eight").clone();
        let ring = a.net.lane(1).ring.addresses();
        assert!(
            [ring.descriptors, ring.driver, ring.device]
                .iter()
                .all(|at| *at < last.guest_addr())
        );
        a.net.front().remove_region(&last).expect("given back");
        // All at once, so that every sending buffer is used, those in that region too.
        for number in 0..1024 {
            let packet = raw(mac(1), 0, number, 60);
            if !a.net.queue_packet(0, &[0; 12], &packet).unwrap_or(false) {
                break;
            }
        }
        let _ = a.net.flush(0);
        eventually(|| rig.stopped(0).is_some(), || "the port stops".into());
        let why = rig.stopped(0).expect("just seen");
        assert!(why.contains("outside memory"), "{why}");
        let mut numbers = Numbers::new();
        b.drain();
        c.drain();
        numbers.send(b, 2, 50);
        numbers.recv(1, c);
        let events = rig.switch.events();
        let said: Vec<_> = events
            .try_iter()
            .map(|event| format!("{event:?}"))
            .collect();
        assert!(
            said.iter()
                .any(|s| s.contains("PortStopped") && s.contains(&why)),
            "{said:?}"
        );
    }
}

#[test]
fn the_mtu_of_a_guest_is_the_ports() {
    let mut rig = Rig::new(1);
    for _ in 0..2 {
        rig.port(|config| config.mtu = Some(9000));
    }
    let with_mtu = Options {
        features: feature::ANY_LAYOUT | feature::MTU,
        mtu: Some(1500),
        tx_len: 9014,
        ..Options::default()
    };
    let mut guests = [
        rig.guest(
            0,
            Options {
                mtu: None,
                ..with_mtu.clone()
            },
        ),
        rig.guest(1, with_mtu),
    ];
    acquaint(&rig, &mut guests);
    assert_eq!(rig.port_state(0).info.mtu, 9000);
    assert_eq!(rig.port_state(1).info.mtu, 1500);
    let [a, b] = &mut guests;
    let tagged = 14 + 1500;
    a.send(0, &raw(mac(1), 0, 1, tagged));
    assert_eq!(b.recv().packet.len(), tagged);
    let refused = b
        .net
        .front()
        .set_mtu(9001)
        .expect_err("more than the port's");
    assert!(refused.to_string().contains("refused"), "{refused}");
    rig.hears(1, "refused");
    b.net.front().set_mtu(9000).expect("as much as the port's");
    assert_eq!(rig.port_state(1).info.mtu, 9000);
    a.send(0, &raw(mac(1), 0, 2, 9014));
    assert_eq!(b.recv().packet.len(), 9014);
}

#[test]
fn a_station_moves_when_it_is_announced() {
    for workers in [1, 2] {
        let rig = Rig::of(workers, 3, 1);
        let options = Options {
            protocol: Options::default().protocol | protocol::RARP,
            ..format(false)
        };
        let mut guests = [0, 1, 2].map(|port| rig.guest(port, options.clone()));
        acquaint(&rig, &mut guests);
        let [a, b, c] = &mut guests;
        a.send(0, &raw(mac(1), 0, 1, 60));
        assert_eq!(b.recv().packet, raw(mac(1), 0, 1, 60));
        // The guest of station 1 is now behind port 2: everybody but that port's guest hears of it.
        c.net.front().send_rarp(mac(1)).expect("taken");
        let announcement = rarp(mac(1));
        assert_eq!(a.recv().packet, announcement);
        assert_eq!(b.recv().packet, announcement);
        let state = rig.quiet();
        assert!(state.books.balanced(), "{:?}", state.books);
        assert_eq!(c.drain(), []);
        assert_eq!(rig.port_state(2).counters.announced, 1);
        a.send(0, &raw(mac(1), 0, 2, 60));
        assert_eq!(c.recv().packet, raw(mac(1), 0, 2, 60));
        a.net.wait_sent(0).expect("taken");
        let got = b.drain();
        assert!(got.iter().all(|got| got.packet != raw(mac(1), 0, 2, 60)));
    }
}

/// RFC 903: an Ethernet broadcast of type 0x8035; hardware Ethernet, protocol IPv4, operation 3; who asks is who is asked
/// about.
fn rarp(mac: [u8; 6]) -> Vec<u8> {
    let mut packet = [&BROADCAST[..], &mac, &[0x80, 0x35]].concat();
    packet.extend([0, 1, 8, 0, 6, 4, 0, 3]);
    packet.extend(mac);
    packet.extend([0; 4]);
    packet.extend(mac);
    packet.resize(60, 0);
    packet
}

/// What a front end says too often is not passed on, and what cannot be a station's address never.
#[test]
fn announcements_are_bounded() {
    let rig = Rig::of(1, 2, 1);
    let options = Options {
        protocol: Options::default().protocol | protocol::RARP,
        ..format(false)
    };
    let mut guests = [0, 1].map(|port| rig.guest(port, options.clone()));
    acquaint(&rig, &mut guests);
    let [a, b] = &mut guests;
    for address in [BROADCAST, [0; 6], [1, 0, 0, 0, 0, 1]] {
        b.net.front().send_rarp(address).expect("taken");
    }
    rig.quiet();
    assert_eq!(a.drain(), []);
    assert_eq!(rig.port_state(1).counters.announced, 0);
    let mut asked = 0;
    while rig.port_state(1).counters.unannounced == 0 {
        b.net.front().send_rarp(mac(7)).expect("taken");
        asked += 1;
        assert!(asked < 100_000, "never too often");
    }
    rig.quiet();
    let counters = rig.port_state(1).counters;
    assert_eq!(counters.announced + counters.unannounced, asked);
    let heard = a.drain();
    assert_eq!(heard.len() as u64, counters.announced);
    assert!(heard.iter().all(|got| got.packet == rarp(mac(7))));
    // It is learned all the same.
    a.send(0, &raw(mac(7), 0, 1, 60));
    assert_eq!(b.recv().packet, raw(mac(7), 0, 1, 60));
}

/// Every byte of guest memory, page by page.
fn pages(net: &mut VirtioNet) -> Vec<(u64, Vec<u8>)> {
    let memory = net.memory();
    let mut all = Vec::new();
    for region in memory.regions() {
        for at in (region.guest_addr()..region.guest_addr() + region.len()).step_by(4096) {
            all.push((at / 4096, memory.read(at, 4096)));
        }
    }
    all
}

fn marked(log: &SharedFile) -> Vec<u64> {
    let mut bits = vec![0; log.window().len()];
    log.window().read(0, &mut bits);
    let is_set = |page: &u64| bits[*page as usize / 8] & 1 << (page % 8) != 0;
    (0..bits.len() as u64 * 8).filter(is_set).collect()
}

/// Tells the back end to log what it writes, as QEMU does when a migration begins.
fn start_log(net: &mut VirtioNet) -> SharedFile {
    let regions = net.memory().regions();
    let end = regions
        .iter()
        .map(|r| r.guest_addr() + r.len())
        .max()
        .expect("memory");
    let log = SharedFile::new((end / 4096).div_ceil(8) as usize).expect("a file");
    let front = net.front();
    front.set_log_base(&log).expect("taken");
    front
        .set_features(net.features() | feature::LOG_ALL)
        .expect("taken");
    let rings: Vec<_> = [0, 1].map(|ring| net.lane(ring).ring.addresses()).into();
    let memory = net.memory().clone();
    for (index, ring) in rings.iter().enumerate() {
        let front = net.front();
        front
            .set_vring_addr(index as u32, &memory, ring, Some(ring.device))
            .expect("taken");
    }
    log
}

#[test]
fn the_dirty_log_has_the_pages_that_were_written() {
    for bits in 0..8 {
        let rig = Rig::of(1, 2, 1);
        let options = Options {
            protocol: Options::default().protocol | protocol::LOG_SHMFD,
            mergeable: bits & 2 == 0,
            rx_buffer_len: 9100,
            event_idx: bits & 4 != 0,
            auto_refill: false,
            memory: MemoryLayout::Scattered(2),
            ..format(bits & 1 != 0)
        };
        let mut b = rig.guest(1, options.clone());
        let mut a = rig.guest(
            0,
            Options {
                tx_len: 20_000,
                auto_refill: true,
                ..options
            },
        );
        let log = start_log(&mut b.net);
        b.net.refill(0, 100).expect("buffers");
        let mut count = 0;
        for len in [60, 5000, 9014] {
            let before = pages(&mut b.net);
            let already = marked(&log);
            log.window().fill(0, log.window().len(), 0);
            for _ in 0..5 {
                a.send(0, &raw(mac(1), 0, count, len));
                count += 1;
            }
            a.net.wait_sent(0).expect("taken");
            rig.quiet();
            let after = pages(&mut b.net);
            let changed = before.iter().zip(&after).filter(|(b, a)| b.1 != a.1);
            let changed: Vec<u64> = changed.map(|(b, _)| b.0).collect();
            let marked = marked(&log);
            let missing: Vec<_> = changed
                .iter()
                .filter(|page| !marked.contains(page))
                .collect();
            assert!(
                missing.is_empty(),
                "format {bits}: {missing:?} of {changed:?}, {marked:?}"
            );
            let idle: Vec<_> = marked
                .iter()
                .filter(|page| !changed.contains(page))
                .collect();
            assert!(
                idle.is_empty(),
                "format {bits}: {idle:?} were not written; {already:?}"
            );
            assert!(changed.len() >= 5 * len / 4096, "{} pages", changed.len());
        }
        // What is not logged any more is not marked.
        log.window().fill(0, log.window().len(), 0);
        let features = b.net.features();
        b.net.front().set_features(features).expect("taken");
        a.send(0, &raw(mac(1), 0, count, 60));
        a.net.wait_sent(0).expect("taken");
        rig.quiet();
        assert_eq!(marked(&log), Vec::<u64>::new());
    }
}

#[test]
fn a_burst_is_one_kick_and_one_call() {
    for bits in 0..4 {
        let options = Options {
            event_idx: bits & 2 != 0,
            ..format(bits & 1 != 0)
        };
        let rig = Rig::of(1, 2, 1);
        let mut guests = [0, 1].map(|port| rig.guest(port, options.clone()));
        acquaint(&rig, &mut guests);
        let [a, b] = &mut guests;
        let mut next = 0;
        let mut burst = |a: &mut Guest, b: &mut Guest, count: u64| {
            for _ in 0..count {
                let packet = raw(mac(1), 0, next, 60);
                assert!(a.net.queue_packet(0, &[0; 12], &packet).expect("room"));
                next += 1;
            }
            a.net.flush(0).expect("a kick");
            a.net.wait_sent(0).expect("taken");
            rig.quiet();
            let calls = b.net.lane(0).call.drain();
            assert_eq!(b.drain().len() as u64, count);
            calls
        };
        // A ring that begins is called once.
        let _ = b.net.lane(0).call.drain();
        // Wanted.
        // A worker that is awake already may see a burst in parts; one that sleeps sees it whole.
        let mut least = u64::MAX;
        for _ in 0..20 {
            let _ = b.net.lane(0).ring.enable_interrupts();
            let calls = burst(a, b, 50);
            assert!(calls >= 1, "format {bits}");
            least = least.min(calls);
        }
        assert_eq!(least, 1, "format {bits}");
        // Not wanted.
        b.net.lane(0).ring.disable_interrupts();
        let _ = b.net.lane(0).call.drain();
        for _ in 0..20 {
            assert_eq!(burst(a, b, 50), 0, "format {bits}");
        }
        // Wanted after the tenth.
        if bits & 2 != 0 {
            let _ = b.net.lane(0).ring.interrupt_after(10);
            assert_eq!(burst(a, b, 9), 0);
            let _ = b.net.lane(0).ring.interrupt_after(10);
            assert_eq!(burst(a, b, 10), 1);
        }
        // Buffers for us are nothing to wake up for.
        let kicks = b.net.counts().kicks;
        assert!(kicks <= 2, "{kicks} kicks for given buffers");
        // While we look, kicks are not wanted: never more than bursts.
        let before = a.net.counts().kicks;
        for _ in 0..20 {
            burst(a, b, 30);
        }
        assert!(a.net.counts().kicks - before <= 20);
    }
}

/// What goes on around a restart: nothing that a guest had given is lost, towards it or from it.
struct Restarts {
    sent: u64,
    /// The next that has not been seen.
    next: u64,
    again: u64,
}

impl Restarts {
    /// Long, so that a burst takes its time.
    const LEN: usize = 2000;

    fn new() -> Self {
        Self {
            sent: 0,
            next: 0,
            again: 0,
        }
    }

    fn send(&mut self, a: &mut Guest, count: u64) {
        for _ in 0..count {
            let packet = raw(mac(1), 0, self.sent, Self::LEN);
            if !a.net.try_send(0, &[0; 12], &packet).expect("no fault") {
                return;
            }
            self.sent += 1;
        }
    }

    /// Takes in what came. A packet may come again: it was shown to one guest before it was given back to the other.
    #[track_caller]
    fn take(&mut self, b: &mut Guest) {
        for got in b.drain() {
            let number = u64::from_le_bytes(got.packet[14..22].try_into().expect("eight"));
            assert_eq!(got.packet, raw(mac(1), 0, number, Self::LEN));
            assert!(
                number <= self.next,
                "{} is missing before {number}",
                self.next
            );
            self.again += u64::from(number < self.next);
            self.next = self.next.max(number + 1);
        }
    }

    #[track_caller]
    fn finish(&mut self, a: &mut Guest, b: &mut Guest) {
        let sent = a.net.wait_sent(0);
        assert!(sent.is_ok(), "{}: {sent:?}", stands(a, 1));
        let end = Instant::now() + SOON;
        while self.next < self.sent {
            self.take(b);
            let what = format!("{} of {}, {} again", self.next, self.sent, self.again);
            assert!(Instant::now() < end, "{what}, {}", stands(b, 0));
        }
        for (ring, guest) in [(0, &mut *a), (0, b)] {
            let lane = guest.net.lane(ring);
            assert_eq!(lane.ring.held(), lane.ring.size(), "no buffer is lost");
        }
        assert_eq!(a.net.lane(1).ring.held(), 0);
    }
}

/// What a ring says of itself, for a test that fails.
fn stands(guest: &mut Guest, ring: usize) -> String {
    match &guest.net.lane(ring).ring {
        DriverQueue::Split(split) => {
            format!("used {}, avail {}", split.used_idx(), split.avail_idx())
        }
        DriverQueue::Packed(packed) => {
            let flags = |index| packed.descriptor(index).flags;
            let sides = |f: u16| u8::from(f & AVAIL != 0) * 10 + u8::from(f & USED != 0);
            let all: Vec<_> = (0..packed.size())
                .map(|index| format!("{:02}", sides(flags(index))))
                .collect();
            format!(
                "next used {:?}, next avail {:?}: {}",
                packed.next_used(),
                packed.next_avail(),
                all.join(" ")
            )
        }
    }
}

fn drop_and_start(packed: bool, in_order: bool, workers: usize) {
    let mut rig = Rig::of(workers, 2, 1);
    let options = Options {
        in_order,
        // Fewer than the other has buffers for: after a restart everything is flooded and waits for nobody.
        ..format(packed)
    };
    let mut guests = [0, 1].map(|port| rig.guest(port, options.clone()));
    acquaint(&rig, &mut guests);
    let [a, b] = &mut guests;
    let mut restarts = Restarts::new();
    for round in 0..12 {
        restarts.send(a, 20 + round);
        rig.restart(workers);
        a.net.disconnect();
        b.net.disconnect();
        restarts.take(b);
        restarts.send(a, 20);
        for guest in [&mut *b, &mut *a] {
            let front = FrontEnd::connect(&rig.ports[guest.n].path, SOON).expect("there again");
            guest.net.reconnect(front).expect("reconnected");
        }
        restarts.send(a, 10);
        restarts.finish(a, b);
    }
    assert_eq!(restarts.again, 0, "the end was orderly");
}

#[test]
fn a_switch_that_ends_in_order_and_starts_again_loses_nothing() {
    for bits in 0..4 {
        drop_and_start(bits & 1 != 0, bits & 2 != 0, 1 + bits % 2);
    }
}

/// What the first one back has in its ring waits for the other.
#[test]
fn guests_that_come_back_together_wait_for_each_other() {
    for packed in [false, true] {
        let mut rig = Rig::of(1, 2, 1);
        let mut guests = [0, 1].map(|n| rig.guest(n, format(packed)));
        acquaint(&rig, &mut guests);
        drop(rig.end());
        let [mut a, mut b] = guests;
        let packets: Vec<_> = (0..20).map(|number| raw(mac(1), 0, number, 500)).collect();
        for packet in &packets {
            a.send(0, packet);
        }
        rig.begin(Vec::new());
        let sockets = tempfile::tempdir().expect("a folder");
        let call = RollCall::new(2, SOON);
        let [of_a, of_b] = ["a", "b"].map(|name| {
            let path = sockets.path().join(name);
            let listener = FrontEndListener::bind(&path).expect("bound");
            rig.port(|config| {
                config.path = path;
                config.client = true;
                config.roll_call = Some(call.clone());
            });
            listener.accept(SOON).expect("it connects")
        });
        std::thread::scope(|scope| {
            let back = scope.spawn(|| a.net.reconnect(of_a).expect("reconnected"));
            eventually(|| !rig.waits(0), || "the first one is back".into());
            b.net.reconnect(of_b).expect("reconnected");
            back.join().expect("no panic");
        });
        for packet in &packets {
            assert_eq!(&b.recv().packet, packet);
        }
    }
}

/// A switch in a process of its own, that can be killed.
#[derive(Debug)]
struct Process {
    child: Child,
    /// Open, so that it may write until its end.
    _said: BufReader<ChildStdout>,
}

impl Process {
    /// With a port at each socket. `client`: it connects to them.
    fn start(sockets: &[&Path], client: bool, keeps: bool) -> Self {
        let list: Vec<_> = sockets.iter().map(|p| p.display().to_string()).collect();
        let mut child = Command::new(std::env::current_exe().expect("we run"))
            .args([
                "--ignored",
                "--exact",
                "life::switch_in_a_process_of_its_own",
                "--nocapture",
            ])
            .env("JUMBO_TEST_SOCKETS", list.join(":"))
            .env("JUMBO_TEST_CLIENT", if client { "1" } else { "" })
            .env("JUMBO_TEST_KEEPS", if keeps { "1" } else { "" })
            // It ends with us.
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("started");
        let mut said = BufReader::new(child.stdout.take().expect("piped"));
        let ready = said
            .by_ref()
            .lines()
            .map_while(Result::ok)
            .any(|line| line.ends_with("ready"));
        assert!(ready, "it starts");
        Self { child, _said: said }
    }

    /// SIGKILL.
    fn kill(mut self) {
        self.child.kill().expect("our own child");
        self.child.wait().expect("it ends");
    }
}

impl Drop for Process {
    /// In order: it says what it saw.
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// Not a test by itself: what the tests below kill.
#[test]
#[ignore = "run by other tests"]
fn switch_in_a_process_of_its_own() {
    let Ok(sockets) = std::env::var("JUMBO_TEST_SOCKETS") else {
        return;
    };
    let is_set = |name: &str| std::env::var(name).is_ok_and(|value| !value.is_empty());
    let (is_client, keeps) = (is_set("JUMBO_TEST_CLIENT"), is_set("JUMBO_TEST_KEEPS"));
    let mut rig = Rig::new(1);
    for socket in sockets.split(':') {
        rig.port(|config| {
            config.path = socket.into();
            config.client = is_client;
            config.state = keeps.then(|| format!("{socket}.state").into());
        });
    }
    println!("ready");
    // Until whoever started us closes it.
    let _ = std::io::stdin().lines().count();
    let state = rig.state();
    eprintln!(
        "{:?}\ndrops of the last: {:?}",
        state.books,
        crate::support::drops(&state)
    );
}

/// Who knows where a ring stands when the switch has died.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
enum Keeps {
    /// The guest's memory alone.
    Nobody,
    /// The switch's own file.
    Switch,
    /// The front end's in-flight area.
    FrontEnd,
}

/// Kill -9 at any moment, and start again.
#[track_caller]
fn killed(packed: bool, client: bool, keeps: Keeps, rounds: u64) {
    let folder = tempfile::tempdir().expect("a folder");
    let paths = ["a", "b"].map(|name| folder.path().join(name));
    let sockets = [paths[0].as_path(), paths[1].as_path()];
    let listeners =
        client.then(|| sockets.map(|path| FrontEndListener::bind(path).expect("bound")));
    let front = |n: usize| match &listeners {
        Some(listeners) => listeners[n].accept(SOON).expect("it connects"),
        None => FrontEnd::connect(sockets[n], SOON).expect("it listens"),
    };
    let process = || Process::start(&sockets, client, keeps == Keeps::Switch);
    let mut options = Options {
        queue_size: 256,
        ..format(packed)
    };
    if keeps == Keeps::FrontEnd {
        options.protocol |= protocol::INFLIGHT_SHMFD;
    }
    let mut switch = process();
    let mut guests = [0, 1].map(|n| Guest {
        net: VirtioNet::start(front(n), options.clone()).expect("a start"),
        n,
    });
    let [a, b] = &mut guests;
    let mut restarts = Restarts::new();
    for round in 0..rounds {
        restarts.send(a, 256);
        // Any moment of the burst, from before the switch wakes up to after it is done.
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_micros(7 * (round % 100)) {
            std::hint::spin_loop();
        }
        switch.kill();
        restarts.take(b);
        a.net.disconnect();
        b.net.disconnect();
        switch = process();
        b.net.reconnect(front(b.n)).expect("reconnected");
        // What the last switch had left unfinished was shown now. There must be room for all that may come again: it is
        // flooded, and waits for nobody.
        restarts.take(b);
        a.net.reconnect(front(a.n)).expect("reconnected");
        restarts.finish(a, b);
    }
    println!(
        "packed {packed}, {keeps:?}: {} packets came again",
        restarts.again
    );
}

#[test]
fn a_killed_switch_is_followed_by_the_next_on_split_rings() {
    killed(false, false, Keeps::Nobody, 100);
}

#[test]
fn a_killed_switch_that_connects_is_followed_by_the_next() {
    killed(false, true, Keeps::Nobody, 100);
    killed(true, true, Keeps::Switch, 100);
}

#[test]
fn a_killed_switch_is_followed_by_the_next_on_packed_rings() {
    killed(true, false, Keeps::Switch, 200);
}

#[test]
fn a_front_end_that_keeps_what_is_in_flight_goes_on_with_another_switch() {
    killed(false, false, Keeps::FrontEnd, 50);
    killed(true, false, Keeps::FrontEnd, 200);
}

/// The moments in which a packed ring is half given back, one by one: the guest is shown the first entry of a burst
/// last, and each entry's flags are stored after its place was kept.
#[test]
fn entries_that_were_not_finished_are_finished_by_the_next_switch() {
    for count in 1..=4_u64 {
        for offset in 0..=17 {
            half_given_back(count, offset, false);
            half_given_back(count, offset, true);
        }
    }
}

#[track_caller]
fn half_given_back(count: u64, offset: u64, last_too: bool) {
    let mut rig = Rig::of(1, 2, 1);
    let options = Options {
        queue_size: 8,
        protocol: Options::default().protocol | protocol::INFLIGHT_SHMFD,
        ..format(true)
    };
    let mut guests = [0, 1].map(|n| rig.guest(n, options.clone()));
    acquaint(&rig, &mut guests);
    let [a, b] = &mut guests;
    let mut numbers = Numbers::new();
    for _ in 0..offset {
        numbers.send(a, 1, 1);
        numbers.recv(0, b);
    }
    for _ in 0..count {
        let packet = raw(mac(1), 0, numbers.sent, 200);
        assert!(a.net.queue_packet(0, &[0; 12], &packet).expect("room"));
        numbers.sent += 1;
    }
    a.net.flush(0).expect("a kick");
    a.net.wait_sent(0).expect("taken");
    rig.quiet();
    let paths = rig.end();
    a.net.disconnect();
    b.net.disconnect();
    let packed = b.net.lane(0).ring.packed();
    let first = packed.next_used();
    let last = first.forward(count as u16 - 1, 8);
    let last = Some(last).filter(|last| last_too && *last != first);
    for at in [Some(first), last].into_iter().flatten() {
        let mut entry = packed.descriptor(at.index);
        let used = (AVAIL | USED) * u16::from(at.wrap);
        assert_eq!(entry.flags & (AVAIL | USED), used, "it was given back");
        entry.flags = if at.wrap { AVAIL } else { USED } | WRITE;
        packed.raw_descriptor(at.index, &entry);
    }
    rig.begin(paths);
    for guest in [&mut *b, &mut *a] {
        let front = FrontEnd::connect(&rig.ports[guest.n].path, SOON).expect("there again");
        guest.net.reconnect(front).expect("reconnected");
    }
    numbers.recv(0, b);
    for _ in 0..20 {
        numbers.send(a, 1, 4);
        numbers.recv(0, b);
    }
    assert_eq!(rig.quiet().books.dropped, 0);
}

/// Without a doubt the rings are what the test says they are.
#[test]
fn formats_are_what_they_are_called() {
    let rig = Rig::of(1, 1, 1);
    for packed in BOTH {
        let mut guest = rig.guest(
            0,
            Options {
                features: HOST_OFFLOADS,
                ..format(packed)
            },
        );
        assert_eq!(
            matches!(guest.net.lane(0).ring, DriverQueue::Packed(_)),
            packed
        );
        assert_eq!(guest.net.features() & HOST_OFFLOADS, HOST_OFFLOADS);
        guest.send(0, &raw(BROADCAST, 0, 0, 60));
        guest.net.wait_sent(0).expect("taken");
        guest.net.disconnect();
        eventually(|| rig.waits(0), || "the port waits again".into());
    }
}
