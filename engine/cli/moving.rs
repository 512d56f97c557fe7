//! The demo's second part: the buffer moves from place to place, all the time, while every device uses it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use indicatif::ProgressBar;
use peerbuf::{
    Attachment, Device, DomainId, Error, Mapping, Migration, PassReport, Refault, SharedBuffer,
};

use crate::Result;
use crate::report::{MovingFacts, PlaceFacts, RefusedFacts};

/// What takes part.
pub(crate) struct Cast<'a> {
    pub(crate) buffer: &'a SharedBuffer,
    pub(crate) devices: &'a [Device],
    pub(crate) seats: &'a [Attachment],
    /// Who is told for each seat.
    pub(crate) importers: &'a [Arc<Refault>],
}

/// How many moves are enough, and how many rounds of uses are waited for them at most.
const MOVES: u64 = 16;
const ROUNDS: u32 = 10;
/// How often a use is tried again because the buffer has moved just before it.
const PATIENCE: u32 = 10_000;

impl Cast<'_> {
    /// Every device writes, every other one checks, while a thread moves the buffer; again and again, until
    /// it has moved often enough.
    pub(crate) fn run(
        &self,
        mappings: &mut [Mapping],
        first_seed: u32,
        progress: &ProgressBar,
    ) -> Result<MovingFacts> {
        let told = || self.importers.iter().map(|importer| importer.times_told()).sum::<u64>();
        let before = told();
        let (done, moves) = (AtomicBool::new(false), AtomicU64::new(0));
        let (moved, used) = std::thread::scope(|scope| {
            let mover = scope.spawn(|| self.keep_moving(&done, &moves));
            let enough = || moves.load(Ordering::Relaxed) >= MOVES;
            let used = self.use_it(mappings, first_seed, progress, enough);
            done.store(true, Ordering::Release);
            // A panic of the mover is a panic of the demo.
            let moved = mover.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            (moved, used)
        });
        let (Moved { places, refused }, found) = (moved?, used?);
        let moves = places.iter().map(|place| place.moves).sum();
        Ok(MovingFacts {
            moves,
            callbacks: told() - before,
            callbacks_expected: moves * self.seats.len() as u64,
            places,
            refused,
            bytes_verified: found.words * 4,
            mismatches: found.wrong,
        })
    }

    /// Moves the buffer around until `done`, and at least once to each place: system memory, each device's
    /// own, and other memory of wherever it is by then, which there always is.
    fn keep_moving(&self, done: &AtomicBool, moves: &AtomicU64) -> Result<Moved> {
        let vram = self.devices.iter().map(|device| Target::Domain(DomainId::Vram(device.id())));
        let mut targets = vec![Target::Domain(DomainId::System)];
        targets.extend(vram);
        targets.push(Target::Elsewhere);
        let mut moved = Moved::default();
        let mut rounds = 0;
        while !targets.is_empty() && (rounds == 0 || !done.load(Ordering::Acquire)) {
            let mut error = Ok(());
            targets.retain(|&to| match self.go(to) {
                Ok(Migration::Done { .. }) => {
                    moves.fetch_add(1, Ordering::Relaxed);
                    moved.count(to)
                }
                Ok(Migration::None) => true,
                Err(error) if error.is_retryable() => true,
                Err(refusal @ (Error::Unreachable { .. } | Error::Unsupported { .. })) => {
                    moved.refuse(to, &refusal)
                }
                Err(refusal) if refusal.is_out_of_memory() => moved.refuse(to, &refusal),
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

    fn go(&self, to: Target) -> peerbuf::Result<Migration> {
        match to {
            Target::Domain(domain) => self.buffer.migrate(domain),
            Target::Elsewhere => self.buffer.relocate(),
        }
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
                // Another round that nobody could know of.
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

    /// Uses a mapping that is of the place where the buffer is: what an importer does that was told.
    fn current<R>(
        &self,
        mapping: &mut Mapping,
        seat: usize,
        work: impl Fn(&Mapping) -> peerbuf::Result<R>,
    ) -> Result<R> {
        let mut tries = 0;
        loop {
            tries += 1;
            match work(mapping) {
                Err(Error::Stale { .. }) if tries < PATIENCE => {
                    self.importers[seat].take_stale();
                    self.seats[seat].remap(mapping)?;
                }
                other => return Ok(other?),
            }
        }
    }
}

/// Where to move it.
#[derive(Clone, Copy)]
enum Target {
    Domain(DomainId),
    Elsewhere,
}

/// Where the buffer has been, and where it could not go.
#[derive(Default)]
struct Moved {
    places: Vec<PlaceFacts>,
    refused: Vec<RefusedFacts>,
}

impl Moved {
    /// `true`: it may go there again.
    fn count(&mut self, to: Target) -> bool {
        let to = name(to);
        match self.places.iter_mut().find(|place| place.place == to) {
            Some(place) => place.moves += 1,
            None => self.places.push(PlaceFacts { place: to, moves: 1 }),
        }
        true
    }

    /// `false`: it will not be tried again.
    fn refuse(&mut self, to: Target, reason: &Error) -> bool {
        self.refused.push(RefusedFacts { place: name(to), reason: reason.to_string() });
        false
    }
}

fn name(place: Target) -> String {
    match place {
        Target::Domain(DomainId::Vram(device)) => format!("vram {}", device.index()),
        Target::Domain(_) => "system".into(),
        Target::Elsewhere => "other memory of the same place".into(),
    }
}
