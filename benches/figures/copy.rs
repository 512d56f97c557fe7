//! What a copy from one device to another costs.

use std::hint::black_box;

use peerbuf::{CopyRegion, SharedBuffer};

use crate::Outcome;
use crate::by_hand::{ByHand, check_pattern, write_pattern};
use crate::figure::Figure;
use crate::hand::Recorded;
use crate::measure::{Plan, compare};
use crate::setup::{Setup, TIMEOUT};
use crate::share::{create_on, fill, verify};

/// Source and destination together are several times the usual last-level cache.
const SIZE: u64 = 64 << 20;
const SEED: u32 = 2026;

/// `copy_64m_vs_ash`: against one copy into an imported fd.
pub(crate) fn vs_ash(setup: &Setup) -> Outcome<Vec<Figure>> {
    let ours = Ours::new(setup)?;
    let by_hand = ByHand::new(&setup.far, &setup.near, setup.handle, SIZE)?;
    let target = by_hand.create()?;
    let target_seen = by_hand.share(&target)?;
    // A source of the exporter's kind, so that both copies read and write memory of one kind.
    let sources = ByHand::new(&setup.near, &setup.far, setup.handle, SIZE)?;
    let source = sources.create()?;
    write_pattern(&setup.near, &source, SIZE)?;
    let recorded = Recorded::copy(&setup.near, &source, &target_seen, SIZE)?;

    let compared = compare(Plan::MILLISECONDS, || ours.copy(setup), || recorded.run())?;
    ours.check(setup)?;
    check_pattern(&setup.far, &target, SIZE)?;
    Ok(vec![Figure::speed(
        "copy_64m_vs_ash",
        "copy 64 MiB to the other device",
        "one recorded copy into an imported fd",
        Some(0.98),
        compared,
    )])
}

/// `copy_64m_vs_memcpy`: against the processor's copy of as many bytes, warm.
pub(crate) fn vs_memcpy(setup: &Setup) -> Outcome<Vec<Figure>> {
    let ours = Ours::new(setup)?;
    let (source, mut target) = heap_pair()?;
    let compared = compare(
        Plan::MILLISECONDS,
        || ours.copy(setup),
        || {
            black_box(&mut target).copy_from_slice(black_box(&source));
            Ok(())
        },
    )?;
    ours.check(setup)?;
    if source != target {
        return Err("memcpy: wrong bytes".into());
    }
    Ok(vec![Figure::speed(
        "copy_64m_vs_memcpy",
        "copy 64 MiB to the other device",
        "memcpy on the heap",
        Some(0.9),
        compared,
    )])
}

/// Two pieces of heap of the same size, touched.
pub(crate) fn heap_pair() -> Outcome<(Vec<u8>, Vec<u8>)> {
    let size = usize::try_from(SIZE)?;
    Ok((vec![0xa5; size], vec![0x5a; size]))
}

/// A buffer at home on each device.
struct Ours {
    from: SharedBuffer,
    to: SharedBuffer,
}

impl Ours {
    fn new(setup: &Setup) -> Outcome<Self> {
        let from = create_on(setup, &setup.near, SIZE)?;
        let to = create_on(setup, &setup.far, SIZE)?;
        fill(&from, &setup.near, SEED)?;
        // What is copied must be what arrives, not what was there.
        fill(&to, &setup.far, !SEED)?;
        Ok(Self { from, to })
    }

    fn copy(&self, setup: &Setup) -> Outcome<()> {
        let fence = setup.engine.copy(&self.from, &self.to, CopyRegion::first(SIZE))?;
        Ok(fence.wait(TIMEOUT)?)
    }

    fn check(&self, setup: &Setup) -> Outcome<()> {
        verify(&self.to, &setup.far, SEED)
    }
}
