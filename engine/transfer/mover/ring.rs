//! Copies between devices that share nothing: through private staging memory of each, in a ring. Where the
//! host sees one end itself, that end needs no staging.
#![expect(
    unsafe_code,
    reason = "copying between mapped memory: staging buffers, or the bytes themselves"
)]

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::copy::{from_staging, to_staging};
use super::super::span::Span;
use crate::error::{Error, Result};
use crate::memory::HostPtr;
use crate::memory::staging::{Direction, Staging, StagingBuffer};
use crate::sync::Fence;

/// Bytes of one step. Two of them per device stay in a processor's cache (measured: a ring of 2 × 4
/// MiB is 1.9 times as fast as staging 64 MiB whole, BENCHMARKS.md).
const STEP: u64 = 4 << 20;

/// Why a copy in steps failed, with what may still be running.
#[derive(Debug)]
pub(crate) struct Unfinished {
    pub(crate) error: Error,
    /// Fences of work that reads the source.
    pub(crate) reading: Vec<Fence>,
    /// Fences of work that writes the destination.
    pub(crate) writing: Vec<Fence>,
}

impl From<Error> for Unfinished {
    /// Nothing is running.
    fn from(error: Error) -> Self {
        Self { error, reading: vec![], writing: vec![] }
    }
}

/// One of the two ends.
#[derive(Clone, Copy)]
pub(super) enum Side<'a> {
    /// A device sees it.
    Device(Span<'a>, &'a Arc<Staging>),
    /// The host does.
    Host(HostPtr),
}

/// Copies `from`, a view of one device, to `to`, a view of another, and returns when it is done.
///
/// While the source device reads step n + 1, the host copies step n, and the destination device writes
/// step n − 1. After a failure the caller keeps both sides' memory until the fences in it are over.
pub(crate) fn staged_copy(
    (from, from_staging): (Span<'_>, &Arc<Staging>),
    (to, to_staging): (Span<'_>, &Arc<Staging>),
    timeout: Duration,
) -> Result<(), Unfinished> {
    let sides = [Side::Device(from, from_staging), Side::Device(to, to_staging)];
    // SAFETY: neither side is the host's.
    unsafe { run(sides, std::slice::from_ref(&(0..from.len)), timeout) }
}

/// Copies `parts` of what begins at the first side to the same places of the second one. As
/// [`staged_copy`] in everything else.
///
/// # Safety
///
/// Where the host sees a side, all `parts` of it are mapped; nobody writes those of the first side or uses
/// those of the second one meanwhile; and where it sees both, they do not overlap.
pub(super) unsafe fn run(
    sides: [Side<'_>; 2],
    parts: &[Range<u64>],
    timeout: Duration,
) -> Result<(), Unfinished> {
    let end = Instant::now() + timeout;
    let steps: Vec<_> = parts.iter().flat_map(steps_of).collect();
    let longest = steps.iter().map(|step| step.end - step.start).max().unwrap_or(0);
    if longest == 0 {
        return Ok(());
    }
    let [from, to] = sides;
    let source = Lane::new(from, longest, Direction::Readback)?;
    let target = Lane::new(to, longest, Direction::Upload)?;
    let mut lanes = Lanes { source, target };
    // Whatever happens, the staging buffers are dropped only when nothing uses them any more.
    // SAFETY: the caller's contract.
    let result = unsafe { lanes.run(&steps, end) };
    let drained = lanes.drain(end);
    result.and(drained).map_err(|error| Unfinished {
        error,
        reading: lanes.source.fences.to_vec(),
        writing: lanes.target.fences.to_vec(),
    })
}

fn steps_of(part: &Range<u64>) -> impl Iterator<Item = Range<u64>> + use<> {
    let Range { start, end } = *part;
    let count = (end - start).div_ceil(STEP);
    (0..count).map(move |index| start + index * STEP..end.min(start + (index + 1) * STEP))
}

struct Lanes<'a> {
    source: Lane<'a>,
    target: Lane<'a>,
}

impl Lanes<'_> {
    /// # Safety
    ///
    /// As for [`run`], which has made the lanes for the longest of the steps.
    unsafe fn run(&mut self, steps: &[Range<u64>], end: Instant) -> Result<()> {
        let Self { source, target } = self;
        source.submit(0, &steps[0])?;
        for (index, step) in steps.iter().enumerate() {
            source.wait(index, end)?;
            if let Some(next) = steps.get(index + 1) {
                source.submit(index + 1, next)?;
            }
            target.wait(index, end)?;
            let (bytes, room) = (source.host(index, step)?, target.host(index, step)?);
            // CAST: at most `STEP`.
            // SAFETY: staging buffers hold the longest step, and the fences waited for above say that no
            // device is using them; what the host sees itself is the caller's contract.
            unsafe { room.copy_from(bytes, (step.end - step.start) as usize) };
            target.submit(index, step)?;
        }
        Ok(())
    }

    fn drain(&mut self, end: Instant) -> Result<()> {
        let (mut result, mut busy) = (Ok(()), false);
        for index in 0..SLOTS {
            for lane in [&self.source, &self.target] {
                // Once more: a wait may fail for other reasons than the work that it waits for.
                if let Err(error) = lane.wait(index, end).or_else(|_| lane.wait(index, end)) {
                    busy |= !error.is_device_lost();
                    result = result.and(Err(error));
                }
            }
        }
        if busy {
            // Still in use by a device: their memory may not be freed, ever.
            self.source.abandon();
            self.target.abandon();
        }
        result
    }
}

const SLOTS: usize = 2;

/// One side, with the staging memory that it needs: none if the host sees it.
struct Lane<'a> {
    side: Side<'a>,
    direction: Direction,
    slots: [Option<StagingBuffer>; SLOTS],
    fences: [Fence; SLOTS],
}

impl<'a> Lane<'a> {
    fn new(side: Side<'a>, step: u64, direction: Direction) -> Result<Self> {
        let slots = match side {
            Side::Device(_, staging) => {
                [Some(staging.buffer(step, direction)?), Some(staging.buffer(step, direction)?)]
            }
            Side::Host(_) => [None, None],
        };
        Ok(Self { side, direction, slots, fences: [Fence::signalled(), Fence::signalled()] })
    }

    /// Where the host finds a step, or puts it.
    fn host(&self, index: usize, step: &Range<u64>) -> Result<HostPtr> {
        match self.side {
            Side::Device(..) => self.slot(index).host(),
            // CAST: mapped, so it fits the address space.
            // SAFETY: the contract of `run`: the step is mapped.
            Side::Host(start) => Ok(unsafe { start.at(step.start as usize) }),
        }
    }

    fn slot(&self, index: usize) -> &StagingBuffer {
        match &self.slots[index % SLOTS] {
            Some(slot) => slot,
            None => unreachable!("a device's side has them, and abandons them only at the end"),
        }
    }

    fn wait(&self, index: usize, end: Instant) -> Result<()> {
        self.fences[index % SLOTS].wait(end.saturating_duration_since(Instant::now()))
    }

    /// Has the device read the step, or write it. There is nothing to do where the host sees it.
    fn submit(&mut self, index: usize, step: &Range<u64>) -> Result<()> {
        let Side::Device(span, _) = self.side else { return Ok(()) };
        let span = span.slice(step.start, step.end - step.start);
        let (device, staging) = (span.view.device(), self.slot(index).raw());
        self.fences[index % SLOTS] = match self.direction {
            Direction::Readback => to_staging(device, span, staging)?,
            Direction::Upload => from_staging(device, staging, span)?,
        };
        Ok(())
    }

    fn abandon(&mut self) {
        for slot in &mut self.slots {
            std::mem::forget(slot.take());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ptr::NonNull;

    use super::*;

    #[test]
    fn parts_are_cut_into_steps() {
        let check = |part: Range<u64>, expected: &[(u64, u64)]| {
            let steps = steps_of(&part).map(|step| (step.start, step.end));
            assert_eq!(Vec::from_iter(steps), expected, "{part:?}");
        };
        check(5..5, &[]);
        check(5..STEP, &[(5, STEP)]);
        check(5..STEP + 5, &[(5, STEP + 5)]);
        check(5..STEP + 6, &[(5, STEP + 5), (STEP + 5, STEP + 6)]);
    }

    #[test]
    fn between_two_ends_that_the_host_sees_the_parts_alone_are_copied() {
        let mut bytes = [1u8, 2, 3, 4, 5, 6, 7, 8];
        let mut out = [0u8; 8];
        let [from, to] = [&mut bytes, &mut out]
            .map(|array| HostPtr::new(NonNull::new(array.as_mut_ptr()).expect("not null")));
        let sides = [Side::Host(from), Side::Host(to)];
        // SAFETY: all parts lie within the two arrays, which are this test's own.
        unsafe { run(sides, &[1..3, 6..7], Duration::ZERO) }.expect("nothing to wait for");
        assert_eq!(out, [0, 2, 3, 0, 0, 0, 7, 0]);
        // SAFETY: as above.
        unsafe { run(sides, &[], Duration::ZERO) }.expect("nothing to do");
    }
}
