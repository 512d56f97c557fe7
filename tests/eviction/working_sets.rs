//! Working sets of 1.1 to 4 times the budget, in buffers of all sizes, used by one to four threads, some of them
//! pinned, busy or purgeable. Every byte is correct or known to be lost, as another device sees it, and no domain
//! ever exceeds its budget.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use crate::common::commands::record_fill;
use crate::common::random::Random;
use crate::common::until::until;
use crate::common::{Rig, in_vm, soak, wait_idle};
use peerbuf::observe::{MoveCause, Reason};
use peerbuf::{
    Access, Attachment, BufferDescriptor, Device, DomainId, Engine, Error, Priority, Refault,
    ResidencyOptions, Result, SharedBuffer,
};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
/// The number of attempts at a use whose buffer moves meanwhile.
const ATTEMPTS: u32 = 1000;

/// Sizes of a run.
#[derive(Clone, Copy, Debug)]
struct Scale {
    budget: u64,
    /// Sizes go from 4 KiB up to this.
    largest: u64,
    /// Uses per thread, natively.
    uses: u32,
}

/// A buffer, an attachment of each device, the seed of its content, and the index of the device that wrote it.
struct Shared {
    buffer: SharedBuffer,
    attachments: Vec<Attachment>,
    seed: u32,
    writer: usize,
}

impl Shared {
    fn new(engine: &Engine, devices: &[Device], descriptor: BufferDescriptor) -> Self {
        let buffer = engine.create_buffer(&devices[0], descriptor).expect("room is made");
        // A discardable buffer may be purged by another thread as soon as it exists.
        let attach = |device| loop {
            match buffer.attach_dynamic(device, Arc::new(Refault::new())) {
                Err(Error::Purged { .. }) => buffer.repopulate().expect("room is made"),
                attached => break attached.expect("an attachment"),
            }
        };
        let attachments = devices.iter().map(attach).collect();
        let mut shared = Self { buffer, attachments, seed: 0, writer: 0 };
        shared.write_or_renew(0, 1);
        shared
    }

    fn write(&mut self, device: usize, seed: u32) {
        (self.seed, self.writer) = (seed, device);
        retry(|| self.attachments[device].map(Access::Write)?.fill(seed));
    }

    /// Verifies every byte on a device other than the writer.
    fn check(&self) {
        retry_or(|| self.verify()).expect("no other error");
    }

    fn verify(&self) -> Result<()> {
        let other = (self.writer + 1) % self.attachments.len();
        let report = self.attachments[other].map(Access::Read)?.verify(self.seed)?;
        assert!(report.is_clean(), "{}: {report:?}", self.buffer.name());
        Ok(())
    }

    /// Verifies a purgeable buffer, or writes it anew if it was purged. Returns whether it was purged.
    fn check_or_renew(&mut self, device: usize, seed: u32) -> bool {
        match retry_or(|| self.verify()) {
            Err(Error::Purged { .. }) => {}
            other => {
                other.expect("no other error");
                return false;
            }
        }
        self.write_or_renew(device, seed);
        true
    }

    /// Writes a purgeable buffer, which may be purged before each attempt.
    fn write_or_renew(&mut self, device: usize, seed: u32) {
        for _ in 0..ATTEMPTS {
            match retry_or(|| self.attachments[device].map(Access::Write)?.fill(seed)) {
                Err(Error::Purged { .. }) => {}
                other => {
                    (self.seed, self.writer) = (seed, device);
                    return other.expect("no other error");
                }
            }
            self.buffer.repopulate().expect("room is made");
        }
        panic!("purged at every attempt");
    }

    /// Adds a host fence as a reader of the buffer, which is pending until `enough`.
    fn keep_busy(&self, engine: &Engine, device: usize, enough: impl Fn() -> bool) {
        let (working, done) = engine.host_fence();
        retry(|| {
            let mapping = self.attachments[device].map(Access::Read)?;
            mapping.begin_access(Access::Read)?.end(working.clone());
            Ok(())
        });
        until(&enough, |&enough| enough);
        drop(done);
    }
}

/// Retries a use whose buffer has moved since it was mapped.
fn retry<R>(work: impl Fn() -> Result<R>) -> R {
    retry_or(work).expect("no other error")
}

fn retry_or<R>(work: impl Fn() -> Result<R>) -> Result<R> {
    for _ in 0..ATTEMPTS {
        match work() {
            Err(Error::Stale { .. }) => {}
            other => return other,
        }
    }
    panic!("stale at every attempt");
}

/// Sizes from 4 KiB to the largest, evenly over the powers of two, until their sum is `bytes`.
fn sizes(scale: Scale, bytes: u64, random: &mut Random) -> Vec<u64> {
    let mut sizes = vec![];
    let doublings = u64::from((scale.largest / (4 * KIB)).ilog2()) + 1;
    while sizes.iter().sum::<u64>() < bytes {
        let size = ((4 * KIB) << random.below(doublings)) + 4 * random.below(KIB);
        sizes.push(size.min(scale.largest));
    }
    sizes
}

/// Returns the number of times that content was lost.
fn run(engine: &Engine, devices: &[Device], scale: Scale, tenths: u64, threads: u64) -> u32 {
    let Scale { budget, uses, .. } = scale;
    let what = format!("{}: {tenths} tenths, {threads} threads", devices[0].name());
    let domain = DomainId::Vram(devices[0].id());
    let usage = || engine.usage(domain).expect("of this engine");
    engine.model_heap(&devices[0], budget).expect("of this engine");
    let within = || assert!(usage().used <= budget, "{what}: {:?}", usage());
    let (done, lost, checks) = (AtomicBool::new(false), AtomicU32::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let users = (0..threads).map(|thread| {
            let (within, lost) = (&within, &lost);
            scope.spawn(move || {
                let mut random = Random::new(tenths * 100 + thread);
                let share = budget * tenths / 10 / threads;
                let all = sizes(scale, share, &mut random).into_iter();
                let mut all: Vec<_> = all
                    .map(|size| {
                        let priority = *random.pick(Priority::ALL);
                        let descriptor = BufferDescriptor::new(size).priority(priority);
                        Shared::new(engine, devices, descriptor)
                    })
                    .collect();
                let cache = BufferDescriptor::new(scale.largest / 4).discardable();
                let mut cache = Shared::new(engine, devices, cache);
                let pinned = &all[0].attachments[0];
                let pin = pinned.pin("stays").expect("it can be pinned");
                for turn in 0..soak::times(uses, uses / 5) {
                    // Most uses are of a slowly moving part: a working set.
                    let at = match random.one_in(4) {
                        true => random.index(all.len()),
                        false => (turn as usize / 16 + random.index(4)) % all.len(),
                    };
                    // CAST: any seed.
                    let seed = random.next() as u32;
                    if random.one_in(8) {
                        let device = random.index(devices.len());
                        lost.fetch_add(
                            u32::from(cache.check_or_renew(device, seed)),
                            Ordering::Relaxed,
                        );
                    }
                    if random.one_in(3) {
                        all[at].write(random.index(devices.len()), seed);
                    } else {
                        all[at].check();
                    }
                    within();
                }
                drop(pin);
                all.iter().for_each(Shared::check);
            })
        });
        let users: Vec<_> = users.collect();
        // One thread checks the usage all the time.
        let watch = scope.spawn(|| {
            while !done.load(Ordering::Acquire) {
                within();
                checks.fetch_add(1, Ordering::Relaxed);
                std::thread::yield_now();
            }
        });
        let busy = scope.spawn(|| {
            let busy = Shared::new(engine, devices, BufferDescriptor::new(scale.largest / 4));
            while !done.load(Ordering::Acquire) {
                // Busy until the usage was checked often enough.
                let begun = checks.load(Ordering::Relaxed);
                busy.keep_busy(engine, 1, || {
                    done.load(Ordering::Acquire) || checks.load(Ordering::Relaxed) - begun >= 100
                });
                busy.check();
            }
        });
        let ended: Vec<_> = users.into_iter().map(|user| user.join()).collect();
        done.store(true, Ordering::Release);
        watch.join().expect("usage stays within the budget");
        busy.join().expect("every byte is correct");
        ended.into_iter().for_each(|user| user.expect("every byte is correct"));
    });
    let used: Vec<_> = devices.iter().collect();
    wait_idle(&used);
    engine.trim();
    assert_eq!(usage().used, 0, "{what}: all memory is released");
    assert!(usage().peak <= budget, "{what}: {:?}", usage());
    lost.into_inner()
}

#[test]
fn any_working_set_keeps_its_bytes() {
    let rig = Rig::new();
    let engine = rig.engine();
    let scale = Scale { budget: 8 * MIB, largest: 2 * MIB, uses: 120 };
    let mut lost = 0;
    for first in rig.all() {
        let devices = [first.clone(), rig.open(&first.adapter().clone())];
        for (tenths, threads) in [(11, 1), (15, 2), (20, 3), (40, 4)] {
            lost += run(engine, &devices, scale, tenths, threads);
        }
    }
    assert!(engine.moved(MoveCause::Evicted).moves > 100, "{:?}", engine.report().moved);
    assert!(engine.moved(MoveCause::Restored).moves > 20, "{:?}", engine.report().moved);
    assert!(lost > 0, "{:?}", engine.report().moved);
}

#[test]
fn large_working_sets_keep_their_bytes() {
    let rig = Rig::new();
    let engine = rig.engine();
    // An emulated machine is too slow for more.
    let budget = if in_vm() { 80 * MIB } else { 160 * MIB };
    let scale = Scale { budget, largest: 64 * MIB, uses: 40 };
    for first in rig.all() {
        let devices = [first.clone(), rig.open(&first.adapter().clone())];
        let all = [(15, 2), (11, 1), (20, 3), (40, 4)];
        let enough = if soak::factor() > 1 && !in_vm() { all.len() } else { 1 };
        for &(tenths, threads) in &all[..enough] {
            run(engine, &devices, scale, tenths, threads);
        }
    }
    assert!(engine.moved(MoveCause::Evicted).bytes > 100 * MIB, "{:?}", engine.report().moved);
}

#[test]
fn in_a_loop_that_does_not_fit_no_buffer_returns_at_the_cost_of_another() {
    const FIT: usize = 8;
    let rig = Rig::with(|d| d.residency(ResidencyOptions::new().bytes_per_ms(1 << 40)));
    let engine = rig.engine();
    for device in rig.all() {
        engine.model_heap(&device, FIT as u64 * MIB).expect("of this engine");
        let mut all: Vec<_> = (0..FIT + 2)
            .map(|_| {
                let buffer = engine.create_buffer(&device, BufferDescriptor::new(MIB));
                let buffer = buffer.expect("a buffer");
                let refault = Arc::new(Refault::new());
                let attachment = buffer.attach_dynamic(&device, refault).expect("an attachment");
                let mapping = attachment.map(Access::Write).expect("mapped");
                (mapping, attachment, buffer)
            })
            .collect();
        let mut frames = |count: usize| {
            for at in (0..count).flat_map(|_| 0..FIT + 2) {
                let (mapping, attachment, _) = &mut all[at];
                engine
                    .submit_remapped(
                        &device,
                        &mut [(attachment, mapping)],
                        |submission, mappings| record_fill(submission, &device, mappings[0], 1),
                    )
                    .expect("submitted");
            }
            wait_idle(&[&device]);
            engine.moved(MoveCause::Evicted).moves
        };
        // A return into free room costs none: the first evictions may be more than it takes, while memory is still in use.
        let learned = frames(20);
        assert_eq!(frames(20), learned, "{}: once it knows how they are used", device.name());
        let away: Vec<_> = all
            .iter()
            .filter(|(.., buffer)| buffer.domain() == DomainId::System)
            .map(|(.., buffer)| buffer.explain().decisions[0].reason)
            .collect();
        assert_eq!(away, [Reason::UsedLess; 2], "{}", device.name());
    }
}
