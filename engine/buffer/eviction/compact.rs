//! Empties sparse blocks: idle buffers in them move to other blocks, so that the memory can be freed.
//!
//! Kernel counterpart: page migration for compaction (`mm/compaction.c`), for buffers instead of pages.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::buffer::migration::{MoveOutcome, MoveRequest, Plan};
use crate::buffer::object::{BufferInner, Buffers};
use crate::buffer::placement::home_at;
use crate::error::Result;
use crate::memory::{DeviceSet, DomainId, Provider, SparseBlocks};
use crate::observe::MoveCause;
use crate::residency::{EvictionLimits, Trigger};
use crate::sync::Usage;

/// The most bytes of buffers that one compaction moves which the application has not asked for.
pub(crate) const COMPACTED_AT_ONCE: u64 = 64 << 20;

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

/// Which buffers a compaction may move.
#[derive(Clone, Copy)]
pub(crate) struct Compacted {
    /// At most so many bytes.
    pub(crate) budget: u64,
    /// Those in this domain; `None` for all.
    pub(crate) domain: Option<DomainId>,
    /// The number of a buffer that stays, since room is made for it.
    pub(crate) except: Option<u64>,
}

impl Compacted {
    /// Buffers in all domains, of at most `budget` bytes.
    pub(crate) fn all(budget: u64) -> Self {
        Self { budget, domain: None, except: None }
    }
}

/// Moves idle buffers out of sparse blocks, without waits and evictions, and frees the blocks that are empty then. Does
/// nothing while another thread does the same, and ends when there is no memory for a move.
///
/// Locks: none may be held.
pub(crate) fn compact(set: &Buffers, which: Compacted) -> Compaction {
    let budget = which.budget;
    let mut done = Compaction::default();
    let Some(_turn) = Turn::take(set) else {
        done.is_partial = true;
        return done;
    };
    // What dropped buffers had, whose last work has ended, is free.
    set.core.retire.collect();
    // Unused blocks are no room to move to: they are what is to be returned.
    done.freed = set.core.free_blocks();
    let sparse = set.core.close_sparse(which.domain);
    if !sparse.is_empty() {
        let start = set.compacted_at.load(Ordering::Relaxed);
        let (mut visits, mut is_full) = (0, false);
        let end = set.live.visit_from(start, |buffer| {
            visits += 1;
            if visits > MOST_VISITS {
                return ControlFlow::Break(());
            }
            // A buffer stays for which this thread makes room, or which is used together with such a one.
            let number = buffer.id();
            if which.except == Some(number) || set.core.protected.contains(number) {
                return ControlFlow::Continue(());
            }
            let Some(slabs) = may_leave(buffer, &sparse) else {
                return ControlFlow::Continue(());
            };
            if done.bytes.saturating_add(buffer.size) > budget {
                // One that is larger than the whole budget does not keep those after it.
                is_full |= buffer.size <= budget;
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
                    if error.is_drivers_out_of_memory() {
                        return ControlFlow::Break(());
                    }
                }
            }
            ControlFlow::Continue(())
        });
        done.is_partial = is_full || (visits > MOST_VISITS && done.buffers > 0);
        set.compacted_at.store(end, Ordering::Relaxed);
    }
    drop(sparse);
    set.core.retire.collect();
    done.freed += set.core.free_blocks();
    done
}

/// The turn of the one thread that compacts.
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
fn may_leave(buffer: &BufferInner, sparse: &[SparseBlocks]) -> Option<(Provider, DeviceSet)> {
    let core = buffer.core();
    let mut state = buffer.reservation.try_lock(&core.queues)?;
    let backing = state.location().backing()?;
    let (provider, sharers) = (backing.allocation().provider(), backing.allocation().sharers());
    // Imported memory is in no block.
    if !sparse.iter().any(|blocks| blocks.contain(backing)) {
        return None;
    }
    let is_held = state.host() > 0 || state.pinned() > 0 || state.static_mappings() > 0;
    if is_held || !state.fences().pending(Usage::Bookkeep).is_empty() {
        return None;
    }
    buffer.check_usable(&mut state).ok()?;
    let home = buffer.home();
    let is_known = |device| core.is_import_known(provider, &home, &core.member(device).device);
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
            buffer.zero_rest(buffer.size);
            let request = MoveRequest::to_new(MoveCause::Compacted, Trigger::Asked);
            buffer.try_migrate(plan, request)
        }
        None => Ok(MoveOutcome::Retry),
    }
}
