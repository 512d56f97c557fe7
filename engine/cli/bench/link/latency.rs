//! How long operations take whose size does not matter.

use std::sync::Arc;
use std::time::{Duration, Instant};

use peerbuf::{Access, Attachment, BufferDescriptor, Device, DomainId, Engine, Placement, Refault};

use super::super::run::{Latency, LatencyKey};
use super::super::stats;
use super::bed::Bed;
use super::label;
use super::place::end;

/// Bytes of the buffers, but for those that are shared for the first time.
const SIZE: u64 = 4 << 10;

/// How many importers are notified of one move.
const FAN_OUT: usize = 64;

/// How often each operation is measured, with all others in between: one round says nothing about the machine's drift.
const ROUNDS: u32 = 5;

/// The most samples of one operation in a round.
const MOST: usize = 250;

/// The most buffers that are shared for the first time in a round: each has memory, and an fd, of its own.
const SHARED: usize = 25;

/// An operation: its name, and what measures it, in nanoseconds.
type Operation = (&'static str, fn(&Work<'_>) -> peerbuf::Result<Vec<f64>>);

/// Those of one device.
const OF_ONE: &[Operation] = &[("submit_and_wait", submit_and_wait), ("migrate_4k", migrate)];

/// Those of two devices.
const OF_TWO: &[Operation] =
    &[("share", share), ("cached_share", cached_share), ("callback_fan_out", callback_fan_out)];

/// What an operation is measured with.
struct Work<'a> {
    engine: &'a Engine,
    first: &'a Device,
    second: &'a Device,
    timeout: Duration,
    /// How long samples are taken.
    within: Duration,
}

/// The names of those that are wanted.
pub(super) fn names(devices: usize, wants: &dyn Fn(&str) -> bool) -> Vec<String> {
    let name =
        |((name, _), from, to): (Operation, _, _)| label::of_latency(name, end(from), end(to));
    operations(devices).map(name).filter(|name| wants(name)).collect()
}

fn operations(devices: usize) -> impl Iterator<Item = (Operation, usize, usize)> {
    let one = (0..devices).flat_map(|at| OF_ONE.iter().map(move |of| (*of, at, at)));
    let pairs = (0..devices)
        .flat_map(move |from| (0..devices).map(move |to| (from, to)))
        .filter(|(from, to)| from != to);
    let two = pairs.flat_map(|(from, to)| OF_TWO.iter().map(move |of| (*of, from, to)));
    one.chain(two)
}

/// Measures all that are wanted, each for at most `within`.
pub(super) fn measure(
    bed: &Bed<'_>,
    within: Duration,
    wants: &dyn Fn(&str) -> bool,
    mut each: impl FnMut(&str),
) -> Vec<Latency> {
    let name = |((operation, _), from, to): &(Operation, _, _)| {
        label::of_latency(operation, end(*from), end(*to))
    };
    let operations: Vec<_> = operations(bed.devices.len()).filter(|it| wants(&name(it))).collect();
    let mut rounds: Vec<Vec<Vec<f64>>> = vec![vec![]; operations.len()];
    let mut notes: Vec<Option<String>> = vec![None; operations.len()];
    for round in 0..ROUNDS {
        let measured = operations.iter().zip(&mut rounds).zip(&mut notes);
        for ((at, samples), note) in measured.filter(|(_, note)| note.is_none()) {
            if let Some(why) = bed.stop.reason() {
                // What was measured in earlier rounds stays.
                *note = (round == 0).then(|| format!("left out: {why}"));
                continue;
            }
            each(&name(at));
            let ((_, measure), from, to) = *at;
            let work = Work {
                engine: bed.engine,
                first: &bed.devices[from],
                second: &bed.devices[to],
                timeout: bed.timeout,
                within: within / ROUNDS,
            };
            match measure(&work) {
                Ok(round) => samples.push(round),
                Err(error) => *note = Some(error.with_causes()),
            }
        }
    }
    let latency = |(((operation, from, to), rounds), note): (((Operation, _, _), Vec<_>), _)| {
        let (operation, from, to) = (operation.0.to_owned(), end(from), end(to));
        let key = LatencyKey { operation, from, to, way: None, processes: 1 };
        // An operation that failed has no result, whatever it measured before.
        let rounds = if Option::is_some(&note) { vec![] } else { rounds };
        Latency { key, percentiles: stats::percentiles(&rounds), note }
    };
    operations.into_iter().zip(rounds).zip(notes).map(latency).collect()
}

impl Work<'_> {
    /// Takes samples: the time of `operation`, on what `prepare` returns.
    fn sample<T, R>(
        &self,
        mut prepare: impl FnMut() -> peerbuf::Result<T>,
        mut operation: impl FnMut(&mut T) -> peerbuf::Result<R>,
    ) -> peerbuf::Result<Vec<f64>> {
        const FEW: usize = 10;
        // What is made once, such as a kernel or a route, is no part of the latency.
        for _ in 0..2 {
            operation(&mut prepare()?)?;
        }
        let (begin, mut samples) = (Instant::now(), Vec::new());
        while samples.len() < FEW || samples.len() < MOST && begin.elapsed() < self.within {
            let mut prepared = prepare()?;
            let start = Instant::now();
            let result = operation(&mut prepared)?;
            // CAST: far below 2⁵³.
            samples.push(start.elapsed().as_nanos() as f64);
            drop(result);
        }
        Ok(samples)
    }
}

/// A submission that uses a buffer, and the wait for its end.
fn submit_and_wait(work: &Work<'_>) -> peerbuf::Result<Vec<f64>> {
    let descriptor = BufferDescriptor::new(SIZE);
    let buffer = work.engine.create_buffer(work.first, descriptor)?;
    let mapping = buffer.attach(work.first)?.map(Access::ReadWrite)?;
    work.sample(
        || Ok(()),
        |()| {
            let submitted =
                work.engine.submit(work.first, |submission| submission.write(&mapping).map(drop));
            submitted?.wait(work.timeout)
        },
    )
}

/// A second device attaches a buffer that it has not imported, and maps it.
fn share(work: &Work<'_>) -> peerbuf::Result<Vec<f64>> {
    let placement = reached(work)?;
    // Memory that is used again has been imported before: what is unused is given back first, and these buffers stay.
    work.engine.trim();
    let mut all = Vec::new();
    let mut samples = Vec::new();
    let begin = Instant::now();
    while samples.len() < SHARED && begin.elapsed() < work.within {
        let descriptor = BufferDescriptor::new(SIZE).dedicated().placement(placement);
        let buffer = work.engine.create_buffer(work.first, descriptor)?;
        let own = buffer.attach(work.first)?;
        let start = Instant::now();
        let shared = attach_and_map(&buffer, work.second)?;
        // CAST: far below 2⁵³.
        samples.push(start.elapsed().as_nanos() as f64);
        all.push((buffer, own, shared));
    }
    // The first one may do what is done once.
    Ok(samples.split_off(usize::from(samples.len() > 1)))
}

/// A second device attaches and maps a buffer whose memory it has imported for another buffer.
fn cached_share(work: &Work<'_>) -> peerbuf::Result<Vec<f64>> {
    let placement = reached(work)?;
    let create = || {
        let descriptor = BufferDescriptor::new(SIZE).placement(placement);
        let buffer = work.engine.create_buffer(work.first, descriptor)?;
        let own = buffer.attach(work.first)?;
        Ok((buffer, own))
    };
    let (kept, _own) = create()?;
    let _imported = kept.attach(work.second)?;
    work.sample(create, |(buffer, _)| attach_and_map(buffer, work.second))
}

fn attach_and_map(
    buffer: &peerbuf::SharedBuffer,
    device: &Device,
) -> peerbuf::Result<(peerbuf::Mapping, Attachment)> {
    let attachment = buffer.attach(device)?;
    Ok((attachment.map(Access::Read)?, attachment))
}

/// The placement of a new buffer of the first device that the second one reaches without a move.
fn reached(work: &Work<'_>) -> peerbuf::Result<Placement> {
    let buffer = work.engine.create_buffer(work.first, BufferDescriptor::new(SIZE).dedicated())?;
    let _attachment = buffer.attach(work.second)?;
    Ok(match buffer.domain() {
        DomainId::System => Placement::System,
        _ => Placement::Vram,
    })
}

/// A buffer moves out of the device's memory, or back, and is there.
fn migrate(work: &Work<'_>) -> peerbuf::Result<Vec<f64>> {
    let buffer = work.engine.create_buffer(work.first, BufferDescriptor::new(SIZE))?;
    // Bytes that were never written would not be copied.
    let access = buffer.host_access(Access::Write)?;
    access.fill(0, SIZE as usize, 1)?;
    access.end()?;
    let domains = [DomainId::System, DomainId::Vram(work.first.id())];
    let mut turn = 0;
    work.sample(
        || Ok(()),
        |()| {
            buffer.migrate(domains[turn % 2])?;
            turn += 1;
            // The first access of the host waits for the copy.
            buffer.host_access(Access::Read)?.end()
        },
    )
}

/// A move of a buffer that has many importers, all of which are notified.
fn callback_fan_out(work: &Work<'_>) -> peerbuf::Result<Vec<f64>> {
    let buffer = work.engine.create_buffer(work.first, BufferDescriptor::new(SIZE))?;
    let importers: Vec<_> = (0..FAN_OUT).map(|_| Arc::new(Refault::new())).collect();
    let attach =
        |importer: &Arc<Refault>| buffer.attach_dynamic(work.second, Arc::clone(importer) as _);
    let attachments: Vec<_> = importers.iter().map(attach).collect::<Result<_, _>>()?;
    work.sample(
        // Only importers that have mapped the buffer are notified.
        || attachments.iter().map(|it| it.map(Access::Read)).collect::<Result<Vec<_>, _>>(),
        |_| buffer.relocate(),
    )
}
