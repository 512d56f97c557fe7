//! Evictions and restores that the user asks for.

use std::sync::Arc;

use crate::buffer::migration::{Migration, MoveOutcome};
use crate::buffer::object::{BufferInner, Buffers, SharedBuffer};
use crate::error::Result;
use crate::memory::DomainId;
use crate::observe::MoveCause;
use crate::residency::{EvictionLimits, Trigger};

/// See [`crate::SharedBuffer::request_residency`].
pub(crate) fn request(buffer: &Arc<BufferInner>) -> Result<Migration> {
    // Before the look at where it wants to be.
    buffer.set.handle_lost_devices();
    let wanted = buffer.lock().entry.preferred();
    move_until(buffer, wanted, MoveCause::Requested)
}

/// See [`crate::SharedBuffer::evict`].
pub(crate) fn evict_one(buffer: &Arc<BufferInner>) -> Result<Migration> {
    buffer.set.handle_lost_devices();
    if buffer.purge_if_it_may()? {
        return Ok(Migration::Done { generation: buffer.generation() });
    }
    move_until(buffer, DomainId::System, MoveCause::Evicted)
}

fn move_until(buffer: &Arc<BufferInner>, to: DomainId, cause: MoveCause) -> Result<Migration> {
    SharedBuffer(Arc::clone(buffer)).move_to(cause, |now| (now != to).then_some(to))
}

/// Brings back whoever wants to be in `domain`, as far as there is room; returns how many came.
pub(crate) fn restore(set: &Buffers, domain: DomainId) -> usize {
    let limits = EvictionLimits { evict: false, ..set.core.eviction_limits(Trigger::All) };
    let mut came = 0;
    set.live.for_each(|buffer| {
        if buffer.is_displaced() && buffer.lock().entry.preferred() == domain {
            let generation = buffer.generation();
            match buffer.restore_to(domain, generation, &limits, MoveCause::Requested, Trigger::All)
            {
                Ok(moved) => came += usize::from(moved == MoveOutcome::Moved),
                Err(error) => tracing::debug!(%error, buffer = buffer.name(), "stays away"),
            }
        }
    });
    came
}

impl SharedBuffer {
    /// Moves the buffer out of the device memory where it is, to where it may go from there. Unlike
    /// [`SharedBuffer::migrate`] this changes nothing about where it wants to be: it comes back when it is
    /// used. Mappings of the old place do not keep that ([`crate::InvalidationCause::Evict`]).
    ///
    /// One that may lose its content ([`SharedBuffer::set_purgeable`]) loses it, wherever it is, and does not
    /// come back until it is renewed.
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

    /// Moves the buffer to where it wants to be, now, evicting others if need be: somebody is about to use it
    /// a lot.
    ///
    /// # Errors
    ///
    /// As [`SharedBuffer::migrate`]; [`crate::Error::OutOfMemory`] says what stood in the way.
    ///
    /// Locks: the reservation, but not while waiting; waits, in bounds, until others are out.
    #[doc(alias = "ttm_bo_validate")]
    pub fn request_residency(&self) -> Result<Migration> {
        request(&self.0)
    }
}
