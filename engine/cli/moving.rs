//! The second part of the demo: the buffer moves between memories while every device uses it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use indicatif::ProgressBar;
use peerbuf::{
    Attachment, Device, DomainId, Error, Mapping, Migration, PassReport, Refault, SharedBuffer,
};

use crate::failure::{Result, reasons};
use crate::report::{MovingFacts, PlaceFacts, RefusedFacts};

/// The buffer, and its attachments by device.
pub(crate) struct Participants<'a> {
    pub(crate) buffer: &'a SharedBuffer,
    pub(crate) devices: &'a [Device],
    pub(crate) attachments: &'a [Attachment],
    /// The importer of each attachment, which is notified of moves.
    pub(crate) importers: &'a [Arc<Refault>],
}

/// The number of moves after which the demo ends.
pub(crate) const MOVES: u64 = 16;
/// The number of rounds of uses after which it ends even with fewer moves.
pub(crate) const ROUNDS: u32 = 10;
/// How often a use is tried again because the buffer moved just before it.
const MAX_TRIES: u32 = 10_000;

impl Participants<'_> {
    /// Lets every device write and every other one check, while a thread moves the buffer. Repeats that until
    /// the buffer has moved often enough.
    pub(crate) fn run(
        &self,
        mappings: &mut [Mapping],
        first_seed: u32,
        progress: &ProgressBar,
    ) -> Result<MovingFacts> {
        let notified =
            || self.importers.iter().map(|importer| importer.notifications()).sum::<u64>();
        let before = notified();
        let (done, moves) = (AtomicBool::new(false), AtomicU64::new(0));
        let (moved, used) = std::thread::scope(|scope| {
            let moving = scope.spawn(|| keep_moving((self.buffer, self.devices), &done, &moves));
            let enough = || moves.load(Ordering::Relaxed) >= MOVES;
            let used = self.use_it(mappings, first_seed, progress, enough);
            done.store(true, Ordering::Release);
            // A panic of the moving thread is a panic of the demo.
            let moved = moving.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            (moved, used)
        });
        let (Moved { places, refused }, found) = (moved?, used?);
        let moves = places.iter().map(|place| place.moves).sum();
        Ok(MovingFacts {
            moves,
            callbacks: notified() - before,
            callbacks_expected: moves * self.attachments.len() as u64,
            places,
            refused,
            bytes_verified: found.words * 4,
            mismatches: found.wrong,
        })
    }

    fn use_it(
        &self,
        mappings: &mut [Mapping],
        first_seed: u32,
        progress: &ProgressBar,
        enough: impl Fn() -> bool,
    ) -> Result<PassReport> {
        let size = self.buffer.size();
        let mut found = PassReport::default();
        let mut turns = 0;
        let writers =
            (0..ROUNDS).flat_map(|round| (0..mappings.len()).map(move |from| (round, from)));
        for (round, from) in writers.collect::<Vec<_>>() {
            if round > 0 && from == 0 {
                if enough() {
                    break;
                }
                // The length of the bar was set for one round.
                progress.inc_length(size.saturating_mul((mappings.len() * mappings.len()) as u64));
            }
            progress.set_message(format!("moving, {from} writes"));
            turns += 1;
            let seed = first_seed.wrapping_add(turns);
            self.current(&mut mappings[from], from, |mapping| mapping.fill(seed))?;
            progress.inc(size);
            for to in (0..mappings.len()).filter(|&to| to != from) {
                progress.set_message(format!("moving, {from} → {to}"));
                let report = self.current(&mut mappings[to], to, |mapping| mapping.verify(seed))?;
                found.words += report.words;
                found.wrong += report.wrong;
                progress.inc(size);
            }
        }
        Ok(found)
    }

    /// Uses a current mapping: maps again if the buffer has moved, as an importer does that was notified.
    fn current<R>(
        &self,
        mapping: &mut Mapping,
        device: usize,
        work: impl Fn(&Mapping) -> peerbuf::Result<R>,
    ) -> Result<R> {
        let mut tries = 0;
        loop {
            tries += 1;
            match work(mapping) {
                Err(Error::Stale { .. }) if tries < MAX_TRIES => {
                    self.importers[device].take_stale();
                    self.attachments[device].remap(mapping)?;
                }
                other => return Ok(other?),
            }
        }
    }
}

/// Moves a buffer until `done`, and tries each target at least once: system memory, the memory of each of the devices, and
/// other memory in the domain where the buffer then is. The last one is always possible.
pub(crate) fn keep_moving(
    (buffer, devices): (&SharedBuffer, &[Device]),
    done: &AtomicBool,
    moves: &AtomicU64,
) -> Result<Moved> {
    let vram = devices.iter().map(|device| Target::Domain(DomainId::Vram(device.id())));
    let mut targets = vec![Target::Domain(DomainId::System)];
    targets.extend(vram);
    targets.push(Target::SameDomain);
    let mut moved = Moved::default();
    let mut rounds = 0;
    while !targets.is_empty() && (rounds == 0 || !done.load(Ordering::Acquire)) {
        let mut error = Ok(());
        targets.retain(|&to| match move_to(buffer, to) {
            Ok(Migration::Done { .. }) => {
                moves.fetch_add(1, Ordering::Relaxed);
                moved.count(to)
            }
            Ok(_) => true,
            Err(error) if error.is_retryable() => true,
            Err(refusal @ (Error::Unreachable { .. } | Error::Unsupported { .. })) => {
                moved.refuse(to, &refusal, devices)
            }
            Err(refusal) if refusal.is_out_of_memory() => moved.refuse(to, &refusal, devices),
            Err(other) => {
                error = Err(other);
                false
            }
        });
        error?;
        rounds += 1;
    }
    Ok(moved)
}

fn move_to(buffer: &SharedBuffer, to: Target) -> peerbuf::Result<Migration> {
    match to {
        Target::Domain(domain) => buffer.migrate(domain),
        Target::SameDomain => buffer.relocate(),
    }
}

/// Where to move the buffer.
#[derive(Clone, Copy)]
enum Target {
    Domain(DomainId),
    SameDomain,
}

/// Where the buffer has been, and where it could not be moved.
#[derive(Default)]
pub(crate) struct Moved {
    pub(crate) places: Vec<PlaceFacts>,
    pub(crate) refused: Vec<RefusedFacts>,
}

impl Moved {
    /// Counts a move. Returns `true`: the target stays in the list.
    fn count(&mut self, to: Target) -> bool {
        let to = name(to);
        match self.places.iter_mut().find(|place| place.place == to) {
            Some(place) => place.moves += 1,
            None => self.places.push(PlaceFacts { place: to, moves: 1 }),
        }
        true
    }

    /// Notes that a target is impossible. Returns `false`: the target leaves the list.
    fn refuse(&mut self, to: Target, reason: &Error, devices: &[Device]) -> bool {
        let summary = match reason {
            Error::Unreachable { device, .. } => {
                format!("{} cannot reach it", short(device, devices))
            }
            other => other.with_causes(),
        };
        let details = reasons(reason);
        self.refused.push(RefusedFacts {
            place: name(to),
            reason: [vec![reason.to_string()], details.clone()].concat().join("; "),
            summary,
            details,
        });
        false
    }
}

/// A device by its number, as the list of devices shows it; by its name if several devices have that name.
fn short(name: &str, devices: &[Device]) -> String {
    let mut found = devices.iter().filter(|device| device.name() == name);
    match (found.next(), found.next()) {
        (Some(device), None) => device.id().to_string(),
        _ => name.to_owned(),
    }
}

fn name(place: Target) -> String {
    match place {
        Target::Domain(DomainId::Vram(device)) => format!("vram {}", device.index()),
        Target::Domain(_) => "system".into(),
        Target::SameDomain => "other memory of the same place".into(),
    }
}
