//! Working sets of 1.1 to 4 times what fits, in buffers of all sizes, used by one to four threads, with pinned
//! and busy ones among them: every byte is right, seen from another device, and no place is ever fuller than it
//! may be.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use common::random::Random;
use common::{Rig, soak, wait_idle};
use peerbuf::observe::MoveCause;
use peerbuf::{
    Access, Attachment, BufferDescriptor, Device, DomainId, Engine, Error, Priority, Refault,
    SharedBuffer,
};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const BUDGET: u64 = 8 * MIB;
/// Uses per thread.
const USES: u32 = 120;
/// How often a use is tried again because the buffer has moved meanwhile.
const TURNS: u32 = 1000;

/// A buffer, a seat of each device, and the seed of what it holds.
struct Shared {
    buffer: SharedBuffer,
    seats: Vec<Attachment>,
    seed: u32,
}

impl Shared {
    fn new(engine: &Engine, devices: &[Device], size: u64, random: &mut Random) -> Self {
        let priority = *random.pick(&Priority::ALL);
        let descriptor = BufferDescriptor::new(size).priority(priority);
        let buffer = engine.create_buffer(&devices[0], descriptor).expect("somebody makes room");
        let sit = |device| buffer.attach_dynamic(device, Arc::new(Refault::new())).expect("a seat");
        let seats = devices.iter().map(sit).collect();
        let mut shared = Self { buffer, seats, seed: 0 };
        shared.write(0, 1);
        shared
    }

    fn write(&mut self, device: usize, seed: u32) {
        self.seed = seed;
        retry(|| self.seats[device].map(Access::Write)?.fill(seed));
    }

    fn check(&self, device: usize) {
        let report = retry(|| self.seats[device].map(Access::Read)?.verify(self.seed));
        assert!(report.is_clean(), "{}: {report:?}", self.buffer.name());
    }
}

/// A use may find that the buffer has moved since it was mapped.
fn retry<R>(work: impl Fn() -> peerbuf::Result<R>) -> R {
    for _ in 0..TURNS {
        match work() {
            Err(Error::Stale { .. }) => {}
            other => return other.expect("nothing else goes wrong"),
        }
    }
    panic!("it moves all the time");
}

/// Sizes from 4 KiB to a quarter of the budget, as many small as large ones, until they are `bytes` together.
fn sizes(bytes: u64, random: &mut Random) -> Vec<u64> {
    let mut sizes = vec![];
    while sizes.iter().sum::<u64>() < bytes {
        let doublings = random.below(10);
        let size = ((4 * KIB) << doublings) + 4 * random.below(KIB);
        sizes.push(size.min(BUDGET / 4));
    }
    sizes
}

fn run(engine: &Engine, devices: &[Device], tenths: u64, threads: u64) {
    let what = format!("{}: {tenths} tenths, {threads} threads", devices[0].name());
    let domain = DomainId::Vram(devices[0].id());
    let usage = || engine.usage(domain).expect("ours");
    engine.model_heap(&devices[0], BUDGET).expect("ours");
    let within = || assert!(usage().used <= BUDGET, "{what}: {:?}", usage());
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let users = (0..threads).map(|thread| {
            let within = &within;
            scope.spawn(move || {
                let mut random = Random::new(tenths * 100 + thread);
                let share = BUDGET * tenths / 10 / threads;
                let all = sizes(share, &mut random).into_iter();
                let mut all: Vec<_> =
                    all.map(|size| Shared::new(engine, devices, size, &mut random)).collect();
                let pinned = &all[0].seats[0];
                let pin = pinned.pin("stays").expect("nothing keeps it from being pinned");
                for turn in 0..soak::times(USES, USES / 5) {
                    // Most uses are of a part that moves on slowly: a working set.
                    let at = match random.one_in(4) {
                        true => random.index(all.len()),
                        false => (turn as usize / 16 + random.index(4)) % all.len(),
                    };
                    if random.one_in(3) {
                        // CAST: any seed.
                        let seed = random.next() as u32;
                        all[at].write(random.index(devices.len()), seed);
                    } else {
                        all[at].check(random.index(devices.len()));
                    }
                    within();
                }
                drop(pin);
                for (nth, shared) in all.iter().enumerate() {
                    shared.check((nth + 1) % devices.len());
                }
            })
        });
        let users: Vec<_> = users.collect();
        // Somebody looks all the time.
        let watch = scope.spawn(|| {
            while !done.load(Ordering::Acquire) {
                within();
                std::thread::yield_now();
            }
        });
        let ended: Vec<_> = users.into_iter().map(|user| user.join()).collect();
        done.store(true, Ordering::Release);
        watch.join().expect("it was never too full");
        ended.into_iter().for_each(|user| user.expect("every byte was right"));
    });
    let used: Vec<_> = devices.iter().collect();
    wait_idle(&used);
    engine.trim();
    assert_eq!(usage().used, 0, "{what}: everything was given back");
    assert!(usage().peak <= BUDGET, "{what}: {:?}", usage());
}

#[test]
fn any_working_set_keeps_its_bytes() {
    let rig = Rig::new();
    let engine = rig.engine();
    for first in rig.all() {
        let devices = [first.clone(), rig.open(&first.adapter().clone())];
        for (tenths, threads) in [(11, 1), (15, 2), (20, 3), (40, 4)] {
            run(engine, &devices, tenths, threads);
        }
    }
    assert!(engine.moved(MoveCause::Evicted).moves > 100, "{:?}", engine.report().moved);
    assert!(engine.moved(MoveCause::Returned).moves > 20, "{:?}", engine.report().moved);
}
