//! Accesses of the host: their fixed cost, the speed of their copies, and the first touch of a large buffer.

use std::hint::black_box;

use peerbuf::Access;

use crate::Outcome;
use crate::by_hand::ByHand;
use crate::figure::{Direction, Figure};
use crate::hand::Block;
use crate::measure::{Compared, Plan, compare};
use crate::setup::Setup;
use crate::share::create_on;

/// Bytes of one write through an open access.
const WRITE: usize = 4 << 10;
/// Bytes of one write between a begin and an end.
const TOUCH: usize = 16;
const LARGE: u64 = 16 << 20;

/// `host_write_4k`: a write through an open access, against `memcpy` to a pointer that stays mapped.
pub(crate) fn write(setup: &Setup) -> Outcome<Vec<Figure>> {
    let buffer = create_on(setup, &setup.near, 64 << 10)?;
    let access = buffer.host_access(Access::Write)?;
    let bytes = [0x5a; WRITE];
    access.write(0, &bytes)?;
    let mut block = Block::staging(&setup.near, WRITE as u64)?;
    let compared = block.with_bytes(WRITE, |mapped| {
        mapped.fill(1);
        compare(
            Plan::MICROSECONDS,
            || Ok(access.write(0, black_box(&bytes))?),
            || {
                black_box(&mut *mapped).copy_from_slice(black_box(&bytes));
                Ok(())
            },
        )
    })??;
    access.end()?;
    Ok(vec![Figure::speed(
        "host_write_4k",
        "write 4 KiB through an open access",
        "memcpy to a mapped pointer",
        Some(0.8),
        compared,
    )])
}

/// `host_touch_16`: the whole of an access that writes 16 bytes, in nanoseconds.
pub(crate) fn touch(setup: &Setup) -> Outcome<Vec<Figure>> {
    let buffer = create_on(setup, &setup.near, 64 << 10)?;
    let bytes = [0x5a; TOUCH];
    let mut block = Block::staging(&setup.near, TOUCH as u64)?;
    let compared = block.with_bytes(TOUCH, |mapped| {
        compare(
            Plan::MICROSECONDS,
            || {
                let access = buffer.host_access(Access::Write)?;
                access.write(0, black_box(&bytes))?;
                Ok(access.end()?)
            },
            || {
                black_box(&mut *mapped).copy_from_slice(black_box(&bytes));
                Ok(())
            },
        )
    })??;
    let Compared { ours, ratio, .. } = compared;
    let nanos = ours * 1e9;
    let count = Figure::count(
        "host_touch_16",
        "begin an access, write 16 bytes, end it",
        "ns",
        Some(60.0),
        nanos,
    );
    let scale = |end: f64| nanos * ratio.median / end;
    Ok(vec![count.within(Direction::AtMost, (scale(ratio.hi), scale(ratio.lo)))])
}

/// `create_use_16m`: the whole life of a shared buffer of 16 MiB of which the host writes one word. No device uses it,
/// so its handles are not asked for: that would zero the rest.
pub(crate) fn create_use(setup: &Setup) -> Outcome<Vec<Figure>> {
    let by_hand = ByHand::new(&setup.near, &setup.far, setup.handle, LARGE)?;
    let compared = compare(
        Plan::MICROSECONDS,
        || {
            let buffer = create_on(setup, &setup.near, LARGE)?;
            let mapping = buffer.attach(&setup.far)?.map(Access::ReadWrite)?;
            let host = buffer.host_access(Access::Write)?;
            host.write(0, &1u64.to_ne_bytes())?;
            host.end()?;
            black_box(mapping);
            Ok(())
        },
        || {
            let block = by_hand.create()?;
            let shared = by_hand.share(&block)?;
            block.touch(1)?;
            black_box(shared);
            Ok(())
        },
    )?;
    Ok(vec![Figure::speed(
        "create_use_16m",
        "create 16 MiB, share, write one word, destroy",
        "allocate, export, import, map, write one word, free",
        Some(0.9),
        compared,
    )])
}
