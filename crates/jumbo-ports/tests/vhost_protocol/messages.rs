//! Each message's effect.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use jumbo_ports::vhost::Request::*;
use jumbo_ports::vhost::feature::{LOG_ALL, PROTOCOL_FEATURES, RING_PACKED, protocol};
use jumbo_ports::vhost::{Position, Refusal, VhostError, inflight};
use rustix::fs::OFlags;

use crate::build::*;

fn pipe() -> (OwnedFd, OwnedFd) {
    let (read, write) = std::io::pipe().expect("a pipe");
    (read.into(), write.into())
}

fn restarted(rings: &[usize]) -> Vec<Call> {
    vec![Call::Quiesce, Call::Resume(rings.to_vec())]
}

fn at(index: u16) -> Position {
    Position {
        avail: index,
        used: Some(index),
    }
}

#[test]
fn offered_features_are_told() {
    let mut bench = Bench::new(3);
    let features = bench.ask_u64(GetFeatures);
    assert_eq!(features, NET | RING_PACKED | LOG_ALL | PROTOCOL_FEATURES);
    assert_eq!(bench.ask_u64(GetProtocolFeatures), protocol::ALL);
    assert_eq!(bench.ask_u64(GetQueueNum), 6);
}

#[test]
fn an_iommu_is_never_offered() {
    let mut offered = offer(1);
    offered.features |= 1 << 33;
    let mut bench = Bench::with(offered);
    assert_eq!(bench.ask_u64(GetFeatures) & 1 << 33, 0);
}

#[test]
fn features_repeated_change_nothing_and_changed_restart() {
    let mut bench = Bench::new(1);
    bench.run(NET, &[0, 1]);
    bench.set(SetFeatures, NET | PROTOCOL_FEATURES);
    assert_eq!(bench.calls(), []);
    bench.path.positions.extend([(0, at(9)), (1, at(12))]);
    bench.set(SetFeatures, NET | PROTOCOL_FEATURES | LOG_ALL);
    assert_eq!(bench.calls(), restarted(&[0, 1]));
    // Where they were found.
    assert_eq!(bench.path.started_at[&0], at(9));
    assert_eq!(bench.path.started_at[&1], at(12));
}

#[test]
fn a_base_from_before_the_features_is_read_by_them() {
    let mut bench = Bench::new(1);
    bench.state(SetVringBase, 0, 0x8007_0009);
    bench.set(SetFeatures, NET | RING_PACKED | PROTOCOL_FEATURES);
    let position = bench.session.device().rings[0].position;
    let told = Position {
        avail: 9,
        used: Some(0x8007),
    };
    assert_eq!(position, told);
    let beginning = bench.session.device().rings[1].position;
    assert_eq!(beginning, at(0x8000));
}

#[test]
fn giving_protocol_features_up_enables_rings() {
    let mut bench = Bench::new(1);
    bench.set(SetFeatures, NET | PROTOCOL_FEATURES);
    assert!(!bench.session.device().rings[0].enabled);
    bench.set(SetFeatures, NET);
    assert!(bench.session.device().rings[0].enabled);
    bench.set(SetFeatures, NET | PROTOCOL_FEATURES);
    assert!(!bench.session.device().rings[0].enabled);
}

#[test]
fn a_region_added_again_changes_nothing() {
    let mut bench = Bench::new(1);
    bench.run(NET, &[0]);
    let file = bench.memory();
    bench.tell(AddMemReg, single(REGION), vec![file]);
    assert_eq!(bench.calls(), []);
    assert_eq!(bench.session.device().memory.len(), 1);
}

#[test]
fn a_region_with_another_file_is_another_region() {
    let mut bench = Bench::new(1);
    bench.run(NET, &[0]);
    let error = bench.try_send(AddMemReg, single(REGION), vec![memory()]);
    let error = error.expect_err("it overlaps");
    assert!(matches!(error, VhostError::RegionOverlap { .. }), "{error}");
}

#[test]
fn regions_come_and_go_under_running_rings() {
    let mut bench = Bench::new(1);
    bench.run(NET, &[0]);
    let more = [GUEST + MEMORY_LEN, 0x20_0000, USER + MEMORY_LEN, 0x1000];
    let kept = Arc::clone(&bench.session.device().memory[0]);
    bench.tell(AddMemReg, single(more), vec![memory()]);
    assert_eq!(bench.calls(), restarted(&[0]));
    // Without the offset, which does not count.
    let gone = [more[0], more[1], more[2], 0];
    for other in [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]] {
        let other = [0, 1, 2, 3].map(|at| gone[at] + other[at]);
        bench.tell(RemMemReg, single(other), vec![]);
        assert_eq!(bench.calls(), []);
    }
    bench.tell(RemMemReg, single(gone), vec![]);
    assert_eq!(bench.calls(), restarted(&[0]));
    bench.tell(RemMemReg, single(gone), vec![]);
    assert_eq!(bench.calls(), []);
    assert!(Arc::ptr_eq(&kept, &bench.session.device().memory[0]));
}

#[test]
fn a_ring_whose_memory_goes_away_rests_until_it_is_back() {
    let mut bench = Bench::new(1);
    bench.run(NET, &[0]);
    bench.path.positions.insert(0, at(41));
    bench.tell(RemMemReg, single(REGION), vec![memory()]);
    assert_eq!(bench.calls(), [Call::Quiesce]);
    // Nothing is wrong with these meanwhile.
    bench.event(SetVringCall, 0);
    let file = bench.memory();
    bench.tell(AddMemReg, single(REGION), vec![file]);
    assert_eq!(bench.calls(), [Call::Resume(vec![0])]);
    assert_eq!(bench.path.started_at[&0], at(41));
}

#[test]
fn a_table_keeps_the_regions_it_repeats() {
    let mut bench = Bench::new(1);
    bench.run(NET, &[0]);
    let kept = Arc::clone(&bench.session.device().memory[0]);
    let file = bench.memory();
    bench.tell(SetMemTable, table(&[REGION]), vec![file]);
    assert_eq!(bench.calls(), []);
    let more = [0, 0x1000, 0x1000, 0];
    let files = vec![memory(), bench.memory()];
    bench.tell(SetMemTable, table(&[more, REGION]), files);
    assert_eq!(bench.calls(), restarted(&[0]));
    assert!(Arc::ptr_eq(&kept, &bench.session.device().memory[1]));
    bench.tell(SetMemTable, table(&[]), vec![]);
    assert_eq!(bench.calls(), [Call::Quiesce]);
}

#[test]
fn sixty_four_regions_fit() {
    let mut bench = Bench::new(1);
    bench.set(SetProtocolFeatures, protocol::ALL);
    for slot in 0..64 {
        let region = [slot * 0x1000, 0x1000, slot * 0x1000, 0];
        bench.tell(AddMemReg, single(region), vec![memory()]);
    }
    let region = [64 * 0x1000, 0x1000, 64 * 0x1000, 0];
    let error = bench.try_send(AddMemReg, single(region), vec![memory()]);
    let error = error.expect_err("no slot is left").to_string();
    assert_eq!(error, "ADD_MEM_REG: 65 regions; at most 64 are possible");
}

#[test]
fn a_ring_is_enabled_and_disabled() {
    let mut bench = Bench::new(1);
    bench.run(NET, &[0, 1]);
    bench.state(SetVringEnable, 1, 1);
    assert_eq!(bench.calls(), []);
    bench.path.positions.insert(1, at(3));
    bench.state(SetVringEnable, 1, 0);
    assert_eq!(bench.calls(), restarted(&[0]));
    bench.state(SetVringEnable, 1, 1);
    assert_eq!(bench.calls(), restarted(&[0, 1]));
    assert_eq!(bench.path.started_at[&1], at(3));
}

#[test]
fn a_ring_that_rests_is_described_without_disturbing_others() {
    let mut bench = Bench::new(2);
    bench.run(NET, &[0, 1]);
    bench.set_up(2, 0);
    assert_eq!(bench.calls(), []);
    assert!(bench.session.device().rings[2].started);
    bench.state(SetVringEnable, 2, 1);
    assert_eq!(bench.calls(), restarted(&[0, 1, 2]));
}

#[test]
fn description_of_a_running_ring_restarts_it_unless_repeated() {
    let mut bench = Bench::new(1);
    bench.run(NET, &[0]);
    bench.state(SetVringNum, 0, RING_SIZE);
    bench.tell(SetVringAddr, addresses(0, 0), vec![]);
    assert_eq!(bench.calls(), []);
    bench.state(SetVringNum, 0, 128);
    assert_eq!(bench.calls(), restarted(&[0]));
    bench.tell(SetVringAddr, addresses(0, 1), vec![]);
    assert_eq!(bench.calls(), restarted(&[0]));
    let log = bench.session.device().rings[0].log_guest_addr;
    assert_eq!(log, Some(GUEST + 0x4000));
    for request in [SetVringKick, SetVringCall, SetVringErr] {
        bench.event(request, 0);
        assert_eq!(bench.calls(), restarted(&[0]));
    }
    bench.state(SetVringBase, 0, 50);
    assert_eq!(bench.calls(), restarted(&[0]));
    let told = Position {
        avail: 50,
        used: None,
    };
    assert_eq!(bench.path.started_at[&0], told);
}

#[test]
fn get_vring_base_stops_one_ring_and_always_answers() {
    let mut bench = Bench::new(1);
    bench.run(NET, &[0, 1]);
    bench.path.positions.extend([(0, at(7)), (1, at(8))]);
    assert_eq!(bench.base(0), 7);
    assert_eq!(bench.calls(), restarted(&[1]));
    assert_eq!(bench.path.started_at[&1], at(8));
    assert_eq!(bench.base(0), 7);
    assert_eq!(bench.calls(), []);
    let ring = &bench.session.device().rings[0];
    assert!(!ring.started && ring.kick.is_none() && ring.enabled && ring.call.is_some());
    bench.event(SetVringKick, 0);
    assert_eq!(bench.path.running, [0, 1]);
    assert_eq!(bench.path.started_at[&0], at(7));

    let mut unused = Bench::new(1);
    assert_eq!(unused.base(1), 0);
}

fn is_blocking(fd: &OwnedFd) -> bool {
    let flags = rustix::fs::fcntl_getfl(fd).expect("flags");
    !flags.contains(OFlags::NONBLOCK)
}

#[test]
fn event_descriptors_do_not_block() {
    let mut bench = Bench::new(1);
    for request in [SetVringKick, SetVringCall, SetVringErr] {
        let ours = event();
        assert!(is_blocking(&ours));
        let theirs = ours.try_clone().expect("a descriptor");
        bench.tell(request, words(&[0]), vec![theirs]);
        assert!(!is_blocking(&ours), "{request}");
    }
}

#[test]
fn a_pipe_is_an_event_and_a_file_is_none() {
    let mut bench = Bench::new(1);
    let (read, _write) = pipe();
    bench.tell(SetVringKick, words(&[0]), vec![read]);
    let error = bench.try_send(SetVringCall, words(&[0]), vec![memory()]);
    let error = error.expect_err("a file").to_string();
    assert_eq!(
        error,
        "SET_VRING_CALL: the file is neither an eventfd nor a pipe"
    );
}

#[test]
fn call_without_a_file_means_never() {
    let mut bench = Bench::new(1);
    bench.run(NET, &[0]);
    bench.tell(SetVringCall, words(&[1 << 8]), vec![]);
    assert!(bench.session.device().rings[0].call.is_none());
    assert_eq!(bench.calls(), restarted(&[0]));
}

#[test]
fn status_zero_resets_and_keeps_memory_mtu_and_call() {
    let mut bench = Bench::new(1);
    bench.run(NET, &[0, 1]);
    bench.set(NetSetMtu, 1400);
    bench.set(SetStatus, 15);
    assert_eq!(bench.ask_u64(GetStatus), 15);
    assert_eq!(bench.calls(), restarted(&[0, 1]));
    bench.set(SetStatus, 0);
    assert_eq!(bench.calls(), [Call::Quiesce]);
    let device = bench.session.device();
    assert_eq!((device.features, device.is_negotiated), (0, false));
    assert_eq!((device.memory.len(), device.mtu), (1, Some(1400)));
    assert_eq!(device.protocol_features, protocol::ALL);
    for ring in &device.rings {
        assert!(!ring.started && !ring.enabled && ring.kick.is_none());
        assert!(ring.call.is_some() && !ring.is_addressed && ring.size == 0);
    }
    assert_eq!(bench.ask_u64(GetStatus), 0);
}

#[test]
fn after_a_reset_rings_begin_anew() {
    let mut bench = Bench::new(1);
    bench.run(NET, &[0]);
    bench.state(SetVringBase, 0, 5);
    bench.path.positions.insert(0, at(7));
    bench.set(SetStatus, 0);
    assert_eq!(bench.base(0), 7);
    bench.set(SetFeatures, NET);
    let beginning = bench.session.device().rings[0].position;
    assert_eq!(beginning, Position::default());
}

#[test]
fn memory_may_come_last() {
    let mut bench = Bench::new(1);
    bench.set(SetFeatures, NET | PROTOCOL_FEATURES);
    bench.set_up(0, 0);
    bench.state(SetVringEnable, 0, 1);
    assert_eq!(bench.calls(), []);
    bench.tell(SetMemTable, table(&[REGION]), vec![memory()]);
    assert_eq!(bench.calls(), [Call::Resume(vec![0])]);
}

#[test]
fn mtu_is_taken_once_and_shown() {
    let mut bench = Bench::new(1);
    bench.run(NET, &[0]);
    bench.acknowledged(NetSetMtu, words(&[1500]), vec![]);
    assert_eq!(bench.calls(), restarted(&[0]));
    bench.acknowledged(NetSetMtu, words(&[1500]), vec![]);
    assert_eq!(bench.calls(), []);
    assert_eq!(config(&mut bench, 10, 2), [0xDC, 0x05]);
}

#[test]
fn an_mtu_that_is_out_of_range_is_refused_and_the_connection_lives() {
    let mut bench = Bench::new(1);
    bench.set(SetProtocolFeatures, protocol::ALL);
    for asked in [0, 67, 9001, 65536, u64::MAX] {
        bench.need_reply = true;
        let handled = bench.send(NetSetMtu, words(&[asked]), vec![]);
        assert_eq!(handled.reply.expect("an answer").payload, words(&[1]));
        let refusal = Refusal::Mtu { asked, max: 9000 };
        assert_eq!(handled.refusal, Some(refusal));
    }
    assert_eq!(bench.session.device().mtu, None);
    bench.need_reply = false;
    let handled = bench.send(NetSetMtu, words(&[9001]), vec![]);
    assert!(handled.reply.is_none() && handled.refusal.is_some());
}

#[test]
fn rarp_is_passed_on() {
    let mut bench = Bench::new(1);
    bench.tell(SendRarp, vec![1, 2, 3, 4, 5, 6, 0, 0], vec![]);
    assert_eq!(bench.calls(), [Call::Announce([1, 2, 3, 4, 5, 6])]);
}

fn config_message(offset: u32, flags: u32, bytes: &[u8]) -> Vec<u8> {
    let head = [offset, bytes.len() as u32, flags];
    [head.map(u32::to_ne_bytes).concat(), bytes.to_vec()].concat()
}

fn config(bench: &mut Bench, offset: u32, size: usize) -> Vec<u8> {
    let asked = config_message(offset, 0, &vec![0xEE; size]);
    let reply = bench.ask(GetConfig, asked.clone());
    assert_eq!(reply.len(), asked.len());
    assert_eq!(reply[..12], asked[..12]);
    reply[12..].to_vec()
}

#[test]
fn the_configuration_space_says_what_is_offered() {
    let mut bench = Bench::new(3);
    bench.set(SetProtocolFeatures, protocol::ALL);
    let expected = [
        2, 0, 0, 0, 0, 9, // address
        1, 0, // link up
        3, 0, // pairs
        0x28, 0x23, // MTU 9000
        0xFF, 0xFF, 0xFF, 0xFF, 0xFF, // speed and duplex unknown
        0, 0, 0, 0, 0, 0, 0, // no RSS
    ];
    assert_eq!(config(&mut bench, 0, 24), expected);
    assert_eq!(config(&mut bench, 20, 6), [0; 6]);
    assert_eq!(config(&mut bench, 250, 6), [0; 6]);
    // Too far: no bytes.
    let head = [250_u32, 7, 0].map(u32::to_ne_bytes).concat();
    let none = [250_u32, 0, 0].map(u32::to_ne_bytes).concat();
    assert_eq!(bench.ask(GetConfig, head), none);
    let head = [u32::MAX, 7, 0].map(u32::to_ne_bytes).concat();
    assert_eq!(bench.ask(GetConfig, head)[4..8], [0; 4]);
}

#[test]
fn only_migration_writes_the_configuration_space() {
    let mut bench = Bench::new(1);
    bench.set(SetProtocolFeatures, protocol::ALL);
    let handled = bench.send(SetConfig, config_message(0, 0, &[7; 6]), vec![]);
    assert_eq!(handled.refusal, Some(Refusal::ConfigReadOnly));
    assert_eq!(config(&mut bench, 0, 6), [2, 0, 0, 0, 0, 9]);
    bench.tell(SetConfig, config_message(0, 1, &[7; 6]), vec![]);
    assert_eq!(config(&mut bench, 0, 6), [7; 6]);
    bench.tell(SetConfig, config_message(200, 1, &[7; 6]), vec![]);
}

#[test]
fn the_log_is_taken_between_two_runs() {
    let mut bench = Bench::new(1);
    bench.run(NET, &[0]);
    let reply = bench.send(SetLogBase, words(&[0x8000, 64]), vec![memory()]);
    // Waited for although nobody asked for an acknowledgement.
    assert_eq!(reply.reply.expect("a reply").payload, words(&[0]));
    assert_eq!(bench.calls(), restarted(&[0]));
    let log = bench.session.device().log.as_ref().expect("told");
    assert_eq!((log.size, log.offset), (0x8000, 64));
    bench.tell(SetLogFd, vec![], vec![event()]);
    assert!(bench.session.device().log_event.is_some());
}

fn inflight_of(bench: &mut Bench, queues: u16, queue_size: u16, len: usize) -> (u64, u64) {
    let mut asked = words(&[0, 0]);
    asked.extend(queues.to_ne_bytes());
    asked.extend(queue_size.to_ne_bytes());
    asked.resize(len, 0);
    let reply = bench.send(GetInflightFd, asked.clone(), vec![]).reply;
    let reply = reply.expect("a reply");
    assert_eq!(reply.payload.len(), len);
    assert_eq!(reply.payload[16..], asked[16..]);
    let size = u64::from_ne_bytes(reply.payload[..8].try_into().expect("eight"));
    assert_eq!(reply.payload[8..16], [0; 8]);
    let file = reply.fd.expect("memory");
    let stat = rustix::fs::fstat(&file).expect("a file");
    assert!(
        rustix::fs::ftruncate(&file, 1).is_err(),
        "it can be cut short"
    );
    bench.tell(SetInflightFd, reply.payload, vec![file]);
    (size, stat.st_size as u64)
}

#[test]
fn inflight_memory_has_room_for_each_ring() {
    let mut bench = Bench::new(1);
    bench.set(SetProtocolFeatures, protocol::ALL);
    bench.set(SetFeatures, NET);
    // libvhost-user: 16 bytes and 16 per entry, rounded up to 64.
    assert_eq!(inflight_of(&mut bench, 2, 256, 24), (8320, 8320));
    assert_eq!(inflight_of(&mut bench, 1, 3, 20), (64, 64));
    assert_eq!(inflight::region_len(256, false), 4160);
    bench.set(SetFeatures, NET | RING_PACKED);
    // 32 and 32.
    assert_eq!(inflight_of(&mut bench, 2, 256, 24), (16512, 16512));
}

#[test]
fn acknowledgements_need_their_feature() {
    let mut bench = Bench::new(1);
    bench.need_reply = true;
    bench.tell(SetOwner, vec![], vec![]);
    assert!(bench.session.failure_reply(SetOwner, true).is_none());
    bench.acknowledged(SetProtocolFeatures, words(&[protocol::REPLY_ACK]), vec![]);
    bench.acknowledged(SetOwner, vec![], vec![]);
    let failure = bench.session.failure_reply(SetOwner, true);
    assert_eq!(failure.expect("an answer").payload, words(&[1]));
    assert!(bench.session.failure_reply(GetVringBase, true).is_none());
    assert!(bench.session.failure_reply(SetOwner, false).is_none());
}

#[test]
fn the_back_ends_channel_stays_open() {
    let mut bench = Bench::new(1);
    let (read, write) = pipe();
    rustix::io::ioctl_fionbio(&read, true).expect("a pipe");
    bench.tell(SetBackendReqFd, vec![], vec![write]);
    assert!(bench.session.has_backend_channel());
    let mut byte = [0];
    let open = rustix::io::read(&read, &mut byte);
    assert_eq!(open, Err(rustix::io::Errno::AGAIN));
    let Bench {
        session, mut path, ..
    } = bench;
    session.close(&mut path);
    assert_eq!(rustix::io::read(&read, &mut byte), Ok(0));
}

#[test]
fn closing_stops_what_runs() {
    let mut bench = Bench::new(1);
    bench.run(NET, &[0, 1]);
    let Bench {
        session, mut path, ..
    } = bench;
    session.close(&mut path);
    assert_eq!(path.calls, [Call::Quiesce]);
    assert!(path.running.is_empty());
}

#[test]
fn a_data_path_that_cannot_ends_the_connection() {
    let mut bench = Bench::new(1);
    bench.run(NET, &[0]);
    bench.path.refuses = true;
    let error = bench.try_send(SetVringNum, pair(0, 128), vec![]);
    let error = error.expect_err("refused").to_string();
    assert_eq!(error, "SET_VRING_NUM: the rings cannot run: no memory left");
    assert!(!bench.session.is_running());
}

#[test]
fn files_are_closed_when_their_message_is_refused() {
    let mut bench = Bench::new(1);
    let (read, write) = pipe();
    let refused = bench.try_send(GetFeatures, vec![], vec![write]);
    assert!(matches!(refused, Err(VhostError::FdCount { .. })));
    let mut byte = [0];
    assert_eq!(rustix::io::read(read.as_fd(), &mut byte), Ok(0));
}
