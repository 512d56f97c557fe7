//! Our own times as parts of yardsticks of the same run: for rows whose ratio is a property of the machine.
//!
//! What system calls, wake-ups and contended locks cost differs from machine to machine, and so do the ratios against
//! programs that make more of them. A part of an empty submission, of a `memcpy` or of a free lock does not.

use std::hint::black_box;
use std::sync::{Mutex, PoisonError};

use peerbuf::{Access, CopyRegion, SharedBuffer};

use crate::Outcome;
use crate::figure::Figure;
use crate::measure::{Compared, Plan, compare};
use crate::queue_by_hand::{Queue, Wait};
use crate::setup::{Setup, TIMEOUT};
use crate::share::{create_on, fill};

/// Buffers that are used in turn.
const BUFFERS: usize = 64;

/// `share_one_more_part`, `create_share_destroy_part`: of one empty submission and a wait for it.
pub(crate) fn of_a_submission(setup: &Setup) -> Outcome<Vec<Figure>> {
    let mut queue = Queue::new(&setup.near, setup.handle, 1)?;
    queue.record_nothing(0)?;
    let mut against = |ours: &mut dyn FnMut() -> Outcome<()>| -> Outcome<Compared> {
        compare(Plan::MICROSECONDS, ours, || {
            let value = queue.submit(0)?;
            queue.wait(value, Wait::Plain)
        })
    };
    let share = |buffer: &SharedBuffer| -> Outcome<()> {
        black_box(buffer.attach(&setup.far)?.map(Access::ReadWrite)?.view()?);
        Ok(())
    };
    let buffers = buffers(setup, 1 << 20)?;
    let mut turns = (0..BUFFERS).cycle();
    let one_more = against(&mut || share(&buffers[turns.next().unwrap_or(0)]))?;
    let life = against(&mut || {
        let buffer = create_on(setup, &setup.near, 64 << 10)?;
        black_box(buffer.attach(&setup.far)?.map(Access::ReadWrite)?);
        Ok(())
    })?;
    let by = "an empty command buffer, submitted, and vkWaitSemaphores";
    Ok(vec![
        Figure::part(
            "share_one_more_part",
            "share with one more device and end it",
            by,
            0.01,
            one_more,
        ),
        Figure::part("create_share_destroy_part", "create 64 KiB, share, destroy", by, 0.03, life),
    ])
}

/// `resolve_mapping_part`, `pin_unpin_part`: of taking and releasing a mutex that no other thread uses.
pub(crate) fn of_a_lock(setup: &Setup) -> Outcome<Vec<Figure>> {
    let buffers = buffers(setup, 4096)?;
    let attach = |buffer: &SharedBuffer| Ok(buffer.attach(&setup.far)?);
    let attachments = buffers.iter().map(attach).collect::<Outcome<Vec<_>>>()?;
    let mappings = attachments
        .iter()
        .map(|attachment| Ok(attachment.map(Access::Read)?))
        .collect::<Outcome<Vec<_>>>()?;
    let locks: Vec<_> = (0..BUFFERS).map(|_| Mutex::new(0_u64)).collect();
    let against = |ours: &dyn Fn(usize) -> Outcome<()>| -> Outcome<Compared> {
        let (mut turns, mut their_turns) = ((0..BUFFERS).cycle(), (0..BUFFERS).cycle());
        compare(
            Plan::MICROSECONDS,
            || ours(turns.next().unwrap_or(0)),
            || {
                let lock = &locks[their_turns.next().unwrap_or(0)];
                *black_box(lock.lock().unwrap_or_else(PoisonError::into_inner)) += 1;
                Ok(())
            },
        )
    };
    let view = against(&|at| {
        black_box(mappings[at].view()?);
        Ok(())
    })?;
    drop(mappings);
    let pin = against(&|at| {
        drop(black_box(attachments[at].pin("scanout")?));
        Ok(())
    })?;
    let by = "std::sync::Mutex, taken and released, one thread";
    Ok(vec![
        Figure::part("resolve_mapping_part", "look up a mapping, one thread", by, 1.0, view),
        Figure::part("pin_unpin_part", "pin and unpin, one thread", by, 3.0, pin),
    ])
}

/// `copy_4k_part`: of a `memcpy` of as many bytes.
pub(crate) fn of_a_memcpy(setup: &Setup) -> Outcome<Vec<Figure>> {
    const SIZE: usize = 4096;
    let from = create_on(setup, &setup.near, SIZE as u64)?;
    let to = create_on(setup, &setup.far, SIZE as u64)?;
    fill(&from, &setup.near, 1)?;
    fill(&to, &setup.far, 2)?;
    let (source, mut target) = (vec![1_u8; SIZE], vec![0_u8; SIZE]);
    let compared = compare(
        Plan::MICROSECONDS,
        || Ok(setup.engine.copy(&from, &to, CopyRegion::first(SIZE as u64))?.wait(TIMEOUT)?),
        || {
            black_box(&mut target).copy_from_slice(black_box(&source));
            Ok(())
        },
    )?;
    Ok(vec![Figure::part(
        "copy_4k_part",
        "copy 4 KiB to the other device and wait",
        "memcpy of 4 KiB",
        8.0,
        compared,
    )])
}

fn buffers(setup: &Setup, size: u64) -> Outcome<Vec<SharedBuffer>> {
    (0..BUFFERS)
        .map(|_| {
            let buffer = create_on(setup, &setup.near, size)?;
            fill(&buffer, &setup.near, 1)?;
            Ok(buffer)
        })
        .collect()
}
