//! The driver's rings one step at a time: against the textbook's device, against the `virtio-queue` crate, and against a
//! device that breaks the rules.

use std::fs::File;

use jumbo_testkit::virtio::{
    DeviceFault, DeviceQueue, DriverQueue, GuestMemory, Indirect, Piece, QueueOptions, Used,
};
use proptest::prelude::*;
use virtio_queue::desc::split::Descriptor;
use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{FileOffset, GuestAddress, GuestMemoryMmap};

/// The chain made of the lengths: even ones are read, odd ones written, reads first.
fn pieces(lens: &[u32]) -> Vec<Piece> {
    let piece = |len: &u32| Piece {
        addr: 0x1000 * u64::from(*len),
        len: *len,
        writable: len % 2 == 1,
    };
    let mut pieces: Vec<Piece> = lens.iter().map(piece).collect();
    pieces.sort_by_key(|piece| piece.writable);
    pieces
}

fn room(pieces: &[Piece]) -> u32 {
    let writable = pieces.iter().filter(|piece| piece.writable);
    writable.map(|piece| piece.len).sum()
}

fn memory() -> GuestMemory {
    GuestMemory::new(&[(0, 1 << 20), (1 << 32, 1 << 20)]).expect("memory")
}

#[derive(Clone, Debug)]
enum Step {
    Add(Vec<u32>),
    Publish,
    /// The device takes so many.
    Pop(usize),
    /// The device gives so many back, after rotating what it holds.
    Push(usize, usize),
    Poll(usize),
    Interrupts(bool),
    Kicks(bool),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => prop::collection::vec(1..100_u32, 1..6).prop_map(Step::Add),
        3 => Just(Step::Publish),
        3 => (1..9_usize).prop_map(Step::Pop),
        3 => (1..9_usize, 0..8_usize).prop_map(|(count, turn)| Step::Push(count, turn)),
        3 => (1..9_usize).prop_map(Step::Poll),
        1 => any::<bool>().prop_map(Step::Interrupts),
        1 => any::<bool>().prop_map(Step::Kicks),
    ]
}

fn options() -> impl Strategy<Value = QueueOptions> {
    let indirect = prop_oneof![
        Just(Indirect::Never),
        Just(Indirect::Chains),
        Just(Indirect::Always)
    ];
    let bits = (any::<bool>(), any::<bool>(), any::<bool>());
    (1..40_u16, bits, indirect).prop_map(|(size, (packed, event_idx, in_order), indirect)| {
        QueueOptions {
            size: if packed {
                size
            } else {
                size.next_power_of_two()
            },
            packed,
            event_idx,
            in_order,
            indirect,
            indirect_max: 8,
        }
    })
}

/// Both sides, and what each should know.
struct Pair {
    driver: DriverQueue,
    device: DeviceQueue,
    /// Chains by token; a token is used once.
    chains: Vec<Vec<Piece>>,
    /// Published in order, not popped yet: tokens.
    available: Vec<u16>,
    unpublished: Vec<u16>,
    /// With the device: (id, token).
    popped: Vec<(u16, u16)>,
    /// Given back: (token, len).
    returned: Vec<(u16, u32)>,
    /// The device asked for a kick when there was nothing, and has had none since.
    wants_kick: bool,
    /// The same for the driver and interrupts.
    wants_interrupt: bool,
    /// The driver asked for none.
    refuses_interrupts: bool,
    options: QueueOptions,
}

impl Pair {
    fn new(options: QueueOptions) -> Self {
        let mut memory = memory();
        let driver = DriverQueue::new(&mut memory, &options);
        let base = driver.resume_base();
        assert_eq!(base, if options.packed { 0x8000_8000 } else { 0 });
        Self {
            device: DeviceQueue::new(&memory, &driver.addresses(), &options, base),
            driver,
            chains: Vec::new(),
            available: Vec::new(),
            unpublished: Vec::new(),
            popped: Vec::new(),
            returned: Vec::new(),
            wants_kick: false,
            wants_interrupt: false,
            refuses_interrupts: false,
            options,
        }
    }

    fn run(&mut self, step: &Step) {
        match step {
            Step::Add(lens) => self.add(&pieces(lens)),
            Step::Publish => self.publish(),
            Step::Pop(count) => (0..*count).for_each(|_| self.pop()),
            Step::Push(count, turn) => self.push(*count, *turn),
            Step::Poll(count) => (0..*count).for_each(|_| self.poll()),
            Step::Interrupts(on) => self.interrupts(*on),
            Step::Kicks(true) => {
                let there = self.device.enable_kicks();
                assert_eq!(there, !self.available.is_empty());
                self.wants_kick = !there;
            }
            Step::Kicks(false) => {
                self.device.disable_kicks();
                self.wants_kick = false;
            }
        }
    }

    fn add(&mut self, pieces: &[Piece]) {
        let token = self.chains.len() as u16;
        let free = self.driver.free();
        match self.driver.add(pieces, token) {
            Some(_) => {
                self.chains.push(pieces.to_vec());
                self.unpublished.push(token);
            }
            None => assert!(usize::from(free) < pieces.len()),
        }
    }

    fn publish(&mut self) {
        let something = !self.unpublished.is_empty();
        let kick = self.driver.publish();
        self.available.append(&mut self.unpublished);
        assert!(kick || !(something && self.wants_kick), "a lost kick");
        assert!(something || !kick, "a kick for nothing");
        self.wants_kick &= !something;
    }

    fn pop(&mut self) {
        let Some(chain) = self.device.pop() else {
            assert!(self.available.is_empty());
            return;
        };
        let token = self.available.remove(0);
        let found = [chain.readable, chain.writable].concat();
        assert_eq!(found, self.chains[usize::from(token)]);
        self.popped.push((chain.id, token));
    }

    fn push(&mut self, count: usize, turn: usize) {
        if self.popped.is_empty() {
            return;
        }
        if !self.options.in_order {
            let turn = turn % self.popped.len();
            self.popped.rotate_left(turn);
        }
        let count = count.min(self.popped.len());
        let mut buffers = Vec::new();
        for (index, (id, token)) in self.popped.drain(..count).enumerate() {
            let room = room(&self.chains[usize::from(token)]);
            // A batch says nothing of the buffers before its last: they are full.
            let full = self.options.in_order && index + 1 < count;
            let len = if full { room } else { room / 2 };
            buffers.push((id, len));
            self.returned.push((token, len));
        }
        self.device.push(&buffers);
        let interrupt = self.device.interrupt_wanted();
        assert!(interrupt || !self.wants_interrupt, "a lost interrupt");
        assert!(!(interrupt && self.refuses_interrupts), "an unwanted one");
        self.wants_interrupt = false;
    }

    fn poll(&mut self) {
        assert_eq!(self.driver.has_used(), !self.returned.is_empty());
        let used = self.driver.poll().expect("no fault");
        let expected = (!self.returned.is_empty()).then(|| self.returned.remove(0));
        assert_eq!(used.map(|Used { token, len, .. }| (token, len)), expected);
    }

    fn interrupts(&mut self, on: bool) {
        self.refuses_interrupts = !on;
        self.wants_interrupt = false;
        if on {
            let there = self.driver.enable_interrupts();
            assert_eq!(there, !self.returned.is_empty());
            self.wants_interrupt = !there;
        } else {
            self.driver.disable_interrupts();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn both_sides_agree(options in options(), steps in prop::collection::vec(step(), 1..200)) {
        let mut pair = Pair::new(options);
        for step in &steps {
            pair.run(step);
        }
        // Everything comes back in the end.
        for step in [Step::Publish, Step::Pop(200), Step::Push(200, 0), Step::Poll(500)] {
            pair.run(&step);
        }
        prop_assert_eq!(pair.driver.held(), 0);
        prop_assert_eq!(pair.driver.free(), pair.driver.size());
        prop_assert_eq!(pair.driver.resume_base(), pair.device.base());
    }
}

fn as_vm_memory(memory: &GuestMemory) -> GuestMemoryMmap {
    let ranges = memory.regions().iter().map(|region| {
        let file = File::from(region.file().try_clone_to_owned().expect("a copy"));
        let file = FileOffset::new(file, region.file_offset());
        let at = GuestAddress(region.guest_addr());
        (at, region.len() as usize, Some(file))
    });
    GuestMemoryMmap::from_ranges_with_files(ranges).expect("the same memory")
}

fn oracle(driver: &DriverQueue, event_idx: bool) -> Queue {
    let mut queue = Queue::new(driver.size()).expect("a queue");
    let at = driver.addresses();
    let halves = |addr: u64| (Some(addr as u32), Some((addr >> 32) as u32));
    let ((a, b), (c, d), (e, f)) = (halves(at.descriptors), halves(at.driver), halves(at.device));
    queue.set_desc_table_address(a, b);
    queue.set_avail_ring_address(c, d);
    queue.set_used_ring_address(e, f);
    queue.set_event_idx(event_idx);
    queue.set_ready(true);
    queue
}

/// The `virtio-queue` crate as the device: another reading of the same standard.
#[test]
fn another_device_agrees() {
    for (event_idx, indirect) in [
        (false, Indirect::Never),
        (true, Indirect::Never),
        (false, Indirect::Chains),
        (true, Indirect::Always),
    ] {
        let options = QueueOptions {
            event_idx,
            indirect,
            ..QueueOptions::split(16)
        };
        let mut memory = memory();
        let mut driver = DriverQueue::new(&mut memory, &options);
        let theirs = as_vm_memory(&memory);
        let mut device = oracle(&driver, event_idx);
        assert!(device.is_valid(&theirs));
        for round in 0..10_000_u32 {
            let chains: Vec<_> = (0..=round % 4)
                .map(|index| {
                    pieces(&[2 + round % 90, 3 + index, 5 + index][..1 + (round % 3) as usize])
                })
                .collect();
            for (index, chain) in chains.iter().enumerate() {
                driver.add(chain, index as u16).expect("room");
            }
            assert!(!device.enable_notification(&theirs).expect("works"));
            assert!(driver.publish(), "round {round}: it asked for a kick");
            assert!(!driver.enable_interrupts());

            let found: Vec<_> = device.iter(&theirs).expect("an iterator").collect();
            assert_eq!(found.len(), chains.len());
            let heads: Vec<u16> = found.iter().map(|chain| chain.head_index()).collect();
            for (chain, ours) in found.into_iter().zip(&chains) {
                let piece = |d: Descriptor| Piece {
                    addr: d.addr().0,
                    len: d.len(),
                    writable: d.is_write_only(),
                };
                assert_eq!(&chain.map(piece).collect::<Vec<_>>(), ours);
            }
            for (head, chain) in heads.iter().zip(&chains).rev() {
                device.add_used(&theirs, *head, room(chain)).expect("used");
            }
            assert!(device.needs_notification(&theirs).expect("works"));
            for (index, chain) in chains.iter().enumerate().rev() {
                let used = driver.poll().expect("no fault").expect("used");
                assert_eq!((usize::from(used.token), used.len), (index, room(chain)));
            }
            assert_eq!(driver.poll(), Ok(None));
        }
    }
}

/// What the driver says of a device that writes `entry` to the used ring and moves its index to `idx`.
fn split_fault(entry: (u32, u32), idx: u16) -> Result<Option<Used>, DeviceFault> {
    let mut memory = memory();
    let mut driver = DriverQueue::new(&mut memory, &QueueOptions::split(8));
    driver
        .add(&[Piece::writable(0x1000, 100)], 0)
        .expect("room");
    driver.publish();
    let at = driver.addresses().device;
    memory.write(at + 4, &entry.0.to_le_bytes());
    memory.write(at + 8, &entry.1.to_le_bytes());
    driver.split().raw_used_idx(idx);
    driver.poll()
}

#[test]
fn faults_of_a_split_device_are_told() {
    assert!(matches!(split_fault((0, 100), 1), Ok(Some(_))));
    assert_eq!(split_fault((1, 0), 1), Err(DeviceFault::Unknown(1)));
    let far = 0x1_0000;
    assert_eq!(split_fault((far, 0), 1), Err(DeviceFault::Unknown(far)));
    let (id, len, room) = (0, 101, 100);
    let overrun = DeviceFault::Overrun { id, len, room };
    assert_eq!(split_fault((0, 101), 1), Err(overrun));
    let (moved, held) = (2, 1);
    let ahead = DeviceFault::Ahead { moved, held };
    assert_eq!(split_fault((0, 100), 2), Err(ahead));
}

#[test]
fn faults_of_a_packed_device_are_told() {
    for (id, len, fault) in [
        (0, 100, None),
        (5, 1, Some(DeviceFault::Unknown(5))),
        (
            0,
            101,
            Some(DeviceFault::Overrun {
                id: 0,
                len: 101,
                room: 100,
            }),
        ),
    ] {
        let mut memory = memory();
        let mut driver = DriverQueue::new(&mut memory, &QueueOptions::packed(8));
        driver
            .add(&[Piece::writable(0x1000, 100)], 0)
            .expect("room");
        driver.publish();
        assert_eq!(driver.poll(), Ok(None));
        let descriptor = jumbo_testkit::virtio::PackedDescriptor {
            addr: 0,
            len,
            id,
            flags: 1 << 7 | 1 << 15 | 2,
        };
        driver.packed().raw_descriptor(0, &descriptor);
        assert_eq!(driver.poll().err(), fault);
    }
}

#[test]
fn interrupts_can_wait_for_several() {
    for packed in [false, true] {
        let mut options = QueueOptions::split(16);
        (options.packed, options.event_idx) = (packed, true);
        let mut pair = Pair::new(options);
        for _ in 0..8 {
            pair.add(&pieces(&[7]));
        }
        pair.publish();
        (0..8).for_each(|_| pair.pop());
        assert!(!pair.driver.interrupt_after(4));
        let buffers: Vec<_> = pair.popped.iter().map(|(id, _)| (*id, 1)).collect();
        let wanted = buffers.iter().map(|buffer| {
            pair.device.push(&[*buffer]);
            pair.device.interrupt_wanted()
        });
        let expected = [false, false, false, true, false, false, false, false];
        assert_eq!(wanted.collect::<Vec<_>>(), expected, "packed {packed}");
    }
}
