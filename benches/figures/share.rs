//! Cost of sharing: one more device, and the whole life of a buffer.

use peerbuf::{Access, BufferDescriptor, Device, SharedBuffer};

use crate::Outcome;
use crate::by_hand::ByHand;
use crate::figure::Figure;
use crate::measure::{Plan, compare};
use crate::setup::Setup;

/// Number of buffers shared in turn, so that no single one stays in a cache.
const BUFFERS: usize = 64;
const SIZE: u64 = 1 << 20;
const SEED: u32 = 2026;

/// `share_one_more`: one more device attaches an existing buffer and detaches again.
pub(crate) fn one_more(setup: &Setup) -> Outcome<Vec<Figure>> {
    let by_hand = ByHand::new(&setup.near, &setup.far, setup.handle, SIZE)?;
    by_hand.check()?;
    let theirs: Vec<_> = (0..BUFFERS).map(|_| by_hand.create()).collect::<Outcome<_>>()?;
    let ours: Vec<_> = (0..BUFFERS).map(|_| create(setup, SIZE)).collect::<Outcome<_>>()?;
    for buffer in &ours {
        fill(buffer, &setup.near, SEED)?;
        verify(buffer, &setup.far, SEED)?;
    }

    let mut next = (0..BUFFERS).cycle();
    let mut next_of_theirs = next.clone();
    let compared = compare(
        Plan::MICROSECONDS,
        || {
            let buffer = &ours[next.next().unwrap_or(0)];
            let mapping = buffer.attach(&setup.far)?.map(Access::ReadWrite)?;
            std::hint::black_box(mapping.view()?);
            Ok(())
        },
        || {
            let block = &theirs[next_of_theirs.next().unwrap_or(0)];
            std::hint::black_box(by_hand.share(block)?);
            Ok(())
        },
    )?;
    Ok(vec![Figure::speed(
        "share_one_more",
        "share with one more device and end it",
        "vkGetMemoryFdKHR, import, buffer, bind, free",
        Some(20.0),
        compared,
    )])
}

const CYCLE_SIZE: u64 = 64 << 10;

/// `create_share_destroy`: the whole life of a shared buffer of 64 KiB; `create_share_use_destroy`: with one use.
pub(crate) fn life(setup: &Setup) -> Outcome<Vec<Figure>> {
    let by_hand = ByHand::new(&setup.near, &setup.far, setup.handle, CYCLE_SIZE)?;
    let bare = compare(
        Plan::MICROSECONDS,
        || {
            let buffer = create(setup, CYCLE_SIZE)?;
            std::hint::black_box(buffer.attach(&setup.far)?.map(Access::ReadWrite)?);
            Ok(())
        },
        || {
            let block = by_hand.create()?;
            std::hint::black_box(by_hand.share(&block)?);
            Ok(())
        },
    )?;
    let used = compare(
        Plan::MICROSECONDS,
        || {
            let buffer = create(setup, CYCLE_SIZE)?;
            let mapping = buffer.attach(&setup.far)?.map(Access::ReadWrite)?;
            std::hint::black_box(mapping.view()?);
            let host = buffer.host_access(Access::Write)?;
            host.write(0, &1u64.to_ne_bytes())?;
            Ok(host.end()?)
        },
        || {
            let block = by_hand.create()?;
            let shared = by_hand.share(&block)?;
            block.touch(1)?;
            std::hint::black_box(shared);
            Ok(())
        },
    )?;
    Ok(vec![
        Figure::speed(
            "create_share_destroy",
            "create 64 KiB, share, destroy",
            "allocate, export, import, free",
            Some(50.0),
            bare,
        ),
        Figure::speed(
            "create_share_use_destroy",
            "the same, and one word written",
            "the same, mapped and one word written",
            None,
            used,
        ),
    ])
}

/// Creates a buffer whose home is the first device.
fn create(setup: &Setup, size: u64) -> Outcome<SharedBuffer> {
    create_on(setup, &setup.near, size)
}

/// Creates a buffer whose home is `home`.
pub(crate) fn create_on(setup: &Setup, home: &Device, size: u64) -> Outcome<SharedBuffer> {
    Ok(setup.engine.create_buffer(home, BufferDescriptor::new(size))?)
}

/// Writes the pattern of `seed` on `device`.
pub(crate) fn fill(buffer: &SharedBuffer, device: &Device, seed: u32) -> Outcome<()> {
    Ok(buffer.attach(device)?.map(Access::Write)?.fill(seed)?)
}

/// Verifies the pattern of `seed` on `device`.
pub(crate) fn verify(buffer: &SharedBuffer, device: &Device, seed: u32) -> Outcome<()> {
    let report = buffer.attach(device)?.map(Access::Read)?.verify(seed)?;
    if report.is_clean() { Ok(()) } else { Err(format!("wrong bytes: {report:?}").into()) }
}
