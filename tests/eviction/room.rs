//! Making room with concurrent threads: what is evicted for which claim, and what is waited for.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};

use crate::common::bound::{besides, too_short, with_bound};
use crate::common::commands::fill;
use crate::common::gate::Gate;
use crate::common::until::{each_second, until};
use crate::common::{Rig, bytes, wait_idle};
use ash::vk;
use peerbuf::device::Call;
use peerbuf::observe::{MoveCause, StallCause};
use peerbuf::residency::SkipReason;
use peerbuf::{
    Access, Attachment, BufferDescriptor, Device, DomainId, Engine, Error, Importer, Invalidation,
    Placement, Refault, SharedBuffer, Signal,
};

const MIB: u64 = 1 << 20;

fn vram(device: &Device) -> DomainId {
    DomainId::Vram(device.id())
}

/// Buffers of these sizes in MiB whose home is `device`, with content.
fn buffers<const N: usize>(engine: &Engine, device: &Device, sizes: [u64; N]) -> [SharedBuffer; N] {
    sizes.map(|mib| {
        let buffer = engine.create_buffer(device, BufferDescriptor::new(mib * MIB)).expect("room");
        bytes::write(&buffer, 1);
        buffer
    })
}

fn attach(buffer: &SharedBuffer, device: &Device) -> Attachment {
    buffer.attach_dynamic(device, Arc::new(Refault::new())).expect("an attachment")
}

/// Drops a buffer while `user` has work on it, which continues until the gate is opened.
fn drop_in_use(engine: &Engine, buffer: SharedBuffer, user: &Device) -> Gate {
    let attachment = attach(&buffer, user);
    let mapping = attachment.map(Access::Write).expect("mapped");
    let gate = Gate::close(user);
    fill(engine, user, &mapping, 1).expect("submitted");
    drop((mapping, attachment, buffer));
    gate
}

/// The bytes of a domain that wait for their last fence.
fn in_flight(engine: &Engine, domain: DomainId) -> u64 {
    let report = engine.report();
    let state = report.domains.iter().find(|state| state.id == domain).expect("of this engine");
    state.shares.in_flight
}

/// The bytes that are evicted for the first claim are still in use when the second claim is made.
#[test]
fn concurrent_claims_evict_no_more_than_they_need() {
    let rig = Rig::new();
    let engine = rig.engine();
    let [first, second] = rig.two_of_one_adapter();
    engine.model_heap(&first, 16 * MIB).expect("of this engine");
    let all = buffers(engine, &first, [1; 16]);
    let attachments = all.each_ref().map(|buffer| attach(buffer, &second));
    wait_idle(&[&first, &second]);
    let gate = Gate::close(&first);
    let make = || engine.create_buffer(&first, BufferDescriptor::new(4 * MIB)).expect("room");
    std::thread::scope(|scope| {
        let one = scope.spawn(make);
        until(|| in_flight(engine, vram(&first)), |&bytes| bytes >= 4 * MIB);
        let two = scope.spawn(make);
        until(|| in_flight(engine, vram(&first)), |&bytes| bytes >= 8 * MIB);
        gate.open();
        let both = [one, two].map(|made| made.join().expect("no panic"));
        assert_eq!(both.map(|buffer| buffer.domain()), [vram(&first); 2]);
    });
    let evicted = engine.moved(MoveCause::Evicted);
    assert_eq!(evicted.bytes, 8 * MIB, "4 MiB for each: {evicted:?}");
    let stalls = engine.stalls(StallCause::Room);
    // The second may find its bytes released when it begins to wait. The first began long before.
    assert!((1..=2).contains(&stalls.waits), "claims wait for their bytes: {stalls:?}");
    assert!(engine.report().to_string().contains("\nWaits\n  for room"));
    drop(attachments);
}

#[test]
fn evict_all_waits_for_dropped_buffers_too() {
    let rig = Rig::new();
    let engine = rig.engine();
    let [first, second] = rig.two_of_one_adapter();
    let [dropped, stays] = buffers(engine, &first, [1; 2]);
    let attachment = attach(&stays, &second);
    wait_idle(&[&first, &second]);
    let first_out = drop_in_use(engine, dropped, &second);
    // The first device runs the copy of the eviction.
    let last_out = Gate::close(&first);
    let used = || engine.usage(vram(&first)).expect("of this engine").used;
    assert_eq!(used(), 2 * MIB);
    std::thread::scope(|scope| {
        let evicting = scope.spawn(|| {
            let evicted = engine.evict_all(&first).expect("of this engine");
            (evicted, used())
        });
        first_out.open();
        until(used, |&used| used == MIB);
        last_out.open();
        let (evicted, left) = evicting.join().expect("no panic");
        assert_eq!(left, 0, "{evicted:?}");
    });
    drop(attachment);
}

/// The bytes that are needed are released before others that stay in flight for long.
#[test]
fn a_satisfied_claim_does_not_wait_for_other_evictions() {
    let rig = Rig::new();
    let engine = rig.engine();
    let [first, second] = rig.two_of_one_adapter();
    engine.model_heap(&first, 5 * MIB).expect("of this engine");
    let [dropped, _evicted] = buffers(engine, &first, [1, 4]);
    wait_idle(&[&first, &second]);
    let gate = drop_in_use(engine, dropped, &second);
    let [new] = buffers(engine, &first, [4]);
    assert_eq!(new.domain(), vram(&first));
    assert_eq!(in_flight(engine, vram(&first)), MIB, "the dropped buffer is still in use");
    gate.open();
}

/// The budget shrinks by less than the bytes that are evicted for it.
#[test]
fn set_cap_returns_once_usage_is_below_the_cap() {
    // A wait for too many bytes lasts until the watchdog ends it.
    let rig = Rig::new();
    let engine = rig.engine();
    let [first, second] = rig.two_of_one_adapter();
    engine.model_heap(&first, 8 * MIB).expect("of this engine");
    let [dropped, _evicted, stays] = buffers(engine, &first, [1, 4, 1]);
    wait_idle(&[&first, &second]);
    let gate = drop_in_use(engine, dropped, &second);
    let evicted = engine.set_cap(vram(&first), Some(3 * MIB)).expect("of this engine");
    assert_eq!(evicted.bytes, 4 * MIB, "{evicted:?}");
    assert_eq!(engine.usage(vram(&first)).expect("of this engine").used, 2 * MIB);
    assert_eq!(in_flight(engine, vram(&first)), MIB, "the dropped buffer is still in use");
    assert_eq!(stays.domain(), vram(&first));
    gate.open();
}

/// More than a slab slot, and no multiple of the granularity of dedicated memory.
const ODD: u64 = 8 * MIB + 4096;
/// The memory that a buffer of that size takes.
const ROUNDED: u64 = 9 * MIB;

/// Buffers of that size in the device's memory. System memory of as many destroyed buffers is left for their
/// evictions to reuse.
fn odd_buffers<const N: usize>(engine: &Engine, device: &Device) -> [SharedBuffer; N] {
    let create = |size, placement| {
        let descriptor = BufferDescriptor::new(size).placement(placement);
        let buffer = engine.create_buffer(device, descriptor).expect("room");
        bytes::write(&buffer, 1);
        buffer
    };
    // Proves the route.
    create(MIB, Placement::VramOrSystem).evict().expect("not held");
    drop([(); N].map(|()| create(ROUNDED, Placement::System)));
    let all = [(); N].map(|()| create(ODD, Placement::VramOrSystem));
    wait_idle(&[device]);
    all
}

/// Their size neither exempts them from eviction nor forces single copies.
#[test]
fn buffers_of_odd_sizes_are_evicted_in_order_and_together() {
    let rig = Rig::new();
    let engine = rig.engine();
    for device in rig.all() {
        engine.model_heap(&device, 64 * MIB).expect("of this engine");
        let old = odd_buffers::<4>(engine, &device);
        let hot = buffers(engine, &device, [1; 4]);
        wait_idle(&[&device]);
        let submitted = || engine.calls().made(Call::QueueSubmit);
        let before = submitted();
        let left = 2 * ROUNDED + 4 * MIB;
        let evicted = engine.set_cap(vram(&device), Some(left)).expect("of this engine");
        assert_eq!(evicted.bytes, 2 * ROUNDED, "{evicted:?}");
        assert_eq!(submitted() - before, 1, "one submission for both");
        assert_eq!(engine.usage(vram(&device)).expect("of this engine").used, left);
        let domain = vram(&device);
        let stayed = old.iter().filter(|buffer| buffer.domain() == domain).count();
        assert_eq!(stayed, 2, "the older ones are evicted");
        assert!(hot.iter().all(|buffer| buffer.domain() == domain));
        old.iter().chain(&hot).for_each(|buffer| bytes::assert_sequence(buffer, 1, "evicted"));
    }
}

/// The eviction does not wait.
#[test]
fn a_smaller_heap_budget_evicts_buffers_of_odd_sizes() {
    let rig = Rig::new();
    let engine = rig.engine();
    for device in rig.all() {
        let all = odd_buffers::<4>(engine, &device);
        let usage = || engine.usage(vram(&device)).expect("of this engine");
        assert_eq!(usage().used, 4 * ROUNDED);
        let budget = 3 * ROUNDED;
        engine.calls().set_heap_budget(Some((budget, usage().held)));
        // Each allocation queries the driver, and needs no room in this domain.
        let small = BufferDescriptor::new(256).placement(Placement::System);
        let query = || drop(engine.create_buffer(&device, small.clone()).expect("room"));
        let stayed = || all.iter().filter(|buffer| buffer.domain() == vram(&device)).count();
        each_second(engine, query, stayed, |&stayed| stayed < 4);
        assert_eq!((stayed(), usage().budget), (3, budget), "one is evicted");
        wait_idle(&[&device]);
        engine.trim();
        assert_eq!(usage().used, budget);
        all.iter().for_each(|buffer| bytes::assert_sequence(buffer, 1, "evicted"));
        engine.calls().set_heap_budget(None);
    }
}

/// At its notification, lets another thread continue and waits until that is done.
struct SignalsAndWaits {
    go: Mutex<Option<Sender<()>>>,
    dropped: Arc<AtomicBool>,
}

impl Importer for SignalsAndWaits {
    fn invalidate_mappings(&self, _: &Invalidation<'_>) {
        if let Some(go) = self.go.lock().expect("not poisoned").take() {
            go.send(()).expect("the other thread listens");
            until(|| self.dropped.load(Ordering::SeqCst), |&dropped| dropped);
        }
    }
}

/// A victim is found to be held, and is dropped before the walk records that.
#[test]
fn a_victim_may_be_dropped_during_the_walk() {
    let rig = Rig::new();
    let engine = rig.engine();
    let [first, second] = rig.two_of_one_adapter();
    let [held, evicted_later] = buffers(engine, &first, [1; 2]);
    let access = held.host_access(Access::Read).expect("opened");
    let (go, notified) = channel();
    let dropped = Arc::new(AtomicBool::new(false));
    let importer = SignalsAndWaits { go: Mutex::new(Some(go)), dropped: Arc::clone(&dropped) };
    let attachment =
        evicted_later.attach_dynamic(&second, Arc::new(importer)).expect("an attachment");
    std::thread::scope(|scope| {
        let dropper = scope.spawn(move || {
            notified.recv().expect("notified");
            drop((access, held));
            dropped.store(true, Ordering::SeqCst);
        });
        let evicted = engine.evict_all(&first).expect("of this engine");
        assert_eq!(evicted.bytes, MIB, "{evicted:?}");
        dropper.join().expect("no panic");
    });
    assert_eq!(engine.usage(vram(&first)).expect("of this engine").used, 0);
    drop(attachment);
}

/// Another process uses the rest of the memory, unknown to the ledger.
#[test]
fn a_device_out_of_memory_evicts_within_the_budget() {
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
        // The number of attempts while there is nothing to evict.
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
        engine.model_heap(&device, 40 * SIZE).expect("of this engine");
        fail(tries);
        let new = make();
        assert!(!calls.clear_faults(), "{}: every attempt failed", device.name());
        assert_eq!(new.expect("one buffer is evicted").domain(), vram(&device));
        let mut domains = ours.each_ref().map(|buffer| buffer.domain());
        domains.sort_unstable();
        assert_eq!(domains, [vram(&device), DomainId::System], "exactly one is evicted");
        [1, 2].into_iter().zip(&ours).for_each(|(seed, buffer)| {
            bytes::assert_sequence(buffer, seed, "in its current domain");
        });
    }
}

/// All buffers have work that never ends.
#[test]
fn making_room_waits_at_most_one_timeout() {
    with_bound(|rig, _| {
        let engine = rig.engine();
        let [device, _] = rig.two_of_one_adapter();
        engine.model_heap(&device, 4 * MIB).expect("of this engine");
        let all = besides(|| buffers(engine, &device, [1; 4]));
        let begin = |buffer| {
            let attachment = attach(buffer, &device);
            let mapping = attachment.map(Access::Write).expect("mapped");
            let (fence, signal) = engine.host_fence();
            mapping.begin_access(Access::Write).expect("current").end(fence);
            (attachment, signal)
        };
        let used: Vec<_> = besides(|| all.iter().map(begin).collect());
        let descriptor = BufferDescriptor::new(MIB).placement(Placement::Vram);
        let waits = || engine.stalls(StallCause::Work).waits;
        let before = waits();
        let error = engine.create_buffer(&device, descriptor.clone()).expect_err("all are in use");
        let Error::OutOfMemory { failures, .. } = error else { panic!("{error:?}") };
        assert_eq!(failures.bytes(SkipReason::Busy), 4 * MIB, "{failures}");
        let waits = waits() - before;
        assert!(waits <= 1, "at most one wait for all: {waits}");
        if waits == 0 {
            // The timeout expired before there was anything to wait for.
            too_short();
        }
        let attachments: Vec<_> = used.into_iter().map(|(attachment, _)| attachment).collect();
        besides(|| match engine.create_buffer(&device, descriptor) {
            Err(Error::OutOfMemory { .. }) => too_short(),
            made => drop(made.expect("no work in progress any more")),
        });
        drop(attachments);
        wait_idle(&[&device]);
    });
}

/// Adds a fence of a host reader to each invalidation, which does not end while this exists.
struct ReadsOn(Arc<Engine>, Mutex<Vec<Signal>>);

impl Importer for ReadsOn {
    fn invalidate_mappings(&self, invalidation: &Invalidation<'_>) {
        let (fence, signal) = self.0.host_fence();
        invalidation.add_fence(Access::Read, fence);
        self.1.lock().expect("not poisoned").push(signal);
    }
}

/// The evictions that need no wait are one batch. Its other buffers are locked when the reader is found.
#[test]
fn a_victim_with_a_new_host_reader_is_skipped_and_stays_usable() {
    let mut rig = Rig::new();
    let devices = rig.all();
    let engine = Arc::new(rig.take_engine());
    for device in devices {
        let all = buffers(&engine, &device, [1; 4]);
        let reads_on = Arc::new(ReadsOn(Arc::clone(&engine), Mutex::default()));
        let importer = Arc::<ReadsOn>::clone(&reads_on);
        // In the order in which they are evicted.
        let first = attach(&all[0], &device);
        let read = all[1].attach_dynamic(&device, importer).expect("an attachment");
        let others = [&all[2], &all[3]].map(|buffer| attach(buffer, &device));
        wait_idle(&[&device]);
        let cap = MIB;
        let evicted = engine.set_cap(vram(&device), Some(cap)).expect("of this engine");
        assert_eq!(evicted.bytes, 3 * MIB, "{}: {evicted:?}", device.name());
        assert!(!reads_on.1.lock().expect("not poisoned").is_empty(), "it was tried");
        assert_eq!(all[1].domain(), vram(&device), "its reader has not ended");
        drop(read.map(Access::Read).expect("no move is in progress"));
        reads_on.1.lock().expect("not poisoned").clear();
        all.iter().for_each(|buffer| bytes::assert_sequence(buffer, 1, "afterwards"));
        drop((first, read, others));
        all[1].migrate(DomainId::System).expect("no reader is left");
    }
}

/// Before a device is suspended, unused memory is returned too.
#[test]
fn evict_all_returns_the_memory_to_the_driver() {
    let rig = Rig::new();
    let engine = rig.engine();
    for device in rig.all() {
        let all = buffers(engine, &device, [1, 9]);
        let held = || engine.usage(vram(&device)).expect("of this engine").held;
        assert!(held() >= 10 * MIB);
        assert_eq!(engine.evict_all(&device).expect("of this engine").bytes, 10 * MIB);
        assert_eq!(held(), 0, "{}", device.name());
        assert_eq!(engine.restore(&device).expect("of this engine"), 2);
        all.iter().for_each(|buffer| bytes::assert_sequence(buffer, 1, "restored"));
    }
}
