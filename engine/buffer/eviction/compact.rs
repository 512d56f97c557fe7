//! Empties half-empty slabs: idle buffers in them move to other slabs, so that the memory can be freed.
//!
//! Kernel counterpart: page migration for compaction (`mm/compaction.c`), for slabs instead of pages.

use std::ops::ControlFlow;
use std::sync::Arc;

use crate::buffer::migration::{MoveOutcome, MoveRequest, Plan};
use crate::buffer::object::{BufferInner, Buffers};
use crate::buffer::placement::home_at;
use crate::error::Result;
use crate::memory::{DeviceSet, Provider, SparseSlabs};
use crate::observe::MoveCause;
use crate::residency::{EvictionLimits, Trigger};
use crate::sync::Usage;

/// The most that one call moves.
const MOST_BUFFERS: usize = 4096;
const MOST_BYTES: u64 = 64 << 20;

/// Moves idle buffers out of half-empty slabs, without waits and without evictions. Returns how many have moved. The
/// slabs that they leave are freed by the next trim, once the copies have ended.
///
/// Locks: none may be held.
pub(crate) fn compact(set: &Buffers) -> usize {
    let sparse = set.core.providers.close_sparse();
    if sparse.is_empty() {
        return 0;
    }
    let (mut moved, mut bytes) = (0, 0);
    set.live.visit_from(0, |buffer| {
        let Some(slabs) = may_leave(buffer, &sparse) else { return ControlFlow::Continue(()) };
        match leave(buffer, slabs) {
            Ok(MoveOutcome::Moved) => {
                moved += 1;
                bytes += buffer.size;
            }
            Ok(_) => {}
            Err(error) => {
                tracing::debug!(%error, buffer = buffer.name(), "buffer stays in its sparse slab");
            }
        }
        if moved < MOST_BUFFERS && bytes < MOST_BYTES {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(())
        }
    });
    moved
}

/// The provider of a buffer that is in one of these slabs, and the devices that share the slab, if nothing uses the buffer
/// and no route has to be proved for the move.
fn may_leave(buffer: &BufferInner, sparse: &[SparseSlabs]) -> Option<(Provider, DeviceSet)> {
    let core = buffer.core();
    let mut state = buffer.reservation.try_lock(&core.queues)?;
    let backing = state.location().backing()?;
    let (provider, sharers) = (backing.allocation().provider(), backing.allocation().sharers());
    // Imported memory is in no slab.
    if !sparse.iter().any(|slabs| slabs.contain(backing)) {
        return None;
    }
    let is_held = state.host() > 0 || state.pinned() > 0 || !state.mappings().is_empty();
    if is_held || !state.fences().pending(Usage::Bookkeep).is_empty() {
        return None;
    }
    buffer.check_usable(&mut state).ok()?;
    let home = buffer.home();
    // A device reaches its own memory, which may be system memory, without a route.
    let exporter = provider.exporter();
    let owner =
        exporter.map_or_else(|| Arc::clone(&home), |id| Arc::clone(&core.member(id).device));
    let is_known = |device| {
        let own = exporter == Some(device);
        own || core.known_route(&owner, &core.member(device).device).is_some()
    };
    let devices = state.attachments().map(|attachment| attachment.device);
    devices.chain([home.id()]).all(is_known).then_some((provider, sharers))
}

/// Moves a buffer to another slab of its provider that the same devices share, unless that would have to wait.
fn leave(buffer: &Arc<BufferInner>, slabs: (Provider, DeviceSet)) -> Result<MoveOutcome> {
    let home = home_at(buffer, slabs.0.domain())?;
    let limits = EvictionLimits {
        evict: false,
        wait: None,
        ..buffer.core().eviction_limits(Trigger::Asked)
    };
    match Plan::within(buffer, &home, slabs, &limits)? {
        Some(plan) => {
            let request = MoveRequest::to_new(MoveCause::Compacted, Trigger::Asked);
            buffer.try_migrate(plan, request)
        }
        None => Ok(MoveOutcome::Retry),
    }
}
