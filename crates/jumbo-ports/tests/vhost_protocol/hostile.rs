//! What a front end must not do, and what it is told.

use std::os::fd::OwnedFd;

use jumbo_ports::vhost::Request::*;
use jumbo_ports::vhost::feature::{PROTOCOL_FEATURES, RING_PACKED, protocol};
use jumbo_ports::vhost::{Request, VhostError};

use crate::build::*;

/// Sends to a front end with one pair, everything negotiated and ring 0 running.
fn refused(features: u64, request: Request, payload: Vec<u8>, fds: Vec<OwnedFd>) -> String {
    let mut bench = Bench::new(1);
    bench.run(features, &[0]);
    let error = bench.try_send(request, payload, fds);
    let error = error.expect_err(request.name());
    let text = error.to_string();
    assert!(text.starts_with(request.name()), "{text}");
    // Whatever it was: nothing is left running behind the session's back.
    let Bench {
        session, mut path, ..
    } = bench;
    session.close(&mut path);
    assert!(path.running.is_empty());
    text
}

fn table_of(cases: Vec<(Request, Vec<u8>, Vec<OwnedFd>, &str)>) {
    for (request, payload, fds, expected) in cases {
        let text = refused(NET, request, payload, fds);
        assert!(text.contains(expected), "{text:?} says not {expected:?}");
    }
}

#[test]
fn payloads_that_do_not_fit() {
    let fixed = [
        (SetFeatures, 8),
        (SetProtocolFeatures, 8),
        (SetVringNum, 8),
        (SetVringBase, 8),
        (GetVringBase, 8),
        (SetVringEnable, 8),
        (SetVringAddr, 40),
        (SetVringKick, 8),
        (SetVringCall, 8),
        (SetVringErr, 8),
        (SetLogBase, 16),
        (AddMemReg, 40),
        (RemMemReg, 40),
        (SendRarp, 8),
        (NetSetMtu, 8),
        (SetStatus, 8),
        (GetInflightFd, 20),
        (SetInflightFd, 24),
        (GetFeatures, 0),
        (SetOwner, 0),
        (GetQueueNum, 0),
        (ResetDevice, 0),
    ];
    for (request, len) in fixed {
        for wrong in [len - 1, len + 1].into_iter().filter(|&wrong| wrong >= 0) {
            let text = refused(NET, request, vec![0; wrong as usize], vec![]);
            assert!(text.contains("does not fit"), "{text}");
        }
    }
    let cases = [
        (SetMemTable, vec![0; 7]),
        (SetMemTable, vec![0; 9]),
        (SetMemTable, [pair(2, 0), words(&REGION)].concat()),
        (GetConfig, vec![0; 11]),
        (GetConfig, [pair(0, 4), vec![0; 4 + 3]].concat()),
        (SetConfig, vec![0; 12 + 257]),
    ];
    for (request, payload) in cases {
        let text = refused(NET, request, payload, vec![]);
        assert!(text.contains("does not fit"), "{text}");
    }
}

#[test]
fn files_that_do_not_belong() {
    let none = || vec![];
    let two = || vec![event(), event()];
    table_of(vec![
        (
            GetFeatures,
            vec![],
            two(),
            "2 files came with it instead of 0",
        ),
        (
            AddMemReg,
            single(REGION),
            none(),
            "0 files came with it instead of 1",
        ),
        (
            AddMemReg,
            single(REGION),
            two(),
            "2 files came with it instead of 1",
        ),
        (
            RemMemReg,
            single(REGION),
            two(),
            "2 files came with it instead of 1",
        ),
        (
            SetMemTable,
            table(&[REGION]),
            none(),
            "0 files came with it instead of 1",
        ),
        (
            SetMemTable,
            table(&[REGION]),
            two(),
            "2 files came with it instead of 1",
        ),
        (
            SetVringKick,
            words(&[0]),
            none(),
            "0 files came with it instead of 1",
        ),
        (
            SetVringCall,
            words(&[0]),
            two(),
            "2 files came with it instead of 1",
        ),
        (
            SetVringErr,
            words(&[0]),
            none(),
            "0 files came with it instead of 1",
        ),
        (
            SetVringCall,
            words(&[256]),
            two(),
            "2 files came with it instead of 0",
        ),
        (
            SetLogBase,
            words(&[4096, 0]),
            none(),
            "0 files came with it instead of 1",
        ),
        (
            SetLogFd,
            vec![],
            none(),
            "0 files came with it instead of 1",
        ),
        (
            SetBackendReqFd,
            vec![],
            two(),
            "2 files came with it instead of 1",
        ),
        (
            SetInflightFd,
            vec![0; 20],
            none(),
            "0 files came with it instead of 1",
        ),
    ]);
}

#[test]
fn rings_that_are_not_there() {
    let far = "ring 2, but the port has rings 0 to 1";
    table_of(vec![
        (SetVringNum, pair(2, 256), vec![], far),
        (SetVringBase, pair(2, 0), vec![], far),
        (GetVringBase, pair(2, 0), vec![], far),
        (SetVringEnable, pair(2, 1), vec![], far),
        (SetVringAddr, addresses(2, 0), vec![], far),
        (SetVringKick, words(&[2]), vec![event()], far),
        (SetVringCall, words(&[2]), vec![event()], far),
        (SetVringErr, words(&[2]), vec![event()], far),
        (
            SetVringNum,
            pair(u32::MAX, 1),
            vec![],
            "more queue pairs than the port",
        ),
    ]);
}

#[test]
fn rings_that_cannot_be() {
    let at = |desc, used, avail| [pair(1, 0), words(&[desc, used, avail, 0])].concat();
    table_of(vec![
        (
            SetVringNum,
            pair(1, 0),
            vec![],
            "ring 1 cannot have 0 entries",
        ),
        (
            SetVringNum,
            pair(1, 3),
            vec![],
            "ring 1 cannot have 3 entries",
        ),
        (
            SetVringNum,
            pair(1, 32769),
            vec![],
            "ring 1 cannot have 32769 entries",
        ),
        (
            SetVringNum,
            pair(1, 65536),
            vec![],
            "ring 1 cannot have 65536 entries",
        ),
        (
            SetVringNum,
            pair(1, 0x1_0100),
            vec![],
            "ring 1 cannot have 65792 entries",
        ),
        (
            SetVringAddr,
            at(USER + 8, USER, USER),
            vec![],
            "descriptor area of ring 1",
        ),
        (
            SetVringAddr,
            at(USER, USER + 2, USER),
            vec![],
            "device area of ring 1",
        ),
        (
            SetVringAddr,
            at(USER, USER, USER + 1),
            vec![],
            "driver area of ring 1",
        ),
        (
            SetVringAddr,
            addresses(1, 2),
            vec![],
            "flags 0x2 are unknown",
        ),
        (
            SetVringBase,
            pair(1, 0x1_0000),
            vec![],
            "ring 1 cannot stand at 0x10000",
        ),
        (SetVringEnable, pair(1, 2), vec![], "2 is no value for it"),
        (SetVringKick, words(&[0x101]), vec![], "asks for polling"),
    ]);
    let at = |avail| [pair(1, 0), words(&[USER, USER, avail, 0])].concat();
    let text = refused(NET | RING_PACKED, SetVringAddr, at(USER + 2), vec![]);
    assert!(text.contains("driver area of ring 1"), "{text}");
}

#[test]
fn rings_outside_of_memory() {
    let last = USER + MEMORY_LEN;
    let places = [
        [last, USER, USER],
        [USER, last - 4, USER],
        [USER, USER, last - 2],
        [last - 4096 + 16, USER, USER],
        [USER, last - 2056 + 4, USER],
        [USER, USER, last - 518 + 2],
        [USER - 16, USER, USER],
        [u64::MAX - 15, USER, USER],
        [0, 0, 0],
    ];
    for [desc, used, avail] in places {
        let addr = [pair(0, 0), words(&[desc, used, avail, 0])].concat();
        let text = refused(NET, SetVringAddr, addr, vec![]);
        assert!(text.contains("does not lie in the memory"), "{text}");
    }
    // The last bytes there are: 16 * 256, 6 + 2 * 256, 6 + 8 * 256, rounded down to their alignment.
    let mut bench = Bench::new(1);
    bench.run(NET, &[0]);
    let fits = words(&[last - 4096, last - 2056, last - 518, 0]);
    bench.tell(SetVringAddr, [pair(0, 0), fits].concat(), vec![]);
    assert_eq!(bench.path.running, [0]);
    // With twice as many entries they would not.
    let error = bench.try_send(SetVringNum, pair(0, 512), vec![]);
    assert!(matches!(error, Err(VhostError::RingUnmapped { .. })));
}

#[test]
fn a_ring_across_two_regions_is_outside() {
    let mut bench = Bench::new(1);
    bench.set(SetFeatures, NET | PROTOCOL_FEATURES);
    let half = MEMORY_LEN / 2;
    let regions = [
        [GUEST, half, USER, 0],
        [GUEST + half, half, USER + half, half],
    ];
    let files = vec![memory(), memory()];
    bench.tell(SetMemTable, table(&regions), files);
    bench.state(SetVringEnable, 0, 1);
    bench.state(SetVringNum, 0, RING_SIZE);
    let across = words(&[USER + half - 16, USER, USER, 0]);
    bench.tell(SetVringAddr, [pair(0, 0), across].concat(), vec![]);
    let error = bench.try_send(SetVringKick, words(&[0]), vec![event()]);
    assert!(matches!(error, Err(VhostError::RingUnmapped { .. })));
}

#[test]
fn what_features_make_impossible_is_found_before_it_runs() {
    // 100 entries are fine for a packed ring only.
    let mut bench = Bench::new(1);
    bench.run(NET | RING_PACKED, &[0]);
    bench.state(SetVringNum, 0, 100);
    assert_eq!(bench.path.running, [0]);
    let split = words(&[NET | PROTOCOL_FEATURES]);
    let error = bench.try_send(SetFeatures, split, vec![]);
    let error = error.expect_err("not a power of two").to_string();
    assert_eq!(error, "SET_FEATURES: ring 0 cannot have 100 entries");
    assert!(bench.path.running.is_empty());
}

#[test]
fn a_packed_ring_stands_within_itself() {
    for base in [0x8000_8100, 0x8100_8000, 0x7FFF_8000] {
        let mut bench = Bench::new(1);
        bench.run(NET | RING_PACKED, &[0]);
        let error = bench.try_send(SetVringBase, pair(0, base), vec![]);
        assert!(
            matches!(error, Err(VhostError::RingPosition { .. })),
            "{base:#x}"
        );
    }
}

#[test]
fn memory_that_cannot_be() {
    let far = GUEST + MEMORY_LEN;
    let one = |region: Numbers| (AddMemReg, single(region), vec![memory()]);
    let cases = [
        (one([far, 0, USER, 0]), "is empty or wraps around"),
        (one([far, u64::MAX, USER, 0]), "is empty or wraps around"),
        (one([far, 0x1000, u64::MAX, 0]), "is empty or wraps around"),
        (
            one([far, 0x1000, USER, u64::MAX]),
            "is empty or wraps around",
        ),
        (one([far - 1, 2, 0, 0]), "overlaps another one"),
        (one([GUEST - 1, 2, 0, 0]), "overlaps another one"),
        (one([0, u64::MAX, 0, 0]), "overlaps another one"),
        (one([GUEST + 16, 16, 0, 0]), "overlaps another one"),
    ];
    for ((request, payload, fds), expected) in cases {
        table_of(vec![(request, payload, fds, expected)]);
    }
    let twice = [REGION, [GUEST + 0x1000, 0x1000, 0, 0]];
    let nine: Vec<Numbers> = (0..9).map(|at| [at * 0x1000, 0x1000, 0, 0]).collect();
    let files = |count| std::iter::repeat_with(memory).take(count).collect();
    table_of(vec![
        (SetMemTable, table(&twice), files(2), "overlaps another one"),
        (SetMemTable, table(&nine), files(8), "9 regions; at most 8"),
    ]);
}

/// What would wake a worker without end, and costs nothing to make so.
#[test]
fn kicks_that_do_not_count() {
    use rustix::event::{EventfdFlags, eventfd};
    use rustix::time::{TimerfdClockId, TimerfdFlags, timerfd_create};
    let semaphore = eventfd(0, EventfdFlags::SEMAPHORE).expect("an eventfd");
    let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::empty());
    let files = [semaphore, timer.expect("a timer")];
    table_of(
        files
            .into_iter()
            .map(|file| {
                (
                    SetVringKick,
                    words(&[0]),
                    vec![file],
                    "no eventfd that counts",
                )
            })
            .collect(),
    );
}

#[test]
fn areas_that_cannot_be() {
    let area = |size: u64, offset: u64, queues: u16, queue_size: u16| {
        let mut payload = words(&[size, offset]);
        payload.extend(queues.to_ne_bytes());
        payload.extend(queue_size.to_ne_bytes());
        payload
    };
    let one = || vec![memory()];
    table_of(vec![
        (SetLogBase, words(&[0, 0]), one(), "an area of 0 bytes at 0"),
        (SetLogBase, words(&[u64::MAX, 1]), one(), "wraps around"),
        (SetLogFd, vec![], one(), "neither an eventfd nor a pipe"),
        (
            GetInflightFd,
            area(0, 0, 3, 256),
            vec![],
            "3 regions of 256 entries",
        ),
        (
            GetInflightFd,
            area(0, 0, 0, 256),
            vec![],
            "0 regions of 256 entries",
        ),
        (
            GetInflightFd,
            area(0, 0, 1, 0),
            vec![],
            "1 regions of 0 entries",
        ),
        (
            GetInflightFd,
            area(0, 0, 1, 32769),
            vec![],
            "1 regions of 32769 entries",
        ),
        (
            SetInflightFd,
            area(4159, 0, 1, 256),
            one(),
            "an area of 4159 bytes",
        ),
        (
            SetInflightFd,
            area(4160, u64::MAX, 1, 256),
            one(),
            "wraps around",
        ),
    ]);
}

#[test]
fn values_that_cannot_be() {
    table_of(vec![
        (
            SetFeatures,
            words(&[1 << 33]),
            vec![],
            "bits 0x200000000 were not offered",
        ),
        (
            SetProtocolFeatures,
            words(&[1 << 8]),
            vec![],
            "bits 0x100 were not offered",
        ),
        (SetStatus, words(&[256]), vec![], "256 is no value for it"),
        (
            SetConfig,
            [pair(250, 7), vec![1, 0, 0, 0], vec![0; 7]].concat(),
            vec![],
            "250 is no",
        ),
    ]);
}

#[test]
fn requests_for_what_is_not_offered() {
    let never = [
        IotlbMsg,
        SetVringEndian,
        CreateCryptoSession,
        CloseCryptoSession,
        PostcopyAdvise,
        PostcopyListen,
        PostcopyEnd,
        GpuSetSocket,
        VringKick,
        GetSharedObject,
        SetDeviceStateFd,
        CheckDeviceState,
        GetShmemConfig,
    ];
    for request in never {
        let text = refused(NET, request, vec![0; 32], vec![]);
        assert!(text.contains("not offered"), "{text}");
    }
    let mut bare = offer(1);
    bare.protocol_features = 0;
    for request in [
        GetQueueNum,
        SendRarp,
        NetSetMtu,
        SetBackendReqFd,
        ResetDevice,
    ] {
        let mut bench = Bench::with(bare.clone());
        let error = bench.try_send(request, vec![0; 8], vec![]);
        assert!(matches!(error, Err(VhostError::NotOffered(_))), "{request}");
    }
}

#[test]
fn requests_for_what_was_not_negotiated() {
    let cases = [
        (GetConfig, "CONFIG"),
        (SetConfig, "CONFIG"),
        (GetStatus, "STATUS"),
        (SetStatus, "STATUS"),
        (GetInflightFd, "INFLIGHT_SHMFD"),
        (SetInflightFd, "INFLIGHT_SHMFD"),
        (GetMaxMemSlots, "CONFIGURE_MEM_SLOTS"),
        (AddMemReg, "CONFIGURE_MEM_SLOTS"),
        (RemMemReg, "CONFIGURE_MEM_SLOTS"),
    ];
    for (request, feature) in cases {
        let mut bench = Bench::new(1);
        let error = bench.try_send(request, vec![], vec![]);
        let error = error.expect_err(feature).to_string();
        let expected = format!("{request}: protocol feature {feature} was not negotiated");
        assert_eq!(error, expected);
    }
    let mut bench = Bench::new(1);
    bench.set(SetProtocolFeatures, protocol::ALL & !protocol::LOG_SHMFD);
    let error = bench.try_send(SetLogBase, words(&[7]), vec![]);
    assert!(matches!(error, Err(VhostError::LogWithoutFile(_))));
}

#[test]
fn nothing_runs_without_memory_or_features() {
    let mut bench = Bench::new(1);
    bench.state(SetVringEnable, 0, 1);
    bench.set_up(0, 0);
    bench.tell(SetMemTable, table(&[REGION]), vec![memory()]);
    assert_eq!(bench.calls(), []);
    bench.tell(SetMemTable, table(&[]), vec![]);
    bench.set(SetFeatures, NET | PROTOCOL_FEATURES);
    assert_eq!(bench.calls(), []);
    bench.tell(SetMemTable, table(&[REGION]), vec![memory()]);
    assert_eq!(bench.calls(), [Call::Resume(vec![0])]);
}
