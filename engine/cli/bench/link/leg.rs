//! One copy of those that run at once: its buffers, its way, and its consumer.

use std::time::{Duration, Instant};

use peerbuf::device::Call;
use peerbuf::{
    Access, BufferDescriptor, CopyBy, CopyRegion, CopyRun, Device, Engine, Placement, SharedBuffer,
};

use super::super::run::{Counters, End, Verified};
use super::held::Gate;
use super::place::{Pieces, Place, Pool, Role};

/// A copy as it is planned.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) from: Place,
    pub(super) to: Place,
    pub(super) by: CopyBy,
}

/// A copy that can be made again and again.
#[derive(Debug)]
pub(super) struct Leg<'a> {
    engine: &'a Engine,
    timeout: Duration,
    plan: Plan,
    pub(super) size: u64,
    from: Pieces,
    to: Pieces,
    consumer: Consumer,
    /// How much longer each copy takes, for tests.
    pub(super) delay: Duration,
}

/// How the consumer sees the last bytes, which ends the time.
#[derive(Debug)]
enum Consumer {
    /// It has made the copy itself.
    Acted,
    /// The host reads them.
    Host,
    /// A device copies them to a buffer of its own.
    Device(Device, SharedBuffer),
}

/// Bytes that the consumer reads at the end.
const TAIL: u64 = 64;

/// Bytes of one step of a copy by a ring, which is one submission on each side.
const RING_STEP: u64 = 4 << 20;

/// Bytes of all copies that are queued at once, and the most of them.
const QUEUED: u64 = 256 << 20;
const MOST_QUEUED: u64 = 16;

/// The times of one copy, in nanoseconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    /// From its submission until the consumer has seen the last byte.
    pub(super) host: f64,
    /// The moments of both.
    pub(super) within: (Instant, Instant),
    /// By the device's timestamps.
    pub(super) device: Option<f64>,
}

impl<'a> Leg<'a> {
    pub(super) fn new(
        (engine, devices, timeout): (&'a Engine, &'a [Device], Duration),
        pool: &mut Pool<'a>,
        plan: &Plan,
        size: u64,
        number: usize,
    ) -> peerbuf::Result<Self> {
        let from = pool.get(plan.from, size, Role::Source)?;
        let to = pool.get(plan.to, size, Role::Target(number))?;
        let consumer = match plan.to.consumer() {
            End::Device(index) => {
                let device = &devices[index as usize];
                if plan.by.device() == Some(device) || plan.by == CopyBy::Ring {
                    Consumer::Acted
                } else {
                    let descriptor = BufferDescriptor::new(TAIL).placement(Placement::Vram);
                    Consumer::Device(device.clone(), engine.create_buffer(device, descriptor)?)
                }
            }
            _ => Consumer::Host,
        };
        let (plan, delay) = (plan.clone(), Duration::ZERO);
        Ok(Self { engine, timeout, plan, size, from, to, consumer, delay })
    }

    /// How many copies use each buffer once.
    pub(super) fn turns(&self) -> usize {
        self.from.len().max(self.to.len())
    }

    /// Fills the sources with the pattern of `seed`, and the destinations with other bytes.
    pub(super) fn prepare(&self, seed: u32) -> peerbuf::Result<()> {
        self.from.iter().try_for_each(|piece| piece.fill(self.plan.from, seed))?;
        self.to.iter().try_for_each(|piece| piece.spoil(self.plan.to, seed))
    }

    /// Changes a byte of a destination, for tests.
    pub(super) fn change_a_byte(&self) -> peerbuf::Result<()> {
        let access = self.to[0].buffer.host_access(Access::ReadWrite)?;
        let mut byte = [0];
        access.read(self.size / 2, &mut byte)?;
        access.write(self.size / 2, &[!byte[0]])?;
        access.end()
    }

    /// Compares every byte of every destination, through the consumer.
    pub(super) fn verify(&self, seed: u32) -> peerbuf::Result<Verified> {
        let mut all = Verified { bytes: 0, wrong_bytes: 0 };
        for piece in &*self.to {
            let found = piece.verify(self.plan.to, seed)?;
            all.bytes += found.bytes;
            all.wrong_bytes += found.wrong_bytes;
        }
        Ok(all)
    }

    /// Copies once, with the buffers whose turn it is.
    pub(super) fn copy(&self, turn: usize) -> peerbuf::Result<Times> {
        let start = Instant::now();
        while start.elapsed() < self.delay {
            std::hint::spin_loop();
        }
        let run = self.begin(turn)?;
        self.end(turn, &run)?;
        // CAST: a time in nanoseconds is far below 2⁵³.
        let nanos = |time: Duration| time.as_nanos() as f64;
        let within = (start, Instant::now());
        let host = nanos(within.1 - within.0);
        Ok(Times { host, within, device: run.device_time()?.map(nanos) })
    }

    fn begin(&self, turn: usize) -> peerbuf::Result<CopyRun> {
        let [from, to] = [&self.from, &self.to].map(|of| &of[turn % of.len()].buffer);
        self.engine.copy_by(from, to, CopyRegion::first(self.size), &self.plan.by)
    }

    /// Waits until the consumer has seen the last bytes.
    fn end(&self, turn: usize, run: &CopyRun) -> peerbuf::Result<()> {
        let to = &self.to[turn % self.to.len()].buffer;
        let len = TAIL.min(self.size);
        match &self.consumer {
            Consumer::Acted => run.fence().wait(self.timeout),
            Consumer::Host => {
                let access = to.host_access(Access::Read)?;
                // CAST: at most `TAIL`.
                access.read(self.size - len, &mut [0; TAIL as usize][..len as usize])?;
                access.end()
            }
            Consumer::Device(device, tail) => {
                let region = CopyRegion { from: self.size - len, to: 0, len };
                let by = CopyBy::MainQueue(device.clone());
                self.engine.copy_by(to, tail, region, &by)?.fence().wait(self.timeout)
            }
        }
    }

    /// The time of one copy of several that are queued behind a held queue, in nanoseconds: from the moment at which the
    /// queue goes on until the last one has ended, so that no copy waits for a submission or a thread. `None` where the
    /// copies are not commands of a main queue, or where the queue cannot be held.
    pub(super) fn queued(&self, turn: usize) -> peerbuf::Result<Option<f64>> {
        let CopyBy::MainQueue(device) = &self.plan.by else { return Ok(None) };
        let Ok(mut gate) = Gate::new(device) else { return Ok(None) };
        let Ok(held) = gate.hold() else { return Ok(None) };
        // CAST: a few.
        let count = (QUEUED / self.size.max(1)).clamp(2, MOST_QUEUED) as usize;
        let runs: Vec<_> =
            (turn..turn + count).map(|turn| self.begin(turn)).collect::<Result<_, _>>()?;
        let start = Instant::now();
        drop(held);
        runs.iter().try_for_each(|run| run.fence().wait(self.timeout))?;
        // CAST: far below 2⁵³.
        Ok(Some(start.elapsed().as_nanos() as f64 / count as f64))
    }

    /// Copies once, and counts what that does, without what the consumer does to see its end.
    pub(super) fn count(&self, turn: usize) -> peerbuf::Result<Counters> {
        let calls = self.engine.calls();
        let counts = || {
            let made = [Call::QueueSubmit, Call::AllocateMemory].map(|call| calls.made(call));
            (made, calls.host_copied_bytes())
        };
        let before = counts();
        self.begin(turn)?.fence().wait(self.timeout)?;
        let after = counts();
        let [submissions, allocations] = [0, 1].map(|call| after.0[call] - before.0[call]);
        let by_host = after.1 - before.1;
        // Each submission copies one piece: of a ring a step, else all. What the host copies from a ring's staging memory to
        // the other one's is no copy between buffers, and is not counted by the engine.
        let (pieces, staged) = match self.plan.by {
            CopyBy::Ring => (self.size.div_ceil(RING_STEP), 1.0),
            _ => (1, 0.0),
        };
        // CAST: far below 2⁵³.
        let copies =
            staged + by_host as f64 / self.size as f64 + submissions as f64 / pieces as f64;
        Ok(Counters {
            copies_per_byte: Some(copies),
            submissions: Some(submissions),
            allocations: Some(allocations),
        })
    }
}
