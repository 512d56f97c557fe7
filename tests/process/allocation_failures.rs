//! Memory runs out while twice as much as fits is in use: every n-th allocation fails, or a process may have no
//! more address space. Whatever fails says that it was for want of memory and has changed nothing; the engine
//! goes on; and every byte is right, seen from another device.

use std::sync::Arc;

use crate::common::random::Random;
use crate::common::{LONG, Rig, child, in_vm, soak, wait_idle};
use ash::vk::Result as Code;
use peerbuf::device::Call;
use peerbuf::observe::MoveCause;
use peerbuf::{
    Access, Attachment, BufferDescriptor, CopyRegion, Device, DomainId, Engine, Error, Mapping,
    Refault, Result, SharedBuffer,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

const MIB: u64 = 1 << 20;
/// How often a use is tried again because the buffer has moved meanwhile.
const TURNS: u32 = 1000;

/// A buffer, a seat of each device, and the seed of what it holds.
struct Shared {
    buffer: SharedBuffer,
    seats: Vec<Attachment>,
    seed: u32,
}

impl Shared {
    /// At home on the `home`-th; its bytes are zero, which is no pattern.
    fn new(engine: &Engine, devices: &[Device; 2], home: usize, size: u64) -> Result<Self> {
        let buffer = engine.create_buffer(&devices[home], BufferDescriptor::new(size))?;
        let sit = |device| buffer.attach_dynamic(device, Arc::new(Refault::new()));
        let seats = devices.iter().map(sit).collect::<Result<_>>()?;
        let mut shared = Self { buffer, seats, seed: 0 };
        shared.write(home, 1)?;
        Ok(shared)
    }

    fn write(&mut self, device: usize, seed: u32) -> Result<()> {
        self.on(device, Access::Write, |mapping| mapping.fill(seed))?;
        self.seed = seed;
        Ok(())
    }

    fn check(&self, device: usize, what: &str) -> Result<()> {
        let report = self.on(device, Access::Read, |mapping| mapping.verify(self.seed))?;
        assert!(report.is_clean(), "{what}: {} is {report:?}", self.buffer.name());
        Ok(())
    }

    /// A use may find that the buffer has moved since it was mapped.
    fn on<R>(
        &self,
        device: usize,
        access: Access,
        work: impl Fn(&Mapping) -> Result<R>,
    ) -> Result<R> {
        for _ in 0..TURNS {
            match self.seats[device].map(access).and_then(|mapping| work(&mapping)) {
                Err(Error::Stale { .. }) => {}
                other => return other,
            }
        }
        panic!("it moves all the time");
    }
}

/// What an operation may say that has met a failure, which is for want of memory and nothing else.
fn count<R>(result: Result<R>, what: &str, failed: &mut u32) -> Option<R> {
    match result {
        Ok(done) => Some(done),
        Err(error) => {
            assert!(error.is_out_of_memory(), "{what}: {error:?}");
            *failed += 1;
            None
        }
    }
}

/// Every byte that is in use belongs to somebody, and no place is fuller than it may be.
fn check_accounts(engine: &Engine, what: &str) {
    for domain in &engine.report().domains {
        let (id, usage, shares) = (domain.id, domain.usage, domain.shares);
        let sum = shares.resident + shares.clean_copies + shares.ghosts + shares.in_flight;
        assert_eq!(usage.used, sum, "{what}: {id}: {shares:?}");
        assert!(usage.used <= usage.peak && usage.peak <= usage.budget, "{what}: {id}: {usage:?}");
        assert!(usage.used <= usage.held, "{what}: {id}: {usage:?}");
    }
}

// ---- every n-th call fails ----

/// What each device's memory is taken to hold: less where everything takes twenty times as long.
fn heap() -> u64 {
    if in_vm() { 12 * MIB } else { 24 * MIB }
}

/// Steps of each run.
const STEPS: u32 = 150;
/// Slots, and, where there is a half more, allocations of their own.
const SIZES: [u64; 4] = [MIB / 4, MIB, 3 * MIB, 9 * MIB];

/// Which calls fail, each n-th of them; all, for 1.
#[derive(Clone, Copy, Debug)]
struct Every {
    nth: u64,
    calls: &'static [Call],
}

impl Every {
    /// From now on, for so many of each call as nobody makes. One after the other in turn says that it is the
    /// device's memory, and that it is the host's.
    fn arm(self, engine: &Engine) {
        const MANY: u64 = 4000;
        for &call in self.calls {
            for time in 1..=MANY / self.nth {
                let codes = [Code::ERROR_OUT_OF_DEVICE_MEMORY, Code::ERROR_OUT_OF_HOST_MEMORY];
                let code = codes[usize::from(time % 2 == 0)];
                engine.calls().fail_nth(call, time * self.nth, code);
            }
        }
    }
}

fn run(engine: &Engine, devices: &[Device; 2], every: Every) -> (u32, u64) {
    let what = format!("{}, {every:?}", devices[0].name());
    let mut random = Random::new(every.nth);
    let mut all: Vec<Shared> = vec![];
    let total = |all: &[Shared]| all.iter().map(|shared| shared.buffer.size()).sum::<u64>();
    let made = || every.calls.iter().map(|call| engine.calls().made(*call)).sum::<u64>();
    // Some are there before.
    while total(&all) < heap() {
        let (home, size) = (random.index(2), *random.pick(&SIZES));
        all.push(Shared::new(engine, devices, home, size).expect("nothing fails yet"));
    }
    let (mut failed, before) = (0, made());
    every.arm(engine);
    for step in 0..soak::times(STEPS, STEPS / 5) {
        let what = format!("{what}, step {step}");
        if total(&all) < 4 * heap() || random.one_in(20) {
            let (home, size) = (random.index(2), *random.pick(&SIZES));
            let made = Shared::new(engine, devices, home, size);
            all.extend(count(made, &format!("{what}: create"), &mut failed));
        }
        if total(&all) > 4 * heap() {
            all.swap_remove(random.index(all.len()));
        }
        let (at, device) = (random.index(all.len()), random.index(2));
        let shared = &mut all[at];
        let _ = match random.below(9) {
            0..3 => {
                // CAST: any seed.
                let seed = random.next() as u32;
                count(shared.write(device, seed), &format!("{what}: write"), &mut failed)
            }
            3..5 => count(shared.check(device, &what), &format!("{what}: check"), &mut failed),
            5 => count(shared.buffer.evict().map(drop), &format!("{what}: evict"), &mut failed),
            6 => {
                let back = shared.buffer.request_residency();
                count(back.map(drop), &format!("{what}: request"), &mut failed)
            }
            7 => {
                engine.trim();
                None
            }
            _ => {
                let from = random.index(all.len());
                let (size, seed) = (all[at].buffer.size(), all[from].seed);
                if all[from].buffer.size() < size || from == at {
                    continue;
                }
                let region = CopyRegion::first(size);
                let copied = engine.copy(&all[from].buffer, &all[at].buffer, region);
                let copied = count(copied, &format!("{what}: copy"), &mut failed);
                copied.map(|_| all[at].seed = seed)
            }
        };
        check_accounts(engine, &what);
    }
    let met = made() - before;
    assert!(engine.calls().clear_faults(), "{what}: {met} calls, and more was to fail");
    // Nothing was lost.
    for shared in &all {
        let (buffer, home) = (&shared.buffer, shared.buffer.home());
        assert!(!buffer.is_poisoned(), "{what}");
        let other = usize::from(home == devices[0]);
        shared.check(other, &format!("{what}, at last")).expect("nothing fails any more");
    }
    drop(all);
    wait_idle(&[&devices[0], &devices[1]]);
    engine.trim();
    for device in devices {
        assert_eq!(engine.usage(DomainId::Vram(device.id())).expect("ours").used, 0, "{what}");
    }
    (failed, met)
}

fn run_all(calls: &'static [Call]) {
    let rig = Rig::new();
    let engine = rig.engine();
    for first in rig.all() {
        let devices = [first.clone(), rig.open(&first.adapter().clone())];
        for (from, to) in [(0, 1), (1, 0), (0, 0), (1, 1)] {
            // A proof that fails because of a fault would be remembered as the route's own failure.
            engine.route(&devices[from], &devices[to]).expect("routes can be proved");
        }
        for device in &devices {
            engine.model_heap(device, heap()).expect("ours");
        }
        let mut failures = 0;
        // An emulated machine has not the time for all.
        let every: &[u64] = if in_vm() { &[1, 3] } else { &[1, 2, 3, 5, 7] };
        for &nth in every {
            let (failed, met) = run(engine, &devices, Every { nth, calls });
            failures += met / nth;
            // No device copies or looks, so something must say so.
            assert!(failed > 0 || nth > 1 || !calls.contains(&Call::QueueSubmit));
        }
        assert!(failures >= 10, "{failures} calls failed");
    }
    let evicted = engine.moved(MoveCause::Evicted);
    assert!(evicted.moves > 20, "{evicted:?}");
}

#[test]
fn when_every_nth_allocation_fails() {
    run_all(&[Call::AllocateMemory]);
}

#[test]
fn when_every_nth_submission_fails() {
    run_all(&[Call::QueueSubmit]);
}

#[test]
fn when_every_nth_of_both_fails_and_system_memory_too() {
    run_all(&[Call::AllocateMemory, Call::QueueSubmit, Call::MemfdCreate, Call::Mmap]);
}

// ---- a small address space, in a process of its own ----

/// Buffers with allocations of their own, so that each is as much address space for each device that sees it.
const LARGE: u64 = 48 * MIB;
/// What the process may grow by: some of them, and no multiple of what one takes, so that when the next one
/// fails there is enough left for what the heap, drivers and the layer take in small pieces.
const GROWTH: u64 = 5 * 2 * LARGE + 64 * MIB;

/// How much address space the process has in use.
fn in_use() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").expect("proc is there");
    let pages = pages.split(' ').next().and_then(|pages| pages.parse::<u64>().ok());
    // CAST: a page is small.
    pages.expect("the first number") * rustix::param::page_size() as u64
}

/// Allows so much more than is in use; returns the limit as it was.
fn allow_only(more: u64) -> Rlimit {
    let limit = getrlimit(Resource::As);
    let lowered = Rlimit { current: Some(in_use() + more), ..limit };
    setrlimit(Resource::As, lowered).expect("a limit may be lowered");
    limit
}

fn raise(limit: Rlimit) {
    setrlimit(Resource::As, limit).expect("and raised to what it was");
}

/// Everything once, so that what is made on the way, threads and compiled shaders, is there before.
fn warm_up(engine: &Engine, devices: &[Device; 2]) {
    let all = [0, 1].map(|home| Shared::new(engine, devices, home, MIB).expect("room"));
    for shared in &all {
        for (device, _) in devices.iter().enumerate() {
            shared.check(device, "warm").expect("a pass");
        }
        shared.buffer.evict().expect("nobody holds it");
        shared.check(0, "warm").expect("a pass");
        shared.buffer.request_residency().expect("there is room");
        shared.check(1, "warm").expect("a pass");
    }
    let copied = engine.copy(&all[0].buffer, &all[1].buffer, CopyRegion::first(MIB));
    copied.and_then(|fence| fence.wait(LONG)).expect("copied");
    drop(all);
    wait_idle(&[&devices[0], &devices[1]]);
    engine.trim();
}

#[test]
fn when_the_process_may_not_grow() {
    if !child::is_child() {
        // With one arena threads do not reserve address space each for itself; and a backtrace takes more of it
        // than is left.
        child::run(|command| command.env("MALLOC_ARENA_MAX", "1").env("RUST_BACKTRACE", "0"));
        return;
    }
    let rig = Rig::new();
    rig.provokes("VK_ERROR_OUT_OF_DEVICE_MEMORY");
    rig.provokes("VK_ERROR_OUT_OF_HOST_MEMORY");
    // How lavapipe says that it could not map what it took in.
    rig.provokes("VK_ERROR_INVALID_EXTERNAL_HANDLE");
    let engine = rig.engine();
    for first in rig.all() {
        let devices = [first.clone(), rig.open(&first.adapter().clone())];
        let name = first.name().to_owned();
        warm_up(engine, &devices);
        let limit = allow_only(GROWTH);
        let (mut all, mut failed, mut seed) = (Vec::<Shared>::new(), 0, 1);
        for round in 0..4 {
            let what = format!("{name}, round {round}");
            // Until no more fit.
            let before = failed;
            while failed == before {
                assert!(all.len() < 20, "{what}: the limit limits nothing");
                let made = Shared::new(engine, &devices, all.len() % 2, LARGE);
                all.extend(count(made, &format!("{what}: create"), &mut failed));
            }
            assert!(all.len() >= 2, "{what}: {} fit", all.len());
            check_accounts(engine, &what);
            // They are what they were, and can be used.
            for (at, shared) in all.iter_mut().enumerate() {
                shared.check(at % 2, &what).expect("it is there");
                seed += 1;
                shared.write((at + 1) % 2, seed).expect("it is there");
            }
            // To system memory, if there is any.
            let out = all[0].buffer.evict().map(drop);
            count(out, &format!("{what}: evict"), &mut failed);
            all.iter().for_each(|shared| shared.check(0, &what).expect("it is there"));
            // Room for one, and one comes.
            all.swap_remove(round % all.len());
            wait_idle(&[&devices[0], &devices[1]]);
            engine.trim();
            all.push(Shared::new(engine, &devices, 0, LARGE).expect("as much as has gone"));
            check_accounts(engine, &what);
        }
        raise(limit);
        assert!(failed >= 4, "{name}: {failed}");
        for shared in &all {
            shared.buffer.evict().expect("there is memory again");
            shared.check(1, &name).expect("it is there");
            shared.buffer.request_residency().expect("there is memory again");
            shared.check(0, &name).expect("it is there");
        }
        drop(all);
        wait_idle(&[&devices[0], &devices[1]]);
        engine.trim();
        check_accounts(engine, &name);
    }
}
