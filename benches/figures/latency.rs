//! Latency of a small copy, from the call to the end of the wait for it.

use peerbuf::CopyRegion;

use crate::Outcome;
use crate::by_hand::{ByHand, check_pattern, write_pattern};
use crate::figure::Figure;
use crate::hand::Recorded;
use crate::measure::{Plan, compare};
use crate::setup::{Setup, TIMEOUT};
use crate::share::{create_on, fill, verify};

const SIZE: u64 = 4096;
const SEED: u32 = 2026;

/// `copy_4k_latency`: against one copy from an imported fd, recorded beforehand, submitted and waited for with
/// `vkWaitForFences`.
pub(crate) fn copy(setup: &Setup) -> Outcome<Vec<Figure>> {
    let (near, far) = (&setup.near, &setup.far);
    let from = create_on(setup, near, SIZE)?;
    let to = create_on(setup, far, SIZE)?;
    fill(&from, near, SEED)?;
    fill(&to, far, !SEED)?;

    let sources = ByHand::new(near, far, setup.handle, SIZE)?;
    let targets = ByHand::new(far, near, setup.handle, SIZE)?;
    let source = sources.create()?;
    write_pattern(near, &source, SIZE)?;
    let seen = sources.share(&source)?;
    let target = targets.create()?;
    let recorded = Recorded::copy(far, &seen, &target, SIZE)?;

    let compared = compare(
        Plan::MICROSECONDS,
        || Ok(setup.engine.copy(&from, &to, CopyRegion::first(SIZE))?.wait(TIMEOUT)?),
        || recorded.run(),
    )?;
    verify(&to, far, SEED)?;
    check_pattern(far, &target, SIZE)?;
    Ok(vec![Figure::speed(
        "copy_4k_latency",
        "copy 4 KiB to the other device and wait",
        "one recorded copy, submitted, and vkWaitForFences",
        Some(2.0),
        compared,
    )])
}
