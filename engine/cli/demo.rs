//! `peerbuf demo`: one buffer, every device writes it, every other one checks it; first where it is, then
//! while it moves.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use peerbuf::{
    Access, AdapterSelector, Attachment, BufferDescriptor, DomainKind, Mapping, Refault,
    SharedBuffer,
};

use crate::lineup::Lineup;
use crate::moving::Cast;
use crate::report::{DemoReport, DeviceFacts, PairResult, SCHEMA, UnusableFacts};
use crate::size::Size;
use crate::{Outcome, Result, output, show};

/// Runs the command.
pub(crate) fn run(selected: &[AdapterSelector], size: Size, json: bool) -> Result<Outcome> {
    let lineup = Lineup::open(selected, timeout(size))?;
    let start = Instant::now();
    let buffer = lineup
        .engine
        .create_buffer(&lineup.devices[0], BufferDescriptor::new(size.bytes()).name("demo"))?;
    // Everybody sits down before anybody maps: the buffer may have to move to where all can reach it,
    // and mapped it cannot.
    let importers: Vec<_> = lineup.devices.iter().map(|_| Arc::new(Refault::new())).collect();
    let seats = attach_all(&lineup, &buffer, &importers)?;
    let mut mappings = map_all(&seats)?;
    let progress = progress(size, mappings.len(), json);
    let first_seed = fresh_seed();
    let results = share(&mappings, first_seed, size, &progress)?;
    let (devices, importers) = (&lineup.devices, &importers[..]);
    let cast = Cast { buffer: &buffer, devices, seats: &seats, importers };
    // CAST: no more devices than an engine takes.
    let moving =
        cast.run(&mut mappings, first_seed.wrapping_add(devices.len() as u32), &progress)?;
    progress.finish_and_clear();
    let report = DemoReport {
        schema: SCHEMA,
        size: size.bytes(),
        pairs: results.len(),
        bytes_verified: moving.bytes_verified
            + results.iter().map(|pair| pair.bytes_verified).sum::<u64>(),
        mismatches: moving.mismatches + results.iter().map(|pair| pair.mismatches).sum::<u64>(),
        moves: moving.moves,
        callbacks: moving.callbacks,
        domain: match buffer.domain().kind() {
            DomainKind::Vram => "vram",
            DomainKind::System => "system",
        },
        home: buffer.home().id().index(),
        provider: buffer.provider().name(),
        generation: buffer.generation(),
        seconds: start.elapsed().as_secs_f64(),
        devices: DeviceFacts::of_all(&lineup.devices),
        results,
        moving,
        report: lineup.engine.report().into(),
        unusable: UnusableFacts::of_all(&lineup.unusable),
    };
    if json {
        output::print_json(&report)?;
    } else {
        output::print(&show::demo(&report))?;
    }
    let told = report.moving.callbacks >= report.moving.callbacks_expected;
    Ok(Outcome::of(report.mismatches == 0 && told))
}

/// The bound of one wait: even a software device on a busy machine moves 8 MiB in a second.
fn timeout(size: Size) -> Duration {
    Duration::from_secs(10 + size.bytes() / (8 << 20))
}

fn attach_all(
    lineup: &Lineup,
    buffer: &SharedBuffer,
    importers: &[Arc<Refault>],
) -> Result<Vec<Attachment>> {
    let pairs = lineup.devices.iter().zip(importers);
    pairs
        .map(|(device, importer)| Ok(buffer.attach_dynamic(device, Arc::clone(importer) as _)?))
        .collect()
}

fn map_all(seats: &[Attachment]) -> Result<Vec<Mapping>> {
    seats.iter().map(|seat| Ok(seat.map(Access::ReadWrite)?)).collect()
}

/// Each device writes, each other one checks.
fn share(
    mappings: &[Mapping],
    first_seed: u32,
    size: Size,
    progress: &ProgressBar,
) -> Result<Vec<PairResult>> {
    let mut results = Vec::new();
    for ((from, writer), turn) in mappings.iter().enumerate().zip(0..) {
        progress.set_message(format!("{from} writes"));
        // Another pattern at each turn, so that nobody can pass with what was there before.
        let seed = first_seed.wrapping_add(turn);
        let (fill_seconds, ()) = timed(|| writer.fill(seed))?;
        progress.inc(size.bytes());
        for (to, reader) in mappings.iter().enumerate().filter(|(to, _)| *to != from) {
            progress.set_message(format!("{from} → {to}"));
            let (verify_seconds, found) = timed(|| reader.verify(seed))?;
            progress.inc(size.bytes());
            results.push(PairResult {
                from,
                to,
                bytes_verified: found.words * 4,
                mismatches: found.wrong,
                first_mismatch: found.first_wrong,
                fill_seconds,
                verify_seconds,
            });
        }
    }
    Ok(results)
}

fn timed<T>(work: impl FnOnce() -> peerbuf::Result<T>) -> Result<(f64, T)> {
    let start = Instant::now();
    let out = work()?;
    Ok((start.elapsed().as_secs_f64(), out))
}

/// A seed that no earlier run has left behind in memory.
fn fresh_seed() -> u32 {
    // CAST: any 32 of the random bits will do.
    RandomState::new().hash_one("peerbuf demo") as u32
}

/// A bar on standard error. It hides itself where that is no terminal.
fn progress(size: Size, devices: usize, json: bool) -> ProgressBar {
    if json {
        return ProgressBar::hidden();
    }
    // One fill and `devices - 1` verifications for each device, twice.
    let passes = 2 * (devices * devices) as u64;
    let total = size.bytes().saturating_mul(passes);
    let style = ProgressStyle::with_template(
        "{msg:18} {bar:40} {binary_bytes} of {binary_total_bytes}, {eta} left",
    );
    let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
    bar.with_style(style.expect("the template is well-formed"))
}
