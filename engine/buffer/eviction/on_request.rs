//! Evictions and restores on request of the application.

use std::sync::Arc;

use crate::buffer::migration::{Migration, MoveOutcome};
use crate::buffer::object::{BufferInner, Buffers, SharedBuffer};
use crate::error::Result;
use crate::memory::DomainId;
use crate::observe::MoveCause;
use crate::residency::{EvictionLimits, Trigger};

/// Implements [`SharedBuffer::request_residency`].
pub(crate) fn request(buffer: &Arc<BufferInner>) -> Result<Migration> {
    // First, because it may change the preferred domain.
    buffer.set.handle_lost_devices();
    let preferred = buffer.lock().entry().preferred();
    move_until(buffer, preferred, MoveCause::Requested)
}

/// Implements [`SharedBuffer::evict`].
pub(crate) fn evict_one(buffer: &Arc<BufferInner>) -> Result<Migration> {
    buffer.set.handle_lost_devices();
    if buffer.purge_if_purgeable()? {
        return Ok(Migration::Done { generation: buffer.generation() });
    }
    move_until(buffer, DomainId::System, MoveCause::Evicted)
}

fn move_until(buffer: &Arc<BufferInner>, to: DomainId, cause: MoveCause) -> Result<Migration> {
    SharedBuffer(Arc::clone(buffer)).move_to(cause, |now| (now != to).then_some(to))
}

/// Restores buffers whose preferred domain is `domain`, as far as there is room. Returns the number of
/// restored buffers.
pub(crate) fn restore(set: &Buffers, domain: DomainId) -> usize {
    let limits = EvictionLimits { evict: false, ..set.core.eviction_limits(Trigger::All) };
    let mut restored = 0;
    set.live.for_each(|buffer| {
        if buffer.is_displaced() && buffer.lock().entry().preferred() == domain {
            let (generation, cause) = (buffer.generation(), MoveCause::Requested);
            match buffer.restore_to(domain, generation, &limits, cause, Trigger::All) {
                Ok(outcome) => restored += usize::from(outcome == MoveOutcome::Moved),
                Err(error) => {
                    let (refused, buffer) = (error.refusals(), buffer.name());
                    tracing::debug!(%error, ?refused, buffer, "restore failed; buffer stays displaced");
                }
            }
        }
    });
    restored
}

impl SharedBuffer {
    /// Moves the buffer out of the device memory where it is, to system memory, whatever its placement. Unlike
    /// [`SharedBuffer::migrate`], this does not change the preferred domain: the buffer is restored when it
    /// is used, and before it is used if its placement is [`crate::Placement::Vram`]. Mappings do not keep the old memory ([`crate::InvalidationCause::Evict`]).
    ///
    /// A purgeable buffer ([`SharedBuffer::set_purgeable`]) loses its content, in any domain, and is not
    /// restored until it is repopulated.
    ///
    /// # Errors
    ///
    /// As [`SharedBuffer::migrate`].
    ///
    /// Locks: the reservation, but not while waiting.
    #[doc(alias = "ttm_bo_evict")]
    pub fn evict(&self) -> Result<Migration> {
        evict_one(&self.0)
    }

    /// Moves the buffer to its preferred domain now, evicting other buffers if need be. Call it before heavy
    /// use.
    ///
    /// # Errors
    ///
    /// As [`SharedBuffer::migrate`]; [`crate::Error::OutOfMemory`] says what could not be evicted.
    ///
    /// Locks: the reservation, but not while waiting; waits, for at most the engine timeout, until evicted
    /// memory is released.
    #[doc(alias = "ttm_bo_validate")]
    pub fn request_residency(&self) -> Result<Migration> {
        request(&self.0)
    }
}
