//! Host access: copies with volatile reads and writes between a begin and an end, which make caches coherent.

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::bounce_buffer::BounceBuffer;
use super::held_allocation::HeldAllocation;
use crate::access::Access;
use crate::buffer::object::{BufferInner, SharedBuffer, Until};
use crate::buffer::placement::retry_on_oom;
use crate::buffer::state::DirtyRanges;
use crate::error::{Error, Result};
use crate::memory::{Allocation, Content, HostPtr, HostWait, ScrubMap};
use crate::observe::Object;
use crate::sync::Usage;

/// Bytes that are copied at once where memory is zeroed by parts.
const PAGE: usize = 4 << 10;

/// A scoped access of the host to a [`SharedBuffer`], from [`SharedBuffer::host_access`].
///
/// It does not block devices: work that is submitted while it is open is not ordered after it. End it before
/// any other use of the buffer begins.
///
/// It gives no slice: a device or another process may write the same bytes at any time. All methods copy, by
/// relaxed atomic operations on bytes. Threads that write the same bytes at the same time
/// leave one of the values in each of them. The buffer stays in its backing while the access lives.
///
/// End it with [`HostAccess::end`] to receive errors. Dropping it ends it too, but only logs them.
#[doc(alias = "dma_buf_begin_cpu_access")]
pub struct HostAccess {
    buffer: Arc<BufferInner>,
    access: Access,
    path: HostPath,
    /// The bytes that were written, if the buffer has a clean copy. They are marked in the clean copy when the
    /// access ends. Until then the buffer neither moves nor is its clean copy promoted.
    // Boxed, as the staging memory is: few accesses have one, and each access is copied several times on its way.
    written: Option<Box<Mutex<DirtyRanges>>>,
    ended: bool,
}

/// How the host reaches the bytes.
enum HostPath {
    /// The host has mapped the memory.
    Mapped {
        allocation: HeldAllocation,
        offset: u64,
        start: HostPtr,
        /// The map of what is zeroed, if the buffer is zeroed in parts as it is touched.
        scrub: Option<Arc<ScrubMap>>,
    },
    /// The host cannot map the memory. The home device copies the bytes to staging memory and back.
    Bounced(Box<BounceBuffer>),
}

impl HostAccess {
    fn begin(buffer: &Arc<BufferInner>, access: Access) -> Result<Self> {
        let set = &buffer.set;
        set.handle_lost_devices();
        buffer.leave_exported()?;
        retry_on_oom(set, buffer.home_id(), [&**buffer], || Self::begin_once(buffer, access))
    }

    #[inline]
    #[expect(unsafe_code, reason = "an allocation that the access keeps in place")]
    fn begin_once(buffer: &Arc<BufferInner>, access: Access) -> Result<Self> {
        let timeout = buffer.core().timeout;
        let usage = Usage::from(access).waits_for();
        let (allocation, offset, written, scrub) = loop {
            let mut state =
                buffer.lock_when(Until::Stuck(timeout), |state| state.fences().pending(usage))?;
            let first = state.host() == 0;
            let backing = buffer.backing_mut(&mut state)?;
            // Valid bytes are in place: no fence of a move is pending, and none has failed, as was found just now.
            let valid = backing.content() == Content::Valid;
            let scrub = backing.scrub_in_parts(buffer.size, first);
            if !valid && scrub.is_none() && !buffer.is_made_valid(&mut state)? {
                // The next turn waits for the device.
                continue;
            }
            let backing = buffer.backing(&state)?;
            // SAFETY: counted below, under this reservation, until `CountedAccess` is dropped; what is made of it is dropped or
            // not used from then on.
            let allocation = unsafe { HeldAllocation::new(backing.allocation()) };
            let offset = backing.offset();
            state.begin_access();
            buffer.note_use(&mut state, None);
            buffer.count_host_access(&state);
            let written = access.writes() && state.clean().is_some();
            break (allocation, offset, written.then(Box::default), scrub);
        };
        buffer.core().live.born(Object::HostAccess);
        // From here on the buffer cannot move; dropping `counted` allows it again.
        let counted = CountedAccess(buffer);
        let path = match allocation.host()? {
            Some(base) => {
                // The clock is read only where there may be a wait.
                let wait = match allocation.has_kernel_fences() {
                    true => HostWait::within(timeout),
                    false => HostWait::Never,
                };
                allocation.begin_host_access(access, (offset, buffer.size), wait)?;
                let start = offset_ptr(base, offset);
                HostPath::Mapped { allocation, offset, start, scrub }
            }
            None => HostPath::Bounced(Box::new(BounceBuffer::begin(buffer, &allocation, offset)?)),
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
        if let HostPath::Mapped { allocation, scrub: Some(scrub), .. } = &self.path {
            zero_before_read(allocation, scrub, offset..offset + out.len() as u64);
        }
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
        let range = offset..offset + bytes.len() as u64;
        match &self.path {
            HostPath::Mapped { allocation, scrub: Some(scrub), .. } if !scrub.covers(&range) => {
                write_by_pages(allocation, scrub, (start, offset), bytes);
            }
            _ => write_to(start, bytes),
        }
        self.wrote(range);
        Ok(())
    }

    /// Sets `len` bytes to `value`, starting at byte `offset`.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfBounds`], [`Error::WrongAccess`].
    pub fn fill(&self, offset: u64, len: usize, value: u8) -> Result<()> {
        let start = self.check(Access::Write, offset, len)?;
        let (range, chunk) = (offset..offset + len as u64, [value; PAGE]);
        let write = |part: Range<u64>| {
            let mut at = part.start;
            while at < part.end {
                let bytes = (chunk.len() as u64).min(part.end - at);
                // CAST: no more than a chunk has.
                write_to(offset_ptr(start, at - offset), &chunk[..bytes as usize]);
                at += bytes;
            }
        };
        match &self.path {
            HostPath::Mapped { allocation, scrub: Some(scrub), .. } => {
                write_scrubbing(allocation, scrub, range.clone(), write);
            }
            _ => write(range.clone()),
        }
        self.wrote(range);
        Ok(())
    }

    /// Ends the access, and makes the written bytes visible to devices.
    ///
    /// Bytes that went through staging memory are copied back by the home device, and its fence orders later uses
    /// behind the copy. External users do not see that fence, so this waits for the copy if the memory is imported
    /// or exported. A drop does not wait.
    ///
    /// # Errors
    ///
    /// [`Error::DeviceLost`], or the error of a Vulkan or system call; [`Error::Timeout`] if work of the host keeps
    /// the bytes of an access through staging memory from being copied back. The access has ended in any case.
    pub fn end(mut self) -> Result<()> {
        self.finish(Some(self.buffer.core().timeout))
    }

    /// Ends the access once. Waits for work of the host for at most `timeout`; a drop does not wait.
    fn finish(&mut self, timeout: Option<Duration>) -> Result<()> {
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
            HostPath::Bounced(bounce) => {
                bounce.end(&self.buffer, timeout.map(|timeout| Instant::now() + timeout))
            }
        }
    }

    fn wrote(&self, part: Range<u64>) {
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
        if let Err(error) = self.finish(None) {
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

/// Zeroes what is about to be read, as far as it is an earlier owner's.
#[expect(unsafe_code, reason = "zeroing mapped memory")]
fn zero_before_read(allocation: &Allocation, scrub: &ScrubMap, range: Range<u64>) {
    // SAFETY: as for `read_from`; the map is that of the buffer's memory.
    allocation.note_zeroed(unsafe { scrub.before_read(range) });
}

/// Calls `write` for all parts of `range`, and zeroes what is beside it as far as it is an earlier owner's.
#[expect(unsafe_code, reason = "zeroing mapped memory")]
fn write_scrubbing(
    allocation: &Allocation,
    scrub: &ScrubMap,
    range: Range<u64>,
    write: impl FnMut(Range<u64>),
) {
    // SAFETY: as for `zero_before_read`.
    allocation.note_zeroed(unsafe { scrub.write(range, write) });
}

/// Writes `bytes` at `offset` of a buffer that is zeroed by parts, page by page; `start` is where they go.
///
/// The caller's bytes are first copied out of its memory, since a page fault there may last for any time, and a device's
/// submission waits for the lock of the map.
fn write_by_pages(
    allocation: &Allocation,
    scrub: &ScrubMap,
    (start, offset): (HostPtr, u64),
    bytes: &[u8],
) {
    let (mut page, mut done) = ([0; PAGE], 0);
    while done < bytes.len() {
        let at = offset + done as u64;
        // CAST: less than a page.
        let len = (PAGE - (at % PAGE as u64) as usize).min(bytes.len() - done);
        let part = &mut page[..len];
        part.copy_from_slice(&bytes[done..][..len]);
        let write = |_| write_to(offset_ptr(start, done as u64), part);
        write_scrubbing(allocation, scrub, at..at + len as u64, write);
        done += len;
    }
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
    /// Memory that another buffer had before is zeroed. From 128 KiB on, in coherent memory in the host's caches, this is
    /// done page by page as the host touches it, and the rest before any other use.
    ///
    /// A dma-buf has fences of its own (`dma_resv`), which devices and other processes add to it as a whole. They are
    /// waited for as well, within the same timeout.
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
