//! What drivers make slow: a first attach, a look at a slab that a device works on, and a proof behind a busy queue.
#![expect(unsafe_code, reason = "records a fill")]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use peerbuf::device::StoppedQueues;
use peerbuf::{
    Access, BufferDescriptor, Device, Engine, EngineDescriptor, Fence, Mapping, Placement, Scope,
};

use crate::Outcome;
use crate::by_hand::ByHand;
use crate::figure::Figure;
use crate::measure::Rounds;
use crate::setup::{Setup, TIMEOUT};

/// Rounds of a figure that opens an engine in each. Odd, as medians need.
const ROUNDS: usize = 21;
const SIZE: u64 = 1 << 20;

/// A file that is removed at the end.
struct Removed(PathBuf);

impl Drop for Removed {
    fn drop(&mut self) {
        // Nothing else would be done about it.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// An engine with these options, and devices on the adapters of the run.
fn open(setup: &Setup, options: &EngineDescriptor) -> Outcome<(Engine, [Device; 2])> {
    let engine = Engine::open(options)?;
    let device = |of: &Device| -> Outcome<Device> {
        let adapter = engine.adapters().get(of.adapter().index()).ok_or("other adapters")?;
        Ok(engine.open_device(adapter)?)
    };
    let devices = [device(&setup.near)?, device(&setup.far)?];
    Ok((engine, devices))
}

/// `attach_first`: the first attach and map of a pair whose routes are remembered, against an export and an import.
///
/// Both are the first on two devices that were opened just before, of the same adapters: drivers have tables to fill then.
/// They take turns to be first, since the code of a driver is in no cache after the devices have been opened.
pub(crate) fn attach_first(setup: &Setup) -> Outcome<Vec<Figure>> {
    let name = format!("peerbuf-figures-{}", std::process::id());
    let file = Removed(std::env::temp_dir().join(name));
    let options = EngineDescriptor::new().timeout(TIMEOUT).route_cache(&file.0);
    {
        let (engine, [near, far]) = open(setup, &options)?;
        engine.route(&near, &far)?;
    }
    let by_hand = ByHand::new(&setup.near, &setup.far, setup.handle, SIZE)?;
    let attach = || -> Outcome<f64> {
        let (engine, [near, far]) = open(setup, &options)?;
        let buffer = engine.create_buffer(&near, BufferDescriptor::new(SIZE))?;
        let start = Instant::now();
        let attachment = buffer.attach(&far)?;
        let mapping = attachment.map(Access::Read)?;
        let took = start.elapsed().as_secs_f64();
        drop(mapping);
        Ok(took)
    };
    let import = || -> Outcome<f64> {
        let (_engine, [near, far]) = open(setup, &options)?;
        let by_hand = by_hand.on(&near, &far);
        let block = by_hand.create()?;
        let start = Instant::now();
        let imported = by_hand.share(&block)?;
        let took = start.elapsed().as_secs_f64();
        drop((imported, block));
        Ok(took)
    };
    let mut rounds = Rounds::default();
    for _ in 0..crate::measure::rounds_of(ROUNDS) {
        let (first, theirs) = (attach()?, import()?);
        let (theirs, second) = (theirs + import()?, attach()?);
        rounds.add(first + second, theirs);
    }
    Ok(vec![Figure::part(
        "attach_first",
        "first attach and map of a pair whose routes were proved earlier",
        "vkGetMemoryFdKHR, an import and a buffer, on devices that are as new",
        3.0,
        rounds.summary(),
    )])
}

/// Submits fills of all of a buffer.
fn work(engine: &Engine, device: &Device, mapping: &Mapping, fills: u32) -> Outcome<Fence> {
    let raw = device.raw();
    let submitted = engine.submit(device, |submission| {
        let view = submission.uses(mapping, Access::Write, Scope::TRANSFER)?;
        let record = move |commands| {
            for word in 0..fills {
                // SAFETY: being recorded; a live buffer, and the mapping's range.
                unsafe {
                    raw.cmd_fill_buffer(commands, view.buffer, view.offset, view.size, word);
                }
            }
        };
        // SAFETY: it records valid commands on what was declared.
        unsafe { submission.record(record) };
        Ok(())
    });
    Ok(submitted?)
}

/// `host_read_4k_busy`: the host looks at 4 KiB while a submission runs that uses another buffer of the same memory.
pub(crate) fn host_read_busy(setup: &Setup) -> Outcome<Vec<Figure>> {
    const LARGE: u64 = 8 << 20;
    const FILLS: u32 = 16;
    let (engine, near) = (&setup.engine, &setup.near);
    let create = |size| {
        let descriptor = BufferDescriptor::new(size).placement(Placement::System);
        engine.create_buffer(near, descriptor)
    };
    let (seen, used) = (create(4096)?, create(LARGE)?);
    let attachment = used.attach(near)?;
    let mapping = attachment.map(Access::Write)?;
    mapping.view()?;
    let mut bytes = [0; 4096];
    let mut look = || -> Outcome<f64> {
        let start = Instant::now();
        let access = seen.host_access(Access::Read)?;
        access.read(0, &mut bytes)?;
        access.end()?;
        Ok(start.elapsed().as_secs_f64())
    };
    look()?;
    let mut rounds = Rounds::default();
    for _ in 0..crate::measure::rounds_of(ROUNDS) {
        let (mut ours, mut theirs) = (0.0, 0.0);
        for _ in 0..2 {
            let start = Instant::now();
            let fence = work(engine, near, &mapping, FILLS)?;
            ours += look()?;
            fence.wait(TIMEOUT)?;
            theirs += start.elapsed().as_secs_f64();
        }
        rounds.add(ours, theirs);
    }
    Ok(vec![Figure::part(
        "host_read_4k_busy",
        "the host reads 4 KiB while the device works on another buffer of system memory",
        "that work, submitted and waited for",
        0.05,
        rounds.summary(),
    )])
}

/// `control_probe_bound`: the longest attach while the queues on which routes are proved do not move.
pub(crate) fn probe_bound(setup: &Setup) -> Outcome<Vec<Figure>> {
    const BOUND: Duration = Duration::from_secs(1);
    const TRIES: u32 = 3;
    let mut bounds = Vec::new();
    for _ in 0..TRIES {
        let (engine, [near, far]) = open(setup, &EngineDescriptor::new().timeout(BOUND))?;
        engine.calls().stop_queues(Some(StoppedQueues::OfProbes));
        let buffer = engine.create_buffer(&near, BufferDescriptor::new(SIZE))?;
        let start = Instant::now();
        if buffer.attach(&far).is_ok() {
            return Err("a route was proved on queues that do not move".into());
        }
        bounds.push(start.elapsed().as_secs_f64() / BOUND.as_secs_f64());
        engine.calls().stop_queues(None);
    }
    bounds.sort_by(f64::total_cmp);
    let (least, most) = (bounds[0], bounds[bounds.len() - 1]);
    let figure = Figure::count(
        "control_probe_bound",
        "longest attach with the queues held up, over its bound of 1 s",
        "of the bound",
        Some(1.2),
        most,
    );
    Ok(vec![figure.within(crate::figure::Direction::AtMost, (least, most))])
}
