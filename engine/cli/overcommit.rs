//! The overcommit part of the demo: four times as many bytes as a device's memory holds, used frame by frame.
//!
//! The size of that memory is a modelled limit, so that the same happens on every machine. The memory is the
//! preferred domain of all buffers. In each frame one device writes some of them and others check what they
//! find, in a window that slides over all of them and is itself larger than the memory.
//!
//! Each buffer of a frame is requested before it is used, as a driver validates the buffers of a submission.
//! So the bytes moved can be compared with those of a policy that knows all uses in advance.

use std::sync::Arc;
use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use peerbuf::observe::{MoveCause, Moved};
use peerbuf::residency::policy::{Slot, Use, belady};
use peerbuf::{
    Access, Attachment, BufferDescriptor, CopyRegion, Device, DomainId, Engine, Error, Mapping,
    PassReport, Placement, Refault, SharedBuffer,
};

use crate::failure::Result;
use crate::lineup::Lineup;
use crate::report::{MemberFacts, OvercommitFacts};
use crate::size::Size;

/// The size of all buffers together, over that of the memory.
const TIMES: usize = 4;
/// The number of buffers that fit.
const FITTING: usize = 16;
const BUFFERS: usize = TIMES * FITTING;
/// The number of buffers in the window of a frame.
const WINDOW: usize = FITTING * 5 / 4;
/// The step between the buffers of a frame. It has no divisor in common with the window, so that
/// neighbours are not used one after the other.
const STRIDE: usize = 7;
/// The number of frames: the window goes around twice.
const FRAMES: usize = 2 * BUFFERS;
/// The number of buffers written and checked in each frame.
const WRITES: usize = 2;
const READS: usize = 4;
/// How often a use is tried again because the buffer moved just before it.
const MAX_TRIES: u32 = 10_000;

/// Size of each buffer, for a memory of that size. Shared memory comes in units of 256 bytes.
fn buffer_size(vram: Size) -> u64 {
    (vram.bytes() / FITTING as u64).next_multiple_of(256)
}

/// Bytes that the part writes and checks, for the progress bar.
pub(crate) fn work(vram: Size) -> u64 {
    let passes = FRAMES * (WRITES + READS) + 2 * BUFFERS;
    buffer_size(vram).saturating_mul(passes as u64)
}

/// Runs the part. The engine must be used for nothing else, because its counters are the result.
pub(crate) fn run(
    lineup: &Lineup,
    vram: Size,
    first_seed: u32,
    progress: &ProgressBar,
) -> Result<OvercommitFacts> {
    let start = Instant::now();
    let members = Members::new(lineup, buffer_size(vram))?;
    let (engine, domain) = (&lineup.engine, DomainId::Vram(members.near[0].id()));
    engine.model_heap(&members.near[0], vram.bytes())?;
    let mut job = Job {
        engine,
        timeout: lineup.timeout,
        members: &members,
        progress,
        size: buffer_size(vram),
        seed: first_seed,
        uses: vec![],
        found: PassReport::default(),
        written: 0,
        buffers: vec![],
    };
    job.create()?;
    // Creating buffers is slow, and says nothing about the time of the frames.
    progress.reset_eta();
    (0..FRAMES).try_for_each(|frame| job.frame(frame))?;
    job.check_all()?;
    let usage = engine.usage(domain)?;
    let evicted = engine.moved(MoveCause::Evicted);
    let back = [MoveCause::Requested, MoveCause::Restored].map(|why| engine.moved(why));
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
        // A new buffer is resident without a move.
        bytes_optimal: optimum.bytes_in - total + optimum.bytes_out,
        callbacks: job.buffers.iter().map(Shared::notifications).sum(),
        callbacks_expected: moves * members.near.len() as u64,
        bytes_written: job.written,
        bytes_verified: job.found.words * 4,
        mismatches: job.found.wrong,
        seconds: start.elapsed().as_secs_f64(),
        members: members.facts(),
    })
}

/// The devices that take part.
struct Members {
    /// Devices that reach the memory of the first of them, which is the preferred domain of the buffers.
    near: Vec<Device>,
    /// Devices that do not: they read copies.
    far: Vec<Far>,
}

/// A device that reads copies, and the buffer for them.
struct Far {
    device: Device,
    copy: SharedBuffer,
    attachment: Attachment,
}

impl Members {
    /// Finds the first device that can share its memory, and tries which other devices reach it. If none does,
    /// its adapter is opened again.
    fn new(lineup: &Lineup, size: u64) -> Result<Self> {
        let (home, probe) = find_home(lineup)?;
        let mut members = Self { near: vec![home.clone()], far: vec![] };
        for device in lineup.devices.iter().filter(|device| device.id() != home.id()) {
            match probe.attach_dynamic(device, Arc::new(Refault::new())) {
                Ok(_) => members.near.push(device.clone()),
                Err(Error::Unreachable { .. }) => {
                    members.far.push(Far::new(&lineup.engine, device, size)?);
                }
                Err(error) => return Err(error.into()),
            }
        }
        if members.near.len() == 1 {
            members.near.push(lineup.engine.open_device(home.adapter())?);
        }
        Ok(members)
    }

    /// The device that checks what `writer` wrote, in the `turn`-th turn.
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
    Err(why.expect("a lineup has two devices").into())
}

impl Far {
    fn new(engine: &Engine, device: &Device, size: u64) -> Result<Self> {
        let copy = BufferDescriptor::new(size).placement(Placement::System).name("copy");
        let copy = engine.create_buffer(device, copy)?;
        let attachment = copy.attach(device)?;
        Ok(Self { device: device.clone(), copy, attachment })
    }
}

enum Reader<'a> {
    Near(usize),
    Far(&'a Far),
}

/// A buffer with an attachment for each device that reaches it.
struct Shared {
    buffer: SharedBuffer,
    attachments: Vec<Attachment>,
    importers: Vec<Arc<Refault>>,
    /// The pattern in it, and the number of the attachment that wrote it.
    seed: u32,
    writer: usize,
}

impl Shared {
    fn notifications(&self) -> u64 {
        self.importers.iter().map(|importer| importer.notifications()).sum()
    }
}

struct Job<'a> {
    engine: &'a Engine,
    /// The longest that a wait for a copy may take.
    timeout: Duration,
    members: &'a Members,
    progress: &'a ProgressBar,
    /// Bytes of each buffer.
    size: u64,
    buffers: Vec<Shared>,
    /// The pattern that was written last.
    seed: u32,
    /// Every use, for the optimum.
    uses: Vec<Use>,
    found: PassReport,
    written: u64,
}

impl Job<'_> {
    /// Creates the buffers and writes each once. When the memory is full, earlier ones are evicted.
    fn create(&mut self) -> Result<()> {
        for number in 0..BUFFERS {
            self.progress.set_message(format!("buffer {number}"));
            let buffer = BufferDescriptor::new(self.size).name(&format!("tile {number}"));
            let buffer = self.engine.create_buffer(&self.members.near[0], buffer)?;
            let importers: Vec<_> =
                self.members.near.iter().map(|_| Arc::new(Refault::new())).collect();
            let attach = |(device, importer): (_, &Arc<Refault>)| {
                buffer.attach_dynamic(device, Arc::clone(importer) as _)
            };
            let devices = self.members.near.iter();
            let attachments = devices.zip(&importers).map(attach).collect::<Result<_, _>>()?;
            self.buffers.push(Shared { buffer, attachments, importers, seed: 0, writer: 0 });
            self.write(number, 0)?;
        }
        Ok(())
    }

    /// One device writes, others check what they find.
    fn frame(&mut self, frame: usize) -> Result<()> {
        self.progress.set_message(format!("frame {} of {FRAMES}", frame + 1));
        let writer = frame % self.members.near.len();
        let in_window = |nth: usize| (frame + (frame + nth) * STRIDE % WINDOW) % BUFFERS;
        for nth in 0..WRITES {
            self.write(in_window(nth), writer)?;
        }
        // The buffers that were just written come first.
        for nth in 0..READS {
            self.check(in_window(nth), frame + nth)?;
        }
        Ok(())
    }

    /// Checks each buffer once more.
    fn check_all(&mut self) -> Result<()> {
        (0..self.buffers.len()).try_for_each(|number| {
            self.progress.set_message(format!("check of buffer {number}"));
            self.check(number, number)
        })
    }

    fn write(&mut self, number: usize, device: usize) -> Result<()> {
        self.buffers[number].buffer.request_residency()?;
        self.seed = self.seed.wrapping_add(1);
        let (seed, shared) = (self.seed, &mut self.buffers[number]);
        current(&shared.attachments[device], Access::Write, |mapping| mapping.fill(seed))?;
        (shared.seed, shared.writer) = (seed, device);
        self.written += self.size;
        self.used(number);
        Ok(())
    }

    /// Lets another device than the writer check the buffer.
    fn check(&mut self, number: usize, turn: usize) -> Result<()> {
        let shared = &self.buffers[number];
        shared.buffer.request_residency()?;
        let verify = |mapping: &Mapping| mapping.verify(shared.seed);
        let found = match self.members.reader(shared.writer, turn) {
            Reader::Near(device) => current(&shared.attachments[device], Access::Read, verify)?,
            Reader::Far(far) => {
                let whole = CopyRegion::first(shared.buffer.size());
                self.engine.copy(&shared.buffer, &far.copy, whole)?.wait(self.timeout)?;
                current(&far.attachment, Access::Read, verify)?
            }
        };
        self.found.words += found.words;
        self.found.wrong += found.wrong;
        self.used(number);
        Ok(())
    }

    fn used(&mut self, number: usize) {
        // CAST: below 64.
        self.uses.push(Use { slot: Slot(number as u32), bytes: self.size });
        self.progress.inc(self.size);
    }
}

/// Maps a buffer and uses it. Tries again if the buffer moves between the two.
fn current<R>(
    attachment: &Attachment,
    access: Access,
    work: impl Fn(&Mapping) -> peerbuf::Result<R>,
) -> Result<R> {
    let mut tries = 0;
    loop {
        tries += 1;
        match attachment.map(access).and_then(|mapping| work(&mapping)) {
            Err(Error::Stale { .. }) if tries < MAX_TRIES => {}
            other => return Ok(other?),
        }
    }
}
