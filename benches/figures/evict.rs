//! Cost of evicting a large buffer from a device's memory, and of bringing it back.

use std::sync::Arc;
use std::time::Instant;

use peerbuf::observe::MoveCause;
use peerbuf::{Access, Attachment, Fence, Migration, Refault, SharedBuffer};

use crate::Outcome;
use crate::by_hand::{ByHand, write_pattern};
use crate::copy::HeapCopy;
use crate::figure::Figure;
use crate::hand::Recorded;
use crate::measure::Rounds;
use crate::setup::Setup;
use crate::share::{create_on, fill, verify};

const SIZE: u64 = 64 << 20;
const SEED: u32 = 2026;
/// Odd, so that the median is one of the rounds.
const ROUNDS: usize = 51;

/// `evict_64m`: evicts a written buffer in the steady state: the destination is memory that this buffer or
/// another one had before. By hand: new exportable memory, a copy, and the old memory is freed.
pub(crate) fn by_hand(setup: &Setup) -> Outcome<Vec<Figure>> {
    let ours = Ours::new(setup)?;
    let hand = ByHand::new(&setup.near, &setup.far, setup.handle, SIZE)?;
    let first = hand.create()?;
    write_pattern(&setup.near, &first, SIZE)?;
    let mut block = Some(first);
    let mut by_hand = || {
        let Some(old) = block.take() else { return Err("the buffer has no memory".into()) };
        timed(|| {
            let new = hand.create()?;
            Recorded::copy(&setup.near, &old, &new, SIZE)?.run()?;
            drop(old);
            block = Some(new);
            Ok(())
        })
    };
    let mut rounds = Rounds::default();
    ours.evict_and_return()?;
    for _ in 0..crate::measure::rounds_of(ROUNDS) {
        let first = ours.evict_and_return()?.evict;
        let theirs = by_hand()? + by_hand()?;
        rounds.add(first + ours.evict_and_return()?.evict, theirs);
    }
    ours.check()?;
    Ok(vec![Figure::speed(
        "evict_64m",
        "evict a written buffer of 64 MiB",
        "allocate, copy and free by hand",
        Some(8.0),
        rounds.summary(),
    )])
}

/// `evict_bandwidth` and `restore_bandwidth`: against a `memcpy` of as many bytes, warm.
pub(crate) fn bandwidth(setup: &Setup) -> Outcome<Vec<Figure>> {
    let ours = Ours::new(setup)?;
    let mut heap = HeapCopy::new()?;
    let mut memcpy = || timed(|| (heap.copy(), Ok(())).1);
    let (mut evict, mut restore) = (Rounds::default(), Rounds::default());
    ours.evict_and_return()?;
    memcpy()?;
    for _ in 0..crate::measure::rounds_of(ROUNDS) {
        let first = ours.evict_and_return()?;
        let theirs = memcpy()? + memcpy()?;
        let last = ours.evict_and_return()?;
        evict.add(first.evict + last.evict, theirs);
        restore.add(first.restore + last.restore, theirs);
    }
    ours.check()?;
    let figure = |id, what, rounds: Rounds| {
        Figure::speed(id, what, "memcpy on the heap", Some(0.95), rounds.summary())
    };
    Ok(vec![
        figure("evict_bandwidth", "evict a written buffer of 64 MiB", evict),
        figure("restore_bandwidth", "bring a buffer of 64 MiB back", restore),
    ])
}

/// `clean_evict_bytes`: bytes copied to evict a buffer that was not written since it was brought back.
pub(crate) fn clean(setup: &Setup) -> Outcome<Vec<Figure>> {
    let ours = Ours::new(setup)?;
    ours.evict_and_return()?;
    let before = setup.engine.moved(MoveCause::Evicted);
    moves(&ours.buffer.evict()?)?;
    let after = setup.engine.moved(MoveCause::Evicted);
    ours.check()?;
    if after.moves != before.moves + 1 {
        return Err("the buffer was not evicted".into());
    }
    Ok(vec![Figure::count(
        "clean_evict_bytes",
        "bytes copied to evict 64 MiB that were not written since they were brought back",
        "bytes",
        Some(0.0),
        (after.copied - before.copied) as f64,
    )])
}

/// Creates a buffer in a device's memory and writes it.
struct Ours<'a> {
    setup: &'a Setup,
    buffer: SharedBuffer,
    attachment: Attachment,
}

/// Seconds of an eviction and of the way back.
struct Trip {
    evict: f64,
    restore: f64,
}

impl<'a> Ours<'a> {
    fn new(setup: &'a Setup) -> Outcome<Self> {
        let buffer = create_on(setup, &setup.near, SIZE)?;
        fill(&buffer, &setup.near, SEED)?;
        let attachment = buffer.attach_dynamic(&setup.near, Arc::new(Refault::new()))?;
        Ok(Self { setup, buffer, attachment })
    }

    /// Evicts the buffer with all its bytes, and brings it back.
    fn evict_and_return(&self) -> Outcome<Trip> {
        // The access declares the whole buffer as written, so the engine must copy all of it.
        let mapping = self.attachment.map(Access::Write)?;
        mapping.begin_access(Access::Write)?.end(Fence::signalled());
        let evict = self.timed(|| self.buffer.evict())?;
        let restore = self.timed(|| self.buffer.request_residency())?;
        Ok(Trip { evict, restore })
    }

    /// Seconds until the copy has ended, on whatever queue it runs: the host's access waits for it.
    fn timed(&self, work: impl FnOnce() -> peerbuf::Result<Migration>) -> Outcome<f64> {
        timed(|| {
            moves(&work()?)?;
            drop(self.buffer.host_access(Access::Read)?);
            Ok(())
        })
    }

    fn check(&self) -> Outcome<()> {
        verify(&self.buffer, &self.setup.far, SEED)
    }
}

pub(crate) fn moves(migration: &Migration) -> Outcome<()> {
    match migration {
        Migration::Done { .. } => Ok(()),
        _ => Err("the buffer did not move".into()),
    }
}

pub(crate) fn timed(work: impl FnOnce() -> Outcome<()>) -> Outcome<f64> {
    let start = Instant::now();
    work()?;
    Ok(start.elapsed().as_secs_f64())
}
