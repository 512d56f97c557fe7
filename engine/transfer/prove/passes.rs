//! The passes of a proof: who writes the memory, and who reads it back.
#![expect(
    unsafe_code,
    reason = "the host writes and reads mapped memory that no device uses meanwhile"
)]

use std::time::{Duration, Instant};

use super::super::compute::pattern_word;
use super::super::copy::copy_many;
use super::super::pass::{Pass, Side};
use super::super::refusal::RefusalReason;
use super::super::span::Span;
use super::super::verdict::ExporterSpeed;
use super::ends::RouteEnd;
use super::judge::{Unproved, on};
use super::memory::Memory;
use super::outcome::Until;
use crate::access::Access;
use crate::device::Waits;
use crate::memory::{HostPtr, HostWait, View};
use crate::sync::RejectionWatch;

/// How often a warm read is timed. The best time counts: one late wake-up of a thread costs more than the probe
/// itself, and the choice among routes depends on a factor of two.
const READS: u32 = 5;

/// Further reads begin only within this time after the first.
const READ_BUDGET: Duration = Duration::from_millis(100);

/// Bytes that the host writes and reads. Few, so that they stay in its caches.
const HOST_BYTES: u64 = 64 << 10;

/// How often an exporter that seems to be dragged is measured again. All measurements must agree.
const CONFIRMATIONS: u32 = 2;

const SEEDS: [u32; 8] = [
    0x7065_6572,
    0x6275_6621,
    0x686f_7374,
    0x7265_6164,
    0x6261_636b,
    0x6d6f_7665,
    0x7468_6572,
    0x6868_6572,
];

/// Memory that both ends of a route see.
pub(super) struct Shared<'a> {
    pub(super) memory: &'a Memory,
    /// The first and the second device, with their views.
    pub(super) ends: [(&'a RouteEnd, &'a View); 2],
    pub(super) bytes: u64,
    pub(super) until: Until,
}

impl<'a> Shared<'a> {
    /// Runs all passes that the memory allows, and adds to `done` those that succeed. Returns the time of a warm read
    /// of the second device.
    pub(super) fn prove(&self, done: &mut Vec<Pass>) -> Result<Duration, Unproved> {
        let read = self.by_shaders(done)?;
        self.by_queues_for_moves()?;
        done.push(Pass::Moves);
        self.by_host(done)?;
        Ok(read)
    }

    fn by_shaders(&self, done: &mut Vec<Pass>) -> Result<Duration, Unproved> {
        let [there, back, ..] = SEEDS;
        let pass = Pass::FirstToSecond;
        self.fill(Side::First, self.all(Side::First), there)?;
        self.verify(Side::Second, self.all(Side::Second), there, pass)?;
        let (mut read, begun) = (Duration::MAX, Instant::now());
        for nth in 0..READS {
            if nth > 0 && begun.elapsed() > READ_BUDGET {
                break;
            }
            let start = Instant::now();
            self.verify(Side::Second, self.all(Side::Second), there, pass)?;
            read = read.min(start.elapsed());
        }
        done.push(pass);
        self.fill(Side::Second, self.all(Side::Second), back)?;
        self.verify(Side::First, self.all(Side::First), back, Pass::SecondToFirst)?;
        done.push(Pass::SecondToFirst);
        Ok(read)
    }

    /// Each device copies one half of the memory to the other half, on the queue that moves use. So that queue both
    /// reads and writes the shared memory.
    fn by_queues_for_moves(&self) -> Result<(), Unproved> {
        let [.., first, second] = SEEDS;
        let half = self.bytes / 2;
        let (low, high) = ((0, half), (half, half));
        let turns = [(Side::First, Side::Second, low, high, first)];
        let others = [(Side::Second, Side::First, high, low, second)];
        for (writer, copier, from, to, seed) in turns.into_iter().chain(others) {
            self.fill(writer, self.part(writer, from), seed)?;
            let copy = [self.part(copier, from), self.part(copier, to)];
            let device = &self.end(copier).device;
            let rejection = RejectionWatch::new(device, device.queue_for_moves());
            let fence = copy_many(device, Waits::default(), &[copy], &[])
                .inspect_err(|_| self.memory.keep([rejection.fence()]))
                .map_err(on(copier))?;
            self.memory.wait(self.until, fence).map_err(on(copier))?;
            self.verify(writer, self.part(writer, to), seed, Pass::Moves)?;
        }
        Ok(())
    }

    /// The host writes and each device reads; each device writes and the host reads: with the calls that a host
    /// access makes. Nothing if the host cannot map the memory.
    fn by_host(&self, done: &mut Vec<Pass>) -> Result<(), Unproved> {
        let Some(host) = self.memory.allocation().host().map_err(on(Side::First))? else {
            return Ok(());
        };
        let [.., seed, near, far, _, _] = SEEDS;
        let len = HOST_BYTES.min(self.bytes);
        self.write_by_host(host, seed, len)?;
        for side in self.sides() {
            self.verify(side, self.part(side, (0, len)), seed, Pass::HostToDevices)?;
        }
        done.push(Pass::HostToDevices);
        for (side, seed) in self.sides().zip([near, far]) {
            self.fill(side, self.part(side, (0, len)), seed)?;
            self.read_by_host(host, seed, len)?;
        }
        done.push(Pass::DevicesToHost);
        Ok(())
    }

    fn write_by_host(&self, host: HostPtr, seed: u32, len: u64) -> Result<(), Unproved> {
        let allocation = self.memory.allocation();
        let begun = allocation.begin_host_access(
            Access::Write,
            (0, len),
            HostWait::within(self.until.left()),
        );
        begun.map_err(on(Side::First))?;
        let calls = self.end(Side::First).device.calls();
        if !calls.device_faults().is_some_and(|faults| faults.blind_host) {
            let bytes: Vec<u8> =
                words(len).flat_map(|at| pattern_word(seed, at).to_ne_bytes()).collect();
            // SAFETY: the whole allocation is mapped, of at least `len` bytes, and every pass on it has ended.
            unsafe { host.write(&bytes) };
        }
        allocation.end_host_access(Access::Write, 0, len).map_err(on(Side::First))
    }

    fn read_by_host(&self, host: HostPtr, seed: u32, len: u64) -> Result<(), Unproved> {
        let allocation = self.memory.allocation();
        allocation
            .begin_host_access(Access::Read, (0, len), HostWait::within(self.until.left()))
            .map_err(on(Side::First))?;
        // CAST: 64 KiB at most.
        let mut bytes = vec![0; len as usize];
        // SAFETY: as in `write_by_host`.
        unsafe { host.read(&mut bytes) };
        allocation.end_host_access(Access::Read, 0, len).map_err(on(Side::First))?;
        let (found, _) = bytes.as_chunks();
        let wrong = words(len)
            .zip(found)
            .filter(|(at, word)| u32::from_ne_bytes(**word) != pattern_word(seed, *at));
        let mut wrong = wrong.map(|(at, _)| u64::from(at) * 4).peekable();
        let Some(&first_wrong) = wrong.peek() else { return Ok(()) };
        // CAST: 16 Ki words at most.
        let wrong = wrong.count() as u64;
        let pass = Pass::DevicesToHost;
        Err(RefusalReason::WrongBytes { pass, words: len / 4, wrong, first_wrong }.into())
    }

    fn fill(&self, side: Side, span: Span<'_>, seed: u32) -> Result<(), Unproved> {
        let RouteEnd { device, kernels, .. } = self.end(side);
        let filled = self.memory.run(device, self.until, |watch| kernels.fill(span, seed, watch));
        filled.map_err(on(side))
    }

    fn verify(&self, side: Side, span: Span<'_>, seed: u32, pass: Pass) -> Result<(), Unproved> {
        verify(self.memory, self.end(side), span, seed, (side, pass), self.until)
    }

    fn end(&self, side: Side) -> &'a RouteEnd {
        self.ends[side as usize].0
    }

    fn all(&self, side: Side) -> Span<'a> {
        self.part(side, (0, self.bytes))
    }

    fn part(&self, side: Side, (offset, len): (u64, u64)) -> Span<'a> {
        Span { view: self.ends[side as usize].1, offset, len }
    }

    /// Both sides, or one if both are one device.
    fn sides(&self) -> impl Iterator<Item = Side> + use<> {
        let [near, far] = self.ends;
        let same = std::ptr::eq(near.1, far.1);
        [Side::First, Side::Second].into_iter().take(if same { 1 } else { 2 })
    }
}

/// Compares with the pattern of `seed`.
pub(super) fn verify(
    memory: &Memory,
    end: &RouteEnd,
    span: Span<'_>,
    seed: u32,
    (side, pass): (Side, Pass),
    until: Until,
) -> Result<(), Unproved> {
    let report = memory.run(&end.device, until, |watch| end.kernels.verify(span, seed, watch));
    let report = report.map_err(on(side))?;
    let Some(first_wrong) = report.first_wrong else { return Ok(()) };
    let (words, wrong) = (report.words, report.wrong);
    Err(RefusalReason::WrongBytes { pass, words, wrong, first_wrong }.into())
}

/// What the exporter's speed is measured with: its memory, and as much other memory that is not shared.
pub(super) struct Exporter<'a> {
    pub(super) end: &'a RouteEnd,
    pub(super) shared: (&'a Memory, Span<'a>),
    pub(super) alone: (&'a Memory, Span<'a>),
    pub(super) until: Until,
}

impl Exporter<'_> {
    /// The exporter's speed before the import.
    pub(super) fn before(&self) -> Result<Duration, Unproved> {
        // The first pass touches pages and compiles kernels.
        self.pass(self.shared, 1)?;
        self.best(1).map(|[shared, _]| shared)
    }

    /// The exporter's speed now, after the import, if it was `before` then.
    pub(super) fn after(&self, before: Duration) -> Result<ExporterSpeed, Unproved> {
        let faults = self.end.device.calls().device_faults();
        let times = if faults.is_some_and(|faults| faults.dragging_imports) { 16 } else { 1 };
        let mut found = None;
        for _ in 0..=CONFIRMATIONS {
            let [after, alone] = self.best(times)?;
            let speed = ExporterSpeed { before, after, alone };
            found = Some(speed);
            if !speed.is_dragged() {
                break;
            }
        }
        found.ok_or_else(|| RefusalReason::Missing("no measurement").into())
    }

    /// The best times of a pass over the shared memory, `times` times, and over the other memory. The passes alternate,
    /// so that what else the machine does slows both.
    fn best(&self, times: u32) -> Result<[Duration; 2], Unproved> {
        let mut best = [Duration::MAX; 2];
        for _ in 0..READS {
            for (best, (memory, times)) in
                best.iter_mut().zip([(self.shared, times), (self.alone, 1)])
            {
                *best = self.pass(memory, times)?.min(*best);
            }
        }
        Ok(best)
    }

    fn pass(&self, (memory, span): (&Memory, Span<'_>), times: u32) -> Result<Duration, Unproved> {
        let start = Instant::now();
        for _ in 0..times {
            let RouteEnd { device, kernels, .. } = self.end;
            let summed = memory.run(device, self.until, |watch| kernels.checksum(span, watch));
            summed.map_err(on(Side::First))?;
        }
        Ok(start.elapsed())
    }
}

/// The indices of the words of `len` bytes.
fn words(len: u64) -> std::ops::Range<u32> {
    // CAST: 16 Ki words at most.
    0..(len / 4) as u32
}
