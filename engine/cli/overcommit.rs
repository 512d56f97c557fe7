//! The demo's main job: four times as many bytes as a device's memory holds, used frame by frame.
//!
//! How much a device has is modelled, so that the same happens on every machine. The buffers are at home
//! there. In each frame one device writes some of them and others check what they find, in a window that
//! slides over all of them and is itself larger than the memory. Whatever a frame uses is asked for first,
//! as a driver validates the buffers of a submission, so that what moves can be compared with what somebody
//! who knows the future would have moved.

use std::sync::Arc;
use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use peerbuf::observe::{MoveCause, Moved};
use peerbuf::residency::policy::{Slot, Use, belady};
use peerbuf::{
    Access, Attachment, BufferDescriptor, CopyRegion, Device, DomainId, Engine, Error, Mapping,
    PassReport, Placement, Refault, SharedBuffer,
};

use crate::Result;
use crate::lineup::Lineup;
use crate::report::{MemberFacts, OvercommitFacts};
use crate::size::Size;

/// How many times as much as the device has the buffers are together.
const TIMES: usize = 4;
/// How many of them fit.
const FITTING: usize = 16;
const BUFFERS: usize = TIMES * FITTING;
/// How many of them are in use at a time.
const WINDOW: usize = FITTING * 5 / 4;
/// A multiplier without a divisor in common with that: it leads anywhere but to the neighbour.
const STRIDE: usize = 7;
/// How many frames there are: the window goes around twice.
const FRAMES: usize = 2 * BUFFERS;
/// In each frame so many are written, and so many are read.
const WRITES: usize = 2;
const READS: usize = 4;
/// How often a use is tried again because the buffer has moved just before it.
const PATIENCE: u32 = 10_000;

/// Size of each buffer, for a memory of that size. What is shared comes in units of 256 bytes.
fn buffer_size(vram: Size) -> u64 {
    (vram.bytes() / FITTING as u64).next_multiple_of(256)
}

/// How many bytes go through the passes, for whoever shows how far they are.
pub(crate) fn work(vram: Size) -> u64 {
    let passes = FRAMES * (WRITES + READS) + 2 * BUFFERS;
    buffer_size(vram).saturating_mul(passes as u64)
}

/// Runs the job on an engine of its own, whose counters are then those of the job.
pub(crate) fn run(
    lineup: &Lineup,
    vram: Size,
    first_seed: u32,
    progress: &ProgressBar,
) -> Result<OvercommitFacts> {
    let start = Instant::now();
    let crew = Crew::new(lineup, buffer_size(vram))?;
    let (engine, domain) = (&lineup.engine, DomainId::Vram(crew.near[0].id()));
    engine.model_heap(&crew.near[0], vram.bytes())?;
    let mut job = Job {
        engine,
        timeout: lineup.timeout,
        crew: &crew,
        progress,
        size: buffer_size(vram),
        seed: first_seed,
        uses: vec![],
        found: PassReport::default(),
        written: 0,
        buffers: vec![],
    };
    job.create()?;
    // What is new is slow, and says nothing about the rest.
    progress.reset_eta();
    (0..FRAMES).try_for_each(|frame| job.frame(frame))?;
    job.check_all()?;
    let usage = engine.usage(domain)?;
    let evicted = engine.moved(MoveCause::Evicted);
    let back = [MoveCause::Requested, MoveCause::Returned].map(|why| engine.moved(why));
    let sum = |what: fn(&Moved) -> u64| back.iter().map(what).sum::<u64>();
    let moves: u64 = MoveCause::ALL.iter().map(|&why| engine.moved(why).moves).sum();
    let total = job.buffers.iter().map(|shared| shared.buffer.size()).sum();
    let optimum = belady(&job.uses, usage.budget);
    Ok(OvercommitFacts {
        buffers: job.buffers.len(),
        total,
        working_set: buffer_size(vram) * WINDOW as u64,
        frames: FRAMES,
        budget: usage.budget,
        peak: usage.peak,
        evictions: evicted.moves,
        restores: sum(|back| back.moves),
        bytes_moved: evicted.bytes + sum(|back| back.bytes),
        bytes_copied: evicted.copied + sum(|back| back.copied),
        // A buffer that is new is there without being moved.
        bytes_optimal: optimum.bytes_in - total + optimum.bytes_out,
        callbacks: job.buffers.iter().map(Shared::times_told).sum(),
        callbacks_expected: moves * crew.near.len() as u64,
        bytes_written: job.written,
        bytes_verified: job.found.words * 4,
        mismatches: job.found.wrong,
        seconds: start.elapsed().as_secs_f64(),
        members: crew.facts(),
    })
}

/// Who takes part.
struct Crew {
    /// Those that reach the memory of the first of them, where the buffers are at home.
    near: Vec<Device>,
    /// Those that do not: they are given copies.
    far: Vec<Far>,
}

/// A device that reads copies, and the buffer for them.
struct Far {
    device: Device,
    copy: SharedBuffer,
    seat: Attachment,
}

impl Crew {
    /// Tries who reaches the memory of the first device that can share its own. If nobody does, its adapter
    /// is opened once more.
    fn new(lineup: &Lineup, size: u64) -> Result<Self> {
        let (home, probe) = find_home(lineup)?;
        let mut crew = Self { near: vec![home.clone()], far: vec![] };
        for device in lineup.devices.iter().filter(|device| device.id() != home.id()) {
            match probe.attach_dynamic(device, Arc::new(Refault::new())) {
                Ok(_) => crew.near.push(device.clone()),
                Err(Error::Unreachable { .. }) => {
                    crew.far.push(Far::new(&lineup.engine, device, size)?);
                }
                Err(error) => return Err(error.into()),
            }
        }
        if crew.near.len() == 1 {
            crew.near.push(lineup.engine.open_device(home.adapter())?);
        }
        Ok(crew)
    }

    /// Who reads what `writer` wrote, in the `turn`-th turn.
    fn reader(&self, writer: usize, turn: usize) -> Reader<'_> {
        let others = self.near.len() - 1;
        match turn % (others + self.far.len()) {
            near if near < others => Reader::Near((writer + 1 + near) % self.near.len()),
            far => Reader::Far(&self.far[far - others]),
        }
    }

    fn facts(&self) -> Vec<MemberFacts> {
        let near = self.near.iter().map(|device| (device, true));
        let far = self.far.iter().map(|far| (&far.device, false));
        near.chain(far)
            .map(|(device, in_place)| MemberFacts {
                device: device.id().index(),
                name: device.adapter().name().to_owned(),
                in_place,
            })
            .collect()
    }
}

/// The first device whose memory can be shared, and a buffer there.
fn find_home(lineup: &Lineup) -> Result<(&Device, SharedBuffer)> {
    let mut why = None;
    for device in &lineup.devices {
        let probe = BufferDescriptor::new(256).placement(Placement::Vram);
        match lineup.engine.create_buffer(device, probe) {
            Ok(probe) => return Ok((device, probe)),
            Err(error) => why = why.or(Some(error)),
        }
    }
    Err(why.expect("a line-up has two devices").into())
}

impl Far {
    fn new(engine: &Engine, device: &Device, size: u64) -> Result<Self> {
        let copy = BufferDescriptor::new(size).placement(Placement::System).name("copy");
        let copy = engine.create_buffer(device, copy)?;
        let seat = copy.attach(device)?;
        Ok(Self { device: device.clone(), copy, seat })
    }
}

enum Reader<'a> {
    Near(usize),
    Far(&'a Far),
}

/// A buffer with a seat for each device that reaches it.
struct Shared {
    buffer: SharedBuffer,
    seats: Vec<Attachment>,
    importers: Vec<Arc<Refault>>,
    /// What is in it, and which of the seats wrote it.
    seed: u32,
    writer: usize,
}

impl Shared {
    fn times_told(&self) -> u64 {
        self.importers.iter().map(|importer| importer.times_told()).sum()
    }
}

struct Job<'a> {
    engine: &'a Engine,
    /// The bound of a wait for a copy.
    timeout: Duration,
    crew: &'a Crew,
    progress: &'a ProgressBar,
    /// Of each buffer.
    size: u64,
    buffers: Vec<Shared>,
    /// What was written last.
    seed: u32,
    /// Every use, for the optimum.
    uses: Vec<Use>,
    found: PassReport,
    written: u64,
}

impl Job<'_> {
    /// Makes the buffers and writes each once. As soon as no more fit, others have to go.
    fn create(&mut self) -> Result<()> {
        for number in 0..BUFFERS {
            self.progress.set_message(format!("buffer {number}"));
            let buffer = BufferDescriptor::new(self.size).name(&format!("tile {number}"));
            let buffer = self.engine.create_buffer(&self.crew.near[0], buffer)?;
            let importers: Vec<_> =
                self.crew.near.iter().map(|_| Arc::new(Refault::new())).collect();
            let sit = |(device, told): (_, &Arc<Refault>)| {
                buffer.attach_dynamic(device, Arc::clone(told) as _)
            };
            let seats = self.crew.near.iter().zip(&importers).map(sit).collect::<Result<_, _>>()?;
            self.buffers.push(Shared { buffer, seats, importers, seed: 0, writer: 0 });
            self.write(number, 0)?;
        }
        Ok(())
    }

    /// One device writes, others check what they find.
    fn frame(&mut self, frame: usize) -> Result<()> {
        self.progress.set_message(format!("frame {} of {FRAMES}", frame + 1));
        let writer = frame % self.crew.near.len();
        let in_window = |nth: usize| (frame + (frame + nth) * STRIDE % WINDOW) % BUFFERS;
        for nth in 0..WRITES {
            self.write(in_window(nth), writer)?;
        }
        // First what was just written.
        for nth in 0..READS {
            self.check(in_window(nth), frame + nth)?;
        }
        Ok(())
    }

    /// Each of them once more.
    fn check_all(&mut self) -> Result<()> {
        (0..self.buffers.len()).try_for_each(|number| {
            self.progress.set_message(format!("checks {number}"));
            self.check(number, number)
        })
    }

    fn write(&mut self, number: usize, device: usize) -> Result<()> {
        self.buffers[number].buffer.request_residency()?;
        self.seed = self.seed.wrapping_add(1);
        let (seed, shared) = (self.seed, &mut self.buffers[number]);
        current(&shared.seats[device], Access::Write, |mapping| mapping.fill(seed))?;
        (shared.seed, shared.writer) = (seed, device);
        self.written += self.size;
        self.used(number);
        Ok(())
    }

    /// Has another device than the writer look at it.
    fn check(&mut self, number: usize, turn: usize) -> Result<()> {
        let shared = &self.buffers[number];
        shared.buffer.request_residency()?;
        let verify = |mapping: &Mapping| mapping.verify(shared.seed);
        let found = match self.crew.reader(shared.writer, turn) {
            Reader::Near(device) => current(&shared.seats[device], Access::Read, verify)?,
            Reader::Far(far) => {
                let whole = CopyRegion::first(shared.buffer.size());
                self.engine.copy(&shared.buffer, &far.copy, whole)?.wait(self.timeout)?;
                current(&far.seat, Access::Read, verify)?
            }
        };
        self.found.words += found.words;
        self.found.wrong += found.wrong;
        self.used(number);
        Ok(())
    }

    fn used(&mut self, number: usize) {
        // CAST: there are 64.
        self.uses.push(Use { slot: Slot(number as u32), bytes: self.size });
        self.progress.inc(self.size);
    }
}

/// Uses a buffer where it is by now: it may move between the map and the use.
fn current<R>(
    seat: &Attachment,
    access: Access,
    work: impl Fn(&Mapping) -> peerbuf::Result<R>,
) -> Result<R> {
    let mut tries = 0;
    loop {
        tries += 1;
        match seat.map(access).and_then(|mapping| work(&mapping)) {
            Err(Error::Stale { .. }) if tries < PATIENCE => {}
            other => return Ok(other?),
        }
    }
}
