//! Handing out an fd to somebody who is not part of this engine.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use super::handle::{ForeignFacts, ForeignHandle};
use crate::buffer::migration::{MoveOutcome, MoveRequest, no_path, relocate};
use crate::buffer::object::{BufferInner, SharedBuffer};
use crate::buffer::placement::{ImportMatrix, retry_on_oom};
use crate::core::BackingRequest;
use crate::device::HandleType;
use crate::error::{Error, Result};
use crate::memory::{Allocation, Backing, Placement, Provider};
use crate::observe::{MoveCause, Object};
use crate::residency::Trigger;
use crate::sync::Usage;

/// A buffer's fd for a stranger, from [`SharedBuffer::export_foreign`].
///
/// The buffer is pinned while this lives: what the stranger holds cannot be recalled or pointed
/// somewhere else. Dropping it unpins the buffer and closes this fd; whoever received a duplicate then
/// sees bytes that may no longer be the buffer's.
pub struct ForeignExport {
    buffer: Arc<BufferInner>,
    fd: OwnedFd,
    facts: ForeignFacts,
}

impl ForeignExport {
    pub(in crate::buffer) fn new(buffer: &Arc<BufferInner>) -> Result<Self> {
        let set = &buffer.set;
        set.handle_lost_devices();
        retry_on_oom(set, buffer.home_id(), [&**buffer], || Self::once(buffer))
    }

    fn once(buffer: &Arc<BufferInner>) -> Result<Self> {
        // Each turn ends with an export or an error, unless somebody else moved the buffer meanwhile.
        const TURNS: u32 = 100;
        let mut prepared = None;
        for _ in 0..TURNS {
            // A stranger waits for no fence of ours, so all writing has ended before it gets the fd.
            let mut state = buffer.lock_idle(Usage::Write, |_| true)?;
            // Before it moves, because it may fail.
            buffer.own(&mut state)?;
            if !state.fences.pending(Usage::Move).is_empty() {
                // A device is zeroing it.
                continue;
            }
            let backing = buffer.backing(&state)?;
            if backing.is_dedicated() {
                let allocation = Arc::clone(backing.allocation());
                let ready = prepared.take();
                let ready = ready.filter(|ready: &Prepared| Arc::ptr_eq(&ready.of, &allocation));
                let Prepared { fd, facts, .. } = match ready {
                    Some(ready) => ready,
                    None => Prepared::new(buffer, backing)?,
                };
                buffer.set.exports.remember(fd.as_fd(), buffer, buffer.generation())?;
                // From here on nothing can fail.
                allocation.mark_external();
                state.begin_export();
                // A stranger may write to it at any time.
                buffer.drop_clean_copy(&mut state);
                drop(state);
                buffer.core().live.born(Object::ForeignExport);
                return Ok(Self { buffer: Arc::clone(buffer), fd, facts });
            }
            drop(state);
            prepared = Self::move_out(buffer)?;
        }
        Err(buffer.busy(&buffer.lock()))
    }

    /// Moves the buffer into an allocation of its own, of the kind that it has now, so that whoever is
    /// attached can still reach it. Returns what is handed out of it, if it has moved.
    #[cold]
    fn move_out(buffer: &Arc<BufferInner>) -> Result<Option<Prepared>> {
        let home = buffer.home();
        let seats = ImportMatrix::gather(buffer, &home, buffer.placement().kinds(), None)?;
        if !seats.were_at(&home) {
            return Ok(None);
        }
        let provider = buffer.lock().location.provider();
        let same = |candidate| candidate == provider;
        let missing = || Error::Unsupported {
            device: home.name().to_owned(),
            missing: format!("an allocation of its own from {provider}"),
        };
        // Wherever it is, for it may have been moved out of its placement.
        let anywhere = Placement::default();
        let (size, group) = (buffer.size, buffer.group());
        let wish =
            BackingRequest { home: &home, placement: anywhere, size, dedicated: true, group };
        let new =
            buffer.set.allocate(&wish, &buffer.core().eviction_limits(buffer.trigger()), same)?;
        let new = new.ok_or_else(missing)?;
        // Before it moves: without an fd there is no reason to.
        let prepared = Prepared::new(buffer, &new)?;
        match relocate(
            buffer,
            &home,
            &seats,
            new.into(),
            MoveRequest::to_new(MoveCause::HandedOut, Trigger::Asked),
        )? {
            MoveOutcome::Moved => Ok(Some(prepared)),
            MoveOutcome::Retry | MoveOutcome::WouldBlock => Ok(None),
            MoveOutcome::NoPath => Err(no_path(&home)),
        }
    }

    /// The buffer.
    pub fn buffer(&self) -> SharedBuffer {
        SharedBuffer(Arc::clone(&self.buffer))
    }

    /// What a receiver must be told besides the fd.
    pub fn facts(&self) -> ForeignFacts {
        self.facts
    }

    /// A second fd with its facts, for handing on.
    ///
    /// # Errors
    ///
    /// [`Error::FdLimit`].
    pub fn handle(&self) -> Result<ForeignHandle> {
        let fd = crate::memory::dma_buf::duplicate(self.fd.as_fd(), &self.buffer.core().calls)?;
        Ok(ForeignHandle::new(fd, self.facts))
    }
}

/// What is handed out of an allocation.
struct Prepared {
    of: Arc<Allocation>,
    fd: OwnedFd,
    facts: ForeignFacts,
}

impl Prepared {
    fn new(buffer: &BufferInner, backing: &Backing) -> Result<Self> {
        let of = Arc::clone(backing.allocation());
        let (fd, facts) = (of.duplicate_fd()?, facts(buffer, backing)?);
        Ok(Self { of, fd, facts })
    }
}

fn facts(buffer: &BufferInner, backing: &Backing) -> Result<ForeignFacts> {
    let allocation = backing.allocation();
    let home = buffer.home();
    let handle = match allocation.provider() {
        Provider::Device { handle, .. } | Provider::Foreign(handle) => handle,
        Provider::DmaHeap | Provider::Udmabuf => HandleType::DmaBuf,
        Provider::Memfd => HandleType::HostPointer,
    };
    let (memory_size, memory_type) = match handle {
        HandleType::OpaqueFd => allocation.opaque_facts().ok_or_else(|| Error::Unsupported {
            device: home.name().to_owned(),
            missing: "a view of its own export".into(),
        })?,
        _ => (allocation.size(), 0),
    };
    Ok(ForeignFacts {
        handle,
        size: buffer.size,
        device_uuid: home.adapter().device_uuid(),
        driver_uuid: home.adapter().driver_uuid(),
        memory_size,
        memory_type,
    })
}

impl AsFd for ForeignExport {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for ForeignExport {
    fn drop(&mut self) {
        self.buffer.lock().end_export();
        self.buffer.core().live.died(Object::ForeignExport);
    }
}

impl fmt::Debug for ForeignExport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ForeignExport")
            .field("buffer", &self.buffer.name())
            .field("facts", &self.facts)
            .finish_non_exhaustive()
    }
}

impl SharedBuffer {
    /// Hands out an fd, for somebody who is not part of this engine.
    ///
    /// A stranger's fd cannot be recalled, so the buffer is pinned until the guard is dropped; and it
    /// would expose the neighbours in a slab, so a buffer in a slab first moves into an allocation of
    /// its own. That memory never goes to another buffer.
    ///
    /// # Errors
    ///
    /// [`Error::Busy`] if it would have to move and is held; [`Error::Revoked`], [`Error::Purged`],
    /// [`Error::Poisoned`], [`Error::OutOfMemory`], [`Error::FdLimit`]; [`Error::Timeout`] or
    /// [`Error::DeviceLost`] of the wait until nobody writes to it any more; or what the calls said. None of
    /// them changes anything, except that a wait for the move may fail after the move.
    ///
    /// Locks: the reservation, but not while waiting.
    pub fn export_foreign(&self) -> Result<ForeignExport> {
        ForeignExport::new(&self.0)
    }
}
