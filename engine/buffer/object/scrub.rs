//! Recycled memory is zeroed before its first use.

use std::sync::Arc;

use super::buffer::BufferInner;
use crate::buffer::state::State;
use crate::device::DeviceInner;
use crate::error::{Error, Result};
use crate::memory::{Content, ImportKind, Provider, SLOT_ALIGN, zero_by_host};
use crate::sync::Usage;
use crate::transfer::{self, Span};

impl BufferInner {
    /// Makes sure that nobody sees an earlier owner's bytes: what is stale is zeroed before its first
    /// use, by the host where it can, else by the home device, whose fence is then a `Move`.
    ///
    /// Lazily, as the kernel zeroes pages at first touch: whoever creates and drops buffers without
    /// using them pays nothing.
    pub(in crate::buffer) fn own(&self, state: &mut State) -> Result<()> {
        if self.backing(state)?.content() == Content::Stale {
            self.scrub(state)?;
        }
        self.backing_mut(state)?.make_valid();
        Ok(())
    }

    #[cold]
    #[expect(unsafe_code, reason = "writing to mapped memory that nobody else uses yet")]
    fn scrub(&self, state: &mut State) -> Result<()> {
        let backing = self.backing(state)?;
        let (allocation, offset) = (backing.allocation(), backing.offset());
        let len = backing.extent(self.size);
        if allocation.host()?.is_some() {
            // SAFETY: by the buffer's invariant its backing has so many bytes. The slot was given to this
            // buffer after the last owner's fences had signalled, and nobody has seen it since; or what
            // was to fill it has failed, and all work on it is over (`accept_content`).
            return unsafe { zero_by_host((allocation, offset), len) };
        }
        let home = self.home();
        let view = allocation.view(&home, self.take_at_home(allocation.provider())?)?;
        let len = len.next_multiple_of(SLOT_ALIGN);
        let fence = transfer::zero(&home, Span { view: &view, offset, len })?;
        state.fences.add(Usage::Move, fence);
        Ok(())
    }

    /// How the home device takes in memory of `provider`. Asks only for what is already known: no
    /// route is proved under the reservation.
    pub(in crate::buffer) fn take_at_home(&self, provider: Provider) -> Result<ImportKind> {
        self.take(provider, &self.home())
    }

    /// How `device` takes in memory of `provider`.
    ///
    /// # Errors
    ///
    /// [`Error::Unreachable`], or what kept a route from being proved.
    pub(in crate::buffer) fn take(
        &self,
        provider: Provider,
        device: &Arc<DeviceInner>,
    ) -> Result<ImportKind> {
        let mut refused = Vec::new();
        let take = self.core().take(provider, &self.home(), device, &mut refused)?;
        take.ok_or_else(|| Error::Unreachable {
            buffer: self.name(),
            device: device.name().to_owned(),
            refused,
        })
    }
}
