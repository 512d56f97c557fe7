//! Zeroes reused memory before its first use.

use std::sync::Arc;

use super::buffer::BufferInner;
use crate::buffer::state::State;
use crate::device::DeviceInner;
use crate::error::{Error, Result};
use crate::memory::{Backing, Content, HostWait, ImportKind, Provider, SLOT_ALIGN, zero_by_host};
use crate::sync::{Fence, RejectionWatch, Usage};
use crate::transfer::{self, Span};

impl BufferInner {
    /// Makes the bytes valid: stale memory is zeroed, so that bytes of its earlier owner are never visible.
    /// The host zeroes it if it can do so at once. Otherwise the home device does, and its fence is added as a
    /// `Move`: for memory that the host cannot map, and for dma-bufs, whose fences the host would have to wait for.
    ///
    /// This is done lazily, as the kernel zeroes pages at first touch: a buffer that is created and dropped
    /// without a use costs nothing. The reservation must be held.
    pub(in crate::buffer) fn make_valid(&self, state: &mut State) -> Result<()> {
        let backing = self.backing_mut(state)?;
        // The rest of what the host has touched in parts.
        backing.finish_scrub();
        if backing.content() == Content::Stale {
            self.scrub(state)?;
        }
        self.backing_mut(state)?.make_valid();
        Ok(())
    }

    /// Zeroes what the host has not touched of a buffer that is scrubbed in parts, at least `most` bytes or all: a move that must
    /// not wait is refused while much is left. Others get the reservation in between, and it stops where another thread has it.
    ///
    /// Locks: none may be held.
    pub(in crate::buffer) fn zero_rest(&self, most: u64) {
        let mut zeroed = 0;
        while zeroed < most {
            let Some(state) = self.reservation.try_lock(&self.core().queues) else { return };
            match state.location().backing().map_or(0, Backing::zero_some) {
                0 => return,
                some => zeroed += some,
            }
        }
    }

    #[cold]
    #[expect(unsafe_code, reason = "writing to mapped memory that has no other user yet")]
    fn scrub(&self, state: &mut State) -> Result<()> {
        let backing = self.backing(state)?;
        let (allocation, offset) = (backing.allocation(), backing.offset());
        let len = backing.extent(self.size);
        // SAFETY: by the buffer's invariant its backing has so many bytes. The slot was allocated to this
        // buffer after the last owner's fences had signalled, and it is unused since; or the work that
        // was to fill it has failed, and all work on it is over (`accept_content`).
        if unsafe { zero_by_host((allocation, offset), len, HostWait::Never) }? {
            return Ok(());
        }
        let home = self.home();
        let kind = self.home_import_kind(allocation.provider())?;
        let view = self.core().view(allocation, &home, kind)?;
        // Slots and whole allocations have so many bytes. Of foreign memory the rest of a word is left as it is.
        let len = len.next_multiple_of(SLOT_ALIGN).min((allocation.size() - offset) & !3);
        let watch = RejectionWatch::main(&home);
        let zeroed = transfer::zero(&home, Span { view: &view, offset, len });
        let fence = zeroed.as_ref().map_or_else(|_| watch.fence(), Fence::clone);
        state.fences().add(Usage::Move, fence);
        zeroed.map(drop)
    }

    /// How the home device imports memory of `provider`. Uses only known routes: none is proved under the
    /// reservation.
    pub(in crate::buffer) fn home_import_kind(&self, provider: Provider) -> Result<ImportKind> {
        self.import_kind(provider, &self.home())
    }

    /// How `device` imports memory of `provider`.
    ///
    /// # Errors
    ///
    /// [`Error::Unreachable`] if it cannot, or the error that kept a route from being proved.
    pub(in crate::buffer) fn import_kind(
        &self,
        provider: Provider,
        device: &Arc<DeviceInner>,
    ) -> Result<ImportKind> {
        let mut refused = Vec::new();
        let kind = self.core().import_kind(provider, &self.home(), device, &mut refused)?;
        kind.ok_or_else(|| Error::Unreachable {
            buffer: self.name(),
            device: device.name().to_owned(),
            refused,
        })
    }
}
