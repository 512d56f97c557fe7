//! Carrying bytes between two places that no device sees both of.
#![expect(unsafe_code, reason = "copying between mapped memory that nobody else uses")]

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use super::super::copy::zero;
use super::super::span::Span;
use super::ring::{self, Side, Unfinished};
use crate::access::Access;
use crate::error::{Error, Result};
use crate::memory::staging::Staging;
use crate::memory::{Allocation, HostPtr, View, copy_by_host, zero_by_host};

/// By whom one end is seen.
#[derive(Clone, Debug)]
pub(crate) enum End {
    /// By the host.
    Host,
    /// By a device, with staging memory of its own.
    Device { view: Arc<View>, staging: Arc<Staging> },
}

/// What carries bytes from one place to another: the host, from end to end where it sees both, else through
/// staging memory.
#[derive(Clone, Debug)]
pub(crate) struct Carrier {
    pub(crate) from: End,
    pub(crate) to: End,
}

/// A place: an allocation, and where in it.
pub(crate) type At<'a> = (&'a Allocation, u64);

impl Carrier {
    /// Copies `parts` of what begins at `from` to the same places of what begins at `to`, zeroes `tail` there,
    /// and returns when it is done. The tail begins with a whole word, and may begin before the last part
    /// ends; the bytes of the part stay.
    ///
    /// # Errors
    ///
    /// Those of the copies; [`Error::Timeout`] after `timeout`. The caller keeps both places until the
    /// fences in it are over.
    ///
    /// # Safety
    ///
    /// All parts lie within both allocations, the tail within the second one, and they do not overlap; nobody
    /// else uses the second place, and nobody writes the first one meanwhile: all fences of both are over,
    /// and nobody is let in.
    pub(crate) unsafe fn carry(
        &self,
        from: At<'_>,
        to: At<'_>,
        parts: &[Range<u64>],
        tail: Range<u64>,
        timeout: Duration,
    ) -> Result<(), Unfinished> {
        if let (End::Host, End::Host) = (&self.from, &self.to) {
            // SAFETY: the caller's contract.
            return Ok(unsafe { by_host(from, to, parts, tail) }?);
        }
        let len = parts.iter().map(|part| part.end).max().unwrap_or(0);
        let source = Opened::new(&self.from, from, len, Access::Read)?;
        let target = Opened::new(&self.to, to, len, Access::Write)?;
        let cleared = match &self.to {
            End::Device { view, .. } if !tail.is_empty() => {
                let span = Span { view, offset: to.1 + tail.start, len: tail.end - tail.start };
                Some(zero(view.device(), span)?)
            }
            _ => None,
        };
        // SAFETY: the caller's contract; what the host sees is mapped as a whole.
        let carried = unsafe { ring::run([source.side, target.side], parts, timeout) };
        // Even if it did not come so far that the rest was behind it on the device's queue.
        carried.map_err(|mut unfinished| {
            unfinished.writing.extend(cleared);
            unfinished
        })?;
        if let End::Host = self.to
            && !tail.is_empty()
        {
            let after = tail.start.max(len);
            // SAFETY: the caller's contract.
            unsafe { zero_by_host((to.0, to.1 + after), tail.end - after) }?;
        }
        source.close()?;
        Ok(target.close()?)
    }
}

/// # Safety
///
/// As for [`Carrier::carry`].
unsafe fn by_host(
    (from, from_offset): At<'_>,
    (to, to_offset): At<'_>,
    parts: &[Range<u64>],
    tail: Range<u64>,
) -> Result<()> {
    for part in parts {
        let (source, target) = (from_offset + part.start, to_offset + part.start);
        // SAFETY: the caller's contract.
        if !unsafe { copy_by_host((from, source), (to, target), part.end - part.start) }? {
            return Err(unseen());
        }
    }
    let after = parts.iter().map(|part| part.end).fold(tail.start, u64::max);
    // SAFETY: as above.
    unsafe { zero_by_host((to, to_offset + after), tail.end.saturating_sub(after)) }
}

fn unseen() -> Error {
    Error::Unsupported {
        device: "the host".into(),
        missing: "a view of memory that it saw before".into(),
    }
}

/// A side of a ring. Where the host sees it, the memory has been told that it is used.
struct Opened<'a> {
    side: Side<'a>,
    /// What the host has to end.
    access: Option<(&'a Allocation, u64, u64, Access)>,
}

impl<'a> Opened<'a> {
    fn new(end: &'a End, (at, offset): At<'a>, len: u64, access: Access) -> Result<Self> {
        match end {
            End::Device { view, staging } => {
                let side = Side::Device(Span { view, offset, len }, staging);
                Ok(Self { side, access: None })
            }
            End::Host => {
                let start: HostPtr = at.host()?.ok_or_else(unseen)?;
                at.begin_host_access(access, offset, len)?;
                // CAST: mapped, so it fits the address space.
                // SAFETY: within the allocation, all of which is mapped.
                let side = Side::Host(unsafe { start.at(offset as usize) });
                Ok(Self { side, access: Some((at, offset, len, access)) })
            }
        }
    }

    fn close(mut self) -> Result<()> {
        let Some((at, offset, len, access)) = self.access.take() else { return Ok(()) };
        at.end_host_access(access, offset, len)
    }
}

impl Drop for Opened<'_> {
    fn drop(&mut self) {
        if let Some((at, offset, len, access)) = self.access.take() {
            // After a failure, which says more than this one's.
            let _ = at.end_host_access(access, offset, len);
        }
    }
}
