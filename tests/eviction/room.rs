//! Making room, with others at it: who goes for whom, and what is waited for.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};

use crate::common::bound::{too_short, with_bound};
use crate::common::commands::fill;
use crate::common::gate::Gate;
use crate::common::{Rig, bytes, wait_idle};
use ash::vk;
use peerbuf::device::Call;
use peerbuf::observe::{MoveCause, StallCause};
use peerbuf::residency::Kept;
use peerbuf::{
    Access, Attachment, BufferDescriptor, Device, DomainId, Engine, Error, Importer, Invalidation,
    Placement, Refault, SharedBuffer,
};

const MIB: u64 = 1 << 20;

fn vram(device: &Device) -> DomainId {
    DomainId::Vram(device.id())
}

/// Buffers of so many MiB at home on `device`, each with bytes of its own.
fn buffers<const N: usize>(engine: &Engine, device: &Device, sizes: [u64; N]) -> [SharedBuffer; N] {
    sizes.map(|mib| {
        let buffer = engine.create_buffer(device, BufferDescriptor::new(mib * MIB)).expect("room");
        bytes::write(&buffer, 1);
        buffer
    })
}

fn sit(buffer: &SharedBuffer, device: &Device) -> Attachment {
    buffer.attach_dynamic(device, Arc::new(Refault::new())).expect("a seat")
}

/// `user` is at work on the buffer, and stays so until its gate is opened; nobody has the buffer any more.
fn drop_in_use(engine: &Engine, buffer: SharedBuffer, user: &Device) -> Gate {
    let seat = sit(&buffer, user);
    let mapping = seat.map(Access::Write).expect("mapped");
    let gate = Gate::close(user);
    fill(engine, user, &mapping, 1).expect("submitted");
    drop((mapping, seat, buffer));
    gate
}

/// Bytes of a place that wait for their last fence.
fn in_flight(engine: &Engine, place: DomainId) -> u64 {
    let report = engine.report();
    let of = report.domains.iter().find(|domain| domain.id == place).expect("ours");
    of.shares.in_flight
}

fn until(what: impl Fn() -> bool) {
    while !what() {
        std::thread::yield_now();
    }
}

/// What leaves for the first one's claim is still in use when the second one looks.
#[test]
fn two_who_make_room_at_once_evict_as_much_as_they_need() {
    let rig = Rig::new();
    let engine = rig.engine();
    let [first, second] = rig.two_of_one_adapter();
    engine.model_heap(&first, 16 * MIB).expect("ours");
    let all = buffers(engine, &first, [1; 16]);
    let seats = all.each_ref().map(|buffer| sit(buffer, &second));
    wait_idle(&[&first, &second]);
    let gate = Gate::close(&first);
    let make = || engine.create_buffer(&first, BufferDescriptor::new(4 * MIB)).expect("room");
    std::thread::scope(|scope| {
        let one = scope.spawn(make);
        until(|| in_flight(engine, vram(&first)) >= 4 * MIB);
        let two = scope.spawn(make);
        until(|| in_flight(engine, vram(&first)) >= 8 * MIB);
        gate.open();
        let both = [one, two].map(|made| made.join().expect("no panic"));
        assert_eq!(both.map(|buffer| buffer.domain()), [vram(&first); 2]);
    });
    let evicted = engine.moved(MoveCause::Evicted);
    assert_eq!(evicted.bytes, 8 * MIB, "4 MiB for each: {evicted:?}");
    let stalls = engine.stalls(StallCause::Room);
    assert_eq!(stalls.waits, 2, "each has waited until they were out: {stalls:?}");
    assert!(engine.report().to_string().contains("\nWaits\n  for room"));
    drop(seats);
}

#[test]
fn evict_all_ends_when_everything_is_out_also_what_was_dropped_before() {
    let rig = Rig::new();
    let engine = rig.engine();
    let [first, second] = rig.two_of_one_adapter();
    let [dropped, stays] = buffers(engine, &first, [1; 2]);
    let seat = sit(&stays, &second);
    wait_idle(&[&first, &second]);
    let first_out = drop_in_use(engine, dropped, &second);
    // The copy of what goes runs on the first device.
    let last_out = Gate::close(&first);
    let used = || engine.usage(vram(&first)).expect("ours").used;
    assert_eq!(used(), 2 * MIB);
    std::thread::scope(|scope| {
        let evicting = scope.spawn(|| {
            let evicted = engine.evict_all(&first).expect("ours");
            (evicted, used())
        });
        first_out.open();
        until(|| used() == MIB);
        last_out.open();
        let (evicted, left) = evicting.join().expect("no panic");
        assert_eq!(left, 0, "{evicted:?}");
    });
    drop(seat);
}

/// What is needed gets out behind something that does not for a long time.
#[test]
fn who_has_room_waits_for_nothing_else_that_is_leaving() {
    let rig = Rig::new();
    let engine = rig.engine();
    let [first, second] = rig.two_of_one_adapter();
    engine.model_heap(&first, 5 * MIB).expect("ours");
    let [dropped, _goes] = buffers(engine, &first, [1, 4]);
    wait_idle(&[&first, &second]);
    let gate = drop_in_use(engine, dropped, &second);
    let [newcomer] = buffers(engine, &first, [4]);
    assert_eq!(newcomer.domain(), vram(&first));
    assert_eq!(in_flight(engine, vram(&first)), MIB, "that is still in use");
    gate.open();
}

/// The budget shrinks by less than what is evicted for it.
#[test]
fn a_cap_is_kept_as_soon_as_no_more_is_in_use() {
    // A wait for too much lasts until the watchdog comes.
    let rig = Rig::new();
    let engine = rig.engine();
    let [first, second] = rig.two_of_one_adapter();
    engine.model_heap(&first, 8 * MIB).expect("ours");
    let [dropped, _goes, stays] = buffers(engine, &first, [1, 4, 1]);
    wait_idle(&[&first, &second]);
    let gate = drop_in_use(engine, dropped, &second);
    let evicted = engine.set_cap(vram(&first), Some(3 * MIB)).expect("ours");
    assert_eq!(evicted.bytes, 4 * MIB, "{evicted:?}");
    assert_eq!(engine.usage(vram(&first)).expect("ours").used, 2 * MIB);
    assert_eq!(in_flight(engine, vram(&first)), MIB, "that is still in use");
    assert_eq!(stays.domain(), vram(&first));
    gate.open();
}

/// More than a slot, and no multiple of the steps in which memory of a buffer's own comes.
const ODD: u64 = 8 * MIB + 4096;
/// What that takes.
const ROUNDED: u64 = 9 * MIB;

/// Buffers of such a size in the device's memory; as many as there are may go to memory that was others'
/// before.
fn odd_buffers<const N: usize>(engine: &Engine, device: &Device) -> [SharedBuffer; N] {
    let create = |size, placement| {
        let descriptor = BufferDescriptor::new(size).placement(placement);
        let buffer = engine.create_buffer(device, descriptor).expect("room");
        bytes::write(&buffer, 1);
        buffer
    };
    // The route is proved.
    create(MIB, Placement::VramOrSystem).evict().expect("nobody holds it");
    drop([(); N].map(|()| create(ROUNDED, Placement::System)));
    let all = [(); N].map(|()| create(ODD, Placement::VramOrSystem));
    wait_idle(&[device]);
    all
}

/// Their size is no reason to let others go for them, nor to go one by one.
#[test]
fn buffers_of_odd_sizes_go_in_their_turn_and_together() {
    let rig = Rig::new();
    let engine = rig.engine();
    for device in rig.all() {
        engine.model_heap(&device, 64 * MIB).expect("ours");
        let old = odd_buffers::<4>(engine, &device);
        let hot = buffers(engine, &device, [1; 4]);
        wait_idle(&[&device]);
        let submitted = || engine.calls().made(Call::QueueSubmit);
        let before = submitted();
        let left = 2 * ROUNDED + 4 * MIB;
        let evicted = engine.set_cap(vram(&device), Some(left)).expect("ours");
        assert_eq!(evicted.bytes, 2 * ROUNDED, "{evicted:?}");
        assert_eq!(submitted() - before, 1, "one for both");
        assert_eq!(engine.usage(vram(&device)).expect("ours").used, left);
        let there = vram(&device);
        let stayed = old.iter().filter(|buffer| buffer.domain() == there).count();
        assert_eq!(stayed, 2, "they were used before the others");
        assert!(hot.iter().all(|buffer| buffer.domain() == there));
        old.iter().chain(&hot).for_each(|buffer| bytes::assert_sequence(buffer, 1, "evicted"));
    }
}

/// Where nobody waits.
#[test]
fn what_others_take_is_made_up_for_by_buffers_of_odd_sizes_as_well() {
    let rig = Rig::new();
    let engine = rig.engine();
    for device in rig.all() {
        let all = odd_buffers::<4>(engine, &device);
        let usage = || engine.usage(vram(&device)).expect("ours");
        assert_eq!(usage().used, 4 * ROUNDED);
        let budget = 3 * ROUNDED;
        engine.calls().set_heap_budget(Some((budget, usage().held)));
        // Whoever creates something asks the driver, twice a second at most, and needs no room there.
        let small = BufferDescriptor::new(256).placement(Placement::System);
        let stayed = || all.iter().filter(|buffer| buffer.domain() == vram(&device)).count();
        until(|| {
            drop(engine.create_buffer(&device, small.clone()).expect("room"));
            stayed() < 4
        });
        assert_eq!((stayed(), usage().budget), (3, budget), "one has left");
        wait_idle(&[&device]);
        engine.trim();
        assert_eq!(usage().used, budget);
        all.iter().for_each(|buffer| bytes::assert_sequence(buffer, 1, "evicted"));
        engine.calls().set_heap_budget(None);
    }
}

/// Lets somebody else go on while it is asked, and waits until that has happened.
struct Meanwhile {
    go: Mutex<Option<Sender<()>>>,
    gone: Arc<AtomicBool>,
}

impl Importer for Meanwhile {
    fn invalidate_mappings(&self, _: &Invalidation<'_>) {
        if let Some(go) = self.go.lock().expect("no panic").take() {
            go.send(()).expect("somebody listens");
            until(|| self.gone.load(Ordering::SeqCst));
        }
    }
}

/// One is found to be held, and is gone before the walk notes that.
#[test]
fn a_victim_may_be_dropped_between_its_answer_and_the_end_of_the_walk() {
    let rig = Rig::new();
    let engine = rig.engine();
    let [first, second] = rig.two_of_one_adapter();
    let [held, goes] = buffers(engine, &first, [1; 2]);
    let access = held.host_access(Access::Read).expect("opened");
    let (go, told) = channel();
    let gone = Arc::new(AtomicBool::new(false));
    let importer = Meanwhile { go: Mutex::new(Some(go)), gone: Arc::clone(&gone) };
    let seat = goes.attach_dynamic(&second, Arc::new(importer)).expect("a seat");
    std::thread::scope(|scope| {
        let dropper = scope.spawn(move || {
            told.recv().expect("told");
            drop((access, held));
            gone.store(true, Ordering::SeqCst);
        });
        let evicted = engine.evict_all(&first).expect("ours");
        assert_eq!(evicted.bytes, MIB, "{evicted:?}");
        dropper.join().expect("no panic");
    });
    assert_eq!(engine.usage(vram(&first)).expect("ours").used, 0);
    drop(seat);
}

/// Another process has the rest, and nobody has told the ledger.
#[test]
fn a_driver_without_memory_gets_some_of_ours_however_little_that_is() {
    const SIZE: u64 = 9 * MIB;
    let rig = Rig::new();
    let (engine, calls) = (rig.engine(), rig.engine().calls());
    let fail = |count| {
        let code = vk::Result::ERROR_OUT_OF_DEVICE_MEMORY;
        (1..=count).for_each(|nth| calls.fail_nth(Call::AllocateMemory, nth, code));
    };
    for device in rig.all() {
        let make = || {
            let descriptor = BufferDescriptor::new(SIZE);
            engine.create_buffer(&device, descriptor.placement(Placement::Vram))
        };
        // So often it is asked while nobody has anything to give.
        let before = calls.made(Call::AllocateMemory);
        fail(100);
        make().expect_err("no memory");
        calls.clear_faults();
        let tries = calls.made(Call::AllocateMemory) - before;
        let ours = [1, 2].map(|seed| {
            let buffer = engine.create_buffer(&device, BufferDescriptor::new(SIZE)).expect("room");
            bytes::write(&buffer, seed);
            buffer
        });
        engine.model_heap(&device, 40 * SIZE).expect("ours");
        fail(tries);
        let newcomer = make();
        assert!(!calls.clear_faults(), "{}: it has said so each time", device.name());
        assert_eq!(newcomer.expect("somebody went for it").domain(), vram(&device));
        let mut places = ours.each_ref().map(|buffer| buffer.domain());
        places.sort_unstable();
        assert_eq!(places, [vram(&device), DomainId::System], "one, and no more");
        [1, 2].into_iter().zip(&ours).for_each(|(seed, buffer)| {
            bytes::assert_sequence(buffer, seed, "wherever it is");
        });
    }
}

/// A thread hangs that has all of them.
#[test]
fn whoever_makes_room_waits_as_long_as_one_wait_may_take() {
    with_bound(|rig, _| {
        let engine = rig.engine();
        let [device, _] = rig.two_of_one_adapter();
        engine.model_heap(&device, 4 * MIB).expect("ours");
        let all = buffers(engine, &device, [1; 4]);
        let used: Vec<_> = all
            .iter()
            .map(|buffer| {
                let seat = sit(buffer, &device);
                let mapping = seat.map(Access::Write).expect("mapped");
                let (fence, signal) = engine.host_fence();
                mapping.begin_access(Access::Write).expect("current").end(fence);
                (seat, signal)
            })
            .collect();
        let descriptor = BufferDescriptor::new(MIB).placement(Placement::Vram);
        let error = engine.create_buffer(&device, descriptor.clone()).expect_err("all are in use");
        let Error::OutOfMemory { obstacles, .. } = error else { panic!("{error:?}") };
        assert_eq!(obstacles.bytes(Kept::Busy), 4 * MIB, "{obstacles}");
        let stalls = engine.stalls(StallCause::Work);
        assert!(stalls.waits <= 1, "not one for each: {stalls:?}");
        if stalls.waits == 0 {
            // The bound was over before there was anything to wait for.
            too_short();
        }
        let seats: Vec<_> = used.into_iter().map(|(seat, _)| seat).collect();
        match engine.create_buffer(&device, descriptor) {
            Err(Error::OutOfMemory { .. }) => too_short(),
            made => drop(made.expect("nobody hangs any more")),
        }
        drop(seats);
        wait_idle(&[&device]);
    });
}

/// The device is to be suspended: what nobody has any more is not in its way.
#[test]
fn evict_all_gives_the_memory_back_too() {
    let rig = Rig::new();
    let engine = rig.engine();
    for device in rig.all() {
        let all = buffers(engine, &device, [1, 9]);
        let held = || engine.usage(vram(&device)).expect("ours").held;
        assert!(held() >= 10 * MIB);
        assert_eq!(engine.evict_all(&device).expect("ours").bytes, 10 * MIB);
        assert_eq!(held(), 0, "{}", device.name());
        assert_eq!(engine.restore(&device).expect("ours"), 2);
        all.iter().for_each(|buffer| bytes::assert_sequence(buffer, 1, "back"));
    }
}
