//! Export: an fd of a buffer for a user outside this engine.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use super::handle::{ForeignHandle, ForeignInfo};
use crate::buffer::migration::{MoveOutcome, MoveRequest, no_path, relocate};
use crate::buffer::object::{BufferInner, SharedBuffer, Until};
use crate::buffer::placement::{Extent, ImportMatrix, retry_on_oom};
use crate::core::BackingRequest;
use crate::device::HandleType;
use crate::error::{Error, Result};
use crate::memory::{Allocation, Backing, DomainKind, Placement, Provider};
use crate::observe::{MoveCause, Object};
use crate::residency::Trigger;
use crate::sync::{Fence, Usage};

/// An fd of a buffer that is exported outside this engine, from [`SharedBuffer::export_foreign`].
///
/// The buffer is pinned while this lives: an external user's fd can neither be taken back nor redirected.
/// Dropping the export unpins the buffer and closes this fd. Duplicates of the fd stay open. So before its next use
/// the buffer moves to other memory, and external users do not see what is written from then on. They keep the bytes
/// of the moment of the move, in memory that no other buffer is given.
///
/// Such a move has the errors of [`SharedBuffer::relocate`], and waits as that does; the use reports them. A buffer
/// that is mapped statically, pinned, or in an open access cannot move: external users see its bytes, and can write
/// them, until that has ended and it is used again ([`crate::observe::BufferReport::known_outside`]).
/// [`SharedBuffer::relocate`] moves it at once.
pub struct ForeignExport {
    buffer: Arc<BufferInner>,
    fd: OwnedFd,
    info: ForeignInfo,
}

impl ForeignExport {
    fn new(buffer: &Arc<BufferInner>) -> Result<Self> {
        let set = &buffer.set;
        set.handle_lost_devices();
        // The receivers of the new fd are not those of an earlier one.
        buffer.leave_exported()?;
        retry_on_oom(set, buffer.home_id(), [&**buffer], || Self::export(buffer))
    }

    fn export(buffer: &Arc<BufferInner>) -> Result<Self> {
        // Each attempt ends with an export or an error, unless another thread moved the buffer meanwhile.
        const ATTEMPTS: u32 = 100;
        let mut prepared = None;
        for _ in 0..ATTEMPTS {
            // External users do not wait for this buffer's fences, so all writes must have ended before the fd is
            // exported. So must copies by the host out of the buffer, which no other user may disturb.
            buffer.restore_for_use(buffer.home_id())?;
            let mut state = buffer.lock_when(Until::Stuck(buffer.core().timeout), |state| {
                let mut awaited = state.fences().pending(Usage::Write);
                let reads = state.fences().pending(Usage::Read);
                awaited.extend(reads.into_iter().filter(Fence::is_of_host));
                awaited
            })?;
            if buffer.needs_restore(&state) {
                continue;
            }
            // Before the buffer moves, because it may fail.
            if !buffer.is_made_valid(&mut state)? {
                // The next attempt waits for the device.
                continue;
            }
            let backing = buffer.backing(&state)?;
            if backing.is_dedicated() && backing.allocation().provider().has_fd() {
                let allocation = Arc::clone(backing.allocation());
                let current = |export: &PreparedExport| Arc::ptr_eq(&export.of, &allocation);
                let PreparedExport { fd, info, .. } = match prepared.take().filter(current) {
                    Some(prepared) => prepared,
                    None => PreparedExport::new(buffer, backing)?,
                };
                buffer.set.exports.remember(fd.as_fd(), buffer, buffer.generation())?;
                // Nothing can fail from here on.
                allocation.mark_external();
                state.begin_export();
                // An external user may write to the memory at any time, so the clean copy is no longer
                // reliable.
                buffer.drop_clean_copy(&mut state);
                drop(state);
                buffer.core().live.born(Object::ForeignExport);
                return Ok(Self { buffer: Arc::clone(buffer), fd, info });
            }
            drop(state);
            prepared = Self::move_to_dedicated(buffer)?;
        }
        Err(buffer.busy(&buffer.lock()))
    }

    /// Moves the buffer to a dedicated allocation from the same provider, so that all attached devices can
    /// still reach it; if that provider's memory has no fd, to one from another provider that they can reach. Returns the prepared export of that allocation; `None` if the buffer did not move and
    /// the caller must try again.
    #[cold]
    fn move_to_dedicated(buffer: &Arc<BufferInner>) -> Result<Option<PreparedExport>> {
        let home = buffer.home();
        let matrix =
            ImportMatrix::gather(buffer, &home, (buffer.placement().kinds(), Extent::All), None)?;
        if !matrix.home_was(&home) {
            return Ok(None);
        }
        let provider = buffer.lock().location().provider();
        let same = |candidate: Provider| match provider.has_fd() {
            true => candidate == provider,
            false => candidate.has_fd() && matrix.all_can_import(candidate),
        };
        let missing = || Error::Unsupported {
            device: home.name().to_owned(),
            missing: match provider.has_fd() {
                true => format!("a dedicated allocation from {provider}"),
                false => "memory with an fd that all attached devices can import".into(),
            },
        };
        let limits = buffer.core().eviction_limits(buffer.trigger());
        let allocate = |placement| {
            let request = BackingRequest {
                home: &home,
                placement,
                size: buffer.size,
                dedicated: true,
                private: false,
                sparing: false,
                sharers: matrix.sharers(),
                priority: buffer.flags.priority(),
                group: buffer.group(),
            };
            buffer.set.allocate(&request, &limits, same)
        };
        // First where it is, even if that is outside its placement: a move to the other domain changes how fast its users
        // reach it, and may evict other buffers.
        let (here, elsewhere) = match provider.domain().kind() {
            DomainKind::Vram => (Placement::Vram, Placement::System),
            DomainKind::System => (Placement::System, Placement::Vram),
        };
        let new = match allocate(here) {
            Ok(Some(new)) => new,
            Ok(None) => allocate(elsewhere)?.ok_or_else(missing)?,
            Err(error) if error.is_out_of_memory() => {
                allocate(elsewhere).ok().flatten().ok_or(error)?
            }
            Err(error) => return Err(error),
        };
        // Before the buffer moves: if the export fails, the move would be useless.
        let prepared = PreparedExport::new(buffer, &new)?;
        match relocate(
            buffer,
            &home,
            &matrix,
            new.into(),
            MoveRequest::to_new(MoveCause::Exported, Trigger::Asked),
        )? {
            MoveOutcome::Moved => Ok(Some(prepared)),
            MoveOutcome::Retry | MoveOutcome::WouldBlock => Ok(None),
            MoveOutcome::NoPath => Err(no_path(&home)),
        }
    }

    /// Returns the buffer.
    pub fn buffer(&self) -> SharedBuffer {
        SharedBuffer(Arc::clone(&self.buffer))
    }

    /// Returns the properties that a receiver needs besides the fd.
    #[doc(alias = "facts")]
    pub fn info(&self) -> ForeignInfo {
        self.info
    }

    /// Duplicates the fd, and returns the duplicate with its properties, to be passed on.
    ///
    /// # Errors
    ///
    /// [`Error::FdLimit`].
    pub fn handle(&self) -> Result<ForeignHandle> {
        let fd = crate::memory::dma_buf::duplicate(self.fd.as_fd(), &self.buffer.core().calls)?;
        Ok(ForeignHandle::new(fd, self.info))
    }
}

/// What is exported of an allocation: its fd and properties, made before the export takes effect.
struct PreparedExport {
    of: Arc<Allocation>,
    fd: OwnedFd,
    info: ForeignInfo,
}

impl PreparedExport {
    fn new(buffer: &BufferInner, backing: &Backing) -> Result<Self> {
        let of = Arc::clone(backing.allocation());
        let (fd, info) = (of.duplicate_fd()?, facts_of(buffer, backing)?);
        Ok(Self { of, fd, info })
    }
}

/// Collects the properties of a backing that an external importer needs.
fn facts_of(buffer: &BufferInner, backing: &Backing) -> Result<ForeignInfo> {
    let allocation = backing.allocation();
    let home = buffer.home();
    let handle = match allocation.provider() {
        Provider::Device { handle, .. } | Provider::Foreign(handle) => handle,
        Provider::DmaHeap | Provider::Udmabuf => HandleType::DmaBuf,
        // Private memory is never exported: such a buffer has moved.
        Provider::Memfd | Provider::Anonymous | Provider::Private { .. } => HandleType::HostPointer,
    };
    let (memory_size, memory_type) = match handle {
        HandleType::OpaqueFd => allocation.opaque_facts().ok_or_else(|| Error::Unsupported {
            device: home.name().to_owned(),
            missing: "a view of its own export".into(),
        })?,
        _ => (allocation.size(), 0),
    };
    Ok(ForeignInfo {
        handle,
        size: buffer.size,
        offset: allocation.file_offset() + backing.offset(),
        device_uuid: home.adapter().device_uuid(),
        driver_uuid: home.adapter().driver_uuid(),
        memory_size,
        memory_type,
        allow_larger: false,
    })
}

impl AsFd for ForeignExport {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for ForeignExport {
    fn drop(&mut self) {
        let buffer = Arc::clone(&self.buffer);
        buffer.set.ended_exports.begin_end();
        self.buffer.do_or_defer(move |_, state| {
            buffer.set.ended_exports.end(&buffer, state.end_export());
            // The drop of the reference may be that of the buffer.
            Some(Box::new(buffer))
        });
        self.buffer.core().live.died(Object::ForeignExport);
    }
}

impl fmt::Debug for ForeignExport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ForeignExport")
            .field("buffer", &self.buffer.name())
            .field("info", &self.info)
            .finish_non_exhaustive()
    }
}

impl SharedBuffer {
    /// Exports an fd of the buffer to a user outside this engine.
    ///
    /// Such an fd cannot be taken back, so the buffer is pinned until the guard is dropped. An fd of a slab
    /// would expose the other buffers in it, so a buffer in a slab first moves to a dedicated allocation. That
    /// memory is never given to another buffer, and the buffer leaves it when its last export has ended.
    ///
    /// # Errors
    ///
    /// [`Error::Busy`] if the buffer would have to move and is kept in place; [`Error::Revoked`],
    /// [`Error::Purged`], [`Error::Poisoned`], [`Error::OutOfMemory`], [`Error::FdLimit`]; [`Error::Timeout`]
    /// or [`Error::DeviceLost`] from the wait for writers; or the error of a Vulkan or system call. None of
    /// them changes anything, except that a wait for the move may fail after the move.
    ///
    /// Locks: the reservation, but not while waiting.
    pub fn export_foreign(&self) -> Result<ForeignExport> {
        ForeignExport::new(&self.0)
    }
}
