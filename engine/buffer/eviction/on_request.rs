//! Evictions and restores that the user asks for.

use std::sync::Arc;

use crate::buffer::migration::{Migration, Moved};
use crate::buffer::object::{BufferInner, SharedBuffer};
use crate::core::Core;
use crate::error::Result;
use crate::memory::DomainId;
use crate::observe::MoveCause;
use crate::residency::{Demand, Terms};

/// See [`crate::SharedBuffer::request_residency`].
pub(crate) fn request(buffer: &Arc<BufferInner>) -> Result<Migration> {
    // Before the look at where it wants to be.
    buffer.core.give_up_lost();
    let wanted = buffer.lock().berth.wanted();
    move_until(buffer, wanted, MoveCause::Requested)
}

/// See [`crate::SharedBuffer::evict`].
pub(crate) fn evict_one(buffer: &Arc<BufferInner>) -> Result<Migration> {
    buffer.core.give_up_lost();
    if buffer.purge_if_it_may()? {
        return Ok(Migration::Done { generation: buffer.generation() });
    }
    move_until(buffer, DomainId::System, MoveCause::Evicted)
}

fn move_until(buffer: &Arc<BufferInner>, to: DomainId, cause: MoveCause) -> Result<Migration> {
    SharedBuffer(Arc::clone(buffer)).move_to(cause, |now| (now != to).then_some(to))
}

/// Brings back whoever wants to be in `domain`, as far as there is room; returns how many came.
pub(crate) fn restore(core: &Core, domain: DomainId) -> usize {
    let terms = Terms { evict: false, ..core.terms(Demand::All) };
    let mut came = 0;
    core.buffers.for_each(|buffer| {
        if buffer.is_away() && buffer.lock().berth.wanted() == domain {
            let generation = buffer.generation();
            match buffer.return_to(domain, generation, &terms, MoveCause::Requested, Demand::All) {
                Ok(moved) => came += usize::from(moved == Moved::Yes),
                Err(error) => tracing::debug!(%error, buffer = buffer.name(), "stays away"),
            }
        }
    });
    came
}
