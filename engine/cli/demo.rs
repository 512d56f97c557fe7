//! `peerbuf demo`.
//!
//! One buffer, which every device writes and every other one checks: first in place, then while it moves
//! ([`crate::moving`]). Then more buffers than fit ([`overcommit`]).

use std::hash::{BuildHasher, RandomState};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use peerbuf::{
    Access, AdapterSelector, Attachment, BufferDescriptor, DomainKind, Mapping, Refault,
    SharedBuffer,
};

use crate::failure::{Failure, Result};
use crate::lineup::Lineup;
use crate::moving::Participants;
use crate::outcome::Outcome;
use crate::report::{DemoReport, DeviceFacts, OneReport, PairResult, UnusableFacts};
use crate::size::Size;
use crate::{output, overcommit, show};

/// The arguments of the command.
#[derive(Debug)]
pub(crate) struct Demo {
    pub(crate) devices: Vec<AdapterSelector>,
    pub(crate) size: Size,
    pub(crate) vram: Size,
    pub(crate) trace: Option<PathBuf>,
    pub(crate) json: bool,
    pub(crate) verbose: bool,
    /// The longest that one wait may take, for a small size.
    pub(crate) timeout: Duration,
}

impl Demo {
    /// Runs the command.
    pub(crate) fn run(&self) -> Result<Outcome> {
        // The overcommit part has its own engine, whose counters and trace hold nothing else. It is opened
        // first, so that a trace file that cannot be written is reported before any work.
        let job = Lineup::open(&self.devices, self.timeout(self.vram), self.trace.as_deref())?;
        let one = self.share_one()?;
        let bar = progress(overcommit::work(self.vram), self.json);
        let overcommit = overcommit::run(&job, self.vram, fresh_seed(), &bar)?;
        bar.finish_and_clear();
        if let Err(error) = job.engine.finish_trace() {
            return Err(Failure::opening(error, self.trace.as_deref()));
        }
        drop(job);
        let report = DemoReport::new(one, overcommit);
        if self.json {
            output::print_json(&report)?;
        } else {
            output::print(&show::demo(&report, self.trace.as_deref(), self.verbose))?;
        }
        let notified = report.one.moving.callbacks >= report.one.moving.callbacks_expected;
        Ok(Outcome::of(report.mismatches == 0 && notified && report.overcommit.is_proved()))
    }

    /// The longest that one wait may take. Even a software device on a busy machine moves 8 MiB in a second.
    fn timeout(&self, size: Size) -> Duration {
        self.timeout + Duration::from_secs(size.bytes() / (8 << 20))
    }

    /// Runs the first part: one buffer that all devices use, in place and while it moves.
    fn share_one(&self) -> Result<OneReport> {
        let lineup = Lineup::open(&self.devices, self.timeout(self.size), None)?;
        let start = Instant::now();
        let size = self.size;
        let buffer = lineup
            .engine
            .create_buffer(&lineup.devices[0], BufferDescriptor::new(size.bytes()).name("demo"))?;
        // All devices attach before any maps. The buffer may have to move to where all of them reach it,
        // and a mapped buffer cannot.
        let importers: Vec<_> = lineup.devices.iter().map(|_| Arc::new(Refault::new())).collect();
        let attachments = attach_all(&lineup, &buffer, &importers)?;
        let mut mappings = map_all(&attachments)?;
        // For n devices: n fills and n (n - 1) checks, once in place and once while the buffer moves.
        let passes = 2 * (mappings.len() * mappings.len()) as u64;
        let bar = progress(size.bytes().saturating_mul(passes), self.json);
        let first_seed = fresh_seed();
        let results = share(&mappings, first_seed, size, &bar)?;
        let (devices, importers) = (&lineup.devices, &importers[..]);
        let participants =
            Participants { buffer: &buffer, devices, attachments: &attachments, importers };
        // CAST: an engine takes fewer devices.
        let moving =
            participants.run(&mut mappings, first_seed.wrapping_add(devices.len() as u32), &bar)?;
        bar.finish_and_clear();
        Ok(OneReport {
            size: size.bytes(),
            pairs: results.len(),
            moves: moving.moves,
            domain: match buffer.domain().kind() {
                DomainKind::Vram => "vram",
                _ => "system",
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
        })
    }
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

fn map_all(attachments: &[Attachment]) -> Result<Vec<Mapping>> {
    attachments.iter().map(|attachment| Ok(attachment.map(Access::ReadWrite)?)).collect()
}

/// Lets each device write, and each other one check.
fn share(
    mappings: &[Mapping],
    first_seed: u32,
    size: Size,
    progress: &ProgressBar,
) -> Result<Vec<PairResult>> {
    let mut results = Vec::new();
    for ((from, writer), turn) in mappings.iter().enumerate().zip(0..) {
        progress.set_message(format!("{from} writes"));
        // A new pattern at each turn, so that no check passes with the bytes of an earlier one.
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

/// A seed for patterns that no earlier run has left in memory.
pub(crate) fn fresh_seed() -> u32 {
    // CAST: any 32 of the random bits are enough.
    RandomState::new().hash_one("peerbuf demo") as u32
}

/// A progress bar on standard error. It is hidden if that is not a terminal.
pub(crate) fn progress(bytes: u64, json: bool) -> ProgressBar {
    if json {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template(
        "{msg:18} {wide_bar} {binary_bytes} of {binary_total_bytes}, {eta} left",
    );
    let bar = ProgressBar::with_draw_target(Some(bytes), ProgressDrawTarget::stderr());
    bar.with_style(style.expect("the template is well-formed"))
}
