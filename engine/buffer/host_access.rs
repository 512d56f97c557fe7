//! The host's scoped view of a buffer: volatile copies, bracketed.

use std::fmt;
use std::sync::Arc;

use super::access::Access;
use super::shared::{BufferInner, SharedBuffer};
use crate::device::DeviceInner;
use crate::error::{Error, Result};
use crate::memory::staging::{Direction, StagingBuffer};
use crate::memory::{Allocation, HostPtr, View};
use crate::observe::Object;
use crate::sync::{Fence, Fences, Retired, Usage};
use crate::transfer::{self, Span};

/// A scoped access of the host to a [`SharedBuffer`], from [`SharedBuffer::host_access`].
///
/// There is no slice to be had: a device or another process may write the same bytes at any time, so
/// everything is a copy, of volatile reads and writes. While it lives the buffer stays where it is.
///
/// End it with [`HostAccess::end`] to learn of errors; dropping it ends it too, and only logs them.
#[doc(alias = "dma_buf_begin_cpu_access")]
pub struct HostAccess {
    buffer: Arc<BufferInner>,
    access: Access,
    way: Way,
    ended: bool,
}

/// How the host gets at the bytes.
enum Way {
    /// The memory is mapped.
    Mapped { allocation: Arc<Allocation>, start: HostPtr },
    /// It cannot be; the bytes are copied here and back by the home device.
    Bounced(Bounce),
}

struct Bounce {
    home: Arc<DeviceInner>,
    view: Arc<View>,
    offset: u64,
    len: u64,
    start: HostPtr,
    /// `None` once it has been handed to the retire list.
    staging: Option<StagingBuffer>,
}

impl HostAccess {
    pub(super) fn begin(buffer: &Arc<BufferInner>, access: Access) -> Result<Self> {
        let (allocation, offset) = {
            let mut state = buffer.lock_idle(access.usage().waits_for(), |_| true)?;
            buffer.own(&mut state)?;
            state.host += 1;
            (Arc::clone(state.backing.allocation()), state.backing.offset())
        };
        buffer.core.live.born(Object::HostAccess);
        // From here on the buffer cannot move, and dropping `held` lets it.
        let held = Held(buffer);
        let way = match allocation.host()? {
            Some(base) => {
                allocation.begin_host_access(access)?;
                Way::Mapped { allocation, start: at(base, offset) }
            }
            None => Way::Bounced(Bounce::begin(buffer, &allocation, offset)?),
        };
        std::mem::forget(held);
        Ok(Self { buffer: Arc::clone(buffer), access, way, ended: false })
    }

    /// The buffer.
    pub fn buffer(&self) -> SharedBuffer {
        SharedBuffer(Arc::clone(&self.buffer))
    }

    /// What it was opened for.
    pub fn access(&self) -> Access {
        self.access
    }

    /// Copies bytes from `offset` on out of the buffer.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfBounds`], [`Error::WrongAccess`].
    pub fn read(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        let start = self.check(Access::Read, offset, out.len())?;
        read_from(start, out);
        Ok(())
    }

    /// Copies bytes into the buffer from `offset` on.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfBounds`], [`Error::WrongAccess`].
    pub fn write(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let start = self.check(Access::Write, offset, bytes.len())?;
        write_to(start, bytes);
        Ok(())
    }

    /// Sets `len` bytes from `offset` on to `value`.
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
            write_to(at(start, done as u64), &chunk[..part]);
            done += part;
        }
        Ok(())
    }

    /// Ends the access, and makes what was written visible to devices.
    ///
    /// # Errors
    ///
    /// [`Error::DeviceLost`], or what a call said. The access has ended in any case.
    pub fn end(mut self) -> Result<()> {
        self.finish()
    }

    fn finish(&mut self) -> Result<()> {
        if std::mem::replace(&mut self.ended, true) {
            return Ok(());
        }
        let _held = Held(&self.buffer);
        match &mut self.way {
            Way::Mapped { allocation, .. } => allocation.end_host_access(self.access),
            Way::Bounced(bounce) => bounce.end(&self.buffer, self.access),
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
        let start = match &self.way {
            Way::Mapped { start, .. } => *start,
            Way::Bounced(bounce) => bounce.start,
        };
        Ok(at(start, offset))
    }
}

impl Bounce {
    /// Copies the bytes to staging memory, whatever the access: a write may be partial.
    fn begin(buffer: &BufferInner, allocation: &Allocation, offset: u64) -> Result<Self> {
        let home = buffer.home();
        let take = buffer.take_at_home(allocation.provider());
        let view = match allocation.existing_view(home.id()) {
            Some(view) => view,
            None => allocation.view(&home, take?)?,
        };
        let len = buffer.size;
        let staging = buffer.core.staging(&home)?.buffer(len, Direction::Readback)?;
        let start = staging.host()?;
        let mut this = Self { home, view, offset, len, start, staging: Some(staging) };
        let Some(staging) = &this.staging else {
            return Ok(this);
        };
        let fence = transfer::to_staging(&this.home, this.span(), staging.raw())?;
        buffer.lock().fences.add(Usage::Read, fence.clone());
        if let Err(error) = fence.wait(buffer.core.timeout) {
            this.retire(buffer, fence);
            return Err(error);
        }
        Ok(this)
    }

    /// Copies the bytes back if they may have changed. Does not wait: the copy is a write of the home
    /// device like any other.
    fn end(&mut self, buffer: &BufferInner, access: Access) -> Result<()> {
        let Some(staging) = &self.staging else {
            return Ok(());
        };
        if !access.writes() {
            return Ok(());
        }
        let fence = transfer::from_staging(&self.home, staging.raw(), self.span())?;
        buffer.lock().fences.add(Usage::Write, fence.clone());
        self.retire(buffer, fence);
        Ok(())
    }

    fn retire(&mut self, buffer: &BufferInner, fence: Fence) {
        if let Some(staging) = self.staging.take() {
            let mut fences = Fences::default();
            fences.add(Usage::Bookkeep, fence);
            buffer.core.retire.push(fences, Retired::Staging(staging));
        }
    }

    fn span(&self) -> Span<'_> {
        Span { view: &self.view, offset: self.offset, len: self.len }
    }
}

/// One count of `State::host`.
struct Held<'a>(&'a BufferInner);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.lock().host -= 1;
        self.0.core.live.died(Object::HostAccess);
    }
}

impl Drop for HostAccess {
    fn drop(&mut self) {
        if let Err(error) = self.finish() {
            tracing::error!(buffer = self.buffer.name(), %error, "host access did not end well");
        }
    }
}

#[expect(unsafe_code, reason = "offsets that were checked")]
fn at(start: HostPtr, offset: u64) -> HostPtr {
    // CAST: within mapped memory, so it fits the address space.
    // SAFETY: callers pass the offset of a backing within its mapped allocation, or one that
    // `check_range` has found to be within the buffer.
    unsafe { start.at(offset as usize) }
}

#[expect(unsafe_code, reason = "volatile reads of mapped memory")]
fn read_from(start: HostPtr, out: &mut [u8]) {
    // SAFETY: `HostAccess::check` has found the range to be within the buffer, whose memory is mapped
    // and cannot move while the access lives.
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
