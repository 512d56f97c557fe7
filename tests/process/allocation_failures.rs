//! Out of memory while twice the budget is in use: every n-th allocation fails, or the address space is exhausted.
//!
//! A failed operation reports that memory was missing and has changed nothing. The engine keeps working, and every
//! byte is right, seen from another device.

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
/// The number of retries of a use whose buffer has moved meanwhile.
const TURNS: u32 = 1000;

/// A buffer, an attachment of each device, and the seed of its content.
struct Shared {
    buffer: SharedBuffer,
    attachments: Vec<Attachment>,
    seed: u32,
}

impl Shared {
    /// Creates a buffer with device number `home` as its home. Its bytes are zero, which is no pattern.
    fn new(engine: &Engine, devices: &[Device; 2], home: usize, size: u64) -> Result<Self> {
        let buffer = engine.create_buffer(&devices[home], BufferDescriptor::new(size))?;
        let sit = |device| buffer.attach_dynamic(device, Arc::new(Refault::new()));
        let attachments = devices.iter().map(sit).collect::<Result<_>>()?;
        let mut shared = Self { buffer, attachments, seed: 0 };
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

    /// Uses a mapping of `device`, and maps again if the buffer has moved since.
    fn on<R>(
        &self,
        device: usize,
        access: Access,
        work: impl Fn(&Mapping) -> Result<R>,
    ) -> Result<R> {
        for _ in 0..TURNS {
            match self.attachments[device].map(access).and_then(|mapping| work(&mapping)) {
                Err(Error::Stale { .. }) => {}
                other => return other,
            }
        }
        panic!("the buffer keeps moving");
    }
}

/// Counts an operation that failed. The only error allowed is out of memory.
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

/// Checks that the used bytes of each domain are the sum of their shares, and within its budget.
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

/// The modelled heap of each device. It is smaller in the virtual machine, which is about twenty times slower.
fn heap() -> u64 {
    if in_vm() { 12 * MIB } else { 24 * MIB }
}

/// The steps of each run.
const STEPS: u32 = 150;
/// Sizes of slab slots, and a size with its own allocation.
const SIZES: [u64; 4] = [MIB / 4, MIB, 3 * MIB, 9 * MIB];

/// The calls of which each n-th fails; all of them, if `nth` is 1.
#[derive(Clone, Copy, Debug)]
struct Every {
    nth: u64,
    calls: &'static [Call],
}

impl Every {
    /// Injects the faults for more calls than a run makes. They alternate between out of device memory and out of
    /// host memory.
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
    // Some buffers exist before the faults.
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
                // CAST: any seed will do.
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
    assert!(engine.calls().clear_faults(), "{what}: {met} calls, and faults are left");
    // No content was lost.
    for shared in &all {
        let (buffer, home) = (&shared.buffer, shared.buffer.home());
        assert!(!buffer.is_poisoned(), "{what}");
        let other = usize::from(home == devices[0]);
        shared.check(other, &format!("{what}, at the end")).expect("the faults are cleared");
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
            // The engine would cache a proof that fails by a fault as a refusal of the route.
            engine.route(&devices[from], &devices[to]).expect("routes can be proved");
        }
        for device in &devices {
            engine.model_heap(device, heap()).expect("ours");
        }
        let mut failures = 0;
        // The virtual machine is too slow for all of them.
        let every: &[u64] = if in_vm() { &[1, 3] } else { &[1, 2, 3, 5, 7] };
        for &nth in every {
            let (failed, met) = run(engine, &devices, Every { nth, calls });
            failures += met / nth;
            // If all submissions fail, no device copies or verifies, so an operation must fail.
            assert!(failed > 0 || nth > 1 || !calls.contains(&Call::QueueSubmit));
        }
        assert!(failures >= 10, "{failures} calls failed");
    }
    let evicted = engine.moved(MoveCause::Evicted);
    assert!(evicted.moves > 20, "{evicted:?}");
}

#[test]
fn content_survives_when_every_nth_allocation_fails() {
    run_all(&[Call::AllocateMemory]);
}

#[test]
fn content_survives_when_every_nth_submission_fails() {
    run_all(&[Call::QueueSubmit]);
}

#[test]
fn content_survives_when_both_and_system_memory_fail() {
    run_all(&[Call::AllocateMemory, Call::QueueSubmit, Call::MemfdCreate, Call::Mmap]);
}

// ---- a small address space, in a child process ----

/// A size with its own allocation, so that a buffer takes this much address space for each device that maps it.
const LARGE: u64 = 48 * MIB;
/// The allowed growth of the process: several buffers, but no multiple of one buffer. When the next buffer fails,
/// enough is left for small allocations of the heap, the drivers and the layer.
const GROWTH: u64 = 5 * 2 * LARGE + 64 * MIB;

/// The size of the address space that the process has in use.
fn in_use() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").expect("/proc is mounted");
    let pages = pages.split(' ').next().and_then(|pages| pages.parse::<u64>().ok());
    // CAST: a page is small.
    pages.expect("the first number") * rustix::param::page_size() as u64
}

/// Limits the address space to `more` bytes above its current size. Returns the previous limit.
fn allow_only(more: u64) -> Rlimit {
    let limit = getrlimit(Resource::As);
    let lowered = Rlimit { current: Some(in_use() + more), ..limit };
    setrlimit(Resource::As, lowered).expect("a limit may be lowered");
    limit
}

fn raise(limit: Rlimit) {
    setrlimit(Resource::As, limit).expect("the previous limit is allowed");
}

/// Uses everything once, so that threads and compiled shaders exist before the limit.
fn warm_up(engine: &Engine, devices: &[Device; 2]) {
    let all = [0, 1].map(|home| Shared::new(engine, devices, home, MIB).expect("room"));
    for shared in &all {
        for (device, _) in devices.iter().enumerate() {
            shared.check(device, "warm").expect("a pass");
        }
        shared.buffer.evict().expect("not busy");
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
fn content_survives_an_exhausted_address_space() {
    if !child::is_child() {
        // With one arena, threads do not each reserve address space. A backtrace would need more of it than is
        // left.
        child::run(|command| command.env("MALLOC_ARENA_MAX", "1").env("RUST_BACKTRACE", "0"));
        return;
    }
    let rig = Rig::new();
    rig.provokes("VK_ERROR_OUT_OF_DEVICE_MEMORY");
    rig.provokes("VK_ERROR_OUT_OF_HOST_MEMORY");
    // lavapipe reports this code if it cannot map imported memory.
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
            // Create buffers until no more fit.
            let before = failed;
            while failed == before {
                assert!(all.len() < 20, "{what}: the limit has no effect");
                let made = Shared::new(engine, &devices, all.len() % 2, LARGE);
                all.extend(count(made, &format!("{what}: create"), &mut failed));
            }
            assert!(all.len() >= 2, "{what}: {} fit", all.len());
            check_accounts(engine, &what);
            // The buffers have their content and can be used.
            for (at, shared) in all.iter_mut().enumerate() {
                shared.check(at % 2, &what).expect("the content is intact");
                seed += 1;
                shared.write((at + 1) % 2, seed).expect("the content is intact");
            }
            // Evict to system memory, if any is left.
            let out = all[0].buffer.evict().map(drop);
            count(out, &format!("{what}: evict"), &mut failed);
            all.iter().for_each(|shared| shared.check(0, &what).expect("the content is intact"));
            // Free the memory of one buffer, and create another one.
            all.swap_remove(round % all.len());
            wait_idle(&[&devices[0], &devices[1]]);
            engine.trim();
            all.push(Shared::new(engine, &devices, 0, LARGE).expect("as much as was freed"));
            check_accounts(engine, &what);
        }
        raise(limit);
        assert!(failed >= 4, "{name}: {failed}");
        for shared in &all {
            shared.buffer.evict().expect("memory is available again");
            shared.check(1, &name).expect("the content is intact");
            shared.buffer.request_residency().expect("memory is available again");
            shared.check(0, &name).expect("the content is intact");
        }
        drop(all);
        wait_idle(&[&devices[0], &devices[1]]);
        engine.trim();
        check_accounts(engine, &name);
    }
}
