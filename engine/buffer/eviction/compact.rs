//! Empties sparse blocks: idle buffers in them move to other blocks, so that the memory can be freed.
//!
//! Kernel counterpart: page migration for compaction (`mm/compaction.c`), for buffers instead of pages.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::buffer::migration::{MoveOutcome, MoveRequest, Plan, SlabsOf};
use crate::buffer::object::{BufferInner, Buffers};
use crate::buffer::placement::home_at;
use crate::error::Result;
use crate::memory::{DomainId, SparseBlocks};
use crate::observe::MoveCause;
use crate::residency::{EvictionLimits, Trigger};
use crate::sync::Usage;

/// The most buffers that one call looks at, so that its work is bounded however many buffers there are.
const MOST_VISITS: usize = 1 << 18;

/// What [`crate::Engine::compact`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Compaction {
    /// How many buffers have moved.
    pub buffers: usize,
    /// Bytes of these buffers.
    pub bytes: u64,
    /// Bytes of memory that were returned to their providers. Memory whose buffers are still copied by a device is
    /// returned by a later call, or by [`crate::Engine::trim`].
    pub freed: u64,
    /// Whether a further call may move more: this one stopped at its budget, or at the most buffers that one call looks at, or
    /// another thread compacts now.
    pub is_partial: bool,
}

/// How far one compaction goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Effort {
    /// The most bytes that move.
    bytes: u64,
    /// Blocks are emptied if at most so many eighths of them are in use.
    fullest: u64,
    /// Whether it was asked for: importers are notified, and a block is allocated for buffers that fit into no other.
    is_asked: bool,
}

impl Effort {
    /// As much as the application asks for.
    pub(crate) const fn asked(bytes: u64) -> Self {
        Self { bytes, fullest: 7, is_asked: true }
    }

    /// What pays when memory is short, or is trimmed: blocks that are at most half full, and no notifications.
    pub(crate) const AUTOMATIC: Self = Self { bytes: 64 << 20, fullest: 4, is_asked: false };
}

/// Moves idle buffers out of sparse blocks, without waits and without evictions, and frees the blocks that are empty then.
/// With a domain, only those of that domain. Does nothing while another thread does the same.
///
/// Locks: none may be held.
pub(crate) fn compact(set: &Buffers, within: Option<DomainId>, effort: Effort) -> Compaction {
    let mut done = Compaction::default();
    let Some(_turn) = Turn::take(set) else {
        done.is_partial = true;
        return done;
    };
    let sparse = set.core.close_sparse(within, effort.fullest);
    if !sparse.is_empty() {
        let start = set.compacted_at.load(Ordering::Relaxed);
        let (mut visits, mut is_full) = (0, false);
        let end = set.live.visit_from(start, |buffer| {
            visits += 1;
            if visits > MOST_VISITS {
                return ControlFlow::Break(());
            }
            let Some(slabs) = may_leave(buffer, &sparse, effort) else {
                return ControlFlow::Continue(());
            };
            if done.bytes.saturating_add(buffer.size) > effort.bytes {
                // One that is larger than the whole budget does not keep those after it.
                is_full |= buffer.size <= effort.bytes;
                return if is_full { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
            }
            match leave(buffer, slabs) {
                Ok(MoveOutcome::Moved) => {
                    done.buffers += 1;
                    done.bytes += buffer.size;
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::debug!(%error, buffer = buffer.name(), "buffer stays in its sparse block");
                }
            }
            ControlFlow::Continue(())
        });
        done.is_partial = is_full || (visits > MOST_VISITS && done.buffers > 0);
        set.compacted_at.store(end, Ordering::Relaxed);
    }
    drop(sparse);
    set.core.retire.collect();
    done.freed = set.core.free_blocks(within);
    done
}

/// The turn of the one thread that compacts. A move may be refused because the provider is out of memory, which ends in
/// [`compact`] again.
struct Turn<'a>(&'a Buffers);

impl<'a> Turn<'a> {
    fn take(set: &'a Buffers) -> Option<Self> {
        // Acquire and release: what one thread has moved is visible to the next one.
        (!set.compacting.swap(true, Ordering::Acquire)).then_some(Self(set))
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.compacting.store(false, Ordering::Release);
    }
}

/// The provider of a buffer that is in one of these blocks, and the devices that share the block, if nothing uses the buffer
/// and no route has to be proved for the move.
fn may_leave(buffer: &BufferInner, sparse: &[SparseBlocks], effort: Effort) -> Option<SlabsOf> {
    let core = buffer.core();
    let mut state = buffer.reservation.try_lock(&core.queues)?;
    let backing = state.location().backing()?;
    let (provider, sharers) = (backing.allocation().provider(), backing.allocation().sharers());
    // Imported memory is in no block.
    if !sparse.iter().any(|blocks| blocks.contain(backing)) {
        return None;
    }
    let is_noticed = match effort.is_asked {
        true => state.static_mappings() > 0,
        false => !state.mappings().is_empty() || state.importers().next().is_some(),
    };
    let is_held = state.host() > 0 || state.pinned() > 0 || is_noticed;
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
    devices.chain([home.id()]).all(is_known).then_some(SlabsOf {
        provider,
        sharers,
        may_grow: effort.is_asked,
    })
}

/// Moves a buffer to another slab of its provider that the same devices share, unless that would have to wait.
fn leave(buffer: &Arc<BufferInner>, slabs: SlabsOf) -> Result<MoveOutcome> {
    let home = home_at(buffer, slabs.provider.domain())?;
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
