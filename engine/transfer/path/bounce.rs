//! Copies between two backings that no single device sees.
#![expect(unsafe_code, reason = "copying between mapped memory that nothing else uses")]

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use super::super::copy::zero;
use super::super::span::Span;
use super::ring::{self, Side, Unfinished};
use crate::access::Access;
use crate::error::{Error, Result};
use crate::memory::staging::Staging;
use crate::memory::{Allocation, HostPtr, HostWait, View, copy_by_host, zero_by_host};
use crate::sync::RejectionWatch;

/// How one end of the copy is accessed.
#[derive(Clone, Debug)]
pub(crate) enum BounceEnd {
    /// The host accesses it.
    Host,
    /// A device accesses it, with staging memory of its own.
    Device { view: Arc<View>, staging: Arc<Staging> },
}

/// A copy without a common device: directly by the host if it sees both ends, else through staging memory.
#[derive(Clone, Debug)]
pub(crate) struct BouncePath {
    pub(crate) from: BounceEnd,
    pub(crate) to: BounceEnd,
}

/// An allocation, and an offset in it.
pub(crate) type At<'a> = (&'a Allocation, u64);

impl BouncePath {
    /// Copies `parts`, relative to `from`, to the same parts relative to `to`; zeroes `tail` there; returns
    /// when both are done. The tail begins at a whole word. It may begin before the last part ends; the bytes
    /// of the part stay.
    ///
    /// # Errors
    ///
    /// Those of the copies; [`Error::Timeout`] after `timeout`. The caller keeps both allocations until the
    /// fences in the error are over.
    ///
    /// # Safety
    ///
    /// All parts lie within both allocations, the tail within the second one, and they do not overlap. Nothing
    /// else uses the second one, and nothing writes the first one meanwhile: all fences of both are over, and
    /// no new use begins.
    pub(crate) unsafe fn carry(
        &self,
        from: At<'_>,
        to: At<'_>,
        parts: &[Range<u64>],
        tail: Range<u64>,
        timeout: Duration,
    ) -> Result<(), Unfinished> {
        let wait = HostWait::within(timeout);
        if let (BounceEnd::Host, BounceEnd::Host) = (&self.from, &self.to) {
            // SAFETY: the caller's contract.
            return Ok(unsafe { by_host(from, to, parts, tail, wait) }?);
        }
        let len = parts.iter().map(|part| part.end).max().unwrap_or(0);
        let source = OpenSide::begin(&self.from, from, len, Access::Read, wait)?;
        let target = OpenSide::begin(&self.to, to, len, Access::Write, wait)?;
        let cleared = match &self.to {
            BounceEnd::Device { view, .. } if !tail.is_empty() => {
                let span = Span { view, offset: to.1 + tail.start, len: tail.end - tail.start };
                let watch = RejectionWatch::main(view.device());
                // A rejected submission may write all the same.
                let rejected =
                    |error| Unfinished { error, reading: vec![], writing: vec![watch.fence()] };
                Some(zero(view.device(), span).map_err(rejected)?)
            }
            _ => None,
        };
        // SAFETY: the caller's contract; an allocation that the host sees is mapped as a whole.
        let carried = unsafe { ring::run([source.side, target.side], parts, timeout) };
        // The zeroing may still run, even if no later copy was submitted behind it.
        carried.map_err(|mut unfinished| {
            unfinished.writing.extend(cleared);
            unfinished
        })?;
        if let BounceEnd::Host = self.to
            && !tail.is_empty()
        {
            let after = tail.start.max(len);
            // SAFETY: the caller's contract.
            unsafe { zero_by_host((to.0, to.1 + after), tail.end - after, wait) }?;
        }
        source.end()?;
        Ok(target.end()?)
    }
}

/// # Safety
///
/// As for [`BouncePath::carry`].
unsafe fn by_host(
    (from, from_offset): At<'_>,
    (to, to_offset): At<'_>,
    parts: &[Range<u64>],
    tail: Range<u64>,
    wait: HostWait,
) -> Result<()> {
    for part in parts {
        let (source, target) = (from_offset + part.start, to_offset + part.start);
        let len = part.end - part.start;
        // SAFETY: the caller's contract.
        if !unsafe { copy_by_host((from, source), (to, target), len, wait) }? {
            return Err(host_view_lost());
        }
    }
    let after = parts.iter().map(|part| part.end).fold(tail.start, u64::max);
    // SAFETY: as above.
    unsafe { zero_by_host((to, to_offset + after), tail.end.saturating_sub(after), wait) }
        .map(|_| ())
}

fn host_view_lost() -> Error {
    Error::Unsupported {
        device: "the host".into(),
        missing: "a mapping of memory that it had mapped before".into(),
    }
}

/// A side of a ring. If the host accesses it, host access to the memory has begun.
struct OpenSide<'a> {
    side: Side<'a>,
    /// The host access to end.
    access: Option<(&'a Allocation, u64, u64, Access)>,
}

impl<'a> OpenSide<'a> {
    fn begin(
        end: &'a BounceEnd,
        (at, offset): At<'a>,
        len: u64,
        access: Access,
        wait: HostWait,
    ) -> Result<Self> {
        match end {
            BounceEnd::Device { view, staging } => {
                let side = Side::Device(Span { view, offset, len }, staging);
                Ok(Self { side, access: None })
            }
            BounceEnd::Host => {
                let start: HostPtr = at.host()?.ok_or_else(host_view_lost)?;
                at.begin_host_access(access, (offset, len), wait)?;
                // CAST: mapped, so it fits the address space.
                // SAFETY: within the allocation, all of which is mapped.
                let side = Side::Host(unsafe { start.at(offset as usize) });
                Ok(Self { side, access: Some((at, offset, len, access)) })
            }
        }
    }

    fn end(mut self) -> Result<()> {
        let Some((at, offset, len, access)) = self.access.take() else { return Ok(()) };
        at.end_host_access(access, offset, len)
    }
}

impl Drop for OpenSide<'_> {
    fn drop(&mut self) {
        if let Some((at, offset, len, access)) = self.access.take() {
            // The copy failed already, and its error says more than this one.
            let _ = at.end_host_access(access, offset, len);
        }
    }
}
