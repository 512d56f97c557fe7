//! Frames that use more buffers than fit.
#![expect(unsafe_code, reason = "recording copies")]

use std::time::Instant;

use ash::vk;
use peerbuf::residency::policy::{Lru, Policy};
use peerbuf::{
    Access, Attachment, BufferDescriptor, Device, Engine, EngineDescriptor, Mapping, Refault,
    ResidencyOptions, SharedBuffer,
};

use crate::Outcome;
use crate::figure::Figure;
use crate::hand::{Block, Hand};
use crate::measure::{Rounds, rounds_of};
use crate::queue_by_hand::{Queue, Wait};
use crate::setup::{Setup, TIMEOUT};

/// Buffers of 1 MiB, and how many of them fit: each frame uses 1.25 times as many.
const BUFFERS: usize = 80;
const SIZE: u64 = 1 << 20;
const BUDGET: u64 = 64 << 20;
/// Out of this many buffers, a frame writes one and reads the others.
const WRITTEN: usize = 5;
/// Bytes read or written of each. They are few, so that the engine's share of the time dominates.
const TOUCHED: u64 = 64 << 10;
/// Frames of one sample, and samples. The number of samples is odd, so that the median is one of them.
const FRAMES: usize = 100;
const SAMPLES: usize = 11;

/// `frame_p99`: the 99th percentile of frame times with the engine as it is. The baseline does what residency
/// libraries of applications do: it makes each buffer resident before its use, by evicting the least recently
/// used one and waiting for the copies.
pub(crate) fn p99(setup: &Setup) -> Outcome<Vec<Figure>> {
    let ours = Frames::new(setup, ResidencyOptions::new(), false)?;
    let demanding = ResidencyOptions::new().policy(lru).clean_copies(false).bytes_per_submission(0);
    let theirs = Frames::new(setup, demanding, true)?;
    let (mut ours, mut theirs) = (ours, theirs);
    // Warm-up, until both engines are in a steady state.
    ours.sample()?;
    theirs.sample()?;
    let mut rounds = Rounds::default();
    for _ in 0..rounds_of(SAMPLES) {
        let first = ours.sample()?;
        let them = theirs.sample()? + theirs.sample()?;
        rounds.add(first + ours.sample()?, them);
    }
    Ok(vec![Figure::speed(
        "frame_p99",
        "99th percentile of a frame that uses 1.25 × what fits",
        "each made resident first, by evicting the least recently used",
        Some(2.0),
        rounds.summary(),
    )])
}

/// `frame_in_place`: the median frame, against a program that knows its buffers and moves none: those that do not fit are
/// in system memory from the start, and devices use them there.
pub(crate) fn in_place(setup: &Setup) -> Outcome<Vec<Figure>> {
    let mut ours = Frames::new(setup, ResidencyOptions::new(), false)?;
    let mut theirs = ByHand::new(setup)?;
    ours.sample()?;
    median(|| theirs.frame())?;
    let mut rounds = Rounds::default();
    for _ in 0..rounds_of(SAMPLES) {
        let first = median(|| ours.frame())?;
        let them = median(|| theirs.frame())? + median(|| theirs.frame())?;
        rounds.add(first + median(|| ours.frame())?, them);
    }
    Ok(vec![Figure::speed(
        "frame_in_place",
        "median frame that uses 1.25 × what fits",
        "recorded beforehand, what does not fit left in system memory",
        Some(0.9),
        rounds.summary(),
    )])
}

/// The median time of the frames of one sample.
fn median(mut frame: impl FnMut() -> Outcome<f64>) -> Outcome<f64> {
    let mut times = (0..FRAMES).map(|_| frame()).collect::<Outcome<Vec<_>>>()?;
    times.sort_by(f64::total_cmp);
    Ok(times[FRAMES / 2])
}

/// The same frames in plain Vulkan. Each buffer has a command buffer of its own, recorded beforehand.
struct ByHand<'a> {
    queue: Queue<'a>,
    // Used by the command buffers.
    _blocks: Vec<Block<'a>>,
}

impl<'a> ByHand<'a> {
    fn new(setup: &'a Setup) -> Outcome<Self> {
        let device = &setup.near;
        let hand = Hand::new(device, setup.handle);
        let needs = hand.needs(SIZE)?;
        let fitting = (BUDGET / SIZE) as usize;
        let make =
            |at| if at < fitting { hand.allocate(needs) } else { Block::staging(device, SIZE) };
        let mut blocks = (0..BUFFERS).map(make).collect::<Outcome<Vec<_>>>()?;
        blocks.push(Block::staging(device, TOUCHED)?);
        // CAST: 80.
        let queue = Queue::new(device, setup.handle, BUFFERS as u32)?;
        let scratch = blocks[BUFFERS].range(TOUCHED);
        for (at, block) in blocks[..BUFFERS].iter().enumerate() {
            let block = block.range(TOUCHED);
            let (from, to) =
                if at.is_multiple_of(WRITTEN) { (scratch, block) } else { (block, scratch) };
            queue.record_copy(at, from, to)?;
        }
        Ok(Self { queue, _blocks: blocks })
    }

    fn frame(&mut self) -> Outcome<f64> {
        let start = Instant::now();
        let mut last = 0;
        for at in 0..BUFFERS {
            last = self.queue.submit(at)?;
        }
        self.queue.wait(last, Wait::PollFirst)?;
        Ok(start.elapsed().as_secs_f64())
    }
}

fn lru() -> Box<dyn Policy> {
    Box::new(Lru::new())
}

/// An engine with a small heap, and the objects that its frames use.
struct Frames {
    all: Vec<Used>,
    scratch: Mapping,
    _scratch: (SharedBuffer, Attachment),
    device: Device,
    engine: Engine,
    /// Whether each buffer is made resident before it is used.
    demanding: bool,
}

struct Used {
    mapping: Mapping,
    attachment: Attachment,
    buffer: SharedBuffer,
}

impl Frames {
    fn new(setup: &Setup, rules: ResidencyOptions, demanding: bool) -> Outcome<Self> {
        let engine = Engine::open(&EngineDescriptor::new().timeout(TIMEOUT).residency(rules))?;
        let uuid = peerbuf::AdapterSelector::Uuid(setup.near.adapter().device_uuid());
        let device = engine.open_device(engine.adapter(uuid)?)?;
        engine.model_heap(&device, BUDGET)?;
        let create = || -> Outcome<Used> {
            let buffer = engine.create_buffer(&device, BufferDescriptor::new(SIZE))?;
            let attachment = buffer.attach_dynamic(&device, std::sync::Arc::new(Refault::new()))?;
            let mapping = attachment.map(Access::ReadWrite)?;
            mapping.fill(1)?;
            Ok(Used { mapping, attachment, buffer })
        };
        let all = (0..BUFFERS).map(|_| create()).collect::<Outcome<_>>()?;
        let scratch = BufferDescriptor::new(TOUCHED).placement(peerbuf::Placement::System);
        let scratch = engine.create_buffer(&device, scratch)?;
        let attachment = scratch.attach(&device)?;
        let mapping = attachment.map(Access::ReadWrite)?;
        mapping.fill(0)?;
        Ok(Self {
            all,
            scratch: mapping,
            _scratch: (scratch, attachment),
            device,
            engine,
            demanding,
        })
    }

    /// Runs one sample of frames and returns the 99th percentile in seconds.
    fn sample(&mut self) -> Outcome<f64> {
        let mut times = (0..FRAMES).map(|_| self.frame()).collect::<Outcome<Vec<_>>>()?;
        times.sort_by(f64::total_cmp);
        Ok(times[FRAMES * 99 / 100])
    }

    fn frame(&mut self) -> Outcome<f64> {
        let start = Instant::now();
        for at in 0..self.all.len() {
            self.touch(at)?;
        }
        self.device.submitted()?.wait(TIMEOUT)?;
        Ok(start.elapsed().as_secs_f64())
    }

    fn touch(&mut self, at: usize) -> Outcome<()> {
        let Self { all, scratch, device, engine, .. } = self;
        let Used { mapping, attachment, buffer } = &mut all[at];
        if self.demanding {
            buffer.request_residency()?;
        }
        let scratch = scratch.view()?;
        let device: &Device = device;
        engine.submit_remapped(device, &mut [(attachment, mapping)], |work, mapped| {
            let written = at.is_multiple_of(WRITTEN);
            let view = if written { work.write(mapped[0])? } else { work.read(mapped[0])? };
            let region = |from: u64, to: u64| {
                vk::BufferCopy::default().src_offset(from).dst_offset(to).size(TOUCHED)
            };
            let copy = move |commands| {
                let (from, to, region) = if written {
                    (scratch, view, region(scratch.offset, view.offset))
                } else {
                    (view, scratch, region(view.offset, scratch.offset))
                };
                // SAFETY: both ranges are live and declared; the scratch is used by this queue alone, whose
                // copies may overlap there: its content is never read.
                unsafe {
                    device.raw().cmd_copy_buffer(commands, from.buffer, to.buffer, &[region]);
                }
            };
            // SAFETY: it records one valid command on the declared ranges, and the scratch lives as long.
            unsafe { work.record(copy) };
            Ok(())
        })?;
        Ok(())
    }
}
