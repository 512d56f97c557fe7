//! The staging memory of a host access to bytes that the host cannot map.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use crate::buffer::object::{BufferInner, wait_all};
use crate::device::{DeviceInner, Waits};
use crate::error::{Error, Result};
use crate::memory::staging::{Direction, StagingBuffer};
use crate::memory::{Allocation, HostPtr, View};
use crate::observe::StallCause;
use crate::sync::{Fence, Fences, RejectionWatch, Retired, Usage, waits_on};
use crate::transfer::{self, Span};

/// The bytes of a host access in staging memory, copied there and back by the home device.
pub(super) struct BounceBuffer {
    home: Arc<DeviceInner>,
    view: Arc<View>,
    offset: u64,
    len: u64,
    pub(super) start: HostPtr,
    /// Whether the memory is known outside this engine.
    is_external: bool,
    /// `None` once it is on the retire list.
    staging: Option<StagingBuffer>,
    /// The ranges that were written. Only these are copied back: the rest is a copy of bytes that a device may
    /// have written since.
    written: Mutex<Vec<Range<u64>>>,
}

/// Why a copy to or from staging memory failed, and the fence of the work that may still use it.
struct Failed {
    error: Error,
    running: Fence,
}

impl From<Error> for Failed {
    /// An error with no work running.
    fn from(error: Error) -> Self {
        Self { error, running: Fence::signalled() }
    }
}

impl BounceBuffer {
    /// Copies the bytes to staging memory, for any access: a write may be partial.
    pub(super) fn begin(
        buffer: &BufferInner,
        allocation: &Allocation,
        offset: u64,
    ) -> Result<Self> {
        let home = buffer.home();
        let kind = buffer.home_import_kind(allocation.provider());
        let view = match allocation.existing_view(home.id()) {
            Some(view) => view,
            None => buffer.core().view(allocation, &home, kind?)?,
        };
        let len = buffer.size;
        let staging = buffer.core().staging(&home)?.buffer(len, Direction::Readback)?;
        let start = staging.host()?;
        let written = Mutex::default();
        let (is_external, staging) = (allocation.is_external(), Some(staging));
        let mut this = Self { home, view, offset, len, start, is_external, staging, written };
        let Some(staging) = &this.staging else {
            return Ok(this);
        };
        let end = Some(Instant::now() + buffer.core().timeout);
        let submitted = this.submit(buffer, Usage::Read, end, |waits| {
            transfer::to_staging(&this.home, waits, this.span(), staging.raw())
        });
        let copied = submitted.and_then(|fence| {
            let waited = fence.wait(buffer.core().timeout);
            waited.map_err(|error| Failed { error, running: fence })
        });
        if let Err(Failed { error, running }) = copied {
            this.retire(buffer, running);
            return Err(error);
        }
        Ok(this)
    }

    /// Copies the written ranges back. The copy is a write of the home device, with a fence like any other, behind
    /// the work of all devices that uses the buffer by now. Work of the host, which no queue can wait for, is waited
    /// for until `end`; so is the copy itself if the memory is known outside this engine, where its fence is not.
    pub(super) fn end(&mut self, buffer: &BufferInner, end: Option<Instant>) -> Result<()> {
        let written =
            std::mem::take(self.written.get_mut().unwrap_or_else(PoisonError::into_inner));
        let parts = merge_ranges(written);
        let Some(staging) = self.staging.as_ref().filter(|_| !parts.is_empty()) else {
            return Ok(());
        };
        let submitted = self.submit(buffer, Usage::Write, end, |waits| {
            transfer::from_staging_parts(&self.home, waits, staging.raw(), self.span(), &parts)
        });
        let fence = match submitted {
            Ok(fence) => fence,
            Err(Failed { error, running }) => {
                self.retire(buffer, running);
                return Err(error);
            }
        };
        self.retire(buffer, fence.clone());
        match end.filter(|_| self.is_external) {
            Some(end) => wait_all(&[fence], end),
            None => Ok(()),
        }
    }

    /// Submits a copy to or from the buffer behind the work that conflicts with it, and adds its fence. Work of the
    /// host is waited for until `end`, and not at all without one.
    fn submit(
        &self,
        buffer: &BufferInner,
        usage: Usage,
        end: Option<Instant>,
        submit: impl Fn(Waits) -> Result<Fence>,
    ) -> Result<Fence, Failed> {
        loop {
            let mut state = buffer.lock();
            let pending = state.fences().pending(usage.waits_for());
            let (host, device): (Vec<_>, Vec<_>) =
                pending.into_iter().partition(|fence| fence.is_for_host(&self.home));
            if let Some(end) = end.filter(|_| !host.is_empty()) {
                drop(state);
                buffer.core().counters.stalls.during(StallCause::Work, || wait_all(&host, end))?;
                continue;
            }
            let writers = state.fences().pending(Usage::Write);
            let waits = waits_on(&buffer.core().bridges, &self.home, &device)?;
            let watch = RejectionWatch::main(&self.home);
            let submitted = submit(waits).map(|fence| fence.depends_on(&writers));
            let running = submitted.as_ref().map_or_else(|_| watch.fence(), Fence::clone);
            state.fences().add(usage, running.clone());
            return submitted.map_err(|error| Failed { error, running });
        }
    }

    pub(super) fn wrote(&self, part: Range<u64>) {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        match written.last_mut() {
            // The usual case: the write continues the last one.
            Some(last) if last.end == part.start => last.end = part.end,
            _ if part.is_empty() => {}
            _ => written.push(part),
        }
    }

    fn retire(&mut self, buffer: &BufferInner, fence: Fence) {
        if let Some(staging) = self.staging.take() {
            let mut fences = Fences::default();
            fences.add(Usage::Bookkeep, fence);
            buffer.core().retire.push(fences, Retired::Staging(staging));
        }
    }

    fn span(&self) -> Span<'_> {
        Span { view: &self.view, offset: self.offset, len: self.len }
    }
}

/// Sorts the ranges, and merges those that overlap or touch.
fn merge_ranges(mut parts: Vec<Range<u64>>) -> Vec<Range<u64>> {
    parts.sort_unstable_by_key(|part| part.start);
    parts.dedup_by(|next, kept| {
        let touches = next.start <= kept.end;
        if touches {
            kept.end = kept.end.max(next.end);
        }
        touches
    });
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_that_touch_are_merged() {
        assert_eq!(merge_ranges(vec![8..9, 0..4, 4..6, 1..2, 5..7]), [0..7, 8..9]);
        assert_eq!(merge_ranges(vec![]), []);
    }
}
