//! Runs kernels over spans of any length, and waits for each of them.
#![expect(unsafe_code, reason = "reading and writing mapped memory of findings")]

use std::fmt;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use super::super::span::Span;
use super::pattern::PassReport;
use super::pipelines::{FINDINGS, Kernel, Pipelines, threads};
use crate::device::{DeviceInner, QueueKind, Timestamps};
use crate::error::{Error, Result};
use crate::memory::staging::{Direction, Staging, StagingBuffer};
use crate::sync::primitive::Mutex;
use crate::sync::{Fence, RejectionWatch};

/// Index that means "none" in the shaders' `Findings`.
const NONE: u32 = u32::MAX;

/// Submits one dispatch.
pub(crate) type Work<'a> = &'a mut dyn FnMut() -> Result<Fence>;

/// How a pass is submitted, and how long it may take.
pub(crate) struct Watch<'a> {
    pub(crate) timeout: Duration,
    /// If the memory may be used now, calls the submission that it is given and stores its fence before any
    /// wait for it: the memory must outlive the pass even if that wait ends in an error.
    pub(crate) submit: &'a dyn Fn(Work<'_>) -> Result<Attempt>,
}

/// How an attempt to submit ended.
pub(crate) enum Attempt {
    /// The work was submitted; this is its fence.
    Submitted(Fence),
    /// Nothing was submitted; the caller must wait for these fences first.
    Wait(Vec<Fence>),
}

/// The compute kernels of one device.
pub(crate) struct ComputeKernels {
    pipelines: Pipelines,
    /// Locked for the whole of a pass: passes share the descriptor set and the findings.
    current: Mutex<Current>,
}

struct Current {
    /// `None` only once a drop has leaked it.
    findings: Option<StagingBuffer>,
    /// The last pass. It is unsignalled only after a pass that timed out.
    last: Fence,
    /// Around the last pass, if it was a copy and the queue has timestamps: kept until that pass has ended.
    stamps: Option<Timestamps>,
}

/// What the shaders found, and how long they ran.
type Found = ([u32; 2], Option<Duration>);

/// A part of a pass.
struct Piece {
    words: u32,
    /// The count and the first index.
    findings: [u32; 2],
    /// By the device's clock.
    time: Option<Duration>,
}

impl ComputeKernels {
    pub(crate) fn new(device: &Arc<DeviceInner>, staging: &Arc<Staging>) -> Result<Self> {
        let pipelines = Pipelines::new(device)?;
        let findings = staging.buffer(FINDINGS, Direction::Readback)?;
        let current = Mutex::new(Current {
            findings: Some(findings),
            last: Fence::signalled(),
            stamps: None,
        });
        Ok(Self { pipelines, current })
    }

    /// Makes the pipelines of the pattern, so that no pass waits for a compiler.
    pub(crate) fn prepare_pattern(&self) -> Result<()> {
        let _current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        self.pipelines.prepare(Kernel::Fill)?;
        self.pipelines.prepare(Kernel::Verify)
    }

    /// Writes the pattern of `seed`. Word 0 of the pattern is the span's first word.
    pub(crate) fn fill(&self, span: Span<'_>, seed: u32, watch: &Watch<'_>) -> Result<()> {
        self.run(Kernel::Fill, [span, span], seed, watch).map(|_| ())
    }

    /// Compares with the pattern of `seed`.
    pub(crate) fn verify(
        &self,
        span: Span<'_>,
        seed: u32,
        watch: &Watch<'_>,
    ) -> Result<PassReport> {
        let mut report = PassReport::default();
        for piece in self.run(Kernel::Verify, [span, span], seed, watch)? {
            let Piece { words, findings: [count, first], .. } = piece;
            report = report.and(PassReport {
                words: u64::from(words),
                wrong: u64::from(count),
                first_wrong: (first != NONE).then_some(u64::from(first) * 4),
            });
        }
        Ok(report)
    }

    /// A sum over all words that depends on their positions.
    pub(crate) fn checksum(&self, span: Span<'_>, watch: &Watch<'_>) -> Result<u32> {
        let pieces = self.run(Kernel::Checksum, [span, span], 0, watch)?;
        Ok(pieces.into_iter().fold(0, |sum: u32, piece| sum.wrapping_add(piece.findings[0])))
    }

    /// Copies on the compute units. Returns how long that took by the device's clock, if its queue has timestamps.
    pub(crate) fn copy(
        &self,
        from: Span<'_>,
        to: Span<'_>,
        watch: &Watch<'_>,
    ) -> Result<Option<Duration>> {
        debug_assert_eq!(from.len, to.len);
        let pieces = self.run(Kernel::Copy, [from, to], 0, watch)?;
        Ok(pieces.into_iter().map(|piece| piece.time).sum())
    }

    /// Runs a kernel over the spans, in pieces no larger than a binding may be.
    fn run(
        &self,
        kernel: Kernel,
        [subject, destination]: [Span<'_>; 2],
        seed: u32,
        watch: &Watch<'_>,
    ) -> Result<Vec<Piece>> {
        subject.words()?;
        let range = self.pipelines.device().adapter().storage_range();
        let piece = range & !(crate::memory::SLOT_ALIGN - 1);
        let end = Instant::now() + watch.timeout;
        let mut out = Vec::new();
        let mut offset = 0;
        while offset < subject.len {
            let len = piece.min(subject.len - offset);
            let spans = [subject.slice(offset, len), destination.slice(offset, len)];
            // CAST: the whole span's words fit, so this piece's do.
            let words = (len / 4) as u32;
            let parameters = [seed, (offset / 4) as u32, words, threads(words)];
            match self.try_piece(kernel, spans, parameters, watch)? {
                Ok((findings, time)) => out.push(Piece { words, findings, time }),
                Err(waits) => {
                    // Failed or not: the next attempt reports a failure if it concerns the bytes.
                    let left = || end.saturating_duration_since(Instant::now());
                    waits.iter().try_for_each(|fence| fence.wait_until_over(left()))?;
                    continue;
                }
            }
            offset += len;
        }
        Ok(out)
    }

    /// Runs one piece, or returns the fences that come first. The caller waits for those, so that no thread
    /// waits for other work while it holds the lock of this device's kernels.
    fn try_piece(
        &self,
        kernel: Kernel,
        spans: [Span<'_>; 2],
        parameters: [u32; 4],
        watch: &Watch<'_>,
    ) -> Result<Result<Found, Vec<Fence>>> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        // A failure of the last pass was reported to its caller.
        current
            .last
            .wait(watch.timeout)
            .or_else(|error| current.last.is_over().then_some(()).ok_or(error))?;
        current.stamps = match kernel {
            Kernel::Copy => Timestamps::new(self.pipelines.device(), QueueKind::Main)?,
            Kernel::Fill | Kernel::Verify | Kernel::Checksum => None,
        };
        let Current { findings, last, stamps } = &mut *current;
        let findings = findings.as_ref().ok_or_else(no_findings)?;
        write_findings(findings, [0, NONE])?;
        // SAFETY: the last dispatch is over; spans begin at multiples of 256 and are within the storage range,
        // as the callers have split them.
        unsafe { self.pipelines.bind(spans, findings.raw()) };
        // SAFETY: `spans` are bound. The fence is kept as the last one, which the next pass waits for before it
        // binds, or replaces the timestamps; `drop` leaks both unless that fence is over.
        let dispatch =
            || unsafe { self.pipelines.dispatch(kernel, spans, parameters, stamps.as_ref()) };
        let rejection = RejectionWatch::main(self.pipelines.device());
        match (watch.submit)(&mut { dispatch }) {
            Ok(Attempt::Wait(waits)) => return Ok(Err(waits)),
            Ok(Attempt::Submitted(fence)) => *last = fence,
            Err(error) => {
                *last = rejection.fence();
                return Err(error);
            }
        }
        last.wait(watch.timeout)?;
        let time = stamps.as_ref().map_or(Ok(None), Timestamps::elapsed)?;
        Ok(Ok((read_findings(findings)?, time)))
    }
}

impl Drop for ComputeKernels {
    fn drop(&mut self) {
        let current = self.current.get_mut().unwrap_or_else(PoisonError::into_inner);
        if !current.last.is_destroyable() {
            // A pass that timed out still uses every object here, and dropping never waits.
            tracing::warn!(
                device = self.pipelines.device().name(),
                "compute pass still running after its timeout; its objects are leaked"
            );
            std::mem::forget(current.findings.take());
            std::mem::forget(current.stamps.take());
            self.pipelines.leak();
        }
    }
}

impl fmt::Debug for ComputeKernels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ComputeKernels")
            .field("device", &self.pipelines.device().name())
            .finish_non_exhaustive()
    }
}

fn no_findings() -> Error {
    Error::Unsupported { device: "a device".into(), missing: "staging memory for passes".into() }
}

fn write_findings(buffer: &StagingBuffer, values: [u32; 2]) -> Result<()> {
    let mut bytes = [0; FINDINGS as usize];
    bytes[..4].copy_from_slice(&values[0].to_ne_bytes());
    bytes[4..].copy_from_slice(&values[1].to_ne_bytes());
    let host = buffer.host()?;
    // SAFETY: the buffer holds `FINDINGS` bytes, and no pass is running.
    unsafe { host.write(&bytes) };
    Ok(())
}

fn read_findings(buffer: &StagingBuffer) -> Result<[u32; 2]> {
    let host = buffer.host()?;
    let mut bytes = [0; FINDINGS as usize];
    // SAFETY: as in `write_findings`.
    unsafe { host.read(&mut bytes) };
    let (words, _) = bytes.as_chunks();
    Ok([u32::from_ne_bytes(words[0]), u32::from_ne_bytes(words[1])])
}
