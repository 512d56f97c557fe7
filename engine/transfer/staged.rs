//! Copies between devices that share nothing: through private staging memory of each, in a ring.
#![expect(unsafe_code, reason = "copying between two mapped staging buffers")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::copy::{from_staging, to_staging};
use super::span::Span;
use crate::device::DeviceInner;
use crate::error::{Error, Result};
use crate::memory::staging::{Direction, Staging, StagingBuffer};
use crate::sync::Fence;

/// Bytes of one step. Two of them per device stay in a processor's cache (measured: a ring of 2 × 4
/// MiB is 1.9 times as fast as staging 64 MiB whole, BENCHMARKS.md).
const STEP: u64 = 4 << 20;

/// Why a staged copy failed, with what may still be running.
#[derive(Debug)]
pub(crate) struct Unfinished {
    pub(crate) error: Error,
    /// Fences of work that reads the source.
    pub(crate) reading: Vec<Fence>,
    /// Fences of work that writes the destination.
    pub(crate) writing: Vec<Fence>,
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
    let end = Instant::now() + timeout;
    let step = STEP.min(from.len);
    let nothing = |error| Unfinished { error, reading: vec![], writing: vec![] };
    let source = Ring::new(from_staging, step, Direction::Readback).map_err(nothing)?;
    let target = Ring::new(to_staging, step, Direction::Upload).map_err(nothing)?;
    let mut ring = Stages { source, target };
    // Whatever happens, the staging buffers are dropped only when nothing uses them any more.
    let result = ring.run(from, to, step, end);
    let drained = ring.drain(end);
    result.and(drained).map_err(|error| Unfinished {
        error,
        reading: ring.source.fences.to_vec(),
        writing: ring.target.fences.to_vec(),
    })
}

struct Stages {
    source: Ring,
    target: Ring,
}

impl Stages {
    fn run(&mut self, from: Span<'_>, to: Span<'_>, step: u64, end: Instant) -> Result<()> {
        let steps = from.len.div_ceil(step);
        let part = |span: Span<'_>, index: u64| {
            let offset = index * step;
            let len = step.min(from.len - offset);
            (span.view.device().clone(), offset, len)
        };
        let read = |ring: &mut Ring, index: u64| {
            let (device, offset, len) = part(from, index);
            ring.submit(&device, index, from.slice(offset, len))
        };
        read(&mut self.source, 0)?;
        for index in 0..steps {
            self.source.wait(index, end)?;
            if index + 1 < steps {
                read(&mut self.source, index + 1)?;
            }
            self.target.wait(index, end)?;
            let (device, offset, len) = part(to, index);
            let (bytes, room) = (self.source.slot(index).host()?, self.target.slot(index).host()?);
            // CAST: at most `STEP`.
            // SAFETY: both staging buffers hold `step` bytes, and the fences waited for above say
            // that neither device is using them.
            unsafe { room.copy_from(bytes, len as usize) };
            self.target.submit(&device, index, to.slice(offset, len))?;
        }
        Ok(())
    }

    fn drain(&mut self, end: Instant) -> Result<()> {
        let (mut result, mut busy) = (Ok(()), false);
        for index in 0..SLOTS as u64 {
            for ring in [&self.source, &self.target] {
                // Once more: a wait may fail for other reasons than the work that it waits for.
                if let Err(error) = ring.wait(index, end).or_else(|_| ring.wait(index, end)) {
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

struct Ring {
    direction: Direction,
    slots: [Option<StagingBuffer>; SLOTS],
    fences: [Fence; SLOTS],
}

impl Ring {
    fn new(staging: &Arc<Staging>, step: u64, direction: Direction) -> Result<Self> {
        let slots =
            [Some(staging.buffer(step, direction)?), Some(staging.buffer(step, direction)?)];
        Ok(Self { direction, slots, fences: [Fence::signalled(), Fence::signalled()] })
    }

    fn slot(&self, index: u64) -> &StagingBuffer {
        match &self.slots[position(index)] {
            Some(slot) => slot,
            None => unreachable!("abandoned only at the end"),
        }
    }

    fn wait(&self, index: u64, end: Instant) -> Result<()> {
        self.fences[position(index)].wait(end.saturating_duration_since(Instant::now()))
    }

    fn submit(&mut self, device: &Arc<DeviceInner>, index: u64, span: Span<'_>) -> Result<()> {
        let staging = self.slot(index).raw();
        self.fences[position(index)] = match self.direction {
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

fn position(index: u64) -> usize {
    // CAST: 0 or 1.
    (index % SLOTS as u64) as usize
}
