//! The virtio driver against the textbook's device, over every ring format and layout.

use std::os::unix::net::UnixStream;
use std::time::Duration;

use jumbo_testkit::pattern;
use jumbo_testkit::virtio::{
    FrontEnd, FrontEndListener, Indirect, Layout, Loopback, LoopbackOptions, LoopbackReport,
    MemoryLayout, Options, VirtioNet, feature, message::request, protocol,
};

const SOON: Duration = Duration::from_secs(10);

fn start(options: Options, device: LoopbackOptions) -> (VirtioNet, Loopback) {
    let (ours, theirs) = UnixStream::pair().expect("a pair of sockets");
    let device = Loopback::serve(theirs, device);
    let front = FrontEnd::new(ours).expect("a front end");
    (VirtioNet::start(front, options).expect("a start"), device)
}

fn finish(mut net: VirtioNet, device: Loopback) -> LoopbackReport {
    assert_eq!(net.counts().missed_interrupts, 0, "{:?}", net.counts());
    net.disconnect();
    device.join().expect("the back end ends well")
}

/// The header of packet `number`: an unused hash or length field tells them apart.
fn header(net: &VirtioNet, number: usize) -> Vec<u8> {
    let mut header = vec![0; net.header_len()];
    header[2..4].copy_from_slice(&(number as u16).to_le_bytes());
    header
}

/// Sends packets of many lengths, a few at a time, and sees each come back as it was.
fn round_trips(net: &mut VirtioNet, pairs: usize, lens: &[usize]) {
    let mut number = 0;
    for _ in 0..12 {
        for pair in 0..pairs {
            for len in lens {
                let head = header(net, number + len);
                net.send(pair, &head, &pattern(number, *len)).expect("sent");
                number += 1;
            }
        }
        let mut seen = vec![number - lens.len() * pairs; pairs];
        for (pair, next) in seen.iter_mut().enumerate() {
            *next += pair * lens.len();
        }
        for _ in 0..lens.len() * pairs {
            let got = net.recv(SOON).expect("no fault").expect("a packet");
            let number = seen[got.pair];
            seen[got.pair] += 1;
            let len = lens[number % lens.len()];
            assert_eq!(got.packet.len(), len, "packet {number}");
            assert_eq!(got.packet, pattern(number, len), "packet {number}");
            assert_eq!(got.header[2..4], header(net, number + len)[2..4]);
        }
    }
    for pair in 0..pairs {
        net.wait_sent(pair).expect("all taken");
    }
}

const LENS: [usize; 6] = [14, 60, 1514, 2036, 2037, 20_000];

fn formats() -> Vec<Options> {
    let mut all = Vec::new();
    for bits in 0..16 {
        for indirect in [Indirect::Never, Indirect::Chains, Indirect::Always] {
            all.push(Options {
                packed: bits & 1 != 0,
                event_idx: bits & 2 != 0,
                in_order: bits & 4 != 0,
                memory: if bits & 8 != 0 {
                    MemoryLayout::Scattered(3)
                } else {
                    MemoryLayout::OneFile(2)
                },
                queue_size: if bits & 8 != 0 { 32 } else { 128 },
                tx_layout: Layout {
                    header_alone: bits & 2 == 0,
                    piece_len: 1024,
                },
                tx_len: 20_000,
                indirect,
                ..Options::default()
            });
        }
    }
    all
}

#[test]
fn every_format_returns_what_was_sent() {
    for options in formats() {
        let what = format!("{options:?}");
        let (mut net, device) = start(options, LoopbackOptions::default());
        round_trips(&mut net, 1, &LENS);
        let report = finish(net, device);
        assert_eq!(report.packets, 12 * LENS.len() as u64, "{what}");
    }
}

#[test]
fn packed_rings_need_no_power_of_two() {
    for size in [1, 3, 37, 255] {
        let options = Options {
            packed: true,
            event_idx: size % 2 == 1,
            queue_size: size,
            rx_buffer_len: 32_768,
            tx_len: 30_000,
            ..Options::default()
        };
        let (mut net, device) = start(options, LoopbackOptions::default());
        for number in 0..600 {
            let packet = pattern(number, 14 + 37 * (number % 600));
            let head = header(&net, number);
            net.send(0, &head, &packet).expect("sent");
            let got = net.recv(SOON).expect("no fault").expect("a packet");
            assert_eq!(got.packet, packet, "size {size}, packet {number}");
        }
        finish(net, device);
    }
}

#[test]
fn split_indices_wrap() {
    for in_order in [false, true] {
        let options = Options {
            queue_size: 8,
            in_order,
            event_idx: true,
            rx_buffer_len: 128,
            tx_len: 128,
            ..Options::default()
        };
        let (mut net, device) = start(options, LoopbackOptions::default());
        for number in 0..70_000_usize {
            let head = header(&net, number);
            net.send(0, &head, &(number as u64).to_le_bytes())
                .expect("sent");
            let got = net.recv(SOON).expect("no fault").expect("a packet");
            assert_eq!(got.packet, (number as u64).to_le_bytes());
        }
        finish(net, device);
    }
}

#[test]
fn headers_have_the_length_that_features_make() {
    for (legacy, mergeable, features, len) in [
        (true, false, 0, 10),
        (true, true, 0, 12),
        (false, false, 0, 12),
        (false, true, feature::HASH_REPORT, 20),
    ] {
        let options = Options {
            legacy,
            mergeable,
            features,
            rx_buffer_len: 4096,
            rx_layout: Layout {
                header_alone: true,
                piece_len: 700,
            },
            ..Options::default()
        };
        let (mut net, device) = start(options, LoopbackOptions::default());
        assert_eq!(net.header_len(), len);
        round_trips(&mut net, 1, &[60, 1514]);
        finish(net, device);
    }
}

#[test]
fn headers_may_be_cut_anywhere() {
    for piece_len in 1..14 {
        let layout = Layout {
            header_alone: false,
            piece_len,
        };
        let options = Options {
            rx_buffer_len: 200,
            rx_layout: layout,
            tx_layout: layout,
            tx_len: 500,
            queue_size: 1024,
            ..Options::default()
        };
        let (mut net, device) = start(options, LoopbackOptions::default());
        round_trips(&mut net, 1, &[1, 14, 188, 189]);
        finish(net, device);
    }
}

#[test]
fn pairs_keep_to_themselves() {
    let options = Options {
        pairs: 4,
        memory: MemoryLayout::Scattered(4),
        tx_len: 4096,
        ..Options::default()
    };
    let (mut net, device) = start(options, LoopbackOptions::default());
    assert_ne!(net.features() & feature::MQ, 0);
    round_trips(&mut net, 4, &[60, 1514, 4000]);
    finish(net, device);
}

#[test]
fn a_back_end_without_protocol_features_works() {
    let device = LoopbackOptions {
        features: !feature::PROTOCOL_FEATURES,
        ..LoopbackOptions::default()
    };
    let (mut net, device) = start(Options::default(), device);
    round_trips(&mut net, 1, &[60]);
    let report = finish(net, device);
    assert!(report.requests.contains(&request::SET_MEM_TABLE));
    assert!(!report.requests.contains(&request::SET_VRING_ENABLE));
}

#[test]
fn what_is_demanded_must_be_offered() {
    let (ours, theirs) = UnixStream::pair().expect("a pair of sockets");
    let device = LoopbackOptions {
        features: !feature::RING_PACKED,
        ..LoopbackOptions::default()
    };
    let device = Loopback::serve(theirs, device);
    let options = Options {
        packed: true,
        ..Options::default()
    };
    let front = FrontEnd::new(ours).expect("a front end");
    let error = VirtioNet::start(front, options).expect_err("not offered");
    assert!(error.to_string().contains("RING_PACKED"), "{error}");
    device.join().expect("the back end ends well");
}

#[test]
fn rings_go_on_where_they_stopped() {
    for packed in [false, true] {
        let options = Options {
            packed,
            tx_len: 2048,
            queue_size: 16,
            ..Options::default()
        };
        let (mut net, device) = start(options, LoopbackOptions::default());
        for _ in 0..5 {
            round_trips(&mut net, 1, &[60, 1500]);
            let bases = net.stop().expect("stopped");
            net.start_rings(&bases).expect("started");
        }
        finish(net, device);
    }
}

/// The back end dies with packets taken and not given back; the next one is told to go on at the first unused buffer.
#[test]
fn another_back_end_goes_on() {
    for packed in [false, true] {
        let options = Options {
            packed,
            tx_len: 2048,
            queue_size: 32,
            tx_layout: Layout {
                header_alone: true,
                piece_len: 0,
            },
            protocol: Options::default().protocol | protocol::INFLIGHT_SHMFD,
            ..Options::default()
        };
        let dies = LoopbackOptions {
            hang_up_after: 21,
            ..LoopbackOptions::default()
        };
        let (mut net, device) = start(options, dies);
        for number in 0..20 {
            net.send(0, &[0; 12], &pattern(number, 60)).expect("sent");
            assert!(net.recv(SOON).expect("no fault").is_some());
        }
        net.send(0, &[0; 12], &pattern(20, 60)).expect("sent");
        device.join().expect("it hangs up");
        assert!(net.front().is_closed(SOON).expect("no fault"));
        net.disconnect();
        net.try_send(0, &[0; 12], &pattern(21, 60))
            .expect("no fault");

        let (ours, theirs) = UnixStream::pair().expect("a pair of sockets");
        let device = Loopback::serve(theirs, LoopbackOptions::default());
        net.reconnect(FrontEnd::new(ours).expect("a front end"))
            .expect("reconnected");
        for number in 20..22 {
            let got = net.recv(SOON).expect("no fault").expect("a packet");
            assert_eq!(got.packet, pattern(number, 60), "packed {packed}");
        }
        round_trips(&mut net, 1, &[60]);
        let report = finish(net, device);
        assert!(report.requests.contains(&request::SET_INFLIGHT_FD));
        assert!(!report.requests.contains(&request::GET_INFLIGHT_FD));
    }
}

#[test]
fn a_front_end_may_listen() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("sock");
    let listener = FrontEndListener::bind(&path).expect("bound");
    let device = UnixStream::connect(&path).expect("connected");
    let device = Loopback::serve(device, LoopbackOptions::default());
    let front = listener.accept(SOON).expect("accepted");
    let options = Options {
        mtu: Some(9000),
        ..Options::default()
    };
    let mut net = VirtioNet::start(front, options).expect("a start");
    round_trips(&mut net, 1, &[60]);
    assert_eq!(net.front().config(10, 2).expect("config").len(), 2);
    assert_eq!(net.front().status().expect("status"), 15);
    assert_eq!(finish(net, device).mtu, 9000);
}

#[test]
fn bursts_count_what_came() {
    for packed in [false, true] {
        let options = Options {
            packed,
            tx_len: 4096,
            ..Options::default()
        };
        let (mut net, device) = start(options, LoopbackOptions::default());
        net.prepare(0, &[0; 12], &pattern(0, 3000))
            .expect("prepared");
        let (mut sent, mut packets, mut bytes) = (0, 0, 0);
        while packets < 5000 {
            sent += net.send_burst(0, 32.min(5000 - sent)).expect("sent");
            let burst = net.recv_burst(0, 64).expect("no fault");
            packets += burst.packets as usize;
            bytes += burst.bytes as usize;
        }
        assert_eq!((sent, packets, bytes), (5000, 5000, 5000 * 3000));
        let counts = net.counts();
        assert_eq!((counts.tx_packets, counts.rx_packets), (5000, 5000));
        assert_eq!(counts.rx_buffers, 10_000);
        finish(net, device);
    }
}

#[test]
fn buffers_can_be_withheld() {
    let options = Options {
        auto_refill: false,
        ..Options::default()
    };
    let (mut net, device) = start(options, LoopbackOptions::default());
    for number in 0..5 {
        net.send(0, &[0; 12], &pattern(number, 60)).expect("sent");
    }
    net.wait_sent(0).expect("taken");
    assert_eq!(net.try_recv().expect("no fault"), None);
    for number in 0..5 {
        assert_eq!(net.refill(0, 1).expect("no fault"), 1);
        let got = net.recv(SOON).expect("no fault").expect("a packet");
        assert_eq!(got.packet, pattern(number, 60));
    }
    finish(net, device);
}

#[test]
fn memory_comes_and_goes() {
    let (mut net, device) = start(Options::default(), LoopbackOptions::default());
    net.memory().add(1 << 40, 2 << 20).expect("added");
    let region = net.memory().regions().last().expect("a region").clone();
    net.front().add_region(&region).expect("told");
    net.front().remove_region(&region).expect("told");
    assert!(net.memory().remove(1 << 40).is_some());
    round_trips(&mut net, 1, &[60]);
    finish(net, device);
}
