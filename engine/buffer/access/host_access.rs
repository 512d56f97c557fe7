//! Host access: copies with volatile reads and writes between a begin and an end, which make caches coherent.

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use crate::access::Access;
use crate::buffer::object::{BufferInner, SharedBuffer};
use crate::buffer::placement::retry_on_oom;
use crate::buffer::state::DirtyRanges;
use crate::device::DeviceInner;
use crate::error::{Error, Result};
use crate::memory::staging::{Direction, StagingBuffer};
use crate::memory::{Allocation, HostPtr, View};
use crate::observe::Object;
use crate::sync::{Fence, Fences, Retired, Usage};
use crate::transfer::{self, Span};

/// A scoped access of the host to a [`SharedBuffer`], from [`SharedBuffer::host_access`].
///
/// It does not block devices: work that is submitted while it is open is not ordered after it. End it before
/// any other use of the buffer begins.
///
/// It gives no slice: a device or another process may write the same bytes at any time. All methods copy, by
/// volatile reads and writes. The buffer stays in its backing while the access lives.
///
/// End it with [`HostAccess::end`] to receive errors. Dropping it ends it too, but only logs them.
#[doc(alias = "dma_buf_begin_cpu_access")]
pub struct HostAccess {
    buffer: Arc<BufferInner>,
    access: Access,
    path: HostPath,
    /// The bytes that were written, if the buffer has a clean copy. They are marked in the clean copy when the
    /// access ends. Until then the buffer neither moves nor is its clean copy promoted.
    written: Option<Mutex<DirtyRanges>>,
    ended: bool,
}

/// How the host reaches the bytes.
enum HostPath {
    /// The host has mapped the memory.
    Mapped { allocation: Arc<Allocation>, offset: u64, start: HostPtr },
    /// The host cannot map the memory. The home device copies the bytes to staging memory and back.
    Bounced(BounceBuffer),
}

struct BounceBuffer {
    home: Arc<DeviceInner>,
    view: Arc<View>,
    offset: u64,
    len: u64,
    start: HostPtr,
    /// `None` once it is on the retire list.
    staging: Option<StagingBuffer>,
    /// The ranges that were written. Only these are copied back: the rest is a copy of bytes that a device may
    /// have written since.
    written: Mutex<Vec<Range<u64>>>,
}

impl HostAccess {
    fn begin(buffer: &Arc<BufferInner>, access: Access) -> Result<Self> {
        let set = &buffer.set;
        set.handle_lost_devices();
        retry_on_oom(set, buffer.home_id(), [&**buffer], || Self::begin_once(buffer, access))
    }

    fn begin_once(buffer: &Arc<BufferInner>, access: Access) -> Result<Self> {
        let (allocation, offset, written) = {
            let mut state = buffer.lock_idle(Usage::from(access).waits_for(), |_| true)?;
            buffer.make_valid(&mut state)?;
            let backing = buffer.backing(&state)?;
            let (allocation, offset) = (Arc::clone(backing.allocation()), backing.offset());
            state.begin_access();
            buffer.note_use(&mut state, None);
            buffer.count_host_access(&state);
            let written = access.writes() && state.clean().is_some();
            (allocation, offset, written.then(Mutex::default))
        };
        buffer.core().live.born(Object::HostAccess);
        // From here on the buffer cannot move; dropping `counted` allows it again.
        let counted = CountedAccess(buffer);
        let path = match allocation.host()? {
            Some(base) => {
                allocation.begin_host_access(access, offset, buffer.size)?;
                HostPath::Mapped { allocation, offset, start: offset_ptr(base, offset) }
            }
            None => HostPath::Bounced(BounceBuffer::begin(buffer, &allocation, offset)?),
        };
        std::mem::forget(counted);
        Ok(Self { buffer: Arc::clone(buffer), access, path, written, ended: false })
    }

    /// Returns the buffer.
    pub fn buffer(&self) -> SharedBuffer {
        SharedBuffer(Arc::clone(&self.buffer))
    }

    /// Returns what the access was opened for.
    pub fn access(&self) -> Access {
        self.access
    }

    /// Copies `out.len()` bytes out of the buffer, starting at byte `offset`.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfBounds`], [`Error::WrongAccess`].
    pub fn read(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        let start = self.check(Access::Read, offset, out.len())?;
        read_from(start, out);
        Ok(())
    }

    /// Copies `bytes` into the buffer, starting at byte `offset`.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfBounds`], [`Error::WrongAccess`].
    pub fn write(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let start = self.check(Access::Write, offset, bytes.len())?;
        write_to(start, bytes);
        self.wrote(offset, bytes.len());
        Ok(())
    }

    /// Sets `len` bytes to `value`, starting at byte `offset`.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfBounds`], [`Error::WrongAccess`].
    pub fn fill(&self, offset: u64, len: usize, value: u8) -> Result<()> {
        let start = self.check(Access::Write, offset, len)?;
        let chunk = [value; 4096];
        let mut done = 0;
        while done < len {
            let part = chunk.len().min(len - done);
            write_to(offset_ptr(start, done as u64), &chunk[..part]);
            done += part;
        }
        self.wrote(offset, len);
        Ok(())
    }

    /// Ends the access, and makes the written bytes visible to devices.
    ///
    /// # Errors
    ///
    /// [`Error::DeviceLost`], or the error of a Vulkan or system call. The access has ended in any case.
    pub fn end(mut self) -> Result<()> {
        self.finish()
    }

    fn finish(&mut self) -> Result<()> {
        if std::mem::replace(&mut self.ended, true) {
            return Ok(());
        }
        let _counted = CountedAccess(&self.buffer);
        if let Some(written) = &mut self.written {
            let written = written.get_mut().unwrap_or_else(PoisonError::into_inner);
            self.buffer.note_writes(&mut self.buffer.lock(), written);
        }
        match &mut self.path {
            HostPath::Mapped { allocation, offset, .. } => {
                allocation.end_host_access(self.access, *offset, self.buffer.size)
            }
            HostPath::Bounced(bounce) => bounce.end(&self.buffer),
        }
    }

    fn wrote(&self, offset: u64, len: usize) {
        let part = offset..offset + len as u64;
        if let Some(written) = &self.written {
            let mut written = written.lock().unwrap_or_else(PoisonError::into_inner);
            written.mark(part.clone(), self.buffer.size);
        }
        if let HostPath::Bounced(bounce) = &self.path {
            bounce.wrote(part);
        }
    }

    fn check(&self, access: Access, offset: u64, len: usize) -> Result<HostPtr> {
        let allowed =
            if access == Access::Read { self.access.reads() } else { self.access.writes() };
        if !allowed {
            let (opened, used) = (self.access, access);
            return Err(Error::WrongAccess { buffer: self.buffer.name(), opened, used });
        }
        self.buffer.check_range(offset, len as u64)?;
        let start = match &self.path {
            HostPath::Mapped { start, .. } => *start,
            HostPath::Bounced(bounce) => bounce.start,
        };
        Ok(offset_ptr(start, offset))
    }
}

impl BounceBuffer {
    /// Copies the bytes to staging memory, for any access: a write may be partial.
    fn begin(buffer: &BufferInner, allocation: &Allocation, offset: u64) -> Result<Self> {
        let home = buffer.home();
        let kind = buffer.home_import_kind(allocation.provider());
        let view = match allocation.existing_view(home.id()) {
            Some(view) => view,
            None => allocation.view(&home, kind?)?,
        };
        let len = buffer.size;
        let staging = buffer.core().staging(&home)?.buffer(len, Direction::Readback)?;
        let start = staging.host()?;
        let written = Mutex::default();
        let mut this = Self { home, view, offset, len, start, staging: Some(staging), written };
        let Some(staging) = &this.staging else {
            return Ok(this);
        };
        let fence = transfer::to_staging(&this.home, this.span(), staging.raw())?;
        buffer.lock().fences().add(Usage::Read, fence.clone());
        if let Err(error) = fence.wait(buffer.core().timeout) {
            this.retire(buffer, fence);
            return Err(error);
        }
        Ok(this)
    }

    /// Copies the written ranges back. Does not wait: the copy is a write of the home device, with a fence like
    /// any other.
    fn end(&mut self, buffer: &BufferInner) -> Result<()> {
        let written =
            std::mem::take(self.written.get_mut().unwrap_or_else(PoisonError::into_inner));
        let parts = merge_ranges(written);
        let Some(staging) = self.staging.as_ref().filter(|_| !parts.is_empty()) else {
            return Ok(());
        };
        let mut state = buffer.lock();
        let fence = transfer::from_staging_parts(&self.home, staging.raw(), self.span(), &parts)?;
        state.fences().add(Usage::Write, fence.clone());
        drop(state);
        self.retire(buffer, fence);
        Ok(())
    }

    fn wrote(&self, part: Range<u64>) {
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

/// One count of `State::host`, which keeps the buffer in its backing. Dropping it ends the access.
struct CountedAccess<'a>(&'a BufferInner);

impl Drop for CountedAccess<'_> {
    fn drop(&mut self) {
        self.0.end_access();
        self.0.core().live.died(Object::HostAccess);
    }
}

impl Drop for HostAccess {
    fn drop(&mut self) {
        if let Err(error) = self.finish() {
            let buffer = self.buffer.name();
            tracing::error!(buffer, %error, "host access failed to end; writes may not reach devices");
        }
    }
}

#[expect(unsafe_code, reason = "offsets that were checked")]
fn offset_ptr(start: HostPtr, offset: u64) -> HostPtr {
    // CAST: within mapped memory, so it fits the address space.
    // SAFETY: callers pass the offset of a backing within its mapped allocation, or one that
    // `check_range` has found to be within the buffer.
    unsafe { start.at(offset as usize) }
}

#[expect(unsafe_code, reason = "volatile reads of mapped memory")]
fn read_from(start: HostPtr, out: &mut [u8]) {
    // SAFETY: `HostAccess::check` has found the range to be within the buffer, whose memory is mapped and
    // cannot move while the access lives.
    unsafe { start.read(out) };
}

#[expect(unsafe_code, reason = "volatile writes to mapped memory")]
fn write_to(start: HostPtr, bytes: &[u8]) {
    // SAFETY: as for `read_from`.
    unsafe { start.write(bytes) };
}

impl fmt::Debug for HostAccess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostAccess")
            .field("buffer", &self.buffer.name())
            .field("access", &self.access)
            .finish_non_exhaustive()
    }
}

const _: () = {
    const fn shareable<T: Send + Sync>() {}
    shareable::<HostAccess>();
};

impl SharedBuffer {
    /// Begins an access of the host.
    ///
    /// Waits, for at most the engine timeout, until no device uses the buffer in a way that conflicts with
    /// `access`. Where the memory needs it, the access is bracketed with `DMA_BUF_IOCTL_SYNC`, or with flush
    /// and invalidate. Memory that the host cannot map is copied through staging memory. The buffer stays in
    /// its backing while the guard lives. The host accesses it where it is kept, whatever its placement: an evicted
    /// buffer stays evicted, and if it may be used only elsewhere, devices cannot use it until the access ends.
    ///
    /// # Errors
    ///
    /// [`Error::Revoked`], [`Error::Purged`], [`Error::Poisoned`], [`Error::Timeout`], [`Error::DeviceLost`],
    /// [`Error::Staging`], or the error of a Vulkan or system call.
    ///
    /// Locks: the reservation, but not while waiting and not while the guard lives.
    #[doc(alias = "dma_buf_begin_cpu_access")]
    pub fn host_access(&self, access: Access) -> Result<HostAccess> {
        HostAccess::begin(&self.0, access)
    }
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
