//! Cost of handing a buffer over without copying it.

use std::hint::black_box;

use peerbuf::Access;

use crate::Outcome;
use crate::by_hand::{ByHand, check_pattern, write_pattern};
use crate::figure::Figure;
use crate::hand::Recorded;
use crate::measure::{Plan, compare};
use crate::setup::{Setup, TIMEOUT};
use crate::share::{create_on, fill, verify};

const SIZE: u64 = 64 << 20;
const SEED: u32 = 2026;

/// `handover_64m`: the writer ends its access with a fence, and the next device maps the buffer and begins to
/// read. The figure is this time as a part of the time of a copy of as many bytes.
///
/// The fence has signalled before, so the time is that of the hand-over, not of the write.
pub(crate) fn handover(setup: &Setup) -> Outcome<Vec<Figure>> {
    let (near, far) = (&setup.near, &setup.far);
    let buffer = create_on(setup, near, SIZE)?;
    fill(&buffer, near, SEED)?;
    let (writer, reader) = (buffer.attach(near)?, buffer.attach(far)?);
    let writing = writer.map(Access::Write)?;
    let written = near.submitted()?;
    written.wait(TIMEOUT)?;
    let read = far.submitted()?;
    read.wait(TIMEOUT)?;

    let by_hand = ByHand::new(near, far, setup.handle, SIZE)?;
    let source = by_hand.create()?;
    write_pattern(near, &source, SIZE)?;
    let seen = by_hand.share(&source)?;
    let target = ByHand::new(far, near, setup.handle, SIZE)?.create()?;
    let copy = Recorded::copy(far, &seen, &target, SIZE)?;

    let compared = compare(
        Plan::UNEQUAL,
        || {
            writing.begin_access(Access::Write)?.end(written.clone());
            let reading = reader.map(Access::Read)?;
            let access = reading.begin_access(Access::Read)?;
            black_box(access.view());
            access.end(read.clone());
            Ok(())
        },
        || copy.run(),
    )?;
    drop((writing, writer, reader));
    verify(&buffer, far, SEED)?;
    check_pattern(far, &target, SIZE)?;
    Ok(vec![Figure::part(
        "handover_64m",
        "hand 64 MiB over to the other device",
        "one recorded copy of 64 MiB",
        0.01,
        compared,
    )])
}
