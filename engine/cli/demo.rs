//! `peerbuf demo`: one buffer, every device writes it, every other one checks it.

use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use peerbuf::{
    Access, AdapterSelector, Attachment, BufferDescriptor, DomainKind, Mapping, SharedBuffer,
};

use crate::lineup::Lineup;
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
    let seats = attach_all(&lineup, &buffer)?;
    let mappings = map_all(&seats)?;
    let results = share(&mappings, size, &progress(size, mappings.len(), json))?;
    let report = DemoReport {
        schema: SCHEMA,
        size: size.bytes(),
        pairs: results.len(),
        bytes_verified: results.iter().map(|pair| pair.bytes_verified).sum(),
        mismatches: results.iter().map(|pair| pair.mismatches).sum(),
        domain: match buffer.domain().kind() {
            DomainKind::Vram => "vram",
            DomainKind::System => "system",
        },
        provider: buffer.provider().name(),
        generation: buffer.generation(),
        seconds: start.elapsed().as_secs_f64(),
        devices: DeviceFacts::of_all(&lineup.devices),
        results,
        report: lineup.engine.report().into(),
        unusable: UnusableFacts::of_all(&lineup.unusable),
    };
    if json {
        output::print_json(&report)?;
    } else {
        output::print(&show::demo(&report))?;
    }
    Ok(Outcome::of(report.mismatches == 0))
}

/// The bound of one wait: even a software device on a busy machine moves 8 MiB in a second.
fn timeout(size: Size) -> Duration {
    Duration::from_secs(10 + size.bytes() / (8 << 20))
}

fn attach_all(lineup: &Lineup, buffer: &SharedBuffer) -> Result<Vec<Attachment>> {
    lineup.devices.iter().map(|device| Ok(buffer.attach(device)?)).collect()
}

fn map_all(seats: &[Attachment]) -> Result<Vec<Mapping>> {
    seats.iter().map(|seat| Ok(seat.map(Access::ReadWrite)?)).collect()
}

/// Each device writes, each other one checks.
fn share(mappings: &[Mapping], size: Size, progress: &ProgressBar) -> Result<Vec<PairResult>> {
    let mut results = Vec::new();
    let first_seed = fresh_seed();
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
    progress.finish_and_clear();
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
    // One fill and `devices - 1` verifications for each device.
    let passes = (devices * devices) as u64;
    let total = size.bytes().saturating_mul(passes);
    let style = ProgressStyle::with_template(
        "{msg:12} {bar:40} {binary_bytes} of {binary_total_bytes}, {eta} left",
    );
    let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
    bar.with_style(style.expect("the template is well-formed"))
}
