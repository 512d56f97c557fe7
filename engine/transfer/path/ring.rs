//! Copies between devices that share no memory: through private staging memory of each, in a ring. An end that
//! the host sees itself needs no staging.
#![expect(
    unsafe_code,
    reason = "copying between mapped memory: staging buffers, or the bytes themselves"
)]

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::copy::{from_staging, to_staging};
use super::super::span::Span;
use crate::device::Waits;
use crate::error::{Error, Result};
use crate::memory::HostPtr;
use crate::memory::staging::{Direction, Staging, StagingBuffer};
use crate::sync::{Fence, RejectionWatch};

/// Bytes of one step. Two steps per device fit into a processor's cache (measured: a ring of 2 × 4
/// MiB is 1.9 times as fast as staging 64 MiB whole, BENCHMARKS.md).
const STEP: u64 = 4 << 20;

/// Why a copy in steps failed, and the work that may still be running.
#[derive(Debug)]
pub(crate) struct Unfinished {
    pub(crate) error: Error,
    /// Fences of work that reads the source.
    pub(crate) reading: Vec<Fence>,
    /// Fences of work that writes the destination.
    pub(crate) writing: Vec<Fence>,
}

impl From<Error> for Unfinished {
    /// An error with no work running.
    fn from(error: Error) -> Self {
        Self { error, reading: vec![], writing: vec![] }
    }
}

/// One of the two ends of a copy.
#[derive(Clone, Copy)]
pub(super) enum Side<'a> {
    /// A device accesses it, through staging memory.
    Device(Span<'a>, &'a Arc<Staging>),
    /// The host accesses it.
    Host(HostPtr),
}

/// Copies `from`, a view of one device, to `to`, a view of another, and returns when the copy is done.
///
/// While the source device reads step n + 1, the host copies step n, and the destination device writes
/// step n − 1. After a failure the caller keeps both sides' memory until the fences in the error are over.
pub(crate) fn staged_copy(
    (from, from_staging): (Span<'_>, &Arc<Staging>),
    (to, to_staging): (Span<'_>, &Arc<Staging>),
    timeout: Duration,
) -> Result<(), Unfinished> {
    let sides = [Side::Device(from, from_staging), Side::Device(to, to_staging)];
    // SAFETY: neither side is the host's.
    unsafe { run(sides, std::slice::from_ref(&(0..from.len)), timeout) }
}

/// Copies `parts` of the first side to the same parts of the second one. Otherwise as [`staged_copy`].
///
/// # Safety
///
/// If the host accesses a side, all `parts` of it are mapped; meanwhile nothing writes those of the first
/// side or uses those of the second one; and if it accesses both, they do not overlap.
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
    let source = StagedSide::new(from, longest, Direction::Readback)?;
    let target = StagedSide::new(to, longest, Direction::Upload)?;
    let mut ring = Ring { source, target };
    // In all cases, the staging buffers are dropped only once no device uses them.
    // SAFETY: the caller's contract.
    let result = unsafe { ring.run(&steps, end) };
    let drained = ring.drain(end);
    result.and(drained).map_err(|error| Unfinished {
        error,
        reading: ring.source.fences.to_vec(),
        writing: ring.target.fences.to_vec(),
    })
}

fn steps_of(part: &Range<u64>) -> impl Iterator<Item = Range<u64>> + use<> {
    let Range { start, end } = *part;
    let count = (end - start).div_ceil(STEP);
    (0..count).map(move |index| start + index * STEP..end.min(start + (index + 1) * STEP))
}

struct Ring<'a> {
    source: StagedSide<'a>,
    target: StagedSide<'a>,
}

impl Ring<'_> {
    /// # Safety
    ///
    /// As for [`run`], which has created the ring for the longest of the steps.
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
            // SAFETY: staging buffers hold the longest step, and the fences waited for above guarantee that no
            // device uses them; for a side that the host accesses, the caller's contract.
            unsafe { room.copy_from(bytes, (step.end - step.start) as usize) };
            target.submit(index, step)?;
        }
        Ok(())
    }

    fn drain(&mut self, end: Instant) -> Result<()> {
        let (mut result, mut busy) = (Ok(()), false);
        for index in 0..SLOTS {
            for side in [&self.source, &self.target] {
                // Tried twice: a wait may fail for reasons other than the work that it waits for.
                if let Err(error) = side.wait(index, end).or_else(|_| side.wait(index, end)) {
                    // A lost device may still use them.
                    busy |= !side.fences[index % SLOTS].is_released();
                    result = result.and(Err(error));
                }
            }
        }
        if busy {
            // A device still uses the staging buffers: their memory may never be freed.
            self.source.leak();
            self.target.leak();
        }
        result
    }
}

const SLOTS: usize = 2;

/// One side, with the staging memory that it needs. A side that the host accesses has none.
struct StagedSide<'a> {
    side: Side<'a>,
    direction: Direction,
    slots: [Option<StagingBuffer>; SLOTS],
    fences: [Fence; SLOTS],
}

impl<'a> StagedSide<'a> {
    fn new(side: Side<'a>, step: u64, direction: Direction) -> Result<Self> {
        let slots = match side {
            Side::Device(_, staging) => {
                [Some(staging.buffer(step, direction)?), Some(staging.buffer(step, direction)?)]
            }
            Side::Host(_) => [None, None],
        };
        Ok(Self { side, direction, slots, fences: [Fence::signalled(), Fence::signalled()] })
    }

    /// The host's address of a step: what it reads, or where it writes.
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
            None => unreachable!("a device's side has both until it leaks them, at the end"),
        }
    }

    fn wait(&self, index: usize, end: Instant) -> Result<()> {
        self.fences[index % SLOTS].wait(end.saturating_duration_since(Instant::now()))
    }

    /// Submits the device's copy of a step, to or from staging memory. Does nothing for a side of the host.
    fn submit(&mut self, index: usize, step: &Range<u64>) -> Result<()> {
        let Side::Device(span, _) = self.side else { return Ok(()) };
        let span = span.slice(step.start, step.end - step.start);
        let (device, staging) = (span.view.device(), self.slot(index).raw());
        let watch = RejectionWatch::main(device);
        let submitted = match self.direction {
            Direction::Readback => to_staging(device, Waits::default(), span, staging),
            Direction::Upload => from_staging(device, Waits::default(), staging, span),
        };
        self.fences[index % SLOTS] = match &submitted {
            Ok(fence) => fence.clone(),
            Err(_) => watch.fence(),
        };
        submitted.map(drop)
    }

    /// Leaks the staging buffers.
    fn leak(&mut self) {
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
    fn parts_are_split_into_steps() {
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
    fn between_two_host_sides_only_the_parts_are_copied() {
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
