//! Slots that threads keep for their next buffers: making and dropping writes nothing that other threads write, what is
//! kept is not in use and refuses no buffer, and a buffer in a kept slot begins with zeros.

use std::sync::Barrier;

use crate::common::{Rig, bytes};
use peerbuf::observe::shared_writes;
use peerbuf::{BufferDescriptor, Device, DomainId, DomainUsage, Engine, Placement, SharedBuffer};

const PAIRS: u64 = 1000;

fn create(engine: &Engine, device: &Device, size: u64) -> SharedBuffer {
    let descriptor = BufferDescriptor::new(size).placement(Placement::Vram);
    engine.create_buffer(device, descriptor).expect("there is room")
}

fn usage(engine: &Engine, device: &Device) -> DomainUsage {
    engine.usage(DomainId::Vram(device.id())).expect("of this engine")
}

/// How many shared words this thread writes while `work` makes and drops `count` buffers.
fn writes_of(count: u64, work: impl Fn()) -> u64 {
    // The first ones find nothing that the thread has kept.
    work();
    let before = shared_writes();
    (0..count).for_each(|_| work());
    shared_writes() - before
}

#[test]
fn threads_that_make_and_drop_buffers_write_no_word_that_others_write() {
    let rig = Rig::new();
    let engine = rig.engine();
    for device in rig.all() {
        let all_began = Barrier::new(2);
        let run = || {
            all_began.wait();
            let sizes = [256, 4096, 64 << 10];
            let one = sizes.map(|size| writes_of(PAIRS, || drop(create(engine, &device, size))));
            // Eight are alive at once.
            let some = || drop([(); 8].map(|()| create(engine, &device, 4096)));
            (one, writes_of(PAIRS / 8, some))
        };
        let writes = std::thread::scope(|scope| {
            let threads = [(); 2].map(|()| scope.spawn(run));
            threads.map(|thread| thread.join().expect("it ends"))
        });
        // Numbers of buffers are given out in blocks of 64.
        let blocks = PAIRS / 64 + 2;
        for (one, some) in writes {
            let what = format!("{}: {one:?}, {some}", device.name());
            assert!(one.into_iter().chain([some]).all(|writes| writes <= blocks), "{what}");
        }
        assert_eq!(usage(engine, &device).used, 0, "{}", device.name());
    }
}

/// An attachment counts in the word of its device's view, which all buffers of a block share, when it begins and when it
/// ends. Who shares buffers of a size is noted for one buffer in 64.
#[test]
fn threads_that_share_buffers_write_two_words_that_others_write() {
    let rig = Rig::new();
    let engine = rig.engine();
    let [near, far] = rig.two_of_one_adapter();
    let share = || {
        let buffer = create(engine, &near, 4096);
        drop(buffer.attach(&far).expect("the device reaches it"));
    };
    // Until it is sure who shares them.
    (0..PAIRS).for_each(|_| share());
    let all_began = Barrier::new(2);
    let run = || {
        all_began.wait();
        writes_of(PAIRS, share)
    };
    let writes = std::thread::scope(|scope| {
        let threads = [(); 2].map(|()| scope.spawn(run));
        threads.map(|thread| thread.join().expect("it ends"))
    });
    // Blocks of numbers, and for each of them the habit of one buffer, which is tried and confirmed.
    let blocks = PAIRS / 64 + 2;
    assert!(writes.into_iter().all(|writes| writes <= 2 * PAIRS + 3 * blocks), "{writes:?}");
}

/// One of 2,000 buffers of 256 B to 64 KiB is dropped, and one of another size is made. A thread keeps slots of all these
/// sizes, so few pairs take the locks of size classes or charge the ledger.
#[test]
fn buffers_of_many_sizes_in_turn_use_what_their_thread_keeps() {
    const LIVE: usize = 2000;
    let rig = Rig::new();
    let engine = rig.engine();
    for device in rig.all() {
        engine.model_heap(&device, 1 << 30).expect("a device of the engine");
        let mut seed = 5_u64;
        let mut random = move |end: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) % end
        };
        let mut size = move || {
            let least = 1 << (8 + random(8));
            (least + random(least), random(LIVE as u64))
        };
        let mut live: Vec<_> = (0..LIVE).map(|_| create(engine, &device, size().0)).collect();
        let mut step = || {
            let (size, at) = size();
            // CAST: below `LIVE`.
            drop(live.swap_remove(at as usize));
            live.push(create(engine, &device, size));
        };
        (0..2 * LIVE).for_each(|_| step());
        let before = shared_writes();
        (0..4 * LIVE).for_each(|_| step());
        let pairs = 4 * LIVE as u64;
        let writes = shared_writes() - before;
        // A buffer whose thread keeps no slot for it writes two of them, and a slot that is not kept three.
        assert!(writes <= pairs, "{}: {writes} in {pairs} pairs", device.name());
    }
}

#[test]
fn what_threads_keep_is_not_in_use_and_makes_no_buffer_fail() {
    const HEAP: u64 = 1 << 20;
    let rig = Rig::new();
    let engine = rig.engine();
    for device in rig.all() {
        engine.model_heap(&device, HEAP).expect("a device of the engine");
        for round in 0..20 {
            // Less than a quarter of the heap.
            drop([256, 4096, 16 << 10].map(|size| create(engine, &device, size)));
            let after = usage(engine, &device);
            assert_eq!(after.used, 0, "{round}: {after:?}");
            assert!(after.peak <= HEAP, "{round}: {after:?}");
            let whole = create(engine, &device, HEAP);
            let full = usage(engine, &device);
            assert_eq!((whole.domain(), full.used), (DomainId::Vram(device.id()), HEAP), "{round}");
            drop(whole);
        }
    }
}

#[test]
fn threads_keep_few_slots_and_trim_frees_them() {
    let rig = Rig::new();
    let engine = rig.engine();
    for device in rig.all() {
        let before = usage(engine, &device).held;
        // Made on one thread, dropped on others, which end.
        let mut all: Vec<_> = (0..600).map(|_| create(engine, &device, 4096)).collect();
        std::thread::scope(|scope| {
            for _ in 0..3 {
                let some = all.split_off(all.len() - 200);
                scope.spawn(move || drop(some));
            }
        });
        assert_eq!(usage(engine, &device).used, 0);
        engine.trim();
        assert_eq!(usage(engine, &device).held, before, "{}", device.name());
    }
}

#[test]
fn a_kept_slot_has_zeros_for_its_next_buffer() {
    let rig = Rig::new();
    let engine = rig.engine();
    for device in rig.all() {
        for size in [300, 4096, 60_000] {
            for seed in 0..20 {
                let buffer = create(engine, &device, size);
                bytes::assert_zero(&buffer, &format!("{}, {size} bytes", device.name()));
                bytes::write(&buffer, seed);
            }
        }
    }
}

/// A kept slot is charged already, so its next buffer would not be refused.
#[test]
fn nothing_is_kept_beyond_a_budget_that_shrinks() {
    let rig = Rig::new();
    let engine = rig.engine();
    for device in rig.all() {
        let vram = DomainId::Vram(device.id());
        let shrink: [&dyn Fn(u64); 2] = [
            &|bytes| engine.set_cap(vram, Some(bytes)).map(drop).expect("a domain of the engine"),
            &|bytes| engine.model_heap(&device, bytes).map(drop).expect("a device of the engine"),
        ];
        for shrink in shrink {
            drop(create(engine, &device, 4096));
            shrink(0);
            let descriptor = BufferDescriptor::new(4096).placement(Placement::Vram);
            let refused = engine.create_buffer(&device, descriptor).expect_err("no budget");
            assert!(refused.is_out_of_memory(), "{refused}");
            shrink(1 << 30);
            drop(create(engine, &device, 4096));
        }
    }
}
