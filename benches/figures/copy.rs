//! Cost of a copy from one device to another.

use std::hint::black_box;

use peerbuf::{Access, CopyRegion, SharedBuffer};

use crate::Outcome;
use crate::by_hand::{ByHand, check_pattern, write_pattern};
use crate::figure::Figure;
use crate::hand::Recorded;
use crate::measure::{Plan, compare};
use crate::setup::{Setup, TIMEOUT};
use crate::share::{create_on, fill, verify};

/// Source and destination together are several times the usual last-level cache.
pub(crate) const SIZE: u64 = 64 << 20;
const SEED: u32 = 2026;

/// Number of pairs of source and destination that each contender uses in turn. The speed of one pair depends on
/// its place in physical memory by up to 6 %.
const PAIRS: usize = 4;

/// `copy_64m_vs_ash`: against one recorded copy between the device's own memory and an imported fd.
///
/// Both sides copy on the destination's device, the one that peerbuf chooses, so both do the same work on the
/// same queue.
pub(crate) fn vs_ash(setup: &Setup) -> Outcome<Vec<Figure>> {
    let (near, far) = (&setup.near, &setup.far);
    let sources = ByHand::new(near, far, setup.handle, SIZE)?;
    let targets = ByHand::new(far, near, setup.handle, SIZE)?;
    let by_hand = || {
        let source = sources.create()?;
        write_pattern(near, &source, SIZE)?;
        let seen = sources.share(&source)?;
        let target = targets.create()?;
        let recorded = Recorded::copy(far, &seen, &target, SIZE)?;
        Ok((recorded, source, seen, target))
    };
    let (ours, by_hand) = in_turns(|| Ours::new(setup), by_hand)?;
    let mut turns = Turns::default();
    let mut their_turns = Turns::default();
    let compared = compare(
        Plan::MILLISECONDS,
        || ours[turns.next()].copy(setup),
        || by_hand[their_turns.next()].0.run(),
    )?;
    ours.iter().try_for_each(|pair| pair.check(setup))?;
    by_hand.iter().try_for_each(|(.., target)| check_pattern(far, target, SIZE))?;
    Ok(vec![Figure::speed(
        "copy_64m_vs_ash",
        "copy 64 MiB to the other device",
        "one recorded copy out of an imported fd",
        Some(0.98),
        compared,
    )])
}

/// `copy_64m_vs_memcpy`: against a `memcpy` of as many bytes, warm.
pub(crate) fn vs_memcpy(setup: &Setup) -> Outcome<Vec<Figure>> {
    let (ours, mut heap) = in_turns(|| Ours::new(setup), HeapCopy::new)?;
    let mut turns = Turns::default();
    let mut their_turns = Turns::default();
    let compared = compare(
        Plan::MILLISECONDS,
        || ours[turns.next()].copy(setup),
        || {
            heap[their_turns.next()].copy();
            Ok(())
        },
    )?;
    ours.iter().try_for_each(|pair| pair.check(setup))?;
    heap.iter().try_for_each(HeapCopy::check)?;
    Ok(vec![Figure::speed(
        "copy_64m_vs_memcpy",
        "copy 64 MiB to the other device",
        "memcpy on the heap",
        Some(0.9),
        compared,
    )])
}

/// Creates the pairs of both contenders; the contender that is first alternates. The worst pages are taken out
/// beforehand: memory touched first in the process was seen to copy up to 6 % slower from then on.
pub(crate) fn in_turns<A, B>(
    mut ours: impl FnMut() -> Outcome<A>,
    mut theirs: impl FnMut() -> Outcome<B>,
) -> Outcome<(Vec<A>, Vec<B>)> {
    let worst = vec![1u8; 8 * usize::try_from(SIZE)?];
    let mut both = (Vec::new(), Vec::new());
    for pair in 0..PAIRS {
        if pair % 2 == 0 {
            both.0.push(ours()?);
            both.1.push(theirs()?);
        } else {
            both.1.push(theirs()?);
            both.0.push(ours()?);
        }
    }
    drop(black_box(worst));
    Ok(both)
}

/// The index of the next pair: the pairs are used in turn.
#[derive(Default)]
pub(crate) struct Turns(usize);

impl Turns {
    pub(crate) fn next(&mut self) -> usize {
        self.0 = (self.0 + 1) % PAIRS;
        self.0
    }
}

/// Two heap blocks to copy between, with every page touched.
pub(crate) struct HeapCopy {
    source: Vec<u8>,
    target: Vec<u8>,
}

impl HeapCopy {
    pub(crate) fn new() -> Outcome<Self> {
        Self::of(SIZE)
    }

    pub(crate) fn of(size: u64) -> Outcome<Self> {
        let size = usize::try_from(size)?;
        Ok(Self { source: vec![0xa5; size], target: vec![0x5a; size] })
    }

    pub(crate) fn copy(&mut self) {
        black_box(&mut self.target).copy_from_slice(black_box(&self.source));
    }

    fn check(&self) -> Outcome<()> {
        if self.source == self.target { Ok(()) } else { Err("memcpy: wrong bytes".into()) }
    }
}

/// Two buffers, whose homes are the two devices.
pub(crate) struct Ours {
    pub(crate) from: SharedBuffer,
    pub(crate) to: SharedBuffer,
}

impl Ours {
    pub(crate) fn new(setup: &Setup) -> Outcome<Self> {
        let from = create_on(setup, &setup.near, SIZE)?;
        let to = create_on(setup, &setup.far, SIZE)?;
        touch(&from)?;
        touch(&to)?;
        fill(&from, &setup.near, SEED)?;
        // The destination begins with other bytes, so that only a copy makes them right.
        fill(&to, &setup.far, !SEED)?;
        Ok(Self { from, to })
    }

    fn copy(&self, setup: &Setup) -> Outcome<()> {
        let fence = setup.engine.copy(&self.from, &self.to, CopyRegion::first(SIZE))?;
        Ok(fence.wait(TIMEOUT)?)
    }

    pub(crate) fn check(&self, setup: &Setup) -> Outcome<()> {
        verify(&self.to, &setup.far, SEED)
    }
}

/// Touches a new buffer's pages in order on one thread, as the copies by hand do. Pages that a compute pass
/// touched first were seen to copy 2 % slower; see BENCHMARKS.md.
fn touch(buffer: &SharedBuffer) -> Outcome<()> {
    let host = buffer.host_access(Access::Write)?;
    host.fill(0, usize::try_from(SIZE)?, 0)?;
    Ok(host.end()?)
}
